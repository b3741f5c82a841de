"""The inference of Liu et al. (CVPR 2023), reimplemented from its description and run with flysoma's networks.

    seeds       26-connected components of the argmax of the localization network, upsampled twice in z
    patches     seven for each seed: around it, and shifted both ways along each axis by 60 sections or 3840 nm
    windows     all positions of a lattice (steps of 30 sections and 1920 nm) that touch the border of the volume
    voxels      soma where p(interior) > 0.98 and p(boundary) < 0.02 in any patch or window
    sections    holes under 0.524 um2 are filled, objects under 0.262 um2 removed
    instances   6-connected components of at least 1.05 um3

Arrays and coordinates are z, y, x.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import cc3d
import numpy as np
import torch
import torch.nn.functional as F
from skimage.morphology import remove_small_holes, remove_small_objects

from ....axes import Voxel, Zyx
from ....models.inference.encoding import FULL
from ....models.inference.predictor import Predictor
from ....models.networks.network import Network
from ....models.training.emads import downsample_image
from ....models.training.validation import predict_logits

PATCH = (130, 102, 102)  # voxels of the segmentation network
SHIFT = (60, 60, 60)
STRIDE = (30, 30, 30)
THRESHOLD = 0.98
_HOLE_UM2, _MIN_UM2, _MIN_UM3 = 2048 * 256e-6, 1024 * 256e-6, 102_400 * 10_240e-9


def published_inference(
    image: np.ndarray, voxel_nm: Voxel, locate: Network, segment: Network, engine: str = ""
) -> np.ndarray:
    """Return the soma labels (uint32) of a volume.

    Args:
      image: uint8; a voxel of the segmentation network spans a whole number of its voxels along each axis.
      engine: name of the engine that runs the networks; default: the fastest on this machine.
    """
    z, y, x = (round(n / v) for n, v in zip(segment.spec.voxel_nm, voxel_nm))
    factor = (z, y, x)
    work = downsample_image(image, factor)
    seeds = published_seeds(downsample_image(work, (6, 1, 1)), locate)
    centres = (seeds + 0.5) * (3, 1, 1)  # from sections of 120 nm to those of 40 nm
    depth, height, width = work.shape
    volume = (depth, height, width)
    starts = {*patch_starts(centres, volume), *border_starts(volume)}
    dz, dy, dx = (min(p, n) for p, n in zip(PATCH, volume))
    window = (dz, dy, dx)
    spec = replace(segment.spec, window=window)
    predictor = Predictor(Network(segment.module, spec), engine=engine)
    soma = np.zeros(image.shape, bool)
    for start in starts:
        box = tuple(slice(a, a + w) for a, w in zip(start, window))
        probability = predictor(work[box][None])[0].astype(np.float32) / FULL
        fine = _upsample(probability, factor)
        full = tuple(slice(a * f, a * f + n) for a, f, n in zip(start, factor, fine.shape[1:]))
        soma[full] |= (fine[0] > THRESHOLD) & (fine[1] < 1 - THRESHOLD)
    return _instances(soma, voxel_nm)


def published_seeds(image: np.ndarray, locate: Network) -> np.ndarray:
    """Return the centroids of the seeds, in voxels of 120 x 64 x 64 nm, of an image of 240 x 64 x 64 nm voxels."""
    with torch.inference_mode():
        logits = predict_logits(locate, image, bf16=False)
    classes = F.interpolate(logits, scale_factor=(2, 1, 1), mode="nearest").argmax(1)[0].numpy()
    components = cc3d.connected_components(classes == 1, connectivity=26, out_dtype=np.uint32)
    return np.asarray(cc3d.statistics(components)["centroids"][1:])


def patch_starts(centres: np.ndarray, volume: Zyx) -> Iterator[Zyx]:
    """Yield the first voxel of the seven patches of each seed, shifted to lie in the volume."""
    shifts = np.zeros((7, 3), int)
    shifts[1:4], shifts[4:] = np.diag(SHIFT), -np.diag(SHIFT)
    last = [max(0, n - p) for n, p in zip(volume, PATCH)]
    for centre, shift in product(centres, shifts):
        first = np.rint(centre + shift - np.array(PATCH) / 2).astype(int)
        z, y, x = np.clip(first, 0, last).tolist()
        yield z, y, x


def border_starts(volume: Zyx) -> Iterator[Zyx]:
    """Yield the first voxel of each window that touches the border of the volume."""
    axes = []
    for n, p, s in zip(volume, PATCH, STRIDE):
        last = max(0, n - p)
        axes.append(sorted({*range(0, last, s), last}))
    for z, y, x in product(*axes):
        if any(a in (axis[0], axis[-1]) for a, axis in zip((z, y, x), axes)):
            yield z, y, x


def _instances(soma: np.ndarray, voxel_nm: Voxel) -> np.ndarray:
    pixel_um2 = voxel_nm[1] * voxel_nm[2] * 1e-6
    for section in soma:
        section[:] = remove_small_holes(section, max_size=int(_HOLE_UM2 / pixel_um2) - 1)
        section[:] = remove_small_objects(section, max_size=int(_MIN_UM2 / pixel_um2) - 1)
    labels = cc3d.connected_components(soma, connectivity=6, out_dtype=np.uint32)
    counts = cc3d.statistics(labels)["voxel_counts"].astype(np.int64)
    small = counts * (float(np.prod(voxel_nm)) * 1e-9) < _MIN_UM3
    return np.where(small, 0, np.arange(len(counts), dtype=np.uint32))[labels]


def _upsample(probability: np.ndarray, factor: Zyx) -> np.ndarray:
    if factor == (1, 1, 1):
        return probability
    upsampled = F.interpolate(
        torch.from_numpy(probability)[None], scale_factor=tuple(factor), mode="trilinear"
    )
    return upsampled[0].numpy()
