"""A tree of structs written as TOML that reads back to the same tree, and its values one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from engine.layered import OFF, struct_in
from transport.instruments import plain


def dump(config: msgspec.Struct, origins: Mapping[str, str] | None = None) -> str:
    """The tree as TOML, each value's origin in a comment; without `origins` the canonical text, equal for equal trees."""
    out: list[str] = []
    _dump_table(config, "", "", origins or {}, out)
    return "\n".join(out).lstrip("\n") + "\n"


def values_told(config: msgspec.Struct, origins: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Every value by its dotted key, as it is written in TOML, with where it came from."""

    def values(key: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, msgspec.Struct):
            inner = [(f.encode_name, getattr(value, f.name)) for f in msgspec.structs.fields(value)]
        elif isinstance(value, dict):
            inner = sorted(value.items())
        elif isinstance(value, tuple) and any(isinstance(v, msgspec.Struct) for v in value):
            inner = [(str(at), v) for at, v in enumerate(value)]
        else:
            yield key, value
            return
        for name, each in inner:
            yield from values(f"{key}.{name}" if key else name, each)

    return {key: (_toml(value), origins.get(key, "default")) for key, value in values("", config)}


def _dump_table(table: msgspec.Struct, header: str, at: str, origins: Mapping[str, str], out: list[str]) -> None:
    """Plain values first: in TOML a key after a sub-table's header would belong to that."""
    later: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(table):
        name, value = field.encode_name, getattr(table, field.name)
        if struct_in(field.type) or isinstance(value, dict):
            later.append((name, value))
        else:
            _dump_value(name, value, f"{at}.{name}", origins, out)
    for name, value in later:
        title, key = (f"{header}.{name}", f"{at}.{name}") if at else (name, name)
        if isinstance(value, tuple):
            for i, entry in enumerate(value):
                out.append(f"\n[[{title}]]")
                _dump_table(entry, title, f"{key}.{i}", origins, out)
        elif isinstance(value, msgspec.Struct):
            out.append(f"\n[{title}]")
            _dump_table(value, title, key, origins, out)
        elif value:
            out.append(f"\n[{title}]")
            for param, number in sorted(value.items()):
                _dump_value(param, number, f"{key}.{param}", origins, out)


def _dump_value(name: str, value: Any, key: str, origins: Mapping[str, str], out: list[str]) -> None:
    bare = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _quoted(name)
    origin = origins.get(key)
    out.append(f"{bare} = {_toml(value)}" + (f"  # {origin}" if origin else ""))


def _toml(value: Any) -> str:
    if value is None:
        return f'"{OFF}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return repr(value)


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's, and DEL escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
