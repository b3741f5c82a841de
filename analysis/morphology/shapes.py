"""Shape of every soma from sums that blocks can add up: nothing needs a whole soma in one block's memory.

Arrays are z, y, x; sums are exact integers in voxels of the volume's grid, so the order of blocks does not
matter and blockwise equals whole, bit for bit. Positions come out as x, y, z in nm; voxel i covers i to i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import ConvexHull, cKDTree

from ...axes import Nm3, Zyx
from ..metrics.contingency import dense_labels
from .surface_area import REACH, UNIT_NM2, surface_sums

_AXES = "zyx"
_PRODUCTS = ("zz", "yy", "xx", "zy", "zx", "yx")
_FAR = 1 << 62  # extent of nothing
_SUMS = [*(f"sum_{a}" for a in _AXES), *(f"sum_{p}" for p in _PRODUCTS)]
_GREY = ["sum_grey", "sum_greygrey"]
_LOW, _HIGH = [f"low_{a}" for a in _AXES], [f"high_{a}" for a in _AXES]
MOMENTS = ["id", "voxels", *_SUMS, *_GREY, *_LOW, *_HIGH, "surface", "touches_edge"]


def block_moments(
    labels: np.ndarray,
    core: tuple[slice, slice, slice],
    origin: Zyx,
    bounds: tuple[Zyx, Zyx],
    voxel_nm: Nm3,
    image: np.ndarray | None = None,
) -> pd.DataFrame:
    """What one block adds to the moments of each label in it.

    Args:
      labels: z, y, x; reaches at least REACH voxels beyond the core's upper faces, or to where the volume ends.
      core: the voxels of `labels` that are this block's own.
      origin: voxel of the volume's grid at labels[0, 0, 0], z, y, x.
      bounds: first and one-past-last voxel of the volume, z, y, x. Beyond them everything is background, so a
        soma that the volume cuts has the cut as part of its surface.
      voxel_nm: z, y, x.
      image: the core's grey values, uint8; None: they are not known.
    Returns:
      One row a label, columns MOMENTS; a label that only faces the core from outside has 0 voxels.
    Raises:
      ValueError: `labels` ends too near to a core's upper face.
    """
    window, low = _with_neighbours(labels, core, origin, bounds)
    box = _occupied(window)
    if box is None:
        return merge_moments([])
    ids, dense = dense_labels(window[box])
    dense = dense.reshape(window[box].shape)
    if ids[0] > 0:
        ids, dense = np.insert(ids, 0, np.uint64(0)), dense + np.uint32(1)
    first = [a + s.start for a, s in zip(low, box)]  # voxel of the grid at dense[0, 0, 0]
    core_low = [o + s.start for o, s in zip(origin, core)]
    core_high = [o + s.stop for o, s in zip(origin, core)]
    inner = tuple(
        slice(max(0, a - f), max(0, b - f)) for a, b, f in zip(core_low, core_high, first)
    )
    begin = [max(a, f) for a, f in zip(core_low, first)]
    table = _interior_sums(dense[inner], begin, len(ids))
    here = tuple(slice(b - a, None) for a, b in zip(core_low, begin))
    table.update(_grey_sums(dense[inner], None if image is None else image[here], len(ids)))
    ends = [b - f for b, f in zip(core_high, first)]
    table["surface"] = surface_sums(dense, len(ids), ends, voxel_nm)
    frame = pd.DataFrame({"id": ids, **table}).iloc[1:]
    at_low = (frame[_LOW].to_numpy() <= bounds[0]).any(axis=1)
    at_high = (frame[_HIGH].to_numpy() >= np.array(bounds[1]) - 1).any(axis=1)
    there = frame["voxels"].to_numpy() > 0
    frame["touches_edge"] = (at_low | at_high) & there
    active = there | (frame["surface"].to_numpy() > 0)
    return frame.loc[active, MOMENTS].reset_index(drop=True)


def merge_moments(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The moments of disjoint blocks together, one row a label, sorted by id; no parts give no rows."""
    none = pd.DataFrame({name: np.zeros(0, np.int64) for name in MOMENTS})
    none = none.astype({"id": np.uint64, "touches_edge": bool})
    filled = [part for part in parts if len(part)]
    if not filled:
        return none
    together = pd.concat(filled, ignore_index=True).groupby("id", sort=True)
    how = dict.fromkeys(["voxels", *_SUMS, *_GREY, "surface"], "sum")
    how |= dict.fromkeys(_LOW, "min") | dict.fromkeys(_HIGH, "max") | {"touches_edge": "any"}
    return together.agg(how).reset_index()[MOMENTS]


