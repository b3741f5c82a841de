"""Properties of somas for neuroglancer's segment list: label, tags to filter by, numbers to sort and query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..metrics.scores import SIZE_BINS_UM3
from ..tables.somas import COLUMNS, soma_table

# neuroglancer allows no space and no # in a tag
TAGS: dict[str, str] = {
    "edge": "reaches the volume's edge, so it may be cut",
    "large": f"over {SIZE_BINS_UM3[1]:g} um3, a sphere of 5 um",
    "seam": "joined from pieces of several blocks",
    "small": f"under {SIZE_BINS_UM3[0]:g} um3, a sphere of 3 um",
    "suspicious": "a guard kept stitching from joining it with something",
}
NUMBERS = (
    "volume_um3",
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
    """The info of a precomputed `segment_properties` folder, ready for JSON.

    JSON knows no NaN: a number that was not measured is -1. What is the same for all somas is left out: there is
    nothing to sort by, and neuroglancer's histogram of it fails.
    """
    table = soma_table(frame)
    meanings = {c.name: (c.meaning, c.unit) for c in COLUMNS}
    properties: list[dict[str, Any]] = [
        {"id": "label", "type": "label", "values": _labels(table)},
        {
            "id": "tags",
            "type": "tags",
            "tags": list(TAGS),
            "tag_descriptions": list(TAGS.values()),
            "values": _tags(table),
        },
    ]
    for name in NUMBERS:
        values = table[name].to_numpy(np.float64)
        numbers = np.where(np.isnan(values), NOT_MEASURED, values).astype(np.float32)
        if len(np.unique(numbers)) < 2:
            continue
        meaning, unit = meanings[name]
        properties.append(
            {
                "id": name,
                "type": "number",
                "data_type": "float32",
                "description": f"{meaning}{', ' + unit if unit else ''} (-1: not measured)",
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


def _tags(table: pd.DataFrame) -> list[list[int]]:
    """For each soma the positions in TAGS of those it has, ascending."""
    volume = table["volume_um3"].to_numpy(np.float64)
    has = {
        "edge": table["touches_edge"].to_numpy(bool),
        "large": volume > SIZE_BINS_UM3[1],
        "seam": table["crosses_seam"].to_numpy(bool),
        "small": volume < SIZE_BINS_UM3[0],
        "suspicious": table["suspicious"].to_numpy(bool),
    }
    matrix = np.stack([has[tag] for tag in TAGS], axis=1)
    return [np.flatnonzero(row).tolist() for row in matrix]
