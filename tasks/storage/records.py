"""Records: JSON objects with known fields. A JSON value of another shape, damaged or of a stranger, counts as none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Key = TypeVar("Key")


class Record(BaseModel):
    """Base of the records; a subclass names the fields, and other fields are kept."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


def as_record(kind: type[Record], value: Any) -> dict[str, Any] | None:
    """Return a JSON value as a record of a kind; None if it is none."""
    try:
        return kind.model_validate(value).model_dump()
    except ValidationError:
        return None


def as_records(kind: type[Record], values: Mapping[Key, Any]) -> dict[Key, dict[str, Any]]:
    """Return the values that are records of a kind."""
    records = {key: as_record(kind, value) for key, value in values.items()}
    return {key: record for key, record in records.items() if record is not None}
