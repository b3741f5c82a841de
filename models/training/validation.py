"""Validate a network on held-out volumes: scores by voxel, and a picture. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..networks.engines import has_bf16
from ..networks.network import Network, NetworkSpec
from .config import TrainConfig
from .dataset import Volume
from .losses import soma_loss
from .targets import CLASS, IGNORE, NUCLEUS, Role

_CROP_VX = (96, 192, 192)  # part of a held-out volume that is scored
_COLOURS = ((1, (230, 60, 60)), (2, (60, 220, 90)))
_NUCLEUS_COLOUR = (60, 110, 250)


def score_voxels(
    network: Network, volumes: Sequence[Volume], config: TrainConfig
) -> dict[str, Any]:
    """Score the voxels in the middle of each volume.

    Returns:
      `iou` of the first soma class, `dice` of all soma classes together, the false positive rate in the background,
      the mean `loss`, `nucleus_dice` where nuclei are annotated, and `score`, a list that holds the IoU.
    """
    classes = len(config.loss_weights)
    confusion, losses = np.zeros((classes, classes), np.int64), []
    nuclei = np.zeros(2, np.int64)
    for volume in volumes:
        middle = tuple(
            slice(max(0, (n - m) // 2), (n + m) // 2) for n, m in zip(volume.image.shape, _CROP_VX)
        )
        truth = _truth(network.spec, volume, config.boundary_nm)[middle]
        target = torch.from_numpy(truth)[None]
        with torch.inference_mode():
            logits = predict_logits(network, volume.image[middle], config.bf16)
            losses.append(float(soma_loss(logits, target, config.loss_weights, config.dice)))
        predicted = logits[0, :classes].argmax(0).numpy().astype(np.int64)
        known = truth != IGNORE
        pairs = (truth & CLASS)[known].astype(np.int64) * classes + predicted[known]
        confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        if volume.parts is not None and logits.shape[1] > classes:
            nucleus, true = logits[0, classes].numpy() > 0, truth & NUCLEUS > 0
            true &= known
            nuclei += 2 * (nucleus & true).sum(), nucleus[known].sum() + true.sum()
    hits = confusion[1:, 1:].sum()
    dice = 2 * hits / max(1, 2 * hits + confusion[1:, 0].sum() + confusion[0, 1:].sum())
    union = confusion[1].sum() + confusion[:, 1].sum() - confusion[1, 1]
    iou = confusion[1, 1] / max(1, union)
    false = confusion[0, 1:].sum() / max(1, confusion[0].sum())
    nucleus_dice = {"nucleus_dice": round(float(nuclei[0] / nuclei[1]), 4)} if nuclei[1] else {}
    return nucleus_dice | {
        "score": [round(float(iou), 4)],
        "iou": round(float(iou), 4),
        "dice": round(float(dice), 4),
        "false_share_of_background": round(float(false), 5),
        "loss": round(float(np.mean(losses)), 4),
    }


def save_picture(
    network: Network, volumes: Sequence[Volume], config: TrainConfig, path: Path
) -> np.ndarray:
    """Draw the middle section of up to four volumes: image, truth and prediction in a row.

    The first class is red, the second green, a nucleus blue.

    Returns:
      the picture, rows, columns, 3.
    """
    from PIL import Image

    rows = []
    for volume in volumes[:4]:
        middle = len(volume.image) // 2
        with torch.inference_mode():
            logits = predict_logits(network, volume.image, config.bf16)
        grey, truth = volume.image[middle], _truth(network.spec, volume, config.boundary_nm)[middle]
        predicted = _code(logits[0, :, middle], len(config.loss_weights))
        panels = [_colour(grey, target) for target in (np.zeros_like(truth), truth, predicted)]
        rows.append(np.concatenate(panels, axis=1))
    width = min(row.shape[1] for row in rows)
    picture = np.concatenate([row[:, :width] for row in rows])
    Image.fromarray(picture).save(path)
    return picture


def predict_logits(network: Network, image: np.ndarray, bf16: bool) -> Tensor:
    """Compute the logits of one image (1, classes, z, y, x), on the CPU."""
    device = next(network.module.parameters()).device
    images = torch.from_numpy(image)[None, None].float().to(device)
    return run_network(network.module, network.spec, images, bf16).float().cpu()


def run_network(module: nn.Module, spec: NetworkSpec, images: Tensor, bf16: bool) -> Tensor:
    """Compute the logits of images (grey values, n, 1, z, y, x)."""
    images = spec.preprocess(images).to(memory_format=torch.channels_last_3d)
    device = images.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16 and has_bf16(device)):
        return module(images)


def _truth(spec: NetworkSpec, volume: Volume, boundary_nm: float) -> np.ndarray:
    return volume.targets(spec.voxel_nm, cast(Role, spec.role), boundary_nm)


def _code(logits: Tensor, classes: int) -> np.ndarray:
    """Return the predicted targets of a section (rows, columns) from its logits (channels, rows, columns)."""
    target = logits[:classes].argmax(0).byte()
    if len(logits) > classes:
        target += NUCLEUS * (logits[classes] > 0).byte()
    return target.numpy()


def _colour(grey: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return a section (rows, columns) in colour, rows, columns, 3."""
    picture = np.stack([grey] * 3, axis=-1).astype(np.float32)
    known = target != IGNORE
    colours = [(known & (target & CLASS == number), colour) for number, colour in _COLOURS]
    for inside, colour in [*colours, (known & (target & NUCLEUS > 0), _NUCLEUS_COLOUR)]:
        picture[inside] = 0.6 * picture[inside] + 0.4 * np.array(colour)
    return picture.astype(np.uint8)
