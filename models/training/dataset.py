"""Training data: volumes with soma labels, phantoms, and the patches drawn from volumes. Arrays are z, y, x."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import fastremap
import numpy as np
import torch
from torch import Tensor

from ...axes import Voxel, Zyx
from ...errors import UserError
from ..phantom.make import Difficulty, SceneKind, make_phantom
from .augment import Augmentation, augment_intensity, crop_patch
from .targets import IGNORE, SHELL_NM, UNKNOWN, Role, section_targets, soma_targets

# Where consecutive patches lie, in turn, so that the proportions are exact: on a soma, anywhere, or far from somas.
_PLACES = ("soma", "any", "soma", "none", "soma", "any", "soma", "none", "soma", "any")
_SCENES: dict[SceneKind, float] = {
    "cortex": 0.44,
    "brain": 0.16,
    "rind": 0.08,
    "glia": 0.1,
    "neuropil": 0.12,
    "edge": 0.1,
}
_DIFFICULTIES: dict[Difficulty, float] = {
    "real": 0.55,
    "worst": 0.28,
    "typical": 0.14,
    "clean": 0.03,
}
_R2 = (0.7548776662, 0.5698402910)  # steps of the R2 low-discrepancy sequence
_EMPTY_CUBE_NM = 2000.0  # edge of the soma-free cube around the centre of a negative patch

_Recipe = tuple[int, Difficulty, SceneKind]  # of a phantom; the first is its seed
_Name = TypeVar("_Name")


@dataclass(frozen=True)
class Volume:
    """An image and its soma labels.

    Attributes:
      image: uint8.
      labels: uint16; 0 is background, UNKNOWN is not annotated.
      name: shown in messages.
      cores: annotated soma cores; None computes them from the labels.
      weight: relative frequency of patches from this volume.
    """

    image: np.ndarray
    labels: np.ndarray
    name: str = ""
    cores: np.ndarray | None = None
    weight: float = 1.0

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
        """Compute the target class of each voxel, uint8."""
        if role == "locate" and self.cores is not None:
            return np.where(self.labels == UNKNOWN, IGNORE, self.cores > 0).astype(np.uint8)
        return soma_targets(self.labels, voxel_nm, role, boundary_nm)


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
        """Return image and target classes (z, y, x) of one patch."""
        rng = np.random.default_rng([self.seed, number])
        candidates = self._centres.get(_PLACES[number % len(_PLACES)])
        if candidates:
            chosen, points = candidates[self._choose_volume([i for i, _ in candidates], rng)]
            centre = points[rng.integers(len(points))] + rng.normal(0, 0.15, 3) * self.patch
        else:
            chosen = self._choose_volume(list(range(len(self.volumes))), rng)
            centre = rng.uniform(0, 1, 3) * self.volumes[chosen].image.shape
        volume = self.volumes[chosen]
        arrays = (volume.image, self._target(chosen), volume.labels)
        image, target = crop_patch(*arrays, centre, self.patch, self.augmentation, rng)
        if len(target) < self.patch[0]:  # an extruded section; `target` holds its labels
            target = section_targets(target, self.voxel_nm, self.role, self.boundary_nm)
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


@dataclass(frozen=True)
class PhantomPlan:
    """A set of phantoms.

    Attributes:
      role: role of the network.
      shape: number of voxels, z, y, x.
      voxel_nm: voxel size, z, y, x.
      count: number of phantoms.
      first_seed: their random seeds start here.
    """

    role: Role
    shape: Zyx
    voxel_nm: Voxel
    count: int
    first_seed: int

    def recipes(self) -> list[_Recipe]:
        """Return seed, difficulty and scene of each phantom.

        Difficulty and scene depend only on the seed, and approach their proportions at any count.
        """
        return [
            (seed, _choose(_DIFFICULTIES, _R2[0] * seed), _choose(_SCENES, _R2[1] * seed))
            for seed in range(self.first_seed, self.first_seed + self.count)
        ]


def _choose(proportions: dict[_Name, float], position: float) -> _Name:
    """Choose a name by its proportion, from a position that is taken modulo 1."""
    edges = np.cumsum(list(proportions.values()))
    index = int(np.searchsorted(edges, (0.5 + position) % 1))
    return list(proportions)[min(index, len(edges) - 1)]


def load_phantoms(
    plan: PhantomPlan,
    cache: Path,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Volume]:
    """Load the phantoms of a plan from the cache folder, and make those that are missing.

    Args:
      plan: the phantoms.
      cache: folder of the phantoms.
      processes: number of processes that make phantoms.
      progress: called with the number of finished phantoms and of all phantoms.
    """
    cache.mkdir(parents=True, exist_ok=True)
    recipes = plan.recipes()
    paths = [_phantom_path(plan, recipe, cache) for recipe in recipes]
    missing = [(plan, r, p) for r, p in zip(recipes, paths) if not p.exists()]
    done = len(paths) - len(missing)
    if missing and processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for finished in as_completed([pool.submit(_make, *job) for job in missing]):
                finished.result()
                done += 1
                if progress:
                    progress(done, len(paths))
    else:
        for job in missing:
            _make(*job)
            done += 1
            if progress:
                progress(done, len(paths))
    return [_load(path) for path in paths]


def _phantom_path(plan: PhantomPlan, recipe: _Recipe, cache: Path) -> Path:
    """Return the cache file of a phantom. The name depends on the plan, the recipe and the code in models/phantom."""
    seed, difficulty, scene = recipe
    sources = (Path(__file__).parents[1] / "phantom").glob("*.py")
    digest = hashlib.sha256(repr((plan.shape, plan.voxel_nm)).encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return cache / f"{plan.role}-{scene}-{difficulty}-{seed}-{digest.hexdigest()[:10]}.npz"


def _make(plan: PhantomPlan, recipe: _Recipe, path: Path) -> None:
    torch.set_num_threads(1)
    seed, difficulty, scene = recipe
    phantom = make_phantom(plan.shape, plan.voxel_nm, seed, difficulty, scene=scene)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, image=phantom.image, labels=phantom.labels.astype(np.uint16))
    part.rename(path)


def _load(path: Path) -> Volume:
    with np.load(path) as file:
        return Volume(file["image"], file["labels"], path.stem)


def describe(plan: PhantomPlan) -> dict[str, object]:
    """Describe a plan, as saved with the weights."""
    return {"phantoms": asdict(plan), "scenes": _SCENES, "difficulties": _DIFFICULTIES}
