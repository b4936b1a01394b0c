"""A tree of frozen structs read from layers: flag over environment over file over default, each value with its origin.

    file (TOML) ──► env PREFIX__SECTION__KEY ──► flags {"section.key": value} ──► structs, {"section.key": origin}

A key is written with dots, an entry of a list of tables by its index: `strategy.0.path`. Nothing is guessed: a key that the
structs do not have is a problem, named with the nearest key that they do have. All problems are collected before one
ConfigError says them, so that a file is corrected in one go.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec

from engine.errors import ConfigError

OFF = "off"  # TOML has no null: how a file says that an optional limit is not wanted
DIGITS_MAX = 18  # before the point and behind it: what 64 bits can count, and exact arithmetic stays small
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]#]+?)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")
T = TypeVar("T", bound=msgspec.Struct)


class Text(str):
    """A value from the environment or the command line: it takes the type of the key it is for."""

    __slots__ = ()


def key_lines(text: str) -> dict[str, int]:
    """Dotted key -> line, counted from 1, of the keys and table headers of a TOML document; inline tables count as one key."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            prefix = _table_name(header[2], counts, header[1] == "[[")
            lines.setdefault(prefix, number)
        elif key := _KEY.match(line):
            dotted = ".".join(part.strip(" \"'") for part in key[1].split("."))
            lines.setdefault(f"{prefix}.{dotted}" if prefix else dotted, number)
    return lines


def _table_name(header: str, counts: dict[str, int], entry: bool) -> str:
    """The header with the index of the entry each list of tables is at; `entry` begins the next one of its own list."""
    name = ""
    parts = [part.strip(" \"'") for part in header.split(".")]
    for depth, part in enumerate(parts, 1):
        name = f"{name}.{part}" if name else part
        if entry and depth == len(parts):
            counts[name] = counts.get(name, -1) + 1
        if name in counts:
            name = f"{name}.{counts[name]}"
    return name


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(document, dotted key -> "FILE:line"); raises ConfigError for a file that cannot be read or is not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text, parse_float=Decimal)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    return document, {key: f"{path}:{line}" for key, line in key_lines(text).items()}


def from_environment(env: Mapping[str, str], prefix: str) -> dict[str, tuple[str, str]]:
    """Dotted key -> (text, origin) of every variable `PREFIX__A__B`, as a.b in lower case."""
    found = {}
    for name in sorted(env):
        if name.startswith(f"{prefix}__"):
            found[name.removeprefix(f"{prefix}__").lower().replace("__", ".")] = (env[name], f"env {name}")
    return found


class Layers:
    """Values by dotted key in one document, the origin of each, and the problems met on the way."""

    def __init__(self, document: dict[str, Any], given: dict[str, str], file: str | None) -> None:
        self.document = document
        self.given = given
        self.file = file
        self.origins: dict[str, str] = {}
        self.problems: list[str] = []

    def put(self, key: str, value: Any, origin: str) -> None:
        """Lay `value` over the lower layers at `key`; text will be read as the type of its key."""
        parts = key.split(".")
        at: Any = self.document
        for depth, part in enumerate(parts[:-1], 1):
            if isinstance(at, dict) and (part in at or not parts[depth].isdigit()):
                at = at.setdefault(part, {})
            elif isinstance(at, list) and part.isdigit() and int(part) < len(at):
                at = at[int(part)]
            else:
                where = ".".join(parts[: depth + isinstance(at, dict)])
                self.problems.append(f"{key}: there is no {where} to set it in ({origin})")
                return
        if not isinstance(at, dict):
            self.problems.append(f"{key}: {'.'.join(parts[:-1])} is not a table ({origin})")
            return
        at[parts[-1]] = Text(value) if isinstance(value, str) else value
        self.given = {k: v for k, v in self.given.items() if not k.startswith(f"{key}.")}
        self.given[key] = origin

    def origin(self, key: str) -> str:
        """Where the value at `key` came from: its own line, or that of the table it stands in, or of what stands in it."""
        at = key
        while at:
            if at in self.given:
                return self.given[at]
            at = at.rpartition(".")[0]
        inside = (origin for k, origin in self.given.items() if k.startswith(f"{key}."))
        return next(inside, self.file or "default")

    def struct(self, kind: type[T], data: Any, at: str) -> T | None:
        """`data` as `kind`, or None where a problem was noted; every key of it gets an origin."""
        if not isinstance(data, dict):
            self.problems.append(f"{at}: expected a table, got {shown(data)} ({self.origin(at)})")
            return None
        fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
        for key in data:
            if key not in fields:
                self._unknown(key, at, fields)
        before = len(self.problems)
        values = {}
        for name, field in fields.items():
            key = f"{at}.{name}" if at else name
            if name in data:
                values[field.name] = self.value(field.type, data[name], key)
            elif section := struct_in(field.type):
                if get_origin(field.type) is not tuple:
                    values[field.name] = self.struct(section, {}, key)
            elif field.required:
                self.problems.append(f"{key}: is required ({self.origin(at)})")
            else:
                self.origins[key] = "default"
        return kind(**values) if len(self.problems) == before else None

    def value(self, hint: Any, data: Any, key: str) -> Any:
        """`data` as `hint` at a key that was given."""
        if isinstance(data, Text):
            data = _parsed(data, hint)
        section = struct_in(hint)
        if section is None:
            return self._mapping(hint, data, key) if get_origin(hint) is dict else self._leaf(hint, data, key)
        if get_origin(hint) is not tuple:
            return self.struct(section, data, key)
        if not isinstance(data, list):
            self.problems.append(f"{key}: expected a list of tables, got {shown(data)} ({self.origin(key)})")
            return ()
        return tuple(self.struct(section, entry, f"{key}.{i}") for i, entry in enumerate(data))

    def _mapping(self, hint: Any, data: Any, key: str) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.problems.append(f"{key}: expected a table, got {shown(data)} ({self.origin(key)})")
            return {}
        return {name: self.value(get_args(hint)[1], value, f"{key}.{name}") for name, value in data.items()}

    def _leaf(self, hint: Any, data: Any, key: str) -> Any:
        self.origins[key] = self.origin(key)
        if NoneType in get_args(hint) and data == OFF:
            return None
        try:
            value = msgspec.convert(data, hint)
        except msgspec.ValidationError as error:
            self.problems.append(f"{key} = {shown(data)}: {_expected(hint, data, error)} ({self.origins[key]})")
            return None
        if isinstance(value, Decimal | float) and not Decimal(value).is_finite():
            self.problems.append(f"{key} = {shown(data)}: expected a finite number ({self.origins[key]})")
        elif isinstance(value, Decimal) and not -DIGITS_MAX <= _exponent(value) <= value.adjusted() < DIGITS_MAX:
            words = f"expected at most {DIGITS_MAX} digits before the point and behind it"
            self.problems.append(f"{key} = {shown(data)}: {words} ({self.origins[key]})")
        return value

    def _unknown(self, name: str, at: str, fields: Mapping[str, Any]) -> None:
        key = f"{at}.{name}" if at else name
        near = difflib.get_close_matches(name, fields, 1, 0.5)
        hint = f"did you mean {at + '.' if at else ''}{near[0]}?" if near else f"known here: {', '.join(fields)}"
        self.problems.append(f"{key}: unknown key, {hint} ({self.origin(key)})")


def _exponent(value: Decimal) -> int:
    """Power of ten of the last digit of a finite number."""
    return int(value.as_tuple().exponent)


def struct_in(hint: Any) -> type[msgspec.Struct] | None:
    """The struct that `hint` is, or is a tuple of."""
    inner = get_args(hint)[0] if get_origin(hint) is tuple else hint
    return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None


def _parsed(text: str, hint: Any) -> Any:
    """Text as TOML would read it, unless the key wants text: then, and where it is no TOML, as it stands."""
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if bare is str or get_origin(bare) is Literal:
        return str(text)
    try:
        return tomllib.loads(f"v = {text}", parse_float=Decimal)["v"]
    except tomllib.TOMLDecodeError:
        return str(text)


def _expected(hint: Any, data: Any, error: msgspec.ValidationError) -> str:
    """msgspec's words, except for a choice: there all that may be chosen, and the near one."""
    if get_origin(hint) is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        near = difflib.get_close_matches(str(data), choices, 1, 0.5)
        return f"expected {' or '.join(choices)}" + (f", did you mean {near[0]}?" if near else "")
    if "decimal string" in str(error):
        return "expected a decimal number"
    words = str(error).replace("`", "").replace("null", f'"{OFF}"').replace("decimal", "a decimal number")
    return words[0].lower() + words[1:]


def shown(value: Any) -> str:
    """`value` as it would stand in the file."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else str(value)
