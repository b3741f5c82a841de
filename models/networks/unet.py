"""The 3D U-Net of Liu et al. (CVPR 2023), as published. Tensors are n, c, z, y, x."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """U-Net without biases and without normalization layers.

    The names and shapes of its parameters are those of the published checkpoints (`ec0.0.weight`, ...). With two
    classes it has 1,600,376 parameters. Upsampling is trilinear to the exact size of the skip connection, so every
    input size that can be halved three times works.

    Args:
      in_channels: channels of the input.
      classes: channels of the output (logits).
    """

    multiple = (8, 8, 8)

    def __init__(self, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__()
        encoder = [in_channels, 8, 16, 16, 32, 32, 64, 64, 128]
        for i, before in enumerate(encoder[:-1]):
            after = encoder[i + 1]
            self.add_module(f"ec{i}", _conv_relu(before, after))
        shapes = {9: (128, 128), 8: (192, 64), 7: (64, 64), 6: (64, 64), 5: (96, 32)}
        shapes |= {4: (32, 32), 3: (32, 32), 2: (48, 16), 1: (16, 16)}
        for i, (before, after) in shapes.items():
            self.add_module(f"dc{i}", _conv_relu(before, after))
        self.dc0 = nn.Sequential(nn.Conv3d(16, classes, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level in range(4):
            if level:
                x = F.max_pool3d(x, 2)
            x = self._apply_layers(x, f"ec{2 * level}", f"ec{2 * level + 1}")
            skips.append(x)
        for level, (up, join, last) in zip((2, 1, 0), ((9, 8, 7), (6, 5, 4), (3, 2, 1))):
            skip = skips[level]
            x = F.interpolate(x, skip.shape[2:], mode="trilinear", align_corners=False)
            x = self._apply_layers(x, f"dc{up}")
            x = self._apply_layers(torch.cat([x, skip], dim=1), f"dc{join}", f"dc{last}")
        return self.dc0(x)

    def _apply_layers(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


def _conv_relu(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1, bias=False), nn.ReLU())
