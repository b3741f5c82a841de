"""Several processes that train one network, one a GPU; everything here also works in a single process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ...errors import UserError


def launch(work: Callable[..., None], arguments: tuple[Any, ...], processes: int | None) -> None:
    """Call `work(*arguments)` in so many processes; None: one a GPU, or this one alone.

    Args:
      work: a function of a module, so that other processes can import it.
    """
    count = processes or max(1, torch.cuda.device_count())
    if count == 1:
        work(*arguments)
        return
    with tempfile.TemporaryDirectory(prefix="flysoma-train-") as folder:
        given = (count, f"file://{folder}/meeting", work, arguments)
        try:
            torch.multiprocessing.spawn(_enter, given, nprocs=count)  # type: ignore[no-untyped-call]
        except torch.multiprocessing.ProcessRaisedException as err:
            last = str(err).strip().splitlines()[-1]
            kind, _, text = last.partition("UserError: ")
            if text and kind.startswith(UserError.__module__):
                raise UserError(text) from None
            raise


def _enter(rank_: int, count: int, meeting: str, work: Callable[..., None], arguments: Any) -> None:
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(rank_ % gpus)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    backend = "nccl" if gpus else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank_, world_size=count)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this is the one that judges, writes and speaks."""
    return rank() == 0


def device() -> torch.device:
    """Where this process computes."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def parallel(module: nn.Module) -> nn.Module:
    """The module, with gradients averaged over all processes where there are several."""
    if size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module)


def agreed(value: float) -> float:
    """The first process's value, for all."""
    if size() == 1:
        return value
    told = torch.tensor([value], dtype=torch.float64, device=device())
    dist.broadcast(told, 0)
    return float(told)


def wait() -> None:
    """Until all processes are here."""
    if size() > 1:
        dist.barrier()
