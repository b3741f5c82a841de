"""Positions of cell bodies, packed in the rind, and paths of their neurites between them. Axes are z, y, x; nm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .morphology import SomaSizes
from .texture import random_directions

_MARGIN_NM = 5000.0  # bodies centred up to this far outside the volume may reach into it


@dataclass(frozen=True)
class Layers:
    """Parallel layers: resin, sheath, cell body rind and neuropil, in order of depth.

    Attributes:
      normal: unit vector into the tissue, z, y, x.
      surface: position of the tissue surface along `normal`, nm.
      sheath, rind: thickness, nm.
    """

    normal: np.ndarray
    surface: float
    sheath: float
    rind: float

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Return the depth of points (n, 3) below the surface, nm, without its undulation."""
        return points @ self.normal - self.surface


def pack_somas(
    size_nm: np.ndarray,
    layers: Layers,
    scale: float,
    rng: np.random.Generator,
    sizes: SomaSizes | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Pack somas in the rind: place them at random, push them apart, and remove those that still overlap.

    Returns:
      centres (n, 3) and radii (n), nm.
    """
    sizes = sizes or SomaSizes()
    fill = rng.uniform(0.68, 0.80)
    low, high = np.full(3, -_MARGIN_NM), size_nm + _MARGIN_NM
    median = sizes.median * scale
    count = int(fill * np.prod(high - low) / (4.19 * median**3 * 1.3))
    radii = np.clip(rng.lognormal(np.log(median), sizes.spread, count), sizes.minimum * scale, 4000)
    large = rng.random(count) < sizes.large_share
    radii[large] = rng.uniform(*sizes.large, int(large.sum()))
    points = rng.uniform(low, high, (count, 3))
    top, bottom = layers.sheath, layers.sheath + layers.rind
    depth = layers.depth(points)
    inside = (depth > top + 0.9 * radii) & (depth < bottom)
    points, radii = points[inside], radii[inside]
    for _ in range(60):
        if len(points) < 2:
            break
        pairs = cKDTree(points).query_pairs(2.0 * float(radii.max()), output_type="ndarray")
        a, b = pairs.T
        apart = points[b] - points[a]
        distance = np.linalg.norm(apart, axis=1) + 1e-6
        push = np.clip(0.97 * (radii[a] + radii[b]) - distance, 0, None)
        step = apart * (0.3 * push / distance)[:, None]
        for axis in range(3):
            points[:, axis] += np.bincount(b, step[:, axis], len(points))
            points[:, axis] -= np.bincount(a, step[:, axis], len(points))
        depth = layers.depth(points)
        shift = np.clip(depth, top + 0.95 * radii, np.maximum(bottom, top + radii)) - depth
        points += shift[:, None] * layers.normal
    points, radii = _remove_overlaps(points, radii)
    keep = rng.random(len(points)) > rng.uniform(0.0, 0.09)
    return points[keep], radii[keep]


def _remove_overlaps(points: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Remove the smaller of any two bodies that overlap too much."""
    if len(points) < 2:
        return points, radii
    keep = np.ones(len(points), bool)
    for a, b in sorted(cKDTree(points).query_pairs(2.0 * float(radii.max()))):
        if keep[a] and keep[b]:
            close = np.linalg.norm(points[a] - points[b]) < 0.76 * (radii[a] + radii[b])
            if close:
                keep[b if radii[b] < radii[a] else a] = False
    return points[keep], radii[keep]


def grow_neurites(
    centres: np.ndarray, radii: np.ndarray, layers: Layers, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Grow a neurite from each body, inwards through the gaps between the other bodies.

    Each step takes the best of several random directions. A neurite that still meets a body ends there.

    Returns:
      points (k, 3) and radii (k) of each neurite, nm; the radius decreases along it.
    """
    n = len(centres)
    tree = cKDTree(centres)
    width = rng.uniform(170, 420, n)
    heading = _choose_heading(
        tree, radii, centres, 1.75 * radii, random_directions(n * 10, rng), layers
    )
    points = [centres + heading * (0.62 * radii)[:, None]]
    sizes = [0.5 * radii]
    clear = [np.ones(n, bool)]
    taper = rng.uniform(0.3, 1.0, n)  # relative length of the cone between body and neurite
    for step in range(13):
        here = points[-1]
        stride = 0.45 * radii if step == 0 else np.full(n, 550.0)
        if step:
            headings = np.repeat(heading, 6, axis=0) + 0.65 * random_directions(n * 6, rng)
            heading = _choose_heading(tree, radii, here, stride + 400, normalize(headings), layers)
        points.append(here + heading * stride[:, None])
        sizes.append(np.maximum(width, 0.34 * radii * np.exp(-step / (2.2 * taper))))
        clear.append(clear[-1] & (_clearance(tree, radii, points[-1], np.arange(n)) > 0))
    ends = np.sum(clear, axis=0)
    return [
        (p[: max(e, 3)], s[: max(e, 3)])
        for p, s, e in zip(np.stack(points, 1), np.stack(sizes, 1), ends)
    ]


def _choose_heading(
    tree: cKDTree,
    radii: np.ndarray,
    here: np.ndarray,
    ahead: np.ndarray,
    headings: np.ndarray,
    layers: Layers,
) -> np.ndarray:
    """Choose for each of n points the direction with the most space ahead; prefer inward ones.

    Args:
      headings: k unit vectors for each point (n * k, 3).
      ahead: distance to the point that is checked, nm.
    """
    n = len(here)
    k = len(headings) // n
    tips = np.repeat(here, k, axis=0) + headings * np.repeat(ahead, k)[:, None]
    space = _clearance(tree, radii, tips, np.repeat(np.arange(n), k))
    score = np.minimum(space, 500) + 250 * headings @ layers.normal
    best = score.reshape(n, k).argmax(axis=1)
    return headings.reshape(n, k, 3)[np.arange(n), best]


def _clearance(tree: cKDTree, radii: np.ndarray, points: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the distance from points to the nearest body other than their own (indices `own`), nm."""
    distance, index = tree.query(points, k=min(5, tree.n))
    distance, index = distance.reshape(len(points), -1), index.reshape(len(points), -1)
    space = distance - 1.12 * radii[index]
    return np.where(index == own[:, None], 1e5, space).min(axis=1)


def normalize(v: np.ndarray) -> np.ndarray:
    """Scale vectors (..., 3) to unit length."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)
