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
    """Encode two probabilities (2, z, y, x) in one byte (z, y, x), the first in the upper half; 15 stands for 1."""
    first, second = (probability * _FULL_NIBBLE).round_().byte()
    return first * (_FULL_NIBBLE + 1) + second


def decode_nibbles(packed: np.ndarray) -> np.ndarray:
    """Decode the bytes of `encode_nibbles`: uint8, 2, z, y, x; FULL stands for 1."""
    return np.stack((packed >> 4, packed & _FULL_NIBBLE)) * np.uint8(FULL // _FULL_NIBBLE)
