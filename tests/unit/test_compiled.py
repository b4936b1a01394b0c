"""Kernels are compiled when they are needed and as they say; an interrupt in the middle of a compile is not lost."""

from __future__ import annotations

import ctypes
import sys

import pytest
from llvmlite import binding

from tests.tidy.ir import kept
from transport.compiled import I64, interruptible, kernel, load


@kernel
def rare(x):
    """Large enough that LLVM does not copy it into its caller of its own accord."""
    total = x
    for i in range(x):
        for k in range(i):
            if (total ^ i) & 3 == 1:
                total += (k * 7919) // (1 + (total & 15))
            elif (total ^ k) & 5 == 4:
                total -= (i * 104729) // (1 + (total & 31))
            elif total % (3 + k) == i % (5 + k):
                total ^= (i << 3) + (k // (2 + (total & 7)))
            else:
                total += (total // (9 + i)) ^ (k % (1 + (i & 63)))
    return total


@kernel(inline=True)
def often(x):
    return x + 1 if x < 10 else rare(x)


@kernel(I64(I64), deferred=True)
def needed_later(x):
    return often(x) * 2


def test_a_deferred_kernel_is_compiled_when_it_is_loaded_and_never_twice() -> None:
    assert not needed_later.signatures
    load(needed_later)
    (made,) = needed_later.signatures
    load(needed_later)
    assert needed_later.signatures == [made]
    assert (needed_later(4), needed_later.signatures) == (10, [made])


def test_what_an_inlined_kernel_calls_is_not_inlined_with_it() -> None:
    load(needed_later)
    (_, bitcode), *_ = kept(needed_later)
    wishes = {}
    for function in binding.parse_bitcode(bitcode).functions:
        wishes.update({name: b"alwaysinline" in b" ".join(function.attributes) for name in ("rare", "often") if f"{len(name)}{name}B" in function.name})
    assert wishes.get("often", True)
    assert wishes["rare"] is False


def called_back(error: BaseException) -> None:
    """Raise `error` where Python cannot pass it on: in a function that C calls."""

    @ctypes.CFUNCTYPE(None)
    def raises() -> None:
        raise error

    raises()


def compile_failing(error: BaseException, why: str) -> None:
    with interruptible():
        called_back(error)
        raise RuntimeError(why)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupt_in_a_callback_is_raised_where_the_compile_ends(error: BaseException) -> None:
    before = sys.unraisablehook
    with pytest.raises(type(error)), interruptible():
        called_back(error)
    with pytest.raises(type(error)):
        compile_failing(error, "no compiled object yet")
    assert sys.unraisablehook is before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failure_that_no_interrupt_caused_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="mine"):
        compile_failing(ValueError("another's"), "mine")
    with interruptible():
        called_back(ValueError("another's"))
