"""Pack the small objects of a layer into few large ones: neuroglancer's sharded format. Their bytes do not change.

The key of a chunk, or of a cell of a spatial index, is the Morton code of its position in the grid; the key of a mesh,
a skeleton or an annotation is its id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cloudvolume.datasource.precomputed.common import compressed_morton_code
from cloudvolume.datasource.precomputed.sharding import (
    ShardingSpecification,
    compute_shard_params_for_hashed,
    compute_shard_params_for_image,
)

from ..storage.store import RunStore
from .precomputed import background_chunks

SEGMENTATIONS, ANNOTATIONS = ("somas", "nuclei"), ("centroids", "quality")
_SHARD_BYTES = 4 << 30  # of chunks, uncompressed
_MAX_PER_SHARD = {"mesh": 2000, "skeletons": 20_000, "annotations": 200_000}
_NUMBER = re.compile(r"\d+")
_CHUNK = re.compile(r"(-?\d+)-(?:-?\d+)_(-?\d+)-(?:-?\d+)_(-?\d+)-(?:-?\d+)")
_CELL = re.compile(r"(\d+)_(\d+)_(\d+)")


@dataclass(frozen=True)
class Pack:
    """A folder whose objects become shards.

    Attributes:
      folder: path relative to the run, with a slash at its end.
      sharding: the sharding entry of the layer's info.
      objects: names of the objects of each key: one object, or the fragments of a mesh followed by its manifest.
    """

    folder: str
    sharding: dict[str, Any]
    objects: dict[int, list[str]]

    def shards(self) -> Iterator[tuple[str, list[int]]]:
        """Return the name of each shard, relative to the run, with its keys."""
        spec = ShardingSpecification.from_dict(self.sharding)
        keys: dict[str, list[int]] = {}
        for key in sorted(self.objects):
            keys.setdefault(spec.compute_shard_location(key).shard_number, []).append(key)
        return ((f"{self.folder}{number}.shard", some) for number, some in sorted(keys.items()))

    def names(self, keys: Iterable[int]) -> list[str]:
        """Return the names of the objects of some keys."""
        return [name for key in keys for name in self.objects[key]]

    def shard(self, keys: Sequence[int], content: Mapping[str, bytes]) -> bytes:
        """Build a shard of some keys from the uncompressed content of their objects."""
        spec = ShardingSpecification.from_dict(self.sharding)
        data = {key: b"".join(content[name] for name in self.objects[key]) for key in keys}
        manifest = None
        if any(len(names) > 1 for names in self.objects.values()):
            manifest = {key: len(content[self.objects[key][-1]]) for key in keys}
        return spec.synthesize_shard(data, data_offset=manifest)


def missing_chunks(store: RunStore, names: Sequence[str]) -> dict[str, bytes]:
    """Return the chunks of the segmentations that a run does not store, by name: background.

    Args:
      names: names of the objects of the run.
    """
    missing: dict[str, bytes] = {}
    for layer in SEGMENTATIONS:
        prefix = f"{layer}/"
        stored = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        info = store.get_json(f"{prefix}info") or {"scales": []}  # an unfinished run may have none
        missing |= {
            f"{prefix}{name}": content
            for mip in range(len(info["scales"]))
            for name, content in background_chunks(info, mip, stored)
        }
    return missing


def packs(store: RunStore, names: Iterable[str]) -> tuple[list[Pack], dict[str, bytes]]:
    """Return the folders of a run's layers to pack, and the layers' new infos.

    Args:
      names: names of all objects of the run.
    """
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        folders.setdefault(f"{folder}/", []).append(last)
    packed: list[Pack] = []
    infos: dict[str, Any] = {}

    def add(folder: str, info: dict[str, Any], objects: dict[int, list[str]], spec: Any) -> None:
        if objects:
            sharding = spec.to_dict().items()
            info["sharding"] = {k: v if isinstance(v, str) else int(v) for k, v in sharding}
            packed.append(Pack(folder, info["sharding"], objects))

    for layer in SEGMENTATIONS:
        if f"{layer}/info" not in names:
            continue
        about = infos[f"{layer}/info"] = store.get_json(f"{layer}/info")
        for scale in about["scales"]:
            folder = f"{layer}/{scale['key']}/"
            size, chunk = scale["size"], scale["chunk_sizes"][0]
            grid = [-(-n // c) for n, c in zip(size, chunk)]
            place = _places(_CHUNK, scale["voxel_offset"], chunk)
            spec = compute_shard_params_for_image(
                size, chunk, scale["encoding"], about["data_type"], _SHARD_BYTES
            )
            add(folder, scale, _in_grid(folder, folders, grid, place), spec)
        for kind in ("mesh", "skeletons"):
            folder = f"{layer}/{about.get(kind)}/"
            if folder in folders:
                info = infos[f"{folder}info"] = store.get_json(f"{folder}info")
                objects = _by_number(folder, folders, manifests=kind == "mesh")
                add(folder, info, objects, _hashed(len(objects), kind))
    for layer in ANNOTATIONS:
        if f"{layer}/info" not in names:
            continue
        about = infos[f"{layer}/info"] = store.get_json(f"{layer}/info")
        for info in [about["by_id"], *about["relationships"]]:
            folder = f"{layer}/{info['key']}/"
            objects = _by_number(folder, folders)
            add(folder, info, objects, _hashed(len(objects), "annotations"))
        for level in about["spatial"]:
            folder = f"{layer}/{level['key']}/"
            place = _places(_CELL, (0, 0, 0), (1, 1, 1))
            objects = _in_grid(folder, folders, level["grid_shape"], place)
            add(folder, level, objects, _hashed(len(objects), "annotations"))
    return packed, {name: json.dumps(info).encode() for name, info in infos.items()}


def _hashed(keys: int, kind: str) -> ShardingSpecification:
    """Return the specification of shards whose keys are distributed by their hash."""
    least = -(-keys // _MAX_PER_SHARD[kind]) or 1
    shard_bits, minishard_bits, preshift_bits = compute_shard_params_for_hashed(
        keys, min_shards=least
    )
    return ShardingSpecification(
        "neuroglancer_uint64_sharded_v1",
        preshift_bits=preshift_bits,
        hash="murmurhash3_x86_128",
        minishard_bits=minishard_bits,
        shard_bits=shard_bits,
        minishard_index_encoding="gzip",
        data_encoding="raw" if kind == "mesh" else "gzip",
    )


def _places(
    pattern: re.Pattern[str], first: Sequence[int], step: Sequence[int]
) -> Callable[[str], list[int] | None]:
    """Return a function that parses the position in a grid from an object's name; None for other names."""

    def place(name: str) -> list[int] | None:
        match = pattern.fullmatch(name)
        return match and [(int(n) - o) // s for n, o, s in zip(match.groups(), first, step)]

    return place


def _in_grid(
    folder: str,
    folders: Mapping[str, list[str]],
    grid: Sequence[int],
    place: Callable[[str], list[int] | None],
) -> dict[int, list[str]]:
    """Return the objects of a folder by the Morton code of their position."""
    places = {name: place(name) for name in folders.get(folder, [])}
    known = {name: at for name, at in places.items() if at is not None}
    codes = np.atleast_1d(compressed_morton_code(list(known.values()), grid)).tolist()
    return {code: [f"{folder}{name}"] for code, name in zip(codes, known)}


def _by_number(
    folder: str, folders: Mapping[str, list[str]], manifests: bool = False
) -> dict[int, list[str]]:
    """Return the objects whose name is a number by that number; with `manifests`, only those that have a manifest."""
    names = set(folders.get(folder, []))
    numbers = [name for name in names if _NUMBER.fullmatch(name)]
    if manifests:
        complete = [name for name in numbers if f"{name}.index" in names]
        return {int(n): [f"{folder}{n}", f"{folder}{n}.index"] for n in complete}
    return {int(name): [f"{folder}{name}"] for name in numbers}
