"""Is what a run left behind as it was written: logs, tapes, blobs, and the hashes that `summary.json` states."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from engine.journaling import INPUT_LOG, decision_hash
from engine.loops import DECIDING
from engine.run_folder import Run, RunError
from transport import blobs
from transport.errors import TransportError
from transport.instruments import Instrument


@dataclass
class Evidence:
    """What was found; `instruments` are those of the blob, which its hash vouches for, None where that cannot be read."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    instruments: tuple[Instrument, ...] | None = None
    stated: dict[str, str] = field(default_factory=dict)  # hashes of summary.json


def check_evidence(run: Run) -> Evidence:
    """Read everything once; no fault raises."""
    found = Evidence()
    for tape in run.tapes:
        found.faults += [f"tape {damage}" for damage in tape.verify()]
    for feed, tape in zip(run.facts.feeds, run.tapes, strict=False):
        if feed.get("content") != tape.content:
            found.faults.append(f"tape {tape.path}: content {tape.content[:16]}…, the run read {str(feed.get('content'))[:16]}…")
    hashes = _check_logs(run, found)
    _check_blobs(run, found)
    _check_summary(run, hashes, found)
    return found


def _check_logs(run: Run, found: Evidence) -> dict[str, str]:
    """The digests of the logs that are whole."""
    hashes: dict[str, str] = {}
    for name in (INPUT_LOG, *DECIDING):
        try:
            log = run.input_log() if name == INPUT_LOG else run.log(name)
            damages = log.verify()
        except TransportError as error:
            found.faults.append(f"log {name}: {error}")
            continue
        found.faults += [f"log {name}: {damage}" for damage in damages]
        if log.segments and log.run_id != run.facts.run_id:
            found.faults.append(f"log {name}: of run {log.run_id}, run.json is of {run.facts.run_id}")
        if log.torn:
            found.notes.append(f"log {name}: {log.torn}")
        elif not log.closed:
            found.notes.append(f"log {name} was never closed: the run did not end")
        if not damages:
            hashes[name] = log.digest
    return hashes


def _check_blobs(run: Run, found: Evidence) -> None:
    facts = run.facts
    kept: dict[str, bytes] = {}
    for sha in (facts.config_sha, facts.instruments_sha):
        try:
            kept[sha] = blobs.get(run.folder / "blobs", sha)
        except TransportError as error:
            found.faults.append(str(error))
    table = kept.get(facts.instruments_sha)
    if table is None:
        return
    if table != msgspec.json.encode(facts.instruments):
        found.faults.append(f"run.json: its instruments are not those of the blob {facts.instruments_sha}")
    try:
        found.instruments = tuple(msgspec.json.decode(table, type=list[Instrument]))
    except msgspec.MsgspecError as error:
        found.faults.append(f"run.json: instruments_sha {facts.instruments_sha} is no instrument table: {error}")


def _check_summary(run: Run, hashes: dict[str, str], found: Evidence) -> None:
    try:
        found.stated = run.hashes()
    except RunError as error:
        found.faults.append(str(error))
        return
    if not found.stated:
        found.notes.append("the run has no summary: it did not end")
        return
    computed = {f"{name}_log_hash": value for name, value in hashes.items()}
    if all(name in hashes for name in DECIDING):
        computed["decision_log_hash"] = decision_hash(hashes)
    for name, value in computed.items():
        if found.stated.get(name) != value:
            found.faults.append(f"summary.json: {name} {found.stated.get(name)}, the log's is {value}")
