"""What training minimises: weighted cross-entropy, and a soft Dice that keeps rare classes alive."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .targets import IGNORE


def soma_loss(logits: Tensor, target: Tensor, weights: Sequence[float], dice: float) -> Tensor:
    """Cross-entropy of every voxel, plus `dice` times one minus the mean soft Dice of the somas' classes.

    Args:
      logits: n, classes, z, y, x.
      target: n, z, y, x, classes; IGNORE (255) counts for nothing.
      weights: of the classes in the cross-entropy.
      dice: weight of the Dice part; 0 leaves it out.
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
    """Mean over all classes but the background of 2 |p t| / (|p| + |t|); 1 where both are empty."""
    known = target != IGNORE
    scores = []
    for number in range(1, probability.shape[1]):
        p = probability[:, number] * known
        t = (target == number).to(p.dtype)
        scores.append((2 * (p * t).sum() + 100) / (p.sum() + t.sum() + 100))
    return torch.stack(scores).mean()
