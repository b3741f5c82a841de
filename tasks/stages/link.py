"""link: which segments of another segmentation each soma belongs to. A stage of its own, once there are somas."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ...analysis.tables.links import LINK_COLUMNS, NEURON_COLUMNS, neurons, votes
from ...analysis.tables.somas import cave_table, parquet_bytes
from ...errors import UserError
from ..run import Run
from ..volumes.geometry import to_voxels
from ..volumes.labels import LabelLayer
from .measure import SHAPES, batch, batches, crop, get_frame, put_frame
from .stage import Stage

_SOURCE = "link/source.json"
_AROUND_NM = 1000.0  # by which a soma's box is grown


class LinkStage(Stage):
    """One task a batch of somas: the votes of the segments around each."""

    name = "link"
    scratch = ("link/batches/",)

    @cached_property
    def frame(self) -> pd.DataFrame:
        return get_frame(self.run.store, SHAPES)

    @cached_property
    def segmentation(self) -> LabelLayer:
        return LabelLayer(self.run.store.get_json(_SOURCE))

    def plan(self) -> Sequence[int]:
        return batches(self.frame)

    def work(self, index: int, data: Any) -> dict[str, Any]:
        resolution = self.run.somas.resolution_nm
        rows = []
        for _, soma in batch(self.frame, index):
            box, mask = crop(self.run, soma, to_voxels(_AROUND_NM, resolution))
            found = votes(mask, self.segmentation.sample(box, resolution))
            found.insert(0, "id", np.uint64(soma["id"]))
            rows.append(found)
        links = _together(rows)
        put_frame(self.run.store, f"link/batches/{index}.npz", links)
        return {"somas": len(rows), "joins": int(links["joins"].sum())}

    def finish(self) -> dict[str, Any]:
        store = self.run.store
        links = _together(get_frame(store, f"link/batches/{index}.npz") for index in self.plan())
        of_soma = neurons(links, self.frame["id"].to_numpy())
        written = store.get("tables/somas.parquet")
        assert written is not None, "link planned before the run was published"
        somas = pd.read_parquet(io.BytesIO(written))
        cave = cave_table(somas)
        cave["pt_root_id"] = of_soma["segment_id"].to_numpy()
        about = {
            "segmentation": store.get_json(_SOURCE),
            "links": [asdict(column) for column in LINK_COLUMNS],
            "neurons": [asdict(column) for column in NEURON_COLUMNS],
        }
        for name, table in (("links", links), ("neurons", of_soma)):
            store.put(f"tables/{name}.parquet", parquet_bytes(table))
            store.put(f"tables/{name}.csv", table.round(4).to_csv(index=False).encode())
        store.put("tables/cave_linked.csv", cave.to_csv(index=False).encode())
        store.put("tables/links_columns.json", json.dumps(about, indent=1).encode())
        return {
            "somas": len(of_soma),
            "linked": int((of_soma["segments"] > 0).sum()),
            "none": int((of_soma["conflict"] == "none").sum()),
            "shared": int((of_soma["conflict"] == "shared").sum()),
            "several_segments": int((of_soma["segments"] > 1).sum()),
        }


def _together(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables with LINK_COLUMNS as one, of their types even when there is no row."""
    none = pd.DataFrame({column.name: np.zeros(0, column.dtype) for column in LINK_COLUMNS})
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True)[list(none)].astype(none.dtypes) if filled else none


def choose_segmentation(run: Run, cloudpath: str) -> None:
    """Note which segmentation the somas are linked to; what was found with another is forgotten.

    Raises UserError when the run has no table of somas yet, or there is no such segmentation.
    """
    LabelLayer(cloudpath)
    store = run.store
    if store.get("tables/somas.parquet") is None:
        raise UserError(
            f"{run.path} has no table of somas yet: finish it with 'flysoma run {run.path}/config.yaml'"
        )
    if store.get_json(_SOURCE) not in (None, cloudpath):
        store.delete(
            [name for folder in ("link/", "receipts/link/") for name in store.names(folder)]
        )
        store.delete(["stages/link.json"])
    store.put_json(_SOURCE, cloudpath)
