"""Binance JSON to records: messages/s of the compiled scanner and of the parser behind it, beside what only parses, on one thread.

    python -m perf.bench_decode [--small] [--rounds N] [--peers]

    ours            capture lines to finished records: times, JSON, exact decimals on the grid, the venue's rule for its book
    ours, opened    the same of a feed that is open: without the survey of its first lines, which tells venue, symbols and grid
    ours, parser    the same as ours without the scanner: msgspec structs, a Python object a message, numbers read by the same kernel
    msgspec, json   `decode` and `loads` of each line's body to dicts, and nothing more: no numbers, no times, no book

The capture is Binance's recorded USD-M stream, unpacked, where the recorded feeds are; else one made here of the same messages. Both of
ours must come to the same records, byte for byte. With --peers hftbacktest's loader converts the same capture (gzip), in its own
environment. CPU time, since the machine is shared; `ours / it` is of the best rounds, for the same reason. Then each kind of message by
itself, of an open feed, best of the rounds: a depth message has as many numbers as its levels, so bytes and levels a second say more.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np
import xxhash

from handlers.ingest.blocks import read_lines
from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed
from handlers.ingest.venues.binance import Binance
from perf import harness
from perf.bench_book import recorded
from perf.peers import venvs

MESSAGES_SMALL = 5_000
T0_NS = 1_723_161_256_000_000_000
TARGET = 1e6  # messages a second and core
CHILD_TIMEOUT_S = 300.0


class WrongAnswer(Exception):
    """Two ways of decoding came to different records: there is no figure."""


def capture_lines() -> list[bytes]:
    """The recorded capture's lines, or made ones."""
    path = recorded() / "binance_ws_capture" / "usdm" / "btcusdt_20240808.gz"
    return list(read_lines(path)) if path.is_file() else made(100_000)


def made(count: int) -> list[bytes]:
    """Trades, quotes and depth as the venue writes them, in about the shares of the recorded capture."""
    chance, out = random.Random(7), [b'%d {"lastUpdateId":10,"bids":[["100.0","1.000"]],"asks":[["100.1","1.000"]]}' % T0_NS]
    last = 10
    for n in range(1, count):
        at, ms, price = T0_NS + n * 1_000_000, T0_NS // 10**6 + n, f"{chance.randrange(900, 1100) / 10:.1f}"
        pick = chance.random()
        if pick < 0.7:
            data = f'"e":"bookTicker","u":{n},"s":"BTCUSDT","b":"{price}","B":"1.250","a":"110.1","A":"0.7","T":{ms},"E":{ms}'
            stream = "bookTicker"
        elif pick < 0.93:
            data = f'"e":"trade","E":{ms},"T":{ms},"s":"BTCUSDT","t":{n},"p":"{price}","q":"0.125","X":"MARKET","m":{"true" if n % 2 else "false"}'
            stream = "trade"
        else:
            bids = ",".join(f'["{chance.randrange(800, 1000) / 10:.1f}","{chance.randrange(9)}.5"]' for _ in range(chance.randrange(40)))
            data = f'"e":"depthUpdate","E":{ms},"T":{ms},"s":"BTCUSDT","U":{last + 1},"u":{last + 5},"pu":{last},"b":[{bids}],"a":[]'
            last, stream = last + 5, "depth@0ms"
        out.append(f'{at} {{"stream":"btcusdt@{stream}","data":{{{data}}}}}'.encode())
    return out


def decode(path: Path) -> str:
    """Decode a capture to its end; a digest of its records."""
    return _drain(open_feed(str(path)))


def _drain(feed: Feed) -> str:
    digest = xxhash.xxh3_128()
    for rows in feed.chunks(1 << 16):
        digest.update(rows.view(np.uint8))
    return digest.hexdigest()


def _parser_only(path: Path) -> str:
    """`decode` of the venue's protocol without its scanner."""
    with patch.object(Binance, "scanner", lambda protocol: None):
        return decode(path)


