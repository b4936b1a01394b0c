"""Lines of Lean's CSV files to a table of integers: one kernel over the bytes, no float and no Python loop on the way.

    14430270,1815200,283,P,20002020,0        a line has exactly the columns that its file's shape declares
       |        |     |  |    |    |
    NUMBER   NUMBER   |  |   HEX  NUMBER     NUMBER: decimal digits, a sign and a point; scaled to `digits` decimals
                   NUMBER LETTER             STAMP: `YYYYMMDD HH:MM`, kept as those twelve digits

Exact or refused: a digit that the scale has no room for is a reason, unless the column says that it may be cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from handlers.domain.reasons import MISSING_FIELD, NOT_A_NUMBER, OUT_OF_INT64, UNKNOWN_RECORD, WRONG_TYPE
from transport.compiled import I64, array_t, kernel

NUMBER, HEX, LETTER, STAMP = 0, 1, 2, 3
COLUMN = np.dtype(
    [
        ("form", "i8"),
        ("digits", "i8"),  # decimals that a NUMBER is scaled to, 0 to 18
        ("finer", "i8"),  # reason of a digit behind those that is not 0; 0 cuts it off
    ]
)
ABSENT = -(2**63)  # an empty field; what a column's place holds of a refused line means nothing
BLANK = -1  # "reason" of a line without a character, which nobody misses
_SAFE = (2**63 - 10) // 10  # ten times this and a digit still fit
_LF, _CR, _COMMA, _DOT, _MINUS, _ZERO, _SPACE = (ord(c) for c in "\n\r,.-0 ")
_STAMP_CHARS, _DATE_CHARS, _COLON_AT = 14, 8, 11
_HEX_CHARS = 8


@kernel
def read_number(text: Any, at: Any, end: Any, digits: Any, finer: Any) -> Any:
    """(value * 10**digits, reason or 0) of text[at:end]."""
    minus = at < end and text[at] == _MINUS
    i = at + 1 if minus else at
    value = np.int64(0)
    point, seen, behind = False, 0, 0
    while i < end:
        digit = np.int64(text[i]) - _ZERO
        if text[i] == _DOT and not point:
            point = True
        elif digit < 0 or digit > 9:
            return 0, NOT_A_NUMBER
        else:
            seen += 1
            if point and behind == digits:
                if digit and finer:
                    return 0, finer
            elif value > _SAFE:
                return 0, OUT_OF_INT64
            else:
                value = value * 10 + digit
                behind += point
        i += 1
    if seen == 0:
        return 0, NOT_A_NUMBER
    for _ in range(behind, digits):
        if value > _SAFE:
            return 0, OUT_OF_INT64
        value *= 10
    return -value if minus else value, 0


@kernel
def read_hex(text: Any, at: Any, end: Any) -> Any:
    """(value, reason or 0) of up to eight hexadecimal digits."""
    value = np.int64(0)
    if end - at > _HEX_CHARS:
        return 0, WRONG_TYPE
    for i in range(at, end):
        c = np.int64(text[i])
        if c >= 97:
            digit = c - 87
        elif c >= 65:
            digit = c - 55
        else:
            digit = c - _ZERO
        if digit < 0 or digit > 15 or 57 < c < 65:
            return 0, WRONG_TYPE
        value = value * 16 + digit
    return value, 0


@kernel
def read_stamp(text: Any, at: Any, end: Any) -> Any:
    """(YYYYMMDDHHMM as a number, reason or 0) of `YYYYMMDD HH:MM`; whether there is such a day is asked later."""
    if end - at != _STAMP_CHARS:
        return 0, WRONG_TYPE
    value = np.int64(0)
    for k in range(_STAMP_CHARS):
        c = np.int64(text[at + k])
        if k == _DATE_CHARS or k == _COLON_AT:
            if c != (_SPACE if k == _DATE_CHARS else 58):
                return 0, WRONG_TYPE
        elif c < _ZERO or c > 57:
            return 0, WRONG_TYPE
        else:
            value = value * 10 + c - _ZERO
    return value, 0


@kernel
def read_field(text: Any, at: Any, end: Any, column: Any) -> Any:
    """(value, reason or 0) of one field; an empty one is ABSENT."""
    if at == end:
        return ABSENT, 0
    if column.form == NUMBER:
        return read_number(text, at, end, column.digits, column.finer)
    if column.form == HEX:
        return read_hex(text, at, end)
    if column.form == STAMP:
        return read_stamp(text, at, end)
    return np.int64(text[at]), 0 if end - at == 1 else WRONG_TYPE


@kernel
def scan_line(text: Any, at: Any, end: Any, columns: Any, values: Any, place: Any) -> Any:
    """Write the fields of text[at:end] from values[place] on; returns a reason, BLANK or 0."""
    if at == end:
        return BLANK
    last = len(columns) - 1
    for c in range(last + 1):
        stop = at
        while stop < end and text[stop] != _COMMA:
            stop += 1
        if (stop == end) != (c == last):
            return UNKNOWN_RECORD if c == last else MISSING_FIELD
        values[place + c], reason = read_field(text, at, stop, columns[c])
        if reason:
            return reason
        at = stop + 1
    return 0


@kernel(I64(array_t(np.dtype("u1")), array_t(COLUMN), I64[::1], I64[::1]), deferred=True)
def scan_lines(text: Any, columns: Any, values: Any, reasons: Any) -> Any:
    """Scan every line of `text`, the last with or without its end; returns how many there are.

    `values` has room for lines * columns, row after row, `reasons` for lines: of each the reason why it is refused, BLANK or 0.
    """
    line, at = 0, 0
    while at < len(text):
        stop = at
        while stop < len(text) and text[stop] != _LF:
            stop += 1
        end = stop - 1 if stop > at and text[stop - 1] == _CR else stop
        reasons[line] = scan_line(text, at, end, columns, values, line * len(columns))
        line += 1
        at = stop + 1
    return line
