"""The part of a run that `flysoma publish --verified` copies: the somas that a person has said yes to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from cloudfiles.compression import decompress

from ...analysis.layers.annotations import annotation_files
from ...analysis.layers.properties import segment_properties
from ...analysis.tables.somas import table_files
from ...errors import UserError
from ..layers.label_chunks import keep_labels
from ..layers.precomputed import parse_chunk_name
from ..run import Run
from ..storage.damage import DamagedChunk

_OF_ALL = ("centroids/", "tables/", "report/")  # show all somas
_PROPERTIES = re.compile(r"(somas|nuclei)/segment_properties/info")
_OF_ONE = re.compile(r"(?:somas|nuclei)/(?:mesh|skeletons)/(\d+)(?:\.index)?")


@dataclass(frozen=True)
class VerifiedSomas:
    """The verified somas of a run.

    Attributes:
      table: their rows.
    """

    run: Run
    table: pd.DataFrame

    @classmethod
    def of(cls, run: Run) -> VerifiedSomas:
        """Return the verified somas of a run. Raises UserError if there are none."""
        table = run.soma_table()
        if "verified" not in table or not table["verified"].any():
            raise UserError(
                f"no soma of {run.path} is verified: import verdicts with 'flysoma review {run.path} --import FILE', "
                f"then 'flysoma apply {run.path}'"
            )
        return cls(run, table[table["verified"]].reset_index(drop=True))

    @cached_property
    def _ids(self) -> np.ndarray:
        return np.sort(self.table["id"].to_numpy(np.uint64))

    def select(self, names: Iterable[str]) -> list[str]:
        """Return the names of the objects that are copied, some of them with other labels; see `change`."""
        ids = set(self._ids.tolist())
        kept = []
        for name in names:
            one = _OF_ONE.fullmatch(name)
            of_all = name.startswith(_OF_ALL) or _PROPERTIES.fullmatch(name)
            if not of_all and (one is None or int(one[1]) in ids):
                kept.append(name)
        return kept

    def files(self) -> dict[str, bytes]:
        """Return what shows all somas, made again for the verified ones: tables, properties and annotations."""
        bounds, nm = self.run.somas.bounds, np.array(self.run.somas.resolution_nm)
        low, high = ((x, y, z) for x, y, z in (np.array([bounds.lo, bounds.hi]) * nm).tolist())
        properties = json.dumps(segment_properties(self.table)).encode()
        return {
            **{f"{name}/segment_properties/info": properties for name in self.run.layer_names},
            **{f"tables/{name}": data for name, data in table_files(self.table).items()},
            **{
                f"centroids/{name}": data
                for name, data in annotation_files(self.table, low, high).items()
            },
        }

    def change(self, item: dict[str, Any]) -> dict[str, Any]:
        """Return an object, as CloudFiles reads it, without the labels of other somas if it is a chunk of labels."""
        layer, _, name = str(item["path"]).partition("/")
        chunk = parse_chunk_name(name) if layer in ("somas", "nuclei") else None
        if chunk is None:
            return item
        content = decompress(item["content"], item["compress"], item["path"])
        try:
            content = keep_labels(content, chunk[1].size, self._ids)
        except ValueError as err:
            reason = f"cannot be decoded ({err})"
            raise DamagedChunk(f"{self.run.path}/{layer}", name, reason, "restore it") from err
        return item | {"content": content, "compress": None}
