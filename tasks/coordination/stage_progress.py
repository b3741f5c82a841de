"""The progress of a stage, as its coordinator knows it and `flysoma status` shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from ..run import Run
from ..stages.catalog import read_state, state_path
from ..stages.stage import Stage, receipt_path
from ..storage.store import index_of

_HISTORY_S = 5.0  # between two entries of a stage's history
_MAX_HISTORY = 240  # entries


@dataclass
class StageProgress:
    """The progress of a stage, which `stages/STAGE.json` holds: tasks done, rate, time and memory."""

    run: Run
    stage: Stage[Any, Any]
    plan: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> set[int]:
        return self.plan - self.done

    def open(self) -> bool:
        """Plan the stage, or resume it; return False if it is finished."""
        self.state = read_state(self.run.store, self.stage.name)
        if self.state.get("finished"):
            self.plan = self.done = set(range(self.state["total"]))
            return False
        if not self.state:
            self.stage.prepare()
        self.plan = set(self.stage.plan())
        self.state |= {"total": len(self.plan), "done": 0, "task_seconds": 0.0}
        self.state |= {"peak_gb": 0.0, "halted": None, "lost": 0}
        self.state.setdefault("started", time.time())
        self.state |= {"history": [], "progressed": time.time()}
        self.update()
        self.save()
        return True

    def update(self) -> None:
        """Count the receipts that were written since the last update."""
        new = (self.plan & self.run.store.indices(f"receipts/{self.stage.name}")) - self.done
        receipts = self.run.store.get_records(
            receipt_path(self.stage.name, index) for index in sorted(new)
        )
        self.done |= set(map(index_of, receipts))
        if receipts:
            self.state["progressed"] = time.time()
        self.state["done"] = len(self.done)
        self.state["task_seconds"] += sum(receipt["seconds"] for receipt in receipts.values())
        peaks = [receipt["peak_gb"] for receipt in receipts.values()]
        self.state["peak_gb"] = max(self.state["peak_gb"], *peaks, 0.0)
        history = self.state["history"]
        if not history or time.time() - history[-1][0] >= _HISTORY_S:
            history.append([round(time.time(), 1), len(self.done)])
            del history[:-_MAX_HISTORY]
            self.save()

    def save(self) -> None:
        self.run.store.put_json(state_path(self.stage.name), self.state)

    def finish(self) -> None:
        """Reduce the stage, once all receipts are there."""
        self.update()
        self.state |= {"result": self.stage.finish(), "ended": time.time(), "finished": True}
        self.save()

    def halt(self, reason: str) -> None:
        """Let workers drop the messages of this stage."""
        self.state |= {"halted": reason, "queue": None}
        self.save()
