"""Which GPU a process uses, without one: the files and variables that tell are made here."""

import os
import subprocess

import click
import pytest
import torch
from click.testing import CliRunner

from flysoma.errors import HostError, UserError
from flysoma.models.networks import gpus
from flysoma.models.networks.engines import choose_device
from flysoma.scripts.device import device_option
from flysoma.tasks.coordination import coordinator


@pytest.fixture
def eight(monkeypatch, tmp_path):
    """A machine with eight GPUs and the folder of their devices."""
    for name in (*(f"nvidia{i}" for i in range(8)), "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def test_workers_share_all_gpus(eight, monkeypatch):
    started = []

    class Process:
        returncode = None

        def __init__(self, command, env):
            started.append(env.get("CUDA_VISIBLE_DEVICES"))

        poll = terminate = wait = lambda self: None

    monkeypatch.setattr(subprocess, "Popen", Process)
    with coordinator._workers("fq:///q", "file:///run", 10):
        pass
    assert started == [*"01234567", "0", "1"]


def test_only_visible_gpus_are_shared(eight, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1, GPU-5")
    assert [gpus.gpu_environment(n)["CUDA_VISIBLE_DEVICES"] for n in range(3)] == [
        *("GPU-1", "GPU-5", "GPU-1")
    ]
    for one in ("3", "", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", one)
        assert gpus.gpu_environment(1) == {}


@pytest.mark.parametrize(
    ("device", "visible"),
    [("cpu", ""), ("cuda", "0,1,2,3,4,5,6,7"), ("cuda:3", "3"), (None, None)],
)
def test_the_option_hides_the_other_gpus(eight, device, visible, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    said = CliRunner().invoke(
        device_option(click.command()(lambda: click.echo(str(os.getenv("CUDA_VISIBLE_DEVICES"))))),
        ["--device", device] if device else [],
    )
    assert said.output.strip() == str(visible)


@pytest.mark.parametrize("device", ["cuda:8", "cuda"])
def test_a_gpu_that_is_not_there_is_one_line(eight, device):
    if device == "cuda":
        for path in eight.iterdir():
            path.unlink()
    done = CliRunner().invoke(device_option(click.command()(lambda: None)), ["--device", device])
    assert isinstance(done.exception, UserError) and f"--device {device}" in str(done.exception)


@pytest.mark.parametrize(
    "text", ["NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  x", ""]
)
def test_a_driver_that_is_too_old_is_one_line(eight, text, monkeypatch, tmp_path):
    (tmp_path / "version").write_text(text)
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(HostError, match=r"580 or newer, and this machine has (535.183.01|none);"):
        choose_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as --device cpu sets it
    assert choose_device() == "cpu"
