"""Every reason code is given somewhere and asserted somewhere: a cause that cannot occur explains nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from handlers.domain.reasons import NAME, NO_REASON
from tests.tidy.source import PACKAGES, ROOT, python_files, tree_of

DECLARED_IN = "handlers/domain/reasons.py"
_WORD = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


def words_of(*folders: str) -> set[str]:
    """Every name in capitals in the Python files under `folders`, apart from where the codes are declared."""
    texts = [(ROOT / path).read_text() for path in python_files(*folders) if path != DECLARED_IN]
    return {word for text in texts for word in _WORD.findall(text)}


def asserted_in(tree: ast.Module) -> set[str]:
    """Names in capitals that a test function's asserts say to be so, or that it is parametrized with.

    What is said not to be so, an assert's message, imports, comments and docstrings do not count.
    """
    tests = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    claims = [node.test for test in tests for node in ast.walk(test) if isinstance(node, ast.Assert)]
    return {word for root in [*claims, *(d for test in tests for d in test.decorator_list)] for word in _words(root)}


def _words(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.NotIn | ast.NotEq):
        return
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return
    text = {ast.Name: "id", ast.Attribute: "attr", ast.Constant: "value"}.get(type(node))
    if text:
        yield from _WORD.findall(str(getattr(node, text)))
    for child in ast.iter_child_nodes(node):
        yield from _words(child)


def test_every_reason_is_given_somewhere() -> None:
    unused = {name for code, name in NAME.items() if code != NO_REASON} - words_of(*PACKAGES)
    assert not unused, f"no code gives {sorted(unused)}"


def test_every_reason_is_asserted_by_a_test() -> None:
    asserted = set().union(*(asserted_in(tree_of(path)) for path in python_files("tests")))
    assert not set(NAME.values()) - asserted, f"no test asserts {sorted(set(NAME.values()) - asserted)}"


def test_a_name_that_asserts_nothing_does_not_count() -> None:
    code = '''
from handlers.domain.reasons import IMPORTED  # COMMENTED
HERE = reasons.MODULE
@pytest.mark.parametrize("reason", [reasons.PARAMETER])
def test_of_something(reason):
    """DOCUMENTED"""
    use(reasons.USED)
    assert "IN_TEXT" in said and found == [reasons.EQUAL], reasons.MESSAGE
    assert reasons.UNEQUAL != found and "ABSENT" not in said and not found[reasons.NEGATED]
def helper():
    assert reasons.HELPER
'''
    assert asserted_in(ast.parse(code)) == {"PARAMETER", "IN_TEXT", "EQUAL"}
