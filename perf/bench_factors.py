"""How many instruments a second get their five factor scores and a composite: one step of a bar clock, on one thread.

    python -m perf.bench_factors [--small] [--rounds N]

A universe of random walks in eleven groups, some closes missing, robust z-scores (and ranks, which sort) with groups' means
taken out. The clock runs while the bars of a second year are stepped, windows full. A round whose composites are not those that
plain numpy makes of the factors of its last bar, or whose factors are not numpy's, gives no figure.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from handlers.features.factors import FACTORS, HIGH, LIQUIDITY, LOW_VOLATILITY, RANK, Z_SCORE, Factors, new_factors, step_factors
from perf import harness

INSTRUMENTS, INSTRUMENTS_SMALL = 4_000, 200
WARM_BARS, BARS = 300, 250
GROUPS, MONTH = 11, 21
TARGET = 100_000.0  # instruments a second
Panel = tuple[np.ndarray, np.ndarray, np.ndarray]


class WrongAnswer(Exception):
    """Scores are not those of numpy: there is no figure."""


def draw(n: int) -> Panel:
    """(closes, traded values, members) of WARM_BARS + BARS bars."""
    rng = np.random.default_rng(11)
    closes = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (WARM_BARS + BARS, n)), axis=0))
    closes[rng.random(closes.shape) < 0.0005] = np.nan
    return closes, rng.uniform(1e5, 1e8, closes.shape), rng.random(closes.shape) < 0.98


def rate(panel: Panel, normal: int) -> float:
    """Instruments a second of one round; raises WrongAnswer."""
    closes, values, members = panel
    n = closes.shape[1]
    state = new_factors(n, normal=normal, holes_max=2, groups=np.arange(n) % GROUPS)
    for t in range(WARM_BARS):
        step_factors(state, closes[t], values[t], members[t], t % MONTH == 0)
    began_ns = time.perf_counter_ns()
    for t in range(WARM_BARS, WARM_BARS + BARS):
        step_factors(state, closes[t], values[t], members[t], t % MONTH == 0)
    took_ns = time.perf_counter_ns() - began_ns
    check(state, panel)
    return BARS * n / took_ns * 1e9


def check(state: Factors, panel: Panel) -> None:
    """Raise WrongAnswer unless the last bar's factors and composite are numpy's."""
    closes, values, members = panel
    returns = closes[1:] / closes[:-1] - 1
    there = members[-1] & ~np.isnan(closes[-1])
    due = {
        LOW_VOLATILITY: -np.nanstd(returns[-60:], axis=0, ddof=1),
        LIQUIDITY: np.nanmean(np.abs(returns[-21:]) / values[-21:] * 1e6, axis=0),
        HIGH: closes[-1] / np.nanmax(closes[-252:], axis=0),
    }
    for factor, expected in due.items():
        found = state.raw[factor]
        seen = ~np.isnan(found)
        if seen.sum() < 0.9 * there.sum() or (seen & ~there).any() or not np.allclose(found[seen], expected[seen], rtol=1e-9):
            raise WrongAnswer(f"{FACTORS[factor]} is not numpy's")
    scores = np.vstack([_normal(row, state) for row in state.raw])
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        whole = np.where(known, scores, 0.0).sum(axis=0) / known.sum(axis=0)
    if not np.allclose(state.composite, np.where(known.sum(axis=0) >= 2.5, whole, np.nan), rtol=1e-9, atol=1e-12, equal_nan=True):
        raise WrongAnswer("composite is not numpy's")


def _normal(row: np.ndarray, state: Factors) -> np.ndarray:
    """Robust z-scores or ranks of one factor, its groups' means taken out."""
    if state.params[0]["normal"] == RANK:
        place = np.full(len(row), np.nan)
        seen = ~np.isnan(row)
        below = np.searchsorted(np.sort(row[seen]), row[seen], "left") + np.searchsorted(np.sort(row[seen]), row[seen], "right")
        place[seen] = below / 2 / seen.sum() - 0.5
    else:
        off = row - np.nanmedian(row)
        place = np.clip(off / (1.482602218505602 * np.nanmedian(np.abs(off))), -3, 3)
    for group in range(GROUPS):
        place[state.groups == group] -= np.nanmean(place[state.groups == group])
    return place


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes a second and records nothing."""
    parser = argparse.ArgumentParser(description="instruments a second of the cross-section factors")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    n, rounds = (INSTRUMENTS_SMALL, 1) if args.small else (INSTRUMENTS, args.rounds)
    panel = draw(n)
    ways = {"robust z-scores": Z_SCORE, "ranks": RANK}
    samples = harness.run_alternating({name: lambda normal=way: rate(panel, normal) for name, way in ways.items()}, rounds, warmups=1)
    rates = {name: [sample.result for sample in taken] for name, taken in samples.items()}
    if not args.small:
        harness.write_result("factors", {"instruments": n, "instruments_per_s": rates})
    rows = [
        [name, harness.Spread.of(found).text(harness.rate_text), harness.Spread.of([1e9 / r for r in found]).text("{:.0f}".format)]
        for name, found in rates.items()
    ]
    print(harness.table([f"{len(FACTORS)} factors of {n:,} instruments", "instruments/s, median [low .. high]", "ns an instrument"], rows))
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, scores checked against numpy in each")
    slowest = min(harness.Spread.of(found).median for found in rates.values())
    return harness.judged([harness.Target("instruments a second", slowest, TARGET, "")], strict=not args.small)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from wrong
