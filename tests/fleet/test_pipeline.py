"""The pipeline on disk with a file queue, worker processes and the command line.

The weights of the networks are set by hand: bright voxels are soma.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from cloudfiles import CloudFiles
from five_balls import CENTRES, OFFSET, RADIUS_NM, RESOLUTION, digest, flysoma, somas, write_config

from flysoma.tasks.config import RunConfig
from flysoma.tasks.coordination import coordinator
from flysoma.tasks.fleet.status import status
from flysoma.tasks.forecast import estimate
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.layers.precomputed import create_layer, fill_layer
from flysoma.tasks.run import Run
from flysoma.tasks.stages import mesh
from flysoma.tasks.stages.report import draw_suspects


def workers_of(run):
    with open(f"/proc/{run}/task/{run}/children") as file:
        return [int(pid) for pid in file.read().split()]


def is_alive(pid):
    """Return whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return bool(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_ball_is_one_soma_through_27_blocks(volume, undisturbed):
    truth, labels = volume[1], somas(undisturbed)
    assert ((labels > 0) == (truth > 0)).mean() > 0.999
    for number in range(1, len(CENTRES) + 1):
        inside = labels[truth == number]
        values, counts = np.unique(inside[inside > 0], return_counts=True)
        assert len(values) == 1 and counts[0] > 0.98 * (truth == number).sum()
    assert len(np.unique(labels)) == len(CENTRES) + 1


def test_a_run_ends_with_what_it_found_and_where(undisturbed):
    done = flysoma("run", f"{undisturbed}/config.yaml", "--workers", "1")
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["somas"] == "5 (0 cut by the edge of the volume)"
    assert Path(said["report"]).is_file() and Path(said["table"]).is_file()


def test_many_blocks_give_what_one_block_gives(volume, undisturbed):
    done = flysoma("run", write_config(volume, "one", 192), "--workers", "1", "--until", "relabel")
    assert done.returncode == 0, done.stderr
    assert (somas(volume[0] / "one") == somas(undisturbed)).all()


@pytest.mark.slow
def test_a_stopped_run_resumes_and_gives_the_same_bytes(volume, undisturbed):
    config = write_config(volume, "again", 64)
    assert flysoma("run", config, "--workers", "1", "--until", "segment").returncode == 0
    store = Run.open(str(volume[0] / "again")).store
    receipts = store.names("receipts/segment/")
    store.delete(receipts[::3])
    store.put_json("stages/segment.json", {"total": len(receipts)})  # as if killed during the stage
    kept = {name: store.get(name) for name in receipts if name not in receipts[::3]}
    done = flysoma("run", config, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert {name: store.get(name) for name in kept} == kept  # done work was not done again
    assert digest(volume[0] / "again/somas") == digest(undisturbed / "somas")


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_run_change_nothing(volume, undisturbed):
    config, receipts = write_config(volume, "killed", 64), volume[0] / "killed/receipts/segment"
    command = [sys.executable, "-m", "flysoma.scripts.cli", "run", config, "--workers", "2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)

    def wait_for(count):
        for _ in range(1200):
            if receipts.exists() and len(os.listdir(receipts)) >= count:
                return
            time.sleep(0.1)
        pytest.fail(f"fewer than {count} receipts")

    wait_for(2)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    wait_for(5)
    orphans = workers_of(process.pid)
    process.kill()
    process.wait()
    for _ in range(600):  # they finish their tasks
        if not any(is_alive(worker) for worker in orphans):
            break
        time.sleep(0.1)
    assert orphans and not any(is_alive(worker) for worker in orphans)
    done = flysoma("run", config, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert digest(volume[0] / "killed/somas") == digest(undisturbed / "somas")


def test_a_black_volume_has_no_somas_and_a_report(volume):
    config = yaml.safe_load(open(write_config(volume, "black", 64)))
    config["image"] = f"{volume[0]}/black_em"
    box = Box(OFFSET, tuple(o + n for o, n in zip(OFFSET, (70, 33, 21))))
    create_layer(f"file://{volume[0]}/black_em", "image", "uint8", RESOLUTION, box)
    fill_layer(f"file://{volume[0]}/black_em", np.zeros((21, 33, 70), np.uint8))
    (volume[0] / "black.yaml").write_text(yaml.safe_dump(config))
    done = flysoma("run", str(volume[0] / "black.yaml"), "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert not somas(volume[0] / "black").any()
    assert (volume[0] / "black/report/index.html").exists()


def test_meshes_can_be_read(undisturbed):
    from cloudvolume import CloudVolume

    layer = CloudVolume(f"file://{undisturbed}/somas", progress=False)
    mesh = layer.mesh.get(1, lod=0)
    mesh = mesh[1] if isinstance(mesh, dict) else mesh
    extent = np.ptp(mesh.vertices, axis=0)
    assert np.abs(extent - 2 * RADIUS_NM).max() < 300
    table = pd.read_parquet(undisturbed / "tables/somas.parquet").set_index("id")
    middle = mesh.vertices.min(axis=0) + extent / 2
    assert np.abs(middle - table.loc[1, ["x_nm", "y_nm", "z_nm"]].to_numpy(float)).max() < 100


@pytest.mark.parametrize(
    ("edge", "resolution_nm", "mip"),
    [
        (137, (64, 64, 40), 1),
        (63, (64, 64, 40), 0),
        (4000, (32, 32, 40), 1),
        (4000, (16, 16, 16), 3),
        (4000, (130, 130, 40), 0),
    ],
)
def test_the_coarsest_mip_of_128_nm_is_meshed(edge, resolution_nm, mip):
    run = SimpleNamespace(
        segment_grid=SimpleNamespace(bounds=Box((0, 0, 0), (edge, edge, edge))),
        config=SimpleNamespace(segment=SimpleNamespace(resolution_nm=resolution_nm)),
    )
    assert mesh.mesh_mip(run) == mip


def test_each_soma_has_a_skeleton_from_its_middle(undisturbed):
    layer = LabelLayer(f"{undisturbed}/somas")
    table = pd.read_parquet(undisturbed / "tables/somas.parquet")
    assert (table["neurites"] == 0).all()  # balls have none
    for soma, middle in zip(table["id"], table[["x_nm", "y_nm", "z_nm"]].to_numpy()):
        skeleton = layer.skeleton(int(soma))  # a ball's is a point
        assert np.linalg.norm(skeleton.vertices - middle, axis=1).min() < 200


def test_the_table_has_each_ball_with_its_size_and_place(undisturbed):
    table = pd.read_parquet(undisturbed / "tables/somas.parquet")
    volume = 4 / 3 * np.pi * (RADIUS_NM / 1000) ** 3
    assert np.abs(table["volume_um3"] / volume - 1).max() < 0.02
    assert np.abs(table["inscribed_radius_um"] * 1000 - RADIUS_NM).max() < 80
    centres = table[["z_nm", "y_nm", "x_nm"]].to_numpy() / RESOLUTION[::-1] - OFFSET[::-1] - 0.5
    assert np.abs(centres - sorted(CENTRES)).max() < 0.1
    assert table["crosses_seam"].all() and not table["suspicious"].any()
    assert (table["n_seeds"] == 1).all()
    assert table["convexity"].min() > 0.97 and table["elongation"].max() < 1.03
    assert (table["grey_mean"] > 205).all() and (table["grey_spread"] < 10).all()
    places = table[["x_vx", "y_vx", "z_vx"]].to_numpy() - OFFSET
    assert np.abs(places[:, ::-1] - sorted(CENTRES)).max() <= 1
    blocks = CloudFiles(f"file://{undisturbed}/quality").get("spatial0/0_0_0")
    count = int.from_bytes(blocks[:8], "little")
    somas_of = np.frombuffer(blocks[8 : 8 + 36 * count], "<i4").reshape(count, 9)[:, 6]
    assert somas_of.sum() == 5
    pictures = draw_suspects(Run.open(str(undisturbed)), table.assign(suspicious=table["id"] < 3))
    reasons = sorted(caption.partition(": ")[2] for caption in pictures)
    by_chance = ["small, ends at a seam"] * 2  # the balls whose z is 95 end at 128
    assert reasons == ["join refused, small"] * 2 + ["small"] + by_chance
    assert sorted(pictures)[0].startswith("soma 1, 9 µm³: ")
    assert (undisturbed / "report/overview.png").stat().st_size > 10_000
    assert "<html" in (undisturbed / "report/index.html").read_text()[:100]


def test_status_counts_what_is_done(undisturbed):
    done = flysoma("status", str(undisturbed), "--json")
    rows = yaml.safe_load(done.stdout)
    assert rows[0]["stage"] == "predict" and all(r["finished"] and not r["failed"] for r in rows)


def test_an_output_of_another_config_is_refused(volume, undisturbed):
    changed = write_config(volume, "blocks", 128)
    done = flysoma("run", changed, "--workers", "1")
    assert done.returncode == 2 and "segment.block_vx" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_damaged_chunk_stops_the_run_with_its_name(volume):
    folder = volume[0]
    config = write_config(volume, "damaged", 64)
    chunk = sorted((folder / "em/64_64_40").iterdir())[3]
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    try:
        done = flysoma("run", config, "--workers", "1")
    finally:
        chunk.write_bytes(whole)
    assert done.returncode == 2 and "cannot be decoded" in done.stderr
    assert chunk.name in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": "/nothing/here"}, "no precomputed layer at"),
        ({"segment": {"weights": "/no/weights.safetensors"}}, "no weights"),
        ({"segment": {"resolution_nm": [16, 16, 40]}}, "finer than the volume"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"output": "/dev/null/run"}, "Not a directory"),
        ({"image": "s3://flysoma-no-such-bucket/em"}, "credentials"),
    ],
)
def test_wrong_requests_are_one_line_and_exit_2(volume, tmp_path, change, words, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    values = yaml.safe_load(open(write_config(volume, "wrong", 64)))
    values["output"] = str(tmp_path / "out")
    for key, value in change.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    done = flysoma("run", str(tmp_path / "c.yaml"), "--workers", "1")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk that is soon full")
def test_a_full_disk_is_one_line_and_the_run_resumes_when_there_is_space(
    volume, undisturbed, tmp_path
):
    disk = tmp_path / "disk"
    disk.mkdir()
    config = write_config(volume, "full", 64)
    values = yaml.safe_load(open(config)) | {"output": str(disk / "run")}
    with open(config, "w") as file:
        yaml.safe_dump(values, file)
    mount = ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        done = flysoma("run", config, "--workers", "1")
        assert done.returncode == 2 and "No space left on device" in done.stderr.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        assert flysoma("run", config, "--workers", "1", "--until", "relabel").returncode == 0
        assert (somas(disk / "run") == somas(undisturbed)).all()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_plan_shows_every_stage_and_no_fewer_tasks_than_are_done(volume, undisturbed, tmp_path):
    config = write_config(volume, "planned", 64)
    shown = flysoma("plan", config, "--json")
    rows = {row["stage"]: row for row in json.loads(shown.stdout)}
    done = {row["stage"]: row["done"] for row in status(Run.open(str(undisturbed)))}
    assert list(rows) == list(done)
    assert all(row["tasks"] is None or row["tasks"] >= done[name] for name, row in rows.items())
    assert rows["segment"]["tasks"] == 27 and rows["relabel"]["voxels"] == 137 * 131 * 141
    assert not (volume[0] / "planned").exists()
    assert "mesh_merge" in flysoma("plan", config).stdout
    assert "windows timed here" in flysoma("plan", config, "--price").stdout
    weights = volume[2]["locate"]
    wrong = write_config(volume, "planned", 64, segment={"weights": weights})
    refused = flysoma("plan", wrong)
    assert refused.returncode == 2 and "has 2 classes and this stage needs 3" in refused.stderr


@pytest.mark.parametrize("tiles, repeated", [([2, 2, 2], True), ([8, 8, 8], False)])
def test_plan_says_when_chunks_are_read_again_and_again(tmp_path, tiles, repeated):
    whole = Box((0, 0, 0), (3072, 3072, 1280))
    create_layer(f"{tmp_path}/em", "image", "uint8", (32.0, 32.0, 40.0), whole)
    layer = {"image": f"{tmp_path}/em", "output": f"{tmp_path}/run"}
    config = RunConfig(**layer, predict={"block_tiles": tiles})
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    (predict, *_) = estimate(Run(config))
    assert predict["times_read"] == pytest.approx(predict["gb"] * 1e9 / whole.voxels)
    assert (predict["times_read"] > 1.3) is repeated
    shown = flysoma("plan", tmp_path / "run.yaml").stdout
    assert (
        f"{predict['times_read']:.2f} times on average; a predict.block_tiles larger" in shown
    ) is repeated


def test_a_run_as_its_own_probe_gives_its_own_hours(volume, undisturbed):
    config = write_config(volume, "blocks", 64, prices={"gpu_hour": 1000.0})
    shown = json.loads(flysoma("plan", config, "--probe", str(undisturbed), "--json").stdout)
    for row in shown:
        assert row["hours"] == pytest.approx(row["actual_hours"])
    rows = {row["stage"]: row for row in shown}
    assert rows["predict"]["money"] == pytest.approx(1000 * rows["predict"]["hours"])
    assert rows["segment"]["money"] == 0


def test_a_worker_that_ends_by_itself_ends_the_run_with_its_code():
    with (
        coordinator._workers("fq:///dev/null/queue", "/nowhere", 1) as alive,
        pytest.raises(SystemExit) as end,
    ):
        for _ in range(600):
            alive()
            time.sleep(0.1)
    assert end.value.code == 2
