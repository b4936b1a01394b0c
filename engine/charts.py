"""Pictures of a run as SVG text: lines over time with markers, areas, and histograms on a logarithmic axis.

Plain geometry and no library, so that a report is one file that needs nothing and shows its pictures without a script. Colours
are classes (`line`, `area`, `buy`, `sell`, `bar`, `grid`) which the page's style sheet fills in for light and dark. A series of
any length is drawn with at most two points per column of pixels, its least and its greatest, so that no spike is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

WIDTH, HEIGHT = 960, 240
LEFT, RIGHT, TOP, BOTTOM = 76, 10, 10, 24  # room for the labels
PLOT_WIDTH, PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
COLUMNS = PLOT_WIDTH // 2  # two pixels each: a page of two dozen pictures stays below a megabyte
TITLED_MARKERS = 200  # more fills than these are drawn without a text each
BARS = 120
MINUS = "\u2212"
_TIME_STEPS_NS = [
    *(m * 10**e for e in range(3, 9) for m in (1, 2, 5)),
    *(s * 10**9 for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200)),
    *(d * 86400 * 10**9 for d in (1, 2, 7, 14, 28, 91, 182, 365, 730, 1826, 3652)),
]

Floats = NDArray[np.float64]
Times = NDArray[np.int64]


class Marker(NamedTuple):
    """A fill on a price chart."""

    ts_ns: int
    price: float
    buys: bool
    text: str  # shown when pointed at


@dataclass(frozen=True)
class Frame:
    """What part of the data the plot shows; a span of nothing is widened so that it can be drawn."""

    x_low: int
    x_high: int
    y_low: float
    y_high: float

    @classmethod
    def around(cls, x: Times, y: Floats, zero: bool = False) -> Frame:
        """Around all points with a little air above and below; with `zero` the axis is in sight."""
        low, high = (float(y.min()), float(y.max())) if len(y) else (0.0, 0.0)
        if zero:
            low, high = min(low, 0.0), max(high, 0.0)
        air = (high - low) * 0.05 or abs(high) * 0.01 or 1.0
        x_low, x_high = (int(x[0]), int(x[-1])) if len(x) else (0, 1)
        return cls(x_low, max(x_high, x_low + 1), low - air, high + air)

    def px(self, x: ArrayLike) -> Floats:
        """Times as horizontal pixels; the difference is taken in integers, where float64 would round nanoseconds."""
        past = (np.asarray(x, np.int64) - self.x_low).astype(np.float64)
        return LEFT + past * (PLOT_WIDTH / (self.x_high - self.x_low))

    def py(self, y: ArrayLike) -> Floats:
        return TOP + (self.y_high - np.asarray(y, np.float64)) * (PLOT_HEIGHT / (self.y_high - self.y_low))


def finite(x: ArrayLike, y: ArrayLike) -> tuple[Times, Floats]:
    """The points that can be drawn, as int64 and float64; the x are taken to be in order."""
    times, values = np.asarray(x, np.int64), np.asarray(y, np.float64)
    keep = np.isfinite(values)
    return times[keep], values[keep]


def decimate(x: Times, y: Floats, columns: int = COLUMNS) -> tuple[Times, Floats]:
    """Least and greatest point of each of `columns` equal spans of x, in order, and the first and last of all."""
    if len(x) <= 2 * columns:
        return x, y
    column = ((x - x[0]) * (columns / max(1, int(x[-1] - x[0])))).astype(np.int64)
    starts = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
    keep = {0, len(x) - 1}
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(x)], strict=True):
        keep.add(start + int(np.argmin(y[start:stop])))
        keep.add(start + int(np.argmax(y[start:stop])))
    chosen = np.array(sorted(keep))
    return x[chosen], y[chosen]


def number(value: float, decimals: int = 0) -> str:
    """Grouped by thousands with a true minus sign: −1,234.50; never "−0"."""
    text = f"{value:,.{decimals}f}"
    if text.startswith("-"):
        return text[1:] if not text.strip("-0.,") else MINUS + text[1:]
    return text


def duration(ns: float) -> str:
    """Three digits and a unit: 850 ns, 4.31 µs, 12.0 ms, 2.50 s."""
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if abs(ns) < 999.5 * size:
            scaled = ns / size
            digits = 0 if unit == "ns" or abs(scaled) >= 99.95 else 1 if abs(scaled) >= 9.995 else 2
            return f"{scaled:.{digits}f} {unit}"
    return f"{ns / 1e9:,.2f} s"


def instant(ns: int, step_ns: int) -> str:
    """UTC time of day as fine as `step_ns` asks, the date where that is days."""
    at = datetime.fromtimestamp(ns // 10**9, UTC)
    if step_ns >= 86400 * 10**9:
        return at.strftime("%Y-%m-%d")
    if step_ns >= 60 * 10**9:
        return at.strftime("%H:%M")
    digits = 0 if step_ns >= 10**9 else 3 if step_ns >= 10**6 else 6
    return at.strftime("%H:%M:%S") + (f".{ns % 10**9:09d}"[: digits + 1] if digits else "")


def value_ticks(low: float, high: float, most: int = 6) -> tuple[list[float], int]:
    """Round numbers within low..high, and the decimals that tell them apart."""
    raw = (high - low) / most
    power = math.floor(math.log10(raw))
    step = next(m * 10.0**power for m in (1, 2, 5, 10) if m * 10.0**power >= raw * 0.999)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [i * step for i in range(first, last + 1)], max(0, -math.floor(math.log10(step) + 1e-9))


def time_ticks(low: int, high: int, most: int = 8) -> tuple[list[int], int]:
    """Round instants within low..high ns, and their step."""
    step = next((s for s in _TIME_STEPS_NS if (high - low) <= s * most), _TIME_STEPS_NS[-1])
    return list(range(-(-low // step) * step, high + 1, step))[: 2 * most], step


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _axes(frame: Frame) -> str:
    parts = []
    values, decimals = value_ticks(frame.y_low, frame.y_high)
    for value in values:
        y = float(frame.py(value))
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_label(LEFT - 6, y + 4, number(value, decimals), "end"))
    times, step = time_ticks(frame.x_low, frame.x_high)
    for ns in times:
        x = float(frame.px(ns))
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(_label(min(max(x, LEFT + 20), WIDTH - 36), HEIGHT - 8, instant(ns, step), "middle"))
    return "".join(parts)


def _path(frame: Frame, x: Times, y: Floats, steps: bool) -> str:
    xs, ys = frame.px(x).tolist(), frame.py(y).tolist()
    parts = [f"M{xs[0]:.1f} {ys[0]:.1f}"]
    for px, py in zip(xs[1:], ys[1:], strict=True):
        parts.append(f"H{px:.1f}V{py:.1f}" if steps else f"L{px:.1f} {py:.1f}")
    return "".join(parts)


def _triangle(x: float, y: float, buys: bool, wide: int, tall: int) -> str:
    """A buy points up from below the price, a sell down from above it: told apart by shape, not by colour alone."""
    return f"M{x:.1f} {y:.1f}l-{wide} {tall if buys else -tall}h{2 * wide}z"


def _markers(frame: Frame, markers: Sequence[Marker]) -> str:
    if len(markers) <= TITLED_MARKERS:
        return "".join(
            f'<path class="{"buy" if m.buys else "sell"}" d="{_triangle(float(frame.px(m.ts_ns)), float(frame.py(m.price)), m.buys, 5, 9)}">'
            f"<title>{escape(m.text)}</title></path>"
            for m in markers
        )
    parts = []
    for buys in (True, False):
        own = [m for m in markers if m.buys == buys]
        xs = frame.px([m.ts_ns for m in own]).round().tolist()
        ys = frame.py([m.price for m in own]).round().tolist()
        places = dict.fromkeys(zip(xs, ys, strict=True))  # of fills on the same pixel one is enough
        parts.append(
            f'<path class="{"buy" if buys else "sell"}" d="{"".join(_triangle(x, y, buys, 3, 5) for x, y in places)}"/>'
        )
    return "".join(parts)


def svg(content: str, title: str) -> str:
    """The picture around `content`, with its title for readers who cannot see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{content}</svg>"
    )


