"""The checks of market data against plain Python over seeded streams that hold every fault: the same verdicts, counts and estimates."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from handlers.ingest.quality import TABLE, Gate, new_watch
from handlers.ingest.quality_checks import DROPPED, FLAGGED, HALTING, HALTING_KEPT, PASS, RESUMING, judge, rebuild
from tests.stages import Fields, instruments, slots
from tests.tidy.ir import code_of
from transport.records import (
    BAR, BID, BOOK_DELTA, BOOK_SNAPSHOT, EVENT_END, GAP, HALT, QUOTE, STATUS, SUSPECT, TRADE, TRADING, empty,
)  # fmt: skip

KEYS = [check.key for check in TABLE]
PARAMS = {
    "band_bp": 300, "confirm": 3, "backwards_ns": 40, "future_ns": 500, "stale_ns": 3000, "volume_multiple": 6.0,
    "return_multiple": 5.0, "warmup": 20, "resume_after": 6,
}  # fmt: skip
WINDOW, LOW, HIGH, MOST = 30, 800, 1300, 500
LEARNED, SPAN, BEHIND = 64, 64, 1024


class Plain:
    """The checks of one instrument, as a person would write them; `judged` gives the verdict of each record."""

    def __init__(self, policies: dict[str, str]) -> None:
        self.policies = policies
        self.counts: Counter[str] = Counter()
        self.believed: float | None = None  # price
        self.trade: int | None = None
        self.strikes = self.leaps = self.lost = self.clean = 0
        self.scale = {"change": (0.0, 0), "volume": (0.0, 0)}
        self.first: dict[str, list[float]] = {"change": [], "volume": []}  # of the warm-up, in order
        self.times: dict[int, int] = {}
        self.skews: list[int] = []
        self.ids: list[int] = []  # seen since they were learned or began again; the last is the highest
        self.streak = self.behind = 0
        self.before: tuple[list[int], int] | None = None  # ids and trades lost before a jump that nothing has followed
        self.open, self.halted = False, ""

    def judged(self, r: Fields) -> int:
        if r["kind"] == STATUS and r["action"] == TRADING:
            self.halted = ""
        if r["kind"] > BAR:
            return PASS
        found = [key for key in self._objections(r) if self.policies[key] != "off"]
        self.counts.update(found)
        rank = [("flag", "drop", "halt").index(self.policies[key]) for key in found]
        verdict = self._verdict(r, max(rank) if rank else -1, found, rank)
        if verdict not in (DROPPED, HALTING):
            self.open = not r["flags"] & EVENT_END
        return verdict

    def _verdict(self, r: Fields, worst: int, found: list[str], rank: list[int]) -> int:
        if worst < 0:
            self.clean += 1
            if self.halted and self.clean >= PARAMS["resume_after"]:
                self.halted = ""
                return RESUMING
            return PASS
        self.clean = 0
        kept = r["kind"] in (BOOK_DELTA, BOOK_SNAPSHOT) or (r["flags"] & EVENT_END and self.open)
        if worst == 0:
            return FLAGGED
        if worst == 2 and not self.halted:
            self.halted = max((key for key, k in zip(found, rank, strict=True) if k == 2), key=KEYS.index)
            return HALTING_KEPT if kept else HALTING
        return FLAGGED if kept else DROPPED

    def _objections(self, r: Fields) -> list[str]:
        kind = r["kind"]
        found = [] if kind == BOOK_SNAPSHOT else self._times(r)
        if kind == TRADE:
            found += self._id(r["venue_seq"])
            if not LOW <= r["price_ticks"] <= HIGH or not 0 <= r["qty_lots"] <= MOST:
                return [*found, "price_bounds"]
            if any(self.policies[key] in ("drop", "halt") for key in found):
                return found
            found += self._band(r["price_ticks"])
            return found + self._trade(r) if not self.strikes else found
        if kind == QUOTE:
            return found + self._quote(r)
        if kind == BAR:
            return found + ["price_bounds"] * (r["low_ticks"] < LOW or r["low_ticks"] > HIGH or not LOW <= r["high_ticks"] <= HIGH)
        return found + ["price_bounds"] * (not LOW <= r["price_ticks"] <= HIGH or not 0 <= r["qty_lots"] <= MOST)

    def _times(self, r: Fields) -> list[str]:
        event, found = r["ts_event_ns"], []
        if event <= 0:
            return []
        skew = r["ts_recv_ns"] - event
        self.skews.append(skew)
        if -skew > PARAMS["future_ns"]:
            return ["time_future"]
        if skew > PARAMS["stale_ns"]:
            found.append("time_stale")
        if event < self.times.get(r["kind"], 0) - PARAMS["backwards_ns"]:
            found.append("time_backwards")
        self.times[r["kind"]] = event
        return found

    def _quote(self, r: Fields) -> list[str]:
        bid, ask = (r["price_ticks"], r["qty_lots"]), (r["ask_ticks"], r["ask_lots"])
        if any(lots and (not LOW <= price <= HIGH or not 0 <= lots <= MOST) for price, lots in (bid, ask)):
            return ["price_bounds"]
        if not bid[1] or not ask[1]:
            return []
        found = ["crossed"] * (bid[0] > ask[0]) + ["locked"] * (bid[0] == ask[0])
        if any(self.policies[key] in ("drop", "halt") for key in found):
            return found
        return found + self._band((bid[0] + ask[0]) / 2)

    def _band(self, price: float) -> list[str]:
        believed = self.believed
        if believed and self.policies["price_band"] != "off" and abs(price - believed) * 10_000 > PARAMS["band_bp"] * abs(believed):
            self.strikes += 1
            if self.strikes < PARAMS["confirm"]:
                return ["price_band"]
            self.trade = None
        self.believed, self.strikes = price, 0
        return []

    def _trade(self, r: Fields) -> list[str]:
        if self.trade is not None:
            change = float(abs(r["price_ticks"] - self.trade))
            far = self.policies["returns"] != "off" and self._unusual("change", change, PARAMS["return_multiple"])
            if change > 0:
                self._fold("change", change)
            if far:
                self.leaps += 1
                if self.leaps < PARAMS["confirm"]:
                    return ["returns"]
        self.trade, self.leaps = r["price_ticks"], 0
        found = ["volume"] * self._unusual("volume", float(r["qty_lots"]), PARAMS["volume_multiple"])
        self._fold("volume", float(r["qty_lots"]))
        return found

    def _unusual(self, what: str, value: float, multiple: float) -> bool:
        mean, n = self.scale[what]
        return n >= PARAMS["warmup"] and value > multiple * max(mean, 1.0)

    def _fold(self, what: str, value: float) -> None:
        mean, n = self.scale[what]
        cut = 4.0 * max(mean, 1.0)
        if n >= PARAMS["warmup"]:
            self.scale[what] = (mean + 2.0 / (WINDOW + 1) * (min(value, cut) - mean), n + 1)
            return
        greatest = max(self.first[what], default=value)
        self.first[what].append(value)
        if n < 2:
            self.scale[what] = (min(self.first[what]), n + 1)
        else:  # the greatest waits, the lesser of it and this one counts
            self.scale[what] = (mean + (min(value, greatest, cut) - mean) / n, n + 1)

    def _id(self, number: int) -> list[str]:
        high = max(self.ids, default=0)
        if number <= 0:
            return []
        if high and number == high + 1:
            self.streak, self.behind, self.before = self.streak + 1, 0, None
            self.ids.append(number)
            return []
        if not high or self.streak < LEARNED:
            self.ids, self.streak, self.behind, self.before = [number], 0, 0, None
            return []
        if self.before and high - number >= SPAN and 0 < number - max(self.before[0]) < SPAN:
            (self.ids, self.lost), self.before = self.before, None
            high = max(self.ids)
        if number > high:
            self.before = self.before or (self.ids.copy(), self.lost)
            self.ids.append(number)
            self.behind = 0
            self.lost += number - high - 1
            return ["trade_gap"] * (number > high + 1)
        if high - number < SPAN and number not in self.ids:
            self.ids.insert(0, number)
            self.lost -= 1
            return []
        if high - number >= SPAN:
            self.behind += 1
            if self.behind >= BEHIND:
                self.ids, self.streak = [], 0
        return ["duplicate"]


# --- streams that hold every fault ----------------------------------------------------------------------------------------
def draw(rng: random.Random, rows: int) -> list[Fields]:
    """A market of one tick's steps with faults of every kind strewn in; events of one to three records."""
    price, at, number, out, within = 1000, 10_000, rng.randrange(1, 5000), [], 0
    for _ in range(rows):
        at += rng.randrange(1, 60)
        price = min(1200, max(900, price + rng.choice([-1, 0, 0, 1])))
        if rng.random() < 0.004:
            price += rng.choice([-60, 60])  # the market leaves for good
        kind = rng.choice([TRADE, TRADE, TRADE, QUOTE, QUOTE, BOOK_DELTA, BOOK_SNAPSHOT, BAR, GAP, STATUS])
        within = (within + 1) % 3 if rng.random() < 0.3 else 0
        event = at - rng.randrange(0, 30) + (rng.choice([-200, 700, -4000, -at]) if rng.random() < 0.03 else 0)
        shown = price + (rng.choice([-400, -150, -12, 12, 150, 400]) if rng.random() < 0.02 else 0)
        r: Fields = {
            "kind": kind, "ts_recv_ns": at, "ts_event_ns": event, "flags": 0 if within else EVENT_END, "source_id": 16, "parts": 1,
            "price_ticks": shown, "qty_lots": rng.choice([0, 1, 2, 5, 9, 600, 90]) if rng.random() < 0.05 else rng.randrange(1, 12),
            "side": BID, "action": rng.choice([0, TRADING, HALT]) if kind == STATUS else 0,
        }  # fmt: skip
        if kind == TRADE:
            number += rng.choice([3, 70, -1, -5, -90]) if rng.random() < 0.01 else 1
            r["venue_seq"] = rng.choice([0, number + 10**15, number + 70, number + 5]) if rng.random() < 0.008 else number
        elif kind == QUOTE:
            r |= {"ask_ticks": shown + rng.choice([-1, 0, 2, 2, 2, 2]), "ask_lots": rng.choice([0, 4, 4, 4])}
        elif kind == BAR:
            del r["price_ticks"], r["qty_lots"]
            r |= {"low_ticks": shown - 3, "high_ticks": shown + 3}
        out.append(r)
    return out


