"""Of two configs that begin one output at the same time, one gets it."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from flysoma.errors import UserError
from flysoma.tasks import pipeline
from flysoma.tasks.config import RunConfig, parse_config


def test_two_configs_that_begin_one_output_at_once(volume, tmp_path, monkeypatch):
    folder, _, weights = volume
    text = f"image: {folder}/em\noutput: {tmp_path}/run\n"
    text += "".join(f"{role}: {{weights: {path}}}\n" for role, path in weights.items())
    configs = [parse_config(f"{text}soma: {{min_volume_um3: {n}}}\n", "x") for n in (2, 30)]
    barrier, real = Barrier(2), pipeline._manifest

    def manifest(run):
        barrier.wait(60)  # both have found no run
        return real(run)

    monkeypatch.setattr(pipeline, "_manifest", manifest)

    def begin(config):
        try:
            return pipeline.begin(config)
        except UserError as err:
            return str(err)

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(begin, configs))
    (refused,) = (end for end in ends if isinstance(end, str))
    assert "belongs to a run of another config (soma.min_volume_um3" in refused
    (begun,) = (end for end in ends if not isinstance(end, str))
    stored = parse_config(begun.store.get("config.yaml").decode(), "y")
    assert isinstance(stored, RunConfig) and not begun.config.differences(stored)
    assert begun.store.get_json("manifest.json")["config_hash"] == begun.config.content_hash


def test_a_run_whose_beginning_was_killed_gets_its_manifest(volume, tmp_path):
    folder, _, weights = volume
    text = f"image: {folder}/em\noutput: {tmp_path}/run\n"
    text += "".join(f"{role}: {{weights: {path}}}\n" for role, path in weights.items())
    run = pipeline.begin(parse_config(text, "x"))
    manifest = run.store.get("manifest.json")
    run.store.delete(["manifest.json"])
    pipeline.begin(run.config)
    assert run.store.get("manifest.json") == manifest
