"""Networks as a GPU runs them fastest; needs Triton. Tensors are n, c, z, y, x, or rows of channels.

torch.compile fuses what lies between the convolutions into few kernels. It is told to choose them by rule, not by
timing, so that every GPU of a kind gives the same bytes; but of sums over channels its rule makes slow kernels, so
those of SomaNet's residual blocks are one of our own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from .unet import EPSILON, Residual, SomaNet

_VALUES = 2048  # of a program of the kernel


def compiled(module: nn.Module, kind: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A network of this package in half precision, for images of one size; the module itself stays as it is."""
    module = copy.deepcopy(module)
    if isinstance(module, SomaNet):
        for blocks in (module.down, module.up):
            for number, block in enumerate(blocks):
                width = block.first.out_channels  # type: ignore[union-attr]
                if width & (width - 1) == 0:  # the kernel knows powers of two
                    blocks[number] = _Fused(block)  # type: ignore[arg-type]
    module = module.to(kind).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    run = torch.compile(module, dynamic=False, options={"deterministic": True})
    return lambda images: run(images.to(kind))


class _Fused(nn.Module):
    """A residual block whose first bias, norm and relu are one kernel."""

    def __init__(self, block: Residual) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        first, norm = self.block.first, self.block.norm
        found = F.conv3d(x, first.weight, padding=first.padding)
        rows = found.permute(0, 2, 3, 4, 1).contiguous()
        normed = norm_relu(rows, first.bias, norm.weight, norm.bias)
        return self.block.second(normed.permute(0, 4, 1, 2, 3)) + x


@torch.library.triton_op("flysoma::norm_relu", mutates_args=())
def norm_relu(rows: Tensor, bias: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """relu(layer_norm(rows + bias) * weight + shift) over the last axis, whose length is a power of two."""
    found = torch.empty_like(rows)
    channels = rows.shape[-1]
    count, block = rows.numel() // channels, _VALUES // channels
    grid = (triton.cdiv(count, block),)
    torch.library.wrap_triton(_norm_relu)[grid](
        rows, bias, weight, shift, found, count, CHANNELS=channels, BLOCK=block, EPS=EPSILON
    )
    return found


@triton.jit
def _norm_relu(
    rows, bias, weight, shift, found, count,
    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, CHANNELS)
    place = row[:, None] * CHANNELS + channel[None, :]
    inside = (row < count)[:, None]
    value = tl.load(rows + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + channel)[None, :].to(tl.float32)
    value -= (tl.sum(value, 1) / CHANNELS)[:, None]
    value *= tl.rsqrt(tl.sum(value * value, 1) / CHANNELS + EPS)[:, None]
    value = value * tl.load(weight + channel)[None, :].to(tl.float32)
    value += tl.load(shift + channel)[None, :].to(tl.float32)
    tl.store(found + place, tl.maximum(value, 0.0).to(found.dtype.element_ty), mask=inside)
