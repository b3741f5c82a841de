"""measure and shape: moments per block, which add up to a soma's, then what needs a whole soma at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ...analysis.morphology.moments import block_moments, merge_moments
from ...analysis.morphology.nuclei import add_nuclei, count_nuclei
from ...analysis.morphology.shapes import (
    convexity,
    largest_inscribed_ball,
    shapes_from_moments,
)
from ...analysis.morphology.spatial import (
    count_neighbours,
    depths_below_surface,
    nearest_distances,
    sides_of_plane,
)
from ...analysis.morphology.surface_area import REACH
from ...axes import Vec3, Voxel
from ..grids.geometry import Block, BlockGrid, Box, flip, vec3
from ..layers.precomputed import CHUNK
from ..run import Run
from ..storage.store import RunStore
from .match import RESOLVED
from .segment import SegmentStage
from .stage import ID_BYTES, Counters, Forecast, SimpleStage, Stage

SHAPES = "measure/shapes.npz"
_FOLDERS = ("measure/blocks/", "measure/nuclei/")  # moments of the somas and of their nuclei
_BATCH = 64  # somas per task
_NEAR_NM = 10_000.0


@dataclass(frozen=True)
class BlockVoxels:
    """A block's core and one voxel around it.

    Attributes:
      layers: the labels of the somas, and of the nuclei if they are known.
      image: of the core, if it holds a soma.
    """

    layers: list[np.ndarray]
    image: np.ndarray | None


@dataclass(frozen=True)
class BlockMoments:
    """The moments in a block, one row per soma.

    Attributes:
      tables: of the somas, and of the nuclei if they are known.
      missing: the share of black voxels, -1 if not read.
    """

    tables: list[pd.DataFrame]
    missing: float


class MeasureStage(Stage[BlockVoxels, BlockMoments]):
    """One task per block: the additive moments of the somas in its core, of their surfaces, grey values and nuclei."""

    name = "measure"
    scratch = _FOLDERS
    reduced = (SHAPES,)

    def plan(self) -> Sequence[int]:
        """Return the segmented blocks and their neighbours, which own part of the surface."""
        grid = self.run.segment_grid
        return self._with_neighbours(grid[i] for i in self._segment.plan())

    def forecast(self) -> Forecast:
        run, resolution_nm = self.run, self.run.config.segment.resolution_nm
        planned = self._with_neighbours(run.blocks_near_tissue)
        cores = [run.segment_grid[index].core for index in planned]
        reads = [self._boxes(core)[1] for core in cores]
        chunks = BlockGrid(run.segment_grid.bounds, CHUNK, (0, 0, 0))
        voxels, layers = sum(box.voxels for box in reads), 1 + run.has_nuclei
        fetched = [run.image.fetched(core, resolution_nm) for core in cores]
        return Forecast(
            tasks=len(planned),
            voxels=voxels,
            bytes_in=layers * voxels * ID_BYTES + sum(count for _, count in fetched),
            reads=layers * sum(map(chunks.count, reads)) + sum(count for count, _ in fetched),
            writes=layers * len(planned),
        )

    def _with_neighbours(self, blocks: Iterable[Block]) -> list[int]:
        return self.run.segment_grid.reaching_any(b.core.grow((REACH,) * 3) for b in blocks)

    def read(self, index: int) -> BlockVoxels:
        return self._read(*self._boxes(self.run.segment_grid[index].core))

    def _read(self, core: Box, around: Box) -> BlockVoxels:
        layers = [self.run.read_labels(name, around) for name in self.run.layer_names]
        has_soma = layers[0][core.slices_zyx(around.lo)].any()
        resolution_nm = self.run.config.segment.resolution_nm
        return BlockVoxels(layers, self.run.image.read(core, resolution_nm) if has_soma else None)

    def work(self, index: int, data: BlockVoxels) -> BlockMoments:
        core, around = self._boxes(self.run.segment_grid[index].core)
        tables = self._measure(core, around, data)
        self._mark_cut(tables[0], core, data.layers[0][core.slices_zyx(around.lo)])
        missing = -1.0 if data.image is None else round(float((data.image == 0).mean()), 6)
        return BlockMoments(tables, missing)

    def measure_soma(self, soma: int, box: Box, cut: bool | None = None) -> pd.DataFrame:
        """Return the row of a soma in the table of shapes, from the labels in a box that holds it.

        Args:
          cut: whether the soma reaches the end of what is segmented; None: decide as for a block.
        """
        core, around = self._boxes(box.grow((REACH,) * 3).intersect(self.run.segment_grid.bounds))
        data = self._read(core, around)
        own = [np.where(labels == np.uint64(soma), labels, 0) for labels in data.layers]
        tables = self._measure(core, around, BlockVoxels(own, data.image))
        if cut is None:
            self._mark_cut(tables[0], core, own[0][core.slices_zyx(around.lo)])
        else:
            tables[0]["touches_edge"] |= cut
        return self._shapes([merge_moments([table]) for table in tables])

    def _mark_cut(self, moments: pd.DataFrame, core: Box, labels: np.ndarray) -> None:
        """Mark the somas that reach the end of what is segmented, from the labels of a core."""
        cut = self._segment.cut_labels(labels, core)
        moments["touches_edge"] |= moments["id"].isin(cut) & (moments["voxels"] > 0)

    def _measure(self, core: Box, around: Box, data: BlockVoxels) -> list[pd.DataFrame]:
        bounds = self.run.segment_grid.bounds
        return [
            block_moments(
                labels,
                core.slices_zyx(around.lo),
                flip(around.lo),
                (flip(bounds.lo), flip(bounds.hi)),
                flip(self.run.config.segment.resolution_nm),
                image,
            )
            for labels, image in zip(data.layers, (data.image, None))
        ]

    def write(self, index: int, result: BlockMoments) -> Counters:
        for folder, table in zip(_FOLDERS, result.tables):
            put_frame(self.run.store, f"{folder}{index}.npz", table)
        return {"somas": len(result.tables[0]), "missing": result.missing}

    def finish(self) -> Counters:
        folders = _FOLDERS[: 1 + self.run.has_nuclei]
        frame = self._shapes([self._merge(folder) for folder in folders])
        put_frame(self.run.store, SHAPES, frame)
        return {"somas": len(frame), "cut_by_edge": int(frame["touches_edge"].sum())}

    def _merge(self, folder: str) -> pd.DataFrame:
        """Return the moments over all blocks."""
        stored = self.run.store.get_many_arrays(f"{folder}{index}.npz" for index in self.plan())
        return merge_moments([pd.DataFrame(arrays) for arrays in stored])

    def _shapes(self, moments: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Return the table of shapes from the moments of the somas, and of their nuclei if they are known."""
        voxel_nm = flip(self.run.config.segment.resolution_nm)
        somas, *nuclei = (shapes_from_moments(table, voxel_nm) for table in moments)
        return add_nuclei(somas, nuclei[0]) if nuclei else somas

    @cached_property
    def _segment(self) -> SegmentStage:
        return SegmentStage(self.run)

    def _boxes(self, core: Box) -> tuple[Box, Box]:
        """Return a core, and the box that is read."""
        return core, core.grow((REACH,) * 3).intersect(self.run.segment_grid.bounds)


