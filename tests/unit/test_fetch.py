"""`tickline fetch binance` against an archive of our own: what comes is whole or not there, and a cut is gone on from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.cli import app
from engine.errors import ConfigError, FetchError
from engine.fetch import ATTEMPTS_MAX, Wanted, day_of, fetch
from tests.unit.archive_server import Archive, serving

DAY = date(2024, 8, 8)
SPOT_TRADES = Wanted("spot", "trades", "BTCUSDT", DAY, DAY)
PATH = "spot/daily/trades/BTCUSDT/BTCUSDT-trades-2024-08-08.zip"
TEXT = b"".join(b"%d,61800.30,0.006,370.8018,1723161256322,True,True\n" % i for i in range(4000))


@pytest.fixture
def archive() -> Iterator[Archive]:
    with serving() as archive:
        yield archive


def fetched(archive: Archive, out: Path, wanted: Wanted = SPOT_TRADES, waits: list[float] | None = None) -> dict[str, Any]:
    return fetch(wanted, out, lambda *_: None, archive.url, ([] if waits is None else waits).append)


def part_of(out: Path) -> Path:
    return out / f"{PATH}.part"


def test_a_day_comes_whole_under_the_archives_own_folders_and_only_once(archive: Archive, tmp_path: Path) -> None:
    body = archive.put(PATH, TEXT)
    facts = fetched(archive, tmp_path)
    assert (tmp_path / PATH).read_bytes() == body
    assert facts["fetched"] == ["BTCUSDT-trades-2024-08-08.zip"]
    assert not part_of(tmp_path).exists()
    asked = len(archive.asked)
    assert fetched(archive, tmp_path)["there"] == facts["fetched"]
    assert len(archive.asked) == asked


@pytest.mark.parametrize(("wanted", "path"), [
    (Wanted("um", "bookTicker", "BTCUSDT", DAY, DAY), "futures/um/daily/bookTicker/BTCUSDT/BTCUSDT-bookTicker-2024-08-08.zip"),
    (Wanted("cm", "aggTrades", "BTCUSD_PERP", DAY, DAY), "futures/cm/daily/aggTrades/BTCUSD_PERP/BTCUSD_PERP-aggTrades-2024-08-08.zip"),
    (Wanted("spot", "klines", "BTCUSDT", DAY, DAY, "5m"), "spot/daily/klines/BTCUSDT/5m/BTCUSDT-5m-2024-08-08.zip"),
])  # fmt: skip
def test_each_market_has_its_place_in_the_archive(archive: Archive, tmp_path: Path, wanted: Wanted, path: str) -> None:
    archive.put(path, TEXT)
    fetched(archive, tmp_path, wanted)
    assert (tmp_path / path).exists()


def test_a_cut_connection_is_gone_on_from_where_it_was_cut(archive: Archive, tmp_path: Path) -> None:
    body = archive.put(PATH, TEXT)
    archive.faults = ["cut", "cut"]
    fetched(archive, tmp_path)
    assert (tmp_path / PATH).read_bytes() == body
    spans = [span for path, span in archive.asked if path.endswith(".zip")]
    assert spans == [None, f"bytes={len(body) // 2}-", f"bytes={len(body) // 2 + (len(body) - len(body) // 2) // 2}-"]


def test_what_an_earlier_call_left_is_gone_on_from(archive: Archive, tmp_path: Path) -> None:
    body = archive.put(PATH, TEXT)
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(body[:1000])
    fetched(archive, tmp_path)
    assert (tmp_path / PATH).read_bytes() == body
    assert archive.asked[-1][1] == "bytes=1000-"


def test_a_part_that_is_all_there_only_needs_its_name(archive: Archive, tmp_path: Path) -> None:
    body = archive.put(PATH, TEXT)
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(body)
    fetched(archive, tmp_path)
    assert (tmp_path / PATH).read_bytes() == body


def test_a_server_without_ranges_sends_it_all_again(archive: Archive, tmp_path: Path) -> None:
    body = archive.put(PATH, TEXT)
    archive.ranges = False
    archive.faults = ["cut"]
    fetched(archive, tmp_path)
    assert (tmp_path / PATH).read_bytes() == body


def test_a_server_without_ranges_that_always_cuts_is_given_up(archive: Archive, tmp_path: Path) -> None:
    archive.put(PATH, TEXT)
    archive.ranges = False
    archive.faults = ["cut"] * 50
    with pytest.raises(FetchError, match=f"given up after {ATTEMPTS_MAX} attempts"):
        fetched(archive, tmp_path)
    assert not (tmp_path / PATH).exists()


@pytest.mark.parametrize(("fault", "least"), [("429:7", 7.0), ("418:3", 3.0), ("503", 0.5), ("429:Thu, 01 Jan 1970 00:00:00 GMT", 0.5), ("429:\N{SUPERSCRIPT TWO}", 0.5),
                                             ("429:Mon, 01 Jan 2024 00:00:00 +99999999999999999999", 0.5)])  # fmt: skip
def test_a_busy_server_is_given_the_time_it_asks_for(archive: Archive, tmp_path: Path, fault: str, least: float) -> None:
    archive.put(PATH, TEXT)
    archive.faults = [fault]
    waits: list[float] = []
    fetched(archive, tmp_path, waits=waits)
    assert (tmp_path / PATH).exists()
    assert waits == [least]


def test_a_server_that_stays_busy_is_given_up_after_growing_waits(archive: Archive, tmp_path: Path) -> None:
    archive.put(PATH, TEXT)
    archive.faults = ["429"] * 50
    waits: list[float] = []
    with pytest.raises(FetchError, match=rf"429 .*given up after {ATTEMPTS_MAX} attempts"):
        fetched(archive, tmp_path, waits=waits)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_a_server_that_asks_for_an_hour_is_told_to_the_user(archive: Archive, tmp_path: Path) -> None:
    archive.put(PATH, TEXT)
    archive.faults = ["418:3600"]
    with pytest.raises(FetchError, match="asks to come back in 3,600 s"):
        fetched(archive, tmp_path)


def test_a_wrong_checksum_leaves_nothing(archive: Archive, tmp_path: Path) -> None:
    archive.put(PATH, TEXT, checksum=hashlib.sha256(b"other").hexdigest())
    with pytest.raises(FetchError, match=r"CHECKSUM says .* what came was removed"):
        fetched(archive, tmp_path)
    assert not (tmp_path / PATH).exists()
    assert not part_of(tmp_path).exists()


@pytest.mark.parametrize("text", [b"", b"no sum  BTCUSDT-trades-2024-08-08.zip", b"0" * 64 + b"  OTHER.zip"])
def test_a_checksum_file_of_something_else_is_refused(archive: Archive, tmp_path: Path, text: bytes) -> None:
    archive.put(PATH, TEXT)
    archive.files[f"/data/{PATH}.CHECKSUM"] = text
    with pytest.raises(FetchError, match="does not hold the SHA-256"):
        fetched(archive, tmp_path)


def test_a_checksum_that_is_cut_is_asked_for_again(archive: Archive, tmp_path: Path) -> None:
    body = archive.put(PATH, TEXT)
    archive.checksum_faults = ["cut", "503"]
    waits: list[float] = []
    fetched(archive, tmp_path, waits=waits)
    assert (tmp_path / PATH).read_bytes() == body
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("url", ["http://[", "file:///etc/hostname", "http://127.0.0.1:x/", "/data/" + PATH])
def test_a_server_that_sends_elsewhere_for_nothing_is_told(archive: Archive, tmp_path: Path, url: str) -> None:
    archive.put(PATH, TEXT)
    archive.faults = [f"to {url}"] * 200
    with pytest.raises(FetchError, match=r"BTCUSDT-trades-2024-08-08\.zip: "):
        fetched(archive, tmp_path)
    assert not (tmp_path / PATH).exists()


@pytest.mark.parametrize("span", ["bytes 0-9/10", "bytes */10", "bytes 1000-1/" + "9" * 5000, "bytes \N{ARABIC-INDIC DIGIT ONE}000-1/2".encode().decode("latin-1")])
def test_a_part_that_is_not_what_was_asked_for_is_refused(archive: Archive, tmp_path: Path, span: str) -> None:
    body = archive.put(PATH, TEXT)
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(body[:1000])
    archive.faults = [f"span {span}"]
    with pytest.raises(FetchError, match="asked for bytes from 1000 on, got"):
        fetched(archive, tmp_path)
    assert part_of(tmp_path).read_bytes() == body[:1000]


def test_a_part_of_a_file_that_has_changed_since_is_removed_and_the_next_call_has_it(archive: Archive, tmp_path: Path) -> None:
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(archive.put(PATH, TEXT[::-1])[:1000])
    body = archive.put(PATH, TEXT)
    with pytest.raises(FetchError, match=r"what came was removed, try again"):
        fetched(archive, tmp_path)
    fetched(archive, tmp_path)
    assert (tmp_path / PATH).read_bytes() == body


def test_days_that_are_not_published_are_named_and_the_others_come(archive: Archive, tmp_path: Path) -> None:
    archive.put(PATH, TEXT)
    facts = fetched(archive, tmp_path, Wanted("spot", "trades", "BTCUSDT", DAY, date(2024, 8, 9)))
    assert facts["fetched"] == ["BTCUSDT-trades-2024-08-08.zip"]
    assert facts["not_published"] == ["BTCUSDT-trades-2024-08-09.zip"]


def test_an_archive_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with serving() as archive:
        gone = archive.url
    with pytest.raises(FetchError, match="given up after"):
        fetch(SPOT_TRADES, tmp_path, lambda *_: None, gone, lambda _: None)


@pytest.mark.parametrize(("wanted", "words"), [
    (Wanted("margin", "trades", "BTCUSDT", DAY, DAY), "no market 'margin'; there are spot, um, cm"),
    (Wanted("spot", "bookTicker", "BTCUSDT", DAY, DAY), "no 'bookTicker' of spot; there are trades, aggTrades, klines"),
    (Wanted("spot", "trades", "btc/usdt", DAY, DAY), "not a symbol as the venue writes it"),
    (Wanted("spot", "klines", "BTCUSDT", DAY, DAY, "7m"), "no interval '7m'"),
    (Wanted("spot", "trades", "BTCUSDT", DAY, date(2024, 8, 7)), "is not a span of 1 to 3700 days"),
])  # fmt: skip
def test_what_the_archive_cannot_have_is_refused_before_it_is_asked(tmp_path: Path, wanted: Wanted, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        fetch(wanted, tmp_path, lambda *_: None, "http://127.0.0.1:1")


def test_days_and_addresses_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'yesterday' is not a day, such as 2024-08-08"):
        day_of("yesterday")
    with pytest.raises(ConfigError, match="is not an http or https address"):
        fetch(SPOT_TRADES, tmp_path, lambda *_: None, "file:///etc")


@pytest.mark.parametrize("url", ["http://[1", "http://", "https://:80", "http://a:99999", "http://a:b"])
def test_an_address_without_a_host_is_refused_before_it_is_asked(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="is not an http or https address"):
        fetch(SPOT_TRADES, tmp_path, lambda *_: None, url)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchError, match="cannot be made: Not a directory"):
        fetch(SPOT_TRADES, tmp_path / "file", lambda *_: None, "http://127.0.0.1:1")


def test_the_command_says_what_came_and_what_is_missing(archive: Archive, tmp_path: Path) -> None:
    archive.put(PATH, TEXT)
    call = ["fetch", "binance", "--symbol", "BTCUSDT", "--date", "2024-08-08", "--out", str(tmp_path), "--base-url", archive.url]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert f"1 fetched, 0 there already; as a feed: {tmp_path}/spot/daily/trades/BTCUSDT" in done.output
    missing = CliRunner().invoke(app, [*call, "--to", "2024-08-09"])
    assert missing.exit_code == 1
    assert "BTCUSDT-trades-2024-08-09.zip: the archive does not have it" in missing.output
