"""Damaged files through the decoders: what must hold of any bytes whatever, and the seeds that damage begins from.

    python -m tests.fuzz_feeds FORMAT [--seconds N]      coverage-guided (atheris), until N seconds are over or something does not hold

Bytes that break a rule are written to `fuzz-…` in the current folder, which `--again FILE` looks at alone. `tests/property/test_fuzz_feeds.py` runs the same rules over
damage that hypothesis draws. A format is added to FORMATS; a decoder that no seed of them reaches fails a test there.

What is packed (Lean's zips) or told by a map (tables) has seeds of text, damaged before it is packed, for a zip that is damaged says
so and shows nothing of what is in it; `zip` damages those.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handlers.domain.edges import MARKET_KINDS
from handlers.domain.reasons import NAME
from handlers.ingest.blocks import read_blocks
from handlers.ingest.errors import FeedError
from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed
from handlers.ingest.tables.feed import TableFeed
from handlers.ingest.tables.files import TableFile, csv_header
from handlers.ingest.tables.map import Columns, TableMap, TableTime
from handlers.ingest.tables.parquet import is_parquet, parquet_header
from transport.records import BAR, CONNECTION, EVENT_END, INSTRUMENT

ROOT = Path(__file__).resolve().parent.parent
ROWS_PER_BYTE = 2  # a DBN record of 48 bytes has one row, a level of text some ten bytes: more is a decoder that does not end
WITHOUT_ORIGIN = (BAR, INSTRUMENT)
NO_INSTRUMENT_OF = (CONNECTION,)


class Format(NamedTuple):
    """Where whole files of a format are, below the folder of recorded feeds, how much of each is a seed, and how one is opened."""

    seeds: tuple[str, ...]
    bytes_max: int
    body: Callable[[bytes], int] = lambda content: 0  # where the records begin, behind a head that is refused whole
    open: Callable[[str], Feed] = open_feed
    made: Callable[[], list[bytes]] = list  # seeds beside the recorded ones
    pack: Callable[[bytes], bytes] = bytes  # what stands in the file for a content
    rows_per_byte: int = ROWS_PER_BYTE


def dbn_body(content: bytes) -> int:
    """Behind the metadata of a DBN file."""
    return 8 + int.from_bytes(content[4:8], "little")


_TIMES = TableTime(zone="America/New_York")
TABLES: dict[str, tuple[TableMap, str]] = {  # header -> its map, lines
    "t,p,q,s,id": (
        TableMap("trade", venue="v", symbol="X", columns=Columns(time="t", price="p", qty="q", side="s", id="id")),
        "1723161256322,61800.30,0.006,BUY,7\n1723161256323,6.18e4,1,,8\n\"1723161256324\",\"61800.5\",.5,sell,\n",
    ),
    "t,sym,b,bq,a,aq": (
        TableMap("quote", venue="v", time=_TIMES, columns=Columns(time="t", symbol="sym", bid="b", bid_qty="bq", ask="a", ask_qty="aq")),
        "2024-11-03 01:30:00.5,X,1.5,10,1.6,20\n2024-11-03T01:10,Y,,,1.6,20\n20241104 09:30:00,X,1.4,5,,\n",
    ),
    "t,p,q,s,u,snap": (
        TableMap("book_delta", venue="v", symbol="X", order="time", columns=Columns(time="t", price="p", qty="q", side="s", id="u", is_snapshot="snap")),
        "1723161256,10,1,b,1,true\n1723161256,11,1,a,1,true\n1723161257,10,0,b,2,0\n1723161255,10,3,b,3,F\n",
    ),
    "day,A,B,C": (
        TableMap("bar", venue="v", wide=True, interval="1d", time=_TIMES, columns=Columns(open_time="day")),
        "2024-03-08,1.5,2,3\n2024-03-11,1.25,,3.5\n2024-03-12,-1,2,30000\n",
    ),
    "Ticker,Date,Open,High,Low,Close,Volume,Adj Close": (
        TableMap("bar", venue="v", interval="1d", time=_TIMES, columns=Columns(
            symbol="Ticker", open_time="Date", open="Open", high="High", low="Low", close="Close", volume="Volume")),
        "AAPL,2000-03-01,118.56,132.06,118.5,130.31,9616100,4.18\nMSFT,2000-03-01,10,11,9.5,10,100,1\n",
    ),
}  # fmt: skip
LEAN = {  # name of the CSV -> lines
    "20131103_ibm_Trade_Tick.csv": "5400000,1815200,283,P,20002020,0\n5460000,1815300,100,D,2000,1\n",
    "20131007_ibm_Quote_Tick.csv": "34200000,1815200,2,,,P,0,0\n34200000,,,1815300,3,P,0,0\n34200500,1815100,1,,,T,1,0\n",
    "20131007_ibm_minute_trade.csv": "34200000,1815200,1815300,1815100,1815200,900\n34260000,1815200,1815300,1815100,1815200,100\n",
    "20131007_ibm_second_quote.csv": "34200000,10,12,9,11,5,11,13,10,12,6\n34201000,,,,,,11,13,10,12,6\n",
    "20140512_eurusd_tick_quote.csv": "1000,1.37592,1.37594\n1500,1.37593,1.37593\n",
    "damaged.csv": "19980102 00:00,1048100,1060000,1040000,1050000,5000\n19980105 00:00,1050000,1060000,1040000,1050000,6000\n",
}


def open_table(spec: str) -> Feed:
    """A table by the map that its header is known to have; one with another header by the first."""
    path = Path(spec)
    first = next(table for table, _ in TABLES.values())
    names = parquet_header(TableFile(path, first, "")) if is_parquet(path) else csv_header(TableFile(path, first, ""))
    table = TABLES[",".join(names)][0] if ",".join(names) in TABLES else first
    return TableFeed("damaged", [TableFile(path, table, "its map")], ())


def csv_seeds() -> list[bytes]:
    return [f"{head}\n{lines}".encode() for head, (_, lines) in TABLES.items()]


def parquet_seeds() -> list[bytes]:
    """The same tables as Arrow reads them, and as texts; not compressed, so that damage reaches the values."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    found = []
    for text in csv_seeds():
        typed = pa.csv.read_csv(io.BytesIO(text))
        for table in (typed, typed.cast(pa.schema([(name, pa.string()) for name in typed.column_names]))):
            out = io.BytesIO()
            pq.write_table(table, out, compression="NONE", use_dictionary=table is typed)
            found.append(out.getvalue())
    return found


