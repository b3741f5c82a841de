"""Methods that segment somas: flysoma and the baselines it is compared with. Arrays are z, y, x."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click
import edt
import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from ....axes import Voxel, Zyx
from ....models.inference.instances import make_instances
from ....models.inference.predictor import Predictor, predict_all
from ....models.networks.weights import load_network
from ....models.networks.weights_files import find_weights
from ....models.training.emads import downsample_image
from ....tasks.arrays import run_array
from ....tasks.config import Locate, Predict, Segment, Soma
from ....tasks.grids.geometry import flip
from ....tasks.stages.locate import SEEDS
from ....tasks.stages.match import RESOLVED
from ....tasks.stages.measure import get_frame
from .published import published_inference

BLOCK_VX = (192, 192, 128)  # x, y, z; small, so that seams cut somas
_SMOOTH_NM, _PEAK_NM = 250.0, 1500.0
_C = TypeVar("_C", bound=Callable[..., Any])


@dataclass(frozen=True)
class Answer:
    """What a method finds in a volume.

    Attributes:
      labels: uint32.
      confidence: by label; flysoma only, as the two below.
      crosses_seam: labels that a seam cuts.
      seeds: in voxels.
      seconds: running time.
    """

    labels: np.ndarray
    confidence: dict[int, float] = field(default_factory=dict)
    crosses_seam: frozenset[int] = frozenset()
    seeds: np.ndarray | None = None
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write a .npz file atomically."""
        arrays: dict[str, Any] = {
            "labels": self.labels,
            "confidence": np.array(list(self.confidence.items())).reshape(-1, 2),
            "crosses_seam": np.array(sorted(self.crosses_seam), np.int64),
            "seconds": np.array(self.seconds),
        } | ({} if self.seeds is None else {"seeds": self.seeds})
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        part.rename(path)

    @classmethod
    def load(cls, path: Path) -> Answer:
        """Read what `save` has written."""
        with np.load(path) as file:
            return cls(
                file["labels"],
                {int(i): float(p) for i, p in file["confidence"]},
                frozenset(file["crosses_seam"].tolist()),
                file["seeds"] if "seeds" in file else None,
                float(file["seconds"]),
            )


@dataclass(frozen=True)
class Weights:
    """Names of the weights of both networks."""

    locate: str = Locate().weights
    segment: str = Segment().weights

    @cached_property
    def digest(self) -> str:
        """A hash of both files."""
        sha = hashlib.sha256()
        for name in (self.locate, self.segment):
            sha.update(find_weights(name).read_bytes())
        return sha.hexdigest()[:10]


@dataclass(frozen=True)
class Sample:
    """The input of all methods.

    Attributes:
      image: uint8.
      cache: path prefix of the files that keep answers; None: keep them in memory only.
    """

    image: np.ndarray
    voxel_nm: Voxel
    weights: Weights
    cache: Path | None = None
    _answers: dict[str, Answer] = field(default_factory=dict)

    def answer(self, method: str) -> Answer:
        """Return what a method finds; its seconds exclude answers of other methods that were computed before."""
        if method not in self._answers:
            self._answers[method] = self._load_or_run(method)
        return self._answers[method]

    def _load_or_run(self, method: str) -> Answer:
        name = f"{method}-{self.weights.digest}.npz".replace(" ", "-")
        file = None if self.cache is None else self.cache.with_name(f"{self.cache.name}-{name}")
        if file is not None and file.exists():
            return Answer.load(file)
        start = time.monotonic()
        answer = METHODS[method](self)
        answer = replace(answer, seconds=time.monotonic() - start)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            answer.save(file)
        return answer

    def factor(self, working_nm: Voxel) -> Zyx:
        """Return the number of image voxels in a voxel of the working resolution, along each axis."""
        z, y, x = (round(w / v) for w, v in zip(working_nm, self.voxel_nm))
        return z, y, x

    def upsample(self, labels: np.ndarray, working_nm: Voxel) -> np.ndarray:
        """Return labels of the working resolution at the voxels of the image."""
        for axis, times in enumerate(self.factor(working_nm)):
            labels = labels.repeat(times, axis)
        return labels


