"""Binance's frequent messages read by a kernel: whole batches of lines, without an object of Python's for any of them.

    {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161360000,"T":…,"s":"BTCUSDT","t":5266583935,"p":"61800.30","q":"0.006",…,"m":false}}
     └ which message                  └ keys of one or two letters, flat but for the two sides of a depth message

The kernel takes only what is written as the venue writes it: one line, no blanks, no escapes, ASCII, plain whole numbers, prices in quotes,
keys in any order. Whatever else comes, right or wrong, is left to the parser, which alone knows reasons: so the two must agree on what is
taken here, and on nothing else, and a test compares them over damaged lines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.ingest.venues.levels import MESSAGE, TEXTS
from transport.compiled import I64, array_t, kernel
from transport.records import BOOK_DELTA, BUY, QUOTE, SELL, TRADE

U8 = array_t(np.dtype("u1"))
KEYS = 128  # slots by a key's one letter; those of two letters have slots below the printable ones
_OTHER, _PU, _PS = 0, 1, 2
_X = ord("X")
_QUOTE, _COLON, _COMMA, _OPEN, _CLOSE, _END, _SLASH, _BLANK, _AT, _ZERO = (ord(c) for c in '":,[]}\\ @0')
_STREAM = np.frombuffer(b'{"stream":"', np.uint8).copy()
_DATA = np.frombuffer(b'","data":{', np.uint8).copy()
_TRUE, _FALSE, _NULL = (np.frombuffer(w, np.uint8).copy() for w in (b"true", b"false", b"null"))
_TRADE, _AGG_TRADE, _BOOK_TICKER, _DEPTH = (np.frombuffer(w, np.uint8).copy() for w in (b"trade", b"aggTrade", b"bookTicker", b"depth"))
_TRADES, _AGGREGATES, _TICKERS, _DEPTHS, _NO_STREAM = 0, 1, 2, 3, -1
_K = {c: ord(c) for c in "sptqTmauUbBAE"}
_S, _P, _T_ID, _Q, _TIME, _M, _A_ID, _U_LAST, _U_FIRST, _B, _BID_QTY, _ASK_QTY, _E = (_K[c] for c in "sptqTmauUbBAE")
_MS = 10**6
_DIGITS_MAX = 18  # of a whole number: 10**18 fits
_NO_CHECK = -(2**62)


class Scratch(NamedTuple):
    """Where the values of the keys of one object stand: [begin, stop) in the text, if `seen` bears the line's mark."""

    seen: np.ndarray
    begin: np.ndarray
    stop: np.ndarray


@kernel(inline=True)
def stands(text, at, end, word):
    """`word` stands at `at`."""
    if at + len(word) > end:
        return False
    for i in range(len(word)):
        if text[at + i] != word[i]:
            return False
    return True


@kernel(inline=True)
def behind_text(text, at, end):
    """Place behind the closing quote of the JSON text that begins at `at`; -1 where it has an escape, no ASCII, or no end."""
    if at >= end or text[at] != _QUOTE:
        return -1
    at += 1
    while at < end:
        c = text[at]
        if c == _QUOTE:
            return at + 1
        if c == _SLASH or c < _BLANK or c > 126:
            return -1
        at += 1
    return -1


@kernel(inline=True)
def behind_whole(text, at, end):
    """Place behind the digits of a whole number >= 0 at `at`; -1 where there is none, or one JSON would not take."""
    start = at
    while at < end and text[at] >= _ZERO and text[at] <= _ZERO + 9:
        at += 1
    n = at - start
    if n == 0 or n > _DIGITS_MAX or (n > 1 and text[start] == _ZERO):
        return -1
    return at


@kernel(inline=True)
def whole(text, at, end):
    """The number whose digits are [at, end)."""
    value = np.int64(0)
    while at < end:
        value = value * 10 + (np.int64(text[at]) - _ZERO)
        at += 1
    return value


@kernel
def behind_levels(text, at, end):
    """Place behind an array of levels, each of two texts; -1 for anything else."""
    if at + 1 >= end or text[at] != _OPEN:
        return -1
    at += 1
    if text[at] == _CLOSE:
        return at + 1
    while True:
        if at >= end or text[at] != _OPEN:
            return -1
        at = behind_text(text, at + 1, end)
        if at < 0 or at >= end or text[at] != _COMMA:
            return -1
        at = behind_text(text, at + 1, end)
        if at < 0 or at + 1 >= end or text[at] != _CLOSE:
            return -1
        at += 1
        if text[at] == _CLOSE:
            return at + 1
        if text[at] != _COMMA:
            return -1
        at += 1


