"""The machines whose own faults keep them from a run's tasks, recorded as `hosts/HOST.json` in the run."""

from __future__ import annotations

import os
import time
from typing import Any

from ...errors import redact_secrets
from ..faults import Fault
from ..storage.records import Record, as_records
from ..storage.store import RunStore


class Sick(Record):
    """What `hosts/HOST.json` holds. `time` is a Unix time."""

    kind: str
    error: str
    time: float


def host() -> str:
    """Return the name of this machine."""
    return os.uname().nodename


def record(store: RunStore, fault: Fault) -> None:
    """Record a fault of this machine."""
    entry = {"kind": fault.kind, "error": redact_secrets(fault.text), "time": time.time()}
    store.put_json(_path(), entry)


def clear(store: RunStore) -> None:
    """Delete the record of this machine, which works again."""
    store.delete([_path()])


def sick_hosts(store: RunStore) -> dict[str, dict[str, Any]]:
    """Return the last fault of each sick machine: kind, error and time."""
    records = as_records(Sick, store.get_jsons(store.names("hosts/")))
    return {
        path.removeprefix("hosts/").removesuffix(".json"): entry for path, entry in records.items()
    }


def _path() -> str:
    return f"hosts/{host()}.json"
