"""Whether seams between blocks show: a soma that is cut there, and not joined, ends on the seam."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...axes import Nm3


@dataclass(frozen=True)
class Seams:
    """Where blocks meet: the positions of the faces between them along x, y, z, and how wide a block is; nm."""

    at_nm: tuple[np.ndarray, np.ndarray, np.ndarray]
    block_nm: Nm3

    def __bool__(self) -> bool:
        return any(len(at) for at in self.at_nm)


NO_SEAMS = Seams((np.zeros(0), np.zeros(0), np.zeros(0)), (1.0, 1.0, 1.0))


def face_distances(somas: pd.DataFrame, seams: Seams) -> np.ndarray:
    """Distance of the lower and upper end of each soma, along each axis, from the nearest seam, nm.

    Somas that the volume's edge cuts are left out.
    """
    whole = somas[~somas["touches_edge"].to_numpy(bool)]
    found = [np.zeros(0)]
    for a, at in zip("xyz", seams.at_nm):
        if len(at) == 0:
            continue
        for end in ("start", "end"):
            face = whole[f"bb_{end}_{a}_nm"].dropna().to_numpy(np.float64)
            above = np.searchsorted(at, face)
            beside = [at[np.clip(above + step, 0, len(at) - 1)] for step in (-1, 0)]
            found.append(np.min([np.abs(face - near) for near in beside], axis=0))
    return np.concatenate(found)


def chance_share(seams: Seams, within_nm: float) -> float:
    """Share of ends that chance puts so near to a seam: what of a block's width lies there."""
    widths = [width for at, width in zip(seams.at_nm, seams.block_nm) if len(at)]
    return min(1.0, 2 * within_nm / float(np.mean(widths))) if widths else 0.0
