"""A small web server that gives layers on this machine's disk to neuroglancer in this machine's browser.

Files that were written compressed lie as NAME.gz or NAME.br; a request for NAME gets them with the right
Content-Encoding. A range of a file that neuroglancer asks for (sharded and multi-resolution data) is served.
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
    """Serves a folder on 127.0.0.1 until `close`; also a context manager.

    Attributes:
      url: such as http://127.0.0.1:40123, without a slash at the end.
    """

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        root = Path(folder).resolve()
        if not root.is_dir():
            raise UserError(f"cannot serve {folder}: there is no such folder")

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
        """Stop serving; a second call does nothing."""
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
    """Serve a folder of precomputed layers on the loopback interface; port 0 takes a free one.

    Raises UserError when the folder does not exist or the port is taken.
    """
    return LayerServer(folder, port)


class _Handler(BaseHTTPRequestHandler):
    served: Path
    protocol_version = "HTTP/1.1"
    server_version = "flysoma"
    sys_version = ""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the browser closed while nothing was asked
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
        found = self._find()
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        path, encoding = found
        try:
            if encoding and "Range" in self.headers:  # positions are those of the plain bytes
                data = _plain(path.read_bytes(), encoding)
                self._send(io.BytesIO(data), len(data), None, with_body)
                return
            with open(path, "rb") as file:
                self._send(file, os.fstat(file.fileno()).st_size, encoding, with_body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the browser moved on
        except OSError as err:
            _log.warning("cannot serve %s: %s", path, err)
            self._refuse(HTTPStatus.NOT_FOUND)

    def _find(self) -> tuple[Path, str | None] | None:
        """The file behind the request and how it is encoded; None when there is none inside the folder."""
        name = unquote(urlsplit(self.path).path).lstrip("/")
        if "\0" in name:
            return None
        for suffix, encoding in (("", None), *_ENCODINGS):
            try:
                path = (self.served / (name + suffix)).resolve()
                if path.is_relative_to(self.served) and path.is_file():
                    return path, encoding
            except OSError:  # a name too long for the disk
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
        """First byte and one past the last that are asked for; None when there are no such bytes."""
        wanted = _RANGE.match(self.headers.get("Range", "").strip())
        if wanted is None or not any(wanted.groups()):
            return 0, size
        first, last = wanted.groups()
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
        """Missing chunks are usual, so requests are only for who debugs."""
        _log.debug(format, *args)


def _plain(data: bytes, encoding: str) -> bytes:
    """Decompressed bytes; raises OSError when they are damaged or nothing here can decode them."""
    if encoding == "gzip":
        try:
            return gzip.decompress(data)
        except (EOFError, zlib.error) as err:
            raise OSError(f"damaged gzip: {err}") from err
    try:
        import brotli
    except ImportError as err:
        raise OSError("a range of a .br file needs the package brotli") from err
    try:
        return bytes(brotli.decompress(data))
    except brotli.error as err:
        raise OSError(f"damaged brotli: {err}") from err
