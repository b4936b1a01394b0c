"""What a bar costs, and an event: every feature of it at once, and each by itself, one input at a time through its address.

    python -m perf.bench_features [--small] [--rounds N] [--strict]

The clock runs over a loop of machine code that hands bar after bar to the features, as the line does. A round has no figure unless
the last row is the batch's to the last bit and the simple mean is that of the last closes. Where they are installed, talipp and TA-Lib
take the same bars: talipp one `add` a bar from Python, TA-Lib its `stream` function over the last 100 bars, which is how it is used
bar by bar. Times are CPU times of this thread, for a round that is interrupted is not a slow one.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from handlers.features.catalogue import INDICATORS, MICROSTRUCTURE
from handlers.features.declare import BAR_INPUT, EVENT_INPUT, LEVELS_MAX, ON_BOOK, ON_TRADE, Feature
from handlers.features.feature_set import FeatureSet, update_features
from perf import harness
from transport.compiled import kernel
from transport.records import BUY, SELL

BARS, BARS_SMALL = 100_000, 2_000
PEER_BARS, PEER_BARS_SMALL = 5_000, 300
EVENTS = "events"  # who takes events in the result
TA_WINDOW = 100  # bars handed to TA-Lib each time
SET_NS_MAX = 1000.0  # of all indicators, a bar
EVENTS_NS_MAX = 1000.0  # of all features of events, an event
TRADES = 0.3  # share of events
SEED = 7
# talipp's class and arguments, and whether it takes bars; TA-Lib's stream function, its columns and options.
TALIPP: dict[str, tuple[str, tuple[float, ...], bool]] = {
    "sma": ("SMA", (14,), False), "ema": ("EMA", (14,), False), "wma": ("WMA", (14,), False), "rsi": ("RSI", (14,), False),
    "macd": ("MACD", (12, 26, 9), False), "bollinger": ("BB", (20, 2), False), "atr": ("ATR", (14,), True),
    "adx": ("ADX", (14, 14), True), "stochastic": ("Stoch", (14, 3), True), "cci": ("CCI", (20,), True), "obv": ("OBV", (), True),
    "donchian": ("DonchianChannels", (20,), True), "aroon": ("Aroon", (25,), True), "ichimoku": ("Ichimoku", (26, 9, 26, 52, 26), True),
    "parabolic_sar": ("ParabolicSAR", (0.02, 0.02, 0.2), True),
}  # fmt: skip
TA_LIB: dict[str, tuple[str, tuple[str, ...], dict[str, float]]] = {
    "sma": ("SMA", ("close",), {"timeperiod": 14}), "ema": ("EMA", ("close",), {"timeperiod": 14}),
    "wma": ("WMA", ("close",), {"timeperiod": 14}), "rsi": ("RSI", ("close",), {"timeperiod": 14}), "macd": ("MACD", ("close",), {}),
    "bollinger": ("BBANDS", ("close",), {"timeperiod": 20}), "atr": ("ATR", ("high", "low", "close"), {}),
    "adx": ("ADX", ("high", "low", "close"), {}), "stochastic": ("STOCHF", ("high", "low", "close"), {"fastk_period": 14}),
    "cci": ("CCI", ("high", "low", "close"), {"timeperiod": 20}), "obv": ("OBV", ("close", "volume"), {}),
    "donchian": ("MAX", ("high",), {"timeperiod": 20}), "aroon": ("AROON", ("high", "low"), {"timeperiod": 25}),
    "parabolic_sar": ("SAR", ("high", "low"), {}),
}  # fmt: skip


class WrongAnswer(Exception):
    """The values are not those of the batch, or of the bars: there is no figure."""


@kernel
def stream_bars(plan, memory, first, stride, count, row):
    """Hand `count` bars to the features, one after another; on how many one raised. All but the count are addresses."""
    faults = 0
    for k in range(count):
        faults += update_features(plan, memory, first + k * stride, row) != 0
    return faults


def some_bars(count: int) -> np.ndarray[Any, Any]:
    """A random walk in ticks."""
    draw = np.random.default_rng(SEED)
    close = np.cumsum(draw.integers(-5, 6, count)) + 100_000.0
    bars = np.zeros(count, BAR_INPUT)
    bars["open"] = np.concatenate((close[:1], close[:-1]))
    bars["close"] = close
    bars["high"] = np.maximum(bars["open"], close) + draw.integers(0, 5, count)
    bars["low"] = np.minimum(bars["open"], close) - draw.integers(0, 5, count)
    bars["volume"] = draw.integers(1, 1000, count)
    return bars


def some_events(count: int) -> np.ndarray[Any, Any]:
    """A random walk of ten levels a side in ticks, 1 ms between events, three of ten of them trades at the touch."""
    draw = np.random.default_rng(SEED)
    x = np.zeros(count, EVENT_INPUT)
    x["ts_ns"] = np.cumsum(draw.integers(1, 2_000_000, count))
    x["kind"] = np.where(draw.random(count) < TRADES, ON_TRADE, ON_BOOK)
    bid = 100_000 + np.cumsum(draw.integers(-1, 2, count))
    away = np.arange(LEVELS_MAX)
    x["bid_ticks"], x["ask_ticks"] = bid[:, None] - away, bid[:, None] + 1 + away
    x["bid_lots"], x["ask_lots"] = draw.integers(1, 1000, (2, count, LEVELS_MAX))
    x["mid"] = bid + 0.5
    x["side"] = draw.choice([BUY, SELL], count)
    x["price"], x["qty"] = np.where(x["side"] == BUY, bid + 1, bid), draw.integers(1, 200, count)
    return x


def ns_an_input(made: FeatureSet, bars: np.ndarray[Any, Any]) -> float:
    """Nanoseconds a bar, or an event, of one pass over `bars`; raises WrongAnswer."""
    memory, row = made.new_memory()[0], np.zeros(len(made.columns))
    plan = made.plan
    began_ns = time.thread_time_ns()
    faults = stream_bars(plan, memory.ctypes.data, bars.ctypes.data, bars.itemsize, len(bars), row.ctypes.data)
    took_ns = time.thread_time_ns() - began_ns
    if faults or row.tobytes() != made.batch(bars)[-1].tobytes():
        raise WrongAnswer(f"{[p.label for p in made.placed]}: the last row is not the batch's")
    return took_ns / len(bars)


def check_mean(bars: np.ndarray[Any, Any]) -> None:
    """The simple mean against the bars themselves; raises WrongAnswer."""
    made = FeatureSet([("sma", {})], INDICATORS).batch(bars)[-1, 0]
    due = float(bars["close"][-14:].mean())
    if abs(made - due) > 1e-9:
        raise WrongAnswer(f"the mean of the last 14 closes is {made}, not {due}")


def ns_of_talipp(name: str, bars: np.ndarray[Any, Any]) -> float:
    """Nanoseconds a bar of talipp's `add`."""
    from talipp import indicators
    from talipp.ohlcv import OHLCV

    kind, arguments, takes_bars = TALIPP[name]
    columns = [bars[c].tolist() for c in ("open", "high", "low", "close", "volume")]
    inputs: list[Any] = [OHLCV(*row) for row in zip(*columns, strict=True)] if takes_bars else columns[3]
    add = getattr(indicators, kind)(*arguments).add
    began_ns = time.thread_time_ns()
    for x in inputs:
        add(x)
    return (time.thread_time_ns() - began_ns) / len(inputs)


