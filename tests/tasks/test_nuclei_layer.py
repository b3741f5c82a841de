"""Nuclei from predictions to tables: five balls with one, two or no nuclei, of neurons and of glia."""

import shutil

import numpy as np
import pandas as pd
import pytest
from five_balls import CENTRES, OFFSET, RESOLUTION, SHAPE, digest, true_labels, write_image

from flysoma import __version__
from flysoma.analysis.morphology.classes import CLASSES, GLIA, NEURON
from flysoma.tasks.config import RunConfig, Soma
from flysoma.tasks.coordination.coordinator import execute_here
from flysoma.tasks.grids.tiles import CORES, FIELDS, NUCLEUS_FIELDS, put_tile
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.review import applying
from flysoma.tasks.review.edits import EditLog, parse_edit
from flysoma.tasks.run import Fingerprints, Manifest, Run, stored_path
from flysoma.tasks.stages.match import Labels, _number_somas

RADIUS_NM = 550.0
# the class of each ball, and the shifts of its nuclei along y from its centre, voxels
BALLS = [("neuron", [0]), ("glia", [2]), ("neuron", [-10, 10]), ("neuron", []), ("neuron", [1])]


def true_nuclei():
    """Labels of the nuclei, z, y, x."""
    nuclei = np.zeros(SHAPE, np.uint32)
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    for number, ((z, y, x), (_, shifts)) in enumerate(zip(CENTRES, BALLS), start=1):
        for shift in shifts:
            centre = (z, y + shift, x)
            apart = sum(((g - c) * v) ** 2 for g, c, v in zip(grid, centre, RESOLUTION[::-1]))
            nuclei[apart < RADIUS_NM**2] = number
    return nuclei


def put_predictions(run, somas, nuclei):
    """Store what networks would predict, and mark stage predict as finished."""
    glia = np.isin(somas, [i for i, (kind, _) in enumerate(BALLS, start=1) if kind == "glia"])
    sections = np.minimum(np.arange(3, SHAPE[0] + 3, 6), SHAPE[0] - 1)  # 240 nm apart
    values = {
        CORES: np.where(somas[sections] > 0, 255, 0),
        FIELDS: np.where(somas > 0, 0xF0, 0x00),
        NUCLEUS_FIELDS: np.where(nuclei > 0, 0xD0, 0x30) | np.where(glia, 0x0C, 0x02),
    }
    stored = {}
    for folder, array in values.items():
        lattice = run.tiles.coarse if folder == CORES else run.tiles.fine
        tiles = list(lattice.tiles_in_box((0, 0, 0), lattice.volume))
        for tile in tiles:
            box = tuple(slice(a, b) for a, b in zip(*lattice.tile_bounds(tile)))
            put_tile(run.store, folder, lattice.number(tile), array[box].astype(np.uint8))
        stored[folder] = np.array(sorted(map(lattice.number, tiles)))
    run.store.put_arrays(stored_path("predict"), stored)
    run.store.put_json("stages/predict.json", {"finished": True, "total": 0})


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """The folder with the image, and the labels of the nuclei."""
    folder = tmp_path_factory.mktemp("nuclei")
    write_image(f"file://{folder}/em")
    return folder, true_nuclei()


def executed(volume, name, block, until, **values):
    """The folder of a run from its predictions to a stage, in this process."""
    folder, nuclei = volume
    config = RunConfig(
        image=f"{folder}/em",
        output=f"{folder}/{name}",
        segment={"block_vx": [block] * 3, "halo_nm": 1600},
        **values,
    )
    run = Run(config)
    manifest = Manifest(
        versions={"flysoma": __version__},
        config_hash="",
        image_info_sha256="",
        image_sample_sha256={},
        weights_sha256=Fingerprints(locate="", segment=""),
        has_nuclei=True,
    )
    run.store.put_json("manifest.json", manifest.model_dump())
    run.store.put("config.yaml", config.to_yaml().encode())
    put_predictions(run, true_labels(), nuclei)
    execute_here(run, until, lambda *_: None)
    return folder / name


