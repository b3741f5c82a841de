"""predict and evaluate: from a file to labels and scores, as a user types them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from bright_networks import LOCATE, SEGMENT, brightness_network
from click.testing import CliRunner

from flysoma.errors import UserError
from flysoma.models.networks.network import ATTRIBUTES
from flysoma.models.networks.weights import load_network, save_network
from flysoma.scripts.cli import cli
from flysoma.tasks.volumes.files import read_array, write_array
from flysoma.tasks.volumes.ingest import NewLayer, ingest_array

SHAPE = (61, 70, 83)  # z, y, x; smaller than a window, a multiple of nothing


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    """Two bright balls at 128 x 128 nm finer than the networks' voxels in x and y."""
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    truth = np.zeros(SHAPE, np.uint32)
    for number, centre in enumerate([(30, 20, 20), (30, 48, 60)], start=1):
        apart = sum(((g - c) * v) ** 2 for g, c, v in zip(grid, centre, (40, 50, 50)))
        truth[apart < 900**2] = number
    folder = tmp_path_factory.mktemp("block")
    brightness_network(folder / "locate.safetensors", *LOCATE)
    brightness_network(folder / "segment.safetensors", *SEGMENT)
    return folder, np.where(truth > 0, 210, 40).astype(np.uint8), truth


