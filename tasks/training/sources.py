"""Read the data that a training config names: volumes for training and for validation. Arrays are z, y, x."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from ...axes import Voxel, Zyx
from ...errors import UserError
from ...models.training import distributed
from ...models.training.config import Emads, Layers, Phantoms, TrainConfig
from ...models.training.dataset import Source, Volume
from ...models.training.emads import downsample_image, downsample_labels, read_emads
from ...models.training.phantoms import PhantomPlan, describe, load_phantoms
from ...models.training.targets import Role
from ..grids.geometry import Box, vec3
from ..layers.image import ImageLayer
from ..layers.labels import LabelLayer
from ..volumes.files import read_array
from .looks import read_fit

VOXEL: dict[Role, Voxel] = {"locate": (240.0, 64.0, 64.0), "segment": (40.0, 64.0, 64.0)}
_PHANTOM: dict[Role, Zyx] = {"locate": (48, 384, 384), "segment": (160, 256, 256)}
_FLAT: Zyx = (6, 384, 384)
_HELD_OUT_SEED = 20_000
_HOLD_OUT_EVERY = 5  # EMADS volumes, if neither the config nor the folders say which are held out
Split = tuple[list[Volume], list[Volume], dict[str, object]]  # train, held out, description


def make_source(config: TrainConfig, output: Path) -> Source:
    """Read or make all volumes of a training.

    Args:
      output: the weights file; phantoms are cached beside it unless the config names a cache.

    Raises:
      UserError: data cannot be read, or no volume is held out.
    """
    cache = config.cache or output.parent / "phantoms"
    train: list[Volume] = []
    held_out: list[Volume] = []
    descriptions: list[object] = []
    for data in config.data:
        if isinstance(data, Phantoms):
            some, others, description = _phantoms(data, config.role, cache)
        elif isinstance(data, Emads):
            some, others, description = _emads(data, VOXEL[config.role])
        else:
            some, others, description = _layers(data, VOXEL[config.role])
        weight = 1.0 if data.share is None else data.share / max(1, len(some))
        train += [replace(volume, weight=weight) for volume in some]
        held_out += others
        descriptions.append(description | {"share": data.share})
    if not held_out:
        raise UserError(
            "no volume is held out for validation; name volumes or boxes under held_out"
        )
    return Source(train, held_out, VOXEL[config.role], {"data": descriptions})


def _phantoms(data: Phantoms, role: Role, cache: Path) -> Split:
    looks = () if data.looks is None else tuple(look for _, look in read_fit(data.looks).fits)
    train = PhantomPlan(role, _PHANTOM[role], VOXEL[role], data.phantoms, data.first_seed, looks)
    if data.flat:  # one section of a volume at the voxel size of `segment` serves both roles
        train = replace(train, role="segment", shape=_FLAT, voxel_nm=VOXEL["segment"])
    held_out = replace(
        train,
        shape=_PHANTOM[role],
        role=role,
        voxel_nm=VOXEL[role],
        count=data.held_out,
        first_seed=_HELD_OUT_SEED,
    )
    description: dict[str, object] = {"train": describe(train), "held_out": describe(held_out)}
    return _make_phantoms(train, cache), _make_phantoms(held_out, cache), description


def _make_phantoms(plan: PhantomPlan, cache: Path) -> list[Volume]:
    hidden = not distributed.is_first()
    with click.progressbar(
        length=plan.count, label="phantoms", file=sys.stderr, hidden=hidden
    ) as bar:
        return load_phantoms(plan, cache, os.cpu_count() or 1, lambda *_: bar.update(1))


def _emads(data: Emads, voxel_nm: Voxel) -> Split:
    own = data.resolution_nm[::-1]
    ratio = [w / o for w, o in zip(voxel_nm, own)]
    if any(abs(r - round(r)) > 1e-6 or r < 1 for r in ratio):
        raise UserError(
            f"{data.emads}: {voxel_nm[::-1]} nm is not a whole multiple of the voxel size {data.resolution_nm} nm "
            "(x, y, z); resample the volumes, or ingest them and name them as image and labels"
        )
    factor = (round(ratio[0]), round(ratio[1]), round(ratio[2]))
    volumes: dict[str, Volume] = {}
    read = partial(read_array, resolution_nm=data.resolution_nm)
    for block in read_emads(data.emads, read):
        image, labels = block.image, block.labels
        whole = Volume.from_arrays(image, labels, f"{data.emads}/{block.name}", data.ignore_label)
        volumes[block.name] = replace(
            whole,
            image=downsample_image(whole.image, factor),
            labels=downsample_labels(whole.labels, factor),
            cores=None if block.cores is None else downsample_labels(block.cores, factor),
        )
    names = list(volumes)
    validation = [name for name in names if name.startswith("validation")]
    held_out = data.held_out
    if held_out is None:
        held_out = tuple(validation or names[::_HOLD_OUT_EVERY])
    unknown = set(held_out) - set(names)
    if unknown:
        raise UserError(f"{data.emads} has no {', '.join(sorted(unknown))}; there is: {names}")
    train = [volumes[name] for name in names if name not in held_out]
    return train, [volumes[name] for name in held_out], {"emads": data.emads.name, "volumes": names}


def _layers(data: Layers, voxel_nm: Voxel) -> Split:
    image, labels = ImageLayer(data.image), LabelLayer(data.labels)
    x, y, z = voxel_nm[::-1]
    train: list[Volume] = []
    held_out: list[Volume] = []
    for number, corners in enumerate(data.boxes_nm):
        box = Box(
            vec3([round(c / v) for c, v in zip(corners[:3], (x, y, z))]),
            vec3([round(c / v) for c, v in zip(corners[3:], (x, y, z))]),
        )
        bounds = image.working_bounds((x, y, z))
        if box.intersect(bounds) != box:
            raise UserError(
                f"{data.image}: box {number} is {box} and the image {bounds} "
                f"(voxels of {(x, y, z)} nm, x, y, z); choose a box inside"
            )
        if not labels.covers(box, (x, y, z)):
            raise UserError(
                f"{data.labels}: box {number} is {box} in voxels of {(x, y, z)} nm, and the labels cover "
                f"{labels.bounds} in voxels of {labels.resolution_nm} nm (x, y, z); choose a box inside"
            )
        grey, truth = image.read(box, (x, y, z)), labels.sample(box, (x, y, z), mip=0)
        volume = Volume.from_arrays(grey, truth, f"{data.labels} box {number}", data.ignore_label)
        (held_out if number in data.held_out else train).append(volume)
    return train, held_out, {"image": data.image, "labels": data.labels, "boxes": data.boxes_nm}
