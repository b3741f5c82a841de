"""Voxelized meshes agree with formulas; a mesh file becomes the mask of a run."""

import numpy as np
import pytest
import zmesh
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from flysoma.analysis.morphology.spatial import depths_below_surface
from flysoma.analysis.morphology.voxelize import voxelize
from flysoma.scripts.volumes.ingest import command
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.labels import LabelLayer

VOXEL_NM = (60.0, 80.0, 100.0)


def octahedron(radius_nm, centre_nm):
    """Return a mesh of |x| + |y| + |z| <= radius around a centre, with faces of both orientations."""
    ends = np.concatenate([np.eye(3), -np.eye(3)]) * radius_nm + centre_nm
    faces = [[x, y, z][:: 1 if x else -1] for x in (0, 3) for y in (1, 4) for z in (2, 5)]
    return ends, np.array(faces)


def within(first, shape):
    """Return the voxel centres in nm; array axes z, y, x, components x, y, z."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)[..., ::-1]
    return (grid + first + 0.5) * VOXEL_NM


@settings(deadline=None, max_examples=50)
@given(st.floats(100, 3000), st.tuples(*[st.floats(-5000, 5000)] * 3))
def test_an_octahedron_is_filled_where_its_formula_says(radius, centre):
    inside, first = voxelize(*octahedron(radius, np.array(centre)), VOXEL_NM)
    excess = np.abs(within(first, inside.shape) - centre).sum(axis=-1) - radius
    clear = np.abs(excess) > 1e-3
    assert np.array_equal(inside[clear], excess[clear] < 0)


def test_corners_and_edges_on_the_lines_count_once():
    for centre in ((0, 0, 0), (30, 40, 50), (30, 0, 50)):
        inside, _ = voxelize(*octahedron(1200.0, np.array(centre, float)), VOXEL_NM)
        assert inside.sum() * np.prod(VOXEL_NM) == pytest.approx(4 / 3 * 1200**3, rel=0.05)


def ball(radius_nm, centre_nm):
    """Return a ball meshed by marching cubes."""
    n = int(radius_nm / 100) + 3
    grid = np.indices([2 * n] * 3) - n + 0.5
    mesher = zmesh.Mesher((100, 100, 100))
    mesher.mesh(((grid**2).sum(axis=0) * 1e4 <= radius_nm**2).astype(np.uint8))
    mesh = mesher.get(1)
    return mesh.vertices - mesh.vertices.mean(axis=0) + centre_nm, mesh.faces


def test_depth_below_a_meshed_ball():
    centre = np.array([10_000.0, -4_000, 7_000])
    inside, first = voxelize(*ball(5000.0, centre), (200.0, 200.0, 250.0))
    inside, first = np.pad(inside, 1), np.array(first) - 1
    voxel = (200.0, 200.0, 250.0)
    points = centre + [[0, 0, 0], [3000, 0, 0], [0, -2000, 2000], [0, 0, 5600]]
    depths = depths_below_surface(points, inside, voxel, tuple(first * np.array(voxel)))
    assert depths == pytest.approx([5000, 2000, 5000 - 8**0.5 * 1000, 0], abs=200)


def write(path, vertices, faces):
    lines = [f"v {x:.3f} {y:.3f} {z:.3f}" for x, y, z in vertices]
    path.write_text("\n".join(lines + [f"f {a} {b} {c}" for a, b, c in np.asarray(faces) + 1]))
    return str(path)


def ingest(*words):
    return CliRunner().invoke(command, list(words))


def test_a_mesh_in_a_file_becomes_a_mask(tmp_path):
    vertices, faces = octahedron(2000.0, np.array([9000.0, 0, 3000]))
    file, resolution = (
        write(tmp_path / "brain.obj", vertices, faces),
        ["--resolution", "100", "100", "100"],
    )
    done = ingest(file, f"{tmp_path}/mask", *resolution, "--segmentation")
    assert done.exit_code == 0, done.output
    layer = LabelLayer(f"{tmp_path}/mask")
    assert layer.bounds == Box((70, -20, 10), (110, 20, 50))
    assert layer.read(Box((89, -1, 29), (91, 1, 31))).all()
    assert layer.read(layer.bounds).mean() == pytest.approx(1 / 6, rel=0.02)


@pytest.mark.parametrize(
    ("spoil", "words", "says"),
    [
        (lambda v, f: (v, f), [], "add --segmentation"),
        (lambda v, f: (v, f), ["--segmentation", "--offset", "1", "0", "0"], "without --offset"),
        (lambda v, f: (v, f[1:]), ["--segmentation"], "is not closed"),
        (lambda v, f: (v, f[:0]), ["--segmentation"], "no faces"),
        (lambda v, f: (v, f + 3), ["--segmentation"], "cannot be read as obj"),
        (lambda v, f: (v / 1e5, f), ["--segmentation"], "corners in nm?"),
    ],
)
def test_meshes_that_cannot_be_voxelized_are_errors(tmp_path, spoil, words, says):
    file = write(tmp_path / "brain.obj", *spoil(*octahedron(2000.0, np.array([9040.0, 30, 3000]))))
    done = ingest(file, f"{tmp_path}/mask", "--resolution", "100", "100", "100", *words)
    assert done.exit_code != 0 and says in str(done.exception)
    assert not (tmp_path / "mask").exists()
