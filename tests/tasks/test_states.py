"""A run whose own files are damaged is read without a traceback."""

import pytest

from flysoma.errors import UserError
from flysoma.tasks.config import parse_config
from flysoma.tasks.run import Run
from flysoma.tasks.stages.catalog import is_finished, read_state, state_path
from flysoma.tasks.storage.store import RunStore

GARBAGE = [b"", b"[1]", b'"x"', b"null", b'{"total"', b"\xff\xfe\x00", b"[" * 50_000]


@pytest.mark.parametrize(
    "text", [*GARBAGE, b'{"finished": true}', b'{"total": "x"}', b'{"history": [[1]]}'], ids=repr
)
def test_a_damaged_state_is_as_if_the_stage_had_not_begun(text, tmp_path):
    store = RunStore(str(tmp_path))
    store.put(state_path("match"), text)
    assert read_state(store, "match") == {}
    run = Run(parse_config(f"image: /em\noutput: {tmp_path}\n", "c"))
    assert not is_finished(run, "match")


@pytest.mark.parametrize("text", [*GARBAGE, b'{"versions": {"flysoma": "0.1.0"}}'], ids=repr)
def test_a_damaged_manifest_is_one_line(text, tmp_path):
    run = Run(parse_config(f"image: /em\noutput: {tmp_path}\n", "c"))
    run.store.put("manifest.json", text)
    with pytest.raises(UserError, match="manifest.json is missing or damaged") as caught:
        run.check_origin()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", GARBAGE, ids=repr)
def test_a_damaged_config_is_one_line(text, tmp_path):
    RunStore(str(tmp_path)).put("config.yaml", text)
    with pytest.raises(UserError, match="config.yaml") as caught:
        Run.open(str(tmp_path))
    assert "\n" not in str(caught.value)