def rows_of(records: list[Fields]) -> np.ndarray:
    """Slots of several kinds: each record's own fields alone, for those of different kinds overlap."""
    out = empty(len(records))
    for row, record in zip(out, records, strict=True):
        for name, value in record.items():
            row[name] = value
    return out


def watch_of(policies: dict[str, str], count: int = 1) -> Any:
    watch = new_watch(count, policies, PARAMS, WINDOW)
    watch.limits["price_min"], watch.limits["price_max"], watch.limits["qty_max"] = LOW, HIGH, MOST
    return watch


def draw_policies(rng: random.Random) -> dict[str, str]:
    return {key: rng.choice(["flag", "flag", "drop", "halt", "off"]) for key in KEYS}


@pytest.mark.parametrize("case", range(6))
def test_every_verdict_is_that_of_plain_python(case: int, seed: int) -> None:
    rng = random.Random(seed * 100 + case)
    policies = dict.fromkeys(KEYS, "flag") if case == 0 else draw_policies(rng)
    records = draw(rng, 4000)
    watch, plain = watch_of(policies), Plain(policies)
    verdicts, whys = np.zeros(len(records), np.uint8), np.zeros(len(records), np.uint16)
    judge(watch, rows_of(records), 0, verdicts, whys)
    for n, r in enumerate(records):
        halted = plain.halted
        due = plain.judged(r)
        assert (n, int(verdicts[n])) == (n, due)
        if due >= HALTING:
            reason = TABLE[KEYS.index(halted if due == RESUMING else plain.halted)].reason
            assert whys[n] == reason, n
    assert dict(zip(KEYS, watch.counts.tolist(), strict=True)) == {key: plain.counts[key] for key in KEYS}
    seen = watch.seen[0]
    assert (seen["change"], seen["changes"]) == plain.scale["change"]
    assert (seen["volume"], seen["volumes"]) == plain.scale["volume"]
    assert seen["lost"] == plain.lost
    assert (seen["skew_min"], seen["skew_max"], seen["skews"]) == (min(plain.skews), max(plain.skews), len(plain.skews))
    step = int(seen["stride"])
    assert watch.samples[: int(seen["kept"])].tolist() == plain.skews[::step]
    assert 512 <= seen["kept"] < 1024
    if case == 0:
        assert all(plain.counts[key] for key in KEYS), plain.counts  # every check had something to object to