@pytest.fixture(scope="module")
def blocks(volume):
    """A finished run through 27 blocks."""
    return executed(volume, "blocks", 64, "report")


def layer(run, name="nuclei"):
    labels = LabelLayer(f"{run}/{name}")
    return labels.read(labels.bounds)


def table(run):
    return pd.read_parquet(run / "tables/somas.parquet")


def test_nuclei_have_the_ids_of_their_somas_in_blocks_as_in_one(volume, blocks):
    nuclei, somas = layer(blocks), layer(blocks, "somas")
    assert ((nuclei > 0) == (volume[1] > 0)).all()
    assert (nuclei == np.where(volume[1] > 0, somas, 0)).all()
    one = executed(volume, "one", 192, "relabel")
    assert (layer(one) == nuclei).all() and (layer(one, "somas") == somas).all()


def test_the_table_describes_the_nuclei(volume, blocks):
    somas = table(blocks).sort_values(["z_nm", "x_nm"])  # ids are in the order of position
    order = sorted(range(len(CENTRES)), key=lambda i: CENTRES[i][::2])
    counts = [len(BALLS[i][1]) for i in order]
    assert somas["n_nuclei"].tolist() == counts
    kinds = [BALLS[i][0] if BALLS[i][1] else "other" for i in order]
    assert somas["class"].tolist() == kinds
    expected = [12 / 15 if BALLS[i][0] == "glia" else 2 / 15 for i in order]
    assert somas["p_glia"].to_numpy() == pytest.approx(np.array(expected))
    ball = 4 / 3 * np.pi * (RADIUS_NM / 1000) ** 3
    assert somas["nucleus_volume_um3"].to_numpy() == pytest.approx(
        ball * np.array(counts), rel=0.03
    )
    share = somas["nucleus_volume_um3"] / somas["volume_um3"]
    assert somas["nucleus_share"].to_numpy() == pytest.approx(share.to_numpy())
    nuclei = layer(blocks)
    for soma in somas[somas["n_nuclei"] > 0].itertuples():
        position = np.array([soma.nucleus_x_nm, soma.nucleus_y_nm, soma.nucleus_z_nm])
        place = np.floor(position / RESOLUTION).astype(int) - OFFSET
        assert nuclei[tuple(place[::-1])] == soma.id
        own = np.argwhere(nuclei == soma.id)[:, ::-1] + OFFSET
        low = [soma.nucleus_bb_start_x_nm, soma.nucleus_bb_start_y_nm, soma.nucleus_bb_start_z_nm]
        assert low == (own.min(axis=0) * RESOLUTION).tolist()
    assert somas[somas["n_nuclei"] == 0]["nucleus_x_nm"].isna().all()


def test_nuclei_have_mips_meshes_and_properties(blocks):
    from cloudvolume import CloudVolume

    somas, nuclei = (
        CloudVolume(f"file://{blocks}/{name}", progress=False) for name in ("somas", "nuclei")
    )
    assert [s["key"] for s in nuclei.info["scales"]] == [s["key"] for s in somas.info["scales"]]
    assert nuclei.info["segment_properties"] == "segment_properties"
    for mip in nuclei.available_mips:  # every chunk is there
        nuclei = CloudVolume(f"file://{blocks}/nuclei", mip=mip, progress=False)
        assert set(np.unique(nuclei[:])) == set(np.unique(layer(blocks)))
    mesh = nuclei.mesh.get(1, lod=0)
    mesh = mesh[1] if isinstance(mesh, dict) else mesh
    assert np.abs(np.ptp(mesh.vertices, axis=0) - 2 * RADIUS_NM).max() < 300


def test_cave_lists_positions_in_nuclei(blocks):
    cave = pd.read_csv(blocks / "tables/cave_nuclei.csv")
    somas = table(blocks).set_index("id")
    assert cave["id"].tolist() == somas.index[somas["n_nuclei"] > 0].tolist()
    assert cave["volume"].to_numpy() == pytest.approx(
        somas.loc[cave["id"], "nucleus_volume_um3"].to_numpy(), abs=1e-4
    )


