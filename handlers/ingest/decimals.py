"""Decimal text to whole units of a grid, exactly: the one reader of numbers for messages and tables. No float on the way.

A grid is a step of `step` * 10**-`decimals` (0.25 is (2, 25)); a number that is no multiple of it, or that 64 bits do not hold,
has a reason instead of a value.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np

from handlers.domain.reasons import NOT_A_NUMBER, OUT_OF_INT64
from transport.compiled import kernel
from transport.words import WORD_BYTES, digits_in, first_bytes, load_word, number_in

_SAFE = (2**63 - 10) // 10  # ten times this and a digit still fit
_DOT, _PLUS, _MINUS, _ZERO, _E, _SMALL_E, _QUOTE = (ord(c) for c in '.+-0Ee"')
_NEVER = np.int64(0)  # a stop byte that no number has: the text ends at its end
_ZEROS = np.uint64(0x3030303030303030)
_PLAIN_BYTES = 3 * WORD_BYTES  # two words of digits, the dot and the quote
_POWERS = 10 ** np.arange(WORD_BYTES + 1)
DIGITS_KEPT, DIGITS_MEANT = 15, 12  # the first is DBL_DIG of C
_POWER_MAX = 400  # beyond it nothing but zero fits; bounds the scaling


def grid_step(step: Decimal) -> tuple[int, int]:
    """(decimals, n) with step = n * 10**-decimals, decimals >= 0: 0.25 is (2, 25), 10 is (0, 10)."""
    _, digits, exponent = step.as_tuple()
    assert isinstance(exponent, int), "the instrument table holds finite steps"
    return max(0, -exponent), int("".join(map(str, digits))) * 10 ** max(0, exponent)


@kernel(inline=True)
def read_plain(text: Any, at: Any, decimals: Any) -> Any:
    """(units of 10**-`decimals`, place behind the closing quote) of the digits at `at`, read by the word.

    (0, -1) for all but what prices and quantities nearly always are: up to seven digits, up to eight behind a dot, on the grid, not
    within the last bytes of `text`. The readers by the byte know the rest, and the reasons.
    """
    if decimals > WORD_BYTES or at + _PLAIN_BYTES > len(text):
        return 0, -1
    word = load_word(text, at)
    n = digits_in(word)
    if n == 0 or n == WORD_BYTES:
        return 0, -1
    value = number_in(word << np.uint64(64 - 8 * n)) * _POWERS[decimals]
    at += n
    if text[at] == _DOT:
        word = load_word(text, at + 1)
        n = digits_in(word)
        if n == 0:
            return 0, -1
        digits = first_bytes(word ^ _ZEROS, n)  # what is missing to `decimals` are zeros, and so must be what goes beyond
        if decimals < WORD_BYTES and digits >> np.uint64(8 * decimals):
            return 0, -1
        if decimals > 0:
            value += number_in(digits << np.uint64(64 - 8 * decimals))
        at += n + 1
    return (value, at + 1) if text[at] == _QUOTE else (0, -1)


@kernel
def read_digits(text: Any, at: Any, end: Any, stop: Any, decimals: Any, step: Any, off_grid: Any) -> Any:
    """(units of `step` * 10**-`decimals`, place of `stop` or `end`, reason or 0) of the digits at `at`."""
    value, seen, whole = 0, -1, 0  # `seen`: digits behind the dot, -1 before it
    while at < end and text[at] != stop:
        digit: Any = np.int64(text[at]) - _ZERO
        if text[at] == _DOT and seen < 0 and whole > 0:
            seen = 0
        elif digit < 0 or digit > 9:
            return 0, at, NOT_A_NUMBER
        elif seen >= decimals:
            if digit != 0:
                return 0, at, off_grid
            seen += 1
        else:
            if value > _SAFE:
                return 0, at, OUT_OF_INT64
            value = value * 10 + digit
            whole += 1
            if seen >= 0:
                seen += 1
        at += 1
    if whole == 0 or seen == 0:
        return 0, at, NOT_A_NUMBER
    for _ in range(max(seen, 0), decimals):
        if value > _SAFE:
            return 0, at, OUT_OF_INT64
        value *= 10
    return value // step, at, off_grid if value % step else 0


@kernel
def read_cell(text: Any, at: Any, end: Any, decimals: Any, step: Any, off_grid: Any) -> Any:
    """(units, reason or 0) of the number that fills [at, end): a sign, digits with or without a dot, and an exponent it may have."""
    negative = at < end and text[at] == _MINUS
    if at < end and (negative or text[at] == _PLUS):
        at += 1
    value, stopped, why = read_digits(text, at, end, _NEVER, decimals, step, off_grid)
    if why == NOT_A_NUMBER or stopped != end:
        value, why_too = read_scientific(text, at, end, decimals, step, off_grid)
        why = off_grid if why == off_grid and why_too == OUT_OF_INT64 else why_too  # too fine, and so too long
    return -value if negative else value, why


@kernel
def read_scientific(text: Any, at: Any, end: Any, decimals: Any, step: Any, off_grid: Any) -> Any:
    """(units, reason or 0) of 1e-05, 1.5E+3, .5 or 5., which programs write and `read_digits` does not take."""
    value, digits, point, power = 0, 0, 0, 0  # `point`: 1 once the dot was seen
    while at < end and text[at] != _E and text[at] != _SMALL_E:
        digit: Any = np.int64(text[at]) - _ZERO
        if text[at] == _DOT and point == 0:
            point = 1
        elif digit < 0 or digit > 9:
            return 0, NOT_A_NUMBER
        elif value > _SAFE:
            return 0, OUT_OF_INT64
        else:
            value = value * 10 + digit
            digits += 1
            power -= point
        at += 1
    if digits == 0:
        return 0, NOT_A_NUMBER
    if at < end:
        exponent, whole = read_exponent(text, at + 1, end)
        if not whole:
            return 0, NOT_A_NUMBER
        power += exponent
    return scale_units(value, power + decimals, step, off_grid)


@kernel
def read_exponent(text: Any, at: Any, end: Any) -> Any:
    """(exponent, whether [at, end) is one); far ones are cut to what makes every number but zero too large or off its grid."""
    negative = at < end and text[at] == _MINUS
    if at < end and (negative or text[at] == _PLUS):
        at += 1
    exponent, whole = 0, at < end
    while at < end:
        digit: Any = np.int64(text[at]) - _ZERO
        if digit < 0 or digit > 9:
            return 0, False
        exponent = min(exponent * 10 + digit, _POWER_MAX)
        at += 1
    return -exponent if negative else exponent, whole


@kernel
def scale_units(value: Any, power: Any, step: Any, off_grid: Any) -> Any:
    """(`value` * 10**`power` / `step`, reason or 0), exact; 0 is on every grid."""
    if value == 0:
        return 0, 0
    while power > 0:
        if value > _SAFE or value < -_SAFE:
            return 0, OUT_OF_INT64
        value *= 10
        power -= 1
    while power < 0:
        if value % 10:
            return 0, off_grid
        value //= 10
        power += 1
    return value // step, off_grid if value % step else 0


@kernel
def decimals_in(text: Any, at: Any, end: Any) -> Any:
    """Significant decimals of the number that fills [at, end): 61602.02000000 has 2, 1e-05 has 5; 0 where it is none."""
    seen, significant, point = 0, 0, 0
    while at < end and text[at] != _E and text[at] != _SMALL_E:
        digit: Any = np.int64(text[at]) - _ZERO
        if text[at] == _DOT:
            point = 1
        elif digit >= 0 and digit <= 9:
            seen += point
            if digit:
                significant = seen
        elif text[at] != _MINUS and text[at] != _PLUS:
            return 0
        at += 1
    if at < end:
        exponent, whole = read_exponent(text, at + 1, end)
        return max(0, significant - exponent) if whole else 0
    return significant


@kernel
def meant_decimals(text: Any, at: Any, end: Any) -> Any:
    """`decimals_in`, and where floating point has left its noise those without it: 0.30000000000000004 has 1, 50.32284179174976 has 14.

    A double keeps DIGITS_KEPT digits of any decimal. A longer number that has at most DIGITS_MEANT when it is rounded to so many, a half up, is
    taken for that one: of numbers that are as long in earnest it is one in a thousand, and the others tell their decimals.
    """
    decimals: Any = np.int64(decimals_in(text, at, end))
    digits, kept, half = 0, 0, 0  # from the first that is not 0 on; the first of them as a number; the one behind
    last = 0  # place of the last that is not 0
    while at < end and text[at] != _E and text[at] != _SMALL_E:
        digit: Any = np.int64(text[at]) - _ZERO
        if digit >= 0 and digit <= 9 and (digits > 0 or digit > 0):
            digits += 1
            if digits <= DIGITS_KEPT:
                kept = kept * 10 + digit
            elif digits == DIGITS_KEPT + 1:
                half = digit
            if digit > 0:
                last = digits
        at += 1
    if last <= DIGITS_KEPT:
        return decimals
    kept += half >= 5
    meant = DIGITS_KEPT
    while kept % 10 == 0:
        kept //= 10
        meant -= 1
    return decimals if meant > DIGITS_MEANT else max(0, decimals - last + meant)
