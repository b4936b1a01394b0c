"""The header of a row made in the line: it bears the place, times and instrument of its cause."""

from __future__ import annotations

import numpy as np

from handlers.domain.memory import set_slot_word, slot_word
from transport.compiled import kernel


@kernel(inline=True)
def stamp(row, cause, source_id, number):
    """Give `row` (its kind and own fields are set) the header of `cause`, made by `source_id`, `number`-th of that stage."""
    row.seq = cause.seq
    row.ts_event_ns = cause.ts_event_ns
    row.ts_recv_ns = cause.ts_recv_ns
    row.ts_seq_ns = cause.ts_seq_ns
    row.instrument_id = cause.instrument_id
    row.source_id = source_id
    row.row = number
    row.part = 0
    row.parts = 1
    row.epoch = cause.epoch


@kernel(inline=True)
def begin(row, cause, source_id, kind, number):
    """Write the whole header of a new row of `kind`, word by word; its own 80 bytes are the caller's to write."""
    for i in range(4):  # seq and the three times
        set_slot_word(row, i, slot_word(cause, i))
    who = slot_word(cause, 4) & np.uint64(0xFFFFFFFF)  # instrument_id
    set_slot_word(row, 4, who | np.uint64(source_id) << np.uint64(32) | np.uint64(kind) << np.uint64(48))
    epoch = slot_word(cause, 5) & np.uint64(0xFFFF_0000_0000)
    set_slot_word(row, 5, epoch | np.uint64(number) | np.uint64(1 << 24))  # row, part 0, parts 1, epoch
