"""What every venue must keep to, run over each protocol and each stream that is listed; a capture named after the venue is its sample."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from handlers.domain import reasons
from handlers.ingest.feed import YEAR_2000_NS, YEAR_2100_NS, Rows
from handlers.ingest.venues import capture as module
from handlers.ingest.venues.capture import CaptureFeed
from handlers.ingest.formats import PROTOCOLS, open_feed
from handlers.ingest.venues.levels import MESSAGE
from handlers.ingest.live.feed import STREAMS
from handlers.ingest.venues.protocol import (
    APPLY, BREAK, HOLD, NO_CHECK, NO_JSON, REPEATED, STALE, Line, Parsed, Places, Protocol, Refused,
)  # fmt: skip
from handlers.ingest.venues.stream import Stream
from transport.records import ASK, BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, EVENT_FIRST, QUOTE, STATUS, TRADE, empty, joined

KINDS = {TRADE, QUOTE, BOOK_DELTA, BOOK_SNAPSHOT, BAR, STATUS}
ODD = [b"null", b"[]", b"{}", b'""', b"-1", b"1e400", b"9223372036854775808", b"0.5", b'"x"', b"true", b'"\\ud800"', b"[[[[]]]]", b"1" * 400]
LINES = 1200  # of a capture


class Sample:
    """The head of a venue's capture as its lines, taken apart, and a feed of them."""

    def __init__(self, protocol: type[Protocol], data_dir: Path) -> None:
        folder = data_dir / "cryptofeed_captures"
        paths = sorted(folder.glob(f"{protocol.venue.upper()}.http.*")) + sorted(folder.glob(f"{protocol.venue.upper()}.ws.*"))
        assert paths, f"there is no capture of {protocol.venue} to try it with"
        self.kind, self.paths = protocol, paths
        feed = open_feed(",".join(map(str, paths)))
        assert isinstance(feed, CaptureFeed)
        self.feed = feed
        self.texts = [t for path in paths for t in path.read_bytes().split(b"\n")[:LINES]]
        self.lines = list(self._split())

    def _split(self) -> Iterator[Line]:
        for text in self.texts:
            try:
                yield self.feed.form.split(text, self.feed.form.time(text))
            except Refused:
                continue

    def protocol(self) -> Protocol:
        return self.feed.survey.protocol.fresh(self.feed.instruments)


@cache
def sample_of(protocol: type[Protocol], data_dir: Path) -> Sample:
    return Sample(protocol, data_dir)


@pytest.fixture(params=PROTOCOLS, ids=lambda p: p.venue)
def sample(request: pytest.FixtureRequest, data_dir: Path) -> Sample:
    return sample_of(request.param, data_dir)


def parsed(protocol: Protocol, line: Line) -> list[Parsed]:
    """Its events; a refusal has a reason that is known."""
    try:
        return list(protocol.parse(line))
    except Refused as refused:
        told = refused.reason in reasons.DOC and bool(str(refused))
    except NO_JSON:
        told = True
    assert told
    return []


def check_event(event: Parsed, line: Line, instruments: int) -> None:
    assert event.kind in KINDS
    assert 0 <= event.place < instruments
    assert event.recv == line.recv
    assert event.event == 0 or YEAR_2000_NS <= event.event < YEAR_2100_NS
    assert event.seq >= 0
    assert all(-(2**63) <= number < 2**63 for number in event[:10])
    assert event.check >= NO_CHECK
    assert len(event.texts) == 4
    assert all(isinstance(text, bytes | Raw) for text in event.texts)
    levels = (event.texts[0], event.texts[2]) if event.kind in (BOOK_DELTA, BOOK_SNAPSHOT) else ()
    for side in levels:
        assert bytes(side)[:1] == b"[" or parsed_elsewhere(side), "levels are an array"


def parsed_elsewhere(side: Raw | bytes) -> bool:
    """What is no array is refused where numbers are read; it must be JSON all the same."""
    msgspec.json.decode(bytes(side) or b"[]")
    return True


# --- protocols ------------------------------------------------------------------------------------------------------------


def test_every_message_of_its_capture_is_an_event_or_refused_for_a_reason(sample: Sample) -> None:
    protocol, kinds = sample.protocol(), set()
    for line in sample.lines:
        for event in parsed(protocol, line):
            check_event(event, line, len(sample.feed.instruments))
            kinds.add(event.kind)
    assert kinds >= {TRADE, BOOK_SNAPSHOT, BOOK_DELTA}


def test_it_claims_its_own_messages_and_no_other_venue_does(sample: Sample) -> None:
    protocol = sample.protocol()
    claimed = dict.fromkeys(PROTOCOLS, 0)
    for line in sample.lines[:400]:
        if not line.url and parsed(protocol, line):
            for other in PROTOCOLS:
                claimed[other] += other.claims(line.body)
    assert claimed.pop(sample.kind) > 0
    assert not any(claimed.values())


