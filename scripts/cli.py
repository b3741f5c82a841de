"""The `flysoma` command. Exit codes: 0 success, 1 failed tasks, 2 invalid request."""

from __future__ import annotations

import sys

import click

from .. import __version__
from ..errors import TasksFailed, explain
from ..tasks.fleet.memory import keep_freed
from .groups import LazyGroup
from .logs import log_warnings

# Name of each command: its module below this folder and the first line of its help, in the order of `flysoma --help`.
COMMANDS = {
    "demo": ("demo", "Run the whole pipeline on a phantom and score the result."),
    "ingest": ("volumes.ingest", "Convert a file to a precomputed layer."),
    "look": ("volumes.look", "Measure the look of an image, without labels."),
    "predict": ("volumes.predict", "Segment the somas of one 3D block in a file."),
    "plan": ("runs.plan", "Estimate the tasks, voxels and gigabytes of a run."),
    "run": ("runs.run", "Execute a run, or resume it."),
    "work": ("runs.work", "Execute tasks from a queue."),
    "status": ("runs.status", "Show the progress of a run, stage by stage."),
    "enqueue": ("runs.enqueue", "Enqueue the unfinished tasks of one stage."),
    "retry": ("runs.retry", "Enqueue the tasks that failed permanently."),
    "clean": ("runs.clean", "Delete the intermediate objects of a finished run."),
    "view": ("results.view", "Open a run in neuroglancer."),
    "publish": ("results.publish", "Copy the results of a run to a bucket or folder."),
    "link": ("results.link", "Link each soma to the segments of a neuron segmentation."),
    "evaluate": ("results.evaluate", "Score a segmentation against ground truth."),
    "compare": ("results.compare", "List the differences between the somas of two runs."),
    "train": ("networks.train", "Train a network on phantoms and annotated volumes."),
    "adapt": ("networks.adapt", "Adapt a network to the look of an image, without labels."),
    "bench": ("bench.command", "Measure the accuracy and speed of flysoma on this machine."),
}
SECTIONS = {
    "": "Getting started",
    "volumes": "Volumes",
    "runs": "Runs",
    "results": "Results",
    "networks": "Networks",
    "bench": "Benchmarks",
}


@click.group(cls=LazyGroup, package=__package__, entries=COMMANDS, sections=SECTIONS)
@click.version_option(__version__, prog_name="flysoma")
def cli() -> None:
    """Find every neuron cell body (soma) in a brain-sized EM volume."""
    log_warnings()


def main() -> None:
    """Run the command; report a user's error in one line with exit code 2, failed tasks with exit code 1."""
    keep_freed()
    try:
        cli(standalone_mode=False)
    except TasksFailed as err:
        _fail(str(err), 1)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted; repeat the command to resume or restart", 1)
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
