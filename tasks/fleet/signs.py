"""Signs of life of a worker: `workers/NAME.json` in the runs whose tasks it holds, written again at every beat.

Their age, by the clock of the run's store, tells a worker that died from one whose lease another worker took too early.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from ..storage.store import RunStore
from .sick_hosts import host

_FOLDER = "workers/"
_SILENT = 0.75  # of a lease; a worker gives three signs in each


@dataclass
class Worker:
    """This worker process.

    Attributes:
      lease_s: length of its leases, seconds.
    """

    lease_s: int
    name: str = field(default_factory=lambda: f"{host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    _signed: dict[str, float] = field(default_factory=dict)  # time of the last sign, by run
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sign(self, store: RunStore) -> None:
        """Give a sign of life in a run, unless the last one is recent."""
        with self._lock:
            last, now = self._signed.get(store.cloudpath, float("-inf")), time.monotonic()
            if now - last < self.lease_s / 6:
                return
            self._signed[store.cloudpath] = now
        store.put_json(_path(self.name), {"host": host(), "lease_s": self.lease_s})

    def leave(self, store: RunStore) -> None:
        """Delete the sign of life in a run."""
        store.delete([_path(self.name)])

    @property
    def runs(self) -> list[str]:
        """The runs with a sign of life of this worker."""
        return list(self._signed)


def is_alive(store: RunStore, record: dict[str, Any]) -> bool:
    """Return whether the worker that a record of a task names has given a sign of life lately."""
    sign = store.read_version(_path(record["worker"]))
    return sign is not None and sign.age_s < _SILENT * record["lease_s"]


def silence_s(store: RunStore, enough_s: float) -> float:
    """Return the seconds since the last sign of a worker that has not left the run; infinity without one.

    Args:
      enough_s: a sign as recent as this is not compared with others.
    """
    least = float("inf")
    for path in store.names(_FOLDER):
        sign = store.read_version(path)
        least = least if sign is None else min(least, sign.age_s)
        if least <= enough_s:
            break
    return least


def _path(worker: str) -> str:
    return f"{_FOLDER}{worker}.json"
