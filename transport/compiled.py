"""The one door to numba: kernels, their cache, and the code hash of a run.

numba's disk cache looks only at a kernel's own file: after an edit of a callee or of an imported constant in another file it
would run yesterday's machine code. So the cache folder is named by a hash over every source that is compiled (the files that
define kernels and all they import from this project), the record layout, numba, llvmlite, the CPU and every NUMBA_* setting. A run's
code hash is over more: every file that has to do with compiled code, and all it imports. No other module imports numba.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any

from transport.records import LAYOUT_HASH, REC

PACKAGES = ("transport", "handlers", "engine")
ROOT = Path(__file__).resolve().parent.parent
_KERNEL = r"^@(?:kernel|shell|handler|feature|intrinsic)\b|\bkernel\(|\bshell\("  # in every file that defines a function to be compiled
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]+)|import[ \t]+([\w., ]+))", re.M)


def _modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported_names(text: str) -> set[str]:
    """What source `text` may import, as written: `from a import b` counts as a and a.b."""
    names: set[str] = set()
    for base, what, plain in _IMPORT.findall(text):
        if base:
            names.add(base)
            names.update(f"{base}.{n.split(' as ')[0].strip(' ()')}" for n in what.replace("\n", ",").split(","))
        else:
            names.update(n.split(" as ")[0].strip() for n in plain.split(","))
    return names


def imported_modules(text: str, known: dict[str, Path]) -> set[str]:
    """Modules of `known` that source `text` imports."""
    return {n for n in imported_names(text) if n in known}


def compiled_sources(mark: str = r"transport(?:\.| import )compiled|^@(?:handler|feature)\b") -> dict[str, str]:
    """Path from the root -> SHA-256 of every project file whose text has `mark`, and of all it imports: what a run's program is."""
    known = _modules()
    texts = {name: path.read_text() for name, path in known.items()}
    todo = [n for n, text in texts.items() if re.search(mark, text, re.M)]
    reached: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo.extend(imported_modules(texts[name], known))
    return {str(known[n].relative_to(ROOT)): hashlib.sha256(texts[n].encode()).hexdigest() for n in sorted(reached)}


def toolchain() -> dict[str, str]:
    """What besides the sources decides the machine code."""
    import llvmlite.binding as llvm

    found = {k: v for k, v in sorted(os.environ.items()) if k.startswith("NUMBA_") and k != "NUMBA_CACHE_DIR"}
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "numba": version("numba"),
        "llvmlite": version("llvmlite"),
        "numpy": version("numpy"),
        "cpu": llvm.get_host_cpu_name(),
        "layout": f"{LAYOUT_HASH:016x}",
        **found,
    }


def digest_of(facts: dict[str, str]) -> str:
    """SHA-256 over sorted `key=value` lines."""
    return hashlib.sha256("\n".join(f"{k}={v}" for k, v in sorted(facts.items())).encode()).hexdigest()


SOURCES = compiled_sources()
CODE_HASH = digest_of(SOURCES)
KERNEL_SOURCES = compiled_sources(_KERNEL)  # fewer: an edit of what is only called from Python leaves the machine code as it is
TOOLCHAIN = toolchain()
CACHE_ROOT = Path(os.environ.get("TICKLINE_CACHE") or Path.home() / ".cache" / "tickline")
CACHE_DIR = CACHE_ROOT / digest_of({**KERNEL_SOURCES, **TOOLCHAIN})[:24]

os.environ["NUMBA_CACHE_DIR"] = str(CACHE_DIR)

import numba as nb  # noqa: E402  the cache folder is read when numba is imported
from numba import carray, extending, types  # noqa: E402, F401
from numba.core import cgutils, config  # noqa: E402, F401
from numba.core.errors import NumbaError, UnsupportedBytecodeError  # noqa: E402
from numba.core.imputils import lower_getattr_generic  # noqa: E402
from numba.core.typing.templates import AttributeTemplate, infer_getattr  # noqa: E402
from numba.extending import intrinsic  # noqa: E402, F401

