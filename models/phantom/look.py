"""The look of a phantom: grey values, widths, noise and blur, drawn at random for each volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Difficulty = Literal["clean", "typical", "worst", "real"]
DIFFICULTIES: tuple[Difficulty, ...] = ("clean", "typical", "worst", "real")
_SPREAD = {"clean": 0.3, "typical": 1.0, "worst": 1.5}


@dataclass(frozen=True)
class Look:
    """Grey values from 0 (black) to 1 (white) and lengths in nm.

    The middle of each range was measured on a section of a fly nerve cord at 40 nm: nucleus 0.69 (standard deviation
    0.16), cytoplasm 0.60, resin 0.82, neuropil 0.53, mitochondria and membranes 0.25.
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
    variety: float  # range of grey between processes
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
    rim_nm: float = 170.0  # minimum width of the cytoplasm around a nucleus
    nucleolus: float = 0.24  # contrast to the nucleoplasm
    clump: float = 0.0  # contrast of chromatin clumps
    envelope_gap_nm: float = 0.0  # distance between its membranes; 0: one line
    waviness: float = 1.0  # strength of the warp of outlines
    # Thickness of the glia between neurites of the rind; above 1, also between those of bundles.
    film: float = 1.0
    z_blur_nm: float = 0.0  # blur along z
    compression: float = 0.0  # quantization step of lossy compression, grey levels
    faults: Difficulty | None = None  # difficulty of the section faults; None: that of the phantom

    @classmethod
    def draw(cls, difficulty: Difficulty, rng: np.random.Generator) -> Look:
        """Draw a look from a range that widens from clean to worst, or from the range of real sections."""
        if difficulty == "real":
            return _draw_real(rng)
        spread = _SPREAD[difficulty]

        def about(middle: float, reach: float, minimum: float = 0.0) -> float:
            return max(minimum, float(middle + spread * reach * rng.uniform(-1, 1)))

        large = difficulty != "clean" and rng.random() < 0.4  # as in other animals and regions
        scale = rng.uniform(1.0, 1.4) if large else np.exp(spread * rng.normal(0, 0.05))
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


_Imaging = Literal["transmission", "isotropic", "block face"]
_IMAGING: tuple[_Imaging, ...] = ("transmission", "isotropic", "block face")


def _draw_real(rng: np.random.Generator) -> Look:
    """Draw the look of sections of whole fly brains: low contrast, nucleus and cytoplasm of almost the same grey.

    The middle of the ranges was measured on an adult fly brain (transmission, 40 nm): nucleus 0.59 (standard deviation
    0.085), cytoplasm 0.56, other tissue 0.53 (0.36 to 0.68 from the 5th to the 95th percentile). "isotropic" is smooth
    in all directions, as FIB-SEM is; "block face" is noisy.
    """

    def within(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    imaging = _IMAGING[int(rng.choice(3, p=[0.66, 0.17, 0.17]))]
    smooth, noisy = imaging == "isotropic", imaging == "block face"
    nucleus = within(0.52, 0.68)
    cytoplasm = nucleus - within(-0.03, 0.09 if imaging == "transmission" else 0.14)
    return Look(
        resin=nucleus + within(0.05, 0.25),
        nucleus=nucleus,
        cytoplasm=cytoplasm,
        glia=cytoplasm - within(0.06, 0.22),
        neurite=cytoplasm + within(-0.02, 0.09),
        neuropil=cytoplasm + within(-0.08, 0.06),
        membrane=cytoplasm - within(0.20, 0.42),
        mitochondria=cytoplasm - within(0.08, 0.28),
        speckle=within(0.02, 0.05) if smooth else within(0.03, 0.11),
        speckle_nm=within(25, 60) if smooth else within(16, 40),
        grain=within(0.01, 0.04) if smooth else within(0.02, 0.08),
        grain_nm=within(12, 34),
        variety=within(0.05, 0.22),
        soma_scale=within(0.85, 1.1),
        wall_nm=within(9, 24),
        envelope_nm=within(8, 20),
        gap_nm=within(20, 190),
        lamella_nm=within(80, 170),
        process_nm=within(200, 520),
        reticulum=within(0.2, 1.6),
        noise=within(0.03, 0.09) if noisy else within(0.004, 0.03),
        blur_nm=within(20, 50) if smooth else within(0, 36),
        sharpen=0.0 if smooth else within(0, 0.9),
        gamma=float(np.exp(rng.uniform(-0.3, 0.3))),
        contrast=float(np.exp(rng.uniform(-0.6, 0.4))),
        brightness=within(-0.1, 0.1),
        rim_nm=within(50, 170),
        nucleolus=within(0.1, 0.32),
        clump=within(0, 0.25),
        envelope_gap_nm=within(0, 70) if rng.random() < 0.7 else 0.0,
        waviness=within(0.9, 1.9),
        film=within(0.6, 2.2),
        z_blur_nm=within(20, 50) if smooth else 0.0,
        compression=within(4, 22) if rng.random() < 0.4 else 0.0,
        faults="clean" if smooth else "typical" if rng.random() < 0.7 else "worst",
    )
