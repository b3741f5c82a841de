"""The accuracy benchmarks: the published inference, the baselines, and the pooled scores."""

import json

import numpy as np
import pytest
from bright_networks import LOCATE, SEGMENT, brightness_network
from click.testing import CliRunner

from flysoma.analysis.metrics.point_scores import PointScores, score_points
from flysoma.analysis.metrics.touching_pairs import count_separated, find_touching_pairs
from flysoma.analysis.viewer.browser import find_browser
from flysoma.models.networks.weights import load_network
from flysoma.scripts.bench import accuracy
from flysoma.scripts.bench.methods import baselines
from flysoma.scripts.bench.methods.published import (
    PATCH,
    border_starts,
    patch_starts,
    published_inference,
    published_seeds,
)
from flysoma.scripts.cli import cli

VOXEL = (40.0, 64.0, 64.0)
NEEDS_BROWSER = pytest.mark.skipif(find_browser() is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    brightness_network(folder / "locate.safetensors", *LOCATE)
    brightness_network(folder / "segment.safetensors", *SEGMENT)
    return folder / "locate.safetensors", folder / "segment.safetensors"


def balls(shape, voxel_nm, *centres, radius=1500.0):
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    labels = np.zeros(shape, np.uint32)
    for number, centre in enumerate(centres, start=1):
        apart = sum(((g - c) * v) ** 2 for g, c, v in zip(grid, centre, voxel_nm))
        labels[apart < radius**2] = number
    return labels


def test_a_seed_has_seven_patches_and_the_border_all_its_windows():
    volume = (260, 400, 400)
    starts = list(patch_starts(np.array([[130.0, 200, 200]]), volume))
    assert starts[0] == (65, 149, 149) and len(starts) == 7
    apart = np.array(starts) - starts[0]
    assert sorted(map(tuple, np.abs(apart[1:]).tolist())) == sorted(
        [(60, 0, 0), (0, 60, 0), (0, 0, 60)] * 2
    )
    windows = list(border_starts(volume))
    last = [n - p for n, p in zip(volume, PATCH)]
    assert all(any(a in (0, end) for a, end in zip(start, last)) for start in windows)
    steps = [len({start[axis] for start in windows}) for axis in range(3)]
    assert steps == [6, 11, 11]  # every 30 voxels, and the last place
    assert len(windows) == 6 * 11 * 11 - 4 * 9 * 9  # all but those inside
    clamped = list(patch_starts(np.array([[0.0, 0, 399]]), volume))
    assert all(0 <= a <= end for start in clamped for a, end in zip(start, last))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2])
def test_the_published_inference_finds_bright_balls(weights, factor):
    shape = (138, 110 * factor, 126 * factor)
    voxel_nm = (40.0, 64.0 / factor, 64.0 / factor)
    middle = [(60, 50 * factor, 40 * factor), (70, 60 * factor, 95 * factor)]
    truth = balls(shape, voxel_nm, *middle)
    image = np.where(truth > 0, 210, 40).astype(np.uint8)
    networks = [load_network(w) for w in weights]
    seeds = published_seeds(image[::6, ::factor, ::factor], networks[0])
    assert len(seeds) == 2 and np.abs(seeds[0] - [20, 50, 40]).max() < 2
    labels = published_inference(image, voxel_nm, *networks)
    assert set(np.unique(labels)) == {0, 1, 2}
    assert ((labels > 0) & (truth > 0)).sum() > 0.8 * (truth > 0).sum()
    assert ((labels > 0) & (truth == 0)).sum() < 0.1 * (truth > 0).sum()


def test_pairs_that_touch_and_stay_apart():
    labels = np.zeros((20, 30, 40), np.uint32)
    labels[:, :, :10], labels[:, :, 10:20], labels[0, :1, 20:30] = 3, 9, 4
    voxel_nm = (50.0, 100.0, 100.0)  # 3 and 9 share 20 x 30 faces of 0.005 um2
    assert find_touching_pairs(labels, voxel_nm) == {(3, 9)}
    assert find_touching_pairs(labels, voxel_nm, 0.004) == {(3, 9), (4, 9)}
    pairs = {(3, 9), (4, 9)}
    assert count_separated(pairs, []) == 2
    assert count_separated(pairs, [(3, 4, 9)]) == 0
    assert count_separated(pairs, [(3, 4)]) == 2


@pytest.mark.slow
def test_the_benchmark_scores_every_method_and_writes_the_results(weights, tmp_path, monkeypatch):
    """On bright balls in place of a phantom, with networks that see brightness, all methods are perfect."""
    small = accuracy.TestSet("typical", (1,), (138, 110, 230))
    truth = balls(small.shape, VOXEL, (60, 50, 40), (70, 60, 95), (66, 52, 188))

    class Toy:
        image = np.where(truth > 0, 210, 40).astype(np.uint8)
        neurons = truth

    monkeypatch.setattr(accuracy, "make_phantom", lambda *_: Toy)
    monkeypatch.setattr(accuracy, "SETS", {"small": small})
    words = ["bench", "accuracy", "--sets", "small", "--output", str(tmp_path)]
    words += ["--locate-weights", str(weights[0]), "--segment-weights", str(weights[1])]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert (
        "small: 3 somas, 0 touching pairs" in done.stdout and "published inference" in done.stdout
    )
    result = json.loads((tmp_path / "accuracy.json").read_text())["sets"]["small"]
    scores = {method: row["f1"] for method, row in result["methods"].items()}
    assert set(scores) == set(accuracy.METHODS) and set(scores.values()) == {1.0}
    assert result["localization"]["recall"] == 1 and result["localization"]["false"] == 0
    assert result["seams"]["f1_across"] == 1 and result["seams"]["somas_across"] >= 1
    assert sum(n for *_, n in result["confidence"]["bins"]) >= 3
    assert "<svg" in (tmp_path / "accuracy.svg").read_text()
    assert "Scores" in (tmp_path / "small-1.html").read_text()
    text = (tmp_path / "accuracy.json").read_text()
    monkeypatch.setattr(baselines, "METHODS", {})  # no method runs: every answer is cached
    CliRunner().invoke(cli, words, catch_exceptions=False)
    assert (tmp_path / "accuracy.json").read_text() == text


