"""Whether a table of somas looks like one of a brain: plain questions, each with a verdict and its reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binom, gaussian_kde

from ..metrics.scores import SIZE_BINS_UM3
from .seams import Seams, chance_share, face_distances

GOOD, LOOK, UNKNOWN = "good", "look", "too few to tell"
_FEW = 30  # somas
_NEAREST_UM = (2.5, 8.0)  # of the hemibrain 3.7
_FILLED = 0.85  # of a volume; packed somas of the rind fill 0.7
_FRAGMENTS = 0.05
_SEVERAL = 0.2  # of somas with neurites, those with more than one
_NEAR_SEAM_NM = 100.0
_CHANCE = 1e-3
_DIP = 0.9  # between two modes the density falls to less than this share of the lower one


@dataclass(frozen=True)
class Check:
    """A question, its verdict (GOOD, LOOK or UNKNOWN) and why."""

    question: str
    verdict: str
    why: str


def check_somas(
    somas: pd.DataFrame, bounds_nm: tuple[tuple[float, ...], tuple[float, ...]], seams: Seams
) -> list[Check]:
    """All checks of a table of somas; `bounds_nm` is the volume, x, y, z."""
    return [
        _count(somas, float(np.prod(np.subtract(bounds_nm[1], bounds_nm[0])) * 1e-9)),
        _sizes(somas),
        _fragments(somas),
        _seams(somas, seams),
        _neurites(somas),
    ]


def _count(somas: pd.DataFrame, volume_um3: float) -> Check:
    question = "Is the number of somas plausible?"
    nearest = somas["nearest_nm"].dropna().to_numpy(np.float64) * 1e-3
    filled = float(somas["volume_um3"].sum()) / max(volume_um3, 1e-9)
    if len(nearest) < _FEW:
        return Check(question, UNKNOWN, f"{len(somas)} somas")
    median = float(np.median(nearest))
    good = _NEAREST_UM[0] <= median <= _NEAREST_UM[1] and filled <= _FILLED
    return Check(
        question,
        GOOD if good else LOOK,
        f"{len(somas):,} somas, half of them within {median:.1f} µm of another (in fly brains 2.5 to 8, hemibrain 3.7);"
        f" they fill {filled:.0%} of the volume",
    )


def _sizes(somas: pd.DataFrame) -> Check:
    question = "Are sizes of one kind?"
    whole = somas[~somas["touches_edge"]]["volume_um3"].dropna().to_numpy(np.float64)
    whole = whole[whole > 0]
    if len(whole) < _FEW or np.ptp(whole) == 0:
        return Check(question, UNKNOWN, f"{len(whole)} somas that no edge cuts")
    modes = _modes(np.log10(whole))
    at = " and ".join(f"{10**mode:.0f} µm³" for mode in modes)
    low, high = np.percentile(whole, [10, 90])
    kinds = "one peak at" if len(modes) == 1 else f"{len(modes)} peaks at"
    return Check(
        question,
        GOOD if len(modes) == 1 else LOOK,
        f"{kinds} {at}; four of five are between {low:.0f} and {high:.0f} µm³",
    )


def _modes(values: np.ndarray) -> list[float]:
    """Where the values are densest: peaks between which the density falls clearly."""
    room = np.ptp(values) / 4
    grid = np.linspace(values.min() - room, values.max() + room, 256)
    density = gaussian_kde(values)(grid)
    inner = density[1:-1]
    peaks = np.flatnonzero((inner >= density[:-2]) & (inner > density[2:])) + 1
    peaks = peaks[density[peaks] > 0.1 * density.max()]
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
    question = "Are there few fragments?"
    whole = somas[~somas["touches_edge"]]
    if len(whole) < _FEW:
        return Check(question, UNKNOWN, f"{len(whole)} somas that no edge cuts")
    small = int((whole["volume_um3"] < SIZE_BINS_UM3[0]).sum())
    return Check(
        question,
        GOOD if small <= _FRAGMENTS * len(whole) else LOOK,
        f"{small} of {len(whole):,} that no edge cuts are under {SIZE_BINS_UM3[0]:g} µm³, a sphere of 3 µm",
    )


def _seams(somas: pd.DataFrame, seams: Seams) -> Check:
    question = "Is nothing cut at the seams between blocks?"
    distance = face_distances(somas, seams)
    if len(distance) < 6 * _FEW:
        few = "one block" if not seams else f"{len(distance)} ends of somas"
        return Check(question, GOOD if not seams else UNKNOWN, few)
    near = int((distance <= _NEAR_SEAM_NM).sum())
    share = chance_share(seams, _NEAR_SEAM_NM)
    by_chance = float(binom.sf(near - 1, len(distance), share))
    return Check(
        question,
        GOOD if by_chance > _CHANCE else LOOK,
        f"{near} of {len(distance):,} ends of somas are within {_NEAR_SEAM_NM:g} nm of a seam; chance gives "
        f"{share * len(distance):.0f}",
    )


def _neurites(somas: pd.DataFrame) -> Check:
    question = "Has each soma one neurite?"
    counted = somas[(somas["neurites"] >= 0) & ~somas["touches_edge"]]["neurites"]
    seen, several = int((counted > 0).sum()), int((counted > 1).sum())
    if seen < _FEW:
        return Check(question, UNKNOWN, f"{seen} of {len(counted):,} labels go into one")
    return Check(
        question,
        GOOD if several <= _SEVERAL * seen else LOOK,
        f"{several / seen:.0%} have several, of the {seen:,} of {len(counted):,} whose labels go into one",
    )
