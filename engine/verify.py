"""`tickline verify`: three verdicts about a run, each naming where.

    1  the evidence      logs, tapes, blobs and hashes are as they were written             segment, block, seq
    2  the program       sources, configuration, strategies, instruments are the run's      file or key, both values
    3  the decisions     re-executing the input log makes the same rows, byte for byte      seq, stage, field, both values

The third is reached on this thread, or by running the feeds' records again in processes (`engine.verify_placed`). A wrong program does not stop the re-execution: it shows what the difference did. Damaged evidence does, where it is unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.comparing import Compared, Verdicts, differences, earliest, stopped_there_too, what_is_left
from engine.config import Config, deciding, resolve
from engine.dumped import dump
from engine.errors import ConfigError, LineStopped
from engine.evidence import Evidence, check_evidence
from engine.journaling import INPUT_LOG, MarketHash, Rows
from engine.line import Built, build_line
from engine.loops import DECIDING, FAULT, LOGS_FULL, MISSED_REPORT, NO_REPORT, OTHER_REPORT, SLICE_OVER, run_logged
from engine.observe.progress import COMPILING, Say, silent
from engine.run_folder import Environment, Run, environment, open_run
from engine.session import BUGS, broken, standstill, strategy_fault
from engine.summary import Tally
from engine.verify_placed import run_again
from engine.watchdog import Inside, run_watched
from handlers.domain import edges
from handlers.ingest.sequencer import first_refused
from handlers.signals.errors import StrategyError
from transport import blobs, compiled
from transport.errors import DamagedError, LayoutError, TransportError
from transport.records import FEED_BASE, NAME_OF, copied, empty

PLACEMENTS = ("fused", "split", "staged")
REPORTS = {
    NO_REPORT: "the log has a report that the exchange does not make",
    OTHER_REPORT: "the exchange makes another report",
    MISSED_REPORT: "the log lacks a report that the exchange makes",
}


def verify(folder: Path, progress: Say = silent, placement: str = "fused") -> Verdicts:
    """Verify a run, its decisions on `placement`: fused re-executes the log here, the others run its feeds again in processes.

    Raises RunError for a folder that is none, ConfigError for no placement, WorkerDied where a step does not return or a
    process ended; with processes also StorageError.
    """
    if placement not in PLACEMENTS:
        raise ConfigError(f"placement {placement!r} is not one of {', '.join(PLACEMENTS)}")
    found = Verdicts()
    try:
        run = open_run(folder)
    except TransportError as error:
        found.evidence.append(str(error))
        return found
    progress("checking the evidence", 0)
    evidence = check_evidence(run)
    found.evidence += evidence.faults
    found.notes += evidence.notes
    progress("comparing the program", 0)
    config, strategies = _check_program(run, evidence, found)
    if config is None or evidence.instruments is None:
        found.notes.append("nothing was re-executed: that needs the configuration and the instrument table")
        return found
    try:
        _check_decisions(run, evidence, config, strategies, placement, found, progress)
    except (DamagedError, LayoutError) as error:
        if not found.evidence:
            found.evidence.append(str(error))
        found.notes.append("re-execution stopped where the evidence is damaged")
    return found


def _check_program(run: Run, evidence: Evidence, found: Verdicts) -> tuple[Config | None, dict[str, str]]:
    """Compare what would run now with what ran; returns the configuration to re-execute with, and the strategies' files."""
    try:
        config = run.config()
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        found.program.append(f"config.toml: {error}")
        return None, {}
    _compare_config(run, config, found)
    now = environment({})
    try:
        then = msgspec.json.decode((run.folder / "environment.json").read_bytes(), type=Environment)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        found.program.append(f"environment.json cannot be read: {error}")
        return config, {}
    if then.code_hash != compiled.digest_of({**then.sources, **then.strategies}):
        found.evidence.append("environment.json: its code_hash is not that of the sources it lists")
    stated = run.summary().get("code_hash") if evidence.stated else then.code_hash
    if stated != then.code_hash:
        found.evidence.append(f"summary.json: code_hash {stated}, environment.json has {then.code_hash}")
    _compare("source", then.sources, now["sources"], found.program)
    for key, was in then.toolchain.items():
        value = now["toolchain"].get(key)
        if value != was:  # another CPU or LLVM must give the same bits: not a fault, but worth knowing
            (found.program if key == "layout" else found.notes).append(f"toolchain {key}: {was} in the run, {value} now")
    return config, then.strategies


