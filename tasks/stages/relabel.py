"""relabel: the soma of every label, written into `somas/` and `nuclei/` block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import crackle
import numpy as np

from ..grids.geometry import BlockGrid
from ..layers.precomputed import CHUNK, create_layer, parse_chunk_name, scale_key
from ..run import stored_kind
from .match import LOW, REMAP, label_ids
from .segment import SegmentStage
from .stage import ID_BYTES, LABEL_BYTES, STORED, Counters, Forecast, SimpleStage


class RelabelStage(SimpleStage):
    """Writes the core of each block into `somas/`, with the ids of the somas, and its nuclei into `nuclei/`."""

    name = "relabel"
    prepared = ("somas/info", "nuclei/info")

    def prepare(self) -> None:
        paths = [self.run.somas_path, self.run.nuclei_path]
        for path in paths[: 1 + self.run.has_nuclei]:
            create_layer(
                path,
                "segmentation",
                "uint64",
                self.run.config.segment.resolution_nm,
                self.run.segment_grid.bounds,
            )

    def plan(self) -> Sequence[int]:
        return SegmentStage(self.run).plan()

    def forecast(self) -> Forecast:
        blocks, layers = self.run.blocks_near_tissue, 1 + self.run.has_nuclei
        chunks = BlockGrid(self.run.segment_grid.bounds, CHUNK, (0, 0, 0))
        voxels = sum(block.core.voxels for block in blocks)
        return Forecast(
            tasks=len(blocks),
            voxels=voxels,
            bytes_in=layers * voxels * LABEL_BYTES,
            bytes_out=layers * voxels * ID_BYTES,
            reads=layers * len(blocks),
            writes=layers * sum(chunks.count(block.core) for block in blocks),
        )

    @cached_property
    def _remap(self) -> dict[str, np.ndarray]:
        return self.run.store.get_arrays(REMAP)

    def work(self, index: int, data: None) -> Counters:
        first, last = np.searchsorted(self._remap["id"], label_ids(index, np.array([1, LOW])))
        soma_of = np.append(np.uint64(0), self._remap["soma"][first:last])
        stored, voxels = {}, []
        for name, kind in zip(self.run.layer_names, ("", "-nuclei")):
            block = crackle.decompress(self.run.store.get_sealed(f"blocks/{index}{kind}.ckl"))
            labels, layer = soma_of[block], self.run.layer(name)
            stored[stored_kind(name, 0)] = layer.write(self.run.segment_grid[index].core, labels)
            voxels.append(int((labels > 0).sum()))
        return {"voxels": voxels[0], STORED: stored}

    def finish(self) -> Counters:
        stored = self.put_stored()
        for name in self.run.layer_names:
            self.run.layer(name).complete(0, stored.get(stored_kind(name, 0), ()))
        return {}

    def task_of(self, path: str) -> int | None:
        chunk = parse_chunk_name(path.removeprefix("somas/").removeprefix("nuclei/"))
        if chunk is None or chunk[0] != scale_key(self.run.config.segment.resolution_nm):
            return None
        return next(iter(self.run.segment_grid.reaching(chunk[1])), None)
