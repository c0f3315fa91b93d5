# SPDX-License-Identifier: MIT
"""Losses in a row are counted exactly, and a person is told once, where it is seen."""

import calendar
import concurrent.futures
import ctypes
import os
import pwd
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time

import pytest

import hook_io
from conftest import NEWEST, PATIENCE_S, PYTHONS, Result, nowhere, sample, timed
from errands import errand
from server import EventServer

CLAUDE_EVENTS = tuple(hook_io.PLATFORMS["claude-code"]["events"])
#: where Claude Code shows a person a systemMessage, as measured
HINTED = ("PreToolUse", "PostToolUse", "PostToolUseFailure", "PostToolBatch",
          "UserPromptSubmit", "Stop", "SessionStart", "PreSkillShellCommand")
#: where exit 2 is seen, and neither loops nor ends a session
BLOCKED = ("PreToolUse", "PostToolUse", "PostToolUseFailure", "UserPromptSubmit",
           "SessionStart")
LOST = "[ERROR] Failed to send event to observability-server: "
UNCOUNTED = "[WARNING] Losses are not counted: "
FIRST = {"HOOK_IO_FAIL_LOUD_THRESHOLD": "1"}
PAST = "2025-10-21T10:30:45Z"
pytestmark = pytest.mark.usefixtures("patient")  # no loss is one for want of time
HANG_S = 10  # a process that takes longer waits for something that never comes


# An agent's session, an outage, and what they leave behind.

def event(name="PreToolUse", session="s-1"):
    return {"hook_event_name": name, "session_id": session, "tool_name": "Bash"}


def real_event(name):
    """Return what the client sent; no client could be made to send a TeammateIdle."""
    return event(name) if name == "TeammateIdle" else sample(name)


def lose(hook, url, times, **of_event):
    """Return what *times* hooks said, one after the other."""
    return [hook.send(url, stdin=event(**of_event)) for _ in range(times)]


def streak_file(hook):
    (path,) = [path for path in hook.state.iterdir()
               if path.suffix != ".last" and ".told." not in path.name]
    return path


def begin_outage(hook, url, losses):
    """Make *url* one that has lost *losses* events since PAST; return the file."""
    hook.send(url, "--fail-loud", "off", stdin=event())
    path = streak_file(hook)
    path.write_bytes((PAST.encode() + path.read_bytes()[20:64]) * losses)
    return path


def notices(hook):
    return [path.name for path in hook.state.iterdir() if ".told." in path.name]


def shortened(value):
    """Return an id for a parameter that would make one of a screenful."""
    return ascii(value)[:24]


def told(results):
    return [result.document["systemMessage"] for result in results if result.stdout]


def is_quiet(result):
    """Tell whether a loss was said on stderr alone, in its two lines."""
    return (result.exit == 0 and result.stdout == "" and len(result.lines) == 2
            and result.lines[0].startswith(LOST))


