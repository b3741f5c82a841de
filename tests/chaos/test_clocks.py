"""Workers whose clocks differ, coordinators that start together and what killed writers leave, with toy stages."""

import os

import pytest
from toy_stages import toy_run, wait_until

from flysoma.tasks.fleet.queues import open_queue

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toys")]

SHIFT = """
import time
_real = time.time
time.time = lambda: _real() + {seconds}
"""


@pytest.fixture
def start(tmp_path, start_toy):
    """A function that starts a toy process whose clock is ahead by some seconds."""

    def start(ahead_s, *words):
        folder = tmp_path / f"ahead{ahead_s}"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(SHIFT.format(seconds=ahead_s))
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        return start_toy(*words, PYTHONPATH=path)

    return start


@pytest.mark.timeout(900)
def test_idle_workers_with_other_clocks_leave_a_healthy_worker_its_task(tmp_path, start):
    """Two coordinators with other clocks too, and temporary files of killed writers in every folder."""
    run, queue = toy_run(tmp_path / "run", 1, _0=["sleep", 12]), f"fq://{tmp_path}/queue"
    for folder in ("receipts/first", "failures/first", "running/first", "hosts", "workers"):
        run.store.put(f"{folder}/.part-1x2y", b"{")
    coordinators = [start(ahead_s, "run", queue, run.path) for ahead_s in (0, 7200)]
    start(0, "work", queue, "lease_s", "4")
    wait_until(lambda: run.store.names("executions/"), 300)
    for ahead_s in (30, -30, 7200):
        start(ahead_s, "work", queue, "lease_s", "4")
    assert [process.wait(timeout=300) for process in coordinators] == [0, 0]
    assert len(run.store.names("executions/")) == 1 and len(run.store.names("prepared/")) == 1
    assert not run.store.names("failures/") and open_queue(queue).is_empty()
