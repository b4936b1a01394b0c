"""A recorded feed run to its end beside the reference figures that independent scripts computed from the same files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from handlers.ingest.feed import Feed
from handlers.ingest.formats import open_feed

EIGHT = Decimal("1e-8")


@dataclass
class Decoded:
    """A feed run to its end, and what is expected of it."""

    feed: Feed
    rows: np.ndarray[Any, Any]
    expected: dict[str, Any]

    def of(self, kind: int) -> np.ndarray[Any, Any]:
        return self.rows[self.rows["kind"] == kind]

    def price(self, ticks: int) -> Decimal:
        return self.feed.instruments[0].price(int(ticks))

    def qty(self, lots: int) -> Decimal:
        return self.feed.instruments[0].qty(int(lots))


def reference(data_dir: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data_dir / "reference" / f"{name}.json").read_text())
    return found


def decode(spec: Path, expected: dict[str, Any]) -> Decoded:
    feed = open_feed(str(spec))
    return Decoded(feed, np.concatenate(list(feed.chunks(4096))), expected)


def utc(ns: int, unit: str) -> str:
    """ISO time in UTC of `ns`, `unit` "ms" with an offset or "ns" with a Z, as the references write it."""
    whole = datetime.fromtimestamp(ns // 10**9, UTC)
    if unit == "ms":
        return (whole + timedelta(milliseconds=ns % 10**9 // 10**6)).isoformat(timespec="milliseconds")
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns % 10**9:09d}Z"
