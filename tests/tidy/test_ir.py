"""The reader of kernels' code finds what must not be there, and nothing else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.tidy.ir import Code, code_of
from transport.compiled import F64, I64, array_t, kernel, nb


@kernel
def _exponential(x):
    return math.exp(x) + 1.0


@kernel
def _calls_exponential(x):
    return _exponential(x) * 2.0


@kernel
def _root_of_sum(values, n):
    total = 0.0
    for i in range(n):
        total += values[i]
    values[0] = math.floor(math.sqrt(total))
    return np.int64(total) // 3


@kernel
def _allocates(n):
    return np.empty(n, np.int64)[0]


@kernel
def _speaks(n):
    print(n)
    return n


@kernel
def _is_asserted(n):
    if n <= 0:
        raise AssertionError("a bug")  # as an assert compiles; pytest rewrites those of tests
    return n


@nb.njit(cache=True, fastmath=True)
def _loose_sum(values, n):
    total = 0.0
    for i in range(n):
        total += values[i]
    return total


def code_for(dispatcher: Any, *arguments: Any) -> Code:
    dispatcher.compile(arguments)
    return code_of(dispatcher)


@pytest.mark.parametrize("dispatcher", [_exponential, _calls_exponential])
def test_finds_libm_in_the_kernel_itself_and_in_a_callee(dispatcher: Any) -> None:
    code = code_for(dispatcher, F64)
    assert "exp" in code.symbols
    assert "exp" in code.foreign()


def test_finds_memory_taken() -> None:
    assert any("NRT_" in name and "llo" in name for name in code_for(_allocates, I64).foreign())


def test_finds_what_waits_for_python() -> None:
    assert {name for name in code_for(_speaks, I64).foreign() if "gil" in name.lower()}


def test_finds_liberties_with_arithmetic() -> None:
    assert code_for(_loose_sum, array_t(np.dtype("f8")), I64).flags


def test_arithmetic_roots_and_loops_over_arrays_call_nothing() -> None:
    code = code_for(_root_of_sum, array_t(np.dtype("f8")), I64)
    assert (code.foreign() - {"NRT_incref", "NRT_decref"}, code.flags) == (set(), frozenset())


def test_an_assert_calls_nothing_but_in_the_wrapper_that_raises() -> None:
    assert code_for(_is_asserted, I64).foreign() == set()


def test_refuses_a_kernel_compiled_for_nothing() -> None:
    with pytest.raises(ValueError, match="no signature"):
        code_of(kernel(lambda x: x))
