"""A recorded Binance capture as plain JSON, line by line, and what the rules of its venue say of the order of its messages."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Message = tuple[int, int, int]  # receive ns, source, line


@dataclass
class RawCapture:
    """Every line of a venue's files in the order of their names."""

    folder: Path
    futures: bool

    @cached_property
    def lines(self) -> list[tuple[int, dict[str, Any]]]:
        """(receive ns, message without its envelope) of each line."""
        out = []
        for path in sorted(self.folder.glob("*.gz")):
            for line in gzip.decompress(path.read_bytes()).decode().splitlines():
                when, _, text = line.partition(" ")
                message = json.loads(text)
                out.append((int(when), message.get("data", message)))
        return out

    def of(self, event: str) -> list[tuple[int, dict[str, Any]]]:
        """The messages of one type."""
        return [(when, m) for when, m in self.lines if m.get("e") == event]

    def order_in_the_line(self, source: int) -> tuple[list[Message], set[int], set[int]]:
        """(its messages as they may enter the line, the lines that wait for the snapshot, those it makes stale).

        Depth messages received before the snapshot are held and come right behind it, in their own order; of them, and of those
        that come later, what the snapshot already has is dropped: `u` below its id for futures, up to its id for spot.
        """
        at = next(k for k, (_, m) in enumerate(self.lines) if "lastUpdateId" in m)
        have = self.lines[at][1]["lastUpdateId"]
        stale = {
            k for k, (_, m) in enumerate(self.lines)
            if m.get("e") == "depthUpdate" and (m["u"] < have if self.futures else m["u"] <= have)
        }  # fmt: skip
        waited = {k for k, (_, m) in enumerate(self.lines[:at]) if m.get("e") == "depthUpdate"}
        before = [k for k in range(at) if k not in waited]
        order = [*before, at, *sorted(waited - stale), *(k for k in range(at + 1, len(self.lines)) if k not in stale)]
        return [(self.lines[k][0], source, k) for k in order], waited - stale, stale


def merged(feeds: list[list[Message]]) -> list[Message]:
    """Messages of several feeds by (time, source, place in the source), the time of a source never going back."""
    keyed = []
    for source, feed in enumerate(feeds):
        now = 0
        for place, message in enumerate(feed):
            now = max(now, message[0])
            keyed.append((now, source, place, message))
    return [message for *_, message in sorted(keyed)]
