"""The two kinds of queue: files in a folder (`fq://FOLDER`), and Amazon's SQS (`sqs://NAME`)."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import re
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from ...errors import UserError
from ..faults import Fault, Whose
from ..storage.amazon import sqs_client
from ..storage.versions import FolderClock
from .messages import MAX_BYTES, BadMessage, Lease, Queue, Task, decode, encode, queue_folder, shown

_POLL_S = 5
_THREADS = 10  # that put messages: boto keeps as many connections
_BATCH = 10  # messages in one request to SQS
_CANDIDATES = 250  # free messages of which a worker leases a random one: workers rarely collide
_MAX_LEASE_S = 30 * 86_400
_UNREADABLE = {errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM}  # links, sockets, permissions
logger = logging.getLogger(__name__)


def open_queue(url: str) -> Queue:
    """Open the queue at a URL. Raises UserError if there is none."""
    protocol = url.partition("://")[0]
    kinds: dict[str, type[Queue]] = {"fq": FileQueue, "sqs": SqsQueue}
    if protocol not in kinds:
        raise UserError(f"{url} is not a queue; give fq://FOLDER or sqs://NAME")
    try:
        return kinds[protocol](url)
    except Exception as err:
        if isinstance(err, OSError) or Fault.of(err).whose in (Whose.HOST, Whose.STORE):
            raise
        raise UserError(f"the queue {url} cannot be opened: {err}") from err


class FileQueue(Queue):
    """Messages as files `TIME--ID.json` in FOLDER/queue, each free from TIME on: Unix seconds of the folder's clock.

    A worker leases a message by renaming its file to a later TIME: if several workers try, one succeeds. Names come
    from the listing of the folder alone, never from the content of a message, and no link is followed below FOLDER. A
    file that is not a message, a link, a subfolder or a pipe is moved to FOLDER/quarantine unread.
    """

    _NAME = re.compile(r"([0-9]{1,15})--([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.json")

    def __init__(self, url: str) -> None:
        super().__init__(url)
        folder = queue_folder(url) or ""
        self._folder, self._incoming = f"{folder}/queue", f"{folder}/incoming"
        self._quarantine = f"{folder}/quarantine"
        os.makedirs(self._folder, exist_ok=True)
        with _open_folder(self._folder):  # raises if it is a link
            pass
        self._clock = FolderClock(folder)  # of all workers, whatever their machines' clocks say
        self._names: dict[str, str] = {}  # current file name of each leased message, by its ID
        self._stuck: set[str] = set()  # names that this process may not move

    def put(self, tasks: Iterable[Task]) -> None:
        os.makedirs(self._incoming, exist_ok=True)
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._put, tasks):
                pass

    def lease(self, seconds: int) -> Lease | None:
        for name, ident in self._free():
            leased = f"{int(self._clock.now()) + seconds}--{ident}.json"
            try:
                os.rename(f"{self._folder}/{name}", f"{self._folder}/{leased}")
                body = _read_file(f"{self._folder}/{leased}")
                lease = Lease(ident, *decode(body), body)
            except FileNotFoundError:  # another worker leased it
                continue
            except PermissionError as err:
                self._skip(name, err)
                continue
            except BadMessage as err:
                self._move_aside(leased, str(err))
                continue
            self._names[ident] = leased
            return lease
        return None

    def renew(self, lease: Lease, seconds: int) -> None:
        renewed = f"{int(self._clock.now()) + seconds}--{lease.ticket}.json"
        os.rename(f"{self._folder}/{self._names[lease.ticket]}", f"{self._folder}/{renewed}")
        self._names[lease.ticket] = renewed

    def delete(self, lease: Lease) -> None:
        with contextlib.suppress(FileNotFoundError):  # the lease expired, and another worker has it
            os.unlink(f"{self._folder}/{self._names.pop(lease.ticket)}")

    def put_aside(self, lease: Lease, reason: str) -> None:
        self._move_aside(self._names.pop(lease.ticket), reason)

    def is_empty(self) -> bool:
        with os.scandir(self._folder) as entries:
            return all(entry.name in self._stuck for entry in entries)

    def purge(self) -> None:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    os.unlink(entry.path)

    def _put(self, task: Task) -> None:
        """Write a message beside the queue and move it in, so that no worker reads a part of it."""
        ident = str(uuid.uuid4())
        with open(f"{self._incoming}/{ident}", "x") as file:
            json.dump(encode(task) | {"id": ident}, file)
        os.rename(file.name, f"{self._folder}/0--{ident}.json")

    def _free(self) -> Iterator[tuple[str, str]]:
        """Yield names and IDs of free messages in random order; put aside what has no name of a message."""
        free, now = [], self._clock.now()
        with _open_folder(self._folder) as folder, os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in self._stuck:
                    continue
                match = self._NAME.fullmatch(entry.name)
                if match is None:
                    self._move_aside(entry.name, "its name is not one of a message")
                elif int(match[1]) > now + _MAX_LEASE_S:
                    self._move_aside(entry.name, "its lease ends in more than a month")
                elif int(match[1]) <= now:
                    free.append((entry.name, match[2]))
                if len(free) == _CANDIDATES:
                    yield from random.sample(free, len(free))
                    free = []
        yield from random.sample(free, len(free))

    def _move_aside(self, name: str, reason: str) -> None:
        aside = f"{name}.{uuid.uuid4()}" if os.path.lexists(f"{self._quarantine}/{name}") else name
        try:
            os.makedirs(self._quarantine, exist_ok=True)
            with _open_folder(self._folder) as source, _open_folder(self._quarantine) as target:
                os.rename(name, aside, src_dir_fd=source, dst_dir_fd=target)
        except FileNotFoundError:
            return
        except OSError as err:
            self._skip(name, err)
            return
        logger.error("%s moved to %s: %s", shown(name), self._quarantine, reason)

    def _skip(self, name: str, err: OSError) -> None:
        self._stuck.add(name)
        logger.error("%s of %s is skipped: %s", shown(name), self._folder, err.strerror)


class SqsQueue(Queue):
    """A queue of SQS. What is put aside goes to its dead-letter queue; without one, only to the log."""

    settles_s = 60.0

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._sqs = sqs_client()
        self._url = self._find(url.removeprefix("sqs://"))

    def put(self, tasks: Iterable[Task]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(self._put_batch, _batches(tasks)):
                pass

    def lease(self, seconds: int) -> Lease | None:
        messages = self._sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=1,
            VisibilityTimeout=seconds,
            WaitTimeSeconds=_POLL_S,
        ).get("Messages")
        if not messages:
            return None
        ticket, body = messages[0]["ReceiptHandle"], messages[0]["Body"]
        try:
            return Lease(ticket, *decode(body), body)
        except BadMessage as err:
            self._put_aside(ticket, body, str(err))
            return None

    def renew(self, lease: Lease, seconds: int) -> None:
        self._sqs.change_message_visibility(
            QueueUrl=self._url, ReceiptHandle=lease.ticket, VisibilityTimeout=seconds
        )

    def delete(self, lease: Lease) -> None:
        self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=lease.ticket)

    def put_aside(self, lease: Lease, reason: str) -> None:
        self._put_aside(lease.ticket, lease.body, reason)

    def is_empty(self) -> bool:
        names = ["", "NotVisible", "Delayed"]
        counts = self._sqs.get_queue_attributes(
            QueueUrl=self._url,
            AttributeNames=[f"ApproximateNumberOfMessages{name}" for name in names],
        )["Attributes"]
        return not any(map(int, counts.values()))

    def purge(self) -> None:
        self._sqs.purge_queue(QueueUrl=self._url)

    def _find(self, name: str) -> str:
        url: str = self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return url

    def _put_batch(self, bodies: Sequence[dict[str, Any]]) -> None:
        entries = [{"Id": str(i), "MessageBody": json.dumps(b)} for i, b in enumerate(bodies)]
        failed = self._sqs.send_message_batch(QueueUrl=self._url, Entries=entries).get("Failed")
        if failed:
            raise ConnectionError(f"{self.url} took no message: {failed[0].get('Message')}")

    def _put_aside(self, ticket: str, body: str, reason: str) -> None:
        attributes = self._sqs.get_queue_attributes(
            QueueUrl=self._url, AttributeNames=["RedrivePolicy"]
        ).get("Attributes")
        if attributes:
            arn = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"]
            target = self._find(arn.rsplit(":", 1)[-1])
            self._sqs.send_message(QueueUrl=target, MessageBody=body)
        self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=ticket)
        logger.error("%s taken out of %s: %s", shown(body), self.url, reason)


@contextlib.contextmanager
def _open_folder(path: str) -> Iterator[int]:
    """Open a folder that is not a link; yields its descriptor."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _batches(tasks: Iterable[Task]) -> Iterator[list[dict[str, Any]]]:
    bodies = map(encode, tasks)
    while batch := list(islice(bodies, _BATCH)):
        yield batch


def _read_file(path: str) -> str:
    """Return the text of a small regular file. Raises BadMessage for anything else, without reading it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in _UNREADABLE:
            raise BadMessage(f"it cannot be opened: {err.strerror}") from None
        raise
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise BadMessage("it is not a file")
    with open(handle, "rb") as file:
        if status.st_size > MAX_BYTES:
            raise BadMessage(f"it has more than {MAX_BYTES} bytes")
        try:
            return file.read(MAX_BYTES).decode()
        except UnicodeDecodeError:
            raise BadMessage("it is not UTF-8") from None
