"""Phantoms: realistic EM of fly brain with exact soma labels, reproducible from a seed. Arrays are z, y, x.

`make_phantom` lays out a scene in nm (scene.py), draws a look (look.py), paints the scene on voxels (paint.py,
tissue.py, resin.py), images the sections (imaging.py) and adds the faults of serial sections (faults.py).

A voxel belongs to a soma if its centre lies inside the middle of the plasma membrane. The label ends where the cell
has narrowed to a neurite. The cell bodies of neurons, also dark and atypical ones, and of glia are labelled; axons and
tracheae are not. A nucleus includes its envelope up to the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage

from ...axes import Zyx
from .faults import add_faults
from .imaging import compress, expose
from .look import DIFFICULTIES, Difficulty, Look
from .paint import BLOCK, CODES, GLIAL, NUCLEAR, Painter
from .scene import SCENES, SceneKind, make_scene
from .texture import Grid

__all__ = ["DIFFICULTIES", "SCENES", "Difficulty", "Phantom", "SceneKind", "make_phantom"]

_SECTION_NM = 80.0  # thicker voxels are painted as several sections, which are averaged
_MIN_FRAGMENT_UM3 = 0.5


@dataclass(frozen=True)
class Phantom:
    """Synthetic EM and its ground truth.

    Attributes:
      image: uint8, z, y, x.
      labels: uint32, z, y, x; 0 is background, each label 1..n is one connected soma.
      nuclei: bool, z, y, x; the nuclei of the somas.
      glial: the labels of glial somas.
      voxel_nm: voxel size, z, y, x.
      seed: the random seed.
    """

    image: np.ndarray
    labels: np.ndarray
    nuclei: np.ndarray
    glial: np.ndarray
    voxel_nm: tuple[float, float, float]
    seed: int

    @property
    def neurons(self) -> np.ndarray:
        """The labels without those of glia, renumbered 1..n."""
        return _renumber(np.where(np.isin(self.labels, self.glial), 0, self.labels))


def make_phantom(
    shape_zyx: Zyx,
    voxel_nm: tuple[float, float, float],
    seed: int,
    difficulty: Difficulty = "typical",
    scene: SceneKind = "brain",
    progress: Callable[[float], None] | None = None,
    look: Look | None = None,
) -> Phantom:
    """Make a phantom.

    Args:
      shape_zyx: number of voxels, z, y, x.
      voxel_nm: voxel size, z, y, x. The same seed and the same size in nm give the same brain at any voxel size.
      seed: random seed.
      difficulty: "clean" (no faults, standard contrast), "typical" (common faults, a wide range of looks), "worst"
        (many faults; contrast, blur and noise beyond that range) or "real" (common faults and the look of sections
        of whole fly brains: low contrast, nucleus and cytoplasm of almost the same grey).
      scene: "brain" (resin, sheath, cell body rind, neuropil), "rind" (cell bodies everywhere), "glia" (a rind with
        many glial cell bodies and dark neurons), "neuropil" (no soma), "edge" (mostly resin and sheath; parts of the
        resin are charged) or "cortex" (small somas that the nucleus almost fills, with neurite bundles and fat
        droplets between them, often beside neuropil).
      progress: called with the finished fraction, 0..1.
      look: grey values, widths, noise and blur; by default drawn from the range of the difficulty.

    Raises:
      ValueError: the difficulty or scene is unknown, or the shape or voxel size is not positive.
    """
    if difficulty not in DIFFICULTIES or scene not in SCENES:
        raise ValueError(
            f"difficulty {difficulty!r} and scene {scene!r}: choose from {DIFFICULTIES} and {SCENES}"
        )
    if min(shape_zyx) < 1 or min(voxel_nm) <= 0:
        raise ValueError(f"shape {shape_zyx} and voxel size {voxel_nm} nm must be positive")
    streams = np.random.SeedSequence([seed, 23]).spawn(6)
    layout, looks, shapes, grains, noise, faults = (np.random.default_rng(s) for s in streams)
    size_nm = np.array(shape_zyx) * np.array(voxel_nm, float)
    look = look or Look.draw(difficulty, looks)
    geometry = make_scene(size_nm, scene, look.soma_scale, layout)
    oversampling = _sections_per_voxel(voxel_nm[0])
    fine_nm = np.array([voxel_nm[0] / oversampling, voxel_nm[1], voxel_nm[2]])
    fine_shape = (shape_zyx[0] * oversampling, shape_zyx[1], shape_zyx[2])
    painter = Painter(geometry, size_nm, fine_nm, look, shapes, grains)
    image, codes = _paint_volume(painter, fine_shape, fine_nm, noise, progress)
    # Before the faults, whose shifts may split a soma.
    codes = _drop_fragments(codes, float(np.prod(fine_nm)) * 1e-9)
    add_faults(image, codes, look.faults or difficulty, float(np.mean(fine_nm[1:])), faults)
    if oversampling > 1:
        image = np.rint(_average_sections(image, oversampling)).astype(np.uint8)
        codes = codes[oversampling // 2 :: oversampling]
    image = compress(image, look.compression)
    labels = _renumber(codes // CODES)
    glial = np.unique(labels[(codes & GLIAL) > 0])
    return Phantom(image, labels, (codes & NUCLEAR) > 0, glial, voxel_nm, seed)


def _sections_per_voxel(z_nm: float) -> int:
    """Return an odd number, so that the centre of the middle section is the centre of the voxel."""
    return max(1, 2 * int(z_nm / _SECTION_NM / 2) + 1) if z_nm > 1.2 * _SECTION_NM else 1


def _paint_volume(
    painter: Painter,
    shape: Zyx,
    voxel_nm: np.ndarray,
    noise: np.random.Generator,
    progress: Callable[[float], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint and image a volume, a few sections at a time; return grey values (uint8) and codes."""
    image = np.empty(shape, np.uint8)
    codes = np.empty(shape, np.uint32)
    axes = [(np.arange(n) + 0.5) * v for n, v in zip(shape, voxel_nm)]
    z_blur = painter.look.z_blur_nm / voxel_nm[0]
    for z in range(0, shape[0], BLOCK[0]):
        in_z = slice(z, z + BLOCK[0])
        sections = np.empty(image[in_z].shape, np.float32)
        for y in range(0, shape[1], BLOCK[1]):
            for x in range(0, shape[2], BLOCK[2]):
                box = (in_z, slice(y, y + BLOCK[1]), slice(x, x + BLOCK[2]))
                grid = Grid([a[s] for a, s in zip(axes, box)], (z, y, x))
                sections[:, box[1], box[2]], codes[box] = painter.paint(grid)
        image[in_z] = expose(sections, painter.look, float(np.mean(voxel_nm[1:])), noise)
        if progress is not None:
            progress(min(1.0, (z + BLOCK[0]) / shape[0]))
    if z_blur > 0.2:
        image = ndimage.gaussian_filter1d(image, z_blur, axis=0, truncate=2.5)
    return image, codes


