"""`flysoma look` on layers, files and pictures, and on images that it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flysoma.errors import UserError
from flysoma.scripts.cli import cli
from flysoma.tasks.volumes.ingest import NewLayer, ingest_array


def texture(shape, seed=0):
    """Grey values with noise of 6, and dark spots of 4 x 4 pixels at the same positions in all sections."""
    image = np.random.default_rng(seed).normal(150, 6, shape)
    positions = np.random.default_rng(9).random((shape[-1] // 6 + 1,) * 2) < 0.2
    spots = np.kron(positions, np.pad(np.ones((4, 4), bool), 1))
    image[..., spots[: shape[-2], : shape[-1]]] -= 60
    return np.clip(np.rint(image), 1, 255).astype(np.uint8)


def look(*words):
    return CliRunner().invoke(cli, ["look", *map(str, words)], catch_exceptions=False)


def measure(*words):
    return json.loads(look(*words, "--json").stdout)


def test_a_file_a_layer_and_pictures_have_the_same_look(tmp_path):
    volume = texture((16, 128, 160))
    np.save(tmp_path / "v.npy", volume)
    ingest_array(volume, NewLayer(str(tmp_path / "layer"), (64, 64, 40)))
    (tmp_path / "pictures").mkdir()
    for z in range(0, 16, 4):
        Image.fromarray(volume[z]).save(tmp_path / f"pictures/s{z:02}.png")
    size = ("--resolution", 64, 64, 40)
    file = measure(tmp_path / "v.npy", *size)
    assert file["voxel_nm"] == [40, 64, 64] and file["across"]["shift_px"] < 1
    assert file["noise_sigma"] == pytest.approx(6, rel=0.1)
    assert measure(f"file://{tmp_path}/layer") == file
    flat = measure(tmp_path / "pictures", *size)
    assert flat["across"] is None and flat["voxel_nm"] == [0, 64, 64]
    assert flat["noise_sigma"] == pytest.approx(6, rel=0.15)
    one = measure(tmp_path / "pictures/s00.png")
    assert one["voxel_nm"] == [0, 40, 40] and one["tissue_voxels"] == 128 * 160


def test_the_picture_is_written_and_the_distance_to_another_look_printed(tmp_path):
    Image.fromarray(texture((128, 160))).save(tmp_path / "a.png")
    Image.fromarray(texture((128, 160), 1) // 2).save(tmp_path / "b.png")
    (tmp_path / "a.json").write_text(look(tmp_path / "a.png", "--json").stdout)
    words = (tmp_path / "b.png", "--beside", tmp_path / "a.json")
    done = look(*words, "--output", tmp_path / "out/b.png")
    assert "distance to the other look" in done.stdout and "noise, grain" in done.stdout
    assert Image.open(tmp_path / "out/b.png").size == (1200, 750)
    assert measure(*words)["distance"]["parts"]["grey"] > 3
    same = measure(tmp_path / "a.png", "--beside", tmp_path / "a.json")
    assert same["distance"]["total"] == 0


def test_a_mask_excludes_pixels(tmp_path):
    image, mask = texture((128, 160)), np.zeros((128, 160), np.uint8)
    image[:20], mask[:20] = 255, 255
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "a_invalid.png")
    assert measure(tmp_path)["tissue_voxels"] == 108 * 160
    Image.fromarray(mask[:5]).save(tmp_path / "a_invalid.png")
    with pytest.raises(UserError, match="has 160 x 5 pixels"):
        look(tmp_path)


def test_a_large_array_is_sampled(tmp_path):
    volume = texture((20, 300, 600))
    volume[:, :, :200] = 0
    np.save(tmp_path / "v.npy", volume)
    sampled = measure(tmp_path / "v.npy", "--resolution", 64, 64, 40, "--places", 3)
    assert sampled["black_share"] < 0.5 and sampled["noise_sigma"] == pytest.approx(6, rel=0.1)


def test_an_image_that_cannot_be_measured_is_refused_with_the_reason(tmp_path):
    size = ("--resolution", 64, 64, 40)

    def check_refusal(message, array, *words):
        np.save(tmp_path / "v.npy", array)
        with pytest.raises(UserError, match=message):
            look(tmp_path / "v.npy", *words)

    black = np.zeros((16, 128, 128), np.uint8)
    labels = np.kron(np.arange(1, 65, dtype=np.uint8).reshape(1, 8, 8), np.ones((4, 16, 16), "u1"))
    check_refusal("cannot measure the look of .*: the image is black", black, *size)
    check_refusal("30 x 16 pixels and 64 x 64 are needed", texture((8, 16, 30)), *size)
    check_refusal("labels, not an image", labels, *size)
    check_refusal("holds uint32 voxels", labels.astype(np.uint32), *size)
    check_refusal("give its voxel size", texture((8, 80, 80)))
    check_refusal("not in nm", texture((8, 80, 80)), "--resolution", 0, 64, 40)
    (tmp_path / "bad.json").write_text("{}")
    check_refusal(
        "is not the JSON output", texture((8, 80, 80)), *size, "--beside", tmp_path / "bad.json"
    )


def test_a_segmentation_and_a_black_layer_are_refused(tmp_path):
    labels = np.ones((16, 128, 128), np.uint32)
    ingest_array(labels, NewLayer(str(tmp_path / "s"), (64, 64, 40), layer_type="segmentation"))
    with pytest.raises(UserError, match="a layer of type image is needed"):
        look(tmp_path / "s")
    black = np.zeros((16, 128, 128), np.uint8)
    ingest_array(black, NewLayer(str(tmp_path / "b"), (64, 64, 40)))
    with pytest.raises(UserError, match="all samples are mostly black"):
        look(tmp_path / "b")
    with pytest.raises(UserError):
        look(tmp_path / "nowhere")


@pytest.mark.slow
def test_the_look_of_a_real_brain_is_measured(shared_data):
    """Measure single sections of one brain, which were stored as JPEG."""
    folder = shared_data("fafb_frames/empty")
    look = measure(folder)
    assert look["across"] is None and look["membrane_contrast"] > 10
    assert look["resin_share"] < 0.2 and look["black_share"] < 0.01
