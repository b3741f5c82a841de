"""Patches cut from a volume and made different each time. Arrays and tensors are z, y, x; grey is 0-255.

Geometry (`cut`): image and labels together. Sections are left out, repeated, shifted, their order turned; then MONAI
bends, turns, scales and flips all of them alike, as the tissue lies in its section. Sometimes one section stands for
all (an extruded section, which is what a single micrograph looks like to a network).
Grey values (`expose`): MONAI's contrast, gamma, blur, sharpness and noise; our own grain, shading, faults of
sections and dirt.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...axes import Zyx
from ...errors import UserError

_ELASTIC_NODES_VX = (24.0, 24.0)
_KEYS = ("image", "target")
_FLAT = 0.25  # volumes of fewer sections than this share of a patch are shown one section at a time
_BEYOND = 8  # a patch reaches at most an eighth of itself beyond the volume, mirrored


@dataclass(frozen=True)
class Augmentation:
    """How far patches are changed; a name that ends in `_rate` is the share of patches it happens to.

    scale: a patch shows so many times its own width, each axis of a section on its own; elastic_vx: deviation of the
    largest displacement.
    """

    scale: tuple[float, float] = (0.75, 1.35)
    rotate_deg: float = 15.0
    elastic_vx: float = 1.8
    flip_rate: float = 0.5
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

    @property
    def still(self) -> bool:
        """Whether nothing is bent, turned, scaled or flipped."""
        return (self.scale, self.rotate_deg, self.elastic_vx, self.flip_rate) == ((1, 1), 0, 0, 0)


NONE = Augmentation().times(0)


def cut(
    image: np.ndarray,
    target: np.ndarray,
    labels: np.ndarray,
    centre: np.ndarray,
    patch: Zyx,
    change: Augmentation,
    rng: np.random.Generator,
) -> tuple[Tensor, np.ndarray]:
    """One patch of a volume.

    Args:
      image, target, labels: of one shape.
      centre: z, y, x, where the patch lies; moved inwards where more than the margin of a window would leave
        the volume. As in prediction, what lies outside is mirrored.
    Returns:
      image (float32) and target of shape `patch`; or, where one section stands for all, image and labels of it.
    """
    sections = _sections(image.shape[0], float(centre[0]), patch[0], change, rng)
    flat = image.shape[0] < _FLAT * patch[0]
    if rng.random() < change.extrude_rate or flat:
        keep = rng.integers(patch[0])
        sections, target = sections[keep : keep + 1], labels
    moves = _moves(len(sections), change, rng)
    wanted = patch[1:]
    shown = wanted if change.still else _shown(wanted, change)
    at = [
        _mirrored(n, float(c), size, room, move)
        for n, c, size, room, move in zip(image.shape[1:], centre[1:], wanted, shown, moves.T)
    ]
    window = (sections[:, None, None], at[0][:, :, None], at[1][:, None, :])
    drawn = {
        "image": torch.from_numpy(image[window]).float(),
        "target": torch.from_numpy(target[window].astype(np.float32)),
    }
    if not change.still:
        drawn = _draw(_bend(change, wanted), drawn, rng)
    return drawn["image"], drawn["target"].numpy().astype(target.dtype)


def expose(image: Tensor, change: Augmentation, rng: np.random.Generator) -> Tensor:
    """The same tissue, prepared and imaged on another day."""
    noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if rng.random() < change.invent_rate:
        image = image + float(rng.uniform(3, 18)) * _field(image.shape, (1, 2, 2), noise)
    if rng.random() < change.shading_rate:
        shade = _field(image.shape, (max(image.shape[0], 1), 40, 40), noise)
        image = image + float(rng.uniform(5, 25)) * shade
    image = _draw(_regrade(change), {"image": image}, rng)["image"]
    image = image.clone()  # MONAI may have given back what it got
    if rng.random() < change.section_rate:
        _fault(image, rng)
    if rng.random() < change.cutout_rate:
        _cover(image, rng)
    return image.clamp(0, 255)


def _sections(
    depth: int, centre: float, wanted: int, change: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Which sections of the volume become the patch's, mirrored at its ends."""
    step = rng.uniform(0.75, 1.3) if rng.random() < change.stretch_z_rate else 1.0
    half = (wanted - 1) / 2 * step - wanted // _BEYOND
    centre = np.clip(centre, half, max(half, depth - 1 - half))
    first = np.floor(centre - half) - wanted // _BEYOND
    index = np.floor(first + np.arange(wanted) * step + 0.5).astype(int)
    if rng.random() < change.flip_rate:
        index = index[::-1]
    index = _reflect(index, depth)
    if rng.random() < change.shift_rate:  # a section is lost and its neighbour shows twice
        lost = rng.random(wanted) < 0.04
        index = np.where(lost, np.roll(index, 1), index)
    return index


