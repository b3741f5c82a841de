"""Make the next version of a run's somas: `flysoma apply`.

The version is planned first. Its record and its patches are stored before anything changes, and each step depends on
them and on the table of the version before, never on what an earlier attempt has written. So an attempt that was
killed is repeated from its record, and ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from ...analysis.morphology.nuclei import classify
from ...analysis.tables.somas import parquet_bytes, soma_table
from ...errors import UserError
from ..coordination.lock import coordinator_lock
from ..grids.geometry import Box
from ..run import Run, stored_kind
from ..soma_versions import (
    FIRST_VERSION,
    SomaVersion,
    patch_path,
    put_version,
    version_table_path,
)
from ..stages.catalog import STAGES, is_finished
from ..stages.link import forget_links
from ..stages.measure import MeasureStage, add_surroundings, measure_shape
from ..stages.mesh import MeshMergeStage, MeshStage
from ..stages.mips import DownsampleStage, ThumbnailStage
from ..stages.relabel import RelabelStage
from ..stages.report import put_report, put_tables, replace_annotations
from ..stages.skeleton import trace_soma
from ..storage.damage import DamagedObject
from .edits import EditLog, parse_edit
from .patches import Patch, change_labels, change_nuclei
from .planning import plan_version

Report = Callable[[str], None]


def apply_edits(run: Run, report: Report) -> SomaVersion | None:
    """Apply the edits of a run's log that no version has settled, or finish the version that was begun.

    Args:
      report: called with messages for the user.
    Returns:
      The new version; None if there is nothing to apply.
    Raises:
      UserError: the run is not finished, or no edit can be applied.
    """
    last = STAGES[-1].name
    if not is_finished(run, last):
        raise UserError(
            f"{run.path} is not finished (stage {last} is not): finish it with 'flysoma run "
            f"{run.path}/config.yaml', then apply the edits"
        )
    with coordinator_lock(run.store, report) as check:
        try:
            version = next((v for v in run.versions() if not v.finished), None)
            version = version or _begin(run, report)
            if version is None:
                return None
            for step in (_write_labels, _write_mips, _write_meshes, _write_tables):
                check()
                step(run, version)
        except DamagedObject as err:
            raise UserError(
                f"{run.path}/{err.path} {err.reason}, and the next version of the somas is made from it; restore it"
            ) from err
        linked = forget_links(run)
        if linked is not None:
            report(
                f"the links in {run.path}/tables are those of version {version.number - 1}; "
                f"make them again with 'flysoma link {run.path} --segmentation {linked}'"
            )
        put_version(run.store, version.model_copy(update={"finished": True}))
    return version


def _begin(run: Run, report: Report) -> SomaVersion | None:
    """Plan the next version and store its record; None if the log holds no other edits."""
    settled = {
        parse_edit(values, f"{run.path}, version {version.number}")
        for version in run.versions()
        for values in version.edits
    }
    edits = [edit for edit in EditLog(run.store).read() if edit not in settled]
    if not edits:
        return None
    planned = plan_version(run, edits, report)
    if planned is None:
        raise UserError(
            f"none of the {len(edits)} new edits of {run.path} can be applied, for the reasons above; "
            f"import verdicts that fit with 'flysoma review {run.path} --import FILE'"
        )
    version, patches = planned
    if version.number - 1 == FIRST_VERSION:  # each later version has stored its own table
        table = parquet_bytes(soma_table(run.soma_table()))
        run.store.put(version_table_path(FIRST_VERSION), table)
    leftover = run.store.names(f"versions/{version.number}/")  # of an attempt without a record
    run.store.delete(leftover)
    for number, patch in zip(version.patches, patches):
        for layer, data in patch.packed.items():
            run.store.put_sealed(patch_path(version.number, number, layer), data)
    put_version(run.store, version)
    return version


def _boxes(version: SomaVersion) -> list[Box]:
    return [Box(lo, hi) for lo, hi in version.boxes]


def _read_patches(run: Run, version: SomaVersion) -> Iterator[Patch]:
    for number, box in zip(version.patches, _boxes(version)):
        paths = {layer: patch_path(version.number, number, layer) for layer in run.layer_names}
        yield Patch(box, {layer: run.store.get_sealed(path) for layer, path in paths.items()})


def _write_labels(run: Run, version: SomaVersion) -> None:
    """Write the chunks of mip 0 that hold the boxes of a version, block by block."""
    patches, grid = list(_read_patches(run, version)), run.segment_grid
    again: dict[str, set[int]] = {stored_kind(layer, 0): set() for layer in run.layer_names}
    stored: dict[str, set[int]] = {kind: set() for kind in again}
    for box in _boxes(version):
        for index in grid.reaching(box):
            region = run.somas.chunks.covering(box.intersect(grid[index].core))
            labels = run.somas.read(region)
            somas = change_labels(labels, region, version.became, patches)
            changed = {"somas": somas}
            if run.has_nuclei:
                nuclei = run.nuclei.read(region)
                changed["nuclei"] = change_nuclei(nuclei, somas, region, patches)
            for layer, new in changed.items():
                kind = stored_kind(layer, 0)
                again[kind].update(run.layer(layer).chunks.reaching(region))
                stored[kind].update(run.layer(layer).write(region, new))
    RelabelStage(run).replace_stored(again, stored)
    for layer in run.layer_names:
        run.layer(layer).complete(0, run.stored_numbers("relabel", stored_kind(layer, 0)))


def _write_mips(run: Run, version: SomaVersion) -> None:
    for stage in (DownsampleStage(run), ThumbnailStage(run)):
        stage.redo(_boxes(version))


def _write_meshes(run: Run, version: SomaVersion) -> None:
    MeshStage(run).redo(_boxes(version), version.touched)
    MeshMergeStage(run).redo(sorted(version.became), sorted(version.somas))
    run.store.delete(f"somas/skeletons/{soma}" for soma in sorted(version.became))


def _write_tables(run: Run, version: SomaVersion) -> None:
    """Measure the somas that changed, and write what shows all somas."""
    path = version_table_path(version.number - 1)
    before = run.read_table(path)
    if before is None:
        raise DamagedObject(run.path, path, "is missing")
    kept = before[~before["id"].isin(sorted(version.touched))]
    rows = [_measure(run, version, soma) for soma in sorted(version.somas)]
    frame = pd.concat([kept, *rows], ignore_index=True).sort_values("id", ignore_index=True)
    for column, said in (("class", version.classes), ("verified", version.verified)):
        frame[column] = [said.get(i, value) for i, value in zip(frame["id"], frame[column])]
    table = soma_table(add_surroundings(run, soma_table(frame)))
    run.store.put(version_table_path(version.number), parquet_bytes(table))
    replace_annotations(run, before, table)
    put_tables(run, table)
    put_report(run, table)


def _measure(run: Run, version: SomaVersion, soma: int) -> pd.DataFrame:
    """Measure a soma and write its skeleton; return its row in the table of somas."""
    known = version.somas[soma]
    box = Box(*known.box)
    frame = MeasureStage(run).measure_soma(soma, box, known.cut)
    frame = frame.assign(**measure_shape(run, frame.iloc[0]))
    skeleton, columns = trace_soma(run, frame.iloc[0])
    run.somas.write_skeletons([skeleton])
    labels = run.read_somas(box) == np.uint64(soma)
    held = sum(
        labels[run.segment_grid[index].core.intersect(box).slices_zyx(box.lo)].any()
        for index in run.segment_grid.reaching(box)
    )
    frame = frame.assign(
        **columns,
        confidence=known.confidence,
        n_seeds=known.n_seeds,
        crosses_seam=held > 1,
        suspicious=False,
        verified=False,
    )
    if known.p_glia is not None:
        p_glia, least_um3 = np.array([known.p_glia]), run.config.soma.min_nucleus_um3
        kind = classify(frame["nucleus_volume_um3"].to_numpy() >= least_um3, p_glia)
        frame = frame.assign(p_glia=p_glia, **{"class": kind})
    return soma_table(frame)
