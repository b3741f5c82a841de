"""Noise for the phantom: smooth fields that are functions of nm, and a periodic tile of cells. z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

_TILE = 80  # samples along an edge of the periodic tile
_CELLS = 12  # cells along it


def smooth_noise(
    shape: Sequence[int], voxel_nm: Sequence[float], spacing_nm: float, rng: np.random.Generator
) -> np.ndarray:
    """Unit-variance noise with features of about `spacing_nm`: the same field at any voxel size.

    Random values on a lattice in nm, interpolated by cubic B-splines, one axis at a time.
    """
    weights = [_spline(n, v, spacing_nm) for n, v in zip(shape, voxel_nm)]
    values = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
    for axis, weight in enumerate(weights):
        values = np.moveaxis(np.tensordot(weight, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values) * np.float32(3.1)  # a cubic B-spline keeps 0.48 of sigma an axis


def _spline(n: int, voxel_nm: float, spacing_nm: float) -> np.ndarray:
    at = (np.arange(n) + 0.5) * voxel_nm / spacing_nm
    node = np.arange(int(np.ceil(n * voxel_nm / spacing_nm)) + 3) - 1
    t = np.abs(at[:, None] - node)
    near = 2 / 3 - t**2 + t**3 / 2
    far = np.clip(2 - t, 0, None) ** 3 / 6
    return np.where(t < 1, near, far).astype(np.float32)


def cells(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A packing of irregular cells about one unit wide, at any points (3, n) in cell units.

    Returns:
      distance to the wall between a point's cell and the next (cell units), and a random value 0..1 of its cell.
    """
    wall, value = _tile()
    at = points * np.float32(_TILE / _CELLS)
    return (
        ndimage.map_coordinates(wall, at, order=1, mode="grid-wrap", prefilter=False),
        ndimage.map_coordinates(value, at, order=0, mode="grid-wrap", prefilter=False),
    )


@lru_cache(maxsize=1)
def _tile() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    centres = rng.uniform(0, _CELLS, (_CELLS**3, 3))
    axes = (np.arange(_TILE) + 0.5) * (_CELLS / _TILE)
    grid = np.stack(np.meshgrid(axes, axes, axes, indexing="ij"), axis=-1).reshape(-1, 3)
    distance, index = cKDTree(centres, boxsize=_CELLS).query(grid, k=2)
    wall = ((distance[:, 1] - distance[:, 0]) / 2).reshape(_TILE, _TILE, _TILE)
    value = rng.uniform(size=len(centres))[index[:, 0]].reshape(wall.shape)
    return wall.astype(np.float32), value.astype(np.float32)


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A rotation matrix, uniform."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def random_direction(rng: np.random.Generator) -> np.ndarray:
    """A unit vector, uniform."""
    v = rng.standard_normal(3)
    return v / np.linalg.norm(v)
