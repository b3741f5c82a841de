"""Training: the loop, checkpoints, loaders, losses and validation."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_somas import toy_somas

from flysoma.errors import UserError
from flysoma.models.networks.weights import load_network
from flysoma.models.phantom.look import Look
from flysoma.models.phantom.make import SCENES, Phantom
from flysoma.models.training import distributed, phantoms, validation
from flysoma.models.training.build import build_network
from flysoma.models.training.config import TrainConfig
from flysoma.models.training.dataset import Patches, Source, Volume
from flysoma.models.training.emads import downsample_image, downsample_labels, read_emads
from flysoma.models.training.losses import soft_dice, soma_loss
from flysoma.models.training.phantoms import PhantomPlan, load_phantoms
from flysoma.models.training.targets import (
    GLIA,
    IGNORE,
    UNKNOWN,
    soma_targets,
)
from flysoma.models.training.train import train
from flysoma.models.training.validation import score_voxels
from flysoma.tasks.volumes.files import read_array

pytestmark = pytest.mark.usefixtures("one_thread")
VOXEL = (64.0, 64.0, 64.0)
SMALL = TrainConfig(
    role="segment",
    patch=(32, 32, 32),
    steps=90,
    warmup=5,
    lr=2e-3,
    ema=0.8,
    judge_every=20,
    bf16=False,
    augmentation=0.3,
)


def changed(config, **values):
    return TrainConfig.model_validate(config.model_dump() | values)


def toy_source():
    volumes = [Volume.from_arrays(*toy_somas(seed=s), f"toy{s}") for s in range(3)]
    return Source(volumes[:2], volumes[2:], VOXEL, {"toy": 3})


@pytest.mark.slow
def test_training_learns_toy_somas_and_writes_a_record(tmp_path):
    output, reports = tmp_path / "toy.safetensors", []
    record = train(SMALL, toy_source(), output, reports.append, command="flysoma train segment")
    assert record["scores_on_held_out"]["dice"] > 0.8
    assert reports[-1]["done"] == 1 and reports[-1]["loss"] < 0.5 * reports[0]["loss"]
    network = load_network(output)
    written = json.loads(output.with_suffix(".json").read_text())
    assert (
        network.fingerprint == written["sha256"] and written["command"] == "flysoma train segment"
    )
    assert network.spec.classes == ("background", "interior", "boundary")
    assert output.with_suffix(".png").exists() and not output.with_suffix(".ckpt").exists()
    events = EventAccumulator(str(output.with_suffix(".logs"))).Reload()
    assert {"loss", "learning_rate", "dice"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["held_out"]


@pytest.mark.slow
@pytest.mark.parametrize("role", ["locate", "segment"])
def test_an_interrupted_training_resumes_with_the_same_result(tmp_path, role):
    config = changed(SMALL, role=role, patch=(8, 16, 16), steps=8, judge_every=4)
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
    config = changed(SMALL, patch=(8, 16, 16), steps=2, judge_every=1)

    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, toy_source(), output, stop)
    with pytest.raises(UserError, match="other settings"):
        train(changed(config, lr=1e-2), toy_source(), output)


def test_training_starts_from_initial_weights(tmp_path):
    config = changed(SMALL, patch=(8, 16, 16), steps=1, lr=0.0)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train(config, toy_source(), first)
    train(changed(config, init=str(first), seed=3), toy_source(), second)
    before, after = (load_network(p).module.state_dict() for p in (first, second))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
    with pytest.raises(UserError, match="does not fit this training"):
        train(changed(config, role="locate", init=str(first)), toy_source(), second)
    shipped = changed(SMALL, patch=(16, 32, 32), steps=1, init="flysoma/segment-v5")
    record = train(shipped, toy_source(), tmp_path / "third.safetensors")
    assert record["went_on_from"]["role"] == "segment"


def test_a_training_that_degrades_the_initial_weights_keeps_them(tmp_path):
    def score_small_weights(network, volumes, config):
        return {"score": [1 / float(sum(p.abs().sum() for p in network.module.parameters()))]}

    config = changed(SMALL, patch=(8, 16, 16), steps=2, judge_every=1)
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    train(config, toy_source(), first)
    degrade = changed(config, init=str(first), lr=1.0, ema=0.0)
    record = train(degrade, toy_source(), second, validate=score_small_weights)
    assert record["scores_before"] == record["scores_on_held_out"]
    assert record["scores_before"]["step"] == 0 and record["steps"] == 2
    before, after = (load_network(p).module.state_dict() for p in (first, second))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_saved_weights_are_mixed_with_the_initial_ones(tmp_path):
    config = changed(SMALL, patch=(8, 16, 16), steps=2, lr=0.1, warmup=0, judge_every=2)
    latest = iter(range(100))  # the last validation is the best
    paths = [tmp_path / f"{name}.safetensors" for name in ("first", "whole", "half")]
    for path, change in zip(
        paths, ({}, {"init": str(paths[0])}, {"init": str(paths[0]), "mix": 0.5})
    ):
        train(
            changed(config, **change),
            toy_source(),
            path,
            validate=lambda *_: {"score": [next(latest)]},
        )
    first, whole, half = (load_network(path).module.state_dict() for path in paths)
    assert any(not torch.allclose(first[key], whole[key], atol=1e-2) for key in first)
    for key in first:
        assert torch.allclose(half[key], (first[key] + whole[key]) / 2, atol=2e-3)
    with pytest.raises(ValueError, match="mix needs"):
        changed(config, mix=0.5)


def test_patches_with_wrong_bfloat16_gradients_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"patches of 32 sections .* use \d+ sections"):
        train(
            changed(SMALL, bf16=True, patch=(32, 32, 32)), toy_source(), tmp_path / "x.safetensors"
        )


def test_training_without_volumes_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least one volume"):
        train(SMALL, Source([], [], VOXEL, {}), tmp_path / "x.safetensors")


def test_the_loss_ignores_255_and_is_least_for_the_truth():
    target = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    target[:, 1] = 1
    right = torch.nn.functional.one_hot(target.long(), 3).permute(0, 4, 1, 2, 3) * 20.0
    assert soma_loss(right, target, (1, 1, 2), 0.5) < 1e-3
    assert soma_loss(-right, target, (1, 1, 2), 0.5) > 1
    unknown = torch.full_like(target, 255)
    assert soma_loss(-right, unknown, (1, 1, 2), 0.5) == 0
    assert soft_dice(torch.softmax(right, 1), target) > 0.99


def test_phantoms_are_cached(tmp_path, monkeypatch):
    made = []

    def fake(shape, voxel_nm, seed, difficulty, scene, look=None):
        made.append((seed, difficulty, scene))
        image, labels = toy_somas(shape, seed)
        nuclei = np.zeros(labels.shape, bool)
        return Phantom(image, labels, nuclei, np.array([1], np.uint32), voxel_nm, seed)

    monkeypatch.setattr(phantoms, "make_phantom", fake)
    plan = PhantomPlan("segment", (8, 16, 16), VOXEL, 20, 100)
    first = load_phantoms(plan, tmp_path, processes=1)
    again = load_phantoms(plan, tmp_path, processes=1)
    assert len(made) == len(first) == 20 and {seed for seed, *_ in made} == set(range(100, 120))
    assert {s for *_, s in made} == set(SCENES)
    assert {d for _, d, _ in made} >= {"real", "worst"}
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again))
    assert all(((v.parts == GLIA) == (v.labels == 1)).all() for v in again)
    looks = (Look.draw("real", np.random.default_rng(1)),)
    load_phantoms(replace(plan, looks=looks), tmp_path, processes=1)
    assert len(made) == 40


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def test_emads_folders_are_read(tmp_path):
    image, labels = toy_somas((8, 16, 16))
    mask = (labels > 0).astype(np.uint8) * 255
    write(tmp_path / "b1" / "b1_raw.nii.gz", image)
    write(tmp_path / "b1" / "b1_mask.nii.gz", mask)
    write(tmp_path / "b1" / "b1_seed.nii.gz", (labels == 1).astype(np.uint8))
    write(tmp_path / "train" / "001" / "data.nii.gz", image)
    write(tmp_path / "train" / "001" / "label.nii.gz", labels.astype(np.uint16))
    volumes = {volume.name: volume for volume in read_emads(tmp_path, read_array)}
    assert set(volumes) == {"b1", "train/001"}
    assert np.array_equal(volumes["train/001"].image, image) and volumes["train/001"].cores is None
    assert np.array_equal(volumes["train/001"].labels, labels)
    assert np.array_equal(volumes["b1"].labels > 0, labels > 0) and volumes["b1"].labels.max() < 255
    assert np.array_equal(volumes["b1"].cores, labels == 1)
    (tmp_path / "b1" / "b1_mask.nii.gz").unlink()
    with pytest.raises(UserError, match="b1_mask.nii.gz should lie beside it"):
        list(read_emads(tmp_path, read_array))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="EMADS folder"):
        list(read_emads(tmp_path / "empty", read_array))
    with pytest.raises(UserError, match="no folder"):
        list(read_emads(tmp_path / "none", read_array))


def test_downsampling_takes_means_and_middle_labels():
    image = np.arange(2 * 4 * 5, dtype=np.uint8).reshape(2, 4, 5)
    small, labels = downsample_image(image, (1, 2, 2)), downsample_labels(image, (1, 2, 2))
    assert small.shape == labels.shape == (2, 2, 2)
    assert small[0, 0, 0] == round((0 + 1 + 5 + 6) / 4) and labels[0, 0, 0] == 6


def test_mismatched_volumes_are_refused():
    image, labels = toy_somas()
    for wrong, message in (
        ((image[1:], labels), "same 3D shape"),
        ((image.astype(np.float32), labels), "needs uint8"),
        ((image, labels.astype(np.float32)), "save them as integers"),
        ((image, labels.astype(np.int64) - 1), "must not be negative"),
    ):
        with pytest.raises(UserError, match=message):
            Volume.from_arrays(*wrong, "a")


def test_labels_are_renumbered_and_unknown_voxels_are_ignored():
    image, labels = toy_somas()
    names = np.array([0, 2**40, 2**63, 77, *range(100, 200)], np.uint64)
    volume = Volume.from_arrays(image, names[labels], "a", ignore_label=2**40)
    assert volume.labels.dtype == np.uint16
    assert ((volume.labels == UNKNOWN) == (labels == 1)).all() and (labels == 1).any()
    for role in ("locate", "segment"):
        assert ((volume.targets(VOXEL, role, 135.0) == IGNORE) == (labels == 1)).all()


def test_annotated_cores_are_the_localization_targets():
    image, labels = toy_somas()
    cores = (labels == 2).astype(np.uint8)
    volume = Volume(image, labels.astype(np.uint16), "a", cores)
    assert np.array_equal(volume.targets(VOXEL, "locate", 135.0), cores)
    assert (volume.targets(VOXEL, "segment", 135.0) == 2).any()


def test_patches_are_drawn_from_volumes_by_weight():
    image, labels = toy_somas((24, 48, 48))
    light, heavy = (
        Volume(np.full_like(image, g), labels.astype(np.uint16), weight=w)
        for g, w in ((50, 1), (200, 9))
    )
    none = TrainConfig(role="segment", augmentation=0).patch_augmentation
    patches = Patches([light, heavy], (8, 16, 16), VOXEL, "segment", none, seed=1)
    share = np.mean([float(patches.draw_patch(i)[0].mean()) > 100 for i in range(200)])
    assert 0.83 < share < 0.97


def test_the_boundary_has_the_configured_width():
    labels = np.zeros((32, 32, 32), np.uint16)
    labels[4:28, 4:28, 4:28] = 1
    for nm, voxels in ((64.0, 1), (200.0, 3)):
        row = soma_targets(labels, VOXEL, "segment", nm)[16, 16, 4:28]
        assert (row[:voxels] == 2).all() and row[voxels] == 1


def test_training_stops_when_scores_do_not_improve(tmp_path):
    config = changed(SMALL, patch=(8, 16, 16), steps=50, judge_every=2, patience=3)
    steps, scores = [], iter([[0.1], [0.5], [0.4], [0.5], [0.2], [9.0]])
    record = train(
        config,
        toy_source(),
        tmp_path / "a.safetensors",
        lambda report: steps.append(report["step"]),
        lambda *_: {"score": next(scores), "loss": 1.0},
    )
    assert steps[-1] == record["steps"] == 10
    assert record["scores_on_held_out"] == {"score": [0.5], "loss": 1.0, "step": 4}


def _two(folder):
    torch.set_num_threads(1)
    config = changed(SMALL, patch=(8, 16, 16), batch=1, steps=3, judge_every=3, lr=1e-3)
    network = train(config, toy_source(), folder / "two.safetensors")
    assert bool(network) == distributed.is_first()
    distributed.barrier()  # an error ends all processes, and the first one writes files
    if not distributed.is_first():
        raise UserError("the second process says so")


@pytest.mark.slow
def test_two_processes_train_one_network_and_an_error_in_one_is_raised(tmp_path):
    with pytest.raises(UserError, match="^the second process says so$"):
        distributed.launch(_two, (tmp_path,), processes=2)
    record = json.loads((tmp_path / "two.json").read_text())
    assert record["processes"] == 2 and record["steps"] == 3
    one = changed(SMALL, patch=(8, 16, 16), batch=2, steps=3, judge_every=3, lr=1e-3, dice=0)
    # one process with the same six patches moves in the same direction; only the averaging of losses differs
    train(one, toy_source(), tmp_path / "one.safetensors")
    start = build_network(one, VOXEL, attributes=False).module.state_dict()
    moved = []
    for name in ("one", "two"):
        state = load_network(tmp_path / f"{name}.safetensors").module.state_dict()
        moved.append(torch.cat([(state[k] - start[k]).ravel() for k in start]))
    assert torch.cosine_similarity(*moved, dim=0) > 0.6


def test_perfect_predictions_score_one(monkeypatch):
    volume = toy_source().held_out[0]
    truth = soma_targets(volume.labels, VOXEL, "segment")
    right = torch.nn.functional.one_hot(torch.from_numpy(truth).long(), 3).float()
    monkeypatch.setattr(
        validation, "predict_logits", lambda *_: right.permute(3, 0, 1, 2)[None] * 9
    )
    scores = score_voxels(build_network(SMALL, VOXEL), [volume], SMALL)
    assert scores["iou"] == scores["dice"] == 1 and scores["false_share_of_background"] == 0
