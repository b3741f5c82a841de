"""relabel: the final id of every label, written into `somas/` block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import crackle
import numpy as np

from ..volumes.labels import create_layer
from .match import LOW, REMAP, label_ids
from .stage import Stage


class RelabelStage(Stage):
    """Writes each block's core into `somas/` with the final ids."""

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

    @cached_property
    def _remap(self) -> dict[str, np.ndarray]:
        arrays = self.run.store.get_arrays(REMAP)
        assert arrays is not None, "relabel planned before match finished"
        return arrays

    def work(self, index: int, data: Any) -> dict[str, Any]:
        block = self.run.store.get(f"blocks/{index}.ckl")
        assert block is not None, f"block {index} is gone though it has a receipt"
        labels = crackle.decompress(block)
        ids = self._remap["id"]
        first, last = np.searchsorted(ids, label_ids(index, np.array([1, LOW])))
        final = np.append(np.uint64(0), self._remap["soma"][first:last])[labels]
        self.run.somas.write(self.run.segment_grid[index].core, final)
        return {"voxels": int((final > 0).sum())}
