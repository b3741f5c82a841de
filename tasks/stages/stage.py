"""What a stage is: its plan of tasks, its forecast, and how a task reads, computes and writes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from ..run import Run, stored_path
from ..storage.damage import DamagedObject

Data = TypeVar("Data")
Result = TypeVar("Result")
Counters = dict[str, Any]  # whole numbers and seconds, by name; and STORED
STORED = "stored"  # numbers of the objects that the task stored, by the name of their kind
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


def receipt_path(stage: str, index: int) -> str:
    """Return the path of a task's receipt in its run."""
    return f"receipts/{stage}/{index}.json"


class Stage(Generic[Data, Result]):
    """One step of the pipeline over all its tasks.

    `Data` is what `read` returns, `Result` what `work` returns.

    Attributes:
      name: also the folder of its receipts.
      scratch: prefixes of objects that tasks write and only later stages of the run read.
      prepared, reduced: paths of objects that `prepare` or `finish` writes and later stages read.
    """

    name = ""
    scratch: tuple[str, ...] = ()
    prepared: tuple[str, ...] = ()
    reduced: tuple[str, ...] = ()

    def __init__(self, run: Run) -> None:
        self.run = run

    @property
    def engine(self) -> str | None:
        """The engine that runs the networks of the stage, for the receipts; None for a stage without networks."""
        return None

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

    def task_of(self, path: str) -> int | None:
        """Return the index of the task that writes an object, so that it can be done again; None if no task does."""
        number = re.match(r"\d+", path.rpartition("/")[2])
        return int(number[0]) if number and path.startswith(self.scratch) else None

    def receipts(self) -> dict[int, dict[str, Any]]:
        """Return the receipts of all tasks by index. Raises DamagedObject if one is missing or damaged."""
        paths = {receipt_path(self.name, index): index for index in self.plan()}
        receipts = self.run.store.get_records(paths)
        for path in paths:
            if path not in receipts:
                raise DamagedObject(self.run.path, path, "is missing or damaged")
        return {paths[path]: receipt for path, receipt in receipts.items()}

    def put_stored(self) -> dict[str, np.ndarray]:
        """Write the numbers of all objects that the tasks stored, so that later stages notice when one is lost.

        Returns:
          The numbers, ascending, by the name of their kind.
        """
        numbers: dict[str, list[int]] = {}
        for receipt in self.receipts().values():
            for kind, some in receipt["counters"][STORED].items():
                numbers.setdefault(kind, []).extend(some)
        arrays = {kind: np.sort(np.array(some, np.int64)) for kind, some in numbers.items()}
        self.run.put_stored_numbers(self.name, arrays)
        return arrays

    def replace_stored(
        self, again: Mapping[str, Iterable[int]], stored: Mapping[str, Iterable[int]]
    ) -> None:
        """Correct the list of `put_stored` once some objects were made again.

        Args:
          again: numbers of the objects that were made again, by kind.
          stored: which of them were stored.
        """
        numbers = dict(self.run.store.get_arrays(stored_path(self.name)))
        for kind, some in again.items():
            others = np.setdiff1d(numbers.get(kind, ()), list(some))
            numbers[kind] = np.union1d(others, list(stored.get(kind, ()))).astype(np.int64)
        self.run.put_stored_numbers(self.name, numbers)


class SimpleStage(Stage[None, Counters]):
    """A stage whose `work` reads and writes by itself."""

    def read(self, index: int) -> None:
        """Read nothing ahead."""

    def write(self, index: int, result: Counters) -> Counters:
        """Return the counters; `work` has written the rest."""
        return result