@kernel
def behind_value(text, at, end):
    """Place behind a value: a text, a whole number, a word, or levels; -1 for any other."""
    if at >= end:
        return -1
    c = text[at]
    if c == _QUOTE:
        return behind_text(text, at, end)
    if c >= _ZERO and c <= _ZERO + 9:
        return behind_whole(text, at, end)
    if c == _OPEN:
        return behind_levels(text, at, end)
    if stands(text, at, end, _TRUE) or stands(text, at, end, _NULL):
        return at + 4
    return at + 5 if stands(text, at, end, _FALSE) else -1


@kernel
def read_object(text, at, end, scratch, mark):
    """Note where the values of a flat object stand, whose `{` is behind us; place behind its `}`, or -1, also for a key that comes twice."""
    while True:
        if at >= end or text[at] != _QUOTE:
            return -1
        key = at + 1
        at = behind_text(text, at, end)
        if at < 0 or at >= end or text[at] != _COLON:
            return -1
        n = at - 1 - key
        slot = np.int64(_OTHER)
        if n == 1:
            slot = np.int64(text[key])
        elif n == 2 and text[key] == _P and (text[key + 1] == _U_LAST or text[key + 1] == _S):
            slot = np.int64(_PU if text[key + 1] == _U_LAST else _PS)
        if slot != _OTHER and scratch.seen[slot] == mark:  # a key twice
            return -1
        value = at + 1
        at = behind_value(text, value, end)
        if at < 0 or at >= end:
            return -1
        scratch.seen[slot], scratch.begin[slot], scratch.stop[slot] = mark, value, at
        if text[at] == _END:
            return at + 1
        if text[at] != _COMMA:
            return -1
        at += 1


@kernel(inline=True)
def has_text(text, scratch, mark, slot):
    """The key is there and has a text."""
    return scratch.seen[slot] == mark and text[scratch.begin[slot]] == _QUOTE


@kernel(inline=True)
def number_of(text, scratch, mark, slot):
    """The whole number of a key, -1 where it is not there, -2 where it is something else."""
    if scratch.seen[slot] != mark:
        return np.int64(-1)
    begin = scratch.begin[slot]
    if text[begin] < _ZERO or text[begin] > _ZERO + 9:
        return np.int64(-2)
    return whole(text, begin, scratch.stop[slot])


@kernel(inline=True)
def place_of(text, begin, stop, names, cuts, guess):
    """Place of the symbol [begin, stop), -1 where it is not known; `guess` is looked at first."""
    n = stop - begin
    for k in range(len(cuts)):
        place = guess if k == 0 else k - 1
        if place + 1 >= len(cuts) or cuts[place + 1] - cuts[place] != n:
            continue
        i = 0
        while i < n and names[cuts[place] + i] == text[begin + i]:
            i += 1
        if i == n:
            return place
    return -1


@kernel(inline=True)
def stream_of(text, at, end):
    """(which message, place behind the name's last character) of the stream whose name begins at `at`."""
    while at < end and text[at] != _AT:
        if text[at] == _QUOTE or text[at] == _SLASH or text[at] < _BLANK or text[at] > 126:
            return _NO_STREAM, at
        at += 1
    name = at + 1
    stop = name
    while stop < end and text[stop] != _QUOTE:
        if text[stop] == _SLASH or text[stop] < _BLANK or text[stop] > 126:
            return _NO_STREAM, at
        stop += 1
    if stands(text, name, stop, _TRADE) and name + len(_TRADE) == stop:
        return _TRADES, stop
    if stands(text, name, stop, _BOOK_TICKER) and name + len(_BOOK_TICKER) == stop:
        return _TICKERS, stop
    if stands(text, name, stop, _DEPTH) and (name + len(_DEPTH) == stop or text[name + len(_DEPTH)] == _AT):
        return _DEPTHS, stop
    if stands(text, name, stop, _AGG_TRADE) and name + len(_AGG_TRADE) == stop:
        return _AGGREGATES, stop
    return _NO_STREAM, at


@kernel(inline=True)
def put_span(spans, n, k, begin, stop):
    spans[n, 2 * k], spans[n, 2 * k + 1] = begin, stop


@kernel
def take_trade(text, scratch, mark, m, spans, n, ids):
    """Fill in a trade whose id is that of key `ids`; False to leave it to the parser."""
    number, ms = number_of(text, scratch, mark, ids), number_of(text, scratch, mark, _TIME)
    if number < 0 or not has_text(text, scratch, mark, _P) or not has_text(text, scratch, mark, _Q) or scratch.seen[_M] != mark:
        return False
    if number_of(text, scratch, mark, _A_ID) == -2 or (scratch.seen[_X] == mark and not has_text(text, scratch, mark, _X)):
        return False
    maker = text[scratch.begin[_M]]
    if maker != _TRUE[0] and maker != _FALSE[0]:
        return False
    m.kind, m.venue_seq, m.ts_event_ns = TRADE, number, ms
    m.side = SELL if maker == _TRUE[0] else BUY
    put_span(spans, n, 0, scratch.begin[_P], scratch.stop[_P])
    put_span(spans, n, 1, scratch.begin[_Q], scratch.stop[_Q])
    return True


