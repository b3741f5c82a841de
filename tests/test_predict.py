"""Windows on a lattice: a voxel's value does not depend on which block asked for it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flysoma.models import engines
from flysoma.models.predict import Lattice, Predictor, predict_all, predict_around
from flysoma.models.unet import SomaNet
from flysoma.models.weights import Network, NetworkSpec

CLASSES = ("background", "interior", "boundary")


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    net = SomaNet(widths=(8, 16), pools=((2, 2, 2),))
    torch.nn.init.normal_(net.head.weight, std=0.5)
    spec = NetworkSpec("somanet", CLASSES, (40.0, 64.0, 64.0), (32, 32, 32), {}, 1 / 255, -0.5)
    return Predictor(Network(net, spec), device="cpu")


class Small(torch.nn.Module):
    """A network on a device whose memory holds no more than `most` windows."""

    def __init__(self, module, most):
        super().__init__()
        self.module, self.most, self.seen = module, most, []

    def forward(self, batch):
        self.seen.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.module(batch)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(3).integers(0, 255, (50, 41, 67)).astype(np.uint8)


def reader(image):
    return lambda lo, hi: image[tuple(slice(a, b) for a, b in zip(lo, hi))]


def test_tiles_own_each_voxel_once():
    lattice = Lattice((50, 41, 67), (32, 32, 32), (4, 4, 4))
    owned = np.zeros(lattice.volume, int)
    for tile in lattice.tiles_in((0, 0, 0), lattice.volume):
        lo, hi = lattice.owned(tile)
        owned[tuple(slice(a, b) for a, b in zip(lo, hi))] += 1
        assert lattice.holding(lo) == tile
    assert (owned == 1).all()


def test_memory_that_runs_out_halves_the_batch(predictor, image):
    plain = Predictor(predictor.network, device="cpu", engine="torch float32")
    whole = predict_all(plain, reader(image), image.shape, (0, 0, 0), image.shape)
    small = Small(predictor.network.module, most=1)
    frugal = Predictor(Network(small, plain.network.spec), "cpu", 5, "torch float32")
    found = predict_all(frugal, reader(image), image.shape, (0, 0, 0), image.shape)
    assert np.array_equal(found, whole)
    assert frugal.batch == 1 and small.seen[:3] == [5, 2, 1] and set(small.seen[2:]) == {1}
    small.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        frugal(np.zeros((2, 32, 32, 32), np.uint8))


@pytest.mark.parametrize(("lo", "hi"), [((0, 0, 0), (13, 41, 67)), ((7, 5, 30), (43, 29, 67))])
def test_blockwise_equals_whole(predictor, image, lo, hi):
    whole = predict_all(predictor, reader(image), image.shape, (0, 0, 0), image.shape)
    part = predict_all(predictor, reader(image), image.shape, lo, hi)
    assert (part == whole[(slice(None), *(slice(a, b) for a, b in zip(lo, hi)))]).all()


def test_a_block_sees_no_more_than_its_span(predictor, image):
    lo, hi = (7, 5, 30), (43, 29, 60)
    first, last = predictor.lattice(image.shape).span(lo, hi)

    def read(a, b):
        assert all(f <= i and j <= e for f, i, j, e in zip(first, a, b, last))
        return reader(image)(a, b)

    predict_all(predictor, read, image.shape, lo, hi)


def test_a_volume_smaller_than_a_window_works(predictor):
    small = np.full((9, 17, 3), 80, np.uint8)
    assert predict_all(predictor, reader(small), small.shape, (0, 0, 0), small.shape).shape == (
        2,
        9,
        17,
        3,
    )


class Threshold(torch.nn.Module):
    """Interior where the image is bright, background elsewhere."""

    def forward(self, x):
        bright = (x > 0.5).float() * 40 - 20
        return torch.cat([-bright, bright, torch.full_like(x, -20)], dim=1)


@pytest.fixture(scope="module")
def threshold():
    spec = NetworkSpec("x", CLASSES, (40.0, 64.0, 64.0), (32, 32, 32), {}, 1 / 255, 0.0)
    return Predictor(Network(Threshold(), spec), device="cpu")


def test_windows_follow_a_soma_and_leave_the_rest(threshold):
    image = np.zeros((96, 96, 240), np.uint8)
    image[40:50, 40:50, 20:150] = 255
    image[40:50, 40:50, 200:230] = 255  # no seed here: not looked at
    fields, windows = predict_around(
        threshold,
        reader(image),
        image.shape,
        ((0, 0, 0), image.shape),
        np.array([[45, 45, 30]]),
        0.5,
    )
    assert (fields[0, :, :, :190] == image[:, :, :190]).all()
    assert not fields[0, :, :, 200:].any()
    assert windows < 40 < len(list(threshold.lattice(image.shape).tiles_in((0, 0, 0), image.shape)))


class Blind(torch.nn.Module):
    """As Threshold, but blind near the edges of its window."""

    def __init__(self, *seen):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        mask = torch.zeros_like(x)
        mask[(..., *(slice(a, b) for a, b in self.seen))] = 1
        return Threshold()(x * mask)


def blind(*seen):
    spec = NetworkSpec("x", CLASSES, (400.0, 400.0, 400.0), (32, 32, 32), {}, 1 / 255, 0.0)
    return Predictor(Network(Blind(*seen), spec), device="cpu")


def around(predictor, image, *seeds):
    box = (0, 0, 0), image.shape
    return predict_around(predictor, reader(image), image.shape, box, np.array(seeds), 0.5)


def test_a_seed_in_no_soma_gets_a_window_of_its_own():
    """The soma lies where four tiles meet (tiles are 24 wide), and the network sees the middle of a window."""
    image = np.zeros((96, 96, 96), np.uint8)
    image[45:51, 45:51, 45:51] = 255
    fields, windows = around(blind(*[(9, 23)] * 3), image, (48, 48, 48))
    assert (fields[0] == image).all()
    assert windows == 1 + 1 + 7  # a tile, the second look, and the tiles that it reaches


def test_a_soma_that_ends_at_a_face_between_tiles_is_looked_at_again():
    """A window is blind for its first 12 sections, of which 8 are its tile's."""
    image = np.zeros((96, 96, 96), np.uint8)
    image[14:31, 56:64, 56:64] = 255
    sees = blind((12, 32), (0, 32), (0, 32))
    fields, windows = around(sees, image, (20, 60, 60))
    assert (fields[0] == image).all() and windows == 3
    image[14:31] = 0
    image[14:31, 59:61, 59:61] = 255  # a face of 0.64 um2 is none
    assert around(sees, image, (20, 60, 60))[1] == 2


