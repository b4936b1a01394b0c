"""Market-by-price records as a feed of L2 records: columns for the kernel of `levels`, and what it counted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided

from handlers.domain.reasons import NAME, UNKNOWN_RECORD
from handlers.ingest.feed import Rows
from handlers.ingest.dbn.decoding import (
    F_DOUBTED, F_LAST, SIDES, Decoding, Lines, by_letter, letters, refusals, told, worse,
)  # fmt: skip
from handlers.ingest.dbn.layouts import LEVEL_BYTES, Layout
from handlers.ingest.dbn.levels import LINE, STATE, STEPS, new_tally, write_levels
from handlers.ingest.dbn.rows import priced
from transport.compiled import load
from transport.records import copied, empty

ROWS_AT_ONCE = 1 << 14  # slots that the kernel fills before they are copied out: 2 MB, which stay in the cache
_KNOWN = by_letter(dict.fromkeys("ACMRTFN", 1), 0)
_TRADE = ord("T")


class LevelsDecoder:
    """Books by price of one feed, from its beginning on."""

    def __init__(self, decoding: Decoding) -> None:
        load(write_levels)
        self._d = decoding
        count = max(1, len(decoding.instruments))
        self._states, self._new = np.zeros(count, STATE), np.zeros(1, STATE)
        self._steps = np.zeros(count, STEPS)
        for name in ("tick_nano", "lot_num", "lot_den"):
            self._steps[name] = getattr(decoding.grid, name)
        self._steps["instrument_id"][: len(decoding.ids)] = decoding.ids
        self._out = empty(ROWS_AT_ONCE)

    def decode(self, lines: Lines, believed: np.ndarray, layout: Layout) -> Iterator[Rows]:
        """Rows of lines, whose receive times, where they cannot be believed, are the feed's in `believed`."""
        if not len(lines.origin):
            return
        columns, tally, at = self._columns(lines, believed), new_tally(), 0
        r = lines.records
        spaced = as_strided(r["bid_px_00"], (len(r), layout.depth, 4), (r.strides[0], LEVEL_BYTES, 8))
        levels = np.array(spaced)  # a copy, for a record may begin anywhere
        while at < len(columns):
            at, n = write_levels(
                columns, levels, self._steps, self._states, self._new, self._d.source_id, at, self._out, tally
            )
            yield copied(self._out[:n])
        for reason in np.flatnonzero(tally[:, 0]).tolist():
            assert reason in NAME
            self._d.count(reason, told(reason, int(tally[reason, 1])), int(tally[reason, 0]))

    def _columns(self, lines: Lines, believed: np.ndarray) -> np.ndarray:
        """Of each line what the kernel needs beside its levels."""
        r, d = lines.records, self._d
        ticks, lots, wrong = priced(d, lines)
        is_trade = letters(r["action"]) == _TRADE
        reason = worse(refusals(lines, r["ts_event"]), np.where(_KNOWN[letters(r["action"])], 0, UNKNOWN_RECORD))
        good = d.kept(reason, lines.origin)
        d.kept(np.where(good & is_trade, wrong, 0), lines.origin)
        out = np.zeros(len(r), LINE)
        for name, column in (
            ("place", lines.place), ("ts_event_ns", r["ts_event"]), ("ts_recv_ns", believed), ("venue_seq", r["sequence"]),
            ("origin", lines.origin), ("trade_ticks", ticks), ("trade_lots", lots), ("trade", is_trade & (wrong == 0)),
            ("side", SIDES[letters(r["side"])]), ("last", r["flags"] & F_LAST != 0), ("refused", reason),
            ("doubted", r["flags"] & F_DOUBTED != 0),
        ):  # fmt: skip
            out[name] = column
        return out
