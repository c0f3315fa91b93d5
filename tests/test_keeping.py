# SPDX-License-Identifier: MIT
"""What keeps events and what reads them holds up no hook, and fails alone."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import PATIENCE_S, TESTS, eventually
from server import EventServer, wal
from server.store import Store
from test_kept import Link, request_of
from test_server import (
    EVENT,
    Command,
    connected,
    event_bytes,
    fixture_command,  # noqa: F401 - a fixture
    get,
    http_request,
    post,
)

pytestmark = pytest.mark.filterwarnings(
    "error::pytest.PytestUnhandledThreadExceptionWarning")

SESSION = EVENT["session_id"]
QUESTIONS = ["/events", "/health", "/sessions", "/runs", "/telemetry?session_id=x",
             f"/story?session_id={SESSION}", f"/search?q={EVENT['source_app']}",
             f"/call?session_id={SESSION}&tool={EVENT['tool_name']}",
             "/story?limit=many", "/call"]


# Questions, answered by processes of their own.

@pytest.fixture(name="apart")
def fixture_apart(tmp_path):
    with EventServer(db=str(tmp_path / "db"), keep_alive=True,
                     is_read_apart=True) as server:
        yield server


def readers_of(server):
    return list(server.readers._all)


@pytest.mark.parametrize("path", QUESTIONS)
def test_a_question_is_answered_alike_by_a_reader_and_by_the_server(apart, path):
    post(apart)
    told, readers, apart.readers = get(apart, path), apart.readers, None
    assert told == get(apart, path)
    apart.readers = readers


def test_what_was_answered_201_is_in_the_next_answer_of_a_reader(apart):
    for number in range(1, 20):
        post(apart)
        assert get(apart, "/health")[1]["events"] == number


def test_a_question_that_takes_its_time_holds_no_event_and_no_other_question(apart):
    get(apart, "/health")  # it runs
    (process,) = readers_of(apart)
    process.send_signal(signal.SIGSTOP)
    asking = threading.Thread(target=get, args=(apart, "/sessions"))
    asking.start()
    eventually(apart.readers._idle.empty)
    assert post(apart)[0] == 201
    assert get(apart, "/health")[0] == 200
    assert len(readers_of(apart)) > 1
    process.send_signal(signal.SIGCONT)
    asking.join()


def test_a_reader_that_is_killed_costs_no_answer(apart):
    for _ in range(3):
        for process in readers_of(apart):
            process.kill()
            process.wait()
        assert get(apart, "/health")[0] == 200


@pytest.mark.parametrize("command", [
    [sys.executable, "-c", "raise SystemExit(1)"], ["/nowhere/python"]])
def test_a_reader_that_cannot_start_costs_no_answer(apart, command):
    (process,) = readers_of(apart)
    apart.readers._command = command
    process.kill()
    assert [get(apart, "/health")[0] for _ in range(3)] == [200] * 3


def test_stopping_ends_every_reader_and_leaves_the_file_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("server.reader.END_S", PATIENCE_S)
    with EventServer(db=str(tmp_path / "db"), is_read_apart=True) as server:
        post(server)
        get(server, "/sessions")
        readers = readers_of(server)
    assert [process.returncode for process in readers] == [0]
    assert [path.name for path in tmp_path.iterdir()] == ["db"]


def test_stopping_ends_a_reader_that_is_asked_and_does_not_answer(tmp_path):
    with EventServer(db=str(tmp_path / "db"), is_read_apart=True) as server:
        get(server, "/health")  # it runs
        (process,) = readers_of(server)
        process.send_signal(signal.SIGSTOP)
        with connected(server) as sock:
            sock.sendall(http_request(path="/sessions", method="GET"))
            eventually(server.readers._idle.empty)
    assert process.returncode == -signal.SIGKILL


def test_readers_end_with_a_server_that_is_killed(command, tmp_path):
    server = command("--db", str(tmp_path / "db"))
    children = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    if not os.path.exists(children):
        pytest.skip("the system tells nobody's children")
    (child,) = eventually(lambda: Path(children).read_text().split())
    server.stop(signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{child}"))


def test_a_reader_changes_nothing(tmp_path):
    store = Store(str(tmp_path / "db"))
    other = Store(str(tmp_path / "db"), reads_only=True)
    with pytest.raises(sqlite3.Error):
        other.add(EVENT)
    other.close()
    assert len(store.runs()) == 1
    store.close()


def test_a_brief_stream_tells_the_newest_id_alone(apart):
    for _ in range(3):
        post(apart)
    with Link(apart) as link:
        link.sock.sendall(request_of(b"", "/stream?brief=1", "GET"))
        while b'{"id": 3}' not in link.data:
            link.data += link.sock.recv(1 << 16) or link.fail()
        post(apart)
        while b'{"id": 4}' not in link.data:
            link.data += link.sock.recv(1 << 16) or link.fail()
    assert link.data.partition(b"\r\n\r\n")[2] == (
        b'id: 3\ndata: {"id": 3}\n\nid: 4\ndata: {"id": 4}\n\n')


# The log of changes.

@pytest.fixture(name="small")
def fixture_small(tmp_path, monkeypatch):
    """Return a function that opens a Store whose log is looked after all the time."""
    for name, value in {"SYNC_S": 0.01, "CHECKPOINT_S": 0.02, "MAX_PAGES": 50}.items():
        monkeypatch.setattr(wal, name, value)
    stores = []

    def opened():
        stores.append(Store(str(tmp_path / "db")))
        return stores[-1]
    yield opened
    for store in stores:
        store.close()


def begun(log):
    """Return how often *log* has begun anew, as its head says."""
    return int.from_bytes(log.read_bytes()[12:16], "big")


def test_the_log_begins_anew_while_events_come_all_the_time(small, tmp_path):
    store, count = small(), 0
    store.add(EVENT)
    while begun(tmp_path / "db-wal") < 3:
        store.add(EVENT)
        count += 1
    assert store.count() == count + 1


def test_the_log_is_put_into_the_file_again_after_a_disk_that_failed(
        small, tmp_path, monkeypatch):
    failed = []

    def fail(number):
        failed.append(number)
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patched:
        patched.setattr(wal, "SYNC", fail)
        store = small()
        store.add(EVENT)
        eventually(lambda: len(failed) > 2)
    size = os.path.getsize(store.path)
    for _ in range(50):
        store.add({**EVENT, "metadata": json.dumps("x" * 10_000)})
    eventually(lambda: os.path.getsize(store.path) > size)


def test_a_log_that_grows_fast_is_laid_out_and_read_as_before(
        small, tmp_path, monkeypatch):
    monkeypatch.setattr(wal, "LAID_LEAST", 1)
    monkeypatch.setattr(wal, "MAX_PAGES", 10**6)
    store, count, end = small(), 0, b""
    while end != bytes(10_000):
        store.add(EVENT)
        count += 1
        end = (tmp_path / "db-wal").read_bytes()[-10_000:]
    with store.changing():
        for suffix in ("", "-wal"):  # as a killed server leaves them
            copied = (tmp_path / f"db{suffix}").read_bytes()
            (tmp_path / f"copy{suffix}").write_bytes(copied)
    again = Store(str(tmp_path / "copy"))
    assert again.count() == count
    again.close()


def test_a_log_that_stands_still_is_not_brought_to_disk(small, monkeypatch):
    seen = []
    monkeypatch.setattr(wal, "SYNC", seen.append)
    store = small()
    store.add(EVENT)
    eventually(lambda: seen)
    eventually(lambda: store.changes() == store._wal._synced)
    del seen[:]
    rounds = store._wal.rounds
    eventually(lambda: store._wal.rounds > rounds + 20)
    assert seen == []




# A file system that is full.

#: in a namespace of its own: a small file system, and a command that keeps events there
MOUNTED = 'mount -t tmpfs -o size="$1" full "$2" && shift 2 && exec "$@"'
LOG_BYTES = 20 << 20  # more than SQLite indexes in 32 KiB
APART = ["unshare", "-m", "-r", "sh", "-c", MOUNTED, "-"]
BIG = event_bytes(metadata=json.dumps("x" * 100_000))
needs_mounts = pytest.mark.skipif(
    sys.platform != "linux" or subprocess.run(
        [*APART, "2m", "/mnt", "true"], check=False,
        stderr=subprocess.DEVNULL).returncode,
    reason="needs a file system of its own (unshare, mount)")


class OfCommand:
    """A command's server, as Link and connected() take one."""

    def __init__(self, running):
        self.url, self.port = running.url, running.port


