"""Weights are data: safetensors that describe their network, and published checkpoints."""

from __future__ import annotations

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

from ...errors import UserError
from .shipped import PREFIX, find_weights, fingerprint
from .swin import swin_unetr
from .unet import SomaNet, UNet

_ARCHITECTURES: dict[str, Any] = {"unet": UNet, "somanet": SomaNet, "swin_unetr": swin_unetr}
_CLASSES = {2: ("background", "core"), 3: ("background", "interior", "boundary")}
_ROLES = ("locate", "segment")


@dataclass(frozen=True)
class NetworkSpec:
    """All that is needed to build a network and to feed it; sizes are z, y, x.

    Args:
      arch: unet, somanet or swin_unetr; `args` are its further arguments.
      classes: their names, background first.
      voxel_nm, window: the voxels that it was made for, and the input that it runs best on.
      normalized: the grey levels of every window are first brought to one median and spread (`feed`).
      input_scale, input_shift: a grey of 0 to 255 then goes in as grey * input_scale + input_shift.
      role: `locate` (it finds the cores of somas) or `segment` (their interior and boundary).
    """

    arch: str
    classes: tuple[str, ...]
    voxel_nm: tuple[float, float, float]
    window: tuple[int, int, int]
    args: dict[str, Any] = field(default_factory=dict)
    input_scale: float = 1.0
    input_shift: float = 0.0
    role: str = "segment"
    normalized: bool = False

    def build(self) -> nn.Module:
        """The network with fresh weights; raises UserError for an architecture we do not have."""
        if self.arch not in _ARCHITECTURES:
            raise UserError(
                f"no architecture '{self.arch}'; there are: {', '.join(_ARCHITECTURES)}"
            )
        return _ARCHITECTURES[self.arch](classes=len(self.classes), **self.args)

    def feed(self, images: Tensor) -> Tensor:
        """What the network is given for images: grey, float, n, 1, z, y, x."""
        if self.normalized:
            images = normalize(images)
        return (images * self.input_scale).add_(self.input_shift)


def normalize(images: Tensor) -> Tensor:
    """Images with the median at a grey of 150 and the spread that the quartiles show near 40; n, 1, z, y, x.

    Contrast is doubled at most, so that empty resin stays empty, and little is taken away, since a wide spread may be
    resin beside tissue. Black is where the image is missing: it does not count.
    """
    grey = images[:, 0, :, ::2, ::2].round().clamp(0, 255).long().flatten(1)
    first = torch.arange(len(grey), device=grey.device)[:, None] * 256
    counts = torch.bincount((grey + first).flatten(), minlength=256 * len(grey)).view(-1, 256)
    counts[:, 0] = 0
    below = counts.cumsum(1)
    low, median, high = ((4 * below < k * below[:, -1:]).sum(1).float() for k in (1, 2, 3))
    gain = (40 * 1.35 / (high - low).clamp(min=1)).clamp(0.8, 2)
    shift = 150 - median * gain
    empty = below[:, -1] == 0
    gain, shift = (
        torch.where(empty, same, value).view(-1, 1, 1, 1, 1)
        for same, value in ((1.0, gain), (0.0, shift))
    )
    return (images * gain).add_(shift).clamp_(0, 255)


@dataclass
class Network:
    """A network with its weights, how to feed it, and the sha256 of the file it came from."""

    module: nn.Module
    spec: NetworkSpec
    fingerprint: str = ""

    @property
    def multiple(self) -> tuple[int, int, int]:
        """Voxels of which an input's edges are best whole multiples, z, y, x."""
        if isinstance(self.module, (SomaNet, UNet)):
            return self.module.multiple
        return 32, 32, 32  # Swin UNETR takes no other


def load_network(name: str | Path) -> Network:
    """Load `flysoma/NAME` (shipped), a .safetensors file of ours, or a published checkpoint.

    A checkpoint (torch.save) may keep its tensors bare or under `state_dict` or `model_state_dict`,
    and may prefix their names with `module.`; its architecture is recognised by the names.

    Raises UserError, one line, for a file that is missing, cut short, altered or foreign, that
    carries code, or whose tensors do not fit.
    """
    path = find_weights(str(name))
    digest = fingerprint(path)
    if str(name).startswith(PREFIX):
        _check_packaged(path, digest)
    if path.suffix == ".safetensors":
        spec, state = _read_safetensors(path)
    else:
        state = _read_checkpoint(path)
        spec = _recognise(state, path)
    module = spec.build()
    _fit(module, state, path)
    return Network(module.eval(), spec, digest)


