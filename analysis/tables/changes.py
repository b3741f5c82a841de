"""The somas that differ between two tables of somas in which an id means the same soma."""

from __future__ import annotations

import numpy as np
import pandas as pd

from .somas import soma_table

_LABELS = ("voxels", "x_nm", "y_nm", "z_nm")  # which differ if the voxels of a soma do


def table_changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each soma that differs, sorted by id.

    Returns:
      id; change: `gone`, `new`, `changed` (other voxels), or what is said about the soma now: its class, `verified`,
      `not verified`; volume_um3_a, volume_um3_b: before and after, NaN where there is no soma.
    """
    one, two = (soma_table(frame).set_index("id") for frame in (before, after))
    ids = one.index.union(two.index)
    one, two = one.reindex(ids), two.reindex(ids)
    other_class = one["class"] != two["class"]
    changes = [
        one["volume_um3"].isna(),
        two["volume_um3"].isna(),
        np.logical_or.reduce([one[name] != two[name] for name in _LABELS]),
        other_class,
        one["verified"] != two["verified"],
    ]
    verified = np.where(two["verified"].eq(True), "verified", "not verified")
    kind = np.select(changes, ["new", "gone", "changed", two["class"].astype(str), verified], "")
    table = pd.DataFrame(
        {
            "id": ids.to_numpy(np.uint64),
            "change": kind,
            "volume_um3_a": one["volume_um3"].to_numpy(),
            "volume_um3_b": two["volume_um3"].to_numpy(),
        }
    )
    return table[table["change"] != ""].reset_index(drop=True)
