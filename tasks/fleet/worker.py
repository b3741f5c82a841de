"""A worker: it leases tasks from a queue, does them, leaves a receipt for each, and deletes the message.

A worker holds up to three tasks at a time: it writes one, works on one, and reads one ahead. Whatever happens to it,
its leases expire, and other workers do its tasks.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ..damage import DamagedObject
from ..run import Run
from ..stages.stage import receipt_path
from . import attempts, repair
from .job import Job
from .leases import Leases
from .memory import reset_peak, resident_gb
from .messages import Lease, Queue
from .metrics import Metrics
from .queues import open_queue
from .served import NotATask, ServedRuns, open_stage, open_store

_IDLE_S = 0.3
_REPAIR_S = 3  # before a task that waits for the repair of its input is tried again
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker.

    Attributes:
      lease_s: seconds after which the tasks of a dead worker return to the queue.
      grace_s: seconds after SIGTERM in which the worker may finish its tasks before it gives them back.
      until_empty: stop when the queue is empty.
      liveness: a file that the worker touches while it lives, for a liveness probe of Kubernetes.
      parent: process ID of the coordinator that started the worker; the worker stops when that process ends.
      max_memory_gb: resident memory above which the worker restarts itself after a task.
      metrics_port: port of the counters for Prometheus.
      runs: paths of runs, or of folders that contain runs, that the worker serves; see `ServedRuns`.
    """

    lease_s: int = 120
    grace_s: float = 20.0  # a spot machine gets 25
    until_empty: bool = False
    liveness: str | None = None
    parent: int | None = None
    max_memory_gb: float | None = None
    metrics_port: int | None = None
    runs: tuple[str, ...] = ()


def work(queue_url: str, options: WorkerOptions = WorkerOptions()) -> int:
    """Do the tasks of a queue until SIGTERM or SIGINT; return how many were done.

    On a signal the worker finishes the tasks that it holds, or gives them back when `grace_s` is over.
    """
    served = ServedRuns(queue_url, options.runs)
    worker = _Worker(open_queue(queue_url), served, options)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: worker.stop())
    return worker.run()


