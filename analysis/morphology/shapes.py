"""Size and shape of somas, from their moments or from a mask of one soma.

Arrays are z, y, x. Positions in tables are x, y, z in nm; voxel i covers the interval from i to i + 1.
"""

from __future__ import annotations

import edt
import numpy as np
import pandas as pd
from scipy.spatial import ConvexHull

from ...axes import Voxel
from .moments import AXES, HIGH, LOW, PRODUCTS
from .surface_area import UNIT_NM2


def shapes_from_moments(moments: pd.DataFrame, voxel_nm: Voxel) -> pd.DataFrame:
    """Return sizes, shapes and positions of somas from their merged moments.

    The volume is a voxel count and the surface area an estimate of `surface_area`. The semi-axes (a >= b >= c) are
    those of the ellipsoid with the same second moments. Sphericity is the surface area of a sphere of the same volume
    divided by the surface area, at most 1. Axes are unit vectors whose largest component is positive; b is
    perpendicular to the other two.

    Args:
      moments: output of `merge_moments`.
      voxel_nm: voxel size, z, y, x.

    Returns:
      One row for each label: id, voxels, x_nm.., volume_um3, surface_um2, sphericity, equivalent_diameter_um,
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
    for edge, columns, shift in (("start", LOW, 0), ("end", HIGH, 1)):
        corner = (moments[columns].to_numpy(np.float64) + shift) * voxel
        for axis, name in zip((2, 1, 0), "xyz"):
            frame[f"bb_{edge}_{name}_nm"] = corner[:, axis]
    frame["grey_mean"], frame["grey_spread"] = _grey_statistics(moments)
    frame["touches_edge"] = moments["touches_edge"].to_numpy(bool)
    return frame


def largest_inscribed_ball(
    mask: np.ndarray, voxel_nm: Voxel
) -> tuple[float, tuple[float, float, float]]:
    """Return radius in um and centre (z, y, x, in voxels of the mask) of the largest ball inside an object.

    The object is assumed to continue outside of the mask: pad it with at least one voxel of background if it does
    not. (The border bounds the ball only if the mask has no background at all.) The radius is the distance from the
    centre to the centre of the nearest background voxel, which is exact for a digitized ball. Of equally large balls,
    return the first in z, y, x order. The radius of an empty mask is 0.
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


def convexity(mask: np.ndarray, voxel_nm: Voxel) -> float:
    """Return the volume of an object divided by that of its convex hull, at most 1; NaN for an empty mask.

    The hull encloses points a quarter of a voxel from each voxel centre along every axis, which compensates for
    discretization: for a ball of 1.5 um radius at 40 x 64 x 64 nm the ratio is within 1.5 % of 1.
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


def _grey_statistics(moments: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the grey values of each soma; NaN where they are not known."""
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
    """Fit ellipsoids with the same second moments.

    Returns:
      Centres (n, 3; z, y, x; nm), semi-axes (n, 3; longest first; nm) and their directions (n, 3, 3; the columns are
      unit vectors z, y, x).
    """
    n = len(moments)
    count = [int(v) for v in moments["voxels"]]
    covariance = np.zeros((n, 3, 3))
    for name in PRODUCTS:
        i, j = AXES.index(name[0]), AXES.index(name[1])
        first, second = moments[f"sum_{name[0]}"], moments[f"sum_{name[1]}"]
        product = moments[f"sum_{name}"]
        # Python integers of any size avoid cancellation: the terms are much larger than their difference
        exact = [
            (c * int(p) - int(a) * int(b)) / (c * c)
            for c, p, a, b in zip(count, product, first, second)
        ]
        covariance[:, i, j] = covariance[:, j, i] = np.array(exact) * voxel[i] * voxel[j]
    covariance[:, range(3), range(3)] += voxel**2 / 12.0  # second moment of a voxel
    spread, vectors = np.linalg.eigh(covariance)
    spread, vectors = spread[:, ::-1], vectors[:, :, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0)
    sums = moments[[f"sum_{a}" for a in AXES]].to_numpy(np.float64)
    centre = (sums / np.array(count, np.float64).reshape(-1, 1) + 0.5) * voxel
    return centre, np.sqrt(5.0 * np.maximum(spread, 0.0)), vectors
