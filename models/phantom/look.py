"""How one phantom looks: grey levels, widths and grain, drawn at random so that no two volumes look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Difficulty = Literal["clean", "typical", "worst"]
DIFFICULTIES: tuple[Difficulty, ...] = ("clean", "typical", "worst")
_SPREAD = {"clean": 0.3, "typical": 1.0, "worst": 1.5}


@dataclass(frozen=True)
class Look:
    """Grey levels from 0 (black) to 1 (white), lengths in nm.

    The middle of each range is measured on a section of a fly's nerve cord at 40 nm: nucleus 0.69 with a deviation
    of 0.16 within it, cytoplasm 0.60, resin 0.82, neuropil 0.53, mitochondria and membranes 0.25.
    """

    resin: float
    nucleus: float
    cytoplasm: float
    glia: float
    neurite: float
    neuropil: float
    membrane: float
    mitochondria: float
    speckle: float
    speckle_nm: float
    grain: float
    grain_nm: float
    variety: float  # how unlike each other processes are
    soma_scale: float
    wall_nm: float
    envelope_nm: float
    gap_nm: float
    lamella_nm: float
    process_nm: float
    reticulum: float
    noise: float
    blur_nm: float
    sharpen: float
    gamma: float
    contrast: float
    brightness: float

    @classmethod
    def draw(cls, difficulty: Difficulty, rng: np.random.Generator) -> Look:
        """Standard looks when clean, wide when typical, beyond that when worst."""
        spread = _SPREAD[difficulty]

        def about(middle: float, reach: float, least: float = 0.0) -> float:
            return max(least, float(middle + spread * reach * rng.uniform(-1, 1)))

        grown = difficulty != "clean" and rng.random() < 0.4  # other animals, other places
        scale = rng.uniform(1.0, 1.4) if grown else np.exp(spread * rng.normal(0, 0.05))
        nucleus = about(0.70, 0.09)
        cytoplasm = nucleus - about(0.055, 0.085, -0.05)
        return cls(
            resin=about(0.84, 0.11),
            nucleus=nucleus,
            cytoplasm=cytoplasm,
            glia=cytoplasm - about(0.11, 0.13, -0.03),
            neurite=cytoplasm + about(0.03, 0.07, -0.1),
            neuropil=cytoplasm - about(0.04, 0.09, -0.1),
            membrane=about(0.24, 0.12, 0.02),
            mitochondria=about(0.28, 0.13, 0.04),
            speckle=about(0.15, 0.07, 0.03),
            speckle_nm=about(28, 16, 12),
            grain=about(0.115, 0.07, 0.015),
            grain_nm=about(23, 12, 11),
            variety=about(0.2, 0.15, 0.05),
            soma_scale=float(scale),
            wall_nm=about(23, 13, 10),
            envelope_nm=about(21, 14, 9),
            gap_nm=about(150, 120, 10),
            lamella_nm=about(150, 50, 80),
            process_nm=about(560, 240, 220),
            reticulum=about(0.8, 0.7),
            noise=about(0.05, 0.045, 0.004),
            blur_nm=about(16, 24),
            sharpen=about(0.4, 0.5),
            gamma=float(np.exp(spread * 0.3 * rng.uniform(-1, 1))),
            contrast=about(1.0, 0.35, 0.3),
            brightness=about(0.0, 0.07),
        )
