"""Train one network in several processes, one per GPU. All functions also work in a single process."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException, spawn

from ...errors import UserError


def launch(work: Callable[..., object], arguments: tuple[Any, ...], processes: int | None) -> None:
    """Call `work(*arguments)` in several processes.

    Args:
      work: a module-level function, so that other processes can import it.
      processes: their number; by default one per GPU. A single process is this one.
    Raises:
      UserError: a process raised it.
    """
    count = processes or max(1, torch.cuda.device_count())
    if count == 1:
        work(*arguments)
        return
    with tempfile.TemporaryDirectory(prefix="flysoma-train-") as folder:
        args = (count, f"file://{folder}/rendezvous", work, arguments)
        try:
            spawn(_run_process, args, nprocs=count)  # type: ignore[no-untyped-call]
        except ProcessRaisedException as err:
            last_line = str(err).strip().splitlines()[-1]
            kind, _, message = last_line.partition("UserError: ")
            if message and kind.startswith(UserError.__module__):
                raise UserError(message) from None
            raise


def _run_process(
    rank: int, count: int, init_method: str, work: Callable[..., None], arguments: Any
) -> None:
    """Join the process group, and call `work`."""
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(rank % gpus)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    backend = "nccl" if gpus else "gloo"
    dist.init_process_group(backend, init_method=init_method, rank=rank, world_size=count)
    try:
        work(*arguments)
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the index of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Return whether this process validates, writes files and reports progress."""
    return rank() == 0


def device() -> torch.device:
    """Return the device of this process."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def wrap_module(module: nn.Module) -> nn.Module:
    """Average the gradients of a module over all processes."""
    if world_size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module)


def broadcast(value: float) -> float:
    """Return the value of the first process in all processes."""
    if world_size() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device())
    dist.broadcast(shared, 0)
    return float(shared)


def barrier() -> None:
    """Wait until all processes arrive."""
    if world_size() > 1:
        dist.barrier()
