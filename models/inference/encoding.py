"""Encode probabilities as integers for storage. Importable without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FULL = 255  # stands for a probability of 1
_FULL_NIBBLE = 15
Encoder = Callable[["Tensor"], "Tensor"]  # probabilities (classes - 1, z, y, x) to uint8


def encode_bytes(probability: Tensor) -> Tensor:
    """Encode each probability as one byte; FULL stands for 1."""
    return (probability * FULL).round_().byte()


def encode_thresholded(least: int, probability: Tensor) -> Tensor:
    """Encode each probability as one byte, and set bytes below `least` to 0."""
    levels = encode_bytes(probability)
    return levels * (levels >= least)


def encode_nibbles(probability: Tensor) -> Tensor:
    """Encode n pairs of probabilities (2 n, z, y, x) as bytes (n, z, y, x): the first in the upper half, 15 for 1."""
    levels = (probability * _FULL_NIBBLE).round_().byte()
    return levels[::2] * (_FULL_NIBBLE + 1) + levels[1::2]


def encode_fields(threshold: float, probability: Tensor) -> Tensor:
    """Encode p(interior) and p(boundary) as `encode_nibbles` does, and keep each on its side of the threshold.

    A probability whose nearest level lies on the other side gets the next level, so that `make_instances` decides as it
    would with exact probabilities.

    Args:
      threshold: of p(interior); that of p(boundary) is 1 - threshold.
    """
    level, step = threshold_level(threshold), FULL // _FULL_NIBBLE
    low, high = (
        level // step,
        (max(FULL - level, 1) - 1) // step,
    )  # last level before each threshold
    kept, (interior, boundary) = probability.clone(), probability[:2]
    kept[0] = _keep_side(interior, interior > threshold, low)
    kept[1] = _keep_side(boundary, boundary >= 1 - threshold, high)
    return encode_nibbles(kept)


def threshold_level(threshold: float) -> int:
    """Return the byte that stands for a threshold; at least one byte is above it."""
    return min(round(threshold * FULL), FULL - 1)


def _keep_side(probability: Tensor, above: Tensor, last: int) -> Tensor:
    """Limit probabilities to the levels up to `last`, or from the next one on where `above` is set."""
    lower = probability.clamp(max=last / _FULL_NIBBLE)
    return probability.clamp(min=(last + 1) / _FULL_NIBBLE).where(above, lower)


def decode_nibbles(packed: np.ndarray) -> np.ndarray:
    """Decode the bytes (z, y, x) of one pair of `encode_nibbles`: uint8, 2, z, y, x; FULL stands for 1."""
    return np.stack((packed >> 4, packed & _FULL_NIBBLE)) * np.uint8(FULL // _FULL_NIBBLE)
