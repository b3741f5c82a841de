"""The versions of a run's somas: `versions/N.json` says how `flysoma apply` made version N from version N - 1.

Version 1 is what the networks say and has no such file. The record of a version is written before its first change, and
again when it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..axes import Vec3
from ..errors import UserError
from .storage.sealed import unseal_record
from .storage.store import RunStore

FIRST_VERSION = 1
Corners = tuple[Vec3, Vec3]
_AT_ONCE = 8  # records that are read at once


class Remeasured(BaseModel):
    """What the labels of a new or changed soma do not tell.

    Attributes:
      confidence, p_glia, n_seeds: columns of the table of somas; p_glia is None if nuclei are not known.
      cut: whether the soma reaches the end of what is segmented; None: as for the somas of version 1.
      box: which holds the soma, voxels of `somas/`: first and past-last corner, x, y, z.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float
    p_glia: float | None
    n_seeds: int
    cut: bool | None
    box: Corners


class SomaVersion(BaseModel):
    """How a version differs from the one before it.

    Attributes:
      number: of the version, at least 2.
      edits: the edits that it settles, in the order of the log.
      became: for each id that is gone, the soma that has its voxels; 0: none.
      somas: the new and the changed somas.
      new: ids that the version before does not have.
      classes: what a person has said about the class of a soma.
      verified: whether a person has said that a soma is right.
      boxes: which hold all voxels whose label differs; as in `Remeasured`.
      patches: index in `boxes` of the boxes whose labels are stored; see `patch_path`.
      blocks: blocks of the segment grid that are written again.
      last_id: the largest id that any version has had.
      finished: whether all files of the run are those of this version.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    edits: list[dict[str, Any]]
    became: dict[int, int]
    somas: dict[int, Remeasured]
    new: list[int]
    classes: dict[int, str]
    verified: dict[int, bool]
    boxes: list[Corners]
    patches: list[int]
    blocks: list[int]
    last_id: int
    finished: bool = False

    @property
    def touched(self) -> set[int]:
        """The somas whose voxels differ from those of the version before."""
        return {*self.became, *self.somas}


def version_path(number: int) -> str:
    """Return the path, in a run, of the record of a version."""
    return f"versions/{number}.json"


def version_table_path(number: int) -> str:
    """Return the path, in a run, of the table of somas of a version."""
    return f"versions/{number}/somas.parquet"


def patch_path(number: int, box: int, layer: str) -> str:
    """Return the path, in a run, of the labels that a version puts into one of its boxes of a layer."""
    return f"versions/{number}/{layer}-{box}.ckl"


def put_version(store: RunStore, version: SomaVersion) -> None:
    """Store the record of a version."""
    store.put_record(version_path(version.number), version.model_dump(mode="json"))


def read_versions(store: RunStore) -> list[SomaVersion]:
    """Return the versions of a run after the first, in order. Raises UserError if one is damaged."""
    return list(_read(store))


def _read(store: RunStore) -> Iterator[SomaVersion]:
    for first in count(FIRST_VERSION + 1, _AT_ONCE):  # a web server cannot list what it has
        objects = store.get_many(map(version_path, range(first, first + _AT_ONCE)))
        for path in map(version_path, range(first, first + _AT_ONCE)):
            data = objects[path]
            if data is None:
                return
            try:
                yield SomaVersion.model_validate(unseal_record(data))
            except ValidationError:
                raise UserError(
                    f"{store.cloudpath}/{path} is damaged, so that ids could be used twice; restore it"
                ) from None
