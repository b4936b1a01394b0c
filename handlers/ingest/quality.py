"""Quality of a feed's data: its windows looked through before the line gets them, and the report of what was found.

The checks and their state are kernels of `quality_checks`. Here they are given names, policies and limits, a feed's windows pass
through them, and what they counted becomes a report and a score:

    score = 100 * max(0, 1 - bad / (1 % of all)),    bad = sum over checks of weight * times + what the decoder could not read

so a feed of which nothing was objected to has 100, and one of which a hundredth is wrong has 0. `all` is the records looked at and
what the decoder could not read; what a venue's own rules leave out, a stale depth message say, is no fault of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from handlers.domain import reasons
from handlers.ingest.feed import Rows
from handlers.ingest.quality_checks import (
    CHECKS, DROP, FIRST, FLAG, HALT_IT, LANES, LIMITS, OFF, PARAMS, REASON_BASE, SAMPLES, SEEN, Watch, judge, rebuild,
)  # fmt: skip
from transport.instruments import Instrument
from transport.records import NAME_OF, empty

BAD_SHARE = 0.01  # of all records: as much is a score of 0
POLICIES = {"off": OFF, "flag": FLAG, "drop": DROP, "halt": HALT_IT}
UNBOUNDED = 2**62


class Check(NamedTuple):
    """One check: its key in the configuration, its reason, what an objection counts in the score, and the unit of its numbers."""

    key: str
    reason: int
    weight: float
    unit: str


# In the order of quality_checks. An outlier may be a true one, and quotes lock for a moment in fast markets: a tenth each.
TABLE = (
    Check("price_bounds", reasons.PRICE_OUT_OF_BOUNDS, 1.0, "ticks or lots"),
    Check("price_band", reasons.PRICE_OUT_OF_BAND, 1.0, "ticks"),
    Check("time_backwards", reasons.TIME_BACKWARDS, 1.0, "ns"),
    Check("time_future", reasons.TIME_IN_FUTURE, 1.0, "ns"),
    Check("time_stale", reasons.TIME_STALE, 1.0, "ns"),
    Check("volume", reasons.VOLUME_ANOMALY, 0.1, "lots"),
    Check("returns", reasons.RETURN_OUTLIER, 0.1, "ticks"),
    Check("duplicate", reasons.DUPLICATE_RECORD, 1.0, "ids behind the highest"),
    Check("trade_gap", reasons.TRADE_ID_GAP, 1.0, "ids left out"),
    Check("crossed", reasons.CROSSED_QUOTE, 1.0, "ticks"),
    Check("locked", reasons.LOCKED_QUOTE, 0.1, "ticks"),
)
assert [c.reason - REASON_BASE for c in TABLE] == list(range(CHECKS)), "a grade names its reason by its place"
# What a decoder counts by the venue's own rules or by choice: input that was read and rightly not used, or not whole.
BY_RULE = frozenset((
    reasons.DEPTH_STALE, reasons.DEPTH_REPEATED, reasons.SNAPSHOT_STALE, reasons.FILL_SKIPPED, reasons.UNKNOWN_STREAM, reasons.UNKNOWN_SYMBOL,
    reasons.UNKNOWN_RECORD, reasons.HELD_OVERFLOW, reasons.CONTROL_MESSAGE, reasons.UNFINISHED_BAR, reasons.BEFORE_STREAM,
    reasons.LEVEL_OUT_OF_BOUNDS,
))  # fmt: skip


def new_watch(instruments: int, policies: Mapping[str, str], params: Mapping[str, float], window: int) -> Watch:
    """Checks of one feed that has shown nothing yet; `policies` by key of TABLE, `params` as PARAMS but alpha, `window` in trades."""
    n = max(1, instruments)
    packed = np.zeros(1, PARAMS)
    for key, value in params.items():
        packed[key] = value
    packed["alpha"] = 2.0 / (window + 1)
    limits = np.zeros(n, LIMITS)
    limits["price_min"], limits["price_max"], limits["qty_max"] = -UNBOUNDED, UNBOUNDED, UNBOUNDED
    seen = np.zeros(n, SEEN)
    seen["stride"] = 1
    policy = np.array([POLICIES[policies[check.key]] for check in TABLE], np.int64)
    return Watch(
        packed, policy, limits, seen, np.zeros(n * LANES, np.int64), np.zeros(n * CHECKS, np.int64), np.zeros(CHECKS, FIRST),
        np.zeros(n * SAMPLES, np.int64),
    )  # fmt: skip


class Gate:
    """The checks along one feed: `sift` hands its windows on as the policies have them, `report` tells what was found."""

    def __init__(self, watch: Watch, instruments: Sequence[Instrument]) -> None:
        self.watch = watch
        self.instruments = tuple(instruments)
        self.rows = 0  # of the feed, looked at so far

    def sift(self, windows: Iterator[Rows], rows_max: int) -> Iterator[Rows]:
        """Windows of at most `rows_max` records and a status for each that halts; one to which nothing is objected is not copied.

        An empty window is handed on, for that of a live feed says that nothing came; so may be what is left of another.
        """
        verdicts, whys = np.zeros(rows_max, np.uint8), np.zeros(rows_max, np.uint16)
        for window in windows:
            for start in range(0, max(1, len(window)), rows_max):
                piece = window[start : start + rows_max]
                changed, room = judge(self.watch, piece, self.rows, verdicts, whys)
                self.rows += len(piece)
                if changed:
                    out = empty(int(room))
                    piece = out[: int(rebuild(piece, verdicts, whys, out))]
                yield piece

    def look(self, windows: Iterator[Rows], rows_max: int) -> None:
        """Only look, to the feed's end."""
        for _ in self.sift(windows, rows_max):
            pass

    def report(self, decoder: Mapping[int, int], offenders: Mapping[str, str]) -> dict[str, Any]:
        """What was found, in plain values; `decoder`: what the feed's decoder counted, by reason, and its first offenders."""
        seen, counts = self.watch.seen, self.watch.counts.reshape(-1, CHECKS).sum(axis=0)
        records, refused = int(seen["records"].sum()), sum(n for r, n in decoder.items() if r not in BY_RULE)
        return {
            "score": score(counts, records, refused),
            "records": records,
            "checks": {check.key: self._check(k, int(counts[k])) for k, check in enumerate(TABLE)},
            **{name: int(seen[name].sum()) for name in ("flagged", "dropped", "held_on", "halts")},
            "decoder": {reasons.NAME[r]: n for r, n in sorted(decoder.items())},
            "decoder_first": dict(offenders),
            "instruments": [self._instrument(i) for i in range(len(self.instruments)) if seen[i]["records"]],
        }

    def _check(self, k: int, times: int) -> dict[str, Any]:
        policy = next(name for name, value in POLICIES.items() if value == self.watch.policy[k])
        out: dict[str, Any] = {"reason": reasons.NAME[TABLE[k].reason], "policy": policy, "times": times}
        first = self.watch.first[k]
        if times:
            out["first"] = {
                "row": int(first["row"]), "line": int(first["origin"]), "venue_seq": int(first["venue_seq"]),
                "ts_event_ns": int(first["ts_event_ns"]), "kind": NAME_OF[int(first["kind"])],
                "instrument": self.instruments[int(first["instrument_id"])].name, "value": float(first["value"]),
                "limit": float(first["limit"]), "unit": TABLE[k].unit,
            }  # fmt: skip
        return out

    def _instrument(self, i: int) -> dict[str, Any]:
        s = self.watch.seen[i]
        out: dict[str, Any] = {
            "instrument": self.instruments[i].name, "records": int(s["records"]), "trades": int(s["trades"]), "quotes": int(s["quotes"]),
            "trades_lost": int(s["lost"]),
            "objections": {c.key: int(n) for c, n in zip(TABLE, self.watch.counts.reshape(-1, CHECKS)[i], strict=True) if n},
        }  # fmt: skip
        if s["skews"]:
            sample = self.watch.samples[i * SAMPLES : i * SAMPLES + int(s["kept"])]
            out["skew_ns"] = {"min": int(s["skew_min"]), "median": int(np.median(sample)), "max": int(s["skew_max"])}
        return out


def score(counts: np.ndarray[Any, Any], records: int, refused: int) -> float:
    """0 to 100, as the module says, to a hundredth; 0 where there is nothing to look at."""
    bad = sum(check.weight * int(n) for check, n in zip(TABLE, counts, strict=True)) + refused
    every = records + refused
    return round(100.0 * max(0.0, 1.0 - bad / (BAD_SHARE * every)), 2) if every else 0.0
