"""How fast recorded files become records: MB/s of the file's bytes, unpacked, and records/s, for every format and schema, on one thread.

    python -m perf.bench_import [--small] [--rounds N] [--only NAME]

The clock runs from the opening of the feed, grids inferred, to its last row, as `tickline import` reads it, without the tape. The files
are made here from a seed, so that the result is known: each has one instrument whose records change something every time. A round whose
rows are not as many, of the kinds and with the sum of prices that were written, gives no figure. A format is added to CASES.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import databento_dbn as dbn
import numpy as np

from handlers.ingest.formats import open_feed
from handlers.ingest.dbn.layouts import LAYOUTS
from perf import harness
from transport.records import BAR, BOOK_DELTA, BOOK_SNAPSHOT, QUOTE, STATUS, TRADE

SEED = 11
RECORDS, RECORDS_SMALL = 1_000_000, 5_000
WINDOW_ROWS = 65_536
T0_NS = 1_703_541_600_000_000_000
NUMBER, SYMBOL, TICK = 17077, "ESH4", 250_000_000


class WrongAnswer(Exception):
    """Other rows came than those that were written: there is no figure."""


class Made(NamedTuple):
    """A file's content, its records (lines, where it is text), and what it must become: rows by kind, sum of `price_ticks`."""

    content: bytes
    records: int
    kinds: dict[int, int]
    price_ticks: int


class Figure(NamedTuple):
    """One round: bytes and records a second."""

    bytes_per_s: float
    records_per_s: float


def walk(count: int) -> np.ndarray[Any, Any]:
    """Prices in ticks that never stand still."""
    steps = np.random.default_rng(SEED).choice([-2, -1, 1, 2], count)
    return 20_000 + np.abs(np.cumsum(steps))


def dbn_file(schema: dbn.Schema, records: np.ndarray[Any, Any]) -> bytes:
    """Version 3 with its metadata."""
    interval = SimpleNamespace(start_date=date(2023, 12, 25), end_date=date(2023, 12, 26), symbol=str(NUMBER))
    mapping = SimpleNamespace(raw_symbol=SYMBOL, intervals=[interval])
    head = dbn.Metadata(
        dataset="GLBX.MDP3", start=T0_NS, stype_out=dbn.SType.INSTRUMENT_ID, schema=schema, stype_in=dbn.SType.RAW_SYMBOL,
        end=T0_NS + 10**12, symbols=[SYMBOL], mappings=[mapping], version=3,
    )  # fmt: skip
    return bytes(head.encode()) + records.tobytes()


def dbn_lines(rtype: int, count: int) -> np.ndarray[Any, Any]:
    """Records of a type, a microsecond apart."""
    layout = [layout for layout in LAYOUTS if layout.rtype == rtype][-1]
    out = np.zeros(count, layout.dtype)
    out["length"], out["rtype"], out["instrument_id"] = layout.dtype.itemsize // 4, rtype, NUMBER
    for name in {"ts_event", "ts_recv"} & set(layout.dtype.names or ()):
        out[name] = T0_NS + 1_000 * np.arange(count)
    return out


def mbo(count: int) -> Made:
    out, ticks = dbn_lines(160, count), walk(count)
    out["action"], out["side"], out["flags"], out["size"], out["order_id"] = b"A", b"B", dbn.F_LAST, 1, np.arange(count)
    out["price"] = ticks * TICK
    return Made(dbn_file(dbn.Schema.MBO, out), count, {BOOK_DELTA: count}, int(ticks.sum()))


def trades(count: int) -> Made:
    out, ticks = dbn_lines(0, count), walk(count)
    out["action"], out["side"], out["size"], out["price"] = b"T", b"A", 1, ticks * TICK
    return Made(dbn_file(dbn.Schema.TRADES, out), count, {TRADE: count}, int(ticks.sum()))


