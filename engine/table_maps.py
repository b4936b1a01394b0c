"""The map of a table, read from the TOML file beside it: the same care with keys as for the configuration."""

from __future__ import annotations

from pathlib import Path

from engine.errors import ConfigError
from engine.layered import Layers, read_file
from handlers.ingest.tables.map import TableMap, problems_of


def read_map(path: Path) -> TableMap:
    """The map in `path`; raises ConfigError with a line for each problem, where it is in the file beside it."""
    document, given = read_file(path)
    layers = Layers(document, given, str(path))
    table = layers.struct(TableMap, document, "")
    if table is not None and not layers.problems:
        layers.problems += [f"{path}: {problem}" for problem in problems_of(table)]
    if table is None or layers.problems:
        raise ConfigError("\n".join(layers.problems))
    return table
