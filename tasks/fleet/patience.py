"""Try again while a store cannot be reached, or while a new machine has no credentials yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ...errors import HostError
from ..faults import Fault, Whose
from . import attempts

Result = TypeVar("Result")


def patiently(
    action: Callable[[], Result], report: Callable[[str], None], run: str | None = None
) -> Result:
    """Return what an action returns; repeat it after a fault of the store or of the host, for the rule's patience.

    Args:
      action: may be repeated.
      report: called with each fault that is waited for.
      run: as for `Fault.of`.
    Raises:
      HostError: the fault is one of this machine, and waiting does not help.
    """
    began, number = time.monotonic(), 0
    while True:
        try:
            return action()
        except Exception as err:
            fault, number = Fault.of(err, run), number + 1
            if time.monotonic() - began < fault.rule.patience_s:
                report(f"waiting: {fault.text}")
            elif fault.whose is Whose.HOST and not isinstance(err, HostError):
                raise HostError(fault.text) from err
            else:
                raise
        time.sleep(attempts.pause_s(number))
