"""h5, npy and npz, and the types of voxels in any file."""

import io
import json
import zipfile

import h5py
import numpy as np
import pytest
from refusals import refuses

from flysoma.tasks.volumes.files import read_array, write_array

GREY = np.random.default_rng(0).integers(60, 200, (20, 24, 32), dtype=np.uint8)
LABELS = (GREY > 150) * np.uint32(7)
BLOSC = 32001


@pytest.fixture
def h5(tmp_path):
    """A function that writes a dataset and its attributes; returns the path."""

    def write(array, name="data", suffix="h5", **attributes):
        path = tmp_path / f"a.{suffix}"
        with h5py.File(path, "w") as file:
            file[name] = array
            file[name].attrs.update(attributes)
        return path

    return write


def axistags(letters):
    return json.dumps({"axes": [{"key": letter, "typeFlags": 2} for letter in letters]})


@pytest.mark.parametrize("suffix", ["h5", "hdf5", "hdf"])
@pytest.mark.parametrize("shape", [(20, 24, 32, 1), (1, 20, 24, 32), (1, 20, 24, 32, 1)])
def test_axes_of_length_1_are_dropped(h5, suffix, shape):
    path = h5(GREY.reshape(shape), suffix=suffix)
    np.testing.assert_array_equal(read_array(path), GREY)
    np.testing.assert_array_equal(read_array(path, dataset="data"), GREY)


def test_axes_of_length_1_are_not_dropped_by_guessing(h5):
    refuses(h5(GREY[:1, :, :, None]), "4 dimensions", "(1, 24, 32, 1)")
    one = h5(GREY[:1, :, :, None], axistags=axistags("zyxc"))
    np.testing.assert_array_equal(read_array(one), GREY[:1])


def test_ilastiks_axistags_name_the_axes(h5):
    path = h5(GREY.T[..., None], axistags=axistags("xyzc"))
    np.testing.assert_array_equal(read_array(path), GREY)
    refuses(path, "orders the axes xyz", "--axes says zyx", axes="zyx")
    refuses(h5(np.stack([GREY] * 2, -1), axistags=axistags("zyxc")), "axes zyxc", dataset="data")


def test_the_labels_of_the_dimensions_name_the_axes(h5):
    path = h5(GREY.T)
    with h5py.File(path, "a") as file:
        for dimension, letter in zip(file["data"].dims, "xyz"):
            dimension.label = letter
    np.testing.assert_array_equal(read_array(path), GREY)
    refuses(path, "orders the axes xyz", "--axes says zyx", axes="zyx")


