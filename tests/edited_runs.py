"""Edits of the run of five balls, and checks of what `flysoma apply` makes of them."""

import numpy as np
from click.testing import CliRunner
from five_balls import CENTRES, OFFSET, RESOLUTION, somas

from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.review import applying
from flysoma.tasks.review.edits import EditLog, parse_edit
from flysoma.tasks.run import Run
from flysoma.tasks.stages.mips import halve

SAID = {"by": "ada", "at": "2026-01-02T03:04:05Z"}


def edit(kind, **values):
    return parse_edit(SAID | {"edit": kind} | values, "a line")


def centre_nm(number):
    """Centre of a ball, x, y, z."""
    return [float((c + o + 0.5) * r) for c, o, r in zip(CENTRES[number][::-1], OFFSET, RESOLUTION)]


def off_centre_nm(number):
    x, y, z = centre_nm(number)
    return [x + 500, y - 300, z]


def ids(run):
    """The id at the centre of each ball; 0: none."""
    labels = somas(run.path)
    return [int(labels[centre]) for centre in CENTRES]


def table(run):
    return run.soma_table().set_index("id")


def apply(path, *edits):
    run = Run.open(str(path))
    EditLog(run.store).append(edits)
    said = []
    version = applying.apply_edits(run, said.append)
    return version, said


def said(command, *words):
    """What a command prints."""
    return CliRunner().invoke(command, words, catch_exceptions=False).output


def assert_mips_follow(path):
    layer = LabelLayer(f"{path}/somas")
    for mip in range(1, len(layer.mip_bounds)):
        before, bounds = layer.mip_bounds[mip - 1], layer.mip_bounds[mip]
        scales = zip(layer.mip_resolutions_nm[mip - 1], layer.mip_resolutions_nm[mip])
        factor = tuple(round(b / a) for a, b in scales)
        halved, lo = halve(layer.read(before, mip - 1), before.lo, factor)
        made = layer.read(bounds, mip)
        place = tuple(slice(a - b, None) for a, b in zip(lo, bounds.lo))[::-1]
        assert np.array_equal(made[place], halved)
        assert made.sum() == halved.sum()


def assert_files_follow(run, there):
    """Meshes, skeletons, annotations and properties are those of the somas that are there, and of no other."""
    names = [name.partition("/")[2] for name in run.store.names("somas/mesh/")]
    meshes = {name.removeprefix("mesh/").split(":")[0].split(".")[0] for name in names}
    assert {int(name) for name in meshes if name.isdecimal() and len(name) < 3} == there
    for folder in ("somas/skeletons/", "centroids/by_id/"):
        found = {path.rpartition("/")[2] for path in run.store.names(folder)} - {"info"}
        assert set(map(int, found)) == there, folder
    properties = run.store.get_json("somas/segment_properties/info")["inline"]
    assert set(map(int, properties["ids"])) == there == set(table(run).index)
    assert set(np.unique(somas(run.path)).tolist()) == there | {0}
    assert_mips_follow(run.path)


def chunk_name(box):
    return "_".join(f"{a}-{b}" for a, b in zip(box.lo, box.hi))