class SomaStage(SimpleStage):
    """A stage with one task per batch of somas."""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table of somas, one row per soma."""
        return get_frame(self.run.store, SHAPES)

    def plan(self) -> Sequence[int]:
        return plan_batches(self.frame)

    def forecast(self) -> Forecast:
        return Forecast()

    def batch(self, index: int) -> Iterator[pd.Series]:
        """Yield the rows of a task's somas."""
        return (row for _, row in self.frame.iloc[index * _BATCH : (index + 1) * _BATCH].iterrows())


class ShapeStage(SomaStage):
    """The largest ball inside each soma, its share of its convex hull, and its nuclei."""

    name = "shape"
    scratch = ("measure/batches/",)

    def work(self, index: int, data: None) -> Counters:
        frame = pd.DataFrame([measure_shape(self.run, soma) for soma in self.batch(index)])
        put_frame(self.run.store, f"measure/batches/{index}.npz", frame)
        return {"somas": len(frame)}


def measure_shape(run: Run, soma: pd.Series) -> dict[str, float]:
    """Return the columns of stage shape for a soma, a row of the table of shapes."""
    resolution_nm = run.config.segment.resolution_nm
    voxel_nm = flip(resolution_nm)
    box, mask = crop(run, soma)

    def position(name: str, centre: Voxel) -> dict[str, float]:
        centre_nm = (np.array(flip(centre)) + box.lo + 0.5) * np.array(resolution_nm)
        return {f"{name}_{a}_nm": float(value) for a, value in zip("xyz", centre_nm)}

    radius, centre = largest_inscribed_ball(mask, voxel_nm)
    row = {"inscribed_radius_um": radius, **position("inscribed", centre)}
    row["convexity"] = convexity(mask, voxel_nm)
    if run.has_nuclei:
        nuclei = run.read_labels("nuclei", box) == np.uint64(soma["id"])
        number, centre = count_nuclei(nuclei, voxel_nm, run.config.soma.min_nucleus_um3)
        row |= {"n_nuclei": float(number), **position("nucleus", centre)}
    return row


