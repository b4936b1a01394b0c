"""The intrinsics do what they say, refuse arrays they would address wrongly, and are found in the disk cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from transport import clock
from transport.atomics import (
    compare_exchange,
    cycles,
    fence_acquire,
    fence_release,
    load_acquire,
    load_cell,
    monotonic_ns,
    pause,
    sched_yield,
    sleep_us,
    store_cell,
    store_release,
    swap_cell,
)
from transport.compiled import kernel

ROOT = Path(__file__).resolve().parents[2]

EVERY_INTRINSIC = """
import sys
import numpy as np
from transport.atomics import (
    compare_exchange, cycles, fence_acquire, fence_release, load_acquire, monotonic_ns, pause, sched_yield, sleep_us,
    store_release,
)
from transport.compiled import kernel

@kernel
def everything(cells):
    store_release(cells, 1, 41)
    fence_release()
    fence_acquire()
    compare_exchange(cells, 1, 41, 42)
    pause()
    sched_yield()
    sleep_us(10)
    before = monotonic_ns()
    return load_acquire(cells, 1) if cycles() and monotonic_ns() >= before else -1

assert everything(np.zeros(2, np.int64)) == 42
hits, misses = (sum(found.values()) for found in (everything.stats.cache_hits, everything.stats.cache_misses))
print(hits, misses)
"""


@kernel
def times_of_a_sleep(us, out):
    out[0] = monotonic_ns()
    sleep_us(us)
    out[1] = monotonic_ns()


@kernel
def turns_in(duration_ns):
    turns, deadline_ns = 0, monotonic_ns() + duration_ns
    while monotonic_ns() < deadline_ns:
        pause()
        sched_yield()
        turns += 1
    return turns


@kernel
def load_from(cells, index):
    fence_acquire()
    return load_acquire(cells, index)


@kernel
def store_in(cells, index, value):
    fence_release()
    store_release(cells, index, value)
    return compare_exchange(cells, index, value, value)


def test_what_is_stored_in_a_cell_is_loaded_from_it_and_no_other_cell_changes():
    cells = np.arange(8, dtype=np.int64)
    for value in (-(2**63), -1, 0, 2**63 - 1):
        store_cell(cells, 3, value)
        assert load_cell(cells, 3) == value
    assert cells.tolist() == [0, 1, 2, 2**63 - 1, 4, 5, 6, 7]


def test_a_cell_is_swapped_only_from_the_expected_value():
    cells = np.array([5, 7], np.int64)
    assert not swap_cell(cells, 1, 5, 9)
    assert cells.tolist() == [5, 7]
    assert swap_cell(cells, 1, 7, 9)
    assert cells.tolist() == [5, 9]


def test_a_read_only_view_is_loaded_from_and_not_stored_to():
    cells = np.arange(4, dtype=np.int64)
    cells.flags.writeable = False
    assert load_from(cells, 2) == 2
    with pytest.raises(Exception, match="store_release"):
        store_in(cells, 2, 1)


@pytest.mark.parametrize("cells", [np.zeros(4, np.int32), np.zeros((2, 2), np.int64), np.zeros(8, np.int64)[::2]])
def test_refuses_an_array_whose_cells_do_not_lie_one_after_another(cells):
    with pytest.raises(Exception, match="load_acquire"):
        load_from(cells, 0)


def test_a_sleep_lasts_at_least_as_long_as_asked_on_the_clock_that_python_reads():
    out = np.zeros(2, np.int64)
    before = time.monotonic_ns()
    times_of_a_sleep(2000, out)
    after = time.monotonic_ns()
    assert before <= out[0] <= out[1] - 2_000_000 <= after - 2_000_000


def test_pausing_and_yielding_come_back():
    assert turns_in(1_000_000) > 0


def test_the_cycle_counter_runs_at_the_measured_rate():
    first_cycles, first_ns = clock.cycles_now(), clock.monotonic_ns()
    time.sleep(0.05)
    passed_cycles, passed_ns = clock.cycles_now() - first_cycles, clock.monotonic_ns() - first_ns
    assert passed_cycles / clock.cycles_per_ns() == pytest.approx(passed_ns, rel=0.01)


def test_two_measurements_of_the_cycle_rate_agree():
    assert clock.measure_cycles_per_ns() == pytest.approx(clock.cycles_per_ns(), rel=1e-3)


def test_the_wall_clock_is_the_worlds():
    assert abs(clock.wall_ns() - time.time_ns()) < 1_000_000_000
    assert cycles is not clock.cycles_now  # the one is for kernels, the other for Python


def test_every_intrinsic_is_found_in_the_disk_cache_by_a_second_process(tmp_path):
    script = tmp_path / "every_intrinsic.py"
    script.write_text(EVERY_INTRINSIC)
    environment = {**os.environ, "TICKLINE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    found = [
        subprocess.run(
            [sys.executable, script], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(2)
    ]
    assert found == [["0", "1"], ["1", "0"]]
