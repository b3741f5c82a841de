"""Messages of a queue: every one names a run, a stage and an index. Any other is put aside, never executed.

taskqueue carries them, on disk (`fq://FOLDER`) or in SQS (`sqs://NAME`).
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from taskqueue import TaskQueue, queueable

from ...errors import UserError

_FILE = re.compile(r"\d+--([0-9a-f-]{36})\.json")
_WRITTEN_S = 10  # a file that is older than this is not being written any more
_POLL_S = 5
_THREADS = 10  # that put messages: as many as boto keeps connections
logger = logging.getLogger(__name__)


@queueable
def execute(run: str, stage: str, index: int) -> None:
    """The one function that a message can name. Workers take its arguments and never call it."""
    raise RuntimeError("a task of flysoma is executed by 'flysoma work QUEUE', not by taskqueue")


@dataclass(frozen=True)
class Lease:
    """A message that nobody else gets until the lease runs out."""

    ticket: str  # what the queue knows it by
    run: str
    stage: str
    index: int


def open_queue(url: str) -> Queue:
    """The queue at a URL; raises UserError when there is none."""
    protocol = url.partition("://")[0]
    kinds = {"fq": FileQueue, "sqs": SqsQueue}
    if protocol not in kinds:
        raise UserError(f"{url} is no queue that can be used; give fq://FOLDER or sqs://NAME")
    try:
        return kinds[protocol](url)
    except OSError:
        raise
    except Exception as err:
        raise UserError(f"the queue {url} cannot be opened: {err}") from err


class Queue:
    """What both kinds share.

    Attributes:
      settles_s: when it has looked empty for so long, it is.
    """

    settles_s = 2.0

    def __init__(self, url: str) -> None:
        self.url = url
        self._queue = TaskQueue(url, n_threads=_THREADS, progress=False)

    def put(self, tasks: Iterable[tuple[str, str, int]]) -> None:
        """Add a message for each run, stage and index."""
        self._queue.insert([partial(execute, *task) for task in tasks])

    def lease(self, seconds: int) -> Lease | None:
        """Any message that is free; None when there is none now."""
        found = self._receive(seconds)
        if found is None:
            return None
        ticket, body = found
        task = parse(body)
        if task is None:
            self.put_aside(ticket, body)
            return None
        return Lease(ticket, *task)

    def renew(self, lease: Lease, seconds: int) -> None:
        """Keep a lease for that long from now on; 0 gives it back."""
        self._queue.api.renew_lease(_Ticket(lease.ticket), seconds)

    def delete(self, lease: Lease) -> None:
        """The task is over."""
        self._queue.api.delete(lease.ticket)

    def is_empty(self) -> bool:
        """Whether no message is there, leased ones counted."""
        return self._queue.is_empty()

    def purge(self) -> None:
        """Drop all messages."""
        self._queue.api.purge(native=True)

    def put_aside(self, ticket: str, body: Any) -> None:
        """Take a message out of the queue and keep it where people can look at it."""
        raise NotImplementedError

    def _receive(self, seconds: int) -> tuple[str, Any] | None:
        """Ticket and body of a message, or None."""
        raise NotImplementedError


class FileQueue(Queue):
    """Files in a folder; what is no message of ours goes to its subfolder `quarantine`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._folder = self._queue.api.queue_path

    def _receive(self, seconds: int) -> tuple[str, Any] | None:
        try:
            found = self._queue.api.lease(seconds, 1)
        except (ValueError, TypeError):  # a file with another name, or of no JSON
            self.sweep()
            return None
        if not found:
            self.sweep(idle=True)
            return None
        body = found[0]
        ticket = body.get("id") if isinstance(body, dict) else None
        if not isinstance(ticket, str):
            self.sweep()
            return None
        return ticket, body

    def put_aside(self, ticket: str, body: Any) -> None:
        for entry in list(os.scandir(self._folder)):
            if entry.name.endswith(f"--{ticket}.json"):
                self._quarantine(entry)

    def sweep(self, idle: bool = False) -> None:
        """Put every file aside that is no message; when idle, only where few are left to look at."""
        entries = list(os.scandir(self._folder))
        if idle and len(entries) > 100:
            return
        for entry in entries:
            name = _FILE.fullmatch(entry.name)
            try:
                if name is None or (
                    time.time() - entry.stat().st_mtime > _WRITTEN_S
                    and not _is_message(entry.path, name.group(1))
                ):
                    self._quarantine(entry)
            except FileNotFoundError:
                continue  # done meanwhile

    def _quarantine(self, entry: Any) -> None:
        folder = os.path.join(os.path.dirname(self._folder), "quarantine")
        os.makedirs(folder, exist_ok=True)
        try:
            os.rename(entry.path, os.path.join(folder, entry.name))
        except FileNotFoundError:
            return
        logger.error("%s: no task of flysoma; it was moved to %s", entry.name, folder)


class SqsQueue(Queue):
    """What is no message of ours goes to the queue's dead-letter queue; where it has none, into the log."""

    settles_s = 60.0

    def _receive(self, seconds: int) -> tuple[str, Any] | None:
        api = self._queue.api
        found = api.sqs.receive_message(
            QueueUrl=api.qurl,
            MaxNumberOfMessages=1,
            VisibilityTimeout=seconds,
            WaitTimeSeconds=_POLL_S,
        ).get("Messages")
        if not found:
            return None
        try:
            return found[0]["ReceiptHandle"], json.loads(found[0]["Body"])
        except ValueError:
            return found[0]["ReceiptHandle"], found[0]["Body"]

    def put_aside(self, ticket: str, body: Any) -> None:
        api = self._queue.api
        text = body if isinstance(body, str) else json.dumps(body)
        found = api.sqs.get_queue_attributes(
            QueueUrl=api.qurl, AttributeNames=["RedrivePolicy"]
        ).get("Attributes")
        if found:
            name = json.loads(found["RedrivePolicy"])["deadLetterTargetArn"].rsplit(":", 1)[-1]
            target = api.sqs.get_queue_url(QueueName=name)["QueueUrl"]
            api.sqs.send_message(QueueUrl=target, MessageBody=text)
        api.sqs.delete_message(QueueUrl=api.qurl, ReceiptHandle=ticket)
        logger.error("no task of flysoma was taken out of %s: %s", self.url, text[:500])


def parse(body: Any) -> tuple[str, str, int] | None:
    """run, stage and index of a message; None for one that is not ours."""
    try:
        key, args, kwargs = body["payload"][:3]
        run, stage, index = args
    except (TypeError, ValueError, KeyError):
        return None
    ours = key == [execute.__module__, execute.__name__] and not kwargs
    typed = isinstance(run, str) and isinstance(stage, str) and type(index) is int
    return (run, stage, index) if ours and typed else None


def _is_message(path: str, ticket: str) -> bool:
    try:
        with open(path) as file:
            body = json.load(file)
    except (ValueError, UnicodeDecodeError):
        return False
    return parse(body) is not None and body.get("id") == ticket


class _Ticket(str):
    """A ticket as both kinds of taskqueue's API want it."""

    @property
    def id(self) -> str:
        return str(self)
