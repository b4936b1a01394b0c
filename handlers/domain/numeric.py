"""Arithmetic the line may use: exp, log, tanh and erf of our own, a checked 128-bit product, and seeded draws.

libm differs between machines in the last bit, and one bit is enough to make two replays differ. So these functions are made of
+ - * / on float64, integers and bit casts only: IEEE 754 fixes every one of those results, no compiler contracts them into FMA
without being allowed to, and the same input gives the same bits on any CPU. Each stays within 1 ulp of the true value over the
whole range (measured in tests/unit/test_numeric.py: below 0.76, the subnormal results of exp included).

The way there is the same four times: reduce the argument exactly, take a table or a short series for what is left, and keep the
large term apart from the small correction, so that one rounding at the end is all that counts. Tables and coefficients are not
copied numbers: they are computed here, at import, in 80-digit decimals that Python rounds the same way everywhere.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from llvmlite import ir

from handlers.domain.bits import highest_bit
from transport.compiled import intrinsic, kernel, types

_DIGITS = 80
_PI = Decimal("3.1415926535897932384626433832795028841971693993751058209749445923078164062862089986")
_EXP_STEPS = 32  # table of 2**(j/32): leaves |r| <= ln2/64, where seven terms reach 2**-67
_ERF_STEPS = 16  # table of erf(j/16): leaves |d| <= 1/32, where eleven terms reach 2**-58
_ERF_TERMS = 11
_ERF_ONE = 6.0  # from 5.93 on erf rounds to 1
_SMALL = 0.25  # below it tanh and erf are odd series; above, a table and an exponential
_TANH_ONE = 20.0  # from 19.1 on tanh rounds to 1


def _head(value: Decimal, bit: int) -> float:
    """`value` cut to a multiple of 2**-bit; exact as a float when that needs at most 53 bits."""
    return int(value * 2**bit) / 2**bit


def _pairs(values: list[Decimal]) -> np.ndarray[Any, Any]:
    """Each value as the sum of two floats, shape (n, 2), float64."""
    heads = [float(v) for v in values]
    return np.array([(h, float(v - Decimal(h))) for h, v in zip(heads, values, strict=True)])


def _tanh_series(terms: int) -> list[Decimal]:
    """Coefficients of x, x**3, x**5, … of tanh, from t' = 1 - t**2."""
    out = [Decimal(1)]
    for n in range(1, terms):
        out.append(-sum((out[i] * out[n - 1 - i] for i in range(n)), Decimal(0)) / (2 * n + 1))
    return out


def _erf_series(terms: int) -> list[Decimal]:
    """Coefficients of x, x**3, x**5, … of erf."""
    out, factorial = [], 1
    for n in range(terms):
        factorial *= max(1, n)
        out.append(2 / _PI.sqrt() * (-1) ** n / (factorial * (2 * n + 1)))
    return out


def _erf_row(x: Decimal) -> list[Decimal]:
    """erf(x) and the coefficients of d, d**2, … of erf(x + d); y = erf' obeys y' = -2xy, which gives each from the last two."""
    total, term, n = Decimal(0), x, 0
    while abs(term) > Decimal(10) ** -(_DIGITS - 5):  # exp(-x*x) times positive terms: nothing cancels
        total += term
        n += 1
        term *= 2 * x * x / (2 * n + 1)
    slope = 2 / _PI.sqrt() * (-x * x).exp()
    y = [slope, -2 * x * slope]
    while len(y) < _ERF_TERMS:
        y.append(-2 * (x * y[-1] + y[-2]) / len(y))
    return [slope * total, *(b / (n + 1) for n, b in enumerate(y))]


