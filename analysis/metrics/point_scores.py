"""Scores of a segmentation against points, for volumes whose nuclei alone are annotated. Arrays are z, y, x."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...axes import Voxel

_RADIUS_NM = 600.0  # of the ball around a point in which the majority of voxels decides


@dataclass(frozen=True)
class PointScores:
    """Numbers of points and objects.

    Attributes:
      points: all points.
      own: points whose object contains no other point.
      shared: points whose object contains other points.
      missed: points outside of all objects.
      objects: all objects.
      without: objects that contain no point.
    """

    points: int
    own: int
    shared: int
    missed: int
    objects: int
    without: int


def score_points(labels: np.ndarray, points: np.ndarray, voxel_nm: Voxel) -> PointScores:
    """Count the points that have an object of their own.

    A point belongs to the object that fills more than half of a ball of 600 nm radius around it, cropped at the
    border of the volume.

    Args:
      labels: z, y, x; 0 is background.
      points: positions in voxels, n, 3; z, y, x.
      voxel_nm: voxel size, z, y, x.
    """
    objects = np.array([_object_at(labels, point, voxel_nm) for point in points], np.int64)
    with_points, counts = np.unique(objects[objects > 0], return_counts=True)
    n_objects = int((np.unique(labels) > 0).sum())
    return PointScores(
        points=len(points),
        own=int((counts == 1).sum()),
        shared=int(counts[counts > 1].sum()),
        missed=int((objects == 0).sum()),
        objects=n_objects,
        without=n_objects - len(with_points),
    )


def _object_at(labels: np.ndarray, point: np.ndarray, voxel_nm: Voxel) -> int:
    lo = [max(0, int(p - _RADIUS_NM / v)) for p, v in zip(point, voxel_nm)]
    hi = [int(p + _RADIUS_NM / v) + 2 for p, v in zip(point, voxel_nm)]
    part = labels[tuple(slice(a, b) for a, b in zip(lo, hi))]
    axes = np.ogrid[tuple(slice(a, a + n) for a, n in zip(lo, part.shape))]
    squared_nm = sum(((axis - p) * v) ** 2 for axis, p, v in zip(axes, point, voxel_nm))
    ids, counts = np.unique(part[squared_nm <= _RADIUS_NM**2], return_counts=True)
    largest = counts.argmax()
    return int(ids[largest]) if 2 * counts[largest] > counts.sum() else 0
