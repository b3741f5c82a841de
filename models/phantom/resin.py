"""Paint empty resin: bright, almost uniform, with artefacts of imaging and stitching. Axes are z, y, x; nm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .look import Look
from .texture import Grid, SmoothField

_NOISE_TILE = (32, 256, 256)  # voxels; periodic


@dataclass(frozen=True)
class _Plate:
    """A rectangle through several sections that is darker, noisier or striped by charging."""

    centre: np.ndarray  # z, y, x, nm
    half_size: np.ndarray  # z, and two lengths in the section, nm
    direction: np.ndarray  # y, x; unit vector along the second length
    level: float  # added grey
    noise: float  # standard deviation
    wave: float  # amplitude of the stripes
    wave_nm: float
    edge_nm: float = 120.0  # width of its edge


class Resin:
    """Paints resin; `charged_plates` is the number of charged areas."""

    def __init__(
        self, size_nm: np.ndarray, look: Look, charged_plates: int, rng: np.random.Generator
    ) -> None:
        self.look = look
        self.drift = SmoothField(size_nm, 12000, rng, 0.035)
        self.phase = SmoothField(size_nm, 2500, rng, 500)
        self.grain = rng.standard_normal(_NOISE_TILE, dtype=np.float32)
        self.noise = float(rng.uniform(0.01, 0.05))
        self.slope = rng.normal(0, 0.06, 3) / np.maximum(size_nm, 1)
        area = float(size_nm[1] * size_nm[2]) * 1e-6
        self.plates = [
            self._random_plate(size_nm, rng) for _ in range(rng.poisson(1.5 + area / 500))
        ]
        self.plates += [self._charged_plate(size_nm, rng) for _ in range(charged_plates)]

    @staticmethod
    def _random_plate(size_nm: np.ndarray, rng: np.random.Generator) -> _Plate:
        angle = rng.choice([0.0, rng.normal(0.2, 0.1), rng.uniform(0, np.pi)])
        half = np.exp(rng.uniform(np.log([100, 900, 900]), np.log([20000, 9000, 9000])))
        waves = rng.random() < 0.5
        return _Plate(
            rng.uniform(0, 1, 3) * size_nm,
            half,
            np.array([np.sin(angle), np.cos(angle)]),
            0.0 if waves else float(-rng.choice([0.1, 0.25, 0.4]) * rng.uniform(0.5, 1.3)),
            float(rng.uniform(0, 0.09)),
            float(rng.uniform(0.05, 0.4)) if waves else 0.0,
            float(np.exp(rng.uniform(np.log(160), np.log(900)))),
        )

    def _charged_plate(self, size_nm: np.ndarray, rng: np.random.Generator) -> _Plate:
        """Return a large area that the beam has charged: as grey and grainy as a cell, with a soft edge."""
        angle = rng.choice([0.0, rng.uniform(0, np.pi)])
        return _Plate(
            rng.uniform(0, 1, 3) * size_nm,
            np.exp(rng.uniform(np.log([1500, 1000, 1000]), np.log([20000, 6000, 6000]))),
            np.array([np.sin(angle), np.cos(angle)]),
            float(rng.uniform(0.4, 0.75)) - self.look.resin,
            float(rng.uniform(0.02, 0.12)),
            float(rng.choice([0.0, rng.uniform(0.02, 0.08)])),
            float(np.exp(rng.uniform(np.log(160), np.log(900)))),
            float(np.exp(rng.uniform(np.log(120), np.log(2500)))),
        )

    def paint(self, grid: Grid) -> np.ndarray:
        """Return the grey of resin on all voxels of a grid."""
        z, y, x = np.ix_(*grid.axes)
        index = (np.arange(a, a + n) % m for a, n, m in zip(grid.start, grid.shape, _NOISE_TILE))
        grain = self.grain[np.ix_(*index)]
        slope = self.slope.astype(np.float32)
        image = np.float32(self.look.resin) + self.drift(grid)
        image += z * slope[0] + y * slope[1] + x * slope[2] + grain * np.float32(self.noise)
        for plate in self.plates:
            self._add_plate(image, plate, grid, grain)
        return image

    def _add_plate(self, image: np.ndarray, plate: _Plate, grid: Grid, grain: np.ndarray) -> None:
        inside = np.abs(grid.axes[0] - plate.centre[0]) < plate.half_size[0]
        reach = float(np.hypot(plate.half_size[1], plate.half_size[2]))
        middle = (grid.low + grid.high)[1:] / 2
        size = float(np.linalg.norm((grid.high - grid.low)[1:])) / 2
        if not inside.any() or np.linalg.norm(middle - plate.centre[1:]) > reach + size:
            return
        y, x = np.ix_(grid.axes[1] - plate.centre[1], grid.axes[2] - plate.centre[2])
        s = y * plate.direction[0] + x * plate.direction[1]
        t = y * plate.direction[1] - x * plate.direction[0]
        edge = np.minimum(plate.half_size[1] - np.abs(t), plate.half_size[2] - np.abs(s))
        mask = np.clip(edge / plate.edge_nm, 0, 1).astype(np.float32)[None] * inside[:, None, None]
        change = np.float32(plate.level) + grain * np.float32(plate.noise)
        if plate.wave:
            phase = (t[None] + self.phase(grid)) / np.float32(plate.wave_nm)
            change = change + np.sin(phase) * np.float32(plate.wave)
        image += change.astype(np.float32) * mask
