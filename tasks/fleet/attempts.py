"""The attempts at a task and their failures, recorded in the run, where they outlive every worker.

`running/STAGE/INDEX.json` names the worker that holds a task; the worker deletes it after it writes the receipt. A
worker that leases a task and finds this record, but no sign of life of the previous worker, counts its death.
`failures/STAGE/INDEX.json` counts the failed attempts and keeps the last ones.
"""

from __future__ import annotations

import importlib.metadata
import random
import time
import traceback
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ...errors import redact_secrets
from ..faults import Fault, Whose
from ..storage.records import Record, as_record, as_records
from ..storage.store import RunStore
from . import sick_hosts
from .sick_hosts import host
from .signs import Worker, is_alive

_KEPT_ATTEMPTS = 5


class Running(Record):
    """What `running/STAGE/INDEX.json` holds. `started` is a Unix time."""

    host: str
    started: float
    worker: Annotated[str, Field(pattern="^[^/\0]*$", max_length=200)] = ""
    lease_s: float = 0.0


class Failed(Record):
    """What `failures/STAGE/INDEX.json` holds; see `Failure`. `counts` has the attempts by kind of fault."""

    kind: str
    last: bool
    error: str = ""
    counts: dict[str, int] = {}
    attempts: list[dict[str, Any]] = []
    hosts: list[str] = []


@dataclass(frozen=True)
class Failure:
    """A failed attempt: the fault behind it, and whether the task is not retried."""

    fault: Fault
    last: bool


def begin(store: RunStore, stage: str, index: int, worker: Worker) -> Failure | None:
    """Record that a worker holds a task. Return a failure if workers died of the task too often to retry it.

    A worker that holds it by its own record is dead if it gives no sign of life any more.
    """
    record = as_record(Running, store.get_json(running_path(stage, index)))
    if record is not None and not is_alive(store, record):
        text = f"the worker on {record['host']} died: killed, out of memory, or its machine gone"
        failure = _record(store, stage, index, Fault("death", text), "")
        if failure.last:
            store.delete([running_path(stage, index)])
            return failure
    started = {"host": host(), "started": time.time(), "worker": worker.name}
    store.put_json(running_path(stage, index), started | {"lease_s": worker.lease_s})
    return None


def fail(store: RunStore, stage: str, index: int, fault: Fault, err: BaseException) -> Failure:
    """Record an attempt that raised. A fault of this host is recorded for the host, not for the task."""
    if fault.whose is Whose.HOST:
        failure = Failure(fault, last=False)
        sick_hosts.record(store, fault)
    else:
        trace = "".join(traceback.format_exception(err))
        failure = _record(store, stage, index, fault, trace)
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
    return as_records(Failed, store.get_numbered(f"failures/{stage}"))


def running(store: RunStore, stage: str) -> dict[int, dict[str, Any]]:
    """Return the records of the workers that hold tasks of a stage by the index of the task."""
    return as_records(Running, store.get_numbered(f"running/{stage}"))


def is_confirmed(failure: dict[str, Any]) -> bool:
    """Return whether two hosts have seen the same fault of the request."""
    return len(failure.get("hosts", [])) > 1


def pause_s(failures_in_a_row: int) -> float:
    """Return how long to wait after transient failures: exponential backoff with jitter, seconds."""
    return min(60.0, 2.0**failures_in_a_row) * random.uniform(0.5, 1.0)


def _record(store: RunStore, stage: str, index: int, fault: Fault, trace: str) -> Failure:
    path, error = failure_path(stage, index), redact_secrets(fault.text)
    record = as_record(Failed, store.get_json(path)) or {"counts": {}, "attempts": []}
    counts = record["counts"]
    counts[fault.kind] = counts.get(fault.kind, 0) + 1
    attempt = {
        "kind": fault.kind,
        "error": error,
        "traceback": redact_secrets(trace),
        "host": host(),
        "time": time.time(),
        "versions": _versions(),
    }
    record["attempts"] = [*record["attempts"], attempt][-_KEPT_ATTEMPTS:]
    if fault.whose is Whose.REQUEST:
        record["hosts"] = sorted({*record.get("hosts", []), host()})
    used_up = fault.rule.attempts is not None and counts[fault.kind] >= fault.rule.attempts
    last = used_up or is_confirmed(record)
    record |= {"kind": fault.kind, "error": error, "last": last}
    store.put_json(path, record)
    return Failure(fault, last)


def _versions() -> dict[str, str]:
    names = ("flysoma", "torch", "cloud-volume", "cloud-files", "boto3")
    return {name: importlib.metadata.version(name) for name in names}
