"""The line of this tree beside that of another commit, in pairs of fresh processes: slower by over 5 % fails.

    python -m perf.regression [--base HEAD~1] [--rounds 11] [--rows 2000000] [--limit 1.05]

CPU time of the line's thread is compared, not wall time: another process on the core lengthens the one and not the other. Each
round runs both, in turns which first; a ratio is this tree's over the base's within one round, and the median of them decides.
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


def compare(base: Path, rows: int, rounds: int) -> tuple[list[float], list[dict[str, Any]]]:
    """(ratios of CPU time, ours over the base's, a round each; last results of both)."""
    last = [line(harness.ROOT, rows), line(base, rows)]  # compiles both, and makes the feed; not counted
    ratios = []
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            last[which] = line((harness.ROOT, base)[which], rows)
        ratios.append(last[0]["cpu_seconds"] / last[1]["cpu_seconds"])
    return ratios, last


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 when the median ratio is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="HEAD~1", help="commit to compare with")
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--limit", type=float, default=1.05)
    options = parser.parse_args(argv)
    with checked_out(options.base) as base:
        ratios, (ours, theirs) = compare(base, options.rows, options.rounds)
    spread = harness.Spread.of(ratios)
    ns = [result["cpu_seconds"] / result["events"] * 1e9 for result in (ours, theirs)]
    print(f"CPU a record, this tree over {options.base}: {spread.text(lambda v: f'{v:.3f}')}   last round {ns[0]:.1f} / {ns[1]:.1f} ns")
    if ours["decision_log_hash"] != theirs["decision_log_hash"]:
        print("the decision logs differ: the two trees do not do the same")
    print(harness.machine_text(harness.machine()))
    harness.write_result("regression", {"base": options.base, "ratios": ratios, "ours": ours, "theirs": theirs})
    if spread.median > options.limit:
        print(f"SLOWER: {spread.median:.3f} is above {options.limit}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
