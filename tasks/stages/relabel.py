"""relabel: the soma of every label, written into `somas/` block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import crackle
import numpy as np

from ..volumes.geometry import BlockGrid
from ..volumes.precomputed import CHUNK, create_layer
from .match import LOW, REMAP, label_ids
from .stage import ID_BYTES, LABEL_BYTES, Counters, Forecast, SimpleStage


class RelabelStage(SimpleStage):
    """Writes the core of each block into `somas/`, with the ids of the somas."""

    name = "relabel"

    def prepare(self) -> None:
        grid = self.run.segment_grid
        create_layer(
            self.run.somas_path,
            "segmentation",
            "uint64",
            self.run.config.segment.resolution_nm,
            grid.bounds,
        )

    def plan(self) -> Sequence[int]:
        return sorted(self.run.store.indices("receipts/segment"))

    def forecast(self) -> Forecast:
        blocks = self.run.blocks_near_tissue
        chunks = BlockGrid(self.run.segment_grid.bounds, CHUNK, (0, 0, 0))
        voxels = sum(block.core.voxels for block in blocks)
        return Forecast(
            tasks=len(blocks),
            voxels=voxels,
            bytes_in=voxels * LABEL_BYTES,
            bytes_out=voxels * ID_BYTES,
            reads=len(blocks),
            writes=sum(chunks.count(block.core) for block in blocks),
        )

    @cached_property
    def _remap(self) -> dict[str, np.ndarray]:
        arrays = self.run.store.get_arrays(REMAP)
        assert arrays is not None, "relabel planned before match finished"
        return arrays

    def work(self, index: int, data: None) -> Counters:
        block = self.run.store.get(f"blocks/{index}.ckl")
        assert block is not None, f"block {index} is missing and it has a receipt"
        labels = crackle.decompress(block)
        ids = self._remap["id"]
        first, last = np.searchsorted(ids, label_ids(index, np.array([1, LOW])))
        somas = np.append(np.uint64(0), self._remap["soma"][first:last])[labels]
        self.run.somas.write(self.run.segment_grid[index].core, somas)
        return {"voxels": int((somas > 0).sum())}
