"""The measured look of an image, and the distance between two looks."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
# what counts as a difference of 1: grey levels, decades of power, factors (natural logarithm), correlation
_STEPS = {
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
class Across:
    """What neighbouring sections have in common; x and y are in pixels of the sections.

    Attributes:
      shift_px: median length of the shift from a section to the next.
      correlation: median correlation of their grey levels once the shift is taken back, to whole pixels.
      grey_change: median change of their median grey level.
      spectrum_per_um: frequencies along z, in cycles per um.
      spectrum: log10 of the power spectral density along z, grey levels squared times um.
    """

    shift_px: float
    correlation: float
    grey_change: float
    spectrum_per_um: tuple[float, ...]
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class LookStats:
    """How an image looks where there is tissue.

    Attributes:
      voxel_nm: voxel size, z, y, x; z is 0 for single sections.
      tissue_voxels: number of voxels that were measured.
      black_share, resin_share: shares of all voxels that are black, and that are flat as resin is.
      grey_quantiles: grey levels at QUANTILES.
      membrane_grey, cytoplasm_grey: median grey level of thin dark lines, and of what is not dark and thin.
      noise_sigma: standard deviation of the noise in grey levels, where there is little structure.
      noise_grain_px: sigma of the Gaussian that would give white noise the same correlation of neighbours; 0: white.
      blur_px: sigma of the Gaussian that blurs steps as much as the strongest edges are.
      block_strength: how much more grey levels change at every 8th pixel than elsewhere, as a share; 0: no blocks.
      spectrum_per_um: frequencies in the plane of a section, in cycles per um.
      spectrum: log10 of the power spectral density in the plane, grey levels squared times um2.
      across: None for single sections.
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
    across: Across | None = None

    @property
    def membrane_contrast(self) -> float:
        """Grey levels by which cytoplasm is brighter than membranes."""
        return self.cytoplasm_grey - self.membrane_grey

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"membrane_contrast": self.membrane_contrast}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> LookStats:
        """Rebuild what `to_json` gave. Raises KeyError where a value is missing."""
        values = {f.name: _tupled(told[f.name]) for f in fields(cls)}
        across = values.pop("across")
        if across is not None:
            across = Across(**{f.name: _tupled(across[f.name]) for f in fields(Across)})
        return cls(**values, across=across)


@dataclass(frozen=True)
class LookDistance:
    """How far two looks are apart: root mean square of the parts; 1 is a difference that is seen at a glance.

    Attributes:
      parts: by name; of sections that are neighbours only where both looks have such.
    """

    total: float
    parts: dict[str, float]


def look_distance(a: LookStats, b: LookStats) -> LookDistance:
    """Compare two looks; the distance is 0 for equal ones, and the same both ways.

    Lengths are compared in nm, spectra at the frequencies that both have. The shares of resin and of black are left
    out: they tell where the image was taken, not how it looks.
    """
    apart = {
        "grey": float(np.abs(np.subtract(a.grey_quantiles, b.grey_quantiles)).mean()),
        "contrast": _log_ratio(a.membrane_contrast, b.membrane_contrast),
        "spectrum": _spectra(a.spectrum_per_um, a.spectrum, b.spectrum_per_um, b.spectrum),
        "noise": _log_ratio(a.noise_sigma, b.noise_sigma),
        "grain": abs(a.noise_grain_px - b.noise_grain_px),
        "blur": _log_ratio(a.blur_px * a.voxel_nm[2] / 10, b.blur_px * b.voxel_nm[2] / 10),
        "blocks": abs(a.block_strength - b.block_strength),
    }
    if a.across is not None and b.across is not None:
        one, other = a.across, b.across
        apart |= {
            "correlation": abs(one.correlation - other.correlation),
            "shift": abs(one.shift_px - other.shift_px),
            "grey_change": abs(one.grey_change - other.grey_change),
            "spectrum_across": _spectra(
                one.spectrum_per_um, one.spectrum, other.spectrum_per_um, other.spectrum
            ),
        }
    parts = {name: value / _STEPS[name] for name, value in apart.items()}
    return LookDistance(float(np.sqrt(np.mean(np.square(list(parts.values()))))), parts)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _log_ratio(a: float, b: float) -> float:
    """Distance of two values as a factor; a value under 1 counts as 1, so that 0 has a distance."""
    return abs(math.log(max(a, 1.0) / max(b, 1.0)))


def _spectra(
    a_per_um: tuple[float, ...],
    a: tuple[float, ...],
    b_per_um: tuple[float, ...],
    b: tuple[float, ...],
) -> float:
    """Root mean square difference of two spectra (log10) where their frequencies overlap; 0 where they do not."""
    if not a_per_um or not b_per_um:
        return 0.0
    lo, hi = max(a_per_um[0], b_per_um[0]), min(a_per_um[-1], b_per_um[-1])
    if lo >= hi:
        return 0.0
    common = np.geomspace(lo, hi, 16)
    apart = np.interp(common, a_per_um, a) - np.interp(common, b_per_um, b)
    return float(np.sqrt((apart**2).mean()))
