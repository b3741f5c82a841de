"""Speed of the networks in each engine, beside that of a large matrix product and a large copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ....axes import Zyx
from ....models.networks.engines import BATCH, available_engines, has_bf16, start_engine
from ....models.networks.weights import load_network
from ....models.phantom.make import make_phantom
from ....tasks.config import RunConfig
from ....tasks.grids.geometry import Box, to_voxels
from ....tasks.grids.tiles import Tiles
from .timing import Row, Timing

_SIDE = {"cpu": 4096, "cuda": 16384}  # edge of the matrices
_COPIED = 1 << 30  # bytes
_CHUNK_VX = 64
_BRAIN_NM = 250_000.0
_SEED = 171
MIN_AGREEMENT = 0.995  # share of voxels whose class must equal that of float32


def network_rows(timing: Timing) -> Iterator[Row]:
    """Yield the limits of the device, then the speed of each network in each engine."""
    ceilings: dict[str, float] = {}
    for row in _limit_rows(timing):
        ceilings[row.name.split()[-1]] = row.median
        yield row
    for weights, window in _windows():
        yield from _engine_rows(timing, weights, window, ceilings)


def _windows() -> Iterator[tuple[str, Zyx]]:
    """Yield both networks' weights and the windows that they see in a run over a large volume."""
    config = RunConfig(image="image", output="run")
    coarse, fine = (
        Box((0, 0, 0), to_voxels(_BRAIN_NM, nm))
        for nm in (config.locate.resolution_nm, config.segment.resolution_nm)
    )
    x, y, z = (_CHUNK_VX * nm for nm in config.segment.resolution_nm)
    tiles = Tiles.of(config, coarse, fine, ((0.0, 0.0, 0.0), (x, y, z)))
    for weights, lattice in (
        (config.locate.weights, tiles.coarse),
        (config.segment.weights, tiles.fine),
    ):
        yield weights, lattice.round_window(load_network(weights).multiple).window


def _limit_rows(timing: Timing) -> Iterator[Row]:
    side = _SIDE[timing.device]
    kinds = {"float32": torch.float32} | (
        {"bf16": torch.bfloat16} if has_bf16(timing.device) else {}
    )
    for name, kind in kinds.items():
        matrix = torch.randn(side, side, device=timing.device).to(kind)
        seconds = timing.seconds(f"product {name}", lambda: matrix @ matrix)  # noqa: B023
        yield Row(f"matrix product {name}", "GFLOP/s", tuple(2e-9 * side**3 / s for s in seconds))
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=timing.device)
    target = torch.empty_like(source)
    seconds = timing.seconds("copy", lambda: target.copy_(source))
    rates = tuple(2e-9 * _COPIED / s for s in seconds)
    yield Row("copy", "GB/s", rates, {"counts": "bytes read and written"})


@torch.inference_mode()
def _engine_rows(
    timing: Timing, weights: str, window: Zyx, ceilings: dict[str, float]
) -> Iterator[Row]:
    network = load_network(weights)
    spec = network.spec
    phantom = make_phantom(window, spec.voxel_nm, _SEED, "typical", scene="rind")
    images = torch.from_numpy(phantom.image).expand(BATCH[timing.device], 1, *window)
    inputs = spec.preprocess(images.float().to(timing.device))
    module = network.module.to(timing.device)
    with FlopCounterMode(display=False) as counter:
        reference = module(inputs).argmax(1)
    gflop = counter.get_total_flops() * 1e-9
    convolutions = _convolutions(module, inputs)
    for engine in available_engines(timing.device):
        run = start_engine(engine, network, timing.device)
        seconds = timing.seconds(f"{weights} {engine}", lambda: run(inputs))  # noqa: B023
        rates = tuple(gflop / s for s in seconds)
        float32 = engine.endswith("float32")
        ceiling = ceilings["float32" if float32 else "bf16"]
        roofline_s = sum(
            max(1e-9 * flop / ceiling, 1e-9 * (4 if float32 else 2) * values / ceilings["copy"])
            for flop, values in convolutions
        )
        yield Row(
            f"{weights} {engine}",
            "GFLOP/s",
            rates,
            {
                "Mvoxel/s": 1e-6 * images.numel() / float(np.median(seconds)),
                "of the product": float(np.median(rates)) / ceiling,
                "of the roofline": roofline_s / float(np.median(seconds)),
                "same class as float32": _agreement(run(inputs), reference),
            },
        )


def _convolutions(module: nn.Module, inputs: Tensor) -> list[tuple[float, int]]:
    """Return the operations of each convolution, and the number of values that it reads and writes.

    The roofline is the time of all convolutions if each runs at the speed of the matrix product or of the copy,
    whichever takes longer, and if everything else takes no time.
    """
    convolutions: list[tuple[float, int]] = []

    def record(conv: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        values = args[0].numel() + output.numel() + conv.weight.numel()
        convolutions.append((2.0 * output.numel() * conv.weight[0].numel(), values))

    hooks = [m.register_forward_hook(record) for m in module.modules() if isinstance(m, nn.Conv3d)]
    module(inputs)
    for hook in hooks:
        hook.remove()
    return convolutions


def _agreement(logits: Tensor, reference: Tensor) -> str:
    """Return the share of voxels of the same class."""
    share = float((logits.argmax(1).to(reference.device) == reference).float().mean())
    return f"{share:.5f}" + ("" if share >= MIN_AGREEMENT else f": less than {MIN_AGREEMENT}!")
