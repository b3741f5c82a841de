"""segment: the boundary of each soma that a seed marks, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import crackle
import numpy as np

from ...models.inference.encoding import decode_nibbles
from ...models.inference.instances import certainty_sums, make_instances
from ...models.inference.nuclei import nuclei_of, nucleus_sums
from ..grids.geometry import Block, Box, flip, vec3
from ..grids.tiles import FIELDS, NUCLEUS_FIELDS, count_tiles, read_tiles
from .locate import SEEDS
from .stage import Counters, Forecast, Stage


@dataclass(frozen=True)
class BlockFields:
    """Probabilities (uint8, 2, z, y, x).

    Attributes:
      somas: of interior and boundary, in the read box.
      nuclei: of a nucleus and of a glial cell, in the core; None if the network does not predict them.
    """

    somas: np.ndarray
    nuclei: np.ndarray | None


@dataclass(frozen=True)
class BlockLabels:
    """What a task stores: labels (uint32, z, y, x) by path, the table of the labels, and counters."""

    labels: dict[str, np.ndarray]
    table: dict[str, np.ndarray]
    counters: Counters


class SegmentStage(Stage[BlockFields, BlockLabels]):
    """Labels the somas in a block's core and in the slabs that its neighbours read too.

    Writes, for block N:
      blocks/N.ckl: labels of the core.
      blocks/N-nuclei.ckl: the same in nuclei, 0 elsewhere; only if the network predicts them.
      blocks/N.npz: one row per label: its seed, voxels, `certainty_sums`, `nucleus_sums`, and whether it is cut by the
        end of what is segmented; and pairs of seeds that lie in one body, each pair by the block whose core holds its
        lower seed.
      slabs/N-AXIS-SIDE.ckl: labels of a slab.
    Labels are numbered 1..m in each block; label l of block N has the id N << 20 | l.
    """

    name = "segment"
    scratch = ("blocks/", "slabs/")

    @cached_property
    def seeds_vx(self) -> np.ndarray:
        """Positions of all seeds in voxels, x, y, z."""
        xyz_nm = self.run.store.get_arrays(SEEDS)["xyz_nm"]
        return xyz_nm / np.array(self.run.config.segment.resolution_nm) - 0.5

    def plan(self) -> Sequence[int]:
        grid = self.run.segment_grid
        points = (vec3(seed) for seed in np.floor(self.seeds_vx + 0.5).tolist())
        boxes = (Box(point, vec3([p + 1 for p in point])) for point in points)
        return grid.reaching_any(box.grow(grid.halo) for box in boxes)

    def forecast(self) -> Forecast:
        lattice, grid, blocks = (
            self.run.tiles.fine,
            self.run.segment_grid,
            self.run.blocks_near_tissue,
        )
        boxes = [block.read for block in blocks]
        if self.run.has_nuclei:
            boxes += [block.core for block in blocks]
        return Forecast(
            tasks=len(blocks),
            voxels=sum(block.core.voxels for block in blocks),
            bytes_in=sum(box.voxels for box in boxes),
            reads=sum(count_tiles(lattice, *box.corners_zyx(grid.bounds.lo)) for box in boxes),
            writes=sum(2 + self.run.has_nuclei + grid.count_faces(block) for block in blocks),
        )

    def read(self, index: int) -> BlockFields:
        block = self.run.segment_grid[index]
        nuclei = self._read_pair(NUCLEUS_FIELDS, block.core) if self.run.has_nuclei else None
        return BlockFields(self._read_pair(FIELDS, block.read), nuclei)

    def _read_pair(self, folder: str, box: Box) -> np.ndarray:
        corners = box.corners_zyx(self.run.segment_grid.bounds.lo)
        stored = self.run.stored_numbers("predict", folder)
        tiles = read_tiles(self.run.store, folder, stored, self.run.tiles.fine, *corners)
        return decode_nibbles(tiles)

    def work(self, index: int, data: BlockFields) -> BlockLabels:
        config, grid = self.run.config, self.run.segment_grid
        block = grid[index]
        known = block.core.grow(self.run.overlap_vx).intersect(block.read)
        numbers = self._seeds_in(block.read)
        labels, owner, one_body = make_instances(
            data.somas[0],
            data.somas[1],
            (self.seeds_vx[numbers] - np.array(block.read.lo))[:, ::-1],
            flip(config.segment.resolution_nm),
            config.segment.interior_threshold,
            config.soma.min_volume_um3,
            known.corners_zyx(block.read.lo),
        )
        one_body = numbers[one_body]
        core = labels[block.core.slices_zyx(known.lo)]
        interior, boundary = data.somas[(slice(None), *block.core.slices_zyx(block.read.lo))]
        voxel_counts = np.bincount(core.ravel(), minlength=len(owner) + 1)[1:]
        parts = {f"blocks/{index}.ckl": core} | {
            f"slabs/{index}-{axis}-{side}.ckl": labels[slab.slices_zyx(known.lo)]
            for axis, side, slab in self._slabs(block)
        }
        sums = np.zeros((len(owner), 2), np.int64)
        if data.nuclei is not None:
            nuclei = parts[f"blocks/{index}-nuclei.ckl"] = nuclei_of(core, data.nuclei[0])
            sums = nucleus_sums(core, nuclei, data.nuclei[1], len(owner))
        table = {
            "seed": np.append(numbers, -1)[owner] + 1,  # from 1; 0: no seed
            "voxels": voxel_counts,
            "certainty": certainty_sums(core, interior, boundary, len(owner)),
            "nucleus": sums,
            "cut": np.isin(np.arange(1, len(owner) + 1), self.cut_labels(core, block.core)),
            "one_body": one_body[np.isin(one_body.min(axis=1), self._seeds_in(block.core))] + 1,
        }
        counters = {"labels": len(owner), "seeds": len(numbers), "voxels": block.core.voxels}
        return BlockLabels(parts, table, counters)

    def write(self, index: int, result: BlockLabels) -> Counters:
        for path, labels in result.labels.items():
            self.run.store.put_sealed(path, crackle.compress(labels))
        self.run.store.put_arrays(f"blocks/{index}.npz", result.table)
        return result.counters

    def cut_labels(self, labels: np.ndarray, box: Box) -> np.ndarray:
        """Return the labels of a box, z, y, x, that reach the end of the volume or of what is segmented of it."""
        return labels_at_end(labels, self._segmented(box.grow((1, 1, 1))))

    def _segmented(self, box: Box) -> np.ndarray:
        """Return whether each voxel of a box was segmented: bool, z, y, x. None outside the volume was."""
        grid, edges = self.run.segment_grid, self.run.tiles.fine.edges
        inside = box.intersect(grid.bounds)
        spans = [np.arange(a, b) for a, b in zip(*inside.corners_zyx(grid.bounds.lo))]
        tiles = [np.searchsorted(e, span, "right") - 1 for e, span in zip(edges, spans)]
        blocks = [span // n for span, n in zip(spans, flip(grid.core_shape))]
        segmented = self._segmented_tiles[np.ix_(*tiles)] & self._segmented_blocks[np.ix_(*blocks)]
        beyond = [(b - a, d - c) for a, b, c, d in zip(box.lo, inside.lo, inside.hi, box.hi)]
        return np.pad(segmented, beyond[::-1])

    @cached_property
    def _segmented_tiles(self) -> np.ndarray:
        """Whether each tile was predicted: bool, z, y, x."""
        tiles = np.zeros(self.run.tiles.fine.shape, bool)
        tiles.flat[self.run.stored_numbers("predict", FIELDS)] = True
        return tiles

    @cached_property
    def _segmented_blocks(self) -> np.ndarray:
        """Whether each block is segmented: bool, z, y, x."""
        blocks = np.zeros(flip(self.run.segment_grid.shape), bool)
        blocks.flat[self.plan()] = True
        return blocks

    def _seeds_in(self, box: Box) -> np.ndarray:
        rounded = np.floor(self.seeds_vx + 0.5)
        inside = (rounded >= box.lo) & (rounded < box.hi)
        return np.flatnonzero(inside.all(axis=1))

    def _slabs(self, block: Block) -> list[tuple[int, str, Box]]:
        """Return (axis, 'upper' or 'lower', box) of the slab at each face that the block shares with another."""
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


def labels_at_end(labels: np.ndarray, segmented: np.ndarray) -> np.ndarray:
    """Return the labels with a voxel beside one that was not segmented.

    Args:
      labels: z, y, x.
      segmented: bool, for the same box and one voxel around it.
    """
    found = [np.zeros(0, labels.dtype)]
    for axis in range(3):
        inner = tuple(slice(None) if a == axis else slice(1, -1) for a in range(3))
        along, own = np.moveaxis(segmented[inner], axis, 0), np.moveaxis(labels, axis, 0)
        found += [own[~along[:-2]], own[~along[2:]]]
    return np.unique(np.concatenate(found))
