"""Read volumes from files and write labels to files: tif, nii, h5, npy and npz."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...axes import Nm3
from ...errors import UserError
from ..faults import first_line
from ..formats.hdf import load_h5, save_h5
from ..formats.nifti import load_nifti, save_nifti
from ..formats.numpy_files import load_npy, load_npz
from ..formats.stored import Stored
from ..formats.tif import load_tif, save_tif
from .grey import check_type

FORMATS = (".tif", ".tiff", ".nii", ".nii.gz", ".h5", ".hdf5", ".hdf", ".npy", ".npz")
_HDF = (".h5", ".hdf5", ".hdf")


@dataclass(frozen=True)
class FileVolume:
    """A volume that was read from a file.

    Attributes:
      array: z, y, x.
      axes: order of the axes in the file, slowest first.
      header: header of a NIfTI, otherwise None.
    """

    array: np.ndarray
    axes: str
    header: Any


def read_volume(
    source: str | Path,
    axes: str | None = None,
    dataset: str | None = None,
    *,
    resolution_nm: Nm3 | None = None,
    labels: bool = False,
) -> FileVolume:
    """Read the 3-dimensional array of a tif, nii, nii.gz, h5, npy or npz file.

    What the file states about its axes, voxel size and grey values is compared with the request.

    Args:
      axes: order of the axes in the file, slowest first as in numpy; default: as the file states, otherwise zyx.
      dataset: name of the array in an h5 or npz file, or number of the image in a tif; not needed if there is one.
      resolution_nm: voxel size that the caller assumes, x, y, z.
      labels: whether the file holds labels, which are returned as integers.

    Raises:
      UserError: no such file, an unknown format, a damaged file, not one 3-dimensional array, wrong axes or dataset, or
        the file contradicts the request.
    """
    if axes is not None and sorted(axes) != ["x", "y", "z"]:
        raise UserError(f"axes '{axes}' should name x, y and z once each, as in zyx or xyz")
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"no file at {source}" + ("; it is a folder" if path.is_dir() else ""))
    stored = _load(path, file_format(path), dataset, axes, labels).volume(str(source), axes)
    stored.check_voxel_size(str(source), resolution_nm)
    array = _as_numbers(str(source), stored.array, labels)
    if labels:
        check_type(array, "segmentation", str(source))
    assert stored.axes is not None
    order = [stored.axes.index(axis) for axis in "zyx"]
    return FileVolume(array.transpose(order), stored.axes, stored.header)


def read_array(
    source: str | Path,
    axes: str | None = None,
    dataset: str | None = None,
    *,
    resolution_nm: Nm3 | None = None,
    labels: bool = False,
) -> np.ndarray:
    """Return the array of a file, z, y, x; see `read_volume`."""
    return read_volume(source, axes, dataset, resolution_nm=resolution_nm, labels=labels).array


def write_array(
    path: Path,
    array: np.ndarray,
    axes: str = "zyx",
    *,
    resolution_nm: Nm3 | None = None,
    header: Any = None,
) -> None:
    """Write z, y, x labels as tif, nii, nii.gz, h5 (dataset "labels"), npy or npz.

    Args:
      axes: order of the axes in the file.
      resolution_nm: voxel size, x, y, z, which tif, nii and h5 state.
      header: header of the NIfTI in whose space the labels lie.

    Raises:
      UserError: unknown format, or the place cannot be written.
    """
    suffix = file_format(path)
    reordered = np.ascontiguousarray(array.transpose(["zyx".index(axis) for axis in axes]))
    sizes_nm = resolution_nm and [resolution_nm["xyz".index(axis)] for axis in axes]
    try:
        if suffix in (".tif", ".tiff"):
            save_tif(path, reordered, sizes_nm)
        elif suffix in (".nii", ".nii.gz"):
            save_nifti(path, reordered, axes, resolution_nm, header)
        elif suffix in _HDF:
            save_h5(path, reordered, sizes_nm and [nm / 1e3 for nm in sizes_nm])
        elif suffix == ".npz":
            np.savez_compressed(path, labels=reordered)
        else:
            np.save(path, reordered)
    except OSError as err:
        raise UserError(f"cannot write {path}: {err.strerror or err}") from err


def file_format(path: str | Path) -> str:
    """Return the suffix that names the format of a file. Raises UserError if there is no such format."""
    suffix = next((suffix for suffix in FORMATS if str(path).lower().endswith(suffix)), None)
    if suffix is None:
        raise UserError(f"{path}: unknown format; there are: {', '.join(FORMATS)}")
    return suffix


def _load(path: Path, suffix: str, dataset: str | None, axes: str | None, labels: bool) -> Stored:
    try:
        if suffix in (".tif", ".tiff"):
            return load_tif(path, dataset, labels)
        if suffix in (".nii", ".nii.gz"):
            return load_nifti(path, warn=axes is None)
        if suffix in _HDF:
            return load_h5(path, dataset)
        return load_npz(path, dataset) if suffix == ".npz" else load_npy(path)
    except UserError:
        raise
    except MemoryError as err:
        raise UserError(f"{path} does not fit in memory ({err}); cut out a part") from err
    except Exception as err:  # noqa: BLE001  each library raises its own errors for a damaged file
        raise UserError(
            f"{path} cannot be read as {suffix[1:]} ({first_line(err)}); it is damaged or not whole"
        ) from err


def _as_numbers(source: str, array: np.ndarray, labels: bool) -> np.ndarray:
    """Return numbers in the byte order of this machine; labels as integers."""
    if array.dtype.kind not in "buif":
        raise UserError(
            f"{source} holds voxels of type {array.dtype}, and one number per voxel is needed; "
            "save one channel as integers or floating-point numbers"
        )
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return _whole_numbers(source, array) if labels and array.dtype.kind == "f" else array


def _whole_numbers(source: str, array: np.ndarray) -> np.ndarray:
    """Return labels that are stored as floating-point numbers as integers."""
    exact = 2 ** (
        np.finfo(array.dtype).nmant + 1
    )  # from here on, a whole number may have been rounded
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)) or (array != np.rint(array)).any():
        raise UserError(
            f"{source} holds {array.dtype} values that are not whole; labels are whole numbers"
        )
    if high >= exact or low < 0:
        raise UserError(
            f"{source} holds labels from {low:.0f} to {high:.0f} as {array.dtype}, exact from 0 to {exact - 1}; "
            "save them as integers"
        )
    return array.astype(np.uint64 if high > np.iinfo(np.uint32).max else np.uint32)
