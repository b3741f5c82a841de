"""Neuroglancer annotation layers, and the layer of somas: an ellipsoid for each soma, linked to its segment.

Format: precomputed annotations, version 1, unsharded. Neuroglancer draws the levels of the spatial index that suit the
zoom. Level 0 has one cell that covers the volume. Each level contains every remaining annotation with probability
min(1, limit / largest number of remaining annotations in a cell), so that it is a uniform sample; the others are
distributed over the smaller cells of the next level.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...axes import Nm3
from ..tables.somas import column_description, soma_table

RELATIONSHIP = "soma"
PROPERTIES = ("volume_um3", "equivalent_diameter_um", "sphericity", "confidence", "nearest_nm")
_FLAGS = ("touches_edge", "suspicious")
_RECORD = np.dtype(
    [
        ("centre", "<f4", 3),
        ("radii", "<f4", 3),
        *((name, "<f4") for name in PROPERTIES),
        *((name, "|u1") for name in _FLAGS),
        ("padding", "|u1", -len(_FLAGS) % 4),
    ]
)
_MAX_LEVELS = 12
# The colour encodes the diameter, from dark blue (2 um) to yellow (8 um); suspicious somas are red. Annotations are
# nearly transparent in sections, so that the segments remain visible.
SHADER = """#uicontrol bool in_3d checkbox(default=true)
#uicontrol float smallest slider(min=0, max=12, default=2)
#uicontrol float largest slider(min=0, max=12, default=8)
void main() {
  if (PROJECTION_VIEW && !in_3d) discard;
  float size = clamp((prop_equivalent_diameter_um() - smallest) / max(largest - smallest, 0.01), 0.0, 1.0);
  vec3 colour = mix(vec3(0.13, 0.27, 0.62), vec3(0.99, 0.80, 0.22), size);
  float alpha = PROJECTION_VIEW ? 0.8 : 0.15;
  setColor(vec4(prop_suspicious() > 0u ? vec3(0.9, 0.2, 0.2) : colour, alpha));
}
"""


@dataclass(frozen=True)
class Annotations:
    """The annotations of a layer, one per row.

    Attributes:
      kind: annotation type of neuroglancer.
      records: encoded annotations, a structured array.
      ids: their ids.
      box_nm: centre and half the extent of their bounding boxes, both n, 3; x, y, z.
      properties: id, type and description of each property, as in the info.
      related: name of the relationship to the segment with the same id, or None.
    """

    kind: str
    records: np.ndarray
    ids: np.ndarray
    box_nm: tuple[np.ndarray, np.ndarray]
    properties: Sequence[dict[str, str]]
    related: str | None = None


def annotation_files(
    frame: pd.DataFrame, lower_nm: Nm3, upper_nm: Nm3, *, limit: int = 1000, seed: int = 0
) -> dict[str, bytes]:
    """Return the files of a layer of somas by relative path; equal arguments give equal bytes.

    Args:
      frame: table of somas; see `tables.somas.COLUMNS`. May be empty.
      lower_nm, upper_nm: corners of the volume, x, y, z.
      limit: approximate maximum number of annotations in a cell of the spatial index.
      seed: seed of the random order and of the random choice of levels.
    """
    table = soma_table(frame)
    records = _records(table)
    properties = [
        {"id": name, "type": kind, "description": column_description(name)}
        for kind, names in (("float32", PROPERTIES), ("uint8", _FLAGS))
        for name in names
    ]
    somas = Annotations(
        "ellipsoid",
        records,
        table["id"].to_numpy(np.uint64),
        (records["centre"].astype(np.float64), records["radii"].astype(np.float64)),
        properties,
        RELATIONSHIP,
    )
    return layer_files(somas, lower_nm, upper_nm, limit=limit, seed=seed)


def layer_files(
    layer: Annotations, lower_nm: Nm3, upper_nm: Nm3, *, limit: int = 1000, seed: int = 0
) -> dict[str, bytes]:
    """Return the files of a layer by relative path; arguments as for `annotation_files`."""
    files = {}
    for i, number in enumerate(layer.ids.tolist()):
        row = slice(i, i + 1)
        files[f"by_id/{number}"] = layer.records[row].tobytes()
        if layer.related:
            segment = layer.ids[row].astype("<u8").tobytes()
            files[f"by_id/{number}"] += np.array(1, "<u4").tobytes() + segment
            files[f"{layer.related}/{number}"] = _encode_list(layer.records[row], layer.ids[row])
    levels = []
    lower, upper = np.array(lower_nm, np.float64), np.array(upper_nm, np.float64)
    for number, level in enumerate(_levels(layer.box_nm, lower, upper, limit, seed)):
        grid, cells = level
        for cell, members in cells.items():
            key = "_".join(str(c) for c in cell)
            files[f"spatial{number}/{key}"] = _encode_list(
                layer.records[members], layer.ids[members]
            )
        most = max((len(m) for m in cells.values()), default=0)
        levels.append(
            {
                "key": f"spatial{number}",
                "grid_shape": [int(n) for n in grid],
                "chunk_size": ((upper - lower) / grid).tolist(),
                "limit": max(most, 1),
            }
        )
    files["info"] = json.dumps(_info(layer, lower_nm, upper_nm, levels)).encode()
    return files


def _info(
    layer: Annotations, lower: Nm3, upper: Nm3, levels: list[dict[str, Any]]
) -> dict[str, Any]:
    related = [{"id": layer.related, "key": layer.related}] if layer.related else []
    return {
        "@type": "neuroglancer_annotations_v1",
        "dimensions": {a: [1e-9, "m"] for a in "xyz"},
        "lower_bound": [float(v) for v in lower],
        "upper_bound": [float(v) for v in upper],
        "annotation_type": layer.kind,
        "properties": list(layer.properties),
        "relationships": related,
        "by_id": {"key": "by_id"},
        "spatial": levels,
    }


def _records(table: pd.DataFrame) -> np.ndarray:
    """Encode one ellipsoid per row, with the proportions of the bounding box and the volume of the soma."""
    records = np.zeros(len(table), _RECORD)
    records["centre"] = table[["x_nm", "y_nm", "z_nm"]].to_numpy()
    start = table[[f"bb_start_{a}_nm" for a in "xyz"]].to_numpy()
    end = table[[f"bb_end_{a}_nm" for a in "xyz"]].to_numpy()
    half = np.nan_to_num((end - start) / 2.0)
    inscribed_um3 = 4.0 / 3.0 * np.pi * half.prod(axis=1) * 1e-9  # ellipsoid in the bounding box
    volume = np.nan_to_num(table["volume_um3"].to_numpy())
    ball_radius = np.cbrt(volume * 3.0 / (4.0 * np.pi)) * 1e3
    has_box = inscribed_um3 > 0
    scale = np.cbrt(volume / np.where(has_box, inscribed_um3, 1.0))
    records["radii"] = np.where(has_box[:, None], half * scale[:, None], ball_radius[:, None])
    for name in (*PROPERTIES, *_FLAGS):
        records[name] = table[name]
    return records


def _encode_list(records: np.ndarray, ids: np.ndarray) -> bytes:
    """Encode annotations as their number, the records and the ids."""
    return np.array(len(ids), "<u8").tobytes() + records.tobytes() + ids.astype("<u8").tobytes()


def _levels(
    box_nm: tuple[np.ndarray, np.ndarray],
    lower: np.ndarray,
    upper: np.ndarray,
    limit: int,
    seed: int,
) -> Iterator[tuple[np.ndarray, dict[tuple[int, ...], np.ndarray]]]:
    """Yield for each level of the spatial index the number of cells along x, y, z and the members of occupied cells.

    Annotations that intersect several cells are members of each. Members are in random order.
    """
    random = np.random.default_rng(seed)
    remaining = random.permutation(len(box_nm[0]))
    grid = np.ones(3, np.int64)
    for level in range(_MAX_LEVELS):
        size = (upper - lower) / grid
        first, last = _cell_ranges(box_nm[0][remaining], box_nm[1][remaining], lower, size, grid)
        row, cell = _expand_ranges(first, last)
        codes = np.ravel_multi_index(tuple(cell.T), tuple(grid)) if len(row) else row
        most = int(np.bincount(codes).max()) if len(row) else 0
        share = 1.0 if level == _MAX_LEVELS - 1 else min(1.0, limit / max(most, 1))
        selected = random.random(len(remaining)) < share
        cells = {}
        shown = selected[row]
        order = np.argsort(codes[shown], kind="stable")
        members, member_codes = remaining[row[shown]][order], codes[shown][order]
        for part in np.split(
            np.arange(len(member_codes)), np.flatnonzero(np.diff(member_codes)) + 1
        ):
            if len(part):
                index = np.unravel_index(int(member_codes[part[0]]), tuple(grid))
                cells[tuple(int(i) for i in index)] = members[part]
        if level == 0 and not cells:
            cells[(0, 0, 0)] = remaining[:0]
        yield grid, cells
        remaining = remaining[~selected]
        if len(remaining) == 0:
            return
        grid = grid * _divisions(size)


def _divisions(size: np.ndarray) -> np.ndarray:
    """Return 2 for each axis along which to halve a cell, so that cells approach cubes, and 1 for the others."""
    return np.where(size > 0.7 * size.max(), 2, 1)


def _cell_ranges(
    centre: np.ndarray, half: np.ndarray, lower: np.ndarray, size: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and last cell that each box intersects, clamped to the grid."""
    first = np.floor((centre - half - lower) / size).astype(np.int64)
    last = np.floor((centre + half - lower) / size).astype(np.int64)
    return np.clip(first, 0, grid - 1), np.clip(last, 0, grid - 1)


def _expand_ranges(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all pairs of row and cell, in the order of rows, for the cells from `first` to `last` of each row."""
    count = last - first + 1
    total = count.prod(axis=1)
    row = np.repeat(np.arange(len(first)), total)
    step = np.arange(len(row)) - np.repeat(np.cumsum(total) - total, total)
    ny, nz = count[row, 1], count[row, 2]
    cell = np.stack([step // (ny * nz), step // nz % ny, step % nz], axis=1) + first[row]
    return row, cell


def centroids_layer(source: str, segments: str, in_3d: bool) -> dict[str, Any]:
    """Return the state of the layer of somas.

    Args:
      source: neuroglancer URL of the annotations.
      segments: name of the segmentation layer to which they are linked.
      in_3d: whether to draw them in the 3D panel as well as in sections.
    """
    return {
        "type": "annotation",
        "name": "centroids",
        "source": source,
        "shader": SHADER,
        "shaderControls": {"in_3d": in_3d},
        "linkedSegmentationLayer": {RELATIONSHIP: segments},
    }
