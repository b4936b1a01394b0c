"""Why something was refused, counted or stopped: one number per cause, the same in counters, rejects and verdicts.

A code is a uint16 and is never reused for another meaning, since journals outlive versions. The hundred says who speaks; 0 is
no reason. `NAME` is what tables and counters print, `DOC` explains it in a line.
"""

from __future__ import annotations

NO_REASON = 0

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
FORBIDDEN_KIND = 122
OUT_OF_RANGE = 123
TIME_JUMP = 124
LONG_ROW = 125
PRICE_OUT_OF_BOUNDS = 126
PRICE_OUT_OF_BAND = 127
TIME_BACKWARDS = 128
TIME_IN_FUTURE = 129
TIME_STALE = 130
VOLUME_ANOMALY = 131
RETURN_OUTLIER = 132
DUPLICATE_RECORD = 133
TRADE_ID_GAP = 134
CROSSED_QUOTE = 135
LOCKED_QUOTE = 136
CONTROL_MESSAGE = 140
CHECKSUM_FAILED = 141
UNFINISHED_BAR = 142
BOOK_ID_UNKNOWN = 143
CONNECTION_LOST = 144
BEFORE_STREAM = 145
HISTORY_OVERLAP = 146
HISTORY_HOLE = 147
HISTORY_UNTOLD = 148
LEVEL_OUT_OF_BOUNDS = 149

# --- 200-299: risk --------------------------------------------------------------------------------------------------------
POSITION_LIMIT = 201
TOTAL_POSITION_LIMIT = 202
NOTIONAL_LIMIT = 203
TOTAL_NOTIONAL_LIMIT = 204
OPEN_ORDERS_LIMIT = 205
PRICE_COLLAR = 206
ORDER_RATE = 207
STALE_DATA = 208
INVALID_BOOK = 209
DUPLICATE_ORDER = 210
STATE_REDUCING = 211
STATE_HALTED = 212
UNKNOWN_INSTRUMENT = 213
BAD_QTY = 214
BAD_PRICE = 215
IN_WARMUP = 216
UNKNOWN_INTENT = 217
FORGED_KIND = 218
OPERATOR = 219
CROSSED_BOOK = 220
TRADING_HALTED = 221
INVERSE_CONTRACT = 222

# --- 300-399: orders and the exchange -------------------------------------------------------------------------------------
NO_LIQUIDITY = 301
UNKNOWN_ORDER = 302
TABLE_FULL = 303
INVALID_TRANSITION = 304
IOC_REMAINDER = 305
FOK_UNFILLED = 306
LATE_FILL = 308
OVERFILL = 309

# --- 400-499: features ----------------------------------------------------------------------------------------------------
BAR_LATE = 401
BAR_OF_OTHER_CLOCK = 402
BAR_REPEATED = 403

