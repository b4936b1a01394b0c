"""Why something was refused, counted or stopped: one number per cause, the same in counters, rejects and verdicts.

100-199 are INGEST's: what was wrong with what came in. A number is never reused for another meaning.
"""

from __future__ import annotations

# --- 100-199: ingest ------------------------------------------------------------------------------------------------------
BROKEN_LINE = 100  # not `<receive ns> <message>`, or a message that is not JSON
UNKNOWN_STREAM = 101
UNKNOWN_SYMBOL = 102
MISSING_FIELD = 103
WRONG_TYPE = 104
OUT_OF_INT64 = 105
TIME_OUT_OF_RANGE = 106
NOT_A_NUMBER = 107
NOT_POSITIVE = 108
PRICE_OFF_GRID = 109
QTY_OFF_GRID = 110
TRUNCATED = 111
UNREADABLE = 112
DEPTH_STALE = 113
DEPTH_REPEATED = 114
DEPTH_REFUSED = 115
SEQUENCE_GAP = 116
HELD_OVERFLOW = 117
SNAPSHOT_STALE = 118
FILL_SKIPPED = 119
UNKNOWN_RECORD = 120
BOOK_DOUBTED = 121

TEXT: dict[int, str] = {
    BROKEN_LINE: "line is not `<receive ns> <JSON>`",
    UNKNOWN_STREAM: "stream or message the engine does not read",
    UNKNOWN_SYMBOL: "symbol is not in the instrument table",
    MISSING_FIELD: "message lacks a field",
    WRONG_TYPE: "field has another type",
    OUT_OF_INT64: "number does not fit 64 bits",
    TIME_OUT_OF_RANGE: "time lies outside the years 2000 to 2100",
    NOT_A_NUMBER: "price or quantity is not a decimal number",
    NOT_POSITIVE: "price or quantity is negative, or zero where it may not be",
    PRICE_OFF_GRID: "price is not a multiple of the tick",
    QTY_OFF_GRID: "quantity is not a multiple of the lot",
    TRUNCATED: "file ends in the middle",
    UNREADABLE: "file cannot be read further",
    DEPTH_STALE: "depth message is older than the snapshot",
    DEPTH_REPEATED: "depth message came twice",
    DEPTH_REFUSED: "depth message without a book to apply it to",
    SEQUENCE_GAP: "venue sequence broken: the book is not to be believed until a snapshot",
    HELD_OVERFLOW: "depth message pushed out of the buffer that waits for a snapshot",
    SNAPSHOT_STALE: "snapshot is older than the book",
    FILL_SKIPPED: "fill of a resting order: the book changes by the message after it",
    UNKNOWN_RECORD: "record of a type the engine does not read",
    BOOK_DOUBTED: "publisher marks the book as possibly wrong",
}
