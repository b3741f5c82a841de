"""The engine of a run: the first worker chooses it, and all others use the same, so that every tile is made alike."""

from __future__ import annotations

import json

from ..errors import HostError
from .storage.records import Record, as_record
from .storage.store import RunStore

_PATH = "engine.json"


class _Choice(Record):
    device: str
    engine: str


def choose_engine(store: RunStore, allow_compile: bool) -> str:
    """Return the name of the engine of a run, which this machine chooses if it is the first.

    Args:
      allow_compile: as for `available_engines`.
    Raises:
      HostError: this machine does not have the engine of the run, or the driver of its GPU is too old.
    """
    from ..models.networks.engines import available_engines, choose_device  # imports torch

    device = choose_device()
    own = available_engines(device, allow_compile)
    choice = {"device": device, "engine": own[0]}
    if store.put_version(_PATH, json.dumps(choice).encode(), None) is None:
        choice = run_engine(store) or choice
    if choice["device"] != device or choice["engine"] not in own:
        raise HostError(
            f"{store.cloudpath} is computed with {choice['engine']} on {choice['device']}, and this machine has "
            f"{' and '.join(own)} on {device}; use machines of one kind for a run"
        )
    return choice["engine"]


def run_engine(store: RunStore) -> dict[str, str] | None:
    """Return the device and the engine of a run; None before one is chosen."""
    return as_record(_Choice, store.get_json(_PATH))
