"""Read and write NIfTI, whose header states which axis is which and how large voxels are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from ...axes import Nm3
from ...errors import UserError
from .stored import Stored, check_fits, stated_size

_UNITS_NM = {"meter": 1e9, "mm": 1e6, "micron": 1e3}
_LOG = logging.getLogger(__name__)


def load_nifti(path: Path, warn: bool) -> Stored:
    """Read a NIfTI file, with its scaling of values.

    The axes are those to which the affine is closest, whatever their direction: voxels are not mirrored. A header of
    defaults (voxels of 1, as programs write that know no size) states nothing.

    Args:
      warn: whether to log that the header states nothing.
    Raises:
      UserError: the fields of the header contradict each other.
    """
    import nibabel
    from nibabel import affines

    image: Any = nibabel.load(path)
    header = image.header
    check_fits(path, int(np.prod(image.shape)), header.get_data_dtype().itemsize)
    zooms = [float(v) for v in header.get_zooms()[:3]]
    size = stated_size(zooms, _UNITS_NM.get(header.get_xyzt_units()[0]))
    array = np.asanyarray(image.dataobj)
    if size is None or len(zooms) < 3:
        if warn:
            _LOG.warning("%s states no voxel size; its axes are read as z, y, x", path)
        return Stored(array, header=header)
    spaced = affines.voxel_sizes(image.affine)  # type: ignore[no-untyped-call]
    if not np.allclose(spaced, zooms, rtol=0.02):
        raise UserError(
            f"{path}: pixdim states voxels of {_text(zooms)} and the affine (sform) {_text(spaced)}; correct its header"
        )
    forms = [form for form in (image.get_sform(True), image.get_qform(True)) if form[1] > 0]
    orders = [_axes(affine) for affine, _ in forms]
    if len(set(orders)) > 1:
        raise UserError(
            f"{path}: its sform orders the axes {orders[0]} and its qform {orders[1]}; correct its header"
        )
    axes = _axes(image.affine) + "t???"[: array.ndim - 3]
    size = stated_size([*zooms, *[None] * (array.ndim - 3)], _UNITS_NM.get(_unit(header)))
    return Stored(array, axes, fixed=True, voxel_size=size, header=header)


def save_nifti(path: Path, array: np.ndarray, axes: str, voxel_nm: Nm3 | None, header: Any) -> None:
    """Write labels in the order of `axes` as NIfTI.

    Args:
      voxel_nm: voxel size, x, y, z; None: not stated.
      header: header of the image in whose space the labels lie, which keeps its affine and units; None: the axes and
        voxel size are written in um.
    """
    import nibabel

    if header is not None:
        image: Any = nibabel.Nifti1Image(array, header.get_best_affine(), header)  # type: ignore[no-untyped-call]
    else:
        affine = np.eye(4)
        if voxel_nm is not None:
            for column, axis in enumerate(axes):
                row = "xyz".index(axis)
                affine[:3, column] = 0
                affine[row, column] = voxel_nm[row] / 1e3
        image = nibabel.Nifti1Image(array, affine)  # type: ignore[no-untyped-call]
        if voxel_nm is not None:
            image.header.set_xyzt_units("micron")
    image.header.set_data_dtype(array.dtype)
    nibabel.save(image, path)


def _unit(header: Any) -> str:
    return str(header.get_xyzt_units()[0])


def _axes(affine: np.ndarray) -> str:
    """Return the axes to which those of an array are closest; ? for one that has none."""
    from nibabel.orientations import io_orientation

    orientation = io_orientation(affine)  # type: ignore[no-untyped-call]
    return "".join("?" if np.isnan(axis) else "xyz"[int(axis)] for axis, _ in orientation)


def _text(values: Any) -> str:
    return " x ".join(f"{v:g}" for v in values)
