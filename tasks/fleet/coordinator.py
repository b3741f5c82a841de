"""The coordinator: stage by stage it enqueues what has no receipt, waits for receipts, and does the reduce step.

All it knows lies in the run, so it can be killed at any moment and started again, here or elsewhere.
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
from functools import partial
from typing import Any

from ...errors import TasksFailed, UserError
from ..run import Run
from ..stages.catalog import (
    EXTRAS,
    STAGES,
    StageKind,
    check_stage,
    is_finished,
    make_stage,
    state_path,
)
from ..stages.stage import Stage
from .attempts import failure_path, failures
from .lock import coordinator_lock
from .queues import Queue, open_queue
from .worker import do_task

Progress = Callable[[str, int, int], None]
_LOOK_S = 0.5
_KEEP_S = 5.0  # between two entries of a stage's history
_HISTORY = 240  # entries
_RECORDS = ("receipts/", "running/", "failures/")
_NAMES_A_SECOND = 2000  # receipts listed, at most


@dataclass(frozen=True)
class RunOptions:
    """How a run is to be done.

    Attributes:
      gpu, cpu: URLs of the queues for stages that run a network, and for the rest; None: a queue of the run's own.
      workers: processes started here; 0 leaves the work to workers elsewhere and needs a queue.
      until: name of the last stage to do.
      max_failed: share of a stage's tasks that may fail for good before the stage is stopped.
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
    told: Callable[[str], None],
    stages: Sequence[StageKind] | None = None,
) -> None:
    """Do every stage that is not finished.

    Args:
      progress: called with stage, tasks done, tasks in all.
      told: called with what people should know meanwhile.
      stages: in place of STAGES.
    Raises:
      TasksFailed, or UserError when a task failed by a user's mistake.
    """
    kinds = STAGES if stages is None else stages
    if options.until is not None:
        kinds = kinds[: [kind.name for kind in kinds].index(options.until) + 1]
    with coordinator_lock(run.store, told), _url(options.gpu) as url:
        over = all(is_finished(run, kind.name) for kind in kinds)
        queues = {True: open_queue(url), False: open_queue(options.cpu or url)}
        with _workers(url, 0 if over else options.workers) as alive:
            for kind in kinds:
                watch = _Watch(run, kind(run))
                _do_stage(watch, queues[kind.gpu], options.max_failed, alive, progress)


def execute_here(run: Run, until: str, progress: Progress) -> None:
    """Do the stages up to `until` in this process, task by task, without a queue."""
    for kind in STAGES:
        watch = _Watch(run, kind(run))
        if watch.open():
            for done, index in enumerate(sorted(watch.plan), start=1):
                do_task(watch.stage, index)
                progress(kind.name, done, len(watch.plan))
            watch.finish()
        if kind.name == until:
            break


def enqueue(run: Run, name: str, url: str) -> int:
    """Put the tasks of a planned stage that have no receipt into a queue; returns how many."""
    check_stage(name)
    if run.store.get_json(state_path(name)) is None:
        raise UserError(
            f"stage {name} of {run.path} is not planned yet: stages before it come first"
        )
    _resume(run, name)
    todo = set(make_stage(name, run).plan()) - run.store.indices(f"receipts/{name}")
    return _put(run, name, open_queue(url), todo)


def retry(run: Run, gpu: str, cpu: str | None = None) -> dict[str, int]:
    """Put tasks that failed for good into a queue again, their failures forgotten; returns how many by stage.

    Args:
      gpu, cpu: URLs as in RunOptions.
    """
    queues, found = {True: open_queue(gpu), False: open_queue(cpu or gpu)}, {}
    for stage in STAGES:
        failed = {
            index for index, failure in failures(run.store, stage.name).items() if failure["last"]
        } - run.store.indices(f"receipts/{stage.name}")
        if failed:
            run.store.delete([failure_path(stage.name, index) for index in failed])
            _resume(run, stage.name)
            found[stage.name] = _put(run, stage.name, queues[stage.gpu], failed)
    return found


def clean(run: Run, dry_run: bool = False) -> dict[str, int]:
    """Delete what nobody reads once a run is finished; returns how many objects by folder.

    Raises UserError when it is not finished: what is there is needed to go on.
    """
    last = STAGES[-1].name
    if not is_finished(run, last):
        raise UserError(f"{run.path} is not finished (stage {last} is not): it needs what is there")
    gone = {}
    for folder in (*(path for kind in (*STAGES, *EXTRAS) for path in kind(run).scratch), *_RECORDS):
        names = run.store.names(folder)
        gone[folder] = len(names)
        if not dry_run:
            run.store.delete(names)
    return gone


def _resume(run: Run, stage: str) -> None:
    """Let workers do the tasks of a stage that was halted."""
    state = run.store.get_json(state_path(stage))
    if state.get("halted"):
        run.store.put_json(state_path(stage), state | {"halted": None})


def _put(run: Run, stage: str, queue: Queue, indices: set[int]) -> int:
    queue.put((run.path, stage, index) for index in sorted(indices))
    return len(indices)