def ns_of_ta_lib(name: str, bars: np.ndarray[Any, Any]) -> float:
    """Nanoseconds a bar of TA-Lib's stream function over the last TA_WINDOW bars."""
    from talib import stream

    kind, columns, options = TA_LIB[name]
    call = getattr(stream, kind)
    whole = [np.ascontiguousarray(bars[c]) for c in columns]
    windows = [[column[k - TA_WINDOW : k] for column in whole] for k in range(TA_WINDOW, len(bars))]
    began_ns = time.thread_time_ns()
    for window in windows:
        call(*window, **options)
    return (time.thread_time_ns() - began_ns) / len(windows)


def calls_of(known: Sequence[Feature], who: str, inputs: np.ndarray[Any, Any]) -> dict[tuple[str, str], Callable[[], float]]:
    """(who, feature), and (who, all) -> one pass over `inputs`."""
    calls: dict[tuple[str, str], Callable[[], float]] = {}
    for name, wanted in [*((f.name, [f]) for f in known), ("all", known)]:
        made = FeatureSet([(f.name, {}) for f in wanted], known)
        calls[who, name] = lambda made=made: ns_an_input(made, inputs)
    return calls


def check_flow(events: np.ndarray[Any, Any]) -> None:
    """The lots that the last ten events of the book brought the best level against the levels themselves; raises WrongAnswer."""
    made = FeatureSet([("order_flow", {"period": 10})], MICROSTRUCTURE).batch(events)[-1, 0]
    book = events[events["kind"] == ON_BOOK][-11:]
    due = 0.0
    for sign, side in ((1, "bid"), (-1, "ask")):
        price, lots = sign * book[f"{side}_ticks"][:, 0], book[f"{side}_lots"][:, 0]
        due += sign * (lots[1:][price[1:] >= price[:-1]].sum() - lots[:-1][price[1:] <= price[:-1]].sum())
    if made != due:
        raise WrongAnswer(f"the order flow of the last ten events is {made}, not {due}")


