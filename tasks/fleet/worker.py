"""What a worker does: lease a task, read, work, write, leave a receipt, delete the message.

Three tasks are in hand at a time: one is written, one is worked on, one is read ahead. A heartbeat keeps their
leases. Whatever happens to a worker, its messages come back to the queue and its tasks can be done again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ...errors import UserError
from ..run import Run
from ..stages.catalog import check_stage, make_stage, state_path
from ..stages.stage import Stage
from ..store import RunStore
from . import attempts
from .memory import reset_peak, peak_gb, resident_gb
from .metrics import Metrics
from .queues import Lease, Queue, open_queue

_IDLE_S = 0.3
_STATE_S = 5.0  # for so long a worker believes that a stage is still going on
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerOptions:
    """How a worker works.

    Attributes:
      lease_s: after a worker's death its tasks come back in so many seconds.
      grace_s: how long it may go on after SIGTERM before it gives its tasks back.
      until_empty: stop when the queue holds no task.
      liveness: a file that is touched while the worker lives, for Kubernetes to look at.
      parent: process that started this one; the worker stops when that one is gone, killed ones too.
      max_memory_gb: above this the worker starts itself anew after a task.
      metrics_port: where Prometheus finds the worker's counters.
    """

    lease_s: int = 120
    grace_s: float = 20.0  # a spot machine is given 25
    until_empty: bool = False
    liveness: str | None = None
    parent: int | None = None
    max_memory_gb: float | None = None
    metrics_port: int | None = None


def do_task(stage: Stage, index: int) -> dict[str, Any]:
    """Do one task here and write its receipt."""
    job = _Job(Lease("", stage.run.path, stage.name, index), stage)
    with job.phase("read"):
        data = job.stage.read(index)
    with job.phase("work"):
        found = job.stage.work(index, data)
    return _write(job, found)


def work(queue_url: str, options: WorkerOptions = WorkerOptions()) -> int:
    """Do the tasks of a queue until told to stop; returns how many were done.

    SIGTERM and SIGINT: what is in hand is finished, or given back when the time of grace is over.
    """
    worker = _Worker(open_queue(queue_url), options)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: worker.stop())
    return worker.run()


@dataclass
class _Job:
    """A task in hand."""

    lease: Lease
    stage: Stage
    seconds: dict[str, float] = field(default_factory=dict)

    def phase(self, name: str) -> _Phase:
        return _Phase(self.seconds, name)


class _Phase:
    """Measures a phase of a job: read, work or write."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.name] = round(time.monotonic() - self.start, 3)


def _write(job: _Job, found: Any) -> dict[str, Any]:
    """Write what was found, and then the receipt."""
    lease = job.lease
    with job.phase("write"):
        counters = job.stage.write(lease.index, found)
    receipt = {
        "counters": counters,
        "seconds": round(sum(job.seconds.values()), 3),
        "phases": job.seconds,
        "peak_gb": round(peak_gb(), 3),
        "finished": round(time.time(), 3),
        "host": attempts.host(),
    }
    job.stage.run.store.put_json(f"receipts/{lease.stage}/{lease.index}.json", receipt)
    return receipt


