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
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...errors import HostError
from ..faults import Fault, Whose
from ..run import Run
from ..stages.stage import receipt_path
from ..storage.damage import DamagedObject
from . import attempts, repair, sick_hosts
from .job import Job
from .leases import Leases
from .memory import reset_peak, resident_gb
from .messages import Lease, Queue
from .metrics import Metrics
from .patience import patiently
from .queues import open_queue
from .served import NotATask, ServedRuns, open_stage, open_store
from .sick_hosts import host
from .signs import Worker

_IDLE_S = 0.3
_REPAIR_S = 3  # before a task that waits for the repair of its input is tried again
_MAX_HOST_FAULTS = 3  # in a row
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
    grace_s: float = 20.0
    until_empty: bool = False
    liveness: str | None = None
    parent: int | None = None
    max_memory_gb: float | None = None
    metrics_port: int | None = None
    runs: tuple[str, ...] = ()


def work(queue_url: str, options: WorkerOptions = WorkerOptions()) -> int:
    """Do the tasks of a queue until SIGTERM or SIGINT; return how many were done.

    On a signal the worker finishes the tasks that it holds, or gives them back when `grace_s` is over. Then the
    process exits with 128 plus the number of the signal.

    Raises:
      HostError: this machine failed at several tasks in a row; their messages are back in the queue.
    """
    served = ServedRuns(queue_url, options.runs)
    queue = patiently(lambda: open_queue(queue_url), logger.warning)
    worker = _Worker(queue, served, options)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda number, _: worker.stop(number))
    done = worker.run()
    if worker.retired is not None:
        raise HostError(f"the worker on {host()} retires: {worker.retired.text}")
    if worker.signal:
        sys.exit(128 + worker.signal)
    return done


class _Worker:
    def __init__(self, queue: Queue, served: ServedRuns, options: WorkerOptions) -> None:
        self.queue, self.served, self.options = queue, served, options
        self.identity = Worker(options.lease_s)
        self.leases = Leases(queue, self.identity, options.liveness)
        self.metrics = Metrics(options.metrics_port)
        self.stopping = threading.Event()
        self.hungry = threading.Event()  # the current task is finished, or will be soon
        self.done = 0
        self.tried = 0
        self.signal = 0  # that stopped the worker
        self.pauses = 0  # in a row
        self.host_faults: list[float] = []  # times of those in a row
        self.healthy: set[str] = set()  # runs without a record of this host
        self.retired: Fault | None = None
        self.postponed: dict[str, tuple[int, float]] = {}  # failures in a row, next try; by run
        self.typical: dict[str, dict[str, float]] = {}  # seconds by phase, by stage
        self.reader = ThreadPoolExecutor(1, "read")
        self.writer = ThreadPoolExecutor(1, "write")

    def stop(self, number: int) -> None:
        """Stop because of a signal."""
        if not self.signal:
            self.signal = number
            self._end()
            timer = threading.Timer(self.options.grace_s, self._give_up)
            timer.daemon = True
            timer.start()

    def _end(self) -> None:
        self.stopping.set()
        self.hungry.set()

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
            fault = Fault.of(err)
            self._endure(fault) if fault.whose is Whose.HOST else self._pause()
            return None
        if lease is None:
            return None
        wait_s = self.postponed.get(lease.run, (0, 0.0))[1] - time.monotonic()
        if wait_s > 0:  # other runs share the queue
            self.leases.retry(lease, after_s=wait_s)
            self.stopping.wait(min(wait_s, _IDLE_S))
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
            self.identity.sign(store)
            failure = attempts.begin(store, name, index, self.identity)
            if failure is None:
                return Job(lease, stage)
            self._log(lease, "failed", failure.fault.text, kind=failure.fault.kind)
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
        self.pauses = 0
        self.postponed.pop(lease.run, None)
        self._recover(lease.run)
        self.typical[lease.stage] = job.seconds
        self.metrics.done(lease.stage, receipt)
        self._log(lease, "done", **receipt)

    def _fail(self, lease: Lease, err: Exception) -> None:
        if isinstance(err, DamagedObject):
            try:
                repair.request(Run.open(lease.run), err)
            except Exception as worse:  # noqa: BLE001  no task made the object, or the store fails too
                err = worse
            else:
                self._log(lease, "failed", str(err), kind="damage", last=False)
                self.leases.retry(lease, running=True, after_s=_REPAIR_S)
                return
        fault = Fault.of(err, lease.run)
        try:
            store = open_store(lease.run)
            failure = attempts.fail(store, lease.stage, lease.index, fault, err)
        except Exception as worse:  # noqa: BLE001  the store failed too, so nothing can be recorded
            if fault.whose is not Whose.HOST:
                fault = Fault("store", f"{fault.text}, and then {worse}")
            failure = attempts.Failure(fault, last=False)
        fault = failure.fault
        self.metrics.failed(lease.stage, fault.kind)
        self._log(lease, "failed", fault.text, kind=fault.kind, last=failure.last)
        if failure.last:
            self.leases.finish(lease)
        elif fault.whose is Whose.STORE:
            self.leases.retry(lease, after_s=self._postpone(lease.run))
        elif fault.whose is Whose.REQUEST:  # another host, or the coordinator, looks at it
            self.leases.retry(lease, after_s=attempts.pause_s(1))
        else:
            self.leases.retry(lease)
        if fault.whose is Whose.HOST:
            self._endure(fault)
        elif fault.kind == "memory":
            self._pause()

    def _pause(self) -> None:
        """Wait, longer the more often in a row."""
        self.pauses += 1
        self.stopping.wait(attempts.pause_s(self.pauses))

    def _postpone(self, run: str) -> float:
        """Leave a run alone whose store fails; return for how many seconds."""
        failures = self.postponed.get(run, (0, 0.0))[0] + 1
        pause_s = attempts.pause_s(failures)
        self.postponed[run] = failures, time.monotonic() + pause_s
        return pause_s

    def _endure(self, fault: Fault) -> None:
        """Wait after a fault of this machine; retire after a few in a row, when the patience of the rule is over."""
        self.healthy.clear()
        self.host_faults.append(time.monotonic())
        lasted_s = self.host_faults[-1] - self.host_faults[0]
        if len(self.host_faults) >= _MAX_HOST_FAULTS and lasted_s >= fault.rule.patience_s:
            self.retired = fault
            self._end()
        self.stopping.wait(attempts.pause_s(len(self.host_faults)))

    def _recover(self, run: str) -> None:
        """Forget the faults of this machine, which has done a task of a run."""
        self.host_faults = []
        if run not in self.healthy:
            self.healthy.add(run)
            with suppress(Exception):  # only `flysoma status` reads the record
                sick_hosts.clear(open_store(run))

    def _give_up(self) -> None:
        self.leases.retry_all()
        os._exit(128 + self.signal)

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
