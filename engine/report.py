"""A run told to a person: `report.html`, one file that needs nothing else, and the table at the end of a terminal session.

The page loads nothing and runs nothing (its policy forbids both): pictures are SVG, colours follow the reader's light or dark.
Both are made of the run's summary, a plain mapping, of which any part may be missing:

    events             {kind: rows}              orders, fills, inputs    counts
    seconds            of wall time              events_per_second        inputs over seconds
    seconds_starting   before them: processes were started
    rejects, ingest    {reason: count}           placement                text
    quality            {feed: report}, as handlers.ingest.quality makes it
    accounts           [{strategy, instrument, position, average_price, realised, unrealised, fees, fills}]
    pnl                {realised, unrealised, fees, net_marked_to_mid, net_flattened, max_drawdown, currency}
    latency            {stage: {p50, p90, p99, p99.9, max, samples}}, in ns
    hashes, machine    {name: text}              synthetic                true when the feed was made up
    configuration      {key: (value, origin)}    title                    heading of the page

Amounts are numbers or decimal texts in whole units of the currency. Series are arrays in order of time, ns UTC:

    price {instrument: (ts_ns, price)}    fills {instrument: (ts_ns, price, side, qty)}    position {instrument: (ts_ns, qty)}
    equity (ts_ns, value)                 latency {stage: (bucket_upper_ns, count)}
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from engine.charts import MINUS, Marker, duration, finite, histogram, instant, line_chart, number
from transport.instruments import plain
from transport.records import BUY

INSTRUMENTS_MAX = 12  # drawn, those with the most fills first; the tables have all
DAY_NS, SECOND_NS = 86400 * 10**9, 10**9
ROWS_MAX = 500  # of one table; keeps the page below a megabyte
PERCENTILES = ("p50", "p90", "p99", "p99.9", "max")
SYNTHETIC_WORDS = "synthetic data: made by a generator, not by a market; its results say nothing about trading"

STYLE = """
:root{color-scheme:light dark;--ink:#1c2128;--soft:#59636e;--page:#fff;--card:#f6f8fa;--rule:#d8dee4;--line:#0b62c4;
--fill:#0b62c422;--buy:#0a7d55;--sell:#c2410c;--warn:#fff3cd;--warnink:#664d03}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa4af;--page:#0d1117;--card:#161b22;--rule:#30363d;--line:#58a6ff;
--fill:#58a6ff26;--buy:#3fb98a;--sell:#f0883e;--warn:#3b2f0b;--warnink:#f2d479}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1040px;padding:24px 16px 64px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}h1{font-size:26px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 8px}h3{font-size:15px;margin:18px 0 4px}
p{margin:4px 0 12px;color:var(--soft)}.synthetic{background:var(--warn);color:var(--warnink);padding:8px 12px;border-radius:6px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:10px;margin:16px 0}
.cards div{background:var(--card);border-radius:6px;padding:10px 12px}.cards b{display:block;font-size:20px;font-weight:600}
.cards span{color:var(--soft);font-size:13px}svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--rule);stroke-width:1;fill:none}.line{stroke:var(--line);stroke-width:1.4;fill:none}.area{fill:var(--fill)}
.bar{fill:var(--line)}.buy{fill:var(--buy)}.sell{fill:var(--sell)}.key{font-size:13px}.key .up{color:var(--buy)}.key .down{color:var(--sell)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:4px 14px 4px 0;border-bottom:1px solid var(--rule);text-align:left;white-space:nowrap}th{color:var(--soft);font-weight:500}
td.n,th.n{text-align:right}code{font-size:12px;overflow-wrap:anywhere;white-space:normal}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

Summary = Mapping[str, Any]
Cell = tuple[str, bool]  # text, and whether it is a number, to stand at the right


def exact_of(value: Any) -> Decimal | None:
    """The value as a decimal, a float as its shortest text; None where it is no finite number."""
    try:
        exact = Decimal(str(value))
    except InvalidOperation:
        return None
    return exact if exact.is_finite() else None


