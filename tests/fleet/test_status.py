"""What `flysoma status` tells of a run that nobody works on, and records that no worker wrote."""

import os
import time

import pytest
from click.testing import CliRunner
from test_coordinator import silent
from test_worker import begun, drain, make_worker  # noqa: F401
from toy_stages import toy_run

from flysoma.scripts.cli import cli
from flysoma.tasks.coordination import coordinator
from flysoma.tasks.coordination.coordinator import RunOptions, execute_run
from flysoma.tasks.fleet.attempts import failures, running
from flysoma.tasks.fleet.sick_hosts import sick_hosts
from flysoma.tasks.fleet.signs import Worker
from flysoma.tasks.fleet.status import status
from flysoma.tasks.stages.catalog import state_path

pytestmark = pytest.mark.usefixtures("toys")

GARBAGE = [
    b"",
    b"[]",
    b"[1]",
    b"null",
    b'"x"',
    b"7",
    b'{"x": 1}',
    b'{"ho',
    b"\xff\xfe",
    b"[" * 50_000,
]
GARBAGE += [b'{"host": 1, "started": "soon"}', b'{"host": "a", "started": NaN}']
GARBAGE += [b'{"host": "a", "started": 1, "worker": "../../etc/x", "lease_s": 9}']
GARBAGE += [b'{"kind": "error", "error": "x", "last": true, "counts": [1]}']
GARBAGE += [b'{"kind": "error", "error": "x", "last": true, "counts": {"error": "many"}}']
GARBAGE += [b'{"kind": "machine", "error": ["x"], "time": 1}']


def show(run, *words):
    done = CliRunner().invoke(cli, ["status", run.path, *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def waiting_run(tmp_path, **state):
    """A run whose coordinator waits for workers since ten minutes."""
    run, ago = toy_run(tmp_path / "run", 3), time.time() - 600
    run.store.put_json(state_path("first"), {"total": 3, "started": ago} | state)
    return run


def test_a_run_without_workers_says_so_until_one_gives_a_sign(tmp_path):
    run, worker = waiting_run(tmp_path), Worker(120)
    assert status(run)[0]["no_worker_s"] == pytest.approx(600, abs=5)
    assert "first: no worker for 10 minutes" in show(run)
    worker.sign(run.store)
    assert status(run)[0]["no_worker_s"] is None and "no worker" not in show(run)
    (sign,) = run.store.names("workers/")
    before = time.time() - 180  # it was killed
    os.utime(f"{run.path.removeprefix('file://')}/{sign}", (before, before))
    assert "first: no worker for 3 minutes" in show(run)
    assert '"no_worker_s": 18' in show(run, "--json")


@pytest.mark.parametrize("state", [{"progressed": 0.0}, {"halted": "a reason"}, {"finished": True}])
def test_no_worker_is_missed_where_none_is_needed(tmp_path, state):
    if "progressed" in state:
        state = {"progressed": time.time()}
    assert status(waiting_run(tmp_path, **state))[0]["no_worker_s"] is None


def test_repairs_are_counted(tmp_path):
    run = waiting_run(tmp_path)
    for step, count in (("0", 2), ("finish", 1)):
        run.store.put_record(f"repairs/first/{step}.json", {"count": count, "open": False})
    assert [row["repairs"] for row in status(run)] == [3, 0]
    assert "first: 3 tasks repeated, because their output was damaged or lost" in show(run)


@pytest.mark.parametrize("text", GARBAGE, ids=lambda text: repr(text[:40]))
def test_a_record_of_another_shape_is_as_if_there_were_none(text, begun):  # noqa: F811
    run, queue = begun(2)
    places = ("failures/first/0.json", "running/first/0.json", "running/first/1.json")
    for path in (*places, "hosts/a.json", "workers/a.json", "coordinator.json", "engine.json"):
        run.store.put(path, text)
    assert status(run)[0]["done"] == 0 and "first" in show(run)
    found = (failures(run.store, "first"), running(run.store, "first"), sick_hosts(run.store))
    assert sum(map(len, found)) <= 1  # one text is a record of a worker
    assert coordinator.retry(run, queue.url) == {} and drain(queue) == 2
    os.unlink(f"{run.path.removeprefix('file://')}/coordinator.json")
    execute_run(run, RunOptions(gpu=queue.url, workers=0, until="first"), silent, silent)
