"""Features of events beside their definitions in plain Python, which look at whole windows and remember nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from handlers.features.catalogue import MICROSTRUCTURE
from handlers.features.declare import LEVELS_MAX, ON_BOOK, ON_GAP, ON_TRADE
from handlers.features.feature_set import FeatureSet
from tests.events import Events, random_events, still_events
from transport.records import BUY, NO_SIDE

Row = list[float] | None
Oracle = Callable[..., list[Row]]
NS_PER_MS = 10**6


def side_of(x: Any) -> int:
    if x["side"] == NO_SIDE:
        return int(np.sign(x["price"] - x["mid"])) if x["mid"] == x["mid"] else 0
    return 1 if x["side"] == BUY else -1


def known(x: Any) -> bool:
    return not math.isnan(x["mid"])


def books(events: Events) -> list[list[int]]:
    """For each event, the places of the events of the book up to it since the book was last not known; [] while it is not."""
    out: list[list[int]] = []
    run: list[int] = []
    for k, x in enumerate(events):
        run = [] if not known(x) else [*run, k] if x["kind"] == ON_BOOK else run
        out.append(run)
    return out


def levels_of(x: Any, side: str, count: int) -> list[tuple[float, float]]:
    return [(float(p), float(q)) for p, q in zip(x[f"{side}_ticks"][:count], x[f"{side}_lots"][:count], strict=True) if q > 0]


def microprice(events: Events, levels: int, decay: float) -> list[Row]:
    out: list[Row] = []
    for x in events:
        pairs = list(zip(levels_of(x, "bid", levels), levels_of(x, "ask", levels), strict=False))
        top = math.fsum(decay**j * (b * qa + a * qb) for j, ((b, qb), (a, qa)) in enumerate(pairs))
        under = math.fsum(decay**j * (qa + qb) for j, ((_, qb), (_, qa)) in enumerate(pairs))
        out.append([top / under] if known(x) else None)
    return out


def imbalance(events: Events, levels: int, decay: float) -> list[Row]:
    out: list[Row] = []
    for x in events:
        bids, asks = (math.fsum(decay**j * q for j, (_, q) in enumerate(levels_of(x, s, levels))) for s in ("bid", "ask"))
        out.append([(bids - asks) / (bids + asks)] if known(x) else None)
    return out


def slope(events: Events, levels: int) -> list[Row]:
    out: list[Row] = []
    for x in events:
        sides = []
        for side in ("bid", "ask") if known(x) else ():
            rows = levels_of(x, side, levels)
            v = [math.log(1 + sum(q for _, q in rows[: j + 1])) for j in range(len(rows))]
            p = [price for price, _ in rows]
            terms = [v[0] / abs(p[0] / x["mid"] - 1)]
            terms += [(v[j + 1] / v[j] - 1) / abs(p[j + 1] / p[j] - 1) for j in range(len(rows) - 1)]
            sides.append(sum(terms) / len(rows))
        out.append([sum(sides) / 2, *sides] if sides else None)
    return out


def flow_between(before: Any, after: Any, level: int) -> float:
    """The paper's case by case: a better price adds its whole queue, a worse one takes the old one away, the same the difference."""
    found = 0.0
    for side, sign in (("bid", 1), ("ask", -1)):
        (old, had), (new, has) = ((x[f"{side}_ticks"][level] * sign, x[f"{side}_lots"][level]) for x in (before, after))
        if had == 0 or has == 0:
            found += sign * (has - had)
        elif new > old:
            found += sign * has
        elif new < old:
            found -= sign * had
        else:
            found += sign * (has - had)
    return float(found)


def flows(events: Events, period: int, levels: int = 1, decay: float | None = None) -> list[Row]:
    out: list[Row] = []
    for run in books(events):
        pairs = list(zip(run[-period - 1 : -1], run[-period:], strict=True)) if len(run) > period else []
        sums = [math.fsum(flow_between(events[a], events[b], j) for a, b in pairs) for j in range(levels)]
        if decay is not None:
            sums = [math.fsum(decay**j * v for j, v in enumerate(sums)), *sums, *[0.0] * (LEVELS_MAX - levels)]
        out.append(sums if pairs else None)
    return out


