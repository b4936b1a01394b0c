"""The checks of market data, compiled: what a record is held against, per instrument, and what the line does with it.

    decoded window ──► judge: a verdict a record ──► none objects: the window as it is
                            │                    └─► rebuild: flags set, records left out, STATUS rows put in
                            └──► counts, first offenders, skew, per feed

State is one row of fixed size an instrument, whatever the feed does; nothing is allocated. A price that is objected to is not what
the next one is held against. What is believed can be wrong too, so the `confirm`-th in a row that lies off it is believed: a level
that the market really left is left by us as well.

The estimates. A scale is the exponential mean of what it is of, each value cut at CUT times the mean before it goes in,

    m += alpha (min(x, CUT max(m, 1)) - m),   alpha = 2 / (window + 1)

which is Huber's psi on an exponential mean (Huber 1964; on exponential smoothing Gelper, Fried & Croux 2010): one wild value
moves it by at most (CUT - 1) alpha of itself, and a market that is n times as wild is caught up with in ln(n) / ((CUT - 1) alpha)
records. The first `warmup` values are not judged: m is then their plain mean, without the greatest, and from the third on each is cut
likewise; for nothing is usual yet that a wild one could be told by, and one that made the mean would blind the check for thousands.
A trade at the price before is no change: were three of four such, the cut would take the mean to nothing. Of normal changes it is
E|x| = 0.7979 sigma less 0.06 %, what the cut takes; of exponential quantities the mean less 2 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.domain import reasons
from handlers.domain.borrowed import borrow
from handlers.domain.limits import PRICE_MAX
from handlers.domain.memory import copy_slot, zero_slot
from transport.compiled import kernel
from transport.records import (
    BAR, BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, HALT, QUOTE, STATUS, SUSPECT, SYNTHETIC, TRADE, TRADING, WARMUP,
)  # fmt: skip

BOUNDS, BAND, BACKWARDS, FUTURE, STALE, VOLUME, RETURNS, DUPLICATE, ID_GAP, CROSSED, LOCKED = range(11)
CHECKS = 11
OFF, FLAG, DROP, HALT_IT = range(4)  # policies
GRADE_BITS = 4  # a grade is policy << 4 | check: the greatest of several is the strictest; 0 is no objection
DROPS = DROP << GRADE_BITS  # grades from here on keep a record out
PASS, FLAGGED, DROPPED, HALTING, HALTING_KEPT, RESUMING = range(6)  # verdicts
CUT = 4.0  # times the mean; of normal changes 3.2 sigma
IDS_LEARNED = 64  # trades whose ids follow each other, before a jump is a gap
IDS_SEEN = 64  # how far behind the highest id one is known to be new or not: a bit each, as the window of RFC 4303, 3.4.3
IDS_BEHIND = 1024  # in a row further behind than that: the ids have begun again
REASON_BASE = reasons.PRICE_OUT_OF_BOUNDS  # of check 0; the others' follow in their order
CHECK_MASK = (1 << GRADE_BITS) - 1
SAMPLES = 1024  # of the skew of an instrument; from 512 on that many, evenly apart
LANES = 4  # kinds whose venue times are held against each other: trades, quotes, deltas, bars

LIMITS = np.dtype(
    [
        ("price_min", "i8"), ("price_max", "i8"),  # ticks
        ("qty_max", "i8"),  # lots
    ]
)  # fmt: skip
PARAMS = np.dtype(
    [
        ("band_bp", "i8"), ("confirm", "i8"),
        ("backwards_ns", "i8"), ("future_ns", "i8"), ("stale_ns", "i8"),
        ("volume_multiple", "f8"), ("return_multiple", "f8"), ("alpha", "f8"), ("warmup", "i8"),
        ("resume_after", "i8"),  # records without objection that end a halt; 0: only the venue's TRADING does
    ]
)  # fmt: skip
SEEN = np.dtype(
    [
        ("records", "i8"), ("trades", "i8"), ("quotes", "i8"),
        ("reference", "i8"), ("strikes", "i8"),  # half ticks believed, 0 none; records in a row outside the band
        ("trade_ticks", "i8"), ("leaps", "i8"),  # price of the trade believed last; trades in a row far from it
        ("change", "f8"), ("changes", "i8"),  # mean change of the price from trade to trade where it changed, ticks; how many
        ("volume", "f8"), ("volumes", "i8"),  # mean lots of a trade; how many
        ("change_most", "f8"), ("volume_most", "f8"),  # greatest of them in the warm-up, in neither mean
        ("id_high", "i8"), ("id_seen", "u8"), ("id_streak", "i8"), ("id_behind", "i8"), ("lost", "i8"),
        ("jump_high", "i8"), ("jump_seen", "u8"), ("jump_lost", "i8"),  # as these stood before a jump that no trade has followed yet; 0 none
        ("gap_high", "i8"),  # id before the last jump, whether or not one has followed
        ("skew_min", "i8"), ("skew_max", "i8"), ("skews", "i8"), ("stride", "i8"), ("kept", "i8"),  # ns; samples in `skews`
        ("open", "i8"),  # the instrument is within an event of several records
        ("halted", "i8"), ("clean", "i8"),  # reason of our own halt, 0 none; records since without objection
        ("flagged", "i8"), ("dropped", "i8"), ("halts", "i8"),
        ("held_on", "i8"),  # records to be dropped that passed with a flag, since the event or the book would not be whole
    ]
)  # fmt: skip
FIRST = np.dtype(
    [
        ("times", "i8"), ("row", "i8"), ("origin", "i8"), ("venue_seq", "i8"), ("ts_event_ns", "i8"), ("instrument_id", "i8"),
        ("kind", "i8"), ("value", "f8"), ("limit", "f8"),
    ]
)  # fmt: skip


class Watch(NamedTuple):
    """Everything that the checks of one feed of `n` instruments keep."""

    params: np.ndarray  # PARAMS (1,)
    policy: np.ndarray  # i8 (CHECKS,)
    limits: np.ndarray  # LIMITS (n,)
    seen: np.ndarray  # SEEN (n,)
    last_ns: np.ndarray  # i8 (n * LANES,): venue time of the record before, 0 none
    counts: np.ndarray  # i8 (n * CHECKS,)
    first: np.ndarray  # FIRST (CHECKS,)
    samples: np.ndarray  # i8 (n * SAMPLES,)


@kernel
def objected(w, check, r, row, value, limit):
    """Count what `check` has against record `r`, the feed's `row`-th, and keep the first; returns the grade: policy, then check.

    A check that is OFF counts nothing and has the grade 0.
    """
    policy = w.policy[check]
    if policy == OFF:
        return np.int64(0)
    w.counts[np.int64(r.instrument_id) * CHECKS + check] += 1
    first = w.first[check]
    first.times += 1
    if first.times == 1:
        first.row, first.origin, first.venue_seq, first.ts_event_ns = row, r.origin, r.venue_seq, r.ts_event_ns
        first.instrument_id, first.kind = r.instrument_id, r.kind
        first.value, first.limit = value, limit
    return policy << GRADE_BITS | check


@kernel(inline=True)
def fold_scale(mean, most, n, x, p):
    """(the scale, the greatest value of the warm-up) after value `x` >= 0, `n` values before it."""
    if n == 0:
        return x, x
    cut = CUT * max(mean, 1.0)
    if n >= p.warmup:
        return mean + p.alpha * (min(x, cut) - mean), most
    less = min(x, most)
    return mean + ((min(less, cut) if n > 1 else less) - mean) / n, max(x, most)


@kernel
def thin(w, here, s):
    """Keep every second sample, and from now on every second of those that would have been taken."""
    for k in range(here * SAMPLES, here * SAMPLES + SAMPLES // 2):
        w.samples[k] = w.samples[2 * k - here * SAMPLES]
    s.kept = SAMPLES // 2
    s.stride *= 2


@kernel(inline=True)
def check_times(w, s, r, row, lane):
    """Venue time against the record before and against the receive time; a record without one passes. Returns a grade, as all do."""
    event, here, p = r.ts_event_ns, np.int64(r.instrument_id), w.params[0]
    if event <= 0:
        return np.int64(0)
    skew = r.ts_recv_ns - event
    if s.skews == 0:
        s.skew_min = s.skew_max = skew
    s.skew_min, s.skew_max = min(s.skew_min, skew), max(s.skew_max, skew)
    if s.skews & (s.stride - 1) == 0:
        w.samples[here * SAMPLES + s.kept] = skew
        s.kept += 1
        if s.kept == SAMPLES:
            thin(w, here, s)
    s.skews += 1
    if skew < -p.future_ns:  # it is no time that the next one could be behind
        return objected(w, FUTURE, r, row, -skew, p.future_ns)
    before = w.last_ns[here * LANES + lane]
    w.last_ns[here * LANES + lane] = event
    grade = objected(w, STALE, r, row, skew, p.stale_ns) if skew > p.stale_ns else np.int64(0)
    if event < before - p.backwards_ns:
        grade = max(grade, objected(w, BACKWARDS, r, row, before - event, p.backwards_ns))
    return grade


@kernel(inline=True)
def outside(limits, price, lots):
    """Whether a price or a quantity is beyond its instrument's bounds."""
    return price < limits.price_min or price > limits.price_max or lots > limits.qty_max or lots < 0


