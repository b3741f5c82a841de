"""What a command replaces or deletes is its own: everything else in a folder or bucket is left alone."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from cloudfiles import CloudFiles

from flysoma.errors import UserError
from flysoma.scripts.volumes.look import command as look
from flysoma.scripts.volumes.predict import command as predict
from flysoma.tasks.layers.ownership import check_output, find_foreign
from flysoma.tasks.volumes.ingest import NewLayer, ingest_array

GREY = np.full((20, 20, 20), 9, np.uint8)


@pytest.fixture
def layer(tmp_path):
    """Folder of a layer."""
    ingest_array(GREY, NewLayer(str(tmp_path / "em"), (64, 64, 40)))
    return tmp_path / "em"


def test_what_the_libraries_write_is_part_of_a_layer():
    files = CloudFiles("mem://whole")
    info = {"scales": [{"key": "8_8_40"}, {"key": "16_16_40/"}], "mesh": "mesh_mip_2"}
    info |= {"skeletons": "skeletons", "segment_properties": "properties"}
    files.put_json("info", info)
    names = ["provenance", "8_8_40/-64-0_0-64_128-192", "16_16_40/0a3.shard", "mesh_mip_2/7:0"]
    names += ["mesh_mip_2/info", "skeletons/7", "properties/info"]
    files.puts([(name, b"") for name in names])
    assert find_foreign("mem://whole") is None


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "64_64_40/notes.txt", "64_64_40/run/0-64_0-64_0-64", "thesis/chapter1.tex"],
)
def test_overwriting_a_layer_spares_what_else_lies_there(name, layer):
    other = layer / name
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text("three years")
    with pytest.raises(UserError, match=f"holds {name}, which is not part of a layer"):
        ingest_array(GREY, NewLayer(str(layer), (64, 64, 40), overwrite=True))
    assert other.read_text() == "three years" and (layer / "info").exists()


@pytest.mark.parametrize(
    "info",
    ["notes, not a layer", "[]", '{"scales": 3}', '{"scales": [{"key": "thesis"}]}', "[" * 9999],
)
def test_a_file_called_info_makes_no_layer(info, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "info").write_text(info)
    (tmp_path / "thesis/chapter1.tex").write_text("three years")
    with pytest.raises(UserError, match="not part of a layer"):
        ingest_array(GREY, NewLayer(str(tmp_path), (64, 64, 40), overwrite=True))
    assert (tmp_path / "thesis/chapter1.tex").exists() and (tmp_path / "info").exists()


def test_objects_in_a_bucket_are_spared_too():
    files = CloudFiles("mem://bucket/place")
    files.put("data/1.csv", b"")
    assert find_foreign("mem://bucket/place") == "data/1.csv"
    files.put_json("info", {"scales": [{"key": "1_1_1"}]})
    assert find_foreign("mem://bucket/place") == "data/1.csv"
    files.delete("data/1.csv")
    assert find_foreign("mem://bucket/place") is None


def test_a_layer_replaces_itself_and_an_empty_folder(layer, tmp_path):
    ingest_array(GREY[:10], NewLayer(str(layer), (64, 64, 40), overwrite=True))
    assert json.loads((layer / "info").read_text())["scales"][0]["size"] == [20, 20, 10]
    (tmp_path / "empty").mkdir()
    ingest_array(GREY, NewLayer(str(tmp_path / "empty"), (64, 64, 40)))


def outputs(tmp_path):
    """Outputs that are not fine for the input `em.npy`, by what is wrong."""
    source = tmp_path / "em.npy"
    np.save(source, GREY)
    os.link(source, tmp_path / "hard.npy")
    (tmp_path / "soft.npy").symlink_to(source)
    return [source, tmp_path / "x/../em.npy", tmp_path / "hard.npy", tmp_path / "soft.npy"]


def test_an_output_is_not_the_input_under_any_name(tmp_path):
    for output in outputs(tmp_path):
        with pytest.raises(UserError, match="is or lies in the input"):
            check_output(output, tmp_path / "em.npy")
    with pytest.raises(UserError, match="is or lies in the input"):
        check_output(tmp_path / "labels.npy", tmp_path)
    check_output(tmp_path / "new.npy", tmp_path / "em.npy")
    check_output(tmp_path / "new.npy", "gs://bucket/em")


@pytest.mark.parametrize(
    ("output", "message"), [("none/labels.npy", "does not exist"), (".", "is a folder")]
)
def test_an_output_that_cannot_be_written_is_told_at_once(output, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check_output(tmp_path / output, tmp_path / "em.npy")


@pytest.mark.parametrize(
    ("command", "more"), [(predict, ["--resolution", "64", "64", "40"]), (look, [])]
)
def test_a_command_refuses_its_input_as_output_before_it_reads(command, more, tmp_path):
    source = tmp_path / "em.tif"
    source.write_text("not an image")
    done = CliRunner().invoke(command, [str(source), *more, "--output", str(source)])
    assert isinstance(done.exception, UserError) and "choose another output" in str(done.exception)
    assert source.read_text() == "not an image"
