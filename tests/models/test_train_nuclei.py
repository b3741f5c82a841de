"""Training on annotated nuclei and glia: targets, patches, loss, and the channels of the network."""

import numpy as np
import pytest
import torch
from toy_somas import toy_somas

from flysoma.models.networks.weights import load_network, save_network
from flysoma.models.training.build import build_network
from flysoma.models.training.config import TrainConfig
from flysoma.models.training.dataset import Patches, Source, Volume
from flysoma.models.training.losses import soma_loss
from flysoma.models.training.targets import (
    ANNOTATED,
    CLASS,
    GLIA,
    NUCLEUS,
    section_targets,
    soma_targets,
)
from flysoma.models.training.train import train

pytestmark = pytest.mark.usefixtures("one_thread")
VOXEL = (64.0, 64.0, 64.0)
ONE_STEP = {"role": "segment", "patch": (8, 16, 16), "steps": 1, "bf16": False}


def _with_parts(seed=0):
    """Return a toy volume in which the upper half of each soma is nucleus, and soma 1 is glial."""
    image, labels = toy_somas(seed=seed)
    upper = np.arange(labels.shape[1])[:, None] < labels.shape[1] // 2
    parts = ((labels > 0) & upper) * np.uint8(NUCLEUS) + (labels == 1) * np.uint8(GLIA)
    return Volume(image, labels.astype(np.uint16), f"toy{seed}", parts=parts)


@pytest.mark.parametrize("make", [soma_targets, section_targets])
def test_targets_hold_class_nucleus_and_glia(make):
    volume = _with_parts()
    target = make(volume.labels, VOXEL, "segment", parts=volume.parts)
    plain = make(volume.labels, VOXEL, "segment")
    assert np.array_equal(target & CLASS, plain) and (target & ANNOTATED > 0).all()
    assert np.array_equal(target & (NUCLEUS | GLIA), volume.parts)


@pytest.mark.parametrize("depth", [14, 3])
def test_patches_keep_nuclei_in_whole_and_extruded_sections(depth):
    volume = _with_parts()
    some = slice(10, 10 + depth)
    flat = Volume(volume.image[some], volume.labels[some], parts=volume.parts[some])
    none = TrainConfig(role="segment", augmentation=0).patch_augmentation
    patches = Patches([flat], (16, 16, 16), VOXEL, "segment", none, seed=1)
    targets = [patches.draw_patch(i)[1].numpy() for i in range(12)]
    inside = np.concatenate([t[(t & CLASS > 0)] for t in targets])
    outside = np.concatenate([t[(t & CLASS == 0)] for t in targets])
    assert {bool(value & NUCLEUS) for value in inside} == {True, False}
    assert not (outside & (NUCLEUS | GLIA)).any()


def test_the_loss_of_attributes_counts_annotated_voxels_only():
    logits = torch.zeros(1, 5, 4, 4, 4)
    soma = torch.full((1, 4, 4, 4), 1 + ANNOTATED, dtype=torch.uint8)
    nuclear = soma + NUCLEUS
    right, wrong = logits.clone(), logits.clone()
    right[:, 3], wrong[:, 3] = 9, -9
    weights = TrainConfig(role="segment").loss_weights
    losses = [float(soma_loss(x, nuclear, weights, 0.5)) for x in (right, logits, wrong)]
    assert losses[0] + 0.5 < losses[1] < losses[2] - 5
    unknown = torch.ones_like(soma)
    losses = [float(soma_loss(x, unknown, weights, 0.5)) for x in (right, wrong)]
    assert losses[0] == losses[1]
    glial = logits.clone()
    glial[:, 4] = 9
    background = torch.full_like(soma, ANNOTATED)
    losses = [float(soma_loss(x, background, weights, 0)) for x in (logits, glial)]
    assert losses[0] == losses[1]  # the class of background does not matter


def test_a_network_learns_nuclei_where_they_are_annotated(tmp_path):
    first, second = tmp_path / "nuclei.safetensors", tmp_path / "more.safetensors"
    source = Source([_with_parts(0)], [_with_parts(1)], VOXEL, {})
    record = train(TrainConfig(**ONE_STEP), source, first)
    network = load_network(first)
    assert network.spec.classes == ("background", "interior", "boundary", "nucleus", "glia")
    assert "nucleus_dice" in record["scores_on_held_out"]
    plain = [Volume.from_arrays(*toy_somas(seed=s), f"toy{s}") for s in range(2)]
    source = Source(plain[:1], plain[1:], VOXEL, {})
    train(TrainConfig(**ONE_STEP, init=str(first), lr=0.0), source, second)
    assert load_network(second).spec.classes == network.spec.classes


def test_added_channels_leave_the_classes_unchanged(tmp_path):
    image = torch.rand(1, 1, 16, 32, 32) * 255
    before = build_network(TrainConfig(role="segment"), VOXEL, attributes=False)
    assert len(before.spec.classes) == 3
    save_network(tmp_path / "three.safetensors", before)
    config = TrainConfig(role="segment", init=str(tmp_path / "three.safetensors"))
    after = build_network(config, VOXEL)
    with torch.inference_mode():
        old, new = (n.module.eval()(n.spec.preprocess(image.clone())) for n in (before, after))
    assert torch.equal(old, new[:, :3])
    assert torch.allclose(new[:, 3:], torch.tensor(-2.0))
