"""Labels of a version from those of the version before it: ids that become others, and boxes with new labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import crackle
import fastremap
import numpy as np
from scipy import ndimage

from ..grids.geometry import Box


@dataclass(frozen=True)
class Patch:
    """New labels in a box.

    Attributes:
      packed: compressed with crackle, by layer: uint64, z, y, x; 0: as before.
    """

    box: Box
    packed: Mapping[str, bytes]

    @classmethod
    def around(cls, labels: Mapping[str, np.ndarray], box: Box) -> Patch:
        """Make a patch of the smallest box that holds the labels of somas in a box, by layer."""
        (place,) = ndimage.find_objects((labels["somas"] > 0).astype(np.uint8))
        tight = Box.from_zyx([s.start for s in place], [s.stop for s in place], box.lo)
        return cls(
            tight, {layer: crackle.compress(values[place]) for layer, values in labels.items()}
        )

    def paint(self, layer: str, labels: np.ndarray, box: Box) -> None:
        """Put the labels of the patch into those of a layer in a box."""
        both = box.intersect(self.box)
        if both.empty:
            return
        new = crackle.decompress(self.packed[layer])[both.slices_zyx(self.box.lo)]
        np.copyto(labels[both.slices_zyx(box.lo)], new, where=new > 0)


def change_labels(
    labels: np.ndarray, box: Box, became: Mapping[int, int], patches: Sequence[Patch]
) -> np.ndarray:
    """Return the labels of a box in the next version. Applied to its own result, it changes nothing.

    Args:
      labels: uint64, z, y, x; in the version before, or in part in the next one already.
      became: new id of each soma that is gone; 0: none.
    """
    changed = fastremap.remap(labels, dict(became), preserve_missing_labels=True)
    for patch in patches:
        patch.paint("somas", changed, box)
    return np.asarray(changed)


def change_nuclei(
    nuclei: np.ndarray, somas: np.ndarray, box: Box, patches: Sequence[Patch]
) -> np.ndarray:
    """Return the nuclei of a box in the next version; arguments as for `change_labels`.

    Args:
      somas: the labels of the box in the next version.
    """
    changed = nuclei.copy()
    for patch in patches:
        patch.paint("nuclei", changed, box)
    return np.where(changed > 0, somas, np.uint64(0))
