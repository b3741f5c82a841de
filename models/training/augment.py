"""Crop patches from volumes and augment them. Arrays and tensors are z, y, x; grey values are 0 to 255.

`crop_patch` changes the geometry of image and targets together: it drops, repeats, shifts and reverses sections, then
MONAI deforms, rotates, scales and flips all sections in the same way. Sometimes one section is repeated along z (an
extruded section), which is how a network sees a single micrograph.
`augment_intensity` changes the grey values of the image: noise, uneven illumination, MONAI's contrast, gamma, blur
and sharpening, section faults and cutouts.
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
_MIN_SECTIONS = 0.25  # volumes with fewer sections, relative to a patch, give extruded sections
_MARGIN_DIVISOR = 8  # a patch extends at most an eighth of its size beyond the volume, mirrored


@dataclass(frozen=True)
class Augmentation:
    """Strength of the augmentation.

    Attributes:
      scale: range of the width that a patch covers, relative to its own; y and x are drawn independently.
      rotate_deg: maximum rotation within the section.
      elastic_vx: maximum standard deviation of the elastic displacement, voxels.
      *_rate: fraction of patches that are changed in this way.
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
    grain_rate: float = 0.15
    cutout_rate: float = 0.1

    def times(self, strength: float) -> Augmentation:
        """Scale strengths and rates; 0 is no augmentation."""
        values = {
            f.name: getattr(self, f.name) * strength for f in fields(self) if f.name != "scale"
        }
        low, high = (1 + (edge - 1) * strength for edge in self.scale)
        return Augmentation(scale=(low, high), **values)

    @property
    def keeps_geometry(self) -> bool:
        """Whether patches are not deformed, rotated, scaled or flipped."""
        return (self.scale, self.rotate_deg, self.elastic_vx, self.flip_rate) == ((1, 1), 0, 0, 0)


NO_AUGMENTATION = Augmentation().times(0)


