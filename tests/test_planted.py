"""Files, links and descriptors that somebody left in a hook's way do no harm."""

import json
import os
import signal
import subprocess
import time

import pytest

import hook_io
from conftest import PATIENCE_S, eventually, nowhere, sample
from server import EventServer

pytestmark = pytest.mark.skipif(os.name == "nt", reason="FIFOs, modes, owners")
EVENT = sample("PreToolUse")
NOT_COUNTED = "[WARNING] Losses are not counted: "
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")


def streak_file(hook):
    (path,) = [path for path in hook.state.iterdir() if ".told." not in path.name]
    return path


def fifo(path, victim):
    os.mkfifo(str(path))


def hard_link(path, victim):
    os.link(str(victim), str(path))


def foreign(path, victim):
    path.write_text("")
    os.chown(str(path), 65534, 65534)


def device(path, victim):
    os.mknod(str(path), 0o020600, os.makedev(1, 3))


TRAPS = [fifo, hard_link, pytest.param(foreign, marks=needs_root),
         pytest.param(device, marks=needs_root)]


@pytest.mark.parametrize("trap", TRAPS)
def test_what_is_no_file_of_ours_is_not_counted_in(one_hook, tmp_path, trap):
    url, victim = nowhere(), tmp_path / "victim"
    victim.write_text("mine\n")
    one_hook.send(url, stdin=EVENT)
    path = streak_file(one_hook)
    path.unlink()
    trap(path, victim)
    result = one_hook.send(url, stdin=EVENT)
    assert (result.exit, result.stdout) == (0, "")
    assert [line.startswith(NOT_COUNTED) for line in result.lines] == [
        False, False, True]
    assert victim.read_text() == "mine\n"


@needs_root
def test_a_state_folder_of_another_user_is_not_used(one_hook):
    one_hook.state.mkdir()
    os.chown(str(one_hook.state), 65534, 65534)
    result = one_hook.send(nowhere(), stdin=EVENT)
    assert result.lines[2].startswith(NOT_COUNTED)
    assert not any(one_hook.state.iterdir())


def test_the_state_folder_may_begin_with_a_tilde(one_hook):
    one_hook.send(nowhere(), stdin=EVENT, env={"HOOK_IO_STATE_DIR": "~/deep/own"})
    assert len(list((one_hook.home / "deep" / "own").iterdir())) == 1


# The spool.

def record(**members):
    return {"key": "0a" * 16, "time_ns": time.time_ns(), "agent": "claude-code",
            "source_app": "demo", "event_type": "Stop", "session_id": "s-1",
            "metadata": "", "summary": "", "event": {"hook_event_name": "Stop"},
            **members}


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


def flush(hook, folder, url):
    """Return what a flush with a patient budget says."""
    result = hook.run(
        "send_event.py", "--flush-spool", "--server-url", url, env={
            "HOOK_IO_SPOOL_DIR": str(folder),
            "HOOK_IO_BACKGROUND_TIMEOUT_MS": "60000"})
    assert (result.exit, result.stdout) == (0, "")
    return result.stderr


def put(folder, number, value):
    data = json.dumps(value).encode()
    path = folder / f"{time.time_ns() + number:020}-{number:032x}-{len(data)}.json"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bad", [
    {"key": "a\rb"}, {"key": "a\r\nX-Evil: 1"}, {"time_ns": 10 ** 30}, {"time_ns": -1},
    {"metadata": "{"}, {"metadata": "NaN"}, {"event": []}],
    ids=repr)
def test_one_bad_record_is_set_aside_and_the_others_are_delivered(
        one_hook, server, spool, bad):
    wrong = put(spool, 1, record(**bad))
    put(spool, 2, record())
    said = flush(one_hook, spool, server.url)
    assert "1 spooled events delivered, 0 left, 1 set aside" in said
    aside = json.loads(wrong.with_suffix(".rejected").read_text())
    assert aside["rejected"].startswith("unreadable: ")


def test_a_fifo_in_the_spool_holds_no_flush(one_hook, server, spool):
    path = put(spool, 1, record())
    path.unlink()
    os.mkfifo(str(path))
    os.mkfifo(str(path.with_suffix(".rejected.tmp")))
    put(spool, 2, record())
    said = flush(one_hook, spool, server.url)
    assert "1 spooled events delivered, 0 left, 1 set aside" in said


