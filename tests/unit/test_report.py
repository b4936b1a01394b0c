"""The report: one file that stands alone, shows what it was given, and nothing it was not."""

from __future__ import annotations

import io
import re
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from engine.charts import (
    COLUMNS,
    HEIGHT,
    LEFT,
    RIGHT,
    TITLED_MARKERS,
    TOP,
    WIDTH,
    Frame,
    Marker,
    decimate,
    duration,
    histogram,
    instant,
    line_chart,
    number,
    time_ticks,
    value_ticks,
)
from engine.report import INSTRUMENTS_MAX, amount, money, render_page, render_table, write_report

XHTML = "{http://www.w3.org/1999/xhtml}"
SVG = "{http://www.w3.org/2000/svg}"
START_NS = 1_723_075_200_000_000_000  # 2024-08-08T00:00:00Z
SUMMARY: dict[str, Any] = {
    "title": "BTC momentum",
    "events": {"Trade": 123456, "BookDelta": 9_000_000},
    "inputs": 9_123_456,
    "seconds": 12.345,
    "events_per_second": 739040.7,
    "orders": 42,
    "fills": 40,
    "rejects": {"POSITION_LIMIT": 2},
    "ingest": {"PRICE_OFF_GRID": 7},
    "accounts": [
        {
            "strategy": "momentum", "instrument": "BTCUSDT.binance", "position": "-0.015", "average_price": "61602.02",
            "realised": "-1234.5", "unrealised": 12.25, "fees": Decimal("3.08"), "fills": 40,
        }
    ],
    "pnl": {
        "realised": "-1234.5", "unrealised": "12.25", "fees": "3.08", "net_marked_to_mid": "-1225.33",
        "net_flattened": None, "max_drawdown": "1300", "currency": "USDT",
    },
    "latency": {"FEATURES": {"p50": 310, "p90": 450, "p99": 1200, "p99.9": 56_000, "max": 2_500_000, "samples": 9_123_456}},
    "hashes": {"input_log_hash": "ab" * 32},
    "placement": "fused",
    "machine": {"cpu": "a processor", "cores": 2},
    "configuration": {"run.seed": (7, "flag"), "risk.position_max": ("1.5", "run.toml:12")},
    "synthetic": False,
}  # fmt: skip


def walk(points: int, seed: int = 3) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return START_NS + np.arange(points) * 1_000_000, 61600 + rng.normal(0, 1, points).cumsum()


def series_of(points: int = 5000, fills: int = 40) -> dict[str, Any]:
    ts, price = walk(points)
    at = np.linspace(0, points - 1, fills).astype(int)
    name = "BTCUSDT.binance"
    return {
        "price": {name: (ts, price)},
        "fills": {name: (ts[at], price[at], [1 + i % 2 for i in range(fills)], [Decimal("0.5")] * fills)},
        "equity": (ts, price - price[0]),
        "position": {name: (ts[at], np.arange(fills) % 2)},
        "latency": {"FEATURES": (2 ** np.arange(5, 25), np.arange(20) * 1000)},
    }


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page.encode())


def text_of(page: str) -> str:
    return " ".join(" ".join(parsed(page).itertext()).split())


def curves(picture: str, kind: str) -> list[str]:
    return [str(p.get("d")) for p in ElementTree.fromstring(picture).iter(f"{SVG}path") if p.get("class") == kind]


def test_page_is_well_formed_and_every_tag_is_closed() -> None:
    page = render_page(SUMMARY, series_of())
    root = parsed(page)
    assert root.tag == f"{XHTML}html"
    assert len(root.findall(f".//{SVG}svg")) == 5
    reader = HTMLParser()
    reader.feed(page)
    reader.close()
    assert not reader.rawdata


def test_page_asks_nothing_of_the_network_and_runs_nothing() -> None:
    page = render_page(SUMMARY, series_of())
    root = parsed(page)
    assert "default-src 'none'" in page
    tags = {e.tag.rpartition("}")[2] for e in root.iter()}
    assert not tags & {"script", "link", "img", "iframe", "object", "use", "image", "a"}
    for element in root.iter():
        assert not {a for a in element.attrib if a.startswith("on") or a in ("src", "href", "style")}
    assert not re.search(r"url\(|@import", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}


def test_page_is_readable_in_light_and_dark() -> None:
    page = render_page(SUMMARY, {})
    light, dark = (set(re.findall(r"--(\w+):", part)) for part in page.split("@media(prefers-color-scheme:dark)", 1))
    used = set(re.findall(r"var\(--(\w+)\)", page))
    assert used <= light
    assert used <= dark


