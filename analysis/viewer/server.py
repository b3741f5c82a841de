"""neuroglancer and the layers of a view, on one port of the loopback interface.

Each layer lies below a prefix that nobody can guess. Requests that name another host, which a web page causes by DNS
rebinding, and requests from pages of another origin are refused. Links are followed only inside of their layer.

Compressed files are stored as NAME.gz or NAME.br; a request for NAME returns them with the matching Content-Encoding.
Range requests, which neuroglancer makes for sharded and multi-resolution data, are supported.
"""

from __future__ import annotations

import gzip
import mimetypes
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from secrets import token_urlsafe
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tornado.web import ErrorHandler, HTTPError, StaticFileHandler

from ...errors import UserError

if TYPE_CHECKING:
    import neuroglancer

_HOST = "127.0.0.1"
_OTHER_HOSTS = r"(?!127\.0\.0\.1$).*$"
_OWN_HOST = r"127\.0\.0\.1$"
_ENCODINGS = {"": None, ".gz": "gzip", ".br": "br"}


class ViewServer:
    """Serves neuroglancer and layers on 127.0.0.1 until `close`; can be used as a context manager.

    A process has one server at a time, because neuroglancer has one.

    Args:
      port: 0 selects a free port.

    Attributes:
      origin: scheme, host and port, such as http://127.0.0.1:40123.

    Raises:
      UserError: the port is in use.
    """

    def __init__(self, port: int = 0) -> None:
        from neuroglancer import server

        server.set_server_bind_address(_HOST, bind_port=port)
        try:
            server.start()
        except OSError as err:
            raise UserError(
                f"cannot serve on port {port}: {err.strerror}; choose another with --port"
            ) from err
        self.origin: str = server.get_server_url()
        self._app = server.global_server.app
        self._app.add_handlers(_OTHER_HOSTS, [(".*", ErrorHandler, {"status_code": 403})])

    def add(self, folder: str | Path) -> str:
        """Serve the layer in a folder; return its URL without a trailing slash."""
        prefix = f"/{token_urlsafe(16)}"
        options = {"path": str(folder), "origin": self.origin}
        self._app.add_handlers(_OWN_HOST, [(f"{prefix}/(.*)", _LayerHandler, options)])
        return f"{self.origin}{prefix}"

    def open(self, state: dict[str, Any]) -> neuroglancer.Viewer:
        """Return a viewer that shows a state; `get_viewer_url()` is its URL, which nobody can guess either."""
        import neuroglancer

        viewer = neuroglancer.Viewer()
        viewer.set_state(neuroglancer.ViewerState(state))
        return viewer

    def close(self) -> None:
        """Stop the server; has no effect if it is stopped already."""
        from neuroglancer import server

        server.stop()

    def __enter__(self) -> ViewServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _LayerHandler(StaticFileHandler):
    """Serves the files of one layer to pages of its own origin."""

    def initialize(self, path: str, origin: str) -> None:  # type: ignore[override]
        super().initialize(path)
        self._origin = origin
        self._encoding: str | None = None
        self._plain: bytes | None = None  # the decompressed file, if a range of it is requested

    def prepare(self) -> None:
        if self.request.headers.get("Origin", self._origin) != self._origin:
            raise HTTPError(403)

    @classmethod
    def get_absolute_path(cls, root: str, path: str) -> str:
        return os.path.join(root, path)  # validate_absolute_path resolves and checks it

    def validate_absolute_path(self, root: str, absolute_path: str) -> str:
        found = _find(root, os.path.join(root, "info")) and _find(root, absolute_path)
        if found is None:
            raise HTTPError(404)
        file, self._encoding = found
        if self._encoding and "Range" in self.request.headers:
            try:
                self._plain = _decompress(Path(file).read_bytes(), self._encoding)
            except OSError as err:
                raise HTTPError(404) from err
        return file

    def get_content_size(self) -> int:
        return super().get_content_size() if self._plain is None else len(self._plain)

    def get_content(  # type: ignore[override]
        self, abspath: str, start: int | None = None, end: int | None = None
    ) -> bytes | Iterator[bytes]:
        if self._plain is not None:
            return self._plain[start:end]
        return super().get_content(abspath, start, end)

    def get_content_type(self) -> str:
        name = os.path.basename(self.path)
        if name in ("info", "provenance"):
            return "application/json"
        return mimetypes.guess_type(name)[0] or "application/octet-stream"

    def compute_etag(self) -> None:
        """Return none: it would read each file twice."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-cache")
        if self._encoding and self._plain is None:
            self.set_header("Content-Encoding", self._encoding)


def _find(root: str, path: str) -> tuple[str, str | None] | None:
    """Return the file at a path, compressed or not, and its encoding; None if the root holds no such file."""
    for suffix, encoding in _ENCODINGS.items():
        try:
            file = Path(path + suffix).resolve()
        except ValueError:  # a null character
            return None
        if file.is_relative_to(Path(root).resolve()) and os.path.isfile(file):
            return str(file), encoding
    return None


def _decompress(data: bytes, encoding: str) -> bytes:
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
