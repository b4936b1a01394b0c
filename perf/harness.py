"""How anything is measured here: pinned, in rounds that alternate between contenders, the median with its range beside it.

Only the standard library, because the peers' runners import it inside environments of their own. A figure without its machine,
its command and its spread is not a figure: `write_result` adds the first two, `Spread` is the third.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "perf" / "results"
PACKAGES = ("numba", "numpy", "llvmlite")


class RunFailed(RuntimeError):
    """A contender's process failed, ran out of time, or printed no result; the message ends with what it wrote to stderr."""


@dataclass(frozen=True)
class Sample:
    """One timed call: wall and CPU seconds of this process (its children's are their own to report) and what it returned."""

    seconds: float
    cpu_seconds: float
    result: Any


@dataclass(frozen=True)
class Spread:
    """Median and range of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises ValueError for no values."""
        if not values:
            raise ValueError("nothing was measured")
        return cls(statistics.median(values), min(values), max(values))

    def text(self, show: Callable[[float], str]) -> str:
        """`median [low .. high]`, each through `show`."""
        return f"{show(self.median)} [{show(self.low)} .. {show(self.high)}]"


@dataclass(frozen=True)
class Target:
    """What a figure has to reach, and whether it did."""

    what: str
    value: float
    limit: float
    unit: str  # as it stands behind the number: " x", " s"
    at_least: bool = True  # else at most

    @property
    def met(self) -> bool:
        """A figure that is exactly the limit meets it."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def text(self) -> str:
        """`PASS  what: value, at least limit`, or BELOW, or ABOVE."""
        said = "PASS" if self.met else "BELOW" if self.at_least else "ABOVE"
        bound = "at least" if self.at_least else "at most"
        return f"{said:<5}  {self.what}: {self.value:.3g}{self.unit} (target: {bound} {self.limit:g}{self.unit})"


def judged(targets: Sequence[Target], strict: bool) -> int:
    """Print every target with whether it is met; the exit status: if `strict`, 1 for one that is missed, or for none at all."""
    for target in targets:
        print(target.text())
    if not targets:
        print("no target: what it compares with did not run")
    return int(strict and not (targets and all(target.met for target in targets)))


def machine() -> dict[str, Any]:
    """CPU model, cores, kernel, interpreter and libraries; `load` is the one-minute load average when asked."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: _version_of(name) for name in PACKAGES},
        "load": round(os.getloadavg()[0], 2),
    }


def machine_text(facts: dict[str, Any]) -> str:
    """`machine()` on one line, for the foot of a table."""
    libraries = ", ".join(f"{name} {facts[name]}" for name in ("python", *PACKAGES) if facts[name])
    return f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {libraries}, load {facts['load']}"


def _cpu_model() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def peak_rss_mb() -> float:
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """This process, and every process it starts meanwhile, on one core; raises OSError when there is no such core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def children_cpu_s() -> float:
    """CPU seconds, user and system, of every process that we started and that has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(call: Callable[[], Any]) -> Sample:
    """Run `call` once."""
    cpu = time.process_time_ns()
    wall = time.perf_counter_ns()
    result = call()
    seconds = (time.perf_counter_ns() - wall) / 1e9
    return Sample(seconds, (time.process_time_ns() - cpu) / 1e9, result)


def repeated(call: Callable[[], Any], rounds: int, warmups: int = 1) -> list[Sample]:
    """`warmups` calls that do not count (they compile and fill caches), then `rounds` that do."""
    for _ in range(warmups):
        call()
    return [timed(call) for _ in range(rounds)]


def run_alternating(contenders: dict[str, Callable[[], Any]], rounds: int, warmups: int = 0) -> dict[str, list[Sample]]:
    """Every contender once a round, so that a slow minute of the machine hits all of them; odd rounds go backwards.

    Sample i of one contender and sample i of another come from the same round: ratios are taken pair by pair.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for _ in range(warmups):
        for call in contenders.values():
            call()
    for at in range(rounds):
        names = list(contenders) if at % 2 == 0 else list(reversed(contenders))
        for name in names:
            samples[name].append(timed(contenders[name]))
    return samples


def run_child(
    command: Sequence[str], timeout_s: float = 600.0, root: Path = ROOT, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run `command` in a fresh process from `root`, the tree whose code it imports; the last JSON object it prints is its result.

    `env` comes on top of our own environment.

    Raises RunFailed when it exits with another status than 0, takes longer than `timeout_s` or prints no JSON object.
    """
    try:
        whole = {**os.environ, **(env or {}), "PYTHONPATH": str(root)}
        done = subprocess.run(command, cwd=root, env=whole, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as late:
        raise RunFailed(f"{' '.join(command)}: still running after {timeout_s:.0f} s") from late
    if done.returncode:
        raise RunFailed(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    for line in reversed(done.stdout.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    raise RunFailed(f"{' '.join(command)}: no JSON line in its output\n{done.stderr[-2000:]}")


def write_result(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Append one JSON line to `folder`/`name`.jsonl, with machine, command, revision and time; git ignores the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    about = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "revision": _revision(),
        "machine": machine(),
    }
    path = folder / f"{name}.jsonl"
    with path.open("a") as out:
        out.write(json.dumps({**about, **result}) + "\n")
    return path


def _revision() -> str | None:
    """Commit of the tree, `+` appended when it was changed since; None outside git."""
    try:
        asked = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        found = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns two spaces apart: the first to the left, the others to the right; raises ValueError on a ragged row."""
    lines = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    out = []
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out)


def rate_text(per_second: float) -> str:
    """Three figures and a unit: 8.31 M, 212 k, 95."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if per_second >= size:
            value = per_second / size
            places = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{places}f}{unit}"
    return f"{per_second:.0f}"
