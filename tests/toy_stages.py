"""Stages that compute nothing and fail on request; as a script, a worker or a coordinator of them.

A run's `toy.json` says what each task of stage `first` does: {"3": ["raise", "ValueError"], "4": ["sleep", 8]}. The
stage `second` has one task. Every execution writes an object below `executions/`.
"""

import errno
import os
import sys
import tempfile
import time
import uuid

from flysoma.errors import HostError, UserError
from flysoma.tasks.coordination import coordinator
from flysoma.tasks.faults import RETIRED_CODE
from flysoma.tasks.fleet import status, worker
from flysoma.tasks.fleet.patience import patiently
from flysoma.tasks.run import Run
from flysoma.tasks.stages import catalog
from flysoma.tasks.stages.stage import SimpleStage, Stage
from flysoma.tasks.storage.store import RunStore

ERRORS = {
    "ValueError": ValueError,
    "ConnectionResetError": ConnectionResetError,
    "UserError": UserError,
    "EMFILE": lambda text: OSError(errno.EMFILE, text),
}


class First(Stage):
    name = "first"
    gpu = True
    scratch = ("out/",)

    def prepare(self):
        self.run.store.put(f"prepared/{uuid.uuid4()}", b"")

    def plan(self):
        return range(self.run.store.get_json("toy.json")["tasks"])

    def read(self, index):
        return self.run.store.get_json("toy.json").get(str(index), [None])

    def work(self, index, data):
        store = self.run.store
        store.put(f"executions/{index}-{uuid.uuid4()}", b"")
        match data:
            case ["raise", kind]:
                raise ERRORS[kind]("as requested")
            case ["raise", kind, times] if len(store.names(f"executions/{index}-")) <= times:
                raise ERRORS[kind]("as requested")
            case ["sleep", seconds]:
                time.sleep(seconds)
            case ["scratch"]:
                with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR")) as file:
                    file.write(bytes(1 << 20))
            case ["device"] if os.environ.get("TOY_DEVICE") == "sick":
                import torch

                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            case ["exit", times] if len(store.names(f"executions/{index}-")) <= times:
                os._exit(9)
        return f"result of {index}".encode()

    def write(self, index, result):
        self.run.store.put(f"out/{index}", result)
        return {"voxels": 1}

    def finish(self):
        return {"sum": len(self.run.store.names("out/"))}


class Second(SimpleStage):
    name = "second"
    gpu = False

    def plan(self):
        return [0]

    def work(self, index, data):
        return {"seen": len(self.run.store.names("out/"))}


def install(patch=setattr):
    """Replace the stages of every run by these."""
    for module in (catalog, coordinator, status):
        patch(module, "STAGES", [First, Second])


def toy_run(path, tasks, **actions):
    """Begin a run with this many tasks; actions: by index, with an underscore in front."""
    run = Run.open(_write_config(path))
    toy = {"tasks": tasks} | {name.strip("_"): action for name, action in actions.items()}
    run.store.put_json("toy.json", toy)
    return run


def wait_until(true, seconds=60):
    """Wait until a function returns something true; fail after this many seconds."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def _write_config(path):
    RunStore(str(path)).put("config.yaml", f"image: {path}-em\noutput: {path}\n".encode())
    return str(path)


if __name__ == "__main__":
    install()
    verb, queue, *options = sys.argv[1:]
    if verb == "work":
        named = dict(zip(options[::2], options[1::2]))
        runs, lease = tuple(filter(None, [named.pop("runs", None)])), int(named.pop("lease_s", 120))
        numbers = {name: float(value) for name, value in named.items()}
        try:
            worker.work(queue, worker.WorkerOptions(lease_s=lease, runs=runs, **numbers))
        except HostError:
            sys.exit(RETIRED_CODE)
    else:
        run_options = coordinator.RunOptions(gpu=queue, workers=0)
        patiently(
            lambda: coordinator.execute_run(
                Run.open(options[0]), run_options, lambda *_: None, print
            ),
            print,
        )
