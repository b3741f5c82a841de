"""What is installed, what it needs, and which folder may import which."""

import ast
import graphlib
import importlib
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import flysoma
from flysoma.tasks.stages.catalog import EXTRAS, STAGES

ROOT = Path(__file__).parents[2]
FOLDERS = ("tasks", "models", "analysis", "scripts")
SOURCES = [ROOT / name for name in ("__init__.py", "axes.py", "errors.py")] + [
    path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree in which an earlier build has left a module that is gone."""
    copy = tmp_path_factory.mktemp("tree")
    for name in (*FOLDERS, "examples", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "__init__.py",
        "axes.py",
        "errors.py",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "py.typed",
    ):
        shutil.copy(ROOT / name, copy)
    stale = copy / "build/lib/flysoma/gone.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(copy / "dist"), str(copy)], check=True)
    (path,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(path)


def test_a_wheel_holds_the_package_and_nothing_else(wheel):
    info = f"flysoma-{flysoma.__version__}.dist-info"
    names = wheel.namelist()
    assert {name.split("/")[0] for name in names} == {"flysoma", info}
    modules = {name for name in names if name.endswith(".py")}
    assert modules == {f"flysoma/{path.relative_to(ROOT)}" for path in SOURCES}
    assert {f"{info}/licenses/LICENSE", "flysoma/py.typed"} <= set(names)
    assert b"flysoma = flysoma.scripts.cli:main" in wheel.read(f"{info}/entry_points.txt")


@pytest.mark.parametrize("folder", ["models/weights", "examples"])
def test_a_wheel_holds_the_data(wheel, folder):
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    there = {f"flysoma/{path.relative_to(ROOT)}" for path in files}
    assert there == {name for name in wheel.namelist() if name.startswith(f"flysoma/{folder}/")}


def test_nothing_but_flysoma_is_importable(tmp_path):
    code = (
        "import importlib.util as u, flysoma.tasks, flysoma.models, flysoma.analysis, flysoma.scripts\n"
        "print([n for n in ('tasks', 'models', 'analysis', 'scripts', 'axes', 'errors') if u.find_spec(n)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def requirements():
    """Requirements of the core and of each extra, read from setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("CORE", "EXTRAS")
    }
    return {"core": values["CORE"], **values["EXTRAS"]}


def test_every_requirement_is_pinned_and_fits_its_pin():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    for asked in (Requirement(line) for part in requirements().values() for line in part):
        assert pins[canonicalize_name(asked.name)] in asked.specifier, asked


def imports(path):
    """Names of the modules that a file imports, relative ones as flysoma's."""
    package = ["flysoma", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from [stem] if node.module else [f"{stem}.{a.name}" for a in node.names]


def test_every_library_that_is_imported_is_asked_for():
    asked = {
        canonicalize_name(Requirement(line).name)
        for part in requirements().values()
        for line in part
    }
    providers = packages_distributions()
    for path in SOURCES:
        for name in {name.split(".")[0] for name in imports(path)}:
            if name != "flysoma" and name not in sys.stdlib_module_names:
                dists = providers.get(name, [name])  # of an extra that is not installed here
                found = {canonicalize_name(dist) for dist in dists}
                assert found & asked, f"{path.relative_to(ROOT)} imports {name}"


def test_imports_go_one_way():
    """scripts > tasks > models, analysis; the last two do not know each other; four files know cloudvolume."""
    below = {
        "scripts": {"scripts", "tasks", "models", "analysis"},
        "tasks": {"tasks", "models", "analysis"},
        "models": {"models"},
        "analysis": {"analysis"},
    }
    for path in SOURCES:
        folder = path.relative_to(ROOT).parts[0]
        for name in imports(path):
            first, _, rest = name.partition(".")
            if first == "flysoma" and rest.split(".")[0] in FOLDERS:
                assert rest.split(".")[0] in below[folder], f"{path.relative_to(ROOT)}: {name}"
            if first == "cloudvolume":
                assert path.relative_to(ROOT / "tasks").name in (
                    *("precomputed.py", "info.py", "labels.py", "shards.py", "label_chunks.py"),
                ), path


def modules_of(path):
    """Modules of flysoma that a file imports, each as its path below the root without suffix."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            stem = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            stem = "/".join(part for part in stem if part)
            for name in [f"{stem}/{alias.name}" for alias in node.names] + [stem]:
                if (ROOT / f"{name}.py").is_file():
                    yield name


def room_of(module):
    """The folder of a module; those at a layer's door are rooms of their own."""
    parts = module.split("/")
    return module if len(parts) <= 2 else "/".join(parts[:-1])


@pytest.mark.parametrize("place", [lambda module: module, room_of], ids=["files", "rooms"])
def test_imports_make_no_circle(place):
    graph = {}
    for path in SOURCES:
        here = place(str(path.relative_to(ROOT).with_suffix("")))
        graph.setdefault(here, set()).update(map(place, modules_of(path)))
        graph[here].discard(here)
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a file starts by saying what it is"
    assert len(text.splitlines()) <= 420
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.end_lineno - node.lineno + 1
            assert body <= 70, f"{node.name} has {body} lines"
            count = len(node.args.args) + len(node.args.kwonlyargs)
            commands = any("option" in ast.unparse(d) for d in node.decorator_list)
            assert count <= 9 or commands, f"{node.name} has {count} parameters"


def test_the_version_is_said_once():
    assert re.fullmatch(r"\d+\.\d+\.\d+", flysoma.__version__)
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {flysoma.__version__}" in changes


@pytest.mark.parametrize(
    ("command", "without"),
    [
        ("runs.status", {"torch", "cloudvolume", "igneous", "scipy", "matplotlib"}),
        ("runs.run", {"torch", "igneous", "kimimaro", "matplotlib"}),
        ("results.view", {"torch", "igneous"}),
    ],
)
def test_a_command_brings_in_only_what_it_needs(command, without):
    """`flysoma status` answers in a second, and a worker that needs no network does without torch."""
    code = f"import sys, flysoma.scripts.{command}; print({without!r} & sys.modules.keys() or '')"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "", done.stdout + done.stderr
    assert done.returncode == 0


def test_stages_are_called_what_the_pipeline_calls_them():
    for kind in (*STAGES, *EXTRAS):
        made = getattr(importlib.import_module(f"flysoma.tasks.stages.{kind.module}"), kind.kind)
        assert made.name == kind.name
