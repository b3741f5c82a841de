"""Copy the results of a finished run to a bucket or folder, with a README, checksums and provenance.

Objects are compressed in buckets only, so that any reader finds the files of a folder under their names, or packed into
shards. `.published/` records the content from which each batch of chunks, meshes and annotations was written. A later
copy writes what differs, and deletes what belonged to another run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from cloudfiles import CloudFiles
from cloudfiles.compression import decompress, transcode

from ...errors import UserError
from ..layers.shards import Pack, missing_chunks, packs
from ..run import Run
from ..stages.catalog import STAGES, is_finished
from ..storage.store import RunStore, local_folder
from .describing import CORS, describe_origin, readme
from .verified import VerifiedSomas

_LARGE = ("somas/", "nuclei/", "centroids/", "quality/")
_SMALL = ("tables/", "report/", "config.yaml", "manifest.json")
_ABOUT = ("README.md", "cors.json", "checksums.sha256", "provenance.json")
_BATCH = 500  # objects
_CONCURRENT_BATCHES = 4
_SHARD_ABOVE = 100_000  # objects
_RECORDS = ".published/"
_FORMAT = f"{_RECORDS}form.json"
_ENDING = re.compile(r"\.(gz|br|zstd)$")  # of a compressed object on disk
_GZIPPED = re.compile(r"somas/(\d[^/]*|skeletons)/-?\d[^/]*")  # others are read in parts
_FRAGMENT = re.compile(r"/mesh/.*(:|\.spatial$)")  # from which meshes were merged
Checksum = tuple[str, str, int]  # name, sha256 and bytes of a written object
Stored = dict[str, Any]  # an object as CloudFiles reads it


@dataclass(frozen=True)
class PublishOptions:
    """Options of `publish`.

    Attributes:
      licence: of the data.
      force: publish a run that is not finished.
      link: URL that opens the result in neuroglancer, for the README; None if no public link works.
      sharded: pack chunks, meshes and annotations into shards; None: if there are many objects.
      verified: copy only the somas that a person has said yes to.
    """

    licence: str
    force: bool = False
    link: str | None = None
    sharded: bool | None = None
    verified: bool = False


@dataclass(frozen=True)
class Published:
    """The result of `publish`.

    Attributes:
      objects, bytes: totals at the target.
      copied: objects of the run that were copied now.
      unfinished: stages of the run that were not finished.
    """

    objects: int
    bytes: int
    copied: int
    unfinished: list[str]


@dataclass(frozen=True)
class _Batch:
    """Objects of a run that are copied together.

    Attributes:
      names: of the objects in the run.
      targets: names of the objects that are written.
      write: writes them, given the objects of the run as CloudFiles reads them.
    """

    names: Sequence[str]
    targets: Sequence[str]
    write: Callable[[list[Stored]], Sequence[Checksum]]

    @property
    def record(self) -> str:
        key = hashlib.sha256("\n".join([*self.targets, *self.names]).encode()).hexdigest()[:32]
        return f"{_RECORDS}{key}.json"


def publish(
    run: Run, target: str, options: PublishOptions, progress: Callable[[int, int], None]
) -> Published:
    """Copy a run's somas, centroids, tables and report to a cloudpath, and write README and provenance there.

    Args:
      progress: called with the number of objects done, and the total.
    Raises:
      UserError: run and target overlap, the run is not finished and `force` is not set, the run is between two
        versions of its somas or has no verified soma, or the target holds another format or files of somebody else.
    """
    if f"{target}/".startswith(f"{run.path}/") or f"{run.path}/".startswith(f"{target}/"):
        raise UserError(f"{target} and the run {run.path} overlap; choose another place")
    unfinished = [s.name for s in STAGES if not is_finished(run, s.name)]
    if unfinished and not options.force:
        raise UserError(
            f"{run.path} is not finished: {', '.join(unfinished)} to do; resume it with 'flysoma run "
            f"{run.path}/config.yaml', or publish the finished stages with --force"
        )
    run.check_version()
    part = VerifiedSomas.of(run) if options.verified else None
    origin = describe_origin(run, unfinished, None if part is None else part.table)
    store = RunStore(target)
    large = [
        name for folder in _LARGE for name in run.store.names(folder) if not _FRAGMENT.search(name)
    ]
    small = [name for prefix in _SMALL for name in run.store.names(prefix)]
    if part is not None:
        large, small = part.select(large), part.select(small)
    sharded = _choose_format(store, len(large) > _SHARD_ABOVE, options.sharded)
    batches, infos = _batches(run, target, large, sharded)
    infos |= {} if part is None else part.files()
    total = len(large) + len(small)
    store.delete(["provenance.json"])  # it marks a copy as complete

    def read(names: Sequence[str]) -> list[Stored]:
        objects = _read(run.path, names)
        return objects if part is None else [part.change(item) for item in objects]

    checksums, copied = _copy_batches(read, store, batches, lambda done: progress(done, total))
    _delete_others(store, batches, {*(name for name, *_ in checksums), *infos, *small})
    checksums += _put_all(store, infos)
    checksums += _copy(target, _read(run.path, small))
    progress(total, total)
    provenance = origin | {"licence": options.licence, "sharded": sharded}
    store.put("README.md", readme(run, target, provenance, options.link).encode(), "text/markdown")
    store.put_json("cors.json", CORS)
    listing = "".join(f"{digest}  {name}\n" for name, digest, _ in sorted(checksums))
    store.put("checksums.sha256", listing.encode(), "text/plain")
    store.put_json("provenance.json", provenance)
    size = sum(size for *_, size in checksums)
    return Published(len(checksums), size, copied + len(small), unfinished)


def _copy_batches(
    read: Callable[[Sequence[str]], list[Stored]],
    store: RunStore,
    batches: Sequence[_Batch],
    progress: Callable[[int], None],
) -> tuple[list[Checksum], int]:
    """Copy batches whose content is not at the target yet; return all checksums, and how many objects were copied."""
    present = {name for folder in _LARGE for name in store.names(folder)}

    def copy(batch: _Batch) -> tuple[int, Sequence[Checksum]]:
        objects = read(batch.names)
        content = hashlib.sha256()
        for item in objects:
            content.update(hashlib.sha256(item["content"]).digest())
        recorded = store.get_record(batch.record)
        if (
            recorded is not None
            and recorded["content"] == content.hexdigest()
            and present.issuperset(batch.targets)
        ):
            return 0, [(name, digest, size) for name, digest, size in recorded["written"]]
        checksums = batch.write(objects)
        store.put_record(batch.record, {"content": content.hexdigest(), "written": checksums})
        return len(batch.names), checksums

    checksums: list[Checksum] = []
    done = copied = 0
    with ThreadPoolExecutor(_CONCURRENT_BATCHES) as pool:
        for batch, (new, written) in zip(batches, pool.map(copy, batches)):
            checksums += written
            done, copied = done + len(batch.names), copied + new
            progress(done)
    return checksums, copied


def _delete_others(store: RunStore, batches: Sequence[_Batch], written: set[str]) -> None:
    """Delete what an earlier copy of another run wrote and this one did not, and its records."""
    others = set(store.names(_RECORDS)) - {_FORMAT} - {batch.record for batch in batches}
    for record in store.get_records(others).values():
        old = {name for name, *_ in record["written"]} - written
        store.delete([_ENDING.sub("", name) for name in old])
    store.delete(others)
    folders = [name for name in _SMALL if name.endswith("/")]
    store.delete({name for folder in folders for name in store.names(folder)} - written)


def _choose_format(store: RunStore, many: bool, sharded: bool | None) -> bool:
    """Return whether to write shards: as at the target, else as the user chose, else if there are many objects."""
    recorded = store.get_json(_FORMAT)
    if recorded is None:
        _check_unused(store.cloudpath)
        chosen = many if sharded is None else sharded
        store.put_json(_FORMAT, {"sharded": chosen})
        return chosen
    if sharded not in (None, recorded["sharded"]):
        raise UserError(
            f"{store.cloudpath} holds this {'in shards' if recorded['sharded'] else 'without shards'} already; "
            "choose another place, or the same format with --sharded or --unsharded"
        )
    return bool(recorded["sharded"])


def _check_unused(target: str) -> None:
    """Raise UserError if a place that holds no published run has an object under a name that publishing writes."""
    files = CloudFiles(target, progress=False)
    names = [name for name in (*_ABOUT, *_SMALL) if not name.endswith("/") and files.exists(name)]
    folders = [name for name in (*_LARGE, *_SMALL) if name.endswith("/")]
    names += [name for folder in folders for name in islice(files.list(folder), 1)]
    if names:
        raise UserError(
            f"{target} holds {names[0]}, which 'flysoma publish' did not write; choose an empty or new place"
        )


def _batches(
    run: Run, target: str, names: Sequence[str], sharded: bool
) -> tuple[list[_Batch], dict[str, bytes]]:
    """Return the batches to copy, and the info files that differ from the run's."""
    batches: list[_Batch] = []
    infos: dict[str, bytes] = {}
    packed: set[str] = set()
    background = missing_chunks(run.store, names) if sharded or local_folder(target) else {}
    if sharded:
        all_packs, infos = packs(run.store, [*names, *background])
        for pack in all_packs:
            for shard, keys in pack.shards():
                members = [name for name in pack.names(keys) if name not in background]
                packed.update(members)
                write = partial(_pack, target, pack, shard, keys, background)
                batches.append(_Batch(members, [shard], write))
    else:
        missing = list(background)
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            content = {name: background[name] for name in batch}
            batches.append(_Batch((), batch, partial(_put_background, target, content)))
    others = [name for name in names if name not in packed and name not in infos]
    for start in range(0, len(others), _BATCH):
        batch = others[start : start + _BATCH]
        batches.append(_Batch(batch, batch, partial(_copy, target)))
    return batches, infos


