"""The benchmarks' own judgement: a wrong result has no time, a limit that is passed fails, a target is told from a miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handlers.features.catalogue import INDICATORS
from handlers.features.feature_set import FeatureSet
from perf import (
    bench_factors, bench_features, bench_quality, bench_ring_one_to_one, bench_ring_ping_pong, bench_start, bench_synthetic, harness, run_line,
)  # fmt: skip
from perf.bench_start import Start
from perf.peers import oracle
from perf.run_line import MODES
from perf.start_probe import note_first_slice

DUE = oracle.Answer(orders=7, orders_but_last=7, events=900, fills=8, traded_lots=70, bid_ticks=10, ask_ticks=11, under_way=0)
RESULT = {
    "market_records": 1_000, "orders": 7, "fills": 8, "traded_lots": 70, "bid_ticks": 10, "ask_ticks": 11, "rejects": {}, "refused": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "words"),
    [
        (2.21, 2.0, True, "PASS   it: 2.21 x (target: at least 2 x)"),
        (2.0, 2.0, True, "PASS   it: 2 x (target: at least 2 x)"),
        (1.9, 2.0, True, "BELOW  it: 1.9 x (target: at least 2 x)"),
        (1.3, 1.25, False, "ABOVE  it: 1.3 x (target: at most 1.25 x)"),
        (1.25, 1.25, False, "PASS   it: 1.25 x (target: at most 1.25 x)"),
    ],
)
def test_target_says_plainly_whether_it_is_met(value: float, limit: float, at_least: bool, words: str) -> None:
    assert harness.Target("it", value, limit, " x", at_least).text() == words


def test_a_missed_target_fails_only_when_it_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    met, missed = harness.Target("a", 2.0, 1.0, " x"), harness.Target("b", 0.5, 1.0, " x")
    assert harness.judged([met, missed], strict=False) == 0
    assert harness.judged([met, missed], strict=True) == 1
    assert harness.judged([met], strict=True) == 0
    assert capsys.readouterr().out.count("BELOW") == 2


def test_a_strict_judge_does_not_pass_what_was_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert (harness.judged([], strict=False), harness.judged([], strict=True)) == (0, 1)
    assert "did not run" in capsys.readouterr().out


def test_line_that_did_what_is_due_is_taken() -> None:
    run_line.check(dict(RESULT), 1_000, DUE)


@pytest.mark.parametrize(
    "change",
    [{"market_records": 999}, {"orders": 8}, {"fills": 7}, {"traded_lots": 69}, {"bid_ticks": 9}, {"ask_ticks": 12},
     {"rejects": {"STALE": 1}}, {"refused": 1}],
)  # fmt: skip
def test_line_that_did_something_else_has_no_figure(change: dict[str, Any]) -> None:
    with pytest.raises(run_line.WrongAnswer, match=f"^{next(iter(change))} is "):
        run_line.check({**RESULT, **change}, 1_000, DUE)


def runs(reference: list[float], embed: list[float]) -> dict[str, list[dict[str, Any]]]:
    """Results of the three modes with these CPU seconds of the line's thread."""
    times = dict(zip(MODES, (reference, embed, reference), strict=True))
    same = {"events": 1_000, "seconds": 1.0, "seconds_with_journal": 2.0, "input_log_hash": "i", "decision_log_hash": "d"}
    return {name: [{**same, "cpu_seconds": cpu} for cpu in taken] for name, taken in times.items()}


@pytest.mark.parametrize(("embed", "flags", "status"), [
    ([1.2, 2.4, 1.2], [], 0),
    ([1.3, 2.6, 1.3], [], 1),
    ([1.3, 2.6, 1.3], ["--no-limit"], 0),
    ([1.3, 2.6, 1.3], ["--small"], 0),
    ([1.0, 2.0, 9.0], [], 0),  # one bad round is the machine's
])  # fmt: skip
def test_storing_may_cost_the_lines_thread_a_quarter_by_the_pairs_of_a_round(
    monkeypatch: pytest.MonkeyPatch, embed: list[float], flags: list[str], status: int
) -> None:
    monkeypatch.setattr(run_line, "measure", lambda rows, rounds: runs([1.0, 2.0, 1.0], embed))
    monkeypatch.setattr(harness, "write_result", lambda name, result: None)
    assert run_line.main(flags) == status


@pytest.mark.parametrize("name", ["input_log_hash", "decision_log_hash"])
def test_modes_that_disagree_have_no_figure(name: str) -> None:
    results = runs([1.0], [1.0])
    run_line.agree(results)
    results["one core"][0][name] = "other"
    with pytest.raises(run_line.WrongAnswer, match=f"2 different values of {name}"):
        run_line.agree(results)


def test_a_mode_without_rows_is_refused() -> None:
    with pytest.raises(SystemExit):
        run_line.main(["--embed"])


def started(first_s: float = 1.0, whole_s: float = 1.3, hashes: str = "h", trades: int = 600) -> Start:
    """A start as measured, its feed of quotes and trades."""
    return Start(first_s, whole_s, 1.2, {"events": {"Trade": trades, "Quote": 400, "Timer": 3}, "hashes": {"input_log_hash": hashes}})


