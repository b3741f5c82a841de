"""`flysoma publish` copies everything once, with checksums, and refuses an unfinished run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from urllib.parse import unquote

import boto3
import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
from cloudfiles import CloudFiles
from cloudvolume import CloudVolume
from five_balls import digest, flysoma, write_image
from object_stores import AWS, moto

from flysoma.errors import UserError
from flysoma.tasks.publishing.copying import PublishOptions, publish
from flysoma.tasks.publishing.describing import cors_commands
from flysoma.tasks.results.viewing import view_state
from flysoma.tasks.review import applying
from flysoma.tasks.review.edits import EditLog, parse_edit
from flysoma.tasks.run import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, undisturbed):
    path = tmp_path_factory.mktemp("share") / "run"
    shutil.copytree(undisturbed, path)
    return path


def sums(folder):
    listed = (
        line.split("  ", 1) for line in (folder / "checksums.sha256").read_text().splitlines()
    )
    return {name: value for value, name in listed}


def published(folder):
    """Return the digest of a layer without the fragments of its meshes."""
    return {n: d for n, d in digest(folder).items() if ":" not in n and ".spatial" not in n}


def test_a_folder_holds_all_with_checksums_and_can_be_viewed(finished, tmp_path):
    there = tmp_path / "there"
    done = flysoma("publish", str(finished), str(there), "--licence", "CC-BY-4.0")
    assert done.returncode == 0, done.stderr
    for name, value in sums(there).items():
        assert hashlib.sha256((there / name).read_bytes()).hexdigest() == value
    for folder in ("somas", "centroids", "tables", "report"):
        assert digest(there / folder) == published(finished / folder)
    about = json.loads((there / "provenance.json").read_text())
    assert about["licence"] == "CC-BY-4.0" and about["somas"] == 5 and not about["unfinished"]
    assert set(about["weights_sha256"]) == {"locate", "segment"} and about["image_info_sha256"]
    assert "5 cell bodies" in (there / "README.md").read_text()
    assert Run.open(str(there)).somas.bounds == Run.open(str(finished)).somas.bounds
    state = view_state(Run.open(str(there)), lambda folder: f"http://x{folder}")
    assert state["layers"][1]["segments"] == ["1", "2", "3", "4", "5"]  # whose meshes are shown


def test_it_goes_on_where_it_stopped_and_changes_nothing(finished, tmp_path):
    first, there = tmp_path / "first", tmp_path / "there"
    assert flysoma("publish", str(finished), str(first)).returncode == 0
    assert flysoma("publish", str(finished), str(there)).returncode == 0
    (there / "somas/info").unlink()  # although the records say that it was copied
    for name in ("provenance.json", "README.md", "tables/somas.csv"):
        (there / name).unlink()
    assert flysoma("publish", str(finished), str(there)).returncode == 0
    assert sums(there) == sums(first)
    again = flysoma("publish", str(finished), str(there))
    small = len(digest(finished / "tables")) + len(digest(finished / "report")) + 2
    assert f"; {small} of them copied now" in again.stdout
    assert sums(there) == sums(first)


@pytest.mark.parametrize("name", ["README.md", "config.yaml", "tables/mine.csv", "somas/info"])
def test_files_of_somebody_else_are_not_replaced(name, finished, tmp_path):
    other = tmp_path / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("mine")
    run = Run.open(str(finished))
    with pytest.raises(UserError, match=f"holds {name}, which 'flysoma publish' did not write"):
        publish(run, f"file://{tmp_path}", PublishOptions("none"), lambda *_: None)
    assert other.read_text() == "mine" and sum(f.is_file() for f in tmp_path.rglob("*")) == 1


def layer_of(path):
    return CloudVolume(f"file://{path}/somas", progress=False, fill_missing=True)


def test_shards_hold_the_same_in_fewer_objects(finished, tmp_path):
    """cloud-volume reads voxels, meshes and skeletons; tensorstore reads annotations, as neuroglancer does."""
    there, again = tmp_path / "there", tmp_path / "again"
    for place in (there, again):
        done = flysoma("publish", str(finished), str(place), "--sharded")
        assert done.returncode == 0, done.stderr
    assert sums(there) == sums(again)
    names = list(sums(there))
    assert not [n for n in names if re.search(r"\d\.gz$|mesh/\d+$|by_id/\d+$", n)]
    plain, packed = layer_of(finished), layer_of(there)
    for mip in plain.available_mips:
        plain.mip = packed.mip = mip
        assert packed.image.is_sharded(mip) and np.array_equal(plain[:], packed[:])
    for number in range(1, 6):
        old, new = (layer.mesh.get(number)[number] for layer in (plain, packed))
        assert np.array_equal(old.vertices, new.vertices) and np.array_equal(old.faces, new.faces)
        assert plain.skeleton.get(number) == packed.skeleton.get(number)
    info = json.loads((there / "centroids/info").read_text())
    spec, key = info["by_id"]["sharding"], info["by_id"]["key"]
    store = ts.KvStore.open(
        {
            "driver": "neuroglancer_uint64_sharded",
            "metadata": spec,
            "base": f"file://{there}/centroids/{key}/",
        }
    ).result()
    for number in range(1, 6):
        value = store.read(np.array(number, ">u8").tobytes()).result().value
        assert value == (finished / f"centroids/by_id/{number}").read_bytes()
    (there / "provenance.json").unlink()  # as after an interruption; the format is recorded
    mixed = flysoma("publish", str(finished), str(there), "--unsharded")
    assert mixed.returncode == 2 and "in shards already" in mixed.stderr
    assert flysoma("publish", str(finished), str(there)).returncode == 0
    assert sums(there) == sums(again)


def test_what_is_not_finished_is_refused_unless_forced(finished, tmp_path):
    state = finished / "stages/report.json"
    kept = state.read_text()
    state.write_text(json.dumps(json.loads(kept) | {"finished": False}))
    try:
        refused = flysoma("publish", str(finished), str(tmp_path / "there"))
        forced = flysoma("publish", str(finished), str(tmp_path / "there"), "--force")
    finally:
        state.write_text(kept)
    assert refused.returncode == 2 and "not finished: report to do" in refused.stderr
    assert not (tmp_path / "there/tables").exists() or forced.returncode == 0
    assert forced.returncode == 0 and "not finished: report" in forced.stderr
    assert "Not finished" in (tmp_path / "there/README.md").read_text()
    inside = flysoma("publish", str(finished), str(finished / "somas"))
    assert inside.returncode == 2 and "overlap; choose another place" in inside.stderr


@pytest.mark.slow
def test_a_bucket_gets_it_compressed_and_pandas_reads_it(finished, monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with moto() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        # a bucket of its own: cloud-files keeps connections by bucket, and another test had another server
        boto3.client("s3").create_bucket(Bucket="shared")
        done = flysoma("publish", str(finished), "s3://shared/brain")
        assert done.returncode == 0, done.stderr
        assert "aws s3api put-bucket-cors --bucket shared" in done.stdout
        assert digest("s3://shared/brain/somas") == published(finished / "somas")
        table = CloudFiles("s3://shared/brain/tables", progress=False).get("somas.parquet")
        assert table == (finished / "tables/somas.parquet").read_bytes()
        chunk = next(n for n in digest(finished / "somas") if n.startswith("64_64_40/"))
        head = boto3.client("s3").head_object(Bucket="shared", Key=f"brain/somas/{chunk}")
        assert head["ContentEncoding"] == "gzip"
        assert len(pd.read_parquet(finished / "tables/somas.parquet")) == 5


@pytest.mark.slow
@pytest.mark.parametrize("form", ["--unsharded", "--sharded"])
def test_from_google_to_google_with_a_link_for_all(gcs, finished, tmp_path, form):
    """The link opens a public image beside the copy. Both formats hold the same as on disk."""
    base = f"gs://bucket/public{form}"
    write_image(f"{base}/em")
    run = shutil.copytree(finished, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(re.sub("^image: .*", f"image: {base}/em", config, flags=re.M))
    CloudFiles(f"file://{run}", progress=False).transfer_to(f"{base}/run")
    done = flysoma("publish", f"{base}/run", f"{base}/brain", form)
    assert done.returncode == 0, done.stderr
    assert "gcloud storage buckets update gs://bucket --cors-file" in done.stdout
    assert flysoma("publish", str(finished), str(tmp_path / "there"), form).returncode == 0
    for layer in ("somas", "centroids", "tables"):
        assert digest(f"{base}/brain/{layer}") == digest(tmp_path / "there" / layer)
    (link,) = re.findall(r"view: +(https://\S+/#!\S+)", done.stdout)
    assert f"({link})" in CloudFiles(f"{base}/brain").get("README.md").decode()
    state = json.loads(unquote(link.partition("#!")[2]))
    sources = {layer["name"]: layer["source"] for layer in state["layers"]}
    assert sources["image"] == f"precomputed://{base}/em"
    assert sources["somas"] == f"precomputed://{base}/brain/somas"
    again = flysoma("publish", f"{base}/run", f"{base}/brain", form)
    first, second = (int(re.search(r"(\d+) of them", d.stdout)[1]) for d in (done, again))
    assert second < first  # tables and report alone


def test_every_kind_of_bucket_has_its_way_to_let_browsers_in():
    assert "--cors-file" in cors_commands("gs://bucket/a/b")
    assert json.loads(cors_commands("s3://bucket/a").split("'")[1])["CORSRules"]
    assert cors_commands("file:///folder") is None


@pytest.mark.parametrize("form", ["--unsharded", "--sharded"])
def test_another_run_at_the_same_place_replaces_all_of_the_first(finished, tmp_path, form):
    second, there, fresh = (tmp_path / name for name in ("second", "there", "fresh"))
    shutil.copytree(finished, second)
    run = Run.open(str(second))
    labels = run.somas.read(run.somas.bounds)
    run.somas.write(run.somas.bounds, np.where(labels == 5, 0, np.roll(labels, 1, axis=2)))
    for name in ("5", "5.index"):
        (second / "somas/mesh" / name).unlink()
    for source, target in ((finished, there), (second, there), (second, fresh)):
        done = flysoma("publish", str(source), str(target), form)
        assert done.returncode == 0, done.stderr
    for folder in ("somas", "centroids", "quality", "tables", ".published"):
        assert digest(there / folder) == digest(fresh / folder), folder
    for name, value in sums(there).items():
        assert hashlib.sha256((there / name).read_bytes()).hexdigest() == value


@pytest.mark.parametrize("sharded", [False, True], ids=["files", "shards"])
def test_only_verified_somas_are_published(finished, tmp_path, sharded, monkeypatch):
    monkeypatch.setattr(applying, "put_report", lambda *_: None)
    path = shutil.copytree(finished, tmp_path / "run")
    run, there, target = Run.open(str(path)), tmp_path / "there", f"file://{tmp_path}/there"
    options = PublishOptions("CC0", sharded=sharded, verified=True)
    with pytest.raises(UserError, match="no soma of .* is verified"):
        publish(run, target, options, lambda *_: None)
    said = {"by": "ada", "at": "2026-01-02"}
    verdicts = [{"edit": "right", "id": 2}, {"edit": "class", "id": 4, "class": "glia"}]
    EditLog(run.store).append([parse_edit(said | verdict, "a line") for verdict in verdicts])
    applying.apply_edits(run, print)
    publish(run, target, PublishOptions("CC0", sharded=sharded), lambda *_: None)
    publish(run, target, options, lambda *_: None)  # replaces all that shows other somas
    whole, part = (CloudVolume(f"file://{place}/somas", progress=False) for place in (path, there))
    for mip in range(len(whole.scales)):
        whole.mip = part.mip = mip
        labels = np.asarray(whole[:])
        assert (np.asarray(part[:]) == np.where(np.isin(labels, [2, 4]), labels, 0)).all()
    assert pd.read_parquet(there / "tables/somas.parquet")["id"].tolist() == [2, 4]
    properties = json.loads((there / "somas/segment_properties/info").read_text())["inline"]
    assert properties["ids"] == ["2", "4"]
    assert {p.name for p in (there / "centroids/by_id").iterdir()} == {"2", "4"}
    assert not [place for place in (there / "report").rglob("*") if place.is_file()]
    if not sharded:
        assert {p.name for p in (there / "somas/skeletons").iterdir()} == {"info", "2", "4"}
        meshes = {p.name.split(".")[0] for p in (there / "somas/mesh").iterdir()}
        assert meshes == {"info", "2", "4"}
    part.mesh.get(2)
    about = json.loads((there / "provenance.json").read_text())
    assert about["somas"] == 2 and about["verified"] and about["version"] == 2
    assert "2 cell bodies, each verified by a person, in" in (there / "README.md").read_text()
    for name, value in sums(there).items():
        assert hashlib.sha256((there / name).read_bytes()).hexdigest() == value
