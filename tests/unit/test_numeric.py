"""exp, log, tanh, erf against mpmath to the ulp, their bits on another CPU, and the machine code they become."""

from __future__ import annotations

import hashlib
import math
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest

from handlers.domain import numeric
from transport import compiled

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("TICKLINE_SEED", "20240517"))
INF, NAN = math.inf, math.nan
TINY, LEAST, MOST = 2.0**-1022, 2.0**-1074, sys.float_info.max
FUNCTIONS: dict[str, tuple[Callable[[float], float], Any]] = {
    "exp": (numeric.exp, mpmath.exp),
    "log": (numeric.log, mpmath.log),
    "tanh": (numeric.tanh, mpmath.tanh),
    "erf": (numeric.erf, mpmath.erf),
}
SPANS = {
    "exp": [(-745.2, 709.8), (-1.0, 1.0), (-0.03, 0.03), (-745.2, -708.0), (708.0, 709.79)],
    "log": [(0.0, 4.0), (0.7, 1.42), (0.99, 1.01), (1.0, 1e6), (1e300, 1.7e308)],
    "tanh": [(-20.5, 20.5), (-1.0, 1.0), (-0.26, 0.26), (0.2, 0.35), (15.0, 20.5)],
    "erf": [(-6.2, 6.2), (-1.0, 1.0), (-0.26, 0.26), (0.2, 0.5), (4.0, 6.2)],
}
SHARP = {
    "exp": [709.782712893384, 709.7827128933841, -708.3964185322641, -745.1332191019411, -745.1332191019412, 746.0, -746.5],
    "log": [math.sqrt(0.5), math.nextafter(math.sqrt(0.5), 0), math.sqrt(2), math.nextafter(1, 0), math.nextafter(1, 2)],
    "tanh": [0.25, math.nextafter(0.25, 0), 19.06, 19.07, 20.0, math.nextafter(20, 0), 22.0, 1e300],
    "erf": [0.25, math.nextafter(0.25, 0), 5.9, 5.921587195794507, 5.93, 6.0, math.nextafter(6, 0), 1e300],
}


def ulps(got: float, true: Any) -> float:
    """Distance in units in the last place of the float nearest to the truth; 0 where both are the same infinity."""
    nearest = float(true)
    if math.isinf(nearest) or math.isinf(got):
        return 0.0 if got == nearest else INF
    return float(abs(mpmath.mpf(got) - true) / mpmath.mpf(math.ulp(nearest)))


def inputs_of(name: str) -> list[float]:
    """Dense random inputs, random bit patterns, all powers of two, and the places where a branch or a range ends."""
    rng = random.Random(f"{SEED} {name}")
    found = [rng.uniform(*span) for span in SPANS[name] for _ in range(3000)]
    found += [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(3000)]
    found += [sign * 2.0**e for e in range(-1074, 1024) for sign in (1, -1)]
    found += [sign * rng.random() * TINY for _ in range(300) for sign in (1, -1)]
    found += [sign * x for x in (*SHARP[name], LEAST, TINY, MOST) for sign in (1, -1)]
    if name == "exp":  # the boundaries of the table's steps
        found += [math.nextafter((j + 0.5) * math.log(2) / 32, towards) for j in range(-400, 400) for towards in (-INF, INF)]
    if name == "erf":
        found += [math.nextafter((j + 0.5) / 16, towards) for j in range(4, 96) for towards in (-INF, INF)]
    return [x for x in found if math.isfinite(x) and (name != "log" or x > 0)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_stays_within_one_ulp_of_mpmath(name: str) -> None:
    ours, truth = FUNCTIONS[name]
    worst, at = 0.0, 0.0
    values = inputs_of(name)
    with mpmath.workprec(200):
        for x in values:
            error = ulps(ours(x), truth(mpmath.mpf(x)))
            if error > worst:
                worst, at = error, x
    print(f"{name}: max {worst:.4f} ulp at {at!r} over {len(values)} inputs, seed {SEED}")
    assert worst <= 0.76, f"{name} is {worst:.4f} ulp off at {at!r}, seed {SEED}"


def same(got: float, expected: float) -> bool:
    return math.isnan(got) if math.isnan(expected) else struct.pack("<d", got) == struct.pack("<d", expected)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", 0.0, 1.0), ("exp", -0.0, 1.0), ("exp", INF, INF), ("exp", -INF, 0.0), ("exp", NAN, NAN), ("exp", LEAST, 1.0),
        ("exp", 709.7827128933841, INF), ("exp", -745.1332191019412, 0.0), ("exp", -745.13321910194, LEAST), ("exp", MOST, INF),
        ("log", 1.0, 0.0), ("log", 0.0, -INF), ("log", -0.0, -INF), ("log", -1.0, NAN), ("log", -LEAST, NAN), ("log", -INF, NAN),
        ("log", INF, INF), ("log", NAN, NAN),
        ("tanh", 0.0, 0.0), ("tanh", -0.0, -0.0), ("tanh", INF, 1.0), ("tanh", -INF, -1.0), ("tanh", NAN, NAN),
        ("tanh", LEAST, LEAST), ("tanh", -TINY, -TINY), ("tanh", 20.0, 1.0),
        ("erf", 0.0, 0.0), ("erf", -0.0, -0.0), ("erf", INF, 1.0), ("erf", -INF, -1.0), ("erf", NAN, NAN), ("erf", LEAST, LEAST),
        ("erf", 6.0, 1.0),
    ],
)  # fmt: skip
def test_edges_have_their_exact_values(name: str, x: float, expected: float) -> None:
    got = FUNCTIONS[name][0](x)
    assert same(got, expected), f"{name}({x!r}) is {got!r}"


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_odd_functions_are_odd_to_the_bit(name: str) -> None:
    ours = FUNCTIONS[name][0]
    for x in inputs_of(name)[::7]:
        assert same(ours(-x), -ours(x)), x


