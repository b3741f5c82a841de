"""Segment properties for neuroglancer: labels, tags for filters, and numbers for sorting and queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..metrics.scores import SIZE_BINS_UM3
from ..morphology.classes import GLIA, NEURON
from ..tables.somas import column_description, knows_nuclei, soma_table, without_nucleus

# tags of neuroglancer must not contain spaces or #
TAGS: dict[str, str] = {
    "edge": "touches the edge of the volume or of the part that was segmented, so that it may be cut",
    "glia": "a glial cell",
    "large": f"larger than {SIZE_BINS_UM3[1]:g} um3, a sphere of 5 um diameter",
    "neuron": "a neuron",
    "no-nucleus": "whole, and without a nucleus",
    "seam": "joined across seams between blocks",
    "several-nuclei": "with more than one nucleus",
    "small": f"smaller than {SIZE_BINS_UM3[0]:g} um3, a sphere of 3 um diameter",
    "suspicious": "a guard refused to join it with another object",
    "verified": "a person has said that it is right",
}
_NUCLEAR = ("glia", "neuron", "no-nucleus", "several-nuclei")  # tags that need nuclei
NUMBERS = (
    "volume_um3",
    "nucleus_volume_um3",
    "nucleus_share",
    "p_glia",
    "surface_um2",
    "sphericity",
    "convexity",
    "equivalent_diameter_um",
    "inscribed_radius_um",
    "confidence",
    "nearest_nm",
    "depth_nm",
    "neurites",
)
NOT_MEASURED = -1.0


def segment_properties(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the info of a precomputed `segment_properties` folder, ready for JSON.

    Missing numbers are -1, because JSON has no NaN. Properties that are equal for all somas are omitted, because
    neuroglancer fails to draw their histogram.
    """
    table = soma_table(frame)
    tags = [tag for tag in TAGS if tag not in _NUCLEAR or knows_nuclei(table)]
    properties: list[dict[str, Any]] = [
        {"id": "label", "type": "label", "values": _labels(table)},
        {
            "id": "tags",
            "type": "tags",
            "tags": tags,
            "tag_descriptions": [TAGS[tag] for tag in tags],
            "values": _tags(table, tags),
        },
    ]
    for name in NUMBERS:
        values = table[name].to_numpy(np.float64)
        numbers = np.where(np.isnan(values), NOT_MEASURED, values).astype(np.float32)
        if len(np.unique(numbers)) < 2:
            continue
        properties.append(
            {
                "id": name,
                "type": "number",
                "data_type": "float32",
                "description": f"{column_description(name)} (-1: not measured)",
                "values": [float(f"{v:.6g}") for v in numbers],
            }
        )
    ids = [str(i) for i in table["id"].tolist()]
    inline = {"ids": ids, "properties": properties}
    return {"@type": "neuroglancer_segment_properties", "inline": inline}


def _labels(table: pd.DataFrame) -> list[str]:
    sizes = table["equivalent_diameter_um"].to_numpy(np.float64)
    return [
        f"soma {i}" + ("" if np.isnan(d) else f", {d:.1f} um")
        for i, d in zip(table["id"].tolist(), sizes)
    ]


def _tags(table: pd.DataFrame, tags: Sequence[str]) -> list[list[int]]:
    """Return the sorted indices into `tags` of the tags of each soma."""
    volume = table["volume_um3"].to_numpy(np.float64)
    has = {
        "edge": table["touches_edge"].to_numpy(bool),
        "glia": (table["class"] == GLIA).to_numpy(bool),
        "large": volume > SIZE_BINS_UM3[1],
        "neuron": (table["class"] == NEURON).to_numpy(bool),
        "no-nucleus": without_nucleus(table).to_numpy(bool),
        "seam": table["crosses_seam"].to_numpy(bool),
        "several-nuclei": (table["n_nuclei"] > 1).to_numpy(bool),
        "small": volume < SIZE_BINS_UM3[0],
        "suspicious": table["suspicious"].to_numpy(bool),
        "verified": table["verified"].to_numpy(bool),
    }
    matrix = np.stack([has[tag] for tag in tags], axis=1)
    return [np.flatnonzero(row).tolist() for row in matrix]
