"""What a compiled kernel calls and leaves to chance, read from the code that runs: its LLVM IR and its machine code.

Nothing that differs between CPUs may be called on the line (libm's exp gives another last bit on another machine), nothing that
takes memory, and nothing that waits for Python. numba keeps both forms with a kernel, in its disk cache too: the optimised IR, so
that callers can inline it, and the object file. So a loop is read as it is loaded, and none is compiled again to be looked at.
IR tells which function calls what; the object's undefined symbols tell what became of intrinsics, some of which end in libm.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from llvmlite import binding

# Intrinsics that are instructions, or memset and memcpy. A float reduction over a vector is none of them, nor is fma.
_INTRINSIC = re.compile(
    r"llvm\.(mem(set|cpy|move)|[su](min|max)|abs|ct(lz|tz|pop)|fsh[lr]|bswap|[su](add|sub|mul)\.(with\.overflow|sat)|lifetime|"
    r"assume|readcyclecounter|prefetch|masked|sqrt|fabs|floor|ceil|trunc|copysign|vector\.reduce\.(add|and|or|xor|[su](min|max))|"
    r"x86\.sse2\.pause|x86\.atomic\.sub\.cc|experimental\.noalias\.scope\.decl)(\.|$)"
)
# Exact by IEEE 754 and instructions: left as a symbol of the object, one of them is foreign all the same.
_INSTRUCTION = frozenset(("sqrt", "floor", "ceil", "trunc", "fabs", "copysign"))
_MEMORY = frozenset(("memset", "memcpy", "memmove"))  # what LLVM makes of large copies: bytes, the same on any CPU
# Takes Python's arguments apart and raises what the kernel's status says; the kernel it calls without the GIL.
_WRAPPER = re.compile(r'"?(_ZN7cpython|cfunc\.)')
_PYTHON = re.compile(r"NRT_|numba_|_?Py|_Py_")  # what the wrapper calls
_CALL = re.compile(r'\b(?:call|invoke)\b[^\n@]*@("[^"]+"|[\w.$]+)\(')
_ASSEMBLY = re.compile(r"\b(?:call|invoke)\b[^\n]*\basm\b")
_FLAGS = re.compile(
    r"= (?:f(?:add|sub|mul|div|rem|neg|cmp|ptrunc|pext)|select|phi|(?:\w+ )?call) ((?:(?:fast|nnan|ninf|nsz|arcp|contract|afn|reassoc) )+)"
)
_UNDEFINED, _SYMTAB, _SECTION, _SYMBOL = 0, 2, "<IIQQQQIIQQ", "<IBBHQQ"


class Code(NamedTuple):
    """What one kernel is made of, its callees included; a call through a pointer, as that of a strategy's step, is not seen."""

    calls: frozenset[str]  # by name, from functions that run without the GIL; what the code defines itself is left out
    symbols: frozenset[str]  # that the object file leaves to the linker, the wrapper's own left out
    flags: frozenset[str]  # liberties taken with float arithmetic

    def foreign(self) -> set[str]:
        """Every call that is neither an instruction nor a copy of bytes."""
        named = {name for name in self.calls if name not in _INSTRUCTION | _MEMORY and not _INTRINSIC.match(name)}
        return named | (self.symbols - _MEMORY)


def code_of(dispatcher: Any) -> Code:
    """The code of every signature that `dispatcher` is compiled for; raises ValueError when that is none."""
    calls: set[str] = set()
    symbols: set[str] = set()
    flags: set[str] = set()
    for elf, bitcode in kept(dispatcher):
        bodies = dict(_functions(str(binding.parse_bitcode(bitcode))))
        for name, body in bodies.items():
            flags.update(word for found in _FLAGS.findall(body) for word in found.split())
            if not _WRAPPER.match(name) and not name.startswith("NRT_"):
                calls.update(to for to in _CALL.findall(body) if to not in bodies or to.startswith("NRT_"))
                calls.update(["inline assembly"] if _ASSEMBLY.search(body) else [])
        symbols.update(name for name in undefined_symbols(elf) if not _PYTHON.match(name))
    return Code(frozenset(calls), frozenset(symbols), frozenset(flags))


def kept(dispatcher: Any) -> list[tuple[bytes, bytes]]:
    """(object file, bitcode of the IR) of every signature in numba's disk cache, where each kernel compiled is put at once."""
    cache = dispatcher._cache._cache_file
    found = []
    for name in cache._load_index().values():
        (_, form, code), *_ = cache._load_data(name)
        assert form == "object", form
        found.append(code)
    if not found:
        raise ValueError(f"{dispatcher.__name__} is compiled for no signature yet")
    return found


def _functions(text: str) -> Iterator[tuple[str, str]]:
    """(name, body) of every function that the module defines."""
    for part in re.split(r"^define ", text, flags=re.M)[1:]:
        found = re.search(r'@("[^"]+"|[\w.$]+)\(', part)
        assert found
        yield found[1], part


def undefined_symbols(elf: bytes) -> set[str]:
    """Names in the symbol table of a 64-bit little-endian ELF object that no section of it defines."""
    assert elf[:6] == b"\x7fELF\x02\x01", "not a 64-bit little-endian ELF object"
    (at,), (size, count) = struct.unpack_from("<Q", elf, 40), struct.unpack_from("<HH", elf, 58)
    sections = [struct.unpack_from(_SECTION, elf, at + k * size) for k in range(count)]
    names = set()
    for _, kind, _, _, start, length, strings, _, _, entry in sections:
        for symbol in range(start, start + length, entry) if kind == _SYMTAB else ():
            name, _, _, section, _, _ = struct.unpack_from(_SYMBOL, elf, symbol)
            if section == _UNDEFINED and name:
                first = sections[strings][4] + name
                names.add(elf[first : elf.index(b"\0", first)].decode())
    return names