def test_page_tells_every_figure_of_the_summary() -> None:
    text = text_of(render_page(SUMMARY, series_of()))
    for figure in (
        "9,123,456 inputs", "739,041 events a second", "42 orders", "40 fills", "2 rejects", "12.35 s wall time",
        "BookDelta 9,000,000", "order POSITION_LIMIT 2", "input PRICE_OFF_GRID 7", "net, marked to mid −1,225.33 USDT",
        "momentum BTCUSDT.binance −0.015 61,602.02 −1,234.50 +12.25 3.08 40", "maximum drawdown 1,300 USDT",
        "FEATURES 310 ns 450 ns 1.20 µs 56.0 µs 2.50 ms 9,123,456", "ab" * 32, "cpu a processor", "placement: fused",
        "run.seed 7 flag", "risk.position_max 1.5 run.toml:12", "Price and 40 fills", "sell; 2024-08-08 00:00:00 to 2024-08-08 00:00:04 UTC",
    ):  # fmt: skip
        assert figure in text, figure


def test_drawdown_counts_from_the_beginning_where_nothing_was_won_yet() -> None:
    times = np.arange(4) * 10**9
    page = render_page({}, {"equity": (times, np.array([-5.0, -3.0, 2.0, 1.0]))})
    assert line_chart("drawdown", times, [-5.0, -3.0, 0.0, -1.0], area=True) in page


def test_says_that_data_are_synthetic_when_they_are_and_only_then() -> None:
    assert "synthetic data" in text_of(render_page({**SUMMARY, "synthetic": True}, {}))
    assert "synthetic data" not in text_of(render_page(SUMMARY, series_of()))


def test_text_from_outside_is_shown_and_never_read_as_markup() -> None:
    evil = '<script>alert("1")</script>&amp;'
    summary = {
        **SUMMARY,
        "title": evil,
        "rejects": {evil: 1},
        "accounts": [{"strategy": evil, "instrument": evil}],
        "latency": {evil: {}},
        "machine": {evil: evil},
        "configuration": {evil: (evil, evil)},
        "placement": evil,
        "pnl": {"realised": evil, "currency": evil},
    }
    series = {"price": {evil: walk(10)}, "latency": {evil: ([10], [1])}, "equity": walk(10)}
    page = render_page(summary, series)
    assert "<script" not in page
    assert text_of(page).count(evil) > 10


def test_long_series_stay_below_a_megabyte() -> None:
    ts, price = walk(300_000)
    many = {f"I{i}": (ts, price) for i in range(INSTRUMENTS_MAX + 3)}
    fills = {name: (ts[::30], price[::30], ["BUY", "SELL"] * 5000, [1] * 10_000) for name in list(many)[:3]}
    series = {"price": many, "fills": fills, "equity": (ts, price), "position": many}
    summary = {**SUMMARY, "configuration": {f"key{i}": (i, "default") for i in range(5000)}}
    page = render_page(summary, series)
    assert len(page.encode()) < 1_000_000
    assert "3 more instruments are not drawn." in text_of(page)
    assert "4,500 more are not shown." in text_of(page)
    parsed(page)


def test_an_empty_summary_and_no_series_still_make_a_page(tmp_path: Path) -> None:
    empty: tuple[list[int], list[float]] = ([], [])
    for series in ({}, {"price": {"A": empty}, "equity": empty, "position": {"A": empty}, "latency": {"S": empty}}):
        write_report(tmp_path / "report.html", {}, series)
        root = parsed((tmp_path / "report.html").read_text("utf-8"))
        assert root.find(f".//{XHTML}h1") is not None
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_failing_report_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(AttributeError):
        write_report(path, {"events": 3}, {})  # type: ignore[dict-item]
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_decimation_keeps_the_extremes_of_every_column() -> None:
    ts, value = walk(100_000)
    value[77_777] = 1e6
    x, y = decimate(ts, value, 100)
    assert len(x) <= 2 * 101 + 2
    assert (np.diff(x) > 0).all()
    assert (x[0], x[-1], y[0], y[-1]) == (ts[0], ts[-1], value[0], value[-1])
    assert y.max() == 1e6
    assert y.min() == value.min()
    for start in range(0, 100_000, 1000):
        part = slice(start, start + 1000)
        inside = (x >= ts[part][0]) & (x <= ts[part][-1])
        assert y[inside].max() >= value[part].max() - 1e-9


def test_short_series_are_drawn_point_for_point() -> None:
    ts, value = walk(2 * COLUMNS)
    assert decimate(ts, value) == (ts, value)


