"""UNet and SomaNet: parameter names and shapes, input sizes, and precision."""

import pytest
import torch

from flysoma.models.networks.somanet import SomaNet, _fold, _unfold
from flysoma.models.networks.unet import UNet


def test_unet_has_the_published_names_and_number_of_parameters():
    state = UNet(in_channels=1, classes=2).state_dict()
    assert sum(value.numel() for value in state.values()) == 1_600_376
    assert set(state) == {
        f"{part}{i}.0.weight" for part, n in (("ec", 8), ("dc", 10)) for i in range(n)
    }
    assert tuple(state["ec0.0.weight"].shape) == (8, 1, 3, 3, 3)
    assert tuple(state["dc8.0.weight"].shape) == (64, 192, 3, 3, 3)
    assert tuple(state["dc0.0.weight"].shape) == (2, 16, 1, 1, 1)


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 17, 23), (31, 20, 12)])
@pytest.mark.parametrize("network", [UNet(1, 3), SomaNet(3, widths=(8, 8), pools=((2, 2, 2),))])
def test_output_size_equals_input_size(network, size):
    with torch.no_grad():
        assert network(torch.zeros(1, 1, *size)).shape == (1, 3, *size)


def test_unet_maps_zeros_to_zeros():
    with torch.no_grad():
        assert not UNet(1, 3)(torch.zeros(1, 1, 16, 16, 16)).any()


def test_unfold_inverts_fold():
    x = torch.arange(2 * 4 * 6 * 8.0).reshape(1, 2, 4, 6, 8)
    folded = _fold(x, (1, 2, 4))
    assert folded.shape == (1, 16, 4, 3, 2)
    assert torch.equal(_unfold(folded, (1, 2, 4), 2), x)
    assert torch.equal(folded[0, :8, 1, 2, 1], x[0, 0, 1, 4:6, 4:8].flatten())


def test_somanet_agrees_in_bfloat16_and_float32():
    torch.manual_seed(0)
    network = SomaNet(3, widths=(32, 32, 32), pools=((1, 2, 2), (2, 2, 2)), stem=(1, 2, 2)).eval()
    x = torch.randn(1, 1, 12, 24, 24)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x).float()
    assert torch.isfinite(half).all()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max()


def test_somanet_refuses_mismatched_levels():
    with pytest.raises(ValueError, match="2 levels need 1 pools, not 2"):
        SomaNet(2, widths=(8, 8), pools=((2, 2, 2), (2, 2, 2)))