def grouped(text: str) -> str:
    """Plain decimal text with its thousands apart and a true minus sign."""
    whole, point, rest = text.removeprefix("-").partition(".")
    sign = MINUS if text.startswith("-") and text.strip("-0.") else ""
    return f"{sign}{int(whole):,}{point}{rest}"


def amount(value: Any) -> str:
    """A quantity, price or sum with all its digits, floats with two to six decimals; "–" for none, text as it is."""
    exact = exact_of(value)
    if exact is None:
        return "–" if value is None or isinstance(value, float) else str(value)
    if isinstance(value, float):
        return grouped(plain(Decimal(f"{value:.{2 if abs(value) >= 1 else 6}f}")))
    return grouped(plain(exact))


def money(value: Any, currency: str = "") -> str:
    """An amount with its sign and currency, in cents unless it is smaller than one."""
    exact = exact_of(value)
    if exact is None:
        return amount(value)
    text = grouped(f"{exact:.2f}") if abs(exact) >= 1 else amount(value)
    return f"{'+' if exact > 0 else ''}{text} {currency}".rstrip()


def count(value: Any) -> str:
    return "–" if value is None else number(float(value))


def events_rows(summary: Summary) -> list[list[Cell]]:
    found = sorted(summary.get("events", {}).items(), key=lambda item: -item[1])
    return [[(str(kind), False), (count(rows), True)] for kind, rows in found]


def reason_rows(summary: Summary) -> list[list[Cell]]:
    """What was refused: by the checks and venues (rejects), at the door (ingest), and what tables or states did not take."""
    out = []
    for key, who in (("rejects", "order"), ("ingest", "input"), ("troubles", "state")):
        for reason, times in sorted(summary.get(key, {}).items(), key=lambda item: -item[1]):
            out.append([(who, False), (str(reason), False), (count(times), True)])
    return out


def account_rows(summary: Summary) -> list[list[Cell]]:
    out = []
    for a in summary.get("accounts", []):
        texts = [(str(a.get("strategy", "")), False), (str(a.get("instrument", "")), False)]
        numbers = [amount(a.get("position")), amount(a.get("average_price"))]
        numbers += [money(a.get(name)) for name in ("realised", "unrealised")]
        out.append([*texts, *((text, True) for text in (*numbers, amount(a.get("fees")), count(a.get("fills"))))])
    return out


def latency_rows(summary: Summary) -> list[list[Cell]]:
    out = []
    for stage, values in summary.get("latency", {}).items():
        numbers = [duration(values[p]) if p in values else "–" for p in PERCENTILES]
        out.append([(str(stage), False), *((text, True) for text in numbers), (count(values.get("samples")), True)])
    return out


def pnl_rows(summary: Summary) -> list[list[Cell]]:
    pnl = summary.get("pnl", {})
    currency = str(pnl.get("currency", ""))
    names = {
        "realised": "realised",
        "unrealised": "unrealised",
        "fees": "fees paid",
        "net_marked_to_mid": "net, marked to mid",
        "net_flattened": "net, flattened",
        "max_drawdown": "maximum drawdown",
    }
    unsigned = ("fees", "max_drawdown")
    return [
        [
            (text, False),
            (f"{amount(pnl[name])} {currency}".rstrip() if name in unsigned else money(pnl[name], currency), True),
        ]
        for name, text in names.items()
        if pnl.get(name) is not None
    ]


def key_rows(values: Mapping[str, Any]) -> list[list[Cell]]:
    return [[(str(key), False), (str(value), False)] for key, value in values.items()]


def configuration_rows(summary: Summary) -> list[list[Cell]]:
    return [
        [(str(key), False), (str(value), False), (str(origin), False)]
        for key, (value, origin) in summary.get("configuration", {}).items()
    ]


def quality_rows(summary: Summary) -> list[list[Cell]]:
    """What the checks of the feeds' data objected to, and how good that makes them."""
    out: list[list[Cell]] = []
    for feed, report in summary.get("quality", {}).items():
        out.append([(feed, False), ("score", False), ("", False), (f"{report['score']:g}", True)])
        for check in report["checks"].values():
            if check["times"]:
                out.append([(feed, False), (check["reason"], False), (check["policy"], False), (count(check["times"]), True)])
    return out


