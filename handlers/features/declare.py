"""The contract of a feature: one input in, its values out, one declaration each, and the shell with the one machine signature.

    int64 step(memory, params, input, values)        four addresses, as every step has (transport.compiled.STEP)

    memory   [ slots i8 | state, the declared fields | to a multiple of 8 bytes ][ window: `slots` float64 ]    zeroed at start

`@feature` declares a step `step(s, w, p, x, out)`: `s` its state, `w` its window, `p` its parameters, `x` the input and `out` its
values. It returns 1 when `out` is valid and 0 while it warms up. It never allocates and calls no libm; the same function runs as
plain Python (`Feature.plain`). A feature is compiled when it is configured, and another set of features compiles no new loop.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handlers.contract import NO_PARAMS, Fields, packed
from handlers.domain.schema import Value
from transport import compiled
from transport.shells import Attributes, compiled_shell

__all__ = ["BAR_INPUT", "EVENT_INPUT", "LEVELS_MAX", "ON_BOOK", "ON_GAP", "ON_TRADE", "Feature", "FeatureError", "Param", "Value", "feature", "feature_of"]
WINDOW_MAX = 1 << 20  # float64 slots of one feature, 8 MiB an instrument
VALUES_MAX = 16  # of one feature
NUMERIC = "handlers.domain.numeric"
SLOTS = ("slots", "i8")  # heads every state: how long the window behind it is
BAR_INPUT = np.dtype(
    [
        ("open", "f8"), ("high", "f8"), ("low", "f8"), ("close", "f8"), ("volume", "f8"),
        ("session", "i8"),  # another number when a session begins
    ]
)  # fmt: skip
LEVELS_MAX = 10  # of the book a side in an event
ON_BOOK, ON_TRADE, ON_GAP = 0, 1, 2  # what an event is; at a gap something was missed, and no mid is known
EVENT_INPUT = np.dtype(
    [
        ("ts_ns", "i8"),  # the line's time: it never falls
        ("kind", "i8"),  # ON_BOOK, ON_TRADE or ON_GAP
        ("price", "f8"), ("qty", "f8"), ("side", "i8"),  # of the trade, or of the last one: ticks, lots, BUY, SELL or NO_SIDE
        ("mid", "f8"),  # ticks; NaN while a side of the book is empty or not known
        ("bid_ticks", "f8", (LEVELS_MAX,)), ("bid_lots", "f8", (LEVELS_MAX,)),  # best first; 0 lots where there is no level
        ("ask_ticks", "f8", (LEVELS_MAX,)), ("ask_lots", "f8", (LEVELS_MAX,)),
    ]
)  # fmt: skip
_SHELL = '''"""Shell of {name}: made by the engine, read by nobody."""

from handlers.features.declare import feature_of
from transport.compiled import F64, carray, kernel, shell

FEATURE = feature_of({key!r})
STATE, PARAMS, INPUT, VALUES = FEATURE.state, FEATURE.params, FEATURE.reads, len(FEATURE.values)
HEAD = STATE.itemsize // 8
step = kernel(FEATURE.step)


@shell
def run(memory, params, record, out):
    s = carray(memory, (1,), STATE)[0]
    w = carray(memory, (HEAD + s.slots,), F64)[HEAD:]
    p = carray(params, (1,), PARAMS)[0]
    x = carray(record, (1,), INPUT)[0]
    return step(s, w, p, x, carray(out, (VALUES,), F64))
'''
_features: dict[str, Feature] = {}


class Param(NamedTuple):
    """One parameter: a numpy field, what it is when not given, and the least and the greatest it may be."""

    name: str
    format: str
    default: float
    low: float
    high: float


class FeatureError(ValueError):
    """A feature that is named or set wrongly, in words for whoever configured it; not retriable."""


@dataclass(frozen=True)
class Feature:
    """A step with what it declares; `state` begins with the length of the window."""

    name: str
    version: int
    step: Callable[..., int]
    reads: np.dtype[Any]
    values: tuple[Value, ...]
    parameters: tuple[Param, ...]
    params: np.dtype[Any]
    state: np.dtype[Any]
    window: Callable[[Any], int]
    warm_up: Callable[[Any], int]

    def pack_params(self, given: dict[str, float]) -> np.ndarray[Any, Any]:
        """One element of `params`; raises FeatureError for a name it does not have or a value out of bounds."""
        try:
            found = packed(self.name, self.params, {p.name: p.default for p in self.parameters}, given)
        except ValueError as error:
            raise FeatureError(str(error)) from error
        for p in self.parameters:
            if not p.low <= found[p.name][0] <= p.high:
                raise FeatureError(f"{self.name}: {p.name} is {p.low:g} to {p.high:g}, not {found[p.name][0]}")
        return found

    def sizes(self, params: np.ndarray[Any, Any]) -> tuple[int, int]:
        """(float64 slots of window, inputs before the first valid value) with these parameters; raises FeatureError."""
        p = Attributes(params[0])
        slots, before = int(self.window(p)), int(self.warm_up(p))
        if not 0 <= slots <= WINDOW_MAX:
            raise FeatureError(f"{self.name} needs {slots} slots of memory with these parameters; it may have {WINDOW_MAX}")
        return slots, before

    @functools.cached_property
    def plain(self) -> Callable[..., int]:
        """The step as Python, what it calls included: the oracle of its machine code."""
        return _uncompiled(self.step)

    @functools.cached_property
    def shell(self) -> Any:
        """Its compiled shell, made or loaded at the first call; raises FeatureError for a step that must not be on the line."""
        file = Path(self.step.__code__.co_filename)
        digest = hashlib.sha256(f"{self.step.__module__} {self.name} {file.read_text()}".encode()).hexdigest()[:24]
        key = f"{self.name}_{digest}"
        _features[key] = self
        text = _SHELL.format(name=self.name, key=key)
        with compiled.interruptible():
            run, fault = compiled_shell(compiled.CACHE_DIR / f"feature-{key}", key, text, f"feature {self.name}")
        if fault:
            raise FeatureError(fault)
        return run

    @property
    def address(self) -> int:
        """Machine address of its shell, which lives as long as this does."""
        return compiled.entry(self.shell)


def feature_of(key: str) -> Feature:
    """The feature a shell belongs to."""
    return _features[key]


def feature(
    *,
    reads: np.dtype[Any],
    values: Sequence[Value],
    window: Callable[[Any], int],
    warm_up: Callable[[Any], int],
    params: Sequence[Param] = (),
    state: Fields = (),
    version: int = 1,
    name: str = "",
) -> Callable[[Callable[..., int]], Feature]:
    """Declare a step: the input's dtype, the values it gives, its parameters, state fields (numpy formats) and window.

    `window` and `warm_up` take the parameters and tell float64 slots of memory and inputs before the first valid value. The version
    is raised with every change of what comes out. Raises TypeError for a declaration that cannot hold.
    """
    if not 1 <= len(values) <= VALUES_MAX or len({v.name for v in values}) != len(values):
        raise TypeError(f"a feature gives 1..{VALUES_MAX} values, each of its own name")
    for p in params:
        if not p.low <= p.default <= p.high:
            raise TypeError(f"parameter {p.name}: {p.default} is not within {p.low}..{p.high}")
    if any(field[0] == SLOTS[0] for field in state):
        raise TypeError(f"state field {SLOTS[0]!r} is the window's length")
    whole = np.dtype([SLOTS, *state])
    whole = np.dtype([*whole.descr, ("fill", "u1", (-whole.itemsize % 8,))]) if whole.itemsize % 8 else whole
    options = np.dtype([(p.name, p.format) for p in params]) if params else NO_PARAMS

    def declare(step: Callable[..., int]) -> Feature:
        called = name or step.__name__
        return Feature(called, version, step, reads, tuple(values), tuple(params), options, whole, window, warm_up)

    return declare


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of `function` that calls the Python form of every kernel it names, but exp, log and erf, which look at bits and have no such form."""
    named = ((name, getattr(function.__globals__.get(name), "py_func", None)) for name in function.__code__.co_names)
    inner = {name: _uncompiled(kernel) for name, kernel in named if kernel and kernel.__module__ != NUMERIC}
    return types.FunctionType(function.__code__, {**function.__globals__, **inner}, function.__name__, function.__defaults__)
