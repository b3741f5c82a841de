"""The ordered list of stages; a run planned, begun, done stage by stage, and its state.

A stage is complete when its receipts equal its plan, never because a queue looks empty.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from taskqueue import TaskQueue

from ..errors import TasksFailed, UserError
from .config import RunConfig, parse_config
from .finish import DownsampleStage, MeshMergeStage, MeshStage
from .locate import LocateStage
from .measure import MeasureStage, ShapeStage
from .publish import PublishStage
from .run import Run, Stage, open_run, predictor
from .segment import SegmentStage
from .skeleton import SkeletonStage
from .stitch import MatchStage, RelabelStage

STAGES: list[type[Stage]] = [
    LocateStage,
    SegmentStage,
    MatchStage,
    RelabelStage,
    DownsampleStage,
    MeasureStage,
    ShapeStage,
    MeshStage,
    MeshMergeStage,
    SkeletonStage,
    PublishStage,
]
Progress = Callable[[str, int, int], None]
_LOOK_S = 0.5


@lru_cache(maxsize=32)
def make_stage(name: str, run: str) -> Stage:
    """A stage of a run as workers use it, made once in each process."""
    check_stage(name)
    return next(stage for stage in STAGES if stage.name == name)(open_run(run))


def check_stage(name: str | None) -> None:
    """Raise UserError when there is no stage of that name; None is fine."""
    names = [stage.name for stage in STAGES]
    if name is not None and name not in names:
        raise UserError(f"no stage '{name}'; there are: {', '.join(names)}")


def begin(config: RunConfig) -> Run:
    """Open the run that a config asks for, or begin it. Raises UserError when its output is another config's."""
    run = Run(config)
    there = run.store.get("config.yaml")
    if there is not None:
        differences = config.differences(parse_config(there.decode(), f"{run.path}/config.yaml"))
        if differences:
            raise UserError(
                f"{run.path} belongs to a run of another config ({'; '.join(differences)}); "
                "choose another output, or take back the change"
            )
        return run
    _ = run.locate_grid, run.segment_grid  # what is wrong is said before anything is written
    manifest = _manifest(run)
    run.store.put("config.yaml", config.to_yaml().encode(), "application/yaml")
    run.store.put_json("manifest.json", manifest)
    return run


def status(run: Run) -> list[dict[str, Any]]:
    """Tasks done and failed of each stage; `total` is None until the stage is planned."""
    rows = []
    for stage in STAGES:
        ready = run.store.get_json(f"stages/{stage.name}.json")
        failures = run.store.get_jsons(run.store.names(f"failures/{stage.name}/"))
        rows.append(
            {
                "stage": stage.name,
                "total": None if ready is None else ready["total"],
                "done": len(run.store.indices(f"receipts/{stage.name}")),
                "failed": sum(failure["last"] for failure in failures.values()),
                "finished": bool(ready and ready.get("finished")),
            }
        )
    return rows


@dataclass(frozen=True)
class Queues:
    """Where tasks go; None for `gpu` means a queue of the run's own, for `cpu` the same queue as `gpu`."""

    gpu: str | None = None
    cpu: str | None = None


def execute_run(
    run: Run, workers: int, queues: Queues, until: str | None, progress: Progress
) -> None:
    """Do every stage that is not finished: enqueue what has no receipt, wait for receipts, finish.

    Args:
      workers: processes started here; 0 leaves the work to workers elsewhere and needs a queue.
      queues: where the tasks of the stages that run a network go, and those of the rest.
      until: name of the last stage to do.
      progress: called with stage, tasks done, tasks in all.
    Raises:
      TasksFailed, or UserError when a task failed by a user's mistake.
    """
    with _queue(queues.gpu) as url, _workers(url, workers) as alive:
        for kind in STAGES:
            _do_stage(run, kind(run), url if kind.gpu else queues.cpu or url, alive, progress)
            if kind.name == until:
                break


def _do_stage(
    run: Run, stage: Stage, url: str, alive: Callable[[], None], progress: Progress
) -> None:
    plan = _ready(run, stage, progress)
    if plan is None:
        return
    enqueue(run, stage.name, url)
    while True:
        done = plan & run.store.indices(f"receipts/{stage.name}")
        progress(stage.name, len(done), len(plan))
        if len(done) == len(plan):
            break
        _raise_if_over(run, stage.name, len(plan - done))
        alive()
        time.sleep(_LOOK_S)
    _finish(run, stage, plan)


