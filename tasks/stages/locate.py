"""locate: one seed, a point, in each soma, from the probabilities of the localization network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...models.inference.seeds import drop_duplicates, find_seeds
from ..grids.geometry import flip
from ..grids.tiles import CORES, blocks_near, count_tiles, read_tiles
from .stage import Counters, Forecast, Stage

SEEDS = "seeds/seeds.npz"


@dataclass(frozen=True)
class BlockSeeds:
    """The seeds of a block: columns of its table by name; and how many voxels were searched."""

    table: dict[str, np.ndarray]
    voxels: int


class LocateStage(Stage[np.ndarray, BlockSeeds]):
    """Finds seeds block by block; each block keeps the seeds whose centroid lies in its core."""

    name = "locate"
    scratch = ("seeds/blocks/",)
    reduced = (SEEDS,)

    def plan(self) -> Sequence[int]:
        lattice = self.run.tiles.coarse
        with_core = np.zeros(lattice.shape, bool)
        with_core.flat[self.run.stored_numbers("predict", CORES)] = True
        return blocks_near(with_core, lattice, self.run.locate_grid)

    def forecast(self) -> Forecast:
        grid, lattice = self.run.locate_grid, self.run.tiles.coarse
        blocks = blocks_near(self.run.tissue_tiles, lattice, grid)
        reads = [grid[index].read for index in blocks]
        voxels = sum(box.voxels for box in reads)
        return Forecast(
            tasks=len(blocks),
            voxels=voxels,
            bytes_in=voxels,
            reads=sum(count_tiles(lattice, *box.corners_zyx(grid.bounds.lo)) for box in reads),
            writes=len(blocks),
        )

    def read(self, index: int) -> np.ndarray:
        """Read p(core) of a block's read box: uint8, z, y, x."""
        grid = self.run.locate_grid
        corners = grid[index].read.corners_zyx(grid.bounds.lo)
        stored = self.run.stored_numbers("predict", CORES)
        return read_tiles(self.run.store, CORES, stored, self.run.tiles.coarse, *corners)

    def work(self, index: int, data: np.ndarray) -> BlockSeeds:
        config, block = self.run.config.locate, self.run.locate_grid[index]
        seeds = find_seeds(data, flip(config.resolution_nm), config.threshold, config.min_core_um3)
        positions = seeds.positions[:, ::-1] + np.array(block.read.lo)
        keep = np.array([block.core.holds(np.floor(p + 0.5)) for p in positions], bool)
        table = {
            "xyz_nm": ((positions + 0.5) * np.array(config.resolution_nm))[keep],
            "score": seeds.scores[keep],
            "core_um3": seeds.volumes_um3[keep],
        }
        return BlockSeeds(table, block.read.voxels)

    def write(self, index: int, result: BlockSeeds) -> Counters:
        self.run.store.put_arrays(f"seeds/blocks/{index}.npz", result.table)
        return {"seeds": len(result.table["score"]), "voxels": result.voxels}

    def finish(self) -> Counters:
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
