"""The loss: weighted cross-entropy, soft Dice for rare classes, and the same for the attributes of somas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .targets import ANNOTATED, CLASS, GLIA, IGNORE, NUCLEUS

_SMOOTHING = 100  # voxels added to both sides of the Dice ratio, so that an empty class scores 1


def soma_loss(logits: Tensor, target: Tensor, weights: Sequence[float], dice: float) -> Tensor:
    """Compute the cross-entropy plus `dice` times one minus the soft Dice.

    The attributes nucleus and glia add their binary cross-entropy, that of glia within somas only.

    Args:
      logits: n, channels, z, y, x: as many classes as there are weights, then nucleus and glia or nothing.
      target: target of each voxel, n, z, y, x; IGNORE (255) is excluded.
      weights: class weights of the cross-entropy.
      dice: weight of the Dice term; 0 omits it.
    """
    logits, target = logits.float(), target.long()
    weight = torch.tensor(weights, dtype=logits.dtype, device=logits.device)
    known = target != IGNORE
    if not bool(known.any()):
        return logits.sum() * 0
    logits, attributes = logits[:, : len(weight)], logits[:, len(weight) :]
    classes = torch.where(known, target & CLASS, IGNORE)
    loss = F.cross_entropy(logits, classes, weight, ignore_index=IGNORE)
    if dice:
        loss = loss + dice * (1 - soft_dice(torch.softmax(logits, 1), classes))
    if attributes.shape[1]:
        annotated = known & (target & ANNOTATED > 0)
        loss = loss + _binary_loss(attributes[:, 0], target & NUCLEUS > 0, annotated, dice)
        loss = loss + _binary_loss(
            attributes[:, 1], target & GLIA > 0, annotated & (classes > 0), 0
        )
    return loss


def _binary_loss(logits: Tensor, truth: Tensor, known: Tensor, dice: float) -> Tensor:
    """Compute the binary cross-entropy plus `dice` times one minus the soft Dice, of known voxels."""
    if not bool(known.any()):
        return logits.sum() * 0
    loss = F.binary_cross_entropy_with_logits(logits[known], truth[known].to(logits.dtype))
    if dice:
        probability = torch.sigmoid(logits)
        both = torch.stack((1 - probability, probability), 1)
        loss = loss + dice * (1 - soft_dice(both, torch.where(known, truth.long(), IGNORE)))
    return loss


def soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Compute the mean of 2 |p t| / (|p| + |t|) over all classes but the background; 1 where both are empty."""
    known = target != IGNORE
    scores = []
    for number in range(1, probability.shape[1]):
        p = probability[:, number] * known
        t = (target == number).to(p.dtype)
        scores.append((2 * (p * t).sum() + _SMOOTHING) / (p.sum() + t.sum() + _SMOOTHING))
    return torch.stack(scores).mean()
