"""Runs a `tickline` command as it is and says, as its last line, when the slice that sequenced the first record had come back.

    python -m perf.start_probe replay synthetic:1000 --json ...

The time is CLOCK_MONOTONIC in ns, which every process of the machine shares: `perf.bench_start` has read it before it began this one.
"""

from __future__ import annotations

import json
import sys
import time

from engine.cli import main
from engine.session import Session


def note_first_slice(session: type[Session]) -> dict[str, int]:
    """Have `session` note in what is returned, under "first_ns", when a record has first been sequenced."""
    noted: dict[str, int] = {}
    run_slice = session._slice

    def noting(self: Session, deadline: int) -> int:
        why = run_slice(self, deadline)
        if not noted and self.built.line.sequencer.head[0]["next_seq"] > 0:
            noted["first_ns"] = time.monotonic_ns()
        return why

    session._slice = noting  # type: ignore[method-assign]
    return noted


if __name__ == "__main__":
    found = note_first_slice(Session)
    sys.argv[0] = "tickline"
    try:
        main()
    finally:
        print(json.dumps(found))
