"""One task on a worker: read, work, write, and the receipt, which says that the task is done."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ..stages.stage import Stage, receipt_path
from .memory import peak_gb
from .messages import Lease
from .sick_hosts import host


@dataclass
class Job:
    """A leased task, and the seconds of its phases so far."""

    lease: Lease
    stage: Stage[Any, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    def read(self) -> Any:
        """Read the input of the task."""
        with self._phase("read"):
            return self.stage.read(self.lease.index)

    def work(self, data: Any) -> Any:
        """Compute the result."""
        with self._phase("work"):
            return self.stage.work(self.lease.index, data)

    def write(self, result: Any) -> dict[str, Any]:
        """Write the result, then the receipt; return the receipt."""
        lease = self.lease
        with self._phase("write"):
            counters = self.stage.write(lease.index, result)
        receipt = {
            "counters": counters,
            "seconds": round(sum(self.seconds.values()), 3),
            "phases": self.seconds,
            "peak_gb": round(peak_gb(), 3),
            "finished": round(time.time(), 3),
            "host": host(),
        }
        if self.stage.engine is not None:
            receipt["engine"] = self.stage.engine
        self.stage.run.store.put_record(receipt_path(lease.stage, lease.index), receipt)
        return receipt

    def _phase(self, name: str) -> _Phase:
        return _Phase(self.seconds, name)


class _Phase:
    """Measures the seconds of a phase."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(time.monotonic() - self.start, 3)


def do_task(stage: Stage[Any, Any], index: int) -> dict[str, Any]:
    """Do one task in this process, without a queue; return its receipt."""
    job = Job(Lease("", stage.run.path, stage.name, index), stage)
    return job.write(job.work(job.read()))
