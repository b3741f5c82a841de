"""What a worker prints."""

import pytest
from five_balls import flysoma


@pytest.mark.parametrize("options", [[], ["--quiet"]])
def test_a_warning_is_printed_once_and_without_secrets(options, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "planted-1")
    (tmp_path / "queue").mkdir()
    (tmp_path / "queue/planted-1.txt").touch()
    done = flysoma("work", f"fq://{tmp_path}", "--until-empty", *options)
    assert done.returncode == 0
    said = done.stdout + done.stderr
    assert said.count("its name is not one of a message") == 1
    assert "planted-1" not in said and "[SOME_TOKEN]" in said
