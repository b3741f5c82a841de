"""Random fields, noise, cell patterns and rotations, mostly functions of a position in nm. Axes are z, y, x."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

_TILE = 128  # samples along an edge of the periodic cell pattern; a power of two
_CELLS = 9.0  # cells along that edge, on average
_NOISE_TILE = (32, 256, 256)  # voxels; periodic; powers of two
_UNIT = np.float32(3.0)  # interpolation by cubic B-splines in 3D divides the deviation by about 3


class Grid:
    """Voxel centres of a box: positions along each axis, nm, and a cache of fields on them."""

    def __init__(self, axes: Sequence[np.ndarray], start: Sequence[int]) -> None:
        self.axes = [np.asarray(a, np.float32) for a in axes]
        self.start = tuple(int(s) for s in start)
        self.shape = tuple(len(a) for a in self.axes)
        self.low = np.array([a[0] for a in self.axes], float)
        self.high = np.array([a[-1] for a in self.axes], float)
        self._weights: dict[float, list[tuple[int, np.ndarray]]] = {}
        self._fields: dict[int, np.ndarray] = {}

    def spline(self, spacing_nm: float) -> list[tuple[int, np.ndarray]]:
        """Return for each axis the first lattice node in reach and the spline weights (voxels, nodes)."""
        if spacing_nm not in self._weights:
            self._weights[spacing_nm] = [_spline_weights(a / spacing_nm) for a in self.axes]
        return self._weights[spacing_nm]

    def evaluate(self, field: Callable[[Grid], np.ndarray]) -> np.ndarray:
        """Evaluate a field on this grid, or return the cached array; do not change it in place."""
        if id(field) not in self._fields:
            self._fields[id(field)] = field(self)
        return self._fields[id(field)]


class SmoothField:
    """Smooth random field with features of about `spacing_nm`; its standard deviation is `amplitude`.

    Random values on a lattice are interpolated by cubic B-splines.
    """

    def __init__(
        self,
        size_nm: np.ndarray,
        spacing_nm: float,
        rng: np.random.Generator,
        amplitude: float = 1.0,
    ) -> None:
        nodes = np.ceil(np.asarray(size_nm) / spacing_nm).astype(int) + 5
        self.spacing_nm = float(spacing_nm)
        self.values = rng.standard_normal(nodes, dtype=np.float32) * (_UNIT * np.float32(amplitude))

    def __call__(self, grid: Grid) -> np.ndarray:
        """Evaluate the field on all voxels of a grid, float32."""
        (az, wz), (ay, wy), (ax, wx) = grid.spline(self.spacing_nm)
        v = self.values[az : az + wz.shape[1], ay : ay + wy.shape[1], ax : ax + wx.shape[1]]
        v = np.tensordot(wz, v, axes=(1, 0))
        return np.matmul(np.matmul(wy, v), wx.T)


def _spline_weights(at: np.ndarray) -> tuple[int, np.ndarray]:
    first = int(np.floor(at[0]))
    node = np.arange(first, int(np.floor(at[-1])) + 4)
    t = np.abs(at[:, None] + 1 - node)  # node 0 lies one spacing before the origin
    near = 2 / 3 - t**2 + t**3 / 2
    far = np.clip(2 - t, 0, None) ** 3 / 6
    return first, np.where(t < 1, near, far).astype(np.float32)


class NoiseTile:
    """Periodic noise: white noise blurred to a scale in nm, with unit variance; `skew` makes dark values more extreme.

    It is tied to the voxels, so it differs between voxel sizes.
    """

    def __init__(
        self, voxel_nm: np.ndarray, scale_nm: float, skew: float, rng: np.random.Generator
    ) -> None:
        noise = rng.standard_normal(_NOISE_TILE, dtype=np.float32)
        noise = ndimage.gaussian_filter(
            noise, scale_nm / np.asarray(voxel_nm), truncate=3, mode="wrap"
        )
        noise /= noise.std()
        noise -= np.float32(skew) * np.square(noise)
        noise -= noise.mean()
        self.values = noise / noise.std()

    def __call__(self, grid: Grid) -> np.ndarray:
        index = (np.arange(a, a + n) % m for a, n, m in zip(grid.start, grid.shape, _NOISE_TILE))
        return self.values[np.ix_(*index)]


def sample_cells(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample a periodic packing of irregular cells at points (3, n). The unit of length is the mean cell width.

    Returns:
      distance to the nearest wall (n), and a random value (0..1) of the cell (n).
    """
    wall, value = _make_cell_tile()
    at = points * np.float32(_TILE / _CELLS)
    z, y, x = np.floor(at + np.float32(0.5)).astype(np.int32) & (_TILE - 1)
    return (
        ndimage.map_coordinates(wall, at, order=1, mode="grid-wrap", prefilter=False),
        value.take((z * _TILE + y) * _TILE + x),
    )


@lru_cache(maxsize=1)
def _make_cell_tile() -> tuple[np.ndarray, np.ndarray]:
    """Make a Voronoi diagram of sites of varying density: wall distance and cell value of each sample."""
    rng = np.random.default_rng(7)
    coarse = ndimage.gaussian_filter(rng.standard_normal((32, 32, 32)), 2.2, mode="wrap")
    density = np.exp(1.5 * coarse / coarse.std())
    candidates = rng.uniform(0, _CELLS, (40000, 3))
    weight = density[tuple((candidates * 32 / _CELLS).astype(int).T)]
    order = np.argsort(rng.exponential(size=len(candidates)) / weight)
    centres = candidates[order[: int(_CELLS**3)]]
    axis = np.arange(_TILE) * (_CELLS / _TILE)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    distance, index = cKDTree(centres, boxsize=_CELLS).query(grid, k=2)
    wall = ((distance[:, 1] - distance[:, 0]) / 2).reshape(_TILE, _TILE, _TILE)
    value = rng.uniform(size=len(centres))[index[:, 0]]
    return wall.astype(np.float32), value.astype(np.float32)


def line_profile(distance: np.ndarray, width_nm: float) -> np.ndarray:
    """Return 1 at distance 0, falling smoothly to 0 at 1.7 widths: a fast approximation of a Gaussian."""
    t = np.square(distance * np.float32(1 / (1.7 * width_nm)))
    np.subtract(1, t, out=t)
    np.maximum(t, 0, out=t)
    return np.square(t, out=t)


def random_rotations(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw uniform rotation matrices (n, 3, 3)."""
    q, r = np.linalg.qr(rng.standard_normal((n, 3, 3)))
    return q * np.sign(np.einsum("nii->ni", r))[:, None, :]


def rotation_from(axis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a rotation matrix whose first row is the given unit vector."""
    rows = np.vstack([axis, rng.standard_normal((2, 3))])
    q, r = np.linalg.qr(rows.T)
    return (q * np.sign(np.diag(r))).T


def random_directions(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw uniform unit vectors (n, 3)."""
    v = rng.standard_normal((n, 3))
    return v / np.linalg.norm(v, axis=1, keepdims=True)
