"""What all tests share: the seed, the recorded feeds, how long tests and random ones are run.

TICKLINE_DATA       folder of the recorded feeds; default ../shared/data beside the project; tests without it skip, loudly
TICKLINE_SEED       seed of the random tests of one session; default a fresh one, printed in the header
TICKLINE_SEEDS      how many seeds each random test is run with, from that one on; above 1 only random tests are run
TICKLINE_EXAMPLES   how many examples hypothesis draws for a property, at least what the test asks for
TICKLINE_LONG       1: the ring's litmus tests pass 100 million records
CI                  hypothesis draws the same examples each time
"""

from __future__ import annotations

import os
import random
import signal
import warnings
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
NO_DATA = "recorded feeds not found at"
SEEDS = int(os.environ.get("TICKLINE_SEEDS") or 1)
EXAMPLES = int(os.environ.get("TICKLINE_EXAMPLES") or 100)
SEED = int(os.environ.get("TICKLINE_SEED") or random.SystemRandom().randrange(2**31))

# A kernel compiles at its first call, which no deadline of milliseconds survives; the blob makes a failure repeatable by paste.
settings.register_profile("local", deadline=None, print_blob=True, max_examples=EXAMPLES)
settings.register_profile("ci", deadline=None, print_blob=True, max_examples=EXAMPLES, derandomize=True)
# Tests interrupt runs: a session that was started in the background ignores SIGINT, and so would every process it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_report_header() -> str:
    return f"seed: {SEED} (the same again: TICKLINE_SEED={SEED}); recorded feeds: {_data_folder()}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if SEEDS > 1 and "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(SEED, SEED + SEEDS))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if SEEDS > 1:
        random_ones = [item for item in items if "seed" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=[item for item in items if item not in random_ones])
        items[:] = random_ones


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    missing = sum(NO_DATA in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if missing:
        terminalreporter.write_line(
            f"{missing} tests SKIPPED: {NO_DATA} {_data_folder()}; set TICKLINE_DATA", yellow=True
        )


def _data_folder() -> Path:
    return Path(os.environ.get("TICKLINE_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture
def seed() -> int:
    """The session's seed, printed again beside whatever fails."""
    print(f"seed {SEED}")
    return SEED


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the recorded feeds and of `reference/`, what they must decode to; skips with a warning where it is absent."""
    folder = _data_folder()
    if not (folder / "reference").is_dir():
        reason = f"{NO_DATA} {folder}; set TICKLINE_DATA to the folder that holds reference/"
        warnings.warn(pytest.PytestWarning(reason), stacklevel=2)
        pytest.skip(reason)
    return folder
