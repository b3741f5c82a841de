"""The errors of a chunk or an object that is lost or has changed since a task wrote it."""

from __future__ import annotations

from ...errors import UserError


class DamagedChunk(UserError):
    """A chunk of a layer that is missing, or that cannot be decoded.

    Attributes:
      name: of the chunk, relative to the layer.
      reason: what is wrong with it, as the end of a sentence.
    """

    def __init__(self, layer: str, name: str, reason: str, advice: str) -> None:
        super().__init__(f"{layer} chunk {name} {reason}; {advice}")
        self.name, self.reason = name, reason


class DamagedObject(UserError):
    """An object of a run that is missing, or whose content has changed since a task wrote it.

    The coordinator lets the task that wrote it be done again.

    Attributes:
      run: path of the run.
      path: path of the object, relative to the run.
      reason: what is wrong with it, as the end of a sentence.
    """

    def __init__(self, run: str, path: str, reason: str) -> None:
        super().__init__(
            f"{run}/{path} {reason}; resume the run with 'flysoma run {run}/config.yaml', which makes it again"
        )
        self.run, self.path, self.reason = run, path, reason