def test_a_run_that_is_repeated_gives_the_same_bytes(volume, blocks):
    again = executed(volume, "again", 64, "mesh_merge")
    one, two = (digest(run / "nuclei") for run in (again, blocks))
    for name in ("info", "segment_properties/info"):  # the report adds the properties
        one.pop(name, None)
        two.pop(name, None)
    assert one == two


def test_only_the_classes_of_the_config_are_kept(volume, blocks):
    kept = executed(volume, "glia", 192, "relabel", classes=["glia"])
    nuclei, somas = layer(kept), layer(kept, "somas")
    assert np.unique(nuclei).tolist() == np.unique(somas).tolist() == [0, 1]
    assert ((nuclei > 0) == (volume[1] == 2)).all()


def test_a_whole_soma_without_a_nucleus_is_no_soma(volume):
    kept = executed(volume, "both", 64, "relabel", classes=["neuron", "glia"])
    somas = layer(kept, "somas")
    dropped = [i for i, (_, nuclei) in enumerate(BALLS) if not nuclei]
    assert len(dropped) == 1
    for number, centre in enumerate(CENTRES):
        assert (somas[centre] == 0) == (number in dropped)


def test_a_cut_soma_without_a_nucleus_is_kept():
    four = np.arange(4)
    nucleus = np.array([[9, 0], [0, 0], [0, 0], [9, 0]])
    cut = np.array([False, False, True, True])
    sure = np.full((4, 2), [95 * 255, 100])
    labels = Labels(four.astype(np.uint64) + 1, four + 1, np.full(4, 100), sure, nucleus, cut)
    apart = np.zeros(0, np.int64)
    for classes, expected in (
        ([NEURON, GLIA], [1, 0, 2, 3]),
        ([GLIA], [0, 0, 1, 0]),
        (CLASSES, [1, 2, 3, 4]),
        (None, [1, 2, 3, 4]),
    ):
        _, final = _number_somas(labels, four, apart, 1.0, Soma(), classes)
        assert final.tolist() == expected


def test_nuclei_follow_the_edits_of_a_review(blocks, tmp_path, monkeypatch):
    """What is joined and parted, or removed and added, has its nuclei and its row as before."""
    monkeypatch.setattr(
        applying, "put_report", lambda *_: None
    )  # whose pictures take most of the time
    path = shutil.copytree(blocks, tmp_path / "run")
    before, labels = table(path).set_index("id"), layer(path, "somas")
    one, two, three, *_ = (int(labels[centre]) for centre in CENTRES)
    x, y, z = (
        [float((centre[2 - a] + OFFSET[a] + 0.5) * RESOLUTION[a]) for centre in CENTRES[:3]]
        for a in range(3)
    )
    points = list(zip(x, y, z))
    for version, edits in enumerate(
        (
            [{"edit": "join", "ids": [one, two]}, {"edit": "remove", "id": three}],
            [
                {"edit": "part", "id": min(one, two), "points_nm": points[:2]},
                {"edit": "add", "point_nm": points[2]},
            ],
        ),
        start=1,
    ):
        run, said = Run.open(str(path)), {"by": "ada", "at": "2026-01-02", "version": version}
        EditLog(run.store).append([parse_edit(said | values, "a line") for values in edits])
        assert applying.apply_edits(run, print).number == version + 1
        if version == 1:
            gone = np.isin(labels, (three,))
            assert (layer(path)[gone] == 0).all()
            assert (layer(path)[~gone] > 0).sum() == (layer(blocks)[~gone] > 0).sum()
    now = layer(path, "somas")
    new = {int(labels[centre]): int(now[centre]) for centre in CENTRES}
    assert (layer(path) == np.where(layer(blocks) > 0, now, 0)).all()
    after = table(path).set_index("id")
    pd.testing.assert_frame_equal(after, before.rename(index=new).sort_index(), check_exact=True)
