"""relabel: the soma of every label, written into `somas/` block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import crackle
import numpy as np

from ..volumes.geometry import BlockGrid
from ..volumes.precomputed import CHUNK, create_layer, parse_chunk_name, scale_key
from .match import LOW, REMAP, label_ids
from .segment import SegmentStage
from .stage import ID_BYTES, LABEL_BYTES, STORED, Counters, Forecast, SimpleStage


class RelabelStage(SimpleStage):
    """Writes the core of each block into `somas/`, with the ids of the somas."""

    name = "relabel"
    prepared = ("somas/info",)

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
        return SegmentStage(self.run).plan()

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
        return self.run.store.get_arrays(REMAP)

    def work(self, index: int, data: None) -> Counters:
        labels = crackle.decompress(self.run.store.get_sealed(f"blocks/{index}.ckl"))
        ids = self._remap["id"]
        first, last = np.searchsorted(ids, label_ids(index, np.array([1, LOW])))
        somas = np.append(np.uint64(0), self._remap["soma"][first:last])[labels]
        stored = self.run.somas.write(self.run.segment_grid[index].core, somas)
        return {"voxels": int((somas > 0).sum()), STORED: {"0": stored}}

    def finish(self) -> Counters:
        self.run.somas.complete(0, self.put_stored().get("0", ()))
        return {}

    def task_of(self, path: str) -> int | None:
        chunk = parse_chunk_name(path.removeprefix("somas/"))
        if chunk is None or chunk[0] != scale_key(self.run.config.segment.resolution_nm):
            return None
        return next(iter(self.run.segment_grid.reaching(chunk[1])), None)