def shapes(moments: pd.DataFrame, voxel_nm: Nm3) -> pd.DataFrame:
    """Sizes and positions of somas from their merged moments.

    Volume is counted, surface is as in `surface`, the semi-axes (a >= b >= c) are those of the ellipsoid with
    the same second moments. Sphericity is the surface of a sphere of that volume over the surface, at most 1.
    Axes are unit vectors whose largest component is positive; b is at right angles to both others.

    Args:
      moments: as `merge_moments` gives them.
      voxel_nm: z, y, x.
    Returns:
      One row a label: id, voxels, x_nm.., volume_um3, surface_um2, sphericity, equivalent_diameter_um,
      semi_axis_a_um.., axis_a_x.., axis_c_x.., elongation (a / b), flatness (b / c), bb_start_x_nm..,
      bb_end_x_nm.. (exclusive), grey_mean, grey_spread (NaN without an image), touches_edge.
    """
    moments = moments[moments["voxels"] > 0].reset_index(drop=True)
    voxel = np.array(voxel_nm, np.float64)
    count = moments["voxels"].to_numpy(np.float64)
    centre, axes, vectors = _ellipsoids(moments, voxel)
    volume = count * voxel.prod() * 1e-9
    surface = moments["surface"].to_numpy(np.float64) * UNIT_NM2 * 1e-6
    diameter = np.cbrt(6.0 * volume / np.pi)
    frame = pd.DataFrame({"id": moments["id"].to_numpy(np.uint64), "voxels": moments["voxels"]})
    for axis, name in zip((2, 1, 0), "xyz"):
        frame[f"{name}_nm"] = centre[:, axis]
    frame["volume_um3"] = volume
    frame["surface_um2"] = surface
    frame["sphericity"] = np.minimum(np.pi * diameter**2 / np.maximum(surface, 1e-12), 1.0)
    frame["equivalent_diameter_um"] = diameter
    for place, name in enumerate("abc"):
        frame[f"semi_axis_{name}_um"] = axes[:, place] * 1e-3
    for place, name in ((0, "a"), (2, "c")):
        for axis, a in zip((2, 1, 0), "xyz"):
            frame[f"axis_{name}_{a}"] = vectors[:, axis, place]
    frame["elongation"] = axes[:, 0] / np.maximum(axes[:, 1], 1e-12)
    frame["flatness"] = axes[:, 1] / np.maximum(axes[:, 2], 1e-12)
    for edge, columns, more in (("start", _LOW, 0), ("end", _HIGH, 1)):
        corner = (moments[columns].to_numpy(np.float64) + more) * voxel
        for axis, name in zip((2, 1, 0), "xyz"):
            frame[f"bb_{edge}_{name}_nm"] = corner[:, axis]
    frame["grey_mean"], frame["grey_spread"] = _greys(moments)
    frame["touches_edge"] = moments["touches_edge"].to_numpy(bool)
    return frame


def inscribed(mask: np.ndarray, voxel_nm: Nm3) -> tuple[float, Nm3]:
    """Radius in um and centre (z, y, x, in voxels of the mask) of the largest ball inside an object.

    Beyond the mask's border the object is taken to go on: give at least one voxel of background around what
    ends there. (Only where the mask has no background at all, its border bounds the ball.) The distance is from
    the centre to the nearest background voxel's centre, exact for a digitised ball. Of equally large balls the
    first in z, y, x order. An empty mask has radius 0.
    """
    if not mask.any():
        return 0.0, (0.0, 0.0, 0.0)
    depth = edt.edt(
        np.ascontiguousarray(mask),
        anisotropy=voxel_nm,
        black_border=bool(mask.all()),
        parallel=1,
    )
    z, y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(depth[z, y, x]) * 1e-3, (float(z), float(y), float(x))


