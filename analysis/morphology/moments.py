"""Moments of somas that add up over blocks, so that no block needs a whole soma in memory.

Arrays are z, y, x. Moments are exact integers in voxels of the volume's grid: the order of the blocks does not
matter, and sums over blocks equal those of the whole volume bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...axes import Voxel, Zyx
from ..metrics.contingency import dense_labels
from .surface_area import REACH, surface_sums

AXES = "zyx"
PRODUCTS = ("zz", "yy", "xx", "zy", "zx", "yx")
LOW, HIGH = [f"low_{a}" for a in AXES], [f"high_{a}" for a in AXES]
_SUMS = [*(f"sum_{a}" for a in AXES), *(f"sum_{p}" for p in PRODUCTS)]
_GREY = ["sum_grey", "sum_greygrey"]
_EMPTY_EXTENT = 1 << 62  # lower bound of a label without voxels; its upper bound is the negative
MOMENTS = ["id", "voxels", *_SUMS, *_GREY, *LOW, *HIGH, "surface", "touches_edge"]


def block_moments(
    labels: np.ndarray,
    core: tuple[slice, slice, slice],
    origin: Zyx,
    bounds: tuple[Zyx, Zyx],
    voxel_nm: Voxel,
    image: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the contribution of one block to the moments of each label in it.

    Args:
      labels: z, y, x; extends at least REACH voxels beyond the upper faces of the core, or to the end of the volume.
      core: slices of `labels` that select the block's core.
      origin: voxel of the volume's grid at labels[0, 0, 0], z, y, x.
      bounds: first and past-last voxel of the volume, z, y, x. Outside of them everything is background, so the face
        at which the volume cuts a soma counts as part of its surface.
      voxel_nm: voxel size, z, y, x.
      image: grey values of the core, uint8; None if they are not known.

    Returns:
      One row for each label, with the columns MOMENTS. A label that only touches the core from outside has 0 voxels.

    Raises:
      ValueError: `labels` does not extend far enough beyond an upper face of the core.
    """
    window, low = _with_neighbours(labels, core, origin, bounds)
    box = _occupied(window)
    if box is None:
        return merge_moments([])
    ids, dense = dense_labels(window[box])
    dense = dense.reshape(window[box].shape)
    if ids[0] > 0:
        ids, dense = np.insert(ids, 0, np.uint64(0)), dense + np.uint32(1)
    dense_low = [
        a + s.start for a, s in zip(low, box)
    ]  # voxel of the volume's grid at dense[0, 0, 0]
    core_low = [o + s.start for o, s in zip(origin, core)]
    core_high = [o + s.stop for o, s in zip(origin, core)]
    inner = tuple(
        slice(max(0, a - f), max(0, b - f)) for a, b, f in zip(core_low, core_high, dense_low)
    )
    inner_low = [max(a, f) for a, f in zip(core_low, dense_low)]
    table = _interior_sums(dense[inner], inner_low, len(ids))
    in_image = tuple(slice(b - a, None) for a, b in zip(core_low, inner_low))
    table.update(_grey_sums(dense[inner], None if image is None else image[in_image], len(ids)))
    ends = [b - f for b, f in zip(core_high, dense_low)]
    table["surface"] = surface_sums(dense, len(ids), ends, voxel_nm)
    frame = pd.DataFrame({"id": ids, **table}).iloc[1:]
    at_low = (frame[LOW].to_numpy() <= bounds[0]).any(axis=1)
    at_high = (frame[HIGH].to_numpy() >= np.array(bounds[1]) - 1).any(axis=1)
    has_voxels = frame["voxels"].to_numpy() > 0
    frame["touches_edge"] = (at_low | at_high) & has_voxels
    contributes = has_voxels | (frame["surface"].to_numpy() > 0)
    return frame.loc[contributes, MOMENTS].reset_index(drop=True)


