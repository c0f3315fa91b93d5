"""--check tells a person whether events arrive, and why not, as the agent would."""

import json
import os
import re
import shutil

import pytest

import hook_io
from conftest import PYTHONS, nowhere, sample, timed
from server import EventServer, closed_port

pytestmark = pytest.mark.usefixtures("patient")


def check(hook, *argv, env=None, **kwargs):
    """Run the check; return the Result, and its lines on stdout by their names."""
    result = hook.run("send_event.py", "--check", *argv, env=env, **kwargs)
    lines = result.stdout.splitlines()
    assert len(lines) == 10, result
    return result, dict(line.partition(": ")[::2] for line in lines)


def test_an_event_that_arrives_is_exit_0_and_says_all_there_is_to_know(hook):
    with EventServer() as server:
        env = {"HOOK_IO_SERVER_URL": server.url}
        result, said = check(hook, env=env)
        (event,) = server.events()
    assert (result.exit, result.stderr) == (0, "")
    first, *_, last = result.stdout.splitlines()
    version = re.escape(hook_io.__version__)
    assert re.match(rf"hook-io {version}, Python 3\.\d+\.\d+ \(/.+\)$", first)
    assert last == "The test event arrived."
    assert said["agent"] == "raw (no event of an agent on stdin)"
    assert said["format"] == "events"
    assert said["endpoint"] == f"{server.url}, from HOOK_IO_SERVER_URL, at 127.0.0.1"
    assert re.match(r"sent: HTTP 201, after \d+ ms of 50000$", said["outcome"])
    assert said["streak"] == "no losses"
    assert said["spool"] == "off (HOOK_IO_SPOOL_DIR)"
    assert said["state folder"] == str(hook.state)
    assert event["summary"] == "hook-io check: a test event"
    assert '"hook_io_check":true' in event["metadata"]


def test_the_agent_is_told_from_the_event_on_stdin(one_hook):
    with EventServer() as server:
        _, said = check(one_hook, "--server-url", server.url, stdin=sample("Stop"))
    assert said["agent"] == "claude-code"
    assert said["endpoint"].startswith(f"{server.url}, from --server-url, at ")


@pytest.mark.parametrize(("fault", "name", "remedy"), [
    ("bad_request", "rejected: HTTP 400: ValidationError", "See what the server says"),
    ("silent", "unconfirmed: no answer in time", "more time with HOOK_IO_TIMEOUT_MS"),
    ("close", "refused: closed without an answer", "Start the server"),
])
@timed
def test_one_that_does_not_arrive_is_exit_1_with_a_remedy(
    one_hook, fault, name, remedy
):
    with EventServer(fault=fault) as server:
        result, said = check(
            one_hook, "--server-url", server.url, "--timeout-ms", "900")
    assert result.exit == 1
    assert said["outcome"].startswith(name)
    last = result.stdout.splitlines()[-1]
    assert last.startswith("It did not arrive. ")
    assert remedy in last
    assert one_hook.losses() == []  # no event of the agent's is lost


def test_nobody_there_and_a_bad_url_are_told(one_hook):
    for url in (f"http://localhost:{closed_port()}/", "ftp://x", "http://169.254.1.1/"):
        result, said = check(one_hook, "--server-url", url)
        assert result.exit == 1
        assert url in said["endpoint"]
    url, env = f"https://127.0.0.1:{closed_port()}/", {"HOOK_IO_FORMAT": "otlp"}
    result, said = check(one_hook, "--server-url", url, env=env, flags=("-I", "-S"))
    assert (result.exit, said["format"]) == (1, "otlp")


def test_it_shows_what_is_kept_and_changes_none_of_it(one_hook, tmp_path):
    spool, log = tmp_path / "spool", tmp_path / "events.jsonl"
    env = {"HOOK_IO_SPOOL_DIR": str(spool), "HOOK_IO_EVENT_LOG": str(log)}
    url = nowhere()
    for _ in range(2):
        one_hook.send(url, stdin=sample("Stop"), env=env)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    _, said = check(one_hook, "--server-url", url, env=env)
    assert said["spool"] == f"2 wait, 0 set aside, in {spool}"
    assert said["event log"] == str(log)
    assert said["streak"].startswith("2 losses since 2")
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before


def test_folders_of_no_use_are_told(one_hook):
    (one_hook.home / "file").write_text("")
    inside = str(one_hook.home / "file" / "x")
    env = {"HOOK_IO_SPOOL_DIR": inside, "HOOK_IO_EVENT_LOG": "relative/x.jsonl",
           "HOOK_IO_STATE_DIR": inside}
    _, said = check(one_hook, env=env)
    for name in ("spool", "event log", "state folder"):
        assert said[name].endswith(" (CANNOT BE WRITTEN)"), said


