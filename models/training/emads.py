"""Read volumes in the layout of EMADS (Liu et al., CVPR 2023). Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np

from ...axes import Zyx
from ...errors import UserError


@dataclass(frozen=True)
class EmadsVolume:
    """An annotated volume.

    Attributes:
      name: its folder, relative to the EMADS folder.
      image: z, y, x.
      labels: soma labels; 0 is background.
      cores: soma cores where they are annotated, otherwise None.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    cores: np.ndarray | None


def read_emads(folder: Path, read: Callable[[Path], np.ndarray]) -> Iterator[EmadsVolume]:
    """Read every volume in an EMADS folder.

    Two layouts are supported: NAME/NAME_raw.nii.gz with NAME/NAME_mask.nii.gz and optionally NAME/NAME_seed.nii.gz;
    and NNN/data.nii.gz with NNN/label.nii.gz below `train` and `validation`. A mask of 0 and 255 is split into its
    connected components.

    Args:
      read: reads a file, z, y, x.
    Raises:
      UserError: the folder does not exist or holds no volume, an image has no labels, or a file cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}")
    images = sorted([*folder.rglob("*_raw.nii.gz"), *folder.rglob("data.nii.gz")])
    if not images:
        raise UserError(
            f"no NAME_raw.nii.gz and no data.nii.gz below {folder}; is it an EMADS folder?"
        )
    for path in images:
        is_patch = path.name == "data.nii.gz"
        name = "label.nii.gz" if is_patch else path.name.replace("_raw.", "_mask.")
        labels, seeds = path.with_name(name), path.with_name(path.name.replace("_raw.", "_seed."))
        if not labels.exists():
            raise UserError(f"{path} has no labels: {labels.name} should lie beside it")
        mask = read(labels)
        if mask.dtype.kind in "ui" and mask.max(initial=0) == 255 and len(np.unique(mask)) <= 2:
            mask = cc3d.connected_components(mask > 0, connectivity=6)
        cores = None if is_patch or not seeds.exists() else read(seeds)
        if cores is not None and cores.shape != mask.shape:
            raise UserError(f"{seeds} has shape {cores.shape} and {labels.name} {mask.shape}")
        yield EmadsVolume(str(path.parent.relative_to(folder)), read(path), mask, cores)


def downsample_image(image: np.ndarray, factor: Zyx) -> np.ndarray:
    """Downsample an image by whole factors (z, y, x): the rounded mean of each block of voxels."""
    whole = tuple(slice(0, n // f * f) for n, f in zip(image.shape, factor))
    z, y, x = (n // f for n, f in zip(image.shape, factor))
    a, b, c = factor
    mean = image[whole].reshape(z, a, y, b, x, c).mean((1, 3, 5), dtype=np.float32)
    return np.rint(mean).astype(image.dtype)


def downsample_labels(labels: np.ndarray, factor: Zyx) -> np.ndarray:
    """Downsample labels by whole factors (z, y, x): the label in the middle of each block of voxels."""
    middles = tuple(slice(f // 2, n // f * f, f) for n, f in zip(labels.shape, factor))
    return np.ascontiguousarray(labels[middles])
