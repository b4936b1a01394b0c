"""How fast tables are decoded: CSV and Parquet of the same trades through a column map, on one thread, to whole windows of records.

    python -m perf.bench_tables [--small] [--rounds N] [--strict]

The trades are made from a seed, as integers; a round whose records are not those, price by price, gives no figure. MB/s are bytes of
the file as it lies on the disk, so Parquet's are fewer for the same rows. The file is read once before the clock runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handlers.ingest.tables.files import TableFile
from handlers.ingest.tables.map import Columns, TableMap, TableTime
from handlers.ingest.tables.feed import TableFeed
from perf import harness
from transport.instruments import Instrument

SEED = 7
ROWS, ROWS_SMALL = 1_000_000, 20_000
WINDOW_ROWS = 65_536
START_US = 1_735_689_600_000_000  # 2025-01-01T00:00:00Z
CSV_MB_S = 100.0  # a day of Binance's spot BTCUSDT trades, some 200 MB, in two seconds
BTC = Instrument("BTCUSDT", "binance", Decimal("0.01"), Decimal("0.00001"), "USDT")
COLUMNS = Columns(id="id", time="time", price="price", qty="qty", side="side")
COUNTS = TableMap("trade", venue="binance", symbol="BTCUSDT", columns=COLUMNS)
ISO = TableMap("trade", venue="binance", symbol="BTCUSDT", columns=COLUMNS, time=TableTime(unit="iso"))


class WrongAnswer(Exception):
    """Other records came than were written: there is no figure."""


class Trades(NamedTuple):
    """The trades of a file, as integers, in order."""

    times_us: np.ndarray[Any, Any]
    ticks: np.ndarray[Any, Any]
    lots: np.ndarray[Any, Any]
    sides: np.ndarray[Any, Any]  # 1 BUY, 2 SELL


def make_trades(rows: int) -> Trades:
    """The same for the same number of rows."""
    chance = np.random.default_rng(SEED)
    times = START_US + np.cumsum(chance.integers(0, 80_000, rows))
    ticks = 9_400_000 + np.cumsum(chance.integers(-3, 4, rows))
    return Trades(times, ticks, chance.integers(1, 200_000, rows), chance.integers(1, 3, rows))


def write_csv(path: Path, trades: Trades, iso: bool) -> None:
    """`id,time,price,qty,side`, times in us or as ISO 8601."""
    times = np.char.add(trades.times_us.astype("datetime64[us]").astype(str), "Z").tolist() if iso else trades.times_us.tolist()
    rest = zip(times, trades.ticks.tolist(), trades.lots.tolist(), trades.sides.tolist(), strict=True)
    with path.open("w") as file:
        file.write("id,time,price,qty,side\n")
        file.writelines(f"{n},{t},{p // 100}.{p % 100:02d},{q // 100_000}.{q % 100_000:05d},{'BUY' if s == 1 else 'SELL'}\n" for n, (t, p, q, s) in enumerate(rest))


def write_parquet(path: Path, trades: Trades, doubles: bool) -> None:
    """The same columns, numbers as doubles or as decimals."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    price, qty = pa.array(trades.ticks / 100), pa.array(trades.lots / 100_000)
    if not doubles:
        price, qty = pc.round(price, 2).cast(pa.decimal128(18, 2)), pc.round(qty, 5).cast(pa.decimal128(18, 5))
    side = pa.array(np.array(["BUY", "SELL"])[trades.sides - 1])
    time_column = pa.array(trades.times_us).cast(pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"id": pa.array(np.arange(len(trades.ticks))), "time": time_column, "price": price, "qty": qty, "side": side}), path)


def forms(folder: Path, trades: Trades) -> dict[str, tuple[Path, TableMap]]:
    """Name of each contender -> its file, written, and its map."""
    writers: dict[str, tuple[str, TableMap, Callable[[Path], None]]] = {
        "CSV, times in us": ("us.csv", COUNTS, lambda path: write_csv(path, trades, False)),
        "CSV, times in ISO 8601": ("iso.csv", ISO, lambda path: write_csv(path, trades, True)),
        "Parquet, decimals": ("decimals.parquet", COUNTS, lambda path: write_parquet(path, trades, False)),
        "Parquet, doubles": ("doubles.parquet", COUNTS, lambda path: write_parquet(path, trades, True)),
    }
    made = {}
    for name, (file, table, write) in writers.items():
        write(folder / file)
        made[name] = (folder / file, table)
    return made


def decode(path: Path, table: TableMap, trades: Trades) -> float:
    """Seconds that every window took to make; raises WrongAnswer."""
    feed = TableFeed("trades", [TableFile(path, table, "the benchmark's map")], [BTC])
    windows = feed.chunks(WINDOW_ROWS)
    made, took_ns = 0, 0
    while True:
        began_ns = time.perf_counter_ns()
        window = next(windows, None)
        took_ns += time.perf_counter_ns() - began_ns
        if window is None:
            break
        due = slice(made, made + len(window))
        pairs = (("ts_event_ns", trades.times_us[due] * 1000), ("price_ticks", trades.ticks[due]), ("qty_lots", trades.lots[due]), ("side", trades.sides[due]))
        for field, expected in pairs:
            if not np.array_equal(window[field], expected):
                raise WrongAnswer(f"{path.name}: {field} of rows {due.start:,} to {due.stop:,} is not what was written")
        made += len(window)
    if made != len(trades.ticks) or feed.counters:
        raise WrongAnswer(f"{path.name}: {made:,} of {len(trades.ticks):,} rows came, refused: {feed.first_offenders}")
    return took_ns / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes a second and records nothing."""
    parser = argparse.ArgumentParser(description="tables decoded a second")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strict", action="store_true", help="a missed target is an exit status of 1")
    args = parser.parse_args(argv)
    rows, rounds = (ROWS_SMALL, 1) if args.small else (ROWS, args.rounds)
    trades = make_trades(rows)
    with tempfile.TemporaryDirectory() as folder:
        files = forms(Path(folder), trades)
        contenders = {name: lambda file=file: decode(*file, trades) for name, file in files.items()}
        samples = harness.run_alternating(contenders, rounds, warmups=1)
        sizes = {name: path.stat().st_size / 1e6 for name, (path, _) in files.items()}
    seconds = {name: [sample.result for sample in taken] for name, taken in samples.items()}
    shown, megabytes = [], {}
    for name, taken in seconds.items():
        megabytes[name] = harness.Spread.of([sizes[name] / s for s in taken])
        shown.append([name, f"{sizes[name]:.1f}", megabytes[name].text(lambda v: f"{v:.0f}"), harness.Spread.of([rows / s for s in taken]).text(harness.rate_text)])
    if not args.small:
        harness.write_result("tables", {"rows": rows, "megabytes": sizes, "seconds": seconds})
    print(harness.table(["table", "MB", "MB/s, median [low .. high]", "rows/s"], shown))
    print(f"{harness.machine_text(harness.machine())}; {rows:,} rows, {rounds} rounds, every row checked in each")
    target = harness.Target("CSV, times in us", megabytes["CSV, times in us"].median, CSV_MB_S, " MB/s")
    return 0 if args.small else harness.judged([target], args.strict)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from wrong
