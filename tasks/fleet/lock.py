"""One coordinator a run: a lock that expires, so that the next takes over from one that was killed.

Two at once would do no harm, every step gives the same bytes twice; they would only do it twice.
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
_SETTLE_S = 0.2  # between writing the lock and looking who has it


@contextmanager
def coordinator_lock(store: RunStore, told: Callable[[str], None]) -> Iterator[None]:
    """Hold a run's lock; while another holds it, say so and wait until it lets go or is gone."""
    own = {"owner": uuid.uuid4().hex, "host": host(), "pid": os.getpid()}
    said = False
    while not _take(store, own):
        if not said:
            other = store.get_json(_PATH) or {}
            told(
                f"waiting: another coordinator (process {other.get('pid')} on {other.get('host')}) "
                "has this run in hand; this one goes on when that one ends"
            )
            said = True
        time.sleep(1)
    over = threading.Event()
    heart = threading.Thread(target=_hold, args=(store, own, over), daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
        if _owner(store) == own["owner"]:
            store.delete([_PATH])


def _take(store: RunStore, own: dict[str, Any]) -> bool:
    there = store.get_json(_PATH)
    if there is not None and there["expires"] > time.time() and not _is_dead(there):
        return False
    _write(store, own)
    time.sleep(_SETTLE_S)
    return _owner(store) == own["owner"]


def _hold(store: RunStore, own: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(_EXPIRES_S / 4):
        _write(store, own)


def _write(store: RunStore, own: dict[str, Any]) -> None:
    store.put_json(_PATH, own | {"expires": time.time() + _EXPIRES_S})


def _owner(store: RunStore) -> str | None:
    return (store.get_json(_PATH) or {}).get("owner")


def _is_dead(there: dict[str, Any]) -> bool:
    """Whether a lock's owner was a process of this machine that is gone."""
    if there["host"] != host():
        return False
    try:
        os.kill(there["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
