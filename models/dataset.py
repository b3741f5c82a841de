"""What is trained on: volumes with classes, phantom or annotated, and the patches drawn from them.

Everything is z, y, x; images are uint8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import cc3d
import fastremap
import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .augment import Augmentation, cut, expose
from .phantom import make_phantom
from .targets import Role, Voxel, section_targets, soma_targets

Zyx = tuple[int, int, int]
# Of ten patches five lie on somas, three anywhere, two where no soma is: exactly, not on average.
_TURNS = ("soma", "any", "soma", "none", "soma", "any", "soma", "none", "soma", "any")
_SCENES = {"brain": 0.4, "rind": 0.2, "glia": 0.15, "neuropil": 0.125, "edge": 0.125}
_DIFFICULTIES = {"typical": 0.65, "worst": 0.2, "clean": 0.15}
_EMPTY_NM = 2000.0  # edge of the cubes that must be free of soma around a negative


@dataclass(frozen=True)
class Volume:
    """An image (uint8) and its soma labels (0: no soma; few enough for float32 to tell them apart)."""

    image: np.ndarray
    labels: np.ndarray
    name: str = ""

    @classmethod
    def checked(cls, image: np.ndarray, labels: np.ndarray, name: str = "") -> Volume:
        """With labels of any integers, numbered anew. Raises UserError when image and labels do not match."""
        if image.shape != labels.shape or image.ndim != 3:
            raise UserError(
                f"{name}: image {image.shape} and labels {labels.shape} must be one 3D shape"
            )
        if image.dtype != np.uint8:
            raise UserError(f"{name}: the image is {image.dtype}; training needs uint8")
        labels, _ = fastremap.renumber(np.ascontiguousarray(labels), preserve_zero=True)
        return cls(image, labels, name)


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
    ) -> None:
        self.volumes, self.patch, self.change, self.seed = volumes, patch, change, seed
        self.voxel_nm, self.role = voxel_nm, role
        self.targets = [soma_targets(volume.labels, voxel_nm, role) for volume in volumes]
        cube = [max(1, round(_EMPTY_NM / v)) for v in voxel_nm]
        rng = np.random.default_rng([seed, 7])
        self.places: dict[str, list[tuple[int, np.ndarray]]] = {"soma": [], "none": []}
        for number, volume in enumerate(volumes):
            for kind, points in zip(self.places, _places(volume.labels, cube, rng)):
                if len(points):
                    self.places[kind].append((number, points))

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Images (float32, size, 1, z, y, x) and classes (uint8, size, z, y, x) of a step."""
        pairs = [self.one(step * size + i) for i in range(size)]
        images, classes = zip(*pairs)
        return torch.stack(images)[:, None], torch.stack(classes)

    def one(self, number: int) -> tuple[Tensor, Tensor]:
        """Patch `number` of the endless row of patches."""
        rng = np.random.default_rng([self.seed, number])
        places = self.places.get(_TURNS[number % len(_TURNS)])
        if places:
            chosen, points = places[rng.integers(len(places))]
            centre = points[rng.integers(len(points))] + rng.normal(0, 0.15, 3) * self.patch
        else:
            chosen = int(rng.integers(len(self.volumes)))
            centre = rng.uniform(0, 1, 3) * self.volumes[chosen].image.shape
        volume = self.volumes[chosen]
        arrays = (volume.image, self.targets[chosen], volume.labels)
        image, target = cut(*arrays, centre, self.patch, self.change, rng)
        if len(target) < self.patch[0]:  # one section for all
            target = section_targets(target, self.voxel_nm, self.role)
        classes = torch.from_numpy(target)
        image, classes = (t.expand(*self.patch).clone() for t in (image, classes))
        return expose(image, self.change, rng), classes


def _places(
    labels: np.ndarray, cube: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points in somas, and centres of cubes without any."""
    somas = np.flatnonzero(labels)
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
    here = Path(__file__).parent
    digest = hashlib.sha256(repr((plan.shape, plan.voxel_nm)).encode())
    for source in sorted(here.glob("phantom*.py")):
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


def emads_pairs(folder: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, image and labels of every volume in an EMADS folder.

    Blocks are NAME/NAME_raw.nii.gz with NAME/NAME_mask.nii.gz, patches are NNN/data.nii.gz with
    NNN/label.nii.gz below `train` and `validation`; a mask of 0 and 255 is split into its parts.
    Raises UserError for a folder that holds neither, or an image without its labels.
    """
    images = sorted([*folder.rglob("*_raw.nii.gz"), *folder.rglob("data.nii.gz")])
    if not images:
        raise UserError(
            f"no NAME_raw.nii.gz and no data.nii.gz below {folder}; is it an EMADS folder?"
        )
    for path in images:
        other = (
            "label.nii.gz" if path.name == "data.nii.gz" else path.name.replace("_raw.", "_mask.")
        )
        labels = path.with_name(other)
        if not labels.exists():
            raise UserError(f"{path} has no labels: {labels.name} should lie beside it")
        mask = read_nifti(labels)
        if mask.max(initial=0) == 255 and len(np.unique(mask)) <= 2:
            mask = cc3d.connected_components(mask > 0, connectivity=6)
        yield str(path.parent.relative_to(folder)), read_nifti(path).astype(np.uint8), mask


def read_nifti(path: Path) -> np.ndarray:
    """The array of a NIfTI file as it is stored, z, y, x for EMADS; UserError when it is unreadable."""
    import nibabel

    try:
        return np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as err:
        raise UserError(f"{path} cannot be read as NIfTI: {err}") from err


def shrink(image: np.ndarray, labels: np.ndarray, factor: Zyx) -> tuple[np.ndarray, np.ndarray]:
    """Coarser voxels by whole factors: the mean of the image, the label in the middle of each block."""
    whole = tuple(slice(0, n // f * f) for n, f in zip(image.shape, factor))
    z, y, x = (n // f for n, f in zip(image.shape, factor))
    a, b, c = factor
    mean = image[whole].reshape(z, a, y, b, x, c).mean((1, 3, 5), dtype=np.float32)
    middle = labels[whole][a // 2 :: a, b // 2 :: b, c // 2 :: c]
    return np.rint(mean).astype(np.uint8), np.ascontiguousarray(middle)


def describe(plan: PhantomPlan) -> dict[str, object]:
    """A plan as it is written beside the weights."""
    return {"phantoms": asdict(plan), "scenes": _SCENES, "difficulties": _DIFFICULTIES}
