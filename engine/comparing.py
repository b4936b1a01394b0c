"""What `verify` has found, and rows made again beside those of a run's log: where they first differ, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.config import Config
from engine.errors import LineBroken, LineStopped
from engine.journaling import Rows
from engine.ring_loops import INPUT_SLOTS
from transport.log_reader import LogReader
from transport.records import BY_EXCHANGE, KIND_OF, NAME_OF, SLOT_BYTES

SEQ_MAX = 2**63 - 1


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


class Compared:
    """The rows made now beside those of the log of one stage; a log that was never closed may end early or late."""

    def __init__(self, log: LogReader, stage: str) -> None:
        self.stage = stage
        self.note = ""
        self._log = log
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
            return f"seq {r['seq']}, stage {self._stage_of(r)}: a {NAME_OF[int(r['kind'])]} row is made that the log does not have"
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
        return f"seq {r['seq']}, stage {self._stage_of(r)}: the log has a {NAME_OF[int(r['kind'])]} row that is not made"

    def _stage_of(self, r: Any) -> str:
        """Who made a row: the input log has the exchange's beside INGEST's own."""
        return "exchange" if self.stage == "ingest" and r["source_id"] == BY_EXCHANGE else self.stage

    def _words(self, was: Rows, now: Rows) -> str:
        head = f"seq {was[0]['seq']}, stage {self._stage_of(was[0])}, row {was[0]['row']}"
        if was[0]["part"]:
            head += f", part {was[0]['part']}"
        if was[0]["kind"] != now[0]["kind"]:
            return f"{head}: kind {NAME_OF.get(int(was[0]['kind']))} in the log, {NAME_OF.get(int(now[0]['kind']))} now"
        return f"{head} ({NAME_OF[int(was[0]['kind'])]}): {'; '.join(differences(was[0], now[0]))}"


def differences(was: Any, now: Any) -> list[str]:
    """Fields of two slots of one kind that differ, with both values."""
    record = KIND_OF.get(int(was["kind"]))
    names = record.__struct_fields__ if record else was.dtype.names
    out = [f"{n} {was[n]} in the log, {now[n]} now" for n in names if np.any(was[n] != now[n])]
    return out or ["bytes outside the kind's fields differ"]


def earliest(texts: Sequence[str | None]) -> str | None:
    """Of what `Compared` said, one text a stage in the order of the line, that of the least seq, of equal ones the first."""
    said = [text for text in texts if text]
    return min(said, key=lambda text: int(text.split(",")[0].removeprefix("seq ")), default=None)


def what_is_left(compared: Sequence[Compared], last_seq: int, config: Config, stopped: LineStopped | None) -> list[str]:
    """Rows of the logs that were not made by the end, in a run of `config` that `stopped` where it did then, if it did.

    INGEST and FEATURES, where it has a process of its own, may have been ahead of a strategy, nobody else; of a stage in which
    an assertion failed, every stage that has a process of its own.
    """
    staged = config.runtime.placement == "staged"
    if stopped is None:
        texts = [c.left(last_seq, at_end=True) for c in compared]
    elif staged and isinstance(stopped, LineBroken):
        texts = [c.left(stopped.seq - 1) for c in compared if c.stage != "ingest"]
    else:
        ahead = ("ingest", "features") if staged else ("ingest",)
        texts = [c.left(SEQ_MAX) for c in compared if c.stage not in ahead]
    return [text for text in texts if text]


def stopped_there_too(log: LogReader, config: Config, fault_seq: int) -> bool:
    """A fault stopped the line at the last input of a log that was never closed, as it did then.

    In processes INGEST was ahead of it by no more than a ring of inputs.
    """
    ahead_max = 0 if config.runtime.placement == "fused" else INPUT_SLOTS
    return not log.closed and 0 <= log.rows_total - 1 - fault_seq <= ahead_max
