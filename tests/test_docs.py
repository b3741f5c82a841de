"""README and guide say only what the command understands, and link only to what is there."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from flysoma.models.train_config import TrainConfig
from flysoma.scripts.cli import COMMANDS, cli
from flysoma.tasks.config import parse_config, validated

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDED = "image: file:///image\noutput: file:///output\n"


def blocks(page, *kinds):
    """The fenced blocks of a page in some languages; "" is none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [text for kind, text in found if kind in kinds]


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request):
    return request.param


def test_every_command_is_understood(page):
    lines = "".join(blocks(page, "", "sh")).splitlines()
    said = re.findall(r"`(flysoma [a-z]+ .*?)`", page.read_text())
    for line in [*lines, *said]:
        words = shlex.split(line.replace("\\", ""), comments=True) if "flysoma" in line else []
        if words[:1] != ["flysoma"] or len(words) < 2:
            continue
        assert words[1] in COMMANDS, line
        if len(words) == 2:
            continue
        numbers = iter("1 2 3".split())
        filled = [next(numbers) if word in ("X", "Y", "Z", "N") else word for word in words[2:]]
        cli.get_command(None, words[1]).make_context(words[1], filled)


def test_every_config_is_one(page):
    for text in blocks(page, "yaml"):
        keys = yaml.safe_load(text).keys()
        if "data" in keys:
            validated(TrainConfig, yaml.safe_load(text) | {"role": "segment"}, page.name)
            continue
        missing = "".join(
            line + "\n" for line in NEEDED.splitlines() if line.split(":")[0] not in keys
        )
        parse_config(missing + text, page.name)


def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_every_error_that_is_explained_is_one():
    """What the first column of a table says in quotes stands in the code, but for what varies."""
    source = "".join(
        path.read_text()
        for folder in ("tasks", "scripts", "analysis", "models")
        for path in (ROOT / folder).rglob("*.py")
    )
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    page = ROOT / "docs/troubleshooting.md"
    told = re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.M)
    assert len(told) > 15
    for message in told:
        for piece in message.split("..."):
            assert piece.strip() in source, message


def parts(command):
    """The commands of a group."""
    return getattr(command, "commands", {}).values()


def test_every_option_that_is_named_exists():
    known = {
        option
        for name in COMMANDS
        for command in (cli.get_command(None, name), *parts(cli.get_command(None, name)))
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    known |= {"--version", "--help"}
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", page.read_text()):
            if code.split()[0] in ("kubectl", "docker", "helm", "pip", "make"):
                continue
            for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code):
                assert option in known, f"{page.name}: {option}"
