"""The header of a row made in the line: it bears the place, times and instrument of its cause."""

from __future__ import annotations

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
