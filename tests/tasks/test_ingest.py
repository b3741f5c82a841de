"""Ingest: every format is read back unchanged, with mips; an interrupted ingest leaves no layer."""

import json
import os
from dataclasses import replace

import h5py
import nibabel
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from cloudfiles import CloudFiles

from flysoma.errors import UserError
from flysoma.scripts.volumes.ingest import command
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.image import ImageLayer
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.volumes import ingest as module
from flysoma.tasks.volumes.files import read_array
from flysoma.tasks.volumes.ingest import NewLayer, downsampling_factors, ingest, ingest_array

SHAPE = (41, 70, 150)  # z, y, x


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(1, 255, SHAPE).astype(np.uint8)


def save(path, array):
    """Write an array in the format of the file's suffix."""
    name = path.name
    if name.endswith((".tif", ".tiff")):
        tifffile.imwrite(path, array, compression="lzw")
    elif name.endswith((".nii", ".nii.gz")):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    elif name.endswith((".h5", ".hdf5")):
        with h5py.File(path, "w") as file:
            file.create_dataset("volumes/raw", data=array, compression="gzip")
    elif name.endswith(".npz"):
        np.savez_compressed(path, raw=array)
    else:
        np.save(path, array)
    return path


@pytest.mark.parametrize("ending", ["tif", "tiff", "nii", "nii.gz", "h5", "hdf5", "npy", "npz"])
def test_every_format_reads_back(tmp_path, grey, ending):
    path = save(tmp_path / f"a.{ending}", grey)
    np.testing.assert_array_equal(read_array(path), grey)
    np.testing.assert_array_equal(read_array(path, axes="xyz"), grey.transpose(2, 1, 0))
    assert read_array(path, axes="yzx").shape == (SHAPE[1], SHAPE[0], SHAPE[2])


@pytest.mark.parametrize("offset", [(0, 0, 0), (13, 7, 101)])
def test_an_ingested_image_is_read_back_with_mips(tmp_path, grey, offset):
    layer = NewLayer(f"{tmp_path}/deep/layer", (64, 64, 40), offset)
    sizes = ingest(save(tmp_path / "a.tif", grey), layer)
    image = ImageLayer(layer.cloudpath)
    box = Box(offset, tuple(o + n for o, n in zip(offset, SHAPE[::-1])))
    np.testing.assert_array_equal(image.read(box, (64, 64, 40)), grey)
    assert image.working_bounds((64, 64, 40)) == box
    assert image.resolutions_nm == [(64, 64, 40), (64, 64, 80), (128, 128, 160)]
    assert sizes[0] == SHAPE[::-1] and len(sizes) == 3


