"""An interrupt in the middle of a compile is not lost, wherever in it it comes."""

from __future__ import annotations

import ctypes
import sys

import pytest

from transport.compiled import interruptible


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
