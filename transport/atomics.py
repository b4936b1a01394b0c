"""Atomic cells, fences, pauses and clocks for compiled loops.

numba has no atomics for a CPU, llvmlite has: these intrinsics emit LLVM's `load atomic … acquire`, `store atomic … release` and
`fence` on int64 cells, in private or in shared memory alike. On x86-64 each is one plain `mov` (a fence is no instruction at
all); what they buy there is that LLVM may neither reorder, tear, repeat nor drop them. On another CPU they are what its memory
model needs. libc is called by symbol name, so that a kernel which uses it is cached on disk like any other.

None of these checks an index: the caller owns the layout of its cells. All are callable in kernels only, but
for the last three, which are kernels for Python's use.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir

from transport.compiled import cgutils, intrinsic, kernel, types

X86 = platform.machine() in ("x86_64", "AMD64")
CLOCK_MONOTONIC = 1  # Linux, <time.h>
NS_PER_S = 1_000_000_000

_WORD = ir.IntType(64)
_INT = ir.IntType(32)


def _is_cells(array: Any) -> bool:
    """A contiguous one-dimensional int64 array: anything else would be addressed wrongly, so numba is told of no match."""
    return isinstance(array, types.Array) and array.dtype == types.int64 and array.ndim == 1 and array.layout == "C"


def _cell(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    view = context.make_array(array_type)(context, builder, array)
    return builder.gep(view.data, [index])


@intrinsic
def load_acquire(typing_context: Any, cells: Any, index: Any) -> Any:
    """The int64 at `cells[index]`; nothing after it is read earlier. Pairs with the `store_release` that wrote the value."""
    if not _is_cells(cells):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_cell(context, builder, signature.args[0], *args), "acquire", 8, typ=_WORD)

    return types.int64(cells, types.int64), generate


@intrinsic
def store_release(typing_context: Any, cells: Any, index: Any, value: Any) -> Any:
    """Write `cells[index] = value`; nothing before it, read or write, happens later. Pairs with a `load_acquire`."""
    if not _is_cells(cells) or not cells.mutable:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cell = _cell(context, builder, signature.args[0], args[0], args[1])
        builder.store_atomic(args[2], cell, "release", 8)
        return context.get_dummy_value()

    return types.void(cells, types.int64, types.int64), generate


@intrinsic
def compare_exchange(typing_context: Any, cells: Any, index: Any, expected: Any, value: Any) -> Any:
    """Write `value` where `expected` stands, in one step, sequentially consistent; whether it did."""
    if not _is_cells(cells) or not cells.mutable:
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cell = _cell(context, builder, signature.args[0], args[0], args[1])
        return builder.extract_value(builder.cmpxchg(cell, args[2], args[3], "seq_cst"), 1)

    return types.boolean(cells, types.int64, types.int64, types.int64), generate


def _fence(ordering: str) -> Any:
    @intrinsic
    def fence(typing_context: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), generate

    return fence


fence_acquire = _fence("acquire")  # no read after it moves before a read in front of it
fence_release = _fence("release")  # no write after it moves before a read or write in front of it


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the core that this is a spin loop (x86 `pause`, tens of cycles); nothing on another CPU."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if X86:
            called = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ir.VoidType(), []), "llvm.x86.sse2.pause"
            )
            builder.call(called, [])
        return context.get_dummy_value()

    return types.void(), generate


def _libc(builder: Any, name: str, arguments: list[Any]) -> Any:
    """Call libc's `int name(…)`, resolved in this process when the kernel is loaded, from the disk cache too."""
    shape = ir.FunctionType(_INT, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, shape, name), arguments)


@intrinsic
def sched_yield(typing_context: Any) -> Any:
    """Let another runnable thread have this core."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _libc(builder, "sched_yield", [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def sleep_us(typing_context: Any, us: Any) -> Any:
    """Sleep at least `us` microseconds, 0 <= us < 1,000,000 (POSIX's bound); a signal may end it early."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _libc(builder, "usleep", [builder.trunc(args[0], _INT)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _monotonic(builder: Any) -> Any:
    """clock_gettime(CLOCK_MONOTONIC) into a stack slot of {seconds, nanoseconds}; it cannot fail for this clock."""
    slot = cgutils.alloca_once(builder, ir.ArrayType(_WORD, 2))
    parts = builder.bitcast(slot, _WORD.as_pointer())
    _libc(builder, "clock_gettime", [_INT(CLOCK_MONOTONIC), parts])
    seconds = builder.load(parts)
    rest = builder.load(builder.gep(parts, [_WORD(1)]))
    return builder.add(builder.mul(seconds, _WORD(NS_PER_S)), rest)


@intrinsic
def monotonic_ns(typing_context: Any) -> Any:
    """Nanoseconds of CLOCK_MONOTONIC, the clock of Python's `time.monotonic_ns`; int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _monotonic(builder)

    return types.int64(), generate


@intrinsic
def cycles(typing_context: Any) -> Any:
    """The cheapest clock there is, int64: x86's time stamp counter, at a constant rate that `transport.clock` measures.

    Elsewhere monotonic nanoseconds: LLVM's counter of another CPU may trap in user space.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if not X86:
            return _monotonic(builder)
        counter = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_WORD, []), "llvm.readcyclecounter")
        return builder.call(counter, [])

    return types.int64(), generate


@kernel
def load_cell(cells, index):
    """`load_acquire`, callable from Python."""
    return load_acquire(cells, index)


@kernel
def store_cell(cells, index, value):
    """`store_release`, callable from Python."""
    store_release(cells, index, value)


@kernel
def swap_cell(cells, index, expected, value):
    """`compare_exchange`, callable from Python."""
    return compare_exchange(cells, index, expected, value)
