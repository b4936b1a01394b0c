"""The doctor reads a machine made of files, finds what is wrong with it, and never falls over what it cannot read."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from engine import doctor
from engine.doctor import PROBES, Finding, Machine, inspect, is_fit, render, to_json
from transport.segment import segment_name

DEAD_PID = 2**22 + 1  # above the kernel's largest pid


@pytest.fixture
def quiet(tmp_path: Path) -> Machine:
    """A machine with nothing to complain about."""
    files = {
        "proc/cpuinfo": "processor : 0\nmodel name : Abacus 9000\nprocessor : 1\nmodel name : Abacus 9000\n",
        "proc/cmdline": "quiet isolcpus=1 nohz_full=1\n",
        "proc/meminfo": "MemTotal: 100 kB\nHugePages_Total: 4\nHugepagesize: 2048 kB\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/smt/active": "0\n",
        "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "cache/kernel.nbc": "machine code",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "shm").mkdir()
    return Machine(
        proc=tmp_path / "proc",
        sys=tmp_path / "sys",
        shm=tmp_path / "shm",
        folder=tmp_path,
        env={"TICKLINE_CACHE": str(tmp_path / "cache")},
    )


def found(machine: Machine, name: str) -> Finding:
    return next(f for f in inspect(machine) if f.name == name)


def test_reports_every_probe_once_and_a_quiet_machine_as_fit(quiet: Machine) -> None:
    findings = inspect(quiet)
    assert [f.name for f in findings] == list(PROBES)
    assert is_fit(findings)
    for name in ("cpu", "isolated cores", "frequency governor", "hyperthreading", "clock source", "huge pages"):
        assert found(quiet, name).status == "ok", name
    assert found(quiet, "cpu").what == "Abacus 9000"
    assert found(quiet, "huge pages").what == "4 reserved of 2048 kB"
    assert found(quiet, "transparent huge pages").what == "madvise"
    assert found(quiet, "orphaned segments").what == "none"


@pytest.mark.parametrize(
    ("file", "text", "name", "words"),
    [
        ("proc/cmdline", "quiet", "isolated cores", "no isolcpus and no nohz_full"),
        ("proc/cmdline", "isolcpus=1", "isolated cores", "no nohz_full"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave", "frequency governor", "powersave"),
        ("sys/devices/system/cpu/smt/active", "1", "hyperthreading", "two threads share a core"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet", "clock source", "hpet"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise", "transparent huge pages", "always"),
    ],
)
def test_warns_of_a_setting_that_hurts_the_tail_and_says_what_to_do(
    quiet: Machine, file: str, text: str, name: str, words: str
) -> None:
    (quiet.folder / file).write_text(text)
    finding = found(quiet, name)
    assert finding.status == "warn"
    assert words in finding.what
    assert finding.fix


def test_a_machine_that_shows_nothing_gives_findings_and_no_traceback(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    findings = inspect(Machine(nowhere, nowhere, nowhere, nowhere, env={"TICKLINE_CACHE": str(nowhere)}))
    assert [f.name for f in findings] == list(PROBES)
    assert "cannot be read" in next(f for f in findings if f.name == "cpu").what
    assert "cannot be read" in next(f for f in findings if f.name == "disk").what
    assert next(f for f in findings if f.name == "shared memory").status == "missing"
    assert not is_fit(findings)


def test_nonsense_in_a_file_is_a_finding(quiet: Machine) -> None:
    (quiet.proc / "meminfo").write_text("HugePages_Total: many\n")
    (quiet.sys / "kernel/mm/transparent_hugepage/enabled").write_text("madvise")
    (quiet.proc / "cpuinfo").write_bytes(b"\xff\xfe")
    for name in ("huge pages", "transparent huge pages", "cpu"):
        assert found(quiet, name).what.startswith("cannot be read"), name


def test_finds_segments_of_dead_processes_alone(quiet: Machine) -> None:
    for name in (segment_name("run", "edge", DEAD_PID), segment_name("run", "edge", os.getpid()), "tickline-notes"):
        (quiet.shm / name).touch()
    finding = found(quiet, "orphaned segments")
    assert finding.status == "warn"
    assert finding.what == f"1 of dead processes: tickline-{DEAD_PID}-run-edge"


def test_warns_when_room_runs_out(quiet: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=2**30, used=2**30, free=2**20))
    assert found(quiet, "shared memory").status == "warn"
    assert found(quiet, "disk").status == "warn"


def test_warns_of_low_limits(quiet: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 128))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert found(quiet, "open files limit").what == "64 (hard 128)"
    assert found(quiet, "locked memory limit").status == "warn"
    assert found(quiet, "cores").status == "warn"
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: infinite)
    assert found(quiet, "open files limit").what == found(quiet, "locked memory limit").what == "unlimited"


def test_the_kernel_cache_must_be_writable(quiet: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(quiet, "kernel cache").status == "ok"
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert found(quiet, "kernel cache").status == "warn"
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "GIB", 4)
    assert "rm -r" in found(quiet, "kernel cache").fix


def test_names_the_gpu_that_the_driver_shows(quiet: Machine) -> None:
    assert "none" in found(quiet, "gpu").what
    card = quiet.proc / "driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t Fast Card\nIRQ: 1\n")
    assert found(quiet, "gpu").what == "Fast Card"


def test_renders_as_a_table_and_as_json() -> None:
    findings = [Finding("a", "ok", "[fine]"), Finding("b", "missing", "gone", "bring it back")]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(render(findings))
    text = console.export_text()
    assert "[fine]" in text
    assert "bring it back" in text
    assert json.loads(to_json(findings))[1] == {
        "name": "b",
        "status": "missing",
        "what": "gone",
        "fix": "bring it back",
    }
