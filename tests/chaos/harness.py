"""A run of worker processes and a coordinator that are disturbed at random, from a seed."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import yaml

LEASE_S = 6
FLYSOMA = [sys.executable, "-P", "-m", "flysoma.scripts.cli"]


class Chaos:
    """Keeps the processes of a run alive and disturbs them until enough were killed; then lets the run end.

    Args:
      config, queue: of the run; the queue is a folder.
      disk: folder on a disk that is filled for a while, or None.
      kills: processes to kill before the disturbances end.
    """

    def __init__(self, config, queue, *, seed, kills, workers=4, disk=None, log=None):
        self.config, self.queue, self.disk, self.kills = config, Path(queue), disk, kills
        self.rng = random.Random(seed)
        self.run_path = yaml.safe_load(Path(config).read_text())["output"]
        self.log = open(log, "ab") if log else subprocess.DEVNULL
        self.workers = [self._start("work") for _ in range(workers)]
        self.coordinator = self._start("run")
        self.seen, self.deck = set(), []
        self.frozen = {}  # time of its resumption, by process
        self.full_until = 0.0
        self.counts = Counter()

    def run(self, seconds):
        """Disturb the run until it is complete. Raises AssertionError after so many seconds."""
        until, next_strike = time.monotonic() + seconds, time.monotonic() + 8
        try:
            while self.coordinator.poll() != 0:
                assert time.monotonic() < until, f"not complete in {seconds} s: {dict(self.counts)}"
                self._look_after()
                self._duplicate()
                if time.monotonic() > next_strike and self.counts["killed"] < self.kills:
                    self._disturb()
                    next_strike = time.monotonic() + self.rng.uniform(0.3, 1.5)
                time.sleep(0.1)
        finally:
            self._end()
        return self.counts

    def _start(self, verb):
        queue = f"fq://{self.queue}"
        words = {
            "work": ["work", queue, "--runs", self.run_path, "--quiet"]
            + ["--lease-seconds", str(LEASE_S), "--grace", "2"],
            "run": ["run", self.config, "--queue", queue, "--workers", "0"],
        }[verb]
        return subprocess.Popen([*FLYSOMA, *words], stdout=self.log, stderr=self.log)

    def _look_after(self):
        """Restart dead processes, resume frozen ones, empty the disk."""
        for process, until in list(self.frozen.items()):
            if time.monotonic() > until:
                process.send_signal(signal.SIGCONT)
                del self.frozen[process]
        if self.full_until and time.monotonic() > self.full_until:
            (Path(self.disk) / "filler").unlink()
            self.full_until = 0.0
        self.workers = [self._start("work") if w.poll() is not None else w for w in self.workers]
        if self.coordinator.poll() not in (None, 0):
            if self.coordinator.returncode > 0 and not self.disk:
                raise AssertionError(f"the coordinator ended with {self.coordinator.returncode}")
            self.coordinator = self._start("run")

    def _disturb(self):
        """Draw a disturbance from a shuffled deck that holds each; one without a target stays in the deck."""
        if not self.deck:
            self.deck = [self._kill_worker] * 4 + [self._kill_coordinator] * 2
            self.deck += [self._freeze, self._corrupt, self._garbage, self._lose]
            if self.disk and not self.counts["disk filled"]:
                self.deck.append(self._fill_disk)
            self.rng.shuffle(self.deck)
        strike = self.deck.pop()
        before = sum(self.counts.values())
        strike()
        if sum(self.counts.values()) == before:
            self.deck.insert(0, strike)

    def _kill_worker(self):
        self._kill(self.rng.choice(self.workers))

    def _kill_coordinator(self):
        self._kill(self.coordinator)

    def _kill(self, process):
        self.frozen.pop(process, None)
        process.kill()
        process.wait()
        self.counts["killed"] += 1

    def _freeze(self):
        """Freeze a worker past its lease, so that another one does the same task at the same time."""
        process = self.rng.choice(self.workers)
        if process.poll() is None and process not in self.frozen:
            process.send_signal(signal.SIGSTOP)
            self.frozen[process] = time.monotonic() + LEASE_S + 3
            self.counts["frozen"] += 1

    def _messages(self):
        folder = self.queue / "queue"
        return sorted(folder.iterdir()) if folder.exists() else []

    def _corrupt(self):
        self._damage(lambda path: path.write_bytes(path.read_bytes()[:40]), "corrupted")

    def _lose(self):
        self._damage(Path.unlink, "lost")

    def _damage(self, how, name):
        messages = self._messages()
        if messages:
            with contextlib.suppress(FileNotFoundError):
                how(self.rng.choice(messages))
                self.counts[name] += 1

    def _garbage(self):
        if self._messages():
            name = self.rng.choice(["core.1234", "0--nothing.json", f"0--{uuid.uuid4()}.json"])
            (self.queue / "queue" / name).write_bytes(b'{"payload": [["os", "abort"], [], {}]}')
            self.counts["garbage"] += 1

    def _fill_disk(self):
        with contextlib.suppress(OSError), open(Path(self.disk) / "filler", "wb") as file:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        self.full_until = time.monotonic() + 3
        self.counts["disk filled"] += 1

    def _duplicate(self):
        """Put every tenth message a second time."""
        for path in self._messages():
            ident = path.name.partition("--")[2]
            if ident in self.seen:
                continue
            self.seen.add(ident)
            if len(self.seen) % 10 == 0:
                with contextlib.suppress(ValueError, TypeError, FileNotFoundError):
                    again = str(uuid.uuid4())
                    body = json.dumps(json.loads(path.read_bytes()) | {"id": again})
                    (self.queue / "queue" / f"0--{again}.json").write_text(body)
                    self.counts["twice"] += 1

    def _end(self):
        for process in [*self.workers, self.coordinator]:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in [*self.workers, self.coordinator]:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError("a process did not end on SIGTERM") from None