def call(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


@pytest.mark.parametrize("ending", [".npy", ".tif", ".h5", ".nii.gz"])
def test_predict_finds_the_balls_in_any_file(block, ending):
    folder, image, truth = block
    source, output = folder / f"image{ending}", folder / f"labels{ending}"
    write_array(source, image)
    weights = [f"--{role}-weights={folder}/{role}.safetensors" for role in ("locate", "segment")]
    resolution = ["--resolution", 50, 50, 40]
    done = call("predict", source, *resolution, "--output", output, *weights)
    assert "2 somas" in done.output
    labels = read_array(output)
    assert labels.shape == truth.shape
    write_array(folder / "truth.npy", truth)
    scored = call("evaluate", output, folder / "truth.npy", *resolution, "--json")
    scores = json.loads(scored.stdout)
    assert scores["f1"] == 1 and scores["dice"] > 0.9


def test_predict_takes_sections_that_are_thicker_than_the_networks(block):
    folder, image, truth = block
    write_array(folder / "thick.npy", image)
    weights = [f"--{role}-weights={folder}/{role}.safetensors" for role in ("locate", "segment")]
    output = folder / "thick_labels.npy"
    done = call(
        "predict", folder / "thick.npy", "--resolution", 50, 50, 55, "--output", output, *weights
    )
    assert "2 somas" in done.output
    assert ((read_array(output) > 0) == (truth > 0)).mean() > 0.95


def test_predict_writes_nuclei_with_the_ids_of_their_somas(block):
    folder, image, _ = block
    write_array(folder / "image.npy", image)
    file = folder / "nuclear.safetensors"
    network = load_network(brightness_network(file, (*SEGMENT[0], *ATTRIBUTES), SEGMENT[1]))
    network.module.head.bias.data[3] = 60  # a nucleus fills its soma
    save_network(file, network)
    words = ["predict", folder / "image.npy", "--resolution", 50, 50, 40]
    words += ["--output", folder / "labels.npy", "--nuclei", folder / "nuclei.npy"]
    words += [f"--locate-weights={folder}/locate.safetensors"]
    call(*words, f"--segment-weights={file}")
    labels, nuclei = (read_array(folder / f"{name}.npy") for name in ("labels", "nuclei"))
    assert len(np.unique(labels)) == 3 and (nuclei == labels).all()
    with pytest.raises(UserError, match="predicts no nuclei"):
        call(*words, f"--segment-weights={folder}/segment.safetensors")


def test_what_predict_cannot_do_is_said(block):
    folder, image, _ = block
    write_array(folder / "fine.npy", image)
    with pytest.raises(UserError, match="no file at"):
        call("predict", folder / "none.npy", "--resolution", 64, 64, 40, "--output", "x.npy")
    with pytest.raises(UserError, match="too coarse"):
        call(
            "predict",
            folder / "fine.npy",
            "--resolution",
            99,
            99,
            40,
            "--output",
            "x.npy",
            f"--locate-weights={folder}/locate.safetensors",
            f"--segment-weights={folder}/segment.safetensors",
        )
    with pytest.raises(UserError, match="unknown format"):
        write_array(folder / "labels.doc", image)
    for option in ("--output", "--nuclei"):  # before anything is read
        words = [folder / "none.npy", "--resolution", 64, 64, 40, "--output", folder / "x.npy"]
        with pytest.raises(UserError, match=r"labels.doc: unknown format"):
            call("predict", *words, option, folder / "labels.doc")


def test_evaluate_refuses_shapes_that_differ(block):
    folder, image, truth = block
    write_array(folder / "a.npy", truth)
    write_array(folder / "b.npy", truth[1:])
    with pytest.raises(UserError, match="shape"):
        call("evaluate", folder / "a.npy", folder / "b.npy", "--resolution", 50, 50, 40)


@pytest.fixture(scope="module")
def layers(block):
    """A truth in a part of a predicted volume, and the image, as precomputed layers."""
    folder, image, truth = block
    pred = np.where(truth == 2, 0, truth)  # the second ball is missed
    pred[2:20, 2:30, 60:80] = 7  # and this is false
    place = {"resolution_nm": (50, 50, 40), "chunk": (32, 32, 32)}
    for name, array, kind, offset in (
        ("em", image, "image", (100, -20, 6)),
        ("found", pred, "segmentation", (100, -20, 6)),
        ("truth", truth[1:, :, 3:], "segmentation", (103, -20, 7)),
    ):
        layer = NewLayer(str(folder / name), layer_type=kind, offset_vx=offset, **place)
        ingest_array(array.astype(np.uint8 if kind == "image" else np.uint64), layer)
    return folder, pred[1:, :, 3:], truth[1:, :, 3:]


def test_evaluate_scores_layers_within_the_truths_box_as_it_scores_files(layers, tmp_path):
    folder, pred, truth = layers
    write_array(tmp_path / "pred.npy", pred)
    write_array(tmp_path / "truth.npy", truth)
    resolution = ["--resolution", 50, 50, 40, "--json"]
    of_layers = call("evaluate", folder / "found", folder / "truth", *resolution)
    of_files = call("evaluate", tmp_path / "pred.npy", tmp_path / "truth.npy", *resolution)
    one, two = json.loads(of_layers.stdout), json.loads(of_files.stdout)
    here, there = (np.array([c.pop("position_nm") for c in s["cases"]]) for s in (one, two))
    assert one == two and one["f1"] == 0.5
    assert [case["kind"] for case in one["cases"]] == ["missed", "false"]
    np.testing.assert_allclose(here - there, [[103 * 50, -20 * 50, 7 * 40]] * 2)


def test_evaluate_writes_a_page_of_the_worst_cases(layers, tmp_path):
    folder = layers[0]
    page = tmp_path / "new" / "page.html"
    table = tmp_path / "somas.csv"
    table.write_text("id,confidence\n1,0.9\n7,0.1\n")
    options = ["--resolution", 50, 50, 40, "--report", page, "--image", folder / "em"]
    done = call("evaluate", folder / "found", folder / "truth", *options, "--confidence", table)
    assert "precision 0.500  recall 0.500" in done.stdout
    assert "errors: missed 1, false 1, merge 0, split 0, border 0" in done.stdout
    text = page.read_text()
    assert text.count("data:image/png;base64,") == 2
    assert "missed: no prediction" in text and "false: the prediction matches no soma" in text


def test_evaluate_needs_no_resolution_for_layers_and_shows_errors_of_a_run(layers, tmp_path):
    folder = layers[0]
    run = tmp_path / "run"
    shutil.copytree(folder / "found", run / "somas")
    of_layers = json.loads(call("evaluate", folder / "found", folder / "truth", "--json").stdout)
    (run / "config.yaml").write_text(f"image: {folder}/em\noutput: {run}\n")
    for path in (run, run / "somas"):
        of_run = json.loads(call("evaluate", path, folder / "truth", "--json").stdout)
        shown = [case.pop("command") for case in of_run["cases"]]
        assert of_run == of_layers
        x, y, z = of_run["cases"][0]["position_nm"]
        assert shown[0] == f"flysoma view {run} --at {x:.0f} {y:.0f} {z:.0f}"
        page = tmp_path / "page.html"
        done = call("evaluate", path, folder / "truth", "--report", page)
        assert shown[0] in done.stdout and shown[0] in page.read_text()


@pytest.mark.parametrize("finer", ["found", "truth"])
def test_evaluate_compares_layers_at_the_larger_voxels(layers, tmp_path, finer):
    """One of the layers is stored at voxels half as large along x and y; neighbours share a label."""
    folder, pred, truth = layers
    small = {"found": pred, "truth": truth}[finer].repeat(2, 1).repeat(2, 2).astype(np.uint64)
    place = {"resolution_nm": (25, 25, 40), "offset_vx": (206, -40, 7)}
    ingest_array(small, NewLayer(str(tmp_path / finer), layer_type="segmentation", **place))
    paths = {"found": folder / "found", "truth": folder / "truth", finer: tmp_path / finer}
    mixed = call("evaluate", paths["found"], paths["truth"], "--json")
    alike = call("evaluate", folder / "found", folder / "truth", "--json")
    assert json.loads(mixed.stdout) == json.loads(alike.stdout)


def test_evaluate_says_which_somas_the_edge_cuts(tmp_path):
    truth = np.zeros((40, 60, 60), np.uint8)
    truth[:10, 20:40, 20:40] = 1
    truth[20:40, 10:40, 10:40] = 2
    np.save(tmp_path / "truth.npy", truth)
    files = [tmp_path / "truth.npy"] * 2
    done = call("evaluate", *files, "--resolution", 100, 100, 100)
    assert "1 of the true and 1 of the predicted objects are cut" in done.stdout
    ignoring = call("evaluate", *files, "--resolution", 100, 100, 100, "--min-edge-um3", 14)
    assert "are cut" not in ignoring.stdout
    assert re.search(r"true objects +1 .*1 ignored", ignoring.stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["found", "truth", "--resolution", 50, 50, 30],
            "voxels of (50.0, 50.0, 40.0) nm and --resolution",
        ),
        (["small.npy", "truth"], "small.npy is a file: give its voxel size with --resolution"),
        (["small.npy", "small.npy", "--resolution", 50, 50, 40], "1 objects and none is judged"),
        (["truth", "found", "--resolution", 50, 50, 40], "the prediction must cover the truth"),
        (
            ["found", "em", "--resolution", 50, 50, 40],
            "em is of type image, and a layer of type segmentation",
        ),
        (["found", "small.npy", "--resolution", 50, 50, 40], "(61, 70, 83) and (2, 2, 2)"),
        (["small.npy", "empty.npy", "--resolution", 50, 50, 40], "holds no soma"),
        (["small.npy", "floats.npy", "--resolution", 50, 50, 40], "labels are whole numbers"),
        (
            ["small.npy", "small.npy", "--resolution", 50, 50, 40, "--confidence", "no"],
            "no table at",
        ),
        (
            ["small.npy", "small.npy", "--resolution", 50, 50, 40, "--confidence", "x.parquet"],
            "cannot be read as a table",
        ),
    ],
)
def test_evaluate_refuses_what_does_not_fit_in_one_line(layers, monkeypatch, words, message):
    monkeypatch.chdir(layers[0])
    np.save("small.npy", np.full((2, 2, 2), 2**40 + 1, np.uint64))
    np.save("empty.npy", np.zeros((2, 2, 2), np.uint64))
    Path("x.parquet").write_text("PAR1 cut short")
    np.save("floats.npy", np.full((2, 2, 2), 0.5, np.float32))
    with pytest.raises(UserError) as caught:
        call("evaluate", *words)
    assert message in str(caught.value) and "\n" not in str(caught.value)
