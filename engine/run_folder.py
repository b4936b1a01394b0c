"""A run's folder: what is in it, written when it starts and read when it is verified, exported or replayed.

    RUN/input, features, signals, risk, orders   logs
    RUN/config.toml                              configuration as resolved, each value's origin in a comment
    RUN/environment.json                         code hash file by file, strategies' files, toolchain, machine
    RUN/run.json                                 run id, epoch, feeds, instruments, ids of the blobs
    RUN/blobs                                    what of the configuration decides, and the instrument table, under their hashes
    RUN/summary.json, report.html                what it came to; absent while the run goes on or when it did not end
    RUN/fault.txt                                where in the engine an assertion failed; only of a run that one stopped
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import msgspec

from engine.config import Config, deciding, resolve
from engine.dumped import dump
from engine.errors import EngineError
from engine.journaling import INPUT_LOG
from transport import blobs, compiled
from transport.disk import sync_folder, write_whole
from transport.instruments import Instrument
from transport.journal import LogReader
from transport.tape import Tape


class RunError(EngineError):
    """A folder is no run, or one that cannot be used as asked."""


Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class RunFacts(msgspec.Struct):
    """run.json."""

    run_id: str
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**15 - 1)]  # so that an order id is above zero
    base: str  # folder that strategies' paths start from
    feeds: list[dict[str, str | int]]
    instruments: list[Instrument]
    config_sha: Sha256
    instruments_sha: Sha256
    by_reference: bool


class Environment(msgspec.Struct):
    """What `verify` reads of environment.json."""

    code_hash: str
    sources: dict[str, str]
    strategies: dict[str, str]
    toolchain: dict[str, str]


@dataclass
class Run:
    """A run opened for reading."""

    folder: Path
    facts: RunFacts
    tapes: list[Tape]

    @property
    def instruments(self) -> tuple[Instrument, ...]:
        """The run's table, in the order of ids."""
        return tuple(self.facts.instruments)

    def input_log(self) -> LogReader:
        """The input log, its tapes mapped."""
        return LogReader(self.folder, INPUT_LOG, [t.rows for t in self.tapes])

    def log(self, name: str) -> LogReader:
        """A stage's decision log."""
        return LogReader(self.folder, name)

    def config(self) -> Config:
        """The configuration as config.toml has it now."""
        return resolve(self.folder / "config.toml")[0]

    def summary(self) -> dict[str, Any]:
        """summary.json, or {} for a run that did not end; raises RunError for one that cannot be read."""
        path = self.folder / "summary.json"
        if not path.exists():
            return {}
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
            raise RunError(f"summary.json cannot be read: {error}") from error

    def hashes(self) -> dict[str, str]:
        """The hashes that summary.json states; {} for a run that did not end. Raises RunError."""
        try:
            return msgspec.convert(self.summary().get("hashes", {}), dict[str, str])
        except msgspec.ValidationError as error:
            raise RunError(f"summary.json: hashes: {error}") from error


def environment(strategy_sources: Mapping[str, str]) -> dict[str, Any]:
    """What the run was made by."""
    return {
        "code_hash": compiled.digest_of({**compiled.SOURCES, **strategy_sources}),
        "sources": dict(compiled.SOURCES),
        "strategies": dict(strategy_sources),
        "toolchain": {**compiled.TOOLCHAIN, "exchange_calendars": version("exchange_calendars")},
        "machine": {"platform": platform.platform(), "processor": _cpu_model(), "cores": os.cpu_count()},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def new_folder(out: Path | None) -> Path:
    """An empty folder for a run; `runs/<n>` when none is named. Raises RunError for one that holds something already."""
    if out is not None and out.exists() and any(out.iterdir()):
        raise RunError(f"{out} is not empty; name another folder, or remove it")
    try:
        if out is None:
            return _next_folder()
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{error.filename} cannot be made: {error.strerror}") from error
    return out


def _next_folder() -> Path:
    """The first of `runs/0001`, … that is not there, made; of two processes that ask at once each gets one of its own."""
    number = 1
    while True:
        folder = Path("runs", f"{number:04d}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def begin_run(
    folder: Path,
    config: Config,
    origins: Mapping[str, str],
    instruments: Sequence[Instrument],
    feeds: Sequence[dict[str, Any]],
    strategy_sources: Mapping[str, str],
    base: Path,
    by_reference: bool,
) -> tuple[RunFacts, int, int]:
    """Write what a run is before it starts; returns its facts and the short ids of configuration and instruments.

    With durability "fsync" it is on the disk when this returns: a log that survived a power loss could not be read without it.
    """
    config_sha, config_id = blobs.put(folder / "blobs", dump(deciding(config)).encode())
    instruments_sha, instruments_id = blobs.put(folder / "blobs", msgspec.json.encode(list(instruments)))
    facts = RunFacts(
        run_id=uuid.uuid4().hex,
        epoch=1,
        base=str(base.resolve()),
        feeds=list(feeds),
        instruments=list(instruments),
        config_sha=config_sha,
        instruments_sha=instruments_sha,
        by_reference=by_reference,
    )
    durable = config.journal.durability == "fsync"
    write_json(folder / "run.json", facts, durable)
    write_json(folder / "environment.json", environment(strategy_sources), durable)
    write_whole(folder / "config.toml", [dump(config, origins).encode()], durable=durable)
    if durable:
        sync_folder(folder.parent)
    return facts, config_id, instruments_id


def write_json(path: Path, value: Any, durable: bool) -> None:
    """Write indented JSON, appearing whole or not at all, `durable` synced; raises StorageError."""
    write_whole(path, [msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"], durable=durable)


def facts_of(folder: Path) -> RunFacts:
    """What run.json says; raises RunError for a folder that is no run."""
    path = folder / "run.json"
    if not path.is_file():
        raise RunError(f"{folder} is not a run: it has no run.json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunFacts)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def open_run(folder: Path) -> Run:
    """Open a run; raises RunError for a folder that is none, TransportError for a tape that is gone or damaged."""
    facts = facts_of(folder)
    tapes = []
    if facts.by_reference:
        for feed in facts.feeds:
            tape = Path(str(feed.get("path", "")))
            if not tape.is_file():
                raise RunError(f"{folder} refers to the tape {tape}, which is gone")
            tapes.append(Tape.open(tape))
    return Run(folder, facts, tapes)