extending.infer_getattr, extending.AttributeTemplate = infer_getattr, AttributeTemplate
extending.lower_getattr_generic = lower_getattr_generic
config.CACHE_DIR = str(CACHE_DIR)  # numba may have been imported before
COMPILE_ERRORS = (NumbaError, UnsupportedBytecodeError)  # what compiling a function may raise
REC_DTYPE = REC
REC_T = nb.from_dtype(REC)
ROWS_T = types.Array(REC_T, 1, "C", aligned=True)  # a caller passes C-contiguous arrays of slots
STEP = types.int64(types.voidptr, types.voidptr, types.voidptr, types.voidptr)  # state, params, record, out
I64, U64, F64 = types.int64, types.uint64, types.float64


@contextmanager
def interruptible() -> Iterator[None]:
    """Around a compile: an interrupt that came while LLVM called back into Python, and cannot be raised there, is raised here.

    Python gives it to `sys.unraisablehook`; the compile then fails for want of what the callback should have done, or goes on.
    """
    lost: list[BaseException] = []
    before = sys.unraisablehook

    def hear(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt | SystemExit):
            lost.append(unraisable.exc_value)
        else:
            before(unraisable)

    sys.unraisablehook = hear
    try:
        yield
    except Exception:
        if not lost:
            raise
    finally:
        sys.unraisablehook = before
    if lost:
        raise lost[0]


def array_t(dtype: Any) -> types.Array:
    """numba's type of a one-dimensional C-contiguous array of a numpy dtype, for explicit signatures."""
    return types.Array(nb.from_dtype(dtype), 1, "C", aligned=True)


def kernel(signature: Any = None, *, inline: bool = False, merged: bool = False, deferred: bool = False) -> Any:
    """Decorator of every compiled function: cached on disk, free of the GIL, IEEE arithmetic, no fastmath.

    With `signature` it is compiled where it is defined (a cache hit takes milliseconds), or, `deferred`, when `load` is told to: for
    what only some feeds need. Without, it is compiled at first use by its callers.
    `inline` asks LLVM to inline it into its callers; the others LLVM may inline or not (said each time: numba would hand an inlined
    caller's wish down to all that it calls, the rare paths included). `merged` copies it into its caller before that is compiled: for a
    large one with a single caller, which LLVM would else optimise twice, once by itself for nobody.
    None has a wrapper for callers in C, of which there are none.
    """
    options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": False, "forceinline": inline, "no_cfunc_wrapper": True}
    if merged:
        options["inline"] = "always"
    bare = isinstance(signature, FunctionType)  # the decorator without parentheses
    compiler = nb.njit(**options) if bare or deferred or signature is None else nb.njit(signature, **options)
    make = partial(_made, compiler, signature if deferred else None)
    return make(signature) if bare else make


def _made(compiler: Any, declared: Any, function: Any) -> Any:
    made = compiler(function)
    made.get_call_template = partial(_plain_call, made.get_call_template)
    if declared is not None:
        made.declared = declared
    return made


def _plain_call(call: Any, args: Any, kws: Any) -> Any:
    """A call with a number written into it is one with any number: numba would compile the callee anew for each."""
    return call(tuple(map(types.unliteral, args)), kws)


def load(*kernels: Any) -> None:
    """Compile `deferred` kernels, or load them from the cache on disk; does nothing where that was done."""
    for made in kernels:
        with interruptible():
            made.compile(made.declared)


def shell(function: Any) -> Any:
    """Decorator of a handler's shell: compiled now, for the one signature; `entry` has its address."""
    return kernel(STEP)(function)


def entry(function: Any) -> int:
    """Machine address of a compiled shell, in numba's own calling convention, which has an exception as a status."""
    made = function.overloads[function.signatures[0]]
    return int(made.library.get_pointer_to_function(made.fndesc.llvm_func_name))


def is_compiled(function: Any) -> bool:
    """Whether the cache on disk has machine code of this kernel, so that calling it loads that instead of compiling."""
    module, name = function.__module__.rpartition(".")[2], function.__name__
    return any(CACHE_DIR.rglob(f"{module}.{name}-*.nbi"))


@contextmanager
def cache_folder(folder: Path) -> Iterator[None]:
    """Kernels defined inside are cached under `folder`."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before
