"""The Dockerfile: a linter has nothing to say, and it installs what `make` installs. No image is built here."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def test_a_linter_has_nothing_to_say():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_it_installs_what_make_installs():
    """The same pins, in the same order."""
    make = (ROOT / "Makefile").read_text()
    lines = re.findall(r"-m pip install (.*)", TEXT)
    assert lines == ['-q "$TORCH"', '-q -c constraints.txt ".[$EXTRAS]"']
    assert [line.replace("-e ", "").replace("(", "").replace(")", "") for line in
            re.findall(r"-m pip install (.*)", make)] == lines  # fmt: skip
    torch = re.search(r"ARG TORCH=(\S+)", TEXT).group(1)
    assert re.search(r"TORCH \?= (\S+)", make).group(1) == torch
    assert torch in (ROOT / "constraints.txt").read_text().splitlines()


def test_torch_is_a_layer_of_its_own_that_no_change_of_the_code_renews():
    stage = TEXT[TEXT.index("AS torch") : TEXT.index("FROM ${ON}")]
    assert "$TORCH" in stage and "COPY" not in stage
    final = TEXT[TEXT.index("FROM ${ON}") :]
    assert final.index("COPY --from=torch") < final.index("-m pip install") and "COPY ." not in TEXT


def test_only_a_container_that_is_given_a_gpu_sees_one():
    assert re.findall(r"NVIDIA_VISIBLE_DEVICES=(\w+)", TEXT) == ["void"]


def test_it_runs_as_the_user_of_the_pods_and_needs_nothing_that_is_left_out():
    assert 'ENTRYPOINT ["flysoma"]' in TEXT and "\nUSER 1000\n" in TEXT
    pod = (ROOT / "k8s/base/pod.yaml").read_text()
    assert "runAsUser: 1000" in pod and "/home/flysoma" in pod
    ignored = (ROOT / ".dockerignore").read_text().split()
    needed = {"README.md", "LICENSE", "setup.py", "constraints.txt", "models", "tasks", "scripts"}
    assert ".venv" in ignored and "tests" in ignored and not needed & set(ignored)


def test_its_check_of_health_is_the_probe_of_the_pods():
    probe = re.search(r'(test -n "\$\(find .*?\)")\'', (ROOT / "k8s/base/worker.yaml").read_text())
    assert probe.group(1) in TEXT.replace('\\"', '"')
