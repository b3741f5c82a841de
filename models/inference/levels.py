"""Probabilities as they leave a network's device and are stored: whole numbers. Does without torch itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FULL, _NIBBLE = 255, 15  # a probability of 1
Form = Callable[["Tensor"], "Tensor"]  # probabilities, classes - 1, z, y, x, as they are returned


def as_bytes(probability: Tensor) -> Tensor:
    """A byte for each; FULL stands for 1."""
    return (probability * FULL).round_().byte()


def bytes_from(least: int, probability: Tensor) -> Tensor:
    """`as_bytes`, but 0 for what is less."""
    found = as_bytes(probability)
    return found * (found >= least)


def as_nibbles(probability: Tensor) -> Tensor:
    """Two in a byte, z, y, x, the first one in its upper half; 15 stands for 1."""
    first, second = (probability * _NIBBLE).round_().byte()
    return first * (_NIBBLE + 1) + second


def from_nibbles(packed: np.ndarray) -> np.ndarray:
    """What `as_nibbles` made: uint8, 2, z, y, x; FULL stands for 1."""
    return np.stack((packed >> 4, packed & _NIBBLE)) * np.uint8(FULL // _NIBBLE)
