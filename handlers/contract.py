"""The contract of a handler: one record in, rows out, and the shell that gives every handler the same machine signature.

    int64 step(state, params, record, out)        four addresses, in numba's own calling convention

One signature means that another strategy, another parameter value, another number of strategies compiles no new loop: the loop
calls an address. `@handler` declares the state and the parameters as plain numpy fields; the first fields of the state are the
VIEW, filled in by the runner before each call and read-only by contract (what a step writes there is overwritten).

A step returns the number of rows it wrote to `out`; -n says "n rows, and call me again with the same record". With
`rows_max = 1`, `out` is one record, else an array of them. A step that raises, returns more than it declared, or keeps asking
to be called again stops the line at that `seq` with the journal intact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transport.records import BAR, FEATURE, FILL, FORECAST, NAME_OF, PARTS_MAX, QUOTE, SIGNAL, TIMER, TRADE, VALUES_PER_SLOT

CALLS_MAX = 64  # continuations of one handler on one record
ROWS_MAX = 32  # rows of one call
DEPTH_MAX = 32  # book levels a side in the view
VALUES_MAX = PARTS_MAX * VALUES_PER_SLOT  # of a long row in the view
GUARD_ROWS = 8  # slots behind the rows, watched for writes past rows_max

Fields = Sequence[tuple[str, str]] | Sequence[tuple[str, str, tuple[int, ...]]]

ACCOUNT_FIELDS: list[tuple[str, str]] = [  # 64 bytes, kept by the runner and copied whole before each call
    ("position_lots", "i8"),  # signed, of this strategy in this instrument, fills reported so far
    ("open_buy_lots", "i8"),  # acknowledged and not yet filled or withdrawn
    ("open_sell_lots", "i8"),
    ("cost", "i8"),  # signed money paid for the open position
    ("realised", "i8"),
    ("fees", "i8"),
    ("instrument_id", "i8"),
    ("strategy_id", "i8"),
]
VIEW_FIELDS: list[tuple[str, str]] = [
    *ACCOUNT_FIELDS,
    ("bid_ticks", "i8"),  # top of the book, 0 when a side is empty or the book is not valid
    ("ask_ticks", "i8"),
]
VIEW = np.dtype(VIEW_FIELDS)
INDICATOR_ROW = 63  # in `reads`: the row of configured indicators at each bar, a FEATURE row of a schema of its own; no record is of this kind
EVENT_ROW = 62  # the same of the row of configured features of events
FACTOR_ROW = 61  # and of the row of an instrument's scores in the universe
READABLE = (TRADE, QUOTE, FEATURE, BAR, FILL, TIMER, INDICATOR_ROW, EVENT_ROW, FACTOR_ROW)
ROW_NAMES = {INDICATOR_ROW: "INDICATOR_ROW", EVENT_ROW: "EVENT_ROW", FACTOR_ROW: "FACTOR_ROW"}
UNREAD = {FORECAST: "there is no source of forecasts yet", SIGNAL: "a strategy's view is for the record"}  # why, where it needs saying
NO_PARAMS = np.dtype([("unused", "i8")])  # of a step without parameters: nothing at all would have no address


def view_dtype(depth: int, values: int = 0) -> np.dtype[Any]:
    """The VIEW, and behind it what a strategy declares besides.

    `depth` book levels a side (price 0 where there is none); `values` of the feature row it reads, or read last, from the first on.
    """
    levels = [(n, "i8", (depth,)) for n in ("bids_ticks", "bids_lots", "asks_ticks", "asks_lots")] if depth else []
    return np.dtype([*VIEW_FIELDS, *levels, *([("values", "f8", (values,))] if values else [])])


@dataclass(frozen=True)
class Handler:
    """A step with what it declares; `state` includes the view."""

    step: Callable[..., int]
    reads: tuple[int, ...]
    state: np.dtype[Any]
    params: np.dtype[Any]
    defaults: dict[str, float]
    rows_max: int
    depth: int
    values: int
    compiled: bool
    name: str = field(default="")

    def __call__(self, s: Any, p: Any, record: Any, out: Any) -> int:
        """Plain Python: the same function under its oracle."""
        return self.step(s, p, record, out)

    def pack_params(self, given: dict[str, float]) -> np.ndarray[Any, Any]:
        """One element of `params`; raises ValueError for a name the step does not have or one without a value."""
        return packed(self.name, self.params, self.defaults, given)


def packed(step: str, params: np.dtype[Any], defaults: dict[str, float], given: dict[str, float]) -> np.ndarray[Any, Any]:
    """One element of `params`, from `given` or else `defaults`; raises ValueError, naming `step`, for a name or a value it cannot have."""
    names = () if params is NO_PARAMS else params.names or ()
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(f"{step} has no parameter {unknown[0]!r}; it has {', '.join(names) or 'none'}")
    found = np.zeros(1, params)
    for key in names:
        value = given.get(key, defaults.get(key))
        if value is None:
            raise ValueError(f"{step} needs a value for {key!r}")
        try:
            found[key] = value
        except OverflowError as error:
            raise ValueError(f"{step}: {key} = {value} does not fit {params[key]}") from error
        if params[key].kind in "iu" and found[key][0] != value:
            raise ValueError(f"{step}: {key} must be a whole number, not {value}")
    return found


def handler(
    *,
    reads: int | Sequence[int],
    state: Fields = (),
    params: Fields = (),
    defaults: dict[str, float] | None = None,
    rows_max: int = 1,
    depth: int = 0,
    values: int = 0,
    compiled: bool = True,
) -> Callable[[Callable[..., int]], Handler]:
    """Declare a step: the kinds it `reads`, its `state` and `params` fields (numpy formats), rows a call, book levels it sees.

    A feature row of over eight values is a long row: a record shows the first eight, `values` of them stand in `s.values`.
    Raises TypeError for a declaration that cannot hold: a kind it may not read, a state field that hides one of the view,
    rows_max outside 1..32, depth outside 0..32, values outside 0..256. `compiled=False` runs the step as plain Python, slower,
    in the same order.
    """
    kinds = (reads,) if isinstance(reads, int) else tuple(reads)
    for kind in kinds:
        if kind not in READABLE:
            why = f": {UNREAD[kind]}" if kind in UNREAD else ""
            names = ", ".join(NAME_OF.get(k) or ROW_NAMES[k] for k in READABLE)
            raise TypeError(f"a step may read {names}, not {NAME_OF.get(kind, kind)}{why}")
    if not 1 <= rows_max <= ROWS_MAX or not 0 <= depth <= DEPTH_MAX:
        raise TypeError(f"rows_max is 1..{ROWS_MAX} and depth 0..{DEPTH_MAX}")
    if not 0 <= values <= VALUES_MAX:
        raise TypeError(f"values is 0..{VALUES_MAX}")
    view = view_dtype(depth, values)
    hidden = {f[0] for f in state} & set(view.names or ())
    if hidden:
        raise TypeError(f"state field {sorted(hidden)[0]!r} hides a field of the view")
    whole = np.dtype([*view.descr, *state], align=False) if state else view
    options = np.dtype(list(params)) if params else NO_PARAMS

    def declare(step: Callable[..., int]) -> Handler:
        return Handler(step, kinds, whole, options, dict(defaults or {}), rows_max, depth, values, compiled, step.__name__)

    return declare
