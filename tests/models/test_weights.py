"""Weights files: round trips, published checkpoints, refusal of bad files, and input normalization."""

import json
import os
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from flysoma.errors import UserError
from flysoma.models.networks import weights_files
from flysoma.models.networks.network import Network, NetworkSpec, normalize
from flysoma.models.networks.somanet import SomaNet
from flysoma.models.networks.unet import UNet
from flysoma.models.networks.weights import load_network, save_network

ARGS = {"widths": [8, 16], "pools": [[2, 2, 2]], "stem": [1, 2, 2]}
SPEC = NetworkSpec(
    "somanet",
    ("background", "core"),
    (240.0, 64.0, 64.0),
    (16, 64, 64),
    ARGS,
    input_scale=1 / 64,
    input_shift=-2.0,
    role="locate",
    normalized=True,
)


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        load_network(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    network = Network(SPEC.build(), SPEC)
    return path, network, save_network(path, network)


def test_a_saved_network_loads_unchanged(saved):
    path, network, digest = saved
    loaded = load_network(path)
    assert loaded.spec == SPEC and loaded.fingerprint == digest
    for key, value in network.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[key], value)


def test_the_group_can_read_a_saved_file_if_the_umask_permits_it(saved):
    path, network, _ = saved
    path.unlink()
    before = os.umask(0o027)
    try:
        save_network(path, network)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_half_precision_files_load_as_float32(saved, tmp_path):
    path, network, _ = saved
    small = tmp_path / "half.safetensors"
    save_network(small, network, half=True)
    assert small.stat().st_size < 0.6 * path.stat().st_size
    loaded = load_network(small).module.state_dict()
    for key, value in network.module.state_dict().items():
        assert loaded[key].dtype == torch.float32
        assert torch.allclose(loaded[key], value, atol=1e-3)


@pytest.mark.parametrize("classes, role", [(2, "locate"), (3, "segment")])
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model_state_dict": s}]
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_checkpoints_load(tmp_path, classes, role, wrap, prefix):
    state = UNet(1, classes).state_dict()
    path = tmp_path / "published.pth"
    torch.save(wrap({prefix + key: value for key, value in state.items()}), path)
    loaded = load_network(path)
    assert (
        loaded.spec.arch == "unet"
        and loaded.spec.role == role
        and len(loaded.spec.classes) == classes
    )
    assert (loaded.spec.input_scale, loaded.spec.input_shift) == (1.0, 0.0)
    assert torch.equal(loaded.module.state_dict()["ec3.0.weight"], state["ec3.0.weight"])


def test_published_swin_unetr_loads(tmp_path):
    pytest.importorskip("monai", reason="MONAI (the [swin] extra) is not installed")
    from flysoma.models.networks.swin import swin_unetr

    path = tmp_path / "swin.pt"
    torch.save({"state_dict": swin_unetr(3, feature_size=12).state_dict()}, path)
    loaded = load_network(path)
    assert loaded.spec.arch == "swin_unetr" and loaded.spec.args == {"feature_size": 12}


def test_refusal_of_a_missing_file_lists_the_shipped_weights(tmp_path):
    assert "no weights file at" in refusal(tmp_path / "none.safetensors")
    message = refusal("flysoma/none-v9")
    for name in weights_files.packaged_names():
        assert name in message


def test_a_truncated_file_is_refused(saved, tmp_path):
    path, _, _ = saved
    path.write_bytes(path.read_bytes()[:-100])
    assert "not a complete safetensors file" in refusal(path)
    checkpoint = tmp_path / "cut.pth"
    torch.save(UNet(1, 2).state_dict(), checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    assert "not a complete PyTorch checkpoint" in refusal(checkpoint)


class _Dangerous:
    def __reduce__(self):
        return (eval, ("1/0",))


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, save):
    path = tmp_path / "evil.pth"
    save({"state_dict": _Dangerous()}, path)
    assert "is refused" in refusal(path)


def test_text_and_unknown_networks_are_refused(tmp_path):
    path = tmp_path / "note.pth"
    path.write_text("not a checkpoint")
    refusal(path)
    torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    assert "the first 'fc.weight'" in refusal(path)
    torch.save([1, 2], path)
    assert "no state_dict" in refusal(path)


def test_refusal_of_a_wrong_shape_names_both_shapes(tmp_path):
    state = UNet(1, 2).state_dict()
    state["ec2.0.weight"] = torch.zeros(16, 16, 1, 1, 1)
    path = tmp_path / "wrong.pth"
    torch.save(state, path)
    assert "ec2.0.weight is (16, 16, 1, 1, 1), should be (16, 16, 3, 3, 3)" in refusal(path)
    del state["ec2.0.weight"]
    torch.save(state, path)
    assert "ec2.0.weight is absent" in refusal(path)


def test_a_file_of_another_architecture_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_network(path, Network(SomaNet(2, widths=(8,), pools=()), SPEC))
    assert "does not fit its architecture" in refusal(path)
    spec = NetworkSpec("perceptron", ("background", "core"), (1.0, 1.0, 1.0), (8, 8, 8))
    save_network(path, Network(SomaNet(2, widths=(8,), pools=()), spec))
    assert "no architecture 'perceptron'" in refusal(path)


def test_shipped_weights_are_checked_against_their_sidecar(saved, tmp_path, monkeypatch):
    path, _, digest = saved
    monkeypatch.setattr(weights_files, "PACKAGED", tmp_path)
    assert "tiny.json is missing" in refusal("flysoma/tiny")
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest}))
    assert load_network("flysoma/tiny").fingerprint == digest
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))
    assert "sha256 differs" in refusal("flysoma/tiny")