def flysoma(sample: Sample) -> Answer:
    """Run the whole pipeline, in blocks."""
    locate = Locate(weights=sample.weights.locate)
    segment = Segment(weights=sample.weights.segment, block_vx=BLOCK_VX)
    x, y, z = sample.voxel_nm[::-1]
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder:
        run = run_array(sample.image, (x, y, z), folder, locate, segment, lambda *_: None)
        labels = run.somas.read(run.somas.bounds)
        somas, seeds = get_frame(run.store, RESOLVED), run.store.get_arrays(SEEDS)
    assert seeds is not None
    ids = somas["id"].astype(int)
    return Answer(
        sample.upsample(labels, flip(segment.resolution_nm)),
        dict(zip(ids, somas["confidence"])),
        frozenset(ids[somas["crosses_seam"].astype(bool)]),
        seeds["xyz_nm"][:, ::-1] / np.array(sample.voxel_nm) - 0.5,
    )


def published(sample: Sample) -> Answer:
    """Run the published inference with the same weights."""
    locate, segment = sample.weights.locate, sample.weights.segment
    labels = published_inference(
        sample.image, sample.voxel_nm, load_network(locate), load_network(segment)
    )
    return Answer(labels)


def no_localization(sample: Sample) -> Answer:
    """Run the segmentation network everywhere; each connected component is a soma."""
    network = load_network(sample.weights.segment)
    working = network.spec.voxel_nm
    image = downsample_image(sample.image, sample.factor(working))
    threshold, least = Segment().interior_threshold, Soma().min_volume_um3
    windows = Predict().windows_zyx
    interior, boundary = predict_all(Predictor(network), image, *windows, threshold)[:2]
    no_seeds = np.zeros((0, 3))
    labels, _, _ = make_instances(interior, boundary, no_seeds, working, threshold, least)
    return Answer(sample.upsample(labels, working))


def no_watershed(sample: Sample) -> Answer:
    """Keep the connected components that hold a seed."""
    components, seeds = sample.answer("no localization").labels, sample.answer("flysoma").seeds
    assert seeds is not None
    last = np.array(components.shape) - 1
    seeded = np.unique(components[tuple(np.clip(np.rint(seeds), 0, last).astype(int).T)])
    return Answer(np.where(np.isin(components, seeded), components, 0))


def classical(sample: Sample) -> Answer:
    """Smooth, apply Otsu's threshold, and run the watershed from the peaks of the distance transform; no network."""
    image, voxel_nm = sample.image, sample.voxel_nm
    smooth = ndimage.gaussian_filter(image.astype(np.float32), [_SMOOTH_NM / v for v in voxel_nm])
    bright = smooth > threshold_otsu(smooth)  # type: ignore[no-untyped-call]
    depth = edt.edt(bright, anisotropy=voxel_nm, parallel=1)
    coarse = max(1, round(_PEAK_NM / max(voxel_nm) / 2))
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        depth, min_distance=coarse, threshold_abs=_PEAK_NM / 2, exclude_border=False
    )
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-depth, markers, mask=bright)  # type: ignore[no-untyped-call]
    labels = labels.astype(np.uint32)
    counts = np.bincount(labels.ravel())
    small = counts * (float(np.prod(voxel_nm)) * 1e-9) < Soma().min_volume_um3
    return Answer(np.where(small, 0, np.arange(len(counts), dtype=np.uint32))[labels])


METHODS: dict[str, Callable[[Sample], Answer]] = {
    "flysoma": flysoma,
    "published inference": published,
    "no localization": no_localization,
    "no watershed": no_watershed,
    "classical": classical,
}


def weight_options(command: _C) -> _C:
    """Add the options that choose the weights of both networks."""
    for option in (
        click.option(
            "--segment-weights",
            default=Segment().weights,
            show_default=True,
            help="Weights of the segmentation network.",
        ),
        click.option(
            "--locate-weights",
            default=Locate().weights,
            show_default=True,
            help="Weights of the localization network.",
        ),
    ):
        command = option(command)
    return command


def method_options(command: _C) -> _C:
    """Add the options that choose methods and weights."""
    option = click.option(
        "--methods",
        "--rivals",
        "methods",
        default=",".join(METHODS),
        show_default=True,
        help="Methods to compare, separated by commas.",
    )
    return option(weight_options(command))


def parse_names(names: str, known: Iterable[str], option: str) -> list[str]:
    """Split a comma-separated option; raises click.BadParameter for a name that is not known."""
    for name in names.split(","):
        if name not in known:
            raise click.BadParameter(f"'{name}'; there are: {', '.join(known)}", param_hint=option)
    return names.split(",")
