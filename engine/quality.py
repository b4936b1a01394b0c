"""Quality of feeds by configuration: a gate for each feed of a run, and `tickline quality`, which only looks.

The checks stand between a feed's decoder and INGEST, on the decoded windows. So a record that is left out has no effect at all, on
time, timers or order; one that is flagged, and a status that halts, are journaled by value like any record of a feed, and a run
re-executes from its journal without looking again. A tape is then journaled by value too, for its rows are not what entered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from engine.config import Config, QualityBounds, QualityConfig
from engine.errors import ConfigError
from engine.feeds import OpenFeed, open_feeds
from engine.journaling import Rows
from engine.observe.progress import COMPILING, Say, silent
from handlers.ingest.quality import TABLE, UNBOUNDED, Gate, new_watch
from handlers.ingest.quality_checks import judge, rebuild
from transport.compiled import interruptible, is_compiled
from transport.instruments import Instrument
from transport.records import empty

MICROS, MILLIS = 1000, 1_000_000  # ns


def gates_of(quality: QualityConfig, feeds: Sequence[OpenFeed], instruments: Sequence[Instrument]) -> list[Gate]:
    """The checks of every feed; raises ConfigError for bounds of an instrument there is not."""
    names = {i.name: n for n, i in enumerate(instruments)}
    for n, bounds in enumerate(quality.bounds):
        if bounds.instrument not in names:
            raise ConfigError(f"quality.bounds.{n}: no instrument {bounds.instrument!r}; there are {', '.join(names)}")
    policies = {check.key: getattr(quality, check.key) for check in TABLE}
    params = {
        "band_bp": quality.band_bp, "confirm": quality.confirm, "backwards_ns": quality.backwards_us * MICROS,
        "future_ns": quality.future_ms * MILLIS, "stale_ns": quality.stale_ms * MILLIS, "volume_multiple": quality.volume_multiple,
        "return_multiple": quality.return_multiple, "warmup": quality.warmup, "resume_after": quality.resume_after,
    }  # fmt: skip
    gates = []
    for _ in feeds:
        watch = new_watch(len(instruments), policies, params, quality.window)
        for bounds in quality.bounds:
            at = names[bounds.instrument]
            _set_bounds(watch.limits[at], bounds, instruments[at])
        gates.append(Gate(watch, instruments))
    return gates


def windows_of(feeds: Sequence[OpenFeed], gates: Sequence[Gate], rows_max: int) -> list[Iterator[Rows]]:
    """Every feed's windows, through its checks where there are any."""
    plain = [feed.windows(rows_max) for feed in feeds]
    return [gate.sift(windows, rows_max) for gate, windows in zip(gates, plain, strict=True)] if gates else plain


def load_checks(progress: Say = silent) -> None:
    """Compile the checks, or load them from the disk cache, by looking at no record: before anything waits for them."""
    progress("loading kernels" if is_compiled(judge) else COMPILING, 0)
    nothing, verdicts, whys = empty(0), np.zeros(1, np.uint8), np.zeros(1, np.uint16)
    with interruptible():
        judge(new_watch(1, dict.fromkeys((check.key for check in TABLE), "off"), {}, 1), nothing, 0, verdicts, whys)
        rebuild(nothing, verdicts, whys, nothing)


def _set_bounds(limits: Any, bounds: QualityBounds, instrument: Instrument) -> None:
    """In whole ticks and lots within the bounds."""
    if bounds.price_min is not None:
        limits["price_min"] = -_whole(-bounds.price_min, instrument.tick)
    if bounds.price_max is not None:
        limits["price_max"] = _whole(bounds.price_max, instrument.tick)
    if bounds.qty_max is not None:
        limits["qty_max"] = _whole(bounds.qty_max, instrument.lot)


def _whole(bound: Decimal, unit: Decimal) -> int:
    return max(-UNBOUNDED, min(UNBOUNDED, Fraction(bound) // Fraction(unit)))


def reports_of(gates: Sequence[Gate], feeds: Sequence[OpenFeed]) -> dict[str, Any]:
    """What each feed's checks found, by the feed as the user named it; a feed named twice has its number behind it."""
    out: dict[str, Any] = {}
    for n, (gate, feed) in enumerate(zip(gates, feeds, strict=True), start=1):
        out[feed.spec if feed.spec not in out else f"{feed.spec} ({n})"] = gate.report(feed.counted(), feed.offenders())
    return out


def assess(specs: Sequence[str], config: Config, progress: Say = silent) -> dict[str, Any]:
    """Look through the feeds to their ends, changing nothing; reports by feed. Raises FeedError, ConfigError."""
    feeds, instruments = open_feeds(specs, config.instrument, config.feeds.crossed_quotes)
    gates = gates_of(config.quality, feeds, instruments)
    load_checks(progress)
    for gate, feed in zip(gates, feeds, strict=True):
        gate.look(_told(feed, gate, config.runtime.chunk_rows, progress), config.runtime.chunk_rows)
    return reports_of(gates, feeds)


def _told(feed: OpenFeed, gate: Gate, rows_max: int, progress: Say) -> Iterator[Rows]:
    for rows in feed.windows(rows_max):
        yield rows
        progress("looking", gate.rows, feed.rows_expected)


def render(reports: Mapping[str, Any], console: Any = None) -> None:
    """Print the reports to `console`, a rich Console (None: standard output)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    for feed, report in reports.items():
        console.print(Text(f"{feed}: score {report['score']:g} of {report['records']:,} records", style="bold"))
        for heads, rows in (_checks(report), _decoder(report), _instruments(report)):
            if not rows:
                continue
            table = Table(box=None, pad_edge=False)
            for head in heads:
                table.add_column(Text(head.strip()), justify="right" if head.startswith(" ") else "left", overflow="fold", header_style="dim")
            for row in rows:
                table.add_row(*map(Text, row))  # Text: what a venue named is printed, never read as markup
            console.print()
            console.print(table)
        console.print()


def _checks(report: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for key, check in report["checks"].items():
        first = check.get("first")
        told = ""
        if first:
            numbers = f"{_number(first['value'])} against {_number(first['limit'])} {first['unit']}"
            told = f"{first['kind']} of {first['instrument']}, line {first['line']}, id {first['venue_seq']}: {numbers}"
        rows.append((key, check["policy"], f"{check['times']:,}", told))
    return ("check", "policy", " times", "first"), rows


def _decoder(report: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    first = report["decoder_first"]
    return ("by the decoder", " times", "first"), [(r, f"{n:,}", str(first.get(r, ""))) for r, n in report["decoder"].items()]


def _instruments(report: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows: list[tuple[str, ...]] = []
    for i in report["instruments"]:
        skew = i.get("skew_ns")
        told = " / ".join(f"{skew[name] / MILLIS:,.3f}" for name in ("min", "median", "max")) if skew else "no venue time"
        rows.append((str(i["instrument"]), f"{i['records']:,}", f"{i['trades']:,}", f"{i['trades_lost']:,}", told))
    return ("instrument", " records", " trades", " lost, by ids", "received less venue time, ms: min / median / max"), rows


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"
