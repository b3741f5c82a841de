"""Where neurites leave a soma, however soon its label ends. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import edt
import numpy as np
from scipy import ndimage

from ...axes import Nm3

Ends = Sequence[tuple[bool, bool]]

_BALL = 0.3  # of the radius of the largest ball inside: balls of that radius fill the body
_CLEAR = (
    0.5  # of that radius: so far from them begins what sticks out; the edge of a cube does to 0.41
)
_STUB = (
    0.75  # of that radius: what sticks out so far is a neurite; the corner of a cube does to 0.73
)


@dataclass(frozen=True)
class Stub:
    """A neurite as far as the label holds it.

    Attributes:
      tip: its voxel that is furthest from the body.
      base: the middle of where it leaves the body, in voxels.
      length_nm: from the balls that fill the body to the tip.
    """

    tip: tuple[int, int, int]
    base: tuple[float, float, float]
    length_nm: float


def stubs(
    mask: np.ndarray, voxel_nm: Nm3, radius_nm: float, ends: Ends = ((False, False),) * 3
) -> list[Stub]:
    """What sticks out of an object too far to be a corner between neighbours, the furthest first.

    Args:
      mask: bool, with a voxel of background around the object but where the volume ends.
      voxel_nm: z, y, x.
      radius_nm: of the largest ball inside.
      ends: of each axis, whether the volume ends at its lower and its upper side: the object is taken to go on there.
    """
    ball = _BALL * radius_nm
    room = [int(2 * radius_nm / v) + 1 for v in voxel_nm]
    pads = [(n * low, n * high) for n, (low, high) in zip(room, ends)]
    whole = cc3d.largest_k(np.pad(mask, pads, mode="edge"), k=1, connectivity=26) > 0
    body = edt.edt(whole, anisotropy=voxel_nm, black_border=True) > ball
    if not body.any():
        return []
    body = cc3d.largest_k(body, k=1, connectivity=26) > 0
    own = tuple(slice(a, a + n) for (a, _), n in zip(pads, mask.shape))
    away = np.where(whole, edt.edt(~body, anisotropy=voxel_nm) - ball, 0)[own]
    parts = cc3d.connected_components(away > _CLEAR * ball, connectivity=26)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        part = parts[box] == number
        far = np.where(part, away[box], 0)
        if far.max() < _STUB * ball:
            continue
        first = [s.start for s in box]
        z, y, x = np.unravel_index(int(far.argmax()), far.shape) + np.array(first)
        base = np.argwhere(part & (away[box] <= ball)).mean(axis=0) + first
        found.append(Stub((int(z), int(y), int(x)), tuple(base.tolist()), float(far.max())))
    return sorted(found, key=lambda stub: (-stub.length_nm, stub.tip))
