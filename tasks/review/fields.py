"""Probabilities in a box: from the tiles that the run has kept, and predicted again where there are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...models.inference.encoding import FULL, decode_nibbles
from ...models.inference.instances import certainty_sums
from ...models.inference.nuclei import nuclei_of, nucleus_sums
from ..grids.geometry import Box
from ..grids.tiles import FIELDS, NUCLEUS_FIELDS, missing_tiles, read_tiles
from ..run import Run
from ..soma_versions import Remeasured
from ..stages.predict import PredictStage
from ..stages.segment import BlockFields


def read_fields(run: Run, box: Box, everywhere: bool = False) -> BlockFields:
    """Return the probabilities in a box.

    Tiles that `flysoma clean` has deleted are predicted again.

    Args:
      everywhere: predict also the tiles that the run has left out because no core lies near them.
    Raises:
      UserError: tiles must be predicted, and the image or the networks are not those of the run.
    """
    lattice, corners = run.tiles.fine, box.corners_zyx(run.segment_grid.bounds.lo)
    numbers = np.array(sorted(lattice.number(tile) for tile in lattice.tiles_in_box(*corners)))
    if not everywhere:
        numbers = np.intersect1d(numbers, run.stored_numbers("predict", FIELDS))
    folders = (FIELDS, NUCLEUS_FIELDS)[: 1 + run.has_nuclei]
    missing = {n for folder in folders for n in missing_tiles(run.store, folder, numbers.tolist())}
    PredictStage(run).redo_fields(sorted(missing))
    somas, *nuclei = (
        decode_nibbles(read_tiles(run.store, folder, numbers, lattice, *corners))
        for folder in folders
    )
    return BlockFields(somas, nuclei[0] if nuclei else None)


def remeasure(
    labels: np.ndarray,
    box: Box,
    fields: BlockFields,
    n_seeds: Sequence[int],
    cut: bool | None = None,
) -> list[Remeasured]:
    """Return what the fields say about labels 1..n (uint32, z, y, x).

    Args:
      labels: of the box of the fields.
      n_seeds: number of seeds in each label.
      box, cut: as in `Remeasured`.
    """
    count = len(n_seeds)
    interior, boundary = fields.somas
    certainty, off_boundary = certainty_sums(labels, interior, boundary, count).T
    confidence = certainty / np.maximum(off_boundary * FULL, 1)
    p_glia = np.full(count, None)
    if fields.nuclei is not None:
        nucleus, glia = fields.nuclei
        total = nucleus_sums(labels, nuclei_of(labels, nucleus), glia, count)[:, 1]
        voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        p_glia = total / np.maximum(voxels * FULL, 1)
    values = zip(confidence.tolist(), p_glia.tolist(), n_seeds)
    return [
        Remeasured(confidence=c, p_glia=p, n_seeds=n, cut=cut, box=(box.lo, box.hi))
        for c, p, n in values
    ]
