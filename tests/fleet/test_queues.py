"""A queue that anybody can write to: what is not a message is put aside once, and no name in it is used as a path."""

import json
import logging
import os
import time
import uuid

import pytest
from test_worker import drain
from toy_stages import toy_run

from flysoma.tasks.fleet.messages import MAX_BYTES, BadMessage, decode, encode
from flysoma.tasks.fleet.queues import open_queue
from flysoma.tasks.stages.catalog import state_path

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def run(tmp_path):
    """A run whose stage `first` has started."""
    run = toy_run(tmp_path / "run", 3)
    run.store.put_json(state_path("first"), {"total": 3, "started": 1.0})
    return run


@pytest.fixture
def queue(run, tmp_path):
    """Its three messages."""
    queue = open_queue(f"fq://{tmp_path}/q")
    queue.put((run.path, "first", index) for index in range(3))
    return queue


def write_message(folder, text, ident=None):
    path = folder / f"0--{ident or uuid.uuid4()}.json"
    path.write_text(text)
    return path


def message(run, stage="first", index=0, **fields):
    return json.dumps(encode((run, stage, index)) | fields)


def make_folder(path):
    (path / "inside").mkdir(parents=True)


def make_large(path):
    with open(path, "wb") as file:
        file.truncate(50_000_000)