def convexity(mask: np.ndarray, voxel_nm: Nm3) -> float:
    """An object's volume over that of its convex hull, at most 1; NaN for an empty mask.

    The hull is that of points a quarter of a voxel around the middles of its voxels: for a ball of 1.5 um at 40 x 64 x
    64 nm that is right within 1.5 %, where with the middles of their faces it is 3 % too large.
    """
    lines = np.argwhere(mask.any(axis=2))
    if len(lines) == 0:
        return float("nan")
    along = mask[tuple(lines.T)]
    first, last = along.argmax(axis=1), mask.shape[2] - 1 - along[:, ::-1].argmax(axis=1)
    ends = np.concatenate([np.column_stack([lines, x]) for x in (first, last)]).astype(float)
    points = np.concatenate([ends + step for step in np.vstack([np.eye(3), -np.eye(3)]) / 4])
    hull = ConvexHull(points * np.array(voxel_nm))
    return min(1.0, float(np.count_nonzero(mask) * np.prod(voxel_nm) / hull.volume))


def depths_below_surface(
    xyz_nm: np.ndarray, tissue: np.ndarray, voxel_nm: Nm3, first_nm: Nm3
) -> np.ndarray:
    """How deep each point (n, 3; x, y, z; nm) lies below the surface of the tissue, nm; 0 outside of it.

    Args:
      tissue: bool, z, y, x; beyond its border it is taken to go on.
      voxel_nm: of the tissue, x, y, z.
      first_nm: lower corner of its first voxel, x, y, z.
    """
    depth = edt.edt(np.ascontiguousarray(tissue), anisotropy=voxel_nm[::-1], black_border=False)
    place = (xyz_nm - np.array(first_nm)) / np.array(voxel_nm) - 0.5
    found = ndimage.map_coordinates(depth, place[:, ::-1].T, order=1, mode="nearest")
    return np.asarray(found, np.float64)


def sides_of_plane(xyz_nm: np.ndarray, point_nm: Nm3, normal: Nm3) -> np.ndarray:
    """1 for points (n, 3) on the side of a plane to which its normal points, -1 for those on the other."""
    return np.where((xyz_nm - np.array(point_nm)) @ np.array(normal) >= 0, 1, -1)


def neighbours_within(xyz_nm: np.ndarray, radius_nm: float) -> np.ndarray:
    """How many other points each of n points (n, 3) has within a distance."""
    if len(xyz_nm) == 0:
        return np.zeros(0, np.int64)
    counts = cKDTree(xyz_nm).query_ball_point(xyz_nm, radius_nm, return_length=True)
    return np.asarray(counts, np.int64) - 1


def nearest_neighbours(xyz_nm: np.ndarray) -> np.ndarray:
    """Distance of each of n points (n, 3) to the nearest other one, nm; NaN for a point alone."""
    if len(xyz_nm) < 2:
        return np.full(len(xyz_nm), np.nan)
    distance, _ = cKDTree(xyz_nm).query(xyz_nm, k=2)
    return np.asarray(distance[:, 1])


def _with_neighbours(
    labels: np.ndarray, core: tuple[slice, slice, slice], origin: Zyx, bounds: tuple[Zyx, Zyx]
) -> tuple[np.ndarray, list[int]]:
    """The core and REACH voxels above it, with background where the volume ends; and its first voxel."""
    cut, pad, low = [], [], []
    for axis, (own, n) in enumerate(zip(core, labels.shape)):
        start, stop = origin[axis] + own.start, origin[axis] + own.stop
        below = REACH if start <= bounds[0][axis] else 0
        above = min(REACH, bounds[1][axis] - stop)  # voxels that there are
        if own.stop + above > n:
            raise ValueError(
                f"{_AXES[axis]}: labels end {n - own.stop} voxels above the core's upper face {stop}; read {above}"
            )
        cut.append(slice(own.start, own.stop + above))
        pad.append((below, REACH - above))
        low.append(start - below)
    return np.pad(labels[tuple(cut)], pad), low


