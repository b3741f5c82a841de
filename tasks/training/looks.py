"""Fit the looks of phantoms to the measured look of an image, without labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...analysis.look.measure import CannotMeasure, Sample, measure_look
from ...analysis.look.stats import LookStats, look_distance
from ...axes import Voxel, Zyx
from ...errors import UserError
from ...models.phantom.look import DIFFICULTIES, Look
from ...models.phantom.make import Phantom, make_phantom

_SHAPE: Zyx = (4, 192, 192)  # of the phantoms that are measured
_SECTION_NM = 40.0  # thickness of a section, for an image of single sections
_ROUNDS = 3
_CANDIDATES = 24  # looks that a round paints and measures
_PARENTS = 6  # nearest looks that the next round mixes
_SPREAD = 0.15  # of a look around those it is bred from, relative to their difference
Fit = tuple[float, Look]  # distance of the measured look, and the look


@dataclass(frozen=True)
class LookFit:
    """Looks of phantoms that fit an image.

    Attributes:
      target: measured look of the image.
      fits: the looks with their distances to the image, nearest first.
      before: distance of the nearest look that was drawn without fitting.
    """

    target: LookStats
    fits: list[Fit]
    before: float


def fit_looks(
    target: LookStats,
    count: int,
    processes: int,
    progress: Callable[[int, int], None] | None = None,
) -> LookFit:
    """Find looks whose phantoms, measured as the image was, come nearest to the look of the image.

    The first round draws looks of every difficulty. Each further round mixes pairs of the nearest looks with a random
    spread around them. The spread of the result is that of looks which cannot be told apart from the target.

    Args:
      target: measured look of the image.
      count: number of looks.
      processes: number of processes that paint phantoms.
      progress: called with the number of measured phantoms and of all phantoms.
    """
    rng = np.random.default_rng(0)
    fits: list[Fit] = []
    nearest: list[float] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for number in range(_ROUNDS):
            looks = [_draw(rng) if number == 0 else _mix(fits, rng) for _ in range(_CANDIDATES)]
            measure = partial(_measure_distance, target)
            for distance, look in zip(pool.map(measure, looks), looks):
                fits.append((distance, look))
                if progress is not None:
                    progress(len(fits), _ROUNDS * _CANDIDATES)
            fits = sorted(fits, key=lambda fit: fit[0])
            nearest.append(fits[0][0])
    return LookFit(target, fits[:count], nearest[0])


def paint_sample(target: LookStats, look: Look) -> Phantom:
    """Paint a small phantom at the voxel size of an image."""
    z, y, x = target.voxel_nm
    voxel_nm: Voxel = (z or _SECTION_NM, y, x)
    return make_phantom(_SHAPE, voxel_nm, 1, "real", "cortex", look=look)


def measure_phantom(target: LookStats, phantom: Phantom) -> LookStats:
    """Measure the look of a phantom as that of the image was measured.

    Raises:
      CannotMeasure: the phantom has no tissue.
    """
    if target.across is not None:
        return measure_look([Sample(phantom.image)], target.voxel_nm)
    sections = [Sample(phantom.image[i : i + 1]) for i in range(len(phantom.image))]
    return measure_look(sections, (0.0, *target.voxel_nm[1:]))


def _measure_distance(target: LookStats, look: Look) -> float:
    torch.set_num_threads(1)
    try:
        stats = measure_phantom(target, paint_sample(target, look))
    except CannotMeasure:
        return float("inf")
    return look_distance(stats, target).total


def write_fit(path: Path, fit: LookFit) -> None:
    """Write a fit as JSON."""
    looks = [{"distance": distance} | asdict(look) for distance, look in fit.fits]
    content = {"target": fit.target.to_json(), "before": fit.before, "looks": looks}
    path.write_text(json.dumps(content, indent=1) + "\n")


def read_fit(path: Path) -> LookFit:
    """Read a fit.

    Raises:
      UserError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text())
        fits = [(float(look.pop("distance")), Look(**look)) for look in content["looks"]]
        fit = LookFit(LookStats.from_json(content["target"]), fits, float(content["before"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UserError(f"{path} holds no looks as 'flysoma adapt' writes them: {err}") from err
    if not fits:
        raise UserError(f"{path} holds no looks as 'flysoma adapt' writes them: the list is empty")
    return fit


def _draw(rng: np.random.Generator) -> Look:
    """Draw a look of a random difficulty; that of real sections is as frequent as all others."""
    others = [name for name in DIFFICULTIES if name != "real"]
    name = "real" if rng.random() < 0.5 else others[rng.integers(len(others))]
    look = Look.draw(name, rng)
    return look if look.faults else replace(look, faults=name)


def _mix(fits: list[Fit], rng: np.random.Generator) -> Look:
    """Mix two of the nearest looks: each value lies between theirs, with some spread."""
    one, two = (fits[i][1] for i in rng.choice(_PARENTS, 2, replace=False))
    values: dict[str, Any] = {}
    for field in fields(Look):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, float) and isinstance(b, float):
            mixed = a + (b - a) * rng.uniform(-_SPREAD, 1 + _SPREAD)
            # Signed values stay signed; lengths and strengths stay above zero.
            values[field.name] = float(mixed if min(a, b) < 0 else max(mixed, 0.5 * min(a, b)))
        else:
            values[field.name] = a if rng.random() < 0.5 else b
    return Look(**values)
