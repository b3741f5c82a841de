"""Count the nuclei of somas, and tell neurons from glia by them. Arrays are z, y, x."""

from __future__ import annotations

from typing import NamedTuple

import cc3d
import numpy as np
import pandas as pd

from ...axes import Voxel
from .classes import GLIA, NEURON, OTHER
from .shapes import largest_inscribed_ball


class Nuclei(NamedTuple):
    """The nuclei of one soma.

    Attributes:
      number: components that are large enough, and at least 1 where the nuclei together are.
      centre: centre of the largest inscribed ball, which lies in a nucleus; z, y, x, in voxels of the mask; NaN
        without a nucleus.
    """

    number: int
    centre: tuple[float, float, float]


def count_nuclei(mask: np.ndarray, voxel_nm: Voxel, min_um3: float) -> Nuclei:
    """Count the 26-connected components of a mask of at least a volume, and find a point inside of a nucleus.

    Args:
      mask: bool, the nuclei of one soma.
      voxel_nm: voxel size, z, y, x.
      min_um3: least volume of a nucleus.
    """
    voxels = min_um3 / (float(np.prod(voxel_nm)) * 1e-9)
    if not mask.any() or np.count_nonzero(mask) < voxels:
        return Nuclei(0, (np.nan,) * 3)
    parts = cc3d.connected_components(mask, connectivity=26)
    large = np.bincount(parts.ravel())[1:] >= voxels
    _, centre = largest_inscribed_ball(mask, voxel_nm)
    return Nuclei(max(1, int(large.sum())), centre)


def classify(has_nucleus: np.ndarray, p_glia: np.ndarray) -> np.ndarray:
    """Return the class of each soma, one of CLASSES.

    Args:
      has_nucleus: bool, n.
      p_glia: probability that the soma is glia, n.
    """
    return np.select([~has_nucleus, p_glia > 0.5], [OTHER, GLIA], NEURON)


def add_nuclei(somas: pd.DataFrame, nuclei: pd.DataFrame) -> pd.DataFrame:
    """Return a table of somas with columns for their nuclei: volume, share of the soma, sphericity, bounding box.

    Args:
      somas, nuclei: output of `shapes_from_moments`; the nuclei have the ids of their somas.
    """
    columns = [str(name) for name in nuclei if str(name).startswith("bb_")]
    columns = ["volume_um3", "sphericity", *columns]
    named = nuclei[["id", *columns]].rename(columns={name: f"nucleus_{name}" for name in columns})
    table = somas.merge(named, on="id", how="left", validate="one_to_one")
    table["nucleus_volume_um3"] = table["nucleus_volume_um3"].fillna(0.0)
    table["nucleus_share"] = table["nucleus_volume_um3"] / table["volume_um3"]
    return table
