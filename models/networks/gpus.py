"""The GPUs of this machine. Importable without torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

_DEVICES, _DRIVER = Path("/dev"), Path("/proc/driver/nvidia/version")


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES has for them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    return list(map(str, range(len(list(_DEVICES.glob("nvidia[0-9]*"))))))


def gpu_environment(number: int) -> dict[str, str]:
    """Return the environment in which worker `number` of this machine uses one of several GPUs, in turn."""
    gpus = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else {}


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, or None without a driver."""
    try:
        match = re.search(r"Kernel Module\D*([0-9.]+)", _DRIVER.read_text())
    except OSError:
        return None
    return match and match[1]