def test_curve_runs_from_the_left_edge_to_the_right_and_up_means_more() -> None:
    (path,) = curves(line_chart("p", [0, 50, 100], [1.0, 3.0, 2.0]), "line")
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", path)[1:]]
    assert [x for x, _ in points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    first, high, last = (y for _, y in points)
    assert TOP <= high < last < first <= HEIGHT


def test_nanoseconds_are_not_lost_on_the_time_axis() -> None:
    frame = Frame(START_NS, START_NS + 10, 0, 1)
    assert np.diff(frame.px(START_NS + np.arange(11))).min() > 80


def test_values_that_are_not_numbers_are_left_out_of_a_curve() -> None:
    (path,) = curves(line_chart("p", [0, 1, 2, 3], [1.0, float("nan"), float("inf"), 2.0]), "line")
    assert path.count("L") == 1
    assert "nan" not in path
    assert "inf" not in path


def test_buys_point_up_and_sells_down_and_few_fills_can_be_read() -> None:
    markers = [Marker(0, 1.0, True, "buy <1>"), Marker(5, 2.0, False, "sell 2")]
    picture = line_chart("p", [0, 10], [1.0, 2.0], markers)
    (buy,), (sell,) = curves(picture, "buy"), curves(picture, "sell")
    assert buy.endswith("l-5 9h10z")
    assert sell.endswith("l-5 -9h10z")
    titles = [t.text for t in ElementTree.fromstring(picture).iter(f"{SVG}title")]
    assert titles == ["p", "buy <1>", "sell 2"]


def test_steps_hold_the_last_value_to_the_end_of_the_span() -> None:
    (path,) = curves(line_chart("p", [10, 20], [0.0, 1.0], steps=True, span=[0, 100]), "line")
    first, last = float(re.findall(r"M([\d.]+)", path)[0]), float(re.findall(r"H([\d.]+)", path)[-1])
    assert first == pytest.approx(LEFT + 0.1 * (WIDTH - LEFT - RIGHT), abs=0.1)
    assert last == WIDTH - RIGHT


def test_many_fills_become_one_path_a_side_with_one_mark_a_place() -> None:
    markers = [Marker(i % 10, 1.0, True, "") for i in range(TITLED_MARKERS + 1)]
    (buy,) = curves(line_chart("p", [0, 10], [1.0, 2.0], markers), "buy")
    assert buy.count("z") == 10


def test_histogram_draws_a_bar_for_every_bucket_that_has_samples_even_one() -> None:
    bars = curves(histogram("l", [100, 200, 400, 800], [5, 0, 1000, 1]), "bar")
    heights = [float(re.findall(r"v-([\d.]+)", b)[0]) for b in bars]
    assert len(bars) == 3
    assert heights[1] > heights[0] > heights[2] > 5


def test_histogram_of_many_buckets_is_summed_and_keeps_its_tail() -> None:
    upper = np.unique(np.geomspace(100, 1e9, 3000).astype(int))
    counts = np.zeros(len(upper))
    counts[100:900] = 50
    counts[-1] = 1
    bars = curves(histogram("l", upper, counts), "bar")
    assert 10 < len(bars) < 130
    assert float(re.findall(r"M([\d.]+)", bars[-1])[0]) > WIDTH - RIGHT - 20


def test_ticks_are_round_and_lie_within() -> None:
    values, decimals = value_ticks(0.93, 2.11)
    assert [f"{v:.{decimals}f}" for v in values] == ["1.0", "1.2", "1.4", "1.6", "1.8", "2.0"]
    ticks, step = time_ticks(START_NS + 1, START_NS + 3600 * 10**9)
    assert step == 600 * 10**9
    assert [instant(t, step) for t in ticks] == ["00:10", "00:20", "00:30", "00:40", "00:50", "01:00"]
    assert instant(START_NS + 1_500_000, 1_000_000) == "00:00:00.001"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1000, "1.00 µs"),
        (12_340, "12.3 µs"),
        (999_900, "1.00 ms"),
        (2_500_000_000, "2.50 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(ns: int, text: str) -> None:
    assert duration(ns) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (0, "0"), ("-0.00000001", "−0.00000001"), (Decimal("1234567.10"), "1,234,567.1"), (1234.5678, "1,234.57"),
        ("12345678901234567890.123456789", "12,345,678,901,234,567,890.123456789"), (float("nan"), "–"), ("many", "many"),
    ],
)  # fmt: skip
def test_amounts_keep_their_digits(value: Any, text: str) -> None:
    assert amount(value) == text


def test_money_has_a_sign_and_a_currency_and_zero_has_no_sign() -> None:
    assert money("1234.567", "USDT") == "+1,234.57 USDT"
    assert money("-0.00123", "USDT") == "−0.00123 USDT"
    assert money(0, "USDT") == "0 USDT"
    assert money(None, "USDT") == "–"
    assert number(-0.001, 2) == "0.00"


def test_terminal_shows_the_same_figures() -> None:
    out = io.StringIO()
    render_table({**SUMMARY, "synthetic": True}, Console(file=out, width=140))
    text = " ".join(out.getvalue().split())
    for figure in (
        "synthetic data", "inputs 9,123,456", "BookDelta 9,000,000", "order POSITION_LIMIT 2", "realised −1,234.50 USDT",
        "fees paid 3.08 USDT", "FEATURES 310 ns 450 ns 1.20 µs 56.0 µs 2.50 ms 9,123,456", "input_log_hash abab",
        "momentum BTCUSDT.binance −0.015 61,602.02",
    ):  # fmt: skip
        assert figure in text, figure


def test_terminal_prints_names_from_outside_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    render_table({"rejects": {"[red]x[/red]": 1}})
    assert "[red]x[/red]" in capsys.readouterr().out
