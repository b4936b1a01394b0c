"""Addresses as records, and calls through an address: how one compiled loop reaches any feed window and any handler."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from transport.compiled import REC_T, cgutils, intrinsic, types
from transport.records import SLOT_BYTES


RAISED = -(2**63)  # what `call_step` answers for a step that raised
_WORDS = 4  # of a vector: a store of 64 bytes is not forwarded to the narrow loads that follow it on every CPU, one of 32 is


@intrinsic  # type: ignore[untyped-decorator]
def slot_at(typingctx: Any, address: Any) -> Any:
    """The slot at an int64 address, as a REC record, without a copy."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(REC_T))

    return REC_T(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch_slot(typingctx: Any, address: Any) -> Any:
    """Ask for the slot at an int64 address to be brought near; the address may lie past the memory's end."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for line in range(SLOT_BYTES // 64):
            at = builder.inttoptr(builder.add(args[0], ir.Constant(ir.IntType(64), 64 * line)), pointer)
            builder.call(function, [at, ir.Constant(number, 0), ir.Constant(number, 3), ir.Constant(number, 1)])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def pointer_at(typingctx: Any, pointer: Any, offset: Any) -> Any:
    """The pointer `offset` bytes behind another one, for `carray`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return types.voidptr(types.voidptr, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def view_at(typingctx: Any, address: Any, dtype: Any) -> Any:
    """The record of `dtype` (a compile-time constant) at an int64 address, without a copy."""
    record = dtype.dtype

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(record))

    return record(types.int64, dtype), codegen


@intrinsic  # type: ignore[untyped-decorator]
def address_of(typingctx: Any, record: Any) -> Any:
    """int64 address of a record."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(record), codegen



@intrinsic  # type: ignore[untyped-decorator]
def copy_slot(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy one slot, SLOT_BYTES, from one REC record to another."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), _WORDS)
        to, frm = (builder.bitcast(a, vector.as_pointer()) for a in args)
        for piece in range(SLOT_BYTES // (8 * _WORDS)):
            at = [ir.Constant(ir.IntType(64), piece)]
            load = builder.load(builder.gep(frm, at), align=8)
            builder.store(load, builder.gep(to, at), align=8)
        return context.get_dummy_value()

    return types.none(REC_T, REC_T), codegen


@intrinsic  # type: ignore[untyped-decorator]
def copy_line(typingctx: Any, target: Any, source: Any) -> Any:
    """Copy one cache line, 64 bytes, from one int64 address to another."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), 8)
        to, frm = (builder.inttoptr(a, vector.as_pointer()) for a in args)
        builder.store(builder.load(frm, align=8), to, align=8)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def zero_slot(typingctx: Any, target: Any) -> Any:
    """Zero one slot."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), _WORDS)
        to = builder.bitcast(args[0], vector.as_pointer())
        for piece in range(SLOT_BYTES // (8 * _WORDS)):
            builder.store(ir.Constant(vector, None), builder.gep(to, [ir.Constant(ir.IntType(64), piece)]), align=8)
        return context.get_dummy_value()

    return types.none(REC_T), codegen


@intrinsic  # type: ignore[untyped-decorator]
def slot_word(typingctx: Any, record: Any, index: Any) -> Any:
    """Word `index` of a slot as uint64: 0..15, and on into the slots behind it that belong to the same long row."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(words, [args[1]]), align=8)

    return types.uint64(REC_T, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def set_slot_word(typingctx: Any, record: Any, index: Any, value: Any) -> Any:
    """Store word `index` (0..15) of a slot whole: what is read back whole must not have been written in pieces."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        builder.store(args[2], builder.gep(words, [args[1]]), align=8)
        return context.get_dummy_value()

    return types.none(REC_T, types.int64, types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def call_step(typingctx: Any, step: Any, state: Any, params: Any, record: Any, out: Any) -> Any:
    """Call the shell of a handler at address `step`; all arguments are int64 addresses, the result is its int64, or RAISED.

    The convention is numba's own, int32 status (int64 *result, void **error, arguments): a status other than 0 is an exception.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        function = ir.FunctionType(ir.IntType(32), [word.as_pointer(), pointer.as_pointer(), *[pointer] * 4])
        target = builder.inttoptr(args[0], function.as_pointer())
        result, error = cgutils.alloca_once(builder, word), cgutils.alloca_once(builder, pointer)
        status = builder.call(target, [result, error, *(builder.inttoptr(a, pointer) for a in args[1:])])
        failed = builder.icmp_signed("!=", status, ir.Constant(ir.IntType(32), 0))
        return builder.select(failed, ir.Constant(word, RAISED), builder.load(result))

    i8 = types.int64
    return i8(i8, i8, i8, i8, i8), codegen
