"""`tickline watch`: a table of the runs on this machine, from the counters they publish."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from engine.observe.counters import EDGE, NAMES, observed

INTERVAL_S = 0.5
COUNTS = tuple(name for name in NAMES if name != "line_ns")
Counts = dict[str, dict[str, int]]


def looks(interval_s: float = INTERVAL_S) -> Iterator[tuple[Counts, dict[str, float]]]:
    """(counters, inputs a second since the look before) by segment, again and again, until no run is left."""
    before: Counts = {}
    then = time.monotonic()
    while now := observed():
        passed = time.monotonic() - then
        then += passed
        known = now.keys() & before.keys()
        yield now, {name: (now[name]["inputs"] - before[name]["inputs"]) / passed for name in known}
        before = now
        time.sleep(interval_s)


def table(found: Counts, rates: dict[str, float]) -> Any:
    """A rich table of one look."""
    from rich.table import Table

    out = Table("run", "pid", "inputs/s", "line's time", *COUNTS)
    for name, counts in found.items():
        pid, _, run = name.removeprefix("tickline-").removesuffix(f"-{EDGE}").partition("-")
        rate = f"{rates[name]:,.0f}" if name in rates else ""
        when = datetime.fromtimestamp(counts["line_ns"] / 1e9, UTC).isoformat(sep=" ", timespec="milliseconds")
        out.add_row(run, pid, rate, when if counts["line_ns"] else "", *(f"{counts[c]:,}" for c in COUNTS))
    return out


def watch() -> int:
    """Show the table until the last run has ended; returns how many runs there were at first."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    runs = 0
    with Live(console=console, auto_refresh=False) as live:
        for found, rates in looks():
            runs = runs or len(found)
            live.update(table(found, rates), refresh=True)
    return runs