def load_measurements(run: Run, folders: Sequence[str]) -> pd.DataFrame:
    """Return what has been measured, one row per soma.

    Args:
      folders: what to add to the moments: `batches` of stage shape, and `neurites` of stage skeleton.
    """
    frame = get_frame(run.store, SHAPES)
    numbers = plan_batches(frame)
    for folder in folders:
        if numbers:
            parts = [get_frame(run.store, f"measure/{folder}/{i}.npz") for i in numbers]
            frame = pd.concat([frame, pd.concat(parts, ignore_index=True)], axis=1)
    resolved = get_frame(run.store, RESOLVED).drop(columns=["seed", "voxels"])
    return frame.merge(resolved, on="id", how="left", validate="one_to_one")


def add_surroundings(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of somas with columns for the place of each among the others and in the brain."""
    frame = frame.copy()
    xyz_nm = frame[["x_nm", "y_nm", "z_nm"]].to_numpy()
    frame["nearest_nm"] = nearest_distances(xyz_nm)
    frame["neighbours_10um"] = count_neighbours(xyz_nm, _NEAR_NM)
    voxel = np.floor(xyz_nm / np.array(run.image.resolutions_nm[0])).astype(np.int64)
    for axis, a in enumerate("xyz"):
        frame[f"{a}_vx"] = voxel[:, axis]
    if run.config.midline is not None:
        plane = run.config.midline
        frame["side"] = sides_of_plane(xyz_nm, plane.point_nm, plane.normal)
    if run.config.mask is not None:
        frame["depth_nm"] = depths_below_surface(xyz_nm, *run.tissue.mask)
    return frame


def plan_batches(frame: pd.DataFrame) -> range:
    """Return the numbers of the tasks that share the rows of a table of somas."""
    return range(-(-len(frame) // _BATCH))


def soma_box(run: Run, soma: pd.Series, margin: Vec3) -> Box:
    """Return the bounding box of a soma, grown by `margin` voxels."""
    corners = [
        [soma[f"bb_{end}_{a}_nm"] / r for a, r in zip("xyz", run.somas.resolution_nm)]
        for end in ("start", "end")
    ]
    lo, hi = (vec3(np.rint(corner).tolist()) for corner in corners)
    return Box(lo, hi).grow(margin).intersect(run.segment_grid.bounds)


def crop(run: Run, soma: pd.Series, margin: Vec3 = (1, 1, 1)) -> tuple[Box, np.ndarray]:
    """Return the bounding box of a soma, grown by `margin` voxels, and its mask (bool, z, y, x)."""
    box = soma_box(run, soma, margin)
    return box, run.read_somas(box) == np.uint64(soma["id"])


def put_frame(store: RunStore, path: str, frame: pd.DataFrame) -> None:
    """Store a table as arrays."""
    store.put_arrays(path, {str(name): frame[name].to_numpy() for name in frame})


def get_frame(store: RunStore, path: str) -> pd.DataFrame:
    """Return a table that `put_frame` stored. Raises DamagedObject if it is missing or has changed."""
    return pd.DataFrame(store.get_arrays(path))
