"""Stage 1, locate: image > network > probability > seeds, one point in each soma."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..models.predict import ReadImage, predict_all
from ..models.seeds import drop_duplicates, find_seeds
from .config import Locate, Segment
from .geometry import BlockGrid, Box, vec3
from .run import Run, Stage, flip, predictor
from .volume import ImageLayer, LabelLayer, Nm3

SEEDS = "seeds/seeds.npz"
_PLAN = "seeds/plan.json"
_COARSE_LIMIT = 1 << 29  # voxels of the coarsest mip above which tissue is not looked for


class LocateStage(Stage):
    """Finds seeds block by block at low resolution; each block keeps those whose centroid lies in its core."""

    name = "locate"
    scratch = ("seeds/blocks/",)
    gpu = True

    def prepare(self) -> None:
        blocks = tissue_blocks(self.run, self.run.locate_grid, self.run.config.locate.resolution_nm)
        self.run.store.put_json(_PLAN, blocks)

    def plan(self) -> Sequence[int]:
        return self.run.store.get_json(_PLAN)

    @cached_property
    def resolution_nm(self) -> np.ndarray:
        return np.array(self.run.config.locate.resolution_nm)

    def read(self, index: int) -> Any:
        return windowed(self.run.image, self.run.locate_grid, self.run.config.locate, index)

    def work(self, index: int, data: Any) -> dict[str, Any]:
        config = self.run.config.locate
        grid = self.run.locate_grid
        block = grid[index]
        network = predictor(config.weights)
        probability = predict_all(network, data, flip(grid.bounds.size), *grid.read_zyx(index))[0]
        seeds = find_seeds(
            probability, flip(config.resolution_nm), config.threshold, config.min_core_um3
        )
        positions = seeds.positions[:, ::-1] + np.array(block.read.lo)
        own = [block.core.holds(np.floor(p + 0.5)) for p in positions]
        keep = np.array(own, bool)
        self.run.store.put_arrays(
            f"seeds/blocks/{index}.npz",
            {
                "xyz_nm": ((positions + 0.5) * self.resolution_nm)[keep],
                "score": seeds.scores[keep],
                "core_um3": seeds.volumes_um3[keep],
            },
        )
        return {"seeds": int(keep.sum()), "voxels": block.read.voxels}

    def finish(self) -> dict[str, Any]:
        store = self.run.store
        parts = list(store.get_many_arrays(f"seeds/blocks/{index}.npz" for index in self.plan()))
        xyz = np.concatenate([np.zeros((0, 3)), *(p["xyz_nm"] for p in parts)])
        score = np.concatenate([np.zeros(0), *(p["score"] for p in parts)])
        core = np.concatenate([np.zeros(0), *(p["core_um3"] for p in parts)])
        keep = drop_duplicates(xyz, score, self.run.config.locate.min_distance_nm)
        order = np.flatnonzero(keep)
        order = order[np.lexsort(xyz[order].T)]  # by z, then y, then x
        store.put_arrays(
            SEEDS, {"xyz_nm": xyz[order], "score": score[order], "core_um3": core[order]}
        )
        return {"seeds": len(order), "duplicates_dropped": int((~keep).sum())}


def tissue_blocks(
    run: Run, grid: BlockGrid, resolution_nm: Nm3, with_halo: bool = False
) -> list[int]:
    """Indices of the blocks of a grid whose core (with halo: or what they read around it) holds tissue: by the mask
    layer if there is one, otherwise where the coarsest mip of the image is not black."""
    mask = run.config.mask
    if mask is None:
        layer = ImageLayer(run.config.image, fill_missing=True)
        coarse_nm, whole = layer.coarsest()
        if whole.voxels > _COARSE_LIMIT:
            return list(range(len(grid)))
        tissue = layer.read(whole, coarse_nm) > 0
    else:
        labels = LabelLayer(mask)
        coarse_nm, whole = labels.resolution_nm, labels.bounds
        tissue = labels.read(whole) > 0
    ratio = [r / c for r, c in zip(resolution_nm, coarse_nm)]
    kept = []
    for block in grid:
        part = block.read if with_halo else block.core
        box = Box(
            vec3([int(a * q // 1) for a, q in zip(part.lo, ratio)]),
            vec3([-int(-b * q // 1) for b, q in zip(part.hi, ratio)]),
        ).intersect(whole)
        if not box.empty and tissue[box.slices_zyx(whole.lo)].any():
            kept.append(block.index)
    return kept


def windowed(image: ImageLayer, grid: BlockGrid, config: Locate | Segment, index: int) -> ReadImage:
    """A reader of windows (z, y, x from the volume's first voxel): one download of what the windows of a block's
    tiles see, and one more for each that lies further out."""

    def download(lo: Any, hi: Any) -> np.ndarray:
        first, last = (
            vec3([o + a for o, a in zip(grid.bounds.lo, flip(corner))]) for corner in (lo, hi)
        )
        return image.read(Box(first, last), config.resolution_nm)

    lattice = predictor(config.weights).lattice(flip(grid.bounds.size))
    first, last = lattice.span(*grid.read_zyx(index))
    whole = download(first, last)

    def read(lo: Any, hi: Any) -> np.ndarray:
        if any(a < f or b > e for a, b, f, e in zip(lo, hi, first, last)):
            return download(lo, hi)
        return whole[tuple(slice(a - f, b - f) for a, b, f in zip(lo, hi, first))]

    return read
