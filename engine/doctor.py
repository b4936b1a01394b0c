"""What of this machine stands in the way of a predictable run, and how to change it.

Reads files of /proc and /sys, limits of this process and what is installed; changes nothing, asks no network, loads no kernel.
A probe that cannot read what it needs says so as a finding: an unreadable file is news, not an error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.table import Table

from transport.segment import process_start

Status = Literal["ok", "warn", "missing"]
MIB, GIB = 2**20, 2**30
SHM_BYTES_MIN = 256 * MIB  # rings of a staged line with three feeds, twice over
DISK_BYTES_MIN = 2 * GIB  # a day of three busy instruments, packed
OPEN_FILES_MIN = 1024  # segments, sockets and pipes of a staged line, with room
CORES_MIN = 2  # one for the line, one for the journal and the edges


@dataclass(frozen=True)
class Finding:
    """One thing looked at: `what` was found, and how to `fix` it ("" where nothing needs to be done)."""

    name: str
    status: Status
    what: str
    fix: str = ""


@dataclass(frozen=True)
class Machine:
    """Where to look: the roots of the system's files, and the environment; tests give folders of their own."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    shm: Path = Path("/dev/shm")
    folder: Path = Path()  # where runs are written
    env: Mapping[str, str] | None = None

    def variable(self, name: str) -> str | None:
        return (os.environ if self.env is None else self.env).get(name)


def inspect(machine: Machine | None = None) -> list[Finding]:
    """Everything looked at, in the order of `PROBES`; never raises for what it cannot read."""
    here = machine or Machine()
    found = []
    for name, probe in PROBES.items():
        try:
            status, what, fix = probe(here)
            found.append(Finding(name, status, what, fix))
        except (OSError, ValueError, LookupError) as error:
            found.append(Finding(name, "warn", f"cannot be read: {error}"))
    return found


Answer = tuple[Status, str, str]


