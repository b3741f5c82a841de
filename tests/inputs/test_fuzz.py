"""300 bad requests over all commands: no traceback, no hang, one line and an exit code."""

import shlex
import signal
import traceback

import pytest
import tenacity
from bad_requests import Requests
from cloudfiles.interfaces import HttpInterface

from flysoma.scripts import cli

REQUESTS, SEED = 300, 20261130
LIMIT_S = 60


class Hang(BaseException):
    """A request took too long; not an Exception, so that nothing handles it."""


def stop(*_):
    raise Hang


@pytest.mark.slow
def test_no_bad_request_ends_in_a_traceback(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "keep_freed", lambda: None)
    for method in (HttpInterface.get_file, HttpInterface.head, HttpInterface.exists):
        monkeypatch.setattr(method.retry, "stop", tenacity.stop_after_attempt(1))
    (tmp_path / "fuzz").mkdir()
    requests = Requests(tmp_path / "fuzz", SEED)
    signal.signal(signal.SIGALRM, stop)
    wrong, commands = [], set()
    for _ in range(REQUESTS):
        words = requests.make()
        commands.add(words[0])
        problem = attempt(words, monkeypatch)
        told = capfd.readouterr().err
        if problem is None and "Traceback" in told:
            problem = told
        if problem:
            wrong.append(f"flysoma {shlex.join(words)[:300]}\n{problem[-1500:]}")
    assert not wrong, f"{len(wrong)} of {REQUESTS}:\n\n" + "\n\n".join(wrong)
    assert commands >= {"ingest", "predict", "evaluate", "look", "plan", "run", "work", "train"}


def attempt(words, monkeypatch):
    """Make one request; return what is wrong with its end, or None."""
    monkeypatch.setattr("sys.argv", ["flysoma", *words])
    signal.alarm(LIMIT_S)
    try:
        cli.main()
    except SystemExit as end:
        # 4: nobody answers at an address.
        return None if end.code in (0, 1, 2, 4) else f"exit code {end.code}"
    except Hang:
        return f"longer than {LIMIT_S} s"
    except BaseException:  # noqa: BLE001  whatever it is, a user would see it
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return None
