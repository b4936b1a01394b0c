"""What a step may declare and what it is refused for; and each kind it may read, as records of a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.run_folder import open_run
from handlers.contract import READABLE, Handler, handler
from handlers.ingest.synthetic.feed import START_NS, synthetic_instruments
from tests.forked import workers_are_forked as workers_are_forked
from tests.runs import config_file, done, log_rows, replayed, table, tickline
from transport.records import (
    BOOK_DELTA, FEATURE, FILL, FORECAST, ORDER, QUOTE, SIGNAL, TIMER, TRADE,
)  # fmt: skip


def declared(**options: Any) -> Handler:
    """A step that does nothing, so declared."""
    return handler(**{"reads": FEATURE, **options})(lambda s, p, record, out: 0)


# --- what is refused -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reads": ORDER}, r"may read Trade, Quote, Feature, Bar, Fill, Timer, INDICATOR_ROW, EVENT_ROW, FACTOR_ROW, not Order$"),
        ({"reads": (TRADE, BOOK_DELTA)}, r"not BookDelta$"),
        ({"reads": 77}, r"not 77$"),
        ({"reads": FORECAST}, r"not Forecast: there is no source of forecasts yet$"),
        ({"reads": (FEATURE, SIGNAL)}, r"not Signal: a strategy's view is for the record$"),
        ({"rows_max": 0}, r"rows_max is 1\.\.32 and depth 0\.\.32"),
        ({"rows_max": 33}, r"rows_max is 1\.\.32"),
        ({"depth": -1}, r"depth 0\.\.32"),
        ({"depth": 33}, r"depth 0\.\.32"),
        ({"values": -1}, r"values is 0\.\.256"),
        ({"values": 257}, r"values is 0\.\.256"),
        ({"state": [("seen", "i8"), ("cost", "i8")]}, "state field 'cost' hides a field of the view"),
        ({"state": [("bids_lots", "i8")], "depth": 1}, "state field 'bids_lots' hides a field of the view"),
        ({"state": [("values", "f8")], "values": 1}, "state field 'values' hides a field of the view"),
    ],
)
def test_refuses_a_declaration_that_cannot_hold(options: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        declared(**options)


def test_the_bounds_themselves_hold_and_what_is_not_shown_may_be_a_name_of_ones_own() -> None:
    widest = declared(reads=READABLE, rows_max=32, depth=32, values=256)
    assert widest.reads == READABLE
    assert widest.state["bids_ticks"].shape == (32,)
    assert widest.state["values"].shape == (256,)
    assert "bids_lots" in (declared(state=[("bids_lots", "i8")]).state.names or ())


def test_a_parameter_without_a_value_is_asked_for_by_name() -> None:
    step = declared(params=[("lots", "i8"), ("edge", "f8")], defaults={"edge": 0.5})
    with pytest.raises(ValueError, match="needs a value for 'lots'"):
        step.pack_params({})
    assert step.pack_params({"lots": 3})[0].tolist() == (3, 0.5)
    with pytest.raises(ValueError, match=r"has no parameter 'size'; it has lots, edge"):
        step.pack_params({"size": 3})
    with pytest.raises(ValueError, match=r"has no parameter 'size'; it has none"):
        declared().pack_params({"size": 3})


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        ("reads=FORECAST", "TypeError: a step may read Trade, Quote, Feature, Bar, Fill, Timer, INDICATOR_ROW, EVENT_ROW, FACTOR_ROW, not Forecast: there is no source of forecasts yet"),
        ('reads=FEATURE, params=[("lots", "i8")]', "strategy mine: go needs a value for 'lots'"),
    ],
)
def test_a_run_with_such_a_strategy_is_refused_in_words_before_it_begins(declaration: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"from handlers.contract import handler\nfrom transport.records import FEATURE, FORECAST\n\n\n@handler({declaration})\n"
        "def go(s, p, row, out):\n    return 0\n"
    )
    config = config_file(tmp_path, '[[strategy]]\nname = "mine"\npath = "mine.py:go"\n')
    said = tickline("replay", "synthetic:1000", "--config", config, "--out", tmp_path / "run")
    assert said.code == 2
    assert words in said.err
    assert not (tmp_path / "run").exists()


# --- each kind that may be read --------------------------------------------------------------------------------------------
FEED = "synthetic:20000:4:2"
# Each says in a SIGNAL what it read; the records it is called with are those of the exported tables and of the log.
READERS = """
from handlers.contract import handler
from transport.records import BAR, FEATURE, FILL, QUOTE, SIGNAL, TARGET, TIMER


@handler(reads=BAR, state=[("seen", "i8")]{more})
def bars(s, p, bar, out):
    s.seen += 1
    out.kind, out.value, out.strength = SIGNAL, bar.close_ticks, s.seen
    return 1


@handler(reads=TIMER, state=[("seen", "i8")]{more})
def timers(s, p, timer, out):
    s.seen += 1
    out.kind, out.value, out.strength = SIGNAL, timer.due_ns - 1735689600000000000, s.seen
    return 1


@handler(reads=QUOTE{more})
def quotes(s, p, quote, out):
    out.kind, out.value, out.strength = SIGNAL, quote.price_ticks + quote.ask_ticks, quote.qty_lots - quote.ask_lots
    return 1


