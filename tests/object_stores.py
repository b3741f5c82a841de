"""Buckets and queues on loopback: moto for S3 and SQS, an emulator of Google's storage; as a script, the latter."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

AWS = {
    "AWS_ACCESS_KEY_ID": "planted-id",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_SESSION_TOKEN": "planted-token",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def serving(command, port, path="/"):
    """A server as a process, from when it answers; yields its URL."""
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url + path, timeout=5).close()
                break
            assert server.poll() is None, f"{command} ended"
            time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def moto():
    """S3 and SQS; a context that yields the URL for AWS_ENDPOINT_URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    return serving(command, port, "/moto-api/")


def google():
    """Google's storage with a bucket `bucket`; a context that yields the URL for STORAGE_EMULATOR_HOST."""
    port = free_port()
    return serving([sys.executable, os.path.abspath(__file__), str(port)], port)


def serve_google(port):
    """gcp-storage-emulator with what it lacks: Content-Encoding, batches of GET, conditions, parallel requests."""
    import logging
    import threading
    from http import HTTPStatus
    from http.server import ThreadingHTTPServer

    from gcp_storage_emulator import server, storage
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import objects

    logging.disable(logging.CRITICAL)
    plain, plain_insert, one_at_a_time = objects.download, objects.insert, threading.Lock()

    def download(request, response, store):
        plain(request, response, store)
        names = request.params["bucket_name"], request.params["object_id"]
        with contextlib.suppress(NotFound):
            encoding = store.get_file_obj(*names).get("contentEncoding")
            if encoding:
                response["Content-Encoding"] = encoding

    def batch_get(request, item, store, bucket, name, meta, response):
        try:
            found = store.get_file_obj(bucket, name)
        except NotFound:
            return False
        objects._batch_write_json(response, "HTTP/1.1 200 OK", found)
        return True

    def insert(request, response, store):
        """Write an object if its generation is the one of the request."""
        wanted = request.query.get("ifGenerationMatch")
        if wanted is None:
            return plain_insert(request, response, store)
        with one_at_a_time:
            try:
                bucket, name = request.params["bucket_name"], request.data["meta"]["name"]
                there = store.get_file_obj(bucket, name)["generation"]
            except NotFound:
                there = "0"
            if there != wanted[0]:
                response.status = HTTPStatus.PRECONDITION_FAILED
                return None
            return plain_insert(request, response, store)

    replaced = {plain: download, plain_insert: insert}
    objects.download = download
    objects._BATCH_METHOD_HANDLERS["GET"] = batch_get
    server.HANDLERS = tuple(
        (path, {verb: replaced.get(found, found) for verb, found in verbs.items()})
        for path, verbs in server.HANDLERS
    )
    server.server.HTTPServer = ThreadingHTTPServer
    storage.Storage._write_config_to_file = lambda self: None  # all objects at every write
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").run()


if __name__ == "__main__":
    serve_google(int(sys.argv[1]))
