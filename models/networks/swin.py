"""Swin UNETR through MONAI, the published variant; needs `pip install flysoma[swin]`."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...errors import UserError


def swin_unetr(classes: int = 3, feature_size: int = 48, **options: Any) -> nn.Module:
    """MONAI's SwinUNETR as published: one input channel, three classes, feature size 48.

    Raises UserError when MONAI is not installed.
    """
    try:
        from monai.networks.nets import SwinUNETR
    except ImportError as err:
        raise UserError(
            "these weights are a Swin UNETR, which needs MONAI: pip install 'flysoma[swin]'"
        ) from err
    return SwinUNETR(
        in_channels=1, out_channels=classes, feature_size=feature_size, spatial_dims=3, **options
    )
