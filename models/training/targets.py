"""Soma labels to what a network learns: a class for every voxel, uint8. Arrays are z, y, x.

locate      0 background, 1 core: the voxels of a soma that are deeper than a share of its greatest depth,
            so that the cores of touching somas stay apart
segment     0 background, 1 interior, 2 boundary: a shell inside every soma, so that two shells lie between
            the interiors of touching somas

255 is not learned from: where the labels are UNKNOWN.
"""

from __future__ import annotations

from typing import Literal

import edt
import numpy as np

from ...axes import Voxel

Role = Literal["locate", "segment"]
CLASSES: dict[str, tuple[str, ...]] = {
    "locate": ("background", "core"),
    "segment": ("background", "interior", "boundary"),
}
IGNORE = 255
UNKNOWN = 65535  # label of voxels of which it is not known what they are
CORE_SHARE = 0.45  # of a soma's greatest depth
SHELL_NM = 135.0  # width of the boundary class: two voxels of 64 nm, three sections of 40 nm
_LEAST_DEPTH_NM = 600.0  # a profile thinner than this shows no core when it is all there is


def soma_targets(
    labels: np.ndarray, voxel_nm: Voxel, role: Role, shell_nm: float = SHELL_NM
) -> np.ndarray:
    """Classes of the somas as far as the array shows them.

    What leaves through the array's border counts as going on; a piece that the border cuts off has a core of its
    own, where it is deepest. So take them of whole volumes and crop afterwards.
    """
    depth = edt.edt(labels, anisotropy=voxel_nm, black_border=False, parallel=1)
    return _classes(depth, labels, role, shell_nm)


def section_targets(
    labels: np.ndarray, voxel_nm: Voxel, role: Role, shell_nm: float = SHELL_NM
) -> np.ndarray:
    """Classes of every section on its own, as if it went on unchanged above and below (an extruded section)."""
    target = np.empty(labels.shape, np.uint8)
    for z, section in enumerate(labels):
        depth = edt.edt(section, anisotropy=voxel_nm[1:], black_border=False, parallel=1)
        target[z] = _classes(depth, section, role, shell_nm, _LEAST_DEPTH_NM)
    return target


def _classes(
    depth: np.ndarray, labels: np.ndarray, role: Role, shell_nm: float, least: float = 0
) -> np.ndarray:
    unknown = labels == UNKNOWN
    if role == "segment":
        classes = np.where(labels == 0, 0, np.where(depth > shell_nm, 1, 2)).astype(np.uint8)
    else:
        deepest = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
        inside = labels > 0
        np.maximum.at(deepest, labels[inside], depth[inside])
        deepest[deepest < least] = np.inf
        deepest[0] = np.inf
        classes = (depth > CORE_SHARE * deepest[labels]).astype(np.uint8)
    classes[unknown] = IGNORE
    return classes
