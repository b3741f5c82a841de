"""How well a network does on volumes that it does not learn from: scores by voxel, and a picture. All z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.engines import has_bf16
from ..networks.weights import Network, NetworkSpec
from .config import TrainConfig
from .dataset import Volume
from .losses import soma_loss
from .targets import Role

_JUDGED = (96, 192, 192)  # voxels of a held-out volume that are looked at
_COLOURS = ((1, (230, 60, 60)), (2, (60, 220, 90)))


def judge_voxels(
    network: Network, volumes: Sequence[Volume], config: TrainConfig
) -> dict[str, Any]:
    """Loss, Dice of all soma classes together and IoU of the first, in the middle of each volume; `score`: the IoU."""
    classes = len(network.spec.classes)
    table, losses = np.zeros((classes, classes), np.int64), []
    for volume in volumes:
        middle = tuple(
            slice(max(0, (n - m) // 2), (n + m) // 2) for n, m in zip(volume.image.shape, _JUDGED)
        )
        truth = _truth(network.spec, volume, config.boundary_nm)[middle]
        target = torch.from_numpy(truth)[None]
        with torch.inference_mode():
            logits = logits_of(network, volume.image[middle], config.bf16)
            losses.append(float(soma_loss(logits, target, config.weights, config.dice)))
        found = logits.argmax(1)[0].numpy().astype(np.int64)
        known = truth < classes
        pairs = truth[known].astype(np.int64) * classes + found[known]
        table += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    hit = table[1:, 1:].sum()
    dice = 2 * hit / max(1, 2 * hit + table[1:, 0].sum() + table[0, 1:].sum())
    iou = table[1, 1] / max(1, table[1].sum() + table[:, 1].sum() - table[1, 1])
    false = table[0, 1:].sum() / max(1, table[0].sum())
    return {
        "score": [round(float(iou), 4)],
        "iou": round(float(iou), 4),
        "dice": round(float(dice), 4),
        "false_share_of_background": round(float(false), 5),
        "loss": round(float(np.mean(losses)), 4),
    }


def save_picture(
    network: Network, volumes: Sequence[Volume], config: TrainConfig, path: Path
) -> np.ndarray:
    """The middle section of up to four volumes: image; truth; prediction (first class red, second green).

    Returns the picture, rows, columns, 3.
    """
    from PIL import Image

    rows = []
    for volume in volumes[:4]:
        middle = len(volume.image) // 2
        with torch.inference_mode():
            logits = logits_of(network, volume.image, config.bf16)
        grey, truth = volume.image[middle], _truth(network.spec, volume, config.boundary_nm)[middle]
        found = logits[0, :, middle].argmax(0).numpy()
        tiles = [_coloured(grey, np.zeros_like(found)), _coloured(grey, truth)]
        rows.append(np.concatenate([*tiles, _coloured(grey, found)], axis=1))
    width = min(row.shape[1] for row in rows)
    picture = np.concatenate([row[:, :width] for row in rows])
    Image.fromarray(picture).save(path)
    return picture


def logits_of(network: Network, image: np.ndarray, bf16: bool) -> Tensor:
    """Logits of one image, 1, classes, z, y, x, on the processor."""
    device = next(network.module.parameters()).device
    images = torch.from_numpy(image)[None, None].float().to(device)
    return run_network(network.module, network.spec, images, bf16).float().cpu()


def run_network(module: nn.Module, spec: NetworkSpec, images: Tensor, bf16: bool) -> Tensor:
    """Logits of images (grey, n, 1, z, y, x)."""
    images = spec.feed(images).to(memory_format=torch.channels_last_3d)
    device = images.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16 and has_bf16(device)):
        return module(images)


def _truth(spec: NetworkSpec, volume: Volume, boundary_nm: float) -> np.ndarray:
    return volume.targets(spec.voxel_nm, cast(Role, spec.role), boundary_nm)


def _coloured(grey: np.ndarray, classes: np.ndarray) -> np.ndarray:
    picture = np.stack([grey] * 3, axis=-1).astype(np.float32)
    for number, colour in _COLOURS:
        inside = classes == number
        picture[inside] = 0.6 * picture[inside] + 0.4 * np.array(colour)
    return picture.astype(np.uint8)