@kernel(inline=True)
def untaken(price):
    """Whether no line takes the price: INGEST refuses the record, so that nothing is held against it, nor it against anything."""
    return price < -PRICE_MAX or price > PRICE_MAX


@kernel
def out_of_bounds(w, r, row, price, lots):
    """`objected` with the number that is out of bounds, and its bound."""
    limits = w.limits[np.int64(r.instrument_id)]
    if lots > limits.qty_max or lots < 0:
        return objected(w, BOUNDS, r, row, lots, limits.qty_max if lots > 0 else 0)
    return objected(w, BOUNDS, r, row, price, limits.price_min if price < limits.price_min else limits.price_max)


@kernel(inline=True)
def check_band(w, s, r, row, twice):
    """`twice` the price against the reference, which it becomes if it is near, or the `confirm`-th in a row that is not."""
    p = w.params[0]
    off = w.policy[BAND] == OFF or s.reference == 0
    if not off and abs(twice - s.reference) * 10_000 > p.band_bp * abs(s.reference):
        s.strikes += 1
        if s.strikes < p.confirm:
            return objected(w, BAND, r, row, twice * 0.5, s.reference * 0.5)
        s.trade_ticks = 0
    s.reference, s.strikes = twice, 0
    return np.int64(0)


@kernel(inline=True)
def check_trade(w, s, r, row):
    """Change and quantity of a trade against what is usual."""
    p = w.params[0]
    if s.trade_ticks != 0:
        change = np.float64(abs(r.price_ticks - s.trade_ticks))
        most = p.return_multiple * max(s.change, 1.0)
        far = w.policy[RETURNS] != OFF and s.changes >= p.warmup and change > most
        if change > 0.0:
            s.change, s.change_most = fold_scale(s.change, s.change_most, s.changes, change, p)
            s.changes += 1
        if far:
            s.leaps += 1
            if s.leaps < p.confirm:
                return objected(w, RETURNS, r, row, change, most)
    s.trade_ticks, s.leaps = r.price_ticks, 0
    lots = np.float64(r.qty_lots)
    most = p.volume_multiple * max(s.volume, 1.0)
    grade = objected(w, VOLUME, r, row, lots, most) if s.volumes >= p.warmup and lots > most else np.int64(0)
    s.volume, s.volume_most = fold_scale(s.volume, s.volume_most, s.volumes, lots, p)
    s.volumes += 1
    return grade


