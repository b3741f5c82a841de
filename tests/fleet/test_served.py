"""A worker serves the runs that it was told of; a message that names another is put aside, and nothing is asked."""

import http.server
import os
import threading

import pytest
from five_balls import flysoma
from test_worker import drain
from toy_stages import toy_run

from flysoma.errors import UserError
from flysoma.tasks.coordination import coordinator
from flysoma.tasks.fleet.queues import open_queue
from flysoma.tasks.fleet.served import NotATask, ServedRuns
from flysoma.tasks.stages.catalog import state_path

pytestmark = pytest.mark.usefixtures("toys")


def serves(served, run):
    try:
        served.check(run)
    except NotATask:
        return False
    return True


@pytest.mark.parametrize("prefix", ["gs://b/somas", "gs://b/somas/", "precomputed://gs://b/somas"])
def test_a_prefix_is_a_run_or_a_folder_of_runs(prefix):
    served = ServedRuns("sqs://q", [prefix])
    assert serves(served, "gs://b/somas") and serves(served, "gs://b/somas/run1")
    for other in ("gs://b/somas2", "gs://b", "s3://b/somas/run1", "file:///b/somas", "b/somas"):
        assert not serves(served, other)
    for inside in ("gs://b/somas/../secret", "gs://b/somas/./x", "gs://b/somas/.."):
        assert not serves(served, inside)


def test_several_prefixes_and_local_ones(tmp_path):
    served = ServedRuns("sqs://q", [str(tmp_path), "s3://b"])
    assert serves(served, f"file://{tmp_path}/run") and serves(served, "s3://b/x")
    assert not serves(served, "s3://http://127.0.0.1/b/x") and not serves(served, "file:///etc")


@pytest.mark.parametrize("prefix", ["gs://", "s3:///", "/"])
def test_a_prefix_without_a_bucket_or_folder_is_refused(prefix):
    with pytest.raises(UserError, match="at least a bucket"):
        ServedRuns("sqs://q", [prefix])


@pytest.fixture
def places(tmp_path):
    """The folder of a queue and that of a run."""
    queue, run = tmp_path / "queue", tmp_path / "run"
    queue.mkdir()
    run.mkdir()
    (run / "config.yaml").touch()
    return queue, run


def test_without_runs_a_file_queue_serves_local_runs_of_its_owner(places, tmp_path):
    queue, run = places
    served = ServedRuns(f"fq://{queue}")
    assert serves(served, f"file://{run}")
    for other in (f"file://{tmp_path}/nowhere", str(run), "gs://b/run", "http://127.0.0.1/run"):
        assert not serves(served, other)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_without_runs_a_file_queue_serves_nobody_elses_run(places, tmp_path):
    queue, run = places
    served = ServedRuns(f"fq://{queue}")
    os.chown(run / "config.yaml", 12_345, 12_345)  # as in a folder that all may write to
    assert not serves(served, f"file://{run}")
    os.chown(run, 12_345, 12_345)
    assert not serves(served, f"file://{run}")
    assert serves(ServedRuns(f"fq://{queue}", [str(tmp_path)]), f"file://{run}")
    os.chown(queue, 12_345, 12_345)
    assert serves(served, f"file://{run}")


def test_an_sqs_queue_needs_runs():
    done = flysoma("work", "sqs://anything")
    assert done.returncode == 2 and "--runs" in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture
def server():
    """A host that counts requests; yields its URL and the list of requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_PUT = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


def test_a_message_sends_no_request_and_no_key_to_a_host_that_it_names(
    server, tmp_path, monkeypatch
):
    url, requests = server
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "planted")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    queue = open_queue(f"fq://{tmp_path}/queue")
    queue.put((run, "first", 0) for run in (f"{url}/meta-data", f"s3://{url}/b/run", "file:///etc"))
    assert drain(queue) == 0 and queue.is_empty() and not requests
    assert len(os.listdir(tmp_path / "queue/quarantine")) == 3


def test_a_worker_does_its_runs_and_no_other(tmp_path):
    queue = open_queue(f"fq://{tmp_path}/queue")
    for name in ("mine", "other"):
        run = toy_run(tmp_path / name, 2)
        run.store.put_json(state_path("first"), {"total": 2, "started": 1.0})
        queue.put((run.path, "first", index) for index in range(2))
    assert drain(queue, runs=(str(tmp_path / "mine"),)) == 2 and queue.is_empty()
    assert not (tmp_path / "other/executions").exists()


def test_a_coordinator_tells_its_workers_their_run(tmp_path, monkeypatch):
    class Started(Exception):
        pass

    def start(command, **_):
        assert command[command.index("--runs") + 1] == f"file://{tmp_path}/run"
        raise Started

    monkeypatch.setattr(coordinator.subprocess, "Popen", start)
    with pytest.raises(Started):
        options = coordinator.RunOptions()
        coordinator.execute_run(toy_run(tmp_path / "run", 1), options, lambda *_: None, print)