def test_how_a_feed_is_cut_into_windows_does_not_show(seed: int) -> None:
    rng = random.Random(seed)
    policies, records = draw_policies(rng), rows_of(draw(rng, 3000))
    whole = Gate(watch_of(policies), instruments(1))
    due = b"".join(rows.tobytes() for rows in whole.sift(iter([records]), 5000))
    cuts = sorted(rng.sample(range(3000), 20))
    pieces = [records[a:b] for a, b in zip([0, *cuts], [*cuts, 3000], strict=True)]
    other = Gate(watch_of(policies), instruments(1))
    assert b"".join(rows.tobytes() for rows in other.sift(iter(pieces), rng.randrange(1, 400))) == due
    assert all(np.array_equal(a, b) for a, b in zip(whole.watch, other.watch, strict=True))


def test_a_rebuilt_window_holds_the_records_that_stay_and_a_status_for_each_halt(seed: int) -> None:
    rng = random.Random(seed)
    records = rows_of(draw(rng, 2000))
    watch = watch_of(draw_policies(rng))
    verdicts, whys = np.zeros(2000, np.uint8), np.zeros(2000, np.uint16)
    _, room = judge(watch, records, 0, verdicts, whys)
    out = empty(int(room))
    made = [r.tobytes() for r in out[: int(rebuild(records, verdicts, whys, out))]]
    at = 0
    for r, verdict in zip(records, verdicts, strict=True):
        if verdict >= HALTING:
            status = out[at]
            assert (status["kind"], status["flags"], status["ts_recv_ns"]) == (STATUS, EVENT_END, r["ts_recv_ns"])
            assert status["action"] == (TRADING if verdict == RESUMING else HALT)
            at += 1
        if verdict in (DROPPED, HALTING):
            continue
        marked = slots([{}])
        marked.view(np.uint8)[:] = np.frombuffer(r.tobytes(), np.uint8)
        marked["flags"] |= SUSPECT if verdict in (FLAGGED, HALTING_KEPT) else 0
        assert made[at] == marked.tobytes()
        at += 1
    assert at == len(made)


