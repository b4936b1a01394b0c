"""`tickline record` and `tickline paper`: live feeds through the whole line into a run folder, until they are told to stop.

A live line is a replay whose windows arrive as the world goes: each line of the venue is stamped where it is received, the line's time is
the greatest of those stamps, and where nothing comes the feed says until when nothing has come, so that timers and reports need not wait.
The journal therefore re-executes like any other, and the capture decodes to the same market records.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.errors import ConfigError
from engine.feeds import OpenFeed, bound
from engine.journaling import Batch, Rows, Window
from engine.line import Built
from engine.loops import WANTS_WINDOW
from engine.observe.progress import Say, silent
from engine.replay import Replayed, run_feeds
from engine.session import PACED_HAND_OVER_S, TERMINATED, Session, Terminated, terminable
from engine.warming import check_streams, warm_up
from handlers.ingest.errors import FeedError
from handlers.ingest.sequencer import open_window, quiet_until, start_timers
from handlers.ingest.live.feed import CaptureWriter, LiveFeed, stream_of
from handlers.ingest.live.source import LiveSource
from transport.records import empty

WAIT_S = 0.005  # between two looks where nothing comes: bounds how late a timer is


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`, so that the line ends in order; a second one interrupts. In the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        if not stop.is_set():
            stop.set()
        elif number == signal.SIGTERM:
            raise Terminated(TERMINATED)
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LiveSession(Session):
    """A session whose feeds go on until `stop` is set, or `seconds` are over (0: never)."""

    doing = "following"

    def __init__(
        self, built: Built, windows: Sequence[Iterator[Rows]], take: Callable[[Batch], None], feeds: Sequence[LiveFeed],
        stop: threading.Event, seconds: float, timer_origin_ns: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(built, windows, take, 0.0, timer_origin_ns)
        self._feeds, self._stop, self._seconds = feeds, stop, seconds
        self._woken = feeds[0].source.woken
        self._until_s = float("inf")
        self._stopped = False

    def open(self, first_words: Callable[[int], None]) -> None:
        """Wait for the first record, then open every feed's window."""
        if self._seconds:
            self._until_s = time.monotonic() + self._seconds
        sequencer = self.built.line.sequencer
        for number, intake in enumerate(self.intakes):
            intake.current = Window(empty(0), 0)  # what is handed over before this feed's first record bears it
            open_window(sequencer, number, intake.current.rows, 0, False)
        while not self._turn_all():
            if all(w["final"] for w in sequencer.windows):
                break
            self._wait()
        times = [int(w["key_ns"]) for w in sequencer.windows if w["at"] < w["rows"]]
        self.first_ns = min(times) if times else 0
        start_timers(sequencer, self.first_ns, self.timer_origin_ns)
        first_words(self.first_ns)

    def _is_time_to_hand_over(self, why: int) -> bool:
        if why == WANTS_WINDOW:
            return time.monotonic() - self._handed_over > PACED_HAND_OVER_S
        return super()._is_time_to_hand_over(why)

    def _refill(self) -> None:
        if not self._turn_all():
            self._wait()
        self._leave_if_asked()  # however busy the feeds are, or long their history

    def _wait(self) -> None:
        self._woken.wait(WAIT_S)
        self._woken.clear()
        self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if not self._stopped and (self._stop.is_set() or time.monotonic() >= self._until_s):
            self._stopped = True
            for feed in self._feeds:
                feed.source.ask_to_stop()

    def _turn_all(self) -> bool:
        """Open the next window of every feed that has used its own up, or say how long it was quiet; whether any has rows, or ended."""
        sequencer, moved = self.built.line.sequencer, False
        for number, intake in enumerate(self.intakes):
            w = sequencer.windows[number]
            if w["at"] < w["rows"] or w["final"]:
                continue
            rows = next(intake.windows, None)
            if rows is not None and not len(rows):
                quiet_until(sequencer, number, self._feeds[number].quiet_ns)
                continue
            self._hand_over()  # what was admitted from the window before belongs to it
            final = rows is None
            rows = empty(0) if rows is None else rows
            intake.current = Window(rows, intake.current.first + len(intake.current.rows))
            open_window(sequencer, number, rows, intake.current.first, final)
            moved = True
        return moved


def follow(
    wanted: Mapping[str, Sequence[str]],
    config: Config,
    origins: Mapping[str, str],
    out: Path | None,
    *,
    capture: Path | None = None,
    seconds: float = 0.0,
    base: Path = Path(),
    ws_url: str = "",
    rest_url: str = "",
    stop: threading.Event | None = None,
    progress: Say = silent,
    title: str = "",
) -> Replayed:
    """Follow `wanted`, venue -> symbols, through the line into a run folder until SIGINT, SIGTERM, `stop` or `seconds` are over.

    With `capture`, of one venue, the lines are written there. Raises FeedError, also where `stop` is set before the instruments are known,
    ConfigError and what `replay` raises.
    """
    if config.runtime.placement != "fused":
        raise ConfigError(f"runtime.placement: a live line runs fused, not {config.runtime.placement}")
    if capture is not None and len(wanted) > 1:
        raise FeedError("a capture holds one venue's connection; record each on its own")
    woken, stop = threading.Event(), stop or threading.Event()
    streams = [stream_of(venue, symbols, ws_url, rest_url) for venue, symbols in wanted.items()]
    check_streams(streams, config.warmup)
    progress("asking for the instruments", 0)
    writer = CaptureWriter(capture) if capture is not None else None
    try:
        with terminable():  # a signal ends it here: there is nothing yet to be ended in order
            live = [LiveFeed(LiveSource(stream, woken), writer, config.instrument, stop) for stream in streams]
            opened = [OpenFeed(f"{f.name}:{','.join(f.source.stream.symbols)}", f.instruments, decoder=f) for f in live]
            feeds, instruments = bound(opened)
            if config.warmup.source != "off":
                progress("reading the history", 0)
                warm_up(live, config.warmup)

        def new_session(built: Built, windows: list[Any], take: Callable[[Batch], None], name: str) -> Session:
            return LiveSession(built, windows, take, live, stop, seconds, config.line.timer_origin_ns)

        with stoppable(stop):
            try:
                return run_feeds(feeds, instruments, config, origins, out, new_session, base=base, progress=progress, title=title)
            finally:
                for feed in live:
                    feed.source.stop()
    finally:
        if writer is not None:
            writer.close()

