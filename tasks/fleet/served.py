"""The runs that a worker serves, and the cached states of their stages.

A message can name any run. A worker accesses only the runs of its options: reading a run already sends credentials to
a host, and the config of a run names what to read.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import Any

from ... import __version__
from ...errors import HostError, UserError
from ..run import Run
from ..stages.catalog import check_stage, make_stage, read_state
from ..stages.stage import Stage
from ..storage.store import RunStore, local_folder, normalize_cloudpath
from .messages import queue_folder, shown
from .repair import is_requested

State = dict[str, Any] | None
_ANSWER_S = 10.0
_pending: dict[str, Future[State]] = {}  # the last call to the store of each run
_STATE_S = 5.0  # for which the state of a stage is cached
_NO_PATH = {errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}


class NotATask(Exception):
    """A message that names no task of a served run; says why."""


class ServedRuns:
    """Decides which runs a worker serves.

    Args:
      queue_url: the queue of the worker.
      prefixes: paths of runs, or of folders that contain runs. Without any, a worker of an `fq://` queue serves runs in
        local folders: those that belong, with their config, to the owner of the queue's folder or the worker's user.
    Raises:
      UserError: an `sqs://` queue without prefixes, because anybody who can send to it could name any run; or a
        prefix without a bucket or folder.
    """

    def __init__(self, queue_url: str, prefixes: Sequence[str] = ()) -> None:
        self._prefixes = [_normalize_prefix(prefix) for prefix in prefixes]
        self._queue_folder = queue_folder(queue_url)
        if not prefixes and self._queue_folder is None:
            raise UserError(
                f"a message in {queue_url} could name any run: say which runs this worker serves "
                "with --runs RUN or --runs PREFIX"
            )

    def check(self, run: str) -> None:
        """Raise NotATask if a run is not served, without any access to other machines."""
        names = run.partition("://")[2].split("/")
        if not {".", ".."}.isdisjoint(names) or not self._includes(run):
            raise NotATask(
                f"{shown(run)} is not among the runs that this worker serves; see --runs"
            )

    def _includes(self, run: str) -> bool:
        if self._prefixes:
            return any(f"{run}/".startswith(f"{prefix}/") for prefix in self._prefixes)
        folder = local_folder(run)
        if folder is None or self._queue_folder is None:
            return False
        try:  # anybody may be able to write a config into a shared folder
            owners = {os.stat(folder).st_uid, os.lstat(f"{folder}/config.yaml").st_uid}
        except OSError:
            return False
        return owners <= {os.stat(self._queue_folder).st_uid, os.geteuid()}


def _normalize_prefix(prefix: str) -> str:
    if not prefix.rpartition("://")[2].strip("/"):
        raise UserError(f"--runs {prefix}: name at least a bucket or a folder")
    return normalize_cloudpath(prefix)


@lru_cache(maxsize=8)
def open_store(run: str) -> RunStore:
    """Return the store of a run."""
    return RunStore(run)


def stage_state(run: str, stage: str, fresh: bool = False) -> State:
    """Return what the coordinator wrote about a stage, at most a few seconds ago; None if it has not started."""
    if fresh:
        _stage_state.cache_clear()
    return _within_limit(run, partial(_stage_state, run, stage, int(time.monotonic() / _STATE_S)))


def _within_limit(run: str, call: Callable[[], State]) -> State:
    """Return what a call to the store of a run returns.

    The libraries of buckets try again for minutes, and meanwhile the worker could do tasks of other runs.

    Raises:
      ConnectionError: there is no answer yet, of this call or of an earlier one.
    """
    if run in _pending and not _pending[run].done():
        raise ConnectionError(f"{run} has not answered yet")
    answer = _pending[run] = Future()

    def wait() -> None:
        try:
            answer.set_result(call())
        except Exception as err:  # noqa: BLE001  raised where the answer is awaited
            answer.set_exception(err)

    threading.Thread(target=wait, daemon=True).start()
    try:
        return answer.result(_ANSWER_S)
    except TimeoutError as err:
        raise ConnectionError(f"{run} has not answered in {_ANSWER_S:.0f} seconds") from err


@lru_cache(maxsize=8)
def _stage_state(run: str, stage: str, _period: int) -> State:
    return read_state(open_store(run), stage) or None


def open_stage(run: str, name: str, index: int) -> tuple[Stage[Any, Any], bool]:
    """Open the stage of a task.

    Returns:
      The stage, and whether the task may be to do: its stage is neither finished nor halted, or its output is damaged.
    Raises:
      NotATask: there is no such run, stage or task.
    """
    try:
        check_stage(name, extras=True)
    except UserError as err:
        raise NotATask(str(err)) from None
    try:
        state = stage_state(run, name)
    except OSError as err:
        if err.errno in _NO_PATH:
            raise NotATask(f"{run}: {err.strerror}") from None
        raise
    if state is None:
        raise NotATask(f"{run}: stage {name} has not started")
    stage, planned = _planned_stage(run, name, state.get("started"))
    if index not in planned:
        raise NotATask(f"{run}: stage {name} has no task {index}")
    if not _is_open(state):  # it may have been resumed in the last seconds
        state = stage_state(run, name, fresh=True) or {}
    return stage, _is_open(state) or is_requested(open_store(run), name, index)


def _is_open(state: dict[str, Any]) -> bool:
    return not (state.get("finished") or state.get("halted"))


@lru_cache(maxsize=8)
def _planned_stage(
    run: str, name: str, started: float | None
) -> tuple[Stage[Any, Any], frozenset[int]]:
    """Return a stage and its tasks; `started` distinguishes runs that were started at the same path."""
    opened = Run.open(run)
    if opened.store.get("manifest.json") is not None:
        version = opened.manifest.versions.get("flysoma")
        if version != __version__:
            raise HostError(
                f"{run} was begun with flysoma {version} and this worker is of {__version__}"
            )
    stage = make_stage(name, opened)
    return stage, frozenset(stage.plan())
