"""A machine that is sick, and credentials that come late, with toy stages: no attempt is counted, no byte differs."""

import contextlib
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest
from chaos.test_chaos import small_disk
from object_stores import AWS, moto
from toy_stages import toy_run

from flysoma.tasks.faults import RETIRED_CODE
from flysoma.tasks.fleet.sick_hosts import host, sick_hosts
from flysoma.tasks.fleet.status import status

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("toys"), pytest.mark.timeout(600)]

TASKS = 6
LATE_S = 6.0


def assert_complete(run):
    """Assert that the run ended as one on healthy machines does."""
    assert [row["done"] for row in status(run)] == [TASKS, 1]
    for index in range(TASKS):
        assert run.store.get(f"out/{index}") == f"result of {index}".encode()
    assert not run.store.names("failures/") and not run.store.names("running/")


@contextlib.contextmanager
def full_tmp(folder):
    """The environment of a machine without space for temporary files."""
    with small_disk(folder) as disk:
        if disk is None:
            pytest.skip("mounting a disk is not permitted here")
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        yield {"TMPDIR": str(disk)}


@contextlib.contextmanager
def sick_device(_):
    """The environment of a machine whose GPU fails at every task."""
    yield {"TOY_DEVICE": "sick"}


@pytest.mark.parametrize(
    ("action", "sickness"),
    [("scratch", full_tmp), ("device", sick_device)],
    ids=["scratch", "device"],
)
def test_a_sick_machine_retires_and_others_do_its_tasks(action, sickness, tmp_path, start_toy):
    actions = {f"_{index}": [action] for index in range(TASKS)}
    run, queue = toy_run(tmp_path / "run", TASKS, **actions), f"fq://{tmp_path}/queue"
    coordinator = start_toy("run", queue, run.path)
    with sickness(tmp_path / "disk") as environment:
        assert start_toy("work", queue, **environment).wait(timeout=300) == RETIRED_CODE
    assert sick_hosts(run.store)[host()]["kind"] == "machine"
    assert not run.store.names("out/") and not run.store.names("failures/")
    start_toy("work", queue)
    assert coordinator.wait(timeout=300) == 0
    assert_complete(run)
    assert not sick_hosts(run.store)


@pytest.fixture
def late_credentials():
    """A metadata server that gives credentials, at first too late; its URL and the times of what it answered late."""
    late = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if not late or time.monotonic() - late[0] < LATE_S:
                late.append(time.monotonic())
                time.sleep(2)  # clients wait for a second
            keys = {"AccessKeyId": "id", "SecretAccessKey": "secret", "Token": "token"}
            keys |= {"Code": "Success", "Expiration": "2099-01-01T00:00:00Z"}
            folder = self.path.endswith("/security-credentials/")
            body = b"role" if folder or self.command == "PUT" else json.dumps(keys).encode()
            with contextlib.suppress(OSError):  # nobody waits any more
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_PUT = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", late
    server.shutdown()
    server.server_close()


def test_a_metadata_server_that_answers_late_only_delays_a_run(
    tmp_path, start_toy, late_credentials, monkeypatch
):
    url, late = late_credentials
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with moto() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        boto3.client("s3").create_bucket(Bucket="late")
        run = toy_run("s3://late/run", TASKS)
        fresh = dict.fromkeys(set(AWS) - {"AWS_DEFAULT_REGION"}, "")
        fresh |= {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url, "AWS_EC2_METADATA_DISABLED": ""}
        fresh |= {"HOME": str(tmp_path), "AWS_PROFILE": "", "AWS_CONFIG_FILE": os.devnull}
        fresh |= {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        words = f"fq://{tmp_path}/queue"
        start_toy("work", words, "runs", run.path, **fresh)
        coordinator = start_toy("run", words, run.path, **fresh)
        assert coordinator.wait(timeout=300) == 0
        assert len(late) > 1
        assert_complete(run)
