"""What a lossy picture format leaves in a section: blocks of eight pixels whose finer waves are rounded off."""

from __future__ import annotations

import numpy as np
from scipy.fft import dctn, idctn

_BLOCK = 8
_FINEST = 3.0  # how much coarser the finest waves are rounded than the coarsest


def compress(image: np.ndarray, step: float) -> np.ndarray:
    """Sections (uint8, z, y, x) as a picture format of JPEG's kind gives them back; never 0.

    Args:
      step: grey levels to which the coarsest waves of a block are rounded; 0 changes nothing.
    """
    if step <= 0:
        return image
    z, y, x = image.shape
    padded = np.pad(image, ((0, 0), (0, -y % _BLOCK), (0, -x % _BLOCK)), mode="edge")
    shape = (z, padded.shape[1] // _BLOCK, _BLOCK, padded.shape[2] // _BLOCK, _BLOCK)
    waves = dctn(padded.reshape(shape).astype(np.float32), axes=(2, 4), norm="ortho")
    u = np.arange(_BLOCK) / (_BLOCK - 1)
    table = step * (1 + (_FINEST - 1) * (u[:, None, None] + u) / 2)
    waves = np.rint(waves / table) * table
    found = idctn(waves, axes=(2, 4), norm="ortho").reshape(padded.shape)[:, :y, :x]
    return np.clip(np.rint(found), 1, 255).astype(np.uint8)
