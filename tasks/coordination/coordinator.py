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
from dataclasses import dataclass

from ...errors import TasksFailed, UserError
from ...models.networks.gpus import gpu_environment
from ..fleet.attempts import failure_path, failures
from ..fleet.job import do_task
from ..fleet.messages import Queue
from ..fleet.patience import patiently
from ..fleet.queues import open_queue
from ..fleet.repair import FOLDER as REPAIRS
from ..fleet.repair import Repairs
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
from .lock import coordinator_lock
from .lost_messages import LostMessages
from .stage_progress import StageProgress
from .verdict import Verdict

Progress = Callable[[str, int, int], None]
_POLL_S = 0.5
_SIGNALLED = 128  # added to the number of a signal, it is the exit code of a worker that the signal has ended
_RECORDS = ("receipts/", "running/", "failures/", "hosts/", "workers/", REPAIRS)
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
    with coordinator_lock(run.store, report) as check_lock, _queue_url(options.gpu) as url:
        finished = all(is_finished(run, kind.name) for kind in kinds)
        queues = {True: open_queue(url), False: open_queue(options.cpu or url)}
        with _workers(url, run.path, 0 if finished else options.workers) as check_workers:

            def check() -> None:
                check_lock()
                check_workers()

            repairs = Repairs(run, queues, report, check)
            for kind in kinds:

                def do_stage(kind: StageKind = kind) -> None:
                    stage = StageProgress(run, kind(run))
                    _do_stage(stage, queues[kind.gpu], options.max_failed, repairs, progress)

                patiently(do_stage, report, run.path)


def execute_here(run: Run, until: str, progress: Progress) -> None:
    """Do the stages up to `until` in this process, without a queue."""
    for kind in STAGES:
        stage = StageProgress(run, kind(run))
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


def _do_stage(
    stage: StageProgress,
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
    verdict = Verdict(stage.stage, len(stage.plan), max_failed)
    lost = LostMessages(stage, queue)
    while True:
        empty = queue.is_empty()
        stage.update()
        progress(name, len(stage.done), len(stage.plan))
        if not stage.missing:
            break
        failed = {i: f for i, f in failures(run.store, name).items() if i in stage.missing}
        with _halting(stage):
            _do_again(stage, queue, verdict.doubted(failed))
            error = verdict.reached(failed, len(stage.missing))
            if error is not None:
                raise error
            if lost.replace(empty, failed):
                repairs.send_again()
            repairs.advance()
        repairs.check_workers()
        time.sleep(max(_POLL_S, len(stage.plan) / _MAX_LISTED_PER_S))
    repairs.until_intact(stage.finish)


@contextmanager
def _halting(stage: StageProgress) -> Iterator[None]:
    """Halt the stage if the context raises what ends it."""
    try:
        yield
    except (UserError, TasksFailed) as err:
        stage.halt(str(err))
        raise


def _do_again(stage: StageProgress, queue: Queue, indices: set[int]) -> None:
    """Put failed tasks into the queue again."""
    name = stage.stage.name
    stage.run.store.delete([failure_path(name, index) for index in indices])
    _put(stage.run, name, queue, indices)


def _enqueue_missing(stage: StageProgress, queue: Queue) -> None:
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
            code = process.poll()
            if code is not None and 0 < code < _SIGNALLED:
                sys.exit(code)
            if code is not None:
                running[number] = start(number)

    try:
        yield check
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
