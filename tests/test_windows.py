# SPDX-License-Identifier: MIT
"""What Windows does otherwise, shown where it can be without one.

`make windows` shows the rest: the contracts on Windows' own CPython.
"""

import fcntl
import io
import os
import socket
import subprocess
import sys
import termios
import threading
import time
import types

import pytest

import hook_io
from conftest import ROOT, closed_port
from server.faults import full_backlog

SECRET_FILE = "somebody else's"


class Nt:
    """os as Windows names itself."""

    name = "nt"

    def __getattr__(self, name):
        return getattr(os, name)


@pytest.fixture
def nt(monkeypatch):
    """Give hook_io an os called nt, and the modules that only Windows has."""
    def peek(handle, size):
        waiting = fcntl.ioctl(handle, termios.FIONREAD, bytes(4))
        return int.from_bytes(waiting, sys.byteorder), 0

    def locking(fd, mode, size):
        raise OSError("it is locked")

    monkeypatch.setattr(hook_io, "os", Nt())
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(
        get_osfhandle=int, locking=locking, LK_NBLCK=2))
    monkeypatch.setitem(sys.modules, "_winapi", types.SimpleNamespace(
        PeekNamedPipe=peek))


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def soon(seconds):
    return time.monotonic() + seconds


def test_nothing_reads_from_a_stdin_that_a_child_may_be_given(nt, pipe, monkeypatch):
    """A child that inherits a pipe hangs while somebody's read waits on it."""
    monkeypatch.setattr(hook_io.Wait, "in_thread", None)
    assert hook_io.Stdin(pipe[0]).peek(soon(0.05)) == b""
    os.write(pipe[1], b'{"a":1}')
    assert hook_io.Stdin(pipe[0]).peek(soon(60)) == b'{"a":1}'
    os.write(pipe[1], b'{"a":2}')
    assert hook_io.read_event(pipe[0]) == {"a": 2}


def test_a_stdout_that_nobody_empties_is_left(nt, monkeypatch):
    emptied = threading.Event()
    monkeypatch.setattr(hook_io, "WRITE_TIMEOUT_MS", 50)
    monkeypatch.setattr(Nt, "write", lambda self, fd, data: emptied.wait(60), False)
    assert hook_io.StderrBuffer().write(1, b"{}\n") is False
    emptied.set()


def test_an_append_without_its_lock_is_none(nt, tmp_path):
    path = tmp_path / "log"
    with pytest.raises(OSError, match="keeps it locked"):
        hook_io.EventLog(str(path)).append(b"line\n")
    assert path.read_bytes() == b""
    streak = hook_io.FailureStreak("x")
    streak.folder, streak.path = str(tmp_path), str(tmp_path / "x")
    with pytest.raises(OSError, match="keeps it locked"):
        streak._append(b"x" * 63 + b"\n")


def test_a_link_is_refused_where_opening_follows_it(monkeypatch, tmp_path):
    (tmp_path / "theirs").write_text(SECRET_FILE)
    link = tmp_path / "log"
    link.symlink_to(tmp_path / "theirs")
    monkeypatch.delattr(os, "O_NOFOLLOW")
    with pytest.raises(OSError, match="symbolic link"):
        hook_io.EventLog(str(link)).append(b"line\n")
    streak = hook_io.FailureStreak("x")
    streak.folder, streak.path = str(tmp_path), str(link)
    with pytest.raises(OSError, match="symbolic link"):
        streak._append(b"x" * 63 + b"\n")
    assert (tmp_path / "theirs").read_text() == SECRET_FILE


def test_a_full_log_is_put_away_closed_and_by_one_process(monkeypatch, tmp_path):
    monkeypatch.setattr(hook_io, "LOG_MAX_BYTES", 100)
    path, old, turn = (tmp_path / f"log{end}" for end in ("", ".1", ".turn"))

    def put_away():
        fd = os.open(str(path), os.O_RDWR)
        hook_io.EventLog(str(path))._rotate_closed(fd)
        with pytest.raises(OSError):
            os.fstat(fd)
        turn.unlink()  # on Windows it goes with its descriptor

    path.write_bytes(b"full" * 25)
    turn.write_bytes(b"")  # another process is at it
    put_away()
    assert not old.exists()
    put_away()
    assert old.read_bytes() == b"full" * 25 and not path.exists()
    path.write_bytes(b"begun anew")
    put_away()
    assert old.read_bytes() == b"full" * 25 and path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="others accept for the server")