def _cpu(m: Machine) -> Answer:
    lines = (m.proc / "cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return "ok", models[0] if models else platform.machine(), ""


def _cores(m: Machine) -> Answer:
    ours, all_of_it = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    if ours < CORES_MIN:
        return (
            "warn",
            f"{ours} of {all_of_it} cores",
            f"give the process at least {CORES_MIN} cores; on one, journal and line take turns",
        )
    return "ok", f"{ours} of {all_of_it} cores", ""


def _isolation(m: Machine) -> Answer:
    words = (m.proc / "cmdline").read_text().split()
    found = [w for w in words if w.startswith(("isolcpus=", "nohz_full=", "rcu_nocbs="))]
    missing = [n for n in ("isolcpus", "nohz_full") if not any(w.startswith(f"{n}=") for w in found)]
    if missing:
        what = f"no {' and no '.join(missing)} on the kernel's command line"
        return (
            "warn",
            what,
            "for a quiet tail boot with isolcpus= and nohz_full= for the line's cores and list them in runtime.cores",
        )
    return "ok", " ".join(found), ""


def _governor(m: Machine) -> Answer:
    files = sorted((m.sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    governors = sorted({f.read_text().strip() for f in files})
    if not governors:
        return "ok", "no frequency scaling to be seen (a virtual machine, or fixed)", ""
    if governors != ["performance"]:
        return "warn", ", ".join(governors), "cpupower frequency-set -g performance"
    return "ok", "performance", ""


def _hyperthreading(m: Machine) -> Answer:
    path = m.sys / "devices/system/cpu/smt/active"
    if not path.exists():
        return "ok", "not told by this kernel", ""
    if path.read_text().strip() == "1":
        return (
            "warn",
            "on: two threads share a core",
            "leave the sibling of each of the line's cores idle, or boot with nosmt",
        )
    return "ok", "off", ""


def _transparent_pages(m: Machine) -> Answer:
    path = m.sys / "kernel/mm/transparent_hugepage/enabled"
    if not path.exists():
        return "ok", "not in this kernel", ""
    text = path.read_text()
    chosen = text[text.index("[") + 1 : text.index("]")]
    if chosen == "always":
        return "warn", "always: memory may be moved under a running line", f"echo madvise > {path}"
    return "ok", chosen, ""


def _huge_pages(m: Machine) -> Answer:
    lines = [
        line.split()
        for line in (m.proc / "meminfo").read_text().splitlines()
        if line.startswith(("HugePages_", "Hugepagesize"))
    ]
    info = {line[0].rstrip(":"): int(line[1]) for line in lines}
    total, size = info.get("HugePages_Total", 0), info.get("Hugepagesize", 0)
    return "ok", f"{total} reserved of {size} kB" if total else "none reserved; the engine needs none", ""


def _shm(m: Machine) -> Answer:
    if not m.shm.is_dir():
        return "missing", f"no {m.shm}", "mount a tmpfs there; rings between processes live in it"
    usage = shutil.disk_usage(m.shm)
    what = f"{usage.free // MIB} MiB free of {usage.total // MIB}"
    if usage.free < SHM_BYTES_MIN:
        return "warn", what, f"mount -o remount,size=1g {m.shm} (in a container --shm-size=1g)"
    return "ok", what, ""


def _orphans(m: Machine) -> Answer:
    """By pid alone; the sweep at start compares start times too, so it also finds those whose pid was given away."""
    dead = []
    for path in sorted(m.shm.glob("tickline-*")):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not process_start(int(pid)):
            dead.append(path)
    if dead:
        return (
            "warn",
            f"{len(dead)} of dead processes: {', '.join(p.name for p in dead[:3])}",
            f"the next start sweeps them, or: rm {m.shm}/tickline-*",
        )
    return "ok", "none", ""


def _clock(m: Machine) -> Answer:
    path = m.sys / "devices/system/clocksource/clocksource0/current_clocksource"
    current = path.read_text().strip()
    if current in ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"):
        return "ok", current, ""
    return "warn", f"{current}: a clock read is a system call", f"echo tsc > {path}, where the CPU's counter is stable"


def _gpu(m: Machine) -> Answer:
    cards = sorted((m.proc / "driver/nvidia/gpus").glob("*/information"))
    models = [
        line.partition(":")[2].strip() for c in cards for line in c.read_text().splitlines() if line.startswith("Model")
    ]
    if models:
        return "ok", ", ".join(models), ""
    return "ok", "none; nothing here needs one", ""


def _kafka(m: Machine) -> Answer:
    if importlib.util.find_spec("aiokafka") is None:
        return "ok", "aiokafka is not installed; nothing here needs it", ""
    return "ok", f"aiokafka {version('aiokafka')}; no broker was asked", ""


def _numba(m: Machine) -> Answer:
    try:
        return "ok", f"numba {version('numba')}, llvmlite {version('llvmlite')}, numpy {version('numpy')}", ""
    except PackageNotFoundError as error:
        return "missing", f"{error.name} is not installed", "pip install -c constraints.txt -e ."


def _cache(m: Machine) -> Answer:
    home = Path(m.variable("HOME") or Path.home())
    root = Path(m.variable("TICKLINE_CACHE") or home / ".cache" / "tickline")
    stands = root
    while not stands.exists() and stands != stands.parent:
        stands = stands.parent
    if not stands.is_dir() or not os.access(stands, os.W_OK | os.X_OK):
        return (
            "warn",
            f"{root} cannot be written: every start compiles for a minute",
            "set TICKLINE_CACHE to a folder that can",
        )
    taken = sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    if taken > GIB:
        return "warn", f"{root}, {taken // MIB} MiB", f"kernels of versions gone by; rm -r {root}"
    return "ok", f"{root}, {taken // MIB} MiB", ""


def _memory_lock(m: Machine) -> Answer:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return "ok", "unlimited", ""
    return (
        "warn",
        f"{soft // 1024} KiB",
        "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity), or rings may be paged out",
    )


def _open_files(m: Machine) -> Answer:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES_MIN:
        return "warn", f"{soft} (hard {hard})", f"ulimit -n {OPEN_FILES_MIN}"
    return "ok", "unlimited" if soft == resource.RLIM_INFINITY else str(soft), ""


def _python(m: Machine) -> Answer:
    what = f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}"
    if hasattr(sys, "gettotalrefcount"):
        return "warn", f"{what}, a debug build", "use a release build; this one is several times slower"
    if sys.flags.optimize:
        return (
            "warn",
            f"{what}, run with -O",
            "run without -O and PYTHONOPTIMIZE: the asserts stop a line that has gone wrong",
        )
    return "ok", what, ""


def _disk(m: Machine) -> Answer:
    free = shutil.disk_usage(m.folder).free
    what = f"{free / GIB:.1f} GiB free in {m.folder.resolve()}"
    if free < DISK_BYTES_MIN:
        return "warn", what, "free some, or write runs elsewhere; a line whose journal cannot be written stops"
    return "ok", what, ""


PROBES: dict[str, Callable[[Machine], Answer]] = {
    "cpu": _cpu,
    "cores": _cores,
    "isolated cores": _isolation,
    "frequency governor": _governor,
    "hyperthreading": _hyperthreading,
    "clock source": _clock,
    "transparent huge pages": _transparent_pages,
    "huge pages": _huge_pages,
    "shared memory": _shm,
    "orphaned segments": _orphans,
    "locked memory limit": _memory_lock,
    "open files limit": _open_files,
    "disk": _disk,
    "python": _python,
    "compiler": _numba,
    "kernel cache": _cache,
    "gpu": _gpu,
    "kafka": _kafka,
}
_COLOURS: dict[Status, str] = {"ok": "green", "warn": "yellow", "missing": "red"}


def render(findings: list[Finding]) -> Table:
    """A table for a terminal; `rich.print` it."""
    table = Table("", "looked at", "found", "to change it", box=None)
    for f in findings:
        table.add_row(f"[{_COLOURS[f.status]}]{f.status}[/]", f.name, _plain(f.what), _plain(f.fix))
    return table


def _plain(text: str) -> str:
    """Kept from being read as rich's markup."""
    return text.replace("[", "\\[")


def to_json(findings: list[Finding]) -> str:
    """A JSON array of {name, status, what, fix}."""
    return json.dumps([asdict(f) for f in findings], indent=2)


def is_fit(findings: list[Finding]) -> bool:
    """Whether nothing that a run needs is missing; warnings cost speed or room, not correctness."""
    return all(f.status != "missing" for f in findings)