FILES = {
    "fifo": os.mkfifo,
    "folder": make_folder,
    "broken link": lambda path: path.symlink_to("/nowhere/at/all"),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "link to a folder": lambda path: path.symlink_to("/etc"),
    "50 MB": make_large,
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "no permission": lambda path: (path.write_text("x"), path.chmod(0)),
    "deep JSON": lambda path: path.write_text("[" * 60_000),
    "long number": lambda path: path.write_text("9" * 60_000),
    "surrogate": lambda path: path.write_text(message("/x\ud800y")),
    "NUL": lambda path: path.write_text(message("/x\0y")),
    "line break": lambda path: path.write_text(message("/x\ny")),
    "long name": lambda path: path.write_text(message("/" + "x" * 300)),
    "long path": lambda path: path.write_text(message("/x" * 600)),
    "long stage": lambda path: path.write_text(message("/x", "y" * 300)),
    "a file as a run": lambda path: path.write_text(message("file:///dev/null/run")),
    "large index": lambda path: path.write_text(message("file:///", index=10**400)),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.timeout(60)
def test_poison_is_put_aside_once_with_one_short_line(kind, run, queue, tmp_path, caplog):
    path = tmp_path / f"q/queue/0--{uuid.uuid4()}.json"
    FILES[kind](path)
    caplog.set_level(logging.WARNING)
    assert drain(queue) == 3 and queue.is_empty()
    (aside,) = os.listdir(tmp_path / "q/quarantine")
    assert aside.partition("--")[2] == path.name.partition("--")[2]
    (line,) = caplog.messages
    assert len(line) < 500 and line.isprintable()
    line.encode()


@pytest.mark.parametrize("name", ["x" * 200, "a\nb", b"\xff\xfe".decode(errors="surrogateescape")])
def test_a_file_of_another_name_is_put_aside(name, run, queue, tmp_path, caplog):
    (tmp_path / "q/queue" / name).write_text("x")
    assert drain(queue) == 3 and queue.is_empty()
    (line,) = caplog.messages
    assert len(line) < 500 and line.isprintable()


def test_a_lease_that_ends_in_the_far_future_is_put_aside(run, queue, tmp_path):
    (tmp_path / f"q/queue/99999999999--{uuid.uuid4()}.json").write_text(message(run.path))
    assert drain(queue) == 3 and queue.is_empty()


def test_an_id_in_a_message_is_never_a_path(run, queue, tmp_path):
    victims = tmp_path / "victims"
    victims.mkdir()
    named = victims / "thesis.tex"
    files = {victims / "only_copy": "precious", victims / "list": str(named), named: "thesis"}
    for path, text in files.items():
        path.write_text(text)
        write_message(tmp_path / "q/queue", message(run.path, id=str(path)))
        write_message(tmp_path / "q/queue", message(run.path, "no_stage", id=str(path)))
        write_message(tmp_path / "q/queue", message("/nowhere", id=f"../../victims/{path.name}"))
    drain(queue)
    assert queue.is_empty() and run.store.indices("receipts/first") == {0, 1, 2}
    assert {path: path.read_text() for path in victims.iterdir()} == files


def test_files_beside_the_messages_are_never_followed(run, queue, tmp_path):
    """taskqueue lists in `movement/ID` the files that it deletes with a message."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "q/movement").mkdir()
    for name in os.listdir(tmp_path / "q/queue"):
        ident = name.partition("--")[2].removesuffix(".json")
        (tmp_path / "q/movement" / ident).write_text("../../victim\n")
    assert drain(queue) == 3 and victim.read_text() == "precious"


def test_no_link_below_the_folder_of_a_queue_is_followed(run, queue, tmp_path, caplog):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "q/quarantine").symlink_to(elsewhere)
    (tmp_path / "q/queue/autostart.desktop").write_text("evil")
    assert drain(queue) == 3 and queue.is_empty() and not list(elsewhere.iterdir())
    assert len(caplog.messages) == 1 and "skipped" in caplog.text
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/queue").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        open_queue(f"fq://{tmp_path}/linked")


def test_a_message_survives_encoding_and_only_small_ones_are_read():
    task = ("gs://bucket/run", "first", 7)
    assert decode(json.dumps(encode(task))) == task
    with pytest.raises(BadMessage, match="bytes"):
        decode(json.dumps(encode(task)) + " " * MAX_BYTES)


BODIES = [None, 7, "x", [1], {"payload": None}, {"payload": {}}, {"payload": "x"}, {"payload": [1]}]
PARTS = {  # wrong values, by the place in a payload
    0: [["os", "system"], ["pickle", "loads"], "x", None, []],
    1: [None, 7, "x", [], ["/x", "first"], ["/x", "first", 0, 0], {"run": "/x"}],
    2: [{"x": 1}, [1], "x"],
}
NAMES = {  # wrong values, by the place in a task
    0: [None, 7, [], {}, "/x\0", "/x\ud800", "/x\ny", "/" + "x" * 300, "/x" * 600],
    1: [None, 7, [], "y\0", "y" * 300],
    2: [None, "0", 1.0, True, [], {}],
}


def bad_bodies():
    yield from BODIES
    for parts, path in ((PARTS, []), (NAMES, [1])):
        for place, values in parts.items():
            for value in values:
                body = encode(("/x", "first", 0))
                within = body["payload"]
                for step in path:
                    within = within[step]
                within[place] = value
                yield body


def test_no_other_body_is_a_message():
    bodies = list(bad_bodies())
    assert len(bodies) > 38
    for body in bodies:
        with pytest.raises(BadMessage) as caught:
            decode(json.dumps(body))
        assert str(caught.value).isprintable(), body


def test_an_expired_lease_changes_nothing_for_the_next_worker(tmp_path):
    first, second = (open_queue(f"fq://{tmp_path}/q") for _ in range(2))
    first.put([("/run", "first", 0)])
    expired = first.lease(0)
    lease = second.lease(60)
    with pytest.raises(FileNotFoundError):
        first.renew(expired, 60)
    first.delete(expired)
    assert not second.is_empty() and first.lease(60) is None
    second.renew(lease, 60)
    second.delete(lease)
    assert first.is_empty()


def test_workers_that_compete_never_lease_a_message_twice(tmp_path):
    queues = [open_queue(f"fq://{tmp_path}/q") for _ in range(4)]
    queues[0].put(("/run", "first", index) for index in range(40))
    leases = [queues[number % 4].lease(60) for number in range(41)]
    assert leases[-1] is None
    assert sorted(lease.index for lease in leases[:-1]) == list(range(40))


def test_a_worker_whose_clock_is_ahead_takes_no_leased_message(tmp_path, monkeypatch):
    first = open_queue(f"fq://{tmp_path}/q")
    first.put([("/run", "first", 0)])
    assert first.lease(60)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    assert open_queue(f"fq://{tmp_path}/q").lease(60) is None
