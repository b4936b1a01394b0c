"""Who may import whom: engine > handlers > transport, one door to numba, nothing unpredictable in the stages."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.source import PACKAGES, ROOT, imports, imports_of, python_files, tree_of

DOOR = "transport/compiled.py"
# Where the world outside comes in or orders go out.
EDGES = ("handlers/ingest/live/", "handlers/orders/brokers/")
UNPREDICTABLE = ("time", "random", "secrets", "socket", "asyncio", "threading")
READINGS = re.compile(r"\b(os\.(environ|getenv|urandom)|(datetime|date)\.(now|utcnow|today)|uuid\.uuid[14])\b")


def test_import_contracts_of_pyproject_are_kept() -> None:
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_one_module_imports_numba() -> None:
    found = [hit for path in python_files(*PACKAGES) if path != DOOR for hit in imports(path, "numba")]
    assert not found, f"import it from transport.compiled: {found}"


def test_llvmlite_is_imported_for_intrinsics_alone() -> None:
    """An intrinsic writes IR, so its module needs `llvmlite.ir`; nothing else has business with LLVM."""
    for path in python_files(*PACKAGES):
        used = [name for _, name in imports_of(path) if name.split(".")[0] == "llvmlite"]
        if path == DOOR or not used:
            continue
        assert set(used) == {"llvmlite.ir"}, f"{path}: {used}"
        assert any(name == "transport.compiled.intrinsic" for _, name in imports_of(path)), f"{path} has no intrinsic"


@pytest.mark.parametrize("module", ["engine", "engine.config", "engine.doctor", "engine.observe.log"])
def test_importing_what_is_not_the_line_loads_no_compiler(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('numba', 'llvmlite', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stages_read_no_clock_socket_random_number_or_environment() -> None:
    found = []
    for path in python_files("handlers"):
        if path.startswith(EDGES):
            continue
        found += [hit for module in UNPREDICTABLE for hit in imports(path, module)]
        found += [f"{path} {name}" for name in _readings(tree_of(path))]
    assert not found, found


def _readings(tree: ast.Module) -> list[str]:
    """Attributes of the code, docstrings and comments left out, that read the world."""
    names = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [name for name in names if READINGS.search(name)]


def test_a_reading_of_the_world_would_be_found() -> None:
    code = "import os, datetime\nhome = os.environ['HOME']\nnow = datetime.datetime.now()\n'os.environ in prose'\n"
    assert len(_readings(ast.parse(code))) == 2
