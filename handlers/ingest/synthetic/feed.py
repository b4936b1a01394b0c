"""Synthetic order flow as a feed: a seeded market that never was, for tests, benchmarks and demonstrations without data.

Nothing here is a market and nothing may be concluded about one: every record carries SYNTHETIC. The same seed gives the same
records, bit for bit, for any chunk size and on any CPU; how they are made is told in `synthetic_flow`.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from string import ascii_uppercase

import numpy as np
from numpy.typing import NDArray

from handlers.ingest.feed import Feed, Rows
from handlers.ingest.synthetic.flow import FEED, PENDING, PENDING_ROWS, STREAM, generate
from transport.instruments import Instrument
from transport.records import empty

INSTRUMENTS_MAX = len(ascii_uppercase)
START_NS = 1_735_689_600_000_000_000  # 2025-01-01T00:00:00Z; any instant would do
_TIMES_ROWS = 8192  # 1 MiB at a time
_STREAM_STRIDE = 0xD1342543DE82EF95  # between the instruments' starts; odd, no small multiple of splitmix64's

# tick, lot, price in ticks, lots of an ordinary level, events a second before excitation; cycled through by the instruments
_PRESETS = (
    ("0.01", "0.001", 6_160_250, 400, 400.0),
    ("0.05", "1", 48_367, 60, 200.0),
    ("0.0001", "10", 10_842, 900, 100.0),
)


class SyntheticState:
    """Everything the generator remembers: three struct arrays, which may be copied to go on from here later."""

    def __init__(self, seed: int, instruments: int, start_ns: int) -> None:
        self.feed = np.zeros(1, FEED)
        self.pending = np.zeros(PENDING_ROWS, PENDING)
        self.streams = np.zeros(instruments, STREAM)
        for i, s in enumerate(self.streams):
            _, _, home, lots, rate = _PRESETS[i % 3]
            s["rng"] = (seed + (i + 1) * _STREAM_STRIDE) % 2**64
            s["due_ns"] = start_ns + i
            s["base_rate"], s["lots"], s["home"], s["anchor"] = rate, lots, home, home
            s["regime"], s["regime_left"], s["phase_left"] = 1, 1000, 300
            s["best"] = (home, home + 1)

    def write(self, out: Rows, rows_max: int, rows_left: int, ids: NDArray[np.uint32], source_id: int) -> int:
        """Rows of the next messages, written at the front of `out` (zeroed, at least PENDING_ROWS long); 0 when none fits."""
        assert len(out) >= max(rows_max, PENDING_ROWS)
        return int(generate(out, rows_max, rows_left, self.feed, self.streams, self.pending, ids, source_id))


def synthetic_instruments(count: int) -> tuple[Instrument, ...]:
    """AAA, BBB, CCC, … of the venue "synthetic"; raises ValueError outside 1..INSTRUMENTS_MAX."""
    if not 1 <= count <= INSTRUMENTS_MAX:
        raise ValueError(f"synthetic feed has 1 to {INSTRUMENTS_MAX} instruments, not {count}")
    return tuple(
        Instrument(letter * 3, "synthetic", Decimal(_PRESETS[i % 3][0]), Decimal(_PRESETS[i % 3][1]))
        for i, letter in enumerate(ascii_uppercase[:count])
    )


class SyntheticFeed(Feed):
    """At most `rows` records of made-up order flow in `instruments` instruments; a message that would go beyond is left out."""

    def __init__(self, seed: int, rows: int, instruments: int = 3, start_ns: int = START_NS) -> None:
        """`seed` in 0..2**64-1, `rows` >= 0; raises ValueError outside."""
        if not 0 <= seed < 2**64 or rows < 0:
            raise ValueError(f"synthetic feed: seed {seed} is not in 0..2**64-1, or rows {rows} is negative")
        self.seed, self.rows, self.start_ns = seed, rows, start_ns
        super().__init__("synthetic", synthetic_instruments(instruments))

    def restart(self) -> None:
        super().restart()
        self.state = SyntheticState(self.seed, len(self.instruments), self.start_ns)

    def chunks(self, rows_max: int) -> Iterator[Rows]:
        self.restart()
        while True:
            out = empty(max(rows_max, PENDING_ROWS))
            made = self.state.write(out, rows_max, self.rows - self.lines, self.ids, self.source_id)
            if not made:
                return
            self.lines += made
            self.messages = int(self.state.feed[0]["messages"])
            yield out[:made]

    def receive_times(self) -> NDArray[np.int64]:
        state = SyntheticState(self.seed, len(self.instruments), self.start_ns)
        times = np.empty(self.rows, np.int64)
        n = 0
        while n < self.rows:
            out = empty(_TIMES_ROWS)
            made = state.write(out, _TIMES_ROWS, self.rows - n, self.ids, self.source_id)
            if not made:
                break
            times[n : n + made] = out["ts_recv_ns"][:made]
            n += made
        return times[:n]
