"""An array as a file stores it, and what the file states about its axes and its voxel size."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ...axes import MAX_VOXEL_NM, MIN_VOXEL_NM, Nm3
from ...errors import UserError

_TOLERANCE = 0.02  # relative difference of two voxel sizes that are the same
_NUMBERS_IN = (1.0, 1e3, 1e6)  # nm, um, mm: what a number without a unit may be in
_COLOURS = (3, 4)  # RGB, RGBA
_LEAST_EDGE_VX = 16  # of an image whose shortest axis may be colours


@dataclass(frozen=True)
class VoxelSize:
    """A voxel size that a file states.

    Attributes:
      values: one for each axis of the array; None where the file states none.
      unit_nm: the unit of the values in nm; None if the file states no unit.
    """

    values: tuple[float | None, ...]
    unit_nm: float | None

    def agrees(self, asked_nm: Sequence[float]) -> bool:
        """Return whether a voxel size, in the order of the array's axes, is the one that is stated."""
        return any(
            all(
                value is None or math.isclose(value * unit, nm, rel_tol=_TOLERANCE)
                for value, nm in zip(self.values, asked_nm)
            )
            for unit in ([self.unit_nm] if self.unit_nm else _NUMBERS_IN)
        )

    def text(self, axes: str) -> str:
        """Return the size as text, x, y, z: in nm, or without a unit if none is stated."""
        by_axis = dict(zip(axes, self.values))
        values = (by_axis.get(axis) for axis in "xyz")
        numbers = ["?" if v is None else f"{v * (self.unit_nm or 1):g}" for v in values]
        return " x ".join(numbers) + (" nm" if self.unit_nm else " (no unit)")


def stated_size(values: Sequence[float | None], unit_nm: float | None) -> VoxelSize | None:
    """Return the voxel size that a file states; None if its numbers are only the defaults of a program.

    Programs that know no voxel size write 1, or the resolution of a screen. A unit that makes no sense for voxels (many
    programs write mm whatever the numbers are in) is dropped.
    """
    known = [value if value and math.isfinite(value) and value > 0 else None for value in values]
    numbers = [value for value in known if value is not None]
    if not numbers or (set(numbers) == {1.0} and unit_nm in (None, 1e6)):
        return None
    if unit_nm and not all(MIN_VOXEL_NM <= n * unit_nm <= MAX_VOXEL_NM for n in numbers):
        unit_nm = None
    return VoxelSize(tuple(known), unit_nm)