def test_a_second_look_at_the_volumes_edge_stays_inside():
    image = np.zeros((40, 40, 40), np.uint8)
    image[:5, 34:, 20:24] = 255
    fields, _ = around(blind((0, 32), (0, 32), (8, 24)), image, (2, 37, 22))
    assert (fields[0] == image).all()


@pytest.fixture(scope="module")
def overlooked():
    """A network that sees 20 of a window's 32 voxels, bodies of 14 voxels, their seeds, and what it finds in all."""
    rng = np.random.default_rng(1)
    image = np.zeros((90, 101, 83), np.uint8)
    seeds = rng.integers(7, np.array(image.shape) - 7, (12, 3))
    for seed in seeds:
        image[tuple(slice(p - 7, p + 7) for p in seed)] = 255
    sees = blind((4, 24), (8, 28), (6, 26))
    return sees, image, seeds, *around(sees, image, *seeds)


@given(lo=st.tuples(*[st.integers(0, 60)] * 3))
@settings(max_examples=8, deadline=None)
def test_second_looks_are_the_same_in_every_block(overlooked, lo):
    """The block reads 48 voxels around its core, as far as the seeds lie that matter there."""
    sees, image, seeds, whole, _ = overlooked
    core = [(a, min(a + 25, n)) for a, n in zip(lo, image.shape)]
    first = tuple(max(0, a - 48) for a, _ in core)
    last = tuple(min(n, b + 48) for (_, b), n in zip(core, image.shape))
    own = seeds[((seeds >= first) & (seeds < last)).all(axis=1)]
    part, _ = predict_around(sees, reader(image), image.shape, (first, last), own, 0.5)
    inside = tuple(slice(a - f, b - f) for (a, b), f in zip(core, first))
    assert (part[(slice(None), *inside)] == whole[(slice(None), *(slice(*c) for c in core))]).all()


def test_no_seed_costs_nothing(threshold):
    image = np.zeros((40, 40, 40), np.uint8)
    fields, windows = predict_around(
        threshold, reader(image), image.shape, ((0, 0, 0), image.shape), np.zeros((0, 3)), 0.5
    )
    assert windows == 0 and not fields.any()


def test_openvino_says_what_torch_says(predictor, image):
    pytest.importorskip("openvino", reason="the extra [cpu] is not installed")
    plain, other = (
        Predictor(predictor.network, device="cpu", engine=f"{maker} float32")
        for maker in ("torch", "openvino")
    )
    whole = (0, 0, 0), image.shape
    one, two = (predict_all(p, reader(image), image.shape, *whole) for p in (plain, other))
    assert np.abs(one.astype(int) - two).max() <= 1


@pytest.mark.parametrize(
    ("bf16", "amx", "openvino", "first"),
    [
        (True, False, True, "openvino bf16"),
        (True, True, True, "torch bf16"),
        (True, True, False, "torch bf16"),
        (False, False, True, "openvino float32"),
        (False, False, False, "torch float32"),
    ],
)
def test_the_fastest_engine_follows_from_the_processor(monkeypatch, bf16, amx, openvino, first):
    monkeypatch.setattr(engines, "has_bf16", lambda _: bf16)
    monkeypatch.setattr(engines, "has_amx", lambda: amx)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: openvino or None)
    assert engines.engines("cpu")[0] == first and engines.engines("cpu")[-1].endswith("float32")
