"""A network and its specification: architecture, classes, voxel size, and input preprocessing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...axes import Voxel, Zyx
from ...errors import UserError
from .somanet import SomaNet
from .swin import swin_unetr
from .unet import UNet

_ARCHITECTURES: dict[str, Any] = {"unet": UNet, "somanet": SomaNet, "swin_unetr": swin_unetr}

ATTRIBUTES = ("nucleus", "glia")  # of the voxels of a soma: in its nucleus; in a glial cell


@dataclass(frozen=True)
class NetworkSpec:
    """Everything needed to build a network and to preprocess its input. Weights files store it as JSON.

    Attributes:
      arch: `unet`, `somanet` or `swin_unetr`.
      classes: names of the channels: the classes, background first, then any of ATTRIBUTES.
      voxel_nm: size of the voxels that the network was trained on, z, y, x.
      window: preferred input size in voxels, z, y, x.
      args: further arguments of the architecture.
      input_scale, input_shift: a grey value of 0 to 255 enters the network as grey * input_scale + input_shift.
      role: `locate` (predicts the cores of somas) or `segment` (predicts their interiors and boundaries).
      normalized: whether the grey values of each window are normalized first (`normalize`).
    """

    arch: str
    classes: tuple[str, ...]
    voxel_nm: Voxel
    window: Zyx
    args: dict[str, Any] = field(default_factory=dict)
    input_scale: float = 1.0
    input_shift: float = 0.0
    role: str = "segment"
    normalized: bool = False

    @property
    def exclusive(self) -> int:
        """The number of classes, without the attributes."""
        return sum(name not in ATTRIBUTES for name in self.classes)

    @property
    def has_nuclei(self) -> bool:
        """Whether the network predicts all of ATTRIBUTES, so that the nuclei and the classes of somas are known."""
        return self.classes[self.exclusive :] == ATTRIBUTES

    def build(self) -> nn.Module:
        """Build the network with initial weights.

        Raises:
          UserError: the architecture is unknown.
        """
        if self.arch not in _ARCHITECTURES:
            raise UserError(
                f"no architecture '{self.arch}'; use one of {', '.join(_ARCHITECTURES)}"
            )
        return _ARCHITECTURES[self.arch](classes=len(self.classes), **self.args)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Convert logits (channels, ...) to the probabilities of all channels but the first, the background.

        The classes exclude each other. An attribute is independent: its probability holds in a soma.
        """
        classes = self.exclusive
        exclusive = torch.softmax(logits[:classes].float(), dim=0)[1:]
        if classes == len(self.classes):
            return exclusive
        return torch.cat((exclusive, torch.sigmoid(logits[classes:].float())))

    def preprocess(self, images: Tensor) -> Tensor:
        """Convert grey values to network input; float, n, 1, z, y, x."""
        if self.normalized:
            images = normalize(images)
        return (images * self.input_scale).add_(self.input_shift)


def normalize(images: Tensor) -> Tensor:
    """Scale and shift the grey values of each image to a median of 150 and a spread near 40.

    The spread is estimated from the quartiles. The gain is limited to 0.8 .. 2: a higher gain would give contrast to
    empty resin, and a lower gain would remove contrast where a wide spread comes from resin beside tissue. Black
    voxels (0) mark missing image and are excluded from the statistics.

    Args:
      images: float, n, 1, z, y, x, 0 to 255; each of the n images is normalized separately.
    Returns:
      normalized images, clipped to 0 .. 255.
    """
    grey = images[:, 0, :, ::2, ::2].round().clamp(0, 255).long().flatten(1)
    first = torch.arange(len(grey), device=grey.device)[:, None] * 256
    counts = torch.bincount((grey + first).flatten(), minlength=256 * len(grey)).view(-1, 256)
    counts[:, 0] = 0
    below = counts.cumsum(1)
    low, median, high = ((4 * below < k * below[:, -1:]).sum(1).float() for k in (1, 2, 3))
    gain = (40 * 1.35 / (high - low).clamp(min=1)).clamp(0.8, 2)  # 1.35: quartile range / deviation
    shift = 150 - median * gain
    empty = below[:, -1] == 0
    gain, shift = (
        torch.where(empty, identity, value).view(-1, 1, 1, 1, 1)
        for identity, value in ((1.0, gain), (0.0, shift))
    )
    return (images * gain).add_(shift).clamp_(0, 255)


@dataclass
class Network:
    """A network with its weights.

    Attributes:
      module: the PyTorch module.
      spec: its specification.
      fingerprint: sha256 of the weights file, or empty.
    """

    module: nn.Module
    spec: NetworkSpec
    fingerprint: str = ""

    @property
    def multiple(self) -> Zyx:
        """The input size should be a multiple of these voxels, z, y, x."""
        if isinstance(self.module, (SomaNet, UNet)):
            return self.module.multiple
        return 32, 32, 32  # required by Swin UNETR


def to_channels_last(module: nn.Module) -> nn.Module:
    """Convert the weights of a module to the channels-last memory format, in which convolutions are fast."""
    return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
