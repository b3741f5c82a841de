"""Whose fault an error is, and what follows: the table that workers, the coordinator, the command and the Job ask.

Classes and error numbers decide, never the name of a class or the text of a message.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ..errors import HostError, TasksFailed, UserError


class Whose(StrEnum):
    """Who can correct a fault: the user, nobody (the task), another machine, or time (the store)."""

    REQUEST = "request"
    TASK = "task"
    HOST = "host"
    STORE = "store"


@dataclass(frozen=True)
class Rule:
    """What follows from a fault.

    Attributes:
      attempts: attempts at a task until its message leaves the queue; None: an attempt does not count. A fault of
        the request halts the run as soon as a second host or the coordinator has seen it.
      exit_code: of the command.
      patience_s: seconds for which a worker or a coordinator tries again before it gives up.
    """

    whose: Whose
    attempts: int | None
    exit_code: int
    patience_s: float = 0.0


RULES = {
    "request": Rule(Whose.REQUEST, 3, 2),
    "error": Rule(Whose.TASK, 3, 1),
    "memory": Rule(Whose.TASK, 20, 1),  # of the GPU, which another process may use
    "death": Rule(Whose.TASK, 10, 1),  # of a worker: also when a spot machine is reclaimed
    "store": Rule(Whose.STORE, 20, 4, patience_s=600.0),
    "machine": Rule(Whose.HOST, None, 3),
    "access": Rule(Whose.HOST, None, 2, patience_s=300.0),  # a new node gets credentials late
}
HALTING_CODES = {rule.exit_code for rule in RULES.values() if rule.whose is Whose.REQUEST}
RETIRED_CODE = RULES["machine"].exit_code  # of a worker that retires


@dataclass(frozen=True)
class Fault:
    """The fault behind an error: its kind (a key of RULES) and one line for people."""

    kind: str
    text: str

    @property
    def rule(self) -> Rule:
        return RULES[self.kind]

    @property
    def whose(self) -> Whose:
        return self.rule.whose

    @classmethod
    def of(cls, err: BaseException, run: str | None = None) -> Fault:
        """Return the fault behind an error. The first of the error and its causes that the tables know decides.

        Args:
          run: path of the run that this process works on. Then a folder of temporary files or caches that cannot be
            written to is a fault of the host. Without one, the user has named every path.
        """
        for cause in _causes(err):
            kind = _kind(cause, run)
            if kind is not None:
                return cls(kind, _text(kind, cause))
        return cls("error", f"{type(err).__name__}: {err}")


def first_line(err: BaseException) -> str:
    """Return the first line of an error's text, without colours; the name of its class if it has none."""
    lines = _COLOUR.sub("", str(err)).strip().splitlines()
    return lines[0] if lines else type(err).__name__


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNWRITABLE = _FULL | {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_PATH = {
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.ENXIO, errno.ENODEV),
}
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_NETWORK = {errno.EAGAIN, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESTALE}
_CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "access": {
        "botocore.exceptions": (
            *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
            *("MetadataRetrievalError", "NoAuthTokenError", "TokenRetrievalError", "SSOError"),
        ),
        "google.auth.exceptions": ("GoogleAuthError",),
        "cloudfiles.exceptions": ("AuthorizationError",),
        "cloudvolume.exceptions": ("AuthenticationError",),
    },
    "store": {
        "botocore.exceptions": (
            *("ConnectionError", "HTTPClientError", "IncompleteReadError"),
            "ResponseStreamingError",
        ),
        "google.api_core.exceptions": ("RetryError",),
        "google.cloud.storage.exceptions": ("DataCorruption",),
        "requests.exceptions": ("ConnectionError", "Timeout", "ChunkedEncodingError"),
        "urllib3.exceptions": ("HTTPError",),
        "cloudfiles.exceptions": ("IntegrityError",),  # damaged on the way
    },
    "machine": {"torch": ("AcceleratorError",)},
    "memory": {"torch": ("OutOfMemoryError",)},
}
_CODES = {  # of AWS, where the HTTP status does not tell
    **dict.fromkeys(("SlowDown", "Throttling", "ThrottlingException"), "store"),
    **dict.fromkeys(("RequestLimitExceeded", "RequestTimeout"), "store"),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException"), "access"),
}
_STATUSES = {
    **dict.fromkeys((408, 429, 500, 502, 503, 504), "store"),
    **dict.fromkeys((401, 403), "access"),
    404: "request",
}
_FEW_BYTES = 1 << 16  # free on a disk that is full


