"""State by reference: the same values as through numba's arrays, and the same check of indices where indices are checked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from handlers.domain.borrowed import borrow
from tests.runs import environment
from transport.compiled import kernel

ITEM = np.dtype([("value", "i8"), ("weight", "f8"), ("rest", "u1", (48,))])
OUT_OF_BOUNDS = '''
import sys
from typing import NamedTuple
import numpy as np
from handlers.domain.borrowed import borrow
from transport.compiled import kernel

class Held(NamedTuple):
    numbers: np.ndarray

@kernel
def read(owned, at):
    return borrow(owned).numbers[at]

@kernel
def write(owned, at):
    borrow(owned).numbers[at] = 9
    return 0

numbers = np.arange(8)
run = {"read": read, "write": write}[sys.argv[1]]
try:
    print(run(Held(numbers[2:6]), int(sys.argv[2])))
except IndexError:
    print("refused", numbers.tolist() == list(range(8)))
'''


class Inner(NamedTuple):
    numbers: np.ndarray


class Outer(NamedTuple):
    items: np.ndarray
    inner: Inner


@kernel
def _work(owned, out):
    state = borrow(owned)
    items, numbers = state.items, state.inner.numbers
    for i in range(len(items)):
        item = items[i]
        item.value += numbers[i]
        item.weight *= 2.0
        numbers[i] = item.value
    items[0] = items[len(items) - 1]
    out[0], out[1] = len(items), len(numbers)


def test_reads_writes_and_lengths_are_those_of_the_arrays() -> None:
    items, numbers, out = np.zeros(5, ITEM), np.arange(10, 90), np.zeros(2, np.int64)
    items["value"], items["weight"], items["rest"][4] = [1, 2, 3, 4, 5], [0.5, 1, 1.5, 2, 2.5], 7
    _work(Outer(items[1:], Inner(numbers[3:])), out)
    assert out.tolist() == [4, 77]
    assert items["value"].tolist() == [1, 5 + 16, 3 + 14, 4 + 15, 5 + 16]  # the second is a copy of the last
    assert items["weight"].tolist() == [0.5, 5, 3, 4, 5]
    assert items["rest"][:, 0].tolist() == [0, 7, 0, 0, 7]
    assert numbers[:8].tolist() == [10, 11, 12, 2 + 13, 3 + 14, 4 + 15, 5 + 16, 17]


@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("at", [-1, 4])
def test_an_index_beyond_the_array_is_refused_where_indices_are_checked(tmp_path: Path, access: str, at: int) -> None:
    script = tmp_path / "out_of_bounds.py"
    script.write_text(OUT_OF_BOUNDS)
    env = environment(NUMBA_BOUNDSCHECK="1", TICKLINE_CACHE=str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, script, access, str(at)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1:] == ["refused True"], done.stdout + done.stderr