DOC: dict[int, str] = {
    NO_REASON: "no reason",
    BROKEN_LINE: "line is not `<receive ns> <JSON>`, or a quote of a table's line is left open",
    UNKNOWN_STREAM: "stream or message the engine does not read",
    UNKNOWN_SYMBOL: "symbol is not in the instrument table",
    MISSING_FIELD: "message lacks a field",
    WRONG_TYPE: "field has another type, or a word that is none of its own",
    OUT_OF_INT64: "number does not fit 64 bits",
    TIME_OUT_OF_RANGE: "time lies outside the years 2000 to 2100 (bars: 1970), or is none of its day",
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
    FORBIDDEN_KIND: "record of a kind that its source may not send",
    OUT_OF_RANGE: "number is impossible in its field",
    TIME_JUMP: "receive time is more than a day ahead of the lines around it",
    LONG_ROW: "record of several slots, which no source may send",
    PRICE_OUT_OF_BOUNDS: "price or quantity is outside the bounds that are set for its instrument",
    PRICE_OUT_OF_BAND: "price is further from the last one believed than the band allows",
    TIME_BACKWARDS: "venue time is before that of the record of its kind before it",
    TIME_IN_FUTURE: "venue time is further ahead of the receive time than clocks are apart",
    TIME_STALE: "record was received long after the venue's time of it",
    VOLUME_ANOMALY: "quantity is many times what trades of the instrument have",
    RETURN_OUTLIER: "price of a trade is many usual changes from that of the trade before",
    DUPLICATE_RECORD: "trade id came twice",
    TRADE_ID_GAP: "trade ids of an instrument whose ids are consecutive leave some out",
    CROSSED_QUOTE: "quote whose bid is above its ask",
    LOCKED_QUOTE: "quote whose bid is its ask",
    CONTROL_MESSAGE: "message about the connection, not the market",
    CHECKSUM_FAILED: "book is not the one that the venue signed",
    UNFINISHED_BAR: "bar that the venue has not closed yet",
    BOOK_ID_UNKNOWN: "change of a level of the book that nobody inserted",
    CONNECTION_LOST: "connection ended: nothing is known of its books until a snapshot",
    BEFORE_STREAM: "last trade before the stream began, sent at its start: no trade of now",
    HISTORY_OVERLAP: "trade that the history before the live feed has already",
    HISTORY_HOLE: "trades are missing between the history and the live feed",
    HISTORY_UNTOLD: "trade that waited for the past before it, which was not told in time",
    LEVEL_OUT_OF_BOUNDS: "level of a book beyond what the line holds: left out, or its quantity cut",
    POSITION_LIMIT: "position in the instrument could pass its limit",
    TOTAL_POSITION_LIMIT: "quantity held over all instruments could pass its limit",
    NOTIONAL_LIMIT: "notional of the instrument could pass its limit",
    TOTAL_NOTIONAL_LIMIT: "notional over all instruments could pass its limit",
    OPEN_ORDERS_LIMIT: "as many orders are open as may be",
    PRICE_COLLAR: "price is further from the market than it may be",
    ORDER_RATE: "more orders in a short time than there may be",
    STALE_DATA: "last market record of the instrument is too old to trade on",
    INVALID_BOOK: "book is empty, broken by a gap, or not known yet",
    DUPLICATE_ORDER: "same order again within the time in which that is taken for a mistake",
    STATE_REDUCING: "line is REDUCING and the order would not reduce the position",
    STATE_HALTED: "line is HALTED",
    UNKNOWN_INSTRUMENT: "intent for an instrument that is not traded",
    BAD_QTY: "quantity is not positive or above that of the largest order",
    BAD_PRICE: "price of a limit order is not one the market can have",
    IN_WARMUP: "history is still being fed: no order may come of it",
    UNKNOWN_INTENT: "action, type, time in force or state asked for does not exist",
    FORGED_KIND: "row of a kind or from a source that this edge may not carry",
    OPERATOR: "operator's command set the trading state",
    CROSSED_BOOK: "best bid is above the best ask, or at it where that is refused as well",
    INVERSE_CONTRACT: "contract settles in its coin: accounts count money that prices are in",
    TRADING_HALTED: "instrument is halted, by its venue or by a check of its data",
    NO_LIQUIDITY: "nothing on the other side of the book to trade with",
    UNKNOWN_ORDER: "no open order has this id",
    TABLE_FULL: "no room for it: among open orders, requests on their way, or answers on theirs",
    INVALID_TRANSITION: "report or request that cannot be in the order's state",
    IOC_REMAINDER: "rest of an immediate-or-cancel order",
    FOK_UNFILLED: "fill-or-kill order that could not be filled whole",
    LATE_FILL: "fill after the order had ended; its lots count",
    OVERFILL: "fill of more lots than the order has left",
    BAR_LATE: "bar of a time at which the universe was scored already: no score takes it",
    BAR_OF_OTHER_CLOCK: "feed's bar that is none of [bars]: no indicator, no score takes it",
    BAR_REPEATED: "bar that does not open after the last: no indicator, no score takes it",
}
NAME: dict[int, str] = {code: name for name, code in list(globals().items()) if name.isupper() and isinstance(code, int)}