@pytest.fixture(name="cramped")
def fixture_cramped(tmp_path, request):
    """Yield a server whose file is on a small file system, and that folder."""
    process = subprocess.Popen(
        [*APART, getattr(request, "param", "2m"), str(tmp_path), sys.executable,
         str(TESTS / "server"), "--port", "0", "--quiet", "--db",
         str(tmp_path / "db")], stdout=subprocess.PIPE)
    try:
        yield OfCommand(Command(process)), f"/proc/{process.pid}/root{tmp_path}"
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def fill_up(folder):
    """Take what is left of *folder*; return the file to remove for room."""
    path = os.path.join(folder, "filling")
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


@needs_mounts
def test_a_full_disk_is_answered_507_on_a_kept_connection_that_goes_on(cramped):
    server, folder = cramped
    with Link(server) as link:
        assert link.ask(request_of())[0] == 201
        filling = fill_up(folder)
        for _ in range(3):
            status, headers, answer = link.ask(request_of(BIG))
            assert (status, answer["error"]) == (507, "InsufficientStorage")
            assert headers["connection"] == "keep-alive"
        assert link.ask(request_of(b"", "/health", "GET"))[2]["events"] == 1
        os.remove(filling)
        eventually(lambda: link.ask(request_of(BIG))[0] == 201)
        stored = link.ask(request_of(b"", "/events", "GET"))[2]
    assert [len(event["metadata"]) for event in stored] == [
        len(EVENT["metadata"]), len(json.dumps("x" * 100_000))]


