"""The features somebody configured, placed: which value stands where in the row, whose memory lies where, and what all that is called.

    row       [ values of the first | values of the second | ... ]                        float64, NaN while a feature warms up
    memory    [ state | window | to 64 bytes ][ state | window | to 64 bytes ] ...        float64, one such row an instrument
    plan      a record a feature: the address of its machine code, of its parameters, and its places in both

Features are called through their addresses by one loop, whatever was configured. The schema is the text of all of it, an unchanged
hash of which means that values of the same meaning stand in the same places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from handlers.domain.memory import call_step, view_at
from handlers.features.declare import Feature, FeatureError, Value
from transport.compiled import kernel

SET_VALUES_MAX = 256  # values of a row
SET_SLOTS_MAX = 1 << 22  # float64 slots of memory, 32 MiB an instrument
PLAN = np.dtype(
    [
        ("step", "i8"), ("params", "i8"),  # addresses
        ("memory", "i8"),  # first slot in the memory of an instrument
        ("value", "i8"), ("values", "i8"),  # first place in the row, and how many
    ]
)  # fmt: skip
ONE = np.dtype([("value", "f8")])
_LINE = 8  # float64 slots of a cache line


@kernel
def forget_values(row, f):
    """A feature that warms up, or raised, has no values."""
    for k in range(f.values):
        view_at(row + 8 * (f.value + k), ONE).value = np.nan


@kernel
def update_features(plan, memory, x, row):
    """Let every feature of `plan` take the input at address `x` and write its values to the float64 at address `row`.

    `memory` is the address of an instrument's. Returns 0, or 1 + the place in the plan of the first feature that raised.
    """
    fault = 0
    for k in range(len(plan)):
        f = plan[k]
        count = call_step(f.step, memory + 8 * f.memory, f.params, x, row + 8 * f.value)
        if count != 1:
            forget_values(row, f)
            if count != 0 and fault == 0:
                fault = k + 1
    return fault


@kernel
def run_features(plan, memory, first, stride, rows):
    """The same over many inputs, the first at address `first` and each `stride` bytes on, a row of `rows` each.

    Feature by feature, so that each one's code and memory stay near: none sees another.
    """
    fault, values = 0, rows.ctypes.data
    for k in range(len(plan)):
        f = plan[k]
        for i in range(len(rows)):
            row = values + 8 * i * rows.shape[1]
            count = call_step(f.step, memory + 8 * f.memory, f.params, first + i * stride, row + 8 * f.value)
            if count != 1:
                forget_values(row, f)
                if count != 0 and fault == 0:
                    fault = k + 1
    return fault


class Placed(NamedTuple):
    """One configured feature: its parameters (one element), its label, its first value and slot, its window and warm-up."""

    feature: Feature
    label: str
    params: np.ndarray[Any, Any]
    value: int
    slot: int
    window: int
    warm_up: int

    def columns(self) -> tuple[Value, ...]:
        """Its values under the names they have in the row: the label, and behind a dot the value where there are several."""
        if len(self.feature.values) == 1:
            return (self.feature.values[0]._replace(name=self.label),)
        return tuple(v._replace(name=f"{self.label}.{v.name}") for v in self.feature.values)

    def text(self) -> str:
        """The lines of the schema: what each value is made by."""
        params = ",".join(f"{p.name}={self.params[p.name][0].item()!r}" for p in self.feature.parameters) or "none"
        made = f"{self.feature.name} version {self.feature.version}; params {params}; window {self.window}; warm-up {self.warm_up}"
        return "".join(f"{self.value + k} {v.name} [{v.unit}] {made}\n" for k, v in enumerate(self.columns()))


class FeatureSet:
    """What a list of (feature name, parameters) comes to; compiled when `plan` is asked for.

    `columns` name the values of a row, `schema` is the whole in words and `schema_hash` its SHA-256. Raises FeatureError for a
    feature nobody knows, a parameter out of bounds, the same one twice, more values or memory than a row or an instrument may have.
    """

    def __init__(self, wanted: Sequence[tuple[str, dict[str, float]]], known: Sequence[Feature]) -> None:
        by_name = {f.name: f for f in known}
        self.placed: list[Placed] = []
        value = slot = 0
        for name, given in wanted:
            if name not in by_name:
                raise FeatureError(f"no feature {name!r}; there are {', '.join(sorted(by_name))}")
            placed = _place(by_name[name], given, value, slot)
            self.placed.append(placed)
            value += len(placed.feature.values)
            slot += -(-(placed.feature.state.itemsize // 8 + placed.window) // _LINE) * _LINE
        if value > SET_VALUES_MAX or slot > SET_SLOTS_MAX:
            raise FeatureError(f"{value} values and {slot} slots of memory; a set has at most {SET_VALUES_MAX} and {SET_SLOTS_MAX}")
        inputs = {p.feature.reads for p in self.placed}
        if len(inputs) > 1:
            raise FeatureError("features of one set read the same kind of input")
        self.reads = next(iter(inputs), np.dtype([]))
        self.columns = tuple(column for p in self.placed for column in p.columns())
        names = [c.name for c in self.columns]
        if len(set(names)) != len(names):
            raise FeatureError(f"the feature {next(n for n in names if names.count(n) > 1)!r} is configured twice")
        self.slots = slot
        self.schema = f"input {self.reads.descr}\n" + "".join(p.text() for p in self.placed)
        self.schema_hash = hashlib.sha256(self.schema.encode()).hexdigest()
        self._plan: np.ndarray[Any, Any] | None = None

    @property
    def plan(self) -> np.ndarray[Any, Any]:
        """A PLAN record a feature; each is compiled, or loaded from the cache, at the first call. It lives as long as the set."""
        if self._plan is None:
            self._plan = np.zeros(len(self.placed), PLAN)
            for row, p in zip(self._plan, self.placed, strict=True):
                row["step"], row["params"] = p.feature.address, p.params.ctypes.data
                row["memory"], row["value"], row["values"] = p.slot, p.value, len(p.feature.values)
        return self._plan

    def new_memory(self, instruments: int = 1) -> np.ndarray[Any, Any]:
        """Memory of each instrument, at its beginning: shape (instruments, slots)."""
        memory = np.zeros((instruments, max(_LINE, self.slots)))
        for p in self.placed:
            memory.view(np.int64)[:, p.slot] = p.window
        return memory

    def update(self, memory: np.ndarray[Any, Any], x: np.ndarray[Any, Any], row: np.ndarray[Any, Any]) -> None:
        """Take one input, `x` of shape (1,), into an instrument's memory and write its values to `row`, shape (values,)."""
        self._check(x)
        fault = update_features(self.plan, memory.ctypes.data, x.ctypes.data, row.ctypes.data)
        assert not fault, f"feature {self.placed[fault - 1].label} raised"

    def batch(self, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The values after each of `inputs`, shape (n,), from the beginning: shape (n, values), NaN while a feature warms up."""
        self._check(inputs)
        rows = np.empty((len(inputs), len(self.columns)))
        memory = self.new_memory()[0]
        fault = run_features(self.plan, memory.ctypes.data, inputs.ctypes.data, inputs.itemsize, rows)
        assert not fault, f"feature {self.placed[fault - 1].label} raised"
        return rows

    def _check(self, inputs: np.ndarray[Any, Any]) -> None:
        if inputs.dtype != self.reads or inputs.ndim != 1 or not inputs.flags.c_contiguous:
            raise TypeError(f"inputs are a contiguous array of {self.reads}, not {inputs.dtype} of shape {inputs.shape}")


def _place(feature: Feature, given: dict[str, float], value: int, slot: int) -> Placed:
    params = feature.pack_params(given)
    window, warm_up = feature.sizes(params)
    return Placed(feature, _label(feature, params, given), params, value, slot, window, warm_up)


def _label(feature: Feature, params: np.ndarray[Any, Any], given: dict[str, float]) -> str:
    """The name and the parameters given, each exactly; with their names where they are not the first there are."""
    told = [p.name for p in feature.parameters if p.name in given]
    in_order = told == [p.name for p in feature.parameters[: len(told)]]
    short = {name: f"{params[name][0]:g}" for name in told}
    exact = (short[name] if float(short[name]) == params[name][0] else repr(params[name][0].item()) for name in told)
    return "_".join([feature.name, *(text if in_order else name + text for name, text in zip(told, exact, strict=True))])
