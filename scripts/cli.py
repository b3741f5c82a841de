"""The `flysoma` command. Exit codes: 0 done, 1 the work failed, 2 the request was wrong."""

from __future__ import annotations

import importlib
import logging
import sys

import click

from .. import __version__
from ..errors import TasksFailed, explain
from ..tasks.fleet.memory import keep_freed

# the command's name and the module of this folder whose `command` it is, in the order of the help
COMMANDS = {
    "demo": "demo",
    "ingest": "volumes.ingest",
    "plan": "runs.plan",
    "run": "runs.run",
    "work": "runs.work",
    "status": "runs.status",
    "enqueue": "runs.enqueue",
    "retry": "runs.retry",
    "clean": "runs.clean",
    "view": "results.view",
    "publish": "results.publish",
    "link": "results.link",
    "look": "volumes.look",
    "predict": "volumes.predict",
    "evaluate": "results.evaluate",
    "compare": "results.compare",
    "train": "networks.train",
    "bench": "bench.command",
}


class _Commands(click.Group):
    """Commands whose modules are imported when they are asked for: torch alone takes seconds."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f".{COMMANDS[name]}", __package__).command


@click.command(cls=_Commands)
@click.version_option(__version__, prog_name="flysoma")
def cli() -> None:
    """Find every neuron cell body in a brain-sized EM volume."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, failed work is exit code 1."""
    keep_freed()
    try:
        cli(standalone_mode=False)
    except TasksFailed as err:
        _fail(str(err), 1)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; the same command goes on from here, or begins anew", 1)
    except Exception as err:
        text = explain(err)
        if text is None:
            raise
        _fail(text, 2)


def _fail(text: str, code: int) -> None:
    click.echo("flysoma: " + " ".join(text.split()), err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
