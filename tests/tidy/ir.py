"""Which functions outside itself a compiled kernel calls, read from its LLVM IR.

Nothing that differs between CPUs may be called on the line: libm's exp gives another last bit on another machine. numba leaves
no trace of such a call in Python, but the module it makes must declare what it does not define. An intrinsic is code, except
those that LLVM lowers to libm and `fmuladd`, which is fused on one CPU and not on the next.
"""

from __future__ import annotations

import re
from typing import Any

LIBM = re.compile(r"a?(cos|sin|tan)h?|atan2|sincos|exp(2|10)?|log(2|10)?|powi?|modf|frexp|ldexp|fmuladd")
EXACT = frozenset(("sqrt", "fabs", "floor", "ceil", "trunc", "copysign"))  # IEEE 754 leaves no last bit to choose
_DECLARED = re.compile(r'^declare\b[^@\n]*@("[^"]+"|[\w.$]+)\(', re.M)
_ASSEMBLY = re.compile(r"\bcall\b[^\n]*\basm\b")
# What numba adds to every kernel: reference counts, and the wrapper that takes Python's arguments apart and raises.
_NUMBA = re.compile(r"(NRT_|numba_|_?Py|_Py_)")


def external_calls(dispatcher: Any, *signatures: Any) -> set[str]:
    """Names declared by the IR of `dispatcher` for `signatures` (default: those it is compiled for), its callees' included.

    Compiles anew, for code that came from the disk cache has no IR. A call through a pointer is not seen. Raises ValueError for
    a kernel that is compiled for nothing and no signature given.
    """
    wanted = signatures or tuple(dispatcher.nopython_signatures)
    if not wanted:
        raise ValueError(f"{dispatcher.__name__} is compiled for no signature yet; give one")
    fresh = type(dispatcher)(dispatcher.py_func, targetoptions=dict(dispatcher.targetoptions))
    for signature in wanted:
        fresh.compile(signature.args if hasattr(signature, "args") else signature)
    return set().union(*(_foreign(text) for text in fresh.inspect_llvm().values()))


def _foreign(text: str) -> set[str]:
    names = {name.strip('"') for name in _DECLARED.findall(text)}
    found = {name for name in names if not _NUMBA.match(name) and name not in EXACT and not _is_code(name)}
    return found | {"inline assembly"} if _ASSEMBLY.search(text) else found


def _is_code(name: str) -> bool:
    return name.startswith("llvm.") and not LIBM.fullmatch(name.split(".")[1])
