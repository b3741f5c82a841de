"""Small objects under a run's path: receipts, failures, seeds, tables. On disk or in any bucket."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from cloudfiles import CloudFiles, secrets

from ..errors import UserError

_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
_NUMBERED = re.compile(r"(\d+)\.[a-z]+$")
_AT_ONCE = 1000  # objects asked for together
secrets.print = partial(print, file=sys.stderr)  # type: ignore[attr-defined]  # which keys it takes: no output of ours


def normalize_cloudpath(path: str) -> str:
    """`gs://..`, `s3://..`, `file:///..`, a plain folder, each with or without `precomputed://`.

    Local folders become absolute, so that workers started elsewhere agree. Raises UserError for other protocols, and
    for a path with a password in it.
    """
    bare = path.removeprefix("precomputed://").rstrip("/")
    if _PASSWORD.search(bare):
        raise UserError(
            f"{_PASSWORD.sub('//...@', path)}: a path is written into everything that a run makes; "
            "take the password out of it and keep it in cloud-volume's secrets"
        )
    protocol, found, rest = bare.partition("://")
    if not found:
        return "file://" + os.path.abspath(os.path.expanduser(bare))
    if protocol == "file":
        return "file://" + os.path.abspath(os.path.expanduser(rest))
    if protocol not in ("gs", "s3", "https", "http", "mem"):
        raise UserError(
            f"{path}: no such protocol '{protocol}://'; use a folder, file://, gs://, s3:// or https://"
        )
    return bare


def local_folder(cloudpath: str) -> str | None:
    """The folder behind a file:// path; None when the path lies in a bucket."""
    return cloudpath.removeprefix("file://") if cloudpath.startswith("file://") else None


def index_of(path: str) -> int:
    """The number N of .../N.json."""
    return int(path.rsplit("/", 1)[-1].removesuffix(".json"))


class RunStore:
    """Objects of one run, addressed by their path relative to it.

    One writer an object. Local objects are written beside and renamed, so a killed writer leaves none half done.
    """

    def __init__(self, cloudpath: str) -> None:
        self.cloudpath = normalize_cloudpath(cloudpath)
        self._files = CloudFiles(self.cloudpath, progress=False)
        self._folder = local_folder(self.cloudpath)

    def put(self, path: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Write one object whole; raises UserError when the place cannot be written."""
        self.put_many({path: data}, content_type)

    def put_many(
        self, objects: Mapping[str, bytes], content_type: str = "application/octet-stream"
    ) -> None:
        """Write objects, each whole; into a bucket many at a time."""
        path = next(iter(objects), "")
        try:
            if self._folder is None:
                named = list(objects.items())
                self._files.puts(named, content_type=content_type, cache_control="no-cache")
                return
            for path, data in objects.items():
                _write_whole(os.path.join(self._folder, path), data)
        except OSError as err:
            raise UserError(
                f"cannot write {path} under {self.cloudpath}: {err.strerror or err}; "
                "free some space or choose another output"
            ) from err

    def get(self, path: str) -> bytes | None:
        """An object's bytes, or None when there is none."""
        return self._files.get(path)  # type: ignore[return-value]

    def put_json(self, path: str, value: Any) -> None:
        text = json.dumps(value, indent=1, sort_keys=True, default=_plain)
        self.put(path, text.encode(), "application/json")

    def get_json(self, path: str) -> Any:
        """A JSON object, or None when it is absent or not whole."""
        return _parse(self.get(path))

    def put_arrays(self, path: str, arrays: Mapping[str, np.ndarray]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self.put(path, buffer.getvalue())

    def get_arrays(self, path: str) -> dict[str, np.ndarray] | None:
        data = self.get(path)
        return None if data is None else _arrays(data)

    def get_many(self, paths: Iterable[str]) -> dict[str, bytes | None]:
        """Objects' bytes by their paths; None where there is none."""
        if self._folder is not None:  # without the threads that hide a bucket's latency
            return {path: _read(os.path.join(self._folder, path)) for path in paths}
        paths = list(paths)
        return {item["path"]: item["content"] for item in self._files.get(paths)} if paths else {}

    def get_many_arrays(self, paths: Iterable[str]) -> Iterator[dict[str, np.ndarray]]:
        """What `put_arrays` wrote, of many objects in their order; none may be absent."""
        paths = list(paths)
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            found = self.get_many(some)
            for path in some:
                data = found[path]
                assert data is not None, f"{path} is gone though its task has a receipt"
                yield _arrays(data)

    def names(self, prefix: str) -> list[str]:
        """Paths of all objects below a prefix, sorted."""
        return sorted(self._files.list(prefix))

    def indices(self, folder: str) -> set[int]:
        """The numbers N for which FOLDER/N.ext exists."""
        found = (_NUMBERED.search(name) for name in self.names(folder.rstrip("/") + "/"))
        return {int(match.group(1)) for match in found if match}

    def get_jsons(self, paths: Iterable[str]) -> dict[str, Any]:
        """Many JSON objects at once; those absent or not whole are left out."""
        found = {path: _parse(data) for path, data in self.get_many(paths).items()}
        return {path: value for path, value in found.items() if value is not None}

    def delete(self, paths: Iterable[str]) -> None:
        paths = list(paths)
        if paths:
            self._files.delete(paths)


def _write_whole(path: str, data: bytes) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=folder, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _parse(data: bytes | None) -> Any:
    try:
        return None if data is None else json.loads(data)
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
