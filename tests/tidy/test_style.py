"""Sizes, annotations, paths and links: what of the style a machine can check."""

from __future__ import annotations

import ast
import re
import tomllib

from tests.tidy.source import OURS, PACKAGES, ROOT, functions_of, is_compiled, python_files, tracked_files, tree_of

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60
# Longer, and better so: the reason beside each.
LONG_FILES = {
    "transport/records.py": "every kind of record, declared in one place",
    "handlers/domain/book.py": "one data structure; its parts share the window's invariants",
}
LONG_FUNCTIONS: dict[str, str] = {}
# Put together here, for this file is tracked too.
_MACHINE = re.compile(r"(?<![\w.~-])/(?:work|root|Users|home/(?!tickline\b)\w+)/" + r"\w")
_REGISTRY = re.compile(
    "|".join(["pypi" + r"\.org", "python" + "hosted", "--(?:extra-)?index" + "-url", "registry" + r"\.npm"])
)
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def test_files_are_short() -> None:
    sizes = {path: len((ROOT / path).read_text().splitlines()) for path in python_files(*OURS)}
    long = {path: lines for path, lines in sizes.items() if lines > FILE_LINES_MAX and path not in LONG_FILES}
    assert not long, f"over {FILE_LINES_MAX} lines: {long}"


def test_functions_are_short() -> None:
    long = {}
    for path in python_files(*OURS):
        for node in functions_of(path):
            name, lines = f"{path}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX and name not in LONG_FUNCTIONS:
                long[name] = lines
    assert not long, f"over {FUNCTION_LINES_MAX} lines: {long}"


def test_allowances_are_still_needed() -> None:
    spare = [
        p for p in LONG_FILES if not (ROOT / p).exists() or len((ROOT / p).read_text().splitlines()) <= FILE_LINES_MAX
    ]
    known = {f"{p}:{n.name}" for p in python_files(*OURS) for n in functions_of(p)}
    assert not spare, f"no longer long: {spare}"
    assert set(LONG_FUNCTIONS) <= known


def test_what_is_not_compiled_is_annotated() -> None:
    """mypy lets kernel modules have untyped functions; only kernels may be."""
    bare = [
        f"{path}:{node.lineno} {node.name}"
        for path in python_files(*PACKAGES)
        for node in _outside_kernels(path)
        if not _is_annotated(node)
    ]
    assert not bare, bare


def test_only_modules_with_kernels_are_excused_from_annotations() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    excused = next(o["module"] for o in config if o.get("disallow_untyped_defs") is False)
    for module in excused:
        path = f"{module.replace('.', '/')}.py"
        assert any(is_compiled(node) for node in functions_of(path)), f"{path} has no kernel"


def _outside_kernels(path: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions that numba does not type: neither kernels nor what is defined inside one."""
    inside = {id(n) for node in functions_of(path) if is_compiled(node) for n in ast.walk(node)}
    return [node for node in functions_of(path) if id(node) not in inside]


def _is_annotated(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    a = node.args
    named = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return all(arg.annotation for arg in named if arg.arg not in ("self", "cls")) and node.returns is not None


def test_every_module_says_why_it_exists() -> None:
    silent = [
        p for p in python_files(*PACKAGES) if (ROOT / p).read_text().strip() and not ast.get_docstring(tree_of(p))
    ]
    assert not silent, silent


def test_tracked_files_name_no_machine_and_no_registry() -> None:
    found = []
    for path in tracked_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, a recorded feed
        for number, line in enumerate(text.splitlines(), 1):
            if _MACHINE.search(line) or _REGISTRY.search(line):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_links_in_documents_lead_somewhere() -> None:
    dead = []
    for path in (p for p in tracked_files() if p.endswith(".md")):
        for target in _LINK.findall((ROOT / path).read_text()):
            if not ((ROOT / path).parent / target).exists():
                dead.append(f"{path}: {target}")
    assert not dead, dead
