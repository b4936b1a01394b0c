"""Cross-section factors against a few lines of plain Python that see only what was known: the same floats to the last bit."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from handlers.features.cross_section import (
    correlation, median, new_scratch, ordered_key, ranks, robust_z, select,
)  # fmt: skip
from handlers.features.factor_panel import PanelScores, rank_ic, rank_ics, score_panel, spread, spreads, step_panel
from handlers.features.factors import HIGH, LIQUIDITY, LOW_VOLATILITY, MOMENTUM, RANK, REVERSAL, Z_SCORE, new_factors, step_factors
from tests.tidy.ir import code_of
from transport.compiled import kernel

NAN = math.nan
WINDOWS = {"momentum": 4, "skip": 1, "reversal": 2, "volatility": 5, "liquidity": 3, "high": 6}
BOUND, SHARE_MIN = 2.0, 0.5
WEIGHTS = (1.0, -0.5, 0.25, 2.0, 1.5)
Panel = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


# --- the oracle -----------------------------------------------------------------------------------------------------------
def total(values: list[float]) -> float:
    out = 0.0  # in order: sum() of later Pythons compensates
    for value in values:
        out += value
    return out


def change(new: float, old: float) -> float:
    return new / old - 1.0


def plain_median(values: list[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) * 0.5


def plain_z(values: list[float], bound: float) -> list[float]:
    known = [v for v in values if v == v]
    if not known:
        return values
    centre = plain_median(known)
    offs = [abs(v - centre) for v in known]
    scale = 1.482602218505602 * plain_median(offs) or 1.2533141373155001 * (total(offs) / len(offs))
    return [v if v != v else min(max((v - centre) / scale if scale else 0.0, -bound), bound) for v in values]


def plain_ranks(values: list[float]) -> list[float]:
    known = [v for v in values if v == v]
    return [v if v != v else sum(u < v for u in known) + (1 + known.count(v)) / 2 for v in values]


def plain_neutral(values: list[float], groups: list[int]) -> list[float]:
    out = []
    for value, group in zip(values, groups, strict=True):
        fellows = [v for v, g in zip(values, groups, strict=True) if g == group and v == v]
        out.append(value - total(fellows) / len(fellows) if value == value else NAN)
    return out


def plain_raw(panel: Panel, t: int, i: int, holes: int) -> list[float]:
    """The five factors of instrument `i` from bars 0..t alone."""
    w = WINDOWS
    closes = [float(c) for c in panel[0][: t + 1, i]]
    ends = [c for c, end in zip(closes, panel[3], strict=False) if end]
    returns = [NAN] + [change(b, a) for a, b in pairwise(closes)]
    impacts = [abs(r) / v * 1e6 for r, v in zip(returns, panel[1][: t + 1, i].tolist(), strict=True)]
    if not panel[2][t, i] or closes[-1] != closes[-1]:
        return [NAN] * 5
    out = [NAN] * 5
    if len(ends) > w["momentum"]:
        out[MOMENTUM] = change(ends[-1 - w["skip"]], ends[-1 - w["momentum"]])
    if len(ends) > w["reversal"]:
        out[REVERSAL] = -change(ends[-1], ends[-1 - w["reversal"]])
    known = [r for r in returns[-w["volatility"] :] if r == r]
    if len(known) >= w["volatility"] - holes:
        mean = total(known) / len(known)
        out[LOW_VOLATILITY] = -math.sqrt(total([(r - mean) * (r - mean) for r in known]) / (len(known) - 1))
    known = [x for x in impacts[-w["liquidity"] :] if x == x]
    if len(known) >= w["liquidity"] - holes:
        out[LIQUIDITY] = total(known) / len(known)
    known = [c for c in closes[-w["high"] :] if c == c]
    if len(known) >= w["high"] - holes:
        out[HIGH] = closes[-1] / max(known)
    return out


def plain_composite(scores: list[list[float]]) -> list[float]:
    out, whole = [], total([abs(w) for w in WEIGHTS])
    for column in zip(*scores, strict=True):
        known = [(w, z) for w, z in zip(WEIGHTS, column, strict=True) if z == z]
        used = total([abs(w) for w, _ in known])
        out.append(total([w * z for w, z in known]) / used if used and used >= SHARE_MIN * whole else NAN)
    return out


def plain_scores(panel: Panel, t: int, groups: list[int], holes: int, normal: int) -> list[list[float]]:
    rows = zip(*(plain_raw(panel, t, i, holes) for i in range(panel[0].shape[1])), strict=True)
    scores = []
    for row in rows:
        values = list(row)
        if normal == RANK:
            n = sum(v == v for v in values)
            scores.append(plain_neutral([(r - 0.5) / n - 0.5 if r == r else NAN for r in plain_ranks(values)], groups))
        else:
            scores.append(plain_neutral(plain_z(values, BOUND), groups))
    return scores


# --- panels ---------------------------------------------------------------------------------------------------------------
def draw_panel(rng: random.Random, bars: int, n: int) -> Panel:
    """Closes with holes, ties and columns that never move or never come; values with days without trading; changing members."""
    closes, values = np.full((bars, n), NAN), np.full((bars, n), NAN)
    for i in range(n):
        style, price = rng.choice(["walk", "walk", "coarse", "constant", "absent", "late", "fall"]), rng.uniform(1, 500)
        for t in range(bars):
            step = {"constant": 1.0, "fall": 0.97}.get(style, math.exp(rng.gauss(0, 0.03)))
            price = float(round(price * step) or 1) if style == "coarse" else price * step
            there = style != "absent" and (style != "late" or t > bars // 2) and rng.random() > 0.08
            closes[t, i] = price if there else NAN
            values[t, i] = rng.choice([NAN, 0.0, 1e4, rng.uniform(1e3, 1e8)]) if rng.random() < 0.2 else rng.uniform(1e3, 1e8)
    members = np.array([[rng.random() < 0.9 for _ in range(n)] for _ in range(bars)])
    ends = np.array([rng.random() < 0.5 for _ in range(bars)])
    return closes, np.where(values > 0, values, NAN), members, ends


def scores_of(panel: Panel, groups: list[int], holes: int = 1, normal: int = Z_SCORE) -> PanelScores:
    closes, values, members, ends = panel
    codes = np.array(groups)
    state = new_factors(
        closes.shape[1], **WINDOWS, holes_max=holes, normal=normal, bound=BOUND, share_min=SHARE_MIN, groups=codes, weights=WEIGHTS
    )  # fmt: skip
    return score_panel(state, closes, ends, values, members)


def same_bits(a: object, b: object) -> bool:
    """Equal to the last bit, whatever a NaN's own bits are, and a zero's sign."""
    return bool(np.array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64), equal_nan=True))


@pytest.mark.parametrize("normal", [Z_SCORE, RANK])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 24])
def test_every_score_is_that_of_plain_python_on_the_bars_before(n: int, normal: int, seed: int) -> None:
    rng = random.Random(seed + n)
    panel = draw_panel(rng, 24, n)
    groups, holes = [rng.randrange(min(n, 4)) for _ in range(n)], rng.choice([0, 1, 2])
    found = scores_of(panel, groups, holes, normal)
    seen = 0
    for t in range(24):
        raw = [plain_raw(panel, t, i, holes) for i in range(n)]
        scores = plain_scores(panel, t, groups, holes, normal)
        assert same_bits(found.raw[t].T, raw), t
        assert same_bits(found.scores[t], scores), t
        assert same_bits(found.composite[t], plain_composite(scores)), t
        seen += int(np.isfinite(found.raw[t]).sum())
    assert seen > 0 or n < 7


def test_a_stream_in_any_pieces_is_the_batch(seed: int) -> None:
    rng = random.Random(seed)
    closes, values, members, ends = panel = draw_panel(rng, 40, 12)
    whole = scores_of(panel, [0] * 12)
    state = new_factors(12, **WINDOWS, holes_max=1, bound=BOUND, share_min=SHARE_MIN, weights=WEIGHTS)
    at = 0
    while at < 40:
        if rng.random() < 0.5:
            step_factors(state, closes[at], values[at], members[at], ends[at])
            assert same_bits(state.scores, whole.scores[at])
            assert same_bits(state.composite, whole.composite[at])
            at += 1
        else:
            piece = slice(at, at + rng.randrange(1, 6))
            part = score_panel(state, closes[piece], ends[piece], values[piece], members[piece])
            assert same_bits(part.scores, whole.scores[piece])
            at = min(40, piece.stop)


def test_scores_depend_on_their_windows_alone(seed: int) -> None:
    """A stream that began later has the same bits as soon as its windows are full; nothing is carried along."""
    closes, values, members, _ = draw_panel(random.Random(seed), 60, 10)
    ends = np.ones(60, bool)
    whole = scores_of((closes, values, members, ends), [0] * 10)
    late = scores_of((closes[17:], values[17:], members[17:], ends[17:]), [0] * 10)
    assert same_bits(late.scores[7:], whole.scores[24:])


# --- no look-ahead --------------------------------------------------------------------------------------------------------
def first_moved(score: Callable[[Panel], PanelScores], panel: Panel, t: int, rng: random.Random) -> int | None:
    """First bar whose scores change when all that comes after bar `t` does, or None."""
    other = tuple(a.copy() for a in panel)
    size = other[0][t + 1 :].shape
    other[0][t + 1 :] = [[rng.uniform(1, 500) for _ in range(size[1])] for _ in range(size[0])]
    other[1][t + 1 :] = 1.0
    other[2][t + 1 :] = ~other[2][t + 1 :]
    other[3][t + 1 :] = ~other[3][t + 1 :]
    before, after = score(panel), score((other[0], other[1], other[2], other[3]))
    for bar in range(len(panel[0])):
        if not all(same_bits(a[bar], b[bar]) for a, b in zip(before, after, strict=True)):
            return bar
    return None


def test_what_comes_after_a_bar_moves_nothing_at_or_before_it(seed: int) -> None:
    rng = random.Random(seed)
    panel = draw_panel(rng, 30, 9)
    for t in range(8, 29):
        assert first_moved(lambda p: scores_of(p, [0] * 9), panel, t, rng) == t + 1


def test_the_look_ahead_test_catches_a_planted_leak(seed: int) -> None:
    rng = random.Random(seed)
    panel = draw_panel(rng, 30, 9)

    def peeking(p: Panel) -> PanelScores:  # tomorrow's closes in today's row
        return scores_of((np.vstack([p[0][1:], p[0][-1:]]), *p[1:]), [0] * 9)

    assert first_moved(peeking, panel, 15, rng) == 15

    def ranked_over_all_time(p: Panel) -> PanelScores:  # a scale taken from the whole panel
        made = scores_of(p, [0] * 9)
        return made._replace(composite=made.composite / np.nanstd(made.composite))

    assert first_moved(ranked_over_all_time, panel, 15, rng) is not None
    moved = first_moved(ranked_over_all_time, panel, 15, rng)
    assert moved is not None and moved <= 15


# --- kernels alone --------------------------------------------------------------------------------------------------------
@kernel
def _keys(values, keys):
    for i in range(len(values)):
        keys[i] = ordered_key(values[i])


def keys_of(values: list[float]) -> np.ndarray:
    keys = np.zeros(len(values), np.int64)
    _keys(np.array(values), keys)
    return keys


def draw_values(rng: random.Random) -> list[float]:
    pool = [0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1.7e308, -1.7e308, rng.gauss(0, 1), rng.gauss(0, 1e-9)]
    whole = rng.random() < 0.4
    return [rng.choice(pool) if whole else rng.gauss(0, 1) for _ in range(rng.randrange(1, 60))]


def test_selection_and_median_are_those_of_sorting(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        values = [v / 4 for v in draw_values(rng)]  # the sum of the two in the middle must not overflow
        keys = keys_of(values)
        k = rng.randrange(len(values))
        assert select(keys, len(values), k) == sorted(keys.tolist())[k]
        assert median(keys, len(values)) == plain_median(values)
        assert keys.tolist() == keys_of(values).tolist(), "keys are moved"


def test_ranks_share_the_mean_of_equal_values(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        values = [NAN if rng.random() < 0.1 else v for v in draw_values(rng)]
        out = np.empty(len(values))
        assert ranks(np.array(values), out, new_scratch(len(values), 1)) == sum(v == v for v in values)
        assert same_bits(out, plain_ranks(values))


def test_scores_of_equal_values_are_zero_and_of_mostly_equal_ones_finite() -> None:
    out, scratch = np.empty(5), new_scratch(5, 1)
    assert robust_z(np.full(5, 3.25), out, 3.0, scratch) == 5
    assert out.tolist() == [0.0] * 5
    robust_z(np.array([1.0, 1.0, 1.0, 1.0, 9.0]), out, 9.0, scratch)
    assert out.tolist() == [0.0, 0.0, 0.0, 0.0, 8.0 / (1.2533141373155001 * 1.6)]
    assert robust_z(np.full(5, NAN), out, 3.0, scratch) == 0
    assert np.isnan(out).all()


def test_correlation_is_numpys_and_none_without_spread(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=50), rng.normal(size=50)
    x[3], y[7] = NAN, NAN
    both = ~np.isnan(x + y)
    assert correlation(x, y) == pytest.approx(np.corrcoef(x[both], y[both])[0, 1], rel=1e-12)
    assert math.isnan(correlation(np.full(50, 2.0), y))
    assert math.isnan(correlation(np.full(50, NAN), y))


def test_spread_of_too_few_instruments_is_none() -> None:
    scores, returns = np.array([[1.0, 2.0, NAN, 4.0]]), np.array([[0.1, 0.2, 0.3, 0.5]])
    assert math.isnan(spread(scores, returns, 0.2)[0])
    assert spread(scores, returns, 0.5)[0] == pytest.approx(0.4)


@pytest.mark.parametrize("wrong", [
    {"momentum": 0}, {"skip": 12}, {"reversal": 13}, {"volatility": 1}, {"high": 5000}, {"holes_max": 21}, {"bound": 0.0},
    {"share_min": 1.5}, {"normal": 2}, {"groups": np.array([0, 3, 0])}, {"groups": np.array([0])}, {"weights": (0.0,) * 5}, {"weights": (1.0,)},
])  # fmt: skip
def test_refuses_what_it_could_not_keep(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        new_factors(3, **wrong)  # type: ignore[arg-type]


def test_a_panel_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(bars, 3\)"):
        score_panel(new_factors(3), np.ones((4, 2)), np.ones(4, bool))


@pytest.mark.parametrize("compiled", [step_panel, rank_ics, spreads], ids=lambda k: k.__name__)
def test_the_kernels_take_no_memory_and_no_liberty_with_floats(compiled: object) -> None:
    made = scores_of(draw_panel(random.Random(1), 3, 2), [0, 0])  # compiles it, as the next line the other two
    assert len(rank_ic(made.composite, made.composite)) == len(spread(made.composite, made.composite))
    code = code_of(compiled)
    assert code.foreign() <= {"NRT_incref", "NRT_decref"}
    assert not code.flags
