"""Patches cut from a volume and made different each time. Arrays and tensors are z, y, x; grey is 0-255.

Geometry (`cut`): image and labels are resampled once, together, section by section: turned, scaled, bent,
flipped, sections shifted, left out or repeated. Sometimes one section stands for all (an extruded section,
which is what a single micrograph looks like to a network).
Grey values (`expose`): contrast, gamma, shading, blur and sharpness, noise, faults of sections, dirt.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .predict import MARGIN_PART

Zyx = tuple[int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """How far patches are changed; a name that ends in `_rate` is the share of patches it happens to."""

    scale: tuple[float, float] = (0.75, 1.35)
    rotate_deg: float = 15.0
    elastic_vx: float = 1.8
    stretch_z_rate: float = 0.25
    shift_rate: float = 0.15
    extrude_rate: float = 0.3
    grey_rate: float = 0.6
    section_rate: float = 0.25
    shading_rate: float = 0.2
    sharpness_rate: float = 0.4
    noise_rate: float = 0.4
    invent_rate: float = 0.15
    cutout_rate: float = 0.1

    def times(self, strength: float) -> Augmentation:
        """The same changes, `strength` as strong and as frequent; 0 leaves patches as they are."""
        values = {
            f.name: getattr(self, f.name) * strength for f in fields(self) if f.name != "scale"
        }
        low, high = (1 + (edge - 1) * strength for edge in self.scale)
        return Augmentation(scale=(low, high), **values)


NONE = Augmentation((1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def cut(
    image: np.ndarray,
    target: np.ndarray,
    labels: np.ndarray,
    centre: np.ndarray,
    patch: Zyx,
    change: Augmentation,
    rng: np.random.Generator,
) -> tuple[Tensor, np.ndarray]:
    """One patch of a volume, resampled once.

    Args:
      image, target, labels: of one shape.
      centre: z, y, x, where the patch lies; moved inwards where more than the margin of a window would leave
        the volume. As in prediction, what lies outside is mirrored.
    Returns:
      image (float32) and target of shape `patch`; or, where one section stands for all, image and labels of it.
    """
    sections = _sections(image.shape[0], float(centre[0]), patch[0], change, rng)
    if rng.random() < change.extrude_rate:
        keep = rng.integers(patch[0])
        sections, target = sections[keep : keep + 1], labels
    at = _places(centre, image.shape, (len(sections), *patch[1:]), change, rng)
    boxes = []
    for axis, size in zip(at, image.shape[1:]):  # the part of the sections that is touched
        low = min(max(0, int(axis.min()) - 2), max(0, size - 2))
        high = max(low + 2, min(int(axis.max()) + 3, size))
        axis.sub_(low).mul_(2 / (high - low - 1)).sub_(1)
        boxes.append(slice(low, high))
    window, grid = (sections, *boxes), torch.stack([at[1], at[0]], dim=-1)
    grey = _resample(image[window], grid, "bilinear")
    return grey, _resample(target[window], grid, "nearest").numpy().astype(target.dtype)


def expose(image: Tensor, change: Augmentation, rng: np.random.Generator) -> Tensor:
    """The same tissue, prepared and imaged on another day; changes `image` in place and returns it."""
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if rng.random() < change.sharpness_rate:
        _sharpen(image, rng)
    if rng.random() < change.invent_rate:
        image += float(rng.uniform(3, 18)) * _field(image.shape, (1, 2, 2), noise)
    if rng.random() < change.shading_rate:
        shade = _field(image.shape, (max(image.shape[0], 1), 40, 40), noise)
        image += float(rng.uniform(5, 25)) * shade
    if rng.random() < change.grey_rate:
        _regrade(image, rng)
    if rng.random() < change.section_rate:
        _fault(image, rng)
    if rng.random() < change.cutout_rate:
        _cover(image, rng)
    if rng.random() < change.noise_rate:
        image += float(rng.uniform(1, 22)) * torch.randn(image.shape, generator=noise)
    return image.clamp_(0, 255)


def _sections(
    depth: int, centre: float, wanted: int, change: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Which sections of the volume become the patch's, mirrored at its ends."""
    step = rng.uniform(0.75, 1.3) if rng.random() < change.stretch_z_rate else 1.0
    half = (wanted - 1) / 2 * step - wanted // MARGIN_PART
    centre = np.clip(centre, half, max(half, depth - 1 - half))
    first = np.floor(centre - half) - wanted // MARGIN_PART
    index = np.floor(first + np.arange(wanted) * step + 0.5).astype(int)
    if change.rotate_deg and rng.random() < 0.5:
        index = index[::-1]
    period = max(1, 2 * depth - 2)
    index = np.abs((index + depth - 1) % period - (depth - 1))
    if rng.random() < change.shift_rate:  # a section is lost and its neighbour shows twice
        lost = rng.random(wanted) < 0.04
        index = np.where(lost, np.roll(index, 1), index)
    return index


