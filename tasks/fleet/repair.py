"""Repair: the step that made a damaged or lost object of a run is done again.

Whoever finds the damage leaves a request, `repairs/STAGE/STEP.json`, and deletes the receipt of the step. STEP is the
index of the task that wrote the object, or the coordinator's step `prepare` or `finish`. The coordinator puts the task
into its queue, or repeats its own step, and closes the request when that is done. The request counts how often the
step was repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from ...errors import TasksFailed, UserError
from ..run import Run, stored_path
from ..stages import catalog
from ..stages.catalog import StageKind, read_state
from ..stages.stage import receipt_path
from ..storage.damage import DamagedObject
from ..storage.records import as_record
from ..storage.sealed import unseal
from ..storage.store import RunStore, index_of
from .attempts import Failed, failure_path
from .messages import Queue

FOLDER = "repairs/"
_LIMIT = 3  # repetitions of a step; if its output is damaged again, the storage is not reliable
_POLL_S = 0.5
_SEALED = (".npz", ".ckl", ".zst")
# what `flysoma apply` changes; a stage would make what belongs to version 1
_CHANGED = ("somas/", "nuclei/", "stored/")
Step = int | str
Result = TypeVar("Result")


def request(run: Run, damage: DamagedObject) -> None:
    """Request that the step that made a damaged object is done again, unless it has been already.

    Raises UserError if no step makes the object, or `flysoma apply` has changed it.
    """
    if damage.path.startswith(_CHANGED) and run.versions():
        raise UserError(
            f"{run.path}/{damage.path} {damage.reason}, and 'flysoma apply' has changed it since a task made it; "
            "restore it"
        )
    kind, step = _maker(run, damage)
    path, store = _path(kind.name, step), run.store
    record = store.get_record(path) or {"count": 0, "open": False}
    if record["open"] or _is_intact(store, damage.path):
        return
    damaged = {"path": damage.path, "reason": damage.reason}
    store.put_record(path, damaged | {"count": record["count"] + 1, "open": True})
    if isinstance(step, int):
        store.delete([receipt_path(kind.name, step)])


def is_requested(store: RunStore, stage: str, index: int) -> bool:
    """Return whether a task is to be done again, though its stage may be finished."""
    record = store.get_record(_path(stage, index))
    return record is not None and bool(record["open"])


def count_repairs(store: RunStore) -> dict[str, int]:
    """Return how many steps were repeated, by stage."""
    counts: dict[str, int] = {}
    for path, record in store.get_records(store.names(FOLDER)).items():
        stage = path.split("/")[1]
        counts[stage] = counts.get(stage, 0) + record["count"]
    return counts


class Repairs:
    """Carries out the requests of a run; the coordinator has one.

    Args:
      queues: the queue of the stages that run a network (True), and that of the others.
      report: called with messages for the user.
      check_workers: called while the coordinator waits.
    """

    def __init__(
        self,
        run: Run,
        queues: dict[bool, Queue],
        report: Callable[[str], None],
        check_workers: Callable[[], None],
    ) -> None:
        self._run, self._queues = run, queues
        self._report, self.check_workers = report, check_workers
        self._sent: set[tuple[str, Step]] = set()

    def advance(self) -> bool:
        """Send or carry out what is requested; return whether a request is still open.

        Raises:
          UserError: an object is damaged again and again.
          TasksFailed: a task that is to be done again failed permanently.
        """
        records = self._run.store.get_records(self._run.store.names(FOLDER))
        requests = {path: record for path, record in records.items() if record["open"]}
        for path, record in requests.items():
            _, stage, name = path.removesuffix(".json").split("/")
            kind = next(k for k in (*catalog.STAGES, *catalog.EXTRAS) if k.name == stage)
            step: Step = int(name) if name.isdecimal() else name
            if record["count"] > _LIMIT:
                self._run.store.put_record(path, record | {"count": 0, "open": False})
                raise UserError(
                    f"{self._run.path}/{record['path']} {record['reason']}, and this after {_LIMIT} repairs: "
                    "check the storage of the run, then resume it"
                )
            self._announce(kind, step, record)
            if self._task_done(kind, step) if isinstance(step, int) else self._repeat(kind, step):
                self._run.store.put_record(path, record | {"open": False})
                self._sent.discard((stage, step))
        return bool(requests)

    def send_again(self) -> None:
        """Put the tasks of open requests into the queue once more, because messages were lost."""
        self._sent.clear()

    def until_intact(self, action: Callable[[], Result]) -> Result:
        """Return the result of an action; while it finds damage, wait for the repair and do it again."""
        while True:
            try:
                return action()
            except DamagedObject as err:
                request(self._run, err)
            while self.advance():
                self.check_workers()
                time.sleep(_POLL_S)

    def _announce(self, kind: StageKind, step: Step, record: dict[str, Any]) -> None:
        if (kind.name, step) not in self._sent:
            what = f"task {step}" if isinstance(step, int) else f"step {step}"
            self._report(f"{record['path']} {record['reason']}; {what} of {kind.name} is repeated")
            if isinstance(step, int):
                self._queues[kind.gpu].put([(self._run.path, kind.name, step)])
            self._sent.add((kind.name, step))

    def _task_done(self, kind: StageKind, index: int) -> bool:
        store = self._run.store
        if store.get_record(receipt_path(kind.name, index)) is not None:
            return True
        failure = as_record(Failed, store.get_json(failure_path(kind.name, index)))
        if failure is not None and failure["last"]:
            raise TasksFailed(
                f"task {index} of {kind.name} failed permanently with {failure['error']}; "
                f"see {self._run.path}/failures/{kind.name}, then retry with 'flysoma run'"
            )
        return False

    def _repeat(self, kind: StageKind, step: str) -> bool:
        try:
            if step == "finish":
                kind(self._run).finish()
            else:  # a later stage may have extended what this one prepares
                for later in catalog.STAGES[catalog.STAGES.index(kind) :]:
                    if read_state(self._run.store, later.name):
                        later(self._run).prepare()
        except DamagedObject as err:
            request(self._run, err)
            return False
        return True


def _maker(run: Run, damage: DamagedObject) -> tuple[StageKind, Step]:
    """Return the stage and the step that made an object. Raises UserError if no step makes it."""
    path = damage.path
    for kind in (*catalog.STAGES, *catalog.EXTRAS):
        stage = kind(run)
        if path in (f"plans/{kind.name}.json", *stage.prepared):
            return kind, "prepare"
        if path in (stored_path(kind.name), *stage.reduced):
            return kind, "finish"
        if path.startswith(f"receipts/{kind.name}/"):
            return kind, index_of(path)
        index = stage.task_of(path)
        if index is not None:
            return kind, index
    raise UserError(
        f"{run.path}/{path} {damage.reason}, and no task made it: "
        "restore it, or run again at another output"
    )


def _is_intact(store: RunStore, path: str) -> bool:
    """Return whether an object with a checksum has been repaired since its damage was found."""
    if path.endswith(_SEALED):
        return unseal(store.get(path) or b"") is not None
    return path.startswith(("receipts/", "plans/")) and store.get_record(path) is not None


def _path(stage: str, step: Step) -> str:
    return f"{FOLDER}{stage}/{step}.json"