@pytest.mark.parametrize("offset", [(0, 0, 0), (3, 6, -7)])
def test_mips_are_aligned_with_the_finest_mip(tmp_path, offset):
    """The grid of a mip starts at the origin of space, not at the volume's first voxel."""
    z, y, x = np.indices(SHAPE)
    ramp = (x + y // 2 + z // 4).astype(np.uint8)
    layer = NewLayer(f"{tmp_path}/layer", (64, 64, 40), offset)
    ingest_array(ramp, layer)
    image = ImageLayer(layer.cloudpath)
    for resolution in image.resolutions_nm[1:]:
        bounds = image.working_bounds(resolution)
        inner = Box(tuple(a + 1 for a in bounds.lo), tuple(b - 1 for b in bounds.hi))
        mean = np.zeros(inner.size[::-1])
        fx, fy, fz = (int(r / s) for r, s in zip(resolution, (64, 64, 40)))
        for dz, dy, dx in np.ndindex(fz, fy, fx):
            rows = [
                np.arange(a * f - o + d, b * f - o + d, f)
                for a, b, f, o, d in zip(inner.lo, inner.hi, (fx, fy, fz), offset, (dx, dy, dz))
            ]
            mean += ramp[np.ix_(*rows[::-1])] / (fx * fy * fz)
        assert np.abs(image.read(inner, resolution) - mean).max() <= 1.0


def test_labels_keep_their_ids(tmp_path):
    labels = np.zeros((20, 70, 140), np.int64)
    labels[3:9, 10:30, 100:140] = 2**40 + 1
    layer = NewLayer(f"{tmp_path}/layer", (32, 32, 40), layer_type="segmentation")
    ingest(save(tmp_path / "a.npy", labels), layer)
    back = LabelLayer(layer.cloudpath)
    np.testing.assert_array_equal(back.read(back.bounds), labels)
    assert len(json.loads((tmp_path / "layer/info").read_text())["scales"]) == 2


def test_factors_make_voxels_cubic():
    assert downsampling_factors((4, 4, 40), (2000, 2000, 60)) == [(2, 2, 1)] * 3 + [(2, 2, 2)]
    assert downsampling_factors((64, 64, 40), (384, 384, 192)) == [(1, 1, 2), (2, 2, 2), (2, 2, 2)]
    assert downsampling_factors((8, 8, 8), (1000, 1, 1000)) == [(2, 1, 2)] * 3
    assert downsampling_factors((8, 8, 8), (128, 128, 128)) == []


def test_a_layer_in_a_bucket(tmp_path, grey, monkeypatch):
    """A folder stands in for a bucket: objects are copied one by one, the info last."""
    monkeypatch.setattr(module, "local_folder", lambda path: None)
    layer = NewLayer(f"file://{tmp_path}/layer", (32, 32, 40))
    steps = []
    ingest_array(grey, layer, lambda *step: steps.append(step))
    box = Box((0, 0, 0), SHAPE[::-1])
    np.testing.assert_array_equal(ImageLayer(layer.cloudpath).read(box, (32, 32, 40)), grey)
    assert steps[-1] == ("upload", 8, 8)
    with pytest.raises(UserError, match="--overwrite"):
        ingest_array(grey, layer)
    ingest_array(grey[:10], replace(layer, overwrite=True))
    left = [name for name in CloudFiles(layer.cloudpath).list() if name.endswith("_0-41")]
    assert ImageLayer(layer.cloudpath).working_bounds((32, 32, 40)).size[2] == 10 and not left


def test_of_two_ingests_into_one_place_in_a_bucket_the_second_is_refused(
    tmp_path, grey, monkeypatch
):
    monkeypatch.setattr(module, "local_folder", lambda path: None)
    layer, real = NewLayer(f"file://{tmp_path}/layer", (32, 32, 40)), module._upload
    other, refused = 255 - grey, []

    def upload(*arguments):
        with pytest.raises(UserError, match="another process writes .*/layer now") as error:
            ingest_array(other, layer)
        refused.append(error)
        return real(*arguments)

    (tmp_path / ".layer.claim").write_bytes(b"of a process that was killed")
    os.utime(tmp_path / ".layer.claim", (1e9, 1e9))
    monkeypatch.setattr(module, "_upload", upload)
    ingest_array(grey, layer)
    assert len(refused) == 1 and [path.name for path in tmp_path.iterdir()] == ["layer"]
    box = Box((0, 0, 0), SHAPE[::-1])
    np.testing.assert_array_equal(ImageLayer(layer.cloudpath).read(box, (32, 32, 40)), grey)


def test_a_layer_that_appeared_during_an_ingest_into_a_bucket_is_kept(tmp_path, grey, monkeypatch):
    monkeypatch.setattr(module, "local_folder", lambda path: None)
    layer, real = NewLayer(f"file://{tmp_path}/layer", (32, 32, 40)), module._write_scales

    def write_scales(*arguments):
        monkeypatch.setattr(module, "_write_scales", real)
        ingest_array(255 - grey, layer)
        return real(*arguments)

    monkeypatch.setattr(module, "_write_scales", write_scales)
    with pytest.raises(UserError, match="there is a layer at"):
        ingest_array(grey, layer)
    box = Box((0, 0, 0), SHAPE[::-1])
    np.testing.assert_array_equal(ImageLayer(layer.cloudpath).read(box, (32, 32, 40)), 255 - grey)


def test_an_interrupted_ingest_leaves_no_layer(tmp_path, grey, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    layer = NewLayer(f"{tmp_path}/layer", (32, 32, 40))
    monkeypatch.setattr(module, "_write_scale", stop)
    with pytest.raises(KeyboardInterrupt):
        ingest_array(grey, layer)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / ".layer.ingest/32_32_40").mkdir(parents=True)  # left by an ingest that was killed
    ingest_array(grey, layer)
    assert [path.name for path in tmp_path.iterdir()] == ["layer"]


def test_of_two_ingests_of_one_layer_at_once_the_second_is_refused(tmp_path, grey, monkeypatch):
    layer, real, refused = NewLayer(f"{tmp_path}/layer", (32, 32, 40)), module._write_scales, []

    def write_scales(*arguments):
        with pytest.raises(UserError, match="another process writes .*/layer now") as error:
            ingest_array(grey, layer)
        refused.append(error)
        return real(*arguments)

    monkeypatch.setattr(module, "_write_scales", write_scales)
    ingest_array(grey, layer)
    box = Box((0, 0, 0), SHAPE[::-1])
    np.testing.assert_array_equal(ImageLayer(layer.cloudpath).read(box, (32, 32, 40)), grey)
    assert len(refused) == 1 and [path.name for path in tmp_path.iterdir()] == ["layer"]


def test_a_layer_is_replaced_only_on_request(tmp_path, grey):
    path = save(tmp_path / "a.npy", grey)
    layer = NewLayer(f"{tmp_path}/layer", (32, 32, 40))
    ingest(path, layer)
    with pytest.raises(UserError, match="--overwrite"):
        ingest(path, layer)
    ingest_array(grey[:5], replace(layer, overwrite=True))
    assert ImageLayer(layer.cloudpath).working_bounds((32, 32, 40)).size == (150, 70, 5)
    with pytest.raises(UserError, match="not part of a layer"):
        ingest_array(grey, NewLayer(str(tmp_path), (32, 32, 40), overwrite=True))
    assert path.exists()


def test_other_types_of_voxels_are_rescaled_on_request(tmp_path):
    array = np.linspace(1000, 3000, 4 * 5 * 6).reshape(4, 5, 6)
    for dtype in (np.uint16, np.int16, np.float32):
        path = save(tmp_path / "a.npy", array.astype(dtype))
        layer = NewLayer(f"{tmp_path}/{np.dtype(dtype)}", (32, 32, 40))
        with pytest.raises(
            UserError, match=r"--rescale LOW HIGH \(they go from 1000 to 3000 here\)"
        ):
            ingest(path, layer)
        ingest(path, layer, rescale=(1500, 2500))
        scaled = ImageLayer(layer.cloudpath).read(Box((0, 0, 0), (6, 5, 4)), (32, 32, 40))
        expected = np.clip((array.astype(dtype) - 1500.0) * 0.255, 0, 255)
        assert np.abs(scaled - expected).max() <= 0.51


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (None, {}, "no file at"),
        (lambda p: p.mkdir(), {}, "it is a folder"),
        (lambda p: p.write_bytes(b"II*\0nonsense"), {}, "cannot be read as tif"),
        (lambda p: tifffile.imwrite(p, np.zeros((5, 6), np.uint8)), {}, "2 dimensions"),
        (lambda p: tifffile.imwrite(p, np.zeros((7, 8, 9), np.uint8)), {"axes": "zy"}, "axes 'zy'"),
    ],
)
def test_the_error_for_an_unusable_file_says_why(tmp_path, make, options, message):
    path = tmp_path / "a.tif"
    if make is not None:
        make(path)
    with pytest.raises(UserError, match=message) as error:
        ingest(path, NewLayer(f"{tmp_path}/layer", (32, 32, 40)), **options)
    assert "\n" not in str(error.value) and not (tmp_path / "layer").exists()


