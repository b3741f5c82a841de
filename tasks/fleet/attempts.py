"""How often a task was tried and why it failed: a record in the run, which outlives every worker.

`running/STAGE/INDEX.json` says who has a task in hand; it goes with the receipt. One that is still there when the
task is leased again tells of a worker that died. `failures/STAGE/INDEX.json` holds every attempt that failed.
"""

from __future__ import annotations

import importlib.metadata
import os
import random
import time
import traceback
from dataclasses import dataclass
from typing import Any

from ...errors import explain, is_transient, without_secrets
from ..store import RunStore, index_of

# How many attempts of each kind a task has. A death may be the machine's fault (a spot machine taken back, memory
# that another process took), what is transient the store's.
LIMITS = {"user": 1, "error": 3, "death": 10, "transient": 20}
_KEPT = 5  # tracebacks of the last attempts


@dataclass(frozen=True)
class Failure:
    """What became of an attempt: its kind, what went wrong, and whether it was the last."""

    kind: str
    error: str
    last: bool


def begin(store: RunStore, stage: str, index: int) -> Failure | None:
    """Take a task in hand; returns the failure when it has been dropped too often to be tried again."""
    there = store.get_json(running_path(stage, index))
    if there is not None:
        died = f"the worker on {there.get('host')} ended without a word: killed, out of memory, or its machine gone"
        failure = _record(store, stage, index, "death", died, "")
        if failure.last:
            store.delete([running_path(stage, index)])
            return failure
    store.put_json(running_path(stage, index), {"host": host(), "started": time.time()})
    return None


def fail(store: RunStore, stage: str, index: int, err: BaseException) -> Failure:
    """Record an attempt that raised."""
    mistake = explain(err)
    kind = "transient" if is_transient(err) else "error" if mistake is None else "user"
    text = mistake or f"{type(err).__name__}: {err}"
    failure = _record(store, stage, index, kind, text, "".join(traceback.format_exception(err)))
    store.delete([running_path(stage, index)])
    return failure


def running_path(stage: str, index: int) -> str:
    return f"running/{stage}/{index}.json"


def failure_path(stage: str, index: int) -> str:
    return f"failures/{stage}/{index}.json"


def failures(store: RunStore, stage: str) -> dict[int, dict[str, Any]]:
    """The failure record of each task of a stage that has one."""
    records = store.get_jsons(store.names(f"failures/{stage}/"))
    return {index_of(path): record for path, record in records.items()}


def pause_s(times: int) -> float:
    """How long to wait after so many transient failures in a row: longer each time, and never two workers alike."""
    return min(60.0, 2.0**times) * random.uniform(0.5, 1.0)


def host() -> str:
    return os.uname().nodename


def _record(store: RunStore, stage: str, index: int, kind: str, text: str, trace: str) -> Failure:
    path, text = failure_path(stage, index), without_secrets(text)
    record: dict[str, Any] = store.get_json(path) or {"counts": {}, "attempts": []}
    counts = record["counts"]
    counts[kind] = counts.get(kind, 0) + 1
    attempt = {"kind": kind, "error": text, "traceback": without_secrets(trace)}
    attempt |= {"host": host(), "time": time.time(), "versions": _versions()}
    record["attempts"] = [*record["attempts"], attempt][-_KEPT:]
    record |= {"kind": kind, "error": text, "last": counts[kind] >= LIMITS[kind]}
    store.put_json(path, record)
    return Failure(kind, text, record["last"])


def _versions() -> dict[str, str]:
    names = ("flysoma", "torch", "cloud-volume", "cloud-files", "task-queue")
    return {name: importlib.metadata.version(name) for name in names}
