"""Faults of serial sections, put into a finished phantom: what cutting, staining and imaging do. z, y, x."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_RATE = {"clean": 0.0, "typical": 1.0, "worst": 3.0}


def add_faults(
    image: np.ndarray, labels: np.ndarray, difficulty: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Brightness and contrast from section to section, small shifts (image and labels together), blurred,
    missing and doubled sections, folds, dirt. `clean` has none."""
    rate = _RATE[difficulty]
    if rate == 0:
        return image, labels
    original = image.copy()
    jitter = np.rint(rng.normal(0, 0.45 * min(rate, 2), (len(image), 2))).astype(int)
    for z in range(len(image)):
        section = original[z].astype(np.float32)
        draw = rng.random(6)
        if draw[0] < 0.006 * rate and z:
            section = original[z - 1].astype(np.float32)  # the section before, doubled
        if draw[1] < 0.02 * rate:
            section = ndimage.gaussian_filter(section, rng.uniform(0.8, 2.5))
        if draw[2] < 0.008 * rate:
            section = _fold(section, rng)
        if draw[3] < 0.05 * rate:
            section = _dirt(section, rng)
        gain, shift = 1 + rng.normal(0, 0.03 * rate), rng.normal(0, 5 * rate)
        section = (section - 150) * gain + 150 + shift
        if draw[4] < 0.004 * rate:
            section[:] = 1  # missing
        dy, dx = jitter[z]
        image[z] = np.roll(np.clip(np.rint(section), 1, 255), (dy, dx), (0, 1))
        labels[z] = np.roll(labels[z], (dy, dx), (0, 1))
        _mend_edges(image[z], labels[z], dy, dx)
    return image, labels


def _mend_edges(section: np.ndarray, labels: np.ndarray, dy: int, dx: int) -> None:
    """What a shift brought round from the other side is replaced by the nearest row or column."""
    for array in (section, labels):
        if dy > 0:
            array[:dy] = array[dy]
        elif dy < 0:
            array[dy:] = array[dy - 1]
        if dx > 0:
            array[:, :dx] = array[:, dx : dx + 1]
        elif dx < 0:
            array[:, dx:] = array[:, dx - 1 : dx]


def _fold(section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A dark crease across the section."""
    y, x = np.ogrid[: section.shape[0], : section.shape[1]]
    angle = rng.uniform(0, np.pi)
    at = rng.uniform(0.2, 0.8, 2) * section.shape
    distance = (y - at[0]) * np.sin(angle) + (x - at[1]) * np.cos(angle)
    distance = distance + 4 * np.sin(distance / 30 + rng.uniform(0, 6))
    width = rng.uniform(1.5, 6)
    return section * (1 - 0.75 * np.exp(-np.square(distance / width)))


def _dirt(section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Specks, dark or bright."""
    y, x = np.ogrid[: section.shape[0], : section.shape[1]]
    for _ in range(rng.integers(1, 4)):
        at, size = rng.uniform(0, section.shape, 2), rng.uniform(1, 9)
        speck = np.exp(-(np.square(y - at[0]) + np.square(x - at[1])) / size**2)
        section = section + (rng.choice([15.0, 250.0]) - section) * speck
    return section