def test_the_scale_of_normal_changes_is_their_mean_less_what_the_cut_takes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prices = 10**9 + np.cumsum(np.rint(rng.normal(0, 1000, 60_000))).astype(np.int64)
    usual = {"kind": TRADE, "flags": EVENT_END, "ts_recv_ns": 1, "ts_event_ns": 1, "qty_lots": 1, "parts": 1}
    watch = new_watch(1, dict.fromkeys(KEYS, "off"), {**PARAMS, "warmup": 200}, 20_000)
    rows = slots([{**usual, "price_ticks": int(p)} for p in prices])
    judge(watch, rows, 0, np.zeros(len(rows), np.uint8), np.zeros(len(rows), np.uint16))
    assert watch.seen[0]["change"] == pytest.approx(797.9, rel=0.03)


def test_one_wild_trade_moves_the_scale_by_three_alphas() -> None:
    usual = {"kind": TRADE, "flags": EVENT_END, "ts_recv_ns": 1, "ts_event_ns": 1, "qty_lots": 10, "parts": 1, "price_ticks": 100}
    watch = new_watch(1, dict.fromkeys(KEYS, "off"), PARAMS, WINDOW)
    rows = slots([usual] * 50 + [{**usual, "qty_lots": 10**12}])
    judge(watch, rows, 0, np.zeros(51, np.uint8), np.zeros(51, np.uint16))
    assert watch.seen[0]["volume"] == pytest.approx(10 * (1 + 3 * 2 / 31))


