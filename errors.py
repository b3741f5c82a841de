"""The two ways in which a command fails, and the errors of other libraries that only a user can correct."""

from __future__ import annotations

import errno
import os
import re
from typing import Any

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_NO_PATH = {
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EEXIST,
    errno.ENXIO,
    errno.ENODEV,
}
_BUCKET = {"DefaultCredentialsError", "NoCredentialsError", "Forbidden", "Unauthorized", "NotFound"}


class UserError(Exception):
    """An error that only the user can correct; the command prints the message and exits with 2."""


class TasksFailed(Exception):
    """Tasks of a stage failed permanently; the command prints the message and exits with 1."""


def explain(err: BaseException) -> str | None:
    """Return one line that says what is wrong if only the user can correct it; None for any other exception."""
    if isinstance(err, UserError):
        return str(err)
    if isinstance(err, OSError) and err.errno in _UNWRITABLE:
        where = f"{err.filename}: " if err.filename else ""
        return f"{where}{err.strerror}; free some space, or choose a writable place"
    if isinstance(err, OSError) and err.errno in _NO_PATH:
        return f"{err.filename}: {err.strerror}; check the path"
    if type(err).__module__.startswith("requests."):
        return f"cannot read {_address(err)} ({_answer(err)}); check the address, the network and your permissions"
    if type(err).__name__ in _BUCKET and type(err).__module__.startswith(("google.", "botocore.")):
        return (
            f"cannot use the bucket: {err}; check its name, your credentials and their permissions; a public bucket "
            "needs none as https://storage.googleapis.com/BUCKET/PATH or https://BUCKET.s3.amazonaws.com/PATH"
        )
    return None


def _address(err: Any) -> str:
    """Return the URL of a request that failed, without its parameters."""
    request = getattr(err, "request", None)
    return str(getattr(request, "url", None) or "a web address").partition("?")[0]


def _answer(err: Any) -> str:
    """Return what a server answered to a request that failed."""
    response = getattr(err, "response", None)
    return "no answer" if response is None else f"HTTP {response.status_code} {response.reason}"


def redact_secrets(text: str) -> str:
    """Replace values of environment variables named KEY, SECRET, TOKEN or PASSWORD by the variables' names."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, f"[{name}]")
    return text


_SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD)(?!.*_FILE$)", re.I)
_MIN_SECRET_LENGTH = 8
_TRANSIENT = {
    *("ConnectionError", "Timeout", "ChunkedEncodingError", "ProtocolError", "TransportError"),
    *("ReadTimeoutError", "ConnectTimeoutError", "EndpointConnectionError", "HTTPClientError"),
    *("IncompleteRead", "RemoteDisconnected", "RetryError", "OutOfMemoryError", "DataCorruption"),
}
_THROTTLED = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestTimeout",
    "RequestLimitExceeded",
}
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_NETWORK = {errno.EAGAIN, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESTALE}


def is_transient(err: BaseException) -> bool:
    """Return whether a retry may succeed: a timeout, a lost connection, HTTP 429 or 5xx, GPU memory exhausted."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, (TimeoutError, ConnectionError)):
            return True
        if isinstance(cause, OSError) and cause.errno in _NETWORK:
            return True
        if any(kind.__name__ in _TRANSIENT for kind in type(cause).__mro__):
            return True
        if _http_status(cause) in _TRANSIENT_STATUS:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _http_status(err: BaseException) -> int | None:
    """Return the HTTP status that an error of boto, google or requests carries."""
    response = getattr(err, "response", None)
    if isinstance(response, dict):
        if response.get("Error", {}).get("Code") in _THROTTLED:
            return 429
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", None)
    code = getattr(err, "code", None)
    return status if isinstance(status, int) else code if isinstance(code, int) else None
