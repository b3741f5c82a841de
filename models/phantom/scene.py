"""What a phantom brain is made of: pure geometry in nm, z, y, x, the same at any voxel size.

Spacing of somas follows the hemibrain (nearest neighbour 3.71 um in the median, 2.86 to 5.25 um from the 5th to
the 95th percentile; flywire_annotations), their size the 3-8 um that fly somas measure.

What counts as soma: neurons, dark neurons and the rare odd cell (grey, without a clear nucleus) do; glial bodies,
axons and tracheae do not. A soma's label ends where its neurite has narrowed to neurite width (`Cell.cut`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from .pack import Layers, neurites, pack, unit
from .style import CellStyle
from .texture import random_directions, random_rotations, rotation_from

SceneKind = Literal["brain", "rind", "glia", "neuropil", "edge", "cortex"]
SCENES: tuple[SceneKind, ...] = ("brain", "rind", "glia", "neuropil", "edge", "cortex")


_TRACT_UM3 = {"cortex": 2000.0}  # a bundle of neurites in so much tissue


class Kind(IntEnum):
    """What a cell is; those below GLIA are somas."""

    NEURON = 0
    DARK = 1
    ODD = 2
    GLIA = 3
    AXON = 4
    TRACHEA = 5
    DROPLET = 6


class Grain(IntEnum):
    """What an organelle is."""

    MITOCHONDRION = 0
    LYSOSOME = 1
    VACUOLE = 2


@dataclass(frozen=True)
class Ellipsoid:
    """A body: |axes @ (p - centre)| < 1; `radius` scales that to nm, `reach` bounds it."""

    centre: np.ndarray
    axes: np.ndarray
    radius: float
    reach: float


@dataclass(frozen=True)
class Organelle:
    """A small ellipsoid, bent along its long (last) axis."""

    shape: Ellipsoid
    grain: Grain
    bend: float
    tone: float


@dataclass(frozen=True)
class Tube:
    """A chain of capsules: points (n, 3) and a radius at each."""

    points: np.ndarray
    radii: np.ndarray


@dataclass(frozen=True)
class Cell:
    """Whatever competes for space. Segments of the tube from `cut` on are neurite: same cell, not soma."""

    kind: Kind
    body: Ellipsoid | None = None
    tube: Tube | None = None
    cut: int = 0
    nucleus: Ellipsoid | None = None
    nucleoli: list[Ellipsoid] = field(default_factory=list)
    organelles: list[Organelle] = field(default_factory=list)
    tone: float = 0.0


@dataclass(frozen=True)
class Tract:
    """A straight bundle of parallel neurites: a point, a frame whose first row is its direction, a radius."""

    point: np.ndarray
    frame: np.ndarray
    radius: float
    calibre: float  # nm, of its neurites


@dataclass(frozen=True)
class Scene:
    """Layers, what competes for space in them, bundles, organelles that belong to no cell, and how many plates of
    the resin are charged."""

    layers: Layers
    cells: list[Cell]
    tracts: list[Tract]
    loose: list[Organelle]
    charged: int = 0


def make_scene(
    size_nm: np.ndarray, kind: SceneKind, scale: float, rng: np.random.Generator
) -> Scene:
    """Lay out a scene that fills a box of `size_nm` (z, y, x) from its corner at 0.

    scale: of somas; at 1 their spacing is the hemibrain's.
    """
    layers = _layers(size_nm, kind, rng)
    volume_um3 = float(np.prod(size_nm)) * 1e-9
    rate = {"brain": 1.0, "rind": 0.5, "glia": 0.5, "neuropil": 2.5, "edge": 0.5, "cortex": 1.5}[
        kind
    ]
    tracts = [
        _tract(size_nm, rng)
        for _ in range(rng.poisson(0.3 + rate * volume_um3 / _TRACT_UM3.get(kind, 6000.0)))
    ]
    tracheae = _tubes(size_nm, Kind.TRACHEA, rng.poisson(0.3 + rate * volume_um3 / 7000), rng)
    axons = _tubes(
        size_nm, Kind.AXON, rng.poisson(rate * rng.uniform(0, 1) * volume_um3 / 1800), rng
    )
    tubes = [t for t in tracheae + axons if _deep_enough(t, layers)]
    bodies = [] if kind == "neuropil" else _bodies(size_nm, layers, tracts, tubes, scale, kind, rng)
    dense = 2.0 if kind == "cortex" else 1.0
    loose = _loose(size_nm, layers, dense * volume_um3, rng)
    if kind == "cortex":
        tubes += _droplets(size_nm, bodies, layers, rng)
    return Scene(
        layers, bodies + tubes, tracts, loose, int(rng.poisson(5)) if kind == "edge" else 0
    )


def _layers(size_nm: np.ndarray, kind: SceneKind, rng: np.random.Generator) -> Layers:
    normal = random_directions(1, rng)[0]
    if (
        rng.random() < 0.5
    ):  # half of all sections are cut about across the layers, as in most real pictures
        normal[0] *= 0.25
        normal /= np.linalg.norm(normal)
    corners = np.array(np.meshgrid(*([0, s] for s in size_nm), indexing="ij")).reshape(3, -1).T
    low, high = (corners @ normal).min(), (corners @ normal).max()
    span = high - low
    sheath = float(rng.uniform(700, 3200))
    if kind == "cortex":
        surface = low - sheath - span * rng.uniform(-0.1, 0.5)
        return Layers(normal, float(surface), sheath, float(span * rng.uniform(0.6, 1.6)))
    surface, rind = {
        "brain": (
            low + span * rng.uniform(-0.1, 0.1),
            max(15000.0, span * rng.uniform(0.72, 0.95)),
        ),
        "rind": (low - sheath - 2500.0, 10 * span),
        "glia": (low - sheath - 2500.0, 10 * span),
        "neuropil": (low - 60000.0, 30000.0),
        "edge": (low + span * rng.uniform(0.5, 0.85), span * rng.uniform(0.1, 0.7)),
    }[kind]
    return Layers(normal, float(surface), sheath, float(rind))


def _bodies(
    size_nm: np.ndarray,
    layers: Layers,
    tracts: list[Tract],
    tubes: list[Cell],
    scale: float,
    scene: SceneKind,
    rng: np.random.Generator,
) -> list[Cell]:
    style = CellStyle.cortex(rng) if scene == "cortex" else CellStyle()
    centres, radii = pack(size_nm, layers, scale, rng, style.sizes)
    keep = np.ones(len(centres), bool)
    for tract in tracts:
        across = (centres - tract.point) @ tract.frame[1:].T
        keep &= np.linalg.norm(across, axis=1) > tract.radius + 0.5 * radii
    for tube in (t.tube for t in tubes if t.tube is not None):
        near = cKDTree(tube.points).query(centres)[0] if len(centres) else np.zeros(0)
        keep &= near > tube.radii.mean() + 0.7 * radii
    centres, radii = centres[keep], radii[keep]
    if not len(centres):
        return []
    glial, dark = rng.uniform(0.01, 0.07), 0.055
    if scene == "glia":
        glial, dark = 0.25, 0.15
    kinds = rng.choice(4, len(centres), p=[0.985 - dark - glial, dark, 0.015, glial])
    near = np.maximum(np.maximum(-centres, centres - size_nm).max(axis=1), 0)
    seen = near < 1.8 * radii  # what cannot reach the volume needs no contents
    paths = neurites(centres, radii, layers, rng)
    return [
        _cell(Kind(k), c, r, Tube(*p), bool(s), style, rng)
        for k, c, r, p, s in zip(kinds, centres, radii, paths, seen)
    ]


def _cell(
    kind: Kind,
    centre: np.ndarray,
    radius: float,
    tube: Tube,
    seen: bool,
    style: CellStyle,
    rng: np.random.Generator,
) -> Cell:
    spread, flat = (0.38, 0.30) if kind == Kind.GLIA else (style.spread, style.flat)
    body = _ellipsoid(centre, radius * style.swell, spread, rng)
    width = tube.radii[-1]
    narrow = np.flatnonzero(tube.radii[1:] < 1.4 * width)
    cut = int(narrow[0]) + 1 if len(narrow) else len(tube.radii)
    ratio = rng.uniform(*style.nucleus) if kind != Kind.ODD else 0.88
    offset = (
        random_directions(1, rng)[0]
        * radius
        * max(0.0, style.room - ratio)
        * rng.uniform(0, 1) ** 0.5
    )
    nucleus = _ellipsoid(centre + offset, radius * ratio, flat, rng)
    nucleoli = [
        _ellipsoid(
            nucleus.centre + random_directions(1, rng)[0] * nucleus.radius * rng.uniform(0.4, 1.0),
            nucleus.radius * rng.uniform(*style.nucleolus),
            0.15,
            rng,
        )
        for _ in range(
            rng.integers(6, 12) if kind in (Kind.GLIA, Kind.ODD) else rng.integers(*style.nucleoli)
        )
    ]
    organelles = _shell(centre, radius, nucleus, rng) if seen else []
    return Cell(kind, body, tube, cut, nucleus, nucleoli, organelles, float(rng.normal()))


def _shell(
    centre: np.ndarray, radius: float, nucleus: Ellipsoid, rng: np.random.Generator
) -> list[Organelle]:
    """In the shell of cytoplasm around the nucleus."""
    count = rng.poisson(rng.uniform(35, 110) * (radius / 1900) ** 2)
    points = (
        centre + random_directions(count, rng) * (radius * rng.uniform(0.6, 1.2, count))[:, None]
    )
    outside = np.linalg.norm(points - nucleus.centre, axis=1) > nucleus.radius * 1.06
    return _organelles(points[outside], rng)


def _organelles(points: np.ndarray, rng: np.random.Generator) -> list[Organelle]:
    """One organelle at each point: mitochondria, lysosomes, a few vacuoles."""
    turns = random_rotations(len(points), rng)
    grains = rng.choice(3, len(points), p=[0.72, 0.18, 0.10])
    tones, bends = rng.normal(size=len(points)), 0.9 * rng.normal(size=len(points))
    widths = np.exp(rng.uniform(np.log(120), np.log(330), len(points)))
    round_ = rng.uniform(70, 190, (len(points), 1)) * np.exp(rng.normal(0, 0.2, (len(points), 3)))
    long = np.stack(
        [
            np.ones(len(points)),
            rng.uniform(0.8, 1.2, len(points)),
            np.exp(rng.uniform(0.1, 1.6, len(points))),
        ],
        axis=1,
    )
    made = []
    for i, point in enumerate(points):
        slim = grains[i] == Grain.MITOCHONDRION
        semi = widths[i] * long[i] if slim else round_[i]
        bend = float(bends[i]) if slim else 0.0
        reach = float(semi.max() + abs(bend) * semi[0] + 60)
        shape = Ellipsoid(point, (turns[i] / semi).T, float(semi.min()), reach)
        made.append(Organelle(shape, Grain(int(grains[i])), bend, float(tones[i])))
    return made


def _loose(
    size_nm: np.ndarray, layers: Layers, volume_um3: float, rng: np.random.Generator
) -> list[Organelle]:
    """Organelles of neuropil, sheath and glia; the painter keeps them out of cells that have their own."""
    count = rng.poisson(volume_um3 * rng.uniform(0.1, 0.7))
    points = rng.uniform(0, 1, (count, 3)) * size_nm
    return _organelles(points[layers.depth(points) > 200], rng)


def _tubes(size_nm: np.ndarray, kind: Kind, count: int, rng: np.random.Generator) -> list[Cell]:
    """Gently bent tubes through a random point: tracheae, some thin, and large axons."""
    least, most = (180.0, 1500.0) if kind == Kind.TRACHEA else (450.0, 2300.0)
    cells = []
    for _ in range(count):
        steps = int(np.linalg.norm(size_nm) / 800) + 2
        turns = np.cumsum(0.14 * random_directions(steps, rng), axis=0) + random_directions(1, rng)
        points = np.cumsum(800 * unit(turns), axis=0)
        points += rng.uniform(0, 1, 3) * size_nm - points[rng.integers(steps)]
        radius = np.exp(rng.uniform(np.log(least), np.log(most)))
        radii = radius * np.exp(
            0.12 * np.convolve(rng.normal(size=steps + 2), np.ones(3) / 1.7, "valid")
        )
        cells.append(Cell(kind, tube=Tube(points, radii), tone=float(rng.normal())))
    return cells


def _deep_enough(cell: Cell, layers: Layers) -> bool:
    assert cell.tube is not None
    return bool(np.mean(layers.depth(cell.tube.points) > 0) > 0.3)


def _droplets(
    size_nm: np.ndarray, bodies: list[Cell], layers: Layers, rng: np.random.Generator
) -> list[Cell]:
    """Pale round droplets of fat between the bodies, in groups."""
    groups = rng.poisson(float(np.prod(size_nm)) * 1e-9 * rng.uniform(0, 1) / 500)
    at = rng.uniform(0, 1, (groups, 3)) * size_nm
    points = np.repeat(at, 3, axis=0) + rng.normal(0, 900, (3 * groups, 3))
    points = points[(rng.random(3 * groups) < 0.6) & (layers.depth(points) > layers.sheath)]
    held = [cell.body for cell in bodies if cell.body is not None]
    for body in held if len(points) else []:
        points = points[np.linalg.norm(points - body.centre, axis=1) > 0.9 * body.radius]
    return [
        Cell(Kind.DROPLET, _ellipsoid(p, float(rng.uniform(350, 1000)), 0.12, rng)) for p in points
    ]


def _tract(size_nm: np.ndarray, rng: np.random.Generator) -> Tract:
    frame = rotation_from(random_directions(1, rng)[0], rng)
    radius = float(np.exp(rng.uniform(np.log(800), np.log(4500))))
    return Tract(rng.uniform(0, 1, 3) * size_nm, frame, radius, float(rng.uniform(260, 620)))


def _ellipsoid(
    centre: np.ndarray, radius: float, spread: float, rng: np.random.Generator
) -> Ellipsoid:
    stretch = np.exp(np.clip(rng.normal(0, spread, 3), -0.45, 0.45))
    semi = radius * stretch / np.prod(stretch) ** (1 / 3)
    axes = (random_rotations(1, rng)[0] / semi).T
    return Ellipsoid(np.asarray(centre), axes, float(radius), float(semi.max()))
