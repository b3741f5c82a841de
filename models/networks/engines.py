"""Engines: ways to run a network that give the same result at different speeds. Tensors are n, c, z, y, x."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sysconfig
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import HostError
from .gpus import driver_version, visible_gpus
from .network import Network, to_channels_last
from .somanet import SomaNet
from .unet import UNet

logger = logging.getLogger(__name__)
_LEAST_DRIVER = {"12": "525 or newer", "13": "580 or newer"}  # by the major version of CUDA
BATCH = {"cpu": 1, "cuda": 4}  # default windows per batch
Run = Callable[[Tensor], Tensor]  # preprocessed images (float32, on the device) to logits


def choose_device() -> str:
    """Return `cuda` if torch can use a GPU, otherwise `cpu`.

    Raises:
      HostError: there is a GPU, and its driver is too old for torch.
    """
    if torch.cuda.is_available():
        return "cuda"
    if torch.version.cuda and visible_gpus():
        least = _LEAST_DRIVER.get(torch.version.cuda.partition(".")[0], "a newer one")
        raise HostError(
            f"torch for CUDA {torch.version.cuda} cannot use the GPU: it needs NVIDIA's driver {least}, and this "
            f"machine has {driver_version() or 'none'}; update the driver, or use --device cpu"
        )
    return "cpu"


def available_engines(device: str, allow_compile: bool = True) -> list[str]:
    """Return the names of the engines of this machine, the default first.

    Args:
      device: `cpu` or `cuda`.
      allow_compile: whether to list engines that compile kernels for one input size. Compilation takes many seconds
        per network, so it is worthwhile only for many windows of one size.
    """
    if device == "cuda":
        makers = ["torch compiled", "torch"] if allow_compile and can_compile() else ["torch"]
        return [
            *(f"{maker} {dtype}" for maker in makers for dtype in ("fp16", "bf16")),
            "torch float32",
        ]
    makers = ["torch"]
    if importlib.util.find_spec("openvino") is not None:  # a baseline for benchmarks
        makers.append("openvino")
    dtypes = ["bf16", "float32"] if has_bf16(device) else ["float32"]
    return [f"{maker} {dtype}" for dtype in dtypes for maker in makers]


def start_engine(name: str, network: Network, device: str) -> Run:
    """Return a function that runs a network. Only SomaNet and UNet are compiled.

    Args:
      name: one of `available_engines`.
    """
    module = network.module.to(device).eval()
    if name.startswith("openvino"):
        return _start_openvino(module, name.endswith("bf16"))
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name.split()[-1])
    if "compiled" in name and dtype and isinstance(module, (SomaNet, UNet)):
        from .fused import compile_network  # imports Triton

        return compile_network(module, dtype)
    module = to_channels_last(module)

    def run(images: Tensor) -> Tensor:
        images = images.to(memory_format=torch.channels_last_3d)
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            return module(images)

    return run


def _start_openvino(module: nn.Module, bf16: bool) -> Run:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}

    @lru_cache
    def compile_for(*size: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns about sizes, which are constant here
            model = openvino.convert_model(
                module, example_input=torch.zeros(1, 1, *size), input=[-1, 1, *size]
            )
        return openvino.compile_model(model, "CPU", hint)

    return lambda images: torch.from_numpy(compile_for(*images.shape[2:])(images.numpy())[0])


def can_compile() -> bool:
    """Return whether torch.compile can build GPU kernels: it needs Triton, a C compiler and Python's headers."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    headers = os.path.join(sysconfig.get_path("include"), "Python.h")
    has_triton = importlib.util.find_spec("triton") is not None
    return has_triton and compiler is not None and os.path.exists(headers) and _can_link()


@lru_cache
def _can_link() -> bool:
    """Return whether a kernel can be built: a compiler may be there and not find the library of the driver."""
    try:
        torch.compile(torch.neg)(torch.zeros(8, device="cuda"))
    except Exception as err:  # noqa: BLE001  the compiler's, Triton's and torch's own
        logger.warning("kernels cannot be compiled, so networks run more slowly: %s", err)
        return False
    return True


def has_bf16(device: str) -> bool:
    """Return whether bfloat16 is faster than float32 on a device; FLYSOMA_FLOAT32=1 disables it on CPUs."""
    if device == "cuda":
        return True
    is_supported = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return not os.environ.get("FLYSOMA_FLOAT32") and bool(is_supported())
