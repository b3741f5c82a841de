"""Cut windows from an image, mirrored where they reach beyond it. Arrays are z, y, x."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...axes import Zyx


@dataclass(frozen=True)
class View:
    """The part of a volume that is in memory.

    Attributes:
      image: uint8, z, y, x, on any device.
      first: position of its first voxel in the volume.
    """

    image: Tensor
    first: Zyx = (0, 0, 0)

    def window(self, start: Zyx, size: Zyx) -> Tensor:
        """Return a window of the volume. Beyond the image, it holds the mirror image."""
        axes = [(a - f, n) for a, f, n in zip(start, self.first, size)]
        window, mirrored_axes = self.image, []
        for axis, (first, count) in enumerate(axes):
            if 0 <= first <= window.shape[axis] - count:
                window = window.narrow(axis, first, count)
            else:
                mirrored_axes.append(axis)
        for axis in mirrored_axes:
            window = _mirror(window, axis, *axes[axis])
        return window


def _mirror(image: Tensor, axis: int, first: int, count: int) -> Tensor:
    """Return `count` voxels of an image along an axis, from `first` on, mirrored at the ends of the image."""
    size = image.shape[axis]
    folded = np.arange(first, first + count) % (2 * size)
    places = torch.from_numpy(np.minimum(folded, 2 * size - 1 - folded)).to(image.device)
    low, high = max(-first, 0), min(size - first, count)
    before, after = (image.index_select(axis, part) for part in (places[:low], places[high:]))
    return torch.cat([before, image.narrow(axis, first + low, high - low), after], axis)
