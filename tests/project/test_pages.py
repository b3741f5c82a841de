"""What the guide's other pages tell to type: what takes hours is begun and stopped by Ctrl-C, what asks a cloud asks a
stand-in."""

import json
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import termios
import textwrap
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import numpy as np
import pytest
import tifffile
import yaml
from object_stores import AWS, moto
from PIL import Image
from test_docs import ROOT, blocks
from test_guides import BIN, heed_ctrl_c

from flysoma.analysis.viewer.browser import find_browser
from flysoma.models.phantom.make import make_phantom
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.precomputed import create_layer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def flysoma_lines(page):
    """The commands of ours in a page's blocks, as words."""
    lines = "".join(blocks(ROOT / "docs" / page, "")).replace("\\\n", "").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("flysoma ")]


def completed(words, folder):
    done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def begun(words, folder, made="."):
    """Begin on a terminal what takes long, and press Ctrl-C as soon as it says a word and has made a file."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (25, 80))
    with subprocess.Popen(
        words,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=its,
        stdout=its,
        stderr=its,
        preexec_fn=heed_ctrl_c,
    ) as process:
        os.close(its)
        said = os.read(ours, 1000)
        while not (folder / made).exists():
            said += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # it is gone
            while more := os.read(ours, 1000):
                said += more
    os.close(ours)
    assert process.returncode == 130 and b"flysoma: interrupted" in said, (words, said.decode())


def few(text):
    """A training's config with few steps and small patches."""
    short = {"steps": 2, "judge_every": 2, "patch": [32, 64, 64], "bf16": False}
    return yaml.safe_dump(yaml.safe_load(text) | short)


def test_training(tmp_path):
    configs = [text for text in blocks(ROOT / "docs/training.md", "yaml") if "data:" in text]
    (tmp_path / "lab.yaml").write_text(few(configs[1]))
    (tmp_path / "config.yaml").write_text(few("data: [{phantoms: 1, held_out: 1}]"))
    alone, locate, adapt, demo, lab = flysoma_lines("training.md")
    begun(alone, tmp_path)
    completed(locate, tmp_path)
    begun(demo, tmp_path, made="lab/run")
    adapt[adapt.index("precomputed://gs://bucket/em")] = "lab/em"
    begun(adapt, tmp_path)
    completed(lab, tmp_path)
    for name in ("locate", "lab"):
        scores = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(scores["sha256"]) == 64 and scores["scores_on_held_out"]


def test_benchmark(tmp_path):
    phantom = make_phantom((48, 128, 128), (40.0, 64.0, 64.0), 177, "typical", scene="rind")
    tifffile.imwrite(tmp_path / "IMAGE.tif", phantom.image)
    tifffile.imwrite(tmp_path / "TRUTH.tif", phantom.labels.astype(np.uint16))
    (tmp_path / "NUCLEI.csv").write_text("x_nm,y_nm,z_nm\n4000,4000,1000\n")
    files = {"IMAGE": "IMAGE.tif", "PRED": "TRUTH.tif", "TRUTH": "TRUTH.tif"}
    files |= {"X": "64", "Y": "64", "Z": "40"}
    (tmp_path / "FOLDER/empty").mkdir(parents=True)
    Image.fromarray(phantom.image[24]).save(tmp_path / "FOLDER/empty/section.png")
    *begin, nuclei, look, evaluate = [
        [files.get(word, word) for word in words] for words in flysoma_lines("benchmark.md")
    ]
    assert [words[2] for words in begin] == ["accuracy", "accuracy", "real"]
    for words in begin:
        begun(words, tmp_path)
    assert "classical" in completed(nuclei, tmp_path)
    completed(look, tmp_path)
    assert (tmp_path / "look.png").stat().st_size > 1000
    assert "1.000" in completed(evaluate, tmp_path)
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_the_plan_of_a_whole_brain_is_what_the_page_shows(tmp_path):
    page = (ROOT / "docs/running.md").read_text()
    before, shown = re.search(
        r"(empty image of [^`]+):\n\n```\n(stage .*?)```", page, re.S
    ).groups()
    width, height, depth = map(int, re.search(r"(\d+) x (\d+) x (\d+)", before).groups())
    box = Box((0, 0, 0), (width, height, depth))
    create_layer(f"file://{tmp_path}/em", "image", "uint8", (64, 64, 40), box)
    config = yaml.safe_load((ROOT / "examples/fafb.yaml").read_text())
    config |= {"image": f"{tmp_path}/em", "output": f"{tmp_path}/run"}
    (tmp_path / "fafb.yaml").write_text(yaml.safe_dump(config))
    assert completed(["flysoma", "plan", str(tmp_path / "fafb.yaml")], ROOT) == shown


