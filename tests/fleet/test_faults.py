"""Whose fault an error is, and what follows: for a worker, a run, and the exit code of a command."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import botocore.exceptions
import google.api_core.exceptions
import google.auth.exceptions
import pytest
import requests
import torch
import toy_stages
import urllib3
from test_coordinator import silent
from test_worker import begun, drain, executions, make_worker, records, start  # noqa: F401
from toy_stages import toy_run, wait_until

from flysoma.errors import HostError, TasksFailed, UserError
from flysoma.scripts import cli
from flysoma.tasks import faults
from flysoma.tasks.coordination import coordinator
from flysoma.tasks.coordination.coordinator import RunOptions, execute_run
from flysoma.tasks.coordination.verdict import Verdict
from flysoma.tasks.faults import Fault
from flysoma.tasks.fleet import attempts, patience, served, worker
from flysoma.tasks.fleet.queues import open_queue
from flysoma.tasks.fleet.sick_hosts import host, sick_hosts
from flysoma.tasks.fleet.status import status
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers import precomputed
from flysoma.tasks.layers.image import ImageLayer

pytestmark = pytest.mark.usefixtures("toys")


def aws(status, code=""):
    response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}
    return botocore.exceptions.ClientError(response, "GetObject")


def http(status):
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(response=response)


def os_error(number, path=None):
    return OSError(number, os.strerror(number), path)


def because_of(cause, error=RuntimeError):
    """An error of a library with the cause that it was raised from."""
    found = error("something failed")
    found.__cause__ = cause
    return found


ERRORS = {
    "a mistake": (UserError("x"), "request"),
    "a bug": (ValueError("CUDA error, timeout, No space left on device"), "error"),
    "no bucket": (aws(404, "NoSuchBucket"), "request"),
    "AWS forbids": (aws(403, "AccessDenied"), "access"),
    "AWS's token is old": (aws(400, "ExpiredToken"), "access"),
    "AWS is busy": (aws(400, "Throttling"), "store"),
    "AWS fails": (aws(503), "store"),
    "no keys": (botocore.exceptions.NoCredentialsError(), "access"),
    "AWS is away": (botocore.exceptions.EndpointConnectionError(endpoint_url="x"), "store"),
    "AWS is slow": (botocore.exceptions.ReadTimeoutError(endpoint_url="x"), "store"),
    "Google forbids": (google.api_core.exceptions.Forbidden("x"), "access"),
    "Google fails": (google.api_core.exceptions.ServiceUnavailable("x"), "store"),
    "no account": (google.auth.exceptions.DefaultCredentialsError("x"), "access"),
    "the metadata server is slow": (google.auth.exceptions.TransportError("x"), "access"),
    "a site fails": (http(502), "store"),
    "a site forbids": (http(403), "access"),
    "a reset": (ConnectionResetError(), "store"),
    "a timeout": (TimeoutError(), "store"),
    "a timeout of requests": (requests.ReadTimeout(), "store"),
    "a half answer": (urllib3.exceptions.ProtocolError("x"), "store"),
    "a timeout below": (because_of(requests.ReadTimeout()), "store"),
    "a stale file handle": (os_error(errno.ESTALE), "store"),
    "too many files": (os_error(errno.EMFILE), "machine"),
    "no memory": (os_error(errno.ENOMEM), "machine"),
    "no room in /tmp": (os_error(errno.ENOSPC, "/tmp/x"), "machine"),
    "no permission in /dev/shm": (os_error(errno.EACCES, "/dev/shm/x"), "machine"),
    "no room in the run": (os_error(errno.ENOSPC, "/tmp/run/x"), "request"),
    "no room elsewhere": (os_error(errno.EDQUOT, "/data/x"), "request"),
    "a GPU": (torch.AcceleratorError("x"), "machine"),
    "a GPU below": (because_of(torch.AcceleratorError("x")), "machine"),
    "memory of a GPU": (torch.OutOfMemoryError("x"), "memory"),
    "this machine": (HostError("x"), "machine"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_whose_fault_it_is(name):
    err, kind = ERRORS[name]
    fault = Fault.of(err, "file:///tmp/run")
    assert fault.kind == kind
    assert fault.text and "\n" not in fault.text


def test_for_a_command_every_folder_is_the_users():
    assert Fault.of(os_error(errno.ENOSPC, "/tmp/x")).rule.exit_code == 2


@pytest.mark.parametrize("full", [True, False])
def test_a_write_that_names_no_file_is_the_hosts_fault_if_its_disk_is_full(full, monkeypatch):
    monkeypatch.setattr(faults, "_is_full", lambda folder: full)
    fault = Fault.of(os_error(errno.ENOSPC), "gs://bucket/run")
    assert fault.kind == ("machine" if full else "request")


def test_a_fault_of_the_host_is_not_counted_and_the_worker_retires(begun, monkeypatch):  # noqa: F811
    run, queue = begun(3, **{f"_{index}": ["raise", "EMFILE"] for index in range(3)})
    one = make_worker(queue)
    one.run()
    assert one.retired.kind == "machine" and len(run.store.names("executions/")) == 3
    assert not run.store.names("failures/") and not run.store.names("running/")
    assert sick_hosts(run.store)[host()]["kind"] == "machine"
    run.store.put_json("toy.json", {"tasks": 3})
    assert drain(queue) == 3  # they are back
    assert not sick_hosts(run.store)


def test_a_new_machine_waits_for_its_credentials(begun, monkeypatch):  # noqa: F811
    """A worker with patience goes on after more faults in a row than it otherwise endures."""
    run, queue = begun(1)
    real, calls = attempts.begin, []

    def begin(*arguments):
        calls.append(arguments)
        if len(calls) < 8:
            raise google.auth.exceptions.TransportError("the metadata server is slow")
        return real(*arguments)

    monkeypatch.setattr(attempts, "begin", begin)
    assert drain(queue) == 1 and not run.store.names("failures/")


def seen_by(hosts, last=True):
    failure = {"kind": "request", "error": "as requested", "last": last, "hosts": hosts}
    return failure | {"counts": {"request": 3}}


def verdict_of(run, failure):
    return Verdict(toy_stages.First(run), 3, 0.05), {1: failure}


@pytest.mark.parametrize("hosts", [["a", "b"], [host()], [host(), "a"]])
def test_a_fault_of_the_request_that_two_hosts_or_this_one_have_seen_ends_the_stage(
    tmp_path, hosts
):
    verdict, failed = verdict_of(toy_run(tmp_path / "run", 3), seen_by(hosts, last=False))
    assert isinstance(verdict.reached(failed, 3), UserError)


def test_a_fault_of_the_request_that_the_coordinator_sees_ends_the_stage(tmp_path, monkeypatch):
    def read(self, index):
        raise UserError("a chunk is missing")

    monkeypatch.setattr(toy_stages.First, "read", read)
    verdict, failed = verdict_of(toy_run(tmp_path / "run", 3), seen_by(["a"]))
    with pytest.raises(UserError, match="as requested"):
        verdict.doubted(failed)


def test_a_fault_of_the_request_that_only_its_host_sees_is_tried_again(tmp_path):
    """After some rounds there is no other host, and the task has failed."""
    verdict, failed = verdict_of(toy_run(tmp_path / "run", 3), seen_by(["a"]))
    assert verdict.doubted(failed) == {1}
    assert verdict.doubted({1: seen_by(["a"], last=False)}) == set()
    assert [verdict.doubted(failed) for _ in range(3)] == [{1}, {1}, set()]
    assert isinstance(verdict.reached(failed, 1), TasksFailed)


def test_messages_that_are_put_aside_again_and_again_end_the_run(tmp_path, monkeypatch):
    """Workers that do not see the run."""
    run = toy_run(tmp_path / "run", 2)
    queue = f"fq://{tmp_path}/queue"
    opened = open_queue(queue)
    monkeypatch.setattr(type(opened), "settles_s", 0.0)
    monkeypatch.setattr(type(opened), "is_empty", lambda self: self.purge() or True)
    with pytest.raises(UserError, match="do not see .*/run: 5 times"):
        execute_run(run, RunOptions(gpu=queue, workers=0), silent, silent)
    (first, _) = status(run)
    assert first["lost"] == 6 and "do not see" in first["halted"]


def test_a_coordinator_waits_while_the_store_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(patience.attempts, "pause_s", lambda times: 0.0)
    run, said = toy_run(tmp_path / "run", 0), []
    real, calls = toy_stages.First.plan, []

    def plan(self):
        calls.append(self)
        if len(calls) < 4:
            raise ConnectionError("the store is away")
        return real(self)

    monkeypatch.setattr(toy_stages.First, "plan", plan)
    options = RunOptions(gpu=f"fq://{tmp_path}/queue", workers=0, until="first")
    execute_run(run, options, silent, said.append)
    assert len(said) == 3 and all("the store is away" in text for text in said)


@pytest.mark.parametrize(
    ("err", "code"),
    [
        (TasksFailed("x"), 1),
        (UserError("x"), 2),
        (HostError("x"), 3),
        (requests.ConnectionError("x"), 4),
        (aws(403), 2),
    ],
)
def test_a_command_exits_with_the_code_of_the_fault_and_one_line(err, code, monkeypatch, capsys):
    def fail(**_):
        raise err

    monkeypatch.setattr(cli, "cli", fail)
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == code
    assert capsys.readouterr().err.count("\n") == 1


@pytest.fixture
def waiting_run(tmp_path, volume):
    """A coordinator without workers."""
    from five_balls import write_config

    output = tmp_path / "run"
    config = write_config(volume, tmp_path.name, 64, output=str(output))
    words = ["run", config, "--workers", "0", "--queue", f"fq://{tmp_path}/queue"]
    command = [sys.executable, "-P", "-m", "flysoma.scripts.cli", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until((output / "stages/predict.json").exists, 300)
    yield process, output
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_coordinator_which_gives_its_lock_back(waiting_run, number):
    process, output = waiting_run
    assert (output / "coordinator.json").exists()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number and "Traceback" not in said
    assert not (output / "coordinator.json").exists()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_run_whose_store_fails_does_not_keep_others_from_their_tasks(begun, monkeypatch, hangs):  # noqa: F811
    """Its messages come back later; meanwhile the worker does not wait, even if the store does not answer."""
    run, queue = begun(6)
    lost = toy_run(run.path.removeprefix("file://") + "-lost", 3)
    queue.put((lost.path, "first", index) for index in range(3))
    monkeypatch.setattr(attempts, "pause_s", lambda times: 3600.0)
    monkeypatch.setattr(served, "_ANSWER_S", 0.5)
    real, calls, over = served.open_store, [], threading.Event()

    def open_store(path):
        if path == lost.path:
            calls.append(path)
            if hangs:
                over.wait(60)
            raise requests.ConnectionError("no such host")
        return real(path)

    monkeypatch.setattr(served, "open_store", open_store)
    monkeypatch.setattr(
        worker, "open_store", lambda path: real(path) if hangs else open_store(path)
    )
    one = make_worker(queue)
    began = time.monotonic()
    thread = threading.Thread(target=one.run)
    thread.start()
    wait_until(lambda: len(run.store.names("receipts/first/")) == 6)
    one._end()
    thread.join()
    over.set()
    assert time.monotonic() - began < 30 and len(calls) < 4
    assert not queue.is_empty() and queue.lease(60) is None  # they wait for their time


@pytest.mark.parametrize("folder", ["failures", "receipts", "running", "hosts"])
def test_a_file_that_a_killed_writer_left_stops_nothing(begun, folder):  # noqa: F811
    run, queue = begun(2)
    for name in (".part-x1y2", ".part-7.json", "notes.json", "٣.json"):
        run.store.put(f"{folder}/first/{name}", b"{")
    assert drain(queue) == 2
    assert status(run)[0]["done"] == 2 and coordinator.retry(run, queue.url) == {}
    execute_run(run, RunOptions(gpu=queue.url, workers=0, until="first"), silent, silent)


def test_a_timeout_is_not_a_damaged_chunk(volume, monkeypatch):
    image = ImageLayer(f"{volume[0]}/em")

    def download(*_):
        raise requests.ReadTimeout("too slow")

    monkeypatch.setattr(precomputed, "_download", download)
    with pytest.raises(requests.ReadTimeout) as error:
        image.read(Box((20, 0, 40), (30, 10, 50)), (64, 64, 40))
    assert Fault.of(error.value).kind == "store"


def test_a_worker_of_another_version_does_none_of_a_runs_tasks(begun, monkeypatch):  # noqa: F811
    run, queue = begun(3)
    manifest = {"config_hash": "x", "image_info_sha256": "x", "image_sample_sha256": {}}
    manifest["weights_sha256"] = {"locate": "x", "segment": "x"}
    run.store.put_json("manifest.json", manifest | {"versions": {"flysoma": "0.0.9"}})
    one = make_worker(queue)
    one.run()
    assert "0.0.9" in one.retired.text and not run.store.names("failures/")
    assert not run.store.names("executions/") and not queue.is_empty()