with localcontext(prec=_DIGITS):
    _LN2 = Decimal(2).ln()
    _LN2_HEAD = _head(_LN2, 42)  # 42 bits: exact times any exponent
    _LN2_TAIL = float(_LN2 - Decimal(_LN2_HEAD))
    _STEP_HEAD = _head(_LN2 / _EXP_STEPS, 42)  # 37 bits: exact times any exponent * 32
    _STEP_TAIL = float(_LN2 / _EXP_STEPS - Decimal(_STEP_HEAD))
    _STEPS_PER_ONE = float(_EXP_STEPS / _LN2)
    _POWERS = _pairs([(_LN2 * j / _EXP_STEPS).exp() for j in range(_EXP_STEPS)])
    # Highest power first, as `series` wants them.
    _EXP_SERIES = tuple(float(1 / Decimal(f)) for f in (5040, 720, 120, 24, 6, 2))
    _LOG_SERIES = tuple(float(Decimal(2) / (2 * n + 1)) for n in range(11, 0, -1))
    _TANH_SERIES = tuple(float(c) for c in _tanh_series(12)[:0:-1])
    _ERF_SERIES = tuple(float(c) for c in _erf_series(10)[:0:-1])
    _ERF_SLOPE = float(2 / _PI.sqrt() - 1)  # erf(x) = x + x * this + …: the one is exact
    _rows = [_erf_row(Decimal(j) / _ERF_STEPS) for j in range(int(_ERF_ONE) * _ERF_STEPS + 1)]
    _ERF_AT = _pairs([row[0] for row in _rows])
    _ERF_NEAR = np.array([[float(c) for c in row[:0:-1]] for row in _rows])

_ROUNDER = 1.5 * 2.0**52  # adding it leaves the nearest integer in the low bits
_ROUNDER_BITS = 0x4338000000000000
_HEAD_MASK = -(1 << 27)  # 26 leading bits: products of two such heads are exact
_ROOT_HALF_BITS = 0x3FE6A09E667F3BCD
_ONE_BITS = 1023
_INF = float("inf")
_NAN = float("nan")

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LOW_32 = np.uint64(0xFFFFFFFF)
_BASE = np.uint64(1 << 32)
_TOP = np.uint64(1 << 63)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)


@intrinsic
def bits_of(typingctx: Any, value: Any) -> Any:
    """The 64 bits of a float64 as int64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), codegen


@intrinsic
def float_of(typingctx: Any, bits: Any) -> Any:
    """The float64 whose bits an int64 holds."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def high_product(typingctx: Any, a: Any, b: Any) -> Any:
    """Upper 64 bits of the 128-bit product of two uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


# --- exp, log, tanh, erf --------------------------------------------------------------------------------------------------
@kernel(inline=True)
def series(z, coefficients):
    """Polynomial in `z` by Horner's rule; a tuple of coefficients, highest power first."""
    total = coefficients[0]
    for c in coefficients[1:]:
        total = total * z + c
    return total


@kernel(inline=True)
def power_of_two(n):
    """2.0**n for -1022 <= n <= 1023."""
    return float_of((n + _ONE_BITS) << 52)


@kernel(inline=True)
def remainder(n, q, d):
    """n - q*d, nearly exact, where q is n/d rounded: the products of split halves carry no rounding."""
    q_head, d_head = float_of(bits_of(q) & _HEAD_MASK), float_of(bits_of(d) & _HEAD_MASK)
    q_tail, d_tail = q - q_head, d - d_head
    return (((n - q_head * d_head) - q_head * d_tail) - q_tail * d_head) - q_tail * d_tail


@kernel(inline=True)
def exp_parts(x):
    """(hi, lo, k) with exp(x) = (hi + lo) * 2**k to about 2**-59, hi in [0.98, 2], |lo| <= ulp(hi)/2; |x| <= 746.

    x = n * ln2/32 + r with n * ln2/32 taken off in two parts, the first without rounding; 2**(n/32) is a power and a table.
    """
    shifted = x * _STEPS_PER_ONE + _ROUNDER
    n = bits_of(shifted) - _ROUNDER_BITS
    steps = shifted - _ROUNDER
    head = x - steps * _STEP_HEAD
    tail = steps * _STEP_TAIL
    r = head - tail
    lost = (head - r) - tail
    grown = r + (lost + r * r * series(r, _EXP_SERIES))
    j = n & (_EXP_STEPS - 1)
    correction = _POWERS[j, 1] + _POWERS[j, 0] * grown
    hi = _POWERS[j, 0] + correction
    return hi, correction - (hi - _POWERS[j, 0]), n >> 5


