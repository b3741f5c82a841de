"""Stage 4: a skeleton for each soma, and the neurites that leave it.

Each soma is traced whole, so there are no fragments to merge (and a soma fits one crop by definition).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from kimimaro.trace import point_to_point
from osteoid import Skeleton

from ...analysis.morphology.stubs import Stub, stubs
from ..run import Run
from ..volumes.geometry import Box, flip
from .measure import batch, batches, crop, measured, put_frame
from .stage import Stage


class SkeletonStage(Stage):
    """One task a batch of somas."""

    name = "skeleton"
    scratch = ("measure/neurites/",)

    @cached_property
    def frame(self) -> pd.DataFrame:
        return measured(self.run)

    def prepare(self) -> None:
        self.run.somas.begin_skeletons()

    def plan(self) -> Sequence[int]:
        return batches(self.frame)

    def work(self, index: int, data: Any) -> dict[str, Any]:
        skeletons, rows = [], []
        resolution = self.run.somas.resolution_nm
        for _, soma in batch(self.frame, index):
            box, mask = crop(self.run, soma)
            radius_nm = soma["inscribed_radius_um"] * 1000
            found = stubs(mask, flip(resolution), radius_nm, _ends(self.run, box))
            corner = np.array(box.lo) * resolution
            middle = soma[[f"inscribed_{a}_nm" for a in "xyz"]].to_numpy(float) - corner
            skeleton = trace(mask, resolution, middle, radius_nm, found)
            skeleton.id = int(soma["id"])
            skeleton.vertices += corner.astype(np.float32)
            skeletons.append(skeleton)
            rows.append([len(found), *direction(found, resolution, middle)])
        self.run.somas.write_skeletons(skeletons)
        columns = ["neurites", *(f"neurite_{a}" for a in "xyz")]
        frame = pd.DataFrame(np.array(rows).reshape(-1, 4), columns=columns)
        frame["neurites"] = frame["neurites"].astype(np.int64)
        put_frame(self.run.store, f"measure/neurites/{index}.npz", frame)
        return {"somas": len(rows)}


def _ends(run: Run, box: Box) -> list[tuple[bool, bool]]:
    """Of each axis, z first, whether a box ends where the volume does: below, above."""
    bounds = run.segment_grid.bounds
    sides = zip(box.lo, box.hi, bounds.lo, bounds.hi)
    return [(low <= first, high >= last) for low, high, first, last in sides][::-1]


def halved(mask: np.ndarray) -> np.ndarray:
    """The mask at half the resolution: a voxel is in it when any of its eight is, so that nothing thin breaks."""
    z, y, x = (n + n % 2 for n in mask.shape)
    padded = np.pad(mask, [(0, n % 2) for n in mask.shape])
    return padded.reshape(z // 2, 2, y // 2, 2, x // 2, 2).any(axis=(1, 3, 5))


def trace(
    mask: np.ndarray,
    resolution_nm: Sequence[float],
    middle_nm: np.ndarray,
    radius_nm: float,
    found: Sequence[Stub],
) -> Any:
    """kimimaro's skeleton of one soma, from its middle to the tip of each stub, nm.

    Args:
      mask: bool z, y, x.
      resolution_nm: x, y, z.
      middle_nm: of the largest ball inside, x, y, z, from the crop's corner; in that ball paths are straight.
      radius_nm: of that ball.
    """
    coarse = 2 * np.array(resolution_nm)
    half = np.asfortranarray(halved(mask).T.astype(np.uint8))
    start = tuple((middle_nm // coarse).astype(int).tolist())
    paths = [Skeleton(middle_nm[None].astype(np.float32), np.zeros((0, 2), np.uint32))]
    for stub in found:
        # kimimaro.connect_points, which is meant for this, scales whole numbers in place, and numpy refuses
        end = tuple(i // 2 for i in stub.tip[::-1])
        path = point_to_point(half, start, end, anisotropy=coarse.astype(np.float32))
        places = (path.vertices + 0.5) * coarse
        places = places[np.linalg.norm(places - middle_nm, axis=1) > radius_nm]
        whole = np.concatenate([places, middle_nm[None]]).astype(np.float32)
        paths.append(Skeleton.from_path(whole))
    return Skeleton.simple_merge(paths).consolidate()


def direction(
    found: Sequence[Stub], resolution_nm: Sequence[float], middle_nm: np.ndarray
) -> np.ndarray:
    """Unit vector from the soma's middle to where its first stub leaves it; NaN without any. As for `trace`."""
    if not found:
        return np.full(3, np.nan)
    away = (np.array(found[0].base[::-1]) + 0.5) * resolution_nm - middle_nm
    return np.asarray(away / np.linalg.norm(away))
