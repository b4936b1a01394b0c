"""From what a user names on the command line to windows of rows: captures, tapes, runs, the generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.errors import ConfigError
from engine.journaling import INPUT_LOG, Rows
from engine.table_maps import read_map
from handlers.domain import reasons
from handlers.domain.edges import MARKET_KINDS
from handlers.ingest.errors import FeedError, NotAFeedError
from handlers.ingest.feed import Feed
from handlers.ingest.sequencer import FEEDS_MAX, source_of
from handlers.ingest.formats import open_feed
from handlers.ingest.lean.rows import KEEP
from handlers.ingest.synthetic.feed import SyntheticFeed
from transport.errors import TransportError
from transport.instruments import Instrument
from transport.journal import LogReader
from transport.records import NO_INSTRUMENT, REC, copied
from transport.tape import MAGIC, Tape

SYNTHETIC = "synthetic:"  # synthetic:ROWS[:SEED[:INSTRUMENTS]]


@dataclass
class OpenFeed:
    """A feed that a run can read: `tape` when its whole rows lie in memory as they are, else `chunks` makes windows."""

    spec: str
    instruments: tuple[Instrument, ...]
    decoder: Feed | None = None
    tape: Tape | None = None
    run: tuple[LogReader, tuple[Any, ...]] | None = None
    ids: np.ndarray[Any, Any] = field(default_factory=lambda: np.zeros(0, np.uint32))
    source_id: int = 0

    def bind(self, table: Sequence[Instrument], index: int) -> None:
        """Say which id each instrument has in the run's table; `index` is the feed's place."""
        known = {i.name: n for n, i in enumerate(table)}
        self.ids = np.array([known[i.name] for i in self.instruments], np.uint32)
        self.source_id = source_of(index)
        if self.decoder is not None:
            self.decoder.bind(known, self.source_id)

    @property
    def by_reference(self) -> bool:
        """The rows of the tape are the feed's rows, ids included, so that the journal may name them instead of storing them."""
        return self.tape is not None and np.array_equal(self.ids, np.arange(len(self.ids)))

    @property
    def rows_expected(self) -> int | None:
        """How many records it holds, roughly where it is a run, whose own are not among them; None for a capture."""
        if self.tape is not None:
            return len(self.tape)
        if self.run is not None:
            return self.run[0].rows_total
        return self.decoder.rows if isinstance(self.decoder, SyntheticFeed) else None

    def windows(self, rows_max: int) -> Iterator[Rows]:
        """Successive windows of decoded rows; of a live feed also empty ones, which say that nothing came."""
        if self.by_reference:
            assert self.tape is not None
            yield self.tape.slots
            return
        live = self.decoder is not None and self.decoder.kind == "live"
        for rows in self._chunks(rows_max):
            if len(rows) or live:
                yield rows

    def _chunks(self, rows_max: int) -> Iterator[Rows]:
        if self.decoder is not None:
            yield from self.decoder.windows(rows_max)
        elif self.tape is not None:
            for start in range(0, len(self.tape.slots), rows_max):
                yield self._renumbered(copied(self.tape.slots[start : start + rows_max]))
        else:
            assert self.run is not None
            for _, rows in self.run[0].blocks():
                chosen = copied(rows, np.isin(rows["kind"], MARKET_KINDS))
                chosen["seq"] = chosen["ts_seq_ns"] = chosen["epoch"] = 0
                yield self._renumbered(chosen)

    def _renumbered(self, rows: Rows) -> Rows:
        whole = rows["instrument_id"] == NO_INSTRUMENT
        rows["instrument_id"] = np.where(whole, NO_INSTRUMENT, self.ids[np.where(whole, 0, rows["instrument_id"])])
        return rows

    def counted(self) -> dict[int, int]:
        """What the decoder dropped or refused, by reason."""
        return dict(self.decoder.counters) if self.decoder is not None else {}

    def offenders(self) -> dict[str, str]:
        """The first offender of each reason, in words."""
        found = self.decoder.first_offenders if self.decoder is not None else {}
        return {reasons.NAME[r]: text for r, text in found.items()}

    def describe(self) -> dict[str, Any]:
        """Where the rows come from, for the run's record."""
        out: dict[str, Any] = {"feed": self.spec, "kind": self.decoder.kind if self.decoder is not None else "run"}
        if self.tape is not None:
            out |= {"kind": "tape", "path": str(self.tape.path.resolve()), "content": self.tape.content, "rows": len(self.tape)}
        return out