@pytest.mark.parametrize("name", weights_files.packaged_names())
def test_shipped_weights_load(name):
    network = load_network(name)
    assert network.spec.role == name.removeprefix("flysoma/").split("-")[0]


@pytest.fixture
def tissue():
    """Two images (n, 1, z, y, x) with different contrast."""
    torch.manual_seed(1)
    grey = torch.randn(1, 1, 8, 32, 32)
    return torch.cat([grey * 50 + 120, grey * 25 + 170]).round().clamp(1, 255)


def test_images_of_any_contrast_are_normalized_alike(tissue):
    dark, bright = normalize(tissue)
    assert (dark - bright).abs().mean() < 3 and abs(float(dark.median()) - 150) < 3
    assert 35 < float(dark.std()) < 45


def test_each_image_is_normalized_separately(tissue):
    both, alone = normalize(tissue), [normalize(image[None]) for image in tissue]
    assert torch.equal(both, torch.cat(alone))


def test_resin_keeps_low_contrast_and_a_wide_spread_stays_wide():
    torch.manual_seed(2)
    resin, bimodal = torch.randn(1, 1, 8, 32, 32) * 3 + 215, torch.rand(1, 1, 8, 32, 32) * 255
    assert normalize(resin).std() < 7
    assert normalize(bimodal).std() > 0.75 * bimodal.std()


def test_missing_image_is_ignored_and_stays_darkest(tissue):
    torn = tissue.clone()
    torn[:, :, :, :16] = 0
    assert (normalize(torn)[:, :, :, 16:] - normalize(tissue)[:, :, :, 16:]).abs().max() < 9
    for image in normalize(torn):
        assert image[:, :, :16].max() <= image[:, :, 16:].min()
    assert not normalize(torch.zeros(1, 1, 4, 8, 8)).any()


def test_images_are_normalized_only_if_the_spec_says_so(tissue):
    assert torch.equal(SPEC.preprocess(tissue), normalize(tissue) / 64 - 2)
    published = NetworkSpec("unet", SPEC.classes, SPEC.voxel_nm, SPEC.window)
    assert torch.equal(published.preprocess(tissue), tissue)
    assert all(load_network(name).spec.normalized for name in weights_files.packaged_names())


def change_spec(path, **values):
    """Rewrite a weights file with another specification, as flysoma 0.1 wrote it: without a checksum."""
    with safe_open(path, framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}
        spec = json.loads(file.metadata()["spec"]) | values
    save_file(state, path, metadata={"spec": json.dumps(spec)})


@pytest.mark.parametrize(
    "values",
    [
        {"window": [0, 64, 64]},
        {"window": [16, 64, 1e30]},
        {"window": "abc"},
        {"voxel_nm": [40, 64]},
        {"voxel_nm": [40, -64, float("nan")]},
        {"voxel_nm": [40, [64], "x"]},
        {"classes": [1, 2]},
        {"classes": []},
        {"input_scale": float("inf")},
        {"input_shift": None},
        {"normalized": "no"},
        {"role": "both"},
        {"args": [1]},
        {"args": {"widths": [8], "pools": [], "depth": 3}},
        {"args": {"widths": [0], "pools": []}},
        {"args": {"widths": ["8"], "pools": []}},
        {"args": {"widths": [10**9], "pools": []}},
        {"args": {"widths": [8], "pools": [[0, 1, 1]]}},
        {"args": None},
    ],
    ids=str,
)
def test_a_nonsense_specification_is_one_line(saved, values):
    path, _, _ = saved
    change_spec(path, **values)
    assert str(path) in refusal(path)


VALUES = [None, "x", -1, 0, 1e30, float("nan"), [], {}, [[1]], [10**12] * 3, True]


@pytest.mark.parametrize("key", [field.name for field in fields(NetworkSpec)])
def test_any_value_in_a_specification_loads_or_is_one_line(saved, key):
    path, _, _ = saved
    whole = path.read_bytes()
    for value in VALUES:
        path.write_bytes(whole)
        change_spec(path, **{key: value})
        try:
            load_network(path)
        except UserError as err:
            assert "\n" not in str(err) and len(str(err)) < 1000, value


def test_values_that_are_not_finite_are_refused(saved):
    path, network, _ = saved
    with torch.no_grad():
        next(network.module.parameters()).view(-1)[0] = float("nan")
    save_network(path, network)
    assert "not finite" in refusal(path)


def test_a_flipped_bit_never_changes_a_network_unnoticed(saved):
    path, network, _ = saved
    state = network.module.state_dict()
    data, random = path.read_bytes(), np.random.default_rng(0)
    start = data.index(b'"spec"')
    for bit in random.integers(8 * start, 8 * len(data), 300).tolist():
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            loaded = load_network(path)
        except UserError:
            continue
        assert loaded.spec == SPEC  # the bit belongs to the name of the checksum
        assert all(torch.equal(v, state[k]) for k, v in loaded.module.state_dict().items())


@pytest.mark.parametrize("key", ["dc0.0.weight", "out.conv.conv.weight"])
def test_a_checkpoint_of_scalars_is_one_line(tmp_path, key):
    path = tmp_path / "scalars.pth"
    torch.save({key: torch.tensor(3.0)}, path)
    assert "unknown network" in refusal(path)


def test_a_network_is_always_written_as_the_same_bytes(tmp_path):
    network = load_network("flysoma/segment-v5")
    digests = {save_network(tmp_path / "same.safetensors", network) for _ in range(12)}
    assert len(digests) == 1
    again = load_network(tmp_path / "same.safetensors")
    assert again.spec == network.spec
    state = again.module.state_dict()
    assert all(v.equal(state[k]) for k, v in network.module.state_dict().items())
