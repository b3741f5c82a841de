"""Geometry of a phantom: cells, organelles, tubes and layers, in nm, independent of the voxel size. Axes are z, y, x.

The spacing of somas follows the hemibrain (distance to the nearest neighbour: median 3.71 um, 2.86 to 5.25 um from
the 5th to the 95th percentile; flywire_annotations). Somas are 3 to 8 um wide, as in flies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from .morphology import Ellipsoid, Morphology, Tube, random_ellipsoid
from .pack import Layers, grow_neurites, normalize, pack_somas
from .texture import random_directions, random_rotations, rotation_from

SceneKind = Literal["brain", "rind", "glia", "neuropil", "edge", "cortex"]
SCENES: tuple[SceneKind, ...] = ("brain", "rind", "glia", "neuropil", "edge", "cortex")
_DENSITY = {"brain": 1.0, "rind": 0.5, "glia": 0.5, "neuropil": 2.5, "edge": 0.5, "cortex": 1.5}
_CROSSED_NM = 4000.0
_VOLUME_PER_TRACT_UM3 = {"cortex": 2000.0}  # at a density of 1


class CellKind(IntEnum):
    """The kind of a cell. Kinds up to GLIA have a cell body; ODD is a grey neuron without a distinct nucleus."""

    NEURON = 0
    DARK = 1
    ODD = 2
    GLIA = 3
    AXON = 4
    TRACHEA = 5
    DROPLET = 6


class OrganelleKind(IntEnum):
    """The kind of an organelle."""

    MITOCHONDRION = 0
    LYSOSOME = 1
    VACUOLE = 2


@dataclass(frozen=True)
class Organelle:
    """A small ellipsoid, bent along its long (last) axis; `tone` is its brightness in standard deviations."""

    shape: Ellipsoid
    kind: OrganelleKind
    bend: float
    tone: float


@dataclass(frozen=True)
class Cell:
    """A cell, or anything else that excludes other cells from its space.

    Attributes:
      kind: what it is.
      body: the cell body.
      tube: the neurite of a cell body, or an axon or trachea.
      neurite_start: index of the first tube segment that is neurite and therefore not labelled as soma.
      nucleus, nucleoli, organelles: contents of the body.
      tone: brightness, in standard deviations.
    """

    kind: CellKind
    body: Ellipsoid | None = None
    tube: Tube | None = None
    neurite_start: int = 0
    nucleus: Ellipsoid | None = None
    nucleoli: list[Ellipsoid] = field(default_factory=list)
    organelles: list[Organelle] = field(default_factory=list)
    tone: float = 0.0


@dataclass(frozen=True)
class Tract:
    """A straight bundle of parallel neurites.

    Attributes:
      point: a point on its axis, nm.
      frame: rotation matrix; the first row is the direction of the bundle.
      radius: nm.
      calibre: mean diameter of the neurites, nm.
    """

    point: np.ndarray
    frame: np.ndarray
    radius: float
    calibre: float


@dataclass(frozen=True)
class Scene:
    """Contents of a volume.

    Attributes:
      layers: resin, sheath, rind and neuropil.
      cells: cell bodies, axons, tracheae and fat droplets.
      tracts: bundles of neurites.
      free_organelles: organelles outside the cells.
      charged_plates: number of charged areas in the resin.
    """

    layers: Layers
    cells: list[Cell]
    tracts: list[Tract]
    free_organelles: list[Organelle]
    charged_plates: int = 0


def make_scene(
    size_nm: np.ndarray, kind: SceneKind, scale: float, rng: np.random.Generator
) -> Scene:
    """Lay out a scene.

    Args:
      size_nm: size of the box to fill, z, y, x; its first corner is at 0.
      kind: the kind of scene.
      scale: size of the somas; 1 gives the spacing of the hemibrain.
      rng: random numbers.
    """
    layers = _make_layers(size_nm, kind, rng)
    volume_um3 = float(np.prod(size_nm)) * 1e-9
    # A thin slab shows the tracts and tubes of a thicker one, because they pass through it.
    crossed_um3 = float(np.prod(np.maximum(size_nm, _CROSSED_NM))) * 1e-9
    density = _DENSITY[kind]
    count = rng.poisson(0.3 + density * crossed_um3 / _VOLUME_PER_TRACT_UM3.get(kind, 6000.0))
    tracts = [_make_tract(size_nm, rng) for _ in range(count)]
    count = rng.poisson(0.3 + density * crossed_um3 / 7000)
    tracheae = _make_tubes(size_nm, CellKind.TRACHEA, count, rng)
    count = rng.poisson(density * rng.uniform(0, 1) * crossed_um3 / 1800)
    axons = _make_tubes(size_nm, CellKind.AXON, count, rng)
    tubes = [t for t in tracheae + axons if _reaches_tissue(t, layers)]
    bodies: list[Cell] = []
    if kind != "neuropil":
        bodies = _place_cells(size_nm, layers, tracts, tubes, scale, kind, rng)
    organelle_density = 2.0 if kind == "cortex" else 1.0
    free_organelles = _place_free_organelles(size_nm, layers, organelle_density * volume_um3, rng)
    if kind == "cortex":
        tubes += _place_droplets(size_nm, crossed_um3, bodies, layers, rng)
    charged_plates = int(rng.poisson(5)) if kind == "edge" else 0
    return Scene(layers, bodies + tubes, tracts, free_organelles, charged_plates)


def _make_layers(size_nm: np.ndarray, kind: SceneKind, rng: np.random.Generator) -> Layers:
    normal = random_directions(1, rng)[0]
    if rng.random() < 0.5:  # cut perpendicular to the layers, as most real sections are
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


def _place_cells(
    size_nm: np.ndarray,
    layers: Layers,
    tracts: list[Tract],
    tubes: list[Cell],
    scale: float,
    scene: SceneKind,
    rng: np.random.Generator,
) -> list[Cell]:
    """Place cell bodies, except where they would meet tracts or tubes."""
    morphology = Morphology.cortex(rng) if scene == "cortex" else Morphology()
    centres, radii = pack_somas(size_nm, layers, scale, rng, morphology.sizes)
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
    outside = np.maximum(np.maximum(-centres, centres - size_nm).max(axis=1), 0)
    visible = outside < 1.8 * radii  # only these need contents
    paths = grow_neurites(centres, radii, layers, rng)
    return [
        _make_cell(CellKind(k), c, r, Tube(*p), bool(s), morphology, rng)
        for k, c, r, p, s in zip(kinds, centres, radii, paths, visible)
    ]


def _make_cell(
    kind: CellKind,
    centre: np.ndarray,
    radius: float,
    tube: Tube,
    visible: bool,
    morphology: Morphology,
    rng: np.random.Generator,
) -> Cell:
    """Make a cell body with its contents, organelles only if it is `visible`."""
    spread, flat = (0.38, 0.30) if kind == CellKind.GLIA else (morphology.spread, morphology.flat)
    body = random_ellipsoid(centre, radius * morphology.swell, spread, rng)
    width = tube.radii[-1]
    narrow = np.flatnonzero(tube.radii[1:] < 1.4 * width)
    neurite_start = int(narrow[0]) + 1 if len(narrow) else len(tube.radii)
    ratio = rng.uniform(*morphology.nucleus) if kind != CellKind.ODD else 0.88
    offset = (
        random_directions(1, rng)[0]
        * radius
        * max(0.0, morphology.room - ratio)
        * rng.uniform(0, 1) ** 0.5
    )
    nucleus = random_ellipsoid(centre + offset, radius * ratio, flat, rng)
    nucleoli = [
        random_ellipsoid(
            nucleus.centre + random_directions(1, rng)[0] * nucleus.radius * rng.uniform(0.4, 1.0),
            nucleus.radius * rng.uniform(*morphology.nucleolus),
            0.15,
            rng,
        )
        for _ in range(
            rng.integers(6, 12)
            if kind in (CellKind.GLIA, CellKind.ODD)
            else rng.integers(*morphology.nucleoli)
        )
    ]
    organelles = _place_organelles(centre, radius, nucleus, rng) if visible else []
    return Cell(kind, body, tube, neurite_start, nucleus, nucleoli, organelles, float(rng.normal()))


def _place_organelles(
    centre: np.ndarray, radius: float, nucleus: Ellipsoid, rng: np.random.Generator
) -> list[Organelle]:
    """Place organelles in the cytoplasm around the nucleus."""
    count = rng.poisson(rng.uniform(35, 110) * (radius / 1900) ** 2)
    points = (
        centre + random_directions(count, rng) * (radius * rng.uniform(0.6, 1.2, count))[:, None]
    )
    outside = np.linalg.norm(points - nucleus.centre, axis=1) > nucleus.radius * 1.06
    return _make_organelles(points[outside], rng)


def _make_organelles(points: np.ndarray, rng: np.random.Generator) -> list[Organelle]:
    """Make an organelle at each point (n, 3): mitochondria, lysosomes and a few vacuoles."""
    rotations = random_rotations(len(points), rng)
    kinds = rng.choice(3, len(points), p=[0.72, 0.18, 0.10])
    tones, bends = rng.normal(size=len(points)), 0.9 * rng.normal(size=len(points))
    widths = np.exp(rng.uniform(np.log(120), np.log(330), len(points)))
    round_ = rng.uniform(70, 190, (len(points), 1)) * np.exp(rng.normal(0, 0.2, (len(points), 3)))
    axes = np.stack(
        [
            np.ones(len(points)),
            rng.uniform(0.8, 1.2, len(points)),
            np.exp(rng.uniform(0.1, 1.6, len(points))),
        ],
        axis=1,
    )
    organelles = []
    for i, point in enumerate(points):
        elongated = kinds[i] == OrganelleKind.MITOCHONDRION
        semi = widths[i] * axes[i] if elongated else round_[i]
        bend = float(bends[i]) if elongated else 0.0
        reach = float(semi.max() + abs(bend) * semi[0] + 60)
        shape = Ellipsoid(point, (rotations[i] / semi).T, float(semi.min()), reach)
        organelles.append(Organelle(shape, OrganelleKind(int(kinds[i])), bend, float(tones[i])))
    return organelles


def _place_free_organelles(
    size_nm: np.ndarray, layers: Layers, volume_um3: float, rng: np.random.Generator
) -> list[Organelle]:
    """Place organelles of neuropil, sheath and glia. The painter omits those inside cell bodies."""
    count = rng.poisson(volume_um3 * rng.uniform(0.1, 0.7))
    points = rng.uniform(0, 1, (count, 3)) * size_nm
    return _make_organelles(points[layers.depth(points) > 200], rng)


def _make_tubes(
    size_nm: np.ndarray, kind: CellKind, count: int, rng: np.random.Generator
) -> list[Cell]:
    """Make `count` curved tubes through random points: tracheae of any calibre, or large axons."""
    low, high = (180.0, 1500.0) if kind == CellKind.TRACHEA else (450.0, 2300.0)
    cells = []
    for _ in range(count):
        steps = int(np.linalg.norm(size_nm) / 800) + 2
        directions = np.cumsum(0.14 * random_directions(steps, rng), axis=0)
        directions += random_directions(1, rng)
        points = np.cumsum(800 * normalize(directions), axis=0)
        points += rng.uniform(0, 1, 3) * size_nm - points[rng.integers(steps)]
        radius = np.exp(rng.uniform(np.log(low), np.log(high)))
        radii = radius * np.exp(
            0.12 * np.convolve(rng.normal(size=steps + 2), np.ones(3) / 1.7, "valid")
        )
        cells.append(Cell(kind, tube=Tube(points, radii), tone=float(rng.normal())))
    return cells


def _reaches_tissue(cell: Cell, layers: Layers) -> bool:
    assert cell.tube is not None
    return bool(np.mean(layers.depth(cell.tube.points) > 0) > 0.3)


def _place_droplets(
    size_nm: np.ndarray,
    volume_um3: float,
    bodies: list[Cell],
    layers: Layers,
    rng: np.random.Generator,
) -> list[Cell]:
    """Place groups of fat droplets between the cell bodies."""
    groups = rng.poisson(volume_um3 * rng.uniform(0, 1) / 250)
    centres = rng.uniform(0, 1, (groups, 3)) * size_nm
    points = np.repeat(centres, 3, axis=0) + rng.normal(0, 900, (3 * groups, 3))
    points = points[(rng.random(3 * groups) < 0.6) & (layers.depth(points) > layers.sheath)]
    placed = [cell.body for cell in bodies if cell.body is not None]
    for body in placed if len(points) else []:
        points = points[np.linalg.norm(points - body.centre, axis=1) > 0.9 * body.radius]
    return [
        Cell(CellKind.DROPLET, random_ellipsoid(p, float(rng.uniform(350, 1000)), 0.12, rng))
        for p in points
    ]


def _make_tract(size_nm: np.ndarray, rng: np.random.Generator) -> Tract:
    frame = rotation_from(random_directions(1, rng)[0], rng)
    radius = float(np.exp(rng.uniform(np.log(800), np.log(4500))))
    return Tract(rng.uniform(0, 1, 3) * size_nm, frame, radius, float(rng.uniform(260, 620)))
