"""What is trained on: volumes with classes, phantom or annotated, and the patches drawn from them.

Everything is z, y, x; images are uint8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import fastremap
import numpy as np
import torch
from torch import Tensor

from ...axes import Voxel, Zyx
from ...errors import UserError
from ..phantom.make import make_phantom
from .augment import Augmentation, cut, expose
from .targets import IGNORE, SHELL_NM, UNKNOWN, Role, section_targets, soma_targets

# Of ten patches five lie on somas, three anywhere, two where no soma is: exactly, not on average.
_TURNS = ("soma", "any", "soma", "none", "soma", "any", "soma", "none", "soma", "any")
_SCENES = {
    "cortex": 0.44,
    "brain": 0.16,
    "rind": 0.08,
    "glia": 0.1,
    "neuropil": 0.12,
    "edge": 0.1,
}
_DIFFICULTIES = {"real": 0.55, "worst": 0.28, "typical": 0.14, "clean": 0.03}
_EMPTY_NM = 2000.0  # edge of the cubes that must be free of soma around a negative


@dataclass(frozen=True)
class Volume:
    """An image (uint8) and its soma labels (uint16; 0: no soma, UNKNOWN: not known).

    Attributes:
      cores: where the cores are that localization learns, where they were annotated; None: they follow from labels.
      weight: how often patches are drawn from it, compared with others.
    """

    image: np.ndarray
    labels: np.ndarray
    name: str = ""
    cores: np.ndarray | None = None
    weight: float = 1.0

    @classmethod
    def checked(
        cls, image: np.ndarray, labels: np.ndarray, name: str, ignore_label: int | None = None
    ) -> Volume:
        """With labels of any whole numbers, numbered anew.

        Raises UserError when image and labels do not match, or are of another kind.
        """
        if image.shape != labels.shape or image.ndim != 3:
            raise UserError(
                f"{name}: image {image.shape} and labels {labels.shape} must be one 3D shape"
            )
        if image.dtype != np.uint8:
            raise UserError(f"{name}: the image is {image.dtype}; training needs uint8")
        if labels.dtype.kind not in "uib":
            raise UserError(
                f"{name}: the labels are {labels.dtype}; save them as whole numbers, 0 for no soma"
            )
        if labels.dtype.kind == "i" and int(labels.min()) < 0:
            raise UserError(f"{name}: a label is {int(labels.min())}; labels must not be negative")
        known = np.ones(labels.shape, bool) if ignore_label is None else labels != ignore_label
        somas, _ = fastremap.renumber(np.where(known, labels, 0), preserve_zero=True)
        if somas.max(initial=0) >= UNKNOWN:
            raise UserError(
                f"{name}: {somas.max()} somas in a volume; cut it into several with fewer"
            )
        return cls(image, np.where(known, somas.astype(np.uint16), np.uint16(UNKNOWN)), name)

    def targets(self, voxel_nm: Voxel, role: Role, boundary_nm: float) -> np.ndarray:
        """The class of every voxel, uint8."""
        if role == "locate" and self.cores is not None:
            return np.where(self.labels == UNKNOWN, IGNORE, self.cores > 0).astype(np.uint8)
        return soma_targets(self.labels, voxel_nm, role, boundary_nm)


@dataclass(frozen=True)
class Source:
    """Volumes to learn from and others to judge by; `description` goes beside the weights."""

    train: Sequence[Volume]
    held_out: Sequence[Volume]
    voxel_nm: Voxel
    description: dict[str, object]


class Patches:
    """Patches of volumes: patch number `i` of training step `s` is always the same one."""

    def __init__(
        self,
        volumes: Sequence[Volume],
        patch: Zyx,
        voxel_nm: Voxel,
        role: Role,
        change: Augmentation,
        seed: int,
        boundary_nm: float = SHELL_NM,
    ) -> None:
        self.volumes, self.patch, self.change, self.seed = volumes, patch, change, seed
        self.voxel_nm, self.role, self.boundary_nm = voxel_nm, role, boundary_nm
        self._targets: dict[int, np.ndarray] = {}
        cube = [max(1, round(_EMPTY_NM / v)) for v in voxel_nm]
        rng = np.random.default_rng([seed, 7])
        self.places: dict[str, list[tuple[int, np.ndarray]]] = {"soma": [], "none": []}
        for number, volume in enumerate(volumes):
            for kind, points in zip(self.places, _places(volume.labels, cube, rng)):
                if len(points):
                    self.places[kind].append((number, points))

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (float32, size, 1, z, y, x) and classes (uint8, size, z, y, x) of patches `first` and on."""
        pairs = [self.one(first + i) for i in range(size)]
        images, classes = zip(*pairs)
        return torch.stack(images)[:, None], torch.stack(classes)

    def one(self, number: int) -> tuple[Tensor, Tensor]:
        """Patch `number` of the endless row of patches."""
        rng = np.random.default_rng([self.seed, number])
        places = self.places.get(_TURNS[number % len(_TURNS)])
        if places:
            chosen, points = places[self._any([i for i, _ in places], rng)]
            centre = points[rng.integers(len(points))] + rng.normal(0, 0.15, 3) * self.patch
        else:
            chosen = self._any(list(range(len(self.volumes))), rng)
            centre = rng.uniform(0, 1, 3) * self.volumes[chosen].image.shape
        volume = self.volumes[chosen]
        arrays = (volume.image, self._target(chosen), volume.labels)
        image, target = cut(*arrays, centre, self.patch, self.change, rng)
        if len(target) < self.patch[0]:  # one section for all
            target = section_targets(target, self.voxel_nm, self.role, self.boundary_nm)
        classes = torch.from_numpy(target)
        image, classes = (t.expand(*self.patch).clone() for t in (image, classes))
        return expose(image, self.change, rng), classes

    def _target(self, number: int) -> np.ndarray:
        """Classes of a volume; a second of work, so only once a patch asks for it."""
        if number not in self._targets:
            self._targets[number] = self.volumes[number].targets(
                self.voxel_nm, self.role, self.boundary_nm
            )
        return self._targets[number]

    def _any(self, numbers: Sequence[int], rng: np.random.Generator) -> int:
        """The place in a list of one of its volumes, drawn by weight."""
        weights = np.array([self.volumes[i].weight for i in numbers])
        return int(rng.choice(len(numbers), p=weights / weights.sum()))


