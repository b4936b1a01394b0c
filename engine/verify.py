"""`tickline verify`: three verdicts about a run, each naming where.

    1  the evidence      logs, tapes, blobs and hashes are as they were written             segment, block, seq
    2  the program       sources, configuration, strategies, instruments are the run's      file or key, both values
    3  the decisions     re-executing the input log makes the same rows, byte for byte      seq, stage, field, both values

A wrong program does not stop the re-execution: it shows what the difference did. Damaged evidence does, where it is unreadable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.config import Config, deciding, dump, resolve
from engine.errors import ConfigError
from engine.evidence import Evidence, check_evidence
from engine.journaling import INPUT_LOG, MarketHash, Rows
from engine.line import Built, build_line
from engine.loops import DECIDING, FAULT, LOGS_FULL, MISSED_REPORT, NO_REPORT, OTHER_REPORT, SLICE_OVER, run_logged
from engine.run_folder import Environment, Run, environment, open_run
from engine.session import fault_text
from engine.summary import Tally
from handlers.ingest.sequencer import FROM_FEEDS
from handlers.signals.errors import StrategyError
from transport import blobs, compiled
from transport.errors import DamagedError, LayoutError, TransportError
from transport.records import (
    ACK, BY_EXCHANGE, BY_INGEST, COMMAND, FEED_BASE, FILL, INSTRUMENT, KIND_OF, NAME_OF, REJECT, SLOT_BYTES, START, TIMER, copied,
)  # fmt: skip

FROM_INGEST = 1 << START | 1 << INSTRUMENT | 1 << COMMAND | 1 << TIMER
FROM_EXCHANGE = 1 << ACK | 1 << REJECT | 1 << FILL
REPORTS = {
    NO_REPORT: "the log has a report that the exchange does not make",
    OTHER_REPORT: "the exchange makes another report",
    MISSED_REPORT: "the log lacks a report that the exchange makes",
}


@dataclass
class Verdicts:
    """Findings by verdict, in words; empty lists throughout mean that the run is proved."""

    evidence: list[str] = field(default_factory=list)
    program: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    inputs: int = 0

    @property
    def proved(self) -> bool:
        """True when no verdict has a finding."""
        return not (self.evidence or self.program or self.decisions)

    def to_dict(self) -> dict[str, Any]:
        """For --json."""
        return {
            "proved": self.proved, "inputs": self.inputs, "evidence": self.evidence, "program": self.program,
            "decisions": self.decisions, "notes": self.notes,
        }  # fmt: skip


def verify(folder: Path, progress: Callable[[str, int], None] = lambda what, n: None) -> Verdicts:
    """Verify a run; raises RunError for a folder that is none."""
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
    config, strategies = _check_program(run, found)
    if config is None or evidence.instruments is None:
        found.notes.append("nothing was re-executed: that needs the configuration and the instrument table")
        return found
    try:
        _re_execute(run, evidence, config, strategies, found, progress)
    except (DamagedError, LayoutError) as error:
        if not found.evidence:
            found.evidence.append(str(error))
        found.notes.append("re-execution stopped where the evidence is damaged")
    return found


def _check_program(run: Run, found: Verdicts) -> tuple[Config | None, dict[str, str]]:
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


class _Compared:
    """The decision rows made now beside those of the log of one stage; a log that was never closed may end early or late."""

    def __init__(self, run: Run, stage: str) -> None:
        self.stage = stage
        self.note = ""
        self._log = run.log(stage)
        self._at = 0

    def differs(self, made: Rows) -> str | None:
        """Where `made`, the next rows, first differ from the log; None when they do not."""
        total = self._log.rows_total
        wanted = min(len(made), total - self._at)
        logged = self._log.rows(self._at, wanted)
        a, b = (rows.view(np.uint8).reshape(wanted, SLOT_BYTES) for rows in (logged, made[:wanted]))
        bad = np.flatnonzero((a != b).any(axis=1))
        if len(bad):
            k = int(bad[0])
            return self._words(logged[k : k + 1], made[k : k + 1])
        self._at += wanted
        if wanted < len(made):
            r = made[wanted]
            if not self._log.closed:
                self.note = self.note or f"log {self.stage} ends before seq {r['seq']}: the run was cut off there"
                return None
            return f"seq {r['seq']}, stage {self.stage}: a {NAME_OF[int(r['kind'])]} row is made that the log does not have"
        return None

    def left(self, last_seq: int, at_end: bool = False) -> str | None:
        """A row of the log that was not made from the inputs up to `last_seq`, at the end from any; None when there is none."""
        if self._at >= self._log.rows_total:
            return None
        r = self._log.rows(self._at, 1)[0]
        if r["seq"] > last_seq:
            if not at_end:
                return None
            if not self._log.closed:
                rows = self._log.rows_total - self._at
                self.note = f"log {self.stage} has {rows} rows of inputs that were not yet journaled, from seq {r['seq']} on"
                return None
        return f"seq {r['seq']}, stage {self.stage}: the log has a {NAME_OF[int(r['kind'])]} row that is not made"

    def _words(self, was: Rows, now: Rows) -> str:
        head = f"seq {was[0]['seq']}, stage {self.stage}, row {was[0]['row']}"
        if was[0]["kind"] != now[0]["kind"]:
            return f"{head}: kind {NAME_OF.get(int(was[0]['kind']))} in the log, {NAME_OF.get(int(now[0]['kind']))} now"
        return f"{head} ({NAME_OF[int(was[0]['kind'])]}): {'; '.join(differences(was[0], now[0]))}"


def differences(was: Any, now: Any) -> list[str]:
    """Fields of two slots of one kind that differ, with both values."""
    record = KIND_OF.get(int(was["kind"]))
    names = record.__struct_fields__ if record else was.dtype.names
    out = [f"{n} {was[n]} in the log, {now[n]} now" for n in names if np.any(was[n] != now[n])]
    return out or ["bytes outside the kind's fields differ"]


def _pieces(run: Run) -> Iterator[Rows]:
    for _, rows in run.input_log().blocks():
        yield rows


def _re_execute(
    run: Run,
    evidence: Evidence,
    config: Config,
    strategies: dict[str, str],
    found: Verdicts,
    progress: Callable[[str, int], None],
) -> None:
    assert evidence.instruments is not None
    try:
        built = build_line(config, evidence.instruments, len(run.facts.feeds), run.facts.epoch, Path(run.facts.base))
    except (StrategyError, ConfigError) as error:
        found.program.append(str(error))
        return
    sources: dict[str, str] = {}
    for strategy in built.strategies:
        sources |= strategy.loaded.sources
    _compare("strategy file", strategies, sources, found.program)
    compared = [_Compared(run, name) for name in DECIDING]
    market = MarketHash([i.name for i in evidence.instruments])
    tally = Tally(evidence.instruments, [s.name for s in config.strategy], config.account.money_decimals)
    last_ns = 0
    for rows in _pieces(run):
        misplaced = _misplaced(rows, found.inputs, last_ns)
        if misplaced:
            found.evidence.append(f"log {INPUT_LOG}: {misplaced}")
            return
        last_ns = int(rows["ts_seq_ns"][-1])
        if found.inputs == 0:
            _check_start(run, rows[0], found)
        market.update(rows)
        tally.piece(rows)
        why = _run_piece(built, rows, compared, tally)
        found.inputs += len(rows)
        progress("re-executing", found.inputs)
        if why and not _stopped_there_too(run, built):
            found.decisions.append(why)
            return
        if why:
            found.notes.append(f"the run stopped here, and does so again: {why}")
    found.decisions += [text for text in (c.left(found.inputs - 1, at_end=True) for c in compared) if text]
    found.notes += [c.note for c in compared if c.note]
    if evidence.stated:
        _check_told(run, config, built, market, tally, found)


def _check_told(run: Run, config: Config, built: Built, market: MarketHash, tally: Tally, found: Verdicts) -> None:
    """What summary.json tells of the market and of the money is what the re-execution came to."""
    told, made = _flat(run.summary()), _flat(tally.counts() | tally.money_told(config.account, built.terms))
    told["market_hash"], made["market_hash"] = told.get("hashes.market_hash", "absent"), market.digest()
    found.evidence += [f"summary.json: {k} {told.get(k, 'absent')}, the log's is {v}" for k, v in made.items() if told.get(k) != v]


def _stopped_there_too(run: Run, built: Built) -> bool:
    """A strategy broke its contract at the last input of a log that was never closed, as it did then."""
    control, log = built.line.control[0], run.input_log()
    return bool(control["fault"]) and not log.closed and control["fault_seq"] == log.rows_total - 1


def _check_start(run: Run, start: Any, found: Verdicts) -> None:
    """The log's first record names the blobs that run.json does."""
    for name, sha in (("config_id", run.facts.config_sha), ("instruments_id", run.facts.instruments_sha)):
        if start[name] != blobs.short_id(sha):
            found.evidence.append(f"run.json: {name} {blobs.short_id(sha)} of {sha}, the log begins with {start[name]}")


