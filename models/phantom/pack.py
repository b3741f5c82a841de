"""Where the bodies of a phantom lie: packed in the rind, their neurites led through the gaps. z, y, x, nm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from .style import Sizes
from .texture import random_directions

MARGIN_NM = 5000.0  # bodies whose centre lies this far outside still reach into the volume


@dataclass(frozen=True)
class Layers:
    """Depths under the surface, nm along `normal` from `surface`: resin < 0 < sheath < rind < neuropil."""

    normal: np.ndarray
    surface: float
    sheath: float
    rind: float

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Depth of points (n, 3) before undulation."""
        return points @ self.normal - self.surface


def pack(
    size_nm: np.ndarray,
    layers: Layers,
    scale: float,
    rng: np.random.Generator,
    sizes: Sizes | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and radii of packed somas: thrown at random, pushed apart, the crowded ones dropped."""
    sizes = sizes or Sizes()
    fill = rng.uniform(0.68, 0.80)
    low, high = np.full(3, -MARGIN_NM), size_nm + MARGIN_NM
    mean = sizes.mean * scale
    count = int(fill * np.prod(high - low) / (4.19 * mean**3 * 1.3))
    radii = np.clip(rng.lognormal(np.log(mean), sizes.spread, count), sizes.least * scale, 4000)
    giant = rng.random(count) < sizes.large_share
    radii[giant] = rng.uniform(*sizes.large, int(giant.sum()))
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
    points, radii = _uncrowd(points, radii)
    stay = rng.random(len(points)) > rng.uniform(0.0, 0.09)
    return points[stay], radii[stay]


def _uncrowd(points: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(points) < 2:
        return points, radii
    keep = np.ones(len(points), bool)
    for a, b in sorted(cKDTree(points).query_pairs(2.0 * float(radii.max()))):
        if keep[a] and keep[b]:
            close = np.linalg.norm(points[a] - points[b]) < 0.76 * (radii[a] + radii[b])
            if close:
                keep[b if radii[b] < radii[a] else a] = False
    return points[keep], radii[keep]


def neurites(
    centres: np.ndarray, radii: np.ndarray, layers: Layers, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Points and radii of tubes out of the bodies, narrowing, through the gaps between other bodies, inwards.

    Every step takes the clearest of some headings; a neurite that runs into a body all the same ends there.
    """
    n = len(centres)
    tree = cKDTree(centres)
    width = rng.uniform(170, 420, n)
    heading = _clearest(tree, radii, centres, 1.75 * radii, random_directions(n * 10, rng), layers)
    points = [centres + heading * (0.62 * radii)[:, None]]
    sizes = [0.5 * radii]
    clear = [np.ones(n, bool)]
    long = rng.uniform(0.3, 1.0, n)  # how long the cone is in which the body becomes neurite
    for step in range(13):
        here = points[-1]
        stride = 0.45 * radii if step == 0 else np.full(n, 550.0)
        if step:
            turned = np.repeat(heading, 6, axis=0) + 0.65 * random_directions(n * 6, rng)
            heading = _clearest(tree, radii, here, stride + 400, unit(turned), layers)
        points.append(here + heading * stride[:, None])
        sizes.append(np.maximum(width, 0.34 * radii * np.exp(-step / (2.2 * long))))
        clear.append(clear[-1] & (_clearance(tree, radii, points[-1], np.arange(n)) > 0))
    ends = np.sum(clear, axis=0)
    return [
        (p[: max(e, 3)], s[: max(e, 3)])
        for p, s, e in zip(np.stack(points, 1), np.stack(sizes, 1), ends)
    ]


def _clearest(
    tree: cKDTree,
    radii: np.ndarray,
    here: np.ndarray,
    ahead: np.ndarray,
    headings: np.ndarray,
    layers: Layers,
) -> np.ndarray:
    """Of some headings (n * k, 3) for each of n points the one that leads away from bodies, inwards if it can."""
    n = len(here)
    k = len(headings) // n
    tips = np.repeat(here, k, axis=0) + headings * np.repeat(ahead, k)[:, None]
    room = _clearance(tree, radii, tips, np.repeat(np.arange(n), k))
    worth = np.minimum(room, 500) + 250 * headings @ layers.normal
    best = worth.reshape(n, k).argmax(axis=1)
    return headings.reshape(n, k, 3)[np.arange(n), best]


def _clearance(tree: cKDTree, radii: np.ndarray, points: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Distance from points to the nearest body that is not their own, nm."""
    distance, index = tree.query(points, k=min(5, tree.n))
    distance, index = distance.reshape(len(points), -1), index.reshape(len(points), -1)
    room = distance - 1.12 * radii[index]
    return np.where(index == own[:, None], 1e5, room).min(axis=1)


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)
