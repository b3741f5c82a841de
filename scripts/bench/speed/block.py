"""Speed of one block, from image chunks on disk to labels on disk: ours and the published inference."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....analysis.metrics.evaluation import MIN_EDGE_UM3, ArrayLabels, evaluate
from ....models.networks.weights import load_network
from ....models.phantom.make import make_phantom
from ....tasks.config import Locate, RunConfig, Segment
from ....tasks.fleet.coordinator import execute_here
from ....tasks.fleet.memory import peak_gb, reset_peak
from ....tasks.pipeline import begin
from ....tasks.stages import segment
from ....tasks.stages.match import MatchStage
from ....tasks.stages.relabel import RelabelStage
from ....tasks.stages.segment import SegmentStage
from ....tasks.volumes.image import ImageLayer
from ....tasks.volumes.ingest import NewLayer, ingest_array
from ....tasks.volumes.labels import LabelLayer, create_layer
from ..ways.published import published_inference
from .clock import clocked
from .timing import Row, Timing

VOXEL = (40.0, 16.0, 16.0)
SHAPE = (186, 918, 918)  # all sections of a published block, half its width and height
_FACTOR = (1, 4, 4)  # voxels in one of the segmentation network
_SEED = 172
_PLACES = {
    "read": ((ImageLayer, "_read_source"),),
    "resample": ((ImageLayer, "read"),),
    "objects": ((segment, "make_instances"), (MatchStage, "work"), (MatchStage, "finish")),
    "write": ((SegmentStage, "write"), (RelabelStage, "work")),
}


def block_rows(timing: Timing) -> Iterator[Row]:
    """Both ways on one phantom; what ours spends on what; how good either is."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        folder = Path(name)
        timing.bars("making the block", 0, 1)
        phantom = make_phantom(SHAPE, VOXEL, _SEED, "typical")
        timing.bars("making the block", 1, 1)
        ingest_array(phantom.image, NewLayer(f"{folder}/em", VOXEL[::-1]))
        with clocked(_PLACES) as spent:
            ours = _Way(lambda: _ours(folder, spent))
            seconds = timing.seconds("ours", ours, warm=False)
        yield _row("flysoma", seconds, ours, phantom.labels)
        yield _parts(spent, seconds)
        published = _Way(lambda: _published(folder))
        slow = timing.seconds("published inference", published, warm=False)
        yield _row("published inference", slow, published, phantom.labels)
        yield Row("times faster", "x", (float(np.median(slow) / np.median(seconds)),))


@dataclass
class _Way:
    """Something that writes labels; where it has written them last, and the most memory it held."""

    find: Callable[[], str]
    found: str = ""
    peak_gb: float = 0.0

    def __call__(self) -> None:
        reset_peak()
        self.found = self.find()
        self.peak_gb = max(self.peak_gb, peak_gb())


def _ours(folder: Path, spent: Counter[str]) -> str:
    """The stages up to the labels, in one block, in this process; what networks took is added to what was spent.
    Returns the layer of labels."""
    config = RunConfig(
        image=f"{folder}/em",
        output=f"{folder}/run-{time.monotonic_ns()}",
        segment=Segment(block_vx=(256, 256, 192)),
    )
    run = begin(config)
    execute_here(run, "relabel", lambda *_: None)
    for receipt in run.store.get_jsons(run.store.names("receipts/predict/")).values():
        spent["network"] += receipt["counters"]["network_s"]
    return run.somas_path


def _published(folder: Path) -> str:
    """Read at 16 nm, as published; the networks in float32, one patch at a time; written as ours."""
    networks = [load_network(name) for name in (Locate().weights, Segment().weights)]
    layer = ImageLayer(f"{folder}/em")
    bounds = layer.working_bounds(VOXEL[::-1])
    image = layer.read(bounds, VOXEL[::-1])
    labels = published_inference(image, VOXEL, *networks, engine="torch float32")
    path = f"{folder}/published-{time.monotonic_ns()}"
    create_layer(path, "segmentation", "uint64", VOXEL[::-1], bounds)
    LabelLayer(path).write(bounds, labels)
    return path


def _row(name: str, seconds: tuple[float, ...], way: _Way, truth: np.ndarray) -> Row:
    layer = LabelLayer(way.found)
    found = layer.read(layer.bounds)
    if found.shape != truth.shape:
        for axis, times in enumerate(_FACTOR):
            found = found.repeat(times, axis)
        found = found[tuple(slice(n) for n in truth.shape)]
    scores = evaluate(
        ArrayLabels(found), ArrayLabels(truth), VOXEL, min_edge_um3=MIN_EDGE_UM3
    ).scores
    told = {"AP50": scores.ap50, "F1": scores.f1, "somas": scores.truth}
    return Row(name, "s", seconds, told | {"peak GB of the process": way.peak_gb})


def _parts(spent: Counter[str], seconds: tuple[float, ...]) -> Row:
    """Shares of ours; the rest is what is not watched."""
    whole = sum(seconds)
    shares = {name: part / whole for name, part in spent.items()}
    return Row("flysoma, shares of it", "s", seconds, shares | {"rest": 1 - sum(shares.values())})
