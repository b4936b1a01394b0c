"""How many records a second the generator of the demo makes: `synthetic:2000000:7:3`, in windows of 65,536, on one thread.

    python -m perf.bench_synthetic [--small] [--rounds N]

The clock runs while a window is made and stops while its bytes are hashed; a round whose hash is not the one written down here
gives no figure. The same seed gives the same bytes on any CPU, so another hash is another generator or another record layout.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence

import numpy as np

from handlers.ingest.synthetic.feed import SyntheticFeed
from perf import harness
from transport.records import FEED_BASE

SEED, INSTRUMENTS = 7, 3  # the demo's
ROWS, ROWS_SMALL = 2_000_000, 100_000
WINDOW_ROWS = 65_536
SHA256 = {
    ROWS: "6b190cfa62cc0574f9302e89f7c09cabf354f16c37863c952144e86413dadb06",
    ROWS_SMALL: "591018e571f5ada798b1d46cc87a64d819e9f6fc9fa0ea47973583692ed0b828",
}


class WrongAnswer(Exception):
    """Other records came than those that are known: there is no figure."""


def generate(rows: int) -> tuple[int, float, str]:
    """(records made, seconds it took to make them, their SHA-256)."""
    feed = SyntheticFeed(SEED, rows, INSTRUMENTS)
    feed.bind({instrument.name: n for n, instrument in enumerate(feed.instruments)}, FEED_BASE)
    windows = feed.chunks(WINDOW_ROWS)
    digest, made, took_ns = hashlib.sha256(), 0, 0
    while True:
        began_ns = time.perf_counter_ns()
        window = next(windows, None)
        took_ns += time.perf_counter_ns() - began_ns
        if window is None:
            return made, took_ns / 1e9, digest.hexdigest()
        made += len(window)
        digest.update(window.view(np.uint8).data)


def rate(rows: int) -> float:
    """Records a second of one round; raises WrongAnswer."""
    made, seconds, digest = generate(rows)
    if digest != SHA256[rows]:
        raise WrongAnswer(f"{made:,} of {rows:,} records were made, with hash {digest}, not {SHA256[rows]}")
    return made / seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, check, print; the small size takes a second and records nothing."""
    parser = argparse.ArgumentParser(description="records a second of the demo's generator")
    parser.add_argument("--small", action="store_true", help="a size for the tests")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    rows, rounds = (ROWS_SMALL, 1) if args.small else (ROWS, args.rounds)
    rates = [sample.result for sample in harness.repeated(lambda: rate(rows), rounds)]
    if not args.small:
        harness.write_result("synthetic", {"records_per_s": rates})
    shown = harness.Spread.of(rates).text(harness.rate_text)
    print(harness.table(["generator of the demo", "records/s, median [low .. high]"], [[f"synthetic:{rows}:{SEED}:{INSTRUMENTS}", shown]]))
    print(f"{harness.machine_text(harness.machine())}; {rounds} rounds, the records' hash checked in each")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except WrongAnswer as wrong:
        raise SystemExit(str(wrong)) from wrong