def traded(events: Events, period: int, window_ms: int) -> list[Row]:
    out: list[Row] = []
    span, first = window_ms * NS_PER_MS, int(events["ts_ns"][0])
    for k, x in enumerate(events):
        all_of = [e for e in events[: k + 1] if e["kind"] == ON_TRADE]
        full = len(all_of) >= period or (span and int(x["ts_ns"]) - first >= span)
        if span:  # the n last, of which those that are old have left before a newer one came in their place
            all_of = all_of[-period:]
            all_of = [e for e in all_of if x["ts_ns"] - e["ts_ns"] < span]
        all_of = all_of[-period:]
        lots = sum(e["qty"] for e in all_of)
        out.append([sum(side_of(e) * e["qty"] for e in all_of) / lots if lots else 0.0] if full else None)
    return out


def bucketed(events: Events, bucket: int, period: int, bulk: int) -> list[Row]:
    """Every lot by itself: its price and side, cut into buckets."""
    out: list[Row] = []
    lots: list[tuple[float, float]] = []
    interrupted: set[int] = set()  # buckets that a gap stands in or right before
    for x in events:
        if x["kind"] == ON_GAP:
            interrupted.add(len(lots) // bucket)
        if x["kind"] == ON_TRADE:
            lots += [(0.5 + 0.5 * side_of(x), float(x["price"]))] * int(x["qty"])
        whole = len(lots) // bucket
        bought = [math.fsum(share for share, _ in lots[b * bucket : (b + 1) * bucket]) for b in range(whole)]
        last = [lots[(b + 1) * bucket - 1][1] for b in range(whole)]
        if bulk:
            change = [0.0 if b == 0 or b in interrupted else last[b] - last[b - 1] for b in range(whole)]
            bought = []
            for b in range(whole):
                recent = change[b - period + 1 : b + 1] if b + 1 >= period else []
                sigma = float(np.std(recent)) if recent else 0.0
                bought.append(bucket * NormalDist().cdf(change[b] / sigma) if sigma > 1e-12 else bucket / 2)
        ready = whole >= (2 * period - 1 if bulk else period)
        out.append([math.fsum(abs(2 * b - bucket) for b in bought[-period:]) / (period * bucket)] if ready else None)
    return out


def intensity(events: Events, half_life_ms: float) -> list[Row]:
    rate = math.log(2) * 1000 / half_life_ms
    out: list[Row] = []
    for k, x in enumerate(events):
        past = [(math.exp(-rate * int(x["ts_ns"] - e["ts_ns"]) / 1e9), side_of(e)) for e in events[: k + 1] if e["kind"] == ON_TRADE]
        out.append([rate * math.fsum(w for w, s in past if s in of) for of in ((-1, 0, 1), (1,), (-1,))])
    return out


def variance(events: Events, period: int, sample_ms: int) -> list[Row]:
    out: list[Row] = []
    ended: dict[int, float] = {}  # interval -> its last mid
    steps: list[float] = []
    for x in events:
        if x["kind"] == ON_GAP:
            ended, steps = {}, []
        if sample_ms:
            now = int(x["ts_ns"]) // (sample_ms * NS_PER_MS)
            mids = []
            if ended:
                for k in range(min(ended), now):
                    mids.append(ended.get(k, mids[-1] if mids else math.nan))
            if known(x):
                ended[now] = float(x["mid"])
        else:
            if known(x) and x["kind"] == ON_BOOK:
                steps.append(float(x["mid"]))
            mids = steps
        r = np.diff(np.log(mids[-period - 1 :])) if len(mids) > period else None
        if r is None:
            out.append(None)
            continue
        rv, bv = math.fsum(r**2), math.pi / 2 * math.fsum(abs(r[1:]) * abs(r[:-1]))
        out.append([rv, bv, max(rv - bv, 0.0)])
    return out


def kyle(events: Events, period: int, trades: int) -> list[Row]:
    out: list[Row] = []
    seen: list[tuple[float, float]] = []
    mid: float | None = None
    found: list[Any] = []
    for x in events:
        if not known(x):
            mid = None
        elif x["kind"] == ON_TRADE:
            found.append(x)
        elif mid is None or len(found) >= trades:
            if mid is not None:
                seen.append((sum(side_of(e) * e["qty"] for e in found), float(x["mid"]) - mid))
            mid, found = float(x["mid"]), []
        if len(seen) < period:
            out.append(None)
            continue
        lots, change = np.array(seen[-period:]).T
        lots, change = lots - lots.mean(), change - change.mean()
        xx, yy, xy = (lots**2).sum(), (change**2).sum(), (lots * change).sum()
        out.append([xy / xx if xx > 1e-9 else 0.0, xy**2 / (xx * yy) if xx > 1e-9 and yy > 1e-9 else 0.0])
    return out


def roll(events: Events, period: int) -> list[Row]:
    out: list[Row] = []
    prices: list[float] = []
    pairs: list[tuple[float, float]] = []
    for x in events:
        if x["kind"] == ON_GAP:
            prices = []
        if x["kind"] == ON_TRADE:
            prices = [*prices[-2:], float(x["price"])]
            if len(prices) == 3:
                pairs.append((prices[2] - prices[1], prices[1] - prices[0]))
        if len(pairs) < period:
            out.append(None)
            continue
        a, b = ([Fraction(pair[k]) for pair in pairs[-period:]] for k in range(2))  # exact: the root of a rounding error is none
        covariance = sum(x * y for x, y in zip(a, b, strict=True)) / period - sum(a) * sum(b) / period**2
        out.append([2 * math.sqrt(max(-covariance, 0))])
    return out


def effective(events: Events, period: int) -> list[Row]:
    out: list[Row] = []
    paid: list[float] = []
    for x in events:
        if x["kind"] == ON_TRADE and known(x) and side_of(x):
            paid.append(2 * side_of(x) * float(x["price"] - x["mid"]))
        out.append([math.fsum(paid[-period:]) / period] if len(paid) >= period else None)
    return out


def realised(events: Events, period: int, delay_ms: int) -> list[Row]:
    """For every trade the last event at most `delay_ms` later, known once there is a later one."""
    out: list[Row] = []
    ts = events["ts_ns"]
    due = [(k, int(np.searchsorted(ts, ts[k] + delay_ms * NS_PER_MS, side="right"))) for k, x in enumerate(events)
           if x["kind"] == ON_TRADE and known(x) and side_of(x)]  # fmt: skip
    for now in range(len(events)):
        done = [(events[k], float(events["mid"][end - 1])) for k, end in due if end <= now]
        done = [(x, later) for x, later in done if not math.isnan(later)][-period:]
        gain = [2 * side_of(x) * (float(x["price"]) - later) for x, later in done]
        moved = [2 * side_of(x) * (later - float(x["mid"])) for x, later in done]
        out.append([math.fsum(gain) / period, math.fsum(moved) / period] if len(done) >= period else None)
    return out


def recovered(events: Events, levels: int, target: float, timeout_ms: int, period: int) -> list[Row]:
    """Each episode looked for from its trade on, one side after the other."""
    ended: list[tuple[int, int, float, float]] = []  # event at which it ended, side, share, ms
    depth = {s: [sum(q for _, q in levels_of(x, s, levels)) for x in events] for s in ("bid", "ask")}
    for place, (side, taken_by) in enumerate((("bid", -1), ("ask", 1))):
        k = 0
        while k < len(events):
            x, d = events[k], depth[side]
            k += 1
            if not (x["kind"] == ON_TRADE and known(x) and side_of(x) == taken_by):
                continue
            low = before = d[k - 1]
            for j in range(k, len(events)):
                late = int(events["ts_ns"][j] - x["ts_ns"])
                if not known(events[j]):
                    k = j
                    break
                if late > timeout_ms * NS_PER_MS:
                    if low < before:
                        ended.append((j, place, min(1.0, (d[j - 1] - low) / (before - low)), timeout_ms))
                    k = j  # whose own trade may begin the next
                    break
                low = min(low, d[j])
                if low < d[j] and d[j] - low >= target * (before - low) and low < before:
                    ended.append((j, place, min(1.0, (d[j] - low) / (before - low)), late / NS_PER_MS))
                    k = j
                    break
            else:
                break
    ended.sort(key=lambda e: e[:2])
    out: list[Row] = []
    for now, x in enumerate(events):
        recent = [e[2:] for e in ended if e[0] <= now][-period:]
        full = len(recent) >= period and known(x)
        out.append([math.fsum(v) / period for v in zip(*recent, strict=True)] if full else None)
    return out


# feature -> (its definition, sets of parameters)
ORACLES: dict[str, tuple[Oracle, list[dict[str, float]]]] = {
    "microprice_levels": (microprice, [{"levels": 1, "decay": 1.0}, {"levels": 10, "decay": 0.5}]),
    "queue_imbalance": (imbalance, [{"levels": 1, "decay": 1.0}, {"levels": 10, "decay": 0.7}]),
    "book_slope": (slope, [{"levels": 1}, {"levels": 10}]),
    "order_flow": (flows, [{"period": 1}, {"period": 7}]),
    "order_flow_levels": (flows, [{"levels": 10, "decay": 0.8, "period": 5}, {"levels": 3, "decay": 1.0, "period": 1}]),
    "trade_imbalance": (traded, [{"period": 9, "window_ms": 0}, {"period": 40, "window_ms": 300}, {"period": 4, "window_ms": 100}]),
    "vpin": (bucketed, [{"bucket": 50, "period": 5, "bulk": 0}, {"bucket": 7, "period": 4, "bulk": 0}, {"bucket": 20, "period": 6, "bulk": 1}]),
    "trade_intensity": (intensity, [{"half_life_ms": 100.0}]),
    "realised_variance": (variance, [{"period": 5, "sample_ms": 100}, {"period": 20, "sample_ms": 15}, {"period": 8, "sample_ms": 0}]),
    "kyle_lambda": (kyle, [{"period": 10, "trades": 3}, {"period": 2, "trades": 1}]),
    "roll_spread": (roll, [{"period": 12}]),
    "effective_spread": (effective, [{"period": 6}]),
    "realised_spread": (realised, [{"period": 6, "delay_ms": 100}, {"period": 1, "delay_ms": 1}]),
    "resilience": (
        recovered,
        [{"levels": 5, "target": 0.9, "timeout_ms": 200, "period": 3}, {"levels": 1, "target": 0.3, "timeout_ms": 60, "period": 1}],
    ),
}  # fmt: skip


def test_every_feature_of_events_has_a_definition_of_its_own() -> None:
    assert set(ORACLES) == {f.name for f in MICROSTRUCTURE}


@pytest.mark.parametrize("name", ORACLES)
def test_values_are_those_of_the_definition(name: str, seed: int) -> None:
    oracle, sets = ORACLES[name]
    for params in sets:
        for gaps, missed in ((0.0, 0.0), (0.04, 0.0), (0.0, 0.02)):
            events = random_events(seed, 250, gaps=gaps, missed=missed)
            made = FeatureSet([(name, params)], MICROSTRUCTURE).batch(events)
            due = np.array([np.full(made.shape[1], np.nan) if row is None else row for row in oracle(events, **params)])
            assert (np.isnan(made) == np.isnan(due)).all(), (params, gaps, np.flatnonzero((np.isnan(made) != np.isnan(due)).any(axis=1))[:5])
            assert missed or np.isfinite(made).any(), params
            gone = np.isnan(due)
            assert made[~gone] == pytest.approx(due[~gone], rel=1e-9, abs=1e-16 if name == "realised_variance" else 1e-9), (params, gaps)


def test_every_feature_has_a_value_in_the_end_with_its_own_parameters(seed: int) -> None:
    made = FeatureSet([(f.name, {}) for f in MICROSTRUCTURE], MICROSTRUCTURE)
    last = made.batch(random_events(seed, 8000, step_ms=50.0))[-1]
    assert np.isfinite(last).all(), [c.name for c, v in zip(made.columns, last, strict=True) if not np.isfinite(v)]


def test_what_an_outlier_leaves_behind_in_a_window_is_nothing(seed: int) -> None:
    wanted = [("realised_variance", {"period": 50, "sample_ms": 0}), ("roll_spread", {"period": 50}), ("effective_spread", {"period": 50}),
              ("kyle_lambda", {"period": 50, "trades": 1}), ("order_flow", {"period": 50}), ("trade_imbalance", {"period": 50})]  # fmt: skip
    events = random_events(seed, 200_000)
    wild = events.copy()
    for name in ("price", "mid"):
        wild[name][1000:1030] *= 1e6
    for name in ("qty", "bid_lots", "ask_lots"):
        wild[name][1000:1030] *= 1e12
    for name, params in wanted:
        made = FeatureSet([(name, params)], MICROSTRUCTURE)
        plain, after = made.batch(events), made.batch(wild)
        assert (plain[1000:1100] != after[1000:1100]).any(axis=0).all(), name  # it was there
        assert np.allclose(plain[2000:], after[2000:], rtol=1e-13, atol=0.0), name
        again = made.batch(events[-2000:])  # as exact after 200,000 events as after 2,000
        assert np.allclose(plain[-1], again[-1], rtol=1e-12, atol=1e-15), name


def test_a_market_that_never_moves_has_the_values_that_the_declarations_state(seed: int) -> None:
    still = still_events(seed, 4000)
    last = {f.name: FeatureSet([(f.name, {})], MICROSTRUCTURE).batch(still)[-1].tolist() for f in MICROSTRUCTURE}
    assert last["order_flow"] == [0.0] and last["order_flow_levels"] == [0.0] * 11
    assert last["kyle_lambda"] == [0.0, 0.0] and last["roll_spread"] == [0.0] and last["effective_spread"] == [0.0]
    assert last["realised_spread"] == [0.0, 0.0]
    flat = FeatureSet([("realised_variance", {"period": 20})], MICROSTRUCTURE).batch(still)[-1].tolist()
    assert flat == [0.0, 0.0, 0.0]


def test_one_trade_of_many_buckets_is_the_same_as_many_trades_of_one() -> None:
    events = random_events(1, 40, trades=1.0)
    events["qty"], events["side"] = 30.0, BUY
    events["qty"][10] = 30.0 * 1e9
    vpin = FeatureSet([("vpin", {"bucket": 30, "period": 20})], MICROSTRUCTURE).batch(events)[:, 0]
    assert np.isnan(vpin[:10]).all() and (vpin[10:] == 1.0).all()


@pytest.mark.parametrize(("name", "params"), [("realised_variance", {"period": 2, "sample_ms": 0}), ("roll_spread", {"period": 2})])
def test_what_moved_in_a_gap_is_no_return(name: str, params: dict[str, float]) -> None:
    """The market is 1,000 ticks higher behind the gap; else it moves by one tick up and one down."""
    events = random_events(3, 24, trades=0.0)
    events["kind"][1::2] = ON_TRADE
    for column, moves in (("mid", (0, 1)), ("price", (0, 1))):
        events[column] = 10_000.0 + np.resize(np.repeat(moves, 2), 24) + 1000.0 * (np.arange(24) > 12)
    events["kind"][12], events["mid"][12] = ON_GAP, np.nan
    made = FeatureSet([(name, params)], MICROSTRUCTURE).batch(events)[:, 0]
    assert np.isfinite(made[-1]) and np.nanmax(made) < (1e-7 if name == "realised_variance" else 3.0)
    events["kind"][12], events["mid"][12] = ON_TRADE, events["mid"][11]
    assert np.nanmax(FeatureSet([(name, params)], MICROSTRUCTURE).batch(events)[:, 0]) > (1e-3 if name == "realised_variance" else 20.0)


def test_of_trades_that_wait_for_their_later_mid_only_so_many_are_kept() -> None:
    events = random_events(2, 400, trades=0.5, step_ms=1.0)
    events["side"] = BUY
    rows = [FeatureSet([("realised_spread", {"period": 1, "delay_ms": 50, "waiting": n})], MICROSTRUCTURE).batch(events) for n in (1, 1000)]
    first = [int(np.argmin(np.isnan(r[:, 0]))) for r in rows]
    changes = [int((np.diff(r[first[0] :, 1]) != 0).sum()) for r in rows]
    assert first[0] == first[1]
    assert 3 <= changes[0] < changes[1] / 4, changes