def line_chart(
    title: str,
    x: ArrayLike,
    y: ArrayLike,
    markers: Sequence[Marker] = (),
    *,
    steps: bool = False,
    area: bool = False,
    zero: bool = False,
    span: Sequence[int] = (),
) -> str:
    """A line of `y` over times `x` in ns UTC; `steps` holds each value to the next, `area` fills down to zero.

    The plot reaches over the points, the markers and the instants in `span`; the last step is held to its end.
    """
    times, values = finite(x, y)
    if not len(times):
        return svg(_label(WIDTH / 2, HEIGHT / 2, "no data", "middle"), title)
    drawn = [m for m in markers if math.isfinite(m.price)]
    instants = [int(times[0]), int(times[-1]), *span, *(m.ts_ns for m in drawn)]
    if steps:
        times, values = np.append(times, max(instants)), np.append(values, values[-1])
    reach = np.array([min(instants), max(instants)])
    frame = Frame.around(reach, np.concatenate([values, [m.price for m in drawn]]), zero or area)
    path = _path(frame, *decimate(times, values), steps)
    content = _axes(frame)
    if area:
        base = float(frame.py(0.0))
        ends = frame.px(times[[0, -1]]).tolist()
        content += f'<path class="area" d="{path}V{base:.1f}H{ends[0]:.1f}Z"/>'
    content += f'<path class="line" d="{path}"/>' + _markers(frame, drawn)
    return svg(content, title)


