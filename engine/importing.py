"""`tickline import`: feeds, decoded and merged once, as a tape that every later replay maps into memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.feed_loops import merge_rows
from engine.feeds import OpenFeed, open_feeds
from engine.journaling import Rows
from engine.observe.progress import Say, silent
from engine.quality import windows_of
from engine.session import Intake
from handlers.domain import reasons
from handlers.domain.queue import new_queue
from handlers.ingest.quality import Gate
from handlers.ingest.sequencer import Sequencer, new_sequencer, open_window
from handlers.ingest.lean.rows import KEEP
from transport.instruments import Instrument
from transport.records import empty
from transport.tape import TapeWriter, source_facts

CHUNK_ROWS = 1 << 16


def _refill(s: Sequencer, intakes: Sequence[Intake]) -> None:
    for number, intake in enumerate(intakes):
        w = s.windows[number]
        if w["at"] == w["rows"] and not w["final"]:
            open_window(s, number, *intake.turn())


def merged(
    feeds: Sequence[OpenFeed], instruments: Sequence[Instrument], rows_max: int, gates: Sequence[Gate] = ()
) -> tuple[Any, Sequencer]:
    """(iterator of merged chunks, sequencer whose counters say what was refused); `gates`: the feeds' checks, or none."""
    s = new_sequencer(len(feeds), len(instruments), 0, 0, False)
    reports = new_queue(1)

    def chunks() -> Any:
        intakes = [Intake(windows) for windows in windows_of(feeds, gates, rows_max)]
        for number, intake in enumerate(intakes):
            intake.begin()
            if intake.ahead is None:
                intake.ahead = empty(0)
            open_window(s, number, *intake.turn())
        out: Rows = empty(CHUNK_ROWS)
        while True:
            n, wants = merge_rows(s, reports, out)
            if n:
                yield out[:n]
            if wants:
                _refill(s, intakes)
            elif not n:
                return

    return chunks(), s


def import_feeds(
    specs: Sequence[str],
    configured: Sequence[Instrument],
    out: Path,
    progress: Say = silent,
    crossed_quotes: str = KEEP,
) -> dict[str, Any]:
    """Write the tape `out`; `crossed_quotes` as `open_feed` has it. Returns what went in. Raises FeedError, ConfigError, StorageError."""
    feeds, instruments = open_feeds(specs, configured, crossed_quotes)
    files = [p for f in feeds if f.decoder is not None for p in getattr(f.decoder, "paths", ())]
    with TapeWriter(out, instruments, {"feeds": list(specs), "sources": source_facts(files)}) as tape:
        chunks, s = merged(feeds, instruments, CHUNK_ROWS)
        for rows in chunks:
            tape.append(rows)
            progress("importing", tape.rows)
    refused = {r: int(n) for r, n in enumerate(s.counters) if n}
    for feed in feeds:
        for reason, n in feed.counted().items():
            refused[reason] = refused.get(reason, 0) + n
    return {
        "tape": str(out), "rows": tape.rows, "instruments": [i.name for i in instruments],
        "refused": {reasons.NAME[r]: n for r, n in sorted(refused.items())},
    }  # fmt: skip
