"""How one phantom looks: grey levels, widths and grain, drawn at random so that no two volumes look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Difficulty = Literal["clean", "typical", "worst", "real"]
DIFFICULTIES: tuple[Difficulty, ...] = ("clean", "typical", "worst", "real")
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
    rim_nm: float = 170.0  # least width of the cytoplasm around a nucleus
    nucleolus: float = 0.24  # how much darker than nucleoplasm
    clump: float = 0.0  # the same of clumped chromatin
    envelope_gap_nm: float = 0.0  # between the membranes of the nuclear envelope; 0: one line
    wavy: float = 1.0  # how much outlines are bent
    film: float = (
        1.0  # thickness of the glia between the neurites of the rind; above 1 of bundles as well
    )
    deep_blur_nm: float = 0.0  # blur across sections
    compression: float = 0.0  # grey levels to which blocks of the picture are rounded
    faults: Difficulty | None = (
        None  # whose faults of sections it has; None: those of its difficulty
    )

    @classmethod
    def draw(cls, difficulty: Difficulty, rng: np.random.Generator) -> Look:
        """Standard looks when clean, wide when typical, beyond that when worst."""
        if difficulty == "real":
            return _real(rng)
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


_Style = Literal["transmission", "isotropic", "block face"]
_STYLES: tuple[_Style, ...] = ("transmission", "isotropic", "block face")


def _real(rng: np.random.Generator) -> Look:
    """A look as sections of whole fly brains have it: little contrast, nucleus and cytoplasm nearly of one grey.

    The middle of the ranges is measured on an adult fly's brain (transmission, 40 nm): nucleus 0.59, cytoplasm 0.56,
    other tissue 0.53 with 0.36 to 0.68 from the 5th to the 95th percentile, deviation within a nucleus 0.085.
    "isotropic" is smooth in all directions, as volumes milled by an ion beam are; "block face" is noisy.
    """

    def within(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    style = _STYLES[int(rng.choice(3, p=[0.66, 0.17, 0.17]))]
    smooth, noisy = style == "isotropic", style == "block face"
    nucleus = within(0.52, 0.68)
    cytoplasm = nucleus - within(-0.03, 0.09 if style == "transmission" else 0.14)
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
        wavy=within(0.9, 1.9),
        film=within(0.6, 2.2),
        deep_blur_nm=within(20, 50) if smooth else 0.0,
        compression=within(4, 22) if rng.random() < 0.4 else 0.0,
        faults="clean" if smooth else "typical" if rng.random() < 0.7 else "worst",
    )
