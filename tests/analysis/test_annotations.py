"""Annotation layers, decoded according to the specification of the format and by the reader of neuroglancer."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from soma_rows import make_somas

from flysoma.analysis.layers.annotations import annotation_files, centroids_layer
from flysoma.analysis.layers.quality import quality_files

LOWER, UPPER = (0.0, 0.0, 0.0), (60e3, 50e3, 40e3)


def decode(data):
    """Decode a list according to the specification: centres, radii, float properties, flags and ids."""
    count = int.from_bytes(data[:8], "little")
    body = 24 + 4 * 5 + 4  # geometry, five floats, two flags padded to four bytes
    assert len(data) == 8 + count * (body + 8)
    rows = np.frombuffer(data[8 : 8 + count * body], np.uint8).reshape(count, body)
    floats = rows[:, :44].copy().view("<f4")
    ids = np.frombuffer(data[8 + count * body :], "<u8")
    return floats[:, :3], floats[:, 3:6], floats[:, 6:], rows[:, 44:46], ids


def spatial(files):
    """Yield (level, cell, ids, centres, radii) for every cell of the spatial index."""
    info = json.loads(files["info"])
    for level in info["spatial"]:
        for name, data in files.items():
            folder, _, key = name.partition("/")
            if folder == level["key"]:
                centres, radii, _, _, ids = decode(data)
                yield level, tuple(int(k) for k in key.split("_")), ids, centres, radii


def test_every_soma_is_in_every_index_with_its_values():
    somas = make_somas(40)
    files = annotation_files(somas, LOWER, UPPER)
    info = json.loads(files["info"])
    assert [p["id"] for p in info["properties"]][0] == "volume_um3"
    assert {p["type"] for p in info["properties"]} == {"float32", "uint8"}
    for row in somas.itertuples():
        alone = files[f"by_id/{row.id}"]
        assert alone[-12:] == (1).to_bytes(4, "little") + row.id.to_bytes(8, "little")
        centre, _, floats, flags, ids = decode(files[f"soma/{row.id}"])
        assert alone[:-12] == files[f"soma/{row.id}"][8:-8]
        assert ids.tolist() == [row.id]
        assert centre[0].tolist() == pytest.approx([row.x_nm, row.y_nm, row.z_nm], rel=1e-6)
        assert floats[0, 0] == pytest.approx(row.volume_um3, rel=1e-6)
        assert flags[0].tolist() == [row.touches_edge, row.suspicious]


def test_ellipsoids_have_the_somas_volume_and_proportions():
    somas = make_somas(20)
    files = annotation_files(somas, LOWER, UPPER)
    _, radii, _, _, ids = decode(files["spatial0/0_0_0"])
    rows = somas.set_index("id").loc[ids]
    assert 4 / 3 * np.pi * radii.astype(float).prod(axis=1) * 1e-9 == pytest.approx(
        rows.volume_um3.to_numpy(), rel=1e-4
    )
    extent = (rows.bb_end_x_nm - rows.bb_start_x_nm) / (rows.bb_end_z_nm - rows.bb_start_z_nm)
    assert radii[:, 0] / radii[:, 2] == pytest.approx(extent.to_numpy(), rel=1e-4)


def test_few_somas_need_one_level():
    files = annotation_files(make_somas(30), LOWER, UPPER, limit=100)
    assert [s["grid_shape"] for s in json.loads(files["info"])["spatial"]] == [[1, 1, 1]]


def test_each_soma_lies_in_one_level_in_every_cell_that_it_intersects():
    somas = make_somas(3000)
    files = annotation_files(somas, LOWER, UPPER, limit=50)
    levels_of = {}
    for level, cell, ids, centres, radii in spatial(files):
        size = np.array(level["chunk_size"])
        assert all(c < g for c, g in zip(cell, level["grid_shape"]))
        low, high = np.array(cell) * size, (np.array(cell) + 1) * size
        inner = np.array(cell) + 1 < level["grid_shape"]  # ellipsoids beyond the volume are clamped
        assert (centres + radii >= np.where(np.array(cell) > 0, low - 1, -1e9)).all()
        assert (centres - radii <= np.where(inner, high + 1, 1e9)).all()
        assert len(ids) <= level["limit"]
        for i in ids.tolist():
            levels_of.setdefault(i, Counter())[level["key"]] += 1
    assert set(levels_of) == set(somas.id)
    assert all(len(levels) == 1 for levels in levels_of.values())


def test_levels_cover_the_volume_and_are_even_samples_of_about_the_limit():
    files = annotation_files(make_somas(5000), LOWER, UPPER, limit=100)
    levels = json.loads(files["info"])["spatial"]
    assert len(levels) > 2
    for level in levels:
        whole = np.array(level["chunk_size"]) * level["grid_shape"]
        assert whole == pytest.approx(np.array(UPPER))
        assert level["limit"] < 160
    _, _, ids, centres, _ = next(spatial(files))
    assert 60 < len(ids) < 140
    assert centres.mean(axis=0) == pytest.approx(np.array(UPPER) / 2, rel=0.2)
    size = np.array(levels[-1]["chunk_size"])
    assert size.max() / size.min() < 2  # cells tend to cubes


def test_lists_are_in_random_but_reproducible_order():
    somas = make_somas(200)
    files = annotation_files(somas, LOWER, UPPER)
    ids = decode(files["spatial0/0_0_0"])[-1]
    assert sorted(ids.tolist()) == somas.id.tolist() != ids.tolist()
    assert annotation_files(somas, LOWER, UPPER) == files
    assert annotation_files(somas, LOWER, UPPER, seed=1) != files


def test_no_somas_give_a_valid_empty_layer():
    files = annotation_files(make_somas(0), LOWER, UPPER)
    assert set(files) == {"info", "spatial0/0_0_0"}
    assert files["spatial0/0_0_0"] == bytes(8)


def test_many_somas_at_one_position_do_not_need_endless_levels():
    somas = make_somas(300, size_um=(1e-3, 1e-3, 1e-3))
    files = annotation_files(somas, LOWER, UPPER, limit=10)
    ids_in_cells = {i for _, _, ids, _, _ in spatial(files) for i in ids.tolist()}
    assert ids_in_cells == set(somas.id)


@pytest.mark.parametrize("n", [0, 1, 300])
def test_the_reader_of_neuroglancer_reads_the_layer(n, tmp_path):
    pytest.importorskip("tensorstore", reason="neuroglancer's reader needs tensorstore")
    from neuroglancer.read_precomputed_annotations import AnnotationReader

    somas = make_somas(n)
    files = annotation_files(somas, LOWER, UPPER, limit=40)
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    reader = AnnotationReader(f"file://{tmp_path}/")
    assert reader.annotation_type == "ellipsoid"
    for row in somas.itertuples():
        one = reader.by_id[row.id]
        assert list(one.center) == pytest.approx([row.x_nm, row.y_nm, row.z_nm], rel=1e-6)
        assert one.props[0] == pytest.approx(row.volume_um3, rel=1e-6)
        assert [list(s) for s in one.segments] == [[row.id]]
        (linked,) = reader.relationships["soma"][row.id]
        assert linked.id == str(row.id)


def test_the_layer_is_linked_and_its_shader_uses_existing_properties():
    layer = centroids_layer("precomputed://gs://b/centroids", "somas", in_3d=True)
    assert layer["linkedSegmentationLayer"] == {"soma": "somas"}
    info = json.loads(annotation_files(make_somas(1), LOWER, UPPER)["info"])
    names = {p["id"] for p in info["properties"]}
    used = {w.split("(")[0] for w in layer["shader"].split("prop_")[1:]}
    assert used <= names


def test_the_quality_layer_has_a_box_with_properties_for_each_block(tmp_path):
    rows = []
    for index, (x, y) in enumerate([(0, 0), (30e3, 0), (0, 25e3), (30e3, 25e3)]):
        rows.append([index, x, y, 0, x + 30e3, y + 25e3, 40e3, 7 * index, index % 2, 0.25 * index])
    corners = [f"{edge}_{a}_nm" for edge in ("start", "end") for a in "xyz"]
    blocks = pd.DataFrame(rows, columns=["index", *corners, "somas", "disagreements", "missing"])
    files = quality_files(blocks, LOWER, UPPER)
    info = json.loads(files["info"])
    assert info["annotation_type"] == "axis_aligned_bounding_box" and info["relationships"] == []
    data = files["spatial0/0_0_0"]
    count = int.from_bytes(data[:8], "little")
    assert count == 4 and len(data) == 8 + 4 * (36 + 8)
    record = np.dtype([("box", "<f4", 6), ("n", "<u4", 2), ("missing", "<f4")])
    boxes = np.frombuffer(data[8 : 8 + 4 * 36], record)
    ids = np.frombuffer(data[8 + 4 * 36 :], "<u8")
    for row, number in zip(boxes, ids.tolist()):
        expected = rows[number - 1]
        assert row["box"].tolist() == expected[1:7]
        assert [*row["n"].tolist(), row["missing"]] == expected[7:]
        assert files[f"by_id/{number}"] == row.tobytes()
    assert files == quality_files(blocks, LOWER, UPPER)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    from neuroglancer.read_precomputed_annotations import AnnotationReader

    reader = AnnotationReader(f"file://{tmp_path}/")
    assert [float(value) for value in reader.by_id[3].props] == [14, 0, 0.5]
    assert list(quality_files(blocks[:0], LOWER, UPPER)) == ["spatial0/0_0_0", "info"]
