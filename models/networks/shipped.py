"""Which files weights are, shipped or anyone's. Does without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ...errors import UserError

PACKAGED = Path(__file__).parents[1] / "weights"
PREFIX = "flysoma/"


def packaged_names() -> list[str]:
    """Names of the weights that are shipped."""
    return [PREFIX + path.stem for path in sorted(PACKAGED.glob("*.safetensors"))]


def find_weights(name: str) -> Path:
    """The file of shipped weights, or the file itself; UserError where there is none."""
    packaged = name.startswith(PREFIX)
    path = PACKAGED / f"{name.removeprefix(PREFIX)}.safetensors" if packaged else Path(name)
    if not path.is_file():
        shipped = ", ".join(packaged_names()) or "none"
        raise UserError(
            f"no weights file at '{name}'; give a file, or one of those shipped: {shipped}"
        )
    return path


def fingerprint(path: Path) -> str:
    """The sha256 of a file of weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
