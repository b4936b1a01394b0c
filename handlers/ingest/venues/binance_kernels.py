"""Binance's frequent messages read by a kernel: whole batches of lines, without an object of Python's for any of them.

    {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161360000,"T":…,"s":"BTCUSDT","t":5266583935,"p":"61800.30","q":"0.006",…,"m":false}}
     └ which message                  └ keys of one or two letters, flat but for the two sides of a depth message

The kernel takes only what is written as the venue writes it: one line, no blanks, no escapes, ASCII, plain whole numbers, prices in quotes,
keys in any order. Whatever else comes, right or wrong, is left to the parser, which alone knows reasons: so the two must agree on what is
taken here, and on nothing else, and a test compares them over damaged lines.

Text is read by words of eight bytes and never past its end: a line that stands within the last bytes of the text is left, unless a word of
anything follows it. A line ends with a line break, which nothing here takes, so no word need be cut at the line's end. What all share is
borrowed: arrays handed from kernel to kernel have their references counted, atomically, and that cost more than the reading.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain.borrowed import borrow
from handlers.ingest.venues.levels import MESSAGE, SPANS
from transport.compiled import I64, array_t, kernel
from transport.records import BOOK_DELTA, BUY, QUOTE, SELL, TRADE
from transport.words import WORD_BYTES, digits_in, first_bytes, load_word, number_in, plain_in

U8 = array_t(np.dtype("u1"))
KEYS = 128  # slots by a key's one letter; those of two letters have slots below the printable ones
_OTHER, _PU, _PS = 0, 1, 2
_QUOTE, _COLON, _COMMA, _OPEN, _CLOSE, _END, _SLASH, _AT, _ZERO, _A, _Z = (ord(c) for c in '":,[]}\\@0Az')
_TRUE, _FALSE, _NULL = (np.frombuffer(w, np.uint8).copy() for w in (b"true", b"false", b"null"))
_STREAM, _STREAM_END, _DATA, _DATA_END, _TRADE, _AGG_TRADE, _BOOK_TICKER, _TICKER_END, _DEPTH = (
    np.uint64(int.from_bytes(w, "little")) for w in (b'{"stream', b'":"', b'","data"', b":{", b"trade", b"aggTrade", b"bookTick", b"er", b"depth")
)
_KEY, _KEY_MASK = np.uint64(int.from_bytes(b'"\0":', "little")), np.uint64(0xFFFF00FF)  # a key of one letter
_TRADES, _AGGREGATES, _TICKERS, _DEPTHS, _NO_STREAM = 0, 1, 2, 3, -1
_S, _P, _T_ID, _Q, _TIME, _M, _A_ID, _U_LAST, _U_FIRST, _B, _BID_QTY, _ASK_QTY, _E, _X = (ord(c) for c in "sptqTmauUbBAEX")
_MS = 10**6
_DIGITS_MAX = 18  # of a whole number: 10**18 fits
_POWERS = 10 ** np.arange(WORD_BYTES + 1)
GUESSES = 512  # places of symbols by a hash of their letters
_MIX = np.uint64(0x9E3779B97F4A7C15)
_NO_CHECK = -(2**62)


class Scratch(NamedTuple):
    """Where the values of the keys of one object stand: [begin, stop) in the text, if `seen` bears the line's mark; `number` of the whole ones."""

    seen: np.ndarray
    begin: np.ndarray
    stop: np.ndarray
    number: np.ndarray


class Symbols(NamedTuple):
    """The symbol of place p is names[cuts[p] : cuts[p + 1]]; `guesses` has the places of those that came before, by a hash of the letters."""

    names: np.ndarray
    cuts: np.ndarray
    guesses: np.ndarray


class Work(NamedTuple):
    """What `scan_messages` is given and what all it calls may need, as a tuple to be borrowed."""

    text: np.ndarray
    messages: np.ndarray
    spans: np.ndarray
    scratch: Scratch
    symbols: Symbols


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
    while at + WORD_BYTES <= len(text):
        n = plain_in(load_word(text, at))
        at += n
        if n < WORD_BYTES:
            return at + 1 if text[at] == _QUOTE else -1
    return -1