class _Worker:
    def __init__(self, queue: Queue, served: ServedRuns, options: WorkerOptions) -> None:
        self.queue, self.served, self.options = queue, served, options
        self.leases = Leases(queue, options.lease_s, options.liveness)
        self.metrics = Metrics(options.metrics_port)
        self.stopping = threading.Event()
        self.hungry = threading.Event()  # the current task is finished, or will be soon
        self.done = 0
        self.tried = 0
        self.transient_failures = 0  # in a row
        self.typical: dict[str, dict[str, float]] = {}  # seconds by phase, by stage
        self.reader = ThreadPoolExecutor(1, "read")
        self.writer = ThreadPoolExecutor(1, "write")

    def stop(self) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            self.hungry.set()
            timer = threading.Timer(self.options.grace_s, self._give_up)
            timer.daemon = True
            timer.start()

    def run(self) -> int:
        with self.leases.heartbeat():
            self._loop()
        if self._is_too_large() and not self.stopping.is_set():
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        return self.done

    def _loop(self) -> None:
        writing: Future[None] | None = None
        ahead = self.reader.submit(self._take, 0.0)
        while not self._must_end():
            job, data = ahead.result() or (None, None)
            if job is None:
                if self._is_finished(writing):
                    break
                ahead = self.reader.submit(self._take, 0.0)
                continue
            if self.stopping.is_set():
                self.leases.retry(job.lease, running=True)
                break
            self.tried += 1
            if job.stage.name not in self.typical:
                reset_peak()  # the peak was another stage's
            self.hungry.clear()
            ahead = self.reader.submit(self._take, self._delay_of_next_read(job.stage.name))
            result = self._attempt(job, data)
            self.hungry.set()
            if writing is not None:
                writing.result()
            writing = None if result is None else self.writer.submit(self._finish, job, result[0])
            del data, result
        self.hungry.set()
        unused = ahead.result()
        if unused is not None:
            self.leases.retry(unused[0].lease, running=True)
        self.writer.shutdown()

    def _must_end(self) -> bool:
        orphaned = self.options.parent not in (None, os.getppid())
        return self.stopping.is_set() or orphaned or self._is_too_large()

    def _is_finished(self, writing: Future[None] | None) -> bool:
        """Return whether to stop when no task came; wait a little otherwise."""
        if self.options.until_empty:
            if writing is not None:
                writing.result()
            if self.queue.is_empty():
                return True
        self.stopping.wait(_IDLE_S)
        return False

    def _is_too_large(self) -> bool:
        limit = self.options.max_memory_gb
        return limit is not None and self.tried > 0 and resident_gb() > limit

    def _delay_of_next_read(self, stage: str) -> float:
        """Return after how many seconds of a task to read the next: late, so that idle workers can take it."""
        typical = self.typical.get(stage)
        if typical is None:
            return float("inf")
        return max(0.0, typical["work"] - 2 * typical["read"] - 1.0)

    def _take(self, delay_s: float) -> tuple[Job, Any] | None:
        """Lease a task and read its input; None if there is no task, or reading failed."""
        if delay_s:
            self.hungry.wait(min(delay_s, threading.TIMEOUT_MAX))
        if self.stopping.is_set():
            return None
        try:
            lease = self.leases.take()
        except Exception as err:  # noqa: BLE001  a failure of the queue, which the loop retries
            logger.warning("the queue %s failed: %s; retrying", self.queue.url, err)
            self._pause()
            return None
        if lease is None:
            return None
        try:
            job = self._open(lease)
            return None if job is None else (job, job.read())
        except Exception as err:  # noqa: BLE001  recorded with its cause, and counted
            self._fail(lease, err)
            return None

    def _open(self, lease: Lease) -> Job | None:
        """Return the job of a leased task; None, and no message, if nobody needs the task or it does not exist."""
        name, index = lease.stage, lease.index
        try:
            self.served.check(lease.run)
            stage, needed = open_stage(lease.run, name, index)
        except NotATask as err:
            self.leases.put_aside(lease, str(err))
            return None
        store = open_store(lease.run)
        if needed and store.get_record(receipt_path(name, index)) is None:
            failure = attempts.begin(store, name, index)
            if failure is None:
                return Job(lease, stage)
            self._log(lease, "failed", failure.error, kind=failure.kind)
        self.leases.finish(lease)
        return None

    def _attempt(self, job: Job, data: Any) -> tuple[Any] | None:
        """Return the result of a task; None if it failed."""
        try:
            return (job.work(data),)
        except Exception as err:  # noqa: BLE001  recorded with its cause, and counted
            self._fail(job.lease, err)
            return None

    def _finish(self, job: Job, result: Any) -> None:
        lease = job.lease
        try:
            receipt = job.write(result)
        except Exception as err:  # noqa: BLE001  recorded with its cause, and counted
            self._fail(lease, err)
            return
        self.leases.finish(lease, running=True)
        self.done += 1
        self.transient_failures = 0
        self.typical[lease.stage] = job.seconds
        self.metrics.done(lease.stage, receipt)
        self._log(lease, "done", **receipt)

    def _fail(self, lease: Lease, err: Exception) -> None:
        if isinstance(err, DamagedObject):
            try:
                repair.request(Run.open(lease.run), err)
            except UserError as worse:  # no task made the object
                err = worse
            else:
                self._log(lease, "failed", str(err), kind="damage", last=False)
                self.leases.retry(lease, running=True, delay_s=_REPAIR_S)
                return
        try:
            failure = attempts.fail(open_store(lease.run), lease.stage, lease.index, err)
        except Exception as worse:  # noqa: BLE001  the store failed too, so nothing can be recorded
            failure = attempts.Failure("transient", f"{err}, and then {worse}", last=False)
        self.metrics.failed(lease.stage, failure.kind)
        self._log(lease, "failed", failure.error, kind=failure.kind, last=failure.last)
        if failure.last:
            self.leases.finish(lease)
        else:
            self.leases.retry(lease)
        if failure.kind == "transient":
            self._pause()

    def _pause(self) -> None:
        """Wait after a transient failure, longer the more there were in a row."""
        self.transient_failures += 1
        self.stopping.wait(attempts.pause_s(self.transient_failures))

    def _give_up(self) -> None:
        self.leases.retry_all()
        os._exit(0)

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
