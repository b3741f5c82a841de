"""Messages that are gone from a queue though their tasks have no receipt."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ...errors import UserError
from ..fleet.messages import Queue
from .stage_progress import StageProgress

_MAX_LOST = 5  # times that messages are replaced while nothing happens


class LostMessages:
    """Replaces messages that are gone from the queue though their tasks have no receipt.

    Workers put a message aside if they do not see its run. So messages that are lost again and again, while no task
    of the stage is done or fails, end the stage.
    """

    def __init__(self, stage: StageProgress, queue: Queue) -> None:
        self._stage, self._queue = stage, queue
        self._empty_since: float | None = None
        self._seen: tuple[int, int] | None = None

    def replace(self, empty: bool, failed: Mapping[int, dict[str, Any]]) -> bool:
        """Put the missing tasks into a queue that has been empty for long enough; return whether it was.

        Raises:
          UserError: this was tried several times, and nothing happened.
        """
        if not empty:
            self._empty_since = None
            return False
        self._empty_since = self._empty_since or time.monotonic()
        if time.monotonic() - self._empty_since <= self._queue.settles_s:
            return False
        self._empty_since = None
        stage, name = self._stage, self._stage.stage.name
        seen = len(stage.done), sum(sum(f["counts"].values()) for f in failed.values())
        stage.state["lost"] = stage.state.get("lost", 0) + 1 if seen == self._seen else 1
        self._seen = seen
        stage.save()
        if stage.state["lost"] > _MAX_LOST:
            raise UserError(
                f"the workers of {self._queue.url} do not see {stage.run.path}: {_MAX_LOST} times its messages left "
                "the queue and no task was done; check the disk, --runs and the log of the workers"
            )
        permanent = {index for index, failure in failed.items() if failure["last"]}
        self._queue.put((stage.run.path, name, i) for i in sorted(stage.missing - permanent))
        return True