def test_no_value_makes_a_line_of_its_own_or_speaks_to_the_terminal(one_hook):
    forged = f"{one_hook.home}/x\nThe test event arrived.\x1b]0;x\x07"
    result, said = check(one_hook, "--server-url", nowhere(), env={
        "HOOK_IO_STATE_DIR": forged, "HOOK_IO_EVENT_LOG": forged,
        "HOOK_IO_SPOOL_DIR": forged})
    assert result.exit == 1
    assert result.stdout.replace("\n", "").isprintable()
    assert "x The test event arrived. ]0;x" in said["state folder"]


def test_the_collectors_variables_are_named(one_hook):
    with EventServer(fault="no_content") as server:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": server.url, "HOOK_IO_FORMAT": "otlp"}
        result, said = check(one_hook, env=env)
    assert result.exit == 0
    assert said["endpoint"].startswith(
        f"{server.url}/v1/logs, from OTEL_EXPORTER_OTLP_ENDPOINT")


def test_without_a_server_the_event_log_is_tried(one_hook, tmp_path):
    result, said = check(one_hook, "--server-url", "none")
    assert (result.exit, said["outcome"].split(":")[0]) == (1, "invalid")
    env = {"HOOK_IO_EVENT_LOG": str(tmp_path / "events.jsonl")}
    result, _ = check(one_hook, "--server-url", "none", env=env)
    assert result.exit == 0
    assert "hook-io check" in (tmp_path / "events.jsonl").read_text()


def test_a_token_is_not_shown(one_hook):
    reply = {"status": 401, "json": {"error": "bad tok-4711-s"}}
    with EventServer(replies=[reply]) as server:
        env = {"HOOK_IO_HEADERS": "Authorization: Bearer tok-4711-s"}
        result, _ = check(one_hook, "--server-url", server.url, env=env)
    assert "tok-4711" not in result.stdout + result.stderr


def test_it_names_the_python_that_runs_it(hook):
    result, _ = check(hook, "--server-url", "none")
    version, path = re.search(r"Python (\S+) \((.*)\)", result.stdout).groups()
    named = next(name for name in PYTHONS if PYTHONS[name] == hook.python)
    assert version.rpartition(".")[0] in named
    assert os.path.realpath(path) == os.path.realpath(hook.python)


# What the agent's settings set counts as it does for a hook of the agent's.


def placed(hook, folder):
    shutil.copytree(str(hook.folder), str(folder))
    hook.folder = folder


@pytest.fixture
def project(one_hook, tmp_path):
    """A project into which the hook of `settled` is installed, and a home beside it."""
    folder = tmp_path / "project"
    (folder / ".claude").mkdir(parents=True)
    (one_hook.home / ".claude").mkdir()
    placed(one_hook, folder / ".claude" / "hooks")
    return folder


def settle(folder, name="settings.json", **env):
    path = folder / ".claude" / name
    path.write_text(json.dumps({"env": env, "permissions": {}}))
    return path


def settled(hook, *argv, **kwargs):
    """Run the check; return the Result, its lines by name, and those on settings."""
    result = hook.run("send_event.py", "--check", *argv, **kwargs)
    lines = [line.partition(": ")[::2] for line in result.stdout.splitlines()]
    return result, dict(lines), [text for name, text in lines if name == "settings"]


@pytest.mark.parametrize("flags", [(), ("-I", "-S")], ids=["", "-IS"])
def test_the_settings_of_the_project_count_and_are_named(one_hook, project, flags):
    with EventServer() as server:
        path = settle(project, HOOK_IO_SERVER_URL=server.url, HOOK_IO_FORMAT="raw",
                      OTHER="x")
        result, said, lines = settled(one_hook, flags=flags)
        assert len(server.events()) == 1
    assert (result.exit, result.stderr) == (0, "")
    assert said["endpoint"].startswith(
        f"{server.url}, from HOOK_IO_SERVER_URL in {path}, at ")
    assert said["format"] == "raw"
    assert lines == [f"{path} sets HOOK_IO_SERVER_URL, HOOK_IO_FORMAT"]
    assert len(result.stdout.splitlines()) == 11


def test_the_nearest_settings_count_before_others_and_these_before_a_shells(
    one_hook, project
):
    home = settle(one_hook.home, HOOK_IO_FORMAT="otlp", HOOK_IO_TIMEOUT_MS=15000,
                  HOOK_IO_SPOOL_DIR="~/kept", HOOK_IO_SERVER_URL="http://localhost:1/")
    shared = settle(project, HOOK_IO_FORMAT="raw", HOOK_IO_SERVER_URL="ftp://x")
    url = nowhere()
    own = settle(project, "settings.local.json", HOOK_IO_SERVER_URL=url)
    env = {"HOOK_IO_SERVER_URL": "http://localhost:2/", "HOOK_IO_TIMEOUT_MS": "1"}
    _, said, lines = settled(one_hook, env=env)
    assert said["endpoint"].startswith(f"{url}, from HOOK_IO_SERVER_URL in {own}")
    assert said["format"] == "raw"
    assert said["outcome"].endswith(" of 15000")
    assert lines == [
        f"{shared} sets HOOK_IO_FORMAT",
        f"{home} sets HOOK_IO_TIMEOUT_MS, HOOK_IO_SPOOL_DIR",
        f"{own} sets HOOK_IO_SERVER_URL"]
    _, said, _ = settled(one_hook, "--server-url", "http://localhost:3/")
    assert said["endpoint"].startswith("http://localhost:3/, from --server-url")


