"""Signed distances from the pieces of a phantom's cells, and the boxes of voxels they concern. z, y, x, nm."""

from __future__ import annotations

import numpy as np

from .scene import Ellipsoid, Tube
from .texture import Grid

Box = tuple[slice, slice, slice]


def around(grid: Grid, body: Ellipsoid, margin: float = 0.0) -> Box | None:
    reach = body.reach + margin
    return box_between(grid, body.centre - reach, body.centre + reach)


def box_between(grid: Grid, low: np.ndarray, high: np.ndarray) -> Box | None:
    """The voxels between two corners, or None."""
    slices = []
    for axis, a, b in zip(grid.axes, low, high):
        start, stop = np.searchsorted(axis, (a, b))
        if stop <= start:
            return None
        slices.append(slice(int(start), int(stop)))
    return slices[0], slices[1], slices[2]


def _shifted(
    grid: Grid, box: Box, centre: np.ndarray, warp: list[np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z, y, x = np.ix_(*((a[s] - c).astype(np.float32) for a, s, c in zip(grid.axes, box, centre)))
    if warp is None:
        return z, y, x
    return z + warp[0][box], y + warp[1][box], x + warp[2][box]


def ellipsoid_distance(
    body: Ellipsoid,
    grid: Grid,
    box: Box,
    warp: list[np.ndarray] | None,
    bend: float = 0.0,
) -> np.ndarray:
    """Signed distance from an ellipsoid's surface, exact for a sphere, nm."""
    z, y, x = _shifted(grid, box, body.centre, warp)
    rows = body.axes.astype(np.float32)
    u, v, w = (z * r[0] + y * r[1] + x * r[2] for r in rows)
    square = np.square(w)
    if bend:
        u = u + np.float32(bend) * (square - np.float32(0.3))
    square = square + np.square(u) + np.square(v)
    np.sqrt(square, out=square)
    square -= 1
    square *= np.float32(body.radius)
    return square


def segment_distance(
    tube: Tube, segment: int, grid: Grid, box: Box, warp: list[np.ndarray]
) -> np.ndarray:
    """Signed distance from a capsule whose radius runs from one end's to the other's, nm."""
    a, b = tube.points[segment], tube.points[segment + 1]
    z, y, x = _shifted(grid, box, a, warp)
    d = (b - a).astype(np.float32)
    t = (z * d[0] + y * d[1] + x * d[2]) / np.float32(max(float(d @ d), 1.0))
    np.clip(t, 0, 1, out=t)
    square = np.square(z - t * d[0])
    square += np.square(y - t * d[1])
    square += np.square(x - t * d[2])
    np.sqrt(square, out=square)
    start, end = tube.radii[segment], tube.radii[segment + 1]
    square -= t * np.float32(end - start) + np.float32(start)
    return square