@pytest.mark.parametrize("body", [b"", b"x", b"\xff", b"{}", b"[]", b"null", b"1", b'"a"', b"[" * 5000, b'{"a":' * 2000, b"[null,null,null,null]"])
def test_what_is_no_message_of_anybody_is_refused(sample: Sample, body: bytes) -> None:
    line = Line(YEAR_2000_NS, b"", body)
    assert parsed(sample.protocol(), line) == []
    assert not sample.kind.claims(body)


def test_a_symbol_that_is_not_in_the_table_is_refused(sample: Sample) -> None:
    stranger = type(sample.protocol())((), sample.feed.survey.venue)
    stranger.places = Places(())
    heard = set()
    for line in sample.lines:
        try:
            assert not stranger.parse(line)
        except Refused as refused:
            heard.add(refused.reason)
        except NO_JSON:
            continue
    assert reasons.UNKNOWN_SYMBOL in heard


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """A message with a value replaced, a byte changed, a piece cut out or put in."""
    at, to = sorted((draw(st.integers(0, len(body))), draw(st.integers(0, len(body)))))
    how = draw(st.integers(0, 4))
    if how == 0:
        return body[:at] + bytes([draw(st.integers(0, 255))]) + body[at + 1 :]
    if how == 1:
        return body[:at]
    if how == 2:
        return body[:at] + body[min(to, at + 40) :]
    if how == 3:
        return body[:at] + draw(st.binary(max_size=6)) + body[at:]
    starts = [n + 1 for n, byte in enumerate(body[:-1]) if byte in b":[,"]  # of values
    start = draw(st.sampled_from(starts or [0]))
    ends = [n for n in range(start, min(start + 200, len(body))) if body[n] in b",]}"]
    return body[:start] + draw(st.sampled_from(ODD)) + body[(ends or [len(body)])[0] :]


@given(data=st.data())
@settings(max_examples=150)
@pytest.mark.parametrize("kind", PROTOCOLS, ids=lambda p: p.venue)
def test_whatever_bytes_come_nothing_but_a_refusal_is_raised(kind: type[Protocol], data: st.DataObject, data_dir: Path) -> None:
    sample = sample_of(kind, data_dir)
    protocol = sample.protocol()
    line = data.draw(st.sampled_from([m for m in sample.lines if len(m.body) < 4000]))
    for _ in range(5):
        spoilt = line._replace(body=data.draw(damaged(line.body)))
        kind.claims(spoilt.body)
        for event in parsed(protocol, spoilt):
            check_event(event, spoilt, len(sample.feed.instruments))


def decoded(sample: Sample, lines: list[bytes], tmp_path: Path, rows_max: int) -> tuple[Rows, dict[int, int], CaptureFeed]:
    path = tmp_path / sample.paths[0].name
    path.write_bytes(b"\n".join(lines))
    feed = CaptureFeed("spoilt", [path], sample.feed.form, sample.feed.survey, sample.feed.instruments)
    return joined(*feed.chunks(rows_max)), feed.counters, feed


