"""A closed surface mesh as voxels."""

from __future__ import annotations

import numpy as np

from ...axes import Nm3

_ASIDE = (
    2.7e-7,
    1.9e-7,
)  # voxels (y, z) by which lines pass beside whole numbers, where meshes have their corners
_AT_ONCE = 1 << 15  # faces


def voxelize(
    vertices_nm: np.ndarray, faces: np.ndarray, voxel_nm: Nm3
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The voxels whose middle lies inside: bool, z, y, x; and the position of the first, x, y, z, in voxels.

    Along the line through each row of voxels every face that it meets leads in or out.

    Args:
      vertices_nm: n, 3; x, y, z.
      faces: m, 3 indices of vertices, turned either way.
      voxel_nm: x, y, z.
    Raises:
      ValueError: the mesh is empty or not closed.
    """
    if len(faces) == 0:
        raise ValueError("it has no faces")
    places = vertices_nm.astype(np.float64) / voxel_nm
    low = np.floor(places.min(axis=0)).astype(np.int64)
    x, y, z = np.maximum(np.ceil(places.max(axis=0)).astype(np.int64) - low, 1)
    corners = (places - low - 0.5)[faces]  # middles of voxels are whole numbers
    corners[..., 1:] -= _ASIDE
    turns = np.zeros((z, y, x + 1), bool)
    for start in range(0, len(faces), _AT_ONCE):
        met = _crossings(corners[start : start + _AT_ONCE], (y, z))
        np.logical_xor.at(turns, met, True)
    left_open = np.logical_xor.reduce(turns, axis=2)
    if left_open.any():
        raise ValueError(
            f"it is not closed: {np.count_nonzero(left_open):,} of {left_open.size:,} lines along x "
            "lead into it and not out again"
        )
    inside = np.logical_xor.accumulate(turns, axis=2)[..., :-1]
    return inside, (int(low[0]), int(low[1]), int(low[2]))


def _crossings(
    corners: np.ndarray, lines: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where lines along x, at whole y and z, meet faces (n, 3 corners, 3; x, y, z): z, y, and the first whole x
    beyond."""
    flat = corners[..., 1:]
    first = np.maximum(np.ceil(flat.min(axis=1)).astype(np.int64), 0)
    last = np.minimum(np.floor(flat.max(axis=1)).astype(np.int64), np.array(lines) - 1)
    count = np.maximum(last - first + 1, 0)
    who = np.repeat(np.arange(len(corners)), count.prod(axis=1))
    begin = np.cumsum(count.prod(axis=1)) - count.prod(axis=1)
    step = np.arange(len(who)) - begin[who]
    at = first[who] + np.stack([step % count[who, 0], step // count[who, 0]], axis=1)
    a, b, c = np.moveaxis(flat[who], 1, 0)
    shares = np.stack([_cross(b - at, c - at), _cross(c - at, a - at), _cross(a - at, b - at)])
    hit = (shares >= 0).all(axis=0) | (shares <= 0).all(axis=0)
    hit &= shares.sum(axis=0) != 0
    shares = shares[:, hit]
    x = (shares * corners[who[hit], :, 0].T).sum(axis=0) / shares.sum(axis=0)
    return at[hit, 1], at[hit, 0], np.ceil(x).astype(np.int64)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