def _places(
    centre: np.ndarray,
    volume: tuple[int, ...],
    patch: Zyx,
    change: Augmentation,
    rng: np.random.Generator,
) -> list[Tensor]:
    """Where each voxel of the patch comes from in its section: y and x, in voxels."""
    scale = np.exp(rng.uniform(*np.log(change.scale), size=1) + rng.normal(0, 0.04, 2))
    if change.scale[0] == change.scale[1]:
        scale = np.full(2, change.scale[0])
    sections = patch[0]
    angle = np.deg2rad(change.rotate_deg) * rng.uniform(-1, 1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if change.rotate_deg:
        turn = turn[:, :: rng.choice([-1, 1])] * rng.choice([-1, 1], (1, 2))
    matrix = turn * scale  # scale > 1: the patch shows more, smaller
    y, x = (torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in patch[1:])
    reach = [np.abs(row) @ (np.array(patch[1:]) - 1) / 2 for row in matrix]
    middle = []
    for c, r, n in zip(centre[1:], reach, volume[1:]):
        within = r * (1 - 2 / MARGIN_PART)
        c = np.clip(c, min(within, (n - 1) / 2), max(n - 1 - within, (n - 1) / 2))
        middle.append(float(np.floor(c - r) + r))  # whole voxels where nothing is turned or scaled
    at = [
        (float(m[0]) * y[:, None] + float(m[1]) * x + c)[None].repeat(sections, 1, 1)
        for m, c in zip(matrix, middle)
    ]
    seeded = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if change.elastic_vx and rng.random() < 0.7:
        amount = change.elastic_vx * rng.uniform(0, 2)
        for axis in at:
            axis += float(amount) * _field(axis.shape, (24, 24, 24), seeded)
    if rng.random() < change.shift_rate:
        jitter = rng.uniform(0.1, 0.9) * rng.standard_normal((sections, 2))
        jump = rng.random(sections) < 0.02
        jitter += jump[:, None] * rng.normal(0, 4, (sections, 2))
        for axis, moves in zip(at, jitter.T):
            axis += torch.from_numpy(moves.astype(np.float32))[:, None, None]
    return at


def _resample(sections: np.ndarray, grid: Tensor, mode: str) -> Tensor:
    source = torch.from_numpy(np.ascontiguousarray(sections)).float()[:, None]
    return F.grid_sample(source, grid, mode, "reflection", align_corners=True)[:, 0]


def _field(shape: torch.Size, spacing: Zyx, generator: torch.Generator) -> Tensor:
    """Smooth noise, about unit variance, with a node every `spacing` voxels."""
    nodes = [max(2, -(-n // s) + 1) for n, s in zip(shape, spacing)]
    if spacing[0] >= shape[0] or shape[0] == 1:
        nodes[0] = 1
    noise = torch.randn(1, 1, *nodes, generator=generator)
    noise = F.interpolate(noise, tuple(shape), mode="trilinear", align_corners=nodes[0] > 1)
    return noise[0, 0] * 1.5


def _sharpen(image: Tensor, rng: np.random.Generator) -> None:
    """Blur within the sections, or its opposite: image + a (image - blurred), a < 0 blurs."""
    kernel = np.exp(-(np.arange(4) ** 2) / (2 * rng.uniform(0.6, 1.6) ** 2))
    kernel /= kernel[0] + 2 * kernel[1:].sum()
    blurred = image
    for axis in (1, 2):  # by shifted sums: ten times faster here than a convolution of one channel
        n = image.shape[axis]
        blurred, source = blurred * float(kernel[0]), blurred
        for step, share in enumerate(kernel[1:], start=1):
            if step < n:
                ahead, behind = (
                    source.narrow(axis, step, n - step),
                    source.narrow(axis, 0, n - step),
                )
                blurred.narrow(axis, 0, n - step).add_(ahead, alpha=float(share))
                blurred.narrow(axis, step, n - step).add_(behind, alpha=float(share))
                first, last = source.narrow(axis, 0, step), source.narrow(axis, n - step, step)
                blurred.narrow(axis, 0, step).add_(first, alpha=float(share))
                blurred.narrow(axis, n - step, step).add_(last, alpha=float(share))
    amount = float(rng.uniform(-1.0, 0.0) if rng.random() < 0.6 else rng.uniform(0.0, 1.2))
    image.add_(image - blurred, alpha=amount)


def _regrade(image: Tensor, rng: np.random.Generator) -> None:
    """Contrast, brightness, gamma."""
    gain = float(np.exp(rng.uniform(-0.6, 0.4)))
    image.sub_(128).mul_(gain).add_(128 + float(rng.uniform(-45, 45))).clamp_(0, 255)
    gamma = float(np.exp(rng.uniform(-0.5, 0.5)))
    image.div_(255).pow_(gamma).mul_(255)


def _fault(image: Tensor, rng: np.random.Generator) -> None:
    """Light from section to section; sections that are blurred, empty or half covered."""
    sections, height, _ = image.shape
    amount = rng.uniform(0.2, 1.0)
    gain = 1 + 0.12 * amount * rng.standard_normal(sections)
    shift = 14 * amount * rng.standard_normal(sections)
    gains, shifts = (torch.from_numpy(a.astype(np.float32))[:, None, None] for a in (gain, shift))
    image.sub_(128).mul_(gains).add_(shifts + 128)
    for z in np.flatnonzero(rng.random(sections) < 0.03):
        kind = rng.integers(3)
        if kind == 0:
            blurred = F.avg_pool2d(image[z][None, None], 5, stride=1, padding=2)
            image[z] = blurred[0, 0]
        elif kind == 1:
            image[z] = float(rng.choice([0, 255, image[z].mean().item()]))
        else:
            image[z, : rng.integers(1, height)] *= float(rng.uniform(0.2, 0.8))


def _cover(image: Tensor, rng: np.random.Generator) -> None:
    """Dirt: boxes of one grey over a few sections."""
    for _ in range(rng.integers(1, 5)):
        size = [int(rng.integers(1, m)) for m in (5, 14, 14)]
        z, y, x = (int(rng.integers(0, max(1, n - s))) for n, s in zip(image.shape, size))
        image[z : z + size[0], y : y + size[1], x : x + size[2]] = float(rng.uniform(0, 255))
