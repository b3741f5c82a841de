"""Find weights files and compute their fingerprints. Importable without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ...errors import UserError

PACKAGED = Path(__file__).parents[1] / "weights"
PREFIX = "flysoma/"


def packaged_names() -> list[str]:
    """Return the names of the weights that ship with the package."""
    return [PREFIX + path.stem for path in sorted(PACKAGED.glob("*.safetensors"))]


def find_weights(name: str) -> Path:
    """Return the path of a weights file.

    Args:
      name: `flysoma/NAME` for weights that ship with the package, otherwise a path.
    Raises:
      UserError: there is no such file.
    """
    packaged = name.startswith(PREFIX)
    path = PACKAGED / f"{name.removeprefix(PREFIX)}.safetensors" if packaged else Path(name)
    if not path.is_file():
        known = ", ".join(packaged_names()) or "none"
        raise UserError(
            f"no weights file at '{name}'; give a path, or the name of shipped weights: {known}"
        )
    return path


def names_nuclei(name: str) -> bool:
    """Return whether a weights file names nuclei among the channels of its network; False without such a file."""
    try:
        with safe_open(str(find_weights(name)), framework="numpy") as file:
            spec = json.loads((file.metadata() or {}).get("spec", "{}"))
    except (UserError, SafetensorError, OSError, ValueError):
        return False
    return "nucleus" in spec.get("classes", ())


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