def _compare_config(run: Run, config: Config, found: Verdicts) -> None:
    try:
        text = blobs.get(run.folder / "blobs", run.facts.config_sha).decode()
    except TransportError:
        return  # told with the evidence
    if dump(deciding(config)) == text:
        return
    temporary = run.folder / "blobs" / run.facts.config_sha
    was = _flat(resolve(temporary)[0])
    now = _flat(deciding(config))
    _compare("configuration", was, now, found.program)


def _flat(tree: Any) -> dict[str, str]:
    """The leaves of nested mappings and lists by their dotted path."""
    out: dict[str, str] = {}

    def walk(value: Any, at: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{at}.{key}" if at else str(key))
        elif isinstance(value, list | tuple):
            for n, inner in enumerate(value):
                walk(inner, f"{at}.{n}")
        else:
            out[at] = str(value)

    walk(msgspec.to_builtins(tree), "")
    return out


def _compare(what: str, was: dict[str, str], now: dict[str, str], out: list[str]) -> None:
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            out.append(f"{what} {key}: {was.get(key, 'absent')} in the run, {now.get(key, 'absent')} now")


def _pieces(run: Run) -> Iterator[Rows]:
    for _, rows in run.input_log().blocks():
        yield rows


def _check_decisions(
    run: Run,
    evidence: Evidence,
    config: Config,
    strategies: dict[str, str],
    placement: str,
    found: Verdicts,
    progress: Say,
) -> None:
    """The third verdict; what the input log tells that no run can have sequenced is found on the way."""
    assert evidence.instruments is not None
    instruments = evidence.instruments
    sources: dict[str, str] = {}
    market = MarketHash([i.name for i in instruments])
    tally = Tally(instruments, [s.name for s in config.strategy], config.account.money_decimals)
    inputs = _inputs(run, market, tally, found)
    try:
        built = build_line(config, instruments, 1, run.facts.epoch, Path(run.facts.base))  # feeds need no telling apart
        for strategy in built.strategies:
            sources |= strategy.loaded.sources
        _compare("strategy file", strategies, sources, found.program)
        if placement == "fused":
            whole = _re_execute_watched(run, config, built, inputs, tally, found, progress)
        else:
            looked_at = sum(len(rows) for rows in inputs)  # all of it, before processes are started on it
            whole = looked_at == run.input_log().rows_total
            whole = whole and run_again(run, config, built, placement, tally, found, progress)
    except (StrategyError, ConfigError) as error:
        found.program.append(str(error))
        return
    if whole and evidence.stated:
        _check_told(run, config, built, market, tally, found)


def _inputs(run: Run, market: MarketHash, tally: Tally, found: Verdicts) -> Iterator[Rows]:
    """The input log block by block, folded into `market` and `tally`; ends before a row that INGEST cannot have sequenced."""
    first_seq = last_ns = 0
    for rows in _pieces(run):
        misplaced = _misplaced(rows, first_seq, last_ns) or _refused(rows, len(market.names))
        if misplaced:
            found.evidence.append(f"log {INPUT_LOG}: {misplaced}")
            return
        if first_seq == 0:
            _check_start(run, rows[0], found)
        first_seq, last_ns = first_seq + len(rows), int(rows["ts_seq_ns"][-1])
        market.update(rows)
        tally.piece(rows)
        yield rows


def _load_kernels() -> None:
    """Compile the loop, or load it from the disk cache, before it is watched: a compile takes longer than any input may."""
    with compiled.interruptible():
        run_logged(build_line(Config(), (), 0, 1, Path()).line, empty(0), 0, 0)


def _re_execute_watched(
    run: Run, config: Config, built: Built, inputs: Iterator[Rows], tally: Tally, found: Verdicts, progress: Say
) -> bool:
    """`_re_execute` on a thread of its own: what made the run hang does so again. Raises WorkerDied then."""
    progress("loading kernels" if compiled.is_compiled(run_logged) else COMPILING, 0)
    _load_kernels()
    inside = Inside()
    r = built.line.scratch.input

    def work(check: Callable[[], None]) -> bool:
        def told(what: str, done: int, total: int | None = None) -> None:
            check()
            progress(what, done, total)

        return _re_execute(run, config, built, inputs, tally, found, told, inside)

    return run_watched(work, inside, lambda: int(r[0]["seq"]), lambda seconds: standstill(built, seconds))


def _re_execute(
    run: Run,
    config: Config,
    built: Built,
    inputs: Iterator[Rows],
    tally: Tally,
    found: Verdicts,
    progress: Say,
    inside: Inside,
) -> bool:
    """Re-execute on this thread, each input as the log has it; whether that came to the log's end."""
    compared = [Compared(run.log(name), name) for name in DECIDING]
    total = run.input_log().rows_total
    stopped: LineStopped | None = None
    for rows in inputs:
        ended = _run_piece(built, rows, compared, tally, inside)
        found.inputs += len(rows)
        progress("re-executing", found.inputs, total)
        if isinstance(ended, LineStopped) and stopped_there_too(run.input_log(), config, ended.seq):
            stopped, found.inputs = ended, ended.seq + 1
            found.notes.append(f"the run stopped here, and does so again: {ended}")
            break
        if ended is not None:
            found.decisions.append(str(ended))
            return False
    else:
        if found.inputs < total:
            return False
    found.decisions += what_is_left(compared, found.inputs - 1, config, stopped)
    found.notes += [c.note for c in compared if c.note]
    return True


def _check_told(run: Run, config: Config, built: Built, market: MarketHash, tally: Tally, found: Verdicts) -> None:
    """What summary.json tells of the market and of the money is what the re-execution came to."""
    summary, parts = run.summary(), tally.counts() | tally.money_told(config.account, built.terms)
    told, made = _flat({name: summary.get(name) for name in parts}), _flat(parts)
    told["market_hash"], made["market_hash"] = run.hashes().get("market_hash", "absent"), market.digest()
    for key in (*made, *sorted(told.keys() - made.keys())):
        if told.get(key) != made.get(key):
            found.evidence.append(f"summary.json: {key} {told.get(key, 'absent')}, the log's is {made.get(key, 'absent')}")


def _check_start(run: Run, start: Any, found: Verdicts) -> None:
    """The log's first record is of the epoch and names the blobs that run.json does."""
    if start["epoch"] != run.facts.epoch:
        found.evidence.append(f"run.json: epoch {run.facts.epoch}, the log begins with {start['epoch']}")
    for name, sha in (("config_id", run.facts.config_sha), ("instruments_id", run.facts.instruments_sha)):
        if start[name] != blobs.short_id(sha):
            found.evidence.append(f"run.json: {name} {blobs.short_id(sha)} of {sha}, the log begins with {start[name]}")


def _misplaced(rows: Rows, first_seq: int, last_ns: int) -> str | None:
    """The first row that INGEST cannot have sequenced, in words: a gap in `seq`, time going back, a kind its source may not send."""
    source, kind = rows["source_id"], rows["kind"].astype(np.uint64)
    allowed = edges.KINDS[edges.INPUT, np.minimum(source, FEED_BASE)]
    forged = (kind > 63) | ((allowed >> np.minimum(kind, 63)) & np.uint64(1) == 0)
    gap = rows["seq"] != np.arange(first_seq, first_seq + len(rows))
    times = rows["ts_seq_ns"]
    back = times < np.append(last_ns, times[:-1])
    bad = np.flatnonzero(forged | gap | back)
    if not len(bad):
        return None
    r = rows[int(bad[0])]
    if gap[bad[0]]:
        return f"seq {r['seq']} stands where seq {first_seq + bad[0]} belongs"
    what = "goes back in time" if back[bad[0]] else f"may not come from source {r['source_id']}"
    return f"seq {r['seq']}: a {NAME_OF.get(int(r['kind']), r['kind'])} record {what}"


def _refused(rows: Rows, instruments: int) -> str | None:
    """The first row whose content INGEST does not let in, in words: everything behind it indexes without looking again."""
    at = int(first_refused(rows, instruments))
    if at < 0:
        return None
    r = rows[at]
    return f"seq {r['seq']}: a {NAME_OF.get(int(r['kind']), r['kind'])} record of instrument {r['instrument_id']} holds what INGEST refuses"


def _run_on(built: Built, rows: Rows, at: int, inside: Inside) -> tuple[int, int, LineStopped | None]:
    """`run_logged` from rows[at] on: (next row, why it came back, with FAULT what stopped the line at that row)."""
    try:
        with inside:
            at, why = (int(v) for v in run_logged(built.line, rows, at, len(rows)))
    except BUGS as bug:
        seq = int(built.line.scratch.input[0]["seq"])
        return seq - int(rows[0]["seq"]), FAULT, broken(bug, seq)
    return at, why, strategy_fault(built) if why == FAULT else None


def _run_piece(built: Built, rows: Rows, compared: list[Compared], tally: Tally, inside: Inside) -> str | LineStopped | None:
    """Re-execute one block, up to a fault in it; what diverged first, in words, or the fault, or None."""
    at = 0
    while at < len(rows):
        at, why, stopped = _run_on(built, rows, at, inside)
        differing = _compare_logs(built, compared, int(rows[0]["seq"]) + at - 1, tally)
        if differing:
            return differing
        if stopped:
            return stopped
        if why in REPORTS:
            text = f"seq {rows[at]['seq']}, stage exchange: {REPORTS[why]}"
            if why == OTHER_REPORT:
                text += f" ({'; '.join(differences(rows[at], built.line.scratch.input[1]))})"
            return text
        assert why in (SLICE_OVER, LOGS_FULL)
    return None


def _compare_logs(built: Built, compared: list[Compared], last_seq: int, tally: Tally) -> str | None:
    """What differs first, by seq, then by stage, among the rows made from the inputs up to `last_seq`."""
    counts = built.line.logs.counts
    texts = []
    for k, c in enumerate(compared):
        rows: Rows = getattr(built.line.logs, c.stage)[: int(counts[k])]
        tally.decisions(c.stage, rows)
        texts.append(c.differs(rows) or c.left(last_seq))
    counts[:] = 0
    return earliest(texts)


def feature_rows(run: Run) -> Iterator[Rows]:
    """Every row of FEATURES, bars and features, made again from the input log: a run keeps only their digests."""
    config = msgspec.structs.replace(run.config(), line=msgspec.structs.replace(run.config().line, log_features=True))
    built = build_line(config, run.facts.instruments, len(run.facts.feeds), run.facts.epoch, Path(run.facts.base))
    counts = built.line.logs.counts
    for rows in _pieces(run):
        at = 0
        while at < len(rows):
            at, why, _ = _run_on(built, rows, at, Inside())
            if why not in (SLICE_OVER, LOGS_FULL, FAULT):
                raise DamagedError(f"{run.folder}: re-execution diverges at seq {rows[at]['seq']}; run tickline verify")
            yield copied(built.line.logs.features[: int(counts[0])])
            counts[:] = 0
            if why == FAULT:  # the run stopped there
                return
