"""The state of a training: steps of the optimizer, validation, checkpoints, and the published weights."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..networks.network import Network, to_channels_last
from ..networks.weights import save_network
from ..networks.weights_files import find_weights
from . import distributed
from .build import build_network
from .config import TrainConfig
from .dataset import Patches, Source, Volume
from .losses import soma_loss
from .validation import run_network, save_picture

Validate = Callable[[Network, Sequence[Volume], TrainConfig], dict[str, Any]]
_MAX_SKIPPED_STEPS = 20
_MIN_RATE = 0.01  # of the learning rate, at the end of the schedule


class Trainer:
    """A training in progress.

    Attributes:
      number: steps that are done.
      seconds: time spent in steps.
      skipped: steps that were skipped because their gradients were not finite.
      since_best: validations since the best one.
      mean: exponential moving average of the weights.
      best, best_state: scores and weights of the best validation.
      before: scores of the initial weights; None if they are random or not yet validated.
      picture: the picture of the last validation.
    """

    def __init__(
        self, config: TrainConfig, source: Source, output: Path, validate: Validate
    ) -> None:
        self.config, self.source, self.output, self._validate = config, source, output, validate
        self.device = distributed.device()
        annotated = any(volume.parts is not None for volume in source.train)
        network = build_network(config, source.voxel_nm, annotated)
        self.spec = network.spec
        self.module = to_channels_last(network.module.train()).to(self.device)
        self.parallel = distributed.wrap_module(self.module)
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
            config.patch_augmentation,
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
        """Fraction of the training that is done, by steps or by time."""
        fraction = self.number / self.config.steps
        if self.config.minutes:
            fraction = max(fraction, self.seconds / (60 * self.config.minutes))
        return min(fraction, 1.0)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or patience is exhausted."""
        patience = self.config.patience
        return self.done >= 1 or (patience is not None and self.since_best >= patience)

    def step(self) -> dict[str, Any]:
        """Run one step of the optimizer, and return its report."""
        start, config = time.monotonic(), self.config
        rate = self._set_learning_rate()
        first = (self.number * distributed.world_size() + distributed.rank()) * config.batch
        images, classes = self.patches.draw_batch(first, config.batch)
        images, classes = images.to(self.device), classes.to(self.device)
        logits = run_network(self.parallel, self.spec, images, config.bf16)
        loss = soma_loss(logits, classes, config.loss_weights, config.dice)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), config.clip)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
        else:
            self.skipped += 1
            if self.skipped > _MAX_SKIPPED_STEPS:
                raise FloatingPointError(f"{self.skipped} steps had gradients that are not finite")
        decay = min(config.ema, (1 + self.number) / (10 + self.number))
        with torch.no_grad():
            for key, value in self.module.state_dict().items():
                self.mean[key].lerp_(value, 1 - decay)
        self.number += 1
        self.seconds = distributed.broadcast(self.seconds + time.monotonic() - start)
        return {
            "step": self.number,
            "done": self.done,
            "loss": float(loss.detach()),
            "learning_rate": rate,
            "gradient": float(norm),
        }

    def validate(self) -> dict[str, Any]:
        """Score the weights that would be published now on the held-out volumes, and keep the best ones."""
        scores: dict[str, Any] = {}
        better = False
        state = {k: v.lerp(self.mean[k], self.config.mix) for k, v in self.start.items()}
        if distributed.is_first():
            network = self._with_state(state)
            scores = self._validate(network, self.source.held_out, self.config)
            better = scores["score"] > self.best["score"]
            path = self.output.with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            self.picture = save_picture(network, self.source.held_out, self.config, path)
        better = bool(distributed.broadcast(float(better)))
        self.since_best = 0 if better else self.since_best + 1
        if better:
            self.best = scores | {"step": self.number}
            self.best_state = state
        return scores

    def save_checkpoint(self) -> None:
        """Write the state beside the output, with the suffix .ckpt."""
        if not distributed.is_first():
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
        """Load the checkpoint if there is one.

        Raises:
          UserError: it belongs to a training with other settings.
        """
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
        """Write the best weights, their record and a picture; remove the checkpoint.

        Args:
          command: the command line, for the record.
        Returns:
          the record, which is also written as .json.
        """
        network = self._with_state(self.best_state)
        digest = save_network(self.output, network, half=True)
        record = {
            "sha256": digest,
            "role": self.config.role,
            "parameters": sum(p.numel() for p in network.module.parameters()),
            "command": command,
            "config": self.config.model_dump(mode="json"),
            "source": self.source.description,
            "device": str(self.device),
            "processes": distributed.world_size(),
            "steps": self.number,
            "steps_skipped": self.skipped,
            "seconds": round(self.seconds),
            "scores_before": self.before,
            "scores_on_held_out": self.best,
        }
        init = self.config.init
        initial = find_weights(init).with_suffix(".json") if init else None
        if initial is not None and initial.exists():
            record["went_on_from"] = json.loads(initial.read_text())
        self.output.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n")
        save_picture(network, self.source.held_out, self.config, self.output.with_suffix(".png"))
        self.output.with_suffix(".ckpt").unlink(missing_ok=True)
        return record

    def _set_learning_rate(self) -> float:
        """Set the learning rate of the next step: linear warm-up, then a cosine schedule."""
        warmup = min(1.0, (self.number + 1) / max(1, self.config.warmup))
        cosine = max(_MIN_RATE, 0.5 * (1 + math.cos(math.pi * self.done)))
        rate = self.config.lr * warmup * cosine
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _with_state(self, state: dict[str, Tensor]) -> Network:
        """Return a network with the given weights."""
        module = self.spec.build()
        module.load_state_dict(state)
        return Network(to_channels_last(module.eval()).to(self.device), self.spec)

    def _key(self) -> str:
        """Return the hash of all settings that must be the same when a training resumes."""
        excluded = {"minutes", "judge_every", "patience", "cache"}
        config = self.config.model_dump(mode="json", exclude=excluded)
        settings = [config, self.source.description, distributed.world_size()]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
