"""Neuroglancer annotation layers for any number of annotations: of somas, an ellipsoid each, linked to its segment.

Format: precomputed annotations, version 1, unsharded. Neuroglancer draws from the spatial index, level by
level, as far as the zoom allows. Level 0 is one cell over the volume. In each level every annotation that is
left is emitted with probability min(1, limit / most annotations left in a cell), so that each level is an
even sample; the rest go to the smaller cells of the next level.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ...axes import Nm3
from ..tables.somas import soma_table

RELATIONSHIP = "soma"
PROPERTIES: dict[str, str] = {
    "volume_um3": "volume, um3",
    "equivalent_diameter_um": "diameter of a sphere of that volume, um",
    "sphericity": "1 for a sphere",
    "confidence": "mean certainty of the network, 0 to 1",
    "nearest_nm": "distance to the nearest other soma, nm",
}
_FLAGS: dict[str, str] = {
    "touches_edge": "1 when it reaches the volume's edge",
    "suspicious": "1 when a guard kept stitching from joining it with something",
}
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
# colour says the size, from dark blue (2 um) to yellow (8 um); suspicious somas are red. In sections it is faint,
# so that the segments show through
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
    """The annotations of a layer, one a row.

    Attributes:
      kind: neuroglancer's name of their type.
      records: as they are encoded.
      ids: of each.
      box_nm: centre and half the extent (both n, 3; x, y, z) of the box around each.
      properties: id, type and description of each property, as the info has them.
      related: name of the relationship to a segment that has the annotation's id, or none.
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
    """Relative path to content of a layer of somas; the same arguments give the same bytes.

    Args:
      frame: the table of somas; see `tables.COLUMNS`. May be empty.
      lower_nm, upper_nm: the volume, x, y, z.
      limit: about how many annotations a cell of the spatial index holds.
      seed: of the random order and the random choice of levels.
    """
    table = soma_table(frame)
    records = _records(table)
    numbers = [{"id": n, "type": "float32", "description": d} for n, d in PROPERTIES.items()]
    flags = [{"id": n, "type": "uint8", "description": d} for n, d in _FLAGS.items()]
    somas = Annotations(
        "ellipsoid",
        records,
        table["id"].to_numpy(np.uint64),
        (records["centre"].astype(np.float64), records["radii"].astype(np.float64)),
        [*numbers, *flags],
        RELATIONSHIP,
    )
    return layer_files(somas, lower_nm, upper_nm, limit=limit, seed=seed)