def _occupied(window: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The box of all labels, REACH voxels wider where there is room; None when there is none."""
    spans = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        used = np.flatnonzero(window.any(axis=others))
        if len(used) == 0:
            return None
        spans.append(slice(max(0, int(used[0]) - REACH), int(used[-1]) + 1 + REACH))
    return spans[0], spans[1], spans[2]


def _interior_sums(dense: np.ndarray, low: list[int], n: int) -> dict[str, np.ndarray]:
    """Voxels, sums, sums of products and extent of labels 0..n-1, in voxels of the volume's grid."""
    places = np.nonzero(dense)
    label = dense[places].astype(np.int64)
    table: dict[str, np.ndarray] = {"voxels": np.bincount(label, minlength=n)}
    sums = {}
    for axis, a in enumerate(_AXES):
        size = dense.shape[axis]
        profile = np.bincount(label * size + places[axis], minlength=n * size).reshape(n, size)
        at = np.arange(size) + low[axis]
        sums[a] = profile @ np.arange(size)
        table[f"sum_{a}"], table[f"sum_{a}{a}"] = profile @ at, profile @ (at * at)
        met, there = profile > 0, table["voxels"] > 0
        table[f"low_{a}"] = np.where(there, at[met.argmax(axis=1)], _FAR)
        table[f"high_{a}"] = np.where(there, at[size - 1 - met[:, ::-1].argmax(axis=1)], -_FAR)
    for a, b in (("z", "y"), ("z", "x"), ("y", "x")):
        i, j = _AXES.index(a), _AXES.index(b)
        # float64 holds these sums as whole numbers, because positions within a block are small
        product = np.bincount(label, places[i] * places[j], n).astype(np.int64)
        product += low[i] * sums[b] + low[j] * sums[a] + low[i] * low[j] * table["voxels"]
        table[f"sum_{a}{b}"] = product
    return table


def _grey_sums(dense: np.ndarray, image: np.ndarray | None, n: int) -> dict[str, np.ndarray]:
    """Sums of the grey values of labels 0..n-1 and of their squares; zeros without an image."""
    if image is None:
        return {name: np.zeros(n, np.int64) for name in _GREY}
    inside = dense > 0
    label = dense[inside]
    grey = image[tuple(slice(s) for s in dense.shape)][inside].astype(np.float64)
    # float64 holds these sums as whole numbers
    sums = (np.bincount(label, grey**power, n).astype(np.int64) for power in (1, 2))
    return dict(zip(_GREY, sums))


def _greys(moments: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each soma's grey values; NaN where they are not known."""
    count, total = (moments[name].to_numpy(np.float64) for name in ("voxels", "sum_grey"))
    exact = [
        int(n) * int(squares) - int(s) ** 2
        for n, s, squares in zip(moments["voxels"], moments["sum_grey"], moments["sum_greygrey"])
    ]
    known = moments["sum_greygrey"].to_numpy() > 0
    spread = np.sqrt(np.array(exact, np.float64)) / count
    return np.where(known, total / count, np.nan), np.where(known, spread, np.nan)


def _ellipsoids(
    moments: pd.DataFrame, voxel: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ellipsoids with the same second moments: centres (n, 3; z, y, x; nm), semi-axes (n, 3; longest first; nm) and
    their directions (n, 3, 3; components z, y, x of each in a column)."""
    n = len(moments)
    count = [int(v) for v in moments["voxels"]]
    covariance = np.zeros((n, 3, 3))
    for name in _PRODUCTS:
        i, j = _AXES.index(name[0]), _AXES.index(name[1])
        first, second = moments[f"sum_{name[0]}"], moments[f"sum_{name[1]}"]
        product = moments[f"sum_{name}"]
        # whole numbers of any size: the difference is small and its terms are not
        exact = [
            (c * int(p) - int(a) * int(b)) / (c * c)
            for c, p, a, b in zip(count, product, first, second)
        ]
        covariance[:, i, j] = covariance[:, j, i] = np.array(exact) * voxel[i] * voxel[j]
    covariance[:, range(3), range(3)] += voxel**2 / 12.0  # the extent of the voxels themselves
    spread, vectors = np.linalg.eigh(covariance)
    spread, vectors = spread[:, ::-1], vectors[:, :, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    sums = moments[[f"sum_{a}" for a in _AXES]].to_numpy(np.float64)
    centre = (sums / np.array(count, np.float64).reshape(-1, 1) + 0.5) * voxel
    return centre, np.sqrt(5.0 * np.maximum(spread, 0.0)), vectors
