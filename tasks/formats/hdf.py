"""Read datasets of HDF5 files, and the attributes by which programs state their axes and voxel size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .stored import Stored, VoxelSize, check_fits, choose, may_be_volume, stated_size


def load_h5(path: Path, dataset: str | None) -> Stored:
    """Read a dataset of an HDF5 file.

    What is understood: the labels of dimensions, the attributes `axistags` (ilastik), `element_size_um`, `resolution`
    and `voxel_size` (nm), in the order of the axes.

    Raises:
      UserError: several datasets and none is named, a dataset needs a filter that is not installed, or a file of a
        virtual dataset is not there.
    """
    import h5py

    datasets: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        volumes = {name for name, item in datasets.items() if may_be_volume(item.shape)}
        item = datasets[choose(path, dataset, set(datasets), volumes)]
        if item.shape is None:
            raise UserError(f"{path}: dataset {item.name} has no values; save a volume x, y, z")
        check_fits(path, item.size, item.dtype.itemsize)
        _check_filters(path, item)
        _check_sources(path, item)
        axes = _axes(item)
        return Stored(item[()], axes, axes is not None, _voxel_size(item))


def save_h5(path: Path, array: np.ndarray, size_um: Sequence[float] | None) -> None:
    """Write labels as the dataset "labels"; `size_um` is the voxel size in the order of the array."""
    import h5py

    with h5py.File(path, "w") as file:
        labels = file.create_dataset("labels", data=array, compression="gzip")
        if size_um is not None:
            labels.attrs["element_size_um"] = size_um


def _check_filters(path: Path, item: Any) -> None:
    """Raise UserError if a filter that a dataset was compressed with is not there."""
    import h5py

    plist = item.id.get_create_plist()
    for index in range(plist.get_nfilters()):
        number, _, _, name = plist.get_filter(index)
        if not h5py.h5z.filter_avail(number):
            raise UserError(
                f"{path}: dataset {item.name} is compressed with the HDF5 filter "
                f"{name.decode(errors='replace') or number} ({number}), which is not installed; "
                "save it with gzip, or install the filter and name its folder in HDF5_PLUGIN_PATH"
            )


def _check_sources(path: Path, item: Any) -> None:
    """Raise UserError if a file of a virtual dataset is not there: HDF5 would read zeros."""
    for source in item.virtual_sources() if item.is_virtual else ():
        # "." is the file itself, and % stands for a number
        if "%" not in source.file_name and not (path.parent / source.file_name).exists():
            raise UserError(
                f"{path}: the values of dataset {item.name} lie in {source.file_name}, which is not there; "
                "copy it, too, or save the values in one file"
            )


def _axes(item: Any) -> str | None:
    """Return the axes that ilastik's axistags or the labels of the dimensions name; None if there are none."""
    try:
        tags = json.loads(item.attrs["axistags"])["axes"]
        letters = "".join(str(tag["key"])[:1] for tag in tags)
    except (KeyError, TypeError, ValueError):
        letters = "".join(dimension.label[:1].lower() for dimension in item.dims)
    return letters if len(letters) == item.ndim and set("xyz") <= set(letters) else None


def _voxel_size(item: Any) -> VoxelSize | None:
    for name, unit_nm in (("element_size_um", 1e3), ("resolution", 1.0), ("voxel_size", 1.0)):
        values = np.ravel(item.attrs.get(name, ()))
        if len(values) == 1:  # voxels are cubes
            values = values.repeat(item.ndim)
        if values.dtype.kind in "iuf" and len(values) == item.ndim:
            return stated_size([float(value) for value in values], unit_nm)
    return None
