"""Quality of a run in each block, as a neuroglancer annotation layer with a box for each block."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ...axes import Nm3
from .annotations import Annotations, layer_files

PROPERTIES: dict[str, tuple[str, str]] = {
    "somas": ("int32", "number of somas whose centroid lies in the block"),
    "disagreements": (
        "int32",
        "number of pairs of labels that overlap at its upper faces but were not joined",
    ),
    "missing": ("float32", "share of black voxels in its image; -1 if no soma was segmented"),
}
_TYPES = {"int32": "<i4", "float32": "<f4"}
_RECORD = np.dtype(
    [("lower", "<f4", 3), ("upper", "<f4", 3)]
    + [(name, _TYPES[kind]) for name, (kind, _) in PROPERTIES.items()]
)
SHADER = """#uicontrol float most slider(min=1, max=20, default=5)
void main() {
  float odd = clamp(float(prop_disagreements()) / most, 0.0, 1.0);
  float black = clamp(prop_missing(), 0.0, 1.0);
  setColor(vec4(mix(vec3(0.2, 0.6, 0.3), vec3(0.9, 0.2, 0.1), max(odd, black)), 0.5));
}
"""


def quality_files(blocks: pd.DataFrame, lower_nm: Nm3, upper_nm: Nm3) -> dict[str, bytes]:
    """Return the files of the layer by relative path; equal arguments give equal bytes.

    Args:
      blocks: one row per block, with its index, start_x_nm.. and end_x_nm.. of its core, and PROPERTIES.
      lower_nm, upper_nm: corners of the volume, x, y, z.
    """
    records = np.zeros(len(blocks), _RECORD)
    start, end = (
        blocks[[f"{edge}_{a}_nm" for a in "xyz"]].to_numpy(np.float64) for edge in ("start", "end")
    )
    records["lower"], records["upper"] = start, end
    for name in PROPERTIES:
        records[name] = blocks[name]
    properties = [
        {"id": name, "type": kind, "description": description}
        for name, (kind, description) in PROPERTIES.items()
    ]
    ids = blocks["index"].to_numpy(np.uint64) + np.uint64(1)
    layer = Annotations(
        "axis_aligned_bounding_box",
        records,
        ids,
        ((start + end) / 2, (end - start) / 2),
        properties,
    )
    return layer_files(layer, lower_nm, upper_nm)


def quality_layer(source: str) -> dict[str, Any]:
    """Return the state of the layer, which is hidden initially."""
    return {
        "type": "annotation",
        "name": "quality",
        "source": source,
        "shader": SHADER,
        "visible": False,
    }
