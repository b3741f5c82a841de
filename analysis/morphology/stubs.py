"""Detect where neurites leave a soma, even if its label ends shortly after. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import edt
import numpy as np
from scipy import ndimage

from ...axes import Voxel

Ends = Sequence[
    tuple[bool, bool]
]  # for each axis: whether the volume ends at its lower and upper side

# The body is the morphological opening of the soma with a ball; a stub is a part that protrudes from it.
_BALL = 0.3  # radius of the ball, as a share of the radius of the largest inscribed ball
# distances from the body, as shares of the radius of the ball
_PROTRUDES = 0.5  # parts farther away are candidates; the edges of a cube reach 0.41
_STUB = 0.75  # candidates that reach as far are stubs; the corners of a cube reach 0.73


@dataclass(frozen=True)
class Stub:
    """The part of a neurite that belongs to the label of its soma.

    Attributes:
      tip: voxel farthest from the body, z, y, x.
      base: centre of the cross-section at which it leaves the body, in voxels, z, y, x.
      length_nm: distance of the tip from the body.
    """

    tip: tuple[int, int, int]
    base: tuple[float, float, float]
    length_nm: float


def find_stubs(
    mask: np.ndarray, voxel_nm: Voxel, radius_nm: float, ends: Ends = ((False, False),) * 3
) -> list[Stub]:
    """Find parts that protrude too far to be corners between neighbouring somas, the longest first.

    Args:
      mask: bool, with a margin of one background voxel around the object except where the volume ends.
      voxel_nm: voxel size, z, y, x.
      radius_nm: radius of the largest inscribed ball.
      ends: sides at which the volume ends; the object is assumed to continue there.
    """
    ball = _BALL * radius_nm
    margin = [int(2 * radius_nm / v) + 1 for v in voxel_nm]
    pads = [(n * low, n * high) for n, (low, high) in zip(margin, ends)]
    whole = cc3d.largest_k(np.pad(mask, pads, mode="edge"), k=1, connectivity=26) > 0
    body = edt.edt(whole, anisotropy=voxel_nm, black_border=True) > ball
    if not body.any():
        return []
    body = cc3d.largest_k(body, k=1, connectivity=26) > 0
    own = tuple(slice(a, a + n) for (a, _), n in zip(pads, mask.shape))
    distance = np.where(whole, edt.edt(~body, anisotropy=voxel_nm) - ball, 0)[own]
    parts = cc3d.connected_components(distance > _PROTRUDES * ball, connectivity=26)
    stubs = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        part = parts[box] == number
        reach = np.where(part, distance[box], 0)
        if reach.max() < _STUB * ball:
            continue
        first = [s.start for s in box]
        z, y, x = np.unravel_index(int(reach.argmax()), reach.shape) + np.array(first)
        base = np.argwhere(part & (distance[box] <= ball)).mean(axis=0) + first
        stubs.append(Stub((int(z), int(y), int(x)), tuple(base.tolist()), float(reach.max())))
    return sorted(stubs, key=lambda stub: (-stub.length_nm, stub.tip))
