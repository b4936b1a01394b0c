"""A recorded market-by-order file by its publisher's own decoder, and a book of its orders as dicts: nothing of the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import zstandard

LAST, SNAPSHOT = dbn.F_LAST, dbn.F_SNAPSHOT
TICK_NANO = 250_000_000  # 0.25, the tick of ESH4, in the publisher's units of 1e-9
Levels = list[tuple[int, int]]  # (ticks, lots), best first


def raw_records(path: Path) -> list[Any]:
    """Every MBO record of a file."""
    decoder = dbn.DBNDecoder()
    decoder.write(zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read())
    return [r for r in decoder.decode() if isinstance(r, dbn.MBOMsg)]


@dataclass
class RawBook:
    """Orders by id, and per side letter price -> lots; trades and fills change nothing, the C or M behind them does."""

    orders: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    sides: dict[str, dict[int, int]] = field(default_factory=lambda: {"B": {}, "A": {}})

    def apply(self, r: Any) -> None:
        action = str(r.action)
        if action in "TF":
            return
        side, price, lots = self.orders.pop(r.order_id, (str(r.side), r.price, 0))
        self._add(side, price, -lots)
        left = (side, price, lots - r.size) if action == "C" else (str(r.side), r.price, r.size)
        if left[2]:
            self.orders[r.order_id] = left
            self._add(*left)

    def _add(self, side: str, price: int, lots: int) -> None:
        levels = self.sides[side]
        levels[price] = levels.get(price, 0) + lots
        if not levels[price]:
            del levels[price]

    def best(self, side: str, count: int) -> Levels:
        """The best `count` levels of a side."""
        levels = self.sides[side]
        if count == 1:
            price = max(levels) if side == "B" else min(levels)
            return [(price // TICK_NANO, levels[price])]
        prices = sorted(levels, reverse=side == "B")[:count]
        return [(price // TICK_NANO, levels[price]) for price in prices]

    def walked(self, side: str, lots: int) -> Levels:
        """What a market order takes of `side`, level by level."""
        out = []
        for price, displayed in self.best(side, len(self.sides[side])):
            if lots == 0:
                break
            out.append((price, min(lots, displayed)))
            lots -= out[-1][1]
        return out


def events(records: list[Any]) -> Iterator[tuple[int, int]]:
    """(first, behind the last) record of each event: up to LAST, and the snapshot, which has no LAST of its own, by itself."""
    first = 0
    for k, r in enumerate(records):
        ends = k + 1 == len(records) or (r.flags & SNAPSHOT and not records[k + 1].flags & SNAPSHOT)
        if r.flags & LAST or ends:
            yield first, k + 1
            first = k + 1