def test_a_name_with_digits_of_another_kind_is_none_of_the_spools(
        one_hook, server, spool):
    (spool / "\u00b2-x-1.json").write_text("{}")
    put(spool, 2, record())
    said = flush(one_hook, spool, server.url)
    assert "1 spooled events delivered, 0 left, 0 set aside" in said


# The event log.

def logged(hook, path):
    return hook.send("none", stdin=EVENT, env={"HOOK_IO_EVENT_LOG": str(path)})


def test_a_log_that_others_may_read_is_narrowed(one_hook, tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text("")
    path.chmod(0o644)
    assert logged(one_hook, path).stderr == ""
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().count("\n") == 1


def test_a_log_that_cannot_rotate_does_not_grow_in_silence(one_hook, tmp_path):
    path = tmp_path / "events.jsonl"
    (tmp_path / "events.jsonl.1").mkdir()
    full = hook_io.LOG_MAX_BYTES + hook_io.LOG_OVER_BYTES + 1
    path.touch(0o600)
    os.truncate(str(path), full)
    assert "is full" in logged(one_hook, path).stderr
    assert path.stat().st_size == full


@pytest.mark.parametrize("variable", [
    "HOOK_IO_STATE_DIR", "HOOK_IO_SPOOL_DIR", "HOOK_IO_EVENT_LOG"])
def test_a_path_of_too_many_folders_is_told_and_the_event_is_lost_as_any(
    one_hook, tmp_path, variable
):
    deep = str(tmp_path) + "/a" * 1900
    done = one_hook.send(nowhere(), stdin=EVENT, env={variable: deep})
    assert (done.exit, done.stdout) == (0, "")
    assert "connection refused" in done.stderr
    assert "below too many folders" in done.stderr.partition("\n")[2]
    counted = variable != "HOOK_IO_STATE_DIR"
    assert ("Losses are not counted" in done.stderr) != counted


def test_certificates_that_are_no_file_hold_nobody(one_hook, tmp_path):
    path = tmp_path / "ca.pem"
    os.mkfifo(str(path))
    done = one_hook.send("https://127.0.0.1:9/events", stdin=EVENT,
                         env={"HOOK_IO_CA_FILE": str(path)})
    assert done.exit == 0
    assert f"no certificates in {path}: it is no regular file" in done.stderr


def test_of_two_that_write_a_file_neither_puts_half_of_it_in_its_place(
    tmp_path, monkeypatch
):
    path, begun, seen = str(tmp_path / "kept"), [], []
    write = os.write

    def interrupted(fd, data):
        if not begun:  # another one writes the same file meanwhile
            begun.append(fd)
            hook_io.WholeFile.write(path, b"theirs", is_shared=True)
            seen.append((tmp_path / "kept").read_bytes())
        return write(fd, data)

    monkeypatch.setattr(hook_io.os, "write", interrupted)
    hook_io.WholeFile.write(path, b"ours", is_shared=True)
    assert (seen, (tmp_path / "kept").read_bytes()) == ([b"theirs"], b"ours")
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


# Processes.

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_hook_without_a_word(one_hook, number):
    with EventServer(fault="silent") as server:
        process = one_hook.start(
            "send_event.py", "--source-app", "x", "--event-type", "Stop",
            "--server-url", server.url, "--timeout-ms", "60000")
        process.stdin.write(b"{}")
        process.stdin.flush()
        eventually(lambda: server.exchanges)  # so that it has begun
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (stdout, stderr, process.returncode) == (b"", b"", -number)


def test_a_background_process_keeps_no_descriptor_of_the_agents(one_hook):
    ours, theirs = os.pipe()
    os.dup2(theirs, 2000)
    os.close(theirs)
    with EventServer(fault="silent") as server:
        subprocess.run(
            one_hook.command("send_event.py", "--source-app", "x", "--event-type",
                             "Stop", "--background", "--server-url", server.url),
            input=b"{}", pass_fds=(2000,), check=True, timeout=PATIENCE_S,
            env={**one_hook.env, "HOOK_IO_BACKGROUND_TIMEOUT_MS": "60000"})
        os.close(2000)
        eventually(lambda: server.exchanges)
        os.set_blocking(ours, False)
        assert os.read(ours, 1) == b""  # nobody could write, though it still waits
    os.close(ours)