def test_a_virtual_dataset_without_its_file_is_refused(tmp_path):
    source, path = tmp_path / "source.h5", tmp_path / "a.h5"
    with h5py.File(source, "w") as file:
        file["data"] = GREY
    layout = h5py.VirtualLayout(GREY.shape, "u1")
    layout[:] = h5py.VirtualSource("source.h5", "data", GREY.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(read_array(path), GREY)
    source.unlink()
    refuses(path, "/data lie in source.h5, which is not there")


@pytest.mark.parametrize(
    "attributes",
    [
        {"element_size_um": (0.04, 0.032, 0.064)},
        {"resolution": (40, 32, 64)},
        {"voxel_size": (40, 32, 64)},
    ],
)
def test_a_stated_voxel_size_is_compared(h5, attributes):
    path = h5(GREY, **attributes)
    np.testing.assert_array_equal(read_array(path, resolution_nm=(64, 32, 40)), GREY)
    refuses(path, "64 x 32 x 40 nm", "says 64 x 64 x 40", resolution_nm=(64, 64, 40))
    refuses(path, "40 x 32 x 64 nm", "xyz", resolution_nm=(64, 32, 40), axes="xyz")


def test_one_number_is_the_edge_of_a_cube(h5):
    path = h5(GREY, resolution=8.0)
    read_array(path, resolution_nm=(8, 8, 8))
    refuses(path, "8 x 8 x 8 nm", resolution_nm=(8, 8, 40))


def test_written_labels_state_their_voxel_size(tmp_path):
    write_array(tmp_path / "a.h5", LABELS, "xyz", resolution_nm=(64, 32, 40))
    read_array(tmp_path / "a.h5", "xyz", resolution_nm=(64, 32, 40))
    refuses(tmp_path / "a.h5", "64 x 32 x 40", axes="xyz", resolution_nm=(64, 32, 50))


def test_a_filter_that_is_not_installed_is_named(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk(GREY.shape)
        number = next(n for n in (BLOSC, 32015, 399) if not h5py.h5z.filter_avail(n))
        settings.set_filter(number, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(GREY.shape)
        data = h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT8, space, settings)
        data.write_direct_chunk((0, 0, 0), GREY.tobytes())
    refuses(path, f"filter {number} ({number})", "not installed", "HDF5_PLUGIN_PATH")


def test_the_error_for_several_datasets_helps(h5, tmp_path):
    path = h5(GREY)
    with h5py.File(path, "a") as file:
        file["other"], file["flat"], file["none"] = GREY, GREY[0], h5py.Empty("u1")
    refuses(path, "several datasets", "data", "--dataset")
    refuses(path, "none has no values", dataset="none")
    refuses(path, "2 dimensions", dataset="flat")
    refuses(h5(GREY[0]), "no dataset of 3 dimensions", "save a volume")


@pytest.mark.parametrize(
    "array",
    [np.asfortranarray(GREY), GREY.astype(">u2"), GREY.astype(">f4"), GREY[:, :, ::-1], GREY > 100],
    ids=["fortran", "big-endian", "big-endian floats", "strides", "bool"],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_any_layout_in_memory_is_read(tmp_path, suffix, array):
    path = tmp_path / f"a.{suffix}"
    np.save(path, array) if suffix == "npy" else np.savez(path, a=array)
    read = read_array(path)
    np.testing.assert_array_equal(read, array)
    assert read.dtype.isnative


def test_what_is_no_volume_in_a_npz_is_left_out(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, volume=GREY[..., None], size=np.arange(3), about=np.array({}, object))
    np.testing.assert_array_equal(read_array(path), GREY)
    refuses(path, "about is not an array", dataset="about")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "x")
    refuses(path, "no dataset of 3 dimensions (there is: a.txt)")


def huge_header(path):
    header = io.BytesIO()
    about = {"descr": "|u1", "fortran_order": False, "shape": (10**5,) * 3}
    np.lib.format.write_array_header_1_0(header, about)
    path.write_bytes(header.getvalue() + b"x" * 100)


def objects(path):
    np.save(path, np.full((2, 2, 2), None, object), allow_pickle=True)


@pytest.mark.parametrize(
    ("write", "part"),
    [
        (huge_header, "cannot be read as npy"),
        (objects, "Python objects"),
        (lambda p: np.save(p, np.zeros((4, 4, 4), [("a", "u1")])), "one number per voxel"),
        (lambda p: np.save(p, np.zeros((4, 4, 4), complex)), "type complex128"),
        (lambda p: np.save(p, np.zeros((4, 4, 4), "M8[s]")), "type datetime64"),
        (lambda p: np.save(p, np.zeros((0, 4, 4))), "is empty"),
        (lambda p: np.save(p, np.uint8(3)), "0 dimensions"),
        (lambda p: np.save(p, np.zeros((64, 64, 3), np.uint8)), "last axis may be colours"),
        (lambda p: np.save(p, np.zeros((3, 64, 64), np.uint8)), "first axis may be colours"),
    ],
)
def test_an_array_that_is_no_volume_is_refused(tmp_path, write, part):
    write(tmp_path / "a.npy")
    refuses(tmp_path / "a.npy", part)


def test_three_sections_are_a_volume_if_the_axes_are_given(tmp_path):
    np.save(tmp_path / "a.npy", GREY[:3])
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", "zyx"), GREY[:3])


def test_an_array_larger_than_the_memory_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", (10**5,) * 3, "u1", chunks=(64, 64, 64))
    refuses(tmp_path / "a.h5", "1,000,000.0 GB", "of memory")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4", np.float16, np.int64, ">u4"])
def test_labels_are_whole_numbers_whatever_their_type(tmp_path, dtype):
    np.save(tmp_path / "a.npy", LABELS.astype(dtype))
    read = read_array(tmp_path / "a.npy", labels=True)
    assert read.dtype.kind in "ui"
    np.testing.assert_array_equal(read, LABELS)


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (LABELS * 0.3, "not whole"),
        (np.where(LABELS, np.nan, 0), "not whole"),
        (np.where(LABELS, np.inf, 0), "not whole"),
        (LABELS.astype(np.float32) * 2**24, "exact from 0 to 16777215"),
        (LABELS - 1.0, "from -1"),
        (LABELS.astype(np.int32) - 1, "below zero (-1)"),
    ],
)
def test_labels_that_are_no_longer_exact_are_refused(tmp_path, array, part):
    np.save(tmp_path / "a.npy", array)
    refuses(tmp_path / "a.npy", part, labels=True)