def test_a_set_of_other_contrast_maps_the_grey_levels_of_the_same_phantom(monkeypatch):
    class Toy:
        image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        neurons = np.ones((1, 16, 16), np.uint32)

    monkeypatch.setattr(accuracy, "make_phantom", lambda *_: Toy)
    image, labels = accuracy.TestSet("typical", (1, 2), tones=((1, 0, 255), (2.0, 100, 160))).make(
        1
    )
    assert image.dtype == np.uint8 and image[0, 0, 0] == 100 and image[0, -1, -1] == 160
    assert image[0, 8, 0] == round(100 + 60 * (128 / 255) ** 2) and labels is Toy.neurons
    assert np.array_equal(accuracy.TestSet("typical", (1, 2)).make(1)[0], Toy.image)


@pytest.mark.parametrize(
    "words", [("--sets", "tiny"), ("--methods", "flysoma,magic"), ("--rivals", "magic")]
)
def test_unknown_names_are_refused(words):
    done = CliRunner().invoke(cli, ["bench", "accuracy", *words])
    assert done.exit_code == 2 and "there are:" in done.output


def test_points_have_an_object_of_their_own_or_share_one_or_are_missed():
    centres = [(30, 30, 40), (30, 60, 40), (30, 60, 110), (30, 60, 190)]
    labels = balls((60, 100, 230), VOXEL, *centres)
    labels[labels == 2] = 1
    points = np.array([*centres, (5.0, 90, 5)])
    points[3] += (0, 0, 18)  # 1152 nm off: the ball around it reaches out of the object
    scores = score_points(labels, points, VOXEL)
    assert scores == PointScores(points=5, own=2, shared=2, missed=1, objects=3, without=0)
    assert score_points(labels, points[3:4] + (0, 0, 8), VOXEL).own == 0  # most of it is outside
    assert score_points(labels, np.zeros((0, 3)), VOXEL) == PointScores(0, 0, 0, 0, 3, 3)


@pytest.mark.slow
def test_known_nuclei_score_every_method(weights, tmp_path):
    """Image voxels of 40 nm: the working resolution is not a multiple of it."""
    methods = ("flysoma", "no watershed", "classical")
    centres = [(64, 80, 64), (64, 80, 150), (70, 190, 150)]
    image = np.where(balls((138, 240, 230), (40.0, 40.0, 40.0), *centres) > 0, 210, 40)
    np.save(tmp_path / "image.npy", image.astype(np.uint8))
    lines = [f"{x * 40},{y * 40},{z * 40}" for z, y, x in centres]
    (tmp_path / "nuclei.csv").write_text("\n".join(["x_nm,y_nm,z_nm", *lines[:2]]))
    words = [
        *("bench", "nuclei", str(tmp_path / "image.npy"), str(tmp_path / "nuclei.csv"), "--json"),
        *("--locate-weights", str(weights[0]), "--segment-weights", str(weights[1])),
    ]
    picture = tmp_path / "new" / "methods.png"
    words += ["--resolution", "40", "40", "40", "--methods", ",".join(methods)]
    words += ["--output", str(picture)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    rows = json.loads(done.stdout)
    assert tuple(rows) == methods and picture.read_bytes().startswith(b"\x89PNG")
    for row in rows.values():
        assert (row["own"], row["missed"], row["objects"], row["without"]) == (2, 0, 3, 1)
    (tmp_path / "nuclei.csv").write_text("x_nm,y_nm,z_nm\n90000,0,0\n")
    refused = CliRunner().invoke(cli, words)
    assert "1 of 1 nuclei lie outside" in str(refused.exception)
    (tmp_path / "nuclei.csv").write_text("a,b\n1,2\n")
    refused = CliRunner().invoke(cli, words)
    assert "needs the columns x_nm, y_nm, z_nm" in str(refused.exception)
    (tmp_path / "nuclei.csv").write_text("x_nm,y_nm,z_nm\n1,2,3\n1,,x\n")
    refused = CliRunner().invoke(cli, words)
    assert "nucleus 2 has a position that is not a number" in str(refused.exception)


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], pytest.param(["--draw"], marks=NEEDS_BROWSER)])
def test_outputs_of_any_number_of_somas_are_measured(words):
    done = CliRunner().invoke(
        cli, ["bench", "outputs", "--somas", "50", "--json", *words], catch_exceptions=False
    )
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["annotations"]["notes"]["files"] == 2 * 50 + 2  # by id, by soma, one cell, info
    assert rows["tables"]["notes"]["files"] == 6 and rows["report"]["notes"]["MB"] > 0.1
    assert all(row["values"][0] > 0 for row in rows.values())
    assert ("drawn, everything" in rows) == bool(words)


def test_the_former_name_of_a_set_is_accepted(monkeypatch):
    scored = []
    monkeypatch.setattr(accuracy, "_score_set", lambda name, *_: scored.append(name))
    words = ["bench", "accuracy", "--sets", "clean,unlike", "--json"]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    assert scored == ["clean", "out_of_distribution"]
