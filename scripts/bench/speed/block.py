"""Speed of one block, from image chunks to labels on disk: flysoma and the published inference."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ....analysis.metrics.evaluation import MIN_EDGE_UM3, ArrayLabels, evaluate
from ....models.networks.weights import load_network
from ....models.phantom.make import make_phantom
from ....tasks.config import Locate, Predict, RunConfig, Segment
from ....tasks.coordination.coordinator import execute_here
from ....tasks.fleet.memory import peak_gb, reset_peak
from ....tasks.grids.geometry import flip
from ....tasks.layers.image import ImageLayer
from ....tasks.layers.labels import LabelLayer
from ....tasks.layers.precomputed import create_layer
from ....tasks.pipeline import begin
from ....tasks.stages import segment
from ....tasks.stages.match import MatchStage
from ....tasks.stages.relabel import RelabelStage
from ....tasks.stages.segment import SegmentStage
from ....tasks.volumes.ingest import NewLayer, ingest_array
from ..methods.published import published_inference
from .clock import clocked
from .timing import Row, Timing

VOXEL = (40.0, 16.0, 16.0)
SHAPE = (186, 918, 918)  # z, y, x; all sections and half the width and height of a published block
_FACTOR = (1, 4, 4)  # voxels per voxel of the segmentation network
_SEED = 172
_PLACES = {
    "read": ((ImageLayer, "_read_source"),),
    "resample": ((ImageLayer, "read"),),
    "objects": (
        (segment, "make_instances"),
        (segment, "nuclei_of"),
        (segment, "nucleus_sums"),
        (MatchStage, "work"),
        (MatchStage, "finish"),
    ),
    "write": ((SegmentStage, "write"), (RelabelStage, "work")),
}


def block_rows(timing: Timing) -> Iterator[Row]:
    """Yield time and accuracy of both methods on one phantom, and what flysoma spends its time on."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        folder = Path(name)
        timing.bars("making the block", 0, 1)
        phantom = make_phantom(SHAPE, VOXEL, _SEED, "typical")
        timing.bars("making the block", 1, 1)
        ingest_array(phantom.image, NewLayer(f"{folder}/em", flip(VOXEL)))
        with clocked(_PLACES) as spent:
            flysoma = _Method(lambda: _run_flysoma(folder, spent))
            seconds = timing.seconds("flysoma", flysoma, warm=False)
        yield _row("flysoma", seconds, flysoma, phantom.neurons)
        yield _share_row(spent, seconds)
        published = _Method(lambda: _run_published(folder))
        slow = timing.seconds("published inference", published, warm=False)
        yield _row("published inference", slow, published, phantom.neurons)
        yield Row("times faster", "x", (float(np.median(slow) / np.median(seconds)),))


@dataclass
class _Method:
    """Something that writes labels; the layer it wrote last, and its peak memory."""

    run: Callable[[], str]
    layer: str = ""
    peak_gb: float = 0.0

    def __call__(self) -> None:
        reset_peak()
        self.layer = self.run()
        self.peak_gb = max(self.peak_gb, peak_gb())


def _run_flysoma(folder: Path, spent: dict[str, float]) -> str:
    """Execute the stages up to the labels in this process, in one block; return the layer.

    Adds the time of the networks to `spent`.
    """
    config = RunConfig(
        image=f"{folder}/em",
        output=f"{folder}/run-{time.monotonic_ns()}",
        predict=Predict(threads=torch.get_num_threads()),
        segment=Segment(block_vx=(256, 256, 192)),
    )
    run = begin(config)
    execute_here(run, "relabel", lambda *_: None)
    for receipt in run.store.get_jsons(run.store.names("receipts/predict/")).values():
        spent["network"] += receipt["counters"]["network_s"]
    return run.somas_path


def _run_published(folder: Path) -> str:
    """Run the published inference at 16 nm, in float32, one patch at a time; return the layer."""
    locate, segment_network = load_network(Locate().weights), load_network(Segment().weights)
    layer = ImageLayer(f"{folder}/em")
    bounds = layer.working_bounds(flip(VOXEL))
    image = layer.read(bounds, flip(VOXEL))
    labels = published_inference(image, VOXEL, locate, segment_network, "torch float32")
    path = f"{folder}/published-{time.monotonic_ns()}"
    create_layer(path, "segmentation", "uint64", flip(VOXEL), bounds)
    LabelLayer(path).write(bounds, labels)
    return path


def _row(name: str, seconds: tuple[float, ...], method: _Method, truth: np.ndarray) -> Row:
    layer = LabelLayer(method.layer)
    labels = layer.read(layer.bounds)
    if labels.shape != truth.shape:
        for axis, times in enumerate(_FACTOR):
            labels = labels.repeat(times, axis)
        labels = labels[tuple(slice(n) for n in truth.shape)]
    scores = evaluate(
        ArrayLabels(labels), ArrayLabels(truth), VOXEL, min_edge_um3=MIN_EDGE_UM3
    ).scores
    notes = {"AP50": scores.ap50, "F1": scores.f1, "somas": scores.truth}
    return Row(name, "s", seconds, notes | {"peak GB of the process": method.peak_gb})


def _share_row(spent: dict[str, float], seconds: tuple[float, ...]) -> Row:
    """Return the shares of flysoma's time; the rest is what is not measured."""
    total = sum(seconds)
    shares = {name: part / total for name, part in spent.items()}
    return Row("flysoma, shares", "s", seconds, shares | {"rest": 1 - sum(shares.values())})
