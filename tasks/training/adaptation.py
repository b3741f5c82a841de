"""Settings of the adaptation of a network to the look of an image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ...analysis.pages.look import look_figure
from ...axes import Nm3
from ...errors import UserError
from ...models.training.targets import Role
from ..config import Locate, Segment
from ..layers.labels import LabelLayer
from ..volumes.samples import measure_samples, read_samples
from .looks import LookFit, fit_looks, measure_phantom, paint_sample, read_fit, write_fit

_LOOKS = 8
_HELD_OUT = 4  # one in so many parts of the labels is held out
Reading = tuple[Nm3 | None, str | None, str | None, int]  # resolution, axes, dataset and places


def adaptation_settings(
    role: Role, image: str, output: Path, init: str | None, labels: str | None, minutes: float
) -> dict[str, Any]:
    """Return the settings of a training on phantoms in the looks beside `output`, for `TrainConfig`.

    A fifth of the patches come from phantoms of every look, so that the network keeps what it knows.
    """
    looks = str(looks_path(output))
    data: list[dict[str, Any]] = [
        {"phantoms": 24, "held_out": 0, "first_seed": 80_000, "flat": True, "looks": looks},
        {"phantoms": 4, "held_out": 2, "first_seed": 81_000, "looks": looks},
        {"phantoms": 3, "held_out": 0, "first_seed": 82_000},
    ]
    for source, share in zip(data, (0.5, 0.3, 0.2)):
        source["share"] = share
    if labels is not None:
        data.append(_labels_settings(image, labels))
    on_gpu = torch.cuda.is_available()
    rule = Locate() if role == "locate" else Segment()
    return {
        "role": role,
        "data": data,
        "init": init or rule.weights,
        "mix": 0.8,
        "patch": None if on_gpu else ((32, 192, 192) if role == "locate" else (32, 160, 160)),
        "batch": 4 if on_gpu else 1,
        "bf16": on_gpu,
        "steps": 4000 if on_gpu else 1200,
        "minutes": minutes,
        "lr": 2e-4,
        "warmup": 15,
        "ema": 0.98,
        "augmentation": 0.6,
        "judge_every": 200,
    }


def prepare_looks(
    image: str,
    reading: Reading,
    output: Path,
    processes: int,
    progress: Callable[[int, int], None] | None = None,
) -> LookFit:
    """Fit looks to an image, and write them and a picture beside `output`.

    Looks that were fitted to the same measured look before are read.

    Args:
      image: a layer, a file, a picture or a folder of pictures.
      reading: how to read it.
      output: the weights file.
      processes: number of processes that paint phantoms.
      progress: called with the number of measured phantoms and of all phantoms.

    Raises:
      UserError: the image cannot be read, or its look cannot be measured.
    """
    resolution, axes, dataset, places = reading
    samples, voxel_nm = read_samples(image, resolution, axes, dataset, places)
    target = measure_samples(image, samples, voxel_nm)
    output.parent.mkdir(parents=True, exist_ok=True)
    path = looks_path(output)
    with suppress(UserError):
        kept = read_fit(path)
        if kept.target == target:
            return kept
    fit = fit_looks(target, _LOOKS, processes, progress)
    write_fit(path, fit)
    section = samples[len(samples) // 2].image
    phantom = paint_sample(target, fit.fits[0][1])
    figure = look_figure(
        Path(image).name,
        target,
        section[len(section) // 2],
        measure_phantom(target, phantom),
        ("phantom", phantom.image[len(phantom.image) // 2]),
    )
    path.with_suffix(".png").write_bytes(figure)
    return fit


def looks_path(output: Path) -> Path:
    """Return the file of the looks beside a weights file."""
    return output.with_suffix(".looks.json")


def _labels_settings(image: str, labels: str) -> dict[str, Any]:
    """Return the labels as training data: slabs along their longest axis, one in `_HELD_OUT` held out."""
    layer = LabelLayer(labels)
    lo, hi = (
        [a * v for a, v in zip(corner, layer.resolution_nm)]
        for corner in (layer.bounds.lo, layer.bounds.hi)
    )
    axis = max(range(3), key=lambda i: hi[i] - lo[i])
    edges = [lo[axis] + (hi[axis] - lo[axis]) * i / _HELD_OUT for i in range(_HELD_OUT + 1)]
    boxes = []
    for a, b in zip(edges, edges[1:]):
        first, last = list(lo), list(hi)
        first[axis], last[axis] = a, b
        boxes.append((*first, *last))
    return {
        "image": image,
        "labels": labels,
        "boxes_nm": boxes,
        "held_out": (_HELD_OUT - 1,),
        "share": 0.5,
    }
