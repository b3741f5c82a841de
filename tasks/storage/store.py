"""The store of a run: small objects such as receipts, seeds and tables, on disk or in a bucket."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from cloudfiles import CloudFiles, secrets
from cloudfiles.exceptions import UnsupportedProtocolError
from cloudfiles.paths import extract

from ...errors import UserError
from ..faults import Fault, Whose
from . import amazon, web  # noqa: F401  cloud-files uses their credentials and timeouts
from .damage import DamagedObject
from .links import guard
from .sealed import seal, seal_record, to_json, unseal, unseal_record
from .versions import PART, Version, Versions, versions, write_atomically

_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBERED = re.compile(r"([0-9]{1,18})\.[a-z]+")
_BATCH = 1000  # objects per request for many
secrets.print = partial(print, file=sys.stderr)  # type: ignore[attr-defined]  # it prints which keys it takes; stdout is ours


def normalize_cloudpath(path: str) -> str:
    """Normalize `gs://..`, `s3://..`, `file:///..` or a plain folder, each with or without `precomputed://`.

    Local folders become absolute, so that the path is valid in workers with another working directory.

    Raises:
      UserError: another protocol, an empty path, or one that contains a password or a control character.
    """
    bare = path.removeprefix("precomputed://")
    if _CONTROL.search(bare):
        raise UserError(f"{path!r} holds a control character; choose a path without it")
    if _PASSWORD.search(bare):
        raise UserError(
            f"{_PASSWORD.sub('//...@', path)}: a path is written into everything that a run makes; "
            "take the password out of it and keep it in cloud-volume's secrets"
        )
    protocol, separator, rest = bare.partition("://")
    if not separator:
        protocol, rest = "file", bare
    if not rest or (protocol != "file" and not rest.strip("/")):
        raise UserError(f"'{path}' is not a path; use a folder, file://, gs://, s3:// or https://")
    if protocol == "file":
        return "file://" + os.path.abspath(os.path.expanduser(rest))
    if protocol not in ("gs", "s3", "https", "http", "mem"):
        raise UserError(
            f"{path}: no such protocol '{protocol}://'; use a folder, file://, gs://, s3:// or https://"
        )
    try:
        urlsplit(bare).port  # noqa: B018  raises ValueError
        extract(bare)
    except (ValueError, UnsupportedProtocolError) as err:
        raise UserError(f"{path} is not a valid address or name of a bucket; correct it") from err
    return bare.rstrip("/")


def writable_cloudpath(path: str) -> str:
    """Normalize the path of something to write. Raises UserError if nothing can be kept there for other processes."""
    cloudpath = normalize_cloudpath(path)
    if cloudpath.startswith(("http://", "https://", "mem://")):
        raise UserError(f"{path} cannot be written and shared; give a folder, gs:// or s3://")
    if cloudpath == "file:///":
        raise UserError(f"{path} is the root of the file system; choose a folder in it")
    return cloudpath


def local_folder(cloudpath: str) -> str | None:
    """Return the folder of a file:// path; None for a path in a bucket."""
    return cloudpath.removeprefix("file://") if cloudpath.startswith("file://") else None


def index_of(path: str) -> int:
    """Return the number N of .../N.json."""
    return int(path.rsplit("/", 1)[-1].removesuffix(".json"))


