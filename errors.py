"""The two ways in which a command ends badly, and which of other libraries' errors belong to the first."""

from __future__ import annotations

import errno
import os
import re

_PLACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}
_BUCKET = {"DefaultCredentialsError", "NoCredentialsError", "Forbidden", "Unauthorized", "NotFound"}


class UserError(Exception):
    """Something only the user can put right; the command line prints the message and exits with 2."""


class TasksFailed(Exception):
    """Tasks of a stage failed for the last time; the command line prints the message and exits with 1."""


def explain(err: BaseException) -> str | None:
    """What is wrong, in a line, where only the user can put it right; None for any other exception."""
    if isinstance(err, UserError):
        return str(err)
    if isinstance(err, OSError) and err.errno in _PLACE:
        where = f"{err.filename}: " if err.filename else ""
        return f"{where}{err.strerror}; free some space, or choose a place that can be written"
    if type(err).__name__ in _BUCKET and type(err).__module__.startswith(("google.", "botocore.")):
        return (
            f"the bucket cannot be used: {err}; check its name, your credentials and their rights"
        )
    return None


def without_secrets(text: str) -> str:
    """A text in which the values of variables called KEY, SECRET, TOKEN or PASSWORD are replaced by their names."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SECRET_LENGTH:
            text = text.replace(value, f"[{name}]")
    return text


_SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD)(?!.*_FILE$)", re.I)
_SECRET_LENGTH = 8
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
_STATUS = {408, 429, 500, 502, 503, 504}
_NETWORK = {errno.EAGAIN, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESTALE}


def is_transient(err: BaseException) -> bool:
    """Whether the same may well work a little later: a timeout, a lost connection, 429, 5xx, memory of a GPU."""
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, (TimeoutError, ConnectionError)):
            return True
        if isinstance(cause, OSError) and cause.errno in _NETWORK:
            return True
        if any(kind.__name__ in _TRANSIENT for kind in type(cause).__mro__):
            return True
        if _http_status(cause) in _STATUS:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _http_status(err: BaseException) -> int | None:
    """The HTTP status that an error of boto, google or requests carries."""
    response = getattr(err, "response", None)
    if isinstance(response, dict):
        if response.get("Error", {}).get("Code") in _THROTTLED:
            return 429
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    status = getattr(response, "status_code", None)
    code = getattr(err, "code", None)
    return status if isinstance(status, int) else code if isinstance(code, int) else None