def lean_seeds() -> list[bytes]:
    return [f"{name}\n{lines}".encode() for name, lines in LEAN.items()]


def zipped(content: bytes) -> bytes:
    """A zip of one file, whose name is the content's first line."""
    name, _, text = content.partition(b"\n")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name.decode(errors="replace").replace("\0", "") or "x", text)
    return out.getvalue()


DBN = ("dbn_format_samples/test_data.*.dbn", "dbn_format_samples/test_data.*.dbn.zst", "databento_mbo_esh4/*.dbn.zst")
FORMATS = {
    "dbn": Format(DBN, 1 << 14, dbn_body),
    "binance": Format(("binance_ws_capture/*/*.gz",), 1 << 15),
    "cryptofeed": Format(("cryptofeed_captures/*.ws.*",), 1 << 15),
    "csv": Format(("bokeh_stocks_ohlcv/*.csv.gz",), 1 << 12, open=open_table, made=csv_seeds),
    "parquet": Format((), 1 << 14, open=open_table, made=parquet_seeds),
    "lean": Format((), 1 << 12, open=open_feed, made=lean_seeds, pack=zipped),
    "zip": Format((), 1 << 12, made=lambda: [zipped(seed) for seed in lean_seeds()]),
}


def seeds(name: str, data_dir: Path) -> list[bytes]:
    """The first bytes, unpacked, of each whole file of a format, of text whole lines, and what is made; without the recorded feeds that alone."""
    form = FORMATS[name]
    found = form.made()
    for path in sorted(p for pattern in form.seeds for p in data_dir.glob(pattern)):
        head = b""
        for block in read_blocks(path):
            head += block
            if len(head) >= form.bytes_max:
                head = head[: form.bytes_max]
                head = head[: head.rfind(b"\n") + 1] or head
                break
        found.append(head)
    return found


