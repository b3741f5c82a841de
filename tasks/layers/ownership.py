"""Whose a file is: what a command may replace or delete, and what belongs to somebody else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cloudfiles import CloudFiles

from ...errors import UserError

_CHUNK = r"-?\d+--?\d+_-?\d+--?\d+_-?\d+--?\d+"
_SHARD = r"[0-9a-f]+\.shard"
_FOLDERS = ("mesh", "skeletons", "segment_properties")  # keys of an info that name a flat folder


def find_foreign(cloudpath: str) -> str | None:
    """Return the name of an object below a path that is not part of the layer there; None if all are part of it.

    Where there is no layer, every object is foreign. Names are relative to the path and without the suffix of
    compression.
    """
    files = CloudFiles(cloudpath, progress=False)
    own = re.compile("|".join(_own_names(files.get("info"))))
    return next((name for name in files.list() if not own.fullmatch(name)), None)


def check_output(output: str | Path, source: str | Path | None = None) -> None:
    """Check a file to write before the work whose result goes there. An existing file other than the source is fine.

    Raises:
      UserError: it is the source or lies in it, its folder does not exist or cannot be written to, or it is a folder.
    """
    path = Path(output).resolve()
    if source is not None and _is_within(path, Path(source).resolve()):
        raise UserError(f"{output} is or lies in the input {source}; choose another output")
    if path.is_dir():
        raise UserError(f"cannot write {output}: it is a folder; name a file in it")
    place = path if path.exists() else path.parent
    if not os.access(place, os.W_OK):
        raise UserError(
            f"cannot write {output}: {place} does not exist or is not writable; choose another output"
        )


def _is_within(path: Path, source: Path) -> bool:
    return path.is_relative_to(source) or (
        path.exists() and source.exists() and path.samefile(source)
    )


def _own_names(info: bytes | None) -> Iterator[str]:
    """Yield patterns for the names of a layer's objects, by its info."""
    try:
        layer: Any = json.loads(info or b"")
        keys = [str(scale["key"]).strip("/") for scale in layer["scales"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    yield from ("info", "provenance")
    for key in keys:
        yield f"{re.escape(key)}/(?:{_CHUNK}|{_SHARD})"
    for folder in filter(None, (layer.get(name) for name in _FOLDERS)):
        yield rf"{re.escape(str(folder).strip('/'))}/[^/]+"