@dataclass
class _Watch:
    """A stage under way, as `stages/STAGE.json` tells it: what is done, how fast, and what it took."""

    run: Run
    stage: Stage
    plan: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def missing(self) -> set[int]:
        return self.plan - self.done

    def open(self) -> bool:
        """Plan the stage, or go on with it; False when it is finished."""
        self.state = self.run.store.get_json(state_path(self.stage.name)) or {}
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
        self.look()
        self.save()
        return True

    def look(self) -> None:
        """Count the receipts that came since the last look."""
        there = self.plan & self.run.store.indices(f"receipts/{self.stage.name}")
        new = there - self.done
        receipts = self.run.store.get_jsons(
            f"receipts/{self.stage.name}/{index}.json" for index in sorted(new)
        )
        self.done |= new
        self.state["done"] = len(self.done)
        self.state["task_seconds"] += sum(receipt["seconds"] for receipt in receipts.values())
        peaks = [receipt["peak_gb"] for receipt in receipts.values()]
        self.state["peak_gb"] = max(self.state["peak_gb"], *peaks, 0.0)
        history = self.state["history"]
        if not history or time.time() - history[-1][0] >= _KEEP_S:
            history.append([round(time.time(), 1), len(self.done)])
            del history[:-_HISTORY]
            self.save()

    def save(self) -> None:
        self.run.store.put_json(state_path(self.stage.name), self.state)

    def finish(self) -> None:
        self.look()
        self.state |= {"result": self.stage.finish(), "ended": time.time(), "finished": True}
        self.save()

    def halt(self, reason: str) -> None:
        """Tell the workers that nobody waits for this stage's tasks any more."""
        self.state |= {"halted": reason, "queue": None}  # workers drop its messages
        self.save()


def _do_stage(
    watch: _Watch, queue: Queue, max_failed: float, alive: Callable[[], None], progress: Progress
) -> None:
    run, name = watch.run, watch.stage.name
    if not watch.open():
        progress(name, len(watch.plan), len(watch.plan))
        return
    failed = failures(run.store, name)
    run.store.delete([failure_path(name, index) for index in failed])
    if watch.state.get("queue") == queue.url:  # those that failed are no longer in it
        _put(run, name, queue, {i for i, f in failed.items() if f["last"]} & watch.missing)
    else:
        _put(run, name, queue, watch.missing)
        watch.state["queue"] = queue.url
        watch.save()
    empty_since: float | None = None
    while True:
        empty = queue.is_empty()
        watch.look()
        progress(name, len(watch.done), len(watch.plan))
        if not watch.missing:
            break
        failed = failures(run.store, name)
        over = {index for index, failure in failed.items() if failure["last"]} & watch.missing
        _raise_if_over(watch, [failed[index] for index in sorted(over)], max_failed)
        if not empty:
            empty_since = None
        elif empty_since is None:
            empty_since = time.monotonic()
        elif time.monotonic() - empty_since > queue.settles_s:  # messages were lost
            _put(run, name, queue, watch.missing - over)
            empty_since = None
        alive()
        time.sleep(max(_LOOK_S, len(watch.plan) / _NAMES_A_SECOND))
    watch.finish()


def _raise_if_over(watch: _Watch, over: list[dict[str, Any]], max_failed: float) -> None:
    """Stop the stage when too many tasks, or all that are left, failed for good."""
    for failure in over:
        if failure["kind"] == "user":
            watch.halt(failure["error"])
            raise UserError(failure["error"])
    if not over or (
        len(over) < len(watch.missing) and len(over) <= max(2, max_failed * len(watch.plan))
    ):
        return
    name, path = watch.stage.name, watch.run.path
    text = f"{len(over)} of {len(watch.plan)} tasks of {name} failed for good, the first with {over[0]['error']}"
    watch.halt(text)
    raise TasksFailed(f"{text}; see {path}/failures/{name}, then 'flysoma run' tries them again")


@contextmanager
def _url(url: str | None) -> Iterator[str]:
    """The queue asked for, or one in a temporary folder."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="flysoma-queue-") as folder:
        yield f"fq://{folder}"


@contextmanager
def _workers(url: str, count: int) -> Iterator[Callable[[], None]]:
    """Worker processes that share this machine's cores; yields a function that starts those anew that were killed.

    One that ended by itself would end so again, and has said why: the function exits with its code.
    """
    command = [sys.executable, "-P", "-m", "flysoma.scripts.cli", "work", url, "--quiet"]
    command += ["--parent", str(os.getpid())]
    share = max(1, len(os.sched_getaffinity(0)) // max(1, count))
    environment = {"OMP_NUM_THREADS": str(share)} | os.environ
    start = partial(subprocess.Popen, command, env=environment)
    running = [start() for _ in range(count)]

    def alive() -> None:
        for number, process in enumerate(running):
            if (process.poll() or 0) > 0:
                sys.exit(process.returncode)
            if process.returncode is not None:
                running[number] = start()

    try:
        yield alive
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
