"""The table of files in docs/formats.md says what happens: one file for each row."""

import re
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import tifffile
from test_arrays import GREY, axistags
from test_tif import COLOURS, write_bare, write_pages, write_turned

from flysoma.errors import UserError
from flysoma.tasks.volumes.files import read_array

PAGE = Path(__file__).parents[2] / "docs/formats.md"
NM = (64, 64, 40)


def save_tif(array, **options):
    return "a.tif", lambda path: tifffile.imwrite(path, array, **options)


def save_npy(array):
    return "a.npy", lambda path: np.save(path, array, allow_pickle=True)


def save_nii(array, *sizes):
    def write(path):
        image = nib.Nifti1Image(array, np.diag([*(sizes or (1, 1, 1)), 1]))
        image.header.set_xyzt_units("micron" if sizes else "unknown")
        nib.save(image, path)

    return "a.nii", write


def save_h5(array, **attributes):
    def write(path):
        with h5py.File(path, "w") as file:
            file["a"] = array
            file["a"].attrs.update(attributes)

    return "a.h5", write


def contradicting_nii(path):
    image = nib.Nifti1Image(GREY, None)
    image.set_sform(np.diag([0.064, 0.064, 0.064, 1]), code=1)
    image.set_qform(np.diag([0.064, 0.064, 0.064, 1])[[2, 1, 0, 3]], code=1)
    nib.save(image, path)


def unknown_filter(path):
    with h5py.File(path, "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk(GREY.shape)
        settings.set_filter(399, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(GREY.shape)
        h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT8, space, settings)


def virtual(path):
    source = path.with_name("source.h5")
    save_h5(GREY)[1](source)
    layout = h5py.VirtualLayout(GREY.shape, "u1")
    layout[:] = h5py.VirtualSource(source.name, "a", GREY.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)


def huge(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (10**5,) * 3, "u1", chunks=(64, 64, 64))


def pyramid(path):
    with tifffile.TiffWriter(path) as tif:
        tif.write(GREY, subifds=1, tile=(16, 16))
        tif.write(GREY[:, ::2, ::2], subfiletype=1, tile=(16, 16))


RGB, RGB_OPTIONS, _ = COLOURS["RGB"]
PALETTE, PALETTE_OPTIONS, _ = COLOURS["palette"]
GREYS = np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))
# by row: a file; what it reads as, or None if it is refused
CASES = {
    "tif with pages of one size and type": (save_tif(GREY), GREY),
    "tif with WhiteIsZero": (save_tif(255 - GREY, photometric="miniswhite"), GREY),
    "tif with a palette": (save_tif(GREY, photometric="palette", colormap=GREYS), GREY),
    "tif with fewer than 8 bits": (("a.tif", lambda p: write_bare(p, 4)), (GREY >> 4) * 17),
    "tif in colour": (save_tif(RGB, **RGB_OPTIONS), None),
    "tif with a page of another size, type, palette or orientation": (
        ("a.tif", lambda p: write_pages(p, [*GREY, GREY[0].astype(np.uint16)])),
        None,
    ),
    "tif whose orientation exchanges rows and columns": (
        ("a.tif", lambda p: write_turned(p, [8] * 20)),
        None,
    ),
    "tif with several images": (
        ("a.tif", lambda p: write_pages(p, [GREY[0, :8], *GREY])),
        None,
    ),
    "pyramidal tif": (("a.tif", pyramid), GREY),
    "OME-TIFF and ImageJ stack": (
        save_tif(GREY, imagej=True, metadata={"axes": "ZYX"}),
        GREY,
    ),
    "PhysicalSize, ImageJ spacing, resolution per cm or inch": (
        save_tif(GREY, resolution=(1e7 / 8, 1e7 / 8), resolutionunit="CENTIMETER"),
        None,
    ),
    "nii with a voxel size": (save_nii(GREY.T, 0.064, 0.064, 0.04), GREY),
    "nii without a voxel size": (save_nii(GREY), GREY),
    "nii whose fields contradict each other": (("a.nii", contradicting_nii), None),
    "nii with several times": (save_nii(np.stack([GREY] * 2, -1)), None),
    "h5 with one volume": (save_h5(GREY), GREY),
    "h5 with a filter that is not installed": (("a.h5", unknown_filter), None),
    "h5 with a virtual dataset": (("a.h5", virtual), GREY),
    "h5 with `axistags` or labels of dimensions": (save_h5(GREY.T, axistags=axistags("xyz")), GREY),
    "h5 with `element_size_um`, `resolution` or `voxel_size`": (
        save_h5(GREY, resolution=(40, 8, 8)),
        None,
    ),
    "npy and npz": (save_npy(np.asfortranarray(GREY.astype(">u2"))), GREY),
    "an axis of length 1 beyond three": (save_npy(GREY[None]), GREY),
    "a first axis of 3 or a last axis of 3 or 4": (save_npy(GREY[..., :3]), None),
    "an image that is not uint8": (save_npy(GREY.astype(np.uint16)), GREY),  # by the commands
    "labels as floating-point numbers": (save_npy(GREY.astype(np.float32)), GREY),
    "labels below zero": (save_npy(GREY.astype(np.int16) - 100), None),
    "an array larger than the memory": (("a.h5", huge), None),
    "another format, such as zarr, n5 or nrrd": (
        ("a.nrrd", lambda p: p.write_bytes(b"NRRD0004")),
        None,
    ),
}


def test_each_row_has_a_case():
    text = PAGE.read_text()
    table = text[text.index("| file | what flysoma does |") :].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.M)[1:])
    assert list(rows)[1:] == list(CASES)
    for row, (_, expected) in CASES.items():
        refused = rows[row].startswith("refuses") or rows[row].startswith("compares")
        assert refused == (expected is None) or row == "an image that is not uint8"


@pytest.mark.parametrize("row", CASES)
def test_each_row_happens(tmp_path, row):
    (name, write), expected = CASES[row]
    write(tmp_path / name)
    labels = row.startswith("labels")
    if expected is None:
        with pytest.raises(UserError):
            read_array(tmp_path / name, resolution_nm=NM, labels=labels)
    else:
        array = read_array(tmp_path / name, resolution_nm=NM, labels=labels)
        np.testing.assert_array_equal(array, expected)
