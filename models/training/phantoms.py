"""Phantoms for a training: which ones, and a folder that keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ...axes import Voxel, Zyx
from ..phantom.look import Look
from ..phantom.make import Difficulty, SceneKind, make_phantom
from .dataset import Volume
from .targets import GLIA, NUCLEUS, Role

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

_Recipe = tuple[int, Difficulty, SceneKind]  # of a phantom; the first is its seed
_Name = TypeVar("_Name")


@dataclass(frozen=True)
class PhantomPlan:
    """A set of phantoms.

    Attributes:
      role: role of the network.
      shape: number of voxels, z, y, x.
      voxel_nm: voxel size, z, y, x.
      count: number of phantoms.
      first_seed: their random seeds start here.
      looks: looks of the phantoms, in turn; by default drawn from those of their difficulty.
    """

    role: Role
    shape: Zyx
    voxel_nm: Voxel
    count: int
    first_seed: int
    looks: tuple[Look, ...] = ()

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
    digest = hashlib.sha256(repr((plan.shape, plan.voxel_nm, plan.looks)).encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return cache / f"{plan.role}-{scene}-{difficulty}-{seed}-{digest.hexdigest()[:10]}.npz"


def _make(plan: PhantomPlan, recipe: _Recipe, path: Path) -> None:
    torch.set_num_threads(1)
    seed, difficulty, scene = recipe
    look = plan.looks[seed % len(plan.looks)] if plan.looks else None
    phantom = make_phantom(plan.shape, plan.voxel_nm, seed, difficulty, scene, look=look)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        parts = phantom.nuclei * np.uint8(NUCLEUS)
        parts += np.isin(phantom.labels, phantom.glial) * np.uint8(GLIA)
        labels = phantom.labels.astype(np.uint16)
        np.savez(file, image=phantom.image, labels=labels, parts=parts)
    part.rename(path)


def _load(path: Path) -> Volume:
    with np.load(path) as file:
        return Volume(file["image"], file["labels"], path.stem, parts=file["parts"])


def describe(plan: PhantomPlan) -> dict[str, object]:
    """Describe a plan, as saved with the weights."""
    return {"phantoms": asdict(plan), "scenes": _SCENES, "difficulties": _DIFFICULTIES}
