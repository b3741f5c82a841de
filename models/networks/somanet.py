"""SomaNet: the residual U-Net that flysoma trains and ships. Tensors are n, c, z, y, x."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...axes import Zyx

EPSILON = 1e-5  # added to the variance in layer normalization


class SomaNet(nn.Module):
    """Residual U-Net that convolves folded voxels.

    Before the first convolution, blocks of `stem` voxels (z, y, x) are folded into the channels of one voxel. The
    head's channels are unfolded into voxels at the end. No information is lost, and every convolution runs at the
    folded resolution, which with the default stem costs an eighth of the work.

    Normalization is per voxel, so the output at a voxel depends only on its surroundings and not on the rest of the
    window. Any input size works: the input is padded to a multiple of `multiple`, and the output is cropped.

    Args:
      classes: channels of the output (logits).
      stem: voxels folded into one, z, y, x.
      widths: channels at each level, starting at the folded resolution; multiples of 32 are fast.
      pools: pooling factor between consecutive levels, z, y, x; one fewer than `widths`.
    Raises:
      ValueError: `widths` and `pools` do not match.
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
        self._initialize()

    @property
    def multiple(self) -> Zyx:
        """Input voxels per voxel of the coarsest level, z, y, x."""
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
                with _no_cpu_autocast():
                    x = F.max_pool3d(x, self.pools[level])
                x = self.wider[level](x)
        for level in reversed(range(len(self.pools))):
            x = F.interpolate(self.narrower[level](x), skips[level].shape[2:], mode="nearest")
            x = self.up[level](x.add_(skips[level]))
        x = _unfold(self.head(x), self.stem, self.classes)
        return x[:, :, : size[0], : size[1], : size[2]]

    def _initialize(self) -> None:
        """Draw the initial weights: residual blocks start as the identity, and coarser levels add nothing."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for block in self.modules():
            if isinstance(block, Residual):
                nn.init.zeros_(block.second.weight)
        for conv in self.narrower:
            assert isinstance(conv, nn.Conv3d)
            nn.init.zeros_(conv.weight)
        nn.init.normal_(self.head.weight, std=0.01)


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
    """Layer normalization over the channels of each voxel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        voxels = x.permute(0, 2, 3, 4, 1)
        with _no_cpu_autocast():
            normed = F.layer_norm(voxels, self.weight.shape, self.weight, self.bias, EPSILON)
        return normed.permute(0, 4, 1, 2, 3).to(x.dtype)


def _no_cpu_autocast() -> torch.autocast:
    """Disable autocast for layers that autocast would run in float32 on a CPU.

    These layers accumulate in float32 for any input type, so the result is the same, and less memory is moved.
    """
    return torch.autocast("cpu", enabled=False)


def _fold(x: Tensor, stem: Sequence[int]) -> Tensor:
    """Reshape n, c, z, y, x to n, c*stem, z/sz, y/sy, x/sx."""
    n, c, z, y, w = x.shape
    a, b, d = stem
    x = x.reshape(n, c, z // a, a, y // b, b, w // d, d)
    x = x.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, c * a * b * d, z // a, y // b, w // d)
    return x.contiguous(memory_format=torch.channels_last_3d)


def _unfold(x: Tensor, stem: Sequence[int], classes: int) -> Tensor:
    """Invert `_fold`."""
    n, _, z, y, w = x.shape
    a, b, d = stem
    x = x.reshape(n, classes, a, b, d, z, y, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(n, classes, z * a, y * b, w * d)
