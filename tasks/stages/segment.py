"""Stage 3, segment: the boundary of each soma that a seed marks, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import crackle
import numpy as np

from ...models.inference.instances import make_instances
from ...models.inference.levels import FULL, from_nibbles
from ..volumes.geometry import Block, Box, flip, vec3
from ..volumes.tiles import FIELDS, read_tiles
from .locate import SEEDS
from .stage import Stage


class SegmentStage(Stage):
    """Labels of a block's core, with the slabs at its faces that stitching compares.

    Writes `blocks/N.ckl` (labels of the core), `blocks/N.npz` (one row a label: its seed, voxels, confidence;
    and pairs of seeds in one body, each pair from the block whose core holds its lower seed)
    and `slabs/N-AXIS-SIDE.ckl`, all in block-local labels 1..m; label l of block b is id b << 20 | l.
    """

    name = "segment"
    scratch = ("blocks/", "slabs/")

    @cached_property
    def seeds_vx(self) -> np.ndarray:
        """Positions of all seeds in voxels, x, y, z."""
        arrays = self.run.store.get_arrays(SEEDS)
        assert arrays is not None, "segment planned before locate finished"
        return arrays["xyz_nm"] / np.array(self.run.config.segment.resolution_nm) - 0.5

    def plan(self) -> Sequence[int]:
        grid = self.run.segment_grid
        found: set[int] = set()
        for seed in np.floor(self.seeds_vx + 0.5).astype(int):
            point = vec3(seed.tolist())
            found.update(grid.reaching(Box(point, vec3([p + 1 for p in point])).grow(grid.halo)))
        return sorted(found)

    def read(self, index: int) -> Any:
        grid = self.run.segment_grid
        corners = grid[index].read.corners_zyx(grid.bounds.lo)
        return from_nibbles(read_tiles(self.run.store, FIELDS, self.run.tiles.fine, *corners))

    def work(self, index: int, data: Any) -> Any:
        config, grid = self.run.config, self.run.segment_grid
        block = grid[index]
        known = block.core.grow(self.run.overlap_vx).intersect(block.read)
        numbers = self._seeds_in(block.read)
        labels, owner, one_body = make_instances(
            data[0],
            data[1],
            (self.seeds_vx[numbers] - np.array(block.read.lo))[:, ::-1],
            flip(config.segment.resolution_nm),
            config.segment.interior_threshold,
            config.soma.min_volume_um3,
            known.corners_zyx(block.read.lo),
        )
        one_body = numbers[one_body]
        core = labels[block.core.slices_zyx(known.lo)]
        inner_outer = data[(slice(None), *block.core.slices_zyx(block.read.lo))]
        sure = np.minimum(inner_outer.sum(axis=0, dtype=np.uint16), FULL)
        voxel_counts = np.bincount(core.ravel(), minlength=len(owner) + 1)[1:]
        certainty = np.bincount(core.ravel(), sure.ravel(), len(owner) + 1)[1:] / FULL
        parts = {f"blocks/{index}.ckl": core} | {
            f"slabs/{index}-{axis}-{side}.ckl": labels[slab.slices_zyx(known.lo)]
            for axis, side, slab in self._slabs(block)
        }
        table = {
            "seed": np.append(numbers, -1)[owner] + 1,  # 1-based, 0: none
            "voxels": voxel_counts,
            "certainty": certainty,
            "one_body": one_body[np.isin(one_body.min(axis=1), self._seeds_in(block.core))] + 1,
        }
        counters = {"labels": len(owner), "seeds": len(numbers)}
        return parts, table, counters | {"voxels": block.core.voxels}

    def write(self, index: int, found: Any) -> dict[str, Any]:
        parts, table, counters = found
        for path, labels in parts.items():
            self.run.store.put(path, crackle.compress(labels))
        self.run.store.put_arrays(f"blocks/{index}.npz", table)
        return counters

    def _seeds_in(self, box: Box) -> np.ndarray:
        rounded = np.floor(self.seeds_vx + 0.5)
        inside = (rounded >= box.lo) & (rounded < box.hi)
        return np.flatnonzero(inside.all(axis=1))

    def _slabs(self, block: Block) -> list[tuple[int, str, Box]]:
        """(axis, 'upper' or 'lower', box) of the slabs at faces that the block shares with another."""
        grid, half = self.run.segment_grid, self.run.overlap_vx
        slabs = [
            (axis, "upper", grid.face_slab(block.index, axis, half[axis]))
            for axis, _ in grid.upper_neighbours(block.index)
        ]
        for axis in range(3):
            below = grid.index_at(vec3([p - (a == axis) for a, p in enumerate(block.position)]))
            if below is not None:
                slabs.append((axis, "lower", grid.face_slab(below, axis, half[axis])))
        return slabs
