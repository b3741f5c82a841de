"""The `flysoma` command. Exit codes: 0 done, 1 the work failed, 2 the request was wrong."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

import click

from .. import __version__
from ..errors import UserError
from .ingest import command as ingest


@click.group()
@click.version_option(__version__, prog_name="flysoma")
def cli() -> None:
    """Find every neuron cell body in a brain-sized EM volume."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")


@cli.command()
@click.argument("config", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(config: str, as_json: bool) -> None:
    """Show the blocks, voxels and gigabytes that CONFIG asks for; writes nothing."""
    from ..tasks.config import load_config
    from ..tasks.pipeline import estimate
    from ..tasks.run import Run

    rows = estimate(Run(load_config(config)))
    _table(rows, as_json, f"{'stage':10} {'blocks':>8} {'voxels':>16} {'read GB':>10}", lambda r: (
        f"{r['stage']:10} {r['blocks']:8d} {r['voxels']:16,d} {r['read_gb']:10.3f}"
    ))


@cli.command()
@click.argument("config", type=click.Path())
@click.option("--workers", type=click.IntRange(0), default=os.cpu_count(), show_default="cores")
@click.option("--queue", help="sqs://NAME or fq://PATH; default: a queue of this run's own.")
@click.option("--cpu-queue", help="Where the stages that run no network go; default: --queue.")
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
def run(
    config: str, workers: int, queue: str | None, cpu_queue: str | None, until: str | None
) -> None:
    """Do what CONFIG asks for; goes on where an earlier run of it stopped."""
    from ..tasks.config import load_config
    from ..tasks.pipeline import STAGES, Queues, begin, execute_run

    asked = load_config(config)
    url = queue or asked.queue
    if until is not None and until not in [s.name for s in STAGES]:
        raise UserError(f"no stage '{until}'; there are: {', '.join(s.name for s in STAGES)}")
    if workers == 0 and url is None:
        raise UserError("--workers 0 leaves the work to workers elsewhere: name their --queue")
    if workers and cpu_queue is not None:
        raise UserError("--cpu-queue is for workers elsewhere: add --workers 0")
    begun = begin(asked)
    with _Bars() as bars:
        execute_run(begun, workers, Queues(url, cpu_queue), until, bars)
    click.echo(f"done: {begun.path}")


@cli.command()
@click.argument("queue")
@click.option("--until-empty", is_flag=True, help="Stop when the queue holds no task.")
@click.option("--liveness", metavar="FILE", help="A file to touch while alive, for Kubernetes.")
def work(queue: str, until_empty: bool, liveness: str | None) -> None:
    """Do the tasks of QUEUE until stopped by SIGTERM or Ctrl-C."""
    from ..tasks.worker import work as work_on

    work_on(queue, until_empty, liveness)


@cli.command()
@click.argument("path", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(path: str, as_json: bool) -> None:
    """Show how far RUN has come, stage by stage."""
    from ..tasks.pipeline import status as state
    from ..tasks.run import Run

    rows = state(Run.open(path))
    _table(rows, as_json, f"{'stage':12} {'done':>8} {'failed':>8} {'total':>8}", lambda r: (
        f"{r['stage']:12} {r['done']:8d} {r['failed']:8d} "
        f"{'-' if r['total'] is None else r['total']:>8}{' finished' if r['finished'] else ''}"
    ))


cli.add_command(ingest)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2, failed work is exit code 1."""
    from ..tasks.pipeline import TasksFailed

    try:
        cli(standalone_mode=False)
    except UserError as err:
        _fail(str(err), 2)
    except TasksFailed as err:
        _fail(str(err), 1)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped; 'flysoma run' goes on from here", 1)


def _fail(text: str, code: int) -> None:
    click.echo("flysoma: " + " ".join(text.split()), err=True)
    sys.exit(code)


def _table(rows: list[dict[str, Any]], as_json: bool, head: str, line: Any) -> None:
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(head)
    for row in rows:
        click.echo(line(row))


class _Bars:
    """A bar a stage on a terminal, a line a stage elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.stage = ""

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage != self.stage:
            self.__exit__()
            self.stage = stage
            self.bar = tqdm(total=total, desc=f"{stage:12}", disable=not sys.stderr.isatty())
        self.bar.update(done - self.bar.n) if not self.bar.disable else None
        if done == total and self.bar.disable:
            click.echo(f"{stage}: {total} tasks", err=True)


if __name__ == "__main__":
    main()
