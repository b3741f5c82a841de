"""Links from somas to neurons, by their overlap with the segments of another segmentation.

A segment is assigned to a soma by the vote of Liu et al., CVPR 2023: more than 0.4 of its voxels in a box around the
soma lie in the soma, or more than 0.1 if it fills more than a tenth of that box.
"""

from __future__ import annotations

import fastremap
import numpy as np
import pandas as pd

from .somas import Column

_MIN_SHARE = 0.4  # of a segment's voxels in the box
_MIN_SHARE_LARGE = 0.1  # of those of a large segment
_LARGE = 0.1  # share of the box that a large segment fills
_MIN_LISTED = 0.01  # share of the soma from which a segment that is not assigned to it is listed

LINK_COLUMNS = (
    Column("id", "uint64", "", "soma id, as in somas.parquet"),
    Column("segment_id", "uint64", "", "segment id in the other segmentation"),
    Column("share_of_soma", "float64", "", "share of the soma's voxels that lie in the segment"),
    Column(
        "share_of_segment",
        "float64",
        "",
        "share of the segment's voxels in the box around the soma that lie in the soma",
    ),
    Column(
        "joins", "bool", "", "whether the segment is assigned to the soma by the published vote"
    ),
)
NEURON_COLUMNS = (
    Column("id", "uint64", "", "soma id, as in somas.parquet"),
    Column(
        *("segment_id", "uint64", ""),
        "segment with the largest share of the soma among those assigned to it; 0: none",
    ),
    Column("share_of_soma", "float64", "", "share of the soma's voxels that lie in this segment"),
    Column(
        "segments",
        "int64",
        "",
        "number of segments assigned to the soma; above 1 if the neuron is split",
    ),
    Column(
        "somas_in_segment",
        "int64",
        "",
        "number of somas with this segment; above 1 if neurons are merged",
    ),
    Column(
        "conflict",
        "str",
        "",
        "'none': no segment is assigned; 'shared': other somas have the same segment",
    ),
)


def vote(mask: np.ndarray, segments: np.ndarray) -> pd.DataFrame:
    """Decide which segments in a box around a soma belong to the soma.

    Args:
      mask: the soma, bool.
      segments: segment ids, of the same shape; 0 is background.

    Returns:
      One row for each listed segment, with LINK_COLUMNS except for `id`.
    """
    ids, counts = fastremap.unique(segments, return_counts=True)
    ids_in_soma, counts_in_soma = fastremap.unique(segments[mask], return_counts=True)
    within = np.zeros(len(ids), np.int64)
    within[np.searchsorted(ids, ids_in_soma)] = counts_in_soma
    share = within / counts
    large = counts > _LARGE * segments.size
    table = pd.DataFrame(
        {
            "segment_id": ids.astype(np.uint64),
            "share_of_soma": within / max(int(mask.sum()), 1),
            "share_of_segment": share,
            "joins": (share > np.where(large, _MIN_SHARE_LARGE, _MIN_SHARE)) & (within > 0),
        }
    )
    listed = (ids > 0) & (table["joins"] | (table["share_of_soma"] >= _MIN_LISTED))
    return table[listed].reset_index(drop=True)


def neuron_table(links: pd.DataFrame, somas: np.ndarray) -> pd.DataFrame:
    """Return one row for each soma, with NEURON_COLUMNS.

    Args:
      links: table with LINK_COLUMNS.
      somas: ids of all somas.
    """
    joined = links[links["joins"]].sort_values(
        ["id", "share_of_soma", "segment_id"], ascending=[True, False, True]
    )
    best = joined.drop_duplicates("id").set_index("id")
    table = pd.DataFrame({"id": np.sort(somas.astype(np.uint64))})
    linked = table["id"].isin(best.index).to_numpy()
    segment = np.zeros(len(table), np.uint64)
    segment[linked] = best["segment_id"].to_numpy(np.uint64)
    table["segment_id"] = segment
    table["share_of_soma"] = best["share_of_soma"].reindex(table["id"]).fillna(0.0).to_numpy()
    count = joined.groupby("id").size()
    table["segments"] = count.reindex(table["id"]).fillna(0).to_numpy(np.int64)
    shared = table[linked].groupby("segment_id").size()
    table["somas_in_segment"] = shared.reindex(segment).fillna(0).to_numpy(np.int64)
    table["conflict"] = np.select(
        [~linked, table["somas_in_segment"] > 1], ["none", "shared"], default=""
    )
    return table
