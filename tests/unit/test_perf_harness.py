"""The harness: what it pairs, what it prints, and what it refuses to call a result."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from perf import harness


def test_contenders_alternate_and_odd_rounds_go_backwards():
    order = []
    runs = harness.run_alternating({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(samples) for name, samples in runs.items()} == {"a": 3, "b": 3}


def test_warm_ups_run_and_do_not_count():
    calls = []
    samples = harness.repeated(lambda: calls.append(1) or len(calls), rounds=2, warmups=3)
    assert [sample.result for sample in samples] == [4, 5]
    runs = harness.run_alternating({"a": lambda: calls.append(1) or len(calls)}, rounds=1, warmups=2)
    assert [sample.result for sample in runs["a"]] == [8]


def test_busy_call_uses_cpu_time_and_sleeping_call_does_not():
    busy = harness.timed(lambda: sum(range(2_000_000)))
    idle = harness.timed(lambda: time.sleep(0.05))
    assert busy.result == 1_999_999_000_000
    assert busy.cpu_seconds > 0
    assert idle.seconds >= 0.05 > 2 * idle.cpu_seconds


def test_spread_is_median_and_range():
    spread = harness.Spread.of([3.0, 1.0, 10.0])
    assert spread == harness.Spread(3.0, 1.0, 10.0)
    assert spread.text("{:.1f}".format) == "3.0 [1.0 .. 10.0]"
    with pytest.raises(ValueError, match="nothing was measured"):
        harness.Spread.of([])


def test_pinned_process_and_its_children_stay_on_the_core_and_are_let_go():
    before = os.sched_getaffinity(0)
    core = min(before)
    ask = "import json, os; print(json.dumps({'cores': sorted(os.sched_getaffinity(0))}))"
    with harness.pinned(core):
        assert harness.run_child([sys.executable, "-c", ask]) == {"cores": [core]}
    assert os.sched_getaffinity(0) == before


def test_child_result_is_its_last_json_object():
    code = "print('progress'); print('{\"n\": 1}'); print('{\"n\": 2}'); print('[3]'); print('done')"
    assert harness.run_child([sys.executable, "-c", code]) == {"n": 2}


def test_child_that_fails_is_reported_with_its_own_words():
    with pytest.raises(harness.RunFailed, match=r"(?s)exit status 3.*no such book"):
        harness.run_child([sys.executable, "-c", "import sys; print('no such book', file=sys.stderr); sys.exit(3)"])


def test_child_without_result_or_end_is_a_failure():
    with pytest.raises(harness.RunFailed, match="no JSON line"):
        harness.run_child([sys.executable, "-c", "print('nothing')"])
    with pytest.raises(harness.RunFailed, match="still running"):
        harness.run_child([sys.executable, "-c", "import time; time.sleep(30)"], timeout_s=0.3)


def test_results_are_appended_with_machine_and_command_where_git_does_not_look(tmp_path):
    folder = tmp_path / "results"
    harness.write_result("bench", {"seconds": 1.5}, folder)
    path = harness.write_result("bench", {"seconds": 2.5}, folder)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seconds"] for line in lines] == [1.5, 2.5]
    assert lines[0]["machine"]["cores"] == os.cpu_count()
    assert lines[0]["command"]
    assert (folder / ".gitignore").read_text() == "*\n"


def test_table_aligns_names_left_and_figures_right():
    text = harness.table(["name", "n"], [["a", "1,000"], ["longer", "7"]])
    assert text.splitlines() == ["name        n", "------  -----", "a       1,000", "longer      7"]
    with pytest.raises(ValueError):
        harness.table(["name", "n"], [["a"]])


@pytest.mark.parametrize(
    ("rate", "text"),
    [(8_312_345, "8.31 M"), (83_123_456, "83.1 M"), (212_400, "212 k"), (2e9, "2.00 G"), (95, "95"), (0.4, "0")],
)
def test_rate_has_three_figures_and_a_unit(rate, text):
    assert harness.rate_text(rate) == text


def test_machine_names_what_a_figure_depends_on():
    facts = harness.machine()
    assert facts["cores"] >= 1
    assert facts["numba"]
    assert facts["cpu"] in harness.machine_text(facts)
    assert harness.peak_rss_mb() > 10
