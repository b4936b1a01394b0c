"""Factors of a whole panel of bars by the streaming step, and what they would have told: rank ICs and spreads of later returns.

A panel is an array (bars, n) with NaN where an instrument has no close. `score_panel` takes it bar after bar, so that batch and
stream cannot differ. The figures below it are taken at chosen bars (month ends) against the return to the next chosen one: the
score of a bar never meets a return that ends at or before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from handlers.features.cross_section import correlation, new_scratch, ordered_key, ranks, sort_order
from handlers.features.factors import Factors, step_factors
from transport.compiled import kernel


class PanelScores(NamedTuple):
    """What every bar's step left: raw factors and scores (bars, 5, n), composite (bars, n)."""

    raw: np.ndarray
    scores: np.ndarray
    composite: np.ndarray


@kernel
def step_panel(s, closes, values, members, period_ends, raw, scores, composite):
    """`step_factors` for every row."""
    for t in range(len(closes)):
        step_factors(s, closes[t], values[t], members[t], period_ends[t])
        for i in range(len(s.last)):
            composite[t, i] = s.composite[i]
            for k in range(len(s.raw)):
                raw[t, k, i] = s.raw[k, i]
                scores[t, k, i] = s.scores[k, i]


def score_panel(
    s: Factors, closes: np.ndarray, period_ends: np.ndarray, values: np.ndarray | None = None, members: np.ndarray | None = None
) -> PanelScores:
    """Scores of every bar of a panel, from where `s` stands on; `values` and `members` as `closes`, none: not known, and all of them.

    `period_ends`: (bars,) of bool. Raises ValueError where the shapes do not fit.
    """
    panel = np.ascontiguousarray(closes, np.float64)
    traded = np.full_like(panel, np.nan) if values is None else np.ascontiguousarray(values, np.float64)
    inside = np.ones(panel.shape, np.bool_) if members is None else np.ascontiguousarray(members, np.bool_)
    ends = np.ascontiguousarray(period_ends, np.bool_)
    bars, n = len(panel), len(s.last)
    if panel.shape != (bars, n) or traded.shape != panel.shape or inside.shape != panel.shape or ends.shape != (bars,):
        raise ValueError(f"closes, values and members must be (bars, {n}), period_ends (bars,)")
    raw = np.empty((bars, len(s.raw), n))
    scores = np.empty_like(raw)
    whole = np.empty((bars, n))
    step_panel(s, panel, traded, inside, ends, raw, scores, whole)
    return PanelScores(raw, scores, whole)


@kernel
def rank_ics(scores, returns, ics, scratch, x, y):
    """ics[t] = Spearman's correlation, by average ranks, of scores[t] and returns[t] over those that have both; NaN without spread."""
    for t in range(len(scores)):
        for i in range(len(x)):
            both = scores[t, i] == scores[t, i] and returns[t, i] == returns[t, i]
            x[i] = scores[t, i] if both else np.nan
            y[i] = returns[t, i] if both else np.nan
        ranks(x, x, scratch)
        ranks(y, y, scratch)
        ics[t] = correlation(x, y)


@kernel
def spreads(scores, returns, share, out, scratch):
    """out[t] = mean return of the best `share` by score less that of the worst; NaN where that is less than one instrument.

    Over those that have score and return, equal scores in the order of the columns.
    """
    for t in range(len(scores)):
        n = np.int64(0)
        for i in range(scores.shape[1]):
            if scores[t, i] == scores[t, i] and returns[t, i] == returns[t, i]:
                scratch.keys[n] = ordered_key(scores[t, i])
                scratch.deviations[n] = i
                n += 1
        sort_order(scratch.keys, n, scratch)
        many = np.int64(n * share)
        best = worst = 0.0
        for k in range(many):
            best += returns[t, scratch.deviations[scratch.order[n - many + k]]]
            worst += returns[t, scratch.deviations[scratch.order[k]]]
        out[t] = (best - worst) / many if many else np.nan


def next_returns(closes: np.ndarray) -> np.ndarray:
    """(k, n) of the return from each row of `closes` to the next; the last row has none."""
    out = np.full(closes.shape, np.nan)
    out[:-1] = closes[1:] / closes[:-1] - 1.0
    return out


def rank_ic(scores: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """(k,) of `rank_ics` of two (k, n)."""
    n = scores.shape[1]
    ics = np.empty(len(scores))
    rank_ics(np.ascontiguousarray(scores), np.ascontiguousarray(returns), ics, new_scratch(n, 1), np.empty(n), np.empty(n))
    return ics


def spread(scores: np.ndarray, returns: np.ndarray, share: float = 0.2) -> np.ndarray:
    """(k,) of `spreads` of two (k, n): quintiles unless told."""
    out = np.empty(len(scores))
    spreads(np.ascontiguousarray(scores), np.ascontiguousarray(returns), share, out, new_scratch(scores.shape[1], 1))
    return out