@kernel
def exp(x):
    """e**x, within 1 ulp; inf above 709.78, 0 below -745.13, nan for nan."""
    x = np.float64(x)
    if x != x:
        return x
    if x > 710.0:
        return _INF
    if x < -746.0:
        return 0.0
    hi, _, k = exp_parts(x)
    half = k >> 1  # two steps: 2**k alone may be out of range where the result is not
    return hi * power_of_two(half) * power_of_two(k - half)


@kernel
def log(x):
    """Natural logarithm, within 1 ulp; -inf for 0, nan below 0 and for nan.

    x = m * 2**k with m in [sqrt(1/2), sqrt(2)), and log(m) = 2 atanh(s), s = (m - 1)/(m + 1) with its remainder.
    """
    x = np.float64(x)
    if x != x or x == _INF:
        return x
    if x <= 0.0:
        return -_INF if x == 0.0 else _NAN
    below = 0
    if x < power_of_two(-1022):
        x *= power_of_two(54)
        below = 54
    bits = bits_of(x)
    k = (bits - _ROOT_HALF_BITS) >> 52
    f = float_of(bits - (k << 52)) - 1.0
    sum_head = 2.0 + f
    sum_tail = f - (sum_head - 2.0)
    s = f / sum_head
    s_tail = (remainder(f, s, sum_head) - s * sum_tail) / sum_head
    exponent = np.float64(k - below)
    whole = exponent * _LN2_HEAD
    z = s * s
    hi = whole + 2.0 * s
    lo = 2.0 * s - (hi - whole)
    return hi + (lo + (exponent * _LN2_TAIL + (2.0 * s_tail + s * z * series(z, _LOG_SERIES))))


@kernel
def tanh(x):
    """Hyperbolic tangent, within 1 ulp; an odd series below 1/4, else (1 - e)/(1 + e) with e = exp(-2|x|) in two parts."""
    x = np.float64(x)
    if x != x or x == 0.0:  # as it came: -0.0 keeps its sign, nan its bits
        return x
    size = abs(x)
    if size < _SMALL:
        z = x * x
        return x + x * z * series(z, _TANH_SERIES)
    if size >= _TANH_ONE:
        return 1.0 if x > 0.0 else -1.0
    hi, lo, k = exp_parts(-2.0 * size)
    scale = power_of_two(k)
    hi, lo = hi * scale, lo * scale
    top, bottom = 1.0 - hi, 1.0 + hi
    top_tail = ((1.0 - top) - hi) - lo
    bottom_tail = ((1.0 - bottom) + hi) + lo
    q = top / bottom
    q += (remainder(top, q, bottom) + (top_tail - q * bottom_tail)) / bottom
    return q if x > 0.0 else -q


@kernel
def erf(x):
    """Error function, within 1 ulp; an odd series below 1/4, else the Taylor series about the nearest sixteenth."""
    x = np.float64(x)
    if x != x:
        return x
    size = abs(x)
    if size < _SMALL:
        z = x * x
        return x + x * (_ERF_SLOPE + z * series(z, _ERF_SERIES))
    if size >= _ERF_ONE:
        return 1.0 if x > 0.0 else -1.0
    j = np.int64(size * _ERF_STEPS + 0.5)
    d = size - j * (1.0 / _ERF_STEPS)
    total = _ERF_NEAR[j, 0]
    for i in range(1, _ERF_TERMS):
        total = total * d + _ERF_NEAR[j, i]
    value = _ERF_AT[j, 0] + (_ERF_AT[j, 1] + d * total)
    return value if x > 0.0 else -value


