"""Records by reference: the same records and the same hash as a log that holds them whole."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from tests.logs import chain_of, interleaved, market, read, write
from transport.errors import DamagedError
from transport.journal import LogReader, LogWriter
from transport.pack import BLOCK_ROWS
from transport.records import empty
from transport.reference import RUN, SOURCES_MAX, STORED_RUN, Sources, copy_run, decode, encode


def test_copy_run_stamps_and_keeps_everything_else() -> None:
    tape, out = market(50), empty(60)
    tape["ts_recv_ns"][20] -= 10**9
    last = copy_run(tape, 10, 30, out, 5, 1000, int(tape["ts_recv_ns"][9]) + 123_456, 9)
    made = out[5:35]
    assert made["seq"].tolist() == list(range(1000, 1030))
    expected = np.maximum.accumulate(np.maximum(tape["ts_recv_ns"][10:40], tape["ts_recv_ns"][9] + 123_456))
    assert made["ts_seq_ns"].tolist() == expected.tolist()
    assert last == expected[-1]
    assert set(made["epoch"].tolist()) == {9}
    for name in set(tape.dtype.names or ()) - {"seq", "ts_seq_ns", "epoch"}:
        assert made[name].tobytes() == tape[name][10:40].tobytes(), name
    assert not out[:5].tobytes().strip(b"\0")
    assert not out[35:].tobytes().strip(b"\0")


def test_a_log_by_reference_has_the_hash_of_the_embedded_one_at_a_fraction_of_its_size(
    tmp_path: Path, seed: int
) -> None:
    tape = market(3 * BLOCK_ROWS + 500)
    runs, own, seen = interleaved(tape, seed)
    sizes = []
    for embed in (True, False):
        folder = tmp_path / str(embed)
        with LogWriter(folder, "input", "run-1", embed=embed, sources=[tape], segment_blocks=2) as log:
            log.append_reference(runs, own, 5)
        assert log.digest == chain_of(seen)
        sources = None if embed else [tape]
        assert read(folder, sources).tobytes() == seen.tobytes()
        with LogReader(folder, "input", sources) as reader:
            assert reader.verify() == []
            assert reader.digest == chain_of(seen)
        sizes.append(sum(p.stat().st_size for p in (folder / "input").iterdir()))
    assert sizes[1] < sizes[0] / 5


@pytest.mark.parametrize("embed", [True, False])
def test_runs_may_come_in_any_pieces_and_be_flushed_anywhere(tmp_path: Path, seed: int, embed: bool) -> None:
    chance = random.Random(seed)
    tape = market(2 * BLOCK_ROWS + 300)
    runs, own, seen = interleaved(tape, seed, each=900)
    with LogWriter(tmp_path, "input", "run-1", embed=embed, sources=[tape], segment_blocks=1) as log:
        own_at = 0
        for source, first, count, seq in runs.tolist():
            done = 0
            while done < count:  # a run in pieces, to be joined again
                size = min(chance.randrange(1, 400), count - done)
                mine = size if source < 0 else 0
                piece = np.array([(source, first + done, size, seq + done)], RUN)
                log.append_reference(piece, own[own_at : own_at + mine], 5)
                own_at += mine
                done += size
                if chance.random() < 0.3:
                    log.flush()
                    with LogReader(tmp_path, "input", [tape]) as reader:
                        rows = reader.rows(0, reader.rows_total)
                        assert rows.tobytes() == seen[: log.rows_taken].tobytes()
                        assert reader.torn is None
    assert log.digest == chain_of(seen)


def test_own_rows_alone_may_be_appended_to_a_log_by_reference(tmp_path: Path) -> None:
    data = market(BLOCK_ROWS + 5)
    assert write(tmp_path, data, embed=False, sources=[]) == chain_of(data)
    assert read(tmp_path).tobytes() == data.tobytes()


def test_runs_out_of_bounds_are_refused_and_take_nothing(tmp_path: Path) -> None:
    tape = market(100)
    bad = [[(0, 50, 51, 1)], [(1, 0, 1, 1)], [(-2, 0, 1, 1)], [(0, -1, 1, 1)], [(0, 0, -1, 1)], [(-1, 0, 2, 1)]]
    with LogWriter(tmp_path, "input", "run-1", embed=False, sources=[tape]) as log:
        for runs in bad:
            with pytest.raises(ValueError, match="run"):
                log.append_reference(np.array(runs, RUN), market(1), 5)
        with pytest.raises(ValueError, match="epoch"):
            log.append_reference(np.array([(0, 0, 1, 1)], RUN), market(0), 2**16)
        assert log.rows_taken == 0


def test_more_sources_than_a_run_can_number_are_refused() -> None:
    tape = market(1)
    assert len(Sources([tape] * SOURCES_MAX).tapes) == SOURCES_MAX == np.iinfo(STORED_RUN["source"]).max
    with pytest.raises(ValueError, match=f"{SOURCES_MAX + 1} sources, at most {SOURCES_MAX}"):
        Sources([tape] * (SOURCES_MAX + 1))


def test_a_changed_or_missing_tape_is_found_by_the_chain(tmp_path: Path) -> None:
    tape = market(2 * BLOCK_ROWS)
    with LogWriter(tmp_path, "input", "run-1", embed=False, sources=[tape]) as log:
        log.append_reference(np.array([(0, 0, len(tape), 1)], RUN), market(0), 5)
    changed = market(2 * BLOCK_ROWS)
    changed["qty_lots"][BLOCK_ROWS + 9] += 1
    with LogReader(tmp_path, "input", [changed]) as reader:
        assert [(d.block, d.first_row) for d in reader.verify()] == [(1, BLOCK_ROWS)]
    for sources, what in ((None, "a source that was not given"), ([tape[:5000]], "beyond the rows of its tape")):
        with LogReader(tmp_path, "input", sources) as reader:
            assert any(what in d.what for d in reader.verify())
            with pytest.raises(DamagedError, match=what):
                list(reader.blocks())


def test_damaged_reference_payloads_are_refused_whatever_they_say(seed: int) -> None:
    chance = random.Random(seed)
    tape = market(200)
    runs = np.zeros(2, STORED_RUN)
    runs["first"], runs["seq"], runs["source"], runs["count"] = [0, 0], [1, 101], [0, -1], [100, 10]
    good = encode(0, runs, market(10))
    sources = Sources([tape])
    assert len(decode(good, 110, sources)) == 110
    with pytest.raises(DamagedError):
        decode(good, 109, sources)
    refused = 0
    for _ in range(500):
        bad = bytearray(good[: chance.randrange(1, len(good) + 1)])
        for _ in range(3):
            bad[chance.randrange(min(70, len(bad)))] = chance.choice([0, 255, chance.randrange(256)])
        try:
            assert len(decode(bytes(bad), 110, sources)) == 110
        except DamagedError:
            refused += 1
    assert refused > 300