def at_once(hook, url, events, *argv):
    """Return the results of one process per event, all running at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(events)) as pool:
        return list(pool.map(
            lambda stdin: hook.send(url, *argv, stdin=stdin), events))


def crowd(hook):
    """Return how many processes a race takes: 50 on the newest Python, else 8.

    What decides a race is the system's; 50 starts of a slow Python take a budget.
    """
    is_newest = hook.python == PYTHONS[NEWEST] and "HOOK_IO_PURE" not in hook.env
    return 50 if is_newest else 8


def refuse(_event):
    """Make the server answer 500, as an on_event."""
    raise sqlite3.OperationalError("the disk is full")


def together(count, then=lambda _event: None):
    """Return an on_event that holds *count* requests, then lets all go at once."""
    barrier = threading.Barrier(count)

    def on_event(stored):
        barrier.wait(PATIENCE_S)
        then(stored)
    return on_event


def open_umask():
    os.umask(0)


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def tree(folder):
    """Return {path: (mode, content)} of everything below *folder*, no link followed."""
    return {path: (path.lstat().st_mode, path.read_bytes()
                   if stat.S_ISREG(path.lstat().st_mode) else None)
            for path in sorted(folder.rglob("*"))}


# The file.

def test_each_loss_is_one_line_of_64_bytes_in_a_private_file(hook):
    url = nowhere()
    hook.send(url, stdin=event("Stop", "550e8400-e29b-41d4"), env={"TZ": "XYZ-9"},
              preexec_fn=open_umask)
    path = streak_file(hook)
    first, written = path.read_bytes(), path.stat().st_mtime
    hook.send(url, stdin=b"", event_type="UserPromptExpansion")
    second = path.read_bytes()[64:]
    assert (len(first), len(second), first[-1:], second[-1:]) == (64, 64, b"\n", b"\n")
    at, *words = first.decode().split()
    assert words == ["Stop", "refused", "550e8400-e"]
    assert abs(calendar.timegm(time.strptime(at, "%Y-%m-%dT%H:%M:%SZ")) - written) < 9
    assert second.decode().split()[1:] == ["UserPromptExpansion", "refused", "-"]
    assert mode(hook.state) == 0o700 and mode(path) == 0o600


def test_notices_and_the_ended_streak_are_private_too(one_hook):
    with EventServer(replies=["server_error"]) as server:
        one_hook.send(server.url, stdin=event(), env=FIRST, preexec_fn=open_umask)
        (marker,) = notices(one_hook)
        assert mode(one_hook.state / marker) == 0o600
        one_hook.send(server.url, stdin=event())
    (last,) = one_hook.state.iterdir()
    assert mode(last) == 0o600


@pytest.mark.parametrize("reply, outcome", [
    ("server_error", "rejected"), ("close", "refused"), ("silent", "unconfirmed"),
    ("redirect", "rejected")])
@timed
def test_a_line_names_the_outcome(one_hook, reply, outcome):
    with EventServer(replies=[reply]) as server:
        one_hook.send(server.url, "--timeout-ms", "500", stdin=event())
    assert one_hook.losses()[0].split()[1:] == ["PreToolUse", outcome, "s-1"]


def test_the_session_of_a_line_is_that_of_the_event_sent(one_hook):
    given = "0b7a1f00-1111-4222-8333-944455556666"
    one_hook.send(nowhere(), "--session-id", given, stdin=event(session="other"))
    assert one_hook.losses()[0].split()[-1] == given[:10]


def test_nothing_is_written_while_all_is_well(hook):
    with EventServer() as server:
        before = tree(hook.home)
        assert hook.send(server.url, stdin=event()).stderr == ""
    assert tree(hook.home) == before


@pytest.mark.parametrize("one, other", [
    ("127.0.0.1:{}/a", "localhost:{}/a"), ("127.0.0.1:{}/a", "127.0.0.1:{}/b"),
    ("127.0.0.1:{}/a/b", "127.0.0.1:{}/a_b"), ("127.0.0.1:{}/a.last", "127.0.0.1:{}/a"),
    ("127.0.0.1:{}/@a", "localhost:{}/@a"),
    ("127.0.0.1:{}/" + "a" * 120 + "1", "127.0.0.1:{}/" + "a" * 120 + "2"),
], ids=shortened)
def test_what_happens_at_one_endpoint_does_not_count_at_another(one_hook, one, other):
    replies = ["server_error"] * 3 + ["no_content", "server_error"]
    with EventServer(replies=replies) as server:
        one, other = [f"http://{url.format(server.port)}" for url in (one, other)]
        results = [one_hook.send(url, stdin=event())
                   for url in (one, one, other, other, one)]
    assert [bool(result.stdout) for result in results] == [False] * 4 + [True]
    assert f"3 events in a row did not reach {one} " in told(results)[0]


def test_http_and_https_are_two_endpoints(one_hook):
    url = nowhere()
    lose(one_hook, url, 2)
    assert is_quiet(lose(one_hook, url.replace("http:", "https:"), 1)[0])


def test_a_streak_at_one_endpoint_outlives_a_success_at_another(hook):
    url = nowhere()
    begin_outage(hook, url, 2)
    with EventServer() as server:
        assert hook.send(server.url, stdin=event()).stdout == ""
    (result,) = lose(hook, url, 1)
    assert "3 events" in result.document["systemMessage"]


# Exactly.

def test_processes_at_once_are_each_counted_and_one_of_them_says_so(hook):
    count = crowd(hook)
    with EventServer(on_event=together(count, refuse)) as server:
        results = at_once(hook, server.url, [event()] * count)
    assert [result.exit for result in results] == [0] * count
    content = streak_file(hook).read_bytes()
    lines = content.splitlines(True)
    assert len(lines) == count and {len(line) for line in lines} == {64}
    assert {line.split()[2] for line in lines} == {b"rejected"}
    assert len(told(results)) == len(notices(hook)) == 1


def test_50_processes_at_once_from_5_sessions_say_it_once_in_each(one_hook):
    with EventServer(replies=["server_error"], on_event=together(50, refuse)) as server:
        begin_outage(one_hook, server.url, 2)
        results = at_once(
            one_hook, server.url, [event(session=f"s-{i % 5}") for i in range(50)])
    assert sorted(i % 5 for i, result in enumerate(results) if result.stdout) == [
        0, 1, 2, 3, 4]
    assert len(one_hook.losses()) == 52


def test_50_blocking_hooks_at_once_block_once(one_hook):
    with EventServer(on_event=together(50, refuse)) as server:
        results = at_once(one_hook, server.url, [event()] * 50, "--fail-loud", "block")
    assert sorted(result.exit for result in results) == [0] * 49 + [2]


def test_successes_at_once_announce_the_recovery_once(hook):
    count, replies = crowd(hook), ["server_error"] * 3
    with EventServer(replies=replies, on_event=together(count)) as server:
        lose(hook, server.url, 3)
        path = streak_file(hook)
        content = path.read_bytes()
        results = at_once(
            hook, server.url, [event(session=f"s-{i}") for i in range(count)])
    assert {(result.exit, result.stderr) for result in results} == {(0, "")}
    (message,) = told(results)
    assert "3 were lost" in message and content[:20].decode() in message
    assert server.url in message
    (last,) = hook.state.iterdir()
    assert (last.name, last.read_bytes()) == (path.name + ".last", content)


def test_50_threads_get_50_places(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_IO_STATE_DIR", str(tmp_path))
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        places = pool.map(lambda session: hook_io.FailureStreak("x").record(
            "Stop", "refused", session), map(str, range(50)))
        assert sorted(places) == list(range(1, 51))


# What a person is told, and when.

def test_the_third_loss_says_it_once_in_each_session(hook):
    url = nowhere()
    silent, other = lose(hook, url, 2), lose(hook, url, 1, session="s-2")
    again, first = lose(hook, url, 1, session="s-2"), lose(hook, url, 2)
    assert all(map(is_quiet, [*silent, *again, first[1]]))
    assert ["3 events" in text for text in told(other)] == [True]
    assert ["5 events" in text for text in told(first)] == [True]


def test_the_hint_is_one_document_that_says_all_there_is_to_know(hook):
    url = nowhere()
    path = begin_outage(hook, url, 11)
    (result,) = lose(hook, url, 1)
    assert (result.exit, len(result.lines)) == (0, 2)
    assert list(result.document) == ["systemMessage"]
    message = result.document["systemMessage"]
    for words in (url, "12 events", PAST, "connection refused", "work is not blocked",
                  "Start the server", "HOOK_IO_SERVER_URL", "HOOK_IO_OFF=1", str(path)):
        assert words in message


def test_a_second_outage_is_told_to_the_same_session_again(hook):
    replies = ["server_error"] * 3 + ["no_content"] + ["server_error"] * 3
    with EventServer(replies=replies) as server:
        results = lose(hook, server.url, 7)
    assert [bool(result.stdout) for result in results] == [
        False, False, True, True, False, False, True]
    assert "3 events" in told(results)[-1]


def test_a_recovery_below_the_threshold_says_nothing(hook):
    with EventServer(replies=["server_error"] * 2) as server:
        results = lose(hook, server.url, 3)
    assert told(results) == [] and results[2].stderr == ""
    assert [path.suffix for path in hook.state.iterdir()] == [".last"]


def test_deleting_the_file_resets_the_streak_and_its_notices(one_hook):
    url = nowhere()
    path = begin_outage(one_hook, url, 2)
    assert len(told(lose(one_hook, url, 1))) == 1
    path.unlink()
    assert [bool(result.stdout) for result in lose(one_hook, url, 3)] == [
        False, False, True]


@pytest.mark.parametrize("value, threshold", [
    ("1", 1), ("5", 5), ("", 3), ("0", 3), ("-1", 3), ("abc", 3), ("2.5", 3),
    ("\N{SUPERSCRIPT TWO}", 3), ("9" * 5000, 3)], ids=shortened)
def test_the_threshold_is_a_whole_number_from_1_on(one_hook, value, threshold):
    url, env = nowhere(), {"HOOK_IO_FAIL_LOUD_THRESHOLD": value}
    if threshold > 1:
        begin_outage(one_hook, url, threshold - 2 or 1)
    results = [one_hook.send(url, stdin=event(), env=env) for _ in range(2)]
    at = 0 if threshold == 1 else 1
    assert [bool(result.stdout) for result in results] == [at == 0, at == 1]
    warned = [line for line in results[0].lines
              if line.startswith("[WARNING] HOOK_IO_FAIL_LOUD_THRESHOLD ")]
    assert len(warned) == (value not in ("", "1", "5"))
    assert results[0].exit == 0 and len(results[0].lines) == 2 + len(warned)


def test_off_says_nothing_ever_but_counts(hook):
    with EventServer(replies=["server_error"] * 4) as server:
        *lost, sent = [hook.send(server.url, "--fail-loud", "off", stdin=event(),
                                 env=FIRST) for _ in range(5)]
    (last,) = hook.state.iterdir()
    assert all(map(is_quiet, lost)) and last.stat().st_size == 4 * 64
    assert (sent.exit, sent.stdout, sent.stderr) == (0, "", "")


# Only where a person sees it.

@pytest.mark.parametrize("name", CLAUDE_EVENTS)
def test_a_hint_is_said_only_where_claude_code_shows_it(one_hook, name):
    url, given = nowhere(), real_event(name)
    first, second = [one_hook.send(url, stdin=given, env=FIRST) for _ in range(2)]
    assert (first.exit, bool(first.stdout)) == (0, name in HINTED)
    assert first.stdout == "" or list(first.document) == ["systemMessage"]
    assert is_quiet(second) and len(first.lines) == 2
    assert len(notices(one_hook)) == (name in HINTED)


@pytest.mark.parametrize("name", CLAUDE_EVENTS)
def test_a_recovery_is_said_only_where_claude_code_shows_it(one_hook, name):
    with EventServer(replies=["server_error"]) as server:
        one_hook.send(server.url, stdin=event(), env=FIRST)
        result = one_hook.send(server.url, stdin=real_event(name), env=FIRST)
        later = [one_hook.send(server.url, stdin=event(), env=FIRST) for _ in range(2)]
    assert (result.exit, bool(result.stdout), result.stderr) == (0, name in HINTED, "")
    assert result.stdout == "" or list(result.document) == ["systemMessage"]
    assert [bool(said.stdout) for said in later] == [name not in HINTED, False]


@pytest.mark.parametrize("name", CLAUDE_EVENTS)
def test_block_exits_2_only_where_that_neither_loops_nor_ends_anything(one_hook, name):
    url, given = nowhere(), real_event(name)
    first, second = [one_hook.send(url, "--fail-loud", "block", stdin=given, env=FIRST)
                     for _ in range(2)]
    assert (first.exit, first.stdout) == (2 if name in BLOCKED else 0, "")
    assert len(first.lines) == (3 if name in BLOCKED else 2)
    assert is_quiet(second) and first.lines[0].startswith(LOST)


def test_block_says_on_stderr_what_happened_and_nothing_untrue(hook):
    url = nowhere()
    path = begin_outage(hook, url, 2)
    results = [hook.send(url, "--fail-loud", "block", stdin=event(name))
               for name in ("Stop", "PreToolUse", "PreToolUse")]
    assert is_quiet(results[0]) and is_quiet(results[2])
    assert (results[1].exit, results[1].stdout) == (2, "")
    message = results[1].lines[-1]
    for words in (url, "4 events", PAST, "Start the server", str(path)):
        assert words in message
    assert "not blocked" not in message  # this very tool call is


@pytest.mark.parametrize("quiet", [
    "PreCompact", "SubagentStop", "SessionEnd", "Notification"])
def test_an_event_without_a_channel_leaves_the_notice_to_the_next(one_hook, quiet):
    url = nowhere()
    begin_outage(one_hook, url, 2)
    assert all(map(is_quiet, lose(one_hook, url, 2, name=quiet)))
    assert notices(one_hook) == []
    assert "5 events" in told(lose(one_hook, url, 1))[0]


@pytest.mark.parametrize("stdin, event_type, speaks", [
    (event("PreToolUse"), "PreCompact", True), (event("Stop"), "SubagentStop", True),
    (event("PreCompact"), "PreToolUse", False), (event("SubagentStop"), "Stop", False),
    (b"", "PreToolUse", False),
    (b"{", "PreToolUse", False), ({"session_id": "s-1"}, "PreToolUse", False),
    (event("Unheard"), "PreToolUse", False), (event(None), "PreToolUse", False),
    (event(["PreToolUse"]), "PreToolUse", False), (event({}), "PreToolUse", False),
], ids=shortened)
def test_stdin_decides_where_a_hint_goes_and_not_the_command_line(
        one_hook, stdin, event_type, speaks):
    result = one_hook.send(nowhere(), stdin=stdin, event_type=event_type, env=FIRST)
    assert (result.exit, bool(result.stdout)) == (0, speaks)
    assert sum(line.startswith(LOST) for line in result.lines) == 1
    assert one_hook.losses()[0].split()[1] == event_type


# Sessions of any name.

@pytest.mark.parametrize("session", [
    "../../escaped", "/etc/passwd", "a/b\\c", "..", ".", "x" * 10240, "日本語",
    "a\0b", "\ud800", "a\nb\r\x1b[2J", "", None, 7, ["a"], {"a": {}}, True],
    ids=shortened)
def test_no_session_id_leaves_the_folder(one_hook, session):
    url, before = nowhere(), tree(one_hook.home)
    first, second = [one_hook.send(url, stdin=event(session=session), env=FIRST)
                     for _ in range(2)]
    assert len(told([first])) == 1 and is_quiet(second)
    lines = streak_file(one_hook).read_bytes().splitlines(True)
    assert [len(line) for line in lines] == [64, 64] and b"\x1b" not in lines[0]
    new = set(tree(one_hook.home)) - set(before) - {one_hook.state}
    assert {path.parent for path in new} == {one_hook.state} and len(new) == 2


@pytest.mark.parametrize("one, other", [
    ("a/b", "a_b"), ("日本", "中国"), ("x" * 200 + "1", "x" * 200 + "2")],
    ids=shortened)
def test_sessions_of_similar_names_are_told_each(one_hook, one, other):
    url = nowhere()
    results = [one_hook.send(url, stdin=event(session=name), env=FIRST)
               for name in (one, other, one)]
    assert [bool(result.stdout) for result in results] == [True, True, False]


# Where the file is.

@pytest.mark.parametrize("variables, folder", [
    ({"HOOK_IO_STATE_DIR": "{}/own", "XDG_STATE_HOME": "{}/xdg"}, "own"),
    ({"HOOK_IO_STATE_DIR": "{}/deep/own/", "XDG_STATE_HOME": "{}/xdg"}, "deep/own"),
    ({"HOOK_IO_STATE_DIR": "", "XDG_STATE_HOME": "{}/xdg"}, "xdg/hook-io"),
    ({"HOOK_IO_STATE_DIR": "", "XDG_STATE_HOME": "xdg"}, ".local/state/hook-io"),
    ({"HOOK_IO_STATE_DIR": "", "XDG_STATE_HOME": ""}, ".local/state/hook-io")])
def test_the_state_folder_follows_its_variables(one_hook, tmp_path, variables, folder):
    env = {name: value.format(tmp_path) for name, value in variables.items()}
    (tmp_path / "cwd").mkdir()
    result = one_hook.send(nowhere(), stdin=event(), env=env, cwd=str(tmp_path / "cwd"))
    assert is_quiet(result)
    files = [path for path in tree(tmp_path) if path.is_file()]
    assert [path.parent for path in files] == [tmp_path / folder]
    assert mode(files[0].parent) == 0o700


def test_a_hook_without_any_folder_goes_on_with_one_diagnostic(hook, tmp_path):
    env = {"HOOK_IO_STATE_DIR": "", "HOME": "nowhere", "XDG_STATE_HOME": "here"}
    result = hook.send(
        nowhere(), stdin=event(), env={**FIRST, **env}, cwd=str(tmp_path))
    assert is_uncounted(result) and tree(tmp_path) == {}


def test_without_home_the_folder_is_that_of_the_account(monkeypatch):
    expected = os.path.join(pwd.getpwuid(os.getuid()).pw_dir, ".local/state/hook-io")
    for name in ("HOOK_IO_STATE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    assert os.path.dirname(hook_io.FailureStreak("x").path) == expected


def test_an_account_without_a_home_cannot_count(monkeypatch, tmp_path):
    def getpwuid(uid):
        raise KeyError(uid)
    monkeypatch.chdir(str(tmp_path))
    for name in ("HOOK_IO_STATE_DIR", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    with pytest.raises(OSError):
        hook_io.FailureStreak("x").record("Stop", "refused", "s")


# State that cannot be used.

def is_uncounted(result):
    """Tell whether a loss was said in its two lines, and that it is not counted."""
    error, _, uncounted = result.lines if len(result.lines) == 3 else [""] * 3
    return (result.exit == 0 and result.stdout == "" and error.startswith(LOST)
            and uncounted.startswith(UNCOUNTED))


#: what stands in the way -> how it comes there (folder, file, a folder elsewhere)
OBSTACLES = {
    "file as folder": lambda folder, file, out: folder.write_text("mine"),
    "dangling link as folder": lambda folder, file, out: folder.symlink_to(out / "no"),
    "link as folder": lambda folder, file, out: folder.symlink_to(out),
    "link as file": lambda folder, file, out: file.symlink_to(out / file.name),
    "dangling link as file": lambda folder, file, out: file.symlink_to(out / "no"),
    "directory as file": lambda folder, file, out: file.mkdir(),
    "FIFO as file": lambda folder, file, out: os.mkfifo(str(file)),
}


@pytest.fixture
def obstructed(request, one_hook, tmp_path):
    """Return (hook, server, a folder elsewhere) with an obstacle in the way.

    Elsewhere is a file that looks like a streak worth telling.
    """
    with EventServer(replies=["server_error"]) as server:
        path, out = begin_outage(one_hook, server.url, 5), tmp_path / "out"
        name, content = path.name, path.read_bytes()
        shutil.rmtree(str(one_hook.state))
        out.mkdir()
        (out / name).write_bytes(content)
        if not request.param.endswith("folder"):
            one_hook.state.mkdir(0o700)
        OBSTACLES[request.param](one_hook.state, one_hook.state / name, out)
        yield one_hook, server, out


def bounded(hook, url):
    """Send one event; fail at once, and not at the end of patience, if it hangs."""
    process = hook.start("send_event.py", "--source-app", "demo", "--event-type",
                         "Stop", "--server-url", url, env=FIRST)
    try:
        stdout, stderr = process.communicate(b'{"hook_event_name": "Stop"}', HANG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise AssertionError("the hook hangs") from None
    return Result(process.returncode, stdout.decode(), stderr.decode())


@pytest.mark.parametrize("obstructed", OBSTACLES, indirect=True)
def test_a_loss_that_cannot_be_counted_is_one_more_line_and_touches_nothing(obstructed):
    hook, server, out = obstructed
    before, server.on_event = tree(out), refuse
    assert is_uncounted(bounded(hook, server.url))
    assert tree(out) == before


@pytest.mark.parametrize("obstructed", OBSTACLES, indirect=True)
def test_a_success_with_state_that_cannot_be_used_is_silent(obstructed):
    hook, server, out = obstructed
    before, result = tree(out), bounded(hook, server.url)
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")
    assert tree(out) == before


@pytest.mark.parametrize("limit_bytes", [0, 32, 63])
def test_a_full_disk_is_one_more_line_until_there_is_room(one_hook, limit_bytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    url = nowhere()
    begin_outage(one_hook, url, 1).unlink()  # and hook_io is compiled
    for _ in range(2):
        assert is_uncounted(
            one_hook.send(url, stdin=event(), env=FIRST, preexec_fn=limit))
    assert is_quiet(lose(one_hook, url, 1)[0]) and len(one_hook.losses()) == 1


def test_a_disk_that_was_full_at_the_first_start_does_no_harm_later(one_hook):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    url = nowhere()
    shutil.rmtree(str(one_hook.folder / "__pycache__"), ignore_errors=True)
    for preexec_fn in (limit, None, None):  # the compiled library may be cut at 8 KiB
        assert is_quiet(one_hook.send(url, stdin=event("SessionEnd"),
                                      preexec_fn=preexec_fn))
    (compiled,) = (one_hook.folder / "__pycache__").glob("hook_io.*.pyc")
    assert compiled.stat().st_size > 8192  # else every start compiles it anew


def unprivileged():
    """Take from root, in this process and its children, the right to ignore modes."""
    if sys.platform == "linux":
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.fixture
def modes_count(tmp_path):
    probe = tmp_path / "probe"
    probe.touch(0o400)
    script = f"open({str(probe)!r}, 'a')"
    done = subprocess.run([sys.executable, "-c", script], stderr=subprocess.DEVNULL,
                          preexec_fn=unprivileged)
    if done.returncode == 0:
        pytest.skip("this user may write whatever the mode is")


@pytest.mark.parametrize("of_folder, of_file", [(0o500, 0), (0, 0), (0o700, 0o400)])
def test_modes_that_forbid_writing_do_not_change_the_exit_code(
        one_hook, modes_count, of_folder, of_file):
    with EventServer(replies=["server_error"] * 2) as server:
        path = begin_outage(one_hook, server.url, 1)
        path.chmod(of_file) if of_file else path.unlink()
        one_hook.state.chmod(of_folder)
        lost, sent = [one_hook.send(
            server.url, stdin=event("Stop"), preexec_fn=unprivileged) for _ in range(2)]
        one_hook.state.chmod(0o700)
    assert is_uncounted(lost)
    assert (sent.exit, sent.stdout, sent.stderr) == (0, "", "")


def test_a_folder_that_cannot_be_listed_hides_no_recovery(one_hook, modes_count):
    with EventServer(replies=["server_error"]) as server:
        begin_outage(one_hook, server.url, 3)
        one_hook.state.chmod(0o300)
        result = one_hook.send(server.url, stdin=event(), preexec_fn=unprivileged)
        one_hook.state.chmod(0o700)
    assert (result.exit, result.stderr) == (0, "")
    assert "3 were lost" in result.document["systemMessage"]


# Content that no hook wrote.

@pytest.mark.parametrize("content", [
    b"\xff\x1b[2J\x07\r\n" * 32, b"\0" * 256, b"\x1b]0;x\x07" * 64, b"\n" * 192],
    ids=shortened)
def test_garbage_in_whole_lines_is_counted_and_never_shown(one_hook, content):
    url = nowhere()
    begin_outage(one_hook, url, 1).write_bytes(content)
    (result,) = lose(one_hook, url, 1)
    assert (result.exit, len(result.lines)) == (0, 2)
    message = result.document["systemMessage"]
    assert f"{len(content) // 64 + 1} events" in message and message.isprintable()


@pytest.mark.parametrize("content", [
    b"x", b"\0" * 65, b"2025-10-21T10:30:45Z PreTo", b"\n"], ids=shortened)
def test_a_torn_line_begins_the_streak_anew_with_one_diagnostic(one_hook, content):
    url = nowhere()
    path = begin_outage(one_hook, url, 3)
    path.write_bytes(path.read_bytes() + content)
    results = lose(one_hook, url, 4)
    assert is_uncounted(results[0]) and "anew" in results[0].lines[2]
    assert is_quiet(results[1]) and is_quiet(results[2])
    assert "3 events" in told(results)[0] and path.stat().st_size == 3 * 64


def test_an_empty_file_is_a_streak_of_none(one_hook):
    with EventServer(replies=["server_error"] * 2) as server:
        begin_outage(one_hook, server.url, 0)
        assert is_quiet(lose(one_hook, server.url, 1)[0])
        assert streak_file(one_hook).stat().st_size == 64
        streak_file(one_hook).write_bytes(b"")
        result = one_hook.send(server.url, stdin=event(), env=FIRST)
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("more_bytes", [0, 1])
def test_a_file_of_5_mib_grows_no_further_and_can_still_end(one_hook, more_bytes):
    with EventServer(replies=["server_error"] * 2) as server:
        path = begin_outage(one_hook, server.url, 81920)
        with path.open("ab") as file:
            file.write(b"x" * more_bytes)
        assert "81920 events" in told(lose(one_hook, server.url, 1))[0]
        assert path.stat().st_size == (5 << 20) + more_bytes
        assert "81920 were lost" in told(lose(one_hook, server.url, 1))[0]


# FailureStreak itself.

@pytest.fixture
def streak(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_IO_STATE_DIR", str(tmp_path / "state"))
    return hook_io.FailureStreak("hook.host", threshold=2)


def test_record_returns_the_place_and_end_what_there_was(streak):
    assert streak.end() == streak.count() == (0, "")
    assert [streak.record("Stop", "refused", "s") for _ in range(3)] == [1, 2, 3]
    losses, since = streak.count()
    assert streak.end() == (losses, since) == (3, since) and len(since) == 20
    assert streak.end() == (0, "") and streak.record("Stop", "refused", "s") == 1


@pytest.mark.parametrize("words", [
    ("", "", ""), ("E" * 99, "o" * 99, "s" * 99), ("é", "\0", "\ud800"),
    ("a\nb", "\t", "\x1b")], ids=shortened)
def test_record_writes_64_printable_bytes_whatever_it_is_given(streak, words):
    assert streak.record(*words) == 1
    with open(streak.path, "rb") as file:
        content = file.read()
    assert len(content) == 64 and content.endswith(b"\n")
    assert content[:-1].decode("ascii").isprintable()


@pytest.mark.parametrize("suffix, end", [(".last", "end"), (".untold", "end_untold")])
def test_a_folder_in_its_way_keeps_no_streak_from_ending(streak, suffix, end):
    streak.record("Stop", "refused", "s")
    os.mkdir(streak.path + suffix)
    assert getattr(streak, end)()[0] == 1
    assert streak.record("Stop", "refused", "s") == 1


def test_a_notice_is_claimed_once_per_session_and_outage(streak):
    for _ in range(2):
        streak.record("Stop", "refused", "s")
        assert [streak.claim_notice(name) for name in ("a", "a", "b", "", "")] == [
            True, False, True, True, False]
        streak.end()


def account(name, fail_loud, session="a", threshold="2"):
    """Count a loss on the event of that *name*; return what is said of it."""
    facts = errand(name, name="hook", fail_loud=fail_loud,
                   fail_loud_threshold=threshold)
    outcome = hook_io.Outcome("refused", "connection refused")
    losses = hook_io.Losses("http://127.0.0.1:9/events", facts)
    return losses.account_for(outcome, event(name, session))


def test_a_loss_is_told_from_the_threshold_on_where_there_is_a_channel(streak):
    def told(*words):
        said = account(*words)
        return (said.hint or said.text)[9:30]
    assert [told("Stop", "hint"), told("PreCompact", "hint"), told("Stop", "off"),
            told("Stop", "block"), told("Stop", "hint"), told("Stop", "hint"),
            told("PreToolUse", "block", "b")] == [
        "", "", "", "", "5 events in a row did", "", "7 events in a row did"]


def test_an_outage_that_ends_between_a_loss_and_its_notice_is_not_told(
        streak, monkeypatch):
    class Overtaken(hook_io.FailureStreak):
        def record(self, *words):
            place = super().record(*words)
            self.end()  # as another process does whose event arrives
            return place
    monkeypatch.setattr(hook_io, "FailureStreak", Overtaken)
    said = account("Stop", "hint", threshold="1")
    assert said.hint == said.text == "" and len(said.diagnostics) == 2


def test_record_raises_oserror_for_half_a_line_or_no_folder(streak, tmp_path):
    streak.record("Stop", "refused", "s")
    with open(streak.path, "ab") as file:
        file.write(b"half")
    with pytest.raises(OSError, match="anew"):
        streak.record("Stop", "refused", "s")
    assert streak.record("Stop", "refused", "s") == 1
    shutil.rmtree(str(tmp_path / "state"))
    (tmp_path / "state").touch()
    with pytest.raises(OSError):
        streak.record("Stop", "refused", "s")
