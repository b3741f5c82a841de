"""Ellipsoids and tubes, and the sizes and shapes of cell bodies and nuclei. Axes are z, y, x; lengths are in nm."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .texture import random_rotations


@dataclass(frozen=True)
class Ellipsoid:
    """The points p with |axes @ (p - centre)| < 1.

    Attributes:
      centre: z, y, x, nm.
      axes: matrix (3, 3) from nm to radii.
      radius: nm; scales distances from radii to nm.
      reach: distance from the centre to the farthest point, nm.
    """

    centre: np.ndarray
    axes: np.ndarray
    radius: float
    reach: float


@dataclass(frozen=True)
class Tube:
    """A chain of capsules through `points` (n, 3), nm, with a radius at each point."""

    points: np.ndarray
    radii: np.ndarray


@dataclass(frozen=True)
class SomaSizes:
    """Distribution of the radii of somas, nm.

    Attributes:
      median, spread: median of the log-normal distribution and standard deviation of its logarithm.
      minimum: smallest radius.
      large_share: fraction of large somas.
      large: range of the radii of large somas.
    """

    median: float = 2080.0
    spread: float = 0.25
    minimum: float = 1300.0
    large_share: float = 0.03
    large: tuple[float, float] = (2700.0, 4000.0)


@dataclass(frozen=True)
class Morphology:
    """Geometry of cell bodies. Lengths are relative to the radius used for packing.

    Attributes:
      sizes: distribution of that radius, nm.
      swell: radius of the body; above 1, adjacent bodies flatten each other.
      nucleus: range of the radius of the nucleus.
      room: the nucleus is off centre by at most `room` minus its radius.
      spread, flat: standard deviation of the logarithm of the axes of body and nucleus.
      nucleoli: range of the number of nucleoli; the upper limit is excluded.
      nucleolus: range of the radius of a nucleolus, relative to that of the nucleus.
    """

    sizes: SomaSizes = field(default_factory=SomaSizes)
    swell: float = 1.24
    nucleus: tuple[float, float] = (0.66, 0.93)
    room: float = 1.06
    spread: float = 0.10
    flat: float = 0.09
    nucleoli: tuple[int, int] = (0, 6)
    nucleolus: tuple[float, float] = (0.13, 0.36)

    @classmethod
    def cortex(cls, rng: np.random.Generator) -> Morphology:
        """Draw the morphology of a cortex: small bodies that the nucleus almost fills, and some large ones.

        On sections of an adult fly brain, bodies cut through the nucleus are 2.8 to 4.7 um wide (5th to 95th
        percentile), and the nucleus has 0.69 to 0.88 of that width.
        """
        swell = float(rng.uniform(1.08, 1.26))
        sizes = SomaSizes(
            median=float(rng.uniform(1350, 1950)),
            spread=float(rng.uniform(0.15, 0.3)),
            minimum=1000.0,
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


def random_ellipsoid(
    centre: np.ndarray, radius: float, spread: float, rng: np.random.Generator
) -> Ellipsoid:
    """Draw an ellipsoid of a given volume; `spread` is the standard deviation of the logarithm of its axes."""
    stretch = np.exp(np.clip(rng.normal(0, spread, 3), -0.45, 0.45))
    semi = radius * stretch / np.prod(stretch) ** (1 / 3)
    axes = (random_rotations(1, rng)[0] / semi).T
    return Ellipsoid(np.asarray(centre), axes, float(radius), float(semi.max()))
