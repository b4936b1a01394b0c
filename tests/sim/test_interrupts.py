"""An interrupt in the middle of a run: its line's and its journal's threads are waited for, and what is journaled is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engine import replay
from engine.config import Config
from engine.journaling import Batch, RunJournal
from engine.line import Built, build_line, load_kernels, sequence_first_words
from engine.session import Session
from engine.watchdog import Inside, Stopped, left_behind, run_watched
from handlers.ingest.synthetic.feed import SyntheticFeed
from transport.records import FEED_BASE


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """KeyboardInterrupt in this thread after `seconds`, as a Ctrl-C raises it, and out of the block by it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_watch_waits_until_its_work_has_stopped() -> None:
    stopped = []

    def work(check: Callable[[], None]) -> None:
        while True:
            time.sleep(0.2)
            try:
                check()
            except Stopped:
                stopped.append(True)
                raise

    with interrupted_after(0.1):
        run_watched(work, Inside(), lambda: 0, str)
    assert stopped == [True]
    assert not left_behind()


def line_of(take: Callable[[Batch], None]) -> tuple[Session, Built]:
    feed = SyntheticFeed(5, 10**8, 2)
    feed.bind({i.name: n for n, i in enumerate(feed.instruments)}, FEED_BASE)
    built = build_line(Config(), feed.instruments, 1, 1, Path())
    session = Session(built, [feed.chunks(4096)], take)
    session.open(lambda ns: sequence_first_words(built, Config(), ns, 1, 2))
    return session, built


def sequenced(batches: list[Batch]) -> list[int]:
    """Of every run of the batches the seq it begins with and the one behind it, in order: 0, a, a, b, b, …"""
    runs = np.concatenate([batch.runs for batch in batches])
    return np.column_stack((runs["seq"], runs["seq"] + runs["count"])).ravel().tolist()


def test_an_interrupted_line_hands_over_each_input_once_up_to_the_last() -> None:
    load_kernels()
    for k in range(8):
        batches: list[Batch] = []
        session, built = line_of(batches.append)
        with interrupted_after(0.05 + 0.013 * k):
            replay._run_fused(session, None, lambda inputs: None)
        assert not left_behind()
        ends = sequenced(batches)
        assert ends[0] == 0
        assert ends[1:-1:2] == ends[2::2]
        assert ends[-1] == built.line.sequencer.head[0]["next_seq"]


def test_a_line_that_comes_back_after_it_was_taken_over_hands_over_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Batch] = []
    session, built = line_of(batches.append)
    free, there = threading.Event(), threading.Event()
    run = session._slice

    def late(deadline: int) -> int:
        why = run(deadline)
        there.set()
        free.wait(20)
        return why

    monkeypatch.setattr(session, "_slice", late)

    def progress(inputs: int) -> None:
        raise Stopped

    def work() -> None:
        with pytest.raises(Stopped):
            session.run(progress)
        session.hand_over_rest()

    thread = threading.Thread(target=work)
    thread.start()
    assert there.wait(20)
    session.take_over()
    free.set()
    thread.join(20)
    assert len(batches) == 1
    assert sequenced(batches)[-1] == built.line.sequencer.head[0]["next_seq"]


def test_a_journal_interrupted_while_it_closes_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = RunJournal(tmp_path, "run", [], None, 1, "write")
    taken: list[Batch] = []

    def slowly(batch: Batch) -> None:
        time.sleep(0.1)
        taken.append(batch)

    monkeypatch.setattr(journal, "_take", slowly)
    batch = Batch(np.zeros(0), np.zeros(0), (), [])
    for _ in range(8):
        journal.put(batch)
    with interrupted_after(0.15):
        journal.close()
    assert len(taken) < 8
    journal.abandon()
    assert len(taken) == 8


def test_a_journal_whose_disk_does_not_answer_is_given_up_with_its_queue_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.journaling.BATCHES_MAX", 1)
    monkeypatch.setattr("engine.journaling.ABANDON_S", 0.1)
    journal = RunJournal(tmp_path, "run", [], None, 1, "write")
    answer, asked = threading.Event(), threading.Event()

    def hangs(batch: Batch) -> None:
        asked.set()
        answer.wait(20)

    monkeypatch.setattr(journal, "_take", hangs)
    batch = Batch(np.zeros(0), np.zeros(0), (), [])
    journal.put(batch)
    assert asked.wait(20)
    journal.put(batch)
    began = time.monotonic()
    journal.abandon()
    assert time.monotonic() - began < 5
    answer.set()