def _average_sections(image: np.ndarray, count: int) -> np.ndarray:
    return image.reshape(-1, count, *image.shape[1:]).mean(axis=1, dtype=np.float32)


def _drop_fragments(codes: np.ndarray, voxel_um3: float) -> np.ndarray:
    """Give each connected component of a soma its own label, and remove small fragments.

    The largest component of each soma stays. Other large ones stay too, because the border of the volume may divide a
    soma.
    """
    labels = codes // CODES
    components = cc3d.connected_components(labels, connectivity=6, out_dtype=np.uint32)
    sizes = np.bincount(components.reshape(-1))
    soma = np.zeros(len(sizes), np.int64)
    soma[components.reshape(-1)] = labels.reshape(-1)
    largest = np.zeros(int(soma.max()) + 1, np.int64)
    np.maximum.at(largest, soma, sizes)
    keep = (sizes == largest[soma]) | (sizes * voxel_um3 >= _MIN_FRAGMENT_UM3)
    keep &= soma > 0
    numbers = np.where(keep, CODES * np.arange(len(sizes)), 0).astype(np.uint32)
    return np.where(keep[components], numbers[components] + codes % CODES, 0).astype(np.uint32)


def _renumber(labels: np.ndarray) -> np.ndarray:
    """Renumber the labels 1..n in their order."""
    present = np.bincount(labels.reshape(-1)) > 0
    present[0] = False
    return (np.cumsum(present) * present).astype(np.uint32)[labels]
