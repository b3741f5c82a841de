"""`flysoma bench coordinator`: the load of many tasks on the coordinator, the queue and the store."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import click

from ...tasks.config import RunConfig
from ...tasks.coordination.coordinator import RunOptions, execute_run
from ...tasks.fleet.memory import peak_gb, reset_peak, resident_gb
from ...tasks.fleet.queues import open_queue
from ...tasks.run import Run
from ...tasks.stages.stage import Stage, receipt_path
from ...tasks.storage.store import RunStore
from ..progress import Bars

_PAGE = 1000  # names listed in one request


@click.command("coordinator")
@click.option(
    "--tasks",
    default=46_796,
    show_default=True,
    type=click.IntRange(1),
    help="Number of tasks.",
)
@click.option(
    "--queue", help="sqs://NAME or fq://PATH, emptied afterwards; default: a temporary folder."
)
@click.option(
    "--minutes", default=2.0, show_default=True, help="Time over which the receipts arrive."
)
def command(tasks: int, queue: str | None, minutes: float) -> None:
    """Measure what the coordinator asks of queue and store.

    Enqueues tasks that no worker executes, while this process writes their receipts.
    """
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder, Bars() as bars:
        url = queue or f"fq://{folder}/queue"
        fleet = _Fleet(tasks, 60 * minutes, RunStore(f"{folder}/run"))
        run = Run(RunConfig(image=f"{folder}/em", output=fleet.store.cloudpath))
        store = run.store = _CountingStore(run.path)
        _Idle.tasks = tasks

        def progress(name: str, done: int, total: int) -> None:
            fleet.start()
            bars(name, done, total)

        reset_peak()
        before, start = resident_gb(), time.monotonic()
        stages: list[Any] = [_Idle]  # a class serves as a stage's entry in the catalog
        execute_run(run, RunOptions(url, workers=0), progress, bars.say, stages)
        end = time.monotonic()
        if queue is not None:
            open_queue(queue).purge()
    put_s, watched_s = fleet.started - start, end - fleet.started
    click.echo(f"{tasks} messages put in {put_s:.1f} s, {tasks / put_s:,.0f} per second")
    click.echo(f"{tasks} receipts received in {watched_s:.0f} s; requests to the store:")
    for name, count in sorted(store.requests.items()):
        click.echo(f"  {name:8} {count:10,d}  {count / watched_s:10.1f} per second")
    click.echo(f"memory: {before:.2f} GB before, {peak_gb():.2f} GB peak")


class _Idle(Stage[None, None]):
    """A stage whose tasks no worker executes."""

    name, gpu = "idle", False
    tasks = 0

    def plan(self) -> Sequence[int]:
        return range(self.tasks)


class _Fleet:
    """Writes receipts at an even pace, as workers would, once the messages are in the queue."""

    def __init__(self, tasks: int, seconds: float, store: RunStore) -> None:
        self.tasks, self.seconds, self.store = tasks, seconds, store
        self.started = 0.0

    def start(self) -> None:
        if not self.started:
            self.started = time.monotonic()
            threading.Thread(target=self._write_receipts, daemon=True).start()

    def _write_receipts(self) -> None:
        for index in range(self.tasks):
            wait = self.started + self.seconds * index / self.tasks - time.monotonic()
            time.sleep(max(0.0, wait))
            receipt = {"seconds": 60.0, "peak_gb": 4.0}
            self.store.put_record(receipt_path(_Idle.name, index), receipt)


class _CountingStore(RunStore):
    """Counts requests: one for each page of names, and for each object read, written or deleted."""

    def __init__(self, cloudpath: str) -> None:
        super().__init__(cloudpath)
        self.requests: Counter[str] = Counter()

    def put(self, path: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        self.requests["writes"] += 1
        super().put(path, data, content_type)

    def get(self, path: str) -> bytes | None:
        self.requests["reads"] += 1
        return super().get(path)

    def names(self, prefix: str) -> list[str]:
        names = super().names(prefix)
        self.requests["lists"] += 1 + len(names) // _PAGE
        return names

    def get_many(self, paths: Iterable[str]) -> dict[str, bytes | None]:
        paths = list(paths)
        self.requests["reads"] += len(paths)
        return super().get_many(paths)

    def delete(self, paths: Iterable[str]) -> None:
        paths = list(paths)
        self.requests["deletes"] += len(paths)
        super().delete(paths)
