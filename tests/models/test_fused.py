"""Compiled networks, on a GPU if there is one, otherwise in Triton's interpreter."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from flysoma.models.inference.encoding import FULL
from flysoma.models.inference.predictor import Predictor
from flysoma.models.networks.engines import has_bf16
from flysoma.models.networks.network import Network, NetworkSpec
from flysoma.models.networks.somanet import SomaNet
from flysoma.models.networks.weights import load_network
from flysoma.models.phantom.make import make_phantom

pytest.importorskip("triton", reason="Triton is not installed")


def interpreted(check: str) -> None:
    """Run a check in a process that interprets Triton kernels and compiles nothing."""
    code = f"""
import torch
torch.library.wrap_triton = lambda kernel: kernel
torch.compile = lambda module, **_: module
from flysoma.models.networks import fused
torch.manual_seed(0)
{check}
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("rows", "channels"), [((3, 5, 7), 32), ((1, 1, 1), 128), ((4, 9, 65), 8)])
def test_the_kernel_computes_bias_norm_and_relu(rows, channels):
    interpreted(f"""
rows, (bias, weight, shift) = torch.randn({rows} + ({channels},)), torch.randn(3, {channels})
expected = torch.layer_norm(rows + bias, ({channels},), weight, shift, 1e-5).relu()
torch.testing.assert_close(fused.norm_relu(rows, bias, weight, shift), expected)
""")


def test_fused_blocks_do_not_change_the_output():
    interpreted("""
from flysoma.models.networks.somanet import SomaNet
network = SomaNet(widths=(8, 16, 12), pools=((2, 2, 2), (2, 2, 2))).eval()
for block in [*network.down, *network.up]:
    torch.nn.init.normal_(block.second.weight, std=0.1)
    for values in (block.first.bias, block.norm.weight, block.norm.bias):
        torch.nn.init.normal_(values)
torch.nn.init.normal_(network.head.weight, std=0.5)
images, before = torch.randn(2, 1, 16, 12, 24), dict(network.state_dict())
with torch.inference_mode():
    output = fused.compile_network(network, torch.float32)(images)
    torch.testing.assert_close(output, network(images), rtol=1e-4, atol=1e-4)
assert all(value is before[name] or value.equal(before[name]) for name, value in network.state_dict().items())
""")


@pytest.fixture(scope="module")
def reference():
    """Windows with somas, a network, and the classes that a CPU predicts in float32."""
    image = make_phantom((64, 96, 96), (40.0, 64.0, 64.0), 5, "typical").image
    windows = np.stack([image[:32, :64, :64], image[32:, 32:, 32:]])
    network = load_network("flysoma/segment-v5")
    expected = classes(Predictor(network, "cpu", engine="torch float32")(windows))
    assert np.bincount(expected.ravel()).min() > 10_000
    return windows, network, expected


def classes(probabilities):
    """The most likely of background, interior and boundary at each voxel."""
    others = probabilities[:, :2].astype(int)
    return np.concatenate([FULL - others.sum(1, keepdims=True), others], 1).argmax(1)


@pytest.mark.parametrize("kind", ["compiled fp16", "compiled bf16", "fp16", "bf16", "float32"])
def test_a_gpu_agrees_with_a_cpu(reference, kind):
    """Without a GPU, the test compares half precision with float32 on the CPU."""
    windows, network, expected = reference
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and "compiled" in kind:
        pytest.skip("needs a GPU")
    if device == "cpu" and "16" in kind and not has_bf16("cpu"):
        pytest.skip("needs a CPU with bfloat16: others emulate half precision, 50 times slower")
    one, other = (Predictor(network, device, engine=f"torch {kind}") for _ in range(2))
    probabilities = one(windows)
    assert np.array_equal(probabilities, other(windows))
    assert (classes(probabilities) == expected).mean() > 0.999
    assert one.busy_s > 0


def test_only_known_architectures_are_compiled(monkeypatch):
    from flysoma.models.networks import engines

    class Other(torch.nn.Conv3d):
        pass

    spec = NetworkSpec("x", ("background", "core"), (40.0, 64.0, 64.0), (8, 8, 8))
    run = engines.start_engine(
        "torch compiled bf16", Network(Other(1, 2, 3, padding=1), spec), "cpu"
    )
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    assert run(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
    with pytest.raises(pytest.fail.Exception):
        engines.start_engine("torch compiled bf16", Network(SomaNet(), spec), "cpu")
