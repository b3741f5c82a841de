"""Files of the table of somas and segment properties agree and follow the formats of their readers."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from jsonschema import ValidationError, validate
from soma_rows import make_somas

from flysoma.analysis.layers.properties import TAGS, segment_properties
from flysoma.analysis.tables.somas import (
    CAVE_COLUMNS,
    COLUMNS,
    read_parquet,
    soma_table,
    table_files,
)


def numbers(info):
    return {p["id"]: p for p in info["inline"]["properties"] if p["type"] == "number"}


def tags(info):
    (column,) = [p for p in info["inline"]["properties"] if p["type"] == "tags"]
    return [[column["tags"][i] for i in row] for row in column["values"]]


def test_a_table_is_read_without_threads_of_arrow(tmp_path):
    """Arrow's pools of threads abort one process in ten that exits soon after a table is read."""
    (tmp_path / "somas.parquet").write_bytes(table_files(make_somas(25))["somas.parquet"])
    code = """
import os, sys
from pathlib import Path
from flysoma.analysis.tables.somas import read_parquet
data, before = Path(sys.argv[1]).read_bytes(), len(os.listdir("/proc/self/task"))
assert len(read_parquet(data)) == 25
print(len(os.listdir("/proc/self/task")) - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "somas.parquet")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "0\n"


@pytest.mark.parametrize("n", [0, 1, 25])
def test_parquet_and_csv_hold_the_same_table(n):
    somas = make_somas(n)
    files = table_files(somas)
    parquet = read_parquet(files["somas.parquet"])
    pd.testing.assert_frame_equal(parquet, somas)
    text = pd.read_csv(io.BytesIO(files["somas.csv"]))
    assert list(text.columns) == list(parquet.columns) == [c.name for c in COLUMNS]
    assert len(text) == n
    if n:
        assert text.x_nm.to_numpy() == pytest.approx(somas.x_nm.to_numpy(), abs=0.051)
        assert text.volume_um3.to_numpy() == pytest.approx(somas.volume_um3.to_numpy(), abs=1e-4)


def test_every_column_is_described():
    files = table_files(make_somas(2))
    dictionary = json.loads(files["columns.json"])
    assert [d["name"] for d in dictionary] == [c.name for c in COLUMNS]
    assert all(d["meaning"] for d in dictionary)
    field = pq.read_schema(io.BytesIO(files["somas.parquet"])).field("volume_um3")
    assert field.metadata[b"unit"] == b"um3"
    for column in COLUMNS:
        if column.unit:
            assert column.name.endswith("_" + column.unit)


POSITION = {"type": "string", "pattern": r"^\[-?\d+, -?\d+, -?\d+\]$"}
CAVE_SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": r"^[1-9]\d*$"},
        "valid": {"const": "t"},
        "volume": {"type": "string", "pattern": r"^\d+(\.\d+)?$"},
        **dict.fromkeys(("pt_position", "bb_start_position", "bb_end_position"), POSITION),
        **dict.fromkeys(("pt_supervoxel_id", "pt_root_id"), {"const": ""}),
    },
    "required": list(CAVE_COLUMNS),
    "additionalProperties": False,
}
CELLS = {
    "uint64": r"^\d+$",
    "int64": r"^-?\d+$",
    "float64": r"^(-?\d+(\.\d+)?(e-?\d+)?)?$",
    "bool": "^(True|False)$",
    "str": "^(neuron|glia|other)?$",
}


def test_rows_of_the_tables_fit_their_schemas():
    files = table_files(make_somas(40))
    columns = json.loads(files["columns.json"])
    schema = {
        "type": "object",
        "properties": {
            c["name"]: {"type": "string", "pattern": CELLS[c["dtype"]]} for c in columns
        },
        "required": [c["name"] for c in columns],
        "additionalProperties": False,
    }
    for name, rules in (("somas.csv", schema), ("cave_nucleus_detection.csv", CAVE_SCHEMA)):
        rows = list(csv.DictReader(io.StringIO(files[name].decode())))
        assert len(rows) == 40
        for row in rows:
            validate(row, rules)
    with pytest.raises(ValidationError):
        validate(rows[0] | {"pt_position": "1 2 3"}, CAVE_SCHEMA)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_cave_table_has_exactly_its_columns(n):
    somas = make_somas(n)
    rows = list(csv.reader(io.StringIO(table_files(somas)["cave_nucleus_detection.csv"].decode())))
    assert tuple(rows[0]) == CAVE_COLUMNS
    assert len(rows) == n + 1
    for row, soma in zip(rows[1:], somas.itertuples()):
        cave = dict(zip(CAVE_COLUMNS, row))
        assert cave["id"] == str(soma.id) and cave["pt_root_id"] == "" and cave["valid"] == "t"
        assert float(cave["volume"]) == pytest.approx(soma.volume_um3, abs=1e-4)
        place = json.loads(cave["pt_position"])
        assert place == [round(soma.x_nm), round(soma.y_nm), round(soma.z_nm)]
        assert json.loads(cave["bb_start_position"])[2] == round(soma.bb_start_z_nm)


def test_unmeasured_columns_are_filled_and_unknown_ones_kept():
    table = soma_table(pd.DataFrame({"id": [7, 3], "x_nm": [1.0, 2.0], "neurites": [np.nan, 2]}))
    table2 = soma_table(pd.DataFrame({"id": [1], "my_note": ["x"]}))
    assert table.id.tolist() == [3, 7] and table.neurites.tolist() == [2, -1]
    assert table.volume_um3.isna().all() and not table.suspicious.any()
    assert list(table2.columns)[-1] == "my_note"


def test_ids_beyond_float_precision_survive():
    big = 2**63 + 1
    files = table_files(pd.DataFrame({"id": np.array([big], np.uint64)}))
    assert pd.read_parquet(io.BytesIO(files["somas.parquet"])).id[0] == big
    assert str(big) in files["somas.csv"].decode()
    assert segment_properties(pd.DataFrame({"id": np.array([big], np.uint64)}))["inline"][
        "ids"
    ] == [str(big)]


def test_equal_tables_give_equal_bytes():
    assert table_files(make_somas(10)) == table_files(make_somas(10))


def test_segment_properties_follow_the_format():
    somas = make_somas(30)
    info = json.loads(json.dumps(segment_properties(somas), allow_nan=False))
    inline = info["inline"]
    assert info["@type"] == "neuroglancer_segment_properties"
    assert inline["ids"] == [str(i) for i in somas.id]
    assert all(len(p["values"]) == 30 for p in inline["properties"])
    assert [p["id"] for p in inline["properties"] if p["type"] == "label"] == ["label"]
    assert numbers(info)["volume_um3"]["data_type"] == "float32"
    assert numbers(info)["volume_um3"]["values"] == pytest.approx(somas.volume_um3, rel=1e-5)
    assert all(" " not in tag and "#" not in tag for tag in TAGS)
    assert all(row == sorted(row) for row in [p["values"] for p in inline["properties"]][1])


def test_tags_agree_with_the_table():
    somas = make_somas(4)
    somas["touches_edge"] = [True, False, False, False]
    somas["suspicious"] = [True, True, False, False]
    somas["crosses_seam"] = False
    somas["volume_um3"] = [13.9, 30.0, 65.1, np.nan]
    assert tags(segment_properties(somas)) == [
        ["edge", "small", "suspicious"],
        ["suspicious"],
        ["large"],
        [],
    ]


def test_tags_tell_the_class_and_where_a_nucleus_is_missing_or_doubled():
    somas = make_somas(4).assign(suspicious=False, crosses_seam=False, volume_um3=30.0)
    somas["touches_edge"] = [False, True, False, False]
    somas["n_nuclei"], somas["class"] = [0, 0, 1, 2], ["other", "other", "glia", "neuron"]
    expected = [["no-nucleus"], ["edge"], ["glia"], ["neuron", "several-nuclei"]]
    assert tags(segment_properties(somas)) == expected
    (unknown,) = [
        p for p in segment_properties(make_somas(4))["inline"]["properties"] if p["id"] == "tags"
    ]
    assert not {"glia", "neuron", "no-nucleus", "several-nuclei"} & set(unknown["tags"])


def test_cave_describes_the_somas_that_have_a_nucleus():
    somas = make_somas(3)
    assert "cave_nuclei.csv" not in table_files(somas)
    somas["n_nuclei"], somas["nucleus_volume_um3"] = [1, 0, 2], [3.5, 0.0, 7.25]
    somas["nucleus_x_nm"] = [100.4, np.nan, 7.0]
    nuclei = pd.read_csv(io.BytesIO(table_files(somas)["cave_nuclei.csv"]))
    assert list(nuclei.columns) == list(CAVE_COLUMNS)
    assert nuclei["id"].tolist() == [1, 3] and nuclei["volume"].tolist() == [3.5, 7.25]
    assert [json.loads(p)[0] for p in nuclei["pt_position"]] == [100, 7]


def test_missing_numbers_are_minus_one_and_constant_properties_omitted():
    somas = make_somas(3)
    somas["neurites"] = -1
    somas["nearest_nm"] = [1000.0, np.nan, 2000.0]
    properties = numbers(segment_properties(somas))
    assert "neurites" not in properties
    assert properties["nearest_nm"]["values"] == [1000, -1, 2000]


def test_no_somas_give_valid_properties():
    info = json.loads(json.dumps(segment_properties(make_somas(0))))
    assert info["inline"]["ids"] == []
    assert all(p["values"] == [] for p in info["inline"]["properties"])
