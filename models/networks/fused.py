"""Compile a network for a GPU; needs Triton. Tensors are n, c, z, y, x, or rows of channels.

torch.compile fuses the operations between convolutions into few kernels. The deterministic option makes it choose
kernels by rule instead of by timing, so that all GPUs of one model give the same bytes. For reductions over channels
that rule chooses slow kernels, so the residual blocks of SomaNet use a kernel of our own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from .network import to_channels_last
from .somanet import EPSILON, Residual, SomaNet

_VALUES_PER_PROGRAM = 2048


def compile_network(module: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Compile a copy of a network in half precision, for images of one size."""
    module = copy.deepcopy(module)
    if isinstance(module, SomaNet):
        for blocks in (module.down, module.up):
            for number, block in enumerate(blocks):
                assert isinstance(block, Residual)
                width = block.first.out_channels
                if width & (width - 1) == 0:  # the kernel supports powers of two
                    blocks[number] = _FusedResidual(block)
    module = to_channels_last(module.to(dtype))
    run = torch.compile(module, dynamic=False, options={"deterministic": True})
    return lambda images: run(images.to(dtype))


class _FusedResidual(nn.Module):
    """A residual block whose first bias, normalization and ReLU run as one kernel."""

    def __init__(self, block: Residual) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        first, norm = self.block.first, self.block.norm
        convolved = F.conv3d(x, first.weight, padding=first.padding)
        rows = convolved.permute(0, 2, 3, 4, 1).contiguous()
        normed = norm_relu(rows, first.bias, norm.weight, norm.bias)
        return self.block.second(normed.permute(0, 4, 1, 2, 3)) + x


@torch.library.triton_op("flysoma::norm_relu", mutates_args=())
def norm_relu(rows: Tensor, bias: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """Compute relu(layer_norm(rows + bias) * weight + shift) over the last axis.

    Args:
      rows: any shape; the length of the last axis is a power of two.
      bias, weight, shift: one value per channel.
    """
    output = torch.empty_like(rows)
    channels = rows.shape[-1]
    count, block = rows.numel() // channels, _VALUES_PER_PROGRAM // channels
    grid = (triton.cdiv(count, block),)
    torch.library.wrap_triton(_norm_relu)[grid](
        rows, bias, weight, shift, output, count, CHANNELS=channels, BLOCK=block, EPS=EPSILON
    )
    return output


@triton.jit  # type: ignore[untyped-decorator]
def _norm_relu(  # type: ignore[no-untyped-def]
    rows, bias, weight, shift, output, count,
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
    tl.store(output + place, tl.maximum(value, 0.0).to(output.dtype.element_ty), mask=inside)
