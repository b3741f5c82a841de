"""Speed of the networks, engine by engine, beside the largest matrix product and the largest copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ....axes import Zyx
from ....models.networks.engines import BATCH, engines, has_bf16, start_engine
from ....models.networks.weights import load_network
from ....models.phantom.make import make_phantom
from ....tasks.config import RunConfig
from ....tasks.volumes.geometry import Box, to_voxels
from ....tasks.volumes.tiles import Tiles
from .timing import Row, Timing

_SIDE = {"cpu": 4096, "cuda": 16384}  # of the matrices
_COPIED = 1 << 30  # bytes
_CHUNK_VX = 64
_BRAIN_NM = 250_000.0
_SEED = 171
SAME = 0.995  # share of voxels whose class must be that of float32


def network_rows(timing: Timing) -> Iterator[Row]:
    """The device's ceilings, then each network in each engine."""
    ceilings: dict[str, float] = {}
    for row in _ceilings(timing):
        ceilings[row.name.split()[-1]] = row.median
        yield row
    for weights, window in _windows():
        yield from _engines(timing, weights, window, ceilings)


def _windows() -> Iterator[tuple[str, Zyx]]:
    """Both networks and the windows that they see in a run over a large volume."""
    config = RunConfig(image="image", output="run")
    stages = config.locate, config.segment
    boxes = [Box((0, 0, 0), to_voxels(_BRAIN_NM, stage.resolution_nm)) for stage in stages]
    x, y, z = (_CHUNK_VX * nm for nm in config.segment.resolution_nm)
    tiles = Tiles.of(config, *boxes, ((0.0, 0.0, 0.0), (x, y, z)))
    for stage, lattice in zip(stages, (tiles.coarse, tiles.fine)):
        yield stage.weights, lattice.fitted(load_network(stage.weights).multiple).window


def _ceilings(timing: Timing) -> Iterator[Row]:
    side = _SIDE[timing.device]
    kinds = {"float32": torch.float32} | (
        {"bf16": torch.bfloat16} if has_bf16(timing.device) else {}
    )
    for name, kind in kinds.items():
        matrix = torch.randn(side, side, device=timing.device).to(kind)
        found = timing.seconds(f"product {name}", lambda: matrix @ matrix)  # noqa: B023
        yield Row(f"matrix product {name}", "GFLOP/s", tuple(2e-9 * side**3 / s for s in found))
    source = torch.zeros(_COPIED, dtype=torch.uint8, device=timing.device)
    target = torch.empty_like(source)
    found = timing.seconds("copy", lambda: target.copy_(source))
    yield Row("copy", "GB/s", tuple(2e-9 * _COPIED / s for s in found), {"read and": "written"})


@torch.inference_mode()
def _engines(
    timing: Timing, weights: str, window: Zyx, ceilings: dict[str, float]
) -> Iterator[Row]:
    network = load_network(weights)
    spec = network.spec
    phantom = make_phantom(window, spec.voxel_nm, _SEED, "typical", scene="rind")
    images = torch.from_numpy(phantom.image).expand(BATCH[timing.device], 1, *window)
    fed = spec.feed(images.float().to(timing.device))
    module = network.module.to(timing.device)
    with FlopCounterMode(display=False) as counter:
        wanted = module(fed).argmax(1)
    gflop = counter.get_total_flops() * 1e-9
    convolutions = _convolutions(module, fed)
    for engine in engines(timing.device):
        run = start_engine(engine, network, timing.device)
        found = timing.seconds(f"{weights} {engine}", lambda: run(fed))  # noqa: B023
        rates = tuple(gflop / s for s in found)
        wide = engine.endswith("float32")
        ceiling = ceilings["float32" if wide else "bf16"]
        least = sum(
            max(1e-9 * flop / ceiling, 1e-9 * (4 if wide else 2) * values / ceilings["copy"])
            for flop, values in convolutions
        )
        yield Row(
            f"{weights} {engine}",
            "GFLOP/s",
            rates,
            {
                "Mvoxel/s": 1e-6 * images.numel() / float(np.median(found)),
                "of the product": float(np.median(rates)) / ceiling,
                "of the roofline": least / float(np.median(found)),
                "same class as float32": _agreement(run(fed), wanted),
            },
        )


def _convolutions(module: nn.Module, fed: Tensor) -> list[tuple[float, int]]:
    """Of each convolution: operations, and values that it reads and writes.

    The roofline is the time that they alone need on this device, each as fast as the matrix product or the copy
    lets it be, whichever takes longer; all else a network does is taken to cost nothing.
    """
    found: list[tuple[float, int]] = []

    def note(conv: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = inputs[0].numel() + output.numel() + conv.weight.numel()
        found.append((2.0 * output.numel() * conv.weight[0].numel(), values))

    hooks = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, nn.Conv3d)]
    module(fed)
    for hook in hooks:
        hook.remove()
    return found


def _agreement(logits: Tensor, wanted: Tensor) -> str:
    """Share of voxels of the same class."""
    share = float((logits.argmax(1).to(wanted.device) == wanted).float().mean())
    return f"{share:.5f}" + ("" if share >= SAME else f": less than {SAME}!")
