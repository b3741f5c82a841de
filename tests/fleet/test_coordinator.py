"""Stages gated by receipts: lost messages, failures, kills, and two coordinators at once, with toy stages."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from click.testing import CliRunner
from test_worker import drain, start
from toy_stages import toy_run, wait_until

from flysoma.errors import HostError, TasksFailed, UserError
from flysoma.scripts.cli import cli
from flysoma.tasks.coordination import coordinator, lock
from flysoma.tasks.coordination.coordinator import RunOptions, execute_here, execute_run
from flysoma.tasks.fleet import attempts
from flysoma.tasks.fleet.queues import open_queue
from flysoma.tasks.fleet.status import status
from flysoma.tasks.stages.catalog import state_path
from flysoma.tasks.storage.store import RunStore

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def options(tmp_path):
    return RunOptions(gpu=f"fq://{tmp_path}/run/queue", workers=0)


@pytest.fixture
def working(options):
    """A worker process that does the tasks while the test runs a coordinator."""
    worker = start("work", options.gpu)
    yield
    worker.kill()
    worker.wait()


def finished(run, stage):
    return (run.store.get_json(state_path(stage)) or {}).get("finished")


def silent(*_):
    pass


def test_a_stage_begins_when_the_one_before_has_all_receipts(tmp_path, options, working):
    run = toy_run(tmp_path / "run", 6)
    execute_run(run, options, silent, silent)
    assert run.store.get_json("receipts/second/0.json")["counters"] == {"seen": 6}
    state = run.store.get_json(state_path("first"))
    assert (
        state["result"] == {"sum": 6} and state["done"] == 6 and state["ended"] >= state["started"]
    )
    assert run.store.get_json("coordinator.json") is None


def test_without_a_queue_the_same_is_done_here(tmp_path):
    run = toy_run(tmp_path / "run", 3)
    seen = []
    execute_here(run, "second", lambda *step: seen.append(step))
    assert seen == [("first", 1, 3), ("first", 2, 3), ("first", 3, 3), ("second", 1, 1)]
    assert finished(run, "second")


def test_messages_that_were_lost_are_put_again(tmp_path, options):
    """The queue is purged before the first worker starts."""
    run = toy_run(tmp_path / "run", 4)
    process = start("run", options.gpu, run.path)
    queue = open_queue(options.gpu)
    wait_until(lambda: not queue.is_empty())
    queue.purge()
    worker = start("work", options.gpu)
    assert process.wait(timeout=60) == 0
    worker.kill()
    worker.wait()
    assert finished(run, "second")


def test_a_coordinator_that_was_killed_is_followed_by_the_next(tmp_path, options, working):
    run = toy_run(tmp_path / "run", 5, _4=["sleep", 3])
    process = start("run", options.gpu, run.path)
    wait_until(lambda: run.store.names("receipts/first/"))
    wait_until(lambda: run.store.get_json(state_path("first")).get("queue"))  # all are put
    process.kill()
    process.wait()
    execute_run(run, options, silent, silent)
    assert finished(run, "second") and len(run.store.names("prepared/")) == 1
    assert len(run.store.names("executions/")) == 5  # nothing was done twice


def test_of_two_coordinators_one_works_and_the_other_waits(tmp_path, options, working):
    run = toy_run(tmp_path / "run", 3, _0=["sleep", 2])
    both = [start("run", options.gpu, run.path) for _ in range(2)]
    assert [process.wait(timeout=90) for process in both] == [0, 0]
    assert len(run.store.names("prepared/")) == 1 and len(run.store.names("executions/")) == 3


def write_lock(run, **more):
    lock = {"owner": "x", "host": "elsewhere", "pid": 7} | more
    run.store.put_json("coordinator.json", lock)


def test_the_lock_of_a_frozen_coordinator_expires(tmp_path, monkeypatch):
    """Its age counts, not the time in it: the clock of its machine was hours ahead."""
    monkeypatch.setattr(lock, "_EXPIRES_S", 2.0)
    run = toy_run(tmp_path / "run", 1)
    said = []
    write_lock(run, expires=time.time() + 5 * 3600)
    began = time.monotonic()
    with lock.coordinator_lock(run.store, said.append):
        assert run.store.get_json("coordinator.json")["owner"] != "x"
    assert len(said) == 1 and "process 7 on elsewhere" in said[0]
    assert 1 < time.monotonic() - began < 30


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b'{"host": 3, "pid": "x"}'])
def test_a_damaged_lock_expires_too(tmp_path, monkeypatch, text):
    monkeypatch.setattr(lock, "_EXPIRES_S", 0.0)
    run = toy_run(tmp_path / "run", 1)
    run.store.put("coordinator.json", text)
    with lock.coordinator_lock(run.store, silent):
        pass
    assert run.store.get("coordinator.json") is None


def test_of_many_coordinators_that_find_an_expired_lock_one_gets_it(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "run", 1)
    write_lock(run)
    os.utime(tmp_path / "run/coordinator.json", (1e9, 1e9))
    locks = [lock._Lock(run.store) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda one: one.acquire(), locks)) == 1


def test_a_coordinator_that_lost_its_lock_ends_and_leaves_it_to_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_EXPIRES_S", 2.0)
    run = toy_run(tmp_path / "run", 1)

    def lose():
        with lock.coordinator_lock(run.store, silent) as check:
            check()
            write_lock(run)
            while True:
                check()

    with pytest.raises(HostError, match="another coordinator has taken over"):
        lose()
    assert run.store.get_json("coordinator.json")["owner"] == "x"


def test_the_lock_is_renewed_though_the_store_fails_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_EXPIRES_S", 2.0)
    run = toy_run(tmp_path / "run", 1)
    real, calls = RunStore.put_version, []

    def put_version(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise ConnectionError("once")
        return real(*arguments)

    monkeypatch.setattr(RunStore, "put_version", put_version)
    with lock.coordinator_lock(run.store, silent) as check:
        wait_until(lambda: len(calls) > 3)
        check()


def test_too_many_failures_stop_the_stage_and_say_why(tmp_path, options, working):
    run = toy_run(tmp_path / "run", 8, **{f"_{i}": ["raise", "ValueError"] for i in range(8)})
    with pytest.raises(
        TasksFailed, match=r"of 8 tasks of first failed permanently.*ValueError: as requested"
    ):
        execute_run(run, options, silent, silent)
    assert "as requested" in status(run)[0]["halted"]
    wait_until(open_queue(options.gpu).is_empty)  # workers drop what nobody waits for


def test_what_is_tried_again_after_a_halt_is_done(tmp_path, options):
    """Workers that just dropped other messages of the stage do it too."""
    run = toy_run(tmp_path / "run", 3, _1=["raise", "ValueError"])
    halted = {"total": 3, "started": 1.0, "halted": "too much failed"}
    run.store.put_json(state_path("first"), halted)
    queue = open_queue(options.gpu)
    queue.put([(run.path, "first", 0)])
    assert drain(queue) == 0 and queue.is_empty()
    run.store.put_json("failures/first/1.json", {"last": True, "kind": "error"})
    run.store.put_json("toy.json", {"tasks": 3})
    assert coordinator.retry(run, options.gpu) == {"first": 1}
    assert drain(queue) == 1
    run.store.put_json(state_path("first"), halted)
    assert drain(queue) == 0
    assert coordinator.enqueue(run, "first", options.gpu) == 2
    assert drain(queue) == 2


def test_a_task_is_tried_again_in_the_queue_of_its_kind(tmp_path, options):
    """The first stage needs a GPU, the second does not."""
    run = toy_run(tmp_path / "run", 3)
    for stage in ("first", "second"):
        run.store.put_json(state_path(stage), {"total": 3, "started": 1.0})
        run.store.put_json(f"failures/{stage}/0.json", {"last": True, "kind": "error"})
    cpu = f"fq://{tmp_path}/cpu"
    assert coordinator.retry(run, options.gpu, cpu) == {"first": 1, "second": 1}
    leases = [open_queue(url).lease(60) for url in (options.gpu, cpu)]
    assert [lease.stage for lease in leases] == ["first", "second"]


def test_few_failures_let_the_others_be_done_and_a_later_run_tries_again(
    tmp_path, options, working
):
    run = toy_run(tmp_path / "run", 60, _7=["raise", "ValueError"])
    with pytest.raises(TasksFailed, match="1 of 60 tasks of first"):
        execute_run(run, options, silent, silent)
    assert len(run.store.indices("receipts/first")) == 59
    run.store.put_json("toy.json", {"tasks": 60})
    execute_run(run, options, silent, silent)
    assert len(run.store.names("executions/")) == 59 + 3 + 1
    assert finished(run, "second")


def test_a_users_mistake_stops_the_run_at_once(tmp_path, options, working):
    run = toy_run(tmp_path / "run", 4, _1=["raise", "UserError"])
    with pytest.raises(UserError, match="as requested"):
        execute_run(run, options, silent, silent)


def test_a_run_without_tasks_ends(tmp_path, options, working):
    run = toy_run(tmp_path / "run", 0)
    execute_run(run, options, silent, silent)
    assert finished(run, "second")


def test_enqueue_retry_and_status_as_commands(tmp_path, options):
    run = toy_run(tmp_path / "run", 5, _3=["raise", "ValueError"])

    def flysoma(*words):
        done = CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False)
        return done.output

    with pytest.raises(UserError, match="not planned yet"):
        flysoma("enqueue", run.path, "first", "--queue", options.gpu)
    run.store.put_json(state_path("first"), {"total": 5, "started": 1.0, "history": []})
    assert "5 tasks" in flysoma("enqueue", run.path, "first", "--queue", options.gpu, "--missing")
    drain(open_queue(options.gpu))
    row = json.loads(flysoma("status", run.path, "--json"))[0]
    assert (row["done"], row["failed"], row["leased"], row["total"]) == (4, 1, 0, 5)
    assert "1 tasks of first" in flysoma("retry", run.path, "--failed", "--queue", options.gpu)
    run.store.put_json("toy.json", {"tasks": 5})
    assert drain(open_queue(options.gpu)) == 1
    assert "no task has failed" in flysoma("retry", run.path, "--queue", options.gpu)
    with pytest.raises(UserError, match="not finished"):
        flysoma("clean", run.path)
    for stage in ("first", "second"):
        run.store.put_json(state_path(stage), {"total": 5, "started": 1.0, "finished": True})
    assert "5 objects of out/ would be deleted" in flysoma("clean", run.path, "--dry-run")
    flysoma("clean", run.path)
    assert not run.store.names("out/") and not run.store.names("receipts/")
    assert "finished" in flysoma("status", run.path)


def test_status_tells_rate_time_left_and_stragglers(tmp_path):
    run = toy_run(tmp_path / "run", 10)
    now = time.time()
    history = [[now - 100, 0], [now - 50, 2], [now, 4]]
    state = {"total": 10, "started": now - 100, "done": 4, "task_seconds": 80.0, "history": history}
    run.store.put_json(state_path("first"), state)
    for index in range(4):
        run.store.put_record(f"receipts/first/{index}.json", {"seconds": 20, "peak_gb": 0})
    for index, minutes in ((4, 1), (5, 30)):
        there = {"host": "node-7", "started": now - 60 * minutes}
        run.store.put_json(attempts.running_path("first", index), there)
    row = status(run)[0]
    assert row["rate"] == pytest.approx(144, rel=0.02) and row["eta_s"] == pytest.approx(150, abs=2)
    assert row["leased"] == 2
    assert [(late["index"], late["host"]) for late in row["stragglers"]] == [(5, "node-7")]


def test_no_worker_starts_for_what_is_finished(tmp_path, monkeypatch):
    run = toy_run(tmp_path / "run", 3)
    execute_here(run, "second", silent)
    monkeypatch.setattr(coordinator.subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    execute_run(run, RunOptions(workers=2, until="second"), silent, silent)
    with pytest.raises(pytest.fail.Exception):
        execute_run(toy_run(tmp_path / "other", 3), RunOptions(until="second"), silent, silent)
