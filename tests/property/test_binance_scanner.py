"""What the kernel takes of a line is what the parser takes of it; all else it leaves to the parser."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from handlers.ingest.blocks import read_lines
from handlers.ingest.venues.binance import SPOT, USDM, Binance
from handlers.ingest.venues.capture_lines import Nanoseconds
from handlers.ingest.venues.levels import MESSAGE
from handlers.ingest.venues.protocol import Refused
from transport.instruments import Instrument

LINES = 3000
DAMAGE = [
    b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"0", b"-", b"e", b".", b"true", b"null", b'"s":"BTCUSDT",', b'"T":1,', b'"x":{},',
    b'"t":"7",', b'"m":false,', b"\xc3\xa9", b"\x01", b"00", b"99999999999999999999", b'"ps":3,', b'"X":4,', b'"pu":5,',
]  # fmt: skip


def recorded(data_dir: Path, market: str) -> list[bytes]:
    path = data_dir / "binance_ws_capture" / ("usdm" if market == USDM else "spot") / "btcusdt_20240808.gz"
    return [line for line, _ in zip(read_lines(path), range(LINES), strict=False)]


def protocol(market: str) -> Binance:
    return Binance([Instrument("ETHUSDT", market, Decimal(1), Decimal(1)), Instrument("BTCUSDT", market, Decimal(1), Decimal(1))], market)


def scanned(lines: Sequence[bytes], market: str) -> list[tuple[Any, ...] | None]:
    """Integers and texts of what the kernel took, None where it left a line."""
    form = Nanoseconds()
    batch, times = form.batch(lines), form.times(lines)
    scanner = protocol(market).scanner()
    assert scanner is not None
    messages, spans = scanner.scan(batch, times, 0)
    text = batch.text.tobytes()
    assert MESSAGE.names is not None
    found: list[tuple[Any, ...] | None] = []
    for m, span in zip(messages, spans.tolist(), strict=True):
        texts = tuple(text[span[2 * k] : span[2 * k + 1]] for k in range(4))
        found.append((*(int(m[f]) for f in MESSAGE.names[:10]), *texts) if m["kind"] else None)
    return found


def parsed(line: bytes, market: str) -> tuple[Any, ...] | None:
    form = Nanoseconds()
    try:
        (one,) = protocol(market).parse(form.split(line, form.time(line)))
    except (Refused, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return (*one[:10], *(bytes(t) for t in one.texts))


def test_every_recorded_trade_quote_and_depth_message_is_taken_and_as_the_parser_does(data_dir: Path) -> None:
    for market in (USDM, SPOT):
        lines = recorded(data_dir, market)
        found = scanned(lines, market)
        assert found.count(None) == sum(b'"lastUpdateId"' in line for line in lines) == 1
        for line, taken in zip(lines, found, strict=True):
            assert taken is None or taken == parsed(line, market), line[:300]


def test_damaged_lines_are_left_or_taken_as_the_parser_takes_them(data_dir: Path, seed: int) -> None:
    rng = random.Random(seed)
    for market in (USDM, SPOT):
        lines = [line for line in recorded(data_dir, market) if len(line) < 1500]
        damaged = []
        for line in rng.sample(lines, 1500):
            at = rng.randrange(20, len(line))
            cut = rng.choice([0, 0, 1, 1, 2, 5])
            damaged.append(line[:at] + rng.choice([b"", *DAMAGE]) + line[at + cut :])
        taken = scanned(damaged, market)
        assert any(t is None for t in taken)
        assert any(t is not None for t in taken)
        for line, one in zip(damaged, taken, strict=True):
            assert one is None or one == parsed(line, market), line


def test_times_are_read_as_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    form = Nanoseconds()
    stamps = [b"", b"1", b"x", b"1723161360000000000", b"17231613600000000001", b"99999999999999999999", b"9999999999999999999", b"946684800000000000", b"-1723161360000000000", b"946684799999999999", b"+1723161360000000000", b"4102444800000000000"]  # fmt: skip
    lines = [rng.choice(stamps) + rng.choice([b"", b" ", b" {}", b"  {}", b"{}", b"\t{}"]) for _ in range(500)]
    assert form.times(lines).tolist() == [form.time(line) for line in lines]
    assert form.times([]).tolist() == []
