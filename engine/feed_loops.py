"""Compiled loops over feeds alone, outside the line: merged into a tape, folded into the tops of their books."""

from __future__ import annotations

from handlers.domain.book import apply_market, best_lots, best_price, level_at
from handlers.ingest.sequencer import STARVED, admit_feed, peek
from transport.compiled import kernel
from transport.records import ASK, BID, BOOK_DELTA, EVENT_END


@kernel
def merge_rows(s, reports, out):
    """Merge the feeds' windows into `out` in the order of sequencing, unstamped; returns (rows, whether a feed wants its next window)."""
    n = 0
    while n < len(out):
        source, _ = peek(s, reports)
        if source == STARVED:
            return n, True
        if source < 0:
            return n, False
        admit_feed(s, source, out[n])
        out[n].seq = out[n].ts_seq_ns = 0
        out[n].epoch = 0
        n += 1
        s.head[0].runs = 0
    return n, False


@kernel
def fold_tops(markets, books, rows, out):
    """Fold market records and write a TOP after each applied event of a book (snapshots set the book, they are no row)."""
    n = 0
    for i in range(len(rows)):
        r = rows[i]
        if r.instrument_id >= len(markets):
            continue
        m = markets[r.instrument_id]
        apply_market(m, books, r)
        if r.kind != BOOK_DELTA or not r.flags & EVENT_END or not m.valid:
            continue
        t = out[n]
        t.ts_recv_ns, t.instrument_id, t.venue_seq = r.ts_recv_ns, r.instrument_id, r.venue_seq
        t.bid_ticks = t.bid_lots = t.bid_orders = t.ask_ticks = t.ask_lots = t.ask_orders = 0
        if best_lots(m, BID) > 0:
            t.bid_ticks, t.bid_lots = best_price(m, BID), best_lots(m, BID)
            t.bid_orders = level_at(m, BID, t.bid_ticks)[1]
        if best_lots(m, ASK) > 0:
            t.ask_ticks, t.ask_lots = best_price(m, ASK), best_lots(m, ASK)
            t.ask_orders = level_at(m, ASK, t.ask_ticks)[1]
        n += 1
    return n
