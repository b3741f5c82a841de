"""Realistic fly-brain EM with exact soma labels, deterministic by seed, at any voxel size. Everything is z, y, x.

A scene in nm (phantom_scene: where bodies, neurites, tracheae and layers lie) is painted on voxels
(phantom_paint, phantom_matrix, phantom_resin) with a look drawn at random (phantom_look), then gets the faults of
serial sections (phantom_faults).

Labels: a voxel is soma when its centre lies inside the plasma membrane, up to the membrane's middle. A neurite is not
soma: the label ends where the cell has narrowed to it. Dark neurons and the rare odd grey cell are labelled; glia,
axons and tracheae are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage

from ...axes import Zyx
from .blocks import compress
from .faults import add_faults
from .look import DIFFICULTIES, Difficulty, Look
from .paint import BLOCK, Painter
from .scene import SCENES, SceneKind, make_scene
from .texture import Grid

__all__ = ["DIFFICULTIES", "SCENES", "Difficulty", "Phantom", "SceneKind", "make_phantom"]

_SECTION_NM = 80.0  # thicker voxels are painted as several sections and averaged
_MAX_SHRED_UM3 = 0.5


@dataclass(frozen=True)
class Phantom:
    """image: uint8; labels: uint32, 0 is no soma, 1..n, each in one piece; voxel_nm: z, y, x."""

    image: np.ndarray
    labels: np.ndarray
    voxel_nm: tuple[float, float, float]
    seed: int


def make_phantom(
    shape_zyx: Zyx,
    voxel_nm: tuple[float, float, float],
    seed: int,
    difficulty: Difficulty = "typical",
    scene: SceneKind = "brain",
    progress: Callable[[float], None] | None = None,
) -> Phantom:
    """A volume of phantom EM and its truth.

    Args:
      shape_zyx, voxel_nm: voxels and their size in nm, z, y, x. Same seed and same size in nm: same brain.
      seed: everything follows from it.
      difficulty: "clean" (no faults, standard contrast), "typical" (usual faults, wide range of looks), "worst"
        (heavy faults; contrast, blur and noise beyond that range) or "real" (usual faults, the look of sections
        of whole fly brains: little contrast, nucleus and cytoplasm nearly of one grey).
      scene: "brain" (resin, sheath, rind, neuropil), "rind" (somas all through), "glia" (a rind with many bodies
        that are none, and dark neurons), "neuropil" (no soma), "edge" (mostly resin and sheath, the resin
        charged in places) or "cortex" (small somas that the nucleus all but fills, bundles of neurites and
        droplets of fat between them, often neuropil beside them).
      progress: called with the part done, 0..1.

    Raises:
      ValueError: unknown difficulty or scene, or a shape or voxel size that is not positive.
    """
    if difficulty not in DIFFICULTIES or scene not in SCENES:
        raise ValueError(
            f"difficulty {difficulty!r} and scene {scene!r}: choose from {DIFFICULTIES} and {SCENES}"
        )
    if min(shape_zyx) < 1 or min(voxel_nm) <= 0:
        raise ValueError(f"shape {shape_zyx} and voxel size {voxel_nm} nm must be positive")
    streams = np.random.SeedSequence([seed, 23]).spawn(6)
    layout, looks, shapes, grains, light, faults = (np.random.default_rng(s) for s in streams)
    size_nm = np.array(shape_zyx) * np.array(voxel_nm, float)
    look = Look.draw(difficulty, looks)
    geometry = make_scene(size_nm, scene, look.soma_scale, layout)
    thin = _sections_per_voxel(voxel_nm[0])
    fine_nm = np.array([voxel_nm[0] / thin, voxel_nm[1], voxel_nm[2]])
    fine_shape = (shape_zyx[0] * thin, shape_zyx[1], shape_zyx[2])
    painter = Painter(geometry, size_nm, fine_nm, look, shapes, grains)
    image, labels = _paint(painter, fine_shape, fine_nm, light, progress)
    labels = _whole_bodies(labels, float(np.prod(fine_nm)) * 1e-9)  # before shifts tear them
    add_faults(image, labels, look.faults or difficulty, float(np.mean(fine_nm[1:])), faults)
    if thin > 1:
        image = np.rint(_mean_sections(image, thin)).astype(np.uint8)
        labels = labels[thin // 2 :: thin]
    image = compress(image, look.compression)
    return Phantom(image, _dense(labels), voxel_nm, seed)


def _sections_per_voxel(z_nm: float) -> int:
    """An odd number, so that the middle section is the voxel's centre."""
    return max(1, 2 * int(z_nm / _SECTION_NM / 2) + 1) if z_nm > 1.2 * _SECTION_NM else 1


