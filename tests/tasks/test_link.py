"""Somas and the neurons of another segmentation: the votes, the conflicts, the command."""

from __future__ import annotations

import re
import shutil

import crackle
import numpy as np
import pandas as pd
import pytest
from five_balls import OFFSET, RESOLUTION, SHAPE, flysoma, true_labels

from flysoma.analysis.tables.links import LINK_COLUMNS, NEURON_COLUMNS, neuron_table, vote
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.layers.precomputed import create_layer, fill_layer


def test_a_segment_joins_by_the_share_of_it_that_lies_in_the_soma():
    mask = np.zeros((20, 20, 20), bool)
    mask[5:15, 5:15, 5:15] = True
    segments = np.zeros(mask.shape, np.uint64)
    large = np.uint64(1 << 60)
    segments[5:15, 5:15, :10] = large  # 500 in, 500 out
    segments[5:15, 5:15, 10:15] = 7  # 500 in, 900 out: 0.36, and more than a tenth of the box
    segments[16:, :, :] = 7
    segments[15:16, 5:15, 5:15] = 9  # beside it
    votes = vote(mask, segments).set_index("segment_id")
    assert set(votes.index) == {large, 7}
    assert votes.loc[large, "share_of_segment"] == 0.5 and votes.loc[large, "share_of_soma"] == 0.5
    assert votes["joins"].all()
    small = segments.copy()
    small[17:] = 0  # 500 in, 400 out: still joins; with 250 in it would not
    assert vote(mask, small).set_index("segment_id").loc[7, "joins"]
    small[5:15, 5:10, 10:15] = 0
    small[16, :, :] = 7
    assert not vote(mask, small).set_index("segment_id").loc[7, "joins"]
    assert len(vote(mask, np.zeros_like(segments))) == 0


def test_neurons_show_shared_split_and_missing_segments():
    rows = [(1, 50, 0.9, True), (2, 50, 0.8, True), (3, 60, 0.5, True), (3, 61, 0.4, True)]
    rows += [(4, 70, 0.3, False)]
    links = pd.DataFrame(rows, columns=["id", "segment_id", "share_of_soma", "joins"])
    links["share_of_segment"] = 0.9
    links = links.astype({"id": np.uint64, "segment_id": np.uint64})
    table = neuron_table(links, np.array([5, 4, 3, 2, 1], np.uint64))
    assert list(table.columns) == [column.name for column in NEURON_COLUMNS]
    assert table["segment_id"].tolist() == [50, 50, 60, 0, 0]
    assert table["segments"].tolist() == [1, 1, 2, 0, 0]
    assert table["somas_in_segment"].tolist() == [2, 2, 1, 0, 0]
    assert table["conflict"].tolist() == ["shared", "shared", "", "none", "none"]


def test_labels_are_sampled_at_the_centres_of_coarser_and_finer_voxels(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (30, 40, 50)).astype(np.uint64)
    path = f"file://{tmp_path}/labels"
    create_layer(path, "segmentation", "uint64", (16, 16, 40), Box((10, -4, 3), (60, 36, 33)))
    fill_layer(path, labels)
    layer = LabelLayer(path)
    box = Box((2, -1, 2), (20, 12, 36))  # of 64 x 64 x 40: larger than the layer on both sides
    sampled = layer.sample(box, (64, 64, 40))
    for z, y, x in np.ndindex(sampled.shape):
        at = [z + 2 - 3, (y - 1) * 4 + 2 + 4, (x + 2) * 4 + 2 - 10]
        inside = all(0 <= a < n for a, n in zip(at, labels.shape))
        assert sampled[z, y, x] == (labels[tuple(at)] if inside else 0)
    fine = layer.sample(Box((20, -8, 3), (40, 8, 5)), (8, 8, 40))
    assert (fine == labels[:2, :8, :10].repeat(2, 1).repeat(2, 2)).all()
    assert not layer.sample(Box((500, 0, 0), (510, 10, 10)), (64, 64, 40)).any()


