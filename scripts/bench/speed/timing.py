"""What is measured, how often, and how it is told."""

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
    """A measurement: its value each time, and what else is to be told."""

    name: str
    unit: str
    values: tuple[float, ...]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    def format(self) -> str:
        """One line."""
        spread = f"{min(self.values):.4g} to {max(self.values):.4g}" if len(self.values) > 1 else ""
        told = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in self.notes.items()
        )
        return f"  {self.name:32} {self.median:10.4g} {self.unit:8} {spread:20} {told}".rstrip()


@dataclass(frozen=True)
class Timing:
    """How things are timed: on which device, how often."""

    device: str
    repeats: int
    bars: Bars

    def seconds(
        self, name: str, work: Callable[[], object], warm: bool = True
    ) -> tuple[float, ...]:
        """Seconds that some work takes, each time; `warm`: after once for nothing."""
        found = []
        for number in range(self.repeats + warm):
            self.bars(name, number, self.repeats + warm)
            start = time.perf_counter()
            work()
            if self.device == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
        self.bars(name, self.repeats + warm, self.repeats + warm)
        return tuple(found[warm:])
