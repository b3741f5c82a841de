"""Training: from volumes to a weights file with its scores beside it. Everything is z, y, x.

Every step draws its own patches from the seed and its number, so a run that was stopped goes on from its
checkpoint as if it had not been.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from .augment import Augmentation
from .dataset import Patches, Source, Volume
from .losses import soma_loss
from .targets import CLASSES, Role, soma_targets
from .weights import Network, NetworkSpec, load_network, save_network

Zyx = tuple[int, int, int]
Progress = Callable[[dict[str, Any]], None]
_MOST_SKIPPED = 20
_JUDGED = (96, 192, 192)  # voxels of a held-out volume that are looked at


@dataclass(frozen=True)
class TrainConfig:
    """One training. Lengths in voxels z, y, x.

    Args:
      steps: the learning rate falls to nothing over these; `minutes`, where given, ends it sooner.
      ema: decay of the running mean of the weights, which is what is judged and saved.
      class_weights, dice: of the loss; empty: what suits the role.
      init: weights to go on from.
      command: how it was called, for the record.
    """

    role: Role
    arch: str = "somanet"
    patch: Zyx = (64, 128, 128)
    batch: int = 2
    steps: int = 2000
    minutes: float | None = None
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-3
    clip: float = 1.0
    ema: float = 0.995
    class_weights: tuple[float, ...] = ()
    dice: float = 0.5
    judge_every: int = 250
    seed: int = 0
    bf16: bool = True
    init: str | None = None
    change: Augmentation = field(default_factory=Augmentation)
    command: str = ""

    @property
    def weights(self) -> tuple[float, ...]:
        """Class weights of the cross-entropy."""
        return self.class_weights or {"locate": (1.0, 3.0), "segment": (1.0, 1.0, 2.0)}[self.role]


def new_network(config: TrainConfig, voxel_nm: tuple[float, float, float]) -> Network:
    """A network for a role, with fresh weights or those of `config.init`.

    A SomaNet may go on from one with fewer levels: those that are new change nothing at first.
    """
    torch.manual_seed(config.seed)
    classes, locate = CLASSES[config.role], config.role == "locate"
    window = (32, 192, 192) if locate else (96, 160, 160)
    spec = NetworkSpec(config.arch, classes, voxel_nm, window, role=config.role)
    if config.arch == "somanet":
        widths = (32, 64, 128, 128) if locate else (32, 64, 128, 128, 128)
        shape = {
            "stem": (1, 4, 4) if locate else (2, 2, 2),
            "widths": widths,
            "pools": ((2, 2, 2),) * (len(widths) - 1),
        }
        spec = replace(spec, args=shape, input_scale=1 / 64, input_shift=-2.0)
    module = spec.build()
    if config.init is None:
        return Network(module, spec)
    found = load_network(config.init)
    state, fresh = found.module.state_dict(), module.state_dict()
    if found.spec.role != spec.role or any(
        key not in fresh or fresh[key].shape != value.shape for key, value in state.items()
    ):
        raise UserError(
            f"{config.init} is a {found.spec.arch} for {found.spec.role}, not what is trained"
        )
    module.load_state_dict(fresh | state)
    return Network(module, spec)


def train(
    config: TrainConfig, source: Source, output: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Train a network and write it: `output` (.safetensors), its .json (sha256, scores) and .png.

    A stopped training leaves `output` with the suffix .ckpt and goes on from it.

    Args:
      source: volumes to learn from and to judge by.
      progress: told step, share done, loss and, now and then, scores.
    Returns:
      what the .json holds.
    Raises:
      UserError: nothing to learn from; or a checkpoint of another training lies there.
    """
    if not source.train or not source.held_out:
        raise UserError("training needs at least one volume to learn from and one to judge by")
    run = _Run(config, source, output)
    run.resume()
    while not run.finished:
        report = run.step()
        if run.finished or run.number % config.judge_every == 0:
            report.update(run.judge())
            run.save_checkpoint()
        if progress:
            progress(report)
    return run.publish()


