"""Who can write to a run on a disk cannot make a worker write or delete elsewhere by links inside it."""

from functools import partial

import numpy as np
import pytest
from cloudfiles import CloudFiles

from flysoma.errors import UserError
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.layers.precomputed import create_layer
from flysoma.tasks.storage.store import RunStore

BOX = Box((0, 0, 0), (64, 64, 64))


@pytest.fixture
def run(tmp_path):
    """The folder of a run with an empty segmentation, which is opened as the stages do."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.json").write_text("precious")
    (tmp_path / "run").mkdir()
    RunStore(str(tmp_path / "run"))
    create_layer(f"file://{tmp_path}/run/somas", "segmentation", "uint64", (8, 8, 8), BOX)
    return tmp_path / "run"


def put(run):
    RunStore(str(run)).put_json("receipts/first/1.json", {})


def write_voxels(run):
    LabelLayer(f"file://{run}/somas").write(BOX, np.ones((64, 64, 64), np.uint64))


def delete(run):
    RunStore(str(run)).delete(["receipts/first/1.json"])


def write_mesh(run, compress=None):
    """As igneous does."""
    CloudFiles(f"file://{run}/somas/mesh").put("1.json", b"x", compress=compress)


@pytest.mark.parametrize(
    ("link", "act"),
    [
        ("receipts", put),
        ("receipts/first", put),
        ("receipts/first", delete),
        ("somas/8_8_8", write_voxels),
        ("somas/mesh", write_mesh),
    ],
)
def test_a_link_to_a_folder_is_not_followed(run, link, act):
    (run / link).parent.mkdir(parents=True, exist_ok=True)
    (run / link).symlink_to(run.parent / "elsewhere")
    with pytest.raises(UserError, match="is a link or lies behind one"):
        act(run)
    there = list((run.parent / "elsewhere").iterdir())
    assert [path.name for path in there] == ["1.json"] and there[0].read_text() == "precious"


@pytest.mark.parametrize(
    ("link", "act"),
    [
        ("somas/8_8_8/0-64_0-64_0-64", write_voxels),
        ("somas/mesh/1.json", write_mesh),
        ("somas/mesh/1.json.gz", partial(write_mesh, compress="gzip")),
    ],
)
def test_a_link_in_place_of_an_object_of_a_layer_is_not_followed(run, link, act):
    (run / link).parent.mkdir()
    (run / link).symlink_to(run.parent / "elsewhere/1.json")
    with pytest.raises(UserError, match="is a link or lies behind one"):
        act(run)
    assert (run.parent / "elsewhere/1.json").read_text() == "precious"


def test_a_link_in_place_of_a_record_is_replaced(run):
    (run / "receipts/first").mkdir(parents=True)
    (run / "receipts/first/1.json").symlink_to(run.parent / "elsewhere/1.json")
    put(run)
    assert (run.parent / "elsewhere/1.json").read_text() == "precious"
    assert not (run / "receipts/first/1.json").is_symlink()


def test_the_run_itself_may_lie_behind_a_link(run):
    (run.parent / "short").symlink_to(run)
    put(run.parent / "short")
    write_voxels(run.parent / "short")
    assert (run / "receipts/first/1.json").exists()
    assert LabelLayer(f"file://{run}/somas").read(BOX).all()
