"""Every reason code is given somewhere and tested somewhere: a cause that cannot occur explains nothing."""

from __future__ import annotations

import re
from pathlib import Path

from handlers.domain.reasons import NAME, NO_REASON
from tests.tidy.source import PACKAGES, ROOT, python_files

DECLARED_IN = "handlers/domain/reasons.py"


def words_of(*folders: str) -> set[str]:
    """Every name in capitals in the Python files under `folders`, apart from where the codes are declared and from this file."""
    here = str(Path(__file__).resolve().relative_to(ROOT))
    texts = [(ROOT / path).read_text() for path in python_files(*folders) if path not in (DECLARED_IN, here)]
    return {word for text in texts for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", text)}


def test_every_reason_is_given_somewhere() -> None:
    unused = {name for code, name in NAME.items() if code != NO_REASON} - words_of(*PACKAGES)
    assert not unused, f"no code gives {sorted(unused)}"


def test_every_reason_is_named_by_a_test() -> None:
    untested = set(NAME.values()) - words_of("tests")
    assert not untested, f"no test names {sorted(untested)}"