def test_the_folder_of_the_settings_is_found_as_the_agent_finds_it(
    one_hook, project, tmp_path
):
    settle(project, HOOK_IO_FORMAT="raw")
    other = tmp_path / "other"
    (other / ".claude").mkdir(parents=True)
    settle(other, HOOK_IO_FORMAT="cloudevents")
    (other / "settings.json").write_text('{"env": {"HOOK_IO_TIMEOUT_MS": 15001}}')
    env = {"CLAUDE_PROJECT_DIR": str(other), "CLAUDE_CONFIG_DIR": str(other)}
    _, said, _ = settled(one_hook, env=env)
    assert said["format"] == "cloudevents"
    assert said["outcome"].endswith(" of 15001")
    placed(one_hook, one_hook.home / ".claude" / "hooks")
    _, said, _ = settled(one_hook, cwd=str(other))
    assert said["format"] == "cloudevents"


def test_settings_of_claude_code_are_no_other_agents(one_hook, project):
    settle(project, HOOK_IO_FORMAT="raw")
    event = {"session_id": "s", "turn_id": "t", "model": "m",
             "hook_event_name": "Stop"}
    _, said, lines = settled(one_hook, stdin=event)
    assert (said["agent"], said["format"], lines) == ("codex", "events", [])


def test_no_variable_of_the_collectors_is_taken_as_no_hook_gets_one(one_hook, project):
    settle(project, OTEL_EXPORTER_OTLP_ENDPOINT="http://localhost:1",
           HOOK_IO_FORMAT="otlp")
    _, said, _ = settled(one_hook)
    assert said["endpoint"].startswith(
        "http://localhost:4318/v1/logs, from the default")


def test_a_switch_that_turns_hooks_off_is_told(one_hook, project):
    with EventServer() as server:
        path = settle(project, HOOK_IO_OFF="1", HOOK_IO_SERVER_URL=server.url)
        result, said, lines = settled(one_hook)
        assert result.exit == 1
        assert server.events() == []
    assert said["outcome"].startswith("invalid: HOOK_IO_OFF is set")
    assert lines == [f"{path} sets HOOK_IO_OFF, HOOK_IO_SERVER_URL"]
    result, said, _ = settled(one_hook, env={"HOOK_IO_OFF": "1"})
    assert result.exit == 1
    assert said["outcome"].startswith("invalid: HOOK_IO_OFF is set")


def test_an_unsound_value_is_told_once_and_not_the_shells(one_hook, project):
    settle(project, HOOK_IO_TIMEOUT_MS="soon", HOOK_IO_FORMAT="raw")
    result, said, _ = settled(one_hook, env={"HOOK_IO_FORMAT": "none"})
    assert said["format"] == "raw"
    assert result.lines == [
        "[WARNING] HOOK_IO_TIMEOUT_MS is no whole number from 1 to 60000: 'soon'; it "
        "is ignored"]


@pytest.mark.parametrize(("variable", "text", "hint"), [
    ("HOOK_IO_DECIDE", "DENY", " (did you mean deny?)"),
    ("HOOK_IO_DECIDE_FAIL", "deny", ""),
    ("HOOK_IO_FORMAT", "otpl", " (did you mean otlp?)"),
    ("HOOK_IO_FAIL_LOUD", "blok", " (did you mean block?)"),
    ("HOOK_IO_EXPORT", "textfile, otlp", " (did you mean textfile,otlp?)"),
    ("HOOK_IO_PLATFORM", "claude_code", " (did you mean claude-code?)"),
    ("HOOK_IO_TIMEOUT_MS", "1s", ""),
    ("HOOK_IO_HEADERS", "tok-4711-squeamish", ""),
    ("HOOK_IO_BACKGROUND", "False", " (did you mean false?)"),
])
def test_a_variable_that_is_not_understood_is_named_with_the_nearest_right_value(
    one_hook, project, variable, text, hint
):
    result, said, _ = settled(
        one_hook, "--server-url", nowhere(), env={variable: text})
    assert said["not understood"] == variable + hint
    assert "squeamish" not in result.stdout + result.stderr
    path = settle(project, **{variable: text})
    _, said, _ = settled(one_hook, "--server-url", nowhere())
    assert said["not understood"] == f"{variable} in {path}{hint}"


