"""Build the network of a training, and check that it can be trained."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import torch
from torch import Tensor, nn

from ...axes import Voxel, Zyx
from ...errors import UserError
from ..networks.network import ATTRIBUTES, Network, NetworkSpec
from ..networks.weights import load_network
from . import distributed
from .config import TrainConfig
from .targets import CHANNELS

_IMPROBABLE = -2.0  # logit of an attribute that is not trained yet


def build_network(config: TrainConfig, voxel_nm: Voxel, attributes: bool = True) -> Network:
    """Build a network with random weights or with those of `config.init`.

    A SomaNet can be initialized from one with fewer levels. The additional levels contribute nothing at first. A
    network without the attributes nucleus and glia can initialize one with them; both are improbable at first.

    Args:
      voxel_nm: voxel size of the training data, z, y, x.
      attributes: whether the training data tell nuclei and glia; otherwise the network has these channels only if the
        initial weights have them.

    Raises:
      UserError: `config.init` has another role or architecture.
    """
    torch.manual_seed(config.seed)
    initial = None if config.init is None else load_network(config.init)
    channels, locate = CHANNELS[config.role], config.role == "locate"
    if not attributes and (initial is None or initial.spec.classes != channels):
        channels = tuple(name for name in channels if name not in ATTRIBUTES)
    window = (32, 192, 192) if locate else (96, 160, 160)
    spec = NetworkSpec(config.arch, channels, voxel_nm, window, role=config.role)
    if config.arch == "somanet":
        widths = (32, 64, 128, 128) if locate else (32, 64, 128, 128, 128)
        args = {
            "stem": (1, 4, 4) if locate else (2, 2, 2),
            "widths": widths,
            "pools": ((2, 2, 2),) * (len(widths) - 1),
        }
        spec = replace(spec, args=args, input_scale=1 / 64, input_shift=-2.0, normalized=True)
    module = spec.build()
    if initial is None:
        return Network(module, spec)
    random_state = module.state_dict()
    state = _add_channels(initial, random_state, channels)
    if initial.spec.role != spec.role or any(
        key not in random_state or random_state[key].shape != value.shape
        for key, value in state.items()
    ):
        raise UserError(
            f"{config.init} is a {initial.spec.arch} for {initial.spec.role}, which does not fit this training; "
            f"use a {config.arch} for {config.role}"
        )
    module.load_state_dict(random_state | state)
    return Network(module, spec)


def _add_channels(
    initial: Network, final: dict[str, Tensor], channels: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return the state of a network, with channels added to the parameters of its last layer."""
    state = initial.module.state_dict()
    own = initial.spec.classes
    if channels[: len(own)] != own:
        return state
    for key, value in state.items():
        size = len(value) // len(own) * len(channels)
        if key in final and value.shape[0] != size == final[key].shape[0]:
            fill = _IMPROBABLE if value.ndim == 1 else 0.0
            added = value.new_full((size - len(value), *value.shape[1:]), fill)
            state[key] = torch.cat((value, added))
    return state


def check_network(config: TrainConfig) -> None:
    """Check that the network can be trained with these settings; this needs no volumes.

    Raises:
      UserError: the initial weights do not fit, or the patches give wrong bfloat16 gradients on a CPU.
    """
    spec, (z, y, x) = build_network(config, (1.0, 1.0, 1.0)).spec, config.patch_zyx
    if distributed.device().type != "cpu" or not config.bf16 or 2 not in _depths(spec, (z, y, x)):
        return
    deeper = next(n for n in count(z + 1) if 2 not in _depths(spec, (n, y, x)))
    raise UserError(
        f"patches of {z} sections shrink to 2 inside the network, where bfloat16 gradients are wrong on CPUs; "
        f"use {deeper} sections, or set 'bf16: false'"
    )


def _depths(spec: NetworkSpec, patch: Zyx) -> set[int]:
    """Return the numbers of sections in the inputs of the network's convolutions, for a patch."""
    depths: set[int] = set()
    module = spec.build().to("meta")
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.register_forward_pre_hook(lambda _, inputs: depths.add(inputs[0].shape[2]))
    module(torch.empty(1, 1, *patch, device="meta"))
    return depths
