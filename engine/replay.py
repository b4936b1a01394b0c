"""`tickline replay`: feeds through the whole line into a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.cores import check_cores, pinned
from engine.dumped import values_told
from engine.errors import LineBroken
from engine.feeds import OpenFeed, open_feeds
from engine.journaling import Batch, RunJournal
from engine.line import Built, build_line, load_kernels, sequence_first_words
from engine.loops import run_fused
from engine.observe.counters import Counters
from engine.observe.log import get_log
from engine.observe.progress import COMPILING, Say, silent
from engine.quality import gates_of, load_checks, reports_of, windows_of
from engine.report import write_report
from engine.run_folder import begin_run, environment, new_folder, write_json
from engine.session import Session, standstill, terminable
from engine.summary import Tally, latency_table
from engine.watchdog import Stopped, run_watched
from handlers.domain import reasons
from handlers.ingest.quality import Gate
from transport.clock import cycles_per_ns
from transport.compiled import is_compiled
from transport.errors import SegmentError
from transport.instruments import Instrument
from transport.records import FILL
from transport.segment import as_word, sweep

FAULT_FILE = "fault.txt"  # where in the program an assertion failed
NewSession = Callable[[Built, list[Any], Callable[[Batch], None], str], Session]  # (line, windows of its feeds, taker, run's name)


@dataclass
class Replayed:
    """A run that has ended: its folder and summary.json."""

    folder: Path
    summary: dict[str, Any]
    built: Built
    feeds: list[OpenFeed] = field(default_factory=list)


def replay(
    specs: Sequence[str],
    config: Config,
    origins: Mapping[str, str],
    out: Path | None,
    *,
    base: Path = Path(),
    speed: float = 0.0,
    progress: Say = silent,
    title: str = "",
) -> Replayed:
    """Replay `specs` under `config` into `out`; `speed` 0 is as fast as it goes.

    Raises FeedError, ConfigError, StrategyError, StorageError, LineStopped, LineBroken, WorkerDied; what was journaled until then
    stays readable.
    """
    progress("opening feeds", 0)
    feeds, instruments = open_feeds(specs, config.instrument, config.feeds.crossed_quotes)

    def new_session(built: Built, windows: list[Any], take: Callable[[Batch], None], name: str) -> Session:
        if config.runtime.placement == "fused":
            return Session(built, windows, take, speed, config.line.timer_origin_ns)
        from engine.supervisor import PlacedSession

        return PlacedSession(config.runtime.placement, built, windows, take, speed, config, base, name, 1)

    with terminable():
        return run_feeds(feeds, instruments, config, origins, out, new_session, base=base, progress=progress, title=title)


def run_feeds(
    feeds: list[OpenFeed],
    instruments: tuple[Instrument, ...],
    config: Config,
    origins: Mapping[str, str],
    out: Path | None,
    new_session: NewSession,
    *,
    base: Path = Path(),
    progress: Say = silent,
    title: str = "",
) -> Replayed:
    """Run opened feeds through the whole line into `out`, journaled; raises what `replay` does."""
    fused_cores = _fused_cores(config)
    gates = _gates(config, feeds, instruments, progress)
    by_reference = all(f.by_reference for f in feeds) and not config.journal.embed and not gates  # what they change is no row of a tape
    progress("loading kernels" if is_compiled(run_fused) else COMPILING, 0)
    load_kernels()
    built = build_line(config, instruments, len(feeds), 1, base)
    folder = new_folder(out)
    sources = {path: digest for strategy in built.strategies for path, digest in strategy.loaded.sources.items()}
    described = [f.describe() for f in feeds]
    facts, config_id, instruments_id = begin_run(
        folder, config, origins, instruments, described, sources, base, by_reference
    )
    tally = Tally(instruments, [s.name for s in config.strategy], config.account.money_decimals)
    tapes = [f.tape.slots for f in feeds if f.tape is not None] if by_reference else None
    names = [i.name for i in instruments]
    journal = RunJournal(folder, facts.run_id, names, tapes, facts.epoch, config.journal.durability, tally, fused_cores[1])
    windows = windows_of(feeds, gates, config.runtime.chunk_rows)
    try:
        session = new_session(built, windows, journal.put, folder.name)
        began = time.perf_counter()
        session.open(lambda ns: sequence_first_words(built, config, ns, config_id, instruments_id))
        expected = _expected(feeds)
        with _published(folder.name, built, tally, journal, lambda n: progress(session.doing, n, expected)) as told:
            _run_fused(session, fused_cores[0], told) if config.runtime.placement == "fused" else session.run(told)
        took = {"seconds": time.perf_counter() - began - session.starting_s, "seconds_starting": session.starting_s}
        progress("closing the logs", int(built.line.sequencer.head[0]["next_seq"]))
        hashes = journal.close()
    except LineBroken as fault:
        journal.abandon()
        raise _kept(fault, folder) from fault
    except BaseException:
        journal.abandon()
        raise
    took["seconds_with_journal"] = time.perf_counter() - began - session.starting_s
    summary = _summary(config, tally, built, feeds, hashes, took, sources, title)
    summary["troubles"] = session.troubles()
    summary |= {"quality": reports_of(gates, feeds)} if gates else {}
    if config.account.at_end == "flatten":
        summary["troubles"] |= tally.not_flattened()
    _finish(folder, config, origins, summary, tally, built)
    return Replayed(folder, summary, built, feeds)


def _gates(config: Config, feeds: Sequence[OpenFeed], instruments: Sequence[Instrument], progress: Say) -> list[Gate]:
    """The checks of every feed's data, or none where they are not asked for."""
    if not config.quality.enabled:
        return []
    load_checks(progress)
    return gates_of(config.quality, feeds, instruments)