@pytest.mark.parametrize(("variable", "hint"), [
    ("HOOK_IO_SERVER_ULR", " (did you mean HOOK_IO_SERVER_URL?)"),
    ("HOOK_IO_TIMOUT_MS", " (did you mean HOOK_IO_TIMEOUT_MS?)"),
    ("HOOK_IO_TIMEOUT", " (did you mean HOOK_IO_TIMEOUT_MS?)"),
    ("hook_io_off", " (did you mean HOOK_IO_OFF?)"),
    ("HOOKIO_SPOOL_DIR", " (did you mean HOOK_IO_SPOOL_DIR?)"),
])
def test_a_variable_that_nobody_reads_is_named_with_the_one_that_was_meant(
    one_hook, project, variable, hint
):
    env = {variable: "squeamish-4711"}
    result, said, _ = settled(one_hook, "--server-url", nowhere(), env=env)
    assert said["not understood"] == variable + hint
    assert "squeamish" not in result.stdout + result.stderr
    path = settle(project, **env)
    _, said, _ = settled(one_hook, "--server-url", nowhere())
    assert said["not understood"] == f"{variable} in {path}{hint}"


def test_what_is_understood_is_named_in_no_such_line(one_hook):
    env = {"HOOK_IO_DECIDE": "off", "HOOK_IO_BACKGROUND": "yes", "HOOK_IO_PURE": "0",
           "HOOK_IO_OF_MY_OWN_GUARD": "1", "HOOKS": "x", "IO": "y"}
    result, _, _ = settled(one_hook, "--server-url", nowhere(), env=env)
    assert "not understood" not in result.stdout
    env = {"HOOK_IO_DECIDE": "DENY", "HOOK_IO_FORMAT": "xml"}
    _, said, _ = settled(one_hook, "--server-url", nowhere(), env=env)
    assert said["not understood"] == (
        "HOOK_IO_FORMAT, HOOK_IO_DECIDE (did you mean deny?)")


def test_metadata_of_the_settings_leaves_redacted(one_hook, project):
    with EventServer() as server:
        settle(project, HOOK_IO_METADATA='{"password": "squeamish-4711"}',
               HOOK_IO_SERVER_URL=server.url)
        settled(one_hook)
        (event,) = server.events()
    assert event["metadata"] == '{"password": "[redacted]"}'


def a_fifo(path):
    os.mkfifo(str(path))


def a_device(path):
    path.symlink_to("/dev/zero")


def a_loop(path):
    path.symlink_to(path)


def a_text(text):
    return lambda path: path.write_bytes(text)


@pytest.mark.parametrize(("made", "why"), [
    (a_fifo, "it is no regular file"),
    (a_device, "it is no regular file"),
    (lambda path: path.mkdir(), "it is no regular file"),
    (a_loop, "Too many levels of symbolic links"),
    (a_text(b" " * (1 << 20) + b"{}"), "it is longer than 1048576 bytes"),
    (a_text(b'{"env": {"HOOK_IO_HEADERS": "squeamish-4711"'), "it is no JSON object"),
    (a_text(b"[" * 100000), "it is no JSON object"),
    (a_text(b"\xff\xfe{}"), "it is no JSON object"),
    (a_text(b""), "it is no JSON object"),
    (a_text(b"[]"), "it is no JSON object"),
    (a_text(b'{"env": ["squeamish"]}'), 'its "env" is no JSON object'),
    (a_text(b'{"env": null}'), 'its "env" is no JSON object'),
    (a_text(b'{"env": {"": "x", "A=B": "x", "HOOK_IO_USER": "a\\u0000b", "B": "\\ud800"'
            b', "HOOK_IO_FORMAT": ["raw"], "HOOK_IO_STATE_DIR\\n": 1}}'), ""),
])
def test_settings_of_no_use_are_told_in_a_line_and_hold_nothing_up(
    one_hook, project, made, why
):
    path = project / ".claude" / "settings.json"
    made(path)
    result, said, _ = settled(one_hook, "--server-url", nowhere())
    assert result.exit == 1
    assert said["outcome"].startswith("refused")
    assert "squeamish" not in result.stdout + result.stderr
    told = f"[WARNING] The settings {path} are not read: {why}"
    assert (told in result.lines) is bool(why)
    assert all(line.startswith("[WARNING] ") for line in result.lines), result


def test_settings_that_are_not_there_say_nothing(one_hook, project):
    (one_hook.home / ".claude").rmdir()
    (one_hook.home / ".claude").write_text("")  # a file in the folder's place
    result, _, lines = settled(one_hook, "--server-url", nowhere())
    assert (result.stderr, lines) == ("", [])