@kernel
def check_jumped_id(w, s, r, row):
    """A trade id that is not the next one: a gap, one that came late, one that came twice, or another count begun.

    Until a trade has followed a jump, the one that goes on from before it makes the jump a wrong id: else all behind it came twice.
    """
    number, learned = r.venue_seq, s.id_streak >= IDS_LEARNED
    ahead = number - s.id_high
    if s.id_high == 0 or not learned:
        s.id_high, s.id_seen, s.id_streak, s.id_behind, s.jump_high = number, np.uint64(1), 0, 0, 0
        return np.int64(0)
    if s.jump_high > 0 and -ahead >= IDS_SEEN and 0 < number - s.jump_high < IDS_SEEN:  # it goes on from before: the jump was a wrong id
        s.id_high, s.id_seen, s.lost = s.jump_high, s.jump_seen, s.jump_lost
        s.jump_high = 0
        ahead = number - s.id_high
    if ahead > 0:
        if s.jump_high == 0:
            s.jump_high, s.jump_seen, s.jump_lost = s.id_high, s.id_seen, s.lost
            s.gap_high = s.id_high
        s.id_seen = (s.id_seen << np.uint64(ahead)) | np.uint64(1) if ahead < IDS_SEEN else np.uint64(1)
        s.id_high, s.id_behind = number, 0
        s.lost += ahead - 1
        return objected(w, ID_GAP, r, row, ahead - 1, 0) if ahead > 1 else np.int64(0)
    if -ahead < IDS_SEEN:
        bit = np.uint64(1) << np.uint64(-ahead)
        if s.id_seen & bit == 0:  # one of those that a gap left out
            s.id_seen |= bit
            s.lost -= 1
            return np.int64(0)
    else:
        s.id_behind += 1
        if s.id_behind >= IDS_BEHIND:
            if s.jump_high > 0 or number > s.gap_high:  # what the last jump left out comes now, or none has followed it: nothing was lost by it
                s.lost = s.jump_lost
            s.id_high, s.id_streak, s.gap_high, s.jump_lost = 0, 0, 0, s.lost
    return objected(w, DUPLICATE, r, row, -ahead, 0)


