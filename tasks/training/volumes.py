"""What a training's config names as data, read: volumes to learn from and others to judge by. Arrays are z, y, x."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from ...axes import Voxel, Zyx
from ...errors import UserError
from ...models.training import distributed
from ...models.training.config import Emads, Layers, Phantoms, TrainConfig
from ...models.training.dataset import PhantomPlan, Source, Volume, describe, phantom_volumes
from ...models.training.emads import emads_blocks, shrink_image, shrink_labels
from ...models.training.targets import Role
from ..volumes.geometry import Box, vec3
from ..volumes.image import ImageLayer
from ..volumes.labels import LabelLayer

VOXEL: dict[Role, Voxel] = {"locate": (240.0, 64.0, 64.0), "segment": (40.0, 64.0, 64.0)}
_PHANTOM: dict[Role, Zyx] = {"locate": (48, 384, 384), "segment": (128, 224, 224)}
_FLAT: Zyx = (6, 384, 384)
_HELD_OUT_SEED = 20_000
_EVERY = 5  # of EMADS volumes one is held out, where nothing says which
Parts = tuple[list[Volume], list[Volume], dict[str, object]]


def make_source(config: TrainConfig, output: Path) -> Source:
    """Read or make all data of a training; phantoms are kept beside the weights unless the config names a cache."""
    cache = config.cache or output.parent / "phantoms"
    learn: list[Volume] = []
    held_out: list[Volume] = []
    told: list[object] = []
    for data in config.data:
        if isinstance(data, Phantoms):
            some, others, description = _phantoms(data, config.role, cache)
        elif isinstance(data, Emads):
            some, others, description = _emads(data, VOXEL[config.role])
        else:
            some, others, description = _layers(data, VOXEL[config.role])
        weight = 1.0 if data.share is None else data.share / max(1, len(some))
        learn += [replace(volume, weight=weight) for volume in some]
        held_out += others
        told.append(description | {"share": data.share})
    if not held_out:
        raise UserError("nothing is held out to judge by; name volumes or boxes under held_out")
    return Source(learn, held_out, VOXEL[config.role], {"data": told})


def _phantoms(data: Phantoms, role: Role, cache: Path) -> Parts:
    made = []
    plans = [
        PhantomPlan("segment", _FLAT, VOXEL["segment"], data.phantoms, data.first_seed)
        if data.flat  # the same for both roles: one section stands for all
        else PhantomPlan(role, _PHANTOM[role], VOXEL[role], data.phantoms, data.first_seed),
        PhantomPlan(role, _PHANTOM[role], VOXEL[role], data.held_out, _HELD_OUT_SEED),
    ]
    for plan in plans:
        hidden = not distributed.first()
        with click.progressbar(
            length=plan.count, label="phantoms", file=sys.stderr, hidden=hidden
        ) as bar:
            made.append(
                phantom_volumes(plan, cache, os.cpu_count() or 1, lambda *_: bar.update(1))  # noqa: B023
            )
    return made[0], made[1], {"train": describe(plans[0]), "held_out": describe(plans[1])}


def _emads(data: Emads, voxel_nm: Voxel) -> Parts:
    own = data.resolution_nm[::-1]
    ratio = [w / o for w, o in zip(voxel_nm, own)]
    if any(abs(r - round(r)) > 1e-6 or r < 1 for r in ratio):
        raise UserError(
            f"{data.emads}: voxels of {data.resolution_nm} nm do not fit into {voxel_nm[::-1]} nm (x, y, z) a "
            "whole number of times; resample the volumes, or ingest them and name them as image and labels"
        )
    factor = (round(ratio[0]), round(ratio[1]), round(ratio[2]))
    volumes: dict[str, Volume] = {}
    for block in emads_blocks(data.emads):
        image, labels = block.image, block.labels
        whole = Volume.checked(image, labels, f"{data.emads}/{block.name}", data.ignore_label)
        volumes[block.name] = replace(
            whole,
            image=shrink_image(whole.image, factor),
            labels=shrink_labels(whole.labels, factor),
            cores=None if block.cores is None else shrink_labels(block.cores, factor),
        )
    names = list(volumes)
    below = [name for name in names if name.startswith("validation")]
    apart = (below or names[::_EVERY]) if data.held_out is None else data.held_out
    unknown = set(apart) - set(names)
    if unknown:
        raise UserError(f"{data.emads} has no {', '.join(sorted(unknown))}; there is: {names}")
    learn = [volumes[name] for name in names if name not in apart]
    return learn, [volumes[n] for n in apart], {"emads": data.emads.name, "volumes": names}


def _layers(data: Layers, voxel_nm: Voxel) -> Parts:
    image, labels = ImageLayer(data.image), LabelLayer(data.labels)
    x, y, z = voxel_nm[::-1]
    learn, held_out = [], []
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
        name = f"{data.labels} box {number}"
        volume = Volume.checked(
            image.read(box, (x, y, z)), _sampled(labels, box, (x, y, z)), name, data.ignore_label
        )
        (held_out if number in data.held_out else learn).append(volume)
    return learn, held_out, {"image": data.image, "labels": data.labels, "boxes": data.boxes_nm}


def _sampled(layer: LabelLayer, box: Box, working_nm: Voxel) -> np.ndarray:
    """Labels at the middle of each working voxel of a box."""
    places = [
        np.floor((np.arange(a, b) + 0.5) * w / own).astype(int)
        for a, b, w, own in zip(box.lo, box.hi, working_nm, layer.resolution_nm)
    ]
    needed = Box(vec3([p[0] for p in places]), vec3([p[-1] + 1 for p in places]))
    if needed.intersect(layer.bounds) != needed:
        raise UserError(
            f"{layer.cloudpath} covers {layer.bounds} and {needed} is asked for (its voxels, x, y, z); "
            "choose a box that is labelled"
        )
    whole = layer.read(needed)
    z, y, x = (p - p[0] for p in reversed(places))
    return whole[np.ix_(z, y, x)]