def crop_patch(
    image: np.ndarray,
    target: np.ndarray,
    labels: np.ndarray,
    centre: np.ndarray,
    patch: Zyx,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[Tensor, np.ndarray]:
    """Crop a patch with geometric augmentation.

    Args:
      image, target, labels: the volume, all of the same shape.
      centre: centre of the patch, z, y, x. It is moved so that at most an eighth of the patch lies outside the
        volume, where the volume is mirrored as in prediction.
      patch: size, z, y, x.
      augmentation: strength and rates.
      rng: random numbers.
    Returns:
      image (float32) and target of the patch; for an extruded section, image and labels of that one section.
    """
    sections = _choose_sections(image.shape[0], float(centre[0]), patch[0], augmentation, rng)
    flat = image.shape[0] < _MIN_SECTIONS * patch[0]
    if rng.random() < augmentation.extrude_rate or flat:
        keep = rng.integers(patch[0])
        sections, target = sections[keep : keep + 1], labels
    shifts = _draw_shifts(len(sections), augmentation, rng)
    patch_yx = patch[1:]
    source_yx = patch_yx if augmentation.keeps_geometry else _source_size(patch_yx, augmentation)
    y, x = (
        _mirrored_indices(n, float(c), size, region, shift)
        for n, c, size, region, shift in zip(
            image.shape[1:], centre[1:], patch_yx, source_yx, shifts.T
        )
    )
    window = (sections[:, None, None], y[:, :, None], x[:, None, :])
    cropped = {
        "image": torch.from_numpy(image[window]).float(),
        "target": torch.from_numpy(target[window].astype(np.float32)),
    }
    if not augmentation.keeps_geometry:
        cropped = _apply(_spatial_transform(augmentation, patch_yx), cropped, rng)
    return cropped["image"], cropped["target"].numpy().astype(target.dtype)


def augment_intensity(
    image: Tensor, augmentation: Augmentation, rng: np.random.Generator
) -> Tensor:
    """Change the grey values of an image (float32, z, y, x) and return the result, clamped to 0..255."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if rng.random() < augmentation.grain_rate:
        image = image + float(rng.uniform(3, 18)) * _smooth_noise(image.shape, (1, 2, 2), generator)
    if rng.random() < augmentation.shading_rate:
        shade = _smooth_noise(image.shape, (max(image.shape[0], 1), 40, 40), generator)
        image = image + float(rng.uniform(5, 25)) * shade
    image = _apply(_intensity_transform(augmentation), {"image": image}, rng)["image"]
    image = image.clone()  # MONAI may return its input
    if rng.random() < augmentation.section_rate:
        _add_section_faults(image, rng)
    if rng.random() < augmentation.cutout_rate:
        _cut_out(image, rng)
    return image.clamp(0, 255)


def _choose_sections(
    depth: int, centre: float, patch_z: int, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Choose the section of the volume for each section of the patch; the volume is mirrored at its ends."""
    step = rng.uniform(0.75, 1.3) if rng.random() < augmentation.stretch_z_rate else 1.0
    half = (patch_z - 1) / 2 * step - patch_z // _MARGIN_DIVISOR
    centre = np.clip(centre, half, max(half, depth - 1 - half))
    first = np.floor(centre - half) - patch_z // _MARGIN_DIVISOR
    index = np.floor(first + np.arange(patch_z) * step + 0.5).astype(int)
    if rng.random() < augmentation.flip_rate:
        index = index[::-1]
    index = _reflect(index, depth)
    if rng.random() < augmentation.shift_rate:  # a section is missing and its neighbour is repeated
        missing = rng.random(patch_z) < 0.04
        index = np.where(missing, np.roll(index, 1), index)
    return index


def _draw_shifts(sections: int, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Draw the shift of each section, whole voxels, y and x: jitter and rare jumps."""
    shifts = np.zeros((sections, 2))
    if rng.random() < augmentation.shift_rate:
        shifts += rng.uniform(0.1, 0.9) * rng.standard_normal(shifts.shape)
        jump = rng.random(sections) < 0.02
        shifts += jump[:, None] * rng.normal(0, 4, shifts.shape)
    return np.rint(shifts).astype(int)


def _source_size(patch_yx: tuple[int, int], augmentation: Augmentation) -> tuple[int, int]:
    """Return the size of the region that a section needs before it is rotated, scaled and deformed."""
    turn = np.deg2rad(min(augmentation.rotate_deg, 45))
    reach = augmentation.scale[1] * (np.cos(turn) + np.sin(turn))
    y, x = (int(n * reach + 8 * augmentation.elastic_vx) + 2 for n in patch_yx)
    return y, x


def _mirrored_indices(
    size: int, centre: float, patch: int, source: int, shifts: np.ndarray
) -> np.ndarray:
    """Return the indices along an axis for each section (sections, source).

    Args:
      size: size of the volume.
      centre: centre of the patch.
      patch: size of the patch, in the middle of the source region.
      source: size of the source region.
      shifts: shift of each section.
    """
    half = (patch - 1) / 2 - patch // _MARGIN_DIVISOR
    centre = float(np.clip(centre, half, max(half, size - 1 - half)))
    first = int(np.floor(centre - (patch - 1) / 2)) - (source - patch) // 2
    return _reflect(first + np.arange(source) + shifts[:, None], size)


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Mirror indices at the first and last voxel of an axis."""
    period = max(1, 2 * size - 2)
    return np.abs((index + size - 1) % period - (size - 1))


def _apply(
    transform: Any, arrays: dict[str, Tensor], rng: np.random.Generator
) -> dict[str, Tensor]:
    """Apply a MONAI transform to arrays, seeded from `rng`."""
    transform.set_random_state(seed=int(rng.integers(2**31)))
    changed = transform(arrays)
    return {name: changed[name] for name in arrays}


@lru_cache
def _spatial_transform(augmentation: Augmentation, patch_yx: tuple[int, int]) -> Any:
    """Return flips, rotation, scaling and elastic deformation, the same for all sections (MONAI's channels)."""
    m = _monai()
    low, high = (edge - 1 for edge in augmentation.scale)
    return m.Compose(
        [
            m.Rand2DElasticd(
                _KEYS,
                spacing=_ELASTIC_NODES_VX,
                magnitude_range=(0.0, augmentation.elastic_vx),
                spatial_size=patch_yx,
                prob=1.0,
                rotate_range=np.deg2rad(augmentation.rotate_deg),
                scale_range=((low, high), (low, high)),
                mode=("bilinear", "nearest"),
                padding_mode="reflection",
            ),
            *(
                m.RandFlipd(_KEYS, prob=augmentation.flip_rate, spatial_axis=axis)
                for axis in (0, 1)
            ),
            m.RandRotate90d(
                _KEYS, prob=augmentation.flip_rate if patch_yx[0] == patch_yx[1] else 0.0
            ),
        ]
    )


@lru_cache
def _intensity_transform(augmentation: Augmentation) -> Any:
    """Return changes of contrast, brightness, gamma, sharpness and noise."""
    m = _monai()
    blur = {f"sigma_{axis}": (0.4, 1.4) for axis in "xy"}
    sharpen = {f"sigma1_{axis}": (0.8, 1.4) for axis in "xy"}
    key = _KEYS[:1]
    return m.Compose(
        [
            m.OneOf(
                [
                    m.RandGaussianSmoothd(key, prob=augmentation.sharpness_rate, **blur),
                    m.RandGaussianSharpend(
                        key, prob=augmentation.sharpness_rate, alpha=(0.2, 1.5), **sharpen
                    ),
                ],
                weights=(0.6, 0.4),
            ),
            m.RandScaleIntensityFixedMeand(key, prob=augmentation.grey_rate, factors=(-0.45, 0.5)),
            m.RandShiftIntensityd(key, prob=augmentation.grey_rate, offsets=(-45, 45)),
            m.ThresholdIntensityd(key, threshold=0, above=True, cval=0),
            m.RandAdjustContrastd(key, prob=augmentation.grey_rate, gamma=(0.6, 1.65)),
            m.RandGaussianNoised(key, prob=augmentation.noise_rate, std=22.0),
        ]
    )


def _monai() -> Any:
    """Import MONAI's transforms, an optional dependency."""
    try:
        import monai.data
        import monai.transforms
    except ImportError as err:
        raise UserError("training needs MONAI: pip install 'flysoma[train]'") from err
    monai.data.set_track_meta(False)  # type: ignore[attr-defined]  # return plain tensors
    return monai.transforms


def _smooth_noise(shape: torch.Size, spacing: Zyx, generator: torch.Generator) -> Tensor:
    """Draw smooth noise of about unit variance, interpolated between nodes `spacing` voxels (z, y, x) apart."""
    nodes = [max(2, -(-n // s) + 1) for n, s in zip(shape, spacing)]
    if spacing[0] >= shape[0] or shape[0] == 1:
        nodes[0] = 1
    noise = torch.randn(1, 1, *nodes, generator=generator)
    noise = F.interpolate(noise, tuple(shape), mode="trilinear", align_corners=nodes[0] > 1)
    return noise[0, 0] * 1.5


def _add_section_faults(image: Tensor, rng: np.random.Generator) -> None:
    """Vary the brightness of sections, and blur, empty or partly darken a few, in place."""
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


def _cut_out(image: Tensor, rng: np.random.Generator) -> None:
    """Fill a few random boxes with one grey value each, in place."""
    for _ in range(rng.integers(1, 5)):
        size = [int(rng.integers(1, m)) for m in (5, 14, 14)]
        z, y, x = (int(rng.integers(0, max(1, n - s))) for n, s in zip(image.shape, size))
        image[z : z + size[0], y : y + size[1], x : x + size[2]] = float(rng.uniform(0, 255))
