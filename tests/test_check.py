"""--check tells a person, in ten lines, whether events arrive, and why not."""

import os
import re

import pytest

import hook_io
from conftest import PYTHONS, nowhere, sample
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
    assert re.match(r"sent: HTTP 201, after \d+ ms of 20000$", said["outcome"])
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
