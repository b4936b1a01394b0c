"""The check of a log file by file: a seal that was made again, a piece that is out of place, damage that hides no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.logs import market, write
from transport.blocks import Damage
from transport.frames import HEADER_BYTES, SEAL_BYTES, Seal, decode_seal, encode_seal
from transport.journal import LogWriter
from transport.log_check import check_log
from transport.pack import BLOCK_ROWS
from transport.reference import Sources

ROWS = 4 * BLOCK_ROWS


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The folder of a log of four blocks in four segments, closed."""
    write(tmp_path, market(ROWS), segment_blocks=1)
    return tmp_path / "input"


def check(log: Path, name: str = "input") -> list[Damage]:
    return check_log(name, sorted(log.iterdir()), Sources())


def told(log: Path, name: str = "input") -> list[tuple[str, str]]:
    return [(damage.segment, damage.what) for damage in check(log, name)]


def reseal(path: Path, **changes: object) -> None:
    """Put another seal under a good sum in the place of the segment's own."""
    data = path.read_bytes()
    seal: Seal = decode_seal(data)._replace(**changes)
    path.write_bytes(data[:-SEAL_BYTES] + encode_seal(seal))


def test_a_log_that_holds_has_no_damage_and_so_has_one_with_a_torn_tail(log: Path, tmp_path: Path) -> None:
    assert check(log) == []
    writer = LogWriter(tmp_path / "open", "input", "run-1")
    writer.append(market(BLOCK_ROWS + 100))
    writer.release()
    (path,) = (tmp_path / "open" / "input").iterdir()
    whole = path.read_bytes()
    for cut in (1, 50, len(whole) - HEADER_BYTES - 1, len(whole) - 10):
        path.write_bytes(whole[:-cut])
        assert check(path.parent) == [], cut


def test_a_log_under_another_name_breaks_name_and_chain(log: Path) -> None:
    found = told(log, "risk")
    assert found[:2] == [
        ("00000000.seg", "it is segment 0 of the log input"),
        ("00000000.seg", "the chain does not go on from the segment before"),
    ]
    assert [what for _, what in found[2:]] == [f"it is segment {k} of the log input" for k in (1, 2, 3)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"digest": bytes(32)}, "the seal has another digest than the last block"),
        ({"blocks": 2}, f"sealed at row {2 * BLOCK_ROWS} after 2 blocks, 1 blocks end at row {2 * BLOCK_ROWS}"),
        ({"end_row": 7}, f"sealed at row 7 after 1 blocks, 1 blocks end at row {2 * BLOCK_ROWS}"),
        ({"final": True}, "segments follow the one that closed the log"),
    ],
)
def test_a_seal_that_says_something_else_is_told_where_it_stands(log: Path, changes: dict[str, object], said: str) -> None:
    reseal(log / "00000001.seg", **changes)
    assert told(log)[0] == ("00000001.seg", said)


def test_a_segment_that_lost_its_seal_or_its_suffix_is_told(log: Path) -> None:
    second = log / "00000001.seg"
    second.write_bytes(second.read_bytes()[:-1])
    assert ("00000001.seg", "the segment's seal is damaged or missing") in told(log)
    shutil.move(second, second.with_suffix(".open"))
    assert ("00000001.open", "segments follow one that was never sealed") in told(log)


def test_a_segment_cut_to_less_than_its_header_is_told_and_the_rest_is_read_on(log: Path) -> None:
    first = log / "00000000.seg"
    first.write_bytes(first.read_bytes()[: HEADER_BYTES - 1])
    found = told(log)
    assert found[0] == ("00000000.seg", "shorter than a header")
    assert found[1] == ("00000001.seg", f"rows 0 to {BLOCK_ROWS} are missing before the segment")
    assert len(found) == 2  # from there on rows and chain go on from what the second segment's header says


def test_a_missing_segment_is_told_with_its_rows_and_hides_no_later_damage(log: Path) -> None:
    (log / "00000001.seg").unlink()
    reseal(log / "00000003.seg", blocks=9)
    found = told(log)
    assert found[:2] == [
        ("00000002.seg", "segment 1 is missing before it"),
        ("00000002.seg", f"rows {BLOCK_ROWS} to {2 * BLOCK_ROWS} are missing before the segment"),
    ]
    assert any(segment == "00000003.seg" and "after 9 blocks" in what for segment, what in found)


def test_segments_given_in_the_wrong_order_are_told(log: Path) -> None:
    files = sorted(log.iterdir())
    found = check_log("input", [files[1], files[0], *files[2:]], Sources())
    assert next(d.what for d in found if d.segment == "00000000.seg") == "out of order"
    assert found[0].what == "segment 0 is missing before it"