def merge_moments(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Add up the moments of disjoint blocks: one row for each label, sorted by id; no rows without parts."""
    empty = pd.DataFrame({name: np.zeros(0, np.int64) for name in MOMENTS})
    empty = empty.astype({"id": np.uint64, "touches_edge": bool})
    filled = [part for part in parts if len(part)]
    if not filled:
        return empty
    grouped = pd.concat(filled, ignore_index=True).groupby("id", sort=True)
    how = dict.fromkeys(["voxels", *_SUMS, *_GREY, "surface"], "sum")
    how |= dict.fromkeys(LOW, "min") | dict.fromkeys(HIGH, "max") | {"touches_edge": "any"}
    return grouped.agg(how).reset_index()[MOMENTS]


def _with_neighbours(
    labels: np.ndarray, core: tuple[slice, slice, slice], origin: Zyx, bounds: tuple[Zyx, Zyx]
) -> tuple[np.ndarray, list[int]]:
    """Return the core with a margin of REACH voxels, and the voxel of the volume's grid at which it starts.

    The margin covers the upper faces, and also the lower faces at the start of the volume. Outside of the volume it
    is background.
    """
    cut, pad, low = [], [], []
    for axis, (own, n) in enumerate(zip(core, labels.shape)):
        start, stop = origin[axis] + own.start, origin[axis] + own.stop
        below = REACH if start <= bounds[0][axis] else 0
        above = min(REACH, bounds[1][axis] - stop)  # voxels before the volume ends
        if own.stop + above > n:
            raise ValueError(
                f"labels end {n - own.stop} voxels beyond the core's upper face {stop} along {AXES[axis]}; "
                f"{above} are needed"
            )
        cut.append(slice(own.start, own.stop + above))
        pad.append((below, REACH - above))
        low.append(start - below)
    return np.pad(labels[tuple(cut)], pad), low


def _occupied(window: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Return the bounding box of all labels, padded by up to REACH voxels; None if there are no labels."""
    spans = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        used = np.flatnonzero(window.any(axis=others))
        if len(used) == 0:
            return None
        spans.append(slice(max(0, int(used[0]) - REACH), int(used[-1]) + 1 + REACH))
    return spans[0], spans[1], spans[2]


def _interior_sums(dense: np.ndarray, low: list[int], n: int) -> dict[str, np.ndarray]:
    """Return voxel counts, first and second moments and extents of labels 0..n-1, in voxels of the volume's grid."""
    places = np.nonzero(dense)
    label = dense[places].astype(np.int64)
    table: dict[str, np.ndarray] = {"voxels": np.bincount(label, minlength=n)}
    sums = {}
    for axis, a in enumerate(AXES):
        size = dense.shape[axis]
        profile = np.bincount(label * size + places[axis], minlength=n * size).reshape(n, size)
        at = np.arange(size) + low[axis]
        sums[a] = profile @ np.arange(size)
        table[f"sum_{a}"], table[f"sum_{a}{a}"] = profile @ at, profile @ (at * at)
        occupied, exists = profile > 0, table["voxels"] > 0
        last = size - 1 - occupied[:, ::-1].argmax(axis=1)
        table[f"low_{a}"] = np.where(exists, at[occupied.argmax(axis=1)], _EMPTY_EXTENT)
        table[f"high_{a}"] = np.where(exists, at[last], -_EMPTY_EXTENT)
    for a, b in (("z", "y"), ("z", "x"), ("y", "x")):
        i, j = AXES.index(a), AXES.index(b)
        # float64 represents these sums exactly, because positions within a block are small
        product = np.bincount(label, places[i] * places[j], n).astype(np.int64)
        product += low[i] * sums[b] + low[j] * sums[a] + low[i] * low[j] * table["voxels"]
        table[f"sum_{a}{b}"] = product
    return table


def _grey_sums(dense: np.ndarray, image: np.ndarray | None, n: int) -> dict[str, np.ndarray]:
    """Return the sums of the grey values of labels 0..n-1 and of their squares; zeros without an image."""
    if image is None:
        return {name: np.zeros(n, np.int64) for name in _GREY}
    inside = dense > 0
    label = dense[inside]
    grey = image[tuple(slice(s) for s in dense.shape)][inside].astype(np.float64)
    # float64 represents these sums exactly
    sums = (np.bincount(label, grey**power, n).astype(np.int64) for power in (1, 2))
    return dict(zip(_GREY, sums))
