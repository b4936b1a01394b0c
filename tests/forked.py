"""Workers of tests forked from one process that has the kernels, where a test is of what workers do and not of how they are started.

A run spawns its workers, and each loads numba and every kernel itself: more than a second of a core's time, four times in a staged run.
Modules marked `spawned` have theirs as a run does.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from unittest import mock

import pytest

from engine import supervisor


@pytest.fixture(scope="module", autouse=True)
def workers_are_forked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of the runs in this process, by multiprocessing's fork server, which ends with the session."""
    if request.node.get_closest_marker("spawned"):
        yield
        return
    multiprocessing.set_forkserver_preload(["tests.loaded"])
    with mock.patch.object(supervisor, "CONTEXT", multiprocessing.get_context("forkserver")):
        yield
