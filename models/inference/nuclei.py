"""Nuclei of labelled somas. Arrays are z, y, x. Probabilities are uint8; 255 stands for 1."""

from __future__ import annotations

import numpy as np

_LEVEL = 128  # a voxel belongs to the nucleus if that is more likely than not


def nuclei_of(labels: np.ndarray, nucleus: np.ndarray) -> np.ndarray:
    """Label the nucleus of each soma with the label of the soma.

    The label of a voxel depends on that voxel alone, so the nuclei of a block are those of the whole volume.

    Args:
      labels: soma labels.
      nucleus: probability of a nucleus.
    """
    return np.where(nucleus >= _LEVEL, labels, 0).astype(labels.dtype)


def nucleus_sums(
    labels: np.ndarray, nuclei: np.ndarray, glia: np.ndarray, count: int
) -> np.ndarray:
    """Return what tells the nucleus and the class of each label, in sums that add up over blocks.

    Args:
      labels: soma labels, 1..count.
      nuclei: output of `nuclei_of`.
      glia: probability of a glial cell.
      count: number of labels.
    Returns:
      int64, count, 2: voxels of the nucleus, and the sum of the probability over the soma (255 stands for 1 a voxel).
    """
    voxels = np.bincount(nuclei.ravel(), minlength=count + 1)
    total = np.bincount(labels.ravel(), glia.ravel(), count + 1)  # exact, because below 2^53
    return np.stack([voxels, total], axis=1)[1:].astype(np.int64)
