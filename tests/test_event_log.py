"""The event log holds every event, whole, whether or not a server answers."""

import json
import os
import resource
import stat
import subprocess
import sys

import pytest

import hook_io
from conftest import PATIENCE_S, TESTS, sample
from server import EventServer, checked_event, closed_port

pytestmark = pytest.mark.usefixtures("patient")
EVENTS = ("SessionStart", "PreToolUse", "PostToolUse", "Stop")


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "events.jsonl"


def lines(log):
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def send(hook, url, log, event="Stop", *argv, **kwargs):
    stdin = event if isinstance(event, dict) else sample(event)
    return hook.send(url, *argv, stdin=stdin, env={"HOOK_IO_EVENT_LOG": str(log)},
                     **kwargs)


def test_a_line_is_the_body_that_a_server_gets(hook, log):
    with EventServer() as server:
        for name in EVENTS:
            assert send(hook, server.url, log, name).stderr == ""
        bodies = [seen.json for seen in server.wait(len(EVENTS))]
    assert lines(log) == bodies
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_it_holds_the_event_where_no_server_answers(one_hook, log):
    result = send(one_hook, f"http://127.0.0.1:{closed_port()}/", log)
    assert "connection refused" in result.lines[0]
    assert len(lines(log)) == 1


def test_it_is_all_there_is_without_a_server(hook, log):
    for name in EVENTS:
        result = send(hook, "none", log, name)
        assert (result.exit, result.stdout, result.stderr) == (0, "", "")
    assert [event["event_type"] for event in lines(log)] == list(EVENTS)
    assert hook.losses() == []


def test_nowhere_to_go_is_told(one_hook):
    result = one_hook.send("none", stdin=sample("Stop"))
    assert result.exit == 0
    assert result.lines == ["[WARNING] The event goes nowhere: the server URL is none,"
                            " and HOOK_IO_EVENT_LOG names no file"]


@pytest.mark.parametrize("argv", [["--background"], ["--format", "otlp"]])
def test_a_line_is_the_same_whatever_is_sent(one_hook, log, argv):
    with EventServer(fault="no_content") as server:
        send(one_hook, server.url, log, "PreToolUse", *argv)
        server.wait(1)
    (event,) = lines(log)
    assert json.loads(event["metadata"]) == sample("PreToolUse")


def test_no_secret_is_in_it(one_hook, log):
    event = {**sample("PreToolUse"), "api_key": "hunter2hunter2"}
    send(one_hook, "none", log, event, "--metadata", '{"token": "hunter2hunter2"}')
    assert len(lines(log)) == 1
    assert "hunter2" not in log.read_text()


