"""The project's files as the tidy tests read them: parsed, never imported."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "handlers", "transport")
OURS = (*PACKAGES, "perf", "tests")
COMPILED = ("kernel", "handler", "feature", "intrinsic", "overload", "overload_method", "overload_attribute")


@cache
def python_files(*folders: str) -> tuple[str, ...]:
    """Paths from the root of the Python files under `folders`, sorted; environments and what they hold left out."""
    found = (p.relative_to(ROOT) for f in folders for p in (ROOT / f).rglob("*.py"))
    return tuple(sorted(str(p) for p in found if not any(part.startswith(".") for part in p.parts)))


@cache
def tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


def tracked_files() -> list[str]:
    """What git has or would take; in a tree without git, every file that is not hidden."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode == 0:
        return [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]
    files = (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file())
    return [str(p) for p in files if not any(part.startswith(".") for part in p.parts)]


def imports_of(path: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, at any depth; `from a import b` as a.b."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module or ''}.{alias.name}") for alias in node.names)


def imports(path: str, package: str) -> list[str]:
    """`path:line name` of every import of `package` or of something in it."""
    return [f"{path}:{line} {name}" for line, name in imports_of(path) if name.split(".")[0] == package]


def is_compiled(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a decorator hands it to numba."""
    calls = [d.func if isinstance(d, ast.Call) else d for d in function.decorator_list]
    return any((c.id if isinstance(c, ast.Name) else getattr(c, "attr", "")) in COMPILED for c in calls)


def functions_of(path: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
