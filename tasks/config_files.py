"""Read config files and validate their values. An error is one line, whatever the file holds."""

from __future__ import annotations

import os
import reprlib
import stat
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import ConstructorError

from ..errors import UserError
from .storage.store import RunStore

Config = TypeVar("Config", bound=BaseModel)
_MAX_BYTES = 1 << 20
_MAX_KEYS = 1000  # of a mapping
_MAX_SHOWN = 100  # characters of a wrong value in a message


def read_config(path: str | Path) -> str:
    """Read the text of a config file, or of a config in a bucket. Raises UserError if it cannot be read."""
    folder, _, name = str(path).rpartition("/")
    try:
        if "://" in folder:
            data = RunStore(folder).get(name)
            if data is None:
                raise UserError(f"cannot read config {path}: No such object")
            return data.decode("utf-8-sig")
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"cannot read config {path}: it is not a file; give a YAML file")
        if os.path.getsize(path) > _MAX_BYTES:
            raise UserError(f"cannot read config {path}: it has more than 1 MB; give a YAML file")
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or "not text"
        raise UserError(f"cannot read config {path}: {reason}") from err


class _Loader(yaml.SafeLoader):
    """A safe loader whose mappings cannot grow without bounds by merging others."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MAX_KEYS:
            raise ConstructorError(None, None, f"more than {_MAX_KEYS} keys", node.start_mark)


def parse_yaml(text: str | bytes, source: str, expected: str) -> dict[str, Any]:
    """Parse YAML text that is a mapping. Raises UserError, one line, if it is not.

    Args:
      expected: examples of keys, for the error message.
    """
    try:
        values = _Loader(text).get_single_data()
    except RecursionError as err:
        raise UserError(f"{source}: not YAML: too many levels") from err
    except (yaml.YAMLError, ValueError, OverflowError) as err:  # dates and numbers that are none
        where = str(err).replace("\n", " ")
        raise UserError(f"{source}: not YAML: {where}") from err
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected keys such as {expected}, found none")
    return values


def validate(model: type[Config], values: dict[str, Any], source: str) -> Config:
    """Make a model from its values. Raises UserError, one line that names every wrong key."""
    try:
        return model.model_validate(values)
    except ValidationError as err:
        reasons = "; ".join(_explain(model, e) for e in err.errors())
        raise UserError(f"{source}: {reasons}") from err


def _explain(model: Any, error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "config"
    if error["type"] == "extra_forbidden":
        for part in error["loc"][:-1]:
            model = getattr(model, "model_fields", {}).get(part)
            model = model.annotation if model is not None else None
        known = f"; known here: {', '.join(model.model_fields)}" if model is not None else ""
        return f"unknown key '{where}'{known}"
    if error["type"] == "missing":
        return f"'{where}' is missing"
    got = f", got {shorten(error['input'])}" if error["loc"] else ""
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{got}"


def shorten(value: Any) -> str:
    """Return a value as text of limited length, whatever it holds."""
    text = reprlib.repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
