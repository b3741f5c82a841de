"""Training: from volumes to a weights file with its scores beside it. Everything is z, y, x.

Every step draws its own patches from the seed and its number, so a run that was stopped goes on from its
checkpoint as if it had not been. Several processes (one a GPU) share out the patches of a step and learn the same.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...axes import Zyx
from ...errors import UserError
from ..networks.shipped import find_weights
from ..networks.weights import Network, NetworkSpec, load_network, save_network
from . import distributed
from .config import TrainConfig
from .dataset import Patches, Source, Volume
from .judge import judge_voxels, run_network, save_picture
from .losses import soma_loss
from .targets import CLASSES

Progress = Callable[[dict[str, Any]], None]
Judge = Callable[[Network, Sequence[Volume], TrainConfig], dict[str, Any]]
_MOST_SKIPPED = 20
_LOG_EVERY = 25  # steps


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
        spec = replace(spec, args=shape, input_scale=1 / 64, input_shift=-2.0, normalized=True)
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


def check_network(config: TrainConfig) -> None:
    """Raise UserError when the network cannot be trained as asked, which can be told before any volume is made."""
    spec, (z, y, x) = new_network(config, (1.0, 1.0, 1.0)).spec, config.patch_zyx
    if distributed.device().type != "cpu" or not config.bf16 or 2 not in _depths(spec, (z, y, x)):
        return
    deeper = next(n for n in count(z + 1) if 2 not in _depths(spec, (n, y, x)))
    raise UserError(
        f"patches of {z} sections shrink to 2 inside the network, where bfloat16 gradients come out wrong "
        f"on processors; use {deeper} sections, or set 'bf16: false'"
    )


def train(
    config: TrainConfig,
    source: Source,
    output: Path,
    progress: Progress | None = None,
    judge: Judge = judge_voxels,
    command: str = "",
) -> dict[str, Any]:
    """Train a network and write it: `output` (.safetensors), its .json (sha256, scores), .png and .logs (TensorBoard).

    A stopped training leaves `output` with the suffix .ckpt and goes on from it.

    Args:
      source: volumes to learn from and to judge by.
      progress: told step, share done, loss and, now and then, scores.
      judge: gives the scores; of two judgements the one with the higher `score` (a list) is the better.
      command: how it was called, for the record.
    Returns:
      what the .json holds; in all processes but the first nothing.
    Raises:
      UserError: nothing to learn from; or a checkpoint of another training lies there.
    """
    check_network(config)
    if not source.train or not source.held_out:
        raise UserError("training needs at least one volume to learn from and one to judge by")
    if not any((volume.labels > 0).any() for volume in source.train):
        raise UserError("there is no soma in any of the volumes to learn from")
    run = _Run(config, source, output, judge)
    run.resume()
    with _Log(output, run.number) as log:
        while not run.finished:
            if run.number == 0 and config.init is not None and run.before is None:
                report = {"step": 0} | run.judge()  # no training may end worse than it began
                run.before = run.best
            else:
                report = run.step()
                if run.finished or run.number % config.judge_every == 0:
                    report |= run.judge()
                    run.save_checkpoint()
            log.add(report, run.picture)
            if progress and distributed.first():
                progress(report)
    return run.publish(command) if distributed.first() else {}


class _Run:
    """A training under way: all that a checkpoint holds."""

    def __init__(self, config: TrainConfig, source: Source, output: Path, judge: Judge) -> None:
        self.config, self.source, self.output, self._judge = config, source, output, judge
        self.device = distributed.device()
        self.network = new_network(config, source.voxel_nm)
        self.spec = self.network.spec
        self.module: nn.Module = _channels_last(self.network.module.train()).to(self.device)
        self.parallel = distributed.parallel(self.module)
        self.mean = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.start = {k: v.clone() for k, v in self.mean.items()}
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.patches = Patches(
            source.train,
            config.patch_zyx,
            source.voxel_nm,
            config.role,
            config.change,
            config.seed,
            config.boundary_nm,
        )
        self.number, self.seconds, self.skipped, self.since_best = 0, 0.0, 0, 0
        self.best: dict[str, Any] = {"score": [-1.0]}
        self.best_state = self.mean
        self.before: dict[str, Any] | None = None
        self.picture: Any = None

    @property
    def done(self) -> float:
        """Share of the training that is over."""
        share = self.number / self.config.steps
        if self.config.minutes:
            share = max(share, self.seconds / (60 * self.config.minutes))
        return min(share, 1.0)

    @property
    def finished(self) -> bool:
        patience = self.config.patience
        return self.done >= 1 or (patience is not None and self.since_best >= patience)

    def step(self) -> dict[str, Any]:
        """One step of the optimiser."""
        start, config = time.monotonic(), self.config
        warm = min(1.0, (self.number + 1) / max(1, config.warmup))
        rate = config.lr * warm * max(0.01, 0.5 * (1 + math.cos(math.pi * self.done)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        place = self.number * distributed.size() + distributed.rank()
        images, classes = self.patches.batch(place * config.batch, config.batch)
        images, classes = images.to(self.device), classes.to(self.device)
        logits = run_network(self.parallel, self.spec, images, config.bf16)
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
        self.seconds = distributed.agreed(self.seconds + time.monotonic() - start)
        return {
            "step": self.number,
            "done": self.done,
            "loss": float(loss.detach()),
            "learning_rate": rate,
            "gradient": float(norm),
        }

    def judge(self) -> dict[str, Any]:
        """Scores on the held-out volumes of what would be published now; the best so far is remembered."""
        scores: dict[str, Any] = {}
        better = False
        state = {k: v.lerp(self.mean[k], self.config.mix) for k, v in self.start.items()}
        if distributed.first():
            network = self._with(state)
            scores = self._judge(network, self.source.held_out, self.config)
            better = scores["score"] > self.best["score"]
            path = self.output.with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.picture = save_picture(network, self.source.held_out, self.config, path)
        better = bool(distributed.agreed(float(better)))
        self.since_best = 0 if better else self.since_best + 1
        if better:
            self.best = scores | {"step": self.number}
            self.best_state = state
        return scores

    def save_checkpoint(self) -> None:
        if not distributed.first():
            return
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
                "since_best": self.since_best,
                "best": self.best,
                "before": self.before,
            },
        }
        part = self.output.with_suffix(".part")
        torch.save(state, part)
        part.rename(self.output.with_suffix(".ckpt"))

    def resume(self) -> None:
        """Go on from a checkpoint, if one is there."""
        path = self.output.with_suffix(".ckpt")
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["key"] != self._key():
            raise UserError(
                f"{path} belongs to a training with other settings; remove it or choose another output"
            )
        self.module.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.mean, self.best_state = state["mean"], state["best_state"]
        for key, value in state["progress"].items():
            setattr(self, key, value)

    def publish(self, command: str) -> dict[str, Any]:
        """Write the best weights, what is known of them, and a picture."""
        network = self._with(self.best_state)
        digest = save_network(self.output, network, half=True)
        record = {
            "sha256": digest,
            "role": self.config.role,
            "parameters": sum(p.numel() for p in network.module.parameters()),
            "command": command,
            "config": self.config.model_dump(mode="json"),
            "source": self.source.description,
            "device": str(self.device),
            "processes": distributed.size(),
            "steps": self.number,
            "steps_skipped": self.skipped,
            "seconds": round(self.seconds),
            "scores_before": self.before,
            "scores_on_held_out": self.best,
        }
        init = self.config.init
        before = find_weights(init).with_suffix(".json") if init else None
        if before is not None and before.exists():
            record["went_on_from"] = json.loads(before.read_text())
        self.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        save_picture(network, self.source.held_out, self.config, self.output.with_suffix(".png"))
        self.output.with_suffix(".ckpt").unlink(missing_ok=True)
        return record

    def _with(self, state: dict[str, torch.Tensor]) -> Network:
        module = self.spec.build()
        module.load_state_dict(state)
        return Network(_channels_last(module.eval()).to(self.device), self.spec)

    def _key(self) -> str:
        """What must agree for a training to go on."""
        apart = {"minutes", "judge_every", "patience", "cache"}
        config = self.config.model_dump(mode="json", exclude=apart)
        known = json.dumps([config, self.source.description, distributed.size()], sort_keys=True)
        return hashlib.sha256(known.encode()).hexdigest()


class _Log:
    """Curves and pictures for TensorBoard, beside the weights; nothing where it is not installed."""

    def __init__(self, output: Path, step: int) -> None:
        self.writer: Any = None
        if distributed.first() and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            folder = output.with_suffix(".logs")
            self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def add(self, report: dict[str, Any], picture: Any) -> None:
        judged = "score" in report
        if self.writer is None or not (judged or report["step"] % _LOG_EVERY == 0):
            return
        for name, value in report.items():
            if isinstance(value, (int, float)) and name != "step":
                self.writer.add_scalar(name, value, report["step"])
        if judged:
            self.writer.add_image("held_out", picture, report["step"], dataformats="HWC")


def _depths(spec: NetworkSpec, patch: Zyx) -> set[int]:
    """Sections that the convolutions of a network see when it is given a patch."""
    depths: set[int] = set()
    module = spec.build().to("meta")
    for part in module.modules():
        if isinstance(part, nn.Conv3d):
            part.register_forward_pre_hook(lambda _, given: depths.add(given[0].shape[2]))
    module(torch.empty(1, 1, *patch, device="meta"))
    return depths


def _channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
