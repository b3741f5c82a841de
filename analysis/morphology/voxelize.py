"""Conversion of a closed surface mesh to voxels."""

from __future__ import annotations

import numpy as np

from ...axes import Nm3

# offset of the lines in voxels (y, z), so that they miss vertices of meshes, which often lie on the voxel grid
_LINE_OFFSET = (2.7e-7, 1.9e-7)
_CHUNK = 1 << 15  # faces


def voxelize(
    vertices_nm: np.ndarray, faces: np.ndarray, voxel_nm: Nm3
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Return a mask of the voxels whose centre lies inside of a mesh.

    Each face that a line along x crosses leads into the mesh or out of it, so the parity of the crossings decides.

    Args:
      vertices_nm: n, 3; x, y, z.
      faces: m, 3 indices of vertices, of either orientation.
      voxel_nm: voxel size, x, y, z.

    Returns:
      The mask (bool, z, y, x) and the position of its first voxel (x, y, z, in voxels).

    Raises:
      ValueError: the mesh is empty or not closed.
    """
    if len(faces) == 0:
        raise ValueError("it has no faces")
    vertices = vertices_nm.astype(np.float64) / voxel_nm
    low = np.floor(vertices.min(axis=0)).astype(np.int64)
    x, y, z = np.maximum(np.ceil(vertices.max(axis=0)).astype(np.int64) - low, 1)
    corners = (vertices - low - 0.5)[faces]  # voxel centres have integer coordinates
    corners[..., 1:] -= _LINE_OFFSET
    flips = np.zeros((z, y, x + 1), bool)
    for start in range(0, len(faces), _CHUNK):
        crossings = _crossings(corners[start : start + _CHUNK], (y, z))
        np.logical_xor.at(flips, crossings, True)
    left_open = np.logical_xor.reduce(flips, axis=2)
    if left_open.any():
        raise ValueError(
            f"it is not closed: {np.count_nonzero(left_open):,} of {left_open.size:,} lines along x "
            "enter it but do not leave it"
        )
    inside = np.logical_xor.accumulate(flips, axis=2)[..., :-1]
    return inside, (int(low[0]), int(low[1]), int(low[2]))


def _crossings(
    corners: np.ndarray, lines: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where lines along x at integer y and z cross faces (n, 3 corners, 3; x, y, z).

    Returns:
      z, y and the first integer x beyond each crossing.
    """
    flat = corners[..., 1:]
    first = np.maximum(np.ceil(flat.min(axis=1)).astype(np.int64), 0)
    last = np.minimum(np.floor(flat.max(axis=1)).astype(np.int64), np.array(lines) - 1)
    count = np.maximum(last - first + 1, 0)
    face = np.repeat(np.arange(len(corners)), count.prod(axis=1))
    begin = np.cumsum(count.prod(axis=1)) - count.prod(axis=1)
    step = np.arange(len(face)) - begin[face]
    at = first[face] + np.stack([step % count[face, 0], step // count[face, 0]], axis=1)
    a, b, c = np.moveaxis(flat[face], 1, 0)
    barycentric = np.stack([_cross(b - at, c - at), _cross(c - at, a - at), _cross(a - at, b - at)])
    hit = (barycentric >= 0).all(axis=0) | (barycentric <= 0).all(axis=0)
    hit &= barycentric.sum(axis=0) != 0
    barycentric = barycentric[:, hit]
    x = (barycentric * corners[face[hit], :, 0].T).sum(axis=0) / barycentric.sum(axis=0)
    return at[hit, 1], at[hit, 0], np.ceil(x).astype(np.int64)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cross products of 2D vectors."""
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
