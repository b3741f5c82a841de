"""README and guide say only what the command understands, and link only to what is there."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml

from flysoma.models.training.config import TrainConfig
from flysoma.scripts.cli import COMMANDS, cli
from flysoma.tasks.config import parse_config
from flysoma.tasks.config_files import validate

ROOT = Path(__file__).parents[2]
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/weights/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
NEEDED = "image: file:///image\noutput: file:///output\n"


def blocks(page, *kinds):
    """The fenced blocks of a page in some languages; "" is none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    return [text for kind, text in found if kind in kinds]


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
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
            validate(TrainConfig, yaml.safe_load(text) | {"role": "segment"}, page.name)
            continue
        missing = "".join(
            line + "\n" for line in NEEDED.splitlines() if line.split(":")[0] not in keys
        )
        parse_config(missing + text, page.name)


def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_and_folder_of_the_code_that_is_named_exists(name):
    named = re.findall(r"`((?:\w+/)+(?:\w+\.py)?|\w+\.py)`", (ROOT / name).read_text())
    assert named
    for path in set(named) - {"tasks/stages/density.py"}:  # an example
        there = [path, f"scripts/{path}", f"tasks/{path}"]
        assert any((ROOT / place).exists() for place in there), path


def sources():
    """The code, file by file."""
    for folder in ("tasks", "scripts", "analysis", "models"):
        yield from (path.read_text() for path in (ROOT / folder).rglob("*.py"))


def errors():
    """What every UserError in the code says, `{}` where it varies; but for those that pass on another's words."""
    for node in (node for source in sources() for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
            text = eval_text(node.args[0])
            if re.search("[a-z]{2}", text):
                yield text


def eval_text(node):
    """The words of a string or an f-string."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in parts)


def test_every_error_is_explained_and_none_that_is_not():
    """The first column of a table says it in quotes, with ... for what varies or is left out."""
    page = (ROOT / "docs/troubleshooting.md").read_text()
    told = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    shapes = [re.compile(".*".join(re.escape(p.strip()) for p in t.split("..."))) for t in told]
    said = list(errors())
    assert len(said) > 100
    assert not [text for text in said if not any(shape.search(text) for shape in shapes)]
    code = "".join(sources())
    for text, shape in zip(told, shapes):  # some are not errors, or those of a config's check
        assert any(map(shape.search, said)) or all(p.strip() in code for p in text.split("..."))


def test_the_questions_of_the_report_are_explained():
    code = (ROOT / "analysis/tables/checks.py").read_text()
    questions = re.findall(r'question = "(.+)"', code)
    page = (ROOT / "docs/running.md").read_text()
    table = page[page.index("| question |") :].partition("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1].strip() for row in table] == questions


def parts(command):
    """The commands of a group."""
    names = command.list_commands(None) if hasattr(command, "list_commands") else []
    return [command.get_command(None, name) for name in names]


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
