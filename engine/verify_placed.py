"""`tickline verify RUN --placement split|staged`: what the feeds gave, run again in processes, makes the same logs.

    input log ── records of feeds, in their order ──► INGEST │ stages, exchange ──► other logs, compared row by row

Where re-execution on one thread takes every input from the log, here the records of feeds are all that is taken: timers,
commands and the exchange's reports are made again, and must come at the same seq with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from engine.comparing import Compared, Verdicts, earliest, stopped_there_too, what_is_left
from engine.config import Config, RuntimeConfig
from engine.errors import LineBroken, LineStopped
from engine.journaling import INPUT_LOG, Rows, RunJournal
from engine.line import Built, sequence_first_words
from engine.loops import DECIDING
from engine.observe.progress import Say
from engine.run_folder import Run
from engine.scratch import scratch_folder
from engine.summary import Tally
from transport import blobs
from transport.log_reader import LogReader
from transport.records import CANCEL_ALL, COMMAND, EVENT_END, FEED_BASE, FLATTEN, STATUS, copied, empty

STAGE_OF = {INPUT_LOG: "ingest"}  # whose log it is, where it is not named so


def run_again(
    run: Run, config: Config, built: Built, placement: str, tally: Tally, found: Verdicts, progress: Say
) -> bool:
    """Run on `placement` into a temporary folder and compare; whether that came to the log's end.

    `built` is a new line of one feed. Raises ConfigError, WorkerDied, SegmentError, StorageError, DamagedError.
    """
    if run.input_log().rows_total == 0:
        return True
    again = msgspec.structs.replace(config, runtime=RuntimeConfig(placement=placement))  # type: ignore[arg-type]
    with scratch_folder("verify") as folder:
        stopped = _run(run, again, built, placement, folder, progress)
        progress("comparing the logs", run.input_log().rows_total)
        return _compare(run, config, folder, stopped, tally, found)


def _run(run: Run, config: Config, built: Built, placement: str, folder: Path, progress: Say) -> LineStopped | None:
    """The run's feeds through `placement` into logs under `folder`; what stopped it, a strategy or a fault of ours, if it was."""
    from engine.supervisor import PlacedSession  # its rings and processes are loaded only by who asks for them

    facts = run.facts
    ids = blobs.short_id(facts.config_sha), blobs.short_id(facts.instruments_sha)
    journal = RunJournal(folder, facts.run_id, [i.name for i in built.instruments], None, facts.epoch, "write")
    feed = records_of_feeds(run.input_log())
    try:
        session = PlacedSession(
            placement, built, [feed], journal.put, 0.0, config, Path(facts.base), f"verify-{facts.run_id}", facts.epoch
        )
        session.open(lambda ns: sequence_first_words(built, config, ns, *ids))
        total = run.input_log().rows_total
        session.run(lambda inputs: progress("running again", inputs, total))
        journal.close()
    except LineStopped as stopped:
        journal.abandon()
        return stopped
    except BaseException:
        journal.abandon()
        raise
    return None


def records_of_feeds(log: LogReader) -> Iterator[Rows]:
    """The records of every feed, byte for byte, as one feed in the log's order: their sources need no telling apart.

    A log that was cut off may end with a timer that a record called which it does not have. One record more, later than all that
    is compared, stands for it, unless the feeds had ended already.
    """
    last_ns, ended = 0, False
    for _, rows in log.blocks():
        last_ns = int(rows["ts_seq_ns"][-1])
        ended = ended or bool(((rows["kind"] == COMMAND) & ((rows["action"] == CANCEL_ALL) | (rows["action"] == FLATTEN))).any())
        yield copied(rows, rows["source_id"] >= FEED_BASE)
    if not log.closed and not ended:
        further = empty(1)
        further["kind"], further["flags"], further["source_id"] = STATUS, EVENT_END, FEED_BASE
        further["ts_recv_ns"] = last_ns
        yield further


def _compare(
    run: Run, config: Config, folder: Path, stopped: LineStopped | None, tally: Tally, found: Verdicts
) -> bool:
    """Hold the logs under `folder` to the run's, up to its last journaled input; whether they go that far."""
    log = run.input_log()
    logs = {INPUT_LOG: log, **{name: run.log(name) for name in DECIDING}}
    compared = [Compared(mine, STAGE_OF.get(name, name)) for name, mine in logs.items()]
    made = {name: LogReader(folder, name) for name in logs}
    found.inputs = min(log.rows_total, made[INPUT_LOG].rows_total)
    if stopped is not None and stopped.seq >= log.rows_total:
        stopped = None  # later than the log goes it is no matter
    if stopped is not None:
        found.inputs = stopped.seq + 1
    ends = [log.rows_total, *[found.inputs] * len(DECIDING)]
    texts = [_differs(c, made[name], end, tally) for c, name, end in zip(compared, logs, ends, strict=True)]
    if stopped is not None and not stopped_there_too(log, config, stopped.seq):
        texts.append(f"seq {stopped.seq}, {'the line' if isinstance(stopped, LineBroken) else 'stage signals'}: {stopped}")
    first = earliest(texts)
    if first:
        found.decisions.append(first)
        return False
    if stopped is not None:
        found.notes.append(f"the run stopped here, and does so again: {stopped}")
    found.decisions += what_is_left(compared, log.rows_total - 1, config, stopped)
    found.notes += [c.note for c in compared if c.note]
    return True


def _differs(compared: Compared, made: LogReader, inputs: int, tally: Tally) -> str | None:
    """Where the rows of `made` that are of the first `inputs` inputs first differ from the run's log."""
    for _, rows in made.blocks():
        mine = rows[: int(np.searchsorted(rows["seq"], inputs))]
        if compared.stage in DECIDING:
            tally.decisions(compared.stage, mine)
        text = compared.differs(mine)
        if text or len(mine) < len(rows):
            return text
    return None
