"""Open labels for an evaluation, from files and layers, on one grid. Arrays and origins are z, y, x; boxes x, y, z."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...analysis.metrics.evaluation import ArrayLabels
from ...axes import Nm3, Zyx
from ...errors import UserError
from ..grids.geometry import Box, flip, vec3
from ..layers.labels import LabelLayer
from .files import read_array


@dataclass(frozen=True)
class LayerLabels:
    """A box of a precomputed segmentation, sampled at voxels of `resolution_nm` (x, y, z).

    `shape` and `origin`, its first voxel, are z, y, x.
    """

    layer: LabelLayer
    box: Box
    resolution_nm: Nm3

    @property
    def shape(self) -> Zyx:
        return flip(self.box.size)

    @property
    def origin(self) -> Zyx:
        return flip(self.box.lo)

    def read(self, lo: Zyx, hi: Zyx) -> np.ndarray:
        return self.layer.sample(part_of(self.box, lo, hi), self.resolution_nm)


@dataclass(frozen=True)
class FileLabels(ArrayLabels):
    """The labels in a file."""

    origin: Zyx = (0, 0, 0)


Opened = LayerLabels | FileLabels


def open_pair(
    pred: str, truth: str, axes: str | None, resolution_nm: Nm3 | None
) -> tuple[Opened, Opened, Nm3]:
    """Open a prediction and its truth on one grid; also return the grid's voxel size, x, y, z.

    With a file, the grid has the voxel size that is given, and a layer is sampled at it. For two layers, it has the
    larger of their voxel sizes along each axis, and the box of the truth.

    Args:
      pred, truth: paths of files, of layers, or of runs, whose somas are opened.
      axes: order of the axes in a file; None: as it states, otherwise zyx.
      resolution_nm: voxel size of the files; None if both are layers.
    Raises:
      UserError: the voxel size is missing or wrong, or the prediction does not cover the truth.
    """
    layers = [None if Path(path).is_file() else _open_layer(path) for path in (pred, truth)]
    sizes = [layer.resolution_nm for layer in layers if layer is not None]
    if len(sizes) < 2:
        if resolution_nm is None:
            file = pred if layers[0] is None else truth
            raise UserError(f"{file} is a file: give its voxel size with --resolution X Y Z")
        sizes.append(resolution_nm)
    x, y, z = np.max(sizes, axis=0).tolist()
    grid_nm = x, y, z
    if resolution_nm is not None and not np.allclose(grid_nm, resolution_nm):
        raise UserError(
            f"{pred} and {truth} have voxels of {grid_nm} nm and --resolution says {resolution_nm} (x, y, z); "
            "omit it for layers, and save files with voxels at least as large as those of a layer"
        )
    boxes = [_box(layer, grid_nm) if layer else None for layer in layers]
    if boxes[0] and boxes[1]:
        shared = boxes[0].intersect(boxes[1])
        rounding = (
            0 if np.allclose(sizes[0], sizes[1]) else 1
        )  # the volume of a run covers whole voxels
        if shared.empty or shared.grow((rounding,) * 3).intersect(boxes[1]) != boxes[1]:
            raise UserError(
                f"{truth} covers {boxes[1]} and {pred} {boxes[0]} (voxels, x, y, z); "
                "the prediction must cover the truth"
            )
        boxes = [shared, shared]
    first, second = (
        LayerLabels(layer, box, grid_nm)
        if layer and box
        else FileLabels(read_array(path, axes, resolution_nm=grid_nm, labels=True))
        for path, layer, box in zip((pred, truth), layers, boxes)
    )
    return first, second, grid_nm


def _open_layer(path: str) -> LabelLayer:
    """Open a segmentation, or the somas of the run at a path."""
    try:
        return LabelLayer(path)
    except UserError:
        with suppress(UserError):
            return LabelLayer(f"{path.rstrip('/')}/somas")
        raise


def _box(layer: LabelLayer, resolution_nm: Nm3) -> Box:
    """Return the voxels of a resolution whose centres lie in a layer."""
    lo, hi = (
        vec3(
            [
                math.ceil(c * own / r - 0.5 - 1e-9)
                for c, own, r in zip(corner, layer.resolution_nm, resolution_nm)
            ]
        )
        for corner in (layer.bounds.lo, layer.bounds.hi)
    )
    return Box(lo, hi)


def part_of(box: Box, lo: Zyx, hi: Zyx) -> Box:
    """Return the part of a box between two corners, given as z, y, x from its first voxel."""
    first, last = (vec3([o + c for o, c in zip(box.lo, corner[::-1])]) for corner in (lo, hi))
    return Box(first, last)