@needs_mounts
def test_of_a_burst_onto_a_full_disk_what_was_answered_201_is_stored(cramped):
    server, _ = cramped
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Link(server)) for _ in range(20)]
        answers = []
        for _ in range(10):
            for link in links:
                link.sock.sendall(request_of(BIG))
            answers += [link.answer() for link in links]
        assert {status for status, _, _ in answers} == {201, 507}
        taken = {answer["id"] for status, _, answer in answers if status == 201}
        stored = links[0].ask(request_of(b"", "/events?limit=1000", "GET"))[2]
    assert {event["id"] for event in stored} == taken


@needs_mounts
@pytest.mark.parametrize("cramped", ["24m"], indirect=True)
def test_a_disk_without_room_for_what_processes_share_is_full_as_well(cramped):
    """The log has its room; the index of it, which grows by 32 KiB, finds none."""
    server, folder = cramped
    with Link(server) as link, open(f"{folder}/db-wal", "ab") as log:
        log.write(bytes(LOG_BYTES))
        log.flush()
        fill_up(folder)
        for _ in range(LOG_BYTES // len(BIG)):
            status, _, answer = link.ask(request_of(BIG))
            if status != 201:
                break
    assert (status, answer["message"]) == (
        507, "Cannot store: disk I/O error, as the disk is full")


@needs_mounts
@pytest.mark.usefixtures("patient")
def test_a_hook_counts_what_a_full_disk_did_not_take_as_a_loss(one_hook, cramped):
    server, folder = cramped
    fill_up(folder)
    said = {"hook_event_name": "PostToolUse", "session_id": "s1", "tool_name": "Read",
            "tool_response": ["x" * 5_000] * 12}
    one_hook.send(server.url, stdin=said)
    (line,) = one_hook.losses()
    assert line.split()[1:4] == ["PostToolUse", "rejected", "s1"]
