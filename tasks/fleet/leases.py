"""The leases that a worker holds, and the heartbeat that renews them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import attempts
from .messages import Lease, Queue
from .served import open_store

_MAX_BEAT_S = 20.0
logger = logging.getLogger(__name__)


class Leases:
    """Leases of one worker.

    Args:
      seconds: length of a lease; the heartbeat renews it after a third of this.
      liveness: a file that the heartbeat touches, for a liveness probe of Kubernetes.
    """

    def __init__(self, queue: Queue, seconds: int, liveness: str | None = None) -> None:
        self._queue, self._seconds, self._liveness = queue, seconds, liveness
        self._lock = threading.Lock()
        self._held: dict[str, Lease] = {}

    def take(self) -> Lease | None:
        """Lease a message of the queue; None if none is free."""
        lease = self._queue.lease(self._seconds)
        if lease is not None:
            with self._lock:
                self._held[lease.ticket] = lease
        return lease

    def finish(self, lease: Lease, running: bool = False) -> None:
        """Delete the message of a task that is done. running: also delete the record that a worker holds the task."""
        self._let_go(lease, lambda: self._queue.delete(lease), running)

    def retry(self, lease: Lease, running: bool = False, delay_s: int = 0) -> None:
        """Give a message back to the queue, which hides it for `delay_s`; running: as for `finish`."""
        self._let_go(lease, lambda: self._queue.renew(lease, delay_s), running)

    def put_aside(self, lease: Lease, reason: str) -> None:
        """Move a message out of the queue, because its task cannot be done by anybody."""
        self._let_go(lease, lambda: self._queue.put_aside(lease, reason), running=False)

    def retry_all(self) -> None:
        """Give all messages back."""
        for lease in list(self._held.values()):
            self.retry(lease, running=True)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Renew the leases until the context ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._beat, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _let_go(self, lease: Lease, action: Callable[[], None], running: bool) -> None:
        with (
            self._lock
        ):  # not across the store's and the queue's calls, which would delay the heartbeat
            self._held.pop(lease.ticket, None)
        try:
            if running:
                path = attempts.running_path(lease.stage, lease.index)
                open_store(lease.run).delete([path])
            action()
        except Exception as err:  # noqa: BLE001  the message comes back when the lease expires
            logger.warning("%s %d: not released: %s", lease.stage, lease.index, err)

    def _beat(self, stop: threading.Event) -> None:
        while True:
            if self._liveness is not None:
                _touch(self._liveness)
            if stop.wait(min(self._seconds / 3, _MAX_BEAT_S)):
                return
            for lease in list(self._held.values()):
                with self._lock:
                    if lease.ticket in self._held:
                        self._renew(lease)

    def _renew(self, lease: Lease) -> None:
        try:
            self._queue.renew(lease, self._seconds)
        except Exception as err:  # noqa: BLE001  the next beat tries again
            logger.warning("lease not renewed: %s", err)


def _touch(file: str) -> None:
    try:
        with open(file, "a"):
            os.utime(file)
    except OSError as err:  # the heartbeat has to go on
        logger.warning("the liveness file %s cannot be touched: %s", file, err.strerror)
