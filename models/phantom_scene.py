"""What a phantom brain is made of, in nm, z, y, x: pure geometry, the same at any voxel size.

Spacing and sizes of somas follow the hemibrain (nearest neighbour 3.71 um in the median, 2.86 to 5.25 um from the
5th to the 95th percentile; flywire_annotations) and the 3-8 um that fly somas measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .phantom_texture import random_direction, random_rotation

SceneKind = Literal["brain", "rind", "neuropil", "edge"]
MARGIN_NM = 4500.0  # bodies whose centre lies this far outside still reach into the volume


@dataclass(frozen=True)
class Ellipsoid:
    """A body: |axes @ (p - centre)| < 1."""

    centre: np.ndarray
    axes: np.ndarray
    radius: float  # of a sphere with its volume


@dataclass(frozen=True)
class Soma:
    """A cell body, its nucleus with nucleoli, its mitochondria and the path of its neurite (points, radii)."""

    body: Ellipsoid
    nucleus: Ellipsoid
    nucleoli: list[Ellipsoid]
    mitochondria: list[Ellipsoid]
    neurite: np.ndarray
    neurite_radius: np.ndarray
    tone: float  # how much darker or lighter than its neighbours


@dataclass(frozen=True)
class Tube:
    """A trachea: its axis as points, its radius, nm."""

    points: np.ndarray
    radius: float


@dataclass(frozen=True)
class Scene:
    """The layers, by depth under the brain's surface (nm along `normal` from `surface`), and what lies in them."""

    normal: np.ndarray
    surface: float
    sheath: float
    rind: float
    somas: list[Soma]
    mitochondria: list[Ellipsoid]
    tracheae: list[Tube]
    axons: list[Tube]

    def depth(self, points: np.ndarray) -> np.ndarray:
        """Depth of points (n, 3) under the surface, before undulation."""
        return points @ self.normal - self.surface


def make_scene(size_nm: np.ndarray, kind: SceneKind, rng: np.random.Generator) -> Scene:
    """Lay out a scene that fills a box of `size_nm` (z, y, x) from its corner at 0."""
    normal = random_direction(rng)
    corners = np.array(np.meshgrid(*([0, s] for s in size_nm), indexing="ij")).reshape(3, -1).T
    low, high = (corners @ normal).min(), (corners @ normal).max()
    span = high - low
    sheath = rng.uniform(600, 2500)
    surface, rind = {
        "brain": (low + span * rng.uniform(0.02, 0.22), max(14000.0, span * rng.uniform(0.35, 0.6))),
        "rind": (low - sheath - 1000.0, 10 * span),
        "neuropil": (low - 20000.0, 20000.0 - sheath - 6000),
        "edge": (low + span * rng.uniform(0.35, 0.7), span * rng.uniform(0.15, 0.5)),
    }[kind]
    scale = float(np.exp(rng.normal(0, 0.13))) if kind != "brain" else float(rng.uniform(0.94, 1.15))
    centres, radii = _pack(size_nm, normal, surface + sheath, rind, scale, rng)
    somas = [_soma(c, r, normal, rng) for c, r in zip(centres, radii)]
    volume_um3 = float(np.prod(size_nm)) * 1e-9
    scattered = [
        _mitochondrion(rng.uniform(0, size_nm), rng)
        for _ in range(rng.poisson(0.10 * volume_um3))
    ]
    return Scene(
        normal,
        surface,
        sheath,
        rind,
        somas,
        [m for m in scattered if m.centre @ normal - surface > sheath + rind * 0.9],
        [_tube(size_nm, 250, 1100, rng) for _ in range(rng.poisson(1 + volume_um3 / 2500))],
        [_tube(size_nm, 500, 1800, rng) for _ in range(rng.poisson(2 + volume_um3 / 1200))],
    )


