"""Stage 4: igneous meshes the somas, inside stages of ours.

igneous makes the list of tasks once, when the stage is prepared; it is kept beside the run, and our task
number N executes entry N of it.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import igneous.tasks  # noqa: F401  registers the functions that a plan names
from igneous import task_creation
from taskqueue.queueables import totask

from .mips import MESH_TASK_VX, mesh_mip
from .stage import Stage

MESH_FOLDER = "mesh"


class IgneousStage(Stage):
    """A stage whose tasks are igneous's."""

    def create(self) -> Iterable[Any]:
        """igneous's tasks; may write the infos that they need."""
        raise NotImplementedError

    def prepare(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # igneous reports bounds with print
            plan = [_to_json(task) for task in self.create()]
        self.run.store.put_json(self._path, plan)

    def plan(self) -> Sequence[int]:
        return range(len(self._tasks))

    def work(self, index: int, data: Any) -> dict[str, Any]:
        totask(json.dumps(self._tasks[index])).execute()
        return {}

    @property
    def _path(self) -> str:
        return f"plans/{self.name}.json"

    @cached_property
    def _tasks(self) -> list[Any]:
        return self.run.store.get_json(self._path)


class MeshStage(IgneousStage):
    """Fragments of meshes, one task a piece of volume."""

    name = "mesh"

    def create(self) -> Iterable[Any]:
        return task_creation.create_meshing_tasks(
            self.run.somas_path,
            mip=mesh_mip(self.run),
            mesh_dir=MESH_FOLDER,
            fill_missing=True,
            spatial_index=True,
            max_simplification_error=60,
            shape=(MESH_TASK_VX,) * 3,
        )


class MeshMergeStage(IgneousStage):
    """Fragments to multi-resolution meshes, one file a soma."""

    name = "mesh_merge"

    def create(self) -> Iterable[Any]:
        return task_creation.create_unsharded_multires_mesh_tasks(
            self.run.somas_path, num_lod=2, magnitude=1, mesh_dir=MESH_FOLDER
        )


def _to_json(task: Any) -> Any:
    return json.loads(json.dumps(totask(task).payload(), default=_plain))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "serialize"):
        return value.serialize()
    return list(value)
