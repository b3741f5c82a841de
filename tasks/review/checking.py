"""Whether an edit fits the somas of a run: its version, its ids and its points."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ...axes import Nm3, Vec3
from ...errors import UserError
from ..grids.geometry import Box, vec3
from ..run import Run
from .edits import AddEdit, Edit, PartEdit


class Somas:
    """The somas of the newest version of a run, by id and by position."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.table = run.soma_table().set_index("id", drop=False)
        self._ids = set(self.table.index.tolist())
        self._versions = run.versions()
        self.version = run.version

    def row(self, soma: int) -> pd.Series:
        """Return the row of a soma in the table."""
        return self.table.loc[[soma]].iloc[0]

    @property
    def resolution_nm(self) -> Nm3:
        return self._run.somas.resolution_nm

    def voxel(self, point_nm: Nm3, where: str) -> Vec3:
        """Return the voxel at a position. Raises UserError if it lies outside the volume."""
        bounds = self._run.somas.bounds
        voxel = np.floor(np.array(point_nm) / self.resolution_nm).tolist()
        if not bounds.holds(voxel):
            low, high = (
                np.multiply(c, self.resolution_nm).tolist() for c in (bounds.lo, bounds.hi)
            )
            raise UserError(
                f"{where}: the point {list(point_nm)} nm (x, y, z) lies outside the volume, which reaches from "
                f"{low} to {high} nm; check the unit and the order of the axes"
            )
        return vec3(voxel)

    def at(self, point_nm: Nm3, where: str) -> int:
        """Return the id of the soma at a position; 0: none. Raises UserError if it lies outside the volume."""
        lo = self.voxel(point_nm, where)
        return int(self._run.somas.read(Box(lo, vec3([v + 1 for v in lo]))).item())

    def check(self, edit: Edit, where: str) -> None:
        """Raise UserError if an edit does not fit the somas."""
        if edit.version > self.version:
            raise UserError(
                f"{where}: the edit is for version {edit.version} of the somas, and {self._run.path} has version "
                f"{self.version}; import it into the run that was reviewed"
            )
        for soma in edit.somas:
            self._check_soma(soma, edit.version, where)
        for point in edit.points:
            found = self.at(point, where)
            if isinstance(edit, AddEdit) and found:
                raise UserError(
                    f"{where}: soma {found} is at the point {list(point)} nm (x, y, z) already; part it, or choose "
                    "a point outside all somas"
                )
            if isinstance(edit, PartEdit) and found != edit.id:
                raise UserError(
                    f"{where}: the point {list(point)} nm (x, y, z) does not lie in soma {edit.id}; choose points in it"
                )

    def _check_soma(self, soma: int, seen: int, where: str) -> None:
        """Raise UserError if a soma does not exist, or has changed since the version that a person has seen."""
        for version in self._versions:
            if version.number > seen and soma in version.touched:
                raise UserError(
                    f"{where}: soma {soma} has changed in version {version.number}, and the edit is for version "
                    f"{seen}; review the somas of version {self.version} there"
                )
        if soma not in self._ids:
            raise UserError(
                f"{where}: no soma {soma} in {self._run.path}; tables/somas.csv lists the ids"
            )
