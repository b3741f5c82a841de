"""A worker's counters for Prometheus."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from ...errors import UserError


class Metrics:
    """Counters of tasks, served over HTTP if a port is given."""

    def __init__(self, port: int | None = None) -> None:
        self.registry = registry = CollectorRegistry()
        self._done = Counter("flysoma_tasks_done", "Tasks done", ["stage"], registry=registry)
        self._failed = Counter(
            "flysoma_tasks_failed", "Failed attempts", ["stage", "kind"], registry=registry
        )
        self._seconds = Counter(
            "flysoma_seconds", "Seconds by phase of a task", ["stage", "phase"], registry=registry
        )
        self._voxels = Counter("flysoma_voxels", "Voxels processed", ["stage"], registry=registry)
        busy = Gauge("flysoma_busy_share", "Share of time spent on work", registry=registry)
        self._start, self._work_s = time.monotonic(), 0.0
        busy.set_function(lambda: self._work_s / max(1e-9, time.monotonic() - self._start))
        if port is not None:
            _serve(port, registry)

    def done(self, stage: str, receipt: dict[str, Any]) -> None:
        """Count a finished task."""
        self._done.labels(stage).inc()
        for phase, seconds in receipt["phases"].items():
            self._seconds.labels(stage, phase).inc(seconds)
        self._work_s += receipt["phases"]["work"]
        self._voxels.labels(stage).inc(receipt["counters"].get("voxels", 0))

    def failed(self, stage: str, kind: str) -> None:
        """Count a failed attempt."""
        self._failed.labels(stage, kind).inc()


def _serve(port: int, registry: CollectorRegistry) -> None:
    """Serve the counters. Raises UserError if the port is in use."""
    try:
        start_http_server(port, registry=registry)
    except OSError as err:
        raise UserError(
            f"cannot serve metrics on port {port}: {err.strerror}; choose another with --metrics-port"
        ) from err