def test_lines_of_50_hooks_at_once_never_mix(one_hook, log):
    event = {**sample("PreToolUse"), "padding": ["x" * 4000] * 30}
    given = one_hook.home / "event.json"
    given.write_text(json.dumps(event))
    env = {"HOOK_IO_EVENT_LOG": str(log), "HOOK_IO_TIMEOUT_MS": "60000"}
    processes = []
    for number in range(50):
        with open(str(given), "rb") as stdin:
            processes.append(one_hook.start(
                "send_event.py", "--source-app", f"app{number}", "--event-type",
                "PreToolUse", "--server-url", "none", env=env, stdin=stdin,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    for process in processes:
        assert process.wait(timeout=PATIENCE_S) == 0
    found = lines(log)
    assert {line["source_app"] for line in found} == {f"app{n}" for n in range(50)}
    assert len(found) == 50
    assert all(json.loads(line["metadata"]) == event for line in found)


def test_above_its_size_it_begins_anew_and_one_old_file_stays(one_hook, log):
    log.parent.mkdir()
    old = log.with_name("events.jsonl.1")
    for marker in (b"first", b"second"):
        with open(str(log), "wb") as file:
            file.write(marker)
            file.truncate(hook_io.LOG_MAX_BYTES)
        send(one_hook, "none", log)
        assert len(lines(log)) == 1
        with open(str(old), "rb") as file:
            assert file.read(len(marker)) == marker
    assert sorted(path.name for path in log.parent.iterdir()) == [
        "events.jsonl", "events.jsonl.1"]


def test_many_that_rotate_at_once_lose_no_line(tmp_path):
    log, limit, each, count = tmp_path / "log", 30000, 40, 8
    script = (
        "import hook_io, sys\n"
        "hook_io.LOG_MAX_BYTES = int(sys.argv[2])\n"
        "for n in range(int(sys.argv[4])):\n"
        "    hook_io.EventLog(sys.argv[1]).append(b'%s %03d %s\\n' % (\n"
        "        sys.argv[3].encode(), n, b'x' * 90))\n")
    processes = [subprocess.Popen(
        [sys.executable, "-c", script, str(log), str(limit), str(number), str(each)],
        cwd=str(TESTS.parent)) for number in range(count)]
    assert [process.wait(timeout=PATIENCE_S) for process in processes] == [0] * count
    kept = [line.split()[:2] for path in (tmp_path / "log.1", log)
            for line in path.read_bytes().splitlines()]
    assert len(kept) == each * count  # 31 KB and more: one rotation, nothing gone
    assert len({tuple(line) for line in kept}) == each * count


def test_who_rotates_late_leaves_the_new_file_alone(tmp_path):
    log, old = tmp_path / "log", tmp_path / "log.1"
    log.write_text("old")
    fd = os.open(str(log), os.O_WRONLY | os.O_APPEND)
    log.rename(old)  # by another process
    log.write_text("new")
    hook_io.EventLog(str(log))._rotate(fd)  # which closes it
    assert (log.read_text(), old.read_text()) == ("new", "old")


@pytest.mark.parametrize(("make", "why"), [
    (lambda path: "events.jsonl", "no absolute path"),
    (lambda path: str(path), "directory"),
    (lambda path: os.devnull, "no regular file"),
    (lambda path: str(path / "link"), ""),
])
def test_a_file_that_cannot_be_written_is_told_and_the_event_is_sent(
    one_hook, tmp_path, make, why
):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with EventServer() as server:
        result = send(one_hook, server.url, make(tmp_path))
        assert len(server.events()) == 1
    (line,) = result.lines
    assert line.startswith("[WARNING] The event is not logged: HOOK_IO_EVENT_LOG (")
    assert why in line
    assert not (tmp_path / "elsewhere").exists()


def test_the_server_takes_a_log_to_begin_with(one_hook, log):
    for name in EVENTS:
        send(one_hook, "none", log, name)
    text = log.read_text() + '{"half":\n'
    log.write_text(text)
    for line in text.splitlines()[:-1]:
        checked_event(line.encode())
    db = log.with_name("db")
    command = [sys.executable, str(TESTS / "server"), "--port", "0", "--db",
               str(db), "--import", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    first, second = process.stdout.readline(), process.stdout.readline()
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert first.decode() == f"imported 4 events from {log}; no event in line 5\n"
    assert second.startswith(b"listening on ")
    with EventServer(db=str(db)) as server:
        assert [event["event_type"] for event in server.events()] == list(EVENTS)


def test_a_log_that_cannot_be_read_is_a_line_and_no_trace(tmp_path):
    done = subprocess.run(
        [sys.executable, str(TESTS / "server"), "--port", "0", "--db", ":memory:",
         "--import", str(tmp_path / "none")],
        stderr=subprocess.PIPE, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("server: cannot read ")


def test_a_line_that_a_full_disk_cuts_leaves_no_half(one_hook, log):
    send(one_hook, "none", log, "PreToolUse")
    room = log.stat().st_size + 100
    result = send(one_hook, "none", log, "Stop", preexec_fn=lambda: (
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))))
    assert "The event is not logged" in result.lines[0]
    send(one_hook, "none", log, "SessionEnd")
    assert [event["event_type"] for event in lines(log)] == ["PreToolUse", "SessionEnd"]
