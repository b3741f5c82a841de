"""Pairs of labels that lie in the same place."""

from __future__ import annotations

import fastremap
import numpy as np


def distinct_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct pairs of two rows of labels (uint32), sorted (2, k); and which of them each place has."""
    found, which = fastremap.unique(
        a.astype(np.uint64) << np.uint64(32) | b.astype(np.uint64), return_inverse=True
    )
    pairs = np.stack([found >> np.uint64(32), found & np.uint64(0xFFFFFFFF)])
    return pairs.astype(np.uint32), which