def _paint(
    painter: Painter,
    shape: Zyx,
    voxel_nm: np.ndarray,
    light: np.random.Generator,
    progress: Callable[[float], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """All blocks, a slab of sections at a time."""
    image = np.empty(shape, np.uint8)
    labels = np.empty(shape, np.uint32)
    axes = [(np.arange(n) + 0.5) * v for n, v in zip(shape, voxel_nm)]
    deep_blur = painter.look.deep_blur_nm / voxel_nm[0]
    for z in range(0, shape[0], BLOCK[0]):
        deep = slice(z, z + BLOCK[0])
        slab = np.empty(image[deep].shape, np.float32)
        for y in range(0, shape[1], BLOCK[1]):
            for x in range(0, shape[2], BLOCK[2]):
                box = (deep, slice(y, y + BLOCK[1]), slice(x, x + BLOCK[2]))
                grid = Grid([a[s] for a, s in zip(axes, box)], (z, y, x))
                slab[:, box[1], box[2]], labels[box] = painter.paint(grid)
        image[deep] = _expose(slab, painter.look, float(np.mean(voxel_nm[1:])), light)
        if progress is not None:
            progress(min(1.0, (z + BLOCK[0]) / shape[0]))
    if deep_blur > 0.2:
        image = ndimage.gaussian_filter1d(image, deep_blur, axis=0, truncate=2.5)
    return image, labels


def _expose(
    slab: np.ndarray, look: Look, nm_per_pixel: float, rng: np.random.Generator
) -> np.ndarray:
    """Blur, sharpening, noise and contrast of the microscope: float to uint8, never 0 (0 means no image)."""
    sigma = look.blur_nm / nm_per_pixel
    if sigma > 0.3:
        slab = ndimage.gaussian_filter(slab, (0, sigma, sigma), truncate=2.5)
    if look.sharpen > 0.05:
        soft = ndimage.gaussian_filter(slab, (0, 1.0, 1.0), truncate=2.0)
        slab = slab + (slab - soft) * np.float32(look.sharpen)
    slab += rng.standard_normal(slab.shape, dtype=np.float32) * np.float32(look.noise)
    slab -= np.float32(0.6)
    slab *= np.float32(look.contrast)
    slab += np.float32(0.6 + look.brightness)
    np.clip(slab, 0, 1, out=slab)
    np.power(slab, np.float32(look.gamma), out=slab)
    slab *= 254
    slab += np.float32(1.5)
    return slab.astype(np.uint8)


def _mean_sections(image: np.ndarray, thin: int) -> np.ndarray:
    return image.reshape(-1, thin, *image.shape[1:]).mean(axis=1, dtype=np.float32)


def _whole_bodies(labels: np.ndarray, voxel_um3: float) -> np.ndarray:
    """Only the largest part of a cell stays, and others that are large too (the volume's edge may cut one in two);
    each part gets its own number."""
    parts = cc3d.connected_components(labels, connectivity=6, out_dtype=np.uint32)
    counts = np.bincount(parts.reshape(-1))
    cell = np.zeros(len(counts), np.int64)
    cell[parts.reshape(-1)] = labels.reshape(-1)
    largest = np.zeros(int(cell.max()) + 1, np.int64)
    np.maximum.at(largest, cell, counts)
    keep = (counts == largest[cell]) | (counts * voxel_um3 >= _MAX_SHRED_UM3)
    keep &= cell > 0
    return np.where(keep, np.arange(len(counts)), 0).astype(np.uint32)[parts]


def _dense(labels: np.ndarray) -> np.ndarray:
    """Numbers 1..n in the order of their old ones."""
    present = np.bincount(labels.reshape(-1)) > 0
    present[0] = False
    return (np.cumsum(present) * present).astype(np.uint32)[labels]
