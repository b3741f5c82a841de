"""Edits from files: lines of JSON, or a CSV of points with verdicts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ...analysis.morphology.classes import CLASSES
from ...axes import Nm3
from ...errors import UserError
from ..run import Run
from .checking import Somas
from .edits import Edit, parse_edit, parse_edits

CSV_COLUMNS = ["x", "y", "z", "verdict"]
_VERDICTS = ("right", "remove", "border", "add", *CLASSES)


def read_edits(run: Run, path: Path, by: str, voxels: bool = False) -> list[Edit]:
    """Read the edits of a file and compare each with the somas of a finished run.

    Edits without `by` and `at` get the name `by` and the time at which the file was changed, so that a file that is
    read again gives the same edits. Edits without `version` get the newest version of the somas.

    Args:
      path: a CSV with CSV_COLUMNS if it ends in .csv; otherwise lines of JSON.
      voxels: the positions in a CSV are in voxels of `somas/`, otherwise in nm.
    Raises:
      UserError: a line is not an edit, or does not fit the somas.
    """
    try:
        data, changed_s = path.read_bytes(), path.stat().st_mtime
    except OSError as err:
        raise UserError(f"cannot read edits from {path}: {err.strerror}; check the path") from None
    somas = Somas(run)
    defaults = {
        "by": by,
        "at": datetime.fromtimestamp(changed_s, UTC).isoformat(),
        "version": somas.version,
    }
    if path.suffix.lower() == ".csv":
        found = _from_csv(somas, data, str(path), defaults, voxels)
    else:
        found = parse_edits(data, str(path), defaults)
    edits = []
    for where, edit in found:
        somas.check(edit, where)
        edits.append(edit)
    if not edits:
        raise UserError(
            f"{path} holds no edits; give lines of JSON or a CSV of {','.join(CSV_COLUMNS)}"
        )
    return edits


def _from_csv(
    somas: Somas, data: bytes, source: str, defaults: dict[str, Any], voxels: bool
) -> Iterator[tuple[str, Edit]]:
    """Yield the edit of each row, with its place in the file; the soma at the point is the one that is meant."""
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    header = [name.strip() for name in next(rows, [])]
    if header != CSV_COLUMNS:
        raise UserError(
            f"{source} has the columns {','.join(header)}; expected {','.join(CSV_COLUMNS)}"
        )
    for row in filter(None, rows):
        where = f"{source}, line {rows.line_num}"
        point_nm, verdict = _parse_row(row, where)
        if voxels:  # the centre of the voxel
            x, y, z = ((p + 0.5) * r for p, r in zip(point_nm, somas.resolution_nm))
            point_nm = x, y, z
        values: dict[str, Any] = {"edit": verdict, "point_nm": point_nm}
        if verdict != "add":
            soma = somas.at(point_nm, where)
            if not soma:
                raise UserError(
                    f"{where}: no soma at the point {list(point_nm)} nm (x, y, z), and '{verdict}' needs one; "
                    "choose a point in a soma"
                )
            values = {"edit": verdict, "id": soma}
            if verdict in CLASSES:
                values |= {"edit": "class", "class": verdict}
        yield where, parse_edit(defaults | values, where)


def _parse_row(row: list[str], where: str) -> tuple[Nm3, str]:
    """Return the position and the verdict of a row. Raises UserError if it has none."""
    with suppress(ValueError):
        x, y, z, verdict = (cell.strip() for cell in row)
        point = float(x), float(y), float(z)
        if np.isfinite(point).all() and verdict in _VERDICTS:
            return point, verdict
    raise UserError(
        f"{where}: '{','.join(row)[:80]}' is not three numbers and a verdict; "
        f"verdicts are {', '.join(_VERDICTS)}"
    )