@pytest.fixture(scope="module")
def linked(tmp_path_factory, undisturbed):
    """A finished run, and a segmentation in which balls 1 and 2 are one neuron and ball 5 is in none."""
    folder = tmp_path_factory.mktemp("link")
    shutil.copytree(undisturbed, folder / "run")
    truth = true_labels().repeat(2, 1).repeat(2, 2).astype(np.uint64)
    ids = np.array([0, 1 << 60, 1 << 60, 300, 400, 0], np.uint64)
    lo = (2 * OFFSET[0], 2 * OFFSET[1], OFFSET[2])
    box = Box(lo, tuple(a + n for a, n in zip(lo, truth.shape[::-1])))
    path = f"file://{folder}/neurons"
    create_layer(path, "segmentation", "uint64", (RESOLUTION[0] // 2, RESOLUTION[1] // 2, 40), box)
    fill_layer(path, ids[truth])
    return folder


def test_link_finds_the_neuron_of_each_soma(linked):
    run = linked / "run"
    done = flysoma("link", str(run), "--segmentation", f"{linked}/neurons", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "4 of 5 somas have a neuron; 2 share theirs" in done.stdout
    table = pd.read_csv(run / "tables/neurons.csv", dtype={"segment_id": np.uint64})
    assert sorted(table["segment_id"]) == [0, 300, 400, 1 << 60, 1 << 60]
    assert table["conflict"].fillna("").tolist().count("shared") == 2
    assert (table["share_of_soma"][table["segment_id"] > 0] > 0.95).all()
    links = pd.read_parquet(run / "tables/links.parquet")
    assert list(links.columns) == [column.name for column in LINK_COLUMNS] and len(links) == 4
    cave = pd.read_csv(run / "tables/cave_linked.csv", dtype={"pt_root_id": np.uint64})
    assert (cave["pt_root_id"] == table["segment_id"]).all()
    shown = flysoma("status", str(run)).stdout
    assert re.search(r"^link +1 .* finished$", shown, re.M)
    before = tables(run)
    assert flysoma("link", str(run), "--segmentation", f"{linked}/neurons").returncode == 0
    assert tables(run) == before


def tables(run):
    """Return the content of the files in the tables of a run, by path."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("tables/**/*")
        if path.is_file()
    }


def test_links_to_another_segmentation_are_kept(linked, tmp_path):
    run = shutil.copytree(linked / "run", tmp_path / "run")
    assert flysoma("link", str(run), "--segmentation", f"{linked}/neurons").returncode == 0
    first = tables(run)
    again = flysoma("link", str(run), "--segmentation", f"{run}/somas", "--workers", "1")
    assert "5 of 5 somas have a neuron; 0 share" in again.stdout
    both = tables(run)
    for name in ("neurons.csv", "links.parquet", "cave_linked.csv"):
        path, newest = f"tables/links/neurons/{name}", f"tables/{name}"
        assert both[path] == first[path] == first[newest]
        assert both[newest] == both[f"tables/links/somas/{name}"] != first[newest]
    other = LabelLayer(f"{run}/somas").bounds
    create_layer(f"file://{tmp_path}/other/somas", "segmentation", "uint64", RESOLUTION, other)
    clash = ["link", str(run), "--segmentation", f"{tmp_path}/other/somas", "--workers", "1"]
    refused = flysoma(*clash)
    assert refused.returncode == 2 and "choose another --name" in refused.stderr
    refused = flysoma(*clash, "--name", "../x")
    assert refused.returncode == 2 and "letters, digits" in refused.stderr
    assert tables(run) == both
    named = flysoma(*clash, "--name", "empty")
    assert "0 of 5 somas have a neuron" in named.stdout
    assert tables(run).keys() - both.keys() == {
        f"tables/links/empty/{path.name}" for path in (run / "tables/links/somas").iterdir()
    }


def test_link_among_real_neurons_equals_counting_voxels(tmp_path, undisturbed, shared_data):
    """The balls, in a dense segmentation of real tissue at half their voxels: compared with counting every voxel."""
    path = shared_data("labels/pinky40_32x32x40nm_xyz.ckl")
    z, y, x = SHAPE
    real = crackle.decompress(path.read_bytes())[: 2 * x, : 2 * y, :z].T.astype(np.uint64)
    lo = (2 * OFFSET[0], 2 * OFFSET[1], OFFSET[2])
    box = Box(lo, tuple(a + n for a, n in zip(lo, real.shape[::-1])))
    create_layer(f"file://{tmp_path}/neurons", "segmentation", "uint64", (32, 32, 40), box)
    fill_layer(f"file://{tmp_path}/neurons", real)
    run = shutil.copytree(undisturbed, tmp_path / "run")
    done = flysoma("link", str(run), "--segmentation", f"{tmp_path}/neurons", "--workers", "1")
    assert done.returncode == 0, done.stderr
    somas = LabelLayer(f"file://{run}/somas")
    labels, there = somas.read(somas.bounds), real[:, 1::2, 1::2]
    table = pd.read_parquet(run / "tables/neurons.parquet").set_index("id")
    wanted = {}
    for soma in table.index:
        inside = labels == soma
        grown = tuple(
            slice(max(0, at.min() - around), at.max() + 1 + around)
            for at, around in zip(np.nonzero(inside), (25, 16, 16))
        )
        ids, counts = np.unique(there[grown], return_counts=True)
        own = np.array([(there[inside] == segment).sum() for segment in ids])
        large = counts > 0.1 * there[grown].size
        joins = np.where(large, own > 0.1 * counts, own > 0.4 * counts) & (ids > 0)
        wanted[soma] = ids[joins][np.argmax(own[joins])] if joins.any() else 0
        assert table.loc[soma, "segments"] == joins.sum()
        share = own[ids == wanted[soma]].sum() / inside.sum()
        assert table.loc[soma, "share_of_soma"] == pytest.approx(share)
    assert table["segment_id"].to_dict() == wanted and table["segments"].max() > 1
    assert len(pd.read_parquet(run / "tables/links.parquet")) > 2 * len(table)


def test_errors_of_link_are_one_line(linked, tmp_path):
    done = flysoma("link", str(linked / "run"), "--segmentation", str(tmp_path / "nothing"))
    assert done.returncode == 2 and done.stderr.startswith("flysoma: no precomputed layer at")
    done = flysoma("link", str(tmp_path), "--segmentation", f"{linked}/neurons")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    (linked / "run/tables/somas.parquet").rename(linked / "away")
    done = flysoma("link", str(linked / "run"), "--segmentation", f"{linked}/neurons")
    (linked / "away").rename(linked / "run/tables/somas.parquet")
    assert done.returncode == 2 and "no table of somas yet" in done.stderr
