"""link: the segments of another segmentation to which each soma belongs; an extra stage, after the report.

`tables/links/NAME/` keeps the tables of each segmentation; `tables/` has those of the last one too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property

import numpy as np
import pandas as pd

from ...analysis.tables.links import LINK_COLUMNS, NEURON_COLUMNS, neuron_table, vote
from ...analysis.tables.somas import CAVE_TABLE, cave_table, parquet_bytes
from ...errors import UserError
from ..grids.geometry import to_voxels
from ..layers.labels import LabelLayer
from ..run import Run
from ..storage.records import Record, as_record
from .measure import SomaStage, crop, get_frame, put_frame
from .stage import Counters, Forecast

_SOURCE = "link/source.json"
_COLUMNS = "links_columns.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MARGIN_NM = 1000.0  # around a soma


class _About(Record):
    segmentation: str


class LinkStage(SomaStage):
    """The votes of the segments around each soma."""

    name = "link"
    scratch = ("link/batches/",)

    @cached_property
    def frame(self) -> pd.DataFrame:
        return self.run.soma_table()

    @cached_property
    def segmentation(self) -> LabelLayer:
        return LabelLayer(self.run.store.get_json(_SOURCE)["segmentation"])

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
        somas = self.run.soma_table()
        source = store.get_json(_SOURCE)
        about = {
            "segmentation": source["segmentation"],
            "links": [asdict(column) for column in LINK_COLUMNS],
            "neurons": [asdict(column) for column in NEURON_COLUMNS],
            "cave_linked": CAVE_TABLE,
        }
        cave = cave_table(somas, of_soma["segment_id"].to_numpy())
        files = {
            "cave_linked.csv": cave.to_csv(index=False).encode(),
            _COLUMNS: json.dumps(about, indent=1).encode(),
        }
        for name, table in (("links", links), ("neurons", of_soma)):
            files[f"{name}.parquet"] = parquet_bytes(table)
            files[f"{name}.csv"] = table.round(4).to_csv(index=False).encode()
        for folder in (_folder(source["name"]), "tables/"):
            for name, data in files.items():
                store.put(f"{folder}{name}", data)
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


def choose_segmentation(run: Run, cloudpath: str, name: str | None = None) -> str:
    """Set the segmentation to which the somas are linked, and delete the intermediate data of another one.

    Args:
      name: folder of its tables below `tables/links`; default: the last part of the cloudpath.
    Returns:
      The folder of its tables, relative to the run.
    Raises:
      UserError: the run has no table of somas yet, there is no such segmentation, or the name belongs to another one.
    """
    LabelLayer(cloudpath)
    run.soma_table()
    store = run.store
    name = name or cloudpath.rpartition("/")[2]
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--name {name}: use letters, digits, '.', '_' and '-', such as --name flywire"
        )
    about = as_record(_About, store.get_json(f"{_folder(name)}{_COLUMNS}"))
    if about is not None and about["segmentation"] != cloudpath:
        raise UserError(
            f"{run.path}/{_folder(name)} holds the links to {about['segmentation']}; "
            f"choose another --name for those to {cloudpath}"
        )
    source = {"segmentation": cloudpath, "name": name}
    if store.get_json(_SOURCE) not in (None, source):
        forget_links(run)
    store.put_json(_SOURCE, source)
    return _folder(name)


def forget_links(run: Run) -> str | None:
    """Delete the intermediate data of the last links; return the segmentation, None if there are none."""
    store = run.store
    source = store.get_json(_SOURCE)
    store.delete([path for folder in ("link/", "receipts/link/") for path in store.names(folder)])
    store.delete(["stages/link.json"])
    return None if source is None else str(source["segmentation"])


def _folder(name: str) -> str:
    return f"tables/links/{name}/"
