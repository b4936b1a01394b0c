"""Damaged files through the decoders: what must hold of any bytes whatever, and the seeds that damage begins from.

    python -m tests.fuzz_feeds FORMAT [--seconds N]      coverage-guided (atheris), until N seconds are over or something does not hold

Bytes that break a rule are written to `fuzz-…` in the current folder, which `--again FILE` looks at alone. `tests/property/test_fuzz_feeds.py` runs the same rules over
damage that hypothesis draws. A format is added to FORMATS.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
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


def dbn_body(content: bytes) -> int:
    """Behind the metadata of a DBN file."""
    return 8 + int.from_bytes(content[4:8], "little")


DBN = ("dbn_format_samples/test_data.*.dbn", "dbn_format_samples/test_data.*.dbn.zst", "databento_mbo_esh4/*.dbn.zst")
FORMATS = {
    "dbn": Format(DBN, 1 << 14, dbn_body),
    "binance": Format(("binance_ws_capture/*/*.gz",), 1 << 15),
    "cryptofeed": Format(("cryptofeed_captures/*.ws.*",), 1 << 15),
}


def seeds(name: str, data_dir: Path) -> list[bytes]:
    """The first bytes, unpacked, of each whole file of a format; of text whole lines. Without the recorded feeds there are none."""
    found = []
    for path in sorted(p for pattern in FORMATS[name].seeds for p in data_dir.glob(pattern)):
        head = b""
        for block in read_blocks(path):
            head += block
            if len(head) >= FORMATS[name].bytes_max:
                head = head[: FORMATS[name].bytes_max]
                head = head[: head.rfind(b"\n") + 1] or head
                break
        found.append(head)
    return found


def check(content: bytes, path: Path, how: Callable[[str], Feed] = open_feed) -> Feed | None:
    """Write `content` to `path`, read it as a feed, and hold what must hold of any; None where it is refused as no feed.

    Raises AssertionError, or whatever a decoder lets out.
    """
    path.write_bytes(content)
    try:
        feed = how(str(path))
    except FeedError:
        return None
    rows_max = ROWS_PER_BYTE * len(content) + 64
    whole = _read(feed, 4096, rows_max)
    counted, told = dict(feed.counters), dict(feed.first_offenders)
    assert set(counted) <= set(NAME) and set(told) == set(counted), "a reason that is not known, or not told"
    assert all(count > 0 for count in counted.values())
    assert all(text and "\n" not in text for text in told.values()), "an offender in several lines"
    assert _read(feed, 1, rows_max) == whole, "the rows depend on how they are cut"
    assert (feed.counters, feed.first_offenders) == (counted, told), "it was counted otherwise the second time"
    assert len(feed.receive_times()) == feed.lines, "a line without a receive time, or one too many"
    return feed


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
            print(check(options.again.read_bytes(), target, form.open))
            return
        corpus = Path(folder) / "seeds"
        corpus.mkdir()
        for number, seed in enumerate(seeds(options.format, data_dir)):
            (corpus / str(number)).write_bytes(seed)
        _fuzz([str(corpus), f"-max_total_time={options.seconds}", f"-max_len={2 * form.bytes_max}", "-artifact_prefix=fuzz-"], target, form.open)


def _fuzz(arguments: list[str], target: Path, how: Callable[[str], Feed]) -> None:
    import atheris

    for name, module in list(sys.modules.items()):
        if name.startswith("handlers.ingest."):
            for value in list(vars(module).values()):
                _instrument(atheris, value, name)
    atheris.Setup([sys.argv[0], *arguments], lambda content: check(content, target, how) and None)
    atheris.Fuzz()


def _instrument(atheris: Any, value: Any, module: str) -> None:
    """Let atheris see which lines of a function, or of a class's methods, run; kernels it cannot see."""
    members = vars(value).values() if isinstance(value, type) and value.__module__ == module else [value]
    for function in members:
        if hasattr(function, "__code__") and getattr(function, "__module__", "") == module:
            function.__code__ = atheris.instrument_func(function).__code__


if __name__ == "__main__":
    main()
