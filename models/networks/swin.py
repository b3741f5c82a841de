"""Swin UNETR from MONAI, in the published variant; needs `pip install flysoma[swin]`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UserError


def swin_unetr(classes: int = 3, feature_size: int = 48, **options: Any) -> nn.Module:
    """Build MONAI's SwinUNETR with one input channel.

    Args:
      classes: channels of the output (logits); three as published.
      feature_size: channels of the first level; 48 as published.
      options: further arguments of SwinUNETR.
    Raises:
      UserError: MONAI is not installed.
    """
    try:
        from monai.networks.nets import SwinUNETR  # type: ignore[attr-defined]
    except ImportError as err:
        raise UserError(
            "these weights are a Swin UNETR, which needs MONAI: pip install 'flysoma[swin]'"
        ) from err
    return SwinUNETR(
        in_channels=1, out_channels=classes, feature_size=feature_size, spatial_dims=3, **options
    )
