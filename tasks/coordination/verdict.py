"""Whether the failures of a stage halt it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import TasksFailed, UserError
from ..faults import Fault, Whose
from ..fleet.attempts import is_confirmed
from ..fleet.sick_hosts import host
from ..stages.stage import Stage
from ..storage.damage import DamagedObject

_MAX_DOUBTED = (
    3  # times that a task is done again because only one host sees a fault of the request
)
Failures = Mapping[int, dict[str, Any]]  # records by the index of the task


@dataclass
class Verdict:
    """Judges the failures of one stage.

    Attributes:
      tasks: number of tasks of the stage.
      max_failed: fraction of them that may fail permanently.
    """

    stage: Stage[Any, Any]
    tasks: int
    max_failed: float
    _doubted: Counter[int] = field(default_factory=Counter)

    def reached(self, failures: Failures, missing: int) -> UserError | TasksFailed | None:
        """Return the error with which the stage ends; None if it goes on.

        A fault of the request ends it at once if a second host, or this one, has seen it.

        Args:
          failures: of the tasks without a receipt.
          missing: how many tasks have no receipt.
        """
        for failure in failures.values():
            if failure["kind"] == "request" and (
                is_confirmed(failure) or host() in failure.get("hosts", [])
            ):
                return UserError(failure["error"])
        permanent = [failures[index] for index in sorted(failures) if failures[index]["last"]]
        tolerated = max(2, self.max_failed * self.tasks)
        if not permanent or (len(permanent) < missing and len(permanent) <= tolerated):
            return None
        name, path = self.stage.name, self.stage.run.path
        return TasksFailed(
            f"{len(permanent)} of {self.tasks} tasks of {name} failed permanently, "
            f"the first with {permanent[0]['error']}; see {path}/failures/{name}, "
            "then retry with 'flysoma run'"
        )

    def doubted(self, failures: Failures) -> set[int]:
        """Return the tasks that failed on one host because of the request, as this host cannot confirm.

        Raises:
          UserError: this host sees the fault, too.
        """
        found = set()
        for index, failure in failures.items():
            if failure["kind"] == "request" and failure["last"] and not is_confirmed(failure):
                if self._is_seen_here(index):
                    raise UserError(failure["error"])
                self._doubted[index] += 1
                if self._doubted[index] <= _MAX_DOUBTED:
                    found.add(index)
        return found

    def _is_seen_here(self, index: int) -> bool:
        try:
            self.stage.read(index)
        except DamagedObject:  # is repaired
            return False
        except Exception as err:  # noqa: BLE001  only whose fault it is matters
            return Fault.of(err, self.stage.run.path).whose is Whose.REQUEST
        return False
