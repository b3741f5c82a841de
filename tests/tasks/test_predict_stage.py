"""The predict stage: the values of a tile depend on the volume and the config alone."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from five_balls import OFFSET, RESOLUTION, digest, flysoma
from hypothesis import given, settings
from hypothesis import strategies as st

from flysoma.errors import UserError
from flysoma.models.inference.encoding import FULL, encode_bytes, encode_fields
from flysoma.models.inference.windows import View
from flysoma.models.networks.network import ATTRIBUTES, Network, NetworkSpec
from flysoma.models.networks.weights import save_network
from flysoma.tasks.config import RunConfig
from flysoma.tasks.coordination.coordinator import execute_here
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.grids.resample import resample, source_box
from flysoma.tasks.grids.tiles import CORES, FIELDS, NUCLEUS_FIELDS, read_tiles
from flysoma.tasks.layers.image import ImageLayer
from flysoma.tasks.layers.precomputed import create_layer, fill_layer
from flysoma.tasks.pipeline import begin
from flysoma.tasks.run import Run, predictor
from flysoma.tasks.stages.catalog import make_stage

SIZE = (91, 120, 150)


def random_network(path, classes, voxel_nm):
    """Save a network with random weights, whose output depends on the surroundings of a voxel."""
    args = {"stem": (1, 2, 2), "widths": (8, 16), "pools": ((2, 2, 2),)}
    spec = NetworkSpec("somanet", classes, voxel_nm, (32, 32, 32), args, 1 / 64, -2.0)
    torch.manual_seed(len(classes))
    net = spec.build()
    torch.nn.init.normal_(net.head.weight, std=0.5)
    save_network(path, Network(net, spec))
    return str(path)


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A folder with an image, grey in one half and black in the other, and two random networks."""
    folder = tmp_path_factory.mktemp("grey")
    image = np.random.default_rng(1).integers(1, 255, SIZE).astype(np.uint8)
    image[:, :, SIZE[2] // 2 :] = 0
    box = Box(OFFSET, tuple(o + n for o, n in zip(OFFSET, SIZE[::-1])))
    create_layer(f"file://{folder}/em", "image", "uint8", RESOLUTION, box)
    fill_layer(f"file://{folder}/em", image)
    random_network(folder / "locate", ("background", "core"), (240.0, 64.0, 64.0))
    classes = ("background", "interior", "boundary", *ATTRIBUTES)
    random_network(folder / "segment", classes, (40.0, 64.0, 64.0))
    for name in ("locate", "segment"):
        (folder / name).rename(folder / f"{name}.safetensors")
    return folder


def predicted(folder, name, **predict):
    """Return a run through the predict stage."""
    config = RunConfig(
        image=f"{folder}/em",
        output=f"{folder}/{name}",
        predict={"window_vx": (64, 64, 64), "margin_vx": (8, 9, 10)} | predict,
        locate={"weights": f"{folder}/locate.safetensors"},
        segment={"weights": f"{folder}/segment.safetensors"},
    )
    run = begin(config)
    execute_here(run, "predict", lambda *_: None)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("block", [(1, 1, 1), (2, 3, 1), (9, 9, 9)])
def test_a_tile_has_the_values_of_its_window_in_the_whole_volume(grey, block):
    """No matter how little of the volume its block reads."""
    run = predicted(grey, f"run-{block[0]}", block_tiles=block)
    stage = make_stage("predict", run)
    (locate, segment), (coarse, fine) = stage.networks, stage.lattices
    own_nm, coarse_nm = run.config.segment.resolution_nm, run.config.locate.resolution_nm
    whole, coarsely = run.segment_grid.bounds, run.locate_grid.bounds
    image = torch.from_numpy(run.image.read(whole, own_nm))
    shrunk = resample(image, whole, own_nm, coarsely, coarse_nm)
    cores, fields = run.store.indices(CORES), run.store.indices(FIELDS)
    assert len(cores) > 3 and len(fields) > 3
    assert run.store.indices(NUCLEUS_FIELDS) == fields
    for folder, numbers, network, lattice, view, form in (
        (CORES, cores, locate, coarse, View(shrunk), encode_bytes),
        (FIELDS, fields, segment, fine, View(image), partial(encode_fields, 0.8333)),
        (NUCLEUS_FIELDS, fields, segment, fine, View(image), partial(encode_fields, 0.8333)),
    ):
        for number in numbers:
            tile = lattice.tile(number)
            window = view.window(lattice.window_start(tile), lattice.window)
            (expected,) = network.predict([(window, lattice.tile_in_window(tile))], form)
            if folder == CORES:
                expected = np.where(expected < round(0.5 * FULL), 0, expected)
            stored = run.stored_numbers("predict", folder)
            kept = read_tiles(run.store, folder, stored, lattice, *lattice.tile_bounds(tile))
            assert (kept == expected[int(folder == NUCLEUS_FIELDS)]).all()


def test_only_cores_are_stored_and_only_near_them_is_segmented(grey):
    run = predicted(grey, "run-1", block_tiles=(1, 1, 1))
    tiles = run.tiles.coarse
    stored = run.stored_numbers("predict", CORES)
    cores = read_tiles(run.store, CORES, stored, tiles, (0, 0, 0), tiles.volume)
    assert set(np.unique(cores)) - {0} <= set(range(round(0.5 * FULL), FULL + 1))
    assert cores.any() and not cores[:, :, -30:].any()  # black there
    segmented, kept = run.store.indices(FIELDS), run.store.indices(CORES)
    assert 0 < len(segmented) < len(run.tiles.grid)
    for number in kept:
        lo, hi = tiles.tile_bounds(tiles.tile(number))
        if cores[tuple(slice(a, b) for a, b in zip(lo, hi))].astype(bool).sum() > 102:  # 0.1 um3
            assert number in segmented


@pytest.mark.parametrize("changed", ["weights", "version", "manifest"])
def test_a_run_resumes_only_with_its_own_version_and_weights(grey, tmp_path, monkeypatch, changed):
    shutil.copytree(grey, tmp_path / "own")
    run = predicted(tmp_path / "own", "run", block_tiles=(9, 9, 9))
    begin(run.config)
    if changed == "weights":
        with open(tmp_path / "own/segment.safetensors", "ab") as file:
            file.write(b" ")
        words = "segment.safetensors is not the file that .*/run was begun with"
    elif changed == "manifest":
        run.store.put("manifest.json", b"{")
        words = "was begun with flysoma of no known version"
    else:
        monkeypatch.setattr("flysoma.tasks.run.__version__", "0.0.9")
        words = "was begun with flysoma .* and this is 0.0.9"
    with pytest.raises(UserError, match=words):
        begin(run.config)
    with pytest.raises(UserError, match=words):
        _ = make_stage("predict", Run.open(run.path)).networks


@pytest.mark.parametrize("changed", ["chunk", "info"])
def test_a_run_resumes_only_with_its_own_image(grey, tmp_path, changed):
    shutil.copytree(grey, tmp_path / "own")
    run = predicted(tmp_path / "own", "run", block_tiles=(9, 9, 9))
    layer = ImageLayer(run.config.image)
    if changed == "chunk":
        box = layer.working_bounds(RESOLUTION)
        fill_layer(run.config.image, 255 - layer.read(box, RESOLUTION))
        words = r"chunk 64_64_40/.* of .*/em is not the one that .*/run was begun with"
    else:
        info = json.loads((tmp_path / "own/em/info").read_text())
        info["scales"][0]["resolution"][2] = 50
        (tmp_path / "own/em/info").write_text(json.dumps(info))
        words = "the info of .*/em is not the one that .*/run was begun with"
    with pytest.raises(UserError, match=words):
        begin(run.config)


def test_the_networks_use_the_threads_of_the_config(grey, monkeypatch):
    run = predicted(grey, "threads", block_tiles=(9, 9, 9), threads=2)
    stage, seen = make_stage("predict", run), set()
    for network in stage.networks:
        infer = network.run
        monkeypatch.setattr(
            network, "run", lambda x, infer=infer: seen.add(torch.get_num_threads()) or infer(x)
        )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    index = stage.plan()[0]
    stage.work(index, stage.read(index))
    torch.set_num_threads(before)
    assert seen == {2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bytes_of_a_task_do_not_depend_on_the_threads_of_its_process(
    volume, tmp_path, monkeypatch
):
    """With the shipped networks."""
    found = []
    for threads in "12":
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        config = tmp_path / f"{threads}.yaml"
        text = f"image: {volume[0]}/em\noutput: {tmp_path}/{threads}\n"
        config.write_text(text + "predict: {window_vx: [96, 96, 96]}\n")
        done = flysoma("run", str(config), "--until", "segment", "--workers", "1")
        assert done.returncode == 0, done.stderr
        folders = ("fields", "cores", "seeds", "blocks", "slabs")
        found.append({folder: digest(f"{tmp_path}/{threads}/{folder}") for folder in folders})
    assert found[0]["fields"] and found[0] == found[1]


def test_a_replaced_file_of_weights_is_loaded_again(grey, tmp_path):
    path = str(tmp_path / "mine.safetensors")
    shutil.copy(grey / "locate.safetensors", path)
    first = predictor(path)
    assert predictor(path) is first
    shutil.copy(grey / "segment.safetensors", path)
    assert len(predictor(path).network.spec.classes) == 5


@given(
    lo=st.tuples(*[st.integers(-20, 20)] * 3),
    size=st.tuples(*[st.integers(1, 20)] * 3),
    nm=st.tuples(*[st.sampled_from([16.0, 40.0, 64.0, 100.0])] * 3),
)
@settings(max_examples=40, deadline=None)
def test_a_coarser_voxel_is_the_mean_of_what_it_covers(lo, size, nm):
    own = (16.0, 16.0, 40.0)
    nm = tuple(max(a, b) for a, b in zip(nm, own))
    box = Box(lo, tuple(a + n for a, n in zip(lo, size)))
    source = source_box(box, nm, own, Box((-500,) * 3, (500,) * 3))
    values = np.random.default_rng(0).integers(0, 255, source.size[::-1]).astype(np.uint8)
    resampled = resample(torch.from_numpy(values), source, own, box, nm).numpy()
    assert resampled.shape == box.size[::-1] and resampled.dtype == np.uint8
    voxel = [0, size[1] // 2, size[2] - 1]  # x, y, z
    weights = []
    for axis in range(3):
        first = (box.lo[axis] + voxel[axis]) * nm[axis]
        there = np.arange(source.lo[axis], source.hi[axis]) * own[axis]
        share = np.minimum(there + own[axis], first + nm[axis]) - np.maximum(there, first)
        weights.append(np.clip(share, 0, None) / nm[axis])
    expected = np.einsum("zyx,x,y,z", values, *weights)
    assert abs(float(resampled[tuple(voxel[::-1])]) - expected) < 0.51


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("nm", [(64.0, 64.0, 240.0), (50.0, 77.0, 61.0), (64.0, 64.0, 40.0)])
def test_a_gpu_resamples_and_cuts_windows_as_a_cpu_does(nm):
    own, source = (16.0, 16.0, 40.0), Box((3, -5, 7), (403, 295, 97))
    image = torch.from_numpy(
        np.random.default_rng(0).integers(0, 255, source.size[::-1]).astype(np.uint8)
    )
    box = Box((1, 0, 2), (90, 50, 13))
    resampled = resample(image.cuda(), source, own, box, nm)
    assert resampled.cpu().equal(resample(image, source, own, box, nm))
    for start in ((-7, 30, 280), (10, -3, 5), (60, 200, 350)):
        window = View(image.cuda()).window(start, (70, 120, 130))
        assert window.cpu().equal(View(image).window(start, (70, 120, 130)))
