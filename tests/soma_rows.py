"""A made-up table of somas for the tests of what is published."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flysoma.analysis.morphology.spatial import nearest_distances
from flysoma.analysis.tables.somas import soma_table


def make_somas(n: int, size_um=(60.0, 50.0, 40.0), seed: int = 0) -> pd.DataFrame:
    """n somas scattered in a box (x, y, z in um), as the measure stage would list them."""
    rng = np.random.default_rng(seed)
    centre = rng.random((n, 3)) * np.array(size_um) * 1e3
    diameter = np.clip(rng.normal(5.0, 1.0, n), 2.0, 9.0)
    stretch = rng.uniform(0.85, 1.15, (n, 3))
    half = diameter[:, None] * 500 * stretch
    frame = pd.DataFrame({"id": np.arange(1, n + 1, dtype=np.uint64)})
    for i, a in enumerate("xyz"):
        frame[f"{a}_nm"] = centre[:, i]
        frame[f"inscribed_{a}_nm"] = centre[:, i]
        frame[f"bb_start_{a}_nm"] = centre[:, i] - half[:, i]
        frame[f"bb_end_{a}_nm"] = centre[:, i] + half[:, i]
    volume = np.pi / 6 * diameter**3 * stretch.prod(axis=1)
    frame["volume_um3"] = volume
    frame["sphericity"] = rng.uniform(0.75, 0.98, n)
    frame["surface_um2"] = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / frame["sphericity"]
    frame["equivalent_diameter_um"] = np.cbrt(6 * volume / np.pi)
    for name, factor in (("a", 1.1), ("b", 1.0), ("c", 0.9)):
        frame[f"semi_axis_{name}_um"] = diameter / 2 * factor
    frame["inscribed_radius_um"] = diameter / 2 * 0.85
    frame["voxels"] = np.rint(volume / 1.6384e-4).astype(np.int64)
    frame["confidence"] = rng.uniform(0.94, 1.0, n)
    frame["n_seeds"] = 1
    frame["neurites"] = 1
    frame["nearest_nm"] = nearest_distances(centre)
    frame["touches_edge"] = rng.random(n) < 0.2
    frame["crosses_seam"] = rng.random(n) < 0.3
    frame["suspicious"] = rng.random(n) < 0.05
    return soma_table(frame)
