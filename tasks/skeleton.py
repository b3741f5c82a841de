"""Stage 4: a skeleton for each soma, and the neurites that leave it.

Each soma is traced whole, so there are no fragments to merge (and a soma fits one crop by definition).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import kimimaro
import numpy as np
import pandas as pd
from osteoid import Skeleton
from scipy import sparse

from .measure import batch, batches, crop, measured, put_frame
from .run import Stage

_REACH = 1.5  # radii; what is nearer to a soma's middle is body, corners and all


class SkeletonStage(Stage):
    """One task a batch of somas.

    kimimaro takes a body for a soma by its depth; its own thresholds (3500-4000 nm) lie above every fly soma,
    so they are set from the radius that was measured. It works at half the resolution, in a ninth of the time.
    """

    name = "skeleton"
    scratch = ("measure/neurites/",)

    @cached_property
    def frame(self) -> pd.DataFrame:
        return measured(self.run)

    @cached_property
    def _ends_nm(self) -> np.ndarray:
        bounds = self.run.segment_grid.bounds
        return np.array([bounds.lo, bounds.hi]) * self.run.config.segment.resolution_nm

    def prepare(self) -> None:
        self.run.somas.begin_skeletons()

    def plan(self) -> Sequence[int]:
        return batches(self.frame)

    def work(self, index: int, data: Any) -> dict[str, Any]:
        skeletons, rows = [], []
        for _, soma in batch(self.frame, index):
            centre = soma[[f"inscribed_{a}_nm" for a in "xyz"]].to_numpy(float)
            radius_nm = soma["inscribed_radius_um"] * 1000
            reach_nm = reach(soma, self._ends_nm)
            box, mask = crop(self.run, soma)
            resolution = self.run.somas.resolution_nm
            skeleton = trace(halved(mask), [2 * r for r in resolution], radius_nm, reach_nm)
            skeleton.id = int(soma["id"])
            skeleton.vertices += np.array([(o + 1) * r for o, r in zip(box.lo, resolution)], "f4")
            skeletons.append(skeleton)
            found = neurites(skeleton.vertices, skeleton.edges, centre, reach_nm)
            rows.append([len(found), *direction(skeleton.vertices, found, centre)])
        self.run.somas.write_skeletons(skeletons)
        columns = ["neurites", *(f"neurite_{a}" for a in "xyz")]
        frame = pd.DataFrame(np.array(rows).reshape(-1, 4), columns=columns)
        frame["neurites"] = frame["neurites"].astype(np.int64)
        put_frame(self.run.store, f"measure/neurites/{index}.npz", frame)
        return {"somas": len(rows)}


def reach(soma: pd.Series, ends_nm: np.ndarray) -> float:
    """How far a soma's body may go from the middle of the largest ball inside, nm.

    Half more than the radius of a ball of its volume. Of a body that the volume's edge cuts, which is wide for what is
    left of it, half more than the longest semi-axis.

    Args:
      soma: a row of `measured`.
      ends_nm: where the volume begins and ends, 2, 3 (x, y, z).
    """
    centre = soma[[f"inscribed_{a}_nm" for a in "xyz"]].to_numpy(float)
    gaps = [
        np.abs(soma[[f"bb_{name}_{a}_nm" for a in "xyz"]].to_numpy(float) - end)
        for name, end in zip(("start", "end"), ends_nm)
    ]
    to_edge = np.where(np.array(gaps) < 1, np.abs(ends_nm - centre), np.inf).min()
    whole = _REACH * soma["equivalent_diameter_um"] * 500
    cut = to_edge < whole
    return float(max(whole, _REACH * soma["semi_axis_a_um"] * 1000) if cut else whole)


def halved(mask: np.ndarray) -> np.ndarray:
    """The mask at half the resolution: a voxel is in it when any of its eight is, so that nothing thin breaks."""
    z, y, x = (n + n % 2 for n in mask.shape)
    padded = np.pad(mask, [(0, n % 2) for n in mask.shape])
    return padded.reshape(z // 2, 2, y // 2, 2, x // 2, 2).any(axis=(1, 3, 5))


def trace(
    mask: np.ndarray, resolution_nm: Sequence[float], radius_nm: float, reach_nm: float
) -> Any:
    """kimimaro's skeleton of one soma, nm from the middle of its crop's first voxel, x, y, z.

    Args:
      mask: bool z, y, x.
      resolution_nm: x, y, z.
      radius_nm: of the largest ball inside.
      reach_nm: nothing nearer to that ball's middle gets a branch of its own.
    """
    teasar = {
        "scale": 4,
        "const": 500,
        "pdrf_scale": 100_000,
        "pdrf_exponent": 4,
        "soma_detection_threshold": 0.6 * radius_nm,
        "soma_acceptance_threshold": 0.8 * radius_nm,
        "soma_invalidation_scale": reach_nm / radius_nm,
        "soma_invalidation_const": 0,
    }
    found = kimimaro.skeletonize(
        np.asfortranarray(mask.T.astype(np.uint8)),
        teasar_params=teasar,
        anisotropy=tuple(resolution_nm),
        dust_threshold=0,
        fix_borders=False,
        progress=False,
    )
    if 1 in found:
        return found[1]
    middle = np.mean(np.nonzero(mask.T), axis=1) * np.array(resolution_nm)  # too small to trace
    return Skeleton(middle[None].astype(np.float32), np.zeros((0, 2), np.uint32))


def neurites(
    vertices: np.ndarray, edges: np.ndarray, centre: np.ndarray, reach_nm: float
) -> list[np.ndarray]:
    """Branches of a skeleton that leave the soma: its parts further than `reach_nm` from the soma's middle.

    Args:
      vertices: n, 3; edges: m, 2 indices; centre of the largest ball inside the soma; all nm.
    Returns:
      The vertices of each, the branch with the most first.
    """
    outside = np.linalg.norm(vertices - centre, axis=1) > reach_nm
    kept = edges[outside[edges].all(axis=1)]
    graph = sparse.coo_matrix((np.ones(len(kept)), kept.T), shape=(len(vertices),) * 2)
    _, branch = sparse.csgraph.connected_components(graph, directed=False)
    found = [np.flatnonzero(outside & (branch == b)) for b in np.unique(branch[outside])]
    return sorted(found, key=len, reverse=True)


def direction(
    vertices: np.ndarray, branches: Sequence[np.ndarray], centre: np.ndarray
) -> np.ndarray:
    """Unit vector from the soma's middle to where its first branch leaves it; NaN without branches."""
    if not len(branches):
        return np.full(3, np.nan)
    away = vertices[branches[0]] - centre
    distance = np.linalg.norm(away, axis=1)
    return np.asarray(away[distance.argmin()] / distance.min())
