"""Measures of the look of images with known properties."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, spatial

from flysoma.analysis.look import texture
from flysoma.analysis.look.across import measure_across
from flysoma.analysis.look.measure import CannotMeasure, Sample, measure_look
from flysoma.analysis.look.stats import LookStats, look_distance
from flysoma.analysis.pages.look import look_figure

VOXEL = (40.0, 40.0, 40.0)
SHAPE = (256, 256)
ALL = np.ones(SHAPE, bool)


def rng(seed=0):
    return np.random.default_rng(seed)


def noisy(sigma, grain=0.0, level=128.0, seed=0):
    """Gaussian noise with a standard deviation, smoothed by `grain` pixels."""
    field = rng(seed).normal(size=SHAPE)
    if grain:
        field = ndimage.gaussian_filter(field, grain, mode="wrap")
    return (level + sigma * field / field.std()).astype(np.float32)


def cells(seed=0, level=150.0, line=70.0, blur=0.8, sigma=4.0, shape=SHAPE):
    """An imitation of tissue: bright areas between dark lines, blurred, with noise."""
    random = rng(seed)
    centres = random.uniform(0, 1, (60 * shape[1] // 256, 2)) * shape
    nearest, _ = spatial.cKDTree(centres).query(np.indices(shape).reshape(2, -1).T, k=2)
    image = np.where(nearest[:, 1] - nearest[:, 0] < 3.0, line, level).reshape(shape)
    image = ndimage.gaussian_filter(image, blur) + random.normal(0, sigma, shape)
    return np.clip(np.rint(image), 1, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 10.0])
def test_white_noise_is_measured_with_its_sigma_no_grain_and_a_flat_spectrum(sigma):
    section = noisy(sigma)
    estimate, grain = texture.estimate_noise(texture.cut_patches(section, ALL, texture.PATCH_PX))
    assert estimate == pytest.approx(sigma, rel=0.05) and grain < 0.4
    per_um, density = texture.power_spectrum(texture.cut_patches(section, ALL, 64), 40.0)
    assert density == pytest.approx(sigma**2 * 0.04**2, rel=0.35)
    assert np.median(density) == pytest.approx(sigma**2 * 0.04**2, rel=0.1)
    assert per_um[0] < 1 and 10 < per_um[-1] <= 12.5 and (np.diff(per_um) > 0).all()


def test_a_slope_does_not_count_as_noise():
    section = np.tile(np.linspace(20, 220, 256, dtype=np.float32), (256, 1)) + noisy(3.0) - 128
    assert texture.estimate_noise(texture.cut_patches(section, ALL, texture.PATCH_PX))[
        0
    ] == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("grain", [0.7, 1.0])
def test_the_grain_of_smoothed_noise_is_measured(grain):
    _, estimate = texture.estimate_noise(
        texture.cut_patches(noisy(8.0, grain), ALL, texture.PATCH_PX)
    )
    assert estimate == pytest.approx(grain, rel=0.15)


def test_noise_is_measured_where_there_is_no_structure():
    """Lines in three quarters of the image do not count as noise."""
    section = noisy(5.0)
    section[:192, ::9] -= 60
    assert texture.estimate_noise(texture.cut_patches(section, ALL, texture.PATCH_PX))[
        0
    ] == pytest.approx(5.0, rel=0.1)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.5])
def test_the_blur_of_steps_is_measured(sigma):
    y, x = np.indices(SHAPE)
    steps = np.zeros(SHAPE)
    for cx, cy in ((64, 64), (190, 64), (64, 190), (190, 190)):
        steps[(x - cx) ** 2 + (y - cy) ** 2 < 45**2] = 120
    section = (60 + ndimage.gaussian_filter(steps, sigma) + rng().normal(0, 1, SHAPE)).astype("f4")
    assert texture.estimate_blur(texture.edge_ratios(section, ALL)) == pytest.approx(
        sigma, rel=0.12
    )


def test_jpeg_blocks_are_detected_in_jpeg_images_only():
    image = np.clip(noisy(30.0, 1.5), 0, 255).astype(np.uint8)

    def strength(section):
        return texture.block_strength(texture.block_steps(section.astype("f4"), ALL)[None])

    def saved(quality):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    assert abs(strength(image)) < 0.03
    assert strength(saved(10)) > 0.3 > strength(saved(30)) > 0.05
    assert strength(np.roll(saved(10), (3, 5), (0, 1))) == pytest.approx(
        strength(saved(10)), rel=0.2
    )


def test_block_strength_is_the_relative_excess_of_every_eighth_step():
    """The grey value grows by 3 at every 8th column and row and by 1 at the others, an excess of 2."""
    rise = np.cumsum(np.where(np.arange(256) % 8 == 5, 3.0, 1.0))
    steps = texture.block_steps((rise[:, None] + rise[None]).astype("f4"), ALL)
    assert steps[0].tolist() == [1, 1, 1, 1, 3, 1, 1, 1]
    assert texture.block_strength(steps[None]) == pytest.approx(2.0)


def test_membranes_are_thin_dark_lines():
    section = np.full(SHAPE, 160, np.float32)
    section[:, ::16] = section[:, 1::16] = 80  # two pixels wide
    section[100:140, 100:140] = 40  # dark, but not thin
    lines, rest = texture.membrane_and_cytoplasm(section, ALL, 40.0)
    assert np.median(lines) == 80 and np.median(rest) == 160
    assert len(lines) < 0.14 * section.size and (rest == 40).sum() > 1200


def test_a_flat_half_of_the_image_is_resin():
    image = cells(shape=(256, 512))
    image[:, 256:] = np.clip(rng(1).normal(200, 3, (256, 256)), 1, 255)
    look = measure_look([Sample(image[None])], VOXEL)
    assert look.resin_share == pytest.approx(0.5, abs=0.04)
    assert measure_look([Sample(cells()[None])], VOXEL).resin_share < 0.02
    assert look.grey_quantiles[5] < 170  # of tissue alone


def test_black_and_invalid_pixels_are_excluded():
    image = cells()
    whole = measure_look([Sample(image[None])], VOXEL)
    image[:64] = 0
    valid = ALL.copy()
    valid[64:80] = False
    image[64:80] = 255
    look = measure_look([Sample(image[None], valid)], VOXEL)
    assert look.black_share == pytest.approx(64 / 240) and look.grey_quantiles[-1] < 200
    assert look.noise_sigma == pytest.approx(whole.noise_sigma, rel=0.25)


def test_shift_and_correlation_of_sections_are_measured():
    base = np.pad(cells(shape=(320, 320)), 0).astype(float)
    block = np.stack([base[4 * z : 4 * z + 256, 3 * z : 3 * z + 256] for z in range(10)])
    across = measure_across([block], 40.0)
    assert across.shift_px == pytest.approx(5.0, abs=0.2)
    assert across.correlation > 0.99 and across.grey_change < 3
    brighter = block + 10.0 * (np.arange(10) % 2)[:, None, None]
    assert measure_across([brighter], 40.0).grey_change == pytest.approx(10, abs=3)
    unrelated = measure_across([np.stack([noisy(20, seed=s) for s in range(10)])], 40.0)
    assert abs(unrelated.correlation) < 0.1
    level = 10 ** np.array(unrelated.spectrum)
    assert level[1:] == pytest.approx(20**2 * 0.04, rel=0.15)  # white along z, too
    assert measure_across([block[:1]], 40.0) is None


def test_a_look_survives_json_and_its_picture_is_reproducible():
    block = np.stack([cells(seed) for seed in range(10)])
    look = measure_look([Sample(block)], VOXEL)
    assert look.membrane_contrast > 40 and look.noise_sigma == pytest.approx(4.0, rel=0.2)
    assert len(look.grey_quantiles) == 11 and look.across is not None
    assert LookStats.from_json(json.loads(json.dumps(look.to_json()))) == look
    flat = measure_look([Sample(block[:1])], VOXEL)
    assert flat.across is None
    assert LookStats.from_json(json.loads(json.dumps(flat.to_json()))) == flat
    pictures = [look_figure("toy", look, block[0], flat) for _ in range(2)]
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
    with pytest.raises(KeyError):
        LookStats.from_json({"voxel_nm": [1, 1, 1]})


def test_the_distance_is_zero_for_equal_looks_and_grows_with_the_difference():
    def look(**changes):
        return measure_look([Sample(cells(**changes)[None])], VOXEL)

    first = look()
    assert look_distance(first, first).total == 0
    other_place = look_distance(first, look(seed=5))
    assert other_place.total < 0.3
    for changes, part in (
        ({"sigma": 16.0}, "noise"),
        ({"line": 125.0}, "contrast"),
        ({"blur": 3.0}, "blur"),
        ({"level": 230.0, "line": 150.0}, "grey"),
    ):
        changed = look(**changes)
        forward, backward = look_distance(first, changed), look_distance(changed, first)
        assert forward.total == pytest.approx(backward.total) and forward.total > other_place.total
        assert forward.parts[part] > 1 > other_place.parts[part]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(SHAPE, np.uint8), "the image is black"),
        (np.full(SHAPE, 77, np.uint8), "have the grey value 77"),
        (np.full((40, 256), 77, np.uint8), "256 x 40 pixels and 64 x 64"),
        (np.kron(rng().integers(1, 99, (16, 16)), np.ones((16, 16))).astype(np.uint8), "labels"),
    ],
)
def test_an_image_without_measurable_tissue_is_refused(image, message):
    with pytest.raises(CannotMeasure, match=message):
        measure_look([Sample(image[None])], VOXEL)
    with pytest.raises(CannotMeasure, match="no section"):
        measure_look([], VOXEL)
