"""The loss: weighted cross-entropy, and soft Dice for rare classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .targets import IGNORE

_SMOOTHING = 100  # voxels added to both sides of the Dice ratio, so that an empty class scores 1


def soma_loss(logits: Tensor, target: Tensor, weights: Sequence[float], dice: float) -> Tensor:
    """Compute the cross-entropy plus `dice` times one minus the soft Dice.

    Args:
      logits: n, classes, z, y, x.
      target: class of each voxel, n, z, y, x; IGNORE (255) is excluded.
      weights: class weights of the cross-entropy.
      dice: weight of the Dice term; 0 omits it.
    """
    logits, target = logits.float(), target.long()
    weight = torch.tensor(weights, dtype=logits.dtype, device=logits.device)
    if bool((target == IGNORE).all()):
        return logits.sum() * 0
    loss = F.cross_entropy(logits, target, weight, ignore_index=IGNORE)
    if dice:
        loss = loss + dice * (1 - soft_dice(torch.softmax(logits, 1), target))
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
