"""Mips of labels: their bounds, their labels, and that tasks make the same mips as the whole volume."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flysoma.tasks.grids.geometry import BlockGrid, Box
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.layers.precomputed import create_layer
from flysoma.tasks.stages import mips
from flysoma.tasks.stages.mips import DownsampleStage, ThumbnailStage, all_mips, halve, passes

VOXEL = (64.0, 64.0, 40.0)
three = lambda values: st.tuples(values, values, values)  # noqa: E731


@example(lo=(3, 0, 0), size=(256, 1, 1))  # 64 voxels of the second mip lie in 65
@given(lo=three(st.integers(-500, 500)), size=three(st.integers(1, 20_000)))
def test_mips_cover_the_volume_down_to_a_thumbnail(lo, size):
    box = Box(lo, tuple(a + n for a, n in zip(lo, size)))
    made = all_mips(VOXEL, box)
    for mip in made:
        assert mip.resolution_nm == tuple(v * f for v, f in zip(VOXEL, mip.factor))
        ends = [(a * f, b * f) for a, b, f in zip(mip.box.lo, mip.box.hi, mip.factor)]
        assert all(
            a <= p and q <= b < q + f for (a, b), p, q, f in zip(ends, box.lo, box.hi, mip.factor)
        )
        assert all(p - a < 64 for (a, _), p in zip(ends, box.lo))
    assert max(made[-1].box.size) <= 65 or max(made[-1].factor) == 64
    every = list(passes(VOXEL, box))
    assert all(len(some) == 4 for some in every[:-1])
    for some in every:
        last = some[-1]
        for mip in some[1:]:  # chunks of the last one are whole chunks of the others
            assert all(
                a * f == b * g
                for a, f, b, g in zip(mip.box.lo, mip.factor, last.box.lo, last.factor)
            )


@pytest.mark.parametrize("size, factors", [
    ((512, 512, 96), [(2, 2, 2), (4, 4, 2), (8, 8, 2)]),
    ((160, 64, 30), [(2, 1, 1), (4, 1, 1)]),
    ((64, 64, 64), []),
])  # fmt: skip
def test_an_axis_that_fits_into_a_chunk_is_not_halved(size, factors):
    assert [mip.factor for mip in all_mips(VOXEL, Box((0, 0, 0), size))[1:]] == factors


@given(
    three(st.integers(-3, 3)),
    three(st.integers(1, 6)),
    three(st.sampled_from((1, 2))),
    st.integers(0, 99),
)
def test_a_halved_voxel_is_a_majority_vote(lo, size, factor, seed):
    labels = np.random.default_rng(seed).integers(0, 3, size[::-1]).astype(np.uint64)
    halved, first = halve(labels, lo, factor)
    assert first == tuple(a // f for a, f in zip(lo, factor))
    assert halved.shape[::-1] == tuple(
        -(-(a + n) // f) - a // f for a, n, f in zip(lo, size, factor)
    )
    for place in np.ndindex(halved.shape):
        spans = zip(place, first[::-1], lo[::-1], factor[::-1])
        inside = labels[
            tuple(slice(max((p + o) * f - a, 0), (p + o + 1) * f - a) for p, o, a, f in spans)
        ]
        counts = np.bincount(inside.ravel().astype(int), minlength=3)
        assert counts[int(halved[place])] == counts.max()


@settings(deadline=None, max_examples=8)
@example(lo=(3, 3, 3), size=(32, 9, 9), seed=0)
@given(three(st.integers(-20, 20)), three(st.integers(1, 150)), st.integers(0, 99))
def test_tasks_make_the_same_mips_as_the_whole_volume(tmp_path_factory, lo, size, seed):
    box = Box(lo, tuple(a + n for a, n in zip(lo, size)))
    labels = (
        np.random.default_rng(seed)
        .integers(0, 3, [-(-n // 5) for n in size[::-1]])
        .astype(np.uint64)
    )
    for axis, n in enumerate(size[::-1]):
        labels = labels.repeat(5, axis).take(range(n), axis)
    path = f"file://{tmp_path_factory.mktemp('somas')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mips, "CHUNK", (8, 8, 8))  # so that a task makes up to 64 voxels
        patch.setattr(mips, "_LAYER", 10)
        create_layer(path, "segmentation", "uint64", VOXEL, box, (8, 8, 8))
        LabelLayer(path).write(box, labels)
        grid = BlockGrid(box, (16, 16, 16), (0, 0, 0))
        run = SimpleNamespace(
            config=SimpleNamespace(segment=SimpleNamespace(resolution_nm=VOXEL)),
            segment_grid=grid,
            layer_names=["somas"],
            layer=lambda name: LabelLayer(path),
            read_labels=lambda name, box, mip, stage: LabelLayer(path).read(box, mip),
        )
        segment = SimpleNamespace(plan=lambda: range(len(grid)))
        patch.setattr(mips, "SegmentStage", lambda run: segment)
        for kind in (DownsampleStage, ThumbnailStage):
            stage = kind(run)
            stage.prepare()
            voxels = sum(stage.work(index, None)["voxels"] for index in reversed(stage.plan()))
            assert not stage.mips or voxels == stage.mips[0].box.voxels
        made = all_mips(VOXEL, box)
        layer, before, first = LabelLayer(path), made[0].factor, lo
        for number, mip in enumerate(made[1:], start=1):
            labels, first = halve(labels, first, tuple(a // b for a, b in zip(mip.factor, before)))
            before = mip.factor
            stored = layer.read(mip.box, number)
            held = Box(first, tuple(a + n for a, n in zip(first, labels.shape[::-1])))
            assert np.array_equal(stored[held.slices_zyx(mip.box.lo)], labels)
            assert stored.sum() == labels.sum()  # nothing outside
