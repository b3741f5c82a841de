"""Patches: image and targets stay aligned, draws are reproducible, extruded sections are constant along z."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_somas import toy_somas

from flysoma.models.training.augment import (
    NO_AUGMENTATION,
    Augmentation,
    augment_intensity,
    crop_patch,
)
from flysoma.models.training.dataset import Patches, Volume
from flysoma.models.training.targets import CORE_SHARE, soma_targets

VOXEL = (64.0, 64.0, 64.0)
PATCH = (12, 32, 32)
STRONG = Augmentation(
    scale=(0.6, 1.6), rotate_deg=45, elastic_vx=3, stretch_z_rate=1, shift_rate=1, extrude_rate=0
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_augmentation_a_patch_is_a_crop():
    image, labels = toy_somas()
    patch, patch_labels = crop_patch(
        image, labels, labels, np.array([12.0, 24, 24]), PATCH, NO_AUGMENTATION, rng()
    )
    box = np.s_[6:18, 8:40, 8:40]
    assert np.allclose(patch.numpy(), image[box], atol=0.02)
    assert np.array_equal(patch_labels, labels[box])
    assert torch.equal(augment_intensity(patch.clone(), NO_AUGMENTATION, rng()), patch)


@pytest.mark.parametrize("seed", range(12))
def test_image_and_labels_stay_aligned(seed):
    _, labels = toy_somas(seed=seed)
    image = (labels > 0).astype(np.uint8) * 200
    patch, patch_labels = crop_patch(
        image, labels, labels, np.array([12.0, 24, 24]), PATCH, STRONG, rng(seed)
    )
    assert patch.shape == patch_labels.shape == PATCH
    wrong = ((patch.numpy() > 100) != (patch_labels > 0)).mean()
    assert wrong < 0.03  # only at the surface: the image is interpolated, labels are not


def test_sections_are_deformed_elastically():
    y, x = np.indices((48, 48))
    ramps = [np.repeat((ramp * 5)[None], 24, axis=0).astype(np.uint8) for ramp in (y, x)]
    augmentation = replace(NO_AUGMENTATION, elastic_vx=3)
    maps = [
        crop_patch(r, r, r, np.array([12.0, 24, 24]), PATCH, augmentation, rng(4))[0] / 5
        for r in ramps
    ]
    steps = torch.cat([m[:, 3:-3, 3:-3].diff(dim=d).ravel() for m, d in zip(maps, (1, 2))])
    assert (maps[0] - torch.from_numpy(y[8:40, 8:40])).abs().max() > 1  # pixels move
    assert steps.std() > 0.02 and (steps > 0).all()  # unevenly, and without folds


def test_sections_are_shifted_dropped_and_repeated():
    volume = np.repeat(np.arange(24, dtype=np.uint8)[:, None, None] * 10, 48, axis=1)
    volume = np.repeat(volume, 48, axis=2)
    volume[:, 24:] += 5  # an edge that shows the shift of a section
    augmentation = replace(NO_AUGMENTATION, shift_rate=1)
    orders, edges = [], set()
    for seed in range(30):
        patch, patch_labels = crop_patch(
            volume, volume, volume, np.array([12.0, 24, 24]), PATCH, augmentation, rng(seed)
        )
        assert np.array_equal(patch.numpy(), patch_labels)
        orders.append(tuple(int(s[0, 0]) // 10 for s in patch_labels))
        edges |= {int((s[:, 0] % 10 == 0).sum()) for s in patch_labels}
    assert any(len(set(order)) < len(order) for order in orders)  # some sections are repeated
    assert len(edges) > 2  # and some are shifted


def test_extruded_sections_are_constant_along_z():
    image, labels = toy_somas()
    extruded = replace(NO_AUGMENTATION, extrude_rate=1)
    patches = Patches([Volume(image, labels)], PATCH, VOXEL, "segment", extruded, seed=3)
    drawn = [patches.draw_patch(number) for number in range(8)]
    for patch, classes in drawn:
        assert patch.shape == classes.shape == PATCH
        assert (patch == patch[:1]).all() and (classes == classes[:1]).all()
    assert any({1, 2} <= set(classes.unique().tolist()) for _, classes in drawn)


def test_a_truncated_soma_has_its_core_where_it_is_deepest():
    labels = np.zeros((12, 32, 32), np.uint32)
    z, y, x = np.indices(labels.shape)
    labels[(z + 5) ** 2 + (y - 16) ** 2 + (x - 16) ** 2 < 10**2] = 1  # five of its twenty sections
    cores = soma_targets(labels, VOXEL, "locate")
    assert cores[0, 16, 16] == 1 and not cores[4].any() and cores.sum() < 0.4 * (labels > 0).sum()


def test_patches_extend_an_eighth_beyond_the_volume_and_are_mirrored():
    image, labels = toy_somas()
    patch, patch_labels = crop_patch(
        image, labels, labels, np.zeros(3), PATCH, NO_AUGMENTATION, rng()
    )
    assert np.allclose(patch[1:, 4:, 4:], image[:11, :28, :28], atol=0.02)
    assert torch.allclose(patch[:, :4], patch[:, 5:9].flip(1), atol=0.02)
    assert np.array_equal(patch_labels[:, :, :4], patch_labels[:, :, 5:9][:, :, ::-1])


def test_patches_larger_than_the_volume_are_mirrored():
    image, labels = toy_somas((6, 20, 20))
    patch, patch_labels = crop_patch(
        image, labels, labels, np.array([3.0, 0, 50]), PATCH, STRONG, rng()
    )
    assert patch.shape == patch_labels.shape == PATCH and torch.isfinite(patch).all()
    assert set(np.unique(patch_labels)) <= set(np.unique(labels))


@pytest.mark.parametrize("seed", range(8))
def test_intensity_augmentation_is_reproducible_and_clamped(seed):
    image, _ = toy_somas()
    rates = {n: 1.0 for n in Augmentation.__dataclass_fields__ if n.endswith("_rate")}
    maximum = Augmentation(**rates)
    first, second = (
        augment_intensity(torch.from_numpy(image).float(), maximum, rng(seed)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert first.min() >= 0 and first.max() <= 255
    assert not torch.equal(first, torch.from_numpy(image).float())


def test_touching_somas_have_two_shells_and_separate_cores():
    labels = np.zeros((16, 32, 32), np.uint32)
    labels[2:14, 4:16, 4:28], labels[2:14, 16:28, 4:28] = 1, 2
    shells = soma_targets(labels, VOXEL, "segment")
    assert (shells[8, 14:18, 16] == 2).all() and shells[8, 12, 16] == shells[8, 20, 16] == 1
    assert (shells[labels == 0] == 0).all() and (shells[labels > 0] > 0).all()
    cores = soma_targets(labels, VOXEL, "locate")
    reach = int(6 * CORE_SHARE)
    assert not cores[:, 16 - reach : 16 + reach].any() and cores[8, 10, 16] and cores[8, 21, 16]


def test_half_of_the_patches_are_on_somas_and_some_have_none():
    image, labels = toy_somas((24, 64, 64), count=2)
    some = Volume(image, labels)
    none = Volume(image[::-1], np.zeros_like(labels))
    patches = Patches([some, none], (8, 16, 16), VOXEL, "segment", NO_AUGMENTATION, seed=1)
    with_soma = [bool((patches.draw_patch(i)[1] > 0).any()) for i in range(40)]
    assert all(with_soma[i] for i in range(40) if i % 2 == 0)
    assert with_soma.count(False) >= 4


def test_a_seed_determines_the_patches():
    image, labels = toy_somas()

    def draw(seed):
        volume = Volume(image, labels)
        return Patches([volume], PATCH, VOXEL, "locate", Augmentation(), seed).draw_batch(6, 2)

    draws = [draw(seed=5) for _ in range(2)]
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    other = draw(seed=6)
    assert not torch.equal(other[0], draws[0][0])


def test_strength_scales_the_augmentation():
    assert Augmentation().times(0) == NO_AUGMENTATION
    assert Augmentation().times(1) == Augmentation()