def test_starts_of_one_feed_with_one_hash_are_taken() -> None:
    bench_start.check([started(), started(first_s=1.1)])


@pytest.mark.parametrize(("other", "words"), [
    (started(hashes="g"), "different hashes"), (started(trades=0), "took in"), (started(trades=601), "took in"),
    (started(first_s=1.4), "first record came after"), (started(first_s=-0.1), "first record came after"),
])  # fmt: skip
def test_start_that_did_something_else_has_no_figure(other: Start, words: str) -> None:
    with pytest.raises(bench_start.WrongAnswer, match=words):
        bench_start.check([started(), other])


def test_start_is_held_to_its_median_and_cold_is_only_told() -> None:
    text, targets = bench_start.report([started(1.0), started(1.4), started(9.0)], [0.1, 0.4, 0.4], started(60.0, 61.0))
    assert [target.met for target in targets] == [True, False]
    assert "1.40 [1.00 .. 9.00]" in text
    assert "60.0" in text
    assert "cold" not in bench_start.report([started()], [0.1], None)[0]


def test_help_of_the_command_is_measured_in_cpu_time() -> None:
    assert 0 < bench_start.help_cpu_s() < 30


def test_probe_notes_the_first_slice_that_sequenced_something() -> None:
    class Head:
        def __init__(self) -> None:
            self.line = self.sequencer = self
            self.head = [{"next_seq": 0}]

    class Session:
        def __init__(self) -> None:
            self.built = Head()

        def _slice(self, deadline: int) -> int:
            self.built.head[0]["next_seq"] += deadline
            return deadline

    noted = note_first_slice(Session)  # type: ignore[arg-type]
    session = Session()
    assert session._slice(0) == 0
    assert not noted
    assert session._slice(5) == 5
    first = dict(noted)
    assert session._slice(5) == 5
    assert noted == first
    assert noted["first_ns"] > 0


def test_generator_whose_records_are_others_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench_synthetic.rate(bench_synthetic.ROWS_SMALL) > 0
    monkeypatch.setitem(bench_synthetic.SHA256, bench_synthetic.ROWS_SMALL, "0" * 64)
    with pytest.raises(bench_synthetic.WrongAnswer, match="with hash 591018e5"):
        bench_synthetic.rate(bench_synthetic.ROWS_SMALL)


def test_factors_that_are_not_numpys_have_no_figure() -> None:
    closes, values, members = bench_factors.draw(60)
    assert bench_factors.rate((closes, values, members), bench_factors.Z_SCORE) > 0
    state = bench_factors.new_factors(60)
    with pytest.raises(bench_factors.WrongAnswer, match="low_volatility is not numpy's"):
        bench_factors.check(state, (closes, values, members))


def test_checks_that_find_another_number_of_faults_have_no_figure() -> None:
    clean, faulty, planted = bench_quality.windows_of(20_000)
    assert planted > 0
    assert bench_quality.cost(faulty, planted) > 0
    with pytest.raises(bench_quality.WrongAnswer, match=r"are \(0, 0, 20000\), not \(1, "):
        bench_quality.cost(clean, 1)


def test_rings_are_held_to_pyzmq_with_one_record_a_message() -> None:
    one, many = "pyzmq ipc, 1 a message", "pyzmq ipc, 16 a message"
    rates = {"ring, by 1": [5.0, 5.0], "ring, by 16": [40.0, 60.0], one: [1.0, 2.0], many: [10.0, 20.0]}
    (target,) = bench_ring_one_to_one.targets(rates)
    assert (target.value, target.met) == (35.0, True)
    assert "4.0" in bench_ring_one_to_one.report(rates).splitlines()[3], "like for like stands beside it"
    (target,) = bench_ring_ping_pong.targets({"ring": [[1.0], [2.0]], one: [[70.0], [140.0]], many: [[90.0], [180.0]]})
    assert (target.value, target.met) == (70.0, False)


def test_without_pyzmq_there_is_no_target() -> None:
    assert bench_ring_one_to_one.targets({"ring, by 16": [1.0]}) == []
    assert bench_ring_ping_pong.targets({"ring": [[1.0]]}) == []


def test_indicators_that_differ_from_their_batch_have_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    made, bars = FeatureSet([("ema", {})], INDICATORS), bench_features.some_bars(50)
    assert bench_features.ns_an_input(made, bars) > 0
    monkeypatch.setattr(FeatureSet, "batch", lambda self, bars: np.zeros((len(bars), 1)))
    with pytest.raises(bench_features.WrongAnswer, match="the last row is not the batch's"):
        bench_features.ns_an_input(made, bars)
    with pytest.raises(bench_features.WrongAnswer, match="the mean of the last 14 closes is 0"):
        bench_features.check_mean(bars)
    with pytest.raises(bench_features.WrongAnswer, match="the order flow of the last ten events is 0"):
        bench_features.check_flow(bench_features.some_events(50))
