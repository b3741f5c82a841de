"""Messages of a queue. A message names a run, a stage and the index of a task, and nothing to execute.

Whoever can write to a queue can send anything: `decode` accepts only messages of this form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

FUNCTION = [
    "flysoma.tasks.fleet.queues",
    "execute",
]  # in the place where taskqueue names a function
MAX_BYTES = 64 * 1024
_MAX_PATH_BYTES = 1024  # of S3 and Google's storage
_MAX_NAME_BYTES = 255  # of Linux
_SHOWN = 120  # characters of a message in the log

Task = tuple[str, str, int]  # run, stage, index


class BadMessage(Exception):
    """The content of a queue that is not a message of flysoma; says why."""


@dataclass(frozen=True)
class Lease:
    """A message that no other worker receives until the lease expires.

    Attributes:
      ticket: by which the queue identifies the message.
      body: the message as it was received.
    """

    ticket: str
    run: str
    stage: str
    index: int
    body: str = field(default="", repr=False)


class Queue:
    """A queue of tasks.

    Attributes:
      url: `fq://FOLDER` or `sqs://NAME`.
      settles_s: seconds for which a queue has to look empty before it is empty.
    """

    settles_s = 2.0

    def __init__(self, url: str) -> None:
        self.url = url

    def put(self, tasks: Iterable[Task]) -> None:
        """Add a message for each task."""
        raise NotImplementedError

    def lease(self, seconds: int) -> Lease | None:
        """Lease any free message; None if there is none. Anything else that lies in the queue is put aside."""
        raise NotImplementedError

    def renew(self, lease: Lease, seconds: int) -> None:
        """Let a lease expire in so many seconds from now; 0 gives the message back."""
        raise NotImplementedError

    def delete(self, lease: Lease) -> None:
        """Remove the message of a finished task."""
        raise NotImplementedError

    def put_aside(self, lease: Lease, reason: str) -> None:
        """Move a message out of the queue to where people can inspect it, and log the reason in one line."""
        raise NotImplementedError

    def is_empty(self) -> bool:
        """Return whether the queue holds no message, free or leased."""
        raise NotImplementedError

    def purge(self) -> None:
        """Delete all messages."""
        raise NotImplementedError


def encode(task: Task) -> dict[str, Any]:
    """Return the body of a message, as taskqueue writes it."""
    return {"payload": [FUNCTION, list(task), {}, -1], "queueName": ""}


def decode(text: str) -> Task:
    """Return the task that a message names. Raises BadMessage for any other content."""
    if len(text) > MAX_BYTES:
        raise BadMessage(f"it has more than {MAX_BYTES} bytes")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise BadMessage("it is not JSON") from None
    try:
        function, (run, stage, index), options = body["payload"][:3]
    except (TypeError, ValueError, KeyError):
        raise BadMessage("it does not name a run, a stage and an index") from None
    if function != FUNCTION or options:
        raise BadMessage("it names another function")
    if not (isinstance(run, str) and isinstance(stage, str) and type(index) is int):
        raise BadMessage("it does not name a run, a stage and an index")
    if not (run.isprintable() and stage.isprintable()):  # NUL, line breaks, lone surrogates
        raise BadMessage("it contains unprintable characters")
    if len(run.encode()) > _MAX_PATH_BYTES or any(
        len(name.encode()) > _MAX_NAME_BYTES for name in (*run.split("/"), stage)
    ):
        raise BadMessage("it contains a name that is too long")
    return run, stage, index


def queue_folder(url: str) -> str | None:
    """Return the folder of a queue `fq://FOLDER`; None for any other URL."""
    if not url.startswith("fq://"):
        return None
    return os.path.abspath(os.path.expanduser(url.removeprefix("fq://")))


def shown(text: str) -> str:
    """Return a text of unknown origin as printable ASCII of limited length."""
    quoted = ascii(text[:_SHOWN])
    return quoted if len(text) <= _SHOWN else f"{quoted}..."
