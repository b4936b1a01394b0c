"""Bits of a 64-bit word: the book's bitmaps search with these."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from transport.compiled import intrinsic, types


@intrinsic  # type: ignore[untyped-decorator]
def highest_bit(typingctx: Any, word: Any) -> Any:
    """Index of the highest set bit of a non-zero uint64, 0..63."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zeros = builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))
        return builder.sub(ir.Constant(ir.IntType(64), 63), zeros)

    return types.int64(types.uint64), codegen
