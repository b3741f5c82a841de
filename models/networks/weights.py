"""Load and save weights: safetensors files that hold their specification, and published checkpoints."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ...errors import UserError
from .network import Network, NetworkSpec
from .weights_files import PREFIX, find_weights, fingerprint

_CLASSES = {2: ("background", "core"), 3: ("background", "interior", "boundary")}
_ROLES = ("locate", "segment")
_CONTENT = "sha256"  # in the metadata, of specification and tensors; files of flysoma 0.1 have none
_MAX_WINDOW = 4096  # voxels
_SHOWN = 100  # characters of an invalid value in a message


def load_network(name: str | Path) -> Network:
    """Load a network from a weights file.

    A checkpoint (torch.save) may hold its tensors directly or under `state_dict` or `model_state_dict`, and their
    names may have the prefix `module.`. The architecture is recognized by the names.

    Args:
      name: `flysoma/NAME` (shipped with the package), a .safetensors file of flysoma, or a published checkpoint.
    Raises:
      UserError: the file is missing, truncated, altered, of an unknown network, holds code, or has tensors that do
        not fit.
    """
    path = find_weights(str(name))
    digest = fingerprint(path)
    if str(name).startswith(PREFIX):
        _check_packaged(path, digest)
    if path.suffix == ".safetensors":
        spec, state = _read_safetensors(path)
    else:
        state = _read_checkpoint(path)
        spec = _recognize(state, path)
    _check_spec(spec, path)
    _check_state(_outline(spec, path), state, path)
    module = spec.build()
    module.load_state_dict(state)
    return Network(module.eval(), spec, digest)


def save_network(path: str | Path, network: Network, half: bool = False) -> str:
    """Write a network and its specification as safetensors.

    Args:
      half: store float16, which halves the file size; `load_network` converts to float32.
    Returns:
      sha256 of the file.
    """
    dtype = torch.float16 if half else torch.float32
    state = {
        key: value.detach().to("cpu", dtype).contiguous()
        for key, value in network.module.state_dict().items()
    }
    spec = json.dumps(asdict(network.spec), sort_keys=True)
    content = _sort_header(save(state, {"spec": spec, _CONTENT: _content_hash(spec, state)}))
    Path(path).write_bytes(content)  # `save_file` lets only the owner read
    return fingerprint(Path(path))


def _sort_header(content: bytes) -> bytes:
    """Return a safetensors file with the keys of its header sorted; safetensors orders metadata at random."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def _content_hash(spec: str, state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of a specification and of the tensors with their names."""
    digest = hashlib.sha256(spec.encode())
    for key, value in sorted(state.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_packaged(path: Path, digest: str) -> None:
    """Compare a shipped file with the sha256 in its .json sidecar."""
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
    """Read the specification and the tensors (as float32) of a safetensors file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            stored = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as err:
        reason = str(err).splitlines()[0]
        raise UserError(
            f"{path} is not a complete safetensors file ({reason}); copy or download it again"
        ) from err
    text = metadata.get("spec")
    if text is None:
        raise UserError(
            f"{path} does not specify its network; use weights written by 'flysoma train'"
        )
    if metadata.get(_CONTENT) not in (None, _content_hash(text, stored)):
        raise UserError(f"{path} is damaged: its checksum differs; copy or download it again")
    try:
        values = json.loads(text)
        for key in ("classes", "voxel_nm", "window"):
            values[key] = tuple(values[key])
        spec = NetworkSpec(**values)
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise UserError(
            f"{path} has a network specification that this version of flysoma cannot read: {err}"
        ) from err
    return spec, {key: value.float() for key, value in stored.items()}


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors (as float32) of a PyTorch checkpoint."""
    damaged = f"{path} is not a complete PyTorch checkpoint; copy or download it again"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        if "truncated" in str(err) or "Ran out of input" in str(err):
            raise UserError(damaged) from err
        raise UserError(
            f"{path} is refused: it holds more than tensors (a pickle can carry code); "
            "save only its state_dict and load that"
        ) from err
    except Exception as err:  # noqa: BLE001  a damaged pickle raises errors of any kind
        raise UserError(damaged) from err
    for key in ("state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(value, Tensor) for value in content.values()
    ):
        raise UserError(
            f"{path} holds no state_dict of tensors; save the network's state_dict() and load that"
        )
    return {str(key).removeprefix("module."): value.float() for key, value in content.items()}


def _recognize(state: dict[str, Tensor], path: Path) -> NetworkSpec:
    """Return the specification of the published network whose state has these keys."""
    if "dc0.0.weight" in state:
        classes = _CLASSES.get(_channels(state["dc0.0.weight"]))
        if classes is not None and len(classes) == 2:
            return NetworkSpec("unet", classes, (240.0, 64.0, 64.0), (32, 160, 160), role="locate")
        if classes is not None:
            return NetworkSpec("unet", classes, (40.0, 64.0, 64.0), (128, 128, 128))
    if "out.conv.conv.weight" in state:
        head = state["out.conv.conv.weight"]
        classes = _CLASSES.get(_channels(head))
        if classes is not None and head.ndim > 1:
            args = {"feature_size": int(head.shape[1])}
            role = _ROLES[len(classes) - 2]
            return NetworkSpec(
                "swin_unetr", classes, (40.0, 64.0, 64.0), (96, 96, 96), args, role=role
            )
    raise UserError(
        f"{path} holds an unknown network: expected the published U-Net (ec0.0.weight to dc0.0.weight) or "
        f"Swin UNETR, with 2 or 3 classes; it has {len(state)} tensors, the first '{next(iter(state), 'none')}'"
    )


def _channels(weight: Tensor) -> int:
    return weight.shape[0] if weight.ndim else 0


def _check_spec(spec: NetworkSpec, path: Path) -> None:
    """Raise UserError, which names the first value of a specification that no network can have."""
    checks = {
        "role": spec.role in _ROLES,
        "classes": len(spec.classes) > 1 and all(isinstance(name, str) for name in spec.classes),
        "voxel_nm": len(spec.voxel_nm) == 3 and all(_is_number(n) and n > 0 for n in spec.voxel_nm),
        "window": len(spec.window) == 3
        and all(type(n) is int and 1 <= n <= _MAX_WINDOW for n in spec.window),
        "args": isinstance(spec.args, dict),
        "input_scale": _is_number(spec.input_scale),
        "input_shift": _is_number(spec.input_shift),
        "normalized": isinstance(spec.normalized, bool),
    }
    for key, valid in checks.items():
        if not valid:
            raise UserError(
                f"{path} has a network specification with an invalid {key}: "
                f"{str(getattr(spec, key))[:_SHOWN]}; copy it again, or train it again"
            )


def _outline(spec: NetworkSpec, path: Path) -> nn.Module:
    """Build a network without memory for its weights, and try it. Raises UserError if it cannot be built.

    MONAI's Swin UNETR needs the memory, and is not tried.
    """
    try:
        if spec.arch == "swin_unetr":
            return spec.build()
        with torch.device("meta"):
            module = spec.build().eval()
            size = [2 * n for n in Network(module, spec).multiple]
            shape = tuple(module(torch.zeros(1, 1, *size)).shape)
        if shape != (1, len(spec.classes), *size):
            raise ValueError(f"it maps {size} voxels to {shape}")
    except UserError:
        raise
    except Exception as err:  # noqa: BLE001  an architecture raises errors of any kind for wrong arguments
        reason = str(err).partition("\n")[0][:_SHOWN]
        raise UserError(
            f"{path} has arguments with which no network '{spec.arch}' can be built ({reason}); "
            "copy it again, or train it again"
        ) from err
    return module


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _check_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Raise UserError, which names the first tensor that does not fit a module or has values that are not finite."""
    own = module.state_dict()
    for key in [*own, *(k for k in state if k not in own)]:
        expected, actual = (tuple(s[key].shape) if key in s else "absent" for s in (own, state))
        if expected != actual:
            raise UserError(
                f"{path} does not fit its architecture: {key} is {actual}, should be {expected}"
            )
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{path} is damaged: {key} has values that are not finite; copy it again, or train it again"
            )
