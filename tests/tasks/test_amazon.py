"""Keys of Amazon: permanent and temporary ones, from the environment or a file, reach S3 and SQS."""

import http.server
import json
import os
import threading

import boto3
import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from flysoma.errors import UserError
from flysoma.tasks.fleet.queues import open_queue
from flysoma.tasks.storage import amazon
from flysoma.tasks.storage.store import RunStore

KEYS = {"AWS_ACCESS_KEY_ID": "id-1", "AWS_SECRET_ACCESS_KEY": "secret"}
MISSING = b"<Error><Code>NoSuchKey</Code></Error>"
DENIED = b"<Error><Code>AccessDenied</Code></Error>"


@pytest.fixture
def requests(monkeypatch, tmp_path):
    """Headers of the requests to a stand-in for Amazon, which answers that there is no such object, or a queue."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            denied = self.path.startswith("/denied/")
            self._answer(403, DENIED) if denied else self._answer(404, MISSING)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(200, json.dumps({"QueueUrl": f"{url}/1/q"}).encode())

        def _answer(self, status, body):
            seen.append(self.headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    for name in (*KEYS, "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the keys that it found
    monkeypatch.setattr(amazon, "secretpath", lambda name: str(tmp_path / name))
    yield seen
    server.shutdown()
    server.server_close()


def ask(kind, bucket):
    """Send a request to a service."""
    if kind == "s3":
        assert RunStore(f"s3://{bucket}/run").get("config.yaml") is None
    else:
        open_queue("sqs://q")


@pytest.mark.parametrize("kind", ["s3", "sqs"])
@pytest.mark.parametrize("token", [None, "token-1"])
@pytest.mark.parametrize("source", ["environment", "file"])
def test_permanent_and_temporary_keys_are_used(
    kind, token, source, requests, monkeypatch, tmp_path
):
    keys = KEYS | ({"AWS_SESSION_TOKEN": token} if token else {})
    if source == "file":
        (tmp_path / "aws-secret.json").write_text(json.dumps(keys))
    else:
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
    ask(kind, f"{source}-{bool(token)}".lower())  # cloud-files keeps one client for each bucket
    (headers,) = requests
    assert "Credential=id-1/" in headers["Authorization"]
    assert "/us-east-1/" in headers["Authorization"]
    assert headers["X-Amz-Security-Token"] == token


@pytest.mark.parametrize("kind", ["s3", "sqs"])
def test_keys_that_come_late_are_found(kind, requests, monkeypatch):
    """A new machine gets them some minutes after its first request."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for _ in range(2):
        with pytest.raises(NoCredentialsError):
            ask(kind, "late")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    ask(kind, "late")
    assert len(requests) == 1


def test_what_is_denied_is_told_at_once_by_its_name(requests, monkeypatch):
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ClientError, match=r"\(http://127.0.0.1:\d+/denied/run/config.yaml\)"):
        RunStore("s3://denied/run").get("config.yaml")
    assert len(requests) == 1


def test_the_keys_of_a_bucket_precede_those_for_all(requests, tmp_path):
    (tmp_path / "aws-secret.json").write_text(json.dumps(KEYS))
    own = KEYS | {"AWS_ACCESS_KEY_ID": "id-2", "AWS_DEFAULT_REGION": "eu-west-1"}
    (tmp_path / "own-aws-secret.json").write_text(json.dumps(own))
    ask("s3", "own")
    assert "Credential=id-2/" in requests[0]["Authorization"]
    assert "/eu-west-1/" in requests[0]["Authorization"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "\xff"])
def test_a_damaged_file_of_keys_is_one_line(text, tmp_path, monkeypatch):
    monkeypatch.setattr(amazon, "secretpath", lambda name: str(tmp_path / name))
    (tmp_path / "aws-secret.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match="aws-secret.json is not a JSON file of AWS keys"):
        amazon.aws_credentials()
