"""The table of somas: its columns and their meaning, and its file formats (Parquet, CSV, CAVE)."""

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
    """A column of a table."""

    name: str
    dtype: str
    unit: str
    meaning: str


def _xyz(prefix: str, suffix: str, dtype: str, unit: str, meaning: str) -> list[Column]:
    """Return a column for each axis; `meaning` contains the placeholder {axis}."""
    return [Column(f"{prefix}{a}{suffix}", dtype, unit, meaning.format(axis=a)) for a in "xyz"]


def _position(prefix: str, point: str) -> list[Column]:
    return _xyz(prefix, "_nm", "float64", "nm", f"{{axis}} coordinate of the {point}")


def _direction(prefix: str, line: str) -> list[Column]:
    return _xyz(prefix, "", "float64", "", f"{{axis}} component of the unit vector {line}")


_ELLIPSOID = "of the ellipsoid with equal second moments"
COLUMNS: tuple[Column, ...] = (
    Column("id", "uint64", "", "segment id in the somas layer"),
    *_position("", "centroid"),
    Column("volume_um3", "float64", "um3", "volume (voxel count times voxel volume)"),
    Column(
        "surface_um2",
        "float64",
        "um2",
        "surface area, estimated with the Cauchy-Crofton formula in 49 directions",
    ),
    Column(
        "sphericity",
        "float64",
        "",
        "surface area of a sphere of equal volume divided by the surface area, 0 to 1",
    ),
    Column("equivalent_diameter_um", "float64", "um", "diameter of a sphere of equal volume"),
    Column("semi_axis_a_um", "float64", "um", f"longest semi-axis {_ELLIPSOID}"),
    Column("semi_axis_b_um", "float64", "um", f"middle semi-axis {_ELLIPSOID}"),
    Column("semi_axis_c_um", "float64", "um", f"shortest semi-axis {_ELLIPSOID}"),
    *_direction("axis_a_", f"along the longest axis {_ELLIPSOID}"),
    *_direction("axis_c_", f"along the shortest axis {_ELLIPSOID}"),
    Column("elongation", "float64", "", "longest semi-axis divided by the middle one, at least 1"),
    Column("flatness", "float64", "", "middle semi-axis divided by the shortest one, at least 1"),
    Column("convexity", "float64", "", "volume divided by the volume of the convex hull, 0 to 1"),
    Column("inscribed_radius_um", "float64", "um", "radius of the largest inscribed ball"),
    *_position("inscribed_", "centre of the largest inscribed ball"),
    *_position("bb_start_", "lower corner of the bounding box"),
    *_position("bb_end_", "upper corner of the bounding box (exclusive)"),
    *_xyz(
        *("", "_vx", "int64", ""),
        "{axis} coordinate of the centroid in voxels of the image's finest mip",
    ),
    Column("grey_mean", "float64", "", "mean grey value of the image within the soma"),
    Column("grey_spread", "float64", "", "standard deviation of the grey values within the soma"),
    Column("voxels", "int64", "", "number of voxels at the finest mip of the somas layer"),
    Column(
        "confidence",
        "float64",
        "",
        "mean predicted probability of its interior, off the boundary, 0 to 1",
    ),
    Column("n_seeds", "int64", "", "number of localization seeds in the soma; usually 1"),
    Column(
        *("neurites", "int64", ""),
        "number of neurites that leave the soma; usually 1 in insects; -1: not counted",
    ),
    *_direction(
        "neurite_",
        "from the centre of the largest inscribed ball to the base of the longest neurite",
    ),
    Column(
        *("class", "str", ""),
        "neuron, glia, or other: without a nucleus; empty if the weights predict no nuclei",
    ),
    Column("p_glia", "float64", "", "mean predicted probability that it is glia, over its voxels"),
    Column(
        *("n_nuclei", "int64", ""),
        "number of nuclei in the soma; 1 is expected; -1: the weights predict no nuclei",
    ),
    Column("nucleus_volume_um3", "float64", "um3", "volume of the nuclei in the soma"),
    Column("nucleus_share", "float64", "", "volume of the nuclei divided by that of the soma"),
    Column("nucleus_sphericity", "float64", "", "sphericity of the nucleus, as that of the soma"),
    *_position("nucleus_", "centre of the largest ball in the nucleus"),
    *_position("nucleus_bb_start_", "lower corner of the bounding box of the nucleus"),
    *_position("nucleus_bb_end_", "upper corner of the bounding box of the nucleus (exclusive)"),
    Column("nearest_nm", "float64", "nm", "distance to the centroid of the nearest other soma"),
    Column("neighbours_10um", "int64", "", "number of other somas with a centroid within 10 um"),
    Column(
        *("depth_nm", "float64", "nm"),
        "depth below the surface of the tissue mask, if the run has a mask",
    ),
    Column(
        *("side", "int64", ""),
        "side of the midline, 1 or -1, if the run has a midline; 0: not known",
    ),
    Column(
        *("touches_edge", "bool", ""),
        "whether the soma touches the edge of the volume or of the part that was segmented, so that it may be cut",
    ),
    Column("crosses_seam", "bool", "", "whether the soma was joined across seams between blocks"),
    Column(
        *("suspicious", "bool", ""),
        "whether a guard refused to join the soma with another object",
    ),
    Column("verified", "bool", "", "whether a person has said that the soma is right"),
)
_UNKNOWN: dict[str, float | bool | str] = {"bool": False, "int64": -1, "float64": np.nan}
_UNKNOWN |= {"uint64": 0, "str": ""}
_UNKNOWN["side"] = 0  # -1 is a side
_DECIMALS = {"nm": 1, "um": 4, "um2": 4, "um3": 4, "": 4}
CAVE_COLUMNS = (  # of the schema nucleus_detection
    "id",
    "valid",
    "volume",
    "pt_position",
    "bb_start_position",
    "bb_end_position",
    "pt_supervoxel_id",
    "pt_root_id",
)
CAVE_TABLE = {  # what CAVE needs to create the table; positions are in voxels of voxel_resolution, here in nm
    "schema_name": "nucleus_detection",
    "voxel_resolution": [1.0, 1.0, 1.0],
    "units": {
        "volume": "um^3",
        "pt_position": "nm",
        "bb_start_position": "nm",
        "bb_end_position": "nm",
    },
    "description": "Somas found by flysoma. pt_position is the centroid of the soma, volume that of the soma, not of "
    "its nucleus, and id its segment id in the somas layer.",
}


