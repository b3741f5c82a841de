"""`flysoma --help`: quick, complete, and the same words as each command's own help."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from flysoma.scripts.bench.command import COMMANDS as BENCHMARKS
from flysoma.scripts.bench.command import command as bench
from flysoma.scripts.cli import COMMANDS, SECTIONS, cli

SCRIPTS = Path(__file__).parents[2] / "scripts"
HEAVY = {"torch", "numpy", "scipy", "pandas", "cloudvolume", "cloudfiles", "matplotlib", "tqdm"}


def run_help(*words):
    """Print a group's help in a process of its own; return the help and the modules that it imported."""
    code = f"import sys; sys.argv[:] = {['flysoma', *words, '--help']}; from flysoma.scripts.cli import main; main()"
    code += "; print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("words", [(), ("bench",)])
def test_help_imports_neither_libraries_nor_the_modules_of_commands(words):
    _, modules = run_help(*words)
    assert not modules & HEAVY
    ours = {name for name in modules if name.startswith("flysoma.") and "__init__" not in name}
    commands = {f"flysoma.scripts.{module}" for module, _ in COMMANDS.values()}
    assert ours & commands <= {"flysoma.scripts.bench.command"} and "click" in modules


def test_help_takes_at_most_0_3_seconds_of_processor_time():
    def used():
        times = resource.getrusage(resource.RUSAGE_CHILDREN)
        return times.ru_utime + times.ru_stime

    seconds = []
    for _ in range(3):
        before = used()
        command = [sys.executable, "-P", "-m", "flysoma.scripts.cli", "--help"]
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(used() - before)
    assert min(seconds) <= 0.3


@pytest.mark.parametrize(("group", "entries"), [(cli, COMMANDS), (bench, BENCHMARKS)])
def test_summaries_are_the_first_lines_of_the_commands_own_help(group, entries):
    for name, (_, summary) in entries.items():
        command = group.get_command(None, name)
        assert command.name == name
        assert command.help.splitlines()[0] == summary
        assert len(summary) < 66, "the help wraps a longer line"


def test_help_lists_every_command_under_the_heading_of_its_room():
    text, _ = run_help()
    parts = re.split(r"^([A-Z][a-z ]+):$", text, flags=re.M)[1:]
    listed = {
        name: heading
        for heading, body in zip(parts[::2], parts[1::2])
        if heading != "Options"
        for name in re.findall(r"^  (\w+)  ", body, re.M)
    }
    rooms = {name: module.rpartition(".")[0] for name, (module, _) in COMMANDS.items()}
    assert listed == {name: SECTIONS[room] for name, room in rooms.items()}


def test_every_command_that_is_written_is_listed():
    written = {
        ".".join(path.relative_to(SCRIPTS).with_suffix("").parts)
        for path in SCRIPTS.rglob("*.py")
        if re.search(r"^@click\.(command|group)\(\"", path.read_text(), re.M)
    }
    listed = {module for module, _ in COMMANDS.values()}
    listed |= {f"bench.{module}" for module, _ in BENCHMARKS.values()}
    assert written == listed


def test_every_option_has_a_help_text():
    groups = ((cli, COMMANDS), (bench, BENCHMARKS))
    for command in (group.get_command(None, name) for group, names in groups for name in names):
        for parameter in command.params:
            if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False):
                assert parameter.help, f"{command.name} {parameter.opts}"
