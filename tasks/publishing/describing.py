"""What a publication says about itself: README, provenance, and the rules by which browsers may read a bucket."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from ...analysis.viewer.state import PUBLIC_VIEWER
from ..run import Run
from ..stages.catalog import STAGES, read_state

CORS = [
    {
        "origin": ["*"],
        "method": ["GET", "HEAD"],
        "responseHeader": ["Content-Type", "Content-Encoding", "Content-Range", "Range"],
        "maxAgeSeconds": 3600,
    }
]


def cors_commands(target: str) -> str | None:
    """Return the command that permits browsers to read a bucket; None for a folder."""
    protocol, _, rest = target.partition("://")
    bucket = rest.split("/")[0]
    if protocol == "gs":
        return (
            f"gcloud storage cp {target}/cors.json . && "
            f"gcloud storage buckets update gs://{bucket} --cors-file=cors.json"
        )
    if protocol == "s3":
        rules = [
            {"AllowedOrigins": ["*"], "AllowedMethods": ["GET", "HEAD"], "AllowedHeaders": ["*"]}
        ]
        return (
            f"aws s3api put-bucket-cors --bucket {bucket} --cors-configuration "
            f"'{json.dumps({'CORSRules': rules})}'"
        )
    return None


def describe_origin(
    run: Run, unfinished: list[str], verified: pd.DataFrame | None
) -> dict[str, Any]:
    """Return the input, config, code versions and times of a run.

    Args:
      unfinished: names of the stages that are not finished.
      verified: the rows of the somas that are published; None: all somas.
    """
    stages = {stage.name: read_state(run.store, stage.name) for stage in STAGES}
    found = stages["measure"].get("result") or {}
    if not unfinished:
        somas = run.soma_table() if verified is None else verified
        found = {"somas": len(somas), "cut_by_edge": int(somas["touches_edge"].sum())}
    return {
        **run.manifest.model_dump(),
        "image": run.config.image,
        "config": run.config.model_dump(mode="json"),
        "somas": found.get("somas"),
        "cut_by_edge": found.get("cut_by_edge"),
        "version": run.version,
        "verified": verified is not None,
        "unfinished": unfinished,
        "task_hours": {
            name: round(state.get("task_seconds", 0) / 3600, 4) for name, state in stages.items()
        },
        "ended": max((state.get("ended", 0) for state in stages.values()), default=0),
    }


def readme(run: Run, target: str, provenance: dict[str, Any], link: str | None) -> str:
    """Return the README of a published run."""
    warning = (
        "**Not finished**: " + ", ".join(provenance["unfinished"]) + "\n\n"
        if provenance["unfinished"]
        else ""
    )
    said = ", each verified by a person," if provenance["verified"] else ""
    report = "" if provenance["verified"] else "| `report/index.html` | figures |\n"
    cut = provenance["cut_by_edge"]
    whole = f", {cut} of them cut by the volume's edge," if cut else ""
    nuclei = (
        "| `nuclei/` | the nuclei of the somas, with the same ids |\n" if run.has_nuclei else ""
    )
    how = f"[in neuroglancer]({link})" if link else f"`flysoma view {target}`"
    version = provenance["versions"]["flysoma"]
    return f"""# Somas

{warning}{provenance["somas"]} cell bodies{whole}{said} in `{run.config.image}`, found by flysoma {version}.
Licence: {provenance["licence"]}.

Open it {how}.

| | |
| --- | --- |
| `somas/` | neuroglancer precomputed segmentation with meshes, skeletons and properties |
{nuclei}| `centroids/` | an ellipsoid for each soma, precomputed annotations |
| `quality/` | a box for each block: number of somas, mismatches at its seams, missing image voxels |
| `tables/somas.parquet`, `.csv` | a row for each soma; `tables/columns.json` says what each column means |
| `tables/cave_nucleus_detection.csv` | the same with the column names of CAVE's nucleus table |
{report}| `provenance.json` | config, code versions, sha256 of the weights and of the image's info, hours |
| `checksums.sha256` | sha256 of every object as it is stored: in a bucket, some are compressed |

```python
import pandas as pd

somas = pd.read_parquet("{target}/tables/somas.parquet")
```

Link for a viewer other than {PUBLIC_VIEWER}: `flysoma view {target} --link URL`.
"""
