"""A worker's counters, as Prometheus reads them."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server


class Metrics:
    """Counts tasks; on a port, where one is given."""

    def __init__(self, port: int | None = None) -> None:
        self.registry = registry = CollectorRegistry()
        self._done = Counter("flysoma_tasks_done", "Tasks done", ["stage"], registry=registry)
        self._failed = Counter(
            "flysoma_tasks_failed", "Attempts that failed", ["stage", "kind"], registry=registry
        )
        self._seconds = Counter(
            "flysoma_seconds", "Seconds of tasks by phase", ["stage", "phase"], registry=registry
        )
        self._voxels = Counter("flysoma_voxels", "Voxels worked on", ["stage"], registry=registry)
        busy = Gauge(
            "flysoma_busy_share", "Share of the time in which work was done", registry=registry
        )
        self._start, self._work = time.monotonic(), 0.0
        busy.set_function(lambda: self._work / max(1e-9, time.monotonic() - self._start))
        if port is not None:
            start_http_server(port, registry=registry)

    def done(self, stage: str, receipt: dict[str, Any]) -> None:
        self._done.labels(stage).inc()
        for phase, seconds in receipt["phases"].items():
            self._seconds.labels(stage, phase).inc(seconds)
        self._work += receipt["phases"]["work"]
        self._voxels.labels(stage).inc(receipt["counters"].get("voxels", 0))

    def failed(self, stage: str, kind: str) -> None:
        self._failed.labels(stage, kind).inc()
