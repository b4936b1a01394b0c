"""From a strategy's path to an address that the compiled line can call.

A step is compiled behind a shell of the one signature (see handlers.contract and transport.shells) in a folder of the cache that
is named by the hash of the user's sources too, so that an edit of the strategy, or of a module beside it that it imports, never
runs yesterday's code.
A step that cannot be compiled, or says `compiled=False`, runs as plain Python behind the same signature.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from handlers.contract import GUARD_ROWS, Handler
from handlers.signals.errors import StrategyError, StrategyNotFound, StrategyRefused
from transport import compiled
from transport.records import REC, SLOT_BYTES
from transport.shells import Attributes, compiled_shell

BUILT_IN = {"momentum": "handlers.signals.strategies.momentum", "mean_reversion": "handlers.signals.strategies.mean_reversion"}
# A shell as C sees it: status (result, error, state, params, record, out); see handlers.domain.memory.call_step.
PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.POINTER(ctypes.c_int64), *[ctypes.c_void_p] * 5)
_SHELL = '''"""Shell of {name}: made by the engine, read by nobody."""

from handlers.signals.loading import handler_of, rows_of
from transport.compiled import REC_DTYPE, carray, kernel, shell

HANDLER = handler_of({key!r})
STATE, PARAMS = HANDLER.state, HANDLER.params
step = kernel(HANDLER.step)


@shell
def run(state, params, record, out):
    s = carray(state, (1,), STATE)[0]
    p = carray(params, (1,), PARAMS)[0]
    r = carray(record, (1,), REC_DTYPE)[0]
    o = carray(out, ({rows},), REC_DTYPE){first}
    return step(s, p, r, o)
'''
_handlers: dict[str, Handler] = {}


@dataclass
class LoadedStep:
    """A handler ready to be called: `address` of its shell; `python` says why it runs as plain Python, else None."""

    handler: Handler
    address: int
    python: str | None
    sources: dict[str, str]  # file -> SHA-256 of everything of the user's that it is made of
    keep: Any = None  # what must outlive the address
    errors: list[BaseException] = field(default_factory=list)


def handler_of(key: str) -> Handler:
    """The handler a shell belongs to."""
    return _handlers[key]


def rows_of(key: str) -> int:
    """Rows a call of it may write."""
    return _handlers[key].rows_max


def local_sources(path: Path) -> dict[str, str]:
    """The file and every module or package beside it that it imports, directly or not, with their SHA-256."""
    found: dict[str, str] = {}
    todo = [path]
    while todo:
        file = todo.pop()
        if str(file) in found or not file.is_file():
            continue
        text = file.read_text()
        found[str(file)] = hashlib.sha256(text.encode()).hexdigest()
        for name in compiled.imported_names(text):
            todo.extend(_files_of(name, path.parent, file.parent))
    return dict(sorted(found.items()))


def _files_of(name: str, base: Path, here: Path) -> list[Path]:
    """Where module `name` and its packages would lie: beside the strategy, or from `here` when it begins with dots.

    Nowhere for the engine's own, which a strategy in its checkout has beside it: they are loaded, and in the code hash.
    """
    bare = name.lstrip(".")
    dots = len(name) - len(bare)
    if not dots and bare.partition(".")[0] in compiled.PACKAGES:
        return []
    folder = base if not dots else here.joinpath(*[".."] * (dots - 1)).resolve()
    out = []
    for part in bare.split(".") if bare else ():
        folder = folder / part
        out += [folder.with_name(f"{part}.py"), folder / "__init__.py"]
    return out


def _modules_of(sources: Iterable[str], base: Path) -> set[str]:
    """Names under which these files are imported, their packages included."""
    names: set[str] = set()
    for source in sources:
        parts = Path(source).relative_to(base).with_suffix("").parts if Path(source).is_relative_to(base) else ()
        names.update(".".join(parts[: n + 1]) for n in range(len(parts)))
    return names


def _module(path: Path, sources: dict[str, str]) -> ModuleType:
    digest = compiled.digest_of(sources)
    name = f"tickline_user_{path.stem}_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))
    for beside in _modules_of(sources, path.parent):
        sys.modules.pop(beside, None)  # another strategy's module of that name must not answer for it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise StrategyError(f"strategy file {path} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def load_handler(where: str, base: Path) -> tuple[Handler, dict[str, str]]:
    """(handler, sources) of a built-in's name or of `file.py:step` relative to `base`; raises StrategyError."""
    if where in BUILT_IN:
        handler = getattr(importlib.import_module(BUILT_IN[where]), where)
        return handler, {}
    file, _, name = where.partition(":")
    path = (base / file).resolve()
    if not name or not path.is_file():
        known = ", ".join(BUILT_IN)
        raise StrategyNotFound(f"no strategy at {where!r}: give `file.py:step` (looked for {path}) or one of {known}")
    sources = local_sources(path)
    module = _module(path, sources)
    handler = getattr(module, name, None)
    if not isinstance(handler, Handler):
        found = ", ".join(k for k, v in vars(module).items() if isinstance(v, Handler)) or "none"
        raise StrategyNotFound(f"{path} has no step {name!r} made with @handler; it has {found}")
    return handler, sources