def execute_here(run: Run, until: str, progress: Progress) -> None:
    """Do the stages up to `until` in this process, task by task, without a queue."""
    from .worker import execute

    for kind in STAGES:
        stage = kind(run)
        plan = _ready(run, stage, progress)
        if plan is not None:
            for done, index in enumerate(sorted(plan), start=1):
                execute(run.path, stage.name, index)
                progress(stage.name, done, len(plan))
            _finish(run, stage, plan)
        if kind.name == until:
            break


def enqueue(run: Run, name: str, url: str) -> int:
    """Put the tasks of a planned stage that have no receipt into a queue; returns how many."""
    from .worker import message  # worker imports the list of stages from here

    if run.store.get_json(f"stages/{name}.json") is None:
        raise UserError(
            f"stage {name} of {run.path} is not planned yet: stages before it come first"
        )
    plan = set(make_stage(name, run.path).plan())
    todo = sorted(plan - run.store.indices(f"receipts/{name}"))
    TaskQueue(url, progress=False).insert([message(run.path, name, index) for index in todo])
    return len(todo)


def _ready(run: Run, stage: Stage, progress: Progress) -> set[int] | None:
    """The stage's plan, prepared and free of old failures; None when the stage is finished."""
    record = f"stages/{stage.name}.json"
    state = run.store.get_json(record)
    if state is not None and state.get("finished"):
        progress(stage.name, state["total"], state["total"])
        return None
    if state is None:
        stage.prepare()
    plan = set(stage.plan())
    run.store.put_json(record, {"total": len(plan)})
    run.store.delete(run.store.names(f"failures/{stage.name}/"))
    return plan


def _finish(run: Run, stage: Stage, plan: set[int]) -> None:
    state = {"total": len(plan), "finished": True, "result": stage.finish()}
    run.store.put_json(f"stages/{stage.name}.json", state)


def _raise_if_over(run: Run, stage: str, missing: int) -> None:
    failures = run.store.get_jsons(run.store.names(f"failures/{stage}/"))
    over = [failure for failure in failures.values() if failure["last"]]
    for failure in over:
        if failure["user"]:
            raise UserError(failure["error"])
    if over and len(over) >= missing:
        first = over[0]["error"]
        raise TasksFailed(
            f"{len(over)} tasks of {stage} failed {over[0]['attempts']} times, the first with {first}; "
            f"see {run.path}/failures/{stage}, then 'flysoma run' tries them again"
        )


@contextmanager
def _queue(url: str | None) -> Iterator[str]:
    """The queue asked for, or one in a temporary folder."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="flysoma-queue-") as folder:
        yield f"fq://{folder}"


@contextmanager
def _workers(url: str, count: int) -> Iterator[Callable[[], None]]:
    """Worker processes on this machine; yields a function that starts those anew that were killed.

    One that ended by itself would end so again, and has said why: the function exits with its code.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "flysoma.scripts.cli",
        "work",
        url,
        "--parent",
        str(os.getpid()),
    ]
    running = [subprocess.Popen(command) for _ in range(count)]

    def alive() -> None:
        for number, process in enumerate(running):
            if (process.poll() or 0) > 0:
                sys.exit(process.returncode)
            if process.returncode is not None:
                running[number] = subprocess.Popen(command)

    try:
        yield alive
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _manifest(run: Run) -> dict[str, Any]:
    names = ("flysoma", "torch", "numpy", "cloud-volume", "igneous-pipeline", "task-queue")
    return {
        "versions": {name: importlib.metadata.version(name) for name in names},
        "config_hash": run.config.content_hash,
        "image_info_sha256": hashlib.sha256(run.image.info_text.encode()).hexdigest(),
        "weights_sha256": {
            "locate": _fingerprint(run.config.locate.weights, 2),
            "segment": _fingerprint(run.config.segment.weights, 3),
        },
    }


def _fingerprint(weights: str, classes: int) -> str:
    """sha256 of a weights file; raises UserError when its network has not the classes that its stage needs."""
    network = predictor(weights).network
    if len(network.spec.classes) != classes:
        raise UserError(
            f"{weights} tells {len(network.spec.classes)} classes apart and this stage needs {classes}; "
            "locate takes a 2-class network, segment one of 3 classes"
        )
    return network.fingerprint
