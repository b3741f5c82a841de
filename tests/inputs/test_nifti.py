"""NIfTI: the header says which axis is which and how large voxels are; labels lie in the space of their image."""

import nibabel as nib
import numpy as np
import pytest
from refusals import refuses

from flysoma.tasks.volumes.files import read_array, read_volume, write_array

XYZ = np.random.default_rng(0).integers(100, 200, (40, 32, 24), dtype=np.uint8)  # x, y, z
SIZE_NM = (64, 32, 240)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "em.nii.gz"


def save(path, array=XYZ, affine=None, unit="micron", **header):
    image = nib.Nifti1Image(array, np.diag([0.064, 0.032, 0.24, 1]) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)


def permuted(order, scale=(0.064, 0.032, 0.24), signs=(1, 1, 1)):
    """The affine of an array whose axes are in some order, such as zyx."""
    affine = np.eye(4)
    for column, axis in enumerate(order):
        row = "xyz".index(axis)
        affine[:3, column] = 0
        affine[row, column] = scale[row] * signs[row]
    affine[:3, 3] = 5, 6, 7
    return affine


@pytest.mark.parametrize("order", ["xyz", "zyx", "yxz", "zxy"])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1)])
def test_the_affine_names_the_axes(path, order, signs):
    save(path, XYZ.transpose(["xyz".index(a) for a in order]), permuted(order, signs=signs))
    volume = read_volume(path, resolution_nm=SIZE_NM)
    assert volume.axes == order
    np.testing.assert_array_equal(volume.array, XYZ.T)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micron", 1), ("mm", 1e-3), ("meter", 1e-6), ("unknown", 1), ("mm", 1), ("mm", 1e3)],
)
def test_units_are_converted_and_those_that_make_no_sense_are_dropped(path, unit, factor):
    affine = np.diag([0.064 * factor, 0.032 * factor, 0.24 * factor, 1])
    save(path, affine=affine, unit=unit)
    np.testing.assert_array_equal(read_array(path, resolution_nm=SIZE_NM), XYZ.T)
    refuses(path, "64 x 64 x 240", resolution_nm=(64, 64, 240))


def test_a_header_that_contradicts_the_request_is_refused(path):
    save(path)
    refuses(path, "64 x 32 x 240 nm", "says 240 x 32 x 64", resolution_nm=(240, 32, 64))
    refuses(path, "orders the axes xyz", "--axes says zyx", axes="zyx")
    refuses(path, "64 x 32 x 240 nm", "32 x 16 x 120", resolution_nm=(32, 16, 120))
    np.testing.assert_array_equal(read_array(path, "xyz", resolution_nm=SIZE_NM), XYZ.T)


def test_a_header_that_contradicts_itself_is_refused(path):
    save(path)
    image = nib.load(path)
    image.header["pixdim"][1:4] = 0.032, 0.032, 0.24
    header, data = image.header, np.asarray(image.dataobj)
    with open(path.with_suffix(""), "wb") as file:  # nibabel would put it right
        header["magic"], header["vox_offset"] = b"n+1", 352
        file.write(header.binaryblock + b"\0\0\0\0" + data.tobytes(order="F"))
    refuses(path.with_suffix(""), "0.032 x 0.032 x 0.24", "0.064 x 0.032 x 0.24")
    image = nib.Nifti1Image(XYZ, np.diag([0.064, 0.064, 0.064, 1]))
    image.set_sform(permuted("xyz", (0.064,) * 3), code=1)
    image.set_qform(permuted("zyx", (0.064,) * 3), code=1)
    nib.save(image, path)
    refuses(path, "sform orders the axes xyz", "qform zyx")


def test_a_header_of_defaults_states_nothing(path, caplog):
    nib.save(nib.Nifti1Image(XYZ.T, np.eye(4)), path)
    np.testing.assert_array_equal(read_array(path, resolution_nm=SIZE_NM), XYZ.T)
    assert "states no voxel size" in caplog.text
    caplog.clear()
    np.testing.assert_array_equal(read_array(path, "xyz", resolution_nm=SIZE_NM), XYZ)
    assert not caplog.text


def test_one_time_is_a_volume_and_several_are_not(path):
    save(path, XYZ[..., None])
    np.testing.assert_array_equal(read_array(path, resolution_nm=SIZE_NM), XYZ.T)
    nib.save(nib.Nifti1Image(XYZ.T[..., None], np.eye(4)), path)
    np.testing.assert_array_equal(read_array(path), XYZ.T)
    save(path, np.stack([XYZ] * 5, -1))
    refuses(path, "5 times", "(40, 32, 24, 5)")


def test_scaled_values_are_read(path):
    image = nib.Nifti1Image(XYZ, np.eye(4))
    image.header.set_slope_inter(2, 1)
    nib.save(image, path)
    array = read_array(path, "xyz")
    assert array.dtype.kind == "f"
    np.testing.assert_allclose(array, XYZ.T * 2.0 + 1)
    np.testing.assert_array_equal(read_array(path, "xyz", labels=True), XYZ.T.astype(int) * 2 + 1)


@pytest.mark.parametrize("order", ["xyz", "zyx"])
def test_labels_have_the_affine_units_and_order_of_their_image(path, order):
    save(path, XYZ.transpose(["xyz".index(a) for a in order]), permuted(order, signs=(-1, 1, 1)))
    volume = read_volume(path, resolution_nm=SIZE_NM)
    labels = (volume.array > 150).astype(np.uint32) * 70_000
    out = path.with_name("labels.nii.gz")
    write_array(out, labels, volume.axes, resolution_nm=SIZE_NM, header=volume.header)
    image, written = nib.load(path), nib.load(out)
    assert written.shape == image.shape and written.get_data_dtype() == np.uint32
    np.testing.assert_allclose(written.affine, image.affine)
    np.testing.assert_allclose(written.header.get_zooms(), image.header.get_zooms())
    assert written.header.get_xyzt_units() == image.header.get_xyzt_units()
    np.testing.assert_array_equal(read_array(out, resolution_nm=SIZE_NM, labels=True), labels)


def test_labels_of_another_format_state_their_axes_and_voxel_size(path):
    write_array(path, XYZ.T.astype(np.uint32), "zyx", resolution_nm=SIZE_NM)
    image = nib.load(path)
    assert image.shape == XYZ.T.shape
    np.testing.assert_allclose(image.header.get_zooms(), (0.24, 0.032, 0.064))
    volume = read_volume(path, resolution_nm=SIZE_NM, labels=True)
    assert volume.axes == "zyx"
    np.testing.assert_array_equal(volume.array, XYZ.T)
