"""Eight bytes at a time: loads and stores at any alignment, and what is read of the text in a word without looking at its bytes one by one.

    "61800.30"  →  load_word   0x30 2e 30 30 38 31 36 22      the first byte is the lowest: little-endian, as records are
                   digits_in   how many of the bytes, from the lowest on, are digits
                   number_in   the number that eight digits are

Every answer is the first byte's that matters: what a carry leaves in the bytes behind it is never looked at.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transport.compiled import cgutils, intrinsic, kernel, types

WORD_BYTES = 8
_HIGH, _EACH = np.uint64(0x8080808080808080), np.uint64(0x0101010101010101)
_ZEROS = np.uint64(0x3030303030303030)
_PAST_NINE = np.uint64(0x7676767676767676)  # 10 and more come to 128 and more with it
_QUOTES, _SLASHES, _BLANKS = (np.uint64(0x0101010101010101 * c) for c in b'"\\ ')
_LOW_NIBBLES, _LOW_BYTES, _LOW_HALVES = np.uint64(0x0F0F0F0F0F0F0F0F), np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)
_TENS, _HUNDREDS, _TEN_THOUSANDS = np.uint64(10 << 8 | 1), np.uint64(100 << 16 | 1), np.uint64(10_000 << 32 | 1)
_8, _16, _32 = np.uint64(8), np.uint64(16), np.uint64(32)


def _store_word(typing_context: Any, array: Any, at: Any, value: Any) -> Any:
    """Eight bytes at an index of an array of bytes or words, owned or borrowed, at any alignment; the caller has checked the room.

    Plain indexing costs more than the work itself here: numba wraps negative indices on every access.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        pointer = builder.bitcast(builder.gep(view.data, [args[1]]), args[2].type.as_pointer())
        builder.store(args[2], pointer, align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), generate


def _load_word(typing_context: Any, array: Any, at: Any) -> Any:
    """The eight bytes at an index of an array of bytes or words, owned or borrowed; the caller has checked that they exist."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
        word = context.get_value_type(types.uint64)
        return builder.load(builder.bitcast(builder.gep(view.data, [args[1]]), word.as_pointer()), align=1)

    return types.uint64(array, types.int64), generate


store_word: Any = intrinsic(_store_word)
load_word: Any = intrinsic(_load_word)


def _bit_count(name: str) -> Any:
    """Intrinsic over llvmlite's ctlz, cttz (64 for a word of zeros) or ctpop, as int64."""

    @intrinsic
    def count(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            if name == "ctpop":
                return builder.ctpop(args[0])
            zero_is_undefined = context.get_constant(types.boolean, False)
            return getattr(builder, name)(args[0], zero_is_undefined)

        return types.int64(types.uint64), generate

    return count


leading_zeros, trailing_zeros, ones = _bit_count("ctlz"), _bit_count("cttz"), _bit_count("ctpop")


@kernel(inline=True)
def digits_in(word):
    """How many bytes of `word`, from the lowest on, are digits: 0 to 8."""
    nibbles = word ^ _ZEROS
    return trailing_zeros(((nibbles + _PAST_NINE) | nibbles) & _HIGH) >> 3


@kernel(inline=True)
def number_in(word):
    """The number < 10**8 that the low nibbles of `word` are, eight decimal digits, the lowest byte the first of them."""
    pairs = (word & _LOW_NIBBLES) * _TENS >> _8
    fours = (pairs & _LOW_BYTES) * _HUNDREDS >> _16
    return np.int64((fours & _LOW_HALVES) * _TEN_THOUSANDS >> _32)


@kernel(inline=True)
def plain_in(word):
    """How many bytes of `word`, from the lowest on, JSON has in a text as they are: ASCII, neither quote, escape nor control; 0 to 8."""
    quotes, slashes = word ^ _QUOTES, word ^ _SLASHES
    odd = (quotes - _EACH) & ~quotes | (slashes - _EACH) & ~slashes | (word - _BLANKS) & ~word | word | (word + _EACH)
    return trailing_zeros(odd & _HIGH) >> 3


@kernel(inline=True)
def first_bytes(word, n):
    """`word` with all but its lowest `n` bytes, 1 to 8, made zero."""
    return word << np.uint64(64 - 8 * n) >> np.uint64(64 - 8 * n)
