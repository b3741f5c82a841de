"""The next version of a run's somas, from the edits that its log holds: what changes, before anything is changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ...axes import Nm3
from ...errors import UserError
from ...models.inference.bodies import find_bodies, part_body
from ...models.inference.nuclei import nuclei_of
from ..grids.geometry import Box, flip, to_voxels, vec3
from ..run import Run
from ..soma_versions import Remeasured, SomaVersion
from ..stages.locate import SEEDS
from ..stages.measure import soma_box
from .checking import Somas
from .edits import AddEdit, ClassEdit, Edit, JoinEdit, PartEdit, SomaEdit, conflicts
from .fields import read_fields, remeasure
from .patches import Patch, change_labels
from .settling import in_force, joined

Report = Callable[[str], None]
_NEAR_NM = 600.0  # from a point to the body that it marks


def plan_version(
    run: Run, edits: Sequence[Edit], report: Report
) -> tuple[SomaVersion, list[Patch]] | None:
    """Return the version that settles edits, and its patches; None if no edit can be applied.

    Args:
      edits: those of the log that no version has settled.
      report: called with one line for each edit that cannot be applied, and each soma on which people disagree.
    """
    disputed = dict(conflicts(edits))
    for soma, verdicts in disputed.items():
        said = "; ".join(f"{person}: {verdict}" for person, verdict in sorted(verdicts.items()))
        report(f"conflict on soma {soma}, not applied: {said}")
    agreed = [edit for edit in edits if not disputed.keys() & set(edit.somas)]
    plan, standing = _Plan(run), in_force(agreed)
    refused = plan.take(standing, report)
    if len(refused) == len(standing):
        return None
    settled = [
        edit.model_dump(mode="json", by_alias=True) for edit in agreed if edit not in refused
    ]
    return plan.version(settled), plan.patches


def _name(edit: Edit) -> str:
    """Return how a message names an edit."""
    what = "add" if isinstance(edit, AddEdit) else f"{edit.verdict} of soma {edit.somas[0]}"
    return f"{what} by {edit.by}"


class _Plan:
    """Collects the changes of a version."""

    def __init__(self, run: Run) -> None:
        self._run, self._somas = run, Somas(run)
        self._resolution_nm = run.config.segment.resolution_nm
        versions = run.versions()
        ids = self._somas.table.index
        self._first_new = self._next = 1 + (
            versions[-1].last_id if versions else int(ids.max()) if len(ids) else 0
        )
        self._became: dict[int, int] = {}
        self._boxes: list[Box] = []
        self._measured: dict[int, Remeasured] = {}
        self._classes: dict[int, str] = {}
        self._verified: dict[int, bool] = {}
        self.patches: list[Patch] = []

    def take(self, edits: Sequence[Edit], report: Report) -> set[Edit]:
        """Plan the changes of edits; return those that cannot be applied, and report why."""
        refused: set[Edit] = set()

        @contextmanager
        def refusing(edit: Edit) -> Iterator[None]:
            try:
                yield
            except UserError as err:
                report(str(err))
                refused.add(edit)

        for edit in edits:
            with refusing(edit):
                self._somas.check(edit, _name(edit))
        kept = [edit for edit in edits if edit not in refused]
        self._remove([e.id for e in kept if isinstance(e, SomaEdit) and e.edit == "remove"])
        self._join([edit for edit in kept if isinstance(edit, JoinEdit)])
        for edit in kept:
            if isinstance(edit, PartEdit):
                with refusing(edit):
                    self._part(edit)
        added = [edit for edit in kept if isinstance(edit, AddEdit)]
        for edit in added:
            with refusing(edit):
                self._add(edit, added)
        for edit in kept:
            self._note(edit)
        return refused

    def version(self, edits: list[dict[str, object]]) -> SomaVersion:
        """Return the record of the version."""
        boxes = [*(patch.box for patch in self.patches), *self._boxes]
        for box in boxes:
            for layer in self._run.layer_names:
                self._run.read_labels(layer, box)  # raises DamagedObject before anything is changed
        return SomaVersion(
            number=self._somas.version + 1,
            edits=edits,
            became=self._became,
            somas=self._measured,
            new=list(range(self._first_new, self._next)),
            classes=self._classes,
            verified=self._verified,
            boxes=[(box.lo, box.hi) for box in boxes],
            patches=list(range(len(self.patches))),
            blocks=self._run.segment_grid.reaching_any(boxes),
            last_id=self._next - 1,
        )

    def _remove(self, somas: Sequence[int]) -> None:
        self._became |= dict.fromkeys(somas, 0)
        self._boxes += map(self._box, somas)

    def _join(self, edits: Sequence[JoinEdit]) -> None:
        became = joined(edits)
        self._became |= became
        self._boxes += map(self._box, became)
        for kept in sorted(set(became.values())):
            somas = [kept, *(soma for soma, into in became.items() if into == kept)]
            box = _hull(self._box(soma) for soma in somas)
            labels = np.isin(self._run.read_somas(box), np.array(somas, np.uint64))
            seeds = int(self._somas.table.loc[somas, "n_seeds"].sum())
            fields = read_fields(self._run, box)
            (self._measured[kept],) = remeasure(labels.astype(np.uint32), box, fields, [seeds])

    def _part(self, edit: PartEdit) -> None:
        box = self._box(edit.id)
        body = self._run.read_somas(box) == np.uint64(edit.id)
        fields = read_fields(self._run, box)
        threshold = self._run.config.segment.interior_threshold
        points = self._in_voxels(edit.points, box)
        parts = part_body(fields.somas, body, points, flip(self._resolution_nm), threshold)
        voxels = np.bincount(parts.ravel(), minlength=len(points) + 1)[1:]
        apart = len(np.unique(np.rint(points), axis=0)) == len(points)
        if not apart or not voxels.all():
            raise UserError(
                f"{_name(edit)}: the points lie so close together that the soma cannot be parted; "
                "set each in the middle of its soma"
            )
        largest = int(voxels.argmax())
        ids = [edit.id if n == largest else self._new_id() for n in range(len(points))]
        labels = {"somas": np.array([0, *ids], np.uint64)[parts]}
        if self._run.has_nuclei:
            nuclei = self._run.read_labels("nuclei", box) > 0
            labels["nuclei"] = labels["somas"] * nuclei
        self.patches.append(Patch.around(labels, box))
        measured = remeasure(parts, box, fields, self._count_seeds(parts, box, len(ids)))
        self._measured |= dict(zip(ids, measured))

    def _add(self, edit: AddEdit, added: Sequence[AddEdit]) -> None:
        run, config = self._run, self._run.config
        place = self._somas.voxel(edit.point_nm, _name(edit))
        # from a point at its end, the largest soma that a block can hold reaches twice the halo
        around = to_voxels(2 * config.segment.halo_nm, self._resolution_nm)
        box = (
            Box(place, vec3([p + 1 for p in place])).grow(around).intersect(run.segment_grid.bounds)
        )
        free = change_labels(run.read_somas(box), box, self._became, self.patches) == 0
        if not free[flip(p - a for p, a in zip(place, box.lo))]:
            return  # the point lies in a soma that another edit adds
        others = [p for p in (e.point_nm for e in added) if p != edit.point_nm]
        points = self._in_voxels([edit.point_nm, *others], box)
        inside = (points >= -0.5) & (points < np.array(free.shape) - 0.5)
        fields = read_fields(run, box, everywhere=True)
        found = find_bodies(
            fields.somas,
            free,
            points[inside.all(axis=1)],
            flip(self._resolution_nm),
            config.segment.interior_threshold,
            config.soma.min_volume_um3,
        )
        body = (found == 1).astype(np.uint32)
        self._check_body(edit, body, points[0])
        soma = self._new_id()
        labels = {"somas": body * np.uint64(soma)}
        if fields.nuclei is not None:
            labels["nuclei"] = nuclei_of(labels["somas"], fields.nuclei[0])
        patch = Patch.around(labels, box)
        cut = _is_cut(patch.box, box, run.segment_grid.bounds)
        self.patches.append(patch)
        (self._measured[soma],) = remeasure(body, patch.box, fields, [1], cut)

    def _check_body(self, edit: AddEdit, body: np.ndarray, point: np.ndarray) -> None:
        """Raise UserError if a body is not at the point, or is too small or too large for a soma."""
        limits = self._run.config.soma
        away_nm = (np.argwhere(body) - point) * flip(self._resolution_nm)
        if not len(away_nm) or np.linalg.norm(away_nm, axis=1).min() > _NEAR_NM:
            raise UserError(
                f"{_name(edit)}: the networks see no body at the point {list(edit.point_nm)} nm (x, y, z); choose a "
                "point in the middle of the soma"
            )
        um3 = int(body.sum()) * math.prod(self._resolution_nm) * 1e-9
        most_um3 = math.pi / 6 * (limits.max_diameter_nm * 1e-3) ** 3
        if not limits.min_volume_um3 <= um3 <= most_um3:
            raise UserError(
                f"{_name(edit)}: the networks see a body of {um3:.2f} um3 at the point {list(edit.point_nm)} nm "
                f"(x, y, z), and a soma has {limits.min_volume_um3:g} to {most_um3:.0f}; change the limits under "
                "'soma' in a new run, or choose another point"
            )

    def _note(self, edit: Edit) -> None:
        """Note what an edit says about the columns of a soma."""
        if not isinstance(edit, (SomaEdit, ClassEdit)):
            return
        soma = self._became.get(edit.id, edit.id)
        if soma and isinstance(edit, ClassEdit):
            self._classes[soma] = edit.kind
        if soma and soma not in self._measured:
            self._verified[soma] = edit.edit != "border"

    def _box(self, soma: int) -> Box:
        return soma_box(self._run, self._somas.row(soma), (0, 0, 0))

    def _new_id(self) -> int:
        self._next += 1
        return self._next - 1

    def _in_voxels(self, points_nm: Sequence[Nm3] | np.ndarray, box: Box) -> np.ndarray:
        """Return positions in the voxels of a box, z, y, x."""
        points = np.array(points_nm) / self._resolution_nm - 0.5 - np.array(box.lo)
        return points[:, ::-1]

    def _count_seeds(self, labels: np.ndarray, box: Box, count: int) -> list[int]:
        """Return the number of seeds in each of the labels 1..count of a box."""
        points = np.rint(self._in_voxels(self._run.store.get_arrays(SEEDS)["xyz_nm"], box))
        inside = ((points >= 0) & (points < labels.shape)).all(axis=1)
        found = labels[tuple(points[inside].astype(int).T)]
        counts: list[int] = np.bincount(found, minlength=count + 1)[1:].tolist()
        return counts


def _is_cut(body: Box, box: Box, bounds: Box) -> bool:
    """Return whether a body ends where a box does, inside of the volume."""
    low = any(a == b > c for a, b, c in zip(body.lo, box.lo, bounds.lo))
    return low or any(a == b < c for a, b, c in zip(body.hi, box.hi, bounds.hi))


def _hull(boxes: Iterable[Box]) -> Box:
    """Return the smallest box around boxes."""
    some = list(boxes)
    lo = vec3([min(axis) for axis in zip(*(box.lo for box in some))])
    return Box(lo, vec3([max(axis) for axis in zip(*(box.hi for box in some))]))