def _moves(sections: int, change: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """How far each section lies from its place: whole voxels, y and x."""
    moves = np.zeros((sections, 2))
    if rng.random() < change.shift_rate:
        moves += rng.uniform(0.1, 0.9) * rng.standard_normal(moves.shape)
        jump = rng.random(sections) < 0.02
        moves += jump[:, None] * rng.normal(0, 4, moves.shape)
    return np.rint(moves).astype(int)


def _shown(wanted: tuple[int, int], change: Augmentation) -> tuple[int, int]:
    """Voxels of a section that must be there, so that it can be turned, scaled and bent."""
    turn = np.deg2rad(min(change.rotate_deg, 45))
    reach = change.scale[1] * (np.cos(turn) + np.sin(turn))
    y, x = (int(n * reach + 8 * change.elastic_vx) + 2 for n in wanted)
    return y, x


def _mirrored(size: int, centre: float, wanted: int, shown: int, moves: np.ndarray) -> np.ndarray:
    """Voxels of an axis around a centre, for each section: sections, shown.

    The patch is in the middle, `wanted` voxels.
    """
    half = (wanted - 1) / 2 - wanted // _BEYOND
    centre = float(np.clip(centre, half, max(half, size - 1 - half)))
    first = int(np.floor(centre - (wanted - 1) / 2)) - (shown - wanted) // 2
    return _reflect(first + np.arange(shown) + moves[:, None], size)


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Positions on an axis that is mirrored at its first and last voxel."""
    period = max(1, 2 * size - 2)
    return np.abs((index + size - 1) % period - (size - 1))


def _draw(transform: Any, arrays: dict[str, Tensor], rng: np.random.Generator) -> dict[str, Tensor]:
    """Run a MONAI transform with randomness of ours."""
    transform.set_random_state(seed=int(rng.integers(2**31)))
    changed = transform(arrays)
    return {name: changed[name] for name in arrays}


@lru_cache
def _bend(change: Augmentation, wanted: tuple[int, int]) -> Any:
    """Flips, rotation, scale and elastic deformation; sections are MONAI's channels, so all change alike."""
    m = _monai()
    low, high = (edge - 1 for edge in change.scale)
    return m.Compose(
        [
            m.Rand2DElasticd(
                _KEYS,
                spacing=_ELASTIC_NODES_VX,
                magnitude_range=(0.0, change.elastic_vx),
                spatial_size=wanted,
                prob=1.0,
                rotate_range=np.deg2rad(change.rotate_deg),
                scale_range=((low, high), (low, high)),
                mode=("bilinear", "nearest"),
                padding_mode="reflection",
            ),
            *(m.RandFlipd(_KEYS, prob=change.flip_rate, spatial_axis=axis) for axis in (0, 1)),
            m.RandRotate90d(_KEYS, prob=change.flip_rate if wanted[0] == wanted[1] else 0.0),
        ]
    )


@lru_cache
def _regrade(change: Augmentation) -> Any:
    """Contrast, brightness, gamma, blur or sharpness, noise."""
    m = _monai()
    soft = {f"sigma_{axis}": (0.4, 1.4) for axis in "xy"}
    sharp = {f"sigma1_{axis}": (0.8, 1.4) for axis in "xy"}
    key = _KEYS[:1]
    return m.Compose(
        [
            m.OneOf(
                [
                    m.RandGaussianSmoothd(key, prob=change.sharpness_rate, **soft),
                    m.RandGaussianSharpend(
                        key, prob=change.sharpness_rate, alpha=(0.2, 1.5), **sharp
                    ),
                ],
                weights=(0.6, 0.4),
            ),
            m.RandScaleIntensityFixedMeand(key, prob=change.grey_rate, factors=(-0.45, 0.5)),
            m.RandShiftIntensityd(key, prob=change.grey_rate, offsets=(-45, 45)),
            m.ThresholdIntensityd(key, threshold=0, above=True, cval=0),
            m.RandAdjustContrastd(key, prob=change.grey_rate, gamma=(0.6, 1.65)),
            m.RandGaussianNoised(key, prob=change.noise_rate, std=22.0),
        ]
    )


def _monai() -> Any:
    try:
        import monai.data
        import monai.transforms
    except ImportError as err:
        raise UserError("training needs MONAI: pip install 'flysoma[train]'") from err
    monai.data.set_track_meta(False)  # type: ignore[attr-defined]  # plain tensors
    return monai.transforms


def _field(shape: torch.Size, spacing: Zyx, generator: torch.Generator) -> Tensor:
    """Smooth noise, about unit variance, with a node every `spacing` voxels."""
    nodes = [max(2, -(-n // s) + 1) for n, s in zip(shape, spacing)]
    if spacing[0] >= shape[0] or shape[0] == 1:
        nodes[0] = 1
    noise = torch.randn(1, 1, *nodes, generator=generator)
    noise = F.interpolate(noise, tuple(shape), mode="trilinear", align_corners=nodes[0] > 1)
    return noise[0, 0] * 1.5


def _fault(image: Tensor, rng: np.random.Generator) -> None:
    """Light from section to section; sections that are blurred, empty or half covered. Changes `image`."""
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
