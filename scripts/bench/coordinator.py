"""`flysoma bench coordinator`: what a brain's worth of tasks costs the queue, the store and the coordinator."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import click

from ...tasks.config import RunConfig
from ...tasks.fleet.coordinator import RunOptions, execute_run
from ...tasks.fleet.memory import peak_gb, reset_peak, resident_gb
from ...tasks.fleet.queues import open_queue
from ...tasks.run import Run
from ...tasks.stages.stage import Stage
from ...tasks.store import RunStore
from ..progress import Bars

_PAGE = 1000  # names that a store lists in one request


@click.command("coordinator")
@click.option("--tasks", default=46_796, show_default=True, type=click.IntRange(1))
@click.option("--queue", help="sqs://NAME or fq://PATH, emptied afterwards; default: a folder.")
@click.option(
    "--minutes", default=2.0, show_default=True, help="Over how long the receipts are spread."
)
def command(tasks: int, queue: str | None, minutes: float) -> None:
    """Put TASKS messages into a queue and watch as many receipts come; tell what that took."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder, Bars() as bars:
        url = queue or f"fq://{folder}/queue"
        fleet = _Fleet(tasks, 60 * minutes, RunStore(f"{folder}/run"))
        run = Run(RunConfig(image=f"{folder}/em", output=fleet.store.cloudpath))
        store = run.store = _CountingStore(run.path)
        _Idle.tasks = tasks

        def progress(name: str, done: int, total: int) -> None:
            fleet.begin()
            bars(name, done, total)

        reset_peak()
        before, begin = resident_gb(), time.monotonic()
        execute_run(run, RunOptions(url, workers=0), progress, bars.say, [_Idle])
        end = time.monotonic()
        if queue is not None:
            open_queue(queue).purge()
    put, watched = fleet.begun - begin, end - fleet.begun
    click.echo(f"{tasks} messages put in {put:.1f} s, {tasks / put:,.0f} a second")
    click.echo(f"{tasks} receipts watched for {watched:.0f} s; requests to the store:")
    for name, count in sorted(store.asked.items()):
        click.echo(f"  {name:8} {count:10,d}  {count / watched:10.1f} a second")
    click.echo(f"memory: {before:.2f} GB before, {peak_gb():.2f} GB at most")


class _Idle(Stage):
    """A stage whose tasks nobody does."""

    name, gpu = "idle", False
    tasks = 0

    def plan(self) -> Sequence[int]:
        return range(self.tasks)


class _Fleet:
    """Leaves receipts at an even pace, as workers would, from when the messages are put."""

    def __init__(self, tasks: int, seconds: float, store: RunStore) -> None:
        self.tasks, self.seconds, self.store = tasks, seconds, store
        self.begun = 0.0

    def begin(self) -> None:
        if not self.begun:
            self.begun = time.monotonic()
            threading.Thread(target=self._leave_receipts, daemon=True).start()

    def _leave_receipts(self) -> None:
        for index in range(self.tasks):
            early = self.begun + self.seconds * index / self.tasks - time.monotonic()
            time.sleep(max(0.0, early))
            self.store.put_json(f"receipts/idle/{index}.json", {"seconds": 60.0, "peak_gb": 4.0})


class _CountingStore(RunStore):
    """Counts requests: a page of names, an object read, written or deleted is one."""

    def __init__(self, cloudpath: str) -> None:
        super().__init__(cloudpath)
        self.asked: Counter[str] = Counter()

    def put(self, path: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self.asked["writes"] += 1
        super().put(path, data, content_type)

    def get(self, path: str) -> bytes | None:
        self.asked["reads"] += 1
        return super().get(path)

    def names(self, prefix: str) -> list[str]:
        found = super().names(prefix)
        self.asked["lists"] += 1 + len(found) // _PAGE
        return found

    def get_jsons(self, paths: Iterable[str]) -> dict[str, Any]:
        paths = list(paths)
        self.asked["reads"] += len(paths)
        return super().get_jsons(paths)

    def delete(self, paths: Iterable[str]) -> None:
        paths = list(paths)
        self.asked["deletes"] += len(paths)
        super().delete(paths)
