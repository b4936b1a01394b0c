"""No machine code outlives what it was compiled from: an edited constant, callee or record field is compiled anew.

numba's own cache looks only at a kernel's file, so each edit here is in another file than the kernel that must notice it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.runs import ROOT, environment

CONSTANT = '"""A constant that a kernel uses."""\n\nSTEP = 3\n'
CALLEE = '''"""A kernel that another one calls."""

from transport.compiled import kernel


@kernel
def scaled(x):
    return 10 * x
'''
KERNEL = '''"""The kernel that must notice."""

from handlers.domain.probe_callee import scaled
from handlers.domain.probe_constant import STEP
from transport.compiled import I64, REC_T, kernel, types


@kernel(types.Tuple((I64, I64))(types.Array(REC_T, 1, "C", aligned=True)))
def probe(rows):
    """(what the callee makes of the constant, the record's first_seq)."""
    return scaled(STEP), rows[0].first_seq
'''
SCRIPT = """
import json
import numpy as np
from handlers.domain.numeric import exp
from handlers.domain.probe import probe
from transport.compiled import CACHE_DIR, CODE_HASH
from transport.records import SLOT_BYTES, empty

rows = empty(1)
rows.view(np.int64)[:] = range(SLOT_BYTES // 8)
value, field = probe(rows)
hits = sum(probe.stats.cache_hits.values())
print(json.dumps([value, field, exp(1.0), hits, str(CACHE_DIR), CODE_HASH]))
"""
PROBE = "handlers/domain/probe"


@dataclass(frozen=True)
class Ran:
    """What the copied project computed, and where it kept its machine code."""

    value: int
    field: int  # number of the 8-byte word that `first_seq` is
    exp: float
    hits: int
    cache: str
    code_hash: str


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the packages with a kernel that imports a constant and a callee."""
    for package in ("engine", "handlers", "transport"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / f"{PROBE}_constant.py").write_text(CONSTANT)
    (tmp_path / f"{PROBE}_callee.py").write_text(CALLEE)
    (tmp_path / f"{PROBE}.py").write_text(KERNEL)
    return tmp_path


def run(project: Path) -> Ran:
    env = environment(PYTHONPATH=str(project), TICKLINE_CACHE=str(project / "cache"), PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=project, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return Ran(*json.loads(done.stdout))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_nothing_stale_runs_after_an_edit_anywhere(project: Path) -> None:
    first = run(project)
    assert (first.value, first.hits) == (30, 0)
    assert first.exp == pytest.approx(2.718281828459045, rel=1e-15)
    again = run(project)
    assert again == Ran(**{**vars(first), "hits": again.hits})
    assert again.hits == 1, "what has not changed is loaded, not compiled"
    seen = [first]

    def changed(**values: int) -> None:
        now = run(project)
        assert now == Ran(**{**vars(seen[-1]), **values, "hits": 0, "cache": now.cache, "code_hash": now.code_hash})
        assert now.cache not in {ran.cache for ran in seen}
        assert now.code_hash not in {ran.code_hash for ran in seen}
        seen.append(now)

    edit(project / f"{PROBE}_constant.py", "STEP = 3", "STEP = 4")
    changed(value=40)
    edit(project / f"{PROBE}_callee.py", "10 * x", "100 * x")
    changed(value=400)
    edit(project / "transport" / "records.py", "    prev_seq: I64", "    moved_seq: I64")
    edit(project / "transport" / "records.py", "    first_seq: I64", "    prev_seq: I64")
    edit(project / "transport" / "records.py", "    moved_seq: I64", "    first_seq: I64")
    changed(field=first.field - 1)
    edit(project / f"{PROBE}_constant.py", "STEP = 4", "STEP = 3")
    edit(project / f"{PROBE}_callee.py", "100 * x", "10 * x")
    edit(project / "transport" / "records.py", "    prev_seq: I64", "    moved_seq: I64")
    edit(project / "transport" / "records.py", "    first_seq: I64", "    prev_seq: I64")
    edit(project / "transport" / "records.py", "    moved_seq: I64", "    first_seq: I64")
    assert run(project) == again, "put back, it is the first program again, and its code is still there"
