"""Stage 5, measure: sums per block that add up to each soma's shape, then what needs the whole soma at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ...analysis.morphology.shapes import (
    block_moments,
    convexity,
    depths_below_surface,
    inscribed,
    merge_moments,
    nearest_neighbours,
    neighbours_within,
    shapes,
    sides_of_plane,
)
from ...analysis.morphology.surface_area import REACH
from ...axes import Vec3
from ..run import Run
from ..store import RunStore
from ..volumes.geometry import Box, flip, vec3
from ..volumes.tissue import Tissue
from .match import RESOLVED
from .stage import Stage

SHAPES = "measure/shapes.npz"
_BATCH = 64  # somas a task
_NEAR_NM = 10_000.0


class MeasureStage(Stage):
    """One task a block: the additive moments of the somas in its core, of their surfaces and their grey values."""

    name = "measure"
    scratch = ("measure/blocks/",)

    def plan(self) -> Sequence[int]:
        """Blocks that were segmented and those beside them, which own part of the surface."""
        grid = self.run.segment_grid
        beside: set[int] = set()
        for index in self.run.store.indices("receipts/segment"):
            beside.update(grid.reaching(grid[index].core.grow((REACH,) * 3)))
        return sorted(beside)

    def read(self, index: int) -> Any:
        core, around = self._boxes(index)
        labels = self.run.somas.read(around)
        there = labels[core.slices_zyx(around.lo)].any()
        resolution = self.run.config.segment.resolution_nm
        return labels, self.run.image.read(core, resolution) if there else None

    def work(self, index: int, data: Any) -> dict[str, Any]:
        bounds = self.run.segment_grid.bounds
        core, around = self._boxes(index)
        labels, image = data
        moments = block_moments(
            labels,
            core.slices_zyx(around.lo),
            flip(around.lo),
            (flip(bounds.lo), flip(bounds.hi)),
            flip(self.run.config.segment.resolution_nm),
            image,
        )
        put_frame(self.run.store, f"measure/blocks/{index}.npz", moments)
        missing = -1.0 if image is None else round(float((image == 0).mean()), 6)
        return {"somas": len(moments), "missing": missing}

    def finish(self) -> dict[str, Any]:
        store = self.run.store
        paths = (f"measure/blocks/{index}.npz" for index in self.plan())
        parts = [pd.DataFrame(arrays) for arrays in store.get_many_arrays(paths)]
        frame = shapes(merge_moments(parts), flip(self.run.config.segment.resolution_nm))
        put_frame(store, SHAPES, frame)
        return {"somas": len(frame)}

    def _boxes(self, index: int) -> tuple[Box, Box]:
        """A block's core, and what is read around it."""
        core = self.run.segment_grid[index].core
        return core, core.grow((REACH,) * 3).intersect(self.run.segment_grid.bounds)


class ShapeStage(Stage):
    """One task a batch of somas: the largest ball inside each, and the convex hull around it."""

    name = "shape"
    scratch = ("measure/batches/",)

    @cached_property
    def frame(self) -> pd.DataFrame:
        return get_frame(self.run.store, SHAPES)

    def plan(self) -> Sequence[int]:
        return batches(self.frame)

    def work(self, index: int, data: Any) -> dict[str, Any]:
        resolution = np.array(self.run.config.segment.resolution_nm)
        rows = []
        for _, soma in batch(self.frame, index):
            box, mask = crop(self.run, soma)
            radius, centre = inscribed(mask, flip(resolution))
            at = (np.array(flip(centre)) + box.lo + 0.5) * resolution
            rows.append([radius, *at, convexity(mask, flip(resolution))])
        columns = ["inscribed_radius_um", *(f"inscribed_{a}_nm" for a in "xyz"), "convexity"]
        frame = pd.DataFrame(np.array(rows).reshape(-1, len(columns)), columns=columns)
        put_frame(self.run.store, f"measure/batches/{index}.npz", frame)
        return {"somas": len(frame)}


def measured(run: Run) -> pd.DataFrame:
    """All that has been measured so far, one row a soma."""
    frame = get_frame(run.store, SHAPES)
    numbers = batches(frame)
    for folder in ("batches", "neurites"):
        if numbers and run.store.indices(f"measure/{folder}") >= set(numbers):
            parts = [get_frame(run.store, f"measure/{folder}/{i}.npz") for i in numbers]
            frame = pd.concat([frame, pd.concat(parts, ignore_index=True)], axis=1)
    columns = ["id", "confidence", "n_seeds", "crosses_seam", "suspicious"]
    resolved = get_frame(run.store, RESOLVED)[columns]
    return frame.merge(resolved, on="id", how="left", validate="one_to_one")


def placed(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """A table of somas, with how each lies among the others and in the brain."""
    frame = frame.copy()
    xyz_nm = frame[["x_nm", "y_nm", "z_nm"]].to_numpy()
    frame["nearest_nm"] = nearest_neighbours(xyz_nm)
    frame["neighbours_10um"] = neighbours_within(xyz_nm, _NEAR_NM)
    voxel = np.floor(xyz_nm / np.array(run.image.resolutions_nm[0])).astype(np.int64)
    for axis, a in enumerate("xyz"):
        frame[f"{a}_vx"] = voxel[:, axis]
    if run.config.midline is not None:
        plane = run.config.midline
        frame["side"] = sides_of_plane(xyz_nm, plane.point_nm, plane.normal)
    if run.config.mask is not None:
        frame["depth_nm"] = depths_below_surface(
            xyz_nm, *Tissue(run.config.image, run.config.mask).mask
        )
    return frame


def batches(frame: pd.DataFrame) -> range:
    """Numbers of the tasks that share out the rows of a table of somas."""
    return range(-(-len(frame) // _BATCH))


def batch(frame: pd.DataFrame, index: int) -> Iterator[tuple[Any, pd.Series]]:
    """The rows of task `index`."""
    return frame.iloc[index * _BATCH : (index + 1) * _BATCH].iterrows()


def soma_box(run: Run, soma: pd.Series, more: Vec3) -> Box:
    """The box of a soma with so many voxels around it."""
    lo, hi = (
        vec3(
            np.rint(
                [soma[f"bb_{end}_{a}_nm"] / r for a, r in zip("xyz", run.somas.resolution_nm)]
            ).tolist()
        )
        for end in ("start", "end")
    )
    return Box(lo, hi).grow(more).intersect(run.segment_grid.bounds)


def crop(run: Run, soma: pd.Series, more: Vec3 = (1, 1, 1)) -> tuple[Box, np.ndarray]:
    """The box of a soma with so many voxels around it, and where in it the soma is (bool z, y, x)."""
    box = soma_box(run, soma, more)
    return box, run.somas.read(box) == np.uint64(soma["id"])


def put_frame(store: RunStore, path: str, frame: pd.DataFrame) -> None:
    store.put_arrays(path, {str(name): frame[name].to_numpy() for name in frame})


def get_frame(store: RunStore, path: str) -> pd.DataFrame:
    arrays = store.get_arrays(path)
    assert arrays is not None, f"{path} is gone"
    return pd.DataFrame(arrays)
