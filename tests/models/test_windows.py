"""Predictors, windows, encodings and engines."""

import numpy as np
import pytest
import torch

from flysoma.models.inference.encoding import (
    FULL,
    decode_nibbles,
    encode_fields,
    encode_nibbles,
    threshold_level,
)
from flysoma.models.inference.predictor import Predictor, predict_all
from flysoma.models.inference.windows import View
from flysoma.models.networks import engines
from flysoma.models.networks.network import Network, NetworkSpec
from flysoma.models.networks.somanet import SomaNet

CLASSES = ("background", "interior", "boundary")
WINDOWS = (32, 32, 32), (4, 4, 4), (4, 4, 4)  # largest, margin, padding


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    net = SomaNet(widths=(8, 16), pools=((2, 2, 2),))
    torch.nn.init.normal_(net.head.weight, std=0.5)
    spec = NetworkSpec("somanet", CLASSES, (40.0, 64.0, 64.0), (32, 32, 32), {}, 1 / 255, -0.5)
    return Predictor(Network(net, spec), device="cpu")


class LimitedMemory(torch.nn.Module):
    """A network on a device whose memory holds at most `most` windows."""

    def __init__(self, module, most):
        super().__init__()
        self.module, self.most, self.batches = module, most, []

    def forward(self, batch):
        self.batches.append(len(batch))
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.module(batch)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(3).integers(0, 255, (50, 41, 67)).astype(np.uint8)


def test_out_of_memory_halves_the_batch(predictor, image):
    plain = Predictor(predictor.network, device="cpu", engine="torch float32")
    whole = predict_all(plain, image, *WINDOWS)
    small = LimitedMemory(predictor.network.module, most=1)
    frugal = Predictor(Network(small, plain.network.spec), "cpu", 5, "torch float32")
    assert np.array_equal(predict_all(frugal, image, *WINDOWS), whole)
    assert frugal.batch == 1 and small.batches[:3] == [5, 2, 1] and set(small.batches[2:]) == {1}
    small.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        frugal(np.zeros((2, 32, 32, 32), np.uint8))


def test_only_the_requested_part_is_returned(predictor, image):
    window, part = image[:32, :32, :32], (slice(3, 9), slice(None), slice(10, 11))
    (probability,) = predictor.predict([(torch.from_numpy(window), part)])
    assert np.array_equal(probability, predictor(window[None])[0][(slice(None), *part)])
    assert list(predictor.predict([])) == []


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.8, 0.8333, 0.94, 0.98, 0.999])
def test_stored_probabilities_decide_as_exact_ones(threshold):
    both = torch.rand(2, 20, 30, 40, generator=torch.Generator().manual_seed(1))
    both[:, 0] = torch.linspace(threshold - 0.01, threshold + 0.01, 40)
    both[1] = 1 - both[1]
    interior, boundary = decode_nibbles(encode_fields(threshold, both).numpy())
    level = threshold_level(threshold)
    assert ((interior > level) == (both[0] > threshold).numpy()).all()
    assert ((boundary < max(FULL - level, 1)) == (both[1] < 1 - threshold).numpy()).all()
    assert np.abs(interior / FULL - both[0].numpy()).max() <= 1 / 15 + 1e-6


def test_nibbles_hold_the_nearest_of_16_levels():
    both = torch.rand(2, 9, 8, 7, generator=torch.Generator().manual_seed(1))
    both[0, 0, 0, :2], both[1, 0, 0, :2] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    (packed,) = encode_nibbles(both).numpy()
    assert packed.shape == (9, 8, 7) and packed.dtype == np.uint8
    decoded = decode_nibbles(packed)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded / FULL - both.numpy()).max() <= 0.5 / 15 + 1e-6
    assert (decoded[:, 0, 0, :2] == [[0, FULL], [FULL, 0]]).all()


def test_only_a_batch_that_overflows_fp16_is_repeated_in_float32(predictor, image):
    windows = np.stack([image[:32, i : i + 32, :32] for i in range(4)])
    narrow = Predictor(predictor.network, "cpu", 2, "torch fp16")
    finite = torch.full((2, 3, 32, 32, 32), 3.0)
    overflow = finite.clone()
    overflow[1, 0, 0, 0, 0] = torch.inf
    outputs = iter([overflow, finite])
    narrow.run = lambda images: next(outputs)
    probabilities = narrow(windows)
    plain = Predictor(predictor.network, "cpu", 2, "torch float32")
    assert np.array_equal(probabilities[:2], plain(windows[:2]))
    assert (probabilities[2:] == 85).all()


