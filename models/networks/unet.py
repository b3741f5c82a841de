"""The published 3D U-Net, and SomaNet, our own. Tensors are n, c, z, y, x."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-5  # of the norm


class UNet(nn.Module):
    """The U-Net of Liu et al. (CVPR 2023): no bias, no normalisation.

    Names and shapes of its parameters are those of the published checkpoints (`ec0.0.weight`, ...);
    with two classes it has 1,600,376 parameters. Upsampling is trilinear, to the skip's exact size,
    so any input size works that survives three halvings.
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
            x = self._run(x, f"ec{2 * level}", f"ec{2 * level + 1}")
            skips.append(x)
        for level, (up, join, last) in zip((2, 1, 0), ((9, 8, 7), (6, 5, 4), (3, 2, 1))):
            skip = skips[level]
            x = F.interpolate(x, skip.shape[2:], mode="trilinear", align_corners=False)
            x = self._run(x, f"dc{up}")
            x = self._run(torch.cat([x, skip], dim=1), f"dc{join}", f"dc{last}")
        return self.dc0(x)

    def _run(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


class SomaNet(nn.Module):
    """A residual U-Net that works on folded voxels: as sharp as the input, an eighth of the work.

    `stem` voxels (z, y, x) become channels of one voxel before the first convolution, and the head's
    channels become voxels again at the end: nothing is lost, but every convolution runs at the folded
    resolution. No normalisation layers: what a voxel gets depends only on what surrounds it, not on
    the rest of its window. Any input size works; it is padded inside to a multiple and cropped again.

    Args:
      classes: channels of the answer (logits).
      stem: voxels folded into one, z, y, x.
      widths: channels at each level, the folded resolution first; multiples of 32 are fast.
      pools: factor between one level and the next, z, y, x; one fewer than widths.
    """

    def __init__(
        self,
        classes: int = 3,
        stem: Sequence[int] = (2, 2, 2),
        widths: Sequence[int] = (32, 64, 128, 128),
        pools: Sequence[Sequence[int]] = ((2, 2, 2), (2, 2, 2), (2, 2, 2)),
    ) -> None:
        super().__init__()
        if len(pools) != len(widths) - 1:
            raise ValueError(f"{len(widths)} levels need {len(widths) - 1} pools, not {len(pools)}")
        self.stem, self.pools, self.classes = tuple(stem), [tuple(p) for p in pools], classes
        fold = stem[0] * stem[1] * stem[2]
        self.enter = nn.Conv3d(fold, widths[0], 3, padding=1)
        self.down = nn.ModuleList(Residual(w) for w in widths)
        self.wider = nn.ModuleList(nn.Conv3d(a, b, 1) for a, b in zip(widths, widths[1:]))
        self.narrower = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(Residual(w) for w in widths[:-1])
        self.head = nn.Conv3d(widths[0], classes * fold, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for block in [*self.down, *self.up]:
            nn.init.zeros_(block.second.weight)  # residual blocks start as the identity
        for conv in self.narrower:  # and each level is alone until it learns to heed a coarser one
            nn.init.zeros_(conv.weight)
        nn.init.normal_(self.head.weight, std=0.01)

    @property
    def multiple(self) -> tuple[int, int, int]:
        """Voxels that become one at the coarsest level."""
        z, y, x = (math.prod(axis) for axis in zip(self.stem, *self.pools))
        return z, y, x

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        pad = [(-n) % m for n, m in zip(size, self.multiple)]
        if any(pad):
            x = F.pad(x, (0, pad[2], 0, pad[1], 0, pad[0]), mode="replicate")
        x = F.relu(self.enter(_fold(x, self.stem)), inplace=True)
        skips = []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.pools):
                skips.append(x)
                with _own_type():
                    x = F.max_pool3d(x, self.pools[level])
                x = self.wider[level](x)
        for level in reversed(range(len(self.pools))):
            x = F.interpolate(self.narrower[level](x), skips[level].shape[2:], mode="nearest")
            x = self.up[level](x.add_(skips[level]))
        x = _unfold(self.head(x), self.stem, self.classes)
        return x[:, :, : size[0], : size[1], : size[2]]


class Residual(nn.Module):
    """x + conv(relu(norm(conv(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv3d(width, width, 3, padding=1)
        self.norm = _ChannelNorm(width)
        self.second = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.norm(self.first(x)), inplace=True)).add_(x)


class _ChannelNorm(nn.Module):
    """Layer normalisation of each voxel's channels alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        voxels = x.permute(0, 2, 3, 4, 1)
        with _own_type():
            normed = F.layer_norm(voxels, self.weight.shape, self.weight, self.bias, EPSILON)
        return normed.permute(0, 4, 1, 2, 3).to(x.dtype)


def _own_type() -> torch.autocast:
    """For layers that autocast would run in float32 on a processor: thrice the memory moved, and the same answer.

    They add up in float32 whatever type they are given.
    """
    return torch.autocast("cpu", enabled=False)


def _conv_relu(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(before, after, 3, padding=1, bias=False), nn.ReLU())


def _fold(x: Tensor, stem: Sequence[int]) -> Tensor:
    """n, c, z, y, x to n, c*stem, z/sz, y/sy, x/sx."""
    n, c, z, y, w = x.shape
    a, b, d = stem
    x = x.reshape(n, c, z // a, a, y // b, b, w // d, d)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, c * a * b * d, z // a, y // b, w // d)
    return x.contiguous(memory_format=torch.channels_last_3d)


def _unfold(x: Tensor, stem: Sequence[int], classes: int) -> Tensor:
    """The inverse of _fold."""
    n, _, z, y, w = x.shape
    a, b, d = stem
    x = x.reshape(n, classes, a, b, d, z, y, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(n, classes, z * a, y * b, w * d)
