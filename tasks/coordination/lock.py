"""A lock that admits one coordinator per run, and that expires, so that a killed coordinator can be replaced.

It is taken and renewed by conditional writes, and its age is judged by the clock of the run's store.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...errors import HostError
from ..fleet.sick_hosts import host
from ..storage.records import Record, as_record
from ..storage.store import RunStore
from ..storage.versions import Version

_PATH = "coordinator.json"
_EXPIRES_S = 60.0
logger = logging.getLogger(__name__)


@contextmanager
def coordinator_lock(
    store: RunStore, report: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Hold a run's lock. While another coordinator holds it, report that once and wait until the lock is free.

    Yields:
      A function that raises HostError if the lock was lost: this machine was silent for so long that another
      coordinator took over.
    """
    lock, reported = _Lock(store), False
    while not lock.acquire():
        if not reported:
            other = as_record(Record, store.get_json(_PATH)) or {}
            report(
                f"waiting: another coordinator (process {other.get('pid')} on {other.get('host')}) "
                "holds this run; this one continues when that one ends"
            )
            reported = True
        time.sleep(1)
    stop = threading.Event()
    heartbeat = threading.Thread(target=lock.renew_until, args=(stop,), daemon=True)
    heartbeat.start()
    try:
        yield lock.check
    finally:
        stop.set()
        heartbeat.join()
        lock.release()


class _Lock:
    def __init__(self, store: RunStore) -> None:
        self._store, self._lost = store, False
        self._tag: str | None = None
        self._own = {"owner": uuid.uuid4().hex, "host": host(), "pid": os.getpid()}

    def acquire(self) -> bool:
        there = self._store.read_version(_PATH)
        if there is not None and abs(there.age_s) < _EXPIRES_S and not _is_dead(there):
            return False
        self._tag = self._store.put_version(_PATH, self._text(), there.tag if there else None)
        return self._tag is not None

    def renew_until(self, stop: threading.Event) -> None:
        while not (self._lost or stop.wait(_EXPIRES_S / 4)):
            try:
                self._tag = self._store.put_version(_PATH, self._text(), self._tag)
                self._lost = self._tag is None
            except Exception as err:  # noqa: BLE001  the next beat tries again
                logger.warning("the lock of %s is not renewed: %s", self._store.cloudpath, err)

    def check(self) -> None:
        if self._lost:
            raise HostError(
                f"another coordinator has taken over {self._store.cloudpath}, because this one was silent "
                f"for {_EXPIRES_S:.0f} seconds"
            )

    def release(self) -> None:
        if (_holder(self._store.read_version(_PATH)) or {}).get("owner") == self._own["owner"]:
            self._store.delete([_PATH])

    def _text(self) -> bytes:
        """Return the content, which differs at every beat: the tag of S3 is a hash of it."""
        return json.dumps(self._own | {"beat": uuid.uuid4().hex}).encode()


def _holder(lock: Version | None) -> dict[str, Any] | None:
    """Return what a lock says about its owner; None if it is damaged."""
    try:
        content = None if lock is None else json.loads(lock.data)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _is_dead(lock: Version) -> bool:
    """Return whether the owner of a lock was a process of this machine that no longer exists."""
    holder = _holder(lock) or {}
    if holder.get("host") != host() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False
