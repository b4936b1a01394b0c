"""The same market and configuration give the same bytes, however the run was cut up, stored, fed or compiled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import session
from engine.feeds import OpenFeed
from engine.journaling import Rows
from engine.run_folder import open_run

from tests.runs import BOTH_STRATEGIES, config_file, done, replayed, tickline_apart, whole_log

SYNTHETIC = "synthetic:60_000:7"
# The oldest machine code that llvm makes for this architecture, and a libm without its newer variants.
OTHER_CPU = {"NUMBA_CPU_NAME": "generic", "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-AVX512F,-FMA"}
Hashes = dict[str, str]


@pytest.fixture(scope="module")
def expected(captures_run: Path) -> Hashes:
    hashes: Hashes = open_run(captures_run).summary()["hashes"]
    return hashes


@pytest.fixture(scope="module")
def synthetic_hashes(both_strategies: Path, tmp_path_factory: pytest.TempPathFactory) -> Hashes:
    return replayed(tmp_path_factory.mktemp("synthetic") / "run", SYNTHETIC, config=both_strategies)["hashes"]


@pytest.fixture(scope="module")
def tape(captures: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both venues merged into one tape."""
    path = tmp_path_factory.mktemp("tape") / "both.tape"
    done("import", *captures, "--out", path)
    return path


def market_and_decisions(hashes: Hashes) -> Hashes:
    return {name: hashes[name] for name in ("market_hash", "decision_log_hash")}


def test_both_strategies_traded_both_venues(captures_run: Path) -> None:
    accounts = {(a["strategy"], a["instrument"]): a["fills"] for a in open_run(captures_run).summary()["accounts"]}
    venues = ("BTCUSDT.binance_usdm", "BTCUSDT.binance")
    assert set(accounts) == {(strategy, venue) for strategy in ("momentum", "fade") for venue in venues}
    assert min(accounts.values()) > 0


def test_a_second_run_has_the_same_hashes(
    expected: Hashes, captures: tuple[Path, Path], both_strategies: Path, tmp_path: Path
) -> None:
    assert replayed(tmp_path / "run", *captures, config=both_strategies)["hashes"] == expected


def test_a_timed_input_decides_as_one_that_is_not(
    expected: Hashes, captures: tuple[Path, Path], tmp_path: Path
) -> None:
    config = config_file(tmp_path, BOTH_STRATEGIES + "\n[line]\nlatency_sample = 1\n")
    hashes = replayed(tmp_path / "run", *captures, config=config)["hashes"]
    assert market_and_decisions(hashes) == market_and_decisions(expected)


@pytest.mark.parametrize("rows", [1000, 65536, 1_000_000])
def test_windows_of_another_size_change_nothing(
    rows: int, expected: Hashes, captures: tuple[Path, Path], tmp_path: Path
) -> None:
    config = config_file(tmp_path, BOTH_STRATEGIES + f"\n[runtime]\nchunk_rows = {rows}\n")
    assert replayed(tmp_path / "run", *captures, config=config)["hashes"] == expected


@pytest.mark.parametrize("placement", ["split", "staged"])
def test_recorded_markets_are_decided_alike_on_every_placement(
    placement: str, expected: Hashes, captures: tuple[Path, Path], tmp_path: Path
) -> None:
    config = config_file(tmp_path, BOTH_STRATEGIES + f'\n[runtime]\nplacement = "{placement}"\n')
    assert replayed(tmp_path / "run", *captures, config=config)["hashes"] == expected


def test_random_windows_and_slices_change_nothing(
    seed: int, expected: Hashes, captures: tuple[Path, Path], both_strategies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that is over when it begins comes back at the next look, after 256 inputs."""
    chance = random.Random(seed)
    whole, run_fused = OpenFeed.windows, session.run_fused
    slices = 0

    def cut(feed: OpenFeed, rows_max: int) -> Iterator[Rows]:
        for rows in whole(feed, rows_max):
            at = 0
            while at < len(rows):
                size = chance.choice((1, 2, 7, 300, 5000, 60_000))
                yield rows[at : at + size]
                at += size

    def short(line: Any, deadline: int) -> int:
        nonlocal slices
        slices += 1
        return int(run_fused(line, 0 if chance.random() < 0.9 else deadline))

    monkeypatch.setattr(OpenFeed, "windows", cut)
    monkeypatch.setattr(session, "run_fused", short)
    assert replayed(tmp_path / "run", *captures, config=both_strategies)["hashes"] == expected
    assert slices > 500


@pytest.mark.parametrize("options", [(), ("--embed",)], ids=["by reference", "embedded"])
def test_a_tape_of_the_captures_replays_as_they_do(
    options: tuple[str, ...], expected: Hashes, tape: Path, both_strategies: Path, tmp_path: Path, captures_run: Path
) -> None:
    hashes = replayed(tmp_path / "run", tape, config=both_strategies, options=options)["hashes"]
    assert market_and_decisions(hashes) == market_and_decisions(expected)
    run = open_run(tmp_path / "run")
    assert run.facts.by_reference == (not options)
    assert whole_log(run, "orders").tobytes() == whole_log(open_run(captures_run), "orders").tobytes()


def test_a_run_replays_as_the_captures_it_was_made_from(
    expected: Hashes, captures_run: Path, both_strategies: Path, tmp_path: Path
) -> None:
    hashes = replayed(tmp_path / "again", captures_run, config=both_strategies)["hashes"]
    assert market_and_decisions(hashes) == market_and_decisions(expected)


def test_market_hash_does_not_depend_on_the_order_of_the_feeds(
    expected: Hashes, captures: tuple[Path, Path], tmp_path: Path
) -> None:
    assert replayed(tmp_path / "run", *reversed(captures))["hashes"]["market_hash"] == expected["market_hash"]


def test_another_market_has_other_hashes(synthetic_hashes: Hashes, both_strategies: Path, tmp_path: Path) -> None:
    hashes = replayed(tmp_path / "run", "synthetic:60_000:8", config=both_strategies)["hashes"]
    assert all(hashes[name] != value for name, value in synthetic_hashes.items())


def test_a_flatter_processor_makes_the_same_decisions(
    synthetic_hashes: Hashes, both_strategies: Path, tmp_path: Path
) -> None:
    """Compiles everything once more, into a cache folder of its own."""
    said = tickline_apart("replay", SYNTHETIC, "--config", both_strategies, "--out", tmp_path / "run", "--json", **OTHER_CPU)
    assert said.code == 0, said.err
    assert said.json["hashes"] == synthetic_hashes
    toolchain = msgspec.json.decode((tmp_path / "run" / "environment.json").read_bytes())["toolchain"]
    assert toolchain["NUMBA_CPU_NAME"] == "generic"


def test_a_flatter_processor_decides_the_same_on_recorded_markets(
    expected: Hashes, captures: tuple[Path, Path], both_strategies: Path, tmp_path: Path
) -> None:
    said = tickline_apart("replay", *captures, "--config", both_strategies, "--out", tmp_path / "run", "--json", **OTHER_CPU)
    assert said.code == 0, said.err
    assert said.json["hashes"] == expected

