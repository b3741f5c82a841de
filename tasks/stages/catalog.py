"""The ordered list of stages.

A stage is complete when its receipts equal its plan, not when a queue is empty.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import UserError
from ..run import Run
from ..storage.store import RunStore
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


class _State(BaseModel):
    """What the coordinator keeps about a stage."""

    model_config = ConfigDict(extra="allow")

    started: float = 0.0
    progressed: float = 0.0
    finished: bool = False
    halted: str | None = None
    queue: str | None = None
    total: int | None = None
    done: int = 0
    task_seconds: float = 0.0
    peak_gb: float | None = None
    history: list[tuple[float, int]] = []
    result: dict[str, Any] = {}
    ended: float = 0.0


def read_state(store: RunStore, stage: str) -> dict[str, Any]:
    """Return the state of a stage; empty if the stage has not begun, or the state is damaged.

    A damaged state is no loss: the receipts say what is done, and a stage is planned and reduced again.
    """
    try:
        state = _State.model_validate_json(store.get(state_path(stage)) or b"{}")
    except ValidationError:
        return {}
    return {} if state.finished and state.total is None else state.model_dump(exclude_unset=True)


def is_finished(run: Run, stage: str) -> bool:
    """Return whether a stage of a run is finished."""
    return bool(read_state(run.store, stage).get("finished"))


def check_stage(name: str | None, extras: bool = False) -> None:
    """Raise UserError if no stage has this name.

    Args:
      name: None is accepted.
      extras: whether the stages of EXTRAS count too.
    """
    names = [stage.name for stage in (*STAGES, *(EXTRAS if extras else ()))]
    if name is not None and name not in names:
        raise UserError(f"no stage '{name}'; there are: {', '.join(names)}")
