"""Begin or resume a run: its config and manifest are written, or compared with the existing ones."""

from __future__ import annotations

import importlib
import importlib.metadata

from .. import __version__
from ..analysis.morphology.classes import CLASSES
from ..errors import UserError
from .config import RunConfig, parse_config
from .run import Fingerprints, Manifest, Run, predictor


def begin(config: RunConfig) -> Run:
    """Begin the run of a config, or open it to resume. Raises UserError if its output belongs to another config."""
    run = Run(config)
    there = run.store.get("config.yaml")
    if there is None:
        _ = run.tiles  # raises UserError before anything is written
        manifest = _manifest(run)
        if config.classes != CLASSES and not manifest.has_nuclei:
            raise UserError(
                f"classes {', '.join(config.classes)}: {config.segment.weights} predicts no nuclei, which tell the "
                "class of a soma; omit classes, or set segment.weights to weights that predict nuclei"
            )
        if run.store.put_version("config.yaml", config.to_yaml().encode(), None) is not None:
            run.store.put_json("manifest.json", manifest.model_dump())
            return run
        there = run.store.get("config.yaml") or b""  # another process has just begun a run here
    differences = config.differences(parse_config(there, f"{run.path}/config.yaml"))
    if differences:
        raise UserError(
            f"{run.path} belongs to a run of another config ({'; '.join(differences)}); "
            "choose another output, or undo the change"
        )
    if run.store.get("manifest.json") is None:  # killed before it was written
        run.store.put_json("manifest.json", _manifest(run).model_dump())
    run.check_origin()
    run.check_image()
    return run


def _manifest(run: Run) -> Manifest:
    names = ("torch", "numpy", "cloud-volume", "igneous-pipeline", "boto3")
    versions = {name: importlib.metadata.version(name) for name in names}
    return Manifest(
        versions=versions | {"flysoma": __version__},
        config_hash=run.config.content_hash,
        image_info_sha256=run.image.info_sha256,
        image_sample_sha256=run.image.sample(run.config.segment.resolution_nm),
        weights_sha256=check_weights(run.config),
        has_nuclei=predictor(run.config.segment.weights).network.spec.has_nuclei,
    )


def check_weights(config: RunConfig) -> Fingerprints:
    """Return the sha256 of the weights of each network. Raises UserError if they cannot be loaded or do not fit."""
    return Fingerprints(
        locate=_fingerprint(config.locate.weights, 2),
        segment=_fingerprint(config.segment.weights, 3),
    )


def _fingerprint(weights: str, classes: int) -> str:
    """Return the sha256 of a weights file. Raises UserError if its network has another number of classes."""
    network = predictor(weights).network
    if network.spec.exclusive != classes:
        raise UserError(
            f"{weights} has {network.spec.exclusive} classes and this stage needs {classes}; "
            "locate takes a network of 2 classes, segment one of 3"
        )
    return network.fingerprint
