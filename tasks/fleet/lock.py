"""A lock that admits one coordinator per run, and that expires, so that a killed coordinator can be replaced.

Two coordinators at once would write the same bytes twice: the lock saves work, correctness does not depend on it.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..store import RunStore
from .attempts import host

_PATH = "coordinator.json"
_EXPIRES_S = 60.0
_SETTLE_S = 0.2  # between writing the lock and reading who holds it


@contextmanager
def coordinator_lock(store: RunStore, report: Callable[[str], None]) -> Iterator[None]:
    """Hold a run's lock. While another coordinator holds it, report that once and wait until the lock is free."""
    own = {"owner": uuid.uuid4().hex, "host": host(), "pid": os.getpid()}
    reported = False
    while not _acquire(store, own):
        if not reported:
            other = store.get_json(_PATH) or {}
            report(
                f"waiting: another coordinator (process {other.get('pid')} on {other.get('host')}) "
                "holds this run; this one continues when that one ends"
            )
            reported = True
        time.sleep(1)
    stop = threading.Event()
    heartbeat = threading.Thread(target=_renew_until, args=(store, own, stop), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        if _owner(store) == own["owner"]:
            store.delete([_PATH])


def _acquire(store: RunStore, own: dict[str, Any]) -> bool:
    lock = store.get_json(_PATH)
    if lock is not None and lock["expires"] > time.time() and not _is_dead(lock):
        return False
    _write(store, own)
    time.sleep(_SETTLE_S)
    return _owner(store) == own["owner"]


def _renew_until(store: RunStore, own: dict[str, Any], stop: threading.Event) -> None:
    while not stop.wait(_EXPIRES_S / 4):
        _write(store, own)


def _write(store: RunStore, own: dict[str, Any]) -> None:
    store.put_json(_PATH, own | {"expires": time.time() + _EXPIRES_S})


def _owner(store: RunStore) -> str | None:
    return (store.get_json(_PATH) or {}).get("owner")


def _is_dead(lock: dict[str, Any]) -> bool:
    """Return whether the owner of a lock was a process of this machine that no longer exists."""
    if lock["host"] != host():
        return False
    try:
        os.kill(lock["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
