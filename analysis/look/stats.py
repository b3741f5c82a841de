"""The measured look of an image, and the distance between two looks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
# A difference of this size contributes 1 to the distance. In grey values, decades of power, natural logarithms of
# factors, pixels and correlation.
_UNITS = {
    "grey": 16.0,
    "contrast": math.log(1.5),
    "spectrum": 0.3,
    "spectrum_across": 0.3,
    "noise": math.log(2.0),
    "grain": 0.5,
    "blur": math.log(1.5),
    "correlation": 0.1,
    "shift": 1.0,
    "grey_change": 8.0,
    "blocks": 0.1,
}


@dataclass(frozen=True)
class AcrossStats:
    """Statistics of neighbouring sections.

    Attributes:
      shift_px: median length of the shift from one section to the next.
      correlation: median correlation of their grey values after the shift, rounded to pixels, is undone.
      grey_change: median change of the median grey value.
      spectrum_per_um: frequencies along z, in cycles per um.
      spectrum: log10 of the power spectral density along z, in grey values squared times um.
    """

    shift_px: float
    correlation: float
    grey_change: float
    spectrum_per_um: tuple[float, ...]
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class LookStats:
    """The look of an image in tissue.

    Attributes:
      voxel_nm: voxel size, z, y, x; z is 0 for single sections.
      tissue_voxels: number of measured voxels.
      black_share, resin_share: shares of voxels that are black, and that are as flat as resin.
      grey_quantiles: grey values at QUANTILES.
      membrane_grey, cytoplasm_grey: median grey value of thin dark lines, and of all other tissue.
      noise_sigma: standard deviation of the noise in grey values, where there is little structure.
      noise_grain_px: sigma of the Gaussian that gives white noise the same correlation of neighbours; 0: white.
      blur_px: sigma of the Gaussian that blurs a step as much as the strongest edges are blurred.
      block_strength: relative excess of the change of grey value at every 8th pixel (JPEG blocks); 0: no blocks.
      spectrum_per_um: frequencies in the section plane, in cycles per um.
      spectrum: log10 of the power spectral density in the section plane, in grey values squared times um2.
      across: statistics of neighbouring sections; None for single sections.
    """

    voxel_nm: tuple[float, float, float]
    tissue_voxels: int
    black_share: float
    resin_share: float
    grey_quantiles: tuple[float, ...]
    membrane_grey: float
    cytoplasm_grey: float
    noise_sigma: float
    noise_grain_px: float
    blur_px: float
    block_strength: float
    spectrum_per_um: tuple[float, ...]
    spectrum: tuple[float, ...]
    across: AcrossStats | None = None

    @property
    def membrane_contrast(self) -> float:
        """Difference of the grey values of cytoplasm and membranes."""
        return self.cytoplasm_grey - self.membrane_grey

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"membrane_contrast": self.membrane_contrast}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> LookStats:
        """Rebuild a look from the values of `to_json`. Raises KeyError if a value is missing."""
        values = {f.name: _to_tuple(content[f.name]) for f in fields(cls)}
        across = values.pop("across")
        if across is not None:
            across = AcrossStats(**{f.name: _to_tuple(across[f.name]) for f in fields(AcrossStats)})
        return cls(**values, across=across)


@dataclass(frozen=True)
class LookDistance:
    """Distance of two looks. A difference of 1 is visible at a glance.

    Attributes:
      total: root mean square of the parts.
      parts: by name; those of neighbouring sections only if both looks have `across`.
    """

    total: float
    parts: dict[str, float]


def look_distance(a: LookStats, b: LookStats) -> LookDistance:
    """Return the distance of two looks; it is symmetric, and 0 for equal looks.

    Compares lengths in nm, and spectra at the frequencies that both have. Ignores the shares of resin and black voxels,
    which depend on the place of the sample.
    """
    differences = {
        "grey": float(np.abs(np.subtract(a.grey_quantiles, b.grey_quantiles)).mean()),
        "contrast": _log_ratio(a.membrane_contrast, b.membrane_contrast),
        "spectrum": _compare_spectra(a.spectrum_per_um, a.spectrum, b.spectrum_per_um, b.spectrum),
        "noise": _log_ratio(a.noise_sigma, b.noise_sigma),
        "grain": abs(a.noise_grain_px - b.noise_grain_px),
        "blur": _log_ratio(a.blur_px * a.voxel_nm[2] / 10, b.blur_px * b.voxel_nm[2] / 10),
        "blocks": abs(a.block_strength - b.block_strength),
    }
    if a.across is not None and b.across is not None:
        p, q = a.across, b.across
        differences |= {
            "correlation": abs(p.correlation - q.correlation),
            "shift": abs(p.shift_px - q.shift_px),
            "grey_change": abs(p.grey_change - q.grey_change),
            "spectrum_across": _compare_spectra(
                p.spectrum_per_um, p.spectrum, q.spectrum_per_um, q.spectrum
            ),
        }
    parts = {name: value / _UNITS[name] for name, value in differences.items()}
    return LookDistance(float(np.sqrt(np.mean(np.square(list(parts.values()))))), parts)


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _log_ratio(a: float, b: float) -> float:
    """Return the absolute logarithm of the ratio of two values; values below 1 count as 1, so that 0 is allowed."""
    return abs(math.log(max(a, 1.0) / max(b, 1.0)))


def _compare_spectra(
    a_per_um: tuple[float, ...],
    a: tuple[float, ...],
    b_per_um: tuple[float, ...],
    b: tuple[float, ...],
) -> float:
    """Return the root mean square difference of two spectra (log10) at common frequencies; 0 if there are none."""
    if not a_per_um or not b_per_um:
        return 0.0
    lo, hi = max(a_per_um[0], b_per_um[0]), min(a_per_um[-1], b_per_um[-1])
    if lo >= hi:
        return 0.0
    common = np.geomspace(lo, hi, 16)
    difference = np.interp(common, a_per_um, a) - np.interp(common, b_per_um, b)
    return float(np.sqrt((difference**2).mean()))