def test_a_refusal_that_takes_long_has_a_share_of_the_budget_and_its_name(monkeypatch):
    """Windows tries for 2 s on a port of its own that nobody listens on."""
    with full_backlog() as port:
        url = f"http://127.0.0.1:{port}/events"
        outcome = hook_io.post_json(url, b"{}", soon(0.2))
        assert outcome.name == "timed_out"
        monkeypatch.setattr(hook_io, "SLOW_REFUSALS", True)
        outcome = hook_io.post_json(url, b"{}", soon(0.2))
        assert (outcome.name, outcome.fact) == ("refused", "connection refused")
        seen = []
        monkeypatch.setattr(
            hook_io.Exchange, "network", staticmethod(lambda: watched(seen)))
        hook_io.post_json(f"http://localhost:{port}/events", b"{}", soon(60))
    assert len(seen) == 2 and seen[0] < 25 and seen[1] < 35, seen


def watched(seen):
    """Return the module of sockets whose sockets note their time, and refuse."""
    class Socket:
        def __init__(self, *kind):
            self.settimeout = seen.append

        def connect(self, address):
            raise TimeoutError

        def close(self):
            pass

    return types.SimpleNamespace(**{**vars(socket), "socket": Socket})


def test_an_ipv4_address_inside_ipv6_is_reached_as_what_it_is():
    endpoint = hook_io.Endpoint("http://[::ffff:127.0.0.1]/")
    found = endpoint.addresses(socket, soon(1))
    assert found == [(socket.AF_INET, ("127.0.0.1", 80))]


def test_a_background_process_shows_no_console():
    flags = hook_io.DETACHED["nt"]["creationflags"]
    no_window, detached = 0x08000000, 0x00000008  # beside which it is ignored
    assert flags & no_window and not flags & detached


def installed(monkeypatch, folder, agent):
    """Return what the installer ends with, as on Windows; None where it is done."""
    monkeypatch.setattr(sys, "argv", ["", "install", str(folder), "--agent", agent])
    try:
        hook_io._main()
    except SystemExit as end:
        return str(end)
    return None


@pytest.mark.parametrize("agent", hook_io.REGISTERED)
def test_an_agent_whose_commands_no_shell_of_posix_runs_is_refused(
    nt, monkeypatch, tmp_path, agent
):
    (tmp_path / ".git").mkdir()
    end = installed(monkeypatch, tmp_path, agent)
    hooks = tmp_path / ".claude" / "hooks"
    if agent == "claude-code":  # by Git Bash
        assert end is None and hooks.is_dir()
    else:
        assert end.startswith(f"[ERROR] {agent} runs hooks by another shell on Windows")
        assert "use it under WSL" in end and not hooks.exists()


def test_a_folder_whose_name_stdout_cannot_spell_is_installed_into(
    nt, monkeypatch, tmp_path
):
    """No console, but a pipe, has the code page of the system."""
    folder = tmp_path / "日本"
    folder.mkdir()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "cp1252"))
    assert installed(monkeypatch, folder, "claude-code") is None
    said = sys.stdout.buffer.getvalue().splitlines()
    assert said[0].endswith(b"\\u65e5\\u672c:") and len(said) > 3
    assert (folder / ".claude" / "settings.json").is_file()


def test_a_windows_that_cannot_be_had_is_told_and_is_no_failure(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "realpath"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    (tools / "uname").write_text("#!/bin/sh\necho Plan9 mips\n")
    (tools / "uname").chmod(0o755)
    done = subprocess.run(
        [str(ROOT / "tests" / "windows" / "run.sh"), str(tmp_path / "windows")],
        env={"PATH": str(tools)}, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("windows: skipped: ") and done.stdout == ""


def test_nobody_listens_is_told_at_once_all_the_same():
    outcome = hook_io.post_json(f"http://127.0.0.1:{closed_port()}/", b"{}", soon(60))
    assert outcome.fact == "connection refused"
