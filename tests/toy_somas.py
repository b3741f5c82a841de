"""Toy tissue for the training tests: bright balls in dark noise, with their labels. z, y, x."""

import numpy as np


def toy_somas(shape=(24, 48, 48), seed=0, count=4):
    """Image (uint8) and labels of `count` balls, some of which touch."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    labels = np.zeros(shape, np.uint32)
    for number in range(1, count + 1):
        centre = rng.uniform(0.2, 0.8, 3) * shape
        radius = rng.uniform(0.25, 0.4) * min(shape)
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
        labels[ball & (labels == 0)] = number
    image = np.where(labels > 0, 180, 70) + rng.normal(0, 12, shape)
    return np.clip(image, 0, 255).astype(np.uint8), labels
