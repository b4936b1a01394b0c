"""A line on a thread of its own, so that the caller's stays free: for signals, and to see that the line does not move any more.

    caller's thread ── waits, takes signals, looks ──► line's thread: kernels, which hold no lock of the interpreter

A compiled step that never returns cannot be ended from outside, nor can its thread. What can be done is to say so, to keep what
the line had sequenced, and to leave: `left_behind` tells who ends the process that it must not wait for that thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from engine.errors import WorkerDied

HUNG_S = 10.0  # what one input may take: a step of plain Python takes milliseconds, a machine that swaps a second or two
LOOK_S = 0.1  # at most so much counts between two looks, which come every 40 or 50 ms: in a longer time we did not run either
STOP_S = 1.0  # a line that moves comes back every 40 ms; what has not ended then hangs
THREAD = "line"
T = TypeVar("T")


class Stopped(BaseException):
    """The line is to end because its caller's thread was interrupted; no error, so nobody takes it for one."""


class Stillness:
    """For how long something has given no sign, counting only time in which we ran: one stopped with us is not still."""

    def __init__(self) -> None:
        self._sign: object = None
        self._seconds = 0.0
        self._looked = time.monotonic()

    def look(self, sign: object) -> float:
        """Seconds since `sign` last changed, as far as we looked; None is no sign that could be missed."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LOOK_S), now
        self._seconds = self._seconds + passed if sign is not None and sign == self._sign else 0.0
        self._sign = sign
        return self._seconds


class Inside:
    """A context manager around a loop's call: whether a thread is in it, for others to see."""

    def __init__(self) -> None:
        self.turns = 0  # odd while it is inside

    def __enter__(self) -> None:
        self.turns += 1

    def __exit__(self, *raised: object) -> None:
        self.turns += 1

    def __bool__(self) -> bool:
        return self.turns % 2 == 1


class End:
    """The end of a thread, for another to wait for; `Thread.join`, interrupted by a signal, takes the thread for ended (Python 3.11)."""

    def __init__(self) -> None:
        self._running = threading.Lock()
        self._running.acquire()

    def come(self) -> None:
        """Said by the thread, last of all."""
        self._running.release()

    def wait(self, timeout: float = -1) -> bool:
        """Whether it has come within `timeout` seconds; -1 waits for it."""
        if not self._running.acquire(timeout=timeout):
            return False
        self._running.release()
        return True


def run_watched(work: Callable[[Callable[[], None]], T], inside: Inside, seq: Callable[[], int], hung: Callable[[float], str]) -> T:
    """What `work(check)` returns or raises, on a thread of its own; it must call `check` often, which raises Stopped.

    `inside` is entered around what may not return, `seq()` is how far it is there. Raises WorkerDied with `hung(seconds)` when
    neither has moved for HUNG_S of the time in which we ran. A signal is raised when the thread has ended, or after STOP_S.
    """
    stop, end = threading.Event(), End()
    results: list[T] = []
    errors: list[BaseException] = []

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def body() -> None:
        try:
            results.append(work(check))
        except BaseException as error:  # raised by the caller's thread, whatever it is
            errors.append(error)
        finally:
            end.come()

    thread = threading.Thread(target=body, name=THREAD, daemon=True)
    still = Stillness()
    try:
        thread.start()
        while not end.wait(LOOK_S / 2):
            if still.look((inside.turns, seq()) if inside else None) > HUNG_S:
                raise WorkerDied(hung(HUNG_S))
    except BaseException:
        stop.set()
        if end.wait(STOP_S):
            thread.join()
        raise
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def left_behind() -> bool:
    """Whether a line's thread is still inside: the interpreter, ending in order, would take its memory away under it."""
    return any(thread.name == THREAD for thread in threading.enumerate())