class _Worker:
    def __init__(self, queue: Queue, options: WorkerOptions) -> None:
        self.queue, self.options = queue, options
        self.metrics = Metrics(options.metrics_port)
        self.stopping = threading.Event()
        self.hungry = threading.Event()  # the task in work is over, or soon will be
        self.lock = threading.RLock()
        self.held: dict[str, Lease] = {}
        self.done = 0
        self.tried = 0
        self.misfortunes = 0  # transient failures in a row
        self.typical: dict[str, dict[str, float]] = {}  # seconds by phase, by stage
        self.reader = ThreadPoolExecutor(1, "read")
        self.writer = ThreadPoolExecutor(1, "write")

    def stop(self) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            self.hungry.set()
            timer = threading.Timer(self.options.grace_s, self._give_all_back)
            timer.daemon = True
            timer.start()

    def run(self) -> int:
        over = threading.Event()
        heart = threading.Thread(target=self._beat, args=(over,), daemon=True)
        heart.start()
        writing: Future[None] | None = None
        coming = self.reader.submit(self._take, 0.0)
        while not self._must_end():
            job, data = coming.result() or (None, None)
            if job is None:
                if self._is_over(writing):
                    break
                coming = self.reader.submit(self._take, 0.0)
                continue
            if self.stopping.is_set():
                self._give_back(job.lease)
                break
            self.tried += 1
            if job.stage.name not in self.typical:
                reset_peak()  # it is another stage's
            self.hungry.clear()
            coming = self.reader.submit(self._take, self._read_ahead_after(job.stage.name))
            found = self._attempt(job, data)
            self.hungry.set()
            if writing is not None:
                writing.result()
            writing = None if found is None else self.writer.submit(self._finish, job, found[0])
            del data, found
        self.hungry.set()
        ahead = coming.result()
        if ahead is not None:
            self._give_back(ahead[0].lease)
        self.writer.shutdown()
        over.set()
        heart.join()
        if self._too_large() and not self.stopping.is_set():
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        return self.done

    def _must_end(self) -> bool:
        orphaned = self.options.parent not in (None, os.getppid())
        return self.stopping.is_set() or orphaned or self._too_large()

    def _is_over(self, writing: Future[None] | None) -> bool:
        """When no task came: wait a little, or end."""
        if self.options.until_empty:
            if writing is not None:
                writing.result()
            if self.queue.is_empty():
                return True
        self.stopping.wait(_IDLE_S)
        return False

    def _too_large(self) -> bool:
        limit = self.options.max_memory_gb
        return limit is not None and self.tried > 0 and resident_gb() > limit

    def _read_ahead_after(self, stage: str) -> float:
        """Seconds into a task after which the next is read: as late as it can be, other workers may be idle."""
        typical = self.typical.get(stage)
        if typical is None:
            return float("inf")
        return max(0.0, typical["work"] - 2 * typical["read"] - 1.0)

    def _take(self, after: float) -> tuple[_Job, Any] | None:
        """Lease a task and read what it needs; None when there is none, or it failed."""
        if after:
            self.hungry.wait(min(after, threading.TIMEOUT_MAX))
        if self.stopping.is_set():
            return None
        try:
            lease = self.queue.lease(self.options.lease_s)
        except Exception as err:  # noqa: BLE001  the queue's own trouble; it is asked again
            logger.warning("the queue %s did not answer: %s; trying again", self.queue.url, err)
            self._misfortune()
            return None
        if lease is None:
            return None
        with self.lock:
            self.held[lease.ticket] = lease
        job = None
        try:
            job = self._open(lease)
            if job is None:
                return None
            with job.phase("read"):
                return job, job.stage.read(lease.index)
        except Exception as err:  # noqa: BLE001  recorded with its cause, and counted
            self._fail(lease, err)
            return None

    def _open(self, lease: Lease) -> _Job | None:
        """A job for a lease whose task is still to be done; any other message is taken out of the queue."""
        name, index = lease.stage, lease.index
        try:
            check_stage(name, extras=True)
            store = _store(lease.run)
            state = _state(lease.run, name, int(time.monotonic() / _STATE_S))
            if state is None:
                raise UserError(f"{lease.run}: stage {name} has not begun, and tasks are there")
            stage, planned = _stage(lease.run, name, state.get("started"))
            if index not in planned:
                raise UserError(f"{lease.run}: stage {name} has no task {index}")
        except UserError as err:
            logger.error("%s", err)
            body = {"run": lease.run, "stage": name, "index": index}
            self._let_go(lease, lambda: self.queue.put_aside(lease.ticket, body))
            return None
        if not _is_wanted(state):  # what was said some seconds ago may be said no more
            _state.cache_clear()
            state = _state(lease.run, name, 0) or {}
        if _is_wanted(state) and not store.get(f"receipts/{name}/{index}.json"):
            failure = attempts.begin(store, name, index)
            if failure is None:
                return _Job(lease, stage)
            self._log(lease, "failed", failure.error, kind=failure.kind)
        self._let_go(lease, lambda: self.queue.delete(lease))
        return None

    def _attempt(self, job: _Job, data: Any) -> tuple[Any] | None:
        """What a task found; None when it failed."""
        try:
            with job.phase("work"):
                return (job.stage.work(job.lease.index, data),)
        except Exception as err:  # noqa: BLE001  recorded with its cause, and counted
            self._fail(job.lease, err)
            return None

    def _finish(self, job: _Job, found: Any) -> None:
        lease = job.lease
        try:
            receipt = _write(job, found)
        except Exception as err:  # noqa: BLE001  recorded with its cause, and counted
            self._fail(lease, err)
            return
        self._let_go(lease, lambda: self.queue.delete(lease), put_down=True)
        self.done += 1
        self.misfortunes = 0
        self.typical[lease.stage] = job.seconds
        self.metrics.done(lease.stage, receipt)
        self._log(lease, "done", **receipt)

    def _fail(self, lease: Lease, err: Exception) -> None:
        try:
            failure = attempts.fail(_store(lease.run), lease.stage, lease.index, err)
        except Exception as worse:  # noqa: BLE001  where the store fails, nothing can be recorded
            failure = attempts.Failure("transient", f"{err}, and then {worse}", last=False)
        self.metrics.failed(lease.stage, failure.kind)
        self._log(lease, "failed", failure.error, kind=failure.kind, last=failure.last)
        if failure.last:
            self._let_go(lease, lambda: self.queue.delete(lease))
        else:
            self._let_go(lease, lambda: self.queue.renew(lease, 0))
        if failure.kind == "transient":
            self._misfortune()

    def _misfortune(self) -> None:
        """Wait, the longer the more often in a row."""
        self.misfortunes += 1
        self.stopping.wait(attempts.pause_s(self.misfortunes))

    def _let_go(self, lease: Lease, how: Any, put_down: bool = False) -> None:
        """Be done with a lease; put_down: and take back the record that the task is in hand."""
        with self.lock:
            self.held.pop(lease.ticket, None)
            try:
                if put_down:
                    _store(lease.run).delete([attempts.running_path(lease.stage, lease.index)])
                how()
            except Exception as err:  # noqa: BLE001  the message comes back when its lease is over
                logger.warning("%s %d: not let go: %s", lease.stage, lease.index, err)

    def _give_back(self, lease: Lease) -> None:
        self._let_go(lease, lambda: self.queue.renew(lease, 0), put_down=True)

    def _give_all_back(self) -> None:
        for lease in list(self.held.values()):
            self._give_back(lease)
        os._exit(0)

    def _beat(self, over: threading.Event) -> None:
        """Renew the leases at a third of their length."""
        while True:
            _touch(self.options.liveness)
            if over.wait(min(self.options.lease_s / 3, 20)):
                return
            for lease in list(self.held.values()):
                with self.lock:
                    if lease.ticket in self.held:
                        try:
                            self.queue.renew(lease, self.options.lease_s)
                        except Exception as err:  # noqa: BLE001  the next beat tries again
                            logger.warning("lease not renewed: %s", err)

    def _log(self, lease: Lease, event: str, error: str = "", **more: Any) -> None:
        fields = {"event": event, "run": lease.run, "stage": lease.stage, "index": lease.index}
        logger.log(
            logging.WARNING if error else logging.INFO,
            "%s %d %s",
            lease.stage,
            lease.index,
            f"{event}: {error}" if error else event,
            extra={"fields": fields | more},
        )


@lru_cache(maxsize=8)
def _store(run: str) -> RunStore:
    return RunStore(run)


@lru_cache(maxsize=8)
def _state(run: str, stage: str, now: int) -> dict[str, Any] | None:
    """What the coordinator says of a stage; `now` makes the answer that of a few seconds."""
    return _store(run).get_json(state_path(stage))


def _is_wanted(state: dict[str, Any]) -> bool:
    return not (state.get("finished") or state.get("halted"))


@lru_cache(maxsize=8)
def _stage(run: str, name: str, started: float | None) -> tuple[Stage, frozenset[int]]:
    """A stage and the tasks it has; made anew when a run of the same place begins it again."""
    stage = make_stage(name, Run.open(run))
    return stage, frozenset(stage.plan())


def _touch(file: str | None) -> None:
    if file is not None:
        with open(file, "a"):
            os.utime(file)
