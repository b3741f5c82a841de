"""Training targets: the class of each voxel, from soma labels. Arrays are z, y, x; targets are uint8.

locate      0 background, 1 core: the voxels of a soma whose depth exceeds a share of its maximum depth,
            so that the cores of touching somas are separate
segment     0 background, 1 interior, 2 boundary: a shell inside each soma, so that two shells separate
            the interiors of touching somas

Where nuclei and glia are annotated, targets of `segment` add ANNOTATED, NUCLEUS in a nucleus, and GLIA in a glial
cell body.
Voxels whose label is UNKNOWN have the target IGNORE (255), which the loss excludes.
"""

from __future__ import annotations

from typing import Literal

import edt
import numpy as np

from ...axes import Voxel
from ..networks.network import ATTRIBUTES

Role = Literal["locate", "segment"]
CHANNELS: dict[str, tuple[str, ...]] = {
    "locate": ("background", "core"),
    "segment": ("background", "interior", "boundary", *ATTRIBUTES),
}
CLASS = 3  # bits of a target that hold the class
NUCLEUS, GLIA, ANNOTATED = 4, 8, 16
IGNORE = 255
UNKNOWN = 65535  # label of voxels without annotation
CORE_SHARE = 0.45  # of the maximum depth of a soma
SHELL_NM = 135.0  # width of the boundary class: two voxels of 64 nm, three sections of 40 nm
_MIN_DEPTH_NM = 600.0  # a soma with a smaller maximum depth in a section has no core there


def soma_targets(
    labels: np.ndarray,
    voxel_nm: Voxel,
    role: Role,
    shell_nm: float = SHELL_NM,
    parts: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the targets of a volume.

    The depth is the distance to the surface of the soma; the border of the array is not a surface. A soma that the
    border truncates has its core where the visible part is deepest. Compute targets of whole volumes, then crop.

    Args:
      labels: soma labels; 0 is background.
      voxel_nm: voxel size, z, y, x.
      role: role of the network.
      shell_nm: width of the boundary class.
      parts: NUCLEUS, GLIA or their sum where they apply, otherwise 0; None if they are not annotated.
    """
    depth = edt.edt(labels, anisotropy=voxel_nm, black_border=False, parallel=1)
    return _classes(depth, labels, role, shell_nm, parts)


def section_targets(
    labels: np.ndarray,
    voxel_nm: Voxel,
    role: Role,
    shell_nm: float = SHELL_NM,
    parts: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the targets of each section alone, as if it were repeated along z."""
    target = np.empty(labels.shape, np.uint8)
    for z, section in enumerate(labels):
        depth = edt.edt(section, anisotropy=voxel_nm[1:], black_border=False, parallel=1)
        own = None if parts is None else parts[z]
        target[z] = _classes(depth, section, role, shell_nm, own, _MIN_DEPTH_NM)
    return target


def _classes(
    depth: np.ndarray,
    labels: np.ndarray,
    role: Role,
    shell_nm: float,
    parts: np.ndarray | None,
    min_depth: float = 0,
) -> np.ndarray:
    unknown = labels == UNKNOWN
    if role == "segment":
        classes = np.where(labels == 0, 0, np.where(depth > shell_nm, 1, 2)).astype(np.uint8)
        if parts is not None:
            classes += parts + np.uint8(ANNOTATED)
    else:
        max_depth = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
        inside = labels > 0
        np.maximum.at(max_depth, labels[inside], depth[inside])
        max_depth[max_depth < min_depth] = np.inf
        max_depth[0] = np.inf
        classes = (depth > CORE_SHARE * max_depth[labels]).astype(np.uint8)
    classes[unknown] = IGNORE
    return classes
