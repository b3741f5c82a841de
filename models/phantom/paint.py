"""Paints a phantom's scene on voxels, box by box: float grey (0..1) and exact labels. Everything is z, y, x, in nm.

Every voxel asks which cell holds it. Each cell gives a signed distance (negative inside, from its body and its
tube); the nearest cell wins, and half the difference to the next one is the distance to the wall between them,
less a gap that varies over the volume: glia where it is wide, membrane on membrane where it is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .distance import Box, around, box_between, ellipsoid_distance, segment_distance
from .look import Look
from .matrix import Matrix
from .nucleus import envelope, nucleoplasm
from .resin import Resin
from .scene import Cell, Grain, Kind, Organelle, Scene
from .texture import Grid, NoiseTile, SmoothField, line

BLOCK = (32, 64, 64)  # voxels; small enough to stay in the processor's cache
_FAR = np.float32(1e6)
_REACH = 900.0  # nm around a cell in which its distance matters
_WARP = 420.0  # nm, more than the warp ever moves a point


class Painter:
    """Holds what is drawn once per volume: fields, tiles, and the boxes of all pieces of the scene."""

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

        self.warp = [(smooth(2600, 120 * look.wavy), smooth(850, 42 * look.wavy)) for _ in range(3)]
        self.bent = _WARP * max(1.0, look.wavy)
        self.gap = smooth(1500)
        self.waves = smooth(8000, 450)
        self.reticulum, self.patches = smooth(420), smooth(1500)
        self.cloud = smooth(900, 0.028)
        self.matrix = Matrix(scene, look, smooth, shapes, voxel_nm)
        self.resin = Resin(size_nm, look, scene.charged, shapes)
        self.clumps = smooth(330) if look.clump else None
        self.chromatin = NoiseTile(voxel_nm, look.speckle_nm, 0.22, grains)
        self.grain = NoiseTile(voxel_nm, look.grain_nm, 0.15, grains)
        fine = float(np.mean(voxel_nm[1:]))
        self.soft = float(np.hypot(look.wall_nm, 0.42 * fine))
        self.ink = min(1.0, 1.25 * look.wall_nm / self.soft)
        self.thin = float(np.hypot(look.envelope_nm, 0.42 * fine))
        self._index()
        self._palette(grains)

    def _index(self) -> None:
        """Bounding boxes of bodies and tube segments, so that a block finds its own."""
        low, high, owner, segment = [], [], [], []
        for number, cell in enumerate(self.scene.cells):
            for part, points, reach in _pieces(cell, self.bent):
                low.append(points.min(axis=0) - reach)
                high.append(points.max(axis=0) + reach)
                owner.append(number)
                segment.append(part)
        self._low, self._high = np.array(low).reshape(-1, 3), np.array(high).reshape(-1, 3)
        self._owner, self._segment = np.array(owner, int), np.array(segment, int)
        loose = [o.shape for o in self.scene.loose]
        self._loose = np.array([o.centre for o in loose]).reshape(-1, 3)
        self._loose_reach = np.array([o.reach for o in loose])

    def _palette(self, rng: np.random.Generator) -> None:
        """Grey of cytoplasm and nucleus of every cell; entry 0 is for voxels of none."""
        look, cells = self.look, self.scene.cells
        kind = np.array([c.kind for c in cells], int)
        tone = np.array([c.tone for c in cells])
        darker = np.array([0, -0.07, -0.10, -0.18, 0.05, 0.0, 0.03])[kind] if len(cells) else tone
        self.kind = np.concatenate([[-1], kind])
        self.cytoplasm = np.concatenate([[0], look.cytoplasm + darker + 0.03 * tone]).astype(
            np.float32
        )
        self.nucleus = np.concatenate([[0], look.nucleus + 0.8 * darker + 0.02 * tone]).astype(
            np.float32
        )

    def paint(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Grey and labels (cell number + 1 where it is soma) of one block."""
        warp = [a(grid) + b(grid) for a, b in self.warp]
        layers = self.scene.layers
        z, y, x = np.ix_(*grid.axes)
        n = layers.normal.astype(np.float32)
        depth = z * n[0] + y * n[1] + x * n[2] - np.float32(layers.surface)
        if np.abs(layers.depth((grid.low + grid.high)[None] / 2)) < 30000:
            depth += self.waves(grid)
        if depth.max() < 0:
            return self.resin.paint(grid), np.zeros(grid.shape, np.uint32)
        surface, owner, neurite, found = self._compete(grid, warp, depth)
        image = self._within(grid, owner, surface)
        for number in found:
            self._contents(image, grid, warp, surface, owner, number)
        outside = np.flatnonzero(surface > 0)
        if len(outside):
            self.matrix.paint(image, outside, grid, warp, depth, surface)
        self._loose_organelles(image, grid, surface, owner, depth)
        ink = line(surface, self.soft) * np.float32(self.ink * 0.95)
        image += (np.float32(self.look.membrane) - image) * ink
        if depth.min() < 0:
            np.copyto(image, self.resin.paint(grid), where=depth < 0)
        soma = (surface < 0) & ~neurite & (depth > 0)
        soma &= (self.kind < Kind.GLIA)[owner] & (owner > 0)
        return image, np.where(soma, owner, 0).astype(np.uint32)

    def _compete(
        self, grid: Grid, warp: list[np.ndarray], depth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
        """Distance to the wall of the cell that holds or is nearest to a voxel, its number + 1, whether neurite."""
        first = np.full(grid.shape, _FAR, np.float32)
        second = np.full(grid.shape, _FAR, np.float32)
        owner = np.zeros(grid.shape, np.int32)
        neurite = np.zeros(grid.shape, bool)
        hit = np.flatnonzero(np.all((self._low < grid.high) & (self._high > grid.low), axis=1))
        found = []
        for number in np.unique(self._owner[hit]):
            mine = hit[self._owner[hit] == number]
            low, high = self._low[mine].min(axis=0), self._high[mine].max(axis=0)
            box = box_between(grid, low, high)
            if box is None:
                continue
            found.append(int(number))
            distance, tube = self._distance(grid, warp, box, mine)
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
        return surface, owner, neurite, found

    def _distance(
        self, grid: Grid, warp: list[np.ndarray], box: Box, pieces: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One cell's signed distance in a box, and where the nearest part of it is neurite."""
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
            thin = bool(segment >= cell.cut)
            nearer = new < old - np.float32(2 * thin)  # where two segments meet they tie: soma
            np.copyto(old, new, where=nearer)
            np.copyto(neurite[where], thin, where=nearer)
        return distance, neurite

    def _within(self, grid: Grid, owner: np.ndarray, surface: np.ndarray) -> np.ndarray:
        """Cytoplasm of whatever holds a voxel: granular, with strands of endoplasmic reticulum; lumen of tracheae."""
        look = self.look
        image = self.cytoplasm[owner]
        image += grid.keep(self.grain) * np.float32(look.grain)
        image += self.cloud(grid)
        strands, patches = grid.keep(self.reticulum).copy(), self.patches(grid)
        stacked = strands - np.rint(strands * np.float32(2.2)) * np.float32(1 / 2.2)
        np.copyto(strands, stacked, where=patches > 1.7)  # Golgi: sheets side by side
        ink = line(strands * np.float32(170), 0.7 * self.soft)
        ink *= np.clip(patches * np.float32(1.4) - np.float32(0.25), 0, 1)
        image -= ink * np.float32(0.38 * look.reticulum)
        fat = self.kind[owner] == Kind.DROPLET
        if fat.any():
            np.copyto(
                image,
                self.cytoplasm[owner] + grid.keep(self.grain) * np.float32(0.4 * look.grain),
                where=fat,
            )
        trachea = self.kind[owner] == Kind.TRACHEA
        if trachea.any():
            lumen = np.float32(look.resin) + grid.keep(self.grain) * np.float32(0.2 * look.grain)
            np.copyto(image, lumen, where=trachea)
            wall = line(surface + np.float32(self.soft), 1.6 * self.soft)
            np.copyto(
                image, image + (np.float32(0.6 * look.membrane) - image) * wall, where=trachea
            )
        return image

    def _contents(
        self,
        image: np.ndarray,
        grid: Grid,
        warp: list[np.ndarray],
        surface: np.ndarray,
        owner: np.ndarray,
        number: int,
    ) -> None:
        """Organelles, then nucleus with envelope, chromatin and nucleoli of one cell."""
        cell = self.scene.cells[number]
        for organelle in cell.organelles:
            box = around(grid, organelle.shape)
            if box is not None:
                allowed = (owner[box] == number + 1) & (surface[box] < -40)
                self._organelle(image, grid, organelle, box, allowed)
        if cell.nucleus is None:
            return
        box = around(grid, cell.nucleus, 500 + self.bent)
        if box is None:
            return
        own = (owner[box] == number + 1) & (surface[box] < 0)
        if not own.any():
            return
        look = self.look
        distance = ellipsoid_distance(cell.nucleus, grid, box, warp)
        np.maximum(distance, surface[box] + np.float32(look.rim_nm), out=distance)
        spotted = 0.6 if cell.kind == Kind.ODD else 2.2 if cell.kind == Kind.GLIA else 1.0
        grey = self.nucleus[number + 1] + grid.keep(self.chromatin)[box] * np.float32(
            spotted * look.speckle
        )
        nucleoplasm(grey, self.clumps(grid)[box] if self.clumps else None, look)
        rough = grid.keep(self.reticulum)[box] * np.float32(110)
        for body in cell.nucleoli:
            inner = ellipsoid_distance(body, grid, box, warp)
            inner += rough
            soft = np.clip(np.float32(0.5) - inner / np.float32(220), 0, 1)
            grey -= soft * np.float32(look.nucleolus)
        np.copyto(image[box], grey, where=own & (distance < 0))
        ink = envelope(distance, self.thin, look) * own
        dark = 0.35 if cell.kind == Kind.ODD else 0.9
        ink *= np.float32(dark * min(1.0, 1.25 * look.envelope_nm / self.thin))
        image[box] += (np.float32(look.membrane + 0.03) - image[box]) * ink

    def _loose_organelles(
        self,
        image: np.ndarray,
        grid: Grid,
        surface: np.ndarray,
        owner: np.ndarray,
        depth: np.ndarray,
    ) -> None:
        reach = self._loose_reach[:, None]
        near = np.all((self._loose + reach > grid.low) & (self._loose - reach < grid.high), axis=1)
        for number in np.flatnonzero(near):
            organelle = self.scene.loose[number]
            box = around(grid, organelle.shape)
            if box is not None:
                axon = self.kind[owner[box]] == Kind.AXON
                allowed = ((surface[box] > 0) | axon) & (depth[box] > 150)
                self._organelle(image, grid, organelle, box, allowed)

    def _organelle(
        self, image: np.ndarray, grid: Grid, organelle: Organelle, box: Box, allowed: np.ndarray
    ) -> None:
        look = self.look
        distance = ellipsoid_distance(organelle.shape, grid, box, None, organelle.bend)
        inside = np.clip(np.float32(0.5) - distance / np.float32(1.6 * self.soft), 0, 1) * allowed
        tone = np.float32(0.04 * organelle.tone)
        if organelle.grain == Grain.MITOCHONDRION:
            grey = np.float32(look.mitochondria) + tone
        elif organelle.grain == Grain.LYSOSOME:
            grey = np.float32(0.5 * look.mitochondria) + tone
        else:
            grey = np.float32(look.resin) + tone
        view = image[box]
        level = grey + grid.keep(self.grain)[box] * np.float32(0.6 * look.grain)
        view += (level - view) * inside
        if organelle.grain != Grain.LYSOSOME:
            rim = line(distance, 0.8 * self.soft) * allowed
            view += (np.float32(look.membrane) - view) * rim * np.float32(0.55)


def _pieces(cell: Cell, bent: float) -> Iterator[tuple[int, np.ndarray, float]]:
    """(-1, centre, reach) of the body and (i, ends, reach) of each tube segment."""
    if cell.body is not None:
        yield -1, cell.body.centre[None], cell.body.reach + _REACH + bent
    if cell.tube is not None:
        for i in range(len(cell.tube.points) - 1):
            reach = float(cell.tube.radii[i : i + 2].max()) + 0.6 * _REACH + bent
            yield i, cell.tube.points[i : i + 2], reach
