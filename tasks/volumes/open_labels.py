"""Open labels for an evaluation, from a file or a layer. Arrays and origins are z, y, x; boxes x, y, z."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis.metrics.evaluation import ArrayLabels
from ...axes import Voxel, Zyx
from ...errors import UserError
from .files import read_array
from .geometry import Box, flip, vec3
from .labels import LabelLayer


@dataclass(frozen=True)
class LayerLabels:
    """A box of a precomputed segmentation; `shape` and `origin`, its first voxel, are z, y, x."""

    layer: LabelLayer
    box: Box

    @property
    def shape(self) -> Zyx:
        return flip(self.box.size)

    @property
    def origin(self) -> Zyx:
        return flip(self.box.lo)

    def read(self, lo: Zyx, hi: Zyx) -> np.ndarray:
        return self.layer.read(part_of(self.box, lo, hi))


@dataclass(frozen=True)
class FileLabels(ArrayLabels):
    """The labels in a file."""

    origin: Zyx = (0, 0, 0)


def open_labels(
    source: str, axes: str | None, resolution: Voxel, like: Any = None
) -> LayerLabels | FileLabels:
    """Open the labels of a file, or of a layer at mip 0.

    Args:
      axes: order of the axes in a file; default: as it states, otherwise zyx.
      resolution: voxel size of both segmentations, x, y, z, nm.
      like: the labels to compare with; if they are of a layer, the labels are limited to their box.
    """
    if Path(source).is_file():
        return FileLabels(read_array(source, axes, resolution_nm=resolution, labels=True))
    layer = LabelLayer(source)
    if not np.allclose(layer.resolution_nm, resolution):
        raise UserError(
            f"{source} has voxels of {layer.resolution_nm} nm and --resolution says {resolution} (x, y, z); "
            "both segmentations must have the resolution that is given"
        )
    box = layer.bounds
    if isinstance(like, LayerLabels):
        if box.intersect(like.box) != like.box:
            raise UserError(
                f"{source} covers {box} and {like.layer.cloudpath} {like.box} (voxels, x, y, z); "
                "the prediction must cover the truth"
            )
        box = like.box
    return LayerLabels(layer, box)


def part_of(box: Box, lo: Zyx, hi: Zyx) -> Box:
    """Return the part of a box between two corners, given as z, y, x from its first voxel."""
    first, last = (vec3([o + c for o, c in zip(box.lo, corner[::-1])]) for corner in (lo, hi))
    return Box(first, last)
