"""What a worker does: lease a task, keep the lease alive, execute, leave a receipt, delete the message."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from taskqueue import TaskQueue, queueable
from taskqueue.queueablefns import UnregisteredFunctionError
from taskqueue.taskqueue import QueueEmptyError

from ..errors import explain
from .pipeline import make_stage
from .run import host, open_run

LEASE_S = 120
ATTEMPTS = 3
_IDLE_S = 0.3
logger = logging.getLogger(__name__)


@queueable
def execute(run: str, stage: str, index: int) -> None:
    """The one function that a message can name: do task `index` of a stage, then write its receipt."""
    started = time.time()
    counters = make_stage(stage, run).do(index)
    receipt = {"counters": counters, "seconds": round(time.time() - started, 3), "host": host()}
    open_run(run).store.put_json(f"receipts/{stage}/{index}.json", receipt)


def message(run: str, stage: str, index: int) -> Any:
    """What goes into a queue."""
    return partial(execute, run, stage, index)


def attempt(run: str, stage: str, index: int) -> bool:
    """Execute a task; a failure is recorded under `failures/` and does not raise.

    Returns whether the task is over: done, or failed for the last time. A user's mistake is not tried again.
    """
    try:
        execute(run, stage, index)
        return True
    except Exception as err:  # noqa: BLE001  recorded with its cause, and counted
        store = open_run(run).store
        path = f"failures/{stage}/{index}.json"
        before = (store.get_json(path) or {}).get("attempts", 0)
        mistake = explain(err)
        last = mistake is not None or before + 1 >= ATTEMPTS
        failure = {
            "attempts": before + 1,
            "last": last,
            "user": mistake is not None,
            "error": mistake or f"{type(err).__name__}: {err}",
            "traceback": traceback.format_exc(),
            "host": host(),
        }
        store.put_json(path, failure)
        logger.warning("%s %d failed (attempt %d): %s", stage, index, before + 1, err)
        return last


def work(
    queue_url: str,
    until_empty: bool = False,
    liveness: str | None = None,
    parent: int | None = None,
) -> int:
    """Do the tasks of a queue until told to stop (SIGTERM, SIGINT: the task in hand is finished first).

    Args:
      until_empty: stop when the queue holds no task.
      liveness: a file that is touched while the worker lives, for Kubernetes to look at.
      parent: process that started this one; the worker stops when that one is gone, killed ones too.
    Returns:
      the number of tasks done.
    """
    queue = TaskQueue(queue_url, progress=False)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    done = 0
    while not stop.is_set() and parent in (None, os.getppid()):
        _touch(liveness)
        try:
            task = queue.lease(seconds=LEASE_S)
        except QueueEmptyError:
            if until_empty and queue.is_empty():
                break
            stop.wait(_IDLE_S)
            continue
        arguments = _arguments(task)
        if arguments is None:
            queue.delete(task)
            continue
        with _heartbeat(queue, task, liveness):
            over = attempt(*arguments)
        if over:
            queue.delete(task)
            done += 1
        else:
            queue.cancel(task)
    return done


def _arguments(task: Any) -> tuple[str, str, int] | None:
    """run, stage and index of a message, or None for a message that is not ours: it is never executed."""
    try:
        named = task.tofunc()
        run, stage, index = named.args
        if named.func is execute and not named.keywords:
            return str(run), str(stage), int(index)
    except (UnregisteredFunctionError, ValueError, TypeError, AttributeError):
        pass
    logger.error("a message that is no task of flysoma was dropped: %r", task)
    return None


def _touch(file: str | None) -> None:
    if file is not None:
        Path(file).touch()


@contextlib.contextmanager
def _heartbeat(queue: TaskQueue, task: Any, liveness: str | None) -> Iterator[None]:
    """Renew a lease at a third of its length until the task is over."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(LEASE_S / 3):
            _touch(liveness)
            try:
                queue.renew(task, LEASE_S)
            except Exception as err:  # noqa: BLE001  the next beat tries again
                logger.warning("lease not renewed: %s", err)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
