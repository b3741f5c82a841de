"""Which neuron each soma belongs to: its overlap with somebody else's segmentation, and what is odd about it.

A segment joins a soma by the published vote (Liu et al., CVPR 2023): more than 0.4 of what the soma's grown box holds
of it lies in the soma; or more than 0.1, where it fills more than a tenth of that box.
"""

from __future__ import annotations

import fastremap
import numpy as np
import pandas as pd

from .somas import Column

_JOINS, _JOINS_LARGE, _LARGE = 0.4, 0.1, 0.1
_TOLD = 0.01  # share of the soma below which a segment that does not join it is not told of

LINK_COLUMNS = (
    Column("id", "uint64", "", "soma, as in somas.parquet"),
    Column("segment_id", "uint64", "", "segment of the other segmentation"),
    Column("share_of_soma", "float64", "", "of the soma's voxels, those in the segment"),
    Column(
        "share_of_segment", "float64", "", "of the segment's voxels around the soma, those in it"
    ),
    Column("joins", "bool", "", "whether the segment belongs to the soma by the published vote"),
)
NEURON_COLUMNS = (
    Column("id", "uint64", "", "soma, as in somas.parquet"),
    Column("segment_id", "uint64", "", "the segment that joins it and has most of it; 0: none"),
    Column("share_of_soma", "float64", "", "of the soma's voxels, those in that segment"),
    Column("segments", "int64", "", "segments that join it: several where the neuron is split"),
    Column(
        "somas_in_segment", "int64", "", "somas that have this segment: 1 unless two are merged"
    ),
    Column("conflict", "str", "", "'none': no segment joins it; 'shared': others have its segment"),
)


def votes(mask: np.ndarray, segments: np.ndarray) -> pd.DataFrame:
    """What each segment around a soma has of it; columns of LINK_COLUMNS but the first.

    Args:
      mask: where the soma is, bool, in a box around it.
      segments: ids there, the same shape; 0 is none.
    """
    found, counts = fastremap.unique(segments, return_counts=True)
    inside, own = fastremap.unique(segments[mask], return_counts=True)
    within = np.zeros(len(found), np.int64)
    within[np.searchsorted(found, inside)] = own
    share = within / counts
    large = counts > _LARGE * segments.size
    table = pd.DataFrame(
        {
            "segment_id": found.astype(np.uint64),
            "share_of_soma": within / max(int(mask.sum()), 1),
            "share_of_segment": share,
            "joins": np.where(large, share > _JOINS_LARGE, share > _JOINS) & (within > 0),
        }
    )
    kept = (found > 0) & (table["joins"] | (table["share_of_soma"] >= _TOLD))
    return table[kept].reset_index(drop=True)


def neurons(links: pd.DataFrame, somas: np.ndarray) -> pd.DataFrame:
    """One row for each soma, with NEURON_COLUMNS.

    Args:
      links: with LINK_COLUMNS.
      somas: ids of all somas.
    """
    joined = links[links["joins"]].sort_values(
        ["id", "share_of_soma", "segment_id"], ascending=[True, False, True]
    )
    best = joined.drop_duplicates("id").set_index("id")
    table = pd.DataFrame({"id": np.sort(somas.astype(np.uint64))})
    known = best.reindex(table["id"])
    there = table["id"].isin(best.index).to_numpy()
    segment = np.zeros(len(table), np.uint64)
    segment[there] = best["segment_id"].to_numpy(np.uint64)
    table["segment_id"] = segment
    table["share_of_soma"] = known["share_of_soma"].fillna(0.0).to_numpy()
    count = joined.groupby("id").size()
    table["segments"] = count.reindex(table["id"]).fillna(0).to_numpy(np.int64)
    shared = table[there].groupby("segment_id").size()
    table["somas_in_segment"] = shared.reindex(segment).fillna(0).to_numpy(np.int64)
    table["conflict"] = np.select(
        [~there, table["somas_in_segment"] > 1], ["none", "shared"], default=""
    )
    return table
