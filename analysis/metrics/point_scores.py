"""A segmentation against points, where a table of nuclei is all that is known of a volume. Arrays are z, y, x."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RADIUS_NM = 600.0


@dataclass(frozen=True)
class PointScores:
    """points: how many there are; own: whose object holds no other point; shared: whose object does; missed: in
    no object. objects: how many there are; without: that hold no point."""

    points: int
    own: int
    shared: int
    missed: int
    objects: int
    without: int


def score_points(
    labels: np.ndarray, points: np.ndarray, voxel_nm: tuple[float, float, float]
) -> PointScores:
    """How many points have an object of their own.

    A point is in the object that fills more than half of the ball of 600 nm around it, as far as the volume goes.

    Args:
      labels: 0 is background.
      points: n, 3 positions in voxels.
    """
    holds = np.array([_object_at(labels, point, voxel_nm) for point in points], np.int64)
    found, counts = np.unique(holds[holds > 0], return_counts=True)
    ids = np.unique(labels)
    return PointScores(
        points=len(points),
        own=int((counts == 1).sum()),
        shared=int(counts[counts > 1].sum()),
        missed=int((holds == 0).sum()),
        objects=int((ids > 0).sum()),
        without=int((ids > 0).sum()) - len(found),
    )


def _object_at(labels: np.ndarray, point: np.ndarray, voxel_nm: tuple[float, float, float]) -> int:
    lo = [max(0, int(p - _RADIUS_NM / v)) for p, v in zip(point, voxel_nm)]
    hi = [int(p + _RADIUS_NM / v) + 2 for p, v in zip(point, voxel_nm)]
    part = labels[tuple(slice(a, b) for a, b in zip(lo, hi))]
    axes = np.ogrid[tuple(slice(a, a + n) for a, n in zip(lo, part.shape))]
    apart = sum(((axis - p) * v) ** 2 for axis, p, v in zip(axes, point, voxel_nm))
    ids, counts = np.unique(part[apart <= _RADIUS_NM**2], return_counts=True)
    most = counts.argmax()
    return int(ids[most]) if 2 * counts[most] > counts.sum() else 0
