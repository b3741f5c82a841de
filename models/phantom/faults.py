"""Faults of serial sections from cutting, staining, imaging and alignment. Arrays are z, y, x."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_RATE = {"clean": 0.0, "typical": 1.0, "worst": 3.0, "real": 1.0}


def add_faults(
    image: np.ndarray,
    labels: np.ndarray,
    difficulty: str,
    nm_per_pixel: float,
    rng: np.random.Generator,
) -> None:
    """Add faults to image and labels, in place; "clean" adds none.

    Sections vary in brightness and contrast. Some are shifted, blurred, missing (uniform, or a copy of the previous
    section), superimposed on the previous one, folded or dirty. Shifts move image and labels together, as in a badly
    aligned stack; other faults leave the labels unchanged.

    Args:
      image, labels: z, y, x.
      difficulty: determines how often faults occur.
      nm_per_pixel: pixel size within a section.
      rng: random numbers.
    """
    rate = _RATE[difficulty]
    if rate == 0:
        return
    scale = 64.0 / nm_per_pixel
    shifts = _draw_shifts(len(image), rate, scale, rng)
    gain = 1 + 0.03 * rate * _section_noise(len(image), rng)
    offset = 5.0 * rate * _section_noise(len(image), rng)
    previous = image[0].astype(np.float32)
    for z in range(len(image)):
        current = image[z].astype(np.float32)
        section = _damage_section(current, previous, rate, scale, rng)
        section = (section - 140) * gain[z] + 140 + offset[z]
        if rng.random() < 0.004 * rate:
            section[:] = rng.choice([1.0, 4.0, 120.0])
        previous = current
        np.clip(np.rint(section, out=section), 0, 255, out=section)
        image[z] = _shift_section(section, shifts[z])
        labels[z] = _shift_section(labels[z], shifts[z])


def _damage_section(
    current: np.ndarray, previous: np.ndarray, rate: float, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Return a section with random faults."""
    draw = rng.random(7)
    section = current
    if draw[0] < 0.008 * rate:
        section = previous.copy()
    elif draw[1] < 0.005 * rate:
        section = 0.5 * (current + previous) - 12
    if draw[2] < 0.025 * rate:
        section = ndimage.gaussian_filter(section, scale * rng.uniform(0.7, 2.4), truncate=2.5)
    if draw[3] < 0.008 * rate:
        section = _add_fold(section, scale, rng)
    if draw[4] < 0.05 * rate:
        section = _add_dirt(section, scale, rng)
    if draw[5] < 0.04 * rate:
        section = section + _shading(section.shape, rng)
    if draw[6] < 0.03 * rate:  # the border between two image tiles
        section = section + 14 * rng.normal() * (_shading(section.shape, rng) > 0)
    return section


def _draw_shifts(n: int, rate: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the shift of each section, whole pixels (n, 2): jitter, and rare jumps that decay."""
    jitter = rng.normal(0, 0.35 * min(rate, 2) * scale, (n, 2))
    step = np.zeros((n, 2))
    for z in np.flatnonzero(rng.random(n) < 0.012 * rate):
        fade = np.exp(-np.arange(n - z) / rng.uniform(1, 12))
        step[z:] += rng.normal(0, 2.0 * scale, 2) * fade[:, None]
    return np.rint(jitter + step).astype(int)


def _section_noise(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a value for each section: white noise, slow drift and a few outliers."""
    slow = ndimage.gaussian_filter1d(rng.normal(size=n), 6, mode="wrap") * 3
    return 0.7 * rng.normal(size=n) + 0.7 * slow + (rng.random(n) < 0.02) * rng.normal(0, 3, n)


def _shift_section(section: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Shift a section by whole pixels; the edge is repeated."""
    if not shift.any():
        return section
    y, x = (np.clip(np.arange(n) - s, 0, n - 1) for n, s in zip(section.shape, shift))
    return section[np.ix_(y, x)]


def _shading(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw uneven illumination: a linear gradient that is 0 at a random point, grey levels."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    slope = rng.normal(0, 22, 2) / shape
    origin = rng.uniform(0, shape)
    return ((y - origin[0]) * slope[0] + (x - origin[1]) * slope[1]).astype(np.float32)


def _add_fold(section: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Add a dark fold across the section."""
    y, x = np.ogrid[: section.shape[0], : section.shape[1]]
    angle = rng.uniform(0, np.pi)
    at = rng.uniform(0.1, 0.9, 2) * section.shape
    distance = (y - at[0]) * np.sin(angle) + (x - at[1]) * np.cos(angle)
    along = (y - at[0]) * np.cos(angle) - (x - at[1]) * np.sin(angle)
    distance = distance + scale * 5 * np.sin(along / (scale * 35) + rng.uniform(0, 6))
    width = scale * rng.uniform(1.0, 6)
    crease = np.exp(-np.square(distance / width)) * rng.uniform(0.4, 0.95)
    return (section * (1 - crease)).astype(np.float32)


def _add_dirt(section: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Add dark or bright specks and smears."""
    y, x = np.ogrid[: section.shape[0], : section.shape[1]]
    section = section.copy()
    for _ in range(rng.integers(1, 5)):
        at, size = rng.uniform(0, section.shape), scale * np.exp(rng.uniform(0, 2.6))
        long, angle = rng.uniform(1, 4), rng.uniform(0, np.pi)
        dy, dx = y - at[0], x - at[1]
        u = (dy * np.cos(angle) + dx * np.sin(angle)) / (size * long)
        v = (dy * np.sin(angle) - dx * np.cos(angle)) / size
        speck = np.clip(1.6 - np.square(u) - np.square(v), 0, 1) * rng.uniform(0.4, 1)
        section += (rng.choice([15.0, 15.0, 245.0]) - section) * speck.astype(np.float32)
    return section
