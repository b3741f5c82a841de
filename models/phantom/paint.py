"""Paint a scene on voxels, block by block: grey values (0..1) and exact codes. Axes are z, y, x; lengths are in nm.

The code of a voxel in a cell body is 4 times its label (cell index + 1), plus GLIAL in a glial cell and NUCLEAR in
a nucleus; the code of other voxels is 0.

Each voxel belongs to the cell with the smallest signed distance (negative inside the body or tube). Half the
difference to the second smallest is the distance to the wall between the two cells, minus half a gap that varies
over the volume. A wide gap holds glia; without a gap the membranes touch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .distance import Box, box_around, box_between, ellipsoid_distance, segment_distance
from .look import Look
from .resin import Resin
from .scene import Cell, CellKind, Organelle, OrganelleKind, Scene
from .texture import Grid, NoiseTile, SmoothField, line_profile
from .tissue import Tissue

BLOCK = (32, 64, 64)  # voxels; fits in the CPU cache
NUCLEAR, GLIAL, CODES = 1, 2, 4  # bits of a code, and codes per label
_FAR = np.float32(1e6)
_REACH_NM = 900.0  # beyond this distance a cell does not affect a voxel
_MAX_WARP_NM = 420.0  # upper limit of the displacement by the warp
_SPECKLE_FACTOR = {CellKind.ODD: 0.6, CellKind.GLIA: 2.2}  # of the nucleus


class Painter:
    """Paints the blocks of a volume.

    Args:
      scene: the scene.
      size_nm, voxel_nm: size of the volume and of a voxel, z, y, x.
      look: grey values and widths.
      shapes: random numbers for fields that do not depend on the voxel size.
      grains: random numbers for noise at the scale of voxels.
    """

    def __init__(
        self,
        scene: Scene,
        size_nm: np.ndarray,
        voxel_nm: np.ndarray,
        look: Look,
        shapes: np.random.Generator,
        grains: np.random.Generator,
    ) -> None:
        self.scene, self.look = scene, look

        def smooth(spacing: float, amplitude: float = 1.0) -> SmoothField:
            return SmoothField(size_nm, spacing, shapes, amplitude)

        self.warp = [
            (smooth(2600, 120 * look.waviness), smooth(850, 42 * look.waviness)) for _ in range(3)
        ]
        self.warp_nm = _MAX_WARP_NM * max(1.0, look.waviness)
        self.gap = smooth(1500)
        self.waves = smooth(8000, 450)
        self.reticulum, self.patches = smooth(420), smooth(1500)
        self.cloud = smooth(900, 0.028)
        self.tissue = Tissue(scene, look, smooth, shapes, voxel_nm)
        self.resin = Resin(size_nm, look, scene.charged_plates, shapes)
        self.clumps = smooth(330) if look.clump else None
        self.chromatin = NoiseTile(voxel_nm, look.speckle_nm, 0.22, grains)
        self.grain = NoiseTile(voxel_nm, look.grain_nm, 0.15, grains)
        fine = float(np.mean(voxel_nm[1:]))
        self.wall_nm = float(np.hypot(look.wall_nm, 0.42 * fine))
        self.opacity = min(1.0, 1.25 * look.wall_nm / self.wall_nm)
        self.envelope_nm = float(np.hypot(look.envelope_nm, 0.42 * fine))
        self._index_pieces()
        self._choose_greys()

    def _index_pieces(self) -> None:
        """Compute the bounding box of each body and tube segment."""
        low, high, owner, segment = [], [], [], []
        for number, cell in enumerate(self.scene.cells):
            for part, points, reach in _pieces(cell, self.warp_nm):
                low.append(points.min(axis=0) - reach)
                high.append(points.max(axis=0) + reach)
                owner.append(number)
                segment.append(part)
        self._low, self._high = np.array(low).reshape(-1, 3), np.array(high).reshape(-1, 3)
        self._owner, self._segment = np.array(owner, int), np.array(segment, int)
        free = [o.shape for o in self.scene.free_organelles]
        self._free_centre = np.array([shape.centre for shape in free]).reshape(-1, 3)
        self._free_reach = np.array([shape.reach for shape in free])

    def _choose_greys(self) -> None:
        """Choose the grey of cytoplasm and nucleus of each cell; entry 0 is for voxels outside cells."""
        look, cells = self.look, self.scene.cells
        kind = np.array([c.kind for c in cells], int)
        tone = np.array([c.tone for c in cells])
        offset = np.array([0, -0.07, -0.10, -0.18, 0.05, 0.0, 0.03])[kind] if len(cells) else tone
        self.kind = np.concatenate([[-1], kind])
        cytoplasm = look.cytoplasm + offset + 0.03 * tone
        nucleus = look.nucleus + 0.8 * offset + 0.02 * tone
        self.cytoplasm = np.concatenate([[0], cytoplasm]).astype(np.float32)
        self.nucleus = np.concatenate([[0], nucleus]).astype(np.float32)

    def paint(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Paint a block.

        Returns:
          grey values, float32, and codes, uint32.
        """
        warp = [a(grid) + b(grid) for a, b in self.warp]
        layers = self.scene.layers
        z, y, x = np.ix_(*grid.axes)
        n = layers.normal.astype(np.float32)
        depth = z * n[0] + y * n[1] + x * n[2] - np.float32(layers.surface)
        if np.abs(layers.depth((grid.low + grid.high)[None] / 2)) < 30000:
            depth += self.waves(grid)
        if depth.max() < 0:
            return self.resin.paint(grid), np.zeros(grid.shape, np.uint32)
        surface, owner, neurite, numbers = self._assign_voxels(grid, warp, depth)
        image = self._paint_cytoplasm(grid, owner, surface)
        nuclear = np.zeros(grid.shape, bool)
        for number in numbers:
            self._paint_contents(image, nuclear, grid, warp, surface, owner, number)
        outside = np.flatnonzero(surface > 0)
        if len(outside):
            self.tissue.paint(image, outside, grid, warp, depth, surface)
        self._paint_free_organelles(image, grid, surface, owner, depth)
        opacity = line_profile(surface, self.wall_nm) * np.float32(self.opacity * 0.95)
        image += (np.float32(self.look.membrane) - image) * opacity
        if depth.min() < 0:
            np.copyto(image, self.resin.paint(grid), where=depth < 0)
        soma = (surface < 0) & ~neurite & (depth > 0)
        soma &= (self.kind <= CellKind.GLIA)[owner] & (owner > 0)
        glial = (self.kind == CellKind.GLIA)[owner]
        codes = owner.astype(np.uint32) * CODES + glial * GLIAL + nuclear * NUCLEAR
        return image, np.where(soma, codes, 0).astype(np.uint32)

    def _assign_voxels(
        self, grid: Grid, warp: list[np.ndarray], depth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
        """Assign each voxel to the nearest cell.

        Returns:
          signed distance to the wall of that cell; its index + 1; whether that part of it is neurite; and the
          indices of all cells in reach of the block.
        """
        first = np.full(grid.shape, _FAR, np.float32)
        second = np.full(grid.shape, _FAR, np.float32)
        owner = np.zeros(grid.shape, np.int32)
        neurite = np.zeros(grid.shape, bool)
        hit = np.flatnonzero(np.all((self._low < grid.high) & (self._high > grid.low), axis=1))
        numbers = []
        for number in np.unique(self._owner[hit]):
            pieces = hit[self._owner[hit] == number]
            low, high = self._low[pieces].min(axis=0), self._high[pieces].max(axis=0)
            box = box_between(grid, low, high)
            if box is None:
                continue
            numbers.append(int(number))
            distance, tube = self._distance(grid, warp, box, pieces)
            a, b = first[box], second[box]
            nearer = distance < a
            np.copyto(b, np.where(nearer, a, np.minimum(b, distance)))
            np.copyto(a, distance, where=nearer)
            np.copyto(owner[box], np.int32(number + 1), where=nearer)
            np.copyto(neurite[box], tube, where=nearer)
        gap = np.clip(self.gap(grid) * np.float32(0.75) + np.float32(0.75), 0, 3)
        gap *= np.float32(self.look.gap_nm)
        surface = np.maximum(first, (first - second + gap) * np.float32(0.5))
        np.maximum(surface, np.float32(self.scene.layers.sheath + 60) - depth, out=surface)
        return surface, owner, neurite, numbers

    def _distance(
        self, grid: Grid, warp: list[np.ndarray], box: Box, pieces: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute the signed distance from one cell in a box, and where its nearest part is neurite."""
        shape = tuple(s.stop - s.start for s in box)
        distance = np.full(shape, _FAR, np.float32)
        neurite = np.zeros(shape, bool)
        cell = self.scene.cells[self._owner[pieces[0]]]
        for piece in pieces:
            inner = box_between(grid, self._low[piece], self._high[piece])
            if inner is None:
                continue
            where = tuple(slice(i.start - b.start, i.stop - b.start) for i, b in zip(inner, box))
            segment = self._segment[piece]
            if segment < 0:
                assert cell.body is not None
                new = ellipsoid_distance(cell.body, grid, inner, warp)
            else:
                assert cell.tube is not None
                new = segment_distance(cell.tube, segment, grid, inner, warp)
            old = distance[where]
            thin = bool(segment >= cell.neurite_start)
            nearer = new < old - np.float32(2 * thin)  # at a tie between segments, soma wins
            np.copyto(old, new, where=nearer)
            np.copyto(neurite[where], thin, where=nearer)
        return distance, neurite

    def _paint_cytoplasm(self, grid: Grid, owner: np.ndarray, surface: np.ndarray) -> np.ndarray:
        """Paint granular cytoplasm with endoplasmic reticulum, fat droplets, and the lumen of tracheae."""
        look = self.look
        image = self.cytoplasm[owner]
        image += grid.evaluate(self.grain) * np.float32(look.grain)
        image += self.cloud(grid)
        strands, patches = grid.evaluate(self.reticulum).copy(), self.patches(grid)
        stacked = strands - np.rint(strands * np.float32(2.2)) * np.float32(1 / 2.2)
        np.copyto(strands, stacked, where=patches > 1.7)  # the stacked sheets of a Golgi apparatus
        opacity = line_profile(strands * np.float32(170), 0.7 * self.wall_nm)
        opacity *= np.clip(patches * np.float32(1.4) - np.float32(0.25), 0, 1)
        image -= opacity * np.float32(0.38 * look.reticulum)
        fat = self.kind[owner] == CellKind.DROPLET
        if fat.any():
            grain = grid.evaluate(self.grain) * np.float32(0.4 * look.grain)
            np.copyto(image, self.cytoplasm[owner] + grain, where=fat)
        trachea = self.kind[owner] == CellKind.TRACHEA
        if trachea.any():
            grain = grid.evaluate(self.grain) * np.float32(0.2 * look.grain)
            lumen = np.float32(look.resin) + grain
            np.copyto(image, lumen, where=trachea)
            wall = line_profile(surface + np.float32(self.wall_nm), 1.6 * self.wall_nm)
            walled = image + (np.float32(0.6 * look.membrane) - image) * wall
            np.copyto(image, walled, where=trachea)
        return image

    def _paint_contents(
        self,
        image: np.ndarray,
        nuclear: np.ndarray,
        grid: Grid,
        warp: list[np.ndarray],
        surface: np.ndarray,
        owner: np.ndarray,
        number: int,
    ) -> None:
        """Paint the organelles and the nucleus of one cell; marks the nucleus in `nuclear`."""
        cell = self.scene.cells[number]
        for organelle in cell.organelles:
            box = box_around(grid, organelle.shape)
            if box is not None:
                allowed = (owner[box] == number + 1) & (surface[box] < -40)
                self._paint_organelle(image, grid, organelle, box, allowed)
        if cell.nucleus is None:
            return
        box = box_around(grid, cell.nucleus, 500 + self.warp_nm)
        if box is None:
            return
        own = (owner[box] == number + 1) & (surface[box] < 0)
        if not own.any():
            return
        look = self.look
        distance = ellipsoid_distance(cell.nucleus, grid, box, warp)
        np.maximum(distance, surface[box] + np.float32(look.rim_nm), out=distance)
        speckle_factor = _SPECKLE_FACTOR.get(cell.kind, 1.0)
        speckle = np.float32(speckle_factor * look.speckle)
        grey = self.nucleus[number + 1] + grid.evaluate(self.chromatin)[box] * speckle
        if self.clumps:  # of chromatin
            clumps = self.clumps(grid)[box] * np.float32(2.5) - np.float32(3.5)
            grey -= np.clip(clumps, 0, 1) * np.float32(look.clump)
        rough = grid.evaluate(self.reticulum)[box] * np.float32(110)
        for body in cell.nucleoli:
            inner = ellipsoid_distance(body, grid, box, warp)
            inner += rough
            soft = np.clip(np.float32(0.5) - inner / np.float32(220), 0, 1)
            grey -= soft * np.float32(look.nucleolus)
        inside = own & (distance < 0)
        np.copyto(image[box], grey, where=inside)
        nuclear[box] |= inside
        opacity = envelope_profile(distance, self.envelope_nm, look) * own
        dark = 0.35 if cell.kind == CellKind.ODD else 0.9
        opacity *= np.float32(dark * min(1.0, 1.25 * look.envelope_nm / self.envelope_nm))
        image[box] += (np.float32(look.membrane + 0.03) - image[box]) * opacity

    def _paint_free_organelles(
        self,
        image: np.ndarray,
        grid: Grid,
        surface: np.ndarray,
        owner: np.ndarray,
        depth: np.ndarray,
    ) -> None:
        """Paint the organelles that are outside cells or in axons."""
        reach = self._free_reach[:, None]
        near = np.all(
            (self._free_centre + reach > grid.low) & (self._free_centre - reach < grid.high), axis=1
        )
        for number in np.flatnonzero(near):
            organelle = self.scene.free_organelles[number]
            box = box_around(grid, organelle.shape)
            if box is not None:
                axon = self.kind[owner[box]] == CellKind.AXON
                allowed = ((surface[box] > 0) | axon) & (depth[box] > 150)
                self._paint_organelle(image, grid, organelle, box, allowed)

    def _paint_organelle(
        self, image: np.ndarray, grid: Grid, organelle: Organelle, box: Box, allowed: np.ndarray
    ) -> None:
        """Paint an organelle on the voxels of a box that are `allowed`."""
        look = self.look
        distance = ellipsoid_distance(organelle.shape, grid, box, None, organelle.bend)
        inside = np.clip(np.float32(0.5) - distance / np.float32(1.6 * self.wall_nm), 0, 1)
        inside *= allowed
        tone = np.float32(0.04 * organelle.tone)
        if organelle.kind == OrganelleKind.MITOCHONDRION:
            grey = np.float32(look.mitochondria) + tone
        elif organelle.kind == OrganelleKind.LYSOSOME:
            grey = np.float32(0.5 * look.mitochondria) + tone
        else:
            grey = np.float32(look.resin) + tone
        view = image[box]
        level = grey + grid.evaluate(self.grain)[box] * np.float32(0.6 * look.grain)
        view += (level - view) * inside
        if organelle.kind != OrganelleKind.LYSOSOME:
            rim = line_profile(distance, 0.8 * self.wall_nm) * allowed
            view += (np.float32(look.membrane) - view) * rim * np.float32(0.55)


def envelope_profile(distance: np.ndarray, width_nm: float, look: Look) -> np.ndarray:
    """Return the opacity (0..1) of the nuclear envelope at a distance from its middle: one membrane or two."""
    if look.envelope_gap_nm <= 0:
        return line_profile(distance, width_nm)
    half = np.float32(0.5 * look.envelope_gap_nm)
    return np.maximum(
        line_profile(distance - half, width_nm), line_profile(distance + half, width_nm)
    )


def _pieces(cell: Cell, warp_nm: float) -> Iterator[tuple[int, np.ndarray, float]]:
    """Yield (-1, centre, reach) of the body and (i, ends, reach) of each tube segment i."""
    if cell.body is not None:
        yield -1, cell.body.centre[None], cell.body.reach + _REACH_NM + warp_nm
    if cell.tube is not None:
        for i in range(len(cell.tube.points) - 1):
            reach = float(cell.tube.radii[i : i + 2].max()) + 0.6 * _REACH_NM + warp_nm
            yield i, cell.tube.points[i : i + 2], reach
