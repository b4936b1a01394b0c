"""The comparison: a wrong answer has no time, ratios are paired, and every environment is made from its pinned list."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from perf import pipeline_peers
from perf.harness import Sample
from perf.peers import venvs

GOOD = {"name": "x", "events": 1_000, "seconds": 0.5, "cpu_seconds": 0.4, "orders": 7, "fills": 7}


def sample(seconds, **more):
    return Sample(9.0, 0.0, {**GOOD, "seconds": seconds, **more})


def test_contender_with_the_oracles_answer_is_measured():
    code = f"print({json.dumps(json.dumps(GOOD))})"
    contender = pipeline_peers.Contender("x", (sys.executable, "-c", code), {"orders": 7, "events": 1_000})
    assert contender.measure() == GOOD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"orders": 8}, "x: orders is 8, the oracle has 7"),
        ({"seconds": 0.0}, "1000 events in 0.0 s"),
        ({"events": 0}, "0 events"),
    ],
)
def test_refuses_another_answer_than_the_oracles(change, words):
    with pytest.raises(pipeline_peers.WrongAnswer, match=words):
        pipeline_peers.check("x", {**GOOD, **change}, {"orders": 7})


def test_refuses_a_result_that_lacks_a_field():
    with pytest.raises(pipeline_peers.WrongAnswer, match="lacks cpu_seconds"):
        pipeline_peers.check("x", {k: v for k, v in GOOD.items() if k != "cpu_seconds"}, {})


def test_ratio_is_taken_round_by_round_by_the_contenders_own_clock():
    ours = [sample(0.1), sample(0.2), sample(0.1)]  # a slow second round ...
    peer = [sample(1.0), sample(2.0), sample(1.0)]  # ... slow for both
    text = pipeline_peers.report({pipeline_peers.OURS: ours, "peer": peer})
    assert text.splitlines()[-1].endswith("10.00 [10.00 .. 10.00]")
    assert "10.00" not in text.splitlines()[2]


def test_targets_are_of_the_peers_that_ran_and_by_the_median_of_the_pairs():
    ours, peer = [sample(0.1), sample(0.2), sample(0.1)], [sample(0.3), sample(0.4), sample(0.1)]
    (target,) = pipeline_peers.targets({"tickline": ours, "hftbacktest_roivector": peer, "hftbacktest_hashmap": peer})
    assert target.value == pytest.approx(2.0)
    assert target.met == (target.value >= 2.0)
    assert pipeline_peers.targets({"hftbacktest_roivector": peer}) == []


def test_every_contender_is_held_to_orders_fills_lots_and_touch(monkeypatch):
    answer = pipeline_peers.oracle.Answer(7, 7, 900, 9, 70, 10, 11, 0)
    monkeypatch.setattr(pipeline_peers, "_by_event", lambda rows: answer)
    monkeypatch.setattr(pipeline_peers, "_by_delta", lambda rows: answer)
    monkeypatch.setattr(venvs, "ensure", lambda peer: peer)
    entered = {c.name: c.must for c in pipeline_peers.contenders(1_000, 1_000, [])}
    assert len(entered) == 5
    for name, must in entered.items():
        assert {"orders", "fills", "traded_lots", "bid_ticks", "ask_ticks"} <= set(must), name
    assert entered["tickline"]["fills"] == entered["nautilus_cross"]["fills"] == 9
    assert entered["hftbacktest_roivector"]["fills"] == 7, "it fills orders whole"
    assert entered["nautilus_noop"]["fills"] == 0


def test_without_ours_there_is_a_table_and_no_ratio():
    text = pipeline_peers.report({"peer": [sample(0.5, version="2.4.4", peak_rss_mb=320)]})
    assert " ".join(text.split("\n")[-1].split()) == "peer 2.4.4 1,000 2.00 k [2.00 k .. 2.00 k] 400,000.0 7 7 320"


def test_says_when_our_line_cannot_be_run(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pipeline_peers, "_hftbacktest", lambda rows, book: f"hft {rows} {book}")
    entered = pipeline_peers.contenders(500, 400, ["hftbacktest_hashmap"])
    assert entered == ["hft 500 hashmap"]
    assert "perf.run_line does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="nothing of ours"):
        pipeline_peers.contenders(500, 400, ["tickline"])


def test_refuses_a_contender_nobody_knows():
    with pytest.raises(SystemExit, match="no contender is called zipline"):
        pipeline_peers.contenders(500, 400, ["zipline"])


@pytest.mark.parametrize("peer", venvs.PEERS)
def test_every_requirement_of_a_peer_is_pinned_to_one_version(peer):
    lines = [line for line in venvs.requirements(peer).read_text().splitlines() if not line.startswith("#")]
    assert any(line.startswith(peer) for line in lines)
    assert all(line.count("==") == 1 and "://" not in line and not line.startswith("-") for line in lines)


def test_environment_with_the_right_stamp_is_used_and_an_unfinished_one_made_anew(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        venvs, "_call", lambda command: calls.append(command) or (tmp_path / "nautilus").mkdir(exist_ok=True)
    )
    python = venvs.ensure("nautilus", tmp_path)
    assert python == tmp_path / "nautilus" / "bin" / "python"
    assert [command[2] for command in calls] == ["venv", "pip"]
    assert venvs.ensure("nautilus", tmp_path) == python
    assert len(calls) == 2, "stamped: nothing is installed again"
    (tmp_path / "nautilus" / "tickline.stamp").write_text("another list")
    (tmp_path / "nautilus" / "left over").touch()
    venvs.ensure("nautilus", tmp_path)
    assert len(calls) == 4
    assert not (tmp_path / "nautilus" / "left over").exists()


def test_refuses_a_peer_nobody_knows():
    with pytest.raises(KeyError, match="zipline"):
        venvs.requirements("zipline")
