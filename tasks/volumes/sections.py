"""Single 2D sections in PNG or JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UserError

SECTION_FORMATS = (".png", ".jpg", ".jpeg")


def read_section(path: Path) -> np.ndarray:
    """Read a 2D picture as grey levels: uint8, (y, x). Colours become their luminance.

    Raises UserError: no such file, or it is no picture of 8 bits.
    """
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise UserError(f"no picture at {path}")
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
                raise UserError(
                    f"{path} holds pixels of mode {picture.mode}; convert it to 8-bit grey levels"
                )
            return np.array(picture.convert("L"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as err:
        raise UserError(f"{path} cannot be read as a picture: {err}") from err