def levels(schema: dbn.Schema, rtype: int, depth: int, count: int) -> Made:
    """One size changes a record, and the book behind it moves by a tick with every sixteenth: as feeds are, most of it stays."""
    out = dbn_lines(rtype, count)
    out["action"], out["side"], out["flags"] = b"M", b"B", dbn.F_LAST
    best = walk(count // 16 + 1)[np.arange(count) // 16]
    changed = np.random.default_rng(SEED + 1).integers(0, depth, count)
    for k in range(depth):
        out[f"bid_px_{k:02d}"], out[f"ask_px_{k:02d}"] = (best - k) * TICK, (best + 1 + k) * TICK
        out[f"bid_sz_{k:02d}"], out[f"ask_sz_{k:02d}"] = 1 + np.cumsum(changed == k) % 1000, 7
    kinds, total = _changes(out, depth)
    return Made(dbn_file(schema, out), count, kinds, total)


def _changes(out: np.ndarray[Any, Any], depth: int) -> tuple[dict[int, int], int]:
    """(rows by kind, sum of ticks) that the levels come to: what the one record has and the other has not, in sets of both sides."""
    rows, total, before = 0, 0, dict[tuple[int, int], int]()
    columns = [
        (side, out[f"{name}_px_{k:02d}"].tolist(), out[f"{name}_sz_{k:02d}"].tolist())
        for side, name in enumerate(("bid", "ask"))
        for k in range(depth)
    ]
    for i in range(len(out)):
        now = {(side, prices[i] // TICK): sizes[i] for side, prices, sizes in columns}
        told = [price for key in before.keys() - now.keys() for price in key[1:]]
        told += [key[1] for key, size in now.items() if before.get(key) != size]
        rows, total, before = rows + len(told), total + sum(told), now
    return {BOOK_SNAPSHOT: 2 * depth, BOOK_DELTA: rows - 2 * depth}, total


def quotes(schema: dbn.Schema, rtype: int, count: int) -> Made:
    out, ticks = dbn_lines(rtype, count), walk(count)
    out["bid_px_00"], out["ask_px_00"], out["bid_sz_00"], out["ask_sz_00"] = ticks * TICK, (ticks + 1) * TICK, 5, 6
    kinds, total = {QUOTE: count}, int(ticks.sum())
    if schema == dbn.Schema.TBBO:
        out["action"], out["price"], out["size"] = b"T", ticks * TICK, 1
        kinds, total = {QUOTE: count, TRADE: count}, 2 * total
    return Made(dbn_file(schema, out), count, kinds, total)


def bars(count: int) -> Made:
    out, ticks = dbn_lines(32, count), walk(count)
    out["ts_event"] = T0_NS + 10**9 * np.arange(count)
    out["open"] = out["low"] = ticks * TICK
    out["high"] = out["close"] = (ticks + 1) * TICK
    out["volume"] = 9
    return Made(dbn_file(dbn.Schema.OHLCV_1S, out), count, {BAR: count}, int(ticks.sum()))


def statuses(count: int) -> Made:
    out = dbn_lines(18, count)
    out["action"] = 7
    return Made(dbn_file(dbn.Schema.STATUS, out), count, {STATUS: count}, 7 * count)


def binance(count: int) -> Made:
    """A capture of a trade stream, as text."""
    ticks = walk(count).tolist()
    lines = [
        f"{T0_NS + 1000 * i} " + json.dumps({"stream": "btcusdt@trade", "data": {
            "e": "trade", "E": T0_NS // 10**6, "T": T0_NS // 10**6, "s": "BTCUSDT", "t": i, "p": f"{t / 10:.1f}", "q": "0.001", "X": "MARKET", "m": True,
        }}) for i, t in enumerate(ticks)
    ]  # fmt: skip
    return Made("\n".join([*lines, ""]).encode(), count, {TRADE: count}, sum(ticks))


CASES: dict[str, tuple[Callable[[int], Made], int]] = {  # name -> (maker, how many times fewer records, where they are large or slow)
    "dbn mbo": (mbo, 1),
    "dbn trades": (trades, 1),
    "dbn mbp-1": (partial(levels, dbn.Schema.MBP_1, 1, 1), 4),
    "dbn mbp-10": (partial(levels, dbn.Schema.MBP_10, 10, 10), 10),
    "dbn tbbo": (partial(quotes, dbn.Schema.TBBO, 1), 1),
    "dbn bbo-1s": (partial(quotes, dbn.Schema.BBO_1S, 195), 1),
    "dbn cmbp-1": (partial(quotes, dbn.Schema.CMBP_1, 177), 1),
    "dbn ohlcv-1s": (bars, 1),
    "dbn status": (statuses, 1),
    "binance trades": (binance, 10),
}


def read(path: Path, made: Made) -> tuple[dict[int, int], int]:
    """(rows by kind, sum of what stands first behind the header) of the file as a feed; raises WrongAnswer where a line is refused."""
    counts = np.zeros(256, np.int64)
    total = 0
    feed = open_feed(str(path))
    for rows in feed.chunks(WINDOW_ROWS):
        counts += np.bincount(rows["kind"], minlength=256)
        total += int(rows["price_ticks"].sum())
    if feed.counters or feed.lines != made.records:
        raise WrongAnswer(f"{feed.lines} records of {made.records}, refused {feed.first_offenders}")
    return {kind: int(counts[kind]) for kind in np.flatnonzero(counts).tolist()}, total


def rounds_of(name: str, count: int, rounds: int, folder: Path) -> list[Figure]:
    """The figures of `rounds` rounds after one that warms up; raises WrongAnswer."""
    maker, fewer = CASES[name]
    made = maker(max(1, count // fewer))
    path = folder / name.replace(" ", ".")
    path.write_bytes(made.content)
    samples = harness.repeated(lambda: read(path, made), rounds)
    path.unlink()
    for sample in samples:
        if sample.result != (made.kinds, made.price_ticks):
            raise WrongAnswer(f"{name}: rows and sum are {sample.result}, not {(made.kinds, made.price_ticks)}")
    return [Figure(len(made.content) / s.seconds, made.records / s.seconds) for s in samples]


def shown(figures: dict[str, list[Figure]]) -> Iterator[list[str]]:
    """A row of the table for each case."""
    for name, found in figures.items():
        megabytes = harness.Spread.of([f.bytes_per_s / 1e6 for f in found]).text(lambda v: f"{v:.0f}")
        yield [name, megabytes, harness.Spread.of([f.records_per_s for f in found]).text(harness.rate_text)]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes seconds and records nothing."""
    parser = argparse.ArgumentParser(description="MB and records a second of every decoder of recorded files")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(CASES), help="one case")
    args = parser.parse_args(argv)
    count, rounds = (RECORDS_SMALL, 1) if args.small else (RECORDS, args.rounds)
    with tempfile.TemporaryDirectory(prefix="tickline-bench-") as folder:
        figures = {name: rounds_of(name, count, rounds, Path(folder)) for name in ([args.only] if args.only else CASES)}
    if not args.small:
        harness.write_result("import", {name: [f._asdict() for f in found] for name, found in figures.items()})
    print(harness.table(["decoder", "MB/s unpacked, median [low .. high]", "records/s, median [low .. high]"], list(shown(figures))))
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, rows by kind and sum of prices checked in each")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from wrong
