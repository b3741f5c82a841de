"""Manifests and image: they render, are valid, and say to `flysoma` only what it understands.

No cluster is asked. With kubectl the overlays are rendered by kustomize; without it the base's own documents are read.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from flysoma.tasks.config import parse_config

ROOT = Path(__file__).parent.parent
BASE = ROOT / "k8s/base"
VERSIONS = ["1.31", "1.37"]
KUBECTL = shutil.which("kubectl")


def render(folder):
    """All documents of a kustomization."""
    if KUBECTL is not None:
        command = [KUBECTL, "kustomize", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "deprecated" not in done.stderr
        return list(yaml.safe_load_all(done.stdout))
    if folder != BASE:
        pytest.skip("no kubectl here to render an overlay with")
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    documents = []
    for name in kustomization["resources"]:
        documents += yaml.safe_load_all((BASE / name).read_text())
    for entry in kustomization["configMapGenerator"]:
        data = {name: (BASE / name).read_text() for name in entry.get("files", [])}
        data.update(literal.split("=", 1) for literal in entry.get("literals", []))
        meta = {"name": entry["name"]}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
    return documents


FOLDERS = [BASE, *sorted(path for path in (ROOT / "k8s/overlays").iterdir())]


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def documents(request):
    return render(request.param)


def pods(documents):
    """Name and pod spec of each Deployment and Job."""
    return {
        document["metadata"]["name"]: document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] in ("Deployment", "Job")
    }


def environment(container, documents):
    """A container's variables, those of its ConfigMaps included."""
    maps = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    values = {}
    for source in container.get("envFrom", []):
        values.update(maps[source["configMapRef"]["name"]])
    values.update({entry["name"]: entry["value"] for entry in container.get("env", [])})
    return values


def arguments(container, documents):
    """A container's arguments as Kubernetes passes them: $(NAME) replaced."""
    values = environment(container, documents)
    return [re.sub(r"\$\((\w+)\)", lambda m: values[m.group(1)], arg) for arg in container["args"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(documents, version):
    assert {d["kind"] for d in documents} == {"ServiceAccount", "ConfigMap", "Deployment", "Job"}
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_every_command_line_is_one_of_flysoma(documents):
    from flysoma.scripts.cli import cli

    for name, pod in pods(documents).items():
        (container,) = pod["containers"]
        assert "command" not in container, f"{name}: the image's entrypoint is flysoma"
        verb, *rest = arguments(container, documents)
        parsed = cli.get_command(None, verb).make_context(verb, rest)
        assert parsed.params, name


def test_every_stage_has_workers(documents):
    """The job puts tasks into the queues that the two Deployments serve, and starts no worker itself."""
    found = pods(documents)
    served = {
        name: arguments(pod["containers"][0], documents)[1]
        for name, pod in found.items()
        if name.endswith("worker")
    }
    job = arguments(found["flysoma-run"]["containers"][0], documents)
    options = dict(zip(job[2::2], job[3::2]))
    assert options["--workers"] == "0"
    assert options["--queue"] == served["flysoma-gpu-worker"]
    assert options["--cpu-queue"] == served["flysoma-cpu-worker"]
    asks = {
        name: "nvidia.com/gpu" in pod["containers"][0]["resources"].get("limits", {})
        for name, pod in found.items()
    }
    assert asks == {"flysoma-gpu-worker": True, "flysoma-cpu-worker": False, "flysoma-run": False}


def test_the_config_in_the_config_map_is_one(documents):
    (text,) = (
        d["data"]["config.yaml"]
        for d in documents
        if d["kind"] == "ConfigMap" and "config.yaml" in d["data"]
    )
    assert parse_config(text, "config.yaml").output.startswith("gs://")
    pod = pods(documents)["flysoma-run"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert arguments(pod["containers"][0], documents)[1] == mounts["config"] + "/config.yaml"


def test_pods_keep_to_little_rights_and_can_write_what_they_must(documents):
    for pod in pods(documents).values():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
        writable = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
        paths = [m["mountPath"] for m in container["volumeMounts"] if m["name"] in writable]
        assert sorted(paths) == ["/home/flysoma", "/tmp"]
        assert environment(container, documents)["HOME"] in paths
        assert {"requests", "limits"} == set(container["resources"])


def test_a_worker_gives_back_what_it_has_before_its_pod_is_killed(documents):
    from flysoma.scripts.run import work

    for name, pod in pods(documents).items():
        if name.endswith("worker"):
            words = arguments(pod["containers"][0], documents)[1:]
            grace = work.make_context("work", words).params["grace"]
            assert grace + 3 < pod["terminationGracePeriodSeconds"], name


def test_a_worker_is_seen_to_live_and_stops_when_told(tmp_path):
    """A worker's command line and its probe, run as processes with folders in place of the cluster's."""
    documents = render(BASE)
    container = pods(documents)["flysoma-cpu-worker"]["containers"][0]
    values = {"$(CPU_QUEUE)": f"fq://{tmp_path}/queue", "/tmp/alive": f"{tmp_path}/alive"}
    words = [values.get(word, word) for word in container["args"]]
    environ = {**os.environ, "HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "flysoma.scripts.cli", *words], env=environ, cwd=tmp_path
    )
    try:
        shell, flag, script = container["livenessProbe"]["exec"]["command"]
        probe = [shell, flag, script.replace("/tmp/alive", values["/tmp/alive"])]
        until = time.monotonic() + 60
        while subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            assert worker.poll() is None, "the worker ended by itself"
            assert time.monotonic() < until, "no sign of life"
            time.sleep(0.2)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=30) == 0
    finally:
        worker.kill()
    old = time.time() - 600
    os.utime(tmp_path / "alive", (old, old))
    assert subprocess.run(probe, check=False).returncode != 0


def test_the_image_installs_what_make_installs():
    """The same pins, in the same order; the image cannot be built in a test, its lines can be compared."""
    docker = (ROOT / "Dockerfile").read_text()
    make = (ROOT / "Makefile").read_text()
    lines = re.findall(r"-m pip install (.*)", docker)
    assert lines == ['-q "$TORCH"', '-q -c constraints.txt ".[$EXTRAS]"']
    assert [line.replace("-e ", "").replace("(", "").replace(")", "") for line in
            re.findall(r"-m pip install (.*)", make)] == lines  # fmt: skip
    torch = re.search(r"ARG TORCH=(\S+)", docker).group(1)
    assert re.search(r"TORCH \?= (\S+)", make).group(1) == torch
    assert torch in (ROOT / "constraints.txt").read_text().splitlines()
    assert 'ENTRYPOINT ["flysoma"]' in docker and "USER 1000" in docker
    ignored = (ROOT / ".dockerignore").read_text().split()
    needed = {"README.md", "LICENSE", "setup.py", "constraints.txt", "models", "tasks", "scripts"}
    assert ".venv" in ignored and "tests" in ignored and not needed & set(ignored)
