"""Copy what a finished run publishes to a place where others read it, with all that they need to trust and use it.

Objects are copied as they are stored, compressed or not, or packed into shards. Chunks, meshes and annotations never
change once a run is finished, so what was copied is noted in `.published/` by portions, and another try goes on there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from cloudfiles import CloudFiles

from ..analysis.viewer.state import PUBLIC_VIEWER
from ..errors import UserError
from .run import Run
from .stages.catalog import STAGES, is_finished, state_path
from .store import RunStore, local_folder
from .volumes.shards import Pack, packs

_LARGE = ("somas/", "centroids/", "quality/")
_SMALL = ("tables/", "report/", "config.yaml", "manifest.json")
_BATCH = 500  # objects
_AT_ONCE = 4  # portions that are copied at the same time
_MANY = 100_000  # objects that are packed into shards without being asked
_NOTES = ".published/"
_FORM = f"{_NOTES}form.json"
_FRAGMENT = re.compile(r"/mesh/.*(:|\.spatial$)")  # what meshes were merged from
Sum = tuple[str, str, int]  # name, sha256 and bytes of what was written
_CORS = [
    {
        "origin": ["*"],
        "method": ["GET", "HEAD"],
        "responseHeader": ["Content-Type", "Content-Encoding", "Content-Range", "Range"],
        "maxAgeSeconds": 3600,
    }
]


@dataclass(frozen=True)
class Terms:
    """How a run is published.

    Attributes:
      licence: of the data.
      force: even when the run is not finished.
      link: opens the result in neuroglancer, if anybody can; goes into the README.
      sharded: whether chunks, meshes and annotations are packed into shards; None: when there are many.
    """

    licence: str
    force: bool = False
    link: str | None = None
    sharded: bool | None = None


@dataclass(frozen=True)
class Shared:
    """What was published: objects and bytes in all, how many of the run's were copied now, and stages that were not
    finished."""

    objects: int
    bytes: int
    copied: int
    unfinished: list[str]


@dataclass(frozen=True)
class _Portion:
    """Objects of a run that are copied together: their names, the names that they get, and how it is done."""

    names: Sequence[str]
    makes: Sequence[str]
    copy: Callable[[], Sequence[Sum]]

    @property
    def key(self) -> str:
        return hashlib.sha256("\n".join([*self.makes, *self.names]).encode()).hexdigest()[:32]


def share(run: Run, target: str, terms: Terms, progress: Callable[[int, int], None]) -> Shared:
    """Copy a run's somas, centroids, tables and report to a cloudpath, and write README and provenance there.

    Args:
      progress: called with objects done and in all.
    Raises UserError when the run is not finished, unless forced, and where it was published in another form.
    """
    unfinished = [s.name for s in STAGES if not is_finished(run, s.name)]
    if unfinished and not terms.force:
        raise UserError(
            f"{run.path} is not finished: {', '.join(unfinished)} to do; go on with 'flysoma run "
            f"{run.path}/config.yaml', or publish what there is with --force"
        )
    there = RunStore(target)
    names = [
        name for folder in _LARGE for name in run.store.names(folder) if not _FRAGMENT.search(name)
    ]
    small = [name for prefix in _SMALL for name in run.store.names(prefix)]
    sharded = _form(there, len(names) > _MANY, terms.sharded)
    portions, infos = _portions(run, target, names, sharded)
    total = len(names) + len(small)
    present = {name for folder in _LARGE for name in there.names(folder)}

    def bring(portion: _Portion) -> tuple[int, Sequence[Sum]]:
        """How many objects had to be copied, and what is there of them now."""
        note = f"{_NOTES}{portion.key}.json"
        noted = there.get_json(note)
        if noted is not None and present.issuperset(portion.makes):
            return 0, noted
        noted = portion.copy()
        there.put_json(note, noted)
        return len(portion.names), noted

    sums: list[Sequence[Any]] = []
    done = copied = 0
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for portion, (new, noted) in zip(portions, pool.map(bring, portions)):
            sums += noted
            done, copied = done + len(portion.names), copied + new
            progress(done, total)
    sums += [_put(there, name, data) for name, data in infos.items()]
    sums += _copy(run.path, target, small)
    progress(total, total)
    about = _provenance(run, terms.licence, unfinished) | {"sharded": sharded}
    there.put("README.md", _readme(run, target, about, terms.link).encode(), "text/markdown")
    there.put_json("cors.json", _CORS)
    listed = "".join(f"{digest}  {name}\n" for name, digest, _ in sorted(map(tuple, sums)))
    there.put("checksums.sha256", listed.encode(), "text/plain")
    there.put_json("provenance.json", about)  # last: where it is, everything is
    return Shared(len(sums), sum(size for *_, size in sums), copied + len(small), unfinished)


def _form(there: RunStore, many: bool, asked: bool | None) -> bool:
    """Whether shards are made: as was begun there, else as was asked, else where there is much; one form a place."""
    begun = there.get_json(_FORM)
    sharded = many if asked is None else asked
    if begun is None:
        there.put_json(_FORM, {"sharded": sharded})
        return sharded
    if asked not in (None, begun["sharded"]):
        raise UserError(
            f"{there.cloudpath} holds this {'in shards' if begun['sharded'] else 'without shards'} already; "
            "choose another place, or the same form with --sharded or --unsharded"
        )
    return bool(begun["sharded"])


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


def _portions(
    run: Run, target: str, names: Sequence[str], sharded: bool
) -> tuple[list[_Portion], dict[str, bytes]]:
    """What is copied together, and the infos that are others than the run's."""
    found, infos, packed = [], {}, set()
    if sharded:
        shelves, infos = packs(run.store, names)
        for pack in shelves:
            for shard, keys in pack.shards():
                own = pack.names(keys)
                packed.update(own)
                copy = partial(_pack, run.path, target, pack, shard, keys)
                found.append(_Portion(own, [shard], copy))
    alone = [name for name in names if name not in packed and name not in infos]
    for start in range(0, len(alone), _BATCH):
        batch = alone[start : start + _BATCH]
        found.append(_Portion(batch, batch, partial(_copy, run.path, target, batch)))
    return found, infos


def _pack(source: str, target: str, pack: Pack, shard: str, keys: Sequence[int]) -> list[Sum]:
    """Make one shard of many objects."""
    found = CloudFiles(source, progress=False).get(pack.names(keys))
    content = {item["path"]: item["content"] for item in found}
    _check_there(source, content)
    return [_put(RunStore(target), shard, pack.shard(keys, content))]


def _put(there: RunStore, name: str, data: bytes) -> Sum:
    there.put(name, data)
    return name, hashlib.sha256(data).hexdigest(), len(data)


def _check_there(source: str, content: Mapping[str, bytes | None]) -> None:
    lost = next((name for name, data in content.items() if data is None), None)
    if lost is not None:
        raise UserError(f"{source}/{lost} is gone; make it anew before it is published")


def _copy(source: str, target: str, names: Sequence[str]) -> list[Sum]:
    """Copy objects as they are stored."""
    found = CloudFiles(source, progress=False).get(list(names), raw=True) if names else []
    _check_there(source, {item["path"]: item["content"] for item in found})
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