# --- integers -------------------------------------------------------------------------------------------------------------
@kernel(inline=True)
def magnitude(a):
    """|a| of an int64 as uint64, -2**63 included."""
    return _ZERO - np.uint64(a) if a < 0 else np.uint64(a)


@kernel(inline=True)
def divide_wide(hi, lo, d):
    """(quotient, remainder) of the 128-bit hi * 2**64 + lo by d, all uint64; the caller has checked hi < d.

    Long division in digits of 32 bits. Source: Knuth, The Art of Computer Programming 2, 4.3.1, algorithm D.
    """
    shift = np.uint64(63 - highest_bit(d))
    d = d << shift  # a divisor with its top bit set keeps each guessed digit at most 2 too large
    if shift > _ZERO:
        hi = (hi << shift) | (lo >> (np.uint64(64) - shift))
        lo = lo << shift
    d_high, d_low = d >> np.uint64(32), d & _LOW_32
    quotient, rest = _ZERO, hi
    for digit in (lo >> np.uint64(32), lo & _LOW_32):
        guess, left = rest // d_high, rest % d_high
        while guess >= _BASE or guess * d_low > ((left << np.uint64(32)) | digit):
            guess -= _ONE
            left += d_high
            if left >= _BASE:
                break
        rest = ((rest << np.uint64(32)) | digit) - guess * d  # wraps, as it may: the true value fits
        quotient = (quotient << np.uint64(32)) | guess
    return quotient, rest >> shift


@kernel(inline=True)
def ratio_parts(a, b, c):
    """(negative, quotient, remainder, divisor) of a*b/c, the last three uint64 magnitudes; asserts c != 0 and a quotient < 2**64."""
    assert c != 0, "mul_div by zero"
    x, y, d = magnitude(a), magnitude(b), magnitude(c)
    hi, lo = high_product(x, y), x * y
    assert hi < d, "mul_div overflows"
    if hi == _ZERO:
        quotient = lo // d
        rest = lo - quotient * d
    else:
        quotient, rest = divide_wide(hi, lo, d)
    return ((a < 0) != (b < 0)) != (c < 0), quotient, rest, d


@kernel(inline=True)
def signed(negative, size):
    """The int64 of a sign and a uint64 magnitude; asserts that it fits."""
    assert size < _TOP or (negative and size == _TOP), "result overflows"
    return np.int64(_ZERO - size) if negative else np.int64(size)


@kernel
def mul_div(a, b, c):
    """a*b/c of int64 through a 128-bit product, rounded half away from zero; asserts c != 0 and a result within int64."""
    negative, quotient, rest, d = ratio_parts(np.int64(a), np.int64(b), np.int64(c))
    if rest >= d - rest:
        assert quotient < _TOP, "mul_div overflows"
        quotient += _ONE
    return signed(negative, quotient)


@kernel(inline=True)
def add_checked(a, b):
    """a + b of int64; asserts that it fits."""
    a, b = np.int64(a), np.int64(b)
    total = a + b
    assert ((a ^ total) & (b ^ total)) >= 0, "sum overflows"
    return total


@kernel(inline=True)
def mul_checked(a, b):
    """a * b of int64; asserts that it fits."""
    a, b = np.int64(a), np.int64(b)
    x, y = magnitude(a), magnitude(b)
    assert high_product(x, y) == _ZERO, "product overflows"
    return signed((a < 0) != (b < 0), x * y)


# --- draws ----------------------------------------------------------------------------------------------------------------
@kernel(inline=True)
def splitmix64(x):
    """A bijection of uint64 that spreads every bit of `x`. Source: Steele, Lea & Flood (2014), Fast Splittable PRNGs."""
    z = np.uint64(x) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@kernel
def draw(seed, seq, salt):
    """A uniform uint64 that depends on nothing but (run seed, seq, salt); `salt` tells apart several draws at one `seq`."""
    return splitmix64(splitmix64(splitmix64(np.uint64(seed)) ^ np.uint64(seq)) ^ np.uint64(salt))