def _synthetic(spec: str) -> OpenFeed:
    parts = spec[len(SYNTHETIC) :].split(":")
    try:
        rows, seed, count = (int(p.replace("_", "")) for p in (*parts, *("1", "3")[len(parts) - 1 :]))
        feed = SyntheticFeed(seed, rows, count)
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{spec!r} is not synthetic:ROWS[:SEED[:INSTRUMENTS]]: {error}") from error
    return OpenFeed(spec, tuple(feed.instruments), decoder=feed)


def _is_tape(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def open_one(
    spec: str, instruments: Sequence[Instrument], known: Sequence[Instrument] = (), *, crossed_quotes: str = KEEP
) -> OpenFeed:
    """Open a feed by what it is; `known` and `crossed_quotes` as `open_feed` takes them; raises FeedError in words a user understands."""
    if spec.startswith(SYNTHETIC):
        return _synthetic(spec)
    path = Path(spec)
    try:
        if _is_tape(path):
            tape = Tape.open(path)
            return OpenFeed(spec, tuple(tape.instruments), tape=tape)
        if (path / INPUT_LOG).is_dir():
            from engine.run_folder import open_run

            run = open_run(path)
            return OpenFeed(spec, run.instruments, run=(run.input_log(), run.instruments))
    except (TransportError, OSError) as error:
        raise NotAFeedError(f"{spec}: {error}") from error
    feed = open_feed(spec, instruments, known, read_map, crossed_quotes)
    return OpenFeed(spec, tuple(feed.instruments), decoder=feed)


def open_feeds(
    specs: Sequence[str], configured: Sequence[Instrument], crossed_quotes: str = KEEP
) -> tuple[list[OpenFeed], tuple[Instrument, ...]]:
    """Every feed and the run's instrument table: each feed's in order, a name once.

    A configured instrument replaces what a capture suggests, and what definitions state in one of the feeds replaces what the prices of
    another suggest; tapes, runs and the generator have rows on grids of their own.
    """
    if not specs:
        raise FeedError("no feed given")
    if len(specs) > FEEDS_MAX:
        raise FeedError(f"{len(specs)} feeds; a line takes at most {FEEDS_MAX}")
    feeds = [open_one(spec, configured, crossed_quotes=crossed_quotes) for spec in specs]
    stated = [i for feed in feeds if feed.decoder is not None for i in feed.decoder.defined]
    if stated:
        feeds = [
            feed if feed.decoder is None or feed.decoder.defined else open_one(feed.spec, configured, stated, crossed_quotes=crossed_quotes) for feed in feeds
        ]
    return bound(feeds)


def bound(feeds: list[OpenFeed]) -> tuple[list[OpenFeed], tuple[Instrument, ...]]:
    """The feeds, told their numbers and those of their instruments, and the table; raises ConfigError where two disagree."""
    table: dict[str, Instrument] = {}
    for feed in feeds:
        for instrument in feed.instruments:
            before = table.setdefault(instrument.name, instrument)
            if (before.tick, before.lot, before.multiplier) != (instrument.tick, instrument.lot, instrument.multiplier):
                raise ConfigError(
                    f"{instrument.name}: two feeds give it different ticks or lots; describe it in [[instrument]] of the configuration, "
                    "of a tape when it is imported"
                )
            if instrument.book == "l3":  # one feed has its orders, whatever the others have of it
                table[instrument.name] = msgspec.structs.replace(before, book="l3")
    for index, feed in enumerate(feeds):
        feed.bind(tuple(table.values()), index)
    return feeds, tuple(table.values())


assert REC.itemsize == 128
