"""How long `tickline replay` takes to start: from the start of its process to the first record sequenced, and to its end.

    python -m perf.bench_start [--rounds 7] [--no-limit] [--no-cold]

Warm is with every kernel in the disk cache; cold, once, with an empty one (TICKLINE_CACHE in a folder of its own). The run is
`replay synthetic:1000`; all must have the same hashes, or no time is printed. Beside it the CPU time of `tickline --help`. Exits
with 1 when a warm start or the help is over its limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf import harness

FEED_ROWS = 1_000
MARKET = ("Trade", "Quote", "BookDelta", "BookSnapshot")
MESSAGE_ROWS_MAX = 101  # a last message that would go beyond is left out of the feed; the largest is a snapshot with its quote
FIRST_LIMIT_S, HELP_LIMIT_S = 1.5, 0.3
TIMEOUT_S = 600.0


class WrongAnswer(Exception):
    """A run that was timed did not do what the others did: there is no figure."""


@dataclass(frozen=True)
class Start:
    """One start: seconds from the process's start to the first record sequenced and to its end, CPU seconds, the run's summary."""

    first_s: float
    whole_s: float
    cpu_s: float
    summary: dict[str, Any]


def start(cache: Path | None = None) -> Start:
    """Start a replay, with `cache` as its compile cache or the usual one; raises harness.RunFailed."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "perf.start_probe", "replay", f"synthetic:{FEED_ROWS}", "--out", str(run), "--json"]
        cpu, began_ns = harness.children_cpu_s(), time.monotonic_ns()
        said = harness.run_child(command, TIMEOUT_S, env={"TICKLINE_CACHE": str(cache)} if cache else None)
        ended_ns = time.monotonic_ns()
        summary = json.loads((run / "summary.json").read_text())
    first_s = (said["first_ns"] - began_ns) / 1e9
    return Start(first_s, (ended_ns - began_ns) / 1e9, harness.children_cpu_s() - cpu, summary)


def check(starts: Sequence[Start]) -> None:
    """Raises WrongAnswer unless every run took in the feed, all with the same hashes, and began before it ended."""
    for one in starts:
        market = sum(one.summary["events"].get(kind, 0) for kind in MARKET)
        if not FEED_ROWS - MESSAGE_ROWS_MAX < market <= FEED_ROWS:
            raise WrongAnswer(f"a run of {FEED_ROWS} records took in {one.summary['events']}")
        if not 0 < one.first_s < one.whole_s:
            raise WrongAnswer(f"a run's first record came after {one.first_s} s of {one.whole_s}")
    if len({json.dumps(one.summary["hashes"], sort_keys=True) for one in starts}) != 1:
        raise WrongAnswer("runs of one feed have different hashes")


def help_cpu_s() -> float:
    """CPU seconds of `tickline --help`; raises WrongAnswer when it does not help."""
    cpu = harness.children_cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "--help"], cwd=harness.ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode or "replay" not in done.stdout:
        raise WrongAnswer(f"tickline --help: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return harness.children_cpu_s() - cpu


def report(warm: Sequence[Start], helps: Sequence[float], cold: Start | None) -> tuple[str, list[harness.Target]]:
    """The table, and what the medians are held to."""
    first, help_s = harness.Spread.of([one.first_s for one in warm]), harness.Spread.of(helps)
    spreads = {
        "warm: to the first record sequenced": first,
        "warm: to the end": harness.Spread.of([one.whole_s for one in warm]),
        "warm: CPU to the end": harness.Spread.of([one.cpu_s for one in warm]),
        "CPU of tickline --help": help_s,
    }
    rows = [[name, spread.text("{:.2f}".format)] for name, spread in spreads.items()]
    if cold is not None:
        rows += [["cold: to the first record sequenced", f"{cold.first_s:.1f}"], ["cold: CPU to the end", f"{cold.cpu_s:.1f}"]]
    targets = [
        harness.Target("warm start to the first record", first.median, FIRST_LIMIT_S, " s", at_least=False),
        harness.Target("CPU of --help", help_s.median, HELP_LIMIT_S, " s", at_least=False),
    ]
    return harness.table([f"replay synthetic:{FEED_ROWS}", "s, median [low .. high]"], rows), targets


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size judges nothing and compiles nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=7, help="warm starts")
    parser.add_argument("--no-limit", action="store_true", help="do not fail when a limit is passed")
    parser.add_argument("--no-cold", action="store_true", help="leave out the start with an empty cache, about a minute")
    options = parser.parse_args(argv)
    if not options.small:
        start()  # fills the caches, and does not count
    rounds = 2 if options.small else options.rounds
    warm, helps = [start() for _ in range(rounds)], [help_cpu_s() for _ in range(rounds)]
    cold = None
    if not (options.small or options.no_cold):
        with tempfile.TemporaryDirectory() as folder:
            cold = start(Path(folder))
    check([*warm, *([cold] if cold else [])])
    text, targets = report(warm, helps, cold)
    if not options.small:
        took = {"first_s": [one.first_s for one in warm], "whole_s": [one.whole_s for one in warm], "help_cpu_s": helps}
        harness.write_result("start", {**took, "cold_s": cold and [cold.first_s, cold.whole_s, cold.cpu_s]})
    print(text)
    status = 0 if options.small else harness.judged(targets, strict=not options.no_limit)
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, hashes equal in all")
    return status


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (harness.RunFailed, WrongAnswer) as failed:
        raise SystemExit(str(failed)) from failed