@kernel(inline=True)
def check_id(w, s, r, row):
    """The trade's id, where the instrument's ids have been consecutive for IDS_LEARNED trades."""
    number = r.venue_seq
    if number == s.id_high + 1 and s.id_high > 0:
        s.id_high = number
        s.id_seen = s.id_seen << np.uint64(1) | np.uint64(1)
        s.id_streak += 1
        s.id_behind = s.jump_high = 0
        return np.int64(0)
    return check_jumped_id(w, s, r, row) if number > 0 else np.int64(0)


@kernel(inline=True)
def check_quote(w, s, r, row):
    """Bounds of both sides, else crossed or locked, and the mid against the band; a side without lots is none."""
    limits = w.limits[np.int64(r.instrument_id)]
    if r.qty_lots != 0 and outside(limits, r.price_ticks, r.qty_lots):
        return out_of_bounds(w, r, row, r.price_ticks, r.qty_lots)
    if r.ask_lots != 0 and outside(limits, r.ask_ticks, r.ask_lots):
        return out_of_bounds(w, r, row, r.ask_ticks, r.ask_lots)
    grade = np.int64(0)
    if r.qty_lots == 0 or r.ask_lots == 0:
        return grade
    if r.price_ticks > r.ask_ticks:
        grade = objected(w, CROSSED, r, row, r.price_ticks, r.ask_ticks)
    elif r.price_ticks == r.ask_ticks:
        grade = objected(w, LOCKED, r, row, r.price_ticks, r.ask_ticks)
    if grade >= DROPS or untaken(r.price_ticks) or untaken(r.ask_ticks):
        return grade
    return max(grade, check_band(w, s, r, row, r.price_ticks + r.ask_ticks))


@kernel(inline=True)
def check_print(w, s, r, row):
    """All that is asked of a trade: what an earlier check keeps out is not held against what is usual, nor makes that."""
    grade = max(check_times(w, s, r, row, 0), check_id(w, s, r, row))
    if outside(w.limits[np.int64(r.instrument_id)], r.price_ticks, r.qty_lots):
        return max(grade, out_of_bounds(w, r, row, r.price_ticks, r.qty_lots))
    if grade >= DROPS or untaken(r.price_ticks):
        return grade
    grade = max(grade, check_band(w, s, r, row, 2 * r.price_ticks))
    return max(grade, check_trade(w, s, r, row)) if s.strikes == 0 else grade


@kernel
def check_bar(w, s, r, row):
    """Venue time, and bounds of high and low."""
    limits = w.limits[np.int64(r.instrument_id)]
    grade = check_times(w, s, r, row, 3)
    if outside(limits, r.low_ticks, 0):
        return max(grade, out_of_bounds(w, r, row, r.low_ticks, 0))
    return max(grade, out_of_bounds(w, r, row, r.high_ticks, 0)) if outside(limits, r.high_ticks, 0) else grade