class _Run:
    """A training under way: all that a checkpoint holds."""

    def __init__(self, config: TrainConfig, source: Source, output: Path) -> None:
        self.config, self.source, self.output = config, source, output
        self.network = new_network(config, source.voxel_nm)
        self.spec = self.network.spec
        self.module: nn.Module = _channels_last(self.network.module.train())
        self.mean = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.patches = Patches(
            source.train, config.patch, source.voxel_nm, config.role, config.change, config.seed
        )
        if config.bf16 and 2 in _depths(self.spec, config.patch):
            raise UserError(
                f"patches of {config.patch[0]} sections shrink to 2 inside the network, where bfloat16 "
                "gradients come out wrong on processors; use 64 sections or more, or float32"
            )
        self.number, self.seconds, self.skipped = 0, 0.0, 0
        self.best: dict[str, Any] = {"score": -1.0}
        self.best_state = self.mean

    @property
    def done(self) -> float:
        """Share of the training that is over."""
        share = self.number / self.config.steps
        if self.config.minutes:
            share = max(share, self.seconds / (60 * self.config.minutes))
        return min(share, 1.0)

    @property
    def finished(self) -> bool:
        return self.done >= 1

    def step(self) -> dict[str, Any]:
        """One step of the optimiser."""
        start, config = time.monotonic(), self.config
        warm = min(1.0, (self.number + 1) / max(1, config.warmup))
        rate = config.lr * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * self.done)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, classes = self.patches.batch(self.number, config.batch)
        logits = self._logits(self.module, images)
        loss = soma_loss(logits, classes, config.weights, config.dice)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), config.clip)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        else:
            self.skipped += 1
            if self.skipped > _MOST_SKIPPED:
                raise FloatingPointError(f"{self.skipped} steps had gradients that are no numbers")
        keep = min(config.ema, (1 + self.number) / (10 + self.number))
        with torch.no_grad():
            for key, value in self.module.state_dict().items():
                self.mean[key].lerp_(value, 1 - keep)
        self.number += 1
        self.seconds += time.monotonic() - start
        return {"step": self.number, "done": self.done, "loss": float(loss.detach())}

    def judge(self) -> dict[str, Any]:
        """Scores of the mean weights on the held-out volumes; the best so far are remembered."""
        network = self._with(self.mean)
        scores = judge(network, self.source.held_out, self.config)
        if scores["score"] > self.best["score"]:
            self.best = scores | {"step": self.number}
            self.best_state = {k: v.clone() for k, v in self.mean.items()}
        return scores

    def save_checkpoint(self) -> None:
        state = {
            "key": self._key(),
            "model": self.module.state_dict(),
            "mean": self.mean,
            "best_state": self.best_state,
            "optimizer": self.optimizer.state_dict(),
            "progress": {
                "number": self.number,
                "seconds": self.seconds,
                "skipped": self.skipped,
                "best": self.best,
            },
        }
        part = self.output.with_suffix(".part")
        self.output.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, part)
        part.rename(self.output.with_suffix(".ckpt"))

    def resume(self) -> None:
        """Go on from a checkpoint, if one is there."""
        path = self.output.with_suffix(".ckpt")
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] != self._key():
            raise UserError(
                f"{path} belongs to a training with other settings; remove it or choose another output"
            )
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean, self.best_state = state["mean"], state["best_state"]
        for key, value in state["progress"].items():
            setattr(self, key, value)

    def publish(self) -> dict[str, Any]:
        """Write the best weights, what is known of them, and a picture."""
        network = self._with(self.best_state)
        digest = save_network(self.output, network, half=True)
        config = asdict(self.config)
        record = {
            "sha256": digest,
            "role": self.config.role,
            "parameters": sum(p.numel() for p in network.module.parameters()),
            "command": config.pop("command"),
            "config": config,
            "source": self.source.description,
            "steps": self.number,
            "steps_skipped": self.skipped,
            "seconds": round(self.seconds),
            "scores_on_held_out": self.best,
        }
        before = Path(self.config.init).with_suffix(".json") if self.config.init else None
        if before is not None and before.exists():
            record["went_on_from"] = json.loads(before.read_text())
        self.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        save_picture(network, self.source.held_out, self.output.with_suffix(".png"))
        self.output.with_suffix(".ckpt").unlink(missing_ok=True)
        return record

    def _logits(self, module: nn.Module, images: Tensor) -> Tensor:
        return _logits(module, self.spec, images, self.config.bf16)

    def _with(self, state: dict[str, Tensor]) -> Network:
        module = self.spec.build()
        module.load_state_dict(state)
        return Network(_channels_last(module.eval()), self.spec)

    def _key(self) -> str:
        """What must agree for a training to go on."""
        config = asdict(self.config) | {"command": "", "minutes": None, "judge_every": 0}
        known = json.dumps([config, self.source.description], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()


def judge(
    network: Network, volumes: tuple[Volume, ...] | Any, config: TrainConfig
) -> dict[str, Any]:
    """Loss, Dice of all soma classes together and IoU of the first, in the middle of each volume.

    `score` is the IoU of the interior (segment) or the cores (locate).
    """
    classes = len(network.spec.classes)
    table, losses = np.zeros((classes, classes), np.int64), []
    for volume in volumes:
        middle = tuple(
            slice(max(0, (n - m) // 2), (n + m) // 2) for n, m in zip(volume.image.shape, _JUDGED)
        )
        image, truth = volume.image[middle], _truth(network.spec, volume.labels)[middle]
        target = torch.from_numpy(truth)[None]
        with torch.inference_mode():
            logits = _logits(network.module, network.spec, _image(image), config.bf16)
            losses.append(float(soma_loss(logits, target, config.weights, config.dice)))
            found = logits.argmax(1)[0].numpy().astype(np.int64)
        known = truth < classes
        pairs = truth[known].astype(np.int64) * classes + found[known]
        table += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    hit = table[1:, 1:].sum()
    dice = 2 * hit / max(1, 2 * hit + table[1:, 0].sum() + table[0, 1:].sum())
    iou = table[1, 1] / max(1, table[1].sum() + table[:, 1].sum() - table[1, 1])
    false = table[0, 1:].sum() / max(1, table[0].sum())
    return {
        "score": round(float(iou), 4),
        "iou": round(float(iou), 4),
        "dice": round(float(dice), 4),
        "false_share_of_background": round(float(false), 5),
        "loss": round(float(np.mean(losses)), 4),
    }


def save_picture(network: Network, volumes: Any, path: Path) -> None:
    """The middle section of up to four volumes: image; truth; prediction (first class red, second green)."""
    from PIL import Image

    rows = []
    for volume in list(volumes)[:4]:
        middle = len(volume.image) // 2
        with torch.inference_mode():
            logits = _logits(network.module, network.spec, _image(volume.image), False)
        grey, truth = volume.image[middle], _truth(network.spec, volume.labels)[middle]
        found = logits[0, :, middle].argmax(0).numpy()
        tiles = [_coloured(grey, np.zeros_like(found)), _coloured(grey, truth)]
        rows.append(np.concatenate([*tiles, _coloured(grey, found)], axis=1))
    width = min(row.shape[1] for row in rows)
    Image.fromarray(np.concatenate([row[:, :width] for row in rows])).save(path)


def _coloured(grey: np.ndarray, classes: np.ndarray) -> np.ndarray:
    picture = np.stack([grey] * 3, axis=-1).astype(np.float32)
    for number, colour in ((1, (230, 60, 60)), (2, (60, 220, 90))):
        inside = classes == number
        picture[inside] = 0.6 * picture[inside] + 0.4 * np.array(colour)
    return picture.astype(np.uint8)


def _depths(spec: NetworkSpec, patch: Zyx) -> set[int]:
    """Sections that the convolutions of a network see when it is given a patch."""
    depths: set[int] = set()
    module = spec.build().to("meta")
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.register_forward_pre_hook(lambda _, given: depths.add(given[0].shape[2]))
    module(torch.empty(1, 1, *patch, device="meta"))
    return depths


def _truth(spec: NetworkSpec, labels: np.ndarray) -> np.ndarray:
    return soma_targets(labels, spec.voxel_nm, cast(Role, spec.role))


def _image(volume: np.ndarray) -> Tensor:
    return torch.from_numpy(volume)[None, None].float()


def _logits(module: nn.Module, spec: NetworkSpec, images: Tensor, bf16: bool) -> Tensor:
    images = images * spec.input_scale + spec.input_shift
    images = images.to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        return module(images)


def _channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
