"""Which somas of a table to look at first, and why: signs of the known kinds of errors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..metrics.scores import SIZE_BINS_UM3
from .seams import NO_SEAMS, Seams
from .somas import without_nucleus

_MIN_CONVEXITY = 0.88  # of whole somas; two somas that are merged have a waist
_LARGE = 4.0  # times the median volume
_MIN_CONFIDENCE = 0.93
_ON_SEAM_NM = 1.0


def doubtful_somas(table: pd.DataFrame, seams: Seams = NO_SEAMS) -> pd.DataFrame:
    """Return the somas of a `soma_table` to look at, with the reasons in the column `doubt`.

    Whole somas without a nucleus and somas with several come first, then those with the most reasons, then the largest.
    What the volume's edge does to a soma is no reason.
    """
    whole = ~table["touches_edge"]
    typical_um3 = table["volume_um3"][whole].median()
    reasons = {
        "no nucleus": without_nucleus(table),
        "several nuclei": table["n_nuclei"] > 1,
        "join refused": table["suspicious"],
        "several seeds": table["n_seeds"] > 1,
        "several neurites": table["neurites"] > 1,
        "not convex": whole & (table["convexity"] < _MIN_CONVEXITY),
        "large": table["volume_um3"] > _LARGE * typical_um3,
        "small": whole & (table["volume_um3"] < SIZE_BINS_UM3[0]),
        "low confidence": table["confidence"] < _MIN_CONFIDENCE,
        "ends at a seam": whole & _ends_at_seam(table, seams),
    }
    applies = pd.DataFrame({reason: flags.astype(bool) for reason, flags in reasons.items()})
    doubt = [", ".join(applies.columns[row]) for row in applies.to_numpy()]
    nuclei = applies["no nucleus"] | applies["several nuclei"]
    somas = table.assign(doubt=doubt, nuclei=nuclei, reasons=applies.sum(axis=1))
    somas = somas[somas["reasons"] > 0]
    order = ["nuclei", "reasons", "volume_um3", "id"]
    return somas.sort_values(order, ascending=[False, False, False, True])


def _ends_at_seam(table: pd.DataFrame, seams: Seams) -> pd.Series:
    """Return which somas end on a seam, as those do that were cut there."""
    ends = pd.Series(False, table.index)
    for a, at in zip("xyz", seams.at_nm):
        for end in ("start", "end"):
            face = table[f"bb_{end}_{a}_nm"].to_numpy(np.float64)
            nearest = at[np.abs(face[:, None] - at).argmin(axis=1)] if len(at) else np.inf
            ends |= np.abs(face - nearest) < _ON_SEAM_NM
    return ends
