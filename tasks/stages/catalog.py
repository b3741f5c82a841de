"""The ordered list of stages.

A stage is complete when its receipts equal its plan, never because a queue looks empty.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from ...errors import UserError
from ..run import Run
from .stage import Stage


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
