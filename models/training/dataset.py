"""Training data: volumes with soma labels, and the patches drawn from them. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import fastremap
import numpy as np
import torch
from torch import Tensor

from ...axes import Voxel, Zyx
from ...errors import UserError
from .augment import Augmentation, augment_intensity, crop_patch
from .targets import IGNORE, SHELL_NM, UNKNOWN, Role, section_targets, soma_targets

# Where consecutive patches lie, in turn, so that the proportions are exact: on a soma, anywhere, or far from somas.
_PLACES = ("soma", "any", "soma", "none", "soma", "any", "soma", "none", "soma", "any")
_PART = 1 << 16  # factor of the parts in a code
_EMPTY_CUBE_NM = 2000.0  # edge of the soma-free cube around the centre of a negative patch


@dataclass(frozen=True)
class Volume:
    """An image and its soma labels.

    Attributes:
      image: uint8.
      labels: uint16; 0 is background, UNKNOWN is not annotated.
      name: shown in messages.
      cores: annotated soma cores; None computes them from the labels.
      weight: relative frequency of patches from this volume.
      parts: uint8, NUCLEUS, GLIA or their sum in the somas; None if nuclei and glia are not annotated.
    """

    image: np.ndarray
    labels: np.ndarray
    name: str = ""
    cores: np.ndarray | None = None
    weight: float = 1.0
    parts: np.ndarray | None = None

    @classmethod
    def from_arrays(
        cls, image: np.ndarray, labels: np.ndarray, name: str, ignore_label: int | None = None
    ) -> Volume:
        """Make a volume from an image and integer labels, which are renumbered.

        Args:
          image, labels: z, y, x.
          name: shown in messages.
          ignore_label: label of voxels without annotation.

        Raises:
          UserError: shapes differ, a data type is not supported, or there are too many somas.
        """
        if image.shape != labels.shape or image.ndim != 3:
            raise UserError(
                f"{name}: image {image.shape} and labels {labels.shape} must have the same 3D shape"
            )
        if image.dtype != np.uint8:
            raise UserError(f"{name}: the image is {image.dtype}; training needs uint8")
        if labels.dtype.kind not in "uib":
            raise UserError(
                f"{name}: the labels are {labels.dtype}; save them as integers, 0 for background"
            )
        if labels.dtype.kind == "i" and int(labels.min()) < 0:
            raise UserError(f"{name}: a label is {int(labels.min())}; labels must not be negative")
        known = np.ones(labels.shape, bool) if ignore_label is None else labels != ignore_label
        somas, _ = fastremap.renumber(np.where(known, labels, 0), preserve_zero=True)
        if somas.max(initial=0) >= UNKNOWN:
            raise UserError(
                f"{name}: {somas.max()} somas in one volume; divide it into smaller volumes"
            )
        return cls(image, np.where(known, somas.astype(np.uint16), np.uint16(UNKNOWN)), name)

    def targets(self, voxel_nm: Voxel, role: Role, boundary_nm: float) -> np.ndarray:
        """Compute the target of each voxel, uint8."""
        if role == "locate" and self.cores is not None:
            return np.where(self.labels == UNKNOWN, IGNORE, self.cores > 0).astype(np.uint8)
        return soma_targets(self.labels, voxel_nm, role, boundary_nm, self.parts)


@dataclass(frozen=True)
class Source:
    """Training data.

    Attributes:
      train, held_out: volumes for training and for validation.
      voxel_nm: voxel size, z, y, x.
      description: saved with the weights.
    """

    train: Sequence[Volume]
    held_out: Sequence[Volume]
    voxel_nm: Voxel
    description: dict[str, object]


class Patches:
    """An endless, reproducible sequence of augmented patches.

    Args:
      volumes: volumes to draw from.
      patch: size, voxels, z, y, x.
      voxel_nm: voxel size, z, y, x.
      role: role of the network.
      augmentation: strength and rates of the augmentation.
      seed: random seed.
      boundary_nm: width of the boundary class (segment).
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        patch: Zyx,
        voxel_nm: Voxel,
        role: Role,
        augmentation: Augmentation,
        seed: int,
        boundary_nm: float = SHELL_NM,
    ) -> None:
        self.volumes, self.patch, self.seed = volumes, patch, seed
        self.augmentation = augmentation
        self.voxel_nm, self.role, self.boundary_nm = voxel_nm, role, boundary_nm
        self._targets: dict[int, np.ndarray] = {}
        cube = [max(1, round(_EMPTY_CUBE_NM / v)) for v in voxel_nm]
        rng = np.random.default_rng([seed, 7])
        self._centres: dict[str, list[tuple[int, np.ndarray]]] = {"soma": [], "none": []}
        for number, volume in enumerate(volumes):
            for kind, points in zip(self._centres, _find_centres(volume.labels, cube, rng)):
                if len(points):
                    self._centres[kind].append((number, points))

    def draw_batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Return `size` patches from number `first` on.

        Returns:
          images, float32 (size, 1, z, y, x), and target classes, uint8 (size, z, y, x).
        """
        pairs = [self.draw_patch(first + i) for i in range(size)]
        images, classes = zip(*pairs)
        return torch.stack(images)[:, None], torch.stack(classes)

    def draw_patch(self, number: int) -> tuple[Tensor, Tensor]:
        """Return image and targets (z, y, x) of one patch."""
        rng = np.random.default_rng([self.seed, number])
        candidates = self._centres.get(_PLACES[number % len(_PLACES)])
        if candidates:
            chosen, points = candidates[self._choose_volume([i for i, _ in candidates], rng)]
            centre = points[rng.integers(len(points))] + rng.normal(0, 0.15, 3) * self.patch
        else:
            chosen = self._choose_volume(list(range(len(self.volumes))), rng)
            centre = rng.uniform(0, 1, 3) * self.volumes[chosen].image.shape
        volume = self.volumes[chosen]
        arrays = (volume.image, self._target(chosen), self._codes(chosen))
        image, target = crop_patch(*arrays, centre, self.patch, self.augmentation, rng)
        if len(target) < self.patch[0]:  # an extruded section; `target` holds its codes
            parts, labels = np.divmod(target.astype(np.uint32), _PART)
            known = None if volume.parts is None else parts.astype(np.uint8)
            target = section_targets(
                labels.astype(np.uint16), self.voxel_nm, self.role, self.boundary_nm, known
            )
        classes = torch.from_numpy(target)
        image, classes = (t.expand(*self.patch).clone() for t in (image, classes))
        return augment_intensity(image, self.augmentation, rng), classes

    def _target(self, number: int) -> np.ndarray:
        """Return the targets of a volume, computed on first use."""
        if number not in self._targets:
            self._targets[number] = self.volumes[number].targets(
                self.voxel_nm, self.role, self.boundary_nm
            )
        return self._targets[number]

    def _codes(self, number: int) -> np.ndarray:
        """Return labels and parts of a volume as one array; each code is exact in float32."""
        volume = self.volumes[number]
        if volume.parts is None:
            return volume.labels
        return volume.labels + volume.parts * np.uint32(_PART)

    def _choose_volume(self, numbers: Sequence[int], rng: np.random.Generator) -> int:
        """Draw an index into a list of volume numbers, by weight."""
        weights = np.array([self.volumes[i].weight for i in numbers])
        return int(rng.choice(len(numbers), p=weights / weights.sum()))


def _find_centres(
    labels: np.ndarray, cube: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return points in somas (n, 3) and the centres of cubes without somas (m, 3)."""
    somas = np.flatnonzero((labels > 0) & (labels != UNKNOWN))
    somas = rng.choice(somas, min(len(somas), 2000), replace=False) if len(somas) else somas
    inside = np.stack(np.unravel_index(somas, labels.shape), axis=1)
    full = labels > 0
    for axis, size in enumerate(cube):
        starts = np.arange(0, max(1, full.shape[axis] - size + 1), size)
        full = np.maximum.reduceat(full, starts, axis=axis)
    return inside, (np.argwhere(~full) + 0.5) * cube
