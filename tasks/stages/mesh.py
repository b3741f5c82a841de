"""mesh and mesh_merge: igneous meshes the somas, as stages of ours.

igneous divides the work once, when the stage is prepared. The run stores the parameter of each task: an offset, or the
leading digits of ids. Everything else comes from the config, and the function from this file, so that nobody who can
write to the run can name code. igneous is imported where it is used, because that takes seconds and a forecast does
without.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from ...axes import Vec3
from ...errors import UserError
from ..grids.geometry import BlockGrid, Box, vec3
from ..layers.precomputed import CHUNK, box_name, is_damage
from ..run import Run, stored_kind
from ..storage.damage import DamagedObject
from ..storage.homeless import import_taskqueue
from .measure import SHAPES, get_frame
from .mips import shrink, somas_mips, stage_of_mip
from .stage import ID_BYTES, STORED, Counters, Forecast, SimpleStage

MESH_FOLDER = "mesh"
_TASK_VX = 256  # edge of the region that a task meshes
_MAX_VOXEL_NM = 128.0  # longest edge of a meshed voxel; a soma of 3 um is 24 such voxels wide
_MAX_DIGITS = 6  # leading digits of an id by which igneous divides the merging: its magnitude
_MESHING: dict[str, Any] = {
    "max_simplification_error": 60,
    "fill_missing": True,
    "spatial_index": True,
}
_MERGING: dict[str, Any] = {"num_lod": 2, "min_chunk_size": (256, 256, 256)}
_FRAGMENT = re.compile(
    rf"(?:somas|nuclei)/{MESH_FOLDER}/\d+:0:(-?\d+)-(?:-?\d+)_(-?\d+)-(?:-?\d+)_(-?\d+)-(?:-?\d+)(?:\.gz)?"
)
_Coordinate = Annotated[int, Field(ge=-(2**62), le=2**62)]
Parameter = TypeVar("Parameter")


class IgneousStage(SimpleStage, Generic[Parameter]):
    """A stage whose tasks are tasks of igneous, each with one parameter.

    Attributes:
      parameters: validates the plan, a list of parameters.
    """

    parameters: TypeAdapter[list[Parameter]]

    def divide(self, layer_path: str) -> Iterable[Parameter]:
        """Return the parameter of each task; may write the infos of the layer that the tasks need."""
        raise NotImplementedError

    def execute(self, layer: str, parameter: Parameter) -> dict[str, list[int]]:
        """Execute the task with this parameter on a layer of labels; return the numbers of what it stored, by kind."""
        raise NotImplementedError

    def prepare(self) -> None:
        import_taskqueue()
        with contextlib.redirect_stdout(io.StringIO()):  # igneous prints bounds
            plans = [list(self.divide(f"{self.run.path}/{name}")) for name in self.run.layer_names]
        tasks = plans[0]  # all layers have the same bounds
        self.run.store.put_record(self._path, {"tasks": tasks})

    def plan(self) -> Sequence[int]:
        return range(len(self.parameters_of_tasks))

    def work(self, index: int, data: None) -> Counters:
        import_taskqueue()
        stored: dict[str, list[int]] = {}
        for layer in self.run.layer_names:
            stored |= self.execute(layer, self.parameters_of_tasks[index])
        return {STORED: stored}

    @property
    def _path(self) -> str:
        return f"plans/{self.name}.json"

    @cached_property
    def parameters_of_tasks(self) -> list[Parameter]:
        """The plan: the parameter of each task."""
        plan = self.run.store.get_record(self._path)
        if plan is None:
            raise DamagedObject(self.run.path, self._path, "is missing or damaged")
        try:
            return self.parameters.validate_json(json.dumps(plan.get("tasks")), strict=True)
        except ValidationError as err:
            raise UserError(
                f"{self.run.path}/{self._path} is not a plan of this flysoma ({err.errors()[0]['msg']}): "
                "start the run again at another output"
            ) from None


class MeshStage(IgneousStage[Vec3]):
    """Fragments of meshes, one task per region of the volume."""

    name = "mesh"
    parameters = TypeAdapter(list[tuple[_Coordinate, _Coordinate, _Coordinate]])  # offsets x, y, z

    def divide(self, layer_path: str) -> Iterable[Vec3]:
        from igneous import task_creation

        tasks = task_creation.create_meshing_tasks(
            layer_path,
            mip=mesh_mip(self.run),
            mesh_dir=MESH_FOLDER,
            shape=(_TASK_VX,) * 3,
            **_MESHING,
        )
        return [vec3(task.offset.tolist()) for task in tasks]

    def read(self, index: int) -> None:
        """Check that the labels of the region are intact: igneous reads a chunk that is missing as background."""
        mip = mesh_mip(self.run)
        box = self.region(index).grow((1, 1, 1)).intersect(somas_mips(self.run)[mip].box)
        for layer in self.run.layer_names:
            self.run.read_labels(layer, box, mip, stage_of_mip(mip))

    def region(self, index: int) -> Box:
        """Return the region of a task, in voxels of the mip that is meshed."""
        lo = self.parameters_of_tasks[index]
        box = Box(lo, vec3([n + _TASK_VX for n in lo]))
        return box.intersect(somas_mips(self.run)[mesh_mip(self.run)].box)

    def execute(self, layer: str, parameter: Vec3) -> dict[str, list[int]]:
        from igneous.tasks import MeshTask

        task = MeshTask(
            shape=(_TASK_VX,) * 3,
            offset=parameter,
            layer_path=f"{self.run.path}/{layer}",
            mip=mesh_mip(self.run),
            mesh_dir=MESH_FOLDER,
            cache_control="no-cache",
            compress="gzip",  # which has a checksum; the merged meshes are stored as the layer is
            **_MESHING,
        )
        meshed: list[int] = []
        compute = task.compute_meshes

        def compute_and_list(renumbermap: dict[int, int]) -> dict[int, Any]:
            meshes: dict[int, Any] = compute(renumbermap)
            meshed.extend(sorted(meshes))
            return meshes

        task.compute_meshes = compute_and_list
        task.execute()
        region = self.parameters_of_tasks.index(parameter)
        return {stored_kind(layer, region): meshed} if meshed else {}

    def redo(self, boxes: Sequence[Box], somas: Collection[int]) -> None:
        """Make the fragments in boxes of the volume again, once these somas have changed there."""
        mip = somas_mips(self.run)[mesh_mip(self.run)]
        grid = BlockGrid(mip.box, (_TASK_VX,) * 3, (0, 0, 0))
        reached = grid.reaching_any(shrink(box, mip.factor).grow((1, 1, 1)) for box in boxes)
        starts = {grid[number].core.lo for number in reached}
        regions = [i for i, start in enumerate(self.parameters_of_tasks) if start in starts]
        kinds = {stored_kind(name, i): (name, i) for i in regions for name in self.run.layer_names}
        before = {kind: self.run.stored_numbers(self.name, kind).tolist() for kind in kinds}
        for kind, (layer, index) in kinds.items():
            changed = sorted(set(before[kind]) & set(somas))
            self.run.store.delete(self.fragment(layer, index, label) for label in changed)
        stored: dict[str, list[int]] = {}
        for index in regions:
            self.read(index)
            stored |= self.work(index, None)[STORED]
        self.replace_stored(before, stored)

    def fragment(self, layer: str, index: int, label: int) -> str:
        """Return the path of the fragment of a label in a region."""
        return f"{layer}/{MESH_FOLDER}/{label}:0:{box_name(self.region(index))}"

    def finish(self) -> Counters:
        self.put_stored()
        return {}

    def task_of(self, path: str) -> int | None:
        fragment = _FRAGMENT.fullmatch(path)
        if fragment is None:
            return None
        return self.parameters_of_tasks.index(vec3(list(map(int, fragment.groups()))))

    def forecast(self) -> Forecast:
        """Count the regions that igneous makes: all of the mip's bounds, whether or not a region holds a soma.

        Each reads one more voxel at its upper faces, where there is another region.
        """
        bounds = somas_mips(self.run)[mesh_mip(self.run)].box
        regions = BlockGrid(bounds, (_TASK_VX,) * 3, (0, 0, 0)).shape
        chunks = BlockGrid(bounds, CHUNK, (0, 0, 0)).shape
        voxels = math.prod(size + n - 1 for size, n in zip(bounds.size, regions))
        layers = 1 + self.run.has_nuclei
        return Forecast(
            tasks=math.prod(regions),
            exact=True,
            voxels=voxels,
            bytes_in=layers * voxels * ID_BYTES,
            reads=layers * math.prod(count + n - 1 for count, n in zip(chunks, regions)),
            writes=layers * math.prod(regions),
        )


class MeshMergeStage(IgneousStage[int]):
    """Multi-resolution meshes from the fragments, one file per soma and one for its nuclei."""

    name = "mesh_merge"
    parameters = TypeAdapter(
        list[Annotated[int, Field(ge=1, lt=10**_MAX_DIGITS)]]
    )  # leading digits

    def divide(self, layer_path: str) -> Iterable[int]:
        from igneous import task_creation

        digits = min(max(1, len(str(count_somas(self.run))) - 3), _MAX_DIGITS)
        tasks = task_creation.create_unsharded_multires_mesh_tasks(
            layer_path, magnitude=digits, mesh_dir=MESH_FOLDER, **_MERGING
        )
        return [int(str(task.keywords["prefix"]).rstrip(":")) for task in tasks]

    def read(self, index: int) -> None:
        """Check that all fragments are there: igneous merges those that it finds."""
        for layer in self.run.layer_names:
            prefix = self._prefix(layer, index)
            there = {name.removesuffix(".gz") for name in self.run.store.names(prefix)}
            for path in self._fragments(layer, prefix):
                if path not in there:
                    raise DamagedObject(self.run.path, path, "is missing")

    def work(self, index: int, data: None) -> Counters:
        try:
            return super().work(index, data)
        except Exception as err:
            if is_damage(err):
                for layer in self.run.layer_names:
                    self._check_fragments(layer, self._prefix(layer, index))
            raise

    def _prefix(self, layer: str, index: int) -> str:
        """Return how the paths of the fragments of a task begin."""
        return f"{layer}/{MESH_FOLDER}/{self._digits(self.parameters_of_tasks[index])}"

    def _check_fragments(self, layer: str, prefix: str) -> None:
        """Raise DamagedObject if a fragment cannot be decompressed."""
        for path in self._fragments(layer, prefix):
            try:
                self.run.store.get(path)
            except Exception as err:
                if is_damage(err):
                    reason = f"cannot be decoded ({err})"
                    raise DamagedObject(self.run.path, path, reason) from err
                raise

    def execute(self, layer: str, parameter: int) -> dict[str, list[int]]:
        self._merge(layer, self._digits(parameter))
        return {}

    def redo(self, gone: Iterable[int], somas: Iterable[int]) -> None:
        """Delete the meshes of somas that are gone, and make those of others again."""
        import_taskqueue()
        somas = list(somas)
        for layer in self.run.layer_names:
            for soma in (*gone, *somas):
                path = f"{layer}/{MESH_FOLDER}/{soma}"
                self.run.store.delete([path, f"{path}.index"])
            for soma in somas:
                self._merge(layer, f"{soma}:")

    def _merge(self, layer: str, prefix: str) -> None:
        """Merge the fragments of a layer whose names begin with a prefix."""
        from igneous.tasks import MultiResUnshardedMeshMergeTask

        MultiResUnshardedMeshMergeTask(
            f"{self.run.path}/{layer}", prefix=prefix, mesh_dir=MESH_FOLDER, **_MERGING
        )

    def _digits(self, parameter: int) -> str:
        """Return how the names of a task's fragments begin: with the digits, or with a whole id that has fewer."""
        digits = len(str(self.parameters_of_tasks[-1]))
        return str(parameter) if len(str(parameter)) == digits else f"{parameter}:"

    def _fragments(self, layer: str, prefix: str) -> Iterator[str]:
        """Yield the paths of the fragments of a layer that begin with a prefix."""
        meshes = MeshStage(self.run)
        for index in meshes.plan():
            kind = stored_kind(layer, index)
            for label in self.run.stored_numbers(meshes.name, kind).tolist():
                path = meshes.fragment(layer, index, label)
                if path.startswith(prefix):
                    yield path

    def forecast(self) -> Forecast:
        """Return nothing: there is a task for up to about a thousand somas."""
        return Forecast()


def count_somas(run: Run) -> int:
    """Return the number of somas of a run that has been measured."""
    return len(get_frame(run.store, SHAPES))


def mesh_mip(run: Run) -> int:
    """Return the mip of the somas that is meshed: the coarsest whose voxels are not too long."""
    fine = [all(r <= _MAX_VOXEL_NM for r in mip.resolution_nm) for mip in somas_mips(run)]
    return max(0, sum(fine) - 1)
