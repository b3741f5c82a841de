"""Workers and errors, deaths, poison, signals and frozen hosts, with toy stages and a real queue."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from toy_stages import toy_run, wait_until

from flysoma.scripts.logs import log_tasks
from flysoma.tasks import faults
from flysoma.tasks.fleet import attempts, messages
from flysoma.tasks.fleet.queues import open_queue
from flysoma.tasks.fleet.served import ServedRuns
from flysoma.tasks.fleet.signs import Worker
from flysoma.tasks.fleet.worker import WorkerOptions, _Worker
from flysoma.tasks.stages.catalog import state_path
from flysoma.tasks.storage.store import RunStore

pytestmark = pytest.mark.usefixtures("toys")

TERMINATED = 128 + signal.SIGTERM


@pytest.fixture
def begun(tmp_path):
    """A function that makes a run, starts and enqueues its stage `first`, and returns run and queue."""

    def make(tasks, **what):
        run = toy_run(tmp_path / "run", tasks, **what)
        run.store.put_json(state_path("first"), {"total": tasks, "started": 1.0})
        queue = open_queue(f"fq://{tmp_path}/queue")
        queue.put((run.path, "first", index) for index in range(tasks))
        return run, queue

    return make


def make_worker(queue, **options):
    options = WorkerOptions(**options)
    return _Worker(queue, ServedRuns(queue.url, options.runs), options)


def drain(queue, **options):
    return make_worker(queue, until_empty=True, **options).run()


def executions(run, index):
    return len(run.store.names(f"executions/{index}-"))


def records(run, index):
    return run.store.get_json(f"failures/first/{index}.json")


def test_every_task_leaves_its_result_and_one_receipt(begun):
    run, queue = begun(7)
    assert drain(queue) == 7
    assert run.store.indices("receipts/first") == set(range(7))
    assert run.store.get("out/3") == b"result of 3"
    assert queue.is_empty() and not run.store.names("running/") and not run.store.names("failures/")
    receipt = run.store.get_json("receipts/first/3.json")
    assert set(receipt["phases"]) == {"read", "work", "write"}
    assert receipt["counters"] == {"voxels": 1} and 0.01 < receipt["peak_gb"] < 50


def test_a_task_that_raises_is_tried_thrice_and_then_left_with_its_cause(begun):
    run, queue = begun(4, _2=["raise", "ValueError"])
    assert drain(queue) == 3
    assert run.store.indices("receipts/first") == {0, 1, 3} and queue.is_empty()
    assert executions(run, 2) == 3
    record = records(run, 2)
    assert record["last"] and record["counts"] == {"error": 3}
    attempt = record["attempts"][-1]
    assert "as requested" in attempt["error"] and "toy_stages.py" in attempt["traceback"]
    assert attempt["host"] == os.uname().nodename and attempt["versions"]["torch"]


def test_a_secret_in_an_error_is_neither_recorded_nor_logged(begun, monkeypatch, capsys):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "ValueError: as requested")
    run, queue = begun(1, _0=["raise", "ValueError"])
    logger = logging.getLogger("flysoma")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    log_tasks()
    drain(queue)
    record = run.store.get("failures/first/0.json").decode()
    said = capsys.readouterr().out
    for text in (record, said):
        assert "[AWS_SECRET_ACCESS_KEY]" in text and "ValueError: as requested" not in text


def test_a_lost_connection_is_tried_until_it_works(begun):
    run, queue = begun(2, _1=["raise", "ConnectionResetError", 6])
    assert drain(queue) == 2
    assert executions(run, 1) == 7
    assert records(run, 1)["counts"] == {"store": 6}


def test_a_users_mistake_is_tried_again_only_until_a_second_host_sees_it(begun, monkeypatch):
    run, queue = begun(2, _0=["raise", "UserError"])
    drain(queue)
    assert executions(run, 0) == 3
    record = records(run, 0)
    assert record["kind"] == "request" and record["last"]
    assert record["hosts"] == [os.uname().nodename]
    elsewhere = {"counts": {}, "attempts": [], "last": False, "hosts": ["other"]}
    run.store.put_json("failures/first/0.json", record | elsewhere)
    queue.put([(run.path, "first", 0)])
    drain(queue)
    assert executions(run, 0) == 4 and records(run, 0)["last"]


def test_a_task_that_is_done_is_not_done_again(begun):
    run, queue = begun(3)
    run.store.put_record("receipts/first/1.json", {"seconds": 1})
    assert drain(queue) == 2
    assert executions(run, 1) == 0 and queue.is_empty()


@pytest.mark.parametrize("state", ["finished", "halted"])
def test_messages_of_a_stage_that_nobody_waits_for_are_dropped(begun, state):
    run, queue = begun(3)
    run.store.put_json(state_path("first"), {"total": 3, "started": 1.0, state: True})
    assert drain(queue) == 0
    assert queue.is_empty() and not run.store.names("receipts/")


def test_a_task_that_kills_its_workers_is_given_up(begun, monkeypatch):
    monkeypatch.setitem(faults.RULES, "death", replace(faults.RULES["death"], attempts=2))
    run, queue = begun(2)
    path = attempts.running_path("first", 1)
    for deaths in (1, 2):
        run.store.put_json(path, {"host": "gone", "started": 0})
        run.store.delete(["receipts/first/1.json"])
        if deaths == 2:
            queue.put([(run.path, "first", 1)])
        drain(queue)
    record = records(run, 1)
    assert record["last"] and record["counts"] == {"death": 2} and "gone" in record["error"]
    assert not run.store.names("receipts/first/1") and queue.is_empty()


def test_a_worker_that_gives_signs_of_life_is_not_dead(begun):
    """Its message came twice, or another worker took its lease too early."""
    run, queue = begun(1)
    other = Worker(60)
    other.sign(run.store)
    assert attempts.begin(run.store, "first", 0, other) is None
    assert drain(queue) == 1 and records(run, 0) is None
    run.store.delete(["receipts/first/0.json"])
    attempts.begin(run.store, "first", 0, other)
    other.leave(run.store)
    queue.put([(run.path, "first", 0)])
    assert drain(queue) == 1 and records(run, 0)["counts"] == {"death": 1}
    assert not run.store.names("workers/")


def poison(folder):
    """Return files that are not messages of flysoma, by name."""
    body = {"payload": [["os", "system"], ["touch /tmp/flysoma-was-here"], {}, 0], "queueName": "q"}
    ours = messages.FUNCTION
    odd = {
        "foreign function": body,
        "keyword arguments": {"payload": [ours, ["run", "first", 0], {"x": 1}]},
        "index is text": {"payload": [ours, ["run", "first", "0"], {}]},
        "too few arguments": {"payload": [ours, ["run"], {}]},
        "no payload": {"hello": 1},
        "a list": [1, 2],
        "no such stage": {"payload": [ours, [f"{folder}/run", "../../x", 0], {}]},
        "not in the plan": {"payload": [ours, [f"{folder}/run", "first", 99], {}]},
        "no such run": {"payload": [ours, [f"{folder}/nowhere", "first", 0], {}]},
        "no such protocol": {"payload": [ours, ["ftp://x/y", "first", 0], {}]},
        "a stage that has not begun": {"payload": [ours, [f"{folder}/run", "second", 0], {}]},
    }
    files = {}
    for number, body in enumerate(odd.values()):
        ident = f"00000000-0000-0000-0000-{number:012d}"
        if isinstance(body, dict):
            body["id"] = ident
        files[f"0--{ident}.json"] = json.dumps(body).encode()
    files |= {
        "0--00000000-0000-0000-0000-00000000dead.json": b'{"payload": [',
        "0--00000000-0000-0000-0000-00000000beef.json": b"\xff\xfe\x00",
        "notes.txt": b"hello",
        "x--y--z.json": b"{}",
        ".hidden": b"",
    }
    return files


def test_poison_is_put_aside_and_never_executed(begun, tmp_path):
    run, queue = begun(5)
    files = poison(tmp_path)
    old = time.time() - 60
    for name, body in files.items():
        path = tmp_path / "queue/queue" / name
        path.write_bytes(body)
        os.utime(path, (old, old))
    assert drain(queue) == 5
    aside = {name.partition("--")[2] or name for name in os.listdir(tmp_path / "queue/quarantine")}
    assert aside == {name.partition("--")[2] or name for name in files}
    assert not Path("/tmp/flysoma-was-here").exists()


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parents[1] / "toy_stages.py"), *arguments]
    )


def test_on_sigterm_a_task_in_hand_is_finished(begun):
    run, queue = begun(3, _0=["sleep", 2], _1=["sleep", 2], _2=["sleep", 2])
    worker = start("work", queue.url)
    wait_until(lambda: run.store.names("executions/"))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == TERMINATED
    assert len(run.store.names("receipts/")) == 1 and not run.store.names("running/")
    assert drain(queue) == 2  # the others were free at once


def test_what_takes_longer_than_the_grace_is_given_back(begun):
    run, queue = begun(1, _0=["sleep", 30])
    worker = start("work", queue.url, "grace_s", "0.5")
    wait_until(lambda: run.store.names("executions/"))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == TERMINATED
    assert not run.store.names("receipts/") and not run.store.names("running/")
    assert queue.lease(10) is not None


def test_a_lease_is_renewed_while_the_worker_lives(begun):
    run, queue = begun(1, _0=["sleep", 8])
    workers = [start("work", queue.url, "lease_s", "3") for _ in range(2)]
    wait_until(lambda: run.store.names("receipts/"))
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=20) == TERMINATED
    assert executions(run, 0) == 1


def test_a_frozen_workers_task_is_done_by_another_and_thawing_changes_nothing(begun):
    run, queue = begun(1, _0=["sleep", 3])
    frozen = start("work", queue.url, "lease_s", "3")
    wait_until(lambda: run.store.names("executions/"))
    frozen.send_signal(signal.SIGSTOP)
    other = start("work", queue.url, "lease_s", "3")
    wait_until(lambda: run.store.names("receipts/"))
    frozen.send_signal(signal.SIGCONT)
    time.sleep(4)
    for worker in (frozen, other):
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=20) == TERMINATED
    assert executions(run, 0) == 2 and len(run.store.names("receipts/")) == 1
    assert run.store.get("out/0") == b"result of 0" and queue.is_empty()


def test_a_worker_that_dies_is_remembered_and_its_task_done(begun):
    run, queue = begun(2, _1=["exit", 1])
    worker = start("work", queue.url, "lease_s", "3")
    assert worker.wait(timeout=60) == 9
    time.sleep(3.5)
    drain(queue)
    assert run.store.indices("receipts/first") == {0, 1}
    assert records(run, 1)["counts"] == {"death": 1}


def test_a_worker_that_is_too_large_restarts(begun):
    """The limit is below the memory of any process, so that the worker restarts after every task."""
    run, queue = begun(3)
    worker = start("work", queue.url, "max_memory_gb", "0.01")
    try:
        wait_until(lambda: len(run.store.names("receipts/")) == 3)
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait()


def test_a_store_that_fails_kills_no_worker(begun, monkeypatch):
    """The failure cannot be recorded either; the task is done once the store works again."""
    run, queue = begun(2)
    real, calls = attempts.begin, []

    def begin(*arguments):
        calls.append(arguments)
        if len(calls) < 4:
            raise ConnectionError("the store is unavailable")
        return real(*arguments)

    monkeypatch.setattr(attempts, "begin", begin)
    monkeypatch.setattr(attempts, "fail", begin)
    assert drain(queue) == 2


def test_a_store_that_fails_after_the_receipt_kills_no_worker(begun, monkeypatch):
    run, queue = begun(2)

    def delete(self, paths):
        raise ConnectionError("the store is unavailable")

    monkeypatch.setattr(RunStore, "delete", delete)
    worker = make_worker(queue, lease_s=3, until_empty=True)
    assert worker.run() == 2 and queue.is_empty()  # the second time the receipts are there


def test_metrics_count_what_was_done(begun):
    run, queue = begun(3, _1=["raise", "UserError"])
    worker = make_worker(queue, until_empty=True)
    worker.run()
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in worker.metrics.registry.collect()
        for sample in family.samples
    }
    assert values[("flysoma_tasks_done_total", "first")] == 2
    assert values[("flysoma_tasks_failed_total", "first", "request")] == 3
    assert values[("flysoma_voxels_total", "first")] == 2
    assert ("flysoma_seconds_total", "first", "work") in values
