"""Copy what a finished run publishes to a place where others read it, with all that they need to trust and use it.

Objects are copied as they are stored, compressed or not. Chunks, meshes and annotations never change once a run is
finished, so what was copied is noted in `.published/` by batches, and another try goes on from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cloudfiles import CloudFiles

from ..analysis.viewer import PUBLIC_VIEWER
from ..errors import UserError
from .pipeline import STAGES, state_path
from .run import Run
from .store import RunStore, local_folder

_LARGE = ("somas/", "centroids/", "quality/")
_SMALL = ("tables/", "report/", "config.yaml", "manifest.json")
_BATCH = 500  # objects
_NOTES = ".published/"
_CORS = [
    {
        "origin": ["*"],
        "method": ["GET", "HEAD"],
        "responseHeader": ["Content-Type", "Content-Encoding", "Content-Range", "Range"],
        "maxAgeSeconds": 3600,
    }
]


@dataclass(frozen=True)
class Shared:
    """What was published: objects and bytes in all, how many were copied now, and stages that were not finished."""

    objects: int
    bytes: int
    copied: int
    unfinished: list[str]


def share(
    run: Run,
    target: str,
    licence: str,
    force: bool,
    link: str | None,
    progress: Callable[[int, int], None],
) -> Shared:
    """Copy a run's somas, centroids, tables and report to a cloudpath, and write README and provenance there.

    Args:
      link: opens the result in neuroglancer, if anybody can; goes into the README.
      progress: called with objects done and in all.
    Raises UserError when the run is not finished, unless forced.
    """
    unfinished = [s.name for s in STAGES if not _state(run, s.name).get("finished")]
    if unfinished and not force:
        raise UserError(
            f"{run.path} is not finished: {', '.join(unfinished)} to do; go on with 'flysoma run "
            f"{run.path}/config.yaml', or publish what there is with --force"
        )
    there = RunStore(target)
    names = [name for folder in _LARGE for name in run.store.names(folder)]
    small = [name for prefix in _SMALL for name in run.store.names(prefix)]
    total, done, copied = len(names) + len(small), 0, 0
    present = {name for folder in _LARGE for name in there.names(folder)}
    sums: list[Sequence[Any]] = []  # name, sha256, bytes
    for key, batch in _batches(names):
        noted = there.get_json(f"{_NOTES}{key}.json")
        if noted is None or not present.issuperset(batch):
            noted = _copy(run.path, target, batch)
            there.put_json(f"{_NOTES}{key}.json", noted)
            copied += len(batch)
        sums += noted
        done += len(batch)
        progress(done, total)
    sums += _copy(run.path, target, small)
    progress(total, total)
    about = _provenance(run, licence, unfinished)
    there.put("README.md", _readme(run, target, about, link).encode(), "text/markdown")
    there.put_json("cors.json", _CORS)
    listed = "".join(f"{digest}  {name}\n" for name, digest, _ in sorted(map(tuple, sums)))
    there.put("checksums.sha256", listed.encode(), "text/plain")
    there.put_json("provenance.json", about)  # last: where it is, everything is
    return Shared(total, sum(size for *_, size in sums), copied + len(small), unfinished)


def cors_commands(target: str) -> str | None:
    """What lets browsers elsewhere read a bucket; None for a folder."""
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


def _batches(names: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Objects in batches, each with a name that says which they are."""
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        yield hashlib.sha256("\n".join(batch).encode()).hexdigest()[:32], batch


def _copy(source: str, target: str, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Copy objects as they are stored; name, sha256 and bytes of each."""
    found = CloudFiles(source, progress=False).get(list(names), raw=True) if names else []
    lost = [item["path"] for item in found if item["content"] is None]
    if lost:
        raise UserError(f"{source}/{lost[0]} is gone; make it anew before it is published")
    there = CloudFiles(target, progress=False)
    try:
        there.puts(found, raw=True)
    except OSError as err:
        raise UserError(f"cannot write under {target}: {err.strerror or err}") from err
    on_disk = local_folder(target) is not None
    ending = {"gzip": ".gz", "br": ".br", "zstd": ".zstd"}
    return [
        (
            item["path"] + (ending.get(item.get("compress") or "", "") if on_disk else ""),
            hashlib.sha256(item["content"]).hexdigest(),
            len(item["content"]),
        )
        for item in found
    ]


def _state(run: Run, stage: str) -> dict[str, Any]:
    return run.store.get_json(state_path(stage)) or {}


def _provenance(run: Run, licence: str, unfinished: list[str]) -> dict[str, Any]:
    """What was done to what, by which code, and how long it took."""
    stages = {stage.name: _state(run, stage.name) for stage in STAGES}
    return {
        **run.store.get_json("manifest.json"),
        "image": run.config.image,
        "config": run.config.model_dump(mode="json"),
        "licence": licence,
        "somas": (stages["measure"].get("result") or {}).get("somas"),
        "unfinished": unfinished,
        "task_hours": {
            name: round(state.get("task_seconds", 0) / 3600, 4) for name, state in stages.items()
        },
        "ended": max((state.get("ended", 0) for state in stages.values()), default=0),
    }


def _readme(run: Run, target: str, about: dict[str, Any], link: str | None) -> str:
    """What somebody needs who finds this place."""
    warned = (
        "**Not finished**: " + ", ".join(about["unfinished"]) + "\n\n"
        if about["unfinished"]
        else ""
    )
    opened = f"[in neuroglancer]({link})" if link else f"`flysoma view {target}`"
    version = about["versions"]["flysoma"]
    return f"""# Somas

{warned}{about["somas"]} cell bodies in `{run.config.image}`, found by flysoma {version}.
Licence: {about["licence"]}.

Open it {opened}.

| | |
| --- | --- |
| `somas/` | neuroglancer precomputed segmentation with meshes, skeletons and properties |
| `centroids/` | an ellipsoid for each soma, precomputed annotations |
| `quality/` | a box for each block: somas, disagreements at its seams, missing image |
| `tables/somas.parquet`, `.csv` | a row for each soma; `tables/columns.json` says what each column means |
| `tables/cave_nucleus_detection.csv` | the same with the names of CAVE's table |
| `report/index.html` | figures |
| `provenance.json` | config, code, sha256 of weights and of the image's info, hours |
| `checksums.sha256` | sha256 of every object as it is stored, compressed ones in their compressed form |

```python
import pandas as pd

somas = pd.read_parquet("{target}/tables/somas.parquet")
```

A link for another viewer than {PUBLIC_VIEWER}: `flysoma view {target} --link URL`.
"""
