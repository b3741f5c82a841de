"""`flysoma review`: the verdicts of people on the somas of a run."""

from __future__ import annotations

import getpass
from collections import Counter
from pathlib import Path

import click

from ...errors import UserError
from ...tasks.review.edits import LOG, EditLog, conflicts
from ...tasks.review.importing import read_edits
from ...tasks.run import Run
from ...tasks.storage.store import writable_cloudpath


@click.command("review")
@click.argument("path", metavar="RUN")
@click.option(
    "--import",
    "file",
    type=click.Path(path_type=Path),
    help="File of verdicts: a CSV with the columns x,y,z,verdict, or an edit in JSON per line.",
)
@click.option(
    "--voxels", is_flag=True, help="Positions in the CSV are voxels of RUN/somas, not nm."
)
@click.option(
    "--by", help="Name for the verdicts that state none; default: the name of your account."
)
def command(path: str, file: Path | None, voxels: bool, by: str | None) -> None:
    """Collect verdicts on the somas of a run.

    The log RUN/review/edits.jsonl keeps all verdicts. The command prints their number by kind, and the somas on which
    people disagree.
    """
    run = Run.open(path)
    log = EditLog(run.store)
    if file is not None:
        writable_cloudpath(run.path)
        edits = read_edits(run, file, by or _account(), voxels)
        new = log.append(edits)
        click.echo(f"{file}: {new} new edits, {len(edits) - new} in the log already")
    edits = log.read()
    kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(Counter(e.edit for e in edits).items()))
    click.echo(f"{run.path}/{LOG}: {len(edits)} edits{f': {kinds}' if kinds else ''}")
    for soma, verdicts in conflicts(edits):
        said = "; ".join(f"{person}: {verdict}" for person, verdict in sorted(verdicts.items()))
        click.echo(f"conflict on soma {soma}: {said}")


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        raise UserError("this account has no name; give yours with --by") from None
