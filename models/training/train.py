"""Train a network: from volumes to a weights file with its scores beside it. Arrays are z, y, x.

The patches of a step depend only on the random seed and the step's number, so a training that is interrupted resumes
from its checkpoint with the same result. Several processes (one per GPU) share the patches of a step and learn the
same weights.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...errors import UserError
from . import distributed
from .build import check_network
from .config import TrainConfig
from .dataset import Source
from .trainer import Trainer, Validate
from .validation import score_voxels

Progress = Callable[[dict[str, Any]], None]
_LOG_EVERY = 25  # steps


def train(
    config: TrainConfig,
    source: Source,
    output: Path,
    progress: Progress | None = None,
    validate: Validate = score_voxels,
    command: str = "",
) -> dict[str, Any]:
    """Train a network and write it.

    Writes `output` (.safetensors), its .json (sha256, scores), .png and .logs (TensorBoard). A training that is
    interrupted leaves `output` with the suffix .ckpt and resumes from it.

    Args:
      source: volumes for training and for validation.
      progress: called with the report of each step: step, fraction done, loss and, after a validation, scores.
      validate: returns the scores of a network; of two validations, the one with the higher `score` (a list) is better.
      command: the command line, for the record.
    Returns:
      the contents of the .json; empty in all processes but the first.
    Raises:
      UserError: there is nothing to learn from, or the checkpoint of another training exists.
    """
    check_network(config)
    if not source.train or not source.held_out:
        raise UserError("training needs at least one volume for training and one for validation")
    if not any((volume.labels > 0).any() for volume in source.train):
        raise UserError("there is no soma in any of the training volumes; check the labels")
    trainer = Trainer(config, source, output, validate)
    trainer.resume()
    with _Log(output, trainer.number) as log:
        while not trainer.finished:
            if trainer.number == 0 and config.init is not None and trainer.before is None:
                report = {"step": 0} | trainer.validate()  # the result must not be worse than init
                trainer.before = trainer.best
            else:
                report = trainer.step()
                if trainer.finished or trainer.number % config.judge_every == 0:
                    report |= trainer.validate()
                    trainer.save_checkpoint()
            log.add(report, trainer.picture)
            if progress and distributed.is_first():
                progress(report)
    return trainer.publish(command) if distributed.is_first() else {}


class _Log:
    """Curves and pictures for TensorBoard, beside the weights; disabled where TensorBoard is not installed."""

    def __init__(self, output: Path, step: int) -> None:
        self.writer: Any = None
        if distributed.is_first() and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            folder = output.with_suffix(".logs")
            self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)  # type: ignore[no-untyped-call]

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def add(self, report: dict[str, Any], picture: Any) -> None:
        """Log the report of every 25th step and of every validation."""
        validated = "score" in report
        if self.writer is None or not (validated or report["step"] % _LOG_EVERY == 0):
            return
        for name, value in report.items():
            if isinstance(value, (int, float)) and name != "step":
                self.writer.add_scalar(name, value, report["step"])
        if validated:
            self.writer.add_image("held_out", picture, report["step"], dataformats="HWC")
