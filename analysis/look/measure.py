"""Measure how an image looks where there is tissue, from a sample of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...axes import Voxel
from . import texture
from .across import measure_across
from .stats import QUANTILES, LookStats

MIN_PX = 64  # edge of the smallest section that can be measured
_SECTIONS = 24  # that are measured one by one, of all blocks
_LEAST_TISSUE = 0.02  # of the voxels
_SAME_SHARE = 0.8  # of the neighbours in tissue: more are the same in labels, not in images


class CannotMeasure(ValueError):
    """The image shows nothing that can be measured; the message tells why."""


@dataclass(frozen=True)
class Block:
    """A piece of an image.

    Attributes:
      image: uint8, (z, y, x).
      valid: (y, x) booleans, False where pixels are left out of all sections; None: all are measured.
    """

    image: np.ndarray
    valid: np.ndarray | None = None


@dataclass(frozen=True)
class _Section:
    grey: np.ndarray
    tissue: np.ndarray


def measure_look(blocks: Sequence[Block], voxel_nm: Voxel) -> LookStats:
    """Measure the look of blocks of one image.

    Black voxels and areas that are as flat as resin are left out of everything but their shares.

    Args:
      voxel_nm: z, y, x; z is 0 where blocks are single sections that are no neighbours.

    Raises CannotMeasure: no block, sections under 64 pixels, all black, constant, or labels rather than grey levels.
    """
    sections, black, resin = _sections(blocks, voxel_nm[2])
    tissue = np.concatenate([s.grey[s.tissue] for s in sections])
    lines, rest = zip(
        *(texture.membrane_and_cytoplasm(s.grey, s.tissue, voxel_nm[2]) for s in sections)
    )
    parts = {
        size: np.concatenate([texture.tiles(s.grey, s.tissue, size) for s in sections])
        for size in (texture.TILE_PX, MIN_PX)
    }
    if not len(parts[MIN_PX]):
        raise CannotMeasure(f"no area of {MIN_PX} x {MIN_PX} pixels is all tissue")
    sigma, grain = texture.noise(parts[texture.TILE_PX])
    per_um, density = texture.spectrum(parts[MIN_PX], voxel_nm[2])
    cytoplasm = float(np.median(np.concatenate(rest)))
    membranes = np.concatenate(lines)
    steps = np.array([texture.block_steps(s.grey, s.tissue) for s in sections])
    ratios = np.concatenate([texture.edge_ratios(s.grey, s.tissue) for s in sections])
    deep = [block.image for block in blocks if len(block.image) > 1]
    return LookStats(
        voxel_nm=voxel_nm,
        tissue_voxels=len(tissue),
        black_share=black,
        resin_share=resin,
        grey_quantiles=tuple(np.quantile(tissue, QUANTILES).tolist()),
        membrane_grey=float(np.median(membranes)) if len(membranes) else cytoplasm,
        cytoplasm_grey=cytoplasm,
        noise_sigma=sigma,
        noise_grain_px=grain,
        blur_px=texture.blur_px(ratios),
        block_strength=texture.block_strength(steps),
        spectrum_per_um=tuple(per_um.tolist()),
        spectrum=tuple(np.log10(np.maximum(density, 1e-9)).tolist()),
        across=measure_across(deep, voxel_nm[0]) if deep and voxel_nm[0] > 0 else None,
    )


def _sections(blocks: Sequence[Block], pixel_nm: float) -> tuple[list[_Section], float, float]:
    """Some sections, evenly spread, with their tissue; the shares of black voxels and of resin."""
    flat = [(b.image[z], b.valid) for b in blocks for z in range(len(b.image))]
    if not flat:
        raise CannotMeasure("there is no section")
    small = min((image.shape for image, _ in flat), key=min)
    if min(small) < MIN_PX:
        raise CannotMeasure(
            f"a section has {small[1]} x {small[0]} pixels and {MIN_PX} x {MIN_PX} are needed"
        )
    if len(flat) > _SECTIONS and all(valid is None for _, valid in flat):
        flat = [flat[i] for i in np.linspace(0, len(flat) - 1, _SECTIONS).round().astype(int)]
    greys = [image.astype(np.float32) for image, _ in flat]
    asked = [np.ones(i.shape, bool) if v is None else v for i, v in flat]
    seen = [(grey > 0) & valid for grey, valid in zip(greys, asked)]
    total = sum(int(valid.sum()) for valid in asked)
    lit = sum(int(part.sum()) for part in seen)
    if lit <= _LEAST_TISSUE * total:
        raise CannotMeasure("the image is black")
    _check_grey(greys, seen)
    contrasts = [texture.local_contrast(grey, pixel_nm) for grey in greys]
    usual = float(np.quantile(np.concatenate([c[s] for c, s in zip(contrasts, seen)]), 0.9))
    resin = [
        texture.flat_areas(contrast, usual, pixel_nm) & s for contrast, s in zip(contrasts, seen)
    ]
    sections = [_Section(grey, s & ~r) for grey, s, r in zip(greys, seen, resin)]
    if sum(int(s.tissue.sum()) for s in sections) <= _LEAST_TISSUE * total:
        raise CannotMeasure("the image holds no tissue, only flat areas")
    return sections, 1 - lit / total, sum(int(r.sum()) for r in resin) / total


def _check_grey(greys: Sequence[np.ndarray], seen: Sequence[np.ndarray]) -> None:
    """Raises CannotMeasure for a constant image, and for labels: neighbours that are mostly the same."""
    values = np.unique(np.concatenate([np.unique(grey[s]) for grey, s in zip(greys, seen)]))
    if len(values) < 2:
        raise CannotMeasure(f"all that is not black has the grey level {values[0]:g}")
    both = [s[:, 1:] & s[:, :-1] for s in seen]
    same = sum(int(((np.diff(g, axis=1) == 0) & b).sum()) for g, b in zip(greys, both))
    if same > _SAME_SHARE * max(1, sum(int(b.sum()) for b in both)):
        raise CannotMeasure(
            "most neighbouring voxels have the same value: labels, not an image of grey levels"
        )
