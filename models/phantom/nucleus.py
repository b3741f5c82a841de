"""The nucleus of a phantom's cell: chromatin, clumps of it, nucleoli, and an envelope of one line or two. z, y, x."""

from __future__ import annotations

import numpy as np

from .look import Look
from .texture import line


def nucleoplasm(grey: np.ndarray, clumps: np.ndarray | None, look: Look) -> None:
    """Darken nucleoplasm, in place, where chromatin lies in clumps: where a smooth field is high."""
    if clumps is not None:
        grey -= np.clip(clumps * np.float32(2.5) - np.float32(3.5), 0, 1) * np.float32(look.clump)


def envelope(distance: np.ndarray, width_nm: float, look: Look) -> np.ndarray:
    """Ink (0..1) of the nuclear envelope at a distance from its middle; two membranes where the look shows both."""
    if look.envelope_gap_nm <= 0:
        return line(distance, width_nm)
    half = np.float32(0.5 * look.envelope_gap_nm)
    return np.maximum(line(distance - half, width_nm), line(distance + half, width_nm))
