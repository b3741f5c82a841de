"""A measurement, and how it is repeated and printed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...progress import Bars


@dataclass(frozen=True)
class Row:
    """A measurement: the value of each repeat, and notes to print beside it."""

    name: str
    unit: str
    values: tuple[float, ...]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    def format(self) -> str:
        """Return the row as one line."""
        spread = f"{min(self.values):.4g} to {max(self.values):.4g}" if len(self.values) > 1 else ""
        notes = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in self.notes.items()
        )
        return f"  {self.name:32} {self.median:10.4g} {self.unit:8} {spread:20} {notes}".rstrip()


@dataclass(frozen=True)
class Timing:
    """How measurements are taken: the device, the number of repeats, and the progress bar."""

    device: str
    repeats: int
    bars: Bars

    def seconds(
        self, name: str, work: Callable[[], object], warm: bool = True
    ) -> tuple[float, ...]:
        """Return the seconds that each call of `work` takes; `warm`: after a first call that is not timed."""
        seconds = []
        for number in range(self.repeats + warm):
            self.bars(name, number, self.repeats + warm)
            start = time.perf_counter()
            work()
            if self.device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        self.bars(name, self.repeats + warm, self.repeats + warm)
        return tuple(seconds[warm:])