@dataclass(frozen=True)
class Stored:
    """An array in the order of its file.

    Attributes:
      axes: a letter for each axis, slowest first: x, y, z; c (channel), s (sample of a pixel), t (time), ? (any other);
        None if the file does not name its axes.
      fixed: whether the names of the axes are the file's last word, so that no other order can be requested.
      voxel_size: None if the file states none.
      header: header of a NIfTI, for labels that are written in the same space.
    """

    array: np.ndarray
    axes: str | None = None
    fixed: bool = False
    voxel_size: VoxelSize | None = None
    header: Any = None

    def volume(self, source: str, axes: str | None) -> Stored:
        """Drop axes of length 1 beyond three, and name the axes as requested or stated; zyx if neither does.

        Raises:
          UserError: other than three axes are left, one of them is channels or times, or the file states another order.
        """
        shape = self.array.shape
        if 0 in shape:
            raise UserError(f"{source} is empty, its shape is {shape}")
        stored = self._squeeze()
        named = stored.axes or ""
        for letter, meaning in _NOT_SPACE.items():
            if letter in named and not (letter == "t" and axes is not None):
                count = stored.array.shape[named.index(letter)]
                if count == 1:
                    continue
                raise UserError(
                    f"{source} has {count} {meaning} (shape {shape}, axes {named}), and a volume x, y, z is needed; "
                    "save one grey value per voxel"
                )
        if stored.array.ndim != 3:
            raise UserError(
                f"{source} has {stored.array.ndim} dimensions, shape {shape}"
                + (f", axes {named}" if named else "")
                + f", and 3 are needed ({axes or 'zyx'})"
            )
        if axes is None and not named:
            _refuse_colours(source, stored.array.shape)
        order = _in_space(named)
        if stored.fixed and axes is not None and axes != order:
            raise UserError(
                f"{source}: its header orders the axes {order} and --axes says {axes}; "
                "omit --axes, or correct the header"
            )
        return replace(stored, axes=axes or order)

    def _squeeze(self) -> Stored:
        """Drop as many axes of length 1 as leave three, if it is certain which."""
        shape, excess = self.array.shape, self.array.ndim - 3
        ones = [axis for axis, n in enumerate(shape) if n == 1]
        if self.axes is not None:  # x, y and z stay
            ones = [axis for axis in ones if self.axes[axis] not in "xyz"][: max(excess, 0)]
        choices = {
            tuple(n for axis, n in enumerate(shape) if axis not in dropped): dropped
            for dropped in combinations(ones, max(excess, 0))
        }
        if excess <= 0 or len(choices) != 1:
            return self
        (dropped,) = choices.values()
        kept = [axis for axis in range(len(shape)) if axis not in dropped]
        size = self.voxel_size
        return replace(
            self,
            array=self.array.squeeze(dropped),
            axes=self.axes and "".join(self.axes[axis] for axis in kept),
            voxel_size=size and replace(size, values=tuple(size.values[axis] for axis in kept)),
        )

    def check_voxel_size(self, source: str, asked_nm: Nm3 | None) -> None:
        """Raise UserError if the file states another voxel size than is requested (x, y, z)."""
        if self.voxel_size is None or asked_nm is None or self.axes is None:
            return
        if not self.voxel_size.agrees([asked_nm["xyz".index(axis)] for axis in self.axes]):
            asked = " x ".join(f"{v:g}" for v in asked_nm)
            raise UserError(
                f"{source} states voxels of {self.voxel_size.text(self.axes)} with axes {self.axes}, and the request "
                f"says {asked} nm (x, y, z); correct the resolution, the axes or the file"
            )


_NOT_SPACE = {"c": "channels", "s": "values per pixel", "t": "times"}


def _in_space(named: str) -> str:
    """Return the order of the axes x, y, z; an axis with another name, such as a stack's, is the missing one."""
    missing = set("xyz") - set(named)
    if not named or len(missing) > 1:
        return "zyx"
    return "".join(letter if letter in "xyz" else missing.pop() for letter in named)


def _refuse_colours(source: str, shape: tuple[int, ...]) -> None:
    """Raise UserError if an axis without a name has the length of colours."""
    first, last = shape[0], shape[-1]
    if last in _COLOURS and min(shape[:2]) >= _LEAST_EDGE_VX:
        which, count = "last", last
    elif first in _COLOURS[:1] and min(shape[1:]) >= _LEAST_EDGE_VX:
        which, count = "first", first
    else:
        return
    raise UserError(
        f"{source} has shape {shape}, and the {count} values along the {which} axis may be colours; "
        "save one grey value per voxel, or give the order of the axes with --axes"
    )


def check_fits(path: Path, voxels: int, bytes_per_voxel: int) -> None:
    """Raise UserError if an array is larger than the memory of this machine."""
    needed = voxels * bytes_per_voxel
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"{path} holds an array of {needed / 1e9:,.1f} GB and this machine has {memory / 1e9:,.1f} GB of memory; "
            "cut out a part"
        )


def may_be_volume(shape: tuple[int, ...] | None) -> bool:
    """Return whether an array has three axes, apart from those of length 1."""
    return shape is not None and len(shape) >= 3 and sum(n != 1 for n in shape) <= 3


def choose(path: Path, dataset: str | None, names: set[str], volumes: set[str]) -> str:
    """Return the name of the requested dataset, or of the only volume.

    Args:
      names: all datasets; `volumes`: those that can be a volume.
    Raises:
      UserError: there is no such dataset, or several volumes.
    """
    available = ", ".join(sorted(names)) or "none"
    if dataset is not None:
        if dataset.strip("/") not in names:
            raise UserError(f"{path} has no dataset '{dataset}'; there is: {available}")
        return dataset.strip("/")
    if not volumes:
        raise UserError(
            f"{path} has no dataset of 3 dimensions (there is: {available}); save a volume x, y, z"
        )
    if len(volumes) > 1:
        raise UserError(
            f"{path} has several datasets (there is: {available}); name one with --dataset"
        )
    return next(iter(volumes))
