"""Reading precomputed layers on disk: mips, resampling, offsets, and error messages."""

import os

import numpy as np
import pytest

from flysoma.errors import UserError
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.image import ImageLayer
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.layers.precomputed import create_layer, fill_layer


@pytest.fixture
def layer(tmp_path):
    def make(
        size, offset=(0, 0, 0), resolution=(32, 32, 40), dtype="uint8", kind="image", array=None
    ):
        path = f"file://{tmp_path}/layer"
        box = Box(tuple(offset), tuple(o + n for o, n in zip(offset, size)))
        create_layer(path, kind, dtype, resolution, box)
        if array is None:
            rng = np.random.default_rng(0)
            array = rng.integers(1, 255, size[::-1]).astype(dtype)
        fill_layer(path, array)
        return path, array

    return make


def test_the_layer_reads_back_in_z_y_x(layer):
    path, array = layer((50, 70, 33), offset=(7, -3, 11))
    image = ImageLayer(path)
    box = Box((10, 0, 20), (40, 60, 40))
    assert (image.read(box, (32, 32, 40)) == array[9:29, 3:63, 3:33]).all()


def test_reading_a_box_fetches_whole_chunks(layer):
    """A volume of 3 x 2 x 1 chunks of 64, the last along each axis cut by the end of the volume."""
    path, _ = layer((150, 100, 40), offset=(7, -3, 11))
    image = ImageLayer(path)
    at = (32, 32, 40)
    assert image.fetched(Box((7, -3, 11), (157, 97, 51)), at) == (6, 150 * 100 * 40)
    assert image.fetched(Box((70, 0, 20), (71, 61, 21)), at) == (1, 64 * 64 * 40)
    assert image.fetched(Box((70, 0, 20), (72, 62, 21)), at) == (4, 128 * 100 * 40)
    assert image.fetched(Box((35, 0, 11), (36, 1, 12)), (64, 64, 40)) == (2, 128 * 64 * 40)


def test_an_integer_factor_gives_the_area_mean(layer):
    path, array = layer((64, 48, 20))
    read = ImageLayer(path).read(Box((0, 0, 0), (32, 24, 20)), (64, 64, 40))
    mean = array.reshape(20, 24, 2, 32, 2).mean(axis=(2, 4))
    assert np.abs(read - mean).max() <= 0.51


@pytest.mark.parametrize("resolution", [(64, 64, 40), (50, 77, 61), (64, 64, 240)])
def test_blockwise_equals_whole_at_any_offset(layer, resolution):
    path, _ = layer((75, 61, 43), offset=(5, 3, 9))
    image = ImageLayer(path)
    bounds = image.working_bounds(resolution)
    whole = image.read(bounds, resolution)
    assert whole.shape == bounds.size[::-1]
    cut = tuple(a + max(1, n // 3) for a, n in zip(bounds.lo, bounds.size))
    for box in (Box(bounds.lo, cut), Box(cut, bounds.hi)):
        if not box.empty:
            assert (image.read(box, resolution) == whole[box.slices_zyx(bounds.lo)]).all()


def test_a_constant_image_stays_constant(layer):
    path, _ = layer((70, 41, 30), offset=(3, 1, 2), array=np.full((30, 41, 70), 93, np.uint8))
    image = ImageLayer(path)
    bounds = image.working_bounds((50, 77, 61))
    assert (image.read(bounds, (50, 77, 61)) == 93).all()


def test_finer_than_the_volume_is_refused(layer):
    path, _ = layer((64, 64, 64))
    with pytest.raises(UserError, match=r"16 16 40 nm \(x y z\), finer than the volume.*32 32 40"):
        ImageLayer(path).working_bounds((16, 16, 40))


def test_a_missing_chunk_is_named_unless_filled(layer, tmp_path):
    path, _ = layer((128, 64, 64))
    os.remove(tmp_path / "layer/32_32_40/64-128_0-64_0-64")
    box = Box((0, 0, 0), (128, 64, 64))
    with pytest.raises(UserError, match="64-128_0-64_0-64.*missing.*fill_missing"):
        ImageLayer(path).read(box, (32, 32, 40))
    filled = ImageLayer(path, fill_missing=True).read(box, (32, 32, 40))
    assert (filled[:, :, 64:] == 0).all() and filled[:, :, :64].all()


def test_a_truncated_chunk_is_named(layer, tmp_path):
    path, _ = layer((128, 64, 64))
    chunk = tmp_path / "layer/32_32_40/64-128_0-64_0-64"
    chunk.write_bytes(chunk.read_bytes()[:5000])
    with pytest.raises(UserError, match="64-128_0-64_0-64 cannot be decoded"):
        ImageLayer(path).read(Box((0, 0, 0), (128, 64, 64)), (32, 32, 40))


def test_a_layer_that_is_not_an_image_is_refused(layer, tmp_path):
    with pytest.raises(UserError, match="no precomputed layer.*nothing there"):
        ImageLayer(f"file://{tmp_path}/absent")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/readme.txt").write_text("x")
    with pytest.raises(UserError, match="no info file"):
        ImageLayer(f"file://{tmp_path}/other")
    (tmp_path / "other/info").write_text("{}")
    with pytest.raises(UserError, match="not a precomputed layer"):
        ImageLayer(f"file://{tmp_path}/other")
    path, _ = layer((64, 64, 64), kind="segmentation", dtype="uint64")
    with pytest.raises(UserError, match="is of type segmentation"):
        ImageLayer(path)


def test_the_error_for_16_bit_images_names_the_command(layer):
    path, _ = layer((64, 64, 64), dtype="uint16")
    with pytest.raises(UserError, match="uint16.*ingest.*--rescale"):
        ImageLayer(path)


def test_labels_of_more_than_32_bits_are_kept(tmp_path):
    path = f"file://{tmp_path}/labels"
    create_layer(path, "segmentation", "uint64", (64, 64, 40), Box((3, 5, 7), (100, 80, 60)))
    labels = LabelLayer(path)
    box = Box((3, 5, 7), (67, 69, 60))
    array = np.random.default_rng(1).integers(0, 3, box.size[::-1]).astype(np.uint64) << np.uint64(
        40
    )
    labels.write(box, array)
    assert (LabelLayer(path).read(box) == array).all()
    assert not LabelLayer(path).read(Box((67, 5, 7), (100, 69, 60))).any()
