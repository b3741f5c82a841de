"""Read datasets of HDF5 files, and the attributes by which programs state their axes and voxel size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .stored import Stored, VoxelSize, check_fits, choose, stated_size


def load_h5(path: Path, dataset: str | None) -> Stored:
    """Read a dataset of an HDF5 file.

    Attributes that are understood: `axistags` (ilastik), `element_size_um` and `resolution` (nm), in the order of the
    axes.

    Raises:
      UserError: several datasets and none is named, or a dataset needs a filter that is not installed.
    """
    import h5py

    datasets: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    with h5py.File(path, "r") as file:
        file.visititems(collect)
        volumes = {name for name, item in datasets.items() if _may_be_volume(item.shape)}
        item = datasets[choose(path, dataset, set(datasets), volumes)]
        if item.shape is None:
            raise UserError(f"{path}: dataset {item.name} has no values; save a volume x, y, z")
        check_fits(path, item.size, item.dtype.itemsize)
        _check_filters(path, item)
        axes = _axes(item)
        return Stored(item[()], axes, axes is not None, _voxel_size(item))


def save_h5(path: Path, array: np.ndarray, size_um: Sequence[float] | None) -> None:
    """Write labels as the dataset "labels"; `size_um` is the voxel size in the order of the array."""
    import h5py

    with h5py.File(path, "w") as file:
        labels = file.create_dataset("labels", data=array, compression="gzip")
        if size_um is not None:
            labels.attrs["element_size_um"] = size_um


def _may_be_volume(shape: tuple[int, ...] | None) -> bool:
    """Return whether a dataset has three axes, apart from those of length 1."""
    return shape is not None and len(shape) >= 3 and sum(n != 1 for n in shape) <= 3


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


def _axes(item: Any) -> str | None:
    """Return the axes that ilastik's axistags name; None if there are none."""
    try:
        tags = json.loads(item.attrs["axistags"])["axes"]
        letters = "".join(str(tag["key"])[:1] for tag in tags)
    except (KeyError, TypeError, ValueError):
        return None
    return letters if len(letters) == item.ndim and set("xyz") <= set(letters) else None


def _voxel_size(item: Any) -> VoxelSize | None:
    for name, unit_nm in (("element_size_um", 1e3), ("resolution", 1.0)):
        values = np.ravel(item.attrs.get(name, ()))
        if values.dtype.kind in "iuf" and len(values) == item.ndim:
            return stated_size([float(value) for value in values], unit_nm)
    return None
