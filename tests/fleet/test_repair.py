"""Damaged and lost objects of a run are noticed, and the step that made each is repeated: the result is the same."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from five_balls import digest
from toy_stages import First, Second, toy_run

from flysoma.errors import UserError
from flysoma.tasks.coordination import coordinator
from flysoma.tasks.coordination.coordinator import RunOptions, execute_run
from flysoma.tasks.fleet import repair, worker
from flysoma.tasks.layers.precomputed import parse_chunk_name
from flysoma.tasks.run import Run
from flysoma.tasks.stages import catalog
from flysoma.tasks.stages.catalog import STAGES, state_path
from flysoma.tasks.storage.damage import DamagedObject

NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def copied(undisturbed, tmp_path):
    """A copy of a finished run at another place."""
    return Run.open(str(shutil.copytree(undisturbed, tmp_path / "copy")))


def rewind(run, stage):
    """Forget a stage and all later ones."""
    for name in NAMES[NAMES.index(stage) :]:
        run.store.delete([state_path(name), *run.store.names(f"receipts/{name}/")])


def largest(run, folder, suffix):
    """The name of the largest object of a kind."""
    names = [name for name in run.store.names(folder) if name.endswith(suffix)]
    return max(names, key=lambda name: len(run.store.get(name)))


def file_of(run, name):
    return run.path.removeprefix("file://") + "/" + name


def flip(run, name):
    with open(file_of(run, name), "r+b") as file:
        data = bytearray(file.read())
        data[len(data) // 2] ^= 16
        file.seek(0)
        file.write(data)


def truncate(run, name):
    with open(file_of(run, name), "r+b") as file:
        file.truncate(len(file.read()) // 2)


def resume(run, *options):
    """Resume a run by its own config."""
    command = [sys.executable, "-m", "flysoma.scripts.cli", "run", f"{run.path}/config.yaml"]
    return subprocess.run([*command, "--workers", "1", *options], capture_output=True, text=True)


def damage_all(run):
    """Damage an object of each kind; return their names."""
    field, core = largest(run, "fields/", ".zst"), largest(run, "cores/", ".zst")
    slab, block = largest(run, "slabs/", ".ckl"), largest(run, "blocks/", ".ckl")
    chunk, table = largest(run, "somas/64_64_40/", ""), largest(run, "measure/blocks/", ".npz")
    fragment = next(name for name in run.store.names("somas/mesh/") if ":0:" in name)
    flip(run, field)
    flip(run, slab)
    truncate(run, block)
    truncate(run, "stitch/remap.npz")
    flip(run, "plans/mesh.json")
    run.store.put("seeds/seeds.npz", b"")
    run.store.delete([core, table, fragment, largest(run, "receipts/segment/", ".json")])
    run.store.delete([chunk.removesuffix(".gz")])
    run.store.put(largest(run, "receipts/match/", ".json"), b"")
    run.store.put(largest(run, "receipts/measure/", ".json"), b"{}")
    return [field, core, slab, block, table, "stitch/remap.npz", "plans/mesh.json"]


@pytest.mark.slow
def test_a_run_whose_objects_are_damaged_ends_with_the_same_result(copied, undisturbed):
    names = damage_all(copied)
    rewind(copied, "locate")
    done = resume(copied)
    assert done.returncode == 0, done.stderr
    for folder in ("somas", "tables"):
        assert digest(file_of(copied, folder)) == digest(undisturbed / folder), folder
    counts = repair.count_repairs(copied.store)
    assert counts["predict"] >= 1, counts
    assert names[1] in done.stderr  # the task that makes this core may make the damaged field, too


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, hurt",
    [
        ("relabel", lambda run: truncate(run, largest(run, "blocks/", ".ckl"))),
        ("relabel", lambda run: run.store.delete([largest(run, "receipts/segment/", ".json")])),
        ("measure", lambda run: run.store.delete([largest(run, "somas/64_64_40/", "")])),
        ("mesh_merge", lambda run: run.store.delete(run.store.names("somas/mesh/1:"))),
    ],
)
def test_damage_behind_a_finished_stage_is_repaired(stage, hurt, copied, undisturbed):
    hurt(copied)
    rewind(copied, stage)
    done = resume(copied)
    assert done.returncode == 0, done.stderr
    for folder in ("somas", "tables"):
        assert digest(file_of(copied, folder)) == digest(undisturbed / folder), folder


def test_each_object_is_traced_to_the_step_that_made_it(copied):
    (of_tile,) = json.loads(copied.store.get("receipts/predict/0.json"))["counters"]["stored"][
        "fields"
    ][:1]
    expected = {
        f"fields/{of_tile}.zst": ("predict", 0),
        "stored/predict.npz": ("predict", "finish"),
        "plans/predict.json": ("predict", "prepare"),
        "seeds/blocks/3.npz": ("locate", 3),
        "seeds/seeds.npz": ("locate", "finish"),
        "slabs/12-1-upper.ckl": ("segment", 12),
        "stitch/pairs/5.npz": ("match", 5),
        "stitch/remap.npz": ("match", "finish"),
        "measure/blocks/7.npz": ("measure", 7),
        "measure/shapes.npz": ("measure", "finish"),
        "measure/batches/0.npz": ("shape", 0),
        "measure/neurites/0.npz": ("skeleton", 0),
        "receipts/relabel/4.json": ("relabel", 4),
    }
    box = copied.segment_grid[5].core
    place = "_".join(f"{a}-{b}" for a, b in zip(box.lo, box.hi))
    expected[f"somas/64_64_40/{place}"] = ("relabel", 5)
    for path, (stage, step) in expected.items():
        repair.request(copied, DamagedObject(copied.path, path, "is lost"))
        record = copied.store.get_record(f"repairs/{stage}/{step}.json")
        # what carries a checksum and is intact needs no repair
        intact = path.endswith((".npz", ".ckl", ".zst", ".json"))
        assert (record is None) == (intact and copied.store.get(path) is not None), path


def test_an_object_that_no_task_made_is_an_error_of_the_user(copied):
    with pytest.raises(UserError, match="no task made it"):
        repair.request(copied, DamagedObject(copied.path, "tables/mine.csv", "is missing"))


def test_every_flipped_bit_is_noticed(copied):
    """Of an object of each kind that carries a checksum."""
    random = np.random.default_rng(0)
    kinds = ["fields/", "cores/", "slabs/", "blocks/", "seeds/seeds.npz", "stitch/", "measure/"]
    for kind in kinds:
        name = largest(copied, kind, "")
        sealed = copied.store.get(name)
        for _ in range(300):
            data, bit = bytearray(sealed), int(random.integers(8 * len(sealed)))
            data[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DamagedObject):
                copied.store.unseal(name, bytes(data))
    for kind in ("receipts/predict/", "plans/predict.json", "plans/mesh.json"):
        name = largest(copied, kind, ".json")
        sealed = copied.store.get(name)
        for bit in random.integers(8 * len(sealed), size=300).tolist():
            data = bytearray(sealed)
            data[bit // 8] ^= 1 << bit % 8
            copied.store.put(name, bytes(data))
            assert copied.store.get_record(name) is None, name


def test_every_flipped_bit_in_a_chunk_of_labels_is_noticed(copied):
    name = largest(copied, "somas/64_64_40/", "")
    path, (_, chunk) = file_of(copied, name), parse_chunk_name(name.removeprefix("somas/"))
    with open(path, "rb") as file:
        stored = file.read()
    trailer = range(8 * len(stored) - 128, 8 * len(stored))
    random = np.random.default_rng(0).integers(8 * len(stored), size=300)
    for bit in [*trailer, *random.tolist()]:
        data = bytearray(stored)
        data[bit // 8] ^= 1 << bit % 8
        with open(path, "wb") as file:
            file.write(data)
        with pytest.raises(DamagedObject):
            Run.open(copied.path).read_somas(chunk)


class Maker(First):
    def write(self, index, result):
        self.run.store.put_sealed(f"out/{index}", result)
        return {}


class Forger(Maker):
    def write(self, index, result):
        self.run.store.put(f"out/{index}", b"never what was computed")
        return {}


class Reader(Second):
    def work(self, index, data):
        paths = [f"out/{n}" for n in range(3)]
        return {"seen": sum(len(self.run.store.get_sealed(path)) for path in paths)}


@pytest.fixture
def finish(tmp_path, monkeypatch):
    """Return a function that does the stages of a run with a coordinator and a worker; it returns the messages."""
    monkeypatch.setattr(worker, "_REPAIR_S", 0)
    monkeypatch.setattr(coordinator, "_POLL_S", 0.1)

    def do(run, *stages):
        for module in (catalog, coordinator):
            monkeypatch.setattr(module, "STAGES", stages)
        said, url = [], f"fq://{tmp_path}/queue"
        with ThreadPoolExecutor(1) as pool:
            options = RunOptions(gpu=url, workers=0)
            done = pool.submit(execute_run, run, options, lambda *_: None, said.append)
            while not done.done():
                worker.work(url, worker.WorkerOptions(until_empty=True))
                time.sleep(0.1)
            done.result()
        return said

    return do


def test_the_task_that_made_a_damaged_object_is_done_again(tmp_path, finish):
    run = toy_run(tmp_path / "run", 3)
    finish(run, Maker)
    flip(run, "out/1")
    said = finish(run, Maker, Reader)
    assert [len(run.store.names(f"executions/{n}-")) for n in range(3)] == [1, 2, 1]
    assert run.store.get_record("receipts/second/0.json")["counters"] == {"seen": 33}
    assert said == ["out/1 is damaged: its checksum differs; task 1 of first is repeated"]
    assert repair.count_repairs(run.store) == {"first": 1}
    assert not run.store.names("failures/") and not run.store.names("running/")


def test_damage_that_comes_back_is_an_error(tmp_path, finish):
    run = toy_run(tmp_path / "run", 3)
    with pytest.raises(UserError, match=r"out/0 is damaged.*, and this after 3 repairs"):
        finish(run, Forger, Reader)


def test_a_damaged_receipt_is_no_receipt(tmp_path, finish):
    run = toy_run(tmp_path / "run", 3)
    finish(run, Maker)
    run.store.delete(["stages/first.json"])
    run.store.put("receipts/first/0.json", b"")
    run.store.put_json("receipts/first/2.json", {"seconds": 1, "peak_gb": 1, "counters": {}})
    finish(run, Maker, Reader)
    assert [len(run.store.names(f"executions/{n}-")) for n in range(3)] == [2, 1, 2]
