"""The resident memory of this process, as Linux reports it, and the setting by which glibc keeps freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

_PROC = Path("/proc/self")
_KEPT_BYTES = 1 << 30
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed() -> None:
    """Keep up to 1 GB of freed memory for later allocations, because mapping pages again is slow."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has mallopt
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _KEPT_BYTES)


def resident_gb() -> float:
    """Return the resident memory, GB."""
    return _kilobytes("VmRSS") * 1024 / 1e9


def peak_gb() -> float:
    """Return the largest resident memory since `reset_peak`, or since the process started, GB."""
    return _kilobytes("VmHWM") * 1024 / 1e9


def reset_peak() -> None:
    """Set the peak to the current resident memory, where Linux permits it."""
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5")


def _kilobytes(name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB$", (_PROC / "status").read_text(), re.M)
    return int(match.group(1)) if match else 0
