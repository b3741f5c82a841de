"""Image painted sections: blur, noise and contrast of a microscope, and lossy compression. Arrays are z, y, x."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.fft import dctn, idctn

from .look import Look

_BLOCK = 8  # pixels along an edge, as in JPEG
_HIGH_FREQUENCY_STEP = 3.0  # quantization step of the highest frequency, relative to the lowest


def expose(
    sections: np.ndarray, look: Look, nm_per_pixel: float, rng: np.random.Generator
) -> np.ndarray:
    """Apply the blur, sharpening, noise, contrast and gamma of the microscope.

    Args:
      sections: grey values (0..1), float32, z, y, x; may be changed in place.
      nm_per_pixel: pixel size within a section.
    Returns:
      the image, uint8, at least 1, because 0 marks missing data.
    """
    sigma = look.blur_nm / nm_per_pixel
    if sigma > 0.3:
        sections = ndimage.gaussian_filter(sections, (0, sigma, sigma), truncate=2.5)
    if look.sharpen > 0.05:
        blurred = ndimage.gaussian_filter(sections, (0, 1.0, 1.0), truncate=2.0)
        sections = sections + (sections - blurred) * np.float32(look.sharpen)
    noise = rng.standard_normal(sections.shape, dtype=np.float32)
    sections += noise * np.float32(look.noise)
    sections -= np.float32(0.6)
    sections *= np.float32(look.contrast)
    sections += np.float32(0.6 + look.brightness)
    np.clip(sections, 0, 1, out=sections)
    np.power(sections, np.float32(look.gamma), out=sections)
    sections *= 254
    sections += np.float32(1.5)
    return sections.astype(np.uint8)


def compress(image: np.ndarray, step: float) -> np.ndarray:
    """Add the artefacts of JPEG compression: quantize the cosine transform of each block of 8 x 8 pixels.

    Args:
      image: sections, uint8, z, y, x.
      step: quantization step of the lowest frequency, grey levels; 0 returns the image unchanged.
    Returns:
      the image, uint8, at least 1.
    """
    if step <= 0:
        return image
    z, y, x = image.shape
    padded = np.pad(image, ((0, 0), (0, -y % _BLOCK), (0, -x % _BLOCK)), mode="edge")
    shape = (z, padded.shape[1] // _BLOCK, _BLOCK, padded.shape[2] // _BLOCK, _BLOCK)
    coefficients = dctn(padded.reshape(shape).astype(np.float32), axes=(2, 4), norm="ortho")
    u = np.arange(_BLOCK) / (_BLOCK - 1)
    table = step * (1 + (_HIGH_FREQUENCY_STEP - 1) * (u[:, None, None] + u) / 2)
    coefficients = np.rint(coefficients / table) * table
    decoded = idctn(coefficients, axes=(2, 4), norm="ortho").reshape(padded.shape)[:, :y, :x]
    return np.clip(np.rint(decoded), 1, 255).astype(np.uint8)