def digest() -> str:
    """SHA-256 over the bits of every function at every input."""
    found = hashlib.sha256()
    for name, (ours, _) in FUNCTIONS.items():
        found.update(np.array([ours(x) for x in inputs_of(name)]).tobytes())
    return found.hexdigest()


def test_gives_the_same_bits_on_a_cpu_without_any_extension() -> None:
    code = "from tests.unit.test_numeric import digest; from transport.compiled import nb; print(nb.config.CPU_NAME, digest())"
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "PYTHONPATH": str(ROOT), "TICKLINE_SEED": str(SEED)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["generic", digest()]


KERNELS: list[tuple[str, tuple[str, ...]]] = [
    ("exp", ("float64",)), ("log", ("float64",)), ("tanh", ("float64",)), ("erf", ("float64",)),
    ("mul_div", ("int64",) * 3), ("mul_checked", ("int64",) * 2),
    ("add_checked", ("int64",) * 2), ("draw", ("int64",) * 3),
]  # fmt: skip
HARMLESS = (  # integers, bits and hints: each is an instruction or nothing
    "llvm.ctlz.", "llvm.fabs.", "llvm.abs.", "llvm.fshl.", "llvm.umul.with.overflow.", "llvm.assume", "llvm.lifetime.",
    "llvm.experimental.noalias",
)  # fmt: skip


def bodies_of(text: str) -> list[str]:
    """Bodies of the compiled functions in an LLVM module, without numba's wrappers for Python and C callers."""
    found = re.findall(r"^define [^\n]*@\"?([\w.$]+)\"?\([^\n]*\{\n(.*?)^\}", text, re.M | re.S)
    return [body for name, body in found if not name.startswith(("_ZN7cpython", "cfunc.", "NRT_", "numba_"))]


@pytest.mark.parametrize(("name", "arguments"), KERNELS)
def test_machine_code_calls_nothing_outside_itself(name: str, arguments: tuple[str, ...]) -> None:
    source = getattr(numeric, name).py_func  # a cached kernel shows no code: compile it again
    fresh = compiled.nb.njit(error_model="numpy", fastmath=False, nogil=True)(source)
    signature = tuple(getattr(compiled.nb.types, a) for a in arguments)
    fresh.compile(signature)
    bodies = bodies_of(fresh.inspect_llvm(signature))
    assert bodies, "no function found in the module"
    own = {m for text in bodies for m in re.findall(r"call [^\n@]*@\"?([\w.$]+)", text)}
    strange = [c for c in own if not c.startswith((*HARMLESS, "_ZN8handlers6domain7numeric"))]
    assert not strange, f"{name} calls {strange}"
    assert not re.search(r"\b(fma|fmuladd|fast|contract|reassoc)\b", "\n".join(bodies))
    machine = fresh.inspect_asm(signature)
    assert not re.search(r"\bv?fn?m(add|sub)\w*", machine), f"{name} has a fused multiply-add"
    assert not re.search(r"\b(call\w*|jmp\w*|movabsq|bl?)[ \t]+\$?(exp|log|tanh|erf|pow|fma|ldexp|__\w*div\w*|__\w*mul\w*)\b", machine)


def test_the_same_reader_sees_a_call_to_libm() -> None:
    fresh = compiled.nb.njit(lambda x: math.exp(x))
    fresh.compile((compiled.nb.types.float64,))
    text = "\n".join(bodies_of(fresh.inspect_llvm((compiled.nb.types.float64,))))
    assert re.search(r"call [^\n@]*@\"?(llvm\.exp|exp)", text)


def test_tables_match_mpmath() -> None:
    with mpmath.workprec(200):
        for j, (head, tail) in enumerate(numeric._POWERS):
            assert abs(mpmath.mpf(head) + mpmath.mpf(tail) - mpmath.mpf(2) ** (mpmath.mpf(j) / 32)) < mpmath.mpf(2) ** -105
        for j, (head, tail) in enumerate(numeric._ERF_AT):
            assert abs(mpmath.mpf(head) + mpmath.mpf(tail) - mpmath.erf(mpmath.mpf(j) / 16)) < mpmath.mpf(2) ** -105


def test_draws_depend_on_seed_seq_and_salt_alone_and_look_uniform() -> None:
    assert numeric.draw(7, 11, 0) == numeric.draw(7, 11, 0)
    drawn = {int(numeric.draw(seed, seq, salt)) for seed in range(8) for seq in range(200) for salt in range(4)}
    assert len(drawn) == 8 * 200 * 4
    counts = np.bincount([int(numeric.draw(SEED, seq, 1)) * 10 >> 64 for seq in range(20_000)], minlength=10)
    assert len(counts) == 10
    assert abs(counts - 2000).max() < 5 * math.sqrt(2000), counts  # five standard deviations


def test_splitmix64_matches_the_published_sequence() -> None:
    # The generator seeded with 0: its state is 0, golden, 2 golden, …
    golden = 0x9E3779B97F4A7C15
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert [int(numeric.splitmix64(np.uint64(i * golden % 2**64))) for i in range(4)] == expected
