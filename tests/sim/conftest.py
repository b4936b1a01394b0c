"""What the tests of live sessions share."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.ingest.live import source as live
from handlers.ingest.live import rest
from tests.forked import workers_are_forked as workers_are_forked
from tests.live_venues import Usdm


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of seconds take hundredths."""
    monkeypatch.setattr(rest, "LONGEST_S", 0.05)
    monkeypatch.setattr(live, "RESYNC_SPACING_S", 0.02)
    monkeypatch.setattr(live, "REST_SPACING_S", 0.01)


@pytest.fixture
def usdm(data_dir: Path) -> Usdm:
    return Usdm(data_dir)
