"""The simulation of a fleet: nothing is lost, and what is wasted is what machines took with them. Benchmarks of it."""

import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flysoma.scripts.bench.fleet import Fleet, simulate
from flysoma.scripts.cli import cli
from flysoma.tasks.fleet.queues import open_queue

CALM = {"life_s": 1e12, "twice": 0.0}


def test_undisturbed_workers_share_the_work():
    found = simulate(np.full(100, 60.0), Fleet(workers=10, **CALM))
    assert found.makespan_h == pytest.approx(600 / 3600) and found.wasted_h == 0
    assert found.useful_h == pytest.approx(100 * 60 / 3600) and found.machines_lost == 0


def test_a_machine_that_goes_wastes_what_it_had_begun():
    """Tasks longer than any machine lives and its grace would never end; these are shorter than most live."""
    found = simulate(np.full(2000, 300.0), Fleet(workers=50, life_s=1800, twice=0.0), seed=1)
    assert found.machines_lost > 100 and found.given_back > 0 and found.leases_run_out > 0
    assert 0.05 < found.wasted_h / found.useful_h < 0.3
    assert found.makespan_h > 2000 * 300 / 50 / 3600


def test_few_tasks_of_many_workers_end_soon():
    """Were the last message always given to the machine that goes next, it would come back for ever."""
    found = simulate(np.full(500, 60.0), Fleet(workers=500, life_s=1800), seed=1)
    assert found.makespan_h < 0.3 and found.wasted_h < 0.2 * found.useful_h


def test_a_message_that_comes_twice_is_done_once_when_there_is_time():
    found = simulate(np.full(1000, 10.0), Fleet(workers=5, life_s=1e12, twice=1.0))
    assert found.done_twice == 0 and found.wasted_h == 0
    crowded = simulate(np.full(3, 10.0), Fleet(workers=10, life_s=1e12, twice=1.0))
    assert crowded.done_twice == 3


@given(
    st.lists(st.floats(1, 500), min_size=1, max_size=60),
    st.integers(1, 20),
    st.floats(300, 5000),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_every_task_is_done_at_last(seconds, workers, life, seed):
    seconds = np.array(seconds)
    found = simulate(seconds, Fleet(workers=workers, life_s=life), seed)
    assert np.isfinite(found.makespan_h)
    assert found.makespan_h >= max(seconds.max(), seconds.sum() / workers) / 3600 - 1e-9
    assert found.useful_h == pytest.approx(seconds.sum() / 3600)


def test_the_bench_of_the_coordinator_counts_requests_and_empties_the_queue(tmp_path):
    url = f"fq://{tmp_path}/queue"
    words = ["bench", "coordinator", "--tasks", "60", "--minutes", "0.02", "--queue", url]
    done = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
    assert "60 messages put" in done.output and open_queue(url).is_empty()
    reads = int(re.search(r"reads +(\d+)", done.output).group(1))
    assert 60 <= reads < 70  # every receipt once
