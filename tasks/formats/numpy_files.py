"""Read npy and npz files. Nothing in them is executed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .stored import Stored, check_fits, choose


def load_npy(path: Path) -> Stored:
    """Read a npy file. Raises ValueError if it is shorter than its header says."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    check_fits(path, mapped.size, mapped.dtype.itemsize)
    return Stored(np.array(mapped, order="K"))


def load_npz(path: Path, dataset: str | None) -> Stored:
    """Read an array of a npz file."""
    with np.load(path, allow_pickle=False) as file:
        names = set(file.files)
        volumes = {name for name in names if file[name].ndim == 3} if len(names) > 1 else names
        return Stored(file[choose(path, dataset, names, volumes)])
