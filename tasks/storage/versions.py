"""Objects of a run that are written only if nobody else has written them, and their age by the clock of their store.

On disk a new file is linked into its place, which fails if there is one; Google's storage and S3 refuse a request whose
condition does not hold. The clock of a folder is that of the machine that keeps it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Protocol

from cloudfiles import CloudFiles

from .links import check_path

PART = ".part-"  # begins the names of temporary files
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}  # file systems without hard links
_CLAIM_S = 600.0  # after which a claim is that of a dead process
_CLOCK_S = 30.0  # for which the difference between two clocks is kept
_REFUSED = {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """An object as it was read.

    Attributes:
      tag: another one for every version of the object.
      age_s: seconds since it was written, by the clock of its store.
    """

    data: bytes
    tag: str
    age_s: float


class Versions(Protocol):
    """The objects below one path, with their versions."""

    def read(self, path: str) -> Version | None:
        """Return an object, or None if it does not exist."""

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Write an object if its tag is still this one, or with the tag None, if the object does not exist.

        Returns:
          The tag of the new version; None if somebody else has written the object.
        """


def versions(cloudpath: str) -> Versions:
    """Return the objects below a path on disk, on Google's storage or on S3."""
    if cloudpath.startswith("file://"):
        return _Folder(cloudpath.removeprefix("file://"))
    files = CloudFiles(cloudpath, progress=False)
    return _Google(files) if cloudpath.startswith("gs://") else _S3(files)


@contextmanager
def claimed(cloudpath: str) -> Iterator[Callable[[], None]]:
    """Claim a path in a bucket for this process, by an object beside it, and release it at the end.

    A whole bucket has nothing beside it and is not claimed.

    Yields:
      A function to call every few minutes: an older claim is that of a process that was killed. It raises as below.
    Raises:
      BlockingIOError: another process has claimed the path.
    """
    folder, _, name = cloudpath.rpartition("/")
    if folder.endswith("/"):
        yield lambda: None
        return
    place, path, mark = versions(folder), f".{name}.claim", uuid.uuid4().bytes
    held = place.read(path)
    tag: str | None = None
    if held is None or held.age_s > _CLAIM_S:
        tag = place.write(path, mark, None if held is None else held.tag)

    def renew() -> None:
        nonlocal tag
        tag = None if tag is None else place.write(path, mark, tag)
        if tag is None:
            raise BlockingIOError

    if tag is None:
        raise BlockingIOError
    try:
        yield renew
    finally:
        if tag is not None:
            CloudFiles(folder, progress=False).delete(path)


class FolderClock:
    """The clock of the machine that keeps a folder: for a network folder, that of the file server."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._offset, self._until = time.time() - time.monotonic(), 0.0

    def now(self) -> float:
        """Return the time, in Unix seconds."""
        if time.monotonic() >= self._until:
            with suppress(OSError):  # of a full disk: the last offset remains
                self._offset = self._measure()
            self._until = time.monotonic() + _CLOCK_S
        return self._offset + time.monotonic()

    def _measure(self) -> float:
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=PART) as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime - time.monotonic()


def write_atomically(path: str, data: bytes, flush: bool = True) -> None:
    """Write a file that is complete or not there, whatever happens to this process.

    Args:
      flush: wait until the content is on the disk, where a power failure does not reach it.
    """
    with _temporary_file(path, data, flush) as temporary:
        os.replace(temporary, path)


@contextmanager
def _temporary_file(path: str, data: bytes, flush: bool) -> Iterator[str]:
    """Write a file beside a path, and delete it at the end unless it was moved."""
    folder = os.path.dirname(path)
    check_path(folder)  # a link at the path itself is replaced
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


class _Folder:
    def __init__(self, folder: str) -> None:
        self._folder, self._clock = folder, FolderClock(folder)

    def read(self, path: str) -> Version | None:
        try:
            with open(os.path.join(self._folder, path), "rb") as file:
                status, data = os.fstat(file.fileno()), file.read()
        except FileNotFoundError:
            return None
        return Version(data, _tag(status), self._clock.now() - status.st_mtime)

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        path = os.path.join(self._folder, path)
        if tag is None:
            return _tag(os.stat(path)) if _create(path, data) else None
        try:
            with open(path, "rb") as old:
                fcntl.flock(old, fcntl.LOCK_EX)  # whoever waits here finds another file afterwards
                if _tag(os.stat(path)) != tag:
                    return None
                write_atomically(path, data)
                return _tag(os.stat(path))
        except FileNotFoundError:
            return None


def _tag(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_mtime_ns}"


def _create(path: str, data: bytes) -> bool:
    """Write a new file; return False if there is one."""
    with _temporary_file(path, data, flush=True) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as err:
            if err.errno not in _NO_LINKS:
                raise
            with suppress(FileExistsError), open(path, "xb") as file:
                file.write(data)
                return True
            return False
    return True


class _S3:
    def __init__(self, files: CloudFiles) -> None:
        from cloudfiles.interfaces import DEFAULT_S3_ACL, S3_ACLS

        self._interface = files._get_connection()
        self._api: Any = self._interface._conn
        self._acl = S3_ACLS.get(files._path.alias, DEFAULT_S3_ACL)
        self._bucket = files._path.bucket

    def read(self, path: str) -> Version | None:
        try:
            found = self._api.get_object(Bucket=self._bucket, Key=self._key(path))
        except self._api.exceptions.ClientError as err:
            if err.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        age_s = (now - found["LastModified"]).total_seconds()
        return Version(found["Body"].read(), found["ETag"], age_s)

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        named = {"Bucket": self._bucket, "Key": self._key(path), "ACL": self._acl}
        try:
            answer = self._api.put_object(**named, **condition, Body=data, CacheControl="no-cache")
        except self._api.exceptions.ClientError as err:
            code = err.response["Error"]["Code"]
            if code != "NoSuchBucket" and _status(err.response) in _REFUSED:
                return None
            raise
        return str(answer["ETag"])

    def _key(self, path: str) -> str:
        return str(self._interface.get_path_to_file(path))


def _status(response: dict[str, Any]) -> int:
    return int(response["ResponseMetadata"]["HTTPStatusCode"])


class _Google:
    def __init__(self, files: CloudFiles) -> None:
        self._interface = files._get_connection()
        self._bucket: Any = self._interface._bucket

    def read(self, path: str) -> Version | None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        client, blob = self._bucket.client, self._blob(path)
        found = client._http.get(client._connection.build_api_url(blob.path), timeout=60)
        if found.status_code == HTTPStatus.NOT_FOUND:
            return None
        found.raise_for_status()
        about = found.json()
        now, written = (
            parsedate_to_datetime(found.headers["Date"]),
            datetime.fromisoformat(about["updated"]),
        )
        try:
            data = blob.download_as_bytes(if_generation_match=int(about["generation"]))
        except (NotFound, PreconditionFailed):  # written again meanwhile
            return self.read(path)
        return Version(data, str(about["generation"]), (now - written).total_seconds())

    def write(self, path: str, data: bytes, tag: str | None) -> str | None:
        from google.api_core.exceptions import PreconditionFailed

        blob = self._blob(path)
        blob.cache_control = "no-cache"
        try:
            blob.upload_from_string(data, if_generation_match=int(tag or 0))
        except PreconditionFailed:
            return None
        return str(blob.generation)

    def _blob(self, path: str) -> Any:
        return self._bucket.blob(self._interface.get_path_to_file(path))
