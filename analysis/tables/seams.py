"""Distances of soma ends from the seams between blocks. A soma that is cut at a seam ends exactly on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...axes import Nm3


@dataclass(frozen=True)
class Seams:
    """Seams between the cores of blocks.

    Attributes:
      at_nm: positions of the seams along x, y and z.
      block_nm: size of a core, x, y, z.
    """

    at_nm: tuple[np.ndarray, np.ndarray, np.ndarray]
    block_nm: Nm3

    def __bool__(self) -> bool:
        return any(len(at) for at in self.at_nm)


NO_SEAMS = Seams((np.zeros(0), np.zeros(0), np.zeros(0)), (1.0, 1.0, 1.0))


def face_distances(somas: pd.DataFrame, seams: Seams) -> np.ndarray:
    """Return the distance in nm of the lower and upper end of each soma along each axis from the nearest seam.

    Somas that touch the edge of the volume are excluded.
    """
    whole = somas[~somas["touches_edge"].to_numpy(bool)]
    distances = [np.zeros(0)]
    for a, at in zip("xyz", seams.at_nm):
        if len(at) == 0:
            continue
        for end in ("start", "end"):
            face = whole[f"bb_{end}_{a}_nm"].dropna().to_numpy(np.float64)
            upper = np.searchsorted(at, face)
            adjacent = [at[np.clip(upper + step, 0, len(at) - 1)] for step in (-1, 0)]
            distances.append(np.min([np.abs(face - seam) for seam in adjacent], axis=0))
    return np.concatenate(distances)


def chance_share(seams: Seams, within_nm: float) -> float:
    """Return the share of ends expected by chance within a distance of a seam."""
    widths = [width for at, width in zip(seams.at_nm, seams.block_nm) if len(at)]
    return min(1.0, 2 * within_nm / float(np.mean(widths))) if widths else 0.0