def column_description(name: str) -> str:
    """Return the meaning and unit of a column of the table of somas."""
    column = next(column for column in COLUMNS if column.name == name)
    return f"{column.meaning}, {column.unit}" if column.unit else column.meaning


def soma_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame sorted by id, with all of COLUMNS in order and of the right type, followed by its other columns.

    Missing values become NaN, -1 in columns of counts, False in columns of flags, and "" in columns of names.
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
    """Return the files of the table by name; equal frames give equal bytes."""
    table = soma_table(frame)
    files = {
        "somas.parquet": parquet_bytes(table),
        "somas.csv": csv_bytes(table),
        "columns.json": json.dumps([asdict(c) for c in COLUMNS], indent=1).encode(),
        "cave_nucleus_detection.csv": cave_table(table).to_csv(index=False).encode(),
        "cave_table.json": json.dumps(CAVE_TABLE, indent=1).encode(),
    }
    if knows_nuclei(table):
        nuclei = cave_table(table[table["n_nuclei"] > 0], prefix="nucleus_")
        files["cave_nuclei.csv"] = nuclei.to_csv(index=False).encode()
    return files


def knows_nuclei(table: pd.DataFrame) -> bool:
    """Return whether the nuclei of the somas of a `soma_table` are known."""
    return bool((table["n_nuclei"] >= 0).any())


def without_nucleus(table: pd.DataFrame) -> pd.Series:
    """Return which somas are whole and have no nucleus, in a `soma_table`."""
    return (table["n_nuclei"] == 0) & ~table["touches_edge"]


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a Parquet file whose fields have their unit and meaning as metadata."""
    data = pa.Table.from_pandas(table, preserve_index=False, nthreads=1)
    columns = {c.name: c for c in COLUMNS}
    fields = [
        field.with_metadata(
            {"unit": columns[field.name].unit, "meaning": columns[field.name].meaning}
        )
        if field.name in columns
        else field
        for field in data.schema
    ]
    data = data.cast(pa.schema(fields, metadata=data.schema.metadata))
    buffer = io.BytesIO()
    pq.write_table(data, buffer, compression="zstd")
    return buffer.getvalue()


def read_parquet(data: bytes) -> pd.DataFrame:
    """Read a Parquet file. Raises ValueError if it is damaged.

    `pandas.read_parquet` starts the threads of Arrow, whose pool aborts one process in ten that exits soon after
    (https://github.com/apache/arrow/issues/34314, seen with 26.0.1).
    """
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    return file.read(use_threads=False).to_pandas(use_threads=False)


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Return a CSV file in which lengths in nm have one decimal and other measures four."""
    decimals = {c.name: _DECIMALS[c.unit] for c in COLUMNS if c.dtype == "float64"}
    return table.round(decimals).to_csv(index=False).encode()


def cave_table(
    frame: pd.DataFrame, segments: np.ndarray | None = None, prefix: str = ""
) -> pd.DataFrame:
    """Return a table in the schema `nucleus_detection` of CAVE; `CAVE_TABLE` states its units.

    Args:
      segments: id of the neuron of each soma, in the order of their ids, 0 for none; None: not known. Until then the
        root ids are empty, and so are the supervoxel ids: CAVE looks up both at `pt_position`.
      prefix: of the columns that are taken: `nucleus_` for the nuclei; by default the somas.
    """
    table = soma_table(frame)
    cave = pd.DataFrame(
        {"id": table["id"], "valid": "t", "volume": table[f"{prefix}volume_um3"].round(4)}
    )
    cave["pt_position"] = _cave_positions(table, prefix)
    cave["bb_start_position"] = _cave_positions(table, f"{prefix}bb_start_")
    cave["bb_end_position"] = _cave_positions(table, f"{prefix}bb_end_")
    cave["pt_supervoxel_id"] = ""
    cave["pt_root_id"] = "" if segments is None else segments
    return cave[list(CAVE_COLUMNS)]


def _cave_positions(table: pd.DataFrame, prefix: str) -> list[str]:
    names = [f"{prefix}{a}_nm" for a in "xyz"]
    positions = np.rint(table[names].fillna(0.0).to_numpy()).astype(np.int64)
    return [f"[{x}, {y}, {z}]" for x, y, z in positions]
