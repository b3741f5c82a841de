"""`flysoma adapt`: looks fitted to an image, the training on them, and what it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from toy_somas import toy_somas

from flysoma.analysis.look.measure import Sample, measure_look
from flysoma.analysis.look.stats import look_distance
from flysoma.errors import UserError
from flysoma.models.networks.weights import load_network
from flysoma.models.phantom.look import Look
from flysoma.models.phantom.make import make_phantom
from flysoma.models.training.config import TrainConfig
from flysoma.scripts.cli import cli
from flysoma.tasks.training import looks, sources
from flysoma.tasks.training.adaptation import adaptation_settings
from flysoma.tasks.training.looks import LookFit, fit_looks, paint_sample, read_fit, write_fit
from flysoma.tasks.training.sources import make_source
from flysoma.tasks.volumes.ingest import NewLayer, ingest_array

pytestmark = pytest.mark.usefixtures("one_thread")


def call(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def target_look():
    """Return the measured look of a phantom of single sections, at 40 x 40 nm."""
    look = Look.draw("real", np.random.default_rng(11))
    phantom = make_phantom((2, 128, 128), (40.0, 40.0, 40.0), 3, "real", "cortex", look=look)
    return measure_look([Sample(section[None]) for section in phantom.image], (0.0, 40.0, 40.0))


@pytest.fixture
def small(monkeypatch):
    """Make phantoms and rounds as small as the code allows."""
    monkeypatch.setattr(looks, "_SHAPE", (2, 96, 96))
    monkeypatch.setattr(looks, "_CANDIDATES", 8)
    monkeypatch.setattr(looks, "_ROUNDS", 2)
    monkeypatch.setitem(sources._PHANTOM, "segment", (8, 32, 32))
    monkeypatch.setattr(sources, "_FLAT", (2, 32, 32))


@pytest.mark.slow
def test_the_fit_comes_nearer_to_the_look_of_the_image(monkeypatch):
    monkeypatch.setattr(looks, "_CANDIDATES", 8)
    monkeypatch.setattr(looks, "_ROUNDS", 2)
    target = target_look()
    fit = fit_looks(target, 4, processes=1)
    distances = [distance for distance, _ in fit.fits]
    assert distances == sorted(distances) and distances[0] < fit.before
    phantom = paint_sample(target, fit.fits[0][1])
    assert look_distance(looks.measure_phantom(target, phantom), target).total == distances[0]


def test_a_fit_is_written_and_read(tmp_path):
    target = target_look()
    fit = LookFit(target, [(0.5, Look.draw("real", np.random.default_rng(1)))], 0.9)
    write_fit(tmp_path / "w.looks.json", fit)
    assert read_fit(tmp_path / "w.looks.json") == fit
    for text in (
        "",
        "[]",
        "{}",
        json.dumps({"looks": [{"distance": 1}]}),
        '{"looks": [], "target": 1}',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match="holds no looks as 'flysoma adapt' writes them"):
            read_fit(tmp_path / "bad.json")


def test_phantoms_of_a_training_take_the_looks_of_a_fit(tmp_path, small):
    dark, light = (Look.draw("clean", np.random.default_rng(1)) for _ in range(2))
    dark, light = (Look(**vars(dark) | {"brightness": b}) for b in (-0.4, 0.4))
    write_fit(tmp_path / "looks.json", LookFit(target_look(), [(0.1, dark), (0.2, light)], 1.0))
    data = {"phantoms": 2, "held_out": 1, "first_seed": 10, "looks": tmp_path / "looks.json"}
    config = TrainConfig(role="segment", data=[data], cache=tmp_path / "cache")
    source = make_source(config, tmp_path / "w.safetensors")
    means = [volume.image.mean() for volume in source.train]
    assert means[1] > means[0] + 40


@pytest.mark.slow
def test_adapt_writes_weights_looks_and_a_picture_and_resumes(tmp_path, small, monkeypatch):
    frame = make_phantom((1, 160, 160), (40.0, 40.0, 40.0), 3, "real", "cortex").image[0]
    Image.fromarray(frame).save(tmp_path / "frame.png")
    output = tmp_path / "new" / "w.safetensors"
    words = ("adapt", tmp_path / "frame.png", "--output", output, "--minutes", 0.01)
    done = call(*words, "--threads", 1)
    assert done.exit_code == 0, done.output
    assert "distance" in done.stderr
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["config"]["init"].startswith("flysoma/segment")
    assert {d["looks"] for d in record["config"]["data"]} == {
        None,
        str(output.with_suffix(".looks.json")),
    }
    assert load_network(output).fingerprint == record["sha256"]
    assert output.with_suffix(".looks.png").stat().st_size > 10_000
    monkeypatch.setattr(looks, "_measure_distance", None)  # the looks are read, not fitted again
    assert call(*words, "--threads", 1).exit_code == 0


def test_a_quarter_of_the_labels_is_held_out(tmp_path):
    image, labels = toy_somas((32, 32, 64))
    for name, array, kind in (("em", image, "image"), ("somas", labels, "segmentation")):
        array = array.astype(np.uint8 if kind == "image" else np.uint64)
        layer = NewLayer(str(tmp_path / name), (64, 64, 40), (10, 20, 30), kind, (32, 32, 32))
        ingest_array(array, layer)
    settings = adaptation_settings(
        "segment",
        str(tmp_path / "em"),
        tmp_path / "w.safetensors",
        None,
        str(tmp_path / "somas"),
        1,
    )
    boxes = settings["data"][-1]["boxes_nm"]
    assert len(boxes) == 4 and settings["data"][-1]["held_out"] == (3,)
    assert boxes[0][0] == 640 and boxes[-1][3] == 640 + 64 * 64
    assert all(a[3] == b[0] and a[1:3] == b[1:3] for a, b in zip(boxes, boxes[1:]))
    assert TrainConfig.model_validate(settings).role == "segment"


@pytest.mark.parametrize(
    ("grey", "message"),
    [
        (np.zeros((100, 100)), "the image is black"),
        (np.full((100, 100), 90), "all voxels that are not black"),
        (np.full((20, 20), 90), "64 x 64 are needed"),
        (np.repeat(np.repeat(np.arange(1, 101).reshape(10, 10), 16, 0), 16, 1), "holds labels"),
    ],
)
def test_images_without_a_look_are_refused_in_one_line(tmp_path, grey, message):
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "a.png")
    done = call("adapt", tmp_path / "a.png", "--output", tmp_path / "w.safetensors")
    assert isinstance(done.exception, UserError) and message in str(done.exception)
    assert not (tmp_path / "w.safetensors").exists()


def test_an_output_that_is_no_weights_file_is_refused(tmp_path):
    done = call("adapt", tmp_path / "a.png", "--output", tmp_path / "w.pt")
    assert "weights are a .safetensors file" in str(done.exception)
