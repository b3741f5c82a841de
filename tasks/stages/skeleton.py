"""skeleton: a skeleton of each soma, and the neurites that leave it.

Each soma is traced whole, since it fits into one crop; there are no fragments to merge.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import edt
import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter

from ...analysis.morphology.stubs import Stub, find_stubs
from ..grids.geometry import Box, flip
from ..run import Run
from .measure import SomaStage, crop, load_measurements, put_frame
from .stage import Counters


class SkeletonStage(SomaStage):
    """One skeleton per soma."""

    name = "skeleton"
    scratch = ("measure/neurites/",)

    @cached_property
    def frame(self) -> pd.DataFrame:
        return load_measurements(self.run, ["batches"])

    def prepare(self) -> None:
        self.run.somas.begin_skeletons()

    def work(self, index: int, data: None) -> Counters:
        skeletons, rows = zip(*(trace_soma(self.run, soma) for soma in self.batch(index)))
        self.run.somas.write_skeletons(skeletons)
        put_frame(self.run.store, f"measure/neurites/{index}.npz", pd.DataFrame(rows))
        return {"somas": len(rows)}


def trace_soma(run: Run, soma: pd.Series) -> tuple[Any, dict[str, float]]:
    """Return the cloudvolume Skeleton of a soma, nm, and its columns of stage skeleton.

    Args:
      soma: a row of the table of shapes with the columns of stage shape.
    """
    resolution = run.somas.resolution_nm
    box, mask = crop(run, soma)
    radius_nm = soma["inscribed_radius_um"] * 1000
    stubs = find_stubs(mask, flip(resolution), radius_nm, _ends(run, box))
    corner = np.array(box.lo) * resolution
    middle = soma[[f"inscribed_{a}_nm" for a in "xyz"]].to_numpy(float) - corner
    skeleton = trace(mask, resolution, middle, radius_nm, stubs)
    skeleton.id = int(soma["id"])
    skeleton.vertices += corner.astype(np.float32)
    towards = zip("xyz", direction(stubs, resolution, middle).tolist())
    return skeleton, {"neurites": len(stubs), **{f"neurite_{a}": value for a, value in towards}}


def _ends(run: Run, box: Box) -> list[tuple[bool, bool]]:
    """Return, for each axis, z first, whether a box ends where the volume does: below, above."""
    bounds = run.segment_grid.bounds
    sides = zip(box.lo, box.hi, bounds.lo, bounds.hi)
    return [(low <= first, high >= last) for low, high, first, last in sides][::-1]


def halve_by_maximum(array: np.ndarray) -> np.ndarray:
    """Halve the resolution: each voxel is the maximum of eight, so that no thin part of a mask breaks."""
    z, y, x = (n + n % 2 for n in array.shape)
    padded = np.pad(array, [(0, n % 2) for n in array.shape])
    blocks = padded.reshape(z // 2, 2, y // 2, 2, x // 2, 2)
    return np.asarray(blocks.max(axis=(1, 3, 5)))


def trace(
    mask: np.ndarray,
    resolution_nm: Sequence[float],
    middle_nm: np.ndarray,
    radius_nm: float,
    stubs: Sequence[Stub],
) -> Any:
    """Trace the skeleton of a soma with kimimaro, from its middle to the tip of each stub.

    Args:
      mask: bool, z, y, x.
      resolution_nm: x, y, z.
      middle_nm: centre of the largest inscribed ball, x, y, z, from the corner of the mask.
      radius_nm: radius of that ball; inside it, paths are straight.

    Returns:
      cloudvolume Skeleton, nm, from the corner of the mask. The radius of a vertex is the largest
      distance to the surface in the voxels around it.
    """
    from kimimaro.trace import point_to_point  # slow to import
    from osteoid import Skeleton

    coarse = 2 * np.array(resolution_nm)
    half = np.asfortranarray(halve_by_maximum(mask).T.astype(np.uint8))
    start = tuple((middle_nm // coarse).astype(int).tolist())
    paths = [Skeleton(middle_nm[None].astype(np.float32), np.zeros((0, 2), np.uint32))]
    for stub in stubs:
        # kimimaro.connect_points fails: it scales an array of integers in place by floats
        end = tuple(i // 2 for i in stub.tip[::-1])
        path = point_to_point(half, start, end, anisotropy=coarse.astype(np.float32))
        places = (path.vertices + 0.5) * coarse
        places = places[np.linalg.norm(places - middle_nm, axis=1) > radius_nm]
        whole = np.concatenate([places, middle_nm[None]]).astype(np.float32)
        paths.append(Skeleton.from_path(whole))
    skeleton = Skeleton.simple_merge(paths).consolidate()
    depth_nm = halve_by_maximum(edt.edt(mask, anisotropy=tuple(resolution_nm)[::-1]))
    near_nm = maximum_filter(depth_nm, size=3)  # shortest paths cut corners and leave the middle
    skeleton.radius = near_nm[tuple((skeleton.vertices // coarse).astype(int).T[::-1])]
    return skeleton


def direction(
    stubs: Sequence[Stub], resolution_nm: Sequence[float], middle_nm: np.ndarray
) -> np.ndarray:
    """Return the unit vector from the soma's middle to the base of its first stub; NaN if it has none.

    The arguments are those of `trace`.
    """
    if not stubs:
        return np.full(3, np.nan)
    away = (np.array(stubs[0].base[::-1]) + 0.5) * resolution_nm - middle_nm
    return np.asarray(away / np.linalg.norm(away))
