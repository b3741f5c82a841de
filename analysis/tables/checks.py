"""Plausibility checks of a table of somas: questions, each with a verdict and the numbers behind it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom, gaussian_kde

from ..metrics.scores import SIZE_BINS_UM3
from .seams import Seams, chance_share, face_distances
from .somas import knows_nuclei

GOOD, CHECK, UNKNOWN = "good", "check", "too few somas"
_MIN_SOMAS = 30  # below, no verdict
_NEAREST_UM = (2.5, 8.0)  # plausible median nearest-neighbour distances; 3.7 in the hemibrain
_MAX_FILLED = 0.85  # share of the volume; densely packed somas of the cortex fill about 0.7
_MAX_FRAGMENTS = 0.05  # share of somas
_MAX_SEVERAL = 0.2  # share of somas with more than one neurite, among those with neurites
_MAX_ODD_NUCLEI = 0.05  # share of somas without a nucleus or with several
_NEAR_SEAM_NM = 100.0
_SIGNIFICANCE = 1e-3
_MIN_MODE = 0.1  # density of a mode, as a share of the maximum
_DIP = 0.9  # between two modes, the density falls below this share of the lower mode


@dataclass(frozen=True)
class Check:
    """A question, its verdict (GOOD, CHECK or UNKNOWN) and the reason."""

    question: str
    verdict: str
    reason: str


def check_somas(
    somas: pd.DataFrame, bounds_nm: tuple[tuple[float, ...], tuple[float, ...]], seams: Seams
) -> list[Check]:
    """Run all checks on a table of somas; `bounds_nm` is the volume, x, y, z."""
    return [
        _count(somas, float(np.prod(np.subtract(bounds_nm[1], bounds_nm[0])) * 1e-9)),
        _sizes(somas),
        _fragments(somas),
        _seams(somas, seams),
        _neurites(somas),
        *([_nuclei(somas)] if knows_nuclei(somas) else []),
    ]


def _count(somas: pd.DataFrame, volume_um3: float) -> Check:
    question = "Is the number of somas plausible?"
    nearest = somas["nearest_nm"].dropna().to_numpy(np.float64) * 1e-3
    filled = float(somas["volume_um3"].sum()) / max(volume_um3, 1e-9)
    if len(nearest) < _MIN_SOMAS:
        return Check(question, UNKNOWN, f"Only {_count_of(len(somas), 'soma')}.")
    median = float(np.median(nearest))
    low, high = _NEAREST_UM
    good = low <= median <= high and filled <= _MAX_FILLED
    return Check(
        question,
        GOOD if good else CHECK,
        f"{len(somas):,} somas; the median distance to the nearest other soma is {median:.1f} µm "
        f"({low:g} to {high:g} µm is typical of fly brains). They fill {filled:.0%} of the volume.",
    )


def _sizes(somas: pd.DataFrame) -> Check:
    question = "Do soma sizes have a single peak?"
    whole = somas[~somas["touches_edge"]]["volume_um3"].dropna().to_numpy(np.float64)
    whole = whole[whole > 0]
    if len(whole) < _MIN_SOMAS or np.ptp(whole) == 0:
        return Check(question, UNKNOWN, _uncut(len(whole)))
    modes = _modes(np.log10(whole))
    volumes = " and ".join(f"{10**mode:.0f} µm³" for mode in modes)
    low, high = np.percentile(whole, [10, 90])
    peaks = "one peak, at" if len(modes) == 1 else f"{len(modes)} peaks, at"
    return Check(
        question,
        GOOD if len(modes) == 1 else CHECK,
        f"The distribution of volumes has {peaks} {volumes}; 80% of the somas have between "
        f"{low:.0f} and {high:.0f} µm³.",
    )


def _modes(values: np.ndarray) -> list[float]:
    """Return the modes of a kernel density estimate, separated by clear dips."""
    margin = np.ptp(values) / 4
    grid = np.linspace(values.min() - margin, values.max() + margin, 256)
    density = gaussian_kde(values)(grid)
    inner = density[1:-1]
    peaks = np.flatnonzero((inner >= density[:-2]) & (inner > density[2:])) + 1
    peaks = peaks[density[peaks] > _MIN_MODE * density.max()]
    kept: list[int] = []
    for peak in peaks.tolist():
        if kept:
            last = kept[-1]
            lower = min(density[last], density[peak])
            if density[last:peak].min() > _DIP * lower:
                kept[-1] = last if density[last] >= density[peak] else peak
                continue
        kept.append(peak)
    return [float(grid[peak]) for peak in kept] or [float(grid[density.argmax()])]


def _fragments(somas: pd.DataFrame) -> Check:
    question = "Are fragments rare?"
    whole = somas[~somas["touches_edge"]]
    if len(whole) < _MIN_SOMAS:
        return Check(question, UNKNOWN, _uncut(len(whole)))
    small = int((whole["volume_um3"] < SIZE_BINS_UM3[0]).sum())
    return Check(
        question,
        GOOD if small <= _MAX_FRAGMENTS * len(whole) else CHECK,
        f"{small} of the {len(whole):,} somas that the volume edge does not cut are smaller than "
        f"{SIZE_BINS_UM3[0]:g} µm³, a sphere of 3 µm diameter.",
    )


def _seams(somas: pd.DataFrame, seams: Seams) -> Check:
    question = "Are somas intact at seams between blocks?"
    distance = face_distances(somas, seams)
    if not seams:
        return Check(question, GOOD, "The volume is a single block.")
    if len(distance) < 6 * _MIN_SOMAS:  # two ends along each axis
        return Check(question, UNKNOWN, f"Only {_count_of(len(distance), 'soma end')}.")
    near = int((distance <= _NEAR_SEAM_NM).sum())
    share = chance_share(seams, _NEAR_SEAM_NM)
    p_value = float(binom.sf(near - 1, len(distance), share))
    return Check(
        question,
        GOOD if p_value > _SIGNIFICANCE else CHECK,
        f"{near} of {len(distance):,} soma ends lie within {_NEAR_SEAM_NM:g} nm of a seam; "
        f"{share * len(distance):.0f} are expected by chance.",
    )


def _neurites(somas: pd.DataFrame) -> Check:
    question = "Does each soma have one neurite?"
    counted = somas[(somas["neurites"] >= 0) & ~somas["touches_edge"]]["neurites"]
    seen, several = int((counted > 0).sum()), int((counted > 1).sum())
    with_neurite = f"{seen:,} of the {len(counted):,} somas that the volume edge does not cut"
    if seen < _MIN_SOMAS:
        return Check(question, UNKNOWN, f"A neurite is visible at {with_neurite}.")
    return Check(
        question,
        GOOD if several <= _MAX_SEVERAL * seen else CHECK,
        f"A neurite is visible at {with_neurite}; {several / seen:.0%} of these have several.",
    )


def _nuclei(somas: pd.DataFrame) -> Check:
    question = "Does each soma have one nucleus?"
    whole = somas[~somas["touches_edge"]]
    if len(whole) < _MIN_SOMAS:
        return Check(question, UNKNOWN, _uncut(len(whole)))
    none, several = int((whole["n_nuclei"] == 0).sum()), int((whole["n_nuclei"] > 1).sum())
    return Check(
        question,
        GOOD if none + several <= _MAX_ODD_NUCLEI * len(whole) else CHECK,
        f"{none:,} of the {len(whole):,} somas that the volume edge does not cut have no nucleus, and "
        f"{several:,} have several.",
    )


def _count_of(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _uncut(n: int) -> str:
    return f"Only {_count_of(n, 'soma')} {'is' if n == 1 else 'are'} not cut by the volume edge."