EVENTS = ("Events by kind", ("kind", "records"), events_rows)
REASONS = ("Refused", ("what", "reason", "times"), reason_rows)
QUALITY = ("Quality of the feeds", ("feed", "check", "policy", "times"), quality_rows)
PNL = ("Profit and loss", ("", "amount"), pnl_rows)
ACCOUNTS = (
    "Accounts",
    ("strategy", "instrument", "position", "average price", "realised", "unrealised", "fees", "fills"),
    account_rows,
)
LATENCY = ("Latency", ("stage", *PERCENTILES, "samples"), latency_rows)


def headline(summary: Summary) -> list[tuple[str, str]]:
    """(value, what it is) of the figures that come first."""
    pnl = summary.get("pnl", {})
    currency = str(pnl.get("currency", ""))
    seconds, starting = summary.get("seconds"), summary.get("seconds_starting")
    return [
        (count(summary.get("inputs")), "inputs"),
        ("–" if seconds is None else f"{number(seconds, 2)} s", "wall time"),
        *([(f"{number(starting, 2)} s", "before it, to start processes")] if starting else []),
        (count(summary.get("events_per_second")), "events a second"),
        (count(summary.get("orders")), "orders"),
        (count(summary.get("fills")), "fills"),
        (count(sum(summary.get("rejects", {}).values())), "rejects"),
        (money(pnl.get("net_marked_to_mid"), currency), "net, marked to mid"),
        (money(pnl.get("net_flattened"), currency), "net, flattened"),
        (f"{amount(pnl.get('max_drawdown'))} {currency}".rstrip(), "maximum drawdown"),
    ]


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[Cell]], code: bool = False) -> str:
    if not rows:
        return ""
    numeric = [all(row[i][1] for row in rows) for i in range(len(names))]
    head = "".join(f'<th{_right(n)} scope="col">{escape(name)}</th>' for name, n in zip(names, numeric, strict=True))
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_right(right)}>{f'<code>{escape(text)}</code>' if code and i else escape(text)}</td>"
            for i, (text, right) in enumerate(row)
        )
        + "</tr>"
        for row in rows[:ROWS_MAX]
    )
    rest = f"<p>{count(len(rows) - ROWS_MAX)} more are not shown.</p>" if len(rows) > ROWS_MAX else ""
    return f'<h2>{escape(title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{rest}'


def _right(numeric: bool) -> str:
    return ' class="n"' if numeric else ""


def _markers(fills: Sequence[Any]) -> list[Marker]:
    found = []
    for ts_ns, price, side, qty in zip(*fills, strict=True):
        buys = side in (BUY, "BUY")
        text = f"{'buy' if buys else 'sell'} {amount(qty)} at {amount(price)}"
        found.append(Marker(int(ts_ns), float(price), buys, text))
    return found


def _instrument_charts(series: Mapping[str, Any]) -> str:
    prices, fills, positions = (series.get(name, {}) for name in ("price", "fills", "position"))
    names = sorted({*prices, *fills, *positions}, key=lambda n: (-len(fills[n][0]) if n in fills else 0, n))
    out = []
    for name in names[:INSTRUMENTS_MAX]:
        out.append(f"<h2>{escape(name)}</h2>")
        markers = _markers(fills[name]) if name in fills else []
        times, values = prices.get(name) or ([m.ts_ns for m in markers], [m.price for m in markers])
        out.append(
            f"<h3>Price and {count(len(markers))} fills</h3>{line_chart(f'price of {name}', times, values, markers)}"
        )
        reach = [int(times[0]), int(times[-1])] if len(times) else []
        out.append(f'<p class="key"><span class="up">▲</span> buy <span class="down">▼</span> sell{_dates(reach)}</p>')
        if name in positions:
            chart = line_chart(f"position in {name}", *positions[name], steps=True, zero=True, span=reach)
            out.append(f"<h3>Position</h3>{chart}")
    if len(names) > INSTRUMENTS_MAX:
        out.append(f"<p>{len(names) - INSTRUMENTS_MAX} more instruments are not drawn.</p>")
    return "".join(out)