def _misplaced(rows: Rows, first_seq: int, last_ns: int) -> str | None:
    """The first row that INGEST cannot have sequenced, in words: a gap in `seq`, time going back, a kind its source may not send."""
    source, kind = rows["source_id"], rows["kind"].astype(np.uint64)
    allowed = np.select(
        [source >= FEED_BASE, source == BY_EXCHANGE, source == BY_INGEST], [FROM_FEEDS, FROM_EXCHANGE, FROM_INGEST], 0
    ).astype(np.uint64)
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


def _run_piece(built: Built, rows: Rows, compared: list[_Compared], tally: Tally) -> str | None:
    """Re-execute one block; what diverged first, in words, or None."""
    at = 0
    while at < len(rows):
        at, why = (int(v) for v in run_logged(built.line, rows, at, len(rows)))
        differing = _compare_logs(built, compared, int(rows[0]["seq"]) + at - 1, tally)
        if differing:
            return differing
        if why == FAULT:
            return fault_text(built)
        if why in REPORTS:
            text = f"seq {rows[at]['seq']}, stage exchange: {REPORTS[why]}"
            if why == OTHER_REPORT:
                text += f" ({'; '.join(differences(rows[at], built.line.scratch.input[1]))})"
            return text
        assert why in (SLICE_OVER, LOGS_FULL)
    return None