def _places(
    labels: np.ndarray, cube: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points in somas, and centres of cubes without any."""
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
    """Phantoms to make: `count` of `shape` (z, y, x), seeds `first_seed` and on, scenes in turn."""

    role: Role
    shape: Zyx
    voxel_nm: Voxel
    count: int
    first_seed: int

    def recipes(self) -> list[tuple[int, str, str]]:
        """Seed, difficulty and scene of each phantom, spread evenly over the shares of either.

        They follow from the seed alone, so a longer plan begins with the phantoms of a shorter one.
        """
        found = []
        for seed in range(self.first_seed, self.first_seed + self.count):
            names = []
            for shares, step in ((_DIFFICULTIES, 0.7548776662), (_SCENES, 0.5698402910)):
                at = (0.5 + step * seed) % 1  # the R2 sequence: even in both at any length
                edges = np.cumsum(list(shares.values()))
                names.append(list(shares)[min(int(np.searchsorted(edges, at)), len(shares) - 1)])
            found.append((seed, names[0], names[1]))
        return found


def phantom_volumes(
    plan: PhantomPlan,
    cache: Path,
    processes: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Volume]:
    """Make the phantoms of a plan, or take them from the cache folder; `progress(done, all)`."""
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


def _phantom_path(plan: PhantomPlan, recipe: tuple[int, str, str], cache: Path) -> Path:
    """The cache's file of a phantom; another generator, plan or recipe gives another name."""
    seed, difficulty, scene = recipe
    sources = (Path(__file__).parents[1] / "phantom").glob("*.py")
    digest = hashlib.sha256(repr((plan.shape, plan.voxel_nm)).encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return cache / f"{plan.role}-{scene}-{difficulty}-{seed}-{digest.hexdigest()[:10]}.npz"


def _make(plan: PhantomPlan, recipe: tuple[int, str, str], path: Path) -> None:
    torch.set_num_threads(1)
    seed, difficulty, scene = recipe
    phantom = make_phantom(plan.shape, plan.voxel_nm, seed, difficulty, scene=scene)  # type: ignore[arg-type]
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, image=phantom.image, labels=phantom.labels.astype(np.uint16))
    part.rename(path)


def _load(path: Path) -> Volume:
    with np.load(path) as file:
        return Volume(file["image"], file["labels"], path.stem)


def describe(plan: PhantomPlan) -> dict[str, object]:
    """A plan as it is written beside the weights."""
    return {"phantoms": asdict(plan), "scenes": _SCENES, "difficulties": _DIFFICULTIES}