def _dates(reach: Sequence[int]) -> str:
    """From when to when the pictures reach, to the second."""
    if not reach:
        return ""
    first, last = (f"{instant(ns, DAY_NS)} {instant(ns, SECOND_NS)}" for ns in reach)
    return f"; {first} to {last} UTC"


def _equity_charts(series: Mapping[str, Any], currency: str) -> str:
    if "equity" not in series:
        return ""
    times, value = finite(*series["equity"])
    below = value - np.maximum(np.maximum.accumulate(value), 0.0) if len(value) else value  # the run begins at 0
    unit = f", {escape(currency)}" if currency else ""
    return (
        f"<h2>Equity</h2><h3>Net result{unit}</h3>{line_chart('equity', times, value, zero=True)}"
        f"<h3>Drawdown{unit}</h3>{line_chart('drawdown', times, below, area=True)}"
    )


def _latency_charts(series: Mapping[str, Any]) -> str:
    pictures = [
        f"<h3>{escape(stage)}</h3>{histogram(f'latency of {stage}', *data)}"
        for stage, data in series.get("latency", {}).items()
    ]
    return (
        f"<h2>Latency by stage</h2><p>Samples by duration, both axes logarithmic.</p>{''.join(pictures)}"
        if pictures
        else ""
    )


def render_page(summary: Summary, series: Mapping[str, Any]) -> str:
    """The whole page as text; well-formed XML as well as HTML."""
    title = str(summary.get("title", "Tickline run"))
    cards = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in headline(summary)
    )
    warning = f'<p class="synthetic">{SYNTHETIC_WORDS}</p>' if summary.get("synthetic") else ""
    placement = f"<p>placement: {escape(str(summary['placement']))}</p>" if summary.get("placement") else ""
    body = [
        f"<h1>{escape(title)}</h1>{placement}{warning}",
        f'<div class="cards">{cards}</div>',
        _equity_charts(series, str(summary.get("pnl", {}).get("currency", ""))),
        *(_table(name, heads, rows(summary)) for name, heads, rows in (PNL, ACCOUNTS)),
        _instrument_charts(series),
        *(_table(name, heads, rows(summary)) for name, heads, rows in (EVENTS, QUALITY, REASONS, LATENCY)),
        _latency_charts(series),
        _table("Hashes", ("", "value"), key_rows(summary.get("hashes", {})), code=True),
        _table("Machine", ("", "value"), key_rows(summary.get("machine", {}))),
        _table("Configuration", ("key", "value", "from"), configuration_rows(summary), code=True),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en" xmlns="http://www.w3.org/1999/xhtml"><head><meta charset="utf-8"/>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def write_report(path: Path, summary: Summary, series: Mapping[str, Any]) -> None:
    """Write the page to `path`, whole or not at all; raises OSError where the disk refuses it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(render_page(summary, series), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def render_table(summary: Summary, console: Any = None) -> None:
    """Print the tables of `summary` to `console`, a rich Console (None: standard output)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    if summary.get("synthetic"):
        console.print(Text(SYNTHETIC_WORDS, style="bold yellow"))
    console.print(Text("  ".join(f"{what} {value}" for value, what in headline(summary) if not value.startswith("–"))))
    tables = [(title, heads, rows(summary)) for title, heads, rows in (EVENTS, QUALITY, REASONS, PNL, ACCOUNTS, LATENCY)]
    tables.append(("Hashes", ("", "value"), key_rows(summary.get("hashes", {}))))
    for title, heads, rows in tables:
        if not rows:
            continue
        table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
        for place, head in enumerate(heads):
            numeric = all(row[place][1] for row in rows)
            table.add_column(Text(head), justify="right" if numeric else "left", overflow="fold", header_style="dim")
        for row in rows:
            table.add_row(*(Text(text) for text, _ in row))  # Text: what a venue named is printed, never read as markup
        console.print()
        console.print(table)
