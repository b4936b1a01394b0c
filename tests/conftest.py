"""What all tests share: the seed, the recorded feeds, how long tests and random ones are run.

TICKLINE_DATA   folder of the recorded feeds; default ../shared/data beside the project; tests without it skip, loudly
TICKLINE_SEED   seed of the random tests of one session; default a fresh one, printed in the header
TICKLINE_LONG   1 runs the tests marked `long` too
CI              hypothesis draws the same examples each time
"""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
NO_DATA = "recorded feeds not found at"
SEED = int(os.environ.get("TICKLINE_SEED") or random.SystemRandom().randrange(2**31))

# A kernel compiles at its first call, which no deadline of milliseconds survives; the blob makes a failure repeatable by paste.
settings.register_profile("local", deadline=None, print_blob=True)
settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_report_header() -> str:
    return f"seed: {SEED} (the same again: TICKLINE_SEED={SEED}); recorded feeds: {_data_folder()}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("TICKLINE_LONG") == "1":
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="long: set TICKLINE_LONG=1"))


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
