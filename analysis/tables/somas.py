"""The table of somas: its columns and what they mean, and its forms (parquet, CSV, CAVE)."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Column:
    """A column of the table of somas."""

    name: str
    dtype: str
    unit: str
    meaning: str


def _position(prefix: str, meaning: str) -> list[Column]:
    return [Column(f"{prefix}{a}_nm", "float64", "nm", f"{meaning}, {a}") for a in "xyz"]


COLUMNS: tuple[Column, ...] = (
    Column("id", "uint64", "", "segment id in the somas layer"),
    *_position("", "centre of mass"),
    Column("volume_um3", "float64", "um3", "volume, counted in voxels"),
    Column("surface_um2", "float64", "um2", "surface area (Cauchy-Crofton, 49 directions)"),
    Column(
        "sphericity", "float64", "", "surface of a sphere of this volume over the surface, 0..1"
    ),
    Column("equivalent_diameter_um", "float64", "um", "diameter of a sphere of this volume"),
    Column(
        "semi_axis_a_um", "float64", "um", "longest semi-axis of the ellipsoid of equal moments"
    ),
    Column("semi_axis_b_um", "float64", "um", "middle semi-axis of that ellipsoid"),
    Column("semi_axis_c_um", "float64", "um", "shortest semi-axis of that ellipsoid"),
    *(
        Column(
            f"axis_{name}_{a}", "float64", "", f"{which} axis of that ellipsoid, unit vector, {a}"
        )
        for name, which in (("a", "longest"), ("c", "shortest"))
        for a in "xyz"
    ),
    Column("elongation", "float64", "", "longest over middle semi-axis, 1 or more"),
    Column("flatness", "float64", "", "middle over shortest semi-axis, 1 or more"),
    Column("convexity", "float64", "", "volume over that of the convex hull, 0..1"),
    Column("inscribed_radius_um", "float64", "um", "radius of the largest ball inside"),
    *_position("inscribed_", "centre of the largest ball inside"),
    *_position("bb_start_", "lower corner of the bounding box"),
    *_position("bb_end_", "upper corner of the bounding box, exclusive"),
    *(
        Column(f"{a}_vx", "int64", "", f"centre of mass in voxels of the image's finest mip, {a}")
        for a in "xyz"
    ),
    Column("grey_mean", "float64", "", "mean grey value of the image in it"),
    Column("grey_spread", "float64", "", "standard deviation of those grey values"),
    Column("voxels", "int64", "", "voxels of the somas layer's finest mip"),
    Column("confidence", "float64", "", "mean probability that its voxels are soma, 0..1"),
    Column("n_seeds", "int64", "", "seeds that the localization found in it; 1 is usual"),
    Column(
        "neurites", "int64", "", "neurites that leave it; 1 is usual in insects, -1: not counted"
    ),
    *(
        Column(
            f"neurite_{a}", "float64", "", f"where the longest neurite leaves it, unit vector, {a}"
        )
        for a in "xyz"
    ),
    Column("nearest_nm", "float64", "nm", "distance to the centre of the nearest other soma"),
    Column("neighbours_10um", "int64", "", "other somas whose centre is within 10 um"),
    Column("depth_nm", "float64", "nm", "distance to the surface of the mask, if the run has one"),
    Column("side", "int64", "", "1 or -1: side of the midline, if the run has one"),
    Column("touches_edge", "bool", "", "reaches the volume's edge, so it may be cut"),
    Column("crosses_seam", "bool", "", "was joined from pieces of several blocks"),
    Column("suspicious", "bool", "", "a guard kept stitching from joining it with something"),
)
_UNKNOWN: dict[str, float | bool] = {"bool": False, "int64": -1, "float64": np.nan, "uint64": 0}
_UNKNOWN["side"] = 0  # whose -1 says something
_DECIMALS = {"nm": 1, "um": 4, "um2": 4, "um3": 4, "": 4}
CAVE_COLUMNS = (
    "id",
    "valid",
    "volume",
    "pt_position",
    "bb_start_position",
    "bb_end_position",
    "pt_supervoxel_id",
    "pt_root_id",
)


def soma_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every column of COLUMNS, in order and of the right type, sorted by id; others follow.

    What was not measured becomes NaN, -1 for a count, False for a flag.
    """
    table = pd.DataFrame(index=frame.index)
    for column in COLUMNS:
        unknown = _UNKNOWN.get(column.name, _UNKNOWN[column.dtype])
        if column.name not in frame:
            table[column.name] = np.full(len(frame), unknown, np.dtype(column.dtype))
            continue
        values = frame[column.name]
        if column.dtype != "float64" and bool(values.isna().any()):
            values = values.fillna(unknown)
        table[column.name] = np.asarray(values, np.dtype(column.dtype))
    for name in frame.columns:
        if name not in table:
            table[name] = frame[name]
    return table.sort_values("id", kind="stable").reset_index(drop=True)


def table_files(frame: pd.DataFrame) -> dict[str, bytes]:
    """File name to content of every form of the table; the same frame gives the same bytes."""
    table = soma_table(frame)
    return {
        "somas.parquet": parquet_bytes(table),
        "somas.csv": csv_bytes(table),
        "columns.json": json.dumps([asdict(c) for c in COLUMNS], indent=1).encode(),
        "cave_nucleus_detection.csv": cave_table(table).to_csv(index=False).encode(),
    }


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Parquet whose fields carry their unit and meaning as metadata."""
    data = pa.Table.from_pandas(table, preserve_index=False)
    known = {c.name: c for c in COLUMNS}
    fields = [
        field.with_metadata({"unit": known[field.name].unit, "meaning": known[field.name].meaning})
        if field.name in known
        else field
        for field in data.schema
    ]
    data = data.cast(pa.schema(fields, metadata=data.schema.metadata))
    buffer = io.BytesIO()
    pq.write_table(data, buffer, compression="zstd")
    return buffer.getvalue()


def csv_bytes(table: pd.DataFrame) -> bytes:
    """CSV, rounded to 0.1 nm and four decimals otherwise."""
    decimals = {c.name: _DECIMALS[c.unit] for c in COLUMNS if c.dtype == "float64"}
    return table.round(decimals).to_csv(index=False).encode()


def cave_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns of CAVE's `nucleus_detection`: volume in um3, positions in whole nm as "[x, y, z]".

    The root id is the segment id in the somas layer; there are no supervoxels, so their id is 0.
    """
    table = soma_table(frame)
    cave = pd.DataFrame({"id": table["id"], "valid": "t", "volume": table["volume_um3"].round(4)})
    cave["pt_position"] = _bracketed(table, "")
    cave["bb_start_position"] = _bracketed(table, "bb_start_")
    cave["bb_end_position"] = _bracketed(table, "bb_end_")
    cave["pt_supervoxel_id"] = np.zeros(len(table), np.uint64)
    cave["pt_root_id"] = table["id"]
    return cave[list(CAVE_COLUMNS)]


def _bracketed(table: pd.DataFrame, prefix: str) -> list[str]:
    names = [f"{prefix}{a}_nm" for a in "xyz"]
    places = np.rint(table[names].fillna(0.0).to_numpy()).astype(np.int64)
    return [f"[{x}, {y}, {z}]" for x, y, z in places]