def layer_files(
    layer: Annotations, lower_nm: Nm3, upper_nm: Nm3, *, limit: int = 1000, seed: int = 0
) -> dict[str, bytes]:
    """Relative path to content of a whole layer; arguments as for `annotation_files`."""
    files = {}
    for i, number in enumerate(layer.ids.tolist()):
        one = slice(i, i + 1)
        files[f"by_id/{number}"] = layer.records[one].tobytes()
        if layer.related:
            segment = layer.ids[one].astype("<u8").tobytes()
            files[f"by_id/{number}"] += np.array(1, "<u4").tobytes() + segment
            files[f"{layer.related}/{number}"] = _list(layer.records[one], layer.ids[one])
    levels = []
    lower, upper = np.array(lower_nm, np.float64), np.array(upper_nm, np.float64)
    for place, level in enumerate(_levels(layer.box_nm, lower, upper, limit, seed)):
        grid, cells = level
        for cell, members in cells.items():
            key = "_".join(str(c) for c in cell)
            files[f"spatial{place}/{key}"] = _list(layer.records[members], layer.ids[members])
        most = max((len(m) for m in cells.values()), default=0)
        levels.append(
            {
                "key": f"spatial{place}",
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
    """One encoded annotation a row. The ellipsoid fills the bounding box in its proportions, at the soma's volume."""
    records = np.zeros(len(table), _RECORD)
    records["centre"] = table[["x_nm", "y_nm", "z_nm"]].to_numpy()
    start = table[[f"bb_start_{a}_nm" for a in "xyz"]].to_numpy()
    end = table[[f"bb_end_{a}_nm" for a in "xyz"]].to_numpy()
    half = np.nan_to_num((end - start) / 2.0)
    whole = 4.0 / 3.0 * np.pi * half.prod(axis=1) * 1e-9
    volume = np.nan_to_num(table["volume_um3"].to_numpy())
    ball = np.cbrt(volume * 3.0 / (4.0 * np.pi)) * 1e3
    shrink = np.cbrt(volume / np.where(whole > 0, whole, 1.0))
    records["radii"] = np.where(whole[:, None] > 0, half * shrink[:, None], ball[:, None])
    for name in PROPERTIES:
        records[name] = table[name]
    for name in _FLAGS:
        records[name] = table[name]
    return records


def _list(records: np.ndarray, ids: np.ndarray) -> bytes:
    """The count, the annotations, their ids."""
    return np.array(len(ids), "<u8").tobytes() + records.tobytes() + ids.astype("<u8").tobytes()


def _levels(
    box_nm: tuple[np.ndarray, np.ndarray],
    lower: np.ndarray,
    upper: np.ndarray,
    limit: int,
    seed: int,
) -> Iterator[tuple[np.ndarray, dict[tuple[int, ...], np.ndarray]]]:
    """(cells along x, y, z; members of each cell that has any) of each level of the spatial index.

    What reaches into several cells is a member of each; members are in random order.
    """
    random = np.random.default_rng(seed)
    left = random.permutation(len(box_nm[0]))
    grid = np.ones(3, np.int64)
    for level in range(_MAX_LEVELS):
        size = (upper - lower) / grid
        first, last = _reach(box_nm[0][left], box_nm[1][left], lower, size, grid)
        who, cell = _spread(first, last)
        codes = np.ravel_multi_index(tuple(cell.T), tuple(grid)) if len(who) else who
        most = int(np.bincount(codes).max()) if len(who) else 0
        share = 1.0 if level == _MAX_LEVELS - 1 else min(1.0, limit / max(most, 1))
        chosen = random.random(len(left)) < share
        cells = {}
        shown = chosen[who]
        order = np.argsort(codes[shown], kind="stable")
        members, of_cell = left[who[shown]][order], codes[shown][order]
        for part in np.split(np.arange(len(of_cell)), np.flatnonzero(np.diff(of_cell)) + 1):
            if len(part):
                place = np.unravel_index(int(of_cell[part[0]]), tuple(grid))
                cells[tuple(int(p) for p in place)] = members[part]
        if level == 0 and not cells:
            cells[(0, 0, 0)] = left[:0]
        yield grid, cells
        left = left[~chosen]
        if len(left) == 0:
            return
        grid = grid * _halve(size)


def _halve(size: np.ndarray) -> np.ndarray:
    """Which axes of a cell to cut in two so that cells become cubes: those longer than 0.7 of the longest."""
    return np.where(size > 0.7 * size.max(), 2, 1)


def _reach(
    centre: np.ndarray, half: np.ndarray, lower: np.ndarray, size: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """First and last cell that each box meets, clamped to the grid."""
    first = np.floor((centre - half - lower) / size).astype(np.int64)
    last = np.floor((centre + half - lower) / size).astype(np.int64)
    return np.clip(first, 0, grid - 1), np.clip(last, 0, grid - 1)


def _spread(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every (row, cell) for rows whose cells run from first to last, in the order of rows."""
    count = last - first + 1
    total = count.prod(axis=1)
    who = np.repeat(np.arange(len(first)), total)
    step = np.arange(len(who)) - np.repeat(np.cumsum(total) - total, total)
    ny, nz = count[who, 1], count[who, 2]
    cell = np.stack([step // (ny * nz), step // nz % ny, step % nz], axis=1) + first[who]
    return who, cell


def link_layer(source: str, segments: str, in_3d: bool) -> dict[str, Any]:
    """A neuroglancer layer of these annotations, linked to a segmentation layer by name; drawn in sections only, or
    in 3D too."""
    return {
        "type": "annotation",
        "name": "centroids",
        "source": source,
        "shader": SHADER,
        "shaderControls": {"in_3d": in_3d},
        "linkedSegmentationLayer": {RELATIONSHIP: segments},
    }
