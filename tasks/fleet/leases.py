"""The leases that a worker holds, and the heartbeat that renews them."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from . import attempts
from .messages import Lease, Queue
from .served import open_store
from .signs import Worker

_MAX_BEAT_S = 20.0
logger = logging.getLogger(__name__)


class Leases:
    """Leases of one worker.

    Args:
      worker: its leases are renewed after a third of their length; then it also gives a sign of life in their runs.
      liveness: a file that the heartbeat touches, for a liveness probe of Kubernetes.
    """

    def __init__(self, queue: Queue, worker: Worker, liveness: str | None = None) -> None:
        self._queue, self._worker, self._liveness = queue, worker, liveness
        self._seconds = worker.lease_s
        self._held: dict[str, tuple[Lease, threading.Lock]] = {}

    def take(self) -> Lease | None:
        """Lease a message of the queue; None if none is free."""
        lease = self._queue.lease(self._seconds)
        if lease is not None:
            self._held[lease.ticket] = lease, threading.Lock()
        return lease

    def finish(self, lease: Lease, running: bool = False) -> None:
        """Delete the message of a task that is done. running: also delete the record that a worker holds the task."""
        self._let_go(lease, lambda: self._queue.delete(lease), running)

    def retry(self, lease: Lease, running: bool = False, after_s: float = 0.0) -> None:
        """Give a message back to the queue, which hands it out after so many seconds; running: as for `finish`."""
        self._let_go(lease, lambda: self._queue.renew(lease, math.ceil(after_s)), running)

    def put_aside(self, lease: Lease, reason: str) -> None:
        """Move a message out of the queue, because its task cannot be done by anybody."""
        self._let_go(lease, lambda: self._queue.put_aside(lease, reason), running=False)

    def retry_all(self) -> None:
        """Give all messages back."""
        for lease, _ in list(self._held.values()):
            self.retry(lease, running=True)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Renew the leases until the context ends."""
        stop = threading.Event()
        beats = (self._beat, self._sign)  # a store that hangs must not delay the renewals
        threads = [threading.Thread(target=beat, args=(stop,), daemon=True) for beat in beats]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            threads[0].join()
            self._leave()

    def _let_go(self, lease: Lease, action: Callable[[], None], running: bool) -> None:
        name = f"{lease.stage} {lease.index}"
        if running:
            path = attempts.running_path(lease.stage, lease.index)
            _try(lambda: open_store(lease.run).delete([path]), f"{name}: its record remains")
        _, renewing = self._held.get(lease.ticket, (lease, threading.Lock()))
        with renewing:  # a renewal that ends later would take the message from the queue again
            self._held.pop(lease.ticket, None)
        _try(action, f"{name}: not released, so it comes back when its lease expires")

    def _beat(self, stop: threading.Event) -> None:
        while True:
            if self._liveness is not None:
                _touch(self._liveness)
            if stop.wait(self._beat_s):
                return
            for lease, renewing in list(self._held.values()):
                with renewing:
                    if lease.ticket in self._held:
                        self._renew(lease)

    def _sign(self, stop: threading.Event) -> None:
        while not stop.wait(self._beat_s):
            for run in {lease.run for lease, _ in list(self._held.values())}:
                if run in self._worker.runs:  # whose store answered
                    _try(partial(self._sign_in, run), "no sign of life")

    def _sign_in(self, run: str) -> None:
        self._worker.sign(open_store(run))

    def _leave_run(self, run: str) -> None:
        self._worker.leave(open_store(run))

    def _leave(self) -> None:
        for run in self._worker.runs:
            _try(partial(self._leave_run, run), "the sign of life remains")

    @property
    def _beat_s(self) -> float:
        return min(self._seconds / 3, _MAX_BEAT_S)

    def _renew(self, lease: Lease) -> None:
        _try(lambda: self._queue.renew(lease, self._seconds), "lease not renewed")


def _try(action: Callable[[], None], otherwise: str) -> None:
    try:
        action()
    except Exception as err:  # noqa: BLE001  what is left is done at the next beat, or by another worker
        logger.warning("%s: %s", otherwise, err)


def _touch(file: str) -> None:
    try:
        with open(file, "a"):
            os.utime(file)
    except OSError as err:  # the heartbeat has to go on
        logger.warning("the liveness file %s cannot be touched: %s", file, err.strerror)
