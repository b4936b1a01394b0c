"""hftbacktest's loader on a recorded Binance USD-M capture: `data.utils.binancefutures.convert`; prints one JSON line.

Run by perf/bench_decode.py inside hftbacktest's own environment. The capture is gzip, which is what the loader takes.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
from typing import Any

import hftbacktest as hft  # type: ignore[import-not-found]
from hftbacktest.data.utils import binancefutures  # type: ignore[import-not-found]

from perf.harness import timed


def run(path: str) -> dict[str, Any]:
    """One timed conversion, and one of unpacking alone."""
    with gzip.open(path) as file:
        lines = sum(1 for _ in file)

    def convert() -> Any:
        with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent):
            return binancefutures.convert(path, combined_stream=True, buffer_size=20_000_000)

    convert()  # compiles
    sample = timed(convert)
    return {"version": hft.__version__, "messages": lines, "cpu_seconds": sample.cpu_seconds, "rows": len(sample.result)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="hftbacktest's loader of Binance captures")
    parser.add_argument("path")
    print(json.dumps(run(parser.parse_args().path)))