def test_performance(tmp_path):
    *speed, outputs = flysoma_lines("performance.md")
    assert len(speed) == 3
    for words in speed[:2]:
        begun(words, tmp_path)
    if find_browser() is None:
        outputs.remove("--draw")
    begun(outputs, tmp_path)


@contextmanager
def stand_in_for_google():
    """A server by which every service is enabled and all else refused; gives its address and what it was asked, path
    and body."""
    asked = []

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            asked.append((self.path, body))
            enabled = "/services/" in self.path
            refused = {"error": {"code": 400, "message": "a stand-in"}}
            answer = json.dumps({"state": "ENABLED"} if enabled else refused).encode()
            self.send_response(200 if enabled else 400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_PUT = do_PATCH = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", asked
    server.shutdown()


def kubernetes_commands(program):
    """What the page on Kubernetes tells to type of a program, with what follows the first line."""
    text = (ROOT / "docs/kubernetes.md").read_text()
    text = "".join(re.findall(r"```\n(.*?)```", text, re.S)).replace("\\\n", " ")
    commands = re.findall(rf"^ *({program} .*|for name .*)$", text, re.M)
    return [command for command in commands if program in command]


APIS = ("ARTIFACTREGISTRY", "CONTAINER", "IAM", "SERVICEUSAGE")


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="no gcloud here")
def test_google_is_asked_for_what_kubernetes_needs(tmp_path):
    commands = kubernetes_commands("gcloud")
    commands = [command for command in commands if "configure-docker" not in command]
    assert len(commands) == 9
    settings = {"CONFIG": str(tmp_path), "AUTH_DISABLE_CREDENTIALS": "true"}
    settings |= {"CORE_PROJECT": "project", "CORE_DISABLE_PROMPTS": "1"}
    with stand_in_for_google() as (url, asked):
        settings |= {f"API_ENDPOINT_OVERRIDES_{api}": url for api in APIS}
        settings["API_ENDPOINT_OVERRIDES_STORAGE"] = f"{url}storage/v1/"
        environment = os.environ | {f"CLOUDSDK_{key}": value for key, value in settings.items()}
        for command in commands:
            command = command.replace("REGION", "us-east1").replace("PROJECT", "project")
            words = shlex.split(command.replace("BUCKET", "bucket"))
            before = len(asked)
            done = subprocess.run(words, env=environment, capture_output=True, text=True)
            assert "a stand-in" in done.stderr, f"{command}\n{done.stderr}"
            assert len(asked) > before
    said = " ".join(path + body for path, body in asked)
    for word in ("nvidia-l4", "workloadIdentityConfig", "serviceAccounts", "/b/bucket/iam"):
        assert word in said, asked


@pytest.mark.skipif(shutil.which("aws") is None, reason="no aws here")
def test_amazon_makes_the_queues(monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with moto() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        text = (ROOT / "docs/kubernetes.md").read_text()
        (block,) = (b for b in re.findall(r"```\n(.*?)```", text, re.S) if "aws sqs" in b)
        told = f'aws() {{ command aws --endpoint-url {url} "$@"; }}\n'
        done = subprocess.run(
            ["bash", "-ec", told + textwrap.dedent(block)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        sqs = boto3.client("sqs")
        for name in ("flysoma-gpu", "flysoma-cpu"):
            queue = sqs.get_queue_url(QueueName=name)["QueueUrl"]
            kept = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["RedrivePolicy"])
            policy = json.loads(kept["Attributes"]["RedrivePolicy"])
            assert policy["deadLetterTargetArn"].endswith(":flysoma-dead")
            assert int(policy["maxReceiveCount"]) == 50
