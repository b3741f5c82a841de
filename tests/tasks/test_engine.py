"""The engine of a run is chosen once, and a machine without it does none of its tasks."""

import pytest

from flysoma.errors import HostError
from flysoma.models.networks import engines
from flysoma.tasks.engine import choose_engine, run_engine
from flysoma.tasks.storage.store import RunStore


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this machine one with these engines."""

    def make(device, *names):
        monkeypatch.setattr(engines, "choose_device", lambda: device)
        monkeypatch.setattr(engines, "available_engines", lambda *_: list(names))

    return make


def test_the_first_worker_chooses_and_the_others_use_the_same(machine, tmp_path):
    store = RunStore(str(tmp_path))
    assert run_engine(store) is None
    machine("cuda", "torch fp16", "torch bf16")  # its compiler cannot link
    assert choose_engine(store, True) == "torch fp16"
    machine("cuda", "torch compiled fp16", "torch fp16")
    assert choose_engine(store, True) == "torch fp16"
    assert run_engine(store) == {"device": "cuda", "engine": "torch fp16"}


@pytest.mark.parametrize("other", [("cpu", "torch bf16"), ("cuda", "torch fp16")])
def test_a_machine_without_the_engine_of_the_run_is_refused(machine, tmp_path, other):
    store = RunStore(str(tmp_path))
    machine("cuda", "torch compiled fp16")
    choose_engine(store, True)
    machine(*other)
    with pytest.raises(HostError, match=f"torch compiled fp16 on cuda.* has {other[1]} on"):
        choose_engine(store, True)
