"""Measure the look of an image in tissue, from samples of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...axes import Voxel
from . import texture
from .across import measure_across
from .stats import QUANTILES, LookStats

MIN_PX = 64  # smallest edge of a section that can be measured
_SECTIONS = 24  # to measure, of all samples
_MIN_TISSUE = 0.02  # of the voxels
_EQUAL_SHARE = 0.8  # of neighbouring voxels in tissue: only labels have more equal ones


class CannotMeasure(ValueError):
    """The image has nothing to measure; the message gives the reason."""


@dataclass(frozen=True)
class Sample:
    """A piece of an image.

    Attributes:
      image: uint8, (z, y, x).
      valid: (y, x) booleans, False excludes a pixel of all sections; None: all pixels are valid.
    """

    image: np.ndarray
    valid: np.ndarray | None = None


@dataclass(frozen=True)
class _Section:
    grey: np.ndarray
    tissue: np.ndarray


def measure_look(samples: Sequence[Sample], voxel_nm: Voxel) -> LookStats:
    """Measure the look of samples of one image.

    Black voxels and areas as flat as resin are excluded from all measures but their own shares.

    Args:
      samples: pieces of the image.
      voxel_nm: voxel size, z, y, x; z is 0 if the samples are single sections that are not neighbours.

    Raises:
      CannotMeasure: no sample, sections below 64 pixels, or an image that is black, constant, without tissue or labels.
    """
    sections, black, resin = _sections(samples, voxel_nm[2])
    tissue = np.concatenate([s.grey[s.tissue] for s in sections])
    membrane_parts, cytoplasm_parts = zip(
        *(texture.membrane_and_cytoplasm(s.grey, s.tissue, voxel_nm[2]) for s in sections)
    )
    patches = {
        size: np.concatenate([texture.cut_patches(s.grey, s.tissue, size) for s in sections])
        for size in (texture.PATCH_PX, MIN_PX)
    }
    if not len(patches[MIN_PX]):
        raise CannotMeasure(f"no area of {MIN_PX} x {MIN_PX} pixels is all tissue")
    sigma, grain = texture.estimate_noise(patches[texture.PATCH_PX])
    per_um, density = texture.power_spectrum(patches[MIN_PX], voxel_nm[2])
    cytoplasm = float(np.median(np.concatenate(cytoplasm_parts)))
    membranes = np.concatenate(membrane_parts)
    steps = np.array([texture.block_steps(s.grey, s.tissue) for s in sections])
    ratios = np.concatenate([texture.edge_ratios(s.grey, s.tissue) for s in sections])
    deep = [sample.image for sample in samples if len(sample.image) > 1]
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
        blur_px=texture.estimate_blur(ratios),
        block_strength=texture.block_strength(steps),
        spectrum_per_um=tuple(per_um.tolist()),
        spectrum=tuple(np.log10(np.maximum(density, 1e-9)).tolist()),
        across=measure_across(deep, voxel_nm[0]) if deep and voxel_nm[0] > 0 else None,
    )


def _sections(samples: Sequence[Sample], pixel_nm: float) -> tuple[list[_Section], float, float]:
    """Return evenly spaced sections with their tissue, and the shares of black voxels and of resin."""
    planes = [(s.image[z], s.valid) for s in samples for z in range(len(s.image))]
    if not planes:
        raise CannotMeasure("there is no section")
    rows, columns = min((image.shape for image, _ in planes), key=min)
    if min(rows, columns) < MIN_PX:
        raise CannotMeasure(
            f"a section has {columns} x {rows} pixels and {MIN_PX} x {MIN_PX} are needed"
        )
    if len(planes) > _SECTIONS and all(valid is None for _, valid in planes):
        planes = [planes[i] for i in np.linspace(0, len(planes) - 1, _SECTIONS).round().astype(int)]
    greys = [image.astype(np.float32) for image, _ in planes]
    valids = [np.ones(image.shape, bool) if v is None else v for image, v in planes]
    visible = [(grey > 0) & valid for grey, valid in zip(greys, valids)]
    total = sum(int(valid.sum()) for valid in valids)
    n_visible = sum(int(v.sum()) for v in visible)
    if n_visible <= _MIN_TISSUE * total:
        raise CannotMeasure("the image is black")
    _check_grey(greys, visible)
    contrasts = [texture.local_contrast(grey, pixel_nm) for grey in greys]
    typical = float(np.quantile(np.concatenate([c[v] for c, v in zip(contrasts, visible)]), 0.9))
    resin = [
        texture.flat_areas(contrast, typical, pixel_nm) & v
        for contrast, v in zip(contrasts, visible)
    ]
    sections = [_Section(grey, v & ~r) for grey, v, r in zip(greys, visible, resin)]
    if sum(int(s.tissue.sum()) for s in sections) <= _MIN_TISSUE * total:
        raise CannotMeasure("the image has no tissue, only flat areas")
    return sections, 1 - n_visible / total, sum(int(r.sum()) for r in resin) / total


def _check_grey(greys: Sequence[np.ndarray], visible: Sequence[np.ndarray]) -> None:
    """Raise CannotMeasure for a constant image, and for labels, where most neighbouring voxels are equal."""
    values = np.unique(np.concatenate([np.unique(grey[v]) for grey, v in zip(greys, visible)]))
    if len(values) < 2:
        raise CannotMeasure(f"all voxels that are not black have the grey value {values[0]:g}")
    pairs = [v[:, 1:] & v[:, :-1] for v in visible]
    equal = sum(int(((np.diff(g, axis=1) == 0) & p).sum()) for g, p in zip(greys, pairs))
    if equal > _EQUAL_SHARE * max(1, sum(int(p.sum()) for p in pairs)):
        raise CannotMeasure(
            "most neighbouring voxels are equal: it holds labels, not an image of grey values"
        )