@pytest.mark.parametrize("at", [0, 1, 50])
def test_one_wild_trade_before_anything_is_usual_does_not_make_the_scale(at: int) -> None:
    lots = [10, 12] * 60
    lots[at] = 10**12
    watch = new_watch(1, dict.fromkeys(KEYS, "off"), PARAMS | {"warmup": 100}, WINDOW)
    usual = {"kind": TRADE, "flags": EVENT_END, "ts_recv_ns": 1, "ts_event_ns": 1, "parts": 1, "price_ticks": 100}
    judge(watch, slots([{**usual, "qty_lots": n} for n in lots]), 0, np.zeros(120, np.uint8), np.zeros(120, np.uint16))
    assert 10 <= watch.seen[0]["volume"] <= 12


def looked_at(records: list[Fields], limits: tuple[int, ...] = (), **policies: str) -> tuple[Any, list[int]]:
    """Records without a fault but the one planted, through the checks as they are by default: what these know then, and verdicts."""
    usual = {"flags": EVENT_END, "ts_recv_ns": 1, "ts_event_ns": 1, "parts": 1, "qty_lots": 5}
    watch = new_watch(1, {**dict.fromkeys(KEYS, "flag"), **policies}, PARAMS, WINDOW)
    if limits:
        watch.limits[0] = limits
    verdicts = np.zeros(len(records), np.uint8)
    judge(watch, rows_of([{**usual, **r} for r in records]), 0, verdicts, np.zeros(len(records), np.uint16))
    return watch, verdicts.tolist()


@pytest.mark.parametrize("wrong", [10**15, 7_000, 1])
def test_one_wrong_trade_id_costs_no_trade_behind_it(wrong: int) -> None:
    trades = [{"kind": TRADE, "price_ticks": 100, "venue_seq": 5000 + n} for n in range(400)]
    trades[200]["venue_seq"] = wrong
    watch, verdicts = looked_at(trades, duplicate="drop")
    assert [n for n, verdict in enumerate(verdicts) if verdict == DROPPED] == ([200] if wrong == 1 else [])
    assert verdicts[202:] == [PASS] * 198
    assert watch.seen[0]["lost"] == 1, "that of the trade which bore it"


@pytest.mark.parametrize("price", [10**16, -(10**16), 2**61, 2**41])
def test_a_price_that_no_line_takes_is_not_what_the_next_is_held_against(price: int) -> None:
    """INGEST refuses it. Ten thousand times its distance is more than an integer holds."""
    trades = [{"kind": TRADE, "price_ticks": price if n == 30 else 100} for n in range(40)]
    quotes = [{"kind": QUOTE, "price_ticks": price if n == 30 else 100, "ask_ticks": price + 2 if n == 30 else 102, "ask_lots": 5} for n in range(40)]
    for records in (trades, quotes):
        watch, verdicts = looked_at(records, price_band="drop", price_bounds="drop")
        assert verdicts == [PASS] * 40
        assert watch.seen[0]["reference"] in (200, 202)


def test_a_quantity_below_nothing_is_out_of_bounds_and_in_no_mean() -> None:
    watch, verdicts = looked_at([{"kind": TRADE, "price_ticks": 100, "qty_lots": -(10**15) if n == 30 else 5} for n in range(40)])
    assert verdicts == [FLAGGED if n == 30 else PASS for n in range(40)]
    assert watch.seen[0]["volume"] == 5.0


def test_a_quote_out_of_bounds_is_not_what_the_next_is_held_against() -> None:
    quotes = [{"kind": QUOTE, "price_ticks": price, "ask_ticks": price + 2, "ask_lots": 5} for price in (3000, 1000, 1000)]
    assert looked_at(quotes, (0, 2000, 10))[1] == [FLAGGED, PASS, PASS]


@pytest.mark.parametrize("compiled", [judge, rebuild], ids=lambda k: k.__name__)
def test_the_kernels_take_no_memory_and_no_liberty_with_floats(compiled: object) -> None:
    gate = Gate(watch_of(dict.fromkeys(KEYS, "drop")), instruments(1))
    assert sum(map(len, gate.sift(iter([rows_of(draw(random.Random(1), 500))]), 500))) < 500
    code = code_of(compiled)
    assert code.foreign() <= {"NRT_incref", "NRT_decref"}
    assert not code.flags