@kernel
def take_ticker(text, scratch, mark, m, spans, n):
    """Fill in a quote; False to leave it to the parser."""
    ms = number_of(text, scratch, mark, _TIME)
    if ms == -1:
        ms = number_of(text, scratch, mark, _E)
    number = number_of(text, scratch, mark, _U_LAST)
    if number < 0 or ms == -2 or number_of(text, scratch, mark, _E) == -2:
        return False
    for k in range(4):
        slot = _B if k == 0 else _BID_QTY if k == 1 else _A_ID if k == 2 else _ASK_QTY
        if not has_text(text, scratch, mark, slot):
            return False
        put_span(spans, n, k, scratch.begin[slot], scratch.stop[slot])
    m.kind, m.venue_seq, m.ts_event_ns = QUOTE, number, 0 if ms == -1 else ms
    return True


@kernel
def take_depth(text, scratch, mark, m, spans, n, futures):
    """Fill in a depth message; False to leave it to the parser."""
    first, last = number_of(text, scratch, mark, _U_FIRST), number_of(text, scratch, mark, _U_LAST)
    previous, sent = number_of(text, scratch, mark, _PU), number_of(text, scratch, mark, _E)
    ms = number_of(text, scratch, mark, _TIME)
    if first < 0 or last < first or sent < 0 or previous == -2 or ms == -2 or futures != (previous >= 0):
        return False
    for k in range(2):
        slot = _B if k == 0 else _A_ID
        if scratch.seen[slot] != mark or text[scratch.begin[slot]] != _OPEN:
            return False
        put_span(spans, n, 2 * k, scratch.begin[slot], scratch.stop[slot])
    m.kind, m.venue_seq, m.first_seq = BOOK_DELTA, last, first
    m.prev_seq = previous if futures else first - 1
    m.ts_event_ns = ms if ms >= 0 else sent
    return True


@kernel
def take_line(text, at, end, scratch, mark, m, spans, n, names, cuts, futures, guess):
    """Read one body, [at, end), into `m` and its spans; its place, or -1 to leave it to the parser."""
    if not stands(text, at, end, _STREAM):
        return -1
    which, at = stream_of(text, at + len(_STREAM), end)
    if which == _NO_STREAM or not stands(text, at, end, _DATA):
        return -1
    at = read_object(text, at + len(_DATA), end, scratch, mark)
    if at < 0 or at + 1 != end or text[at] != _END or not has_text(text, scratch, mark, _S):
        return -1
    if scratch.seen[_PS] == mark and not has_text(text, scratch, mark, _PS):
        return -1
    place = place_of(text, scratch.begin[_S] + 1, scratch.stop[_S] - 1, names, cuts, guess)
    if place < 0:
        return -1
    if which == _TRADES:
        taken = take_trade(text, scratch, mark, m, spans, n, _T_ID)
    elif which == _AGGREGATES:
        taken = scratch.seen[_T_ID] != mark and take_trade(text, scratch, mark, m, spans, n, _A_ID)
    elif which == _TICKERS:
        taken = take_ticker(text, scratch, mark, m, spans, n)
    else:
        taken = take_depth(text, scratch, mark, m, spans, n, futures)
    return place if taken else -1


@kernel(
    I64(U8, I64[::1], I64[::1], I64[::1], I64[::1], I64[::1], I64[::1], array_t(MESSAGE), I64[:, ::1], U8, I64[::1], I64, I64, I64, I64),
    deferred=True,
)
def scan_messages(text, begins, ends, times, seen, begin, stop, messages, spans, names, cuts, futures, first_line, earliest_ms, latest_ms):
    """Read what can be read of the bodies [begins, ends) of a batch of lines; returns how many were.

    `messages[i]` of line i has kind 0 where it was left to the parser, and for those that were read all but what the kernel of levels
    writes. `times` below 0 are refused lines, left to the parser too. `first_line` is the index of line 0 within the source.
    """
    scratch = Scratch(seen, begin, stop)
    taken, guess = 0, 0
    for i in range(len(begins)):
        m = messages[i]
        m.kind = 0
        if times[i] < 0:
            continue
        m.ts_event_ns = m.first_seq = m.prev_seq = m.side = m.more = 0
        m.check = _NO_CHECK
        for k in range(2 * TEXTS):
            spans[i, k] = 0
        place = take_line(text, begins[i], ends[i], scratch, first_line + i + 1, m, spans, i, names, cuts, futures != 0, guess)
        ms = m.ts_event_ns
        if place < 0 or ((ms != 0 or m.kind != QUOTE) and (ms < earliest_ms or ms >= latest_ms)):
            m.kind = 0
            continue
        m.place, m.ts_recv_ns, m.ts_event_ns, m.line = place, times[i], ms * _MS, first_line + i
        guess = place
        taken += 1
    return taken