class RunStore:
    """The objects of one run, addressed by their path relative to it.

    Each object has one writer. A local object is written to a temporary file and renamed, so a writer that is killed
    leaves no partial object. JSON objects are flushed to the disk too. Other objects are not, because that is slow: if
    a power failure loses one, its checksum tells, and its task is done again.
    """

    def __init__(self, cloudpath: str) -> None:
        self.cloudpath = normalize_cloudpath(cloudpath)
        self._files = CloudFiles(self.cloudpath, progress=False)
        self._folder = local_folder(self.cloudpath)
        if self._folder is not None:
            guard(self._folder)

    @cached_property
    def _versions(self) -> Versions:
        return versions(self.cloudpath)

    def put(self, path: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Write one object. Raises UserError if it cannot be written."""
        self.put_many({path: data}, content_type)

    def read_version(self, path: str) -> Version | None:
        """Return an object with its tag and its age; None if it does not exist."""
        return self._versions.read(path)

    def put_version(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Write an object if it still has this tag, or, without a tag, if it does not exist.

        Returns:
          The tag of what was written; None if another process was first.
        """
        return self._versions.write(path, data, tag)

    def put_many(
        self, objects: Mapping[str, bytes], content_type: str = "application/octet-stream"
    ) -> None:
        """Write objects, several at a time in a bucket. Raises UserError if one cannot be written."""
        path = next(iter(objects), "")
        try:
            if self._folder is None:
                named = list(objects.items())
                self._files.puts(named, content_type=content_type, cache_control="no-cache")
                return
            for path, data in objects.items():
                write_atomically(os.path.join(self._folder, path), data, path.endswith(".json"))
        except OSError as err:
            if Fault.of(err).whose is not Whose.REQUEST:  # a lost connection, for instance
                raise
            raise UserError(
                f"cannot write {path} under {self.cloudpath}: {err.strerror or err}; "
                "free some space or choose another output"
            ) from err

    def get(self, path: str) -> bytes | None:
        """Return an object's bytes; None if it does not exist."""
        return self._files.get(path)  # type: ignore[return-value]

    def put_json(self, path: str, value: Any) -> None:
        """Write a value, which may hold numpy numbers and arrays, as JSON."""
        self.put(path, to_json(value), "application/json")

    def get_json(self, path: str) -> Any:
        """Return a JSON object; None if it does not exist or is not valid."""
        return _parse(self.get(path))

    def put_record(self, path: str, record: dict[str, Any]) -> None:
        """Write a dictionary as JSON with a checksum."""
        self.put(path, seal_record(record), "application/json")

    def get_record(self, path: str) -> dict[str, Any] | None:
        """Return a dictionary that `put_record` wrote; None if it does not exist or has changed since."""
        return self.get_records([path]).get(path)

    def get_records(self, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return dictionaries that `put_record` wrote, by path, without those that do not exist or have changed."""
        records = {path: unseal_record(data or b"") for path, data in self.get_many(paths).items()}
        return {path: record for path, record in records.items() if record is not None}

    def put_sealed(self, path: str, data: bytes) -> None:
        """Write an object with a checksum."""
        self.put(path, seal(data))

    def get_sealed(self, path: str) -> bytes:
        """Return the bytes that `put_sealed` wrote. Raises DamagedObject if they are missing or have changed."""
        return self.unseal(path, self.get(path))

    def unseal(self, path: str, data: bytes | None) -> bytes:
        """Return the bytes that `put_sealed` was given, from those that were read at a path.

        Raises DamagedObject if there are none, or they have changed.
        """
        content = None if data is None else unseal(data)
        if content is None:
            reason = "is missing" if data is None else "is damaged: its checksum differs"
            raise DamagedObject(self.cloudpath, path, reason)
        return content

    def put_arrays(self, path: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays by name, as npz with a checksum."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self.put_sealed(path, buffer.getvalue())

    def get_arrays(self, path: str) -> dict[str, np.ndarray]:
        """Return the arrays of an object. Raises DamagedObject if it is missing or has changed."""
        return _arrays(self.get_sealed(path))

    def get_many(self, paths: Iterable[str]) -> dict[str, bytes | None]:
        """Return the bytes of objects by path; None for those that do not exist."""
        if self._folder is not None:  # a folder needs no threads to hide latency
            return {path: _read(os.path.join(self._folder, path)) for path in paths}
        paths = list(paths)
        return {item["path"]: item["content"] for item in self._files.get(paths)} if paths else {}

    def get_many_arrays(self, paths: Iterable[str]) -> Iterator[dict[str, np.ndarray]]:
        """Yield the arrays of objects, in order. Raises DamagedObject if one is missing or has changed."""
        paths = list(paths)
        for start in range(0, len(paths), _BATCH):
            some = paths[start : start + _BATCH]
            objects = self.get_many(some)
            for path in some:
                yield _arrays(self.unseal(path, objects[path]))

    def names(self, prefix: str) -> list[str]:
        """Return the paths of all objects below a prefix, sorted; temporary files of writers are not objects."""
        names = self._files.list(prefix)
        return sorted(name for name in names if not name.rpartition("/")[2].startswith(PART))

    def indices(self, folder: str) -> set[int]:
        """Return the numbers N for which FOLDER/N.ext exists."""
        return set(self._numbered(folder))

    def get_numbered(self, folder: str) -> dict[int, Any]:
        """Return the JSON objects FOLDER/N.json by N, without those that are not valid."""
        paths = {path: index for index, path in self._numbered(folder).items()}
        return {paths[path]: value for path, value in self.get_jsons(paths).items()}

    def get_jsons(self, paths: Iterable[str]) -> dict[str, Any]:
        """Return JSON objects by path, without those that do not exist or are not valid."""
        values = {path: _parse(data) for path, data in self.get_many(paths).items()}
        return {path: value for path, value in values.items() if value is not None}

    def _numbered(self, folder: str) -> dict[int, str]:
        paths = self.names(folder.rstrip("/") + "/")
        matches = {path: _NUMBERED.fullmatch(path.rpartition("/")[2]) for path in paths}
        return {int(match[1]): path for path, match in matches.items() if match}

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, if they exist."""
        paths = list(paths)
        if paths:
            self._files.delete(paths)


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
    except (ValueError, RecursionError):
        return None
