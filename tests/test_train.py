"""Training: it learns, stops and goes on as if it had not, and says what it made; loaders and losses."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from toy_somas import toy_somas

from flysoma.errors import UserError
from flysoma.models import dataset
from flysoma.models import train as training
from flysoma.models.augment import NONE
from flysoma.models.dataset import PhantomPlan, Source, Volume, emads_pairs, phantom_volumes, shrink
from flysoma.models.losses import soft_dice, soma_loss
from flysoma.models.targets import soma_targets
from flysoma.models.train import TrainConfig, train
from flysoma.models.weights import load_network

VOXEL = (64.0, 64.0, 64.0)
SMALL = TrainConfig(
    "segment",
    patch=(32, 32, 32),
    steps=70,
    warmup=5,
    lr=2e-3,
    ema=0.8,
    judge_every=20,
    bf16=False,
    change=replace(NONE, rotate_deg=10, grey_rate=0.5),
)


def toy_source():
    volumes = [Volume.checked(*toy_somas(seed=s), f"toy{s}") for s in range(3)]
    return Source(volumes[:2], volumes[2:], VOXEL, {"toy": 3})


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_learns_toy_somas_and_says_what_it_made(tmp_path):
    output, seen = tmp_path / "toy.safetensors", []
    record = train(
        replace(SMALL, command="flysoma train segment"), toy_source(), output, seen.append
    )
    assert record["scores_on_held_out"]["dice"] > 0.8
    assert seen[-1]["done"] == 1 and seen[-1]["loss"] < 0.5 * seen[0]["loss"]
    network = load_network(output)
    beside = json.loads(output.with_suffix(".json").read_text())
    assert network.fingerprint == beside["sha256"] and beside["command"] == "flysoma train segment"
    assert network.spec.classes == ("background", "interior", "boundary")
    assert output.with_suffix(".png").exists() and not output.with_suffix(".ckpt").exists()


@pytest.mark.parametrize("role", ["locate", "segment"])
def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path, role):
    config = replace(SMALL, role=role, patch=(8, 16, 16), steps=8, judge_every=4)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    train(config, toy_source(), whole)

    def stop(report):
        if report["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, toy_source(), parts, stop)
    steps = []
    train(config, toy_source(), parts, lambda r: steps.append(r["step"]))
    assert steps == [5, 6, 7, 8]
    assert whole.read_bytes() == parts.read_bytes()


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    output = tmp_path / "a.safetensors"
    config = replace(SMALL, patch=(8, 16, 16), steps=2, judge_every=1)

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, toy_source(), output, stop)
    with pytest.raises(UserError, match="other settings"):
        train(replace(config, lr=1e-2), toy_source(), output)


def test_training_goes_on_from_given_weights(tmp_path):
    config = replace(SMALL, patch=(8, 16, 16), steps=1, lr=0.0)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train(config, toy_source(), first)
    train(replace(config, init=str(first), seed=3), toy_source(), second)
    before, after = (load_network(p).module.state_dict() for p in (first, second))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    with pytest.raises(UserError, match="not what is trained"):
        train(replace(config, role="locate", init=str(first)), toy_source(), second)


def test_patches_that_train_wrongly_in_bfloat16_are_refused(tmp_path):
    with pytest.raises(UserError, match="patches of 32 sections"):
        train(
            replace(SMALL, bf16=True, patch=(32, 32, 32)), toy_source(), tmp_path / "x.safetensors"
        )


def test_without_volumes_it_refuses(tmp_path):
    with pytest.raises(UserError, match="at least one volume"):
        train(SMALL, Source([], [], VOXEL, {}), tmp_path / "x.safetensors")


def test_the_loss_ignores_255_and_rewards_the_truth():
    target = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    target[:, 1] = 1
    right = torch.nn.functional.one_hot(target.long(), 3).permute(0, 4, 1, 2, 3) * 20.0
    assert soma_loss(right, target, (1, 1, 2), 0.5) < 1e-3
    assert soma_loss(-right, target, (1, 1, 2), 0.5) > 1
    unknown = torch.full_like(target, 255)
    assert soma_loss(-right, unknown, (1, 1, 2), 0.5) == 0
    assert soft_dice(torch.softmax(right, 1), target) > 0.99


def test_phantoms_are_made_once_and_kept(tmp_path, monkeypatch):
    made = []

    def fake(shape, voxel_nm, seed, difficulty, scene):
        made.append((seed, difficulty, scene))
        image, labels = toy_somas(shape, seed)
        return type("Toy", (), {"image": image, "labels": labels})

    monkeypatch.setattr(dataset, "make_phantom", fake)
    plan = PhantomPlan("segment", (8, 16, 16), VOXEL, 20, 100)
    first = phantom_volumes(plan, tmp_path, processes=1)
    again = phantom_volumes(plan, tmp_path, processes=1)
    assert len(made) == len(first) == 20 and {seed for seed, *_ in made} == set(range(100, 120))
    assert {s for *_, s in made} == {"brain", "rind", "glia", "neuropil", "edge"}
    assert {d for _, d, _ in made} == {"clean", "typical", "worst"}
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again))


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def test_emads_folders_are_read(tmp_path):
    image, labels = toy_somas((8, 16, 16))
    mask = (labels > 0).astype(np.uint8) * 255
    write(tmp_path / "b1" / "b1_raw.nii.gz", image)
    write(tmp_path / "b1" / "b1_mask.nii.gz", mask)
    write(tmp_path / "train" / "001" / "data.nii.gz", image)
    write(tmp_path / "train" / "001" / "label.nii.gz", labels.astype(np.uint16))
    found = {name: (a, b) for name, a, b in emads_pairs(tmp_path)}
    assert set(found) == {"b1", "train/001"}
    assert np.array_equal(found["train/001"][0], image)
    assert np.array_equal(found["train/001"][1], labels)
    assert np.array_equal(found["b1"][1] > 0, labels > 0) and found["b1"][1].max() < 255
    (tmp_path / "b1" / "b1_mask.nii.gz").unlink()
    with pytest.raises(UserError, match="b1_mask.nii.gz should lie beside it"):
        list(emads_pairs(tmp_path))
    with pytest.raises(UserError, match="EMADS folder"):
        list(emads_pairs(tmp_path / "train" / "001" / "none"))


def test_shrinking_takes_means_and_middle_labels():
    image = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    small, labels = shrink(image, image.astype(np.uint32), (1, 2, 2))
    assert small.shape == labels.shape == (2, 2, 2)
    assert small[0, 0, 0] == round((0 + 1 + 5 + 6) / 4) and labels[0, 0, 0] == 6


def test_volumes_that_do_not_match_are_refused():
    image, labels = toy_somas()
    with pytest.raises(UserError, match="one 3D shape"):
        Volume.checked(image[1:], labels, "a")
    with pytest.raises(UserError, match="needs uint8"):
        Volume.checked(image.astype(np.float32), labels, "a")


def test_a_judgement_of_a_perfect_answer_is_one(monkeypatch):
    volume = toy_source().held_out[0]
    truth = soma_targets(volume.labels, VOXEL, "segment")
    right = torch.nn.functional.one_hot(torch.from_numpy(truth).long(), 3).float()
    monkeypatch.setattr(training, "_logits", lambda *_: right.permute(3, 0, 1, 2)[None] * 9)
    network = training.new_network(SMALL, VOXEL)
    scores = training.judge(network, [volume], SMALL)
    assert scores["score"] == scores["dice"] == 1 and scores["false_share_of_background"] == 0
