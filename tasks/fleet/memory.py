"""What memory this process holds, held at most, and keeps; as Linux tells, and its C library does."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

_PROC = Path("/proc/self")
_KEPT = 1 << 30  # bytes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed() -> None:
    """Keep up to 1 GB that was freed for what comes next: fetching pages anew was a quarter of a network's time."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # only glibc has it
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(option, _KEPT)


def resident_gb() -> float:
    """Memory held now."""
    return _kilobytes("VmRSS") * 1024 / 1e9


def peak_gb() -> float:
    """The most that was held since `forget_peak`, or since the process began."""
    return _kilobytes("VmHWM") * 1024 / 1e9


def forget_peak() -> None:
    """Let the peak begin at what is held now, where Linux lets us."""
    with contextlib.suppress(OSError):
        (_PROC / "clear_refs").write_text("5")


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", (_PROC / "status").read_text(), re.M)
    return int(found.group(1)) if found else 0