def _put_background(
    target: str, objects: Mapping[str, bytes], _: Sequence[Stored]
) -> list[Checksum]:
    return _put_all(RunStore(target), objects)


def _pack(
    target: str,
    pack: Pack,
    shard: str,
    keys: Sequence[int],
    background: Mapping[str, bytes],
    objects: Sequence[Stored],
) -> list[Checksum]:
    """Write one shard of many objects."""
    content = {name: background[name] for name in pack.names(keys) if name in background}
    content |= {
        item["path"]: decompress(item["content"], item["compress"], item["path"])
        for item in objects
    }
    return _put_all(RunStore(target), {shard: pack.shard(keys, content)})


def _put_all(store: RunStore, objects: Mapping[str, bytes]) -> list[Checksum]:
    store.put_many(objects)
    return [(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in objects.items()]


def _read(source: str, names: Sequence[str]) -> list[Stored]:
    """Read objects as they are stored, compressed or not, in the order of their names."""
    objects = CloudFiles(source, progress=False).get(list(names), raw=True) if names else []
    missing = next((item["path"] for item in objects if item["content"] is None), None)
    if missing is not None:
        raise UserError(f"{source}/{missing} is missing; recreate it before you publish the run")
    return sorted(objects, key=lambda item: str(item["path"]))


def _copy(target: str, objects: Sequence[Stored]) -> list[Checksum]:
    """Write objects, compressed as the target needs them."""
    for item in objects:
        gzipped = local_folder(target) is None and _GZIPPED.fullmatch(item["path"])
        (_,) = transcode(item, "gzip" if gzipped else None, in_place=True)
    try:
        CloudFiles(target, progress=False).puts(objects, raw=True)
    except OSError as err:
        raise UserError(f"cannot write under {target}: {err.strerror or err}") from err
    return [
        (item["path"], hashlib.sha256(item["content"]).hexdigest(), len(item["content"]))
        for item in objects
    ]
