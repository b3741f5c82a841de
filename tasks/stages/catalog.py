"""The ordered list of stages.

A stage is complete when its receipts equal its plan, not when a queue is empty.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from ...errors import UserError
from ..run import Run
from .stage import Stage


@dataclass(frozen=True)
class StageKind:
    """A stage by name. Calling it imports the module of its class, which can be slow, and makes the stage of a run.

    Attributes:
      module, kind: the class `kind` in a module of this folder.
      gpu: whether the tasks run a network.
    """

    name: str
    module: str
    kind: str
    gpu: bool = False

    def __call__(self, run: Run) -> Stage[Any, Any]:
        module = importlib.import_module(f".{self.module}", __package__)
        stage: Stage[Any, Any] = getattr(module, self.kind)(run)
        return stage


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
EXTRAS = [StageKind("link", "link", "LinkStage")]  # stages with their own command


def make_stage(name: str, run: Run) -> Stage[Any, Any]:
    """Make a stage of a run by its name."""
    check_stage(name, extras=True)
    return next(stage for stage in (*STAGES, *EXTRAS) if stage.name == name)(run)


def state_path(stage: str) -> str:
    """Return the path of a stage's state in its run."""
    return f"stages/{stage}.json"


def is_finished(run: Run, stage: str) -> bool:
    """Return whether a stage of a run is finished."""
    return bool((run.store.get_json(state_path(stage)) or {}).get("finished"))


def check_stage(name: str | None, extras: bool = False) -> None:
    """Raise UserError if no stage has this name.

    Args:
      name: None is accepted.
      extras: whether the stages of EXTRAS count too.
    """
    names = [stage.name for stage in (*STAGES, *(EXTRAS if extras else ()))]
    if name is not None and name not in names:
        raise UserError(f"no stage '{name}'; there are: {', '.join(names)}")