@kernel(inline=True)
def read_whole(text, at):
    """(the whole number >= 0 at `at`, place behind it); -1 for the place where there is none, or one JSON would not take."""
    start, value = at, np.int64(0)
    while at + WORD_BYTES <= len(text):
        word = load_word(text, at)
        n = digits_in(word)
        if n > 0:
            value = value * _POWERS[n] + number_in(word << np.uint64(64 - 8 * n))
        at += n
        if n < WORD_BYTES:
            taken = at - start
            return value, at if 0 < taken <= _DIGITS_MAX and (taken == 1 or text[start] != _ZERO) else -1
        if at - start > _DIGITS_MAX:
            break
    return value, -1


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


@kernel(inline=True)
def read_value(text, at, end):
    """(number or -2, place behind a value: a text, a whole number, a word, or levels); -1 for the place of any other."""
    if at >= end:
        return np.int64(-2), -1
    c = text[at]
    if c >= _ZERO and c <= _ZERO + 9:
        return read_whole(text, at)
    if c == _QUOTE:
        at = behind_text(text, at, end)
    elif c == _OPEN:
        at = behind_levels(text, at, end)
    elif stands(text, at, end, _TRUE) or stands(text, at, end, _NULL):
        at += 4
    else:
        at = at + 5 if stands(text, at, end, _FALSE) else -1
    return np.int64(-2), at


@kernel(inline=True)
def read_key(text, at, end):
    """(slot of the key that begins at `at`, place behind its colon); -1 for the place where there is none."""
    if at + WORD_BYTES <= len(text):
        word = load_word(text, at)
        c = np.int64(text[at + 1])
        if word & _KEY_MASK == _KEY and c >= _A and c <= _Z and c != _SLASH:
            return c, at + 4
    key = at + 1
    at = behind_text(text, at, end)
    if at < 0 or at >= end or text[at] != _COLON:
        return _OTHER, -1
    n = at - 1 - key
    slot = _OTHER
    if n == 1:
        slot = np.int64(text[key])
    elif n == 2 and text[key] == _P and (text[key + 1] == _U_LAST or text[key + 1] == _S):
        slot = _PU if text[key + 1] == _U_LAST else _PS
    return slot, at + 1


@kernel
def read_object(text, at, end, scratch, mark):
    """Note where the values of a flat object stand, whose `{` is behind us; place behind its `}`, or -1, also for a key that comes twice."""
    while True:
        slot, value = read_key(text, at, end)
        if value < 0 or (slot != _OTHER and scratch.seen[slot] == mark):  # a key twice
            return -1
        number, at = read_value(text, value, end)
        if at < 0 or at >= end:
            return -1
        scratch.seen[slot], scratch.begin[slot], scratch.stop[slot], scratch.number[slot] = mark, value, at, number
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
def number_of(scratch, mark, slot):
    """The whole number of a key, -1 where it is not there, -2 where it is something else."""
    return scratch.number[slot] if scratch.seen[slot] == mark else np.int64(-1)


@kernel(inline=True)
def is_name(text, begin, n, names, at):
    """The `n` bytes at `begin` are those of `names` at `at`."""
    i = 0
    while i < n and names[at + i] == text[begin + i]:
        i += 1
    return i == n


@kernel(inline=True)
def place_of(text, begin, stop, symbols):
    """Place of the symbol [begin, stop), -1 where it is not known."""
    n = stop - begin
    if n == 0 or begin + WORD_BYTES > len(text):
        return np.int64(-1)
    word = first_bytes(load_word(text, begin), min(n, WORD_BYTES)) + np.uint64(n)
    slot = np.int64((word * _MIX) >> np.uint64(55))
    names, cuts, guess = symbols.names, symbols.cuts, symbols.guesses[slot]
    if cuts[guess + 1] - cuts[guess] == n and is_name(text, begin, n, names, cuts[guess]):
        return guess
    for place in range(len(cuts) - 1):
        if cuts[place + 1] - cuts[place] == n and is_name(text, begin, n, names, cuts[place]):
            symbols.guesses[slot] = place
            return np.int64(place)
    return np.int64(-1)


@kernel(inline=True)
def stream_of(text, at, end):
    """(which message, place behind the name) of the stream whose name, in quotes, has its first at `at`."""
    stop = behind_text(text, at, end)
    while at < stop and text[at] != _AT:
        at += 1
    at += 1
    n = stop - 1 - at
    if n < 5 or at + 2 * WORD_BYTES > len(text):
        return _NO_STREAM, stop
    word = load_word(text, at)
    first = first_bytes(word, 5)
    if n == 5 and first == _TRADE:
        return _TRADES, stop
    if n == 10 and word == _BOOK_TICKER and first_bytes(load_word(text, at + WORD_BYTES), 2) == _TICKER_END:
        return _TICKERS, stop
    if first == _DEPTH and (n == 5 or text[at + 5] == _AT):
        return _DEPTHS, stop
    return _AGGREGATES if n == 8 and word == _AGG_TRADE else _NO_STREAM, stop