def _compare_logs(built: Built, compared: list[_Compared], last_seq: int, tally: Tally) -> str | None:
    """What differs first, by seq, then by stage, among the rows made from the inputs up to `last_seq`."""
    counts = built.line.logs.counts
    first: tuple[int, str] | None = None
    for k, c in enumerate(compared):
        rows: Rows = getattr(built.line.logs, c.stage)[: int(counts[k])]
        tally.decisions(c.stage, rows)
        text = c.differs(rows) or c.left(last_seq)
        if text:
            seq = int(text.split(",")[0].removeprefix("seq "))
            if first is None or seq < first[0]:
                first = seq, text
    counts[:] = 0
    return first[1] if first else None

def feature_rows(run: Run) -> Iterator[Rows]:
    """Every row of FEATURES, bars and features, made again from the input log: a run keeps only their digests."""
    config = msgspec.structs.replace(run.config(), line=msgspec.structs.replace(run.config().line, log_features=True))
    built = build_line(config, run.facts.instruments, len(run.facts.feeds), run.facts.epoch, Path(run.facts.base))
    counts = built.line.logs.counts
    for rows in _pieces(run):
        at = 0
        while at < len(rows):
            at, why = (int(v) for v in run_logged(built.line, rows, at, len(rows)))
            if why not in (SLICE_OVER, LOGS_FULL):
                raise DamagedError(f"{run.folder}: re-execution diverges at seq {rows[at]['seq']}; run tickline verify")
            yield copied(built.line.logs.features[: int(counts[0])])
            counts[:] = 0
