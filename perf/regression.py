"""The line of this tree beside that of another commit, in pairs of fresh processes: slower by over 5 % fails.

    python -m perf.regression [--base HEAD~1] [--rounds 11] [--rows 2000000] [--limit 1.05]

CPU time of the line's thread is compared, not wall time: another process on the core lengthens the one and not the other. Each
round runs both, in turns which first. Slower is what the median of the rounds' ratios says and the ratio of the fastest runs too:
a neighbour on the same memory lengthens CPU time as well, but hardly every run of one side.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perf import harness

DATA = Path("perf") / "peers" / "data"  # the feed, which is the same for both
TIMEOUT_S = 600.0


@contextmanager
def checked_out(base: str) -> Iterator[Path]:
    """The tree of commit `base` in a folder of its own, sharing our feed; raises SystemExit for a commit that is none."""
    with tempfile.TemporaryDirectory(prefix="tickline-base-") as folder:
        tree = Path(folder) / "tree"
        made = subprocess.run(
            ["git", "worktree", "add", "--detach", str(tree), base], cwd=harness.ROOT, capture_output=True, text=True, check=False
        )
        if made.returncode:
            raise SystemExit(f"no tree of {base!r}: {made.stderr.strip()}")
        try:
            (harness.ROOT / DATA).mkdir(parents=True, exist_ok=True)
            (tree / DATA).symlink_to(harness.ROOT / DATA)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=harness.ROOT, capture_output=True, check=False)


def line(root: Path, rows: int) -> dict[str, Any]:
    """One run of the whole line of the tree at `root`."""
    return harness.run_child([sys.executable, "-m", "perf.run_line", "--rows", str(rows)], TIMEOUT_S, root)


def compare(base: Path, rows: int, rounds: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Results of this tree and of the base, a round each."""
    trees = harness.ROOT, base
    for tree in trees:
        line(tree, rows)  # compiles, and makes the feed; not counted
    results: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            results[which].append(line(trees[which], rows))
    return results


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 when this tree is slower than the limit allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD~1", help="commit to compare with")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--limit", type=float, default=1.05)
    options = parser.parse_args(argv)
    with checked_out(options.base) as base:
        ours, theirs = compare(base, options.rows, options.rounds)
    cpu = [[result["cpu_seconds"] / result["events"] * 1e9 for result in side] for side in (ours, theirs)]
    pairs = harness.Spread.of([a / b for a, b in zip(*cpu, strict=True)])
    fastest = min(cpu[0]) / min(cpu[1])
    for name, side in zip(("this tree", options.base), cpu, strict=True):
        print(f"{name}: {harness.Spread.of(side).text('{:.1f}'.format)} ns of CPU a record")
    print(f"ratio of the pairs {pairs.text('{:.3f}'.format)}, of the fastest runs {fastest:.3f}")
    if ours[0]["decision_log_hash"] != theirs[0]["decision_log_hash"]:
        print("the decision logs differ: the two trees do not do the same")
    print(harness.machine_text(harness.machine()))
    harness.write_result("regression", {"base": options.base, "cpu_ns": cpu})
    if min(pairs.median, fastest) > options.limit:
        print(f"SLOWER: both ratios are above {options.limit}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