def _bins(upper: Floats, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """(left edges, right edges, counts) in decades, of at most BARS bins of equal logarithmic width."""
    below = (
        upper[0] * upper[0] / upper[1] if len(upper) > 1 else upper[0] / 2
    )  # the first bucket says not where it begins
    lower = np.concatenate([[below], upper[:-1]])
    left, right = np.log10(np.maximum(lower, 1.0)), np.log10(np.maximum(upper, 1.0))
    filled = np.flatnonzero(counts)
    low, high = left[filled[0]], max(right[filled[-1]], left[filled[0]] + 0.1)
    if len(filled) <= BARS:
        return left[filled], np.maximum(right[filled], left[filled] + (high - low) / 500), counts[filled]
    place = (np.ceil((right - low) * (BARS / (high - low)) - 1e-6).astype(np.int64) - 1).clip(0, BARS - 1)
    summed = np.zeros(BARS)
    np.add.at(summed, place, counts)
    edges = low + np.arange(BARS + 1) * ((high - low) / BARS)
    return edges[:-1], edges[1:], summed


def histogram(title: str, upper_ns: ArrayLike, counts: ArrayLike) -> str:
    """Counts of durations by bucket, both axes logarithmic so that the tail can be seen; `upper_ns` ascending, > 0."""
    upper, found = np.asarray(upper_ns, np.float64), np.asarray(counts, np.float64)
    if not found.any():
        return svg(_label(WIDTH / 2, HEIGHT / 2, "no samples", "middle"), title)
    left, right, heights = _bins(upper, found)
    low, high = float(left[0]), float(right[-1])
    top = math.log10(float(heights.max())) + 0.5
    wide, tall = PLOT_WIDTH / (high - low), PLOT_HEIGHT / (top + 0.3)
    floor = HEIGHT - BOTTOM
    parts = []
    for exponent in range(math.floor(top) + 1):
        y = floor - (exponent + 0.3) * tall  # a single sample stands 0.3 decades high
        parts.append(
            f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>{_label(LEFT - 6, y + 4, number(10**exponent), "end")}'
        )
    for ns in _duration_ticks(low, high):
        x = LEFT + (math.log10(ns) - low) * wide
        parts.append(
            f'<path class="grid" d="M{x:.1f} {TOP}V{floor}"/>{_label(min(max(x, LEFT + 16), WIDTH - 30), HEIGHT - 8, duration(ns), "middle")}'
        )
    for a, b, count in zip(left.tolist(), right.tolist(), heights.tolist(), strict=True):
        if count:
            height = (math.log10(count) + 0.3) * tall
            x = LEFT + (a - low) * wide
            parts.append(
                f'<path class="bar" d="M{x:.1f} {floor}v-{height:.1f}h{max((b - a) * wide, 0.5):.2f}v{height:.1f}z"/>'
            )
    return svg("".join(parts), title)


def _duration_ticks(low: float, high: float) -> list[Any]:
    """1, 2 and 5 of each decade when there are few, else the decades."""
    steps = (1, 2, 5) if high - low < 3 else (1,)
    found = [m * 10**e for e in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    return [ns for ns in found if low <= math.log10(ns) <= high]