def test_rows_depend_neither_on_chunks_nor_batches_nor_the_scanner_even_where_lines_are_damaged(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rng = random.Random(seed)
    lines = list(sample.texts)
    for n in rng.sample(range(len(lines)), min(60, len(lines) // 4)):
        at = rng.randrange(len(lines[n]) + 1)
        lines[n] = rng.choice([lines[n][:at], lines[n][:at] + b"\x00" + lines[n][at + 1 :], lines[n][:at] + rng.choice(ODD) + lines[n][at + 1 :], b""])
    rows, counters, feed = decoded(sample, lines, tmp_path, 10**9)
    assert len(rows)
    for batch, rows_max in ((1, 7), (13, 1)):
        monkeypatch.setattr(module, "BATCH_LINES", batch)
        again, counted, _ = decoded(sample, lines, tmp_path, rows_max)
        assert again.tobytes() == rows.tobytes()
        assert counted == counters
    with monkeypatch.context() as plain:
        plain.setattr(sample.kind, "scanner", lambda self: None)
        again, counted, _ = decoded(sample, lines, tmp_path, 10**9)
        assert again.tobytes() == rows.tobytes()
        assert counted == counters
    assert rows["flags"][-1] & EVENT_END
    assert set(rows["instrument_id"].tolist()) <= set(feed.ids.tolist())
    starts = np.flatnonzero((rows["kind"] == BOOK_SNAPSHOT) & (rows["flags"] & EVENT_FIRST > 0))
    assert all(s == 0 or rows["flags"][s - 1] & EVENT_END for s in starts), "a snapshot begins where an event has ended"
    within = np.flatnonzero(rows["flags"][:-1] & EVENT_END == 0)
    assert (rows["instrument_id"][within] == rows["instrument_id"][within + 1]).all(), "an event is of one instrument"


def book_rows() -> Rows:
    rows = empty(2)
    rows["kind"], rows["side"], rows["price_ticks"], rows["qty_lots"] = BOOK_SNAPSHOT, (BID, ASK), (100, 101), 5
    rows["flags"] = EVENT_FIRST, EVENT_END
    return rows


def message(seq: int, previous: int) -> np.void:
    m = np.zeros(1, MESSAGE)[0]
    m["check"], m["venue_seq"], m["first_seq"], m["prev_seq"] = NO_CHECK, seq, previous + 1, previous
    return m


def test_its_rule_waits_for_a_snapshot_and_after_a_loss_for_the_next(sample: Sample) -> None:
    rule = sample.protocol().rule(0, sample.feed.instruments[0])
    for _ in range(2):
        assert rule.waiting
        assert rule.judge(message(9, 8), book_rows()[:0]) == HOLD
        assert rule.waiting
        assert rule.start(message(10, 9), book_rows()) == APPLY
        assert not rule.waiting
        assert rule.judge(message(11, 10), book_rows()[:0]) == APPLY
        rule.lose()
    assert isinstance(rule.holds, bool)
    assert rule.start(message(10, 9), book_rows()) in (APPLY, STALE)
    assert rule.judge(message(20, 19), book_rows()[:0]) in (APPLY, BREAK, REPEATED)


def test_markets_and_marks_are_one_venues_alone() -> None:
    for names in ([p.venue for p in PROTOCOLS], [m for p in PROTOCOLS for m in p.url_marks], [m for s in STREAMS for m in s.markets]):
        assert len(set(names)) == len(names)


# --- streams --------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[(stream, market) for stream in STREAMS for market in stream.markets], ids=lambda p: p[1])
def market(request: pytest.FixtureRequest) -> tuple[type[Stream], str]:
    found: tuple[type[Stream], str] = request.param
    return found


def test_a_stream_knows_its_addresses_and_takes_others(market: tuple[type[Stream], str]) -> None:
    kind, name = market
    own, other = kind(name, ["A-USD", "B-USD"]), kind(name, ["A-USD"], "ws://127.0.0.1:1", "http://127.0.0.1:2")
    assert own.url().startswith("wss://")
    assert other.url().startswith("ws://127.0.0.1:1")
    for stream, begin in ((own, "https://"), (other, "http://127.0.0.1:2/")):
        assert stream.instrument_urls()
        urls = [*stream.instrument_urls(), *filter(None, map(stream.book_url, stream.symbols))]
        assert all(url.startswith(begin) and " " not in url for url in urls)
    assert stream.idle_s > 0
    assert not own.ping_s or own.ping_s < own.idle_s
    with pytest.raises(KeyError):
        kind("moon", ["A-USD"])


def test_a_stream_says_json_that_names_its_symbols_and_can_get_a_book_anew(market: tuple[type[Stream], str]) -> None:
    stream = market[0](market[1], ["A-USD", "B-USD"])
    greeted = [json.dumps(json.loads(m)) for m in stream.greetings()]
    assert all(all(s in text for text in greeted) or s.lower() in stream.url() for s in stream.symbols)
    for symbol, other in (stream.symbols, stream.symbols[::-1]):
        asked: list[Any] = [json.dumps(json.loads(m)) for m in stream.book_messages(symbol)] or [stream.book_url(symbol)]
        assert all(symbol in text and other not in text for text in asked)
    assert bool(stream.book_url("A-USD")) != bool(stream.book_messages("A-USD"))
    assert bool(stream.ping()) == bool(stream.ping_s)


def test_a_streams_protocol_is_listed_and_none_of_its_messages_is_a_pong(market: tuple[type[Stream], str], data_dir: Path) -> None:
    stream = market[0](market[1], ["A-USD"])
    protocol = stream.protocol()
    assert type(protocol) in PROTOCOLS
    assert protocol.market() == market[1]
    sample = sample_of(type(protocol), data_dir)
    assert not any(stream.is_pong(line.body) for line in sample.lines)
    assert not stream.is_pong(b"") and not stream.is_pong(b"{}")


def test_a_stream_reads_its_venues_own_description_of_instruments(market: tuple[type[Stream], str], data_dir: Path) -> None:
    stream = market[0](market[1], ["A-USD"])
    protocol = stream.protocol()
    sample = sample_of(type(protocol), data_dir)
    beside = (sample.paths[0].with_name(f"{protocol.venue.upper()}.0")).read_bytes().split(b"\n")
    lines = [sample.feed.form.split(text, sample.feed.form.time(text)) for text in beside if b" -> " in text[:200]]
    paths = {url.partition("?")[0].partition("://")[2].partition("/")[2].rpartition("/")[2] for url in stream.instrument_urls()}
    read = [i for line in lines if line.url.decode().partition("?")[0].rpartition("/")[2] in paths for i in protocol.instruments(line)]
    assert len(read) > 10
    assert all(i.venue == market[1] and i.tick > 0 and i.lot > 0 and i.quote for i in read)
    assert {i.symbol for i in sample.feed.instruments} <= {i.symbol for i in read}
    assert list(protocol.instruments(Line(0, b"https://elsewhere/x", b"{}"))) == []
