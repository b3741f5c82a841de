"""What a stage is: its plan of tasks, its forecast, and how a task reads, computes and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..run import Run

Data = TypeVar("Data")
Result = TypeVar("Result")
Counters = dict[str, Any]  # whole numbers and seconds, by name
LABEL_BYTES, ID_BYTES = 4, 8  # of a voxel: a block's own labels; the ids in `somas/`


@dataclass(frozen=True)
class Forecast:
    """What a stage will ask for, known before anything is computed. None: it depends on the somas found.

    Attributes:
      tasks: how many tasks the stage will have, or an upper bound.
      exact: whether `tasks` and `voxels` are exact.
      dropped: blocks without tissue, which get no task.
      voxels: the sum of the counter `voxels` in the receipts, where the stage has one; otherwise the voxels read.
      bytes_in, bytes_out: voxel data read and written, uncompressed.
      reads, writes: requests to the store for these data, and for the stage's tables.
      times_read: how often a voxel of the image is read on average.
    """

    tasks: int | None = None
    exact: bool = False
    dropped: int | None = None
    voxels: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    reads: int | None = None
    writes: int | None = None
    times_read: float | None = None


class Stage(Generic[Data, Result]):
    """One step of the pipeline over all its tasks.

    `Data` is what `read` returns, `Result` what `work` returns.

    Attributes:
      name: also the folder of its receipts.
      scratch: prefixes of objects that only later stages of the run read.
    """

    name = ""
    scratch: tuple[str, ...] = ()

    def __init__(self, run: Run) -> None:
        self.run = run

    def prepare(self) -> None:
        """Create what the tasks write into. The coordinator calls this once, before it plans."""

    def plan(self) -> Sequence[int]:
        """Return the indices of the stage's tasks, in order."""
        raise NotImplementedError

    def forecast(self) -> Forecast:
        """Return what the stage will ask for, from the config and the volume alone."""
        raise NotImplementedError

    def read(self, index: int) -> Data:
        """Return a task's input. A worker reads ahead while it computes another task."""
        raise NotImplementedError

    def work(self, index: int, data: Data) -> Result:
        """Compute a task from its input. The same index gives the same bytes."""
        raise NotImplementedError

    def write(self, index: int, result: Result) -> Counters:
        """Write a task's result, while the next task is computed; returns counters for the receipt."""
        raise NotImplementedError

    def finish(self) -> dict[str, Any]:
        """Reduce the results of all tasks. The coordinator calls this once, when every receipt is there."""
        return {}


class SimpleStage(Stage[None, Counters]):
    """A stage whose `work` reads and writes by itself."""

    def read(self, index: int) -> None:
        """Read nothing ahead."""

    def write(self, index: int, result: Counters) -> Counters:
        """Return the counters; `work` has written the rest."""
        return result
