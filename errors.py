"""The two ways in which a command ends badly, and which of other libraries' errors belong to the first."""

from __future__ import annotations

import errno

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
