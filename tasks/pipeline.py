"""How a run begins: its config and manifest are written, or compared with those that are there."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
from typing import Any

from .. import __version__
from ..errors import UserError
from .config import RunConfig, parse_config
from .run import Run, predictor


def begin(config: RunConfig) -> Run:
    """Open the run that a config asks for, or begin it. Raises UserError when its output is another config's."""
    run = Run(config)
    there = run.store.get("config.yaml")
    if there is not None:
        differences = config.differences(parse_config(there.decode(), f"{run.path}/config.yaml"))
        if differences:
            raise UserError(
                f"{run.path} belongs to a run of another config ({'; '.join(differences)}); "
                "choose another output, or take back the change"
            )
        run.check_origin()
        return run
    _ = run.tiles  # what is wrong is said before anything is written
    run.store.put_json("manifest.json", _manifest(run))
    run.store.put("config.yaml", config.to_yaml().encode(), "application/yaml")
    return run


def _manifest(run: Run) -> dict[str, Any]:
    names = ("torch", "numpy", "cloud-volume", "igneous-pipeline", "task-queue")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "versions": versions | {"flysoma": __version__},
        "config_hash": run.config.content_hash,
        "image_info_sha256": hashlib.sha256(run.image.info_text.encode()).hexdigest(),
        "weights_sha256": {
            "locate": _fingerprint(run.config.locate.weights, 2),
            "segment": _fingerprint(run.config.segment.weights, 3),
        },
    }


def _fingerprint(weights: str, classes: int) -> str:
    """sha256 of a weights file; raises UserError when its network has not the classes that its stage needs."""
    network = predictor(weights).network
    if len(network.spec.classes) != classes:
        raise UserError(
            f"{weights} tells {len(network.spec.classes)} classes apart and this stage needs {classes}; "
            "locate takes a 2-class network, segment one of 3 classes"
        )
    return network.fingerprint
