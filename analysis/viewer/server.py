"""A web server on the loopback interface for layers on the local disk.

Compressed files are stored as NAME.gz or NAME.br; a request for NAME returns them with the matching Content-Encoding.
Range requests, which neuroglancer makes for sharded and multi-resolution data, are supported.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import mimetypes
import os
import re
import shutil
import threading
import zlib
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from ...errors import UserError

_log = logging.getLogger(__name__)
_ENCODINGS = ((".gz", "gzip"), (".br", "br"))
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


class LayerServer:
    """Serves a folder on 127.0.0.1 until `close`; can be used as a context manager.

    Attributes:
      url: URL of the folder without a trailing slash, such as http://127.0.0.1:40123.
    """

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        root = Path(folder).resolve()
        if not root.is_dir():
            raise UserError(f"cannot serve {folder}: no such folder")

        class Handler(_Handler):
            served = root

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as err:
            raise UserError(
                f"cannot serve on port {port}: {err.strerror}; choose another with --port"
            ) from err
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop the server; has no effect if it is stopped already."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> LayerServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def serve(folder: str | Path, port: int = 0) -> LayerServer:
    """Serve a folder of precomputed layers on the loopback interface; port 0 selects a free port.

    Raises:
      UserError: the folder does not exist or the port is in use.
    """
    return LayerServer(folder, port)


class _Handler(BaseHTTPRequestHandler):
    served: Path
    protocol_version = "HTTP/1.1"
    server_version = "flysoma"
    sys_version = ""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the browser closed an idle connection
            super().handle()

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_OPTIONS(self) -> None:
        self._start(HTTPStatus.NO_CONTENT)
        self.send_header("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS")
        self.send_header("Access-Control-Allow-Headers", "Range")
        self.send_header("Access-Control-Max-Age", "86400")
        self.end_headers()

    def _answer(self, with_body: bool) -> None:
        file_and_encoding = self._find()
        if file_and_encoding is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        path, encoding = file_and_encoding
        try:
            if encoding and "Range" in self.headers:  # ranges refer to the decompressed file
                data = _plain(path.read_bytes(), encoding)
                self._send(io.BytesIO(data), len(data), None, with_body)
                return
            with open(path, "rb") as file:
                self._send(file, os.fstat(file.fileno()).st_size, encoding, with_body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser cancelled the request
        except OSError as err:
            _log.warning("cannot serve %s: %s", path, err)
            self._refuse(HTTPStatus.NOT_FOUND)

    def _find(self) -> tuple[Path, str | None] | None:
        """Return the requested file and its encoding; None if it does not exist inside of the folder."""
        name = unquote(urlsplit(self.path).path).lstrip("/")
        if "\0" in name:
            return None
        for suffix, encoding in (("", None), *_ENCODINGS):
            try:
                path = (self.served / (name + suffix)).resolve()
                if path.is_relative_to(self.served) and path.is_file():
                    return path, encoding
            except OSError:  # the name is too long for the file system
                return None
        return None

    def _send(self, file: BinaryIO, size: int, encoding: str | None, with_body: bool) -> None:
        span = self._range(size)
        if span is None:
            self._start(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, stop = span
        part = "Range" in self.headers and stop - first != size
        self._start(HTTPStatus.PARTIAL_CONTENT if part else HTTPStatus.OK)
        self.send_header("Content-Type", self._content_type())
        self.send_header("Content-Length", str(stop - first))
        self.send_header("Accept-Ranges", "bytes")
        if part:
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{size}")
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.end_headers()
        if with_body and part:
            file.seek(first)
            self.wfile.write(file.read(stop - first))
        elif with_body:
            shutil.copyfileobj(file, self.wfile)

    def _range(self, size: int) -> tuple[int, int] | None:
        """Return the first and the past-last requested byte; None if the range lies outside of the file."""
        requested = _RANGE.match(self.headers.get("Range", "").strip())
        if requested is None or not any(requested.groups()):
            return 0, size
        first, last = requested.groups()
        if not first:
            return (max(0, size - int(last)), size) if int(last) else None
        stop = min(int(last) + 1, size) if last else size
        return (int(first), stop) if int(first) < stop else None

    def _content_type(self) -> str:
        name = urlsplit(self.path).path.rsplit("/", 1)[-1]
        if name in ("info", "provenance"):
            return "application/json"
        return mimetypes.guess_type(name)[0] or "application/octet-stream"

    def _start(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Expose-Headers", "Content-Range, Content-Length")
        self.send_header("Cache-Control", "no-cache")

    def _refuse(self, status: HTTPStatus) -> None:
        self._start(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log requests at debug level, because missing chunks are expected."""
        _log.debug(format, *args)


def _plain(data: bytes, encoding: str) -> bytes:
    """Return the decompressed bytes; raise OSError if they are damaged or no decoder is installed."""
    if encoding == "gzip":
        try:
            return gzip.decompress(data)
        except (EOFError, zlib.error) as err:
            raise OSError(f"damaged gzip: {err}") from err
    try:
        import brotli
    except ImportError as err:
        raise OSError(
            "a range of a .br file needs the package brotli, which is not installed"
        ) from err
    try:
        return bytes(brotli.decompress(data))
    except brotli.error as err:
        raise OSError(f"damaged brotli: {err}") from err
