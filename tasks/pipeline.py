"""The ordered list of stages; a run begun, and its state.

A stage is complete when its receipts equal its plan, never because a queue looks empty.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import time
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import UserError
from .attempts import failures, index_of
from .config import RunConfig, parse_config
from .run import Run, Stage, predictor


@dataclass(frozen=True)
class StageKind:
    """A stage by its name. Its class is imported when it is made: some bring in much.

    Attributes:
      module: of this folder.
      gpu: whether its tasks run a network.
    """

    name: str
    module: str
    kind: str
    gpu: bool = False

    def __call__(self, run: Run) -> Stage:
        module = importlib.import_module(f".{self.module}", __package__)
        return getattr(module, self.kind)(run)  # type: ignore[no-any-return]


STAGES = [
    StageKind("predict", "predict", "PredictStage", gpu=True),
    StageKind("locate", "locate", "LocateStage"),
    StageKind("segment", "segment", "SegmentStage"),
    StageKind("match", "stitch", "MatchStage"),
    StageKind("relabel", "stitch", "RelabelStage"),
    StageKind("downsample", "mips", "DownsampleStage"),
    StageKind("thumbnail", "mips", "ThumbnailStage"),
    StageKind("measure", "measure", "MeasureStage"),
    StageKind("shape", "measure", "ShapeStage"),
    StageKind("mesh", "mesh", "MeshStage"),
    StageKind("mesh_merge", "mesh", "MeshMergeStage"),
    StageKind("skeleton", "skeleton", "SkeletonStage"),
    StageKind("publish", "publish", "PublishStage"),
]
EXTRAS = [StageKind("link", "link", "LinkStage")]  # with a command of their own
_RECENT_S = 600.0  # of which a stage's rate is told
_STRAGGLERS = 10


def make_stage(name: str, run: Run) -> Stage:
    """A stage of a run, by its name."""
    check_stage(name, extras=True)
    return next(stage for stage in (*STAGES, *EXTRAS) if stage.name == name)(run)


def state_path(stage: str) -> str:
    """Where a stage's state lies in its run."""
    return f"stages/{stage}.json"


def is_finished(run: Run, stage: str) -> bool:
    """Whether a stage of a run is over."""
    return bool((run.store.get_json(state_path(stage)) or {}).get("finished"))


def check_stage(name: str | None, extras: bool = False) -> None:
    """Raise UserError when there is no stage of that name, one of EXTRAS if asked for; None is fine."""
    names = [stage.name for stage in (*STAGES, *(EXTRAS if extras else ()))]
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
        run.check_origin()
        return run
    _ = run.tiles  # what is wrong is said before anything is written
    run.store.put_json("manifest.json", _manifest(run))
    run.store.put("config.yaml", config.to_yaml().encode(), "application/yaml")
    return run


def status(run: Run) -> list[dict[str, Any]]:
    """How far each stage is: a row each.

    `total` is None until the stage is planned. `leased`: tasks that a worker has in hand, or had when it died;
    `failed`: for good; `retrying`: failed and in the queue again; `rate`: tasks an hour, of the last minutes;
    `eta_s`: seconds left at that rate; `task_hours`: what all tasks took; `cost`: at the config's prices;
    `peak_gb`: the most memory that a worker held;
    `stragglers`: index, host and minutes of those that have been in hand longest, when that is three times what a
    task takes.
    """
    prices = run.config.prices
    rows = []
    for stage in STAGES:
        row = _stage_status(run, stage.name)
        row["cost"] = row["task_hours"] * (prices.gpu_hour if stage.gpu else prices.cpu_hour)
        rows.append(row)
    return rows


def _stage_status(run: Run, name: str) -> dict[str, Any]:
    store = run.store
    state = store.get_json(state_path(name)) or {}
    total, finished = state.get("total"), bool(state.get("finished"))
    seconds = state.get("task_seconds", 0.0)
    row = {"stage": name, "total": total, "done": total or 0, "finished": finished}
    row |= {"leased": 0, "failed": 0, "retrying": 0, "rate": None, "eta_s": None, "stragglers": []}
    row |= {"task_hours": round(seconds / 3600, 4), "halted": state.get("halted")}
    row["peak_gb"] = state.get("peak_gb")
    if finished or total is None:
        return row
    done = store.indices(f"receipts/{name}")
    open_failures = [f for index, f in failures(store, name).items() if index not in done]
    running = {
        index_of(path): there
        for path, there in store.get_jsons(store.names(f"running/{name}/")).items()
        if index_of(path) not in done
    }
    failed = sum(failure["last"] for failure in open_failures)
    row |= {"done": len(done), "leased": len(running), "failed": failed}
    row["retrying"] = len(open_failures) - failed
    history = [entry for entry in state.get("history", []) if entry[0] > time.time() - _RECENT_S]
    if len(history) > 1 and history[-1][1] > history[0][1]:
        rate = (history[-1][1] - history[0][1]) / (history[-1][0] - history[0][0])
        row |= {"rate": round(3600 * rate, 1), "eta_s": round((total - len(done) - failed) / rate)}
    usual = seconds / max(1, state.get("done", 0))
    late = [
        {
            "index": index,
            "host": there["host"],
            "minutes": round((time.time() - there["started"]) / 60, 1),
        }
        for index, there in running.items()
        if usual and time.time() - there["started"] > 3 * usual + 60
    ]
    row["stragglers"] = sorted(late, key=lambda entry: -entry["minutes"])[:_STRAGGLERS]
    return row


def _manifest(run: Run) -> dict[str, Any]:
    names = ("torch", "numpy", "cloud-volume", "igneous-pipeline", "task-queue")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "versions": versions | {"flysoma": __version__},
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
