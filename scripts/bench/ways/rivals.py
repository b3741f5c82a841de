"""Ways to get from an image to soma labels that the benchmark compares. Everything is z, y, x."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import edt
import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

from ....axes import Voxel, Zyx
from ....models.inference.instances import make_instances
from ....models.inference.windows import Predictor, predict_all
from ....models.networks.shipped import find_weights
from ....models.networks.weights import load_network
from ....models.training.emads import shrink_image
from ....tasks.config import Locate, Predict, RunConfig, Segment, Soma
from ....tasks.fleet.coordinator import execute_here
from ....tasks.pipeline import begin
from ....tasks.stages.locate import SEEDS
from ....tasks.stages.match import RESOLVED
from ....tasks.stages.measure import get_frame
from ....tasks.volumes.ingest import NewLayer, ingest_array
from ....tasks.volumes.labels import LabelLayer
from .published import published_inference

BLOCK_VX = (192, 192, 128)  # x, y, z: so that somas are cut by blocks
_SMOOTH_NM, _PEAK_NM = 250.0, 1500.0


@dataclass(frozen=True)
class Answer:
    """labels, found in `seconds`; what a run of ours knows besides: confidence by id, which cross a seam, seeds in
    voxels."""

    labels: np.ndarray
    confidence: dict[int, float] = field(default_factory=dict)
    crosses_seam: frozenset[int] = frozenset()
    seeds: np.ndarray | None = None
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write a .npz, whole or not at all."""
        arrays = {
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
        """What `save` wrote."""
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
    """Names of the two networks' weights."""

    locate: str = Locate().weights
    segment: str = Segment().weights

    @cached_property
    def digest(self) -> str:
        """Changes when one of the files does."""
        found = hashlib.sha256()
        for name in (self.locate, self.segment):
            found.update(find_weights(name).read_bytes())
        return found.hexdigest()[:10]


@dataclass(frozen=True)
class Block:
    """What is given to all: an image and networks. Answers are kept, in files too where `kept` says how they begin."""

    image: np.ndarray
    voxel_nm: Voxel
    weights: Weights
    kept: Path | None = None
    _found: dict[str, Answer] = field(default_factory=dict)

    def answer(self, way: str) -> Answer:
        """What a way finds; its seconds leave out answers that it takes from others and that were there."""
        if way not in self._found:
            self._found[way] = self._ask(way)
        return self._found[way]

    def _ask(self, way: str) -> Answer:
        name = f"{way}-{self.weights.digest}.npz".replace(" ", "-")
        file = None if self.kept is None else self.kept.with_name(f"{self.kept.name}-{name}")
        if file is not None and file.exists():
            return Answer.load(file)
        start = time.monotonic()
        answer = RIVALS[way](self)
        answer = replace(answer, seconds=time.monotonic() - start)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            answer.save(file)
        return answer

    def factor(self, working_nm: Voxel) -> Zyx:
        """Voxels of the image in one of a network's."""
        z, y, x = (round(w / v) for w, v in zip(working_nm, self.voxel_nm))
        return z, y, x

    def at_own_voxels(self, labels: np.ndarray, working_nm: Voxel) -> np.ndarray:
        """Labels of a network's voxels at those of the image."""
        for axis, times in enumerate(self.factor(working_nm)):
            labels = labels.repeat(times, axis)
        return labels


def ours(block: Block) -> Answer:
    """The whole pipeline, in blocks."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder:
        ingest_array(block.image, NewLayer(f"{folder}/image", block.voxel_nm[::-1]))
        config = RunConfig(
            image=f"{folder}/image",
            output=f"{folder}/run",
            locate=Locate(weights=block.weights.locate),
            segment=Segment(weights=block.weights.segment, block_vx=BLOCK_VX),
        )
        run = begin(config)
        execute_here(run, "relabel", lambda *_: None)
        layer = LabelLayer(run.somas_path)
        labels = layer.read(layer.bounds)
        somas, seeds = get_frame(run.store, RESOLVED), run.store.get_arrays(SEEDS)
    assert seeds is not None
    ids = somas["id"].astype(int)
    return Answer(
        block.at_own_voxels(labels, config.segment.resolution_nm[::-1]),
        dict(zip(ids, somas["confidence"])),
        frozenset(ids[somas["crosses_seam"].astype(bool)]),
        seeds["xyz_nm"][:, ::-1] / np.array(block.voxel_nm) - 0.5,
    )


def published(block: Block) -> Answer:
    """The published inference, with the same weights."""
    networks = [load_network(name) for name in (block.weights.locate, block.weights.segment)]
    return Answer(published_inference(block.image, block.voxel_nm, *networks))


def no_localization(block: Block) -> Answer:
    """The segmentation network everywhere, every connected piece a soma."""
    network = load_network(block.weights.segment)
    working = network.spec.voxel_nm
    image = shrink_image(block.image, block.factor(working))
    interior, boundary = predict_all(Predictor(network), image, *Predict().windows_zyx)
    threshold, least = Segment().interior_threshold, Soma().min_volume_um3
    nobody = np.zeros((0, 3))
    labels, _, _ = make_instances(interior, boundary, nobody, working, threshold, least)
    return Answer(block.at_own_voxels(labels, working))


def no_watershed(block: Block) -> Answer:
    """Connected pieces that hold a seed."""
    pieces, seeds = block.answer("no localization").labels, block.answer("flysoma").seeds
    assert seeds is not None
    last = np.array(pieces.shape) - 1
    seeded = np.unique(pieces[tuple(np.clip(np.rint(seeds), 0, last).astype(int).T)])
    return Answer(np.where(np.isin(pieces, seeded), pieces, 0))


def classical(block: Block) -> Answer:
    """No network: smoothing, Otsu's threshold, distance transform, watershed from its peaks."""
    image, voxel_nm = block.image, block.voxel_nm
    smooth = ndimage.gaussian_filter(image.astype(np.float32), [_SMOOTH_NM / v for v in voxel_nm])
    bright = smooth > threshold_otsu(smooth)
    depth = edt.edt(bright, anisotropy=voxel_nm, parallel=1)
    coarse = max(1, round(_PEAK_NM / max(voxel_nm) / 2))
    peaks = peak_local_max(
        depth, min_distance=coarse, threshold_abs=_PEAK_NM / 2, exclude_border=False
    )
    markers = np.zeros(image.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-depth, markers, mask=bright).astype(np.uint32)
    counts = np.bincount(labels.ravel())
    small = counts * (float(np.prod(voxel_nm)) * 1e-9) < Soma().min_volume_um3
    return Answer(np.where(small, 0, np.arange(len(counts), dtype=np.uint32))[labels])


RIVALS = {
    "flysoma": ours,
    "published inference": published,
    "no localization": no_localization,
    "no watershed": no_watershed,
    "classical": classical,
}


def way_options(command: Any) -> Any:
    """The options of a benchmark that compares ways: which, and with whose weights."""
    for option in (
        click.option("--segment-weights", default=Segment().weights, show_default=True),
        click.option("--locate-weights", default=Locate().weights, show_default=True),
        click.option("--rivals", default=",".join(RIVALS), show_default=True, help="Which ways."),
    ):
        command = option(command)
    return command


def chosen(names: str, there: dict[str, Any], option: str) -> list[str]:
    """The names of a comma-separated option, all of which must be there."""
    for name in names.split(","):
        if name not in there:
            raise click.BadParameter(f"'{name}'; there are: {', '.join(there)}", param_hint=option)
    return names.split(",")