@kernel(inline=True)
def check_record(w, s, r, row):
    """The grade of a priced record."""
    kind = r.kind
    s.records += 1
    if kind == TRADE:
        s.trades += 1
        return check_print(w, s, r, row)
    if kind == QUOTE:
        s.quotes += 1
        return max(check_times(w, s, r, row, 1), check_quote(w, s, r, row))
    if kind == BAR:
        return check_bar(w, s, r, row)
    grade = check_times(w, s, r, row, 2) if kind == BOOK_DELTA else np.int64(0)  # rows of a snapshot bear times of long ago
    if outside(w.limits[np.int64(r.instrument_id)], r.price_ticks, r.qty_lots):
        grade = max(grade, out_of_bounds(w, r, row, r.price_ticks, r.qty_lots))
    return grade


@kernel
def verdict_of(s, r, grade):
    """(what becomes of a record that has been objected to, the reason that halts).

    A book's record is never left out, nor one that ends an event of several: what is left would be another book, another event.
    """
    kept = r.kind == BOOK_DELTA or r.kind == BOOK_SNAPSHOT or (r.flags & EVENT_END != 0 and s.open != 0)
    s.clean = 0
    policy, reason = grade >> GRADE_BITS, REASON_BASE + (grade & CHECK_MASK)
    if policy == FLAG:
        s.flagged += 1
        return FLAGGED, reason
    if kept:
        s.held_on += 1
    else:
        s.dropped += 1
    if policy == HALT_IT and s.halted == 0:
        s.halted = reason
        s.halts += 1
        return (HALTING_KEPT if kept else HALTING), reason
    return (FLAGGED if kept else DROPPED), reason


@kernel
def resumed(w, s):
    """(RESUMING, what had halted it) when a halted instrument has had as many records without objection as that takes, else PASS."""
    s.clean += 1
    if s.clean < w.params[0].resume_after or w.params[0].resume_after == 0:
        return PASS, np.int64(0)
    reason = s.halted
    s.halted = 0
    return RESUMING, reason


@kernel
def judge(owned, rows, first_row, verdicts, whys):
    """Write a verdict for each of `rows`, the feed's from `first_row` on, and its reason; returns (changed, slots of a rebuilt window).

    Records of an instrument there is not, which INGEST refuses, and of kinds without a price pass unlooked at.
    """
    w = borrow(owned)
    changed = more = np.int64(0)
    for i in range(len(rows)):
        r = rows[i]
        verdicts[i] = PASS
        if r.instrument_id >= len(w.seen) or r.kind > BAR:
            if r.kind == STATUS and r.instrument_id < len(w.seen) and r.action == TRADING:
                w.seen[np.int64(r.instrument_id)].halted = 0  # the venue begins anew
            continue
        s = w.seen[np.int64(r.instrument_id)]
        grade = check_record(w, s, r, first_row + i)
        if grade != 0 or s.halted != 0:
            verdict, reason = verdict_of(s, r, grade) if grade != 0 else resumed(w, s)
            if verdict == DROPPED or verdict == HALTING:
                verdicts[i], whys[i] = verdict, reason
                changed += 1
                more += verdict == HALTING
                continue
            if verdict != PASS:
                verdicts[i], whys[i] = verdict, reason
                changed += 1
                more += verdict == HALTING_KEPT or verdict == RESUMING
        s.open = np.int64(r.flags & EVENT_END == 0)
    return changed, len(rows) + more


@kernel
def write_status(out, r, action, reason):
    """A STATUS row of the check's own before record `r`, with its times."""
    zero_slot(out)
    out.ts_event_ns, out.ts_recv_ns = r.ts_event_ns, r.ts_recv_ns
    out.instrument_id, out.source_id, out.kind, out.parts = r.instrument_id, r.source_id, STATUS, 1
    out.flags = EVENT_END | (r.flags & (WARMUP | SYNTHETIC))
    out.action, out.reason = action, reason
    out.venue_seq, out.origin = r.venue_seq, r.origin


@kernel
def rebuild(rows, verdicts, whys, out):
    """The window as its verdicts have it; returns how many slots."""
    n = np.int64(0)
    for i in range(len(rows)):
        verdict = verdicts[i]
        if verdict >= HALTING:
            write_status(out[n], rows[i], TRADING if verdict == RESUMING else HALT, whys[i])
            n += 1
        if verdict == DROPPED or verdict == HALTING:
            continue
        copy_slot(out[n], rows[i])
        if verdict == FLAGGED or verdict == HALTING_KEPT:
            out[n].flags |= SUSPECT
        n += 1
    return n
