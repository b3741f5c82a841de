"""The attempts at a task and their failures, recorded in the run, where they outlive every worker.

`running/STAGE/INDEX.json` names the worker that holds a task; the worker deletes it after it writes the receipt. A
worker that leases a task and finds this record counts the death of the previous worker.
`failures/STAGE/INDEX.json` counts the failed attempts and keeps the last ones.
"""

from __future__ import annotations

import importlib.metadata
import os
import random
import time
import traceback
from dataclasses import dataclass
from typing import Any

from ...errors import explain, is_transient, redact_secrets
from ..store import RunStore, index_of

# Attempts per kind of failure. A death may be the machine's fault (a spot machine was reclaimed, another process used
# up the memory), a transient failure the store's.
LIMITS = {"user": 1, "error": 3, "death": 10, "transient": 20}
_KEPT_ATTEMPTS = 5


@dataclass(frozen=True)
class Failure:
    """A failed attempt: its kind (a key of LIMITS), the error, and whether the task is not retried."""

    kind: str
    error: str
    last: bool


def begin(store: RunStore, stage: str, index: int) -> Failure | None:
    """Record that this worker holds a task. Return a failure if workers died of the task too often to retry it."""
    record = store.get_json(running_path(stage, index))
    if record is not None:
        error = (
            f"the worker on {record.get('host')} died: killed, out of memory, or its machine gone"
        )
        failure = _record(store, stage, index, "death", error, "")
        if failure.last:
            store.delete([running_path(stage, index)])
            return failure
    store.put_json(running_path(stage, index), {"host": host(), "started": time.time()})
    return None


def fail(store: RunStore, stage: str, index: int, err: BaseException) -> Failure:
    """Record an attempt that raised."""
    explanation = explain(err)
    kind = "transient" if is_transient(err) else "error" if explanation is None else "user"
    error = explanation or f"{type(err).__name__}: {err}"
    failure = _record(store, stage, index, kind, error, "".join(traceback.format_exception(err)))
    store.delete([running_path(stage, index)])
    return failure


def running_path(stage: str, index: int) -> str:
    """Return the path, in the run, of the record of the worker that holds a task."""
    return f"running/{stage}/{index}.json"


def failure_path(stage: str, index: int) -> str:
    """Return the path, in the run, of a task's failure record."""
    return f"failures/{stage}/{index}.json"


def failures(store: RunStore, stage: str) -> dict[int, dict[str, Any]]:
    """Return the failure records of a stage by the index of the task."""
    records = store.get_jsons(store.names(f"failures/{stage}/"))
    return {index_of(path): record for path, record in records.items()}


def pause_s(failures_in_a_row: int) -> float:
    """Return how long to wait after transient failures: exponential backoff with jitter, seconds."""
    return min(60.0, 2.0**failures_in_a_row) * random.uniform(0.5, 1.0)


def host() -> str:
    """Return the name of this machine."""
    return os.uname().nodename


def _record(store: RunStore, stage: str, index: int, kind: str, error: str, trace: str) -> Failure:
    path, error = failure_path(stage, index), redact_secrets(error)
    record: dict[str, Any] = store.get_json(path) or {"counts": {}, "attempts": []}
    counts = record["counts"]
    counts[kind] = counts.get(kind, 0) + 1
    attempt = {
        "kind": kind,
        "error": error,
        "traceback": redact_secrets(trace),
        "host": host(),
        "time": time.time(),
        "versions": _versions(),
    }
    record["attempts"] = [*record["attempts"], attempt][-_KEPT_ATTEMPTS:]
    record |= {"kind": kind, "error": error, "last": counts[kind] >= LIMITS[kind]}
    store.put_json(path, record)
    return Failure(kind, error, record["last"])


def _versions() -> dict[str, str]:
    names = ("flysoma", "torch", "cloud-volume", "cloud-files", "boto3")
    return {name: importlib.metadata.version(name) for name in names}
