"""The engine of a run: the first worker chooses it, and all others use the same, so that every tile is made alike."""

from __future__ import annotations

import json

from ..errors import HostError, UserError
from .storage.store import RunStore

_PATH = "engine.json"


def choose_engine(store: RunStore, allow_compile: bool) -> str:
    """Return the name of the engine of a run, which this machine chooses if it is the first.

    Args:
      allow_compile: as for `available_engines`.
    Raises:
      HostError: this machine does not have the engine of the run.
    """
    from ..models.networks.engines import available_engines, choose_device  # imports torch

    try:
        device = choose_device()
    except UserError as err:  # about the driver of this machine
        raise HostError(str(err)) from None
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
    found: dict[str, str] | None = store.get_json(_PATH)
    return found
