"""From the text of a shell to an address that a compiled loop can call.

A step (a strategy's, a feature's) is compiled behind a shell of the one signature, `transport.compiled.STEP`. numba caches only
functions that stand in a file and are no closures, so the shell is written as a small module into the cache:

    CACHE_DIR/FOLDER/shell_KEY.py    the shell; `run` in it is compiled where it is defined
                     verdict         what of its machine code must not be on the line, in words; empty when nothing
    CACHE_DIR/FOLDER.lock            held by the one process that compiles, when several start at once
"""

from __future__ import annotations

import fcntl
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from transport import compiled

# Calls a step may not make: memory, and libm, whose last bits differ between CPUs.
_ALLOCATES = re.compile(r"call[^\n]*@(NRT_(?:MemInfo_(?:alloc|new)|Allocate)\w*|malloc|calloc)\b")
_LIBM = re.compile(r"call[^\n]*@(?:llvm\.)?(exp|exp2|expm1|log|log2|log10|log1p|pow|powi|sin|cos|tan|tanh|sinh|cosh|asin|acos|atan|atan2|erf|fma)f?\b")
# Whatever else the module calls without defining it, numba's own runtime apart, is libm under a rarer name (lgamma, hypot, asinh).
_DECLARED = re.compile(r'^declare\b[^@\n]*@"?([\w.$]+)"?\(', re.M)
_KNOWN = re.compile(r"NRT_|numba_(gil|runtime|unpickle|do_raise|ldexp|frexp)|_?Py|llvm\.|(sqrt|fabs|floor|ceil|trunc|copysign)$")


def compiled_shell(folder: Path, key: str, text: str, what: str) -> tuple[Any, str]:
    """(`run` of the module `text`, fault): compiled, or loaded, in `folder`; `what` names the step in the fault's words.

    The verdict is kept, for numba cannot inspect what it loads from its cache. Raises compiled.COMPILE_ERRORS.
    """
    verdict = folder / "verdict"
    run = None
    if not verdict.exists():
        with _alone(folder):
            if not verdict.exists():  # another process may just have written it
                run = _compile_first(folder, key, text, what)
    fault = verdict.read_text()
    return run or (None if fault else _compile(folder, key, text)), fault


def _compile_first(folder: Path, key: str, text: str, what: str) -> Any:
    """Compile into an empty `folder` and leave the verdict there, last of all."""
    shutil.rmtree(folder, ignore_errors=True)  # compiled by a process that was killed before it looked
    run = _compile(folder, key, text)
    temporary = folder / "verdict.tmp"
    temporary.write_text(_fault_in(run, what))
    temporary.replace(folder / "verdict")
    return run


def _compile(folder: Path, key: str, text: str) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"shell_{key}.py"
    if not file.exists() or file.read_text() != text:
        temporary = file.with_suffix(f".{id(text)}.tmp")
        temporary.write_text(text)
        temporary.replace(file)
    spec = importlib.util.spec_from_file_location(f"tickline_shell_{key}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a cached function finds its globals by the module's name
    with compiled.cache_folder(folder):
        spec.loader.exec_module(module)
    return module.run


def _fault_in(run: Any, what: str) -> str:
    """What of the machine code must not be on the line, in words; "" when nothing."""
    text = run.inspect_llvm(run.signatures[0])
    hit = _ALLOCATES.search(text)
    if hit:
        return f"{what} allocates memory ({hit[1]}): keep arrays in `state`, of a fixed shape, and write to them"
    hit = _LIBM.search(text)
    foreign = [hit[1]] if hit else [name for name in _DECLARED.findall(text) if not _KNOWN.match(name)]
    if foreign:
        return f"{what} calls {foreign[0]}, whose last bits differ between CPUs: take it from handlers.domain.numeric"
    return ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process is in here for `folder`, which may not exist yet; one that is killed in here lets the next in."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Attributes:
    """A record's fields as attributes, for a step in Python; integers as int, which does not wrap at a field's own width.

    numpy's recarray would answer a field called `mean` or `flags` with its own method.
    """

    __slots__ = ("_slot",)

    def __init__(self, slot: Any) -> None:
        object.__setattr__(self, "_slot", slot)

    def __getattr__(self, name: str) -> Any:
        if name not in self._slot.dtype.names:
            raise AttributeError(f"no field {name!r}; there are {', '.join(self._slot.dtype.names)}")
        value = self._slot[name]
        return int(value) if isinstance(value, np.integer) else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._slot.dtype.names:
            raise AttributeError(f"no field {name!r}; there are {', '.join(self._slot.dtype.names)}")
        self._slot[name] = value