@kernel(inline=True)
def put_span(spans, n, k, begin, stop):
    spans[SPANS * n + 2 * k], spans[SPANS * n + 2 * k + 1] = begin, stop


@kernel
def take_trade(text, scratch, mark, m, spans, n, ids):
    """Fill in a trade whose id is that of key `ids`; False to leave it to the parser."""
    number, ms = number_of(scratch, mark, ids), number_of(scratch, mark, _TIME)
    if number < 0 or not has_text(text, scratch, mark, _P) or not has_text(text, scratch, mark, _Q) or scratch.seen[_M] != mark:
        return False
    if number_of(scratch, mark, _A_ID) == -2 or (scratch.seen[_X] == mark and not has_text(text, scratch, mark, _X)):
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
    ms = number_of(scratch, mark, _TIME)
    if ms == -1:
        ms = number_of(scratch, mark, _E)
    number = number_of(scratch, mark, _U_LAST)
    if number < 0 or ms == -2 or number_of(scratch, mark, _E) == -2:
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
    first, last = number_of(scratch, mark, _U_FIRST), number_of(scratch, mark, _U_LAST)
    previous, sent = number_of(scratch, mark, _PU), number_of(scratch, mark, _E)
    ms = number_of(scratch, mark, _TIME)
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
def take_line(text, at, end, scratch, mark, m, spans, n, symbols, futures):
    """Read one body, [at, end), into `m` and its spans; its place, or -1 to leave it to the parser."""
    if at + 2 * WORD_BYTES > len(text) or load_word(text, at) != _STREAM or first_bytes(load_word(text, at + 8), 3) != _STREAM_END:
        return -1
    which, at = stream_of(text, at + 10, end)
    if which == _NO_STREAM or at + 2 * WORD_BYTES > len(text) or load_word(text, at - 1) != _DATA or first_bytes(load_word(text, at + 7), 2) != _DATA_END:
        return -1
    at = read_object(text, at + 9, end, scratch, mark)
    if at < 0 or at + 1 != end or text[at] != _END or not has_text(text, scratch, mark, _S):
        return -1
    if scratch.seen[_PS] == mark and not has_text(text, scratch, mark, _PS):
        return -1
    place = place_of(text, scratch.begin[_S] + 1, scratch.stop[_S] - 1, symbols)
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
    I64(U8, I64[::1], I64[::1], I64[::1], I64[::1], I64[::1], I64[::1], I64[::1], array_t(MESSAGE), I64[:, ::1], U8, I64[::1], I64[::1], I64, I64, I64, I64),
    deferred=True,
)
def scan_messages(text, begins, ends, times, seen, begin, stop, number, messages, spans, names, cuts, guesses, futures, first_line, earliest_ms, latest_ms):
    """Read what can be read of the bodies [begins, ends) of a batch of lines; returns how many were.

    `messages[i]` of line i has kind 0 where it was left to the parser, and for those that were read all but what the kernel of levels
    writes. `times` below 0 are refused lines, left to the parser too. `first_line` is the index of line 0 within the source.
    """
    w = borrow(Work(text, messages, spans, Scratch(seen, begin, stop, number), Symbols(names, cuts, guesses)))
    taken = 0
    for i in range(len(begins)):
        m = w.messages[i]
        m.kind = 0
        if times[i] < 0:
            continue
        m.ts_event_ns = m.first_seq = m.prev_seq = m.side = m.more = 0
        m.check = _NO_CHECK
        for k in range(SPANS):
            w.spans[SPANS * i + k] = 0
        place = take_line(w.text, begins[i], ends[i], w.scratch, first_line + i + 1, m, w.spans, i, w.symbols, futures != 0)
        ms = m.ts_event_ns
        if place < 0 or ((ms != 0 or m.kind != QUOTE) and (ms < earliest_ms or ms >= latest_ms)):
            m.kind = 0
            continue
        m.place, m.ts_recv_ns, m.ts_event_ns, m.line = place, times[i], ms * _MS, first_line + i
        taken += 1
    return taken
