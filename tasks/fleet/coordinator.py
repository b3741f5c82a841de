"""The coordinator: for each stage it enqueues the tasks without a receipt, waits for receipts, and reduces.

Its state lies in the run, so it can be killed at any time and restarted on any machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ...errors import TasksFailed, UserError
from ...models.networks.gpus import gpu_environment
from ..run import Run
from ..stages.catalog import (
    EXTRAS,
    STAGES,
    StageKind,
    check_stage,
    is_finished,
    make_stage,
    read_state,
    state_path,
)
from ..stages.stage import Stage, receipt_path
from ..store import index_of
from .attempts import failure_path, failures
from .job import do_task
from .lock import coordinator_lock
from .messages import Queue
from .queues import open_queue
from .repair import FOLDER as REPAIRS
from .repair import Repairs

Progress = Callable[[str, int, int], None]
_POLL_S = 0.5
_HISTORY_S = 5.0  # between two entries of a stage's history
_MAX_HISTORY = 240  # entries
_RECORDS = ("receipts/", "running/", "failures/", REPAIRS)
_MAX_LISTED_PER_S = 2000  # receipts


@dataclass(frozen=True)
class RunOptions:
    """Options of a coordinator.

    Attributes:
      gpu, cpu: URLs of the queues for stages that run a network, and for the others; None: a temporary queue.
      workers: worker processes to start on this machine; 0 leaves the tasks to other workers and needs a queue.
      until: name of the last stage to do.
      max_failed: fraction of a stage's tasks that may fail permanently before the stage is halted.
    """

    gpu: str | None = None
    cpu: str | None = None
    workers: int = 1
    until: str | None = None
    max_failed: float = 0.05


def execute_run(
    run: Run,
    options: RunOptions,
    progress: Progress,
    report: Callable[[str], None],
    stages: Sequence[StageKind] | None = None,
) -> None:
    """Do every stage that is not finished.

    Args:
      progress: called with the stage, the number of tasks done, and the total.
      report: called with messages for the user.
      stages: the stages in order; default STAGES.
    Raises:
      TasksFailed: too many tasks failed.
      UserError: a task failed with an error that only the user can correct.
    """
    kinds = STAGES if stages is None else stages
    if options.until is not None:
        kinds = kinds[: [kind.name for kind in kinds].index(options.until) + 1]
    with coordinator_lock(run.store, report), _queue_url(options.gpu) as url:
        finished = all(is_finished(run, kind.name) for kind in kinds)
        queues = {True: open_queue(url), False: open_queue(options.cpu or url)}
        with _workers(url, run.path, 0 if finished else options.workers) as check_workers:
            repairs = Repairs(run, queues, report, check_workers)
            for kind in kinds:
                stage = _StageProgress(run, kind(run))
                _do_stage(stage, queues[kind.gpu], options.max_failed, repairs, progress)


def execute_here(run: Run, until: str, progress: Progress) -> None:
    """Do the stages up to `until` in this process, without a queue."""
    for kind in STAGES:
        stage = _StageProgress(run, kind(run))
        if stage.open():
            for done, index in enumerate(sorted(stage.plan), start=1):
                do_task(stage.stage, index)
                progress(kind.name, done, len(stage.plan))
            stage.finish()
        if kind.name == until:
            break


def enqueue(run: Run, name: str, url: str) -> int:
    """Put the tasks of a planned stage that have no receipt into a queue; return how many."""
    check_stage(name)
    if not read_state(run.store, name):
        raise UserError(
            f"stage {name} of {run.path} is not planned yet: finish the stages before it"
        )
    _resume(run, name)
    missing = set(make_stage(name, run).plan()) - run.store.indices(f"receipts/{name}")
    return _put(run, name, open_queue(url), missing)


def retry(run: Run, gpu: str, cpu: str | None = None) -> dict[str, int]:
    """Put permanently failed tasks into a queue again and delete their failures; return how many, by stage.

    Args:
      gpu, cpu: URLs as in RunOptions.
    """
    queues, counts = {True: open_queue(gpu), False: open_queue(cpu or gpu)}, {}
    for stage in STAGES:
        failed = {
            index for index, failure in failures(run.store, stage.name).items() if failure["last"]
        } - run.store.indices(f"receipts/{stage.name}")
        if failed:
            run.store.delete([failure_path(stage.name, index) for index in failed])
            _resume(run, stage.name)
            counts[stage.name] = _put(run, stage.name, queues[stage.gpu], failed)
    return counts


def clean(run: Run, dry_run: bool = False) -> dict[str, int]:
    """Delete intermediate objects of a finished run; return how many, by folder.

    Raises UserError if the run is not finished, because it needs them to resume.
    """
    last = STAGES[-1].name
    if not is_finished(run, last):
        raise UserError(
            f"{run.path} is not finished (stage {last} is not): it needs its intermediate objects"
        )
    counts = {}
    for folder in (*(path for kind in (*STAGES, *EXTRAS) for path in kind(run).scratch), *_RECORDS):
        names = run.store.names(folder)
        counts[folder] = len(names)
        if not dry_run:
            run.store.delete(names)
    return counts


def _resume(run: Run, stage: str) -> None:
    """Let workers do the tasks of a halted stage again."""
    state = read_state(run.store, stage)
    if state.get("halted"):
        run.store.put_json(state_path(stage), state | {"halted": None})


def _put(run: Run, stage: str, queue: Queue, indices: set[int]) -> int:
    queue.put((run.path, stage, index) for index in sorted(indices))
    return len(indices)


@dataclass
class _StageProgress:
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
        self.state |= {"peak_gb": 0.0, "halted": None}
        self.state.setdefault("started", time.time())
        self.state["history"] = []
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


def _do_stage(
    stage: _StageProgress,
    queue: Queue,
    max_failed: float,
    repairs: Repairs,
    progress: Progress,
) -> None:
    run, name = stage.run, stage.stage.name
    if not repairs.until_intact(stage.open):
        progress(name, len(stage.plan), len(stage.plan))
        return
    _enqueue_missing(stage, queue)
    empty_since: float | None = None
    while True:
        empty = queue.is_empty()
        stage.update()
        progress(name, len(stage.done), len(stage.plan))
        if not stage.missing:
            break
        failed = failures(run.store, name)
        permanent = {i for i, failure in failed.items() if failure["last"]} & stage.missing
        _raise_if_failed(stage, [failed[index] for index in sorted(permanent)], max_failed)
        if not empty:
            empty_since = None
        elif empty_since is None:
            empty_since = time.monotonic()
        elif time.monotonic() - empty_since > queue.settles_s:  # messages were lost
            _put(run, name, queue, stage.missing - permanent)
            repairs.send_again()
            empty_since = None
        try:
            repairs.advance()
        except (TasksFailed, UserError) as err:
            stage.halt(str(err))
            raise
        repairs.check_workers()
        time.sleep(max(_POLL_S, len(stage.plan) / _MAX_LISTED_PER_S))
    repairs.until_intact(stage.finish)


def _enqueue_missing(stage: _StageProgress, queue: Queue) -> None:
    """Put the missing tasks into the queue, and delete the failures of an earlier coordinator."""
    run, name = stage.run, stage.stage.name
    failed = failures(run.store, name)
    run.store.delete([failure_path(name, index) for index in failed])
    if (
        stage.state.get("queue") == queue.url
    ):  # which still holds all but those that failed permanently
        permanent = {index for index, failure in failed.items() if failure["last"]}
        _put(run, name, queue, permanent & stage.missing)
    else:
        _put(run, name, queue, stage.missing)
        stage.state["queue"] = queue.url
        stage.save()


def _raise_if_failed(
    stage: _StageProgress, permanent: list[dict[str, Any]], max_failed: float
) -> None:
    """Halt the stage if too many tasks, or all that are missing, failed permanently."""
    for failure in permanent:
        if failure["kind"] == "user":
            stage.halt(failure["error"])
            raise UserError(failure["error"])
    tolerated = max(2, max_failed * len(stage.plan))
    if not permanent or (len(permanent) < len(stage.missing) and len(permanent) <= tolerated):
        return
    name, path = stage.stage.name, stage.run.path
    text = (
        f"{len(permanent)} of {len(stage.plan)} tasks of {name} failed permanently, "
        f"the first with {permanent[0]['error']}"
    )
    stage.halt(text)
    raise TasksFailed(f"{text}; see {path}/failures/{name}, then retry with 'flysoma run'")


@contextmanager
def _queue_url(url: str | None) -> Iterator[str]:
    """Yield a queue's URL, or that of a queue in a temporary folder."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="flysoma-queue-") as folder:
        yield f"fq://{folder}"


@contextmanager
def _workers(url: str, run: str, count: int) -> Iterator[Callable[[], None]]:
    """Start worker processes of a run, which share this machine's cores and GPUs, and stop them at the end.

    Yields a function that restarts workers that were killed by a signal. If a worker exited by itself, it would do so
    again, and has said why: the function exits with its code.
    """
    command = [sys.executable, "-P", "-m", "flysoma.scripts.cli", "work", url, "--quiet"]
    command += ["--runs", run, "--parent", str(os.getpid())]
    threads = max(1, len(os.sched_getaffinity(0)) // max(1, count))
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ

    def start(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment | gpu_environment(number))

    running = [start(number) for number in range(count)]

    def check() -> None:
        for number, process in enumerate(running):
            if (process.poll() or 0) > 0:
                sys.exit(process.returncode)
            if process.returncode is not None:
                running[number] = start(number)

    try:
        yield check
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