def _checked(handler: Handler, key: str, digest: str, where: str) -> Any:
    """Compile a step and hold it to its contract; raises StrategyRefused."""
    first = "[0]" if handler.rows_max == 1 else ""
    text = _SHELL.format(name=handler.name, key=key, rows=handler.rows_max, first=first)
    run, fault = compiled_shell(compiled.CACHE_DIR / f"strategy-{digest[:24]}-{key}", key, text, f"strategy {where}")
    if fault:
        raise StrategyRefused(fault)
    return run


def compile_step(where: str, base: Path) -> LoadedStep:
    """Load, compile and check a step; raises StrategyError. Falls back to Python, saying why, where numba cannot type it."""
    handler, sources = load_handler(where, base)
    digest = compiled.digest_of(sources)
    key = f"{handler.name}_{hashlib.sha256(f'{where} {digest}'.encode()).hexdigest()[:16]}"
    _handlers[key] = handler
    if not handler.compiled:
        return _python_step(handler, sources, "declared with compiled=False")
    try:
        with compiled.interruptible():
            run = _checked(handler, key, digest, where)
    except compiled.COMPILE_ERRORS as error:
        return _python_step(handler, sources, _first_line(error))
    return LoadedStep(handler, compiled.entry(run), None, sources, run)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Failed in", "No implementation", "File", "During"))]
    return (telling or lines or [type(error).__name__])[0][:200]


def _array_at(address: int, dtype: np.dtype[Any], rows: int) -> list[Attributes]:
    buffer: Any = (ctypes.c_char * (dtype.itemsize * rows)).from_address(address)
    return [Attributes(slot) for slot in np.frombuffer(buffer, dtype)]


def _python_step(handler: Handler, sources: dict[str, str], why: str) -> LoadedStep:
    """The step as plain Python behind the same signature; an exception is kept and reported by the status."""
    loaded = LoadedStep(handler, 0, why, sources)

    def call(answer: Any, unused: int, state: int, params: int, record: int, out: int) -> int:
        try:
            rows = _array_at(out, REC, handler.rows_max)
            result = handler.step(
                _array_at(state, handler.state, 1)[0],
                _array_at(params, handler.params, 1)[0],
                _array_at(record, REC, 1)[0],
                rows[0] if handler.rows_max == 1 else rows,
            )
            answer[0] = int(result)
        except BaseException as error:  # an interrupt too: nothing may pass through the call
            loaded.errors.append(error)
            return 1
        return 0

    callback = PROTOTYPE(call)
    loaded.keep = callback
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    loaded.address = address
    return loaded


def new_state(handler: Handler, count: int) -> np.ndarray[Any, Any]:
    """`count` zeroed states, each at a multiple of 64 bytes: shape (count, bytes)."""
    size = -(-handler.state.itemsize // 64) * 64
    return np.zeros((count, size), np.uint8)


assert SLOT_BYTES == REC.itemsize and GUARD_ROWS > 0