def _pack(
    size_nm: np.ndarray,
    normal: np.ndarray,
    top: float,
    thickness: float,
    scale: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and radii of somas in the rind: random sequential packing, large ones first."""
    box = size_nm + 2 * MARGIN_NM
    count = int(2.2 * np.prod(box / (3700.0 * scale)))
    radii = np.clip(rng.lognormal(np.log(1850.0 * scale), 0.17, count), 1500, 4000)
    giants = rng.random(count) < 0.03
    radii[giants] = rng.uniform(2600, 4000, giants.sum())
    radii = -np.sort(-radii)
    centres, kept = np.zeros((count, 3)), np.zeros(count)
    n = 0
    for radius in radii:
        for _ in range(12):
            point = rng.uniform(-MARGIN_NM, size_nm + MARGIN_NM)
            depth = point @ normal - top
            if not radius * 0.9 < depth < thickness - 0.5 * radius:
                continue
            apart = np.linalg.norm(centres[:n] - point, axis=1)
            if n == 0 or np.all(apart > 0.93 * (kept[:n] + radius)):
                centres[n], kept[n] = point, radius
                n += 1
                break
    return centres[:n], kept[:n]


def _soma(centre: np.ndarray, radius: float, normal: np.ndarray, rng: np.random.Generator) -> Soma:
    body = _ellipsoid(centre, radius * 1.07, 0.10, rng)
    ratio = rng.uniform(0.52, 0.76)
    room = radius * (0.93 - ratio)
    offset = random_direction(rng) * room * rng.uniform(0, 1) ** 0.5
    nucleus = _ellipsoid(centre + offset, radius * ratio, 0.10, rng)
    nucleoli = [
        _ellipsoid(
            nucleus.centre + random_direction(rng) * nucleus.radius * rng.uniform(0.3, 0.85),
            nucleus.radius * rng.uniform(0.12, 0.28),
            0.15,
            rng,
        )
        for _ in range(rng.integers(0, 4))
    ]
    mitochondria = []
    for _ in range(rng.poisson(9)):
        direction = random_direction(rng)
        distance = rng.uniform(max(0.3, np.linalg.norm(offset) / radius + ratio * 0.8), 0.92) * radius
        mitochondria.append(_mitochondrion(centre + direction * distance, rng))
    path, widths = _neurite(centre, radius, normal, rng)
    return Soma(body, nucleus, nucleoli, mitochondria, path, widths, float(rng.normal(0, 1)))


def _neurite(
    centre: np.ndarray, radius: float, normal: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points and radii of a neurite that tapers out of the body and runs inwards."""
    heading = normal * 0.7 + random_direction(rng)
    heading /= np.linalg.norm(heading)
    width = rng.uniform(200, 420)
    points, radii = [centre + heading * radius * 0.9], [width * 2.2]
    for step in range(12):
        heading = heading + 0.25 * random_direction(rng) + 0.1 * normal
        heading /= np.linalg.norm(heading)
        points.append(points[-1] + heading * 500)
        radii.append(width * (1 + 1.2 * np.exp(-(step + 1) / 1.5)))
    return np.array(points), np.array(radii)


def _tube(size_nm: np.ndarray, least: float, most: float, rng: np.random.Generator) -> Tube:
    point, heading = rng.uniform(0, size_nm), random_direction(rng)
    points = [point]
    for _ in range(int(np.linalg.norm(size_nm) / 900)):
        heading = heading + 0.12 * random_direction(rng)
        heading /= np.linalg.norm(heading)
        points.append(points[-1] + heading * 900)
    start = np.array(points) - (points[len(points) // 2] - point)
    return Tube(start, float(np.exp(rng.uniform(np.log(least), np.log(most)))))


def _mitochondrion(centre: np.ndarray, rng: np.random.Generator) -> Ellipsoid:
    width = rng.uniform(130, 260)
    semi = np.array([width, width * rng.uniform(0.8, 1.2), width * rng.uniform(1.2, 3.5)])
    axes = np.diag(1 / semi) @ random_rotation(rng).T
    return Ellipsoid(centre, axes, float(np.prod(semi) ** (1 / 3)))


def _ellipsoid(
    centre: np.ndarray, radius: float, spread: float, rng: np.random.Generator
) -> Ellipsoid:
    stretch = np.exp(rng.normal(0, spread, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    axes = np.diag(1 / (radius * stretch)) @ random_rotation(rng).T
    return Ellipsoid(np.asarray(centre), axes, float(radius))
