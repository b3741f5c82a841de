"""What memory this process holds, and held at most; as Linux tells."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_PROC = Path("/proc/self")


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
