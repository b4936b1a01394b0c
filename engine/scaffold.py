"""`tickline new strategy`: a running example with its test and a configuration, to be changed into one's own."""

from __future__ import annotations

import importlib.util
import keyword
from pathlib import Path

from engine.errors import EngineError

_STRATEGY = '''"""{name}: buys when the top of the book leans to the bid, goes flat when it leans back."""

from handlers.contract import handler
from handlers.domain.schema import IMBALANCE
from transport.records import FEATURE, TARGET


@handler(
    reads=FEATURE,
    state=[("target", "i8")],
    params=[("lots", "i8"), ("enter", "f8"), ("leave", "f8")],
    defaults={{"lots": 1, "enter": 0.6, "leave": 0.0}},
)
def {name}(s, p, row, out):
    """Hold `p.lots` while the imbalance at the top has been above `p.enter` and not yet below `p.leave`.

    Reads   Feature  imbalance in [-1, 1]
    Writes  Intent   TARGET, only when it changes
    State   the last target
    """
    lean = row.values[IMBALANCE]
    target = s.target
    if lean > p.enter:
        target = p.lots
    elif lean < p.leave:
        target = 0
    if target == s.target:
        return 0
    s.target = target
    out.action = TARGET
    out.qty_lots = target
    return 1
'''
_TEST = '''"""{name} as plain Python: the same function that runs compiled in the line."""

import numpy as np
from {name} import {name} as strategy

from handlers.domain.schema import IMBALANCE
from transport.records import REC, TARGET


def run(leans):
    """(targets asked for) of a series of imbalances."""
    s = np.zeros(1, strategy.state).view(np.recarray)[0]
    p = strategy.pack_params({{"lots": 3}}).view(np.recarray)[0]
    asked = []
    for lean in leans:
        row = np.zeros(1, REC).view(np.recarray)[0]
        out = np.zeros(1, REC).view(np.recarray)[0]
        row.values[IMBALANCE] = lean
        if strategy(s, p, row, out):
            assert out.action == TARGET
            asked.append(int(out.qty_lots))
    return asked


def test_enters_once_and_leaves_once():
    assert run([0.1, 0.7, 0.9, 0.3, -0.1, -0.2]) == [3, 0]


def test_stays_out_of_a_balanced_book():
    assert run([0.0, 0.5, -0.5]) == []
'''
_CONFIG = """# tickline replay synthetic:1_000_000 --config {name}.toml
[[strategy]]
name = "{name}"
path = "{name}.py:{name}"
params = {{ lots = 10, enter = 0.6, leave = 0.0 }}
"""


def new_strategy(name: str, folder: Path) -> list[Path]:
    """Write NAME.py, test_NAME.py and NAME.toml; raises EngineError for a bad name or a file that is there already."""
    if not name.isidentifier() or not name[0].isalpha() or keyword.iskeyword(name) or name != name.lower():
        raise EngineError(f"{name!r} is no name for a strategy: lower-case letters, digits and underscores, a letter first")
    texts = {f"{name}.py": _STRATEGY, f"test_{name}.py": _TEST, f"{name}.toml": _CONFIG}
    there = [f for f in texts if (folder / f).exists()]
    if there:
        raise EngineError(f"{folder / there[0]} exists already; nothing was written")
    if importlib.util.find_spec(name):  # beside it, its test and every other would import the strategy instead
        raise EngineError(f"{name!r} is a module that Python knows already, and its file would hide that; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(text.format(name=name))
    return [folder / file for file in texts]
