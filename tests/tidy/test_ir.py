"""The reader of kernels' IR finds what must not be called, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tidy.ir import external_calls
from transport.compiled import F64, I64, array_t, kernel


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


def test_finds_libm_in_the_kernel_itself() -> None:
    found = external_calls(_exponential, (F64,))
    assert any("exp" in name for name in found), found


def test_finds_libm_in_a_callee() -> None:
    found = external_calls(_calls_exponential, (F64,))
    assert any("exp" in name for name in found), found


def test_arithmetic_roots_and_loops_over_arrays_call_nothing() -> None:
    assert external_calls(_root_of_sum, (array_t(np.dtype("f8")), I64)) == set()


def test_reads_the_signatures_that_a_kernel_was_compiled_for() -> None:
    _exponential(1.0)
    assert external_calls(_exponential) == external_calls(_exponential, (F64,))


def test_refuses_a_kernel_compiled_for_nothing() -> None:
    with pytest.raises(ValueError, match="no signature"):
        external_calls(kernel(lambda x: x))