def contenders(path: Path, lines: Sequence[bytes]) -> dict[str, Callable[[], Any]]:
    bodies = [line.partition(b" ")[2] for line in lines]

    def each(parse: Callable[[bytes], Any]) -> Callable[[], None]:
        def run() -> None:
            for body in bodies:
                parse(body)

        return run

    opened = open_feed(str(path))
    return {
        "ours": lambda: decode(path), "ours, opened": lambda: _drain(opened), "ours, parser": lambda: _parser_only(path),
        "msgspec, to dicts": each(msgspec.json.decode), "json, to dicts": each(json.loads),
    }  # fmt: skip


def measure(lines: Sequence[bytes], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round; raises WrongAnswer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        path.write_bytes(b"\n".join(lines) + b"\n")
        calls = contenders(path, lines)
        due = calls["ours"]()
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                began = time.process_time()
                found = call()
                taken[name].append(time.process_time() - began)
                if found is not None and found != due:
                    raise WrongAnswer(f"{name} comes to other records")
    return taken


def by_kind(lines: Sequence[bytes], rounds: int) -> list[list[str]]:
    """A row for each kind of message: how many, bytes and levels of each, messages, bytes and levels a second."""
    table = []
    for kind in (b"@bookTicker", b"@trade", b"@depth"):
        book = kind == b"@depth"  # which begins with its snapshot
        own = [line for line in lines if kind in line[:64] or (book and b'"lastUpdateId"' in line[:64])]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "capture"
            path.write_bytes(b"\n".join(own) + b"\n")
            feed, best = open_feed(str(path)), float("inf")
            for _ in range(rounds):
                began = time.process_time()
                _drain(feed)
                best = min(best, time.process_time() - began)
        if feed.messages != len(own):
            raise WrongAnswer(f"{len(own) - feed.messages} of {len(own)} {kind[1:].decode()} messages were not read")
        size, levels = sum(map(len, own)), sum(line.count(b'["') for line in own)
        each = [f"{len(own):,}", f"{size / len(own):.0f}", f"{levels / len(own):.1f}"]
        table.append([kind[1:].decode(), *each, *(harness.rate_text(n / best) for n in (len(own), size, levels))])
    return table


def peer(lines: Sequence[bytes]) -> tuple[str, float]:
    """(name, CPU seconds) of hftbacktest's loader."""
    python = str(venvs.ensure("hftbacktest"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture.gz"
        path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", 1))
        result = harness.run_child((python, "-W", "ignore", "-m", "perf.peers.decode_hftbacktest", str(path)), CHILD_TIMEOUT_S)
    return f"hftbacktest {result['version']} convert", float(result["cpu_seconds"])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Binance JSON to records")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="hftbacktest's loader beside ours")
    options = parser.parse_args(argv)
    lines = made(MESSAGES_SMALL) if options.small else capture_lines()
    taken = measure(lines, 1 if options.small else options.rounds)
    if options.peers:
        name, seconds = peer(lines)
        taken[name] = [seconds]
    rates = {name: harness.Spread.of([len(lines) / s for s in each]) for name, each in taken.items()}
    ours = rates["ours"]
    print(harness.table(
        ("way", "messages/s of CPU, median [min .. max]", "ours / it"),
        [[name, r.text(harness.rate_text), f"{ours.high / r.high:.2f}"] for name, r in rates.items()],
    ))  # fmt: skip
    headers = ("kind", "messages", "bytes", "levels", "messages/s", "bytes/s", "levels/s")
    print(harness.table(headers, by_kind(lines, 1 if options.small else options.rounds)))
    if options.small:
        return 0
    harness.write_result("decode", {name: r.__dict__ for name, r in rates.items()})
    return harness.judged([harness.Target("messages/s", ours.median / 1e6, TARGET / 1e6, " M")], False)


if __name__ == "__main__":
    sys.exit(main())