def _expected(feeds: Sequence[OpenFeed]) -> int | None:
    """Records that the feeds hold, where all of them can say."""
    counts = [f.rows_expected for f in feeds]
    return sum(n for n in counts if n is not None) if None not in counts else None


def _fused_cores(config: Config) -> tuple[int | None, int | None]:
    """Cores of a fused line's thread and of the journal's, None for any; raises ConfigError for one that is not ours."""
    check_cores(config.runtime.cores, os.sched_getaffinity(0))
    if config.runtime.placement != "fused":
        return None, None
    line, journal, *_ = (*config.runtime.cores, None, None)
    return line, journal


def _run_fused(session: Session, core: int | None, told: Callable[[int], None]) -> None:
    """Run the line on a thread of its own; when that does not come back, journal what it had sequenced and raise WorkerDied."""
    line = session.built.line

    def work(check: Callable[[], None]) -> None:
        def progress(inputs: int) -> None:
            check()
            told(inputs)

        with pinned(core):
            try:
                session.run(progress)
            except Stopped:
                session.hand_over_rest()
                raise

    try:
        run_watched(work, session.inside, lambda: int(line.sequencer.head[0]["next_seq"]), lambda s: standstill(session.built, s))
    except BaseException:
        if session.inside:
            session.take_over()
        raise


def _kept(fault: LineBroken, folder: Path) -> LineBroken:
    """The fault with where it is told at length, in the run's folder, as far as the disk takes it."""
    path = folder / FAULT_FILE
    with suppress(OSError):
        path.write_text(f"{fault}\n\n{fault.trace}")
        return LineBroken(f"{fault}\nplease report it with {path}", fault.seq, fault.trace)
    return fault


@contextmanager
def _published(
    run: str, built: Built, tally: Tally, journal: RunJournal, progress: Callable[[int], None]
) -> Iterator[Callable[[int], None]]:
    """What the session tells its progress: `progress`, and the run's counters for other processes to see, where there is room."""
    try:
        sweep()
        counters = Counters.create(as_word(run))
    except (SegmentError, OSError) as error:
        get_log("replay").warning("counters are not published", why=str(error))
        yield progress
        return
    head = built.line.sequencer.head[0]

    def told(inputs: int) -> None:
        progress(inputs)
        counters.store({
            "inputs": inputs, "line_ns": int(head["ts_seq_ns"]), "refused": int(head["refused"]), "journaled": tally.inputs,
            "waiting": journal.waiting, "orders": tally.orders, "fills": tally.kinds[FILL], "rejects": tally.rejected,
        })  # fmt: skip

    with counters:
        yield told


def _summary(
    config: Config,
    tally: Tally,
    built: Built,
    feeds: Sequence[OpenFeed],
    hashes: dict[str, str],
    took: Mapping[str, float],
    sources: Mapping[str, str],
    title: str,
) -> dict[str, Any]:
    counts = tally.counts()
    refused: dict[int, int] = {r: int(n) for r, n in enumerate(built.line.sequencer.counters) if n}
    for feed in feeds:
        for reason, n in feed.counted().items():
            refused[reason] = refused.get(reason, 0) + n
    latency, _ = latency_table(built.line.histograms, cycles_per_ns())
    made = environment(sources)
    return {
        "title": title or " + ".join(f.spec for f in feeds),
        **counts,
        **{name: round(seconds, 6) for name, seconds in took.items()},
        "events_per_second": round(counts["inputs"] / took["seconds"]) if took["seconds"] else 0,
        "ingest": {reasons.NAME[r]: n for r, n in sorted(refused.items())},
        "first_offenders": {f.spec: f.offenders() for f in feeds if f.offenders()},
        **tally.money_told(config.account, built.terms),
        "latency": latency,
        "latency_sampled_every": config.line.latency_sample,
        "hashes": hashes,
        "code_hash": made["code_hash"],
        "placement": config.runtime.placement,
        "python_strategies": {s.name: s.loaded.python for s in built.strategies if s.loaded.python},
        "machine": {k: str(v) for k, v in made["machine"].items()},
    }


def _finish(
    folder: Path, config: Config, origins: Mapping[str, str], summary: dict[str, Any], tally: Tally, built: Built
) -> None:
    series = tally.series(config.account.cash)
    _, series["latency"] = latency_table(built.line.histograms, cycles_per_ns())
    write_report(folder / "report.html", {**summary, "configuration": values_told(config, origins)}, series)
    write_json(folder / "summary.json", summary, config.journal.durability == "fsync")
