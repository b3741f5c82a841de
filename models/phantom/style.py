"""How the bodies of a scene are made: sizes, share of the nucleus, flatness. Lengths in nm."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Sizes:
    """Radii of somas: log-normal about `mean`, and a share of large ones.

    least: the smallest radius; large: range of the radii of the large ones.
    """

    mean: float = 2080.0
    spread: float = 0.25
    least: float = 1300.0
    large_share: float = 0.03
    large: tuple[float, float] = (2700.0, 4000.0)


@dataclass(frozen=True)
class CellStyle:
    """Geometry of bodies, as shares of the radius that they are packed with.

    swell: of the body, which neighbours then flatten.
    nucleus: range of the nucleus's radius.
    room: a nucleus lies off the centre by up to `room` less its radius.
    spread, flat: how much the axes of body and nucleus differ (deviation of their logarithm).
    nucleoli: least and one more than the most; nucleolus: range of their radius, as a share of the nucleus's.
    """

    sizes: Sizes = field(default_factory=Sizes)
    swell: float = 1.24
    nucleus: tuple[float, float] = (0.66, 0.93)
    room: float = 1.06
    spread: float = 0.10
    flat: float = 0.09
    nucleoli: tuple[int, int] = (0, 6)
    nucleolus: tuple[float, float] = (0.13, 0.36)

    @classmethod
    def cortex(cls, rng: np.random.Generator) -> CellStyle:
        """Small bodies that the nucleus all but fills, large ones among them.

        Measured on sections of an adult fly's brain: profiles through the nucleus are 2.8 to 4.7 um wide (5th to 95th
        percentile), the nucleus 0.69 to 0.88 of that.
        """
        swell = float(rng.uniform(1.08, 1.26))
        sizes = Sizes(
            mean=float(rng.uniform(1350, 1950)),
            spread=float(rng.uniform(0.15, 0.3)),
            least=1000.0,
            large_share=float(rng.uniform(0.0, 0.12)),
            large=(2200.0, 3600.0),
        )
        return cls(
            sizes=sizes,
            swell=swell,
            nucleus=(0.70 * swell, 0.95 * swell),
            room=swell,
            spread=float(rng.uniform(0.08, 0.22)),
            flat=float(rng.uniform(0.06, 0.14)),
            nucleoli=(1, 8),
            nucleolus=(0.07, 0.42),
        )
