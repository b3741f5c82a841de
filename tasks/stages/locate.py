"""Stage 2, locate: probabilities > seeds, one point in each soma."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...models.inference.seeds import drop_duplicates, find_seeds
from ..volumes.geometry import Box, flip
from ..volumes.tiles import CORES, read_tiles
from .stage import Stage

SEEDS = "seeds/seeds.npz"


class LocateStage(Stage):
    """Finds seeds block by block; each block keeps those whose centroid lies in its core."""

    name = "locate"
    scratch = ("seeds/blocks/",)

    def plan(self) -> Sequence[int]:
        grid, lattice = self.run.locate_grid, self.run.tiles.coarse
        found: set[int] = set()
        for number in self.run.store.indices(CORES):
            tile = Box.from_zyx(*lattice.owned(lattice.tile(number)), grid.bounds.lo)
            found.update(grid.reaching(tile.grow(grid.halo)))
        return sorted(found)

    @cached_property
    def resolution_nm(self) -> np.ndarray:
        return np.array(self.run.config.locate.resolution_nm)

    def read(self, index: int) -> Any:
        grid = self.run.locate_grid
        corners = grid[index].read.corners_zyx(grid.bounds.lo)
        return read_tiles(self.run.store, CORES, self.run.tiles.coarse, *corners)

    def work(self, index: int, data: Any) -> dict[str, Any]:
        config = self.run.config.locate
        block = self.run.locate_grid[index]
        seeds = find_seeds(data, flip(config.resolution_nm), config.threshold, config.min_core_um3)
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
