"""Setting up from nothing: every package is pinned, and the gate's script is runnable."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib

from tests.tidy.source import ROOT

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_declared_package_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {_normal(line.partition("==")[0]) for line in lines}
    assert all("==" in line for line in lines)
    missing = [r for r in declared if (m := _NAME.match(r)) and _normal(m[0]) not in pinned]
    assert not missing, f"run make lock: {missing}"


def test_the_gate_is_a_valid_script_that_can_be_run() -> None:
    gate = ROOT / ".ci" / "run"
    assert os.access(gate, os.X_OK)
    subprocess.run(["bash", "-n", gate], check=True)
