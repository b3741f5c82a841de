"""Bodies at points that a person has set: a body that is missing, or bodies that were joined by mistake.

Arrays are z, y, x. Probabilities are uint8; 255 stands for 1.
"""

from __future__ import annotations

import numpy as np
from skimage.segmentation import watershed

from ...axes import Voxel
from .instances import make_instances


def find_bodies(
    fields: np.ndarray,
    free: np.ndarray,
    points: np.ndarray,
    voxel_nm: Voxel,
    threshold: float,
    min_um3: float,
) -> np.ndarray:
    """Return the bodies that `make_instances` grows from points where no other body is.

    Args:
      fields: probabilities of interior and boundary; 2, z, y, x.
      free: bool, z, y, x; false in the bodies that are there already.
      points: n, 3; voxels, z, y, x.
      voxel_nm, threshold, min_um3: as for `make_instances`.
    Returns:
      Labels (uint32, z, y, x), 1..n in the order of the points; 0 elsewhere. Points in one body have the label of the
      first of them.
    """
    interior, boundary = fields * free
    labels, owner, one_body = make_instances(
        interior, boundary, points, voxel_nm, threshold, min_um3
    )
    first = np.arange(len(points))
    for one, two in np.sort(one_body, axis=1):
        first[first == first[two]] = min(first[one], first[two])
    of_label = np.append(0, np.where(owner >= 0, first[owner] + 1, 0)).astype(np.uint32)
    return of_label[labels] * free


def part_body(
    fields: np.ndarray, body: np.ndarray, points: np.ndarray, voxel_nm: Voxel, threshold: float
) -> np.ndarray:
    """Divide a body among points in it: along membranes, or halfway between the points if none separates them.

    Args:
      fields: probabilities of interior and boundary; 2, z, y, x.
      body: bool, z, y, x.
      points: n, 3; voxels, z, y, x.
      voxel_nm, threshold: as for `make_instances`.
    Returns:
      Labels (uint32, z, y, x): 1..n in the body, in the order of the points, and 0 outside. A label has no voxel if
      its point cannot be separated from the others. A part of the body in which no point lies gets the largest label.
    """
    interior, boundary = fields * body
    whole_um3 = body.size * float(np.prod(voxel_nm)) * 1e-9  # no piece without a point is as large
    labels, owner, _ = make_instances(interior, boundary, points, voxel_nm, threshold, whole_um3)
    of_label = np.append(0, owner + 1).astype(np.int32)
    seeded = of_label[labels] * body
    parts = watershed(np.zeros(body.shape, np.uint8), seeded, mask=body)  # type: ignore[no-untyped-call]
    parts = parts.astype(np.uint32)
    largest = np.bincount(parts[body], minlength=2)[1:].argmax() + 1
    parts[body & (parts == 0)] = largest
    return np.asarray(parts)