def measured(small: bool, rounds: int) -> dict[str, dict[str, harness.Spread]]:
    """Contender -> feature, or `all`, -> nanoseconds a bar, of EVENTS an event; every feature once a round."""
    bars, few = some_bars(BARS_SMALL if small else BARS), some_bars(PEER_BARS_SMALL if small else PEER_BARS)
    check_mean(bars)
    events = some_events(len(bars))
    check_flow(events)
    calls = {**calls_of(INDICATORS, "tickline", bars), **calls_of(MICROSTRUCTURE, EVENTS, events)}
    if importlib.util.find_spec("talipp"):
        calls.update({("talipp", name): lambda name=name: ns_of_talipp(name, few) for name in TALIPP})
    if importlib.util.find_spec("talib"):
        calls.update({("TA-Lib", name): lambda name=name: ns_of_ta_lib(name, few) for name in TA_LIB})
    for call in calls.values():  # compiles
        call()
    found: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            found[key].append(call())
    out: dict[str, dict[str, harness.Spread]] = {}
    for (who, name), values in found.items():
        out.setdefault(who, {})[name] = harness.Spread.of(values)
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes seconds and records nothing."""
    parser = argparse.ArgumentParser(description="nanoseconds a bar of the indicators, and an event of the features of events")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--strict", action="store_true", help="exit with 1 when the target is missed")
    args = parser.parse_args(argv)
    rounds = 1 if args.small else args.rounds
    found = measured(args.small, rounds)
    whole = found["tickline"]["all"]
    peers = [who for who in ("talipp", "TA-Lib") if who in found]
    rows = [
        [name, spread.text(lambda ns: f"{ns:,.0f}"), *(f"{found[who][name].median:,.0f}" if name in found[who] else "" for who in peers)]
        for name, spread in found["tickline"].items()
    ]
    if not args.small:
        medians = {who: {name: spread.median for name, spread in of.items()} for who, of in found.items()}
        harness.write_result("features", {"ns_an_event": medians.pop(EVENTS), "ns_a_bar": medians})
    print(harness.table(["indicator, default parameters", "ns a bar, median [low .. high]", *peers], rows))
    rows = [[name, spread.text(lambda ns: f"{ns:,.0f}")] for name, spread in found[EVENTS].items()]
    print(harness.table(["feature of events, default parameters", "ns an event, median [low .. high]"], rows))
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, each held against the batch")
    targets = [
        harness.Target(f"all {len(INDICATORS)} indicators, a bar", whole.median, SET_NS_MAX, " ns", at_least=False),
        harness.Target(f"all {len(MICROSTRUCTURE)} features of events, an event", found[EVENTS]["all"].median, EVENTS_NS_MAX, " ns", at_least=False),
    ]
    return harness.judged(targets, args.strict)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from wrong
