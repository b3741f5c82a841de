"""What a stage is: a plan of tasks, and how one task reads, computes and writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..run import Run


class Stage:
    """One step of the pipeline over all its tasks.

    Attributes:
      name: also the folder of its receipts.
      scratch: prefixes of what only later stages of the run read.
    """

    name = ""
    scratch: tuple[str, ...] = ()

    def __init__(self, run: Run) -> None:
        self.run = run

    def prepare(self) -> None:
        """Once, by the coordinator, before tasks are made: create what they write into."""

    def plan(self) -> Sequence[int]:
        """Indices of the stage's tasks, in order."""
        raise NotImplementedError

    def read(self, index: int) -> Any:
        """What a task needs, read ahead while another task is worked on."""

    def work(self, index: int, data: Any) -> Any:
        """The task itself, on what `read` gave; the same index gives the same bytes. Returns what `write` wants."""
        raise NotImplementedError

    def write(self, index: int, found: Any) -> dict[str, Any]:
        """Write what was found, while the next task is worked on; returns counters for the receipt.

        A stage that does not need this writes in `work`, which then returns the counters.
        """
        return found

    def finish(self) -> dict[str, Any]:
        """The reduce step: once, by the coordinator, when every receipt is there."""
        return {}