def save_network(path: str | Path, network: Network, half: bool = False) -> str:
    """Write a network as safetensors, its spec inside; returns the file's sha256.

    Args:
      half: store float16, half the bytes; it is float32 again when loaded.
    """
    kind = torch.float16 if half else torch.float32
    state = {
        key: value.detach().to("cpu", kind).contiguous()
        for key, value in network.module.state_dict().items()
    }
    save_file(state, str(path), metadata={"spec": json.dumps(asdict(network.spec), sort_keys=True)})
    return fingerprint(Path(path))


def _check_packaged(path: Path, digest: str) -> None:
    sidecar = path.with_suffix(".json")
    try:
        expected = json.loads(sidecar.read_text())["sha256"]
    except (OSError, ValueError, KeyError) as err:
        raise UserError(
            f"{sidecar} is missing or damaged, so {path.name} is not trusted; reinstall flysoma"
        ) from err
    if expected != digest:
        raise UserError(
            f"{path} is damaged: its sha256 differs from {sidecar.name}; reinstall flysoma"
        )


def _read_safetensors(path: Path) -> tuple[NetworkSpec, dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("spec")
            state = {key: file.get_tensor(key).float() for key in file.keys()}
    except (SafetensorError, OSError) as err:
        reason = str(err).splitlines()[0]
        raise UserError(
            f"{path} is no whole safetensors file ({reason}); copy or download it again"
        ) from err
    if text is None:
        raise UserError(
            f"{path} does not say which network it is for; use weights that 'flysoma train' wrote"
        )
    try:
        values = json.loads(text)
        for key in ("classes", "voxel_nm", "window"):
            values[key] = tuple(values[key])
        spec = NetworkSpec(**values)
    except (ValueError, KeyError, TypeError) as err:
        raise UserError(
            f"{path} describes its network in a way this flysoma cannot read: {err}"
        ) from err
    if spec.role not in _ROLES:
        raise UserError(
            f"{path} is for the role '{spec.role}'; the roles are {' and '.join(_ROLES)}"
        )
    return spec, state


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        if "truncated" in str(err) or "Ran out of input" in str(err):
            raise UserError(
                f"{path} is no whole PyTorch checkpoint; copy or download it again"
            ) from err
        raise UserError(
            f"{path} is refused: it holds more than tensors (a pickle can carry code); "
            "save its state_dict alone and load that"
        ) from err
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as err:
        raise UserError(
            f"{path} is no whole PyTorch checkpoint; copy or download it again"
        ) from err
    for key in ("state_dict", "model_state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise UserError(
            f"{path} holds no state_dict of tensors; save the network's state_dict() and load that"
        )
    return {str(key).removeprefix("module."): value.float() for key, value in found.items()}


def _recognise(state: dict[str, Tensor], path: Path) -> NetworkSpec:
    """Which published network a state belongs to, by its keys."""
    if "dc0.0.weight" in state:
        classes = _CLASSES.get(len(state["dc0.0.weight"]))
        if classes is not None and len(classes) == 2:
            return NetworkSpec("unet", classes, (240.0, 64.0, 64.0), (32, 160, 160), role="locate")
        if classes is not None:
            return NetworkSpec("unet", classes, (40.0, 64.0, 64.0), (128, 128, 128))
    if "out.conv.conv.weight" in state:
        head = state["out.conv.conv.weight"]
        classes = _CLASSES.get(head.shape[0])
        if classes is not None:
            args = {"feature_size": int(head.shape[1])}
            role = _ROLES[len(classes) - 2]
            return NetworkSpec(
                "swin_unetr", classes, (40.0, 64.0, 64.0), (96, 96, 96), args, role=role
            )
    raise UserError(
        f"{path} is no network that flysoma knows: expected the published U-Net (ec0.0.weight to "
        "dc0.0.weight) or Swin UNETR, of 2 or 3 classes; found "
        f"{len(state)} tensors, the first '{next(iter(state), 'none')}'"
    )


def _fit(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    for key in [*own, *(k for k in state if k not in own)]:
        wanted, found = (tuple(s[key].shape) if key in s else "absent" for s in (own, state))
        if wanted != found:
            raise UserError(
                f"{path} does not fit its architecture: {key} is {found}, should be {wanted}"
            )
    module.load_state_dict(state)