class Threshold(torch.nn.Module):
    """Predicts interior where the image is bright, but not near the edges of a window."""

    def forward(self, x):
        inner = torch.zeros_like(x)
        inner[..., 4:-4, 4:-4, 4:-4] = 1
        bright = (x * inner > 0.5).float() * 40 - 20
        return torch.cat([-bright, bright, torch.full_like(x, -20)], dim=1)


def test_each_voxel_comes_from_the_middle_of_a_window(image):
    spec = NetworkSpec("x", CLASSES, (40.0, 64.0, 64.0), (32, 32, 32), {}, 1 / 255, 0.0)
    probabilities = predict_all(
        Predictor(Network(Threshold(), spec), device="cpu"), image, *WINDOWS
    )
    assert (probabilities[0] == np.where(image > 127, 255, 0)).all()
    assert not probabilities[1].any()


def test_a_volume_smaller_than_a_window_is_mirrored(predictor):
    small = np.arange(9 * 17 * 3, dtype=np.uint8).reshape(9, 17, 3)
    window = View(torch.from_numpy(small)).window((-2, 0, 0), (14, 17, 8)).numpy()
    assert (window[2:11, :, :3] == small).all()
    assert (window[:2, :, :3] == small[1::-1]).all()
    assert (window[11:, :, :3] == small[:-4:-1]).all()
    assert (window[2:11, :, 3:6] == small[..., ::-1]).all()
    assert predict_all(predictor, small, *WINDOWS).shape == (2, 9, 17, 3)


def test_an_image_that_does_not_fit_on_a_gpu_stays_on_the_host(predictor, image, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    whole = predict_all(predictor, image, *WINDOWS)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", full)
        view = predictor.view(image, (1, 2, 3))
    assert view.image.data_ptr() == image.ctypes.data and view.first == (1, 2, 3)
    monkeypatch.setattr(predictor, "view", lambda image: View(torch.from_numpy(image)))
    assert np.array_equal(predict_all(predictor, image, *WINDOWS), whole)


def test_openvino_agrees_with_torch(predictor, image):
    pytest.importorskip("openvino", reason="the extra [openvino] is not installed")
    plain, other = (
        Predictor(predictor.network, device="cpu", engine=f"{maker} float32")
        for maker in ("torch", "openvino")
    )
    one, two = (predict_all(p, image, *WINDOWS) for p in (plain, other))
    assert np.abs(one.astype(int) - two).max() <= 1


@pytest.mark.parametrize(("bf16", "first"), [(True, "torch bf16"), (False, "torch float32")])
@pytest.mark.parametrize("openvino", [True, False])
def test_the_default_engine_depends_on_the_cpu(monkeypatch, bf16, first, openvino):
    monkeypatch.setattr(engines, "has_bf16", lambda _: bf16)
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: openvino or None)
    names = engines.available_engines("cpu")
    assert names[0] == first and names[-1].endswith("float32")
    assert any("openvino" in name for name in names) == openvino


def test_gpu_engines_are_compiled_where_possible_and_allowed(monkeypatch):
    monkeypatch.setattr(engines, "can_compile", lambda: True)
    plain = ["torch fp16", "torch bf16", "torch float32"]
    assert engines.available_engines("cuda") == [
        "torch compiled fp16",
        "torch compiled bf16",
        *plain,
    ]
    assert engines.available_engines("cuda", allow_compile=False) == plain
    monkeypatch.setattr(engines, "can_compile", lambda: False)
    assert engines.available_engines("cuda") == plain


def test_a_compiler_that_cannot_link_is_none(monkeypatch):
    def compile_(*_):
        raise RuntimeError("/usr/bin/ld: cannot find -lcuda")

    monkeypatch.setattr(engines.torch, "compile", compile_)
    engines._can_link.cache_clear()
    assert not engines._can_link()
    engines._can_link.cache_clear()


def test_compiling_needs_triton_a_compiler_and_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "_can_link", lambda: True)
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(engines.sysconfig, "get_path", lambda _: str(tmp_path))
    assert not engines.can_compile()
    (tmp_path / "Python.h").touch()
    assert engines.can_compile()
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    assert not engines.can_compile()
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: object())
    monkeypatch.delenv("CC")
    monkeypatch.setattr(engines.shutil, "which", lambda _: None)
    assert not engines.can_compile()
