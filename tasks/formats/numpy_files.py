"""Read npy and npz files. Nothing in them is executed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from .stored import Stored, check_fits, choose, may_be_volume


def load_npy(path: Path) -> Stored:
    """Read a npy file. Raises ValueError if it is shorter than its header says."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    check_fits(path, mapped.size, mapped.dtype.itemsize)
    return Stored(np.array(mapped, order="K"))


def load_npz(path: Path, dataset: str | None) -> Stored:
    """Read an array of a npz file."""
    with np.load(path, allow_pickle=False) as file:
        headers = {name: _header(file, name) for name in file.files}
        volumes = {name for name, (shape, _) in headers.items() if may_be_volume(shape)}
        name = choose(path, dataset, set(headers), volumes)
        shape, item_bytes = headers[name]
        if shape is None:
            raise UserError(f"{path}: {name} is not an array; save a volume x, y, z")
        check_fits(path, math.prod(shape), item_bytes)
        return Stored(file[name])


def _header(file: Any, name: str) -> tuple[tuple[int, ...] | None, int]:
    """Return the shape of an array of a npz file and the bytes of a value; no shape for other objects."""
    try:
        with file.zip.open(f"{name}.npy") as stored:
            version = np.lib.format.read_magic(stored)
            if version == (1, 0):
                shape, _, dtype = np.lib.format.read_array_header_1_0(stored)
            else:
                shape, _, dtype = np.lib.format.read_array_header_2_0(stored)
    except (KeyError, ValueError):
        return None, 0
    return (None if dtype.hasobject else shape), dtype.itemsize
