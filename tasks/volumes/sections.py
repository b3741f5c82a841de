"""Single 2D sections in PNG or JPEG files, and masks beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import UserError

SECTION_FORMATS = (".png", ".jpg", ".jpeg")
MASK_SUFFIX = "_invalid"  # NAME_invalid.png is the mask of image NAME
_MAX_TINT = 8  # grey levels between the channels of a grey picture that was saved in colour as JPEG


def read_section(path: Path) -> np.ndarray:
    """Read a 2D picture as grey values: uint8, (y, x).

    Raises:
      UserError: no such file, it is not an 8-bit picture, or it is in colour.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise UserError(f"no picture at {path}")
    try:
        with Image.open(path) as picture:
            if picture.mode not in ("1", "L", "P", "LA", "RGB", "RGBA"):
                raise UserError(
                    f"{path} has pixels of mode {picture.mode}; convert it to 8-bit grey values"
                )
            upright = ImageOps.exif_transpose(picture)  # as viewers do
            pixels = np.array(upright.convert("RGB"))
    except (
        OSError,
        SyntaxError,  # of a damaged PNG
        UnidentifiedImageError,
        Image.DecompressionBombError,
    ) as err:
        raise UserError(f"{path} cannot be read as a picture: {err}") from err
    if np.ptp(pixels, axis=2).max() > _MAX_TINT:
        raise UserError(
            f"{path} is in colour, and grey values are needed; save one channel, or convert it to grey"
        )
    return pixels[..., 1]


def read_valid(image: Path, stem: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Read the mask beside an image and return the valid pixels, (y, x); None if there is no mask.

    Args:
      image: path of the image.
      stem: its name without the suffix; the mask is STEM_invalid.png, white where pixels are excluded.
      shape: rows and columns of the image.

    Raises:
      UserError: the mask cannot be read, or has another shape.
    """
    path = image.with_name(f"{stem}{MASK_SUFFIX}.png")
    if not path.exists():
        return None
    mask = read_section(path)
    if mask.shape != tuple(shape):
        raise UserError(
            f"{path} has {mask.shape[1]} x {mask.shape[0]} pixels, and its image has {shape[1]} x {shape[0]}"
        )
    return mask < 128
