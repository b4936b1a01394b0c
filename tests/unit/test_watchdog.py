"""Stillness counts only the time in which we looked; a watched piece of work returns, raises and is stopped like any other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from engine import watchdog
from engine.errors import WorkerDied
from engine.watchdog import LOOK_S, Inside, Stillness, Stopped, left_behind, run_watched


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the watchdog reads; to be changed."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_what_gives_the_same_sign_is_still_and_any_other_is_not(clock: list[float]) -> None:
    still = Stillness()
    seen = []
    for sign in (1, 1, 1, 2, 2, None, None, 2):
        clock[0] += 0.05
        seen.append(round(still.look(sign), 3))
    assert seen == [0, 0.05, 0.1, 0, 0.05, 0, 0, 0]


def test_time_in_which_nobody_looked_counts_as_one_look(clock: list[float]) -> None:
    still = Stillness()
    still.look(7)
    clock[0] += 3600
    assert still.look(7) == pytest.approx(LOOK_S)


def watched(work: Callable[[Callable[[], None]], int], inside: Inside) -> int:
    return run_watched(work, inside, lambda: 7, lambda seconds: f"still for {seconds:g} s")


def test_work_returns_and_raises_through_its_watch() -> None:
    def fails(check: Callable[[], None]) -> int:
        raise ZeroDivisionError("mine")

    assert watched(lambda check: 5, Inside()) == 5
    with pytest.raises(ZeroDivisionError, match="mine"):
        watched(fails, Inside())
    assert not left_behind()


def test_work_that_is_outside_may_take_its_time_and_inside_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "HUNG_S", 0.2)
    monkeypatch.setattr(watchdog, "STOP_S", 0.05)
    inside, free = Inside(), threading.Event()

    def slow(check: Callable[[], None]) -> int:
        time.sleep(0.5)
        return 1

    def stuck(check: Callable[[], None]) -> int:
        with inside:
            free.wait()
        return 2

    assert watched(slow, inside) == 1
    with pytest.raises(WorkerDied, match=r"still for 0\.2 s"):
        watched(stuck, inside)
    assert left_behind()
    free.set()
    until = time.monotonic() + 10
    while left_behind():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_work_is_stopped_where_it_checks_when_its_watch_is_interrupted() -> None:
    stopped = threading.Event()

    def goes_on(check: Callable[[], None]) -> int:
        while True:
            try:
                check()
            except Stopped:
                stopped.set()
                raise
            time.sleep(0.01)

    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    inside = Inside()
    inside.turns = 1
    with pytest.raises(KeyboardInterrupt):
        run_watched(goes_on, inside, interrupt, str)
    assert stopped.is_set()
    assert not left_behind()
