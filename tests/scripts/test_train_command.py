"""`flysoma train` as a user types it: configs, annotated data of every layout, what it refuses, the score by soma."""

import json

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner
from toy_somas import toy_somas

from flysoma.errors import UserError
from flysoma.models.training.build import build_network
from flysoma.models.training.config import TrainConfig
from flysoma.models.training.dataset import Volume
from flysoma.scripts.cli import cli
from flysoma.tasks.training import sources, validation
from flysoma.tasks.training.sources import make_source
from flysoma.tasks.volumes.ingest import NewLayer, ingest_array

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (16, 32, 32)  # z, y, x at 40 x 64 x 64 nm
SETTINGS = "steps: 2\npatch: [8, 16, 16]\nbf16: false\njudge_every: 2\nbatch: 1\n"


def call(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Three EMADS blocks of 40 x 16 x 16 nm, and the same tissue as precomputed layers of 32 x 32 x 40 nm."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("abc"):
        image, labels = (np.repeat(np.repeat(a, 4, 1), 4, 2) for a in toy_somas(SHAPE, seed=seed))
        save(tmp_path / "emads" / name / f"{name}_raw.nii.gz", image)
        save(tmp_path / "emads" / name / f"{name}_mask.nii.gz", labels.astype(np.uint16))
    image, labels = (np.repeat(np.repeat(a, 2, 1), 2, 2) for a in toy_somas((32, 32, 64)))
    for name, array, kind in (("em", image, "image"), ("somas", labels, "segmentation")):
        array = array.astype(np.uint8 if kind == "image" else np.uint64)
        layer = NewLayer(str(tmp_path / name), (32, 32, 40), (10, 20, 30), kind, (32, 32, 32))
        ingest_array(array, layer)
    return tmp_path


def box(z, x):
    """16 sections from z and 32 voxels of 64 nm from x of the layers, as nm."""
    lo = (320 + x * 64, 640, 1200 + z * 40)
    return [*lo, lo[0] + 2048, lo[1] + 2048, lo[2] + 640]


def config(lab, text):
    (lab / "train.yaml").write_text(text + SETTINGS)
    return lab / "train.yaml"


def test_volumes_below_validation_are_held_out_and_no_others(lab):
    (lab / "emads" / "validation").mkdir()
    (lab / "emads" / "b").rename(lab / "emads" / "validation" / "b")
    data = [{"emads": "emads"}]
    source = make_source(TrainConfig(role="segment", data=data), lab / "w.safetensors")
    assert [v.name for v in source.held_out] == ["emads/validation/b"]
    assert [v.name for v in source.train] == ["emads/a", "emads/c"]


def test_layers_and_emads_mixed_from_a_config_to_weights(lab):
    boxes = [box(0, 0), box(16, 0), box(0, 32)]
    file = config(
        lab,
        f"""
data:
  - {{emads: emads, held_out: [b], share: 1}}
  - {{image: {lab}/em, labels: {lab}/somas, boxes_nm: {boxes}, held_out: [2], share: 3}}
""",
    )
    done = call("train", "segment", file, "--output", lab / "new" / "w.safetensors")
    assert "ap50" in done.output and "new/w.safetensors" in done.output
    record = json.loads((lab / "new" / "w.json").read_text())
    assert record["steps"] == 2 and record["source"]["data"][0]["volumes"] == ["a", "b", "c"]
    assert record["scores_on_held_out"]["score"][0] == record["scores_on_held_out"]["ap50"]


def test_volumes_are_those_that_were_annotated(lab):
    image, labels = toy_somas((32, 32, 64))
    data = [
        {
            "image": f"{lab}/em",
            "labels": f"{lab}/somas",
            "boxes_nm": [box(16, 32), box(0, 0)],
            "held_out": [1],
        },
        {"emads": "emads"},
    ]
    source = make_source(TrainConfig(role="segment", data=data), lab / "w.safetensors")
    first = source.train[0]
    assert np.array_equal(first.image, image[16:, :, 32:])
    assert np.array_equal(first.labels > 0, labels[16:, :, 32:] > 0)
    assert len(source.train) == 3 and len(source.held_out) == 2  # block a is the first of five
    block, truth = toy_somas(SHAPE, seed=1)
    assert np.array_equal(source.train[1].image, block)
    assert np.array_equal(source.train[1].labels > 0, truth > 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [{emads: nowhere}]", "no folder at nowhere"),
        ("data: [{emads: emads, held_out: [x]}]", "has no x; there is"),
        (
            "data: [{emads: emads, resolution_nm: [20, 20, 50]}]",
            "is not a whole multiple of the voxel size",
        ),
        ("data: [{emads: emads, share: 1}, {phantoms: 0, held_out: 0}]", "give a share to all"),
        (
            "data: [{image: EM, labels: SOMAS, boxes_nm: [[0, 0, 0, 9999, 9999, 9999]]}]",
            "choose a box inside",
        ),
        (
            "data: [{image: EM, labels: SOMAS, boxes_nm: [[0, 0, 0, -1, 9, 9]]}]",
            "is empty: first corner",
        ),
        ("data: [{image: EM, labels: SOMAS, boxes_nm: [BOX]}]", "no volume is held out"),
        (
            "data: [{image: EM, labels: EM, boxes_nm: [BOX]}]",
            "a layer of type segmentation is needed",
        ),
        ("data: [{emads: emads, colour: red}]", "colour"),
        ("stepz: 3", "unknown key 'stepz'"),
        ("patch: [32, 64, 64]", "shrink to 2 inside the network"),  # said before phantoms are made
        ("class_weights: [1, 2]", "segment has 3 class_weights"),
        ("- 1", "expected keys such as"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(lab, text, message):
    text = text.replace("EM,", f"{lab}/em,").replace("SOMAS", f"{lab}/somas")
    text = text.replace("BOX", str(box(0, 0)))
    file = lab / "train.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        call("train", "segment", file, "--output", lab / "w.safetensors")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_label_file_of_another_shape_or_kind_is_refused(lab):
    mask = lab / "emads" / "b" / "b_mask.nii.gz"
    file = config(lab, "data: [{emads: emads}]\n")
    whole = np.asarray(nibabel.load(mask).dataobj)
    for wrong, message in (
        (whole[1:], "must have the same 3D shape"),
        (whole.astype(np.float32), "save them as integers"),
    ):
        save(mask, wrong)
        with pytest.raises(UserError, match=message):
            call("train", "segment", file, "--output", lab / "w.safetensors")


def test_volumes_without_a_soma_teach_nothing(lab):
    for name in "abc":
        path = lab / "emads" / name / f"{name}_mask.nii.gz"
        save(path, np.zeros_like(np.asarray(nibabel.load(path).dataobj)))
    file = config(lab, "data: [{emads: emads}]\n")
    with pytest.raises(UserError, match="no soma in any"):
        call("train", "locate", file, "--output", lab / "w.safetensors")


@pytest.mark.parametrize("role", ["locate", "segment"])
def test_the_score_by_soma_is_one_for_the_truth_and_less_for_less(monkeypatch, role):
    grid = np.ogrid[:60, :60, :120]
    voxel_nm = sources.VOXEL[role]
    labels = np.zeros((60, 60, 120), np.uint16)
    for number, x in enumerate((30, 85), start=1):
        apart = sum(((g - c) * v) ** 2 for g, c, v in zip(grid, (30, 30, x), voxel_nm))
        labels[apart < 1700**2] = number
    volume = Volume(np.zeros_like(labels, np.uint8), labels)
    settings = TrainConfig(role=role)
    network = build_network(settings, voxel_nm)
    classes = volume.targets(voxel_nm, role, 135.0)
    answer = np.stack([(classes == n) * np.uint8(255) for n in range(1, len(network.spec.classes))])
    monkeypatch.setattr(validation, "score_voxels", lambda *_: {"iou": 0.25})
    monkeypatch.setattr(validation, "_probabilities", lambda *_: answer)
    scores = validation.score_somas(network, [volume], settings)
    assert scores["score"] == [1.0, 0.25]
    answer[:, :, :, 60:] = 0
    half = validation.score_somas(network, [volume], settings)["score"][0]
    assert half == pytest.approx(2 / 3, abs=0.01) if role == "locate" else 0.4 < half < 0.6
    volume.labels[volume.labels == 2] = validation.UNKNOWN  # now nobody knows
    assert validation.score_somas(network, [volume], settings)["score"][0] == 1
