"""`tickline export`: which rows a table is made of, from a run's logs or from feeds."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.config import Config
from engine.errors import EngineError
from engine.export import table_writer, write_table
from engine.feed_loops import fold_tops
from engine.feeds import OpenFeed, open_feeds
from engine.importing import merged
from engine.journaling import INPUT_LOG, Batch, Rows
from engine.line import build_line, event_features_of, indicators_of, sequence_first_words
from engine.loops import DECIDING
from engine.run_folder import Run, open_run
from engine.session import Session
from engine.tables import KINDS_OF, TOP, columns_of
from handlers.domain.book import new_markets
from handlers.domain.schema import FACTOR_SCORES, Value
from transport.instruments import Instrument
from transport.records import ACK, REJECT, SLOT_BYTES, copied, empty

CHUNK_ROWS = 1 << 16
FROM_LOG = {"signals": "signals", "positions": "orders", "pnl": "orders"}
ORDERS_FROM = {  # an order's life: what the exchange reported, what never became an order, what was sent; of one seq in this order
    INPUT_LOG: (ACK, REJECT), "signals": (REJECT,), "risk": (REJECT,), "orders": KINDS_OF["orders"],
}  # fmt: skip
RE_EXECUTED = ("bars", "features", "indicators", "event_features", "factors")
FROM_FEEDS = ("trades", "quotes", "tops", *RE_EXECUTED)


def tops(chunks: Iterator[Rows], instruments: Sequence[Instrument]) -> Iterator[np.ndarray[Any, Any]]:
    """Top of the book after every applied book event, dtype TOP, chunk by chunk."""
    markets, books = new_markets([i.book == "l3" for i in instruments])
    out = np.zeros(CHUNK_ROWS, TOP)
    for rows in chunks:
        for start in range(0, len(rows), CHUNK_ROWS):
            part = np.ascontiguousarray(rows[start : start + CHUNK_ROWS])
            n = int(fold_tops(markets, books, part, out))
            yield out[:n].copy()


def export(sources: Sequence[str], table: str, config: Config, out: Path | None, form: str) -> int:
    """Write `table` of one run, or of feeds merged as a replay would, to `out` (None: standard output); returns its rows."""
    columns_of(table)  # a table that is none is told before anything is opened
    if len(sources) == 1 and (Path(sources[0]) / "run.json").is_file():
        run = open_run(Path(sources[0]))
        rows = _rows_of_run(run, table)
        config = run.config()
        columns = columns_of(table, run.instruments, config.features.depth, _values(table, config))
        return write_table(rows, table, run.instruments, out, form, config.account.money_decimals, columns)
    feeds, instruments = open_feeds(sources, config.instrument, config.feeds.crossed_quotes)
    if table not in FROM_FEEDS:
        raise EngineError(f"{table} are made by a run: replay the feed first, then export the run's folder")
    if table in RE_EXECUTED:
        columns = columns_of(table, instruments, config.features.depth, _values(table, config))
        with table_writer(table, instruments, out, form, columns=columns) as write:
            return _made_of_feeds(feeds, instruments, config, write)
    chunks, _ = merged(feeds, instruments, CHUNK_ROWS)
    rows = tops(chunks, instruments) if table == "tops" else chunks
    return write_table(rows, table, instruments, out, form)


def _values(table: str, config: Config) -> Sequence[Value]:
    """The values of the configured indicators, features of events or factors."""
    if table == "factors":
        return FACTOR_SCORES if config.factors.enabled else ()
    made = event_features_of(config) if table == "event_features" else indicators_of(config)
    return made.columns if made else ()


def _made_of_feeds(
    feeds: Sequence[OpenFeed], instruments: Sequence[Instrument], config: Config, write: Callable[[Rows], int]
) -> int:
    """Give `write` the bars and feature rows of feeds: those of a replay without strategies, of which nothing is journaled."""
    account = msgspec.structs.replace(config.account, positions=())  # a strategy's
    line = msgspec.structs.replace(config.line, log_features=True)
    alone = msgspec.structs.replace(config, account=account, line=line, strategy=())
    built = build_line(alone, instruments, len(feeds), 1, Path())
    written = 0

    def take(batch: Batch) -> None:
        nonlocal written
        written += write(batch.decisions[DECIDING.index("features")])

    windows = [f.windows(config.runtime.chunk_rows) for f in feeds]
    session = Session(built, windows, take, timer_origin_ns=config.line.timer_origin_ns)
    session.open(lambda ns: sequence_first_words(built, alone, ns, 0, 0))
    session.run()
    return written


def _rows_of_run(run: Run, table: str) -> Iterator[Rows]:
    if table in FROM_LOG:
        return (rows for _, rows in run.log(FROM_LOG[table]).blocks())
    if table == "orders":
        return _by_seq([_slots(run, name, kinds) for name, kinds in ORDERS_FROM.items()])
    if table in RE_EXECUTED:
        from engine.verify import feature_rows

        return feature_rows(run)
    blocks = (rows for _, rows in run.input_log().blocks())
    return tops(blocks, run.instruments) if table == "tops" else blocks


def _slots(run: Run, name: str, kinds: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """(seq, slot) of every row of some kinds in a log."""
    log = run.input_log() if name == INPUT_LOG else run.log(name)
    for _, rows in log.blocks():
        chosen = copied(rows, np.isin(rows["kind"], kinds))
        data = chosen.tobytes()
        for n, seq in enumerate(chosen["seq"].tolist()):
            yield seq, data[n * SLOT_BYTES : (n + 1) * SLOT_BYTES]


def _by_seq(logs: Sequence[Iterator[tuple[int, bytes]]]) -> Iterator[Rows]:
    """The slots of several logs as rows in order of `seq`, of one seq in the order of `logs`."""
    merged_slots = heapq.merge(*logs, key=itemgetter(0))
    while slots := list(islice(merged_slots, CHUNK_ROWS)):
        rows: Rows = empty(len(slots))
        rows.view(np.uint8)[:] = np.frombuffer(b"".join(slot for _, slot in slots), np.uint8)
        yield rows