def check(content: bytes, path: Path, form: Format) -> Feed | None:
    """Write `content` to `path` as `form` packs it, read it as a feed, and hold what must hold of any; None where it is refused as no feed.

    Raises AssertionError, or whatever a decoder lets out.
    """
    path.write_bytes(form.pack(content))
    feed = _opened(path, form)
    if isinstance(feed, str):
        assert feed, "refused without a word"
        assert "\n" not in feed, "refused in several lines"
        return None
    rows_max = form.rows_per_byte * len(content) + 64
    whole = _read(feed, 4096, rows_max)
    counted, told = dict(feed.counters), dict(feed.first_offenders)
    assert set(counted) <= set(NAME) and set(told) == set(counted), "a reason that is not known, or not told"
    assert all(count > 0 for count in counted.values())
    assert all(text and "\n" not in text for text in told.values()), "an offender in several lines"
    assert _read(feed, 1, rows_max) == whole, "the rows depend on how they are cut"
    assert (feed.counters, feed.first_offenders) == (counted, told), "it was counted otherwise the second time"
    assert len(feed.receive_times()) == feed.lines, "a line without a receive time, or one too many"
    return feed


def _opened(path: Path, form: Format) -> Feed | str:
    """The feed, or why it is none."""
    try:
        return form.open(str(path))
    except FeedError as error:
        return str(error)


def _read(feed: Feed, rows_max: int, bound: int) -> bytes:
    """All rows as bytes; each is one that INGEST may be shown."""
    parts, count, chunk = [], 0, None
    for chunk in feed.chunks(rows_max):
        count += len(chunk)
        assert len(chunk) > 0 and count <= bound, f"{count} rows"
        assert set(np.unique(chunk["kind"]).tolist()) <= set(MARKET_KINDS)
        whole_feed = np.isin(chunk["kind"], NO_INSTRUMENT_OF)
        assert np.all(whole_feed | (chunk["instrument_id"] < len(feed.instruments)))
        assert np.all(chunk["ts_recv_ns"] >= 0), "a row without a time"
        placed = ~np.isin(chunk["kind"], WITHOUT_ORIGIN)
        assert np.all((chunk["origin"][placed] >= 0) & (chunk["origin"][placed] < feed.lines))
        assert len(chunk) <= rows_max or not np.any(chunk["flags"][:-1] & EVENT_END), "a chunk of several events is too long"
        parts.append(chunk.tobytes())
    return b"".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; never returns when the fuzzer ran."""
    parser = argparse.ArgumentParser(description="Damaged files through a decoder, guided by which of its lines they reach")
    parser.add_argument("format", choices=sorted(FORMATS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--again", type=Path, help="a file of bytes that broke a rule: look at it alone")
    options = parser.parse_args(argv)
    form = FORMATS[options.format]
    data_dir = Path(os.environ.get("TICKLINE_DATA") or ROOT.parent / "shared" / "data")
    with tempfile.TemporaryDirectory(prefix="tickline-fuzz-") as folder:
        target = Path(folder) / "damaged"
        if options.again:
            print(check(options.again.read_bytes(), target, form))
            return
        corpus = Path(folder) / "seeds"
        corpus.mkdir()
        for number, seed in enumerate(seeds(options.format, data_dir)):
            (corpus / str(number)).write_bytes(seed)
        _fuzz([str(corpus), f"-max_total_time={options.seconds}", f"-max_len={2 * form.bytes_max}", "-artifact_prefix=fuzz-"], target, form)


def _fuzz(arguments: list[str], target: Path, form: Format) -> None:
    import atheris

    for name, module in list(sys.modules.items()):
        if name.startswith("handlers.ingest."):
            for value in list(vars(module).values()):
                _instrument(atheris, value, name)
    atheris.Setup([sys.argv[0], *arguments], lambda content: check(content, target, form) and None)
    atheris.Fuzz()


def _instrument(atheris: Any, value: Any, module: str) -> None:
    """Let atheris see which lines of a function, or of a class's methods, run; kernels it cannot see."""
    members = vars(value).values() if isinstance(value, type) and value.__module__ == module else [value]
    for function in members:
        if hasattr(function, "__code__") and getattr(function, "__module__", "") == module:
            function.__code__ = atheris.instrument_func(function).__code__


if __name__ == "__main__":
    main()