def _causes(err: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = err
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _kind(err: BaseException, run: str | None) -> str | None:
    """Return the kind of an error, without its causes; None if the tables do not know it."""
    if isinstance(err, UserError):
        return "request"
    if isinstance(err, TasksFailed):
        return "error"
    if isinstance(err, HostError):
        return "machine"
    for kind, modules in _CLASSES.items():
        if isinstance(err, tuple(_loaded(modules))):
            return kind
    code, status = _response(err)
    if code in _CODES or status in _STATUSES:
        return _CODES.get(code) or _STATUSES[status]
    if isinstance(err, (ConnectionError, TimeoutError, HTTPException)):
        return "store"
    if _is_of_web(err):
        return "request"
    if isinstance(err, OSError):
        return _kind_of_os_error(err, run)
    return "machine" if isinstance(err, RuntimeError) and _gpu_is_sick() else None


def _loaded(modules: Mapping[str, Iterable[str]]) -> Iterator[type]:
    """Yield the classes of those modules that are imported: no other module can have raised."""
    for module, names in modules.items():
        if module in sys.modules:
            yield from (getattr(sys.modules[module], name) for name in names)


def _response(err: BaseException) -> tuple[str, int]:
    """Return the code and the HTTP status that an error of boto, google or requests carries; '' and 0 without one."""
    response = getattr(err, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return response.get("Error", {}).get("Code", ""), status or 0
    for status in (getattr(response, "status_code", None), getattr(err, "code", None)):
        if isinstance(status, int):
            return "", int(status)
    return "", 0


def _kind_of_os_error(err: OSError, run: str | None) -> str | None:
    if err.errno in _NETWORK:
        return "store"
    if err.errno in _EXHAUSTED:
        return "machine"
    if err.errno in _NO_PATH:
        return "request"
    if err.errno not in _UNWRITABLE:
        return None
    if run is None:
        return "request"
    if not isinstance(err.filename, (str, bytes)):  # a write names no file
        full = err.errno in _FULL and any(map(_is_full, _private_folders()))
        return "machine" if full else "request"
    path = Path(os.path.abspath(os.fsdecode(err.filename)))
    private = any(map(path.is_relative_to, _private_folders()))
    return (
        "machine" if private and not path.is_relative_to(run.removeprefix("file://")) else "request"
    )


def _private_folders() -> list[Path]:
    """Return the folders that no other machine sees: for temporary files and for the caches of libraries."""
    names = ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TMPDIR")
    named = [os.environ[name] for name in names if os.environ.get(name)]
    homes = map(os.path.expanduser, ("~/.cache", "~/.triton", "~/.cloudfiles", "~/.cloudvolume"))
    return [Path(folder) for folder in (*named, *homes, "/tmp", "/var/tmp", "/dev/shm")]


def _is_full(folder: Path) -> bool:
    try:
        status = os.statvfs(folder)
    except OSError:
        return False
    return status.f_bavail * status.f_frsize < _FEW_BYTES or (
        status.f_files > 0 and not status.f_favail
    )


def _gpu_is_sick() -> bool:
    """Return whether the GPU that this process has used fails at the smallest task."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.zeros(1, device="cuda").add(1).item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False


def _text(kind: str, err: BaseException) -> str:
    """Return one line that says what is wrong, and what to do if somebody can do something."""
    said = " ".join(str(err).split()) or type(err).__name__
    if isinstance(err, (UserError, HostError, TasksFailed)):
        return str(err)
    if isinstance(err, OSError) and err.errno in _UNWRITABLE | _NO_PATH and err.strerror:
        named = isinstance(err.filename, (str, bytes))
        where = f"{os.fsdecode(err.filename)}: " if named else ""
        advice = "check the path"
        if err.errno in _UNWRITABLE:
            advice = "free some space, or choose a writable place"
        return f"{where}{err.strerror}; {advice}"
    if _is_of_web(err):
        return f"cannot read {_address(err)} ({_answer(err)}); check the address, the network and your permissions"
    if kind in ("access", "request"):
        return (
            f"cannot use the bucket or queue: {said}; check its name, your credentials and their permissions; "
            "a public bucket needs none as https://storage.googleapis.com/BUCKET/PATH or https://BUCKET.s3.amazonaws.com/PATH"
        )
    if kind == "store":
        return f"the store cannot be reached ({type(err).__name__}: {said}); check the connection"
    return f"{type(err).__name__}: {said}"


def _is_of_web(err: BaseException) -> bool:
    """Return whether an error is of a request to a web address; the libraries of buckets raise their own."""
    return isinstance(err, tuple(_loaded({"requests.exceptions": ("RequestException",)}))) and (
        not isinstance(err, tuple(_loaded({"botocore.exceptions": ("BotoCoreError",)})))
    )


def _address(err: Any) -> str:
    """Return the URL of a request that failed, without its parameters."""
    request = getattr(err, "request", None)
    return str(getattr(request, "url", None) or "a web address").partition("?")[0]


def _answer(err: Any) -> str:
    """Return what a server answered to a request that failed."""
    response = getattr(err, "response", None)
    return "no answer" if response is None else f"HTTP {response.status_code} {response.reason}"
