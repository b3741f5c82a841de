"""The kustomizations of k8s/, rendered by kubectl, and what their containers are told."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
KUBECTL = shutil.which("kubectl")
OVERLAYS = ["gke", "eks", "local"]


def render(folder):
    """All documents of a kustomization of k8s/."""
    if KUBECTL is None:
        pytest.skip("no kubectl here to render manifests with")
    command = [KUBECTL, "kustomize", str(ROOT / "k8s" / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(documents, *kinds):
    """Documents by name."""
    return {d["metadata"]["name"]: d for d in documents if d["kind"] in kinds}


def pods(documents):
    """Name and pod spec of each Deployment and Job."""
    found = of_kind(documents, "Deployment", "Job")
    return {name: document["spec"]["template"]["spec"] for name, document in found.items()}


def environment(container, documents):
    """A container's variables, those of its ConfigMaps included."""
    maps = of_kind(documents, "ConfigMap")
    values = {}
    for source in container.get("envFrom", []):
        values.update(maps[source["configMapRef"]["name"]]["data"])
    values.update({entry["name"]: entry["value"] for entry in container.get("env", [])})
    return values


def arguments(container, documents):
    """A container's arguments as Kubernetes passes them: $(NAME) replaced."""
    values = environment(container, documents)
    return [re.sub(r"\$\((\w+)\)", lambda m: values[m.group(1)], arg) for arg in container["args"]]


def config_text(documents):
    """The config of the run, from its ConfigMap."""
    (text,) = (
        document["data"]["config.yaml"]
        for document in of_kind(documents, "ConfigMap").values()
        if "config.yaml" in document["data"]
    )
    return text
