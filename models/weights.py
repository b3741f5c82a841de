"""Weights are data: safetensors with a description of the network inside, and published checkpoints."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import UserError
from .swin import swin_unetr
from .unet import SomaNet, UNet

PACKAGED = Path(__file__).parent / "weights"
_PREFIX = "flysoma/"
_ARCHITECTURES: dict[str, Any] = {"unet": UNet, "somanet": SomaNet, "swin_unetr": swin_unetr}
_CLASSES = {2: ("background", "core"), 3: ("background", "interior", "boundary")}


@dataclass(frozen=True)
class NetworkSpec:
    """All that is needed to build a network and to feed it; sizes are z, y, x."""

    arch: str
    classes: tuple[str, ...]
    voxel_nm: tuple[float, float, float]
    window: tuple[int, int, int]
    args: dict[str, Any] = field(default_factory=dict)
    input_scale: float = 1.0
    input_shift: float = 0.0

    def build(self) -> nn.Module:
        """The network with fresh weights; raises UserError for an architecture we do not have."""
        if self.arch not in _ARCHITECTURES:
            raise UserError(f"no architecture '{self.arch}'; there are: {', '.join(_ARCHITECTURES)}")
        return _ARCHITECTURES[self.arch](classes=len(self.classes), **self.args)


@dataclass
class Network:
    """A network with its weights, how to feed it, and the sha256 of the file it came from."""

    module: nn.Module
    spec: NetworkSpec
    fingerprint: str = ""


def load_network(name: str) -> Network:
    """Load `flysoma/NAME` (shipped), a .safetensors file of ours, or a published PyTorch checkpoint.

    Raises UserError in one line for a file that is missing, damaged, not whole, carries code, or does not fit.
    """
    path = _locate(name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sidecar = path.with_suffix(".json")
    if name.startswith(_PREFIX) and json.loads(sidecar.read_text())["sha256"] != digest:
        raise UserError(f"{path} is damaged: its sha256 differs from {sidecar.name}; reinstall flysoma")
    if path.suffix == ".safetensors":
        spec, state = _read_safetensors(path)
    else:
        state = _read_checkpoint(path)
        spec = _recognise(state, path)
    module = spec.build()
    _fit(module, state, path)
    return Network(module.eval(), spec, digest)


def save_network(path: str | Path, network: Network) -> str:
    """Write a network as safetensors, its spec inside; returns the file's sha256."""
    state = {key: value.detach().contiguous().cpu() for key, value in network.module.state_dict().items()}
    save_file(state, str(path), metadata={"spec": json.dumps(asdict(network.spec), sort_keys=True)})
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def packaged_names() -> list[str]:
    """Names of the weights that are shipped."""
    return [_PREFIX + path.stem for path in sorted(PACKAGED.glob("*.safetensors"))]


def _locate(name: str) -> Path:
    path = PACKAGED / f"{name[len(_PREFIX):]}.safetensors" if name.startswith(_PREFIX) else Path(name)
    if not path.is_file():
        raise UserError(
            f"no weights at '{name}'; give a file, or one of those shipped: {', '.join(packaged_names())}"
        )
    return path


def _read_safetensors(path: Path) -> tuple[NetworkSpec, dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("spec")
            state = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as err:
        raise UserError(f"{path} cannot be read as safetensors ({err}); it is damaged or not whole") from err
    if text is None:
        raise UserError(f"{path} says nothing of its network; use weights that 'flysoma train' wrote")
    values = json.loads(text)
    for key in ("classes", "voxel_nm", "window"):
        values[key] = tuple(values[key])
    return NetworkSpec(**values), state


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        raise UserError(
            f"{path} is refused: it is not a plain checkpoint of tensors (it may carry code); "
            "save its state_dict alone and load that"
        ) from err
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as err:
        raise UserError(f"{path} cannot be read as a PyTorch checkpoint; it is damaged or not whole") from err
    for key in ("state_dict", "model_state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(f"{path} holds no state_dict of tensors")
    return {key.removeprefix("module."): value for key, value in found.items()}


def _recognise(state: dict[str, Tensor], path: Path) -> NetworkSpec:
    """Which published network a state belongs to, by its keys."""
    if "dc0.0.weight" in state:
        classes = _CLASSES.get(len(state["dc0.0.weight"]))
        if classes is not None:
            locate = len(classes) == 2
            voxel = (240.0, 64.0, 64.0) if locate else (40.0, 64.0, 64.0)
            return NetworkSpec("unet", classes, voxel, (32, 160, 160) if locate else (128, 128, 128))
    if "out.conv.conv.weight" in state:
        head = state["out.conv.conv.weight"]
        classes = _CLASSES.get(head.shape[0])
        if classes is not None:
            args = {"feature_size": int(head.shape[1])}
            return NetworkSpec("swin_unetr", classes, (40.0, 64.0, 64.0), (96, 96, 96), args)
    raise UserError(
        f"{path} is no network that flysoma knows: expected the published U-Net (ec0.0.weight .. dc0.0.weight) "
        f"or Swin UNETR with 2 or 3 classes, found {len(state)} tensors from '{next(iter(state), '-')}'"
    )


def _fit(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    for key in sorted(own.keys() | state.keys()):
        wanted, found = own.get(key), state.get(key)
        if wanted is None or found is None or wanted.shape != found.shape:
            raise UserError(
                f"{path} does not fit its architecture: {key} should be "
                f"{'absent' if wanted is None else tuple(wanted.shape)} and is "
                f"{'absent' if found is None else tuple(found.shape)}"
            )
    module.load_state_dict(state)
