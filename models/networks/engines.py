"""Ways to run a network: one answer, at several speeds. Tensors are n, c, z, y, x."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from .unet import SomaNet, UNet
from .weights import Network

BATCH = {"cpu": 1, "cuda": 4}  # windows at a time
Run = Callable[[Tensor], Tensor]  # what `feed` gives (float32, on the device) to logits


def engines(device: str, lasting: bool = True) -> list[str]:
    """Names of the engines that this machine has, the one that is taken first: the fastest where it was measured.

    Args:
      lasting: whether the network will see windows of one size for long; otherwise without engines that are made
        ready for one size alone, which takes many seconds.
    """
    if device == "cuda":
        makers = ["torch compiled", "torch"] if lasting and can_compile() else ["torch"]
        return [
            *(f"{maker} {kind}" for maker in makers for kind in ("fp16", "bf16")),
            "torch float32",
        ]
    makers = ["torch"]
    if importlib.util.find_spec("openvino") is not None:  # to compare with
        makers.append("openvino")
    kinds = ["bf16", "float32"] if has_bf16(device) else ["float32"]
    return [f"{maker} {kind}" for kind in kinds for maker in makers]


def start_engine(name: str, network: Network, device: str) -> Run:
    """A network that is ready to run; `name` as in `engines`. What others wrote (Swin UNETR) is not compiled."""
    module = network.module.to(device).eval()
    if name.startswith("openvino"):
        return _openvino(module, name.endswith("bf16"))
    kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name.split()[-1])
    if "compiled" in name and kind and isinstance(module, (SomaNet, UNet)):
        from .fused import compiled  # brings in Triton

        return compiled(module, kind)
    module = module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def run(images: Tensor) -> Tensor:
        images = images.to(memory_format=torch.channels_last_3d)
        with torch.autocast(device, dtype=kind, enabled=kind is not None):
            return module(images)

    return run


def _openvino(module: nn.Module, bf16: bool) -> Run:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}

    @lru_cache
    def compiled(*size: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are traced: they are those of a window
            model = openvino.convert_model(
                module, example_input=torch.zeros(1, 1, *size), input=[-1, 1, *size]
            )
        return openvino.compile_model(model, "CPU", hint)

    return lambda images: torch.from_numpy(compiled(*images.shape[2:])(images.numpy())[0])


def can_compile() -> bool:
    """Whether torch.compile can make kernels for a GPU: it needs Triton, a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = os.path.join(sysconfig.get_path("include"), "Python.h")
    has_triton = importlib.util.find_spec("triton") is not None
    return has_triton and compiler is not None and os.path.exists(headers)


def has_bf16(device: str) -> bool:
    """Whether bfloat16 is faster than float32; FLYSOMA_FLOAT32=1 says no on any processor."""
    if device == "cuda":
        return True
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return not os.environ.get("FLYSOMA_FLOAT32") and bool(known())
