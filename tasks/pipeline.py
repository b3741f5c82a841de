"""The ordered list of stages; a run begun, and its state.

A stage is complete when its receipts equal its plan, never because a queue looks empty.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..errors import UserError
from .config import RunConfig, parse_config
from .run import Run, predictor
from .stages.stage import Stage


@dataclass(frozen=True)
class StageKind:
    """A stage by its name. Its class is imported when it is made: some bring in much.

    Attributes:
      module: of the folder `stages`.
      gpu: whether its tasks run a network.
    """

    name: str
    module: str
    kind: str
    gpu: bool = False

    def __call__(self, run: Run) -> Stage:
        module = importlib.import_module(f".stages.{self.module}", __package__)
        return getattr(module, self.kind)(run)  # type: ignore[no-any-return]


STAGES = [
    StageKind("predict", "predict", "PredictStage", gpu=True),
    StageKind("locate", "locate", "LocateStage"),
    StageKind("segment", "segment", "SegmentStage"),
    StageKind("match", "match", "MatchStage"),
    StageKind("relabel", "relabel", "RelabelStage"),
    StageKind("downsample", "mips", "DownsampleStage"),
    StageKind("thumbnail", "mips", "ThumbnailStage"),
    StageKind("measure", "measure", "MeasureStage"),
    StageKind("shape", "measure", "ShapeStage"),
    StageKind("mesh", "mesh", "MeshStage"),
    StageKind("mesh_merge", "mesh", "MeshMergeStage"),
    StageKind("skeleton", "skeleton", "SkeletonStage"),
    StageKind("report", "report", "ReportStage"),
]
EXTRAS = [StageKind("link", "link", "LinkStage")]  # with a command of their own


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
