"""predict and evaluate: from a file to labels and scores, as a user types them."""

import json

import numpy as np
import pytest
from bright_networks import LOCATE, SEGMENT, brightness_network
from click.testing import CliRunner

from flysoma.errors import UserError
from flysoma.scripts.cli import cli
from flysoma.scripts.files import read_array, write_array

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
    scores = json.loads(scored.output)
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


def test_evaluate_refuses_shapes_that_differ(block):
    folder, image, truth = block
    write_array(folder / "a.npy", truth)
    write_array(folder / "b.npy", truth[1:])
    with pytest.raises(UserError, match="shape"):
        call("evaluate", folder / "a.npy", folder / "b.npy", "--resolution", 50, 50, 40)