@pytest.mark.parametrize("ending", ["tif", "nii", "nii.gz", "h5", "npy", "npz"])
def test_a_truncated_file_is_an_error(tmp_path, grey, ending):
    path = save(tmp_path / f"a.{ending}", grey)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged or not whole"):
        read_array(path)


def test_datasets_are_chosen_by_name(tmp_path, grey):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["volumes/labels"], file["names"] = grey, grey // 2, [1, 2]
    np.savez(tmp_path / "a.npz", raw=grey, labels=grey // 2)
    for path, name in [(tmp_path / "a.h5", "volumes/labels"), (tmp_path / "a.npz", "labels")]:
        np.testing.assert_array_equal(read_array(path, dataset=name), grey // 2)
        with pytest.raises(UserError, match=rf"{name}.*--dataset"):
            read_array(path)
        with pytest.raises(UserError, match="no dataset 'no'"):
            read_array(path, dataset="no")


def test_unknown_formats_and_invalid_labels_are_errors(tmp_path, grey):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="unknown format"):
        read_array(tmp_path / "a.png")
    labels = NewLayer(f"{tmp_path}/layer", (32, 32, 40), layer_type="segmentation")
    for array, message in [(grey * 0.5, "whole numbers"), (grey.astype(int) - 9, "below zero")]:
        with pytest.raises(UserError, match=message):
            ingest_array(array, labels)
    with pytest.raises(UserError, match="cannot be written and shared"):
        ingest_array(grey, NewLayer("https://place/layer", (32, 32, 40)))
    with pytest.raises(UserError, match="not in nm"):
        ingest_array(grey, NewLayer(f"{tmp_path}/layer", (0, 32, 40)))


def test_the_command(tmp_path, grey):
    file = save(tmp_path / "a.nii.gz", grey.transpose(2, 1, 0))
    words = [str(file), f"{tmp_path}/layer", "--resolution", "64", "64", "40"]
    more = ["--offset", "5", "6", "7", "--axes", "xyz"]
    done = CliRunner().invoke(command, words + more, catch_exceptions=False)
    assert done.exit_code == 0 and "150 x 70 x 41 voxels, 3 mips" in done.output
    assert ImageLayer(f"{tmp_path}/layer").working_bounds((64, 64, 40)).lo == (5, 6, 7)
