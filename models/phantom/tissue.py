"""Paint the tissue between cells: sheath, glia and small neurites of the rind, neuropil, tracts. z, y, x, nm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .look import Look
from .scene import Scene
from .texture import (
    Grid,
    NoiseTile,
    SmoothField,
    line_profile,
    random_rotations,
    rotation_from,
    sample_cells,
)

_RIND, _NEUROPIL, _SHEATH, _LARGE, _TRACT = range(5)  # tissues; _TRACT + i is tract i


class Tissue:
    """Paints tissue as a packing of irregular processes, which each tissue scales, stretches and rotates differently.

    Args:
      scene: the scene.
      look: grey values and widths.
      smooth: makes a smooth random field of a feature size (nm) and an amplitude.
      rng: random numbers.
      voxel_nm: voxel size, z, y, x.
    """

    def __init__(
        self,
        scene: Scene,
        look: Look,
        smooth: Callable[[float, float], SmoothField],
        rng: np.random.Generator,
        voxel_nm: np.ndarray,
    ) -> None:
        self.scene, self.look = scene, look
        self.distortion = [(smooth(1900, 330), smooth(520, 75)) for _ in range(3)]
        self.border = smooth(5000, 900)
        self.wrap, self.fray = smooth(1400, 1.0), smooth(480, 0.45)
        self.region, self.hollow = smooth(3800, 1.0), smooth(650, 1.0)
        self.grain = NoiseTile(voxel_nm, look.grain_nm * 1.2, 0.15, rng)
        self.wall_nm = float(np.hypot(look.wall_nm, 0.42 * np.mean(voxel_nm[1:])))
        self.opacity = min(1.0, 1.25 * look.wall_nm / self.wall_nm)
        rind, neuropil = random_rotations(2, rng)
        sheath = rotation_from(scene.layers.normal, rng)
        fine = look.process_nm
        self.frames = [
            _frame(rind, 0.75 * fine, (0.3, 1.0, 1.0)),
            _frame(neuropil, fine, (0.55, 1.0, 1.0)),
            _frame(sheath, rng.uniform(500, 1100), (1.0, 0.16, 0.16)),
            _frame(neuropil, rng.uniform(2, 4) * fine, (0.5, 1.0, 1.0)),
        ]
        self.frames += [_frame(t.frame, t.calibre, (0.07, 1.0, 1.0)) for t in scene.tracts]
        self.coat_nm = rng.uniform(120, 450)

    def paint(
        self,
        image: np.ndarray,
        at: np.ndarray,
        grid: Grid,
        warp: list[np.ndarray],
        depth: np.ndarray,
        surface: np.ndarray,
    ) -> None:
        """Paint the tissue of a block, in place.

        Args:
          image: grey values of the block.
          at: flat indices of the voxels outside cells.
          grid, warp: the voxels, and their displacement for each axis, nm.
          depth: depth below the tissue surface, nm.
          surface: distance to the wall of the nearest cell, nm.
        """
        look = self.look
        below_sheath = depth.take(at) - np.float32(self.scene.layers.sheath)
        points = self._points(at, grid, warp)
        tissue = self._tissue(at, grid, points, below_sheath)
        wall, value = self._lookup(points, tissue)
        base = np.full(len(self.frames), look.neurite, np.float32)
        base[[_NEUROPIL, _LARGE]] = look.neuropil
        base[_SHEATH] = look.neurite + 0.05
        grey = base[tissue] + (value - np.float32(0.5)) * np.float32(look.variety)
        glial_share = np.clip(
            np.float32(0.12) + np.float32(0.16) * grid.evaluate(self.region).take(at), 0, 0.6
        )
        glial = (value * np.float32(7.31)) % 1 < glial_share
        grey = np.where(
            glial & (tissue < _SHEATH), np.float32(look.glia) + (grey - base[tissue]), grey
        )
        hollow = (tissue == _SHEATH) & (self.hollow(grid).take(at) > np.float32(1.5))
        grey[hollow] = look.resin
        film = self._film(grid, at, tissue)
        grey = np.where(wall < film, np.float32(look.glia), grey)
        edge = line_profile(wall - film, self.wall_nm) * np.float32(0.9 * self.opacity)
        np.maximum(
            edge, line_profile(below_sheath, self.wall_nm) * np.float32(self.opacity), out=edge
        )
        self._lamellae(grey, edge, at, grid, surface, tissue)
        grain = self.grain(grid).take(at) * np.float32(look.grain * 0.8)
        grey += grain
        grey += (np.float32(look.membrane) - grey) * edge
        below_surface = depth.take(at)
        outer = below_surface < self.coat_nm
        if outer.any():
            grey[outer] = look.glia + 0.08 + 0.6 * grain[outer]
            rim = line_profile(below_surface, 1.5 * self.wall_nm) + line_profile(
                below_surface - np.float32(self.coat_nm), self.wall_nm
            )
            grey += (np.float32(look.membrane + 0.1) - grey) * np.clip(rim, 0, 0.7)
        image.reshape(-1)[at] = grey

    def _film(self, grid: Grid, at: np.ndarray, tissue: np.ndarray) -> np.ndarray:
        """Return half the thickness (nm) of the glia between two processes; it is 0 where they touch."""
        film = np.clip(grid.evaluate(self.wrap).take(at) * np.float32(40) + np.float32(25), 0, 110)
        wrapped = tissue == _RIND
        if self.look.film > 1:
            wrapped |= tissue >= _TRACT
        return np.where(wrapped, film * np.float32(self.look.film), 0).astype(np.float32)

    def _points(self, at: np.ndarray, grid: Grid, warp: list[np.ndarray]) -> np.ndarray:
        """Return the displaced positions (3, n) of voxels, nm."""
        points = np.empty((3, len(at)), np.float32)
        for i, (field, axis) in enumerate(zip(self.distortion, grid.axes)):
            view = [1, 1, 1]
            view[i] = -1
            displaced = axis.reshape(view) + warp[i] + field[0](grid) + field[1](grid)
            points[i] = displaced.reshape(-1).take(at)
        return points

    def _tissue(
        self, at: np.ndarray, grid: Grid, points: np.ndarray, below_sheath: np.ndarray
    ) -> np.ndarray:
        """Return the tissue of each point, an index into `frames`."""
        border = np.float32(self.scene.layers.rind) + self.border(grid).take(at)
        tissue = (below_sheath > border).astype(np.int32)
        large = grid.evaluate(self.region).take(at) < np.float32(-1.1)
        tissue[large & (tissue == _NEUROPIL)] = _LARGE
        centre = (grid.low + grid.high) / 2
        radius = float(np.linalg.norm(grid.high - grid.low)) / 2 + 1500
        for number, tract in enumerate(self.scene.tracts):
            if np.linalg.norm(tract.frame[1:] @ (centre - tract.point)) < tract.radius + radius:
                rows = tract.frame[1:].astype(np.float32)
                across = rows @ points - (rows @ tract.point.astype(np.float32))[:, None]
                tissue[np.square(across).sum(axis=0) < tract.radius**2] = _TRACT + number
        tissue[below_sheath < 0] = _SHEATH
        return tissue

    def _lookup(self, points: np.ndarray, tissue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the distance to the nearest membrane (nm) and a random value (0..1) of the process of each point."""
        rotated = np.empty_like(points)
        scale = np.empty(points.shape[1], np.float32)
        for number, (matrix, size) in enumerate(self.frames):
            inside = tissue == number
            if inside.all():
                rotated, scale[:] = matrix @ points, size
                break
            if inside.any():
                rotated[:, inside] = matrix @ points[:, inside]
                scale[inside] = size
        wall, value = sample_cells(rotated)
        return wall * scale, value

    def _lamellae(
        self,
        grey: np.ndarray,
        edge: np.ndarray,
        at: np.ndarray,
        grid: Grid,
        surface: np.ndarray,
        tissue: np.ndarray,
    ) -> None:
        """Wrap the cell bodies of the rind in a few thin sheets of glia; changes `grey` and `edge`."""
        look = self.look
        distance = surface.take(at)
        wrap = grid.evaluate(self.wrap).take(at)
        sheets = distance < np.float32(look.lamella_nm) * np.clip(1.2 + 1.3 * wrap, 0, 5)
        sheets &= tissue == _RIND
        if not sheets.any():
            return
        count = (
            distance / np.float32(look.lamella_nm)
            + np.float32(0.5) * wrap
            + self.fray(grid).take(at)
        )
        part = np.abs(count - np.rint(count)) * np.float32(look.lamella_nm)
        np.copyto(
            edge, line_profile(part, self.wall_nm) * np.float32(0.75 * self.opacity), where=sheets
        )
        np.copyto(grey, np.float32(look.glia) + np.float32(0.03) * wrap, where=sheets)


def _frame(
    rotation: np.ndarray, size_nm: float, stretch: tuple[float, float, float]
) -> tuple[np.ndarray, float]:
    """Return a matrix from nm to units of the packing, and the size of that unit in nm."""
    return (np.diag(stretch) @ rotation / size_nm).astype(np.float32), float(size_nm)
