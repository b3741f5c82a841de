"""Speed of stitching a whole brain, on synthetic labels and pairs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import crackle
import numpy as np

from ....tasks.config import RunConfig, Stitch
from ....tasks.fleet.memory import peak_gb, reset_peak
from ....tasks.grids.geometry import Box
from ....tasks.layers.precomputed import create_layer
from ....tasks.run import ID_BITS, Run
from ....tasks.stages.match import Labels, MatchStage, match_slab, resolve
from ....tasks.storage.store import RunStore
from .timing import Row, Timing

_SLAB = (256, 256, 32)
_CORE = (256, 256, 256)
_VOXEL_UM3 = 64 * 64 * 40e-9
_CAP_UM3 = 4189.0  # a ball of 20 um
_SOMA_VX, _NUCLEUS_VX = 35, 20  # radii


@dataclass(frozen=True)
class Brain:
    """The size of the problem."""

    somas: int = 150_000
    labels: int = 500_000
    blocks: int = 200_000
    pairs: int = 10_000_000


def stitch_rows(timing: Timing, brain: Brain = Brain()) -> Iterator[Row]:
    """Yield the time of match (one face), resolve (the whole brain) and relabel (one block)."""
    rng = np.random.default_rng(0)
    lower, upper = (crackle.compress(balls(_SLAB, shift)) for shift in (0, 1))
    seconds = timing.seconds(
        "match",
        lambda: match_slab(
            crackle.decompress(lower), crackle.decompress(upper), _VOXEL_UM3, Stitch()
        ),
    )
    hours = 3 * brain.blocks * float(np.median(seconds)) / 3600
    yield Row("match, a face", "s", seconds, {f"worker-hours for {3 * brain.blocks} faces": hours})

    labels, pairs = somas_in_labels(brain, rng)
    name = f"resolve {brain.pairs} pairs"
    yield _time_cold(timing, name, lambda: _resolve(labels, pairs), labels=brain.labels)
    yield _finish(timing, brain, labels, pairs)

    layers = [crackle.compress(balls(_CORE, 0, radius)) for radius in (_SOMA_VX, _NUCLEUS_VX)]
    table = np.arange(1 << 16, dtype=np.uint64)
    seconds = timing.seconds(
        "relabel", lambda: [table[crackle.decompress(layer)] for layer in layers]
    )
    hours = brain.blocks * float(np.median(seconds)) / 3600
    yield Row(
        "relabel, a block, not written", "s", seconds, {f"worker-hours for {brain.blocks}": hours}
    )


def balls(shape: Sequence[int], shift: int, radius: int = _SOMA_VX) -> np.ndarray:
    """Return labels (uint32) of balls in a grid, a few voxels apart."""
    step = 80
    grid = [(np.arange(n) + shift) for n in shape]
    cell = [g // step for g in grid]
    from_centre = [(g % step - step / 2) ** 2 for g in grid]
    number = cell[0][:, None, None] * 64 + cell[1][:, None] * 8 + cell[2] + 1
    inside = from_centre[0][:, None, None] + from_centre[1][:, None] + from_centre[2] < radius**2
    return np.where(inside, number, 0).astype(np.uint32)


def somas_in_labels(brain: Brain, rng: np.random.Generator) -> tuple[Labels, dict[str, np.ndarray]]:
    """Return labels ordered by id and pairs of labels of the same soma; one label per soma has its seed."""
    block = np.sort(rng.integers(0, brain.blocks, brain.labels))
    first = np.searchsorted(block, block)
    ids = (block.astype(np.uint64) << np.uint64(ID_BITS)) | (
        np.arange(brain.labels) - first + 1
    ).astype(np.uint64)
    soma = np.arange(brain.labels) * brain.somas // brain.labels  # neighbours in the order of ids
    starts = np.searchsorted(soma, np.arange(brain.somas))
    seed = np.zeros(brain.labels, np.int64)
    seed[starts] = np.arange(1, brain.somas + 1)
    voxels = rng.integers(20_000, 200_000, brain.labels)
    a = rng.integers(0, brain.labels, brain.pairs)
    size = np.diff(np.append(starts, brain.labels))
    b = starts[soma[a]] + rng.integers(0, size[soma[a]])
    pairs = {
        "a": ids[a],
        "b": ids[b],
        "overlap_um3": rng.random(brain.pairs) * 30,
        "ratio": np.full(brain.pairs, 0.9),
        "joins": rng.random(brain.pairs) < 0.9,
    }
    nuclei = np.zeros((brain.labels, 2), np.int64)
    certainty = np.stack([voxels * 250, voxels], axis=1)
    return Labels(ids, seed, voxels, certainty, nuclei, np.zeros(brain.labels, bool)), pairs


def _resolve(labels: Labels, pairs: dict[str, np.ndarray]) -> None:
    resolve(labels, pairs, np.zeros((0, 2), np.int64), _VOXEL_UM3, _CAP_UM3)


def _time_cold(timing: Timing, name: str, work: Any, **notes: Any) -> Row:
    """Time a step over the whole brain without a warm-up, and record its peak memory."""
    reset_peak()
    seconds = timing.seconds(name, work, warm=False)
    return Row(name, "s", seconds, notes | {"peak GB of the process": peak_gb()})


def _finish(timing: Timing, brain: Brain, labels: Labels, pairs: dict[str, np.ndarray]) -> Row:
    """Time what the coordinator does after match, with one file of labels and one of pairs for each block of a row."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder:
        config = RunConfig(image=f"{folder}/em", output=f"{folder}/run")
        x, y, z = config.segment.block_vx
        row = Box((0, 0, 0), (brain.blocks * x, y, z))
        create_layer(config.image, "image", "uint8", config.segment.resolution_nm, row)
        run = Run(config)
        kept = {name: values[: brain.labels] for name, values in pairs.items()}
        _write_blocks(run.store, brain, labels, kept)
        stage = _BrainMatch(run)
        stage.blocks = brain.blocks
        name = f"gather and resolve {brain.blocks} blocks"
        return _time_cold(timing, name, stage.finish, labels=brain.labels)


class _BrainMatch(MatchStage):
    """The match stage of a brain whose blocks are all segmented."""

    blocks = 0

    def plan(self) -> Sequence[int]:
        return range(self.blocks)


def _write_blocks(
    store: RunStore, brain: Brain, labels: Labels, pairs: dict[str, np.ndarray]
) -> None:
    """Write what segment and match leave for each block."""
    first = np.arange(brain.blocks + 1, dtype=np.uint64) << np.uint64(ID_BITS)
    rows = np.searchsorted(labels.ids, first)
    order = np.argsort(pairs["a"], kind="stable")
    sorted_pairs: dict[str, Any] = {name: values[order] for name, values in pairs.items()}
    pair_rows = np.searchsorted(sorted_pairs["a"], first)
    for block in range(brain.blocks):
        own = slice(rows[block], rows[block + 1])
        columns = ("seed", "voxels", "certainty", "nucleus", "cut")
        table = {name: getattr(labels, name)[own] for name in columns}
        table["one_body"] = np.zeros((0, 2), np.int64)
        store.put_arrays(f"blocks/{block}.npz", table)
        own = slice(pair_rows[block], pair_rows[block + 1])
        kept = {name: values[own] for name, values in sorted_pairs.items()}
        store.put_arrays(f"stitch/pairs/{block}.npz", kept)
