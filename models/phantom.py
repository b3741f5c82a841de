"""Realistic fly-brain EM with exact labels, deterministic by seed, at any voxel size. Everything is z, y, x.

A scene in nm (phantom_scene) is painted on voxels: resin, sheath, a rind of packed somas with glia between
them, neuropil within, tracheae; then come the faults of serial sections (phantom_faults). Cell bodies are
labelled up to the middle of their membrane, their neurites are not; glia is not a soma.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from .phantom_faults import add_faults
from .phantom_scene import Ellipsoid, Scene, SceneKind, Tube, make_scene
from .phantom_texture import cells, random_direction, random_rotation, smooth_noise

Difficulty = Literal["clean", "typical", "worst"]
Zyx = tuple[int, int, int]
_FAR = np.float32(1e6)


@dataclass(frozen=True)
class Phantom:
    """image: uint8; labels: uint32, 0 is no soma, 1..n; voxel_nm: z, y, x."""

    image: np.ndarray
    labels: np.ndarray
    voxel_nm: tuple[float, float, float]
    seed: int


def make_phantom(
    shape: Zyx,
    voxel_nm: tuple[float, float, float],
    seed: int,
    difficulty: Difficulty = "typical",
    scene: SceneKind = "brain",
) -> Phantom:
    """A volume of phantom EM and its truth.

    Args:
      shape, voxel_nm: voxels and their size, z, y, x; the same physical size and seed give the same brain.
      difficulty: clean (no faults), typical (usual faults and contrasts), worst (heavy faults, odd contrasts).
      scene: brain (resin to neuropil), rind (somas only), neuropil (no soma), edge (mostly resin and sheath).
    """
    streams = np.random.SeedSequence([seed, 11]).spawn(4)
    layout, shapes, paint, faults = (np.random.default_rng(s) for s in streams)
    size_nm = np.array(shape) * np.array(voxel_nm)
    geometry = make_scene(size_nm, scene, layout)
    look = _Look.draw(difficulty, paint)
    painter = _Painter(geometry, shape, voxel_nm, look, shapes, paint)
    image, labels = painter.paint()
    image, labels = add_faults(image, labels, difficulty, faults)
    return Phantom(image, labels, voxel_nm, seed)


@dataclass(frozen=True)
class _Look:
    """Grey levels (0 black, 1 white) and textures of one volume; drawn at random so that no two look alike."""

    resin: float
    nucleus: float
    cytoplasm: float
    interstice: float
    neuropil: float
    membrane: float
    mitochondria: float
    speckle: float
    grain: float
    wall_nm: float
    gap_nm: float
    process_nm: float
    noise: float
    blur: float
    gamma: float
    contrast: float
    brightness: float

    @classmethod
    def draw(cls, difficulty: Difficulty, rng: np.random.Generator) -> _Look:
        wide = {"clean": 0.3, "typical": 1.0, "worst": 1.6}[difficulty]

        def about(value: float, spread: float) -> float:
            return float(value + wide * spread * rng.uniform(-1, 1))

        nucleus = about(0.74, 0.07)
        return cls(
            resin=about(0.86, 0.10),
            nucleus=nucleus,
            cytoplasm=nucleus - about(0.10, 0.07),
            interstice=about(0.52, 0.10),
            neuropil=about(0.56, 0.08),
            membrane=about(0.28, 0.08),
            mitochondria=about(0.34, 0.09),
            speckle=max(0.02, about(0.10, 0.05)),
            grain=max(0.01, about(0.06, 0.035)),
            wall_nm=max(30.0, about(55, 20)),
            gap_nm=max(20.0, about(170, 120)),
            process_nm=max(250.0, about(560, 220)),
            noise=max(0.005, about(0.035, 0.025)),
            blur=max(0.0, about(0.4, 0.4)),
            gamma=float(np.exp(wide * 0.25 * rng.uniform(-1, 1))),
            contrast=about(1.0, 0.22),
            brightness=about(0.0, 0.08),
        )


class _Painter:
    """Paints one scene; all fields are float32 arrays of the volume's shape."""

    def __init__(
        self,
        scene: Scene,
        shape: Zyx,
        voxel_nm: tuple[float, float, float],
        look: _Look,
        shapes: np.random.Generator,
        paint: np.random.Generator,
    ) -> None:
        self.scene, self.shape, self.look, self.rng = scene, shape, look, paint
        self.voxel = np.array(voxel_nm)
        self.axes = [((np.arange(n) + 0.5) * v).astype(np.float32) for n, v in zip(shape, voxel_nm)]
        self.soft = float(max(look.wall_nm, 0.45 * float(np.mean(voxel_nm[1:]))))
        self.warp = [self._noise(2600, shapes) * np.float32(190) for _ in range(3)]
        for field in self.warp:
            field += self._noise(900, shapes) * np.float32(45)
        self.gap = np.clip(self._noise(2200, shapes) * 0.8 + 0.7, 0, 4) * np.float32(look.gap_nm)
        self.waves = self._noise(7000, shapes) * np.float32(500)

    def paint(self) -> tuple[np.ndarray, np.ndarray]:
        surface, labels = self._bodies()
        depth = self._depth()
        image = self._outside(depth, surface)
        self._insides(image, labels, surface)
        wall = np.exp(-np.square(surface / np.float32(self.soft)))
        wall *= depth > 0
        image += (self.look.membrane - image) * wall * np.float32(0.9)
        for soma in self.scene.somas:
            self._neurite(image, labels, soma.neurite, soma.neurite_radius)
        for tube in self.scene.axons:
            self._tube(image, labels, depth, tube, self.look.cytoplasm, self.look.membrane, 0.9)
        for tube in self.scene.tracheae:
            self._tube(image, labels, depth, tube, self.look.resin, self.look.membrane * 0.7, 2.0)
        return self._expose(image), labels

    def _bodies(self) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance to the nearest soma's surface (nm, negative inside) and the labels."""
        first = np.full(self.shape, _FAR, np.float32)
        second = np.full(self.shape, _FAR, np.float32)
        owner = np.zeros(self.shape, np.uint32)
        for number, soma in enumerate(self.scene.somas, start=1):
            for box, distance in self._around(soma.body, 900.0, warped=True):
                a, b, o = first[box], second[box], owner[box]
                nearer = distance < a
                np.copyto(b, np.where(nearer, a, np.minimum(b, distance)))
                np.copyto(a, distance, where=nearer)
                np.copyto(o, np.uint32(number), where=nearer)
        surface = np.maximum(first, (first - second + self.gap) / 2)
        labels = np.where(surface < 0, owner, 0).astype(np.uint32)
        return surface, _whole_bodies(labels)

    def _depth(self) -> np.ndarray:
        z, y, x = np.ix_(*self.axes)
        n = self.scene.normal.astype(np.float32)
        return z * n[0] + y * n[1] + x * n[2] - np.float32(self.scene.surface) + self.waves

    def _outside(self, depth: np.ndarray, surface: np.ndarray) -> np.ndarray:
        """Everything that is no cell body: resin, sheath, interstices of the rind, neuropil, tracts."""
        look, scene = self.look, self.scene
        image = np.full(self.shape, look.resin, np.float32)
        image += self._noise(9000, self.rng) * np.float32(0.03)
        self._smears(image)
        tissue = (depth > 0) & (surface > -2 * self.soft)
        at = np.nonzero(tissue)
        if not len(at[0]):
            return image
        deep = depth[at] - np.float32(scene.sheath)
        in_rind = deep < scene.rind
        bundle = self._noise(6000, self.rng)[at] > 0.9
        points = np.stack([axis[i] for axis, i in zip(self.axes, at)])
        for axis in range(3):
            points[axis] += self.warp[axis][at] * np.float32(2.2)
        scale = np.where(in_rind, 0.8 * look.process_nm, look.process_nm).astype(np.float32)
        turned = random_rotation(self.rng) @ points
        turned[0] *= np.where(bundle, 0.12, 0.7).astype(np.float32)
        wall, value = cells(turned / scale)
        base = np.where(in_rind, look.interstice, look.neuropil).astype(np.float32)
        grey = base + (value - 0.5) * np.float32(0.34)
        edge = np.exp(-np.square(wall * scale / np.float32(self.soft)))
        grey += (look.membrane - grey) * edge * np.float32(0.85)
        lamina = deep < 0
        if lamina.any():
            bands = np.sin(depth[at][lamina] / np.float32(self.rng.uniform(90, 260)))
            grey[lamina] = look.interstice + 0.08 + 0.13 * bands + 0.05 * (value[lamina] - 0.5)
        image[at] = grey
        for body in scene.mitochondria:
            self._spot(image, body, look.mitochondria, surface > 0)
        return image

    def _smears(self, image: np.ndarray) -> None:
        """What empty resin shows: dark plates with straight edges, bands of charging."""
        for _ in range(self.rng.integers(0, 3)):
            z, y, x = np.ix_(*self.axes)
            across = random_direction(self.rng).astype(np.float32)
            at = self.rng.uniform(0.2, 0.8) * (self.shape * self.voxel)
            t = (y - at[1]) * across[1] + (x - at[2]) * across[2]
            s = (y - at[1]) * across[2] - (x - at[2]) * across[1]
            width, length = self.rng.uniform(1000, 9000, 2)
            plate = (np.abs(t) < width) & (np.abs(s) < length)
            if self.rng.random() < 0.5:
                image -= plate * np.float32(self.rng.uniform(0.15, 0.5)) + z * 0
            else:
                waves = np.sin(t / np.float32(self.rng.uniform(120, 500)))
                image += plate * waves * np.float32(self.rng.uniform(0.1, 0.4)) + z * 0

    def _insides(self, image: np.ndarray, labels: np.ndarray, surface: np.ndarray) -> None:
        """Cytoplasm, nucleus with envelope, chromatin and nucleoli, mitochondria of every soma."""
        look = self.look
        grain = self._texture(110.0) * np.float32(look.grain)
        chromatin = self._texture(190.0) * np.float32(look.speckle)
        cloudy = self._noise(1300, self.rng) * np.float32(0.025)
        for number, soma in enumerate(self.scene.somas, start=1):
            tone = np.float32(0.035 * soma.tone)
            for box, distance in self._around(soma.body, 900.0, warped=True):
                own = labels[box] == number
                cytoplasm = look.cytoplasm + tone + grain[box] + cloudy[box]
                np.copyto(image[box], cytoplasm, where=own)
            for body in soma.mitochondria:
                self._spot(image, body, look.mitochondria, labels == number)
            for box, distance in self._around(soma.nucleus, 250.0, warped=True):
                own = (labels[box] == number) & (surface[box] < -60)
                grey = look.nucleus + tone + chromatin[box]
                np.copyto(image[box], grey, where=own & (distance < 0))
                envelope = np.exp(-np.square(distance / np.float32(0.8 * self.soft))) * own
                image[box] += (look.membrane + 0.06 - image[box]) * envelope * np.float32(0.75)
            for body in soma.nucleoli:
                self._spot(image, body, look.nucleus - 0.22, labels == number)

    def _spot(self, image: np.ndarray, body: Ellipsoid, grey: float, where: np.ndarray) -> None:
        for box, distance in self._around(body, 2 * self.soft, warped=False):
            inside = np.clip(0.5 - distance / np.float32(1.2 * self.soft), 0, 1) * where[box]
            image[box] += (grey + 0.05 * self.rng.standard_normal() - image[box]) * inside

    def _neurite(
        self, image: np.ndarray, labels: np.ndarray, points: np.ndarray, radii: np.ndarray
    ) -> None:
        """A tube of cytoplasm from the soma inwards, painted where no other soma is."""
        for point, radius in zip(points, radii):
            ball = Ellipsoid(point, np.eye(3) / radius, float(radius))
            for box, distance in self._around(ball, 2 * self.soft, warped=False):
                free = labels[box] == 0
                inside = free & (distance < 0)
                wall = np.exp(-np.square(distance / np.float32(self.soft))) * free * (distance > 0)
                image[box] += (self.look.membrane - image[box]) * wall * np.float32(0.6)
                image[box] += (self.look.cytoplasm - image[box]) * inside

    def _tube(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        depth: np.ndarray,
        tube: Tube,
        lumen: float,
        wall: float,
        thick: float,
    ) -> None:
        """A trachea or a large axon, painted where there is tissue but no soma: first its wall, then its lumen."""
        for grow, grey in ((self.soft * thick, wall), (0.0, lumen)):
            radius = tube.radius + grow
            for point in _dense(tube.points, tube.radius / 2):
                ball = Ellipsoid(point, np.eye(3) / radius, radius)
                for box, distance in self._around(ball, 0.0, warped=False):
                    inside = (distance < 0) & (labels[box] == 0) & (depth[box] > self.scene.sheath)
                    np.copyto(image[box], np.float32(grey), where=inside)

    def _around(
        self, body: Ellipsoid, margin: float, warped: bool
    ) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
        """The voxels around a body (none or one box) and their signed distance from its surface, about nm."""
        reach = np.linalg.norm(np.linalg.inv(body.axes), axis=1) + margin + (600 if warped else 0)
        lo = np.maximum(0, np.floor((body.centre - reach) / self.voxel)).astype(int)
        hi = np.minimum(self.shape, np.ceil((body.centre + reach) / self.voxel)).astype(int)
        if np.any(hi <= lo):
            return
        box = tuple(slice(a, b) for a, b in zip(lo, hi))
        shifts = [
            (axis[s] - c).astype(np.float32) for axis, s, c in zip(self.axes, box, body.centre)
        ]
        z, y, x = np.ix_(*shifts)
        if warped:
            z, y, x = (a + w[box] for a, w in zip((z, y, x), self.warp))
        total = None
        for row in body.axes.astype(np.float32):
            part = np.square(z * row[0] + y * row[1] + x * row[2])
            total = part if total is None else total + part
        assert total is not None
        yield box, (np.sqrt(total) - 1) * np.float32(body.radius)

    def _noise(self, spacing_nm: float, rng: np.random.Generator) -> np.ndarray:
        return smooth_noise(self.shape, self.voxel, spacing_nm, rng)

    def _texture(self, scale_nm: float) -> np.ndarray:
        """White noise blurred to a scale, unit variance: texture whose grain does not follow the geometry."""
        noise = self.rng.standard_normal(self.shape, dtype=np.float32)
        sigma = [0.5 * scale_nm / v for v in self.voxel]
        noise = ndimage.gaussian_filter(noise, sigma, truncate=2.0, mode="wrap")
        return noise / max(float(noise[:4].std()), 1e-6)

    def _expose(self, image: np.ndarray) -> np.ndarray:
        """Light, contrast, blur in the section, noise of the detector: float to uint8."""
        look = self.look
        image += self._texture(60.0) * np.float32(look.grain * 0.5)
        if look.blur > 0.25:
            image = ndimage.gaussian_filter(image, (0, look.blur, look.blur), truncate=2.0)
        image += self.rng.standard_normal(self.shape, dtype=np.float32) * np.float32(look.noise)
        image = np.clip((image - 0.6) * look.contrast + 0.6 + look.brightness, 0, 1)
        return np.rint(image ** np.float32(look.gamma) * 254 + 1).astype(np.uint8)


def _dense(points: np.ndarray, step: float) -> Iterator[np.ndarray]:
    for a, b in zip(points, points[1:]):
        n = max(1, int(np.ceil(np.linalg.norm(b - a) / step)))
        yield from (a + (b - a) * i / n for i in range(n))


def _whole_bodies(labels: np.ndarray) -> np.ndarray:
    """Each label in one piece: splinters cut off by a neighbour are given up; numbers made dense."""
    import cc3d

    parts = cc3d.connected_components(labels, connectivity=6, out_dtype=np.uint32)
    counts = np.bincount(parts.ravel()).astype(np.int64)
    label_of = np.zeros(len(counts), np.uint32)
    label_of[parts.ravel()] = labels.ravel()
    largest = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    np.maximum.at(largest, label_of, counts)
    keep = (counts == largest[label_of]) & (label_of > 0)
    return np.where(keep, label_of, 0).astype(np.uint32)[parts]
