"""The log of a review: what people have said about the somas of a run, a JSON object per line."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from ... import __version__
from ...analysis.morphology.classes import SomaClass
from ...axes import Nm3
from ...errors import UserError
from ..config_files import shorten, validate
from ..soma_versions import FIRST_VERSION
from ..storage.store import RunStore

LOG = "review/edits.jsonl"

SomaId = Annotated[int, Field(strict=True, ge=1, lt=2**64)]
Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]  # x, y, z in nm
logger = logging.getLogger(__name__)


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a value occurs twice")
    return values


class Edit(BaseModel):
    """One verdict.

    Attributes:
      edit: kind of the verdict.
      by: who said it.
      at: when.
      version: of the somas that the person saw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    edit: str
    by: str = Field(min_length=1)
    at: datetime
    version: int = Field(FIRST_VERSION, strict=True, ge=FIRST_VERSION)

    @property
    def somas(self) -> tuple[int, ...]:
        """The somas that the verdict names."""
        return ()

    @property
    def points(self) -> tuple[Nm3, ...]:
        """The positions that the verdict names, in nm, x, y, z."""
        return ()

    @property
    def verdict(self) -> str:
        """What is said about each of `somas`."""
        return self.edit

    def to_line(self) -> bytes:
        """Return the edit as a line of the log."""
        return self.model_dump_json(by_alias=True).encode() + b"\n"


class SomaEdit(Edit):
    """A soma is right, is none, or has a wrong border."""

    edit: Literal["right", "remove", "border"]
    id: SomaId

    @property
    def somas(self) -> tuple[int, ...]:
        return (self.id,)


class ClassEdit(Edit):
    """A soma is of another class than in the table."""

    edit: Literal["class"]
    id: SomaId
    kind: SomaClass = Field(alias="class")

    @property
    def somas(self) -> tuple[int, ...]:
        return (self.id,)

    @property
    def verdict(self) -> str:
        return f"class {self.kind}"


class AddEdit(Edit):
    """A soma is missing at a point."""

    edit: Literal["add"]
    point_nm: Point

    @property
    def points(self) -> tuple[Nm3, ...]:
        return (self.point_nm,)


class JoinEdit(Edit):
    """Several objects are one soma."""

    edit: Literal["join"]
    ids: Annotated[tuple[SomaId, ...], Field(min_length=2), AfterValidator(_distinct)]

    @property
    def somas(self) -> tuple[int, ...]:
        return self.ids

    @property
    def verdict(self) -> str:
        return "join " + ", ".join(map(str, sorted(self.ids)))


class PartEdit(Edit):
    """An object is several somas, with a point in each."""

    edit: Literal["part"]
    id: SomaId
    points_nm: Annotated[tuple[Point, ...], Field(min_length=2), AfterValidator(_distinct)]

    @property
    def somas(self) -> tuple[int, ...]:
        return (self.id,)

    @property
    def points(self) -> tuple[Nm3, ...]:
        return self.points_nm


_MODELS: dict[str, type[Edit]] = {
    **dict.fromkeys(("right", "remove", "border"), SomaEdit),
    "class": ClassEdit,
    "add": AddEdit,
    "join": JoinEdit,
    "part": PartEdit,
}


def parse_edit(values: Any, source: str) -> Edit:
    """Make an edit from its JSON object. Raises UserError, one line that names `source`, if it is none."""
    kind = values.get("edit") if isinstance(values, dict) else None
    if not isinstance(kind, str) or kind not in _MODELS:
        raise UserError(
            f"{source}: {shorten(values)} is no edit of flysoma {__version__}; "
            f"'edit' is one of {', '.join(_MODELS)}, or the line comes from a newer flysoma"
        )
    return validate(_MODELS[kind], values, source)


def parse_edits(
    data: bytes, source: str, defaults: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Edit]]:
    """Yield the edit of each line of JSON, with its place. A last line that is cut short is logged and left out.

    Args:
      source: name of the file.
      defaults: values of the keys that a line does not have.
    Raises:
      UserError: another line is not an edit.
    """
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):  # no line break follows
                text = shorten(line.decode(errors="replace"))
                logger.warning("%s is cut short and left out: %s", where, text)
                continue
            raise UserError(f"{where} is not JSON; correct the line or take it out") from None
        if isinstance(values, dict):
            values = {**(defaults or {}), **values}
        yield where, parse_edit(values, where)


class EditLog:
    """The log of one run. Any number of processes may append to it."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._name = f"{store.cloudpath}/{LOG}"

    def read(self) -> list[Edit]:
        """Return all edits, the oldest first. Raises UserError if a line is not an edit."""
        return self._parse(self._store.get(LOG) or b"")

    def append(self, edits: Iterable[Edit]) -> int:
        """Append the edits that are not in the log yet, all or none of them. Return their number."""
        edits = list(dict.fromkeys(edits))
        while True:  # until no other process has written in between
            old = self._store.read_version(LOG)
            known = self._parse(old.data if old else b"")
            listed = set(known)
            new = [edit for edit in edits if edit not in listed]
            data = b"".join(edit.to_line() for edit in [*known, *new])
            if not new or self._store.put_version(LOG, data, old.tag if old else None):
                return len(new)

    def _parse(self, data: bytes) -> list[Edit]:
        return [edit for _, edit in parse_edits(data, self._name)]


def conflicts(edits: Iterable[Edit]) -> list[tuple[int, dict[str, str]]]:
    """Return the somas on which people disagree, each with the last verdict of every person.

    A class is compared with classes only, every other verdict with all others.
    """
    last: dict[tuple[int, bool], dict[str, str]] = defaultdict(dict)
    for edit in edits:
        for soma in edit.somas:
            last[soma, isinstance(edit, ClassEdit)][edit.by] = edit.verdict
    return [(soma, said) for (soma, _), said in sorted(last.items()) if len(set(said.values())) > 1]
