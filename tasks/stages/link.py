"""link: the segments of another segmentation to which each soma belongs; an extra stage, after the report."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property

import numpy as np
import pandas as pd

from ...analysis.tables.links import LINK_COLUMNS, NEURON_COLUMNS, neuron_table, vote
from ...analysis.tables.somas import cave_table, parquet_bytes
from ...errors import UserError
from ..run import Run
from ..volumes.geometry import to_voxels
from ..volumes.labels import LabelLayer
from .measure import SomaStage, crop, get_frame, put_frame
from .stage import Counters, Forecast

_SOURCE = "link/source.json"
_MARGIN_NM = 1000.0  # around a soma


class LinkStage(SomaStage):
    """The votes of the segments around each soma."""

    name = "link"
    scratch = ("link/batches/",)

    @cached_property
    def segmentation(self) -> LabelLayer:
        return LabelLayer(self.run.store.get_json(_SOURCE))

    def forecast(self) -> Forecast:
        return Forecast(tasks=len(self.plan()), exact=True)

    def work(self, index: int, data: None) -> Counters:
        resolution = self.run.somas.resolution_nm
        tables = []
        for soma in self.batch(index):
            box, mask = crop(self.run, soma, to_voxels(_MARGIN_NM, resolution))
            table = vote(mask, self.segmentation.sample(box, resolution))
            table.insert(0, "id", np.uint64(soma["id"]))
            tables.append(table)
        links = _concatenate(tables)
        put_frame(self.run.store, f"link/batches/{index}.npz", links)
        return {"somas": len(tables), "joins": int(links["joins"].sum())}

    def finish(self) -> Counters:
        store = self.run.store
        links = _concatenate(get_frame(store, f"link/batches/{index}.npz") for index in self.plan())
        of_soma = neuron_table(links, self.frame["id"].to_numpy())
        parquet = store.get("tables/somas.parquet")
        assert parquet is not None, "link planned before report finished"
        somas = pd.read_parquet(io.BytesIO(parquet))
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


def _concatenate(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate tables with LINK_COLUMNS; the columns keep their types even if there is no row."""
    empty = pd.DataFrame({column.name: np.zeros(0, column.dtype) for column in LINK_COLUMNS})
    filled = [part for part in parts if len(part)]
    return (
        pd.concat(filled, ignore_index=True)[list(empty)].astype(empty.dtypes) if filled else empty
    )


def choose_segmentation(run: Run, cloudpath: str) -> None:
    """Set the segmentation to which the somas are linked, and delete the links to another one.

    Raises UserError if the run has no table of somas yet, or there is no such segmentation.
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