@handler(reads=(FEATURE, FILL), state=[("seen", "i8")]{more})
def fills(s, p, row, out):
    if row.kind == FILL:
        out.kind, out.value, out.strength = SIGNAL, row.price_ticks, row.qty_lots
        return 1
    s.seen += 1
    out.action, out.qty_lots = TARGET, 5 if s.seen % 400 < 200 else -5
    return s.seen % 200 == 0
"""
NAMES = ("bars", "all_bars", "timers", "all_timers", "quotes", "fills", "more_fills")
CONFIG = "[bars]\ninterval_s = 1\n\n[line]\ntimer_interval_ms = 300\n" + "".join(
    f'\n[[strategy]]\nname = "{name}"\npath = "readers.py:{name.split("_")[-1]}"\nscope = "{"strategy" if "all" in name else "instrument"}"\n'
    for name in NAMES
)
NUMBER = {name: n for n, name in enumerate(NAMES, start=1)}
PLACES = {i.name: n for n, i in enumerate(synthetic_instruments(2))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the readers, their configuration, and a run on one thread in `run`."""
    made = tmp_path_factory.mktemp("readers")
    (made / "readers.py").write_text(READERS.format(more=""))
    replayed(made / "run", FEED, config=config_file(made, CONFIG))
    return made


def said_by(folder: Path, name: str) -> list[tuple[int, float, float]]:
    """(instrument, value, strength) of every signal of a strategy."""
    rows = log_rows(folder / "run", "signals")
    mine = rows[(rows["strategy_id"] == NUMBER[name]) & (rows["kind"] == SIGNAL)]
    return [(int(r["instrument_id"]), float(r["value"]), float(r["strength"])) for r in mine]


def test_a_strategy_that_reads_bars_is_called_with_each_of_its_instrument(folder: Path) -> None:
    bars = table(folder / "run", "bars")
    ticks = {i.name: i.tick for i in synthetic_instruments(2)}
    closes = [(PLACES[b["instrument"]], float(b["close"]) / float(ticks[b["instrument"]])) for b in bars]
    said = said_by(folder, "bars")
    assert [i for i, *_ in said] == [i for i, _ in closes]
    assert np.allclose([value for _, value, _ in said], [close for _, close in closes])
    for instrument in (0, 1):
        assert [n for i, _, n in said if i == instrument] == list(range(1, [i for i, *_ in said].count(instrument) + 1))
    assert len(said) > 20


@pytest.mark.parametrize("kind", ["bars", "timers"])
def test_a_state_of_the_whole_strategy_goes_on_from_instrument_to_instrument(kind: str, folder: Path) -> None:
    alone, together = said_by(folder, kind), said_by(folder, f"all_{kind}")
    assert [(i, value) for i, value, _ in together] == [(i, value) for i, value, _ in alone]
    assert [seen for *_, seen in together] == list(range(1, len(together) + 1))
    assert {i for i, *_ in together} == {0, 1}


def test_a_strategy_that_reads_timers_is_called_for_each_instrument_at_each(folder: Path) -> None:
    rows = log_rows(folder / "run", "input")
    due = [int(r["due_ns"]) - START_NS for r in rows[rows["kind"] == TIMER]]
    assert said_by(folder, "timers") == [(i, when, n) for n, when in enumerate(due, start=1) for i in (0, 1)]
    assert len(due) > 10
    assert set(np.diff(due).tolist()) == {300_000_000}


def test_a_strategy_that_reads_quotes_sees_the_top_as_the_venue_published_it(folder: Path) -> None:
    rows = log_rows(folder / "run", "input")
    quotes = rows[rows["kind"] == QUOTE]
    names = ("instrument_id", "price_ticks", "ask_ticks", "qty_lots", "ask_lots")
    wanted = [(i, bid + ask, lots - more) for i, bid, ask, lots, more in zip(*(quotes[n].tolist() for n in names), strict=True)]
    assert said_by(folder, "quotes") == wanted
    assert len(wanted) > 1000


def test_a_strategy_is_shown_its_own_fills_and_nobody_elses(folder: Path) -> None:
    rows = log_rows(folder / "run", "input")
    for name in ("fills", "more_fills"):
        mine = rows[(rows["kind"] == FILL) & (rows["strategy_id"] == NUMBER[name])]
        assert said_by(folder, name) == [(int(r["instrument_id"]), r["price_ticks"], r["qty_lots"]) for r in mine]
        assert len(mine) > 10


def test_every_placement_and_plain_python_read_the_same(folder: Path, tmp_path: Path) -> None:
    wanted = open_run(folder / "run").summary()["hashes"]
    for placement in ("split", "staged"):
        made = replayed(tmp_path / placement, FEED, config=folder / "config.toml", options=("--placement", placement))
        assert made["hashes"] == wanted
    slow = config_file(tmp_path / "python", CONFIG)
    (slow.parent / "readers.py").write_text(READERS.format(more=", compiled=False"))
    made = replayed(tmp_path / "slow", FEED, config=slow)
    assert set(made["python_strategies"]) == set(NAMES)
    assert made["hashes"] == wanted
    assert "proved: " in done("verify", folder / "run").out


