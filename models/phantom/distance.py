"""Signed distances (nm) from ellipsoids and tubes, and the boxes of voxels around these. Axes are z, y, x."""

from __future__ import annotations

import numpy as np

from .morphology import Ellipsoid, Tube
from .texture import Grid

Box = tuple[slice, slice, slice]


def box_around(grid: Grid, body: Ellipsoid, margin: float = 0.0) -> Box | None:
    """Return the box of voxels within `margin` nm of an ellipsoid, or None if it is empty."""
    reach = body.reach + margin
    return box_between(grid, body.centre - reach, body.centre + reach)


def box_between(grid: Grid, low: np.ndarray, high: np.ndarray) -> Box | None:
    """Return the box of voxels between two corners (nm), or None if it is empty."""
    slices = []
    for axis, a, b in zip(grid.axes, low, high):
        start, stop = np.searchsorted(axis, (a, b))
        if stop <= start:
            return None
        slices.append(slice(int(start), int(stop)))
    return slices[0], slices[1], slices[2]


def _relative_positions(
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
    """Compute the signed distance (nm, negative inside) from an ellipsoid; it is exact for a sphere.

    Args:
      body: the ellipsoid.
      grid, box: the voxels.
      warp: displacement of every voxel of the grid, nm, for each axis.
      bend: curvature along the last axis, in radii.
    """
    z, y, x = _relative_positions(grid, box, body.centre, warp)
    rows = body.axes.astype(np.float32)
    u, v, w = (z * r[0] + y * r[1] + x * r[2] for r in rows)
    square = np.square(w)
    if bend:
        u = u + np.float32(bend) * (square - np.float32(0.3))
    square = square + np.square(u) + np.square(v)
    distance = np.sqrt(square, out=square)
    distance -= 1
    distance *= np.float32(body.radius)
    return distance


def segment_distance(
    tube: Tube, segment: int, grid: Grid, box: Box, warp: list[np.ndarray]
) -> np.ndarray:
    """Compute the signed distance (nm, negative inside) from a tube segment whose radius changes linearly."""
    a, b = tube.points[segment], tube.points[segment + 1]
    z, y, x = _relative_positions(grid, box, a, warp)
    d = (b - a).astype(np.float32)
    t = (z * d[0] + y * d[1] + x * d[2]) / np.float32(max(float(d @ d), 1.0))
    np.clip(t, 0, 1, out=t)
    square = np.square(z - t * d[0])
    square += np.square(y - t * d[1])
    square += np.square(x - t * d[2])
    distance = np.sqrt(square, out=square)
    start, end = tube.radii[segment], tube.radii[segment + 1]
    distance -= t * np.float32(end - start) + np.float32(start)
    return distance
