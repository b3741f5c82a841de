"""The `flysoma` command.

Exit codes: 0 success, 1 failed tasks, 2 invalid request, 3 this machine's fault, 4 a store that cannot be reached, and
128 plus the number of a signal.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import click

from .. import __version__
from ..errors import TasksFailed
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
    "review": ("results.review", "Collect verdicts on the somas of a run."),
    "apply": ("results.apply", "Apply the edits of a review to the somas of a run."),
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
    """Run the command; report an error in one line, with the exit code of its fault."""
    for number in (signal.SIGTERM, signal.SIGHUP):  # process 1 of a container has no default action
        if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP
            signal.signal(number, _exit)
    keep_freed()
    try:
        cli(standalone_mode=False)
    except click.ClickException as err:
        err.show()
        sys.exit(2)
    except KeyboardInterrupt:
        _interrupted()
    except Exception as err:
        if isinstance(err, click.Abort):
            if not isinstance(err.__cause__, Exception):  # click makes an Abort of an EOFError too
                _interrupted()
            err = err.__cause__
        from ..tasks.faults import Fault

        fault = Fault.of(err)
        if fault.kind == "error" and not isinstance(err, TasksFailed):
            raise err
        _fail(fault.text, fault.rule.exit_code)


def _exit(number: int, _: object) -> None:
    """End because of a signal, through every `finally`."""
    sys.exit(128 + number)


def _interrupted() -> NoReturn:
    _fail("interrupted; repeat the command to resume or restart", 128 + signal.SIGINT)


def _fail(text: str, code: int) -> NoReturn:
    click.echo("flysoma: " + " ".join(text.split()), err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
