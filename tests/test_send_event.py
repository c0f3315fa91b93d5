# SPDX-License-Identifier: MIT
"""send_event.py keeps the hook script contract: its command line, body and messages."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

import hook_io
import send_event
from conftest import (
    PATIENCE_S,
    ROOT,
    SLACK_MS,
    TESTS,
    VECTORS,
    arrived,
    body_at,
    nowhere,
    sample,
    timed,
)
from server import EventServer, closed_port
from test_hook_io import BAD, REPEATED

BODY_MAX_BYTES = 256 * 1024
UUID = "550e8400-e29b-41d4-a716-446655440000"
OTHER_UUID = "00000000-0000-4000-8000-00000000000F"
KEY = "ghp_" + "a1B2" * 9  # looks like a key to every rule that knows keys
REQUIRED = ("--source-app", "demo", "--event-type", "PreToolUse")
LOUD_AT_ONCE = {"HOOK_IO_FAIL_LOUD_THRESHOLD": "1"}
pytestmark = pytest.mark.usefixtures("patient")  # few tests are about the budget


@pytest.fixture
def down():
    return nowhere()


def metadata_at(server):
    return json.loads(body_at(server)["metadata"])


def is_silent(result):
    return (result.exit, result.stdout, result.stderr) == (0, "", "")


def fact_of(result):
    """Return why a loss came about, as stderr's first line says it."""
    assert (result.exit, result.stdout) == (0, ""), result
    error, warning = result.lines
    assert warning.startswith("[WARNING] Observability server "), result
    return re.fullmatch(
        r"\[ERROR\] Failed to send event to observability-server: (.*)"
        r" \(http://127\.0\.0\.1:\d+/events\)", error).group(1)


def is_usage_error(result, *words):
    """Tell whether *result* is a usage error whose first line has all *words*."""
    return ((result.exit, result.stdout) == (2, "") and "Traceback" not in result.stderr
            and result.lines[0].startswith("[ERROR] send_event.py: ")
            and result.lines[1].startswith("usage: send_event.py ")
            and all(word in result.lines[0] for word in words))


def short(value):
    """Return the name of a parameter."""
    return str(value)[:32]


# The contract's five cases.

def test_a_sent_event_arrives_and_nothing_is_said(hook, server):
    result = hook.send(server.url, stdin=sample("PreToolUse"))
    assert is_silent(result), result
    assert body_at(server)["event_type"] == "PreToolUse"


def test_a_server_that_is_down_costs_two_lines_and_the_event(hook, down):
    result = hook.send(down, stdin=sample("PreToolUse"))
    assert (result.exit, result.stdout) == (0, "")
    assert result.stderr == (
        "[ERROR] Failed to send event to observability-server: connection refused "
        f"({down})\n[WARNING] Observability server not running, event discarded\n")
    (line,) = hook.losses()
    assert line.split()[2] == "refused"


@timed
def test_a_slow_server_is_left_within_the_budget(hook):
    with EventServer(replies=[{"delay_ms": 5000}]) as server:
        result = hook.send(server.url, "--timeout-ms", "100", stdin=sample("Stop"))
        (seen,) = server.wait(1)
    assert fact_of(result) == "no answer within 100 ms"
    assert seen.json["event_type"] == "Stop"
    assert seen.ended_by == "client"
    assert seen.held_ms <= 100 + SLACK_MS


def test_a_slow_server_within_the_budget_is_waited_for(one_hook):
    with EventServer(replies=[{"delay_ms": 300}]) as server:
        assert is_silent(one_hook.send(server.url, stdin=sample("Stop")))
        assert body_at(server)["event_type"] == "Stop"


@pytest.mark.parametrize("argv, missing", [
    (["--event-type", "Stop"], "--source-app"),
    (["--source-app", "demo"], "--event-type"),
    (["--source-app", "", "--event-type", "Stop"], "--source-app"),
    (["--source-app", "--event-type", "Stop"], "--source-app"),
    (["--source-app", "demo", "--event-type"], "--event-type"),
    ([], "--source-app"),
])
def test_a_missing_required_parameter_is_a_usage_error(hook, server, argv, missing):
    result = hook.run("send_event.py", *argv, stdin=sample("Stop"),
                      env={"HOOK_IO_SERVER_URL": server.url})
    assert is_usage_error(result, missing), result
    assert not arrived(server)
    assert not hook.losses()


@pytest.mark.parametrize("event", [
    {"tool_name": "mcp__sqlite__query", "parameters": {"sql": "SELECT '%', \"é😀\n\""}},
    {"tool_name": "mcp__sqlite__query", "result": {"rows": [1, -2.5e-3, None, True]}},
    {"prompt": "Help me apply to this job: https://example.com/job"},
])
def test_the_event_on_stdin_becomes_metadata(hook, server, event):
    assert is_silent(hook.send(server.url, stdin=event))
    body = body_at(server)
    assert isinstance(body["metadata"], str)
    assert json.loads(body["metadata"]) == event
    assert body.get("tool_name") == event.get("tool_name")


# What the server answers.

@pytest.mark.parametrize("reply", [
    {"status": 200}, {"status": 200, "body": "ok\n"}, {"status": 201}, {"status": 202},
    {"status": 204}, {"status": 299, "body": "<html>"}, {"status": 201, "body": "{"},
    {"continue": True}, {"raw": "HTTP/1.0 200\r\n\r\n"},
], ids=short)
def test_any_2xx_is_success(one_hook, reply):
    with EventServer(replies=[reply]) as server:
        assert is_silent(one_hook.send(server.url))
        assert len(arrived(server)) == 1
    assert not one_hook.losses()


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_never_followed(one_hook, server, status):
    reply = {"status": status, "headers": {"Location": server.url}}
    with EventServer(replies=[reply]) as first:
        result = one_hook.send(first.url)
        assert len(arrived(first)) == 1
    assert fact_of(result) == f"HTTP {status}, redirects are not followed"
    assert not arrived(server)


def answered(hook, **reply):
    """Return why the event is lost on a server that gives the 400 of *reply*."""
    with EventServer(replies=[{"status": 400, **reply}]) as server:
        return fact_of(hook.send(server.url))


def test_the_message_of_a_400_is_quoted(hook):
    assert answered(hook, json={
        "error": "ValidationError",
        "message": "Invalid event_type: must be one of [PreToolUse, PostToolUse, ...]",
    }) == ("HTTP 400: ValidationError: Invalid event_type: "
           "must be one of [PreToolUse, PostToolUse, ...]")


@pytest.mark.parametrize("reply, quoted", [
    ({"json": {"error": "Bad"}}, ": Bad"),
    ({"json": {"message": "no"}}, ": no"),
    ({"json": {"error": {"type": "x", "message": "nested"}}}, ": nested"),
    ({"json": {"error": "Bad", "message": "no"}, "drip_ms": 1}, ": Bad: no"),
    ({"json": {"error": "Bad", "message": "no"}, "chunked": True}, ": Bad: no"),
    ({"json": {"error": "Bad"}, "close_delimited": True}, ": Bad"),
    ({"json": {"error": None, "message": 5}}, ""), ({"json": ["error"]}, ""),
    ({"body": "error"}, ""), ({"body": '{"error": "cut'}, ""), ({}, ""),
], ids=short)
def test_what_a_400_says_is_quoted_as_far_as_it_is_there(one_hook, reply, quoted):
    assert answered(one_hook, **reply) == "HTTP 400" + quoted


def test_a_quoted_message_is_cleaned_cut_and_redacted(one_hook):
    nasty = "a\x1b[31mb\nc\rd\x00e\x07f\u2028g\u202eh\u0085i"
    quote = answered(one_hook, json={"error": nasty, "message": KEY})
    assert quote.isprintable()
    assert re.sub(r"[ \W]|31m", "", quote.partition(": ")[2]) == "abcdefghiredacted"
    assert KEY not in quote
    assert answered(one_hook, json={"message": "x" * 200}) == "HTTP 400: " + "x" * 200
    assert len(answered(one_hook, json={"error": "x" * 999})) <= 200 + len("HTTP 400: ")
    assert KEY[:8] not in answered(one_hook, json={"message": "x" * 180 + " " + KEY})


def test_no_more_of_a_message_is_looked_through_than_is_quoted(monkeypatch):
    seen = []
    monkeypatch.setattr(hook_io, "redact", lambda text: seen.append(text) or text)
    hook_io.Outcome.of(500, {"error": "https://u:p@h/" * 70_000})
    assert 0 < max(map(len, seen)) < 2000


@pytest.mark.parametrize("size", [b"-2", b"-1", b"0", b"1", b"-fffff"])
def test_chunks_that_lie_about_their_size_make_no_answer_longer(size):
    body = (size + b"\r\n") * 2000
    try:
        found = hook_io.Exchange._dechunk(body, False)
    except ValueError:
        found = b""
    assert len(found) <= len(body)


@pytest.mark.parametrize("size", [
    "x13", "0x13", "1_3", "+13", "\uff11\uff13", "", "13 3"])
def test_a_chunk_has_no_size_but_in_hexadecimal_digits(size):
    body = size.encode() + b'\r\n{"intent": "allow"}\r\n0\r\n\r\n'
    with pytest.raises(ValueError):
        hook_io.Exchange._dechunk(body, True)


def test_a_chunk_whose_size_is_cut_is_not_taken_for_the_last_one():
    body = b'00000013\r\n{"intent": "allow"}\r\n0'
    with pytest.raises(ValueError):
        hook_io.Exchange._dechunk(body, True)
    assert hook_io.Exchange._dechunk(body + b"\r\n", True) == b'{"intent": "allow"}'


@pytest.mark.parametrize("port", ["\xb2", "\uff140", "\u0663", "+5", "1_0", " 5"])
def test_a_port_that_is_not_written_in_ascii_digits_is_none(port):
    with pytest.raises(hook_io.Outcome):
        hook_io.Endpoint.split(f"localhost:{port}", 80)


@pytest.mark.parametrize("lengths", ["+18", "1_8", "9" * 5000, "1\r\ncontent-length:2"],
                         ids=["sign", "underscore", "long", "two"])
def test_an_answer_of_an_unclear_length_decides_nothing(lengths):
    link = hook_io.Exchange(hook_io.Endpoint("http://localhost/"), 0, [])
    fields = f"content-length:{lengths}".split("\r\n")
    with pytest.raises(ValueError):
        link._length([field.encode() for field in fields])


@pytest.mark.parametrize("status", [401, 404, 413, 500, 503])
def test_the_page_of_a_failing_server_is_not_quoted(one_hook, status):
    page = {"headers": {"Content-Type": "text/html"}, "body": "<html><h1>Oops</h1>"}
    assert answered(one_hook, status=status, **page) == f"HTTP {status}"


# The command line.

@pytest.mark.parametrize("text", [
    "abc", UUID.replace("-", ""), UUID[:-1] + "g", "{" + UUID + "}", UUID + " ",
    UUID[:-1] + "٣", "x" * 5000, "a\x1b[2J\nb",
])
def test_a_session_id_that_is_no_uuid_is_a_usage_error(one_hook, server, text):
    result = one_hook.send(server.url, "--session-id", text)
    assert is_usage_error(result, "--session-id", "UUID"), result
    assert all(line.isprintable() for line in result.lines)
    assert "x" * 81 not in result.stderr
    assert not arrived(server)


@pytest.mark.parametrize("argv", [
    ["--session-id", ""], ["--session-id="], ["--session-id"],
    ["--session-id", "--metadata", ""], ["--session-id", "--summarize"],
    ["--metadata", "--session-id", "--timeout-ms=", "--fail-loud"],
], ids=short)
def test_an_option_without_its_value_counts_as_not_given(one_hook, server, argv):
    assert is_silent(one_hook.send(server.url, *argv, stdin=sample("Stop")))
    body = body_at(server)
    assert body["session_id"] == sample("Stop")["session_id"]
    assert json.loads(body["metadata"]) == sample("Stop")


@pytest.mark.parametrize("argv", [["--session-id", OTHER_UUID],
                                  [f"--session-id={OTHER_UUID}"]], ids=short)
def test_the_flag_goes_before_the_session_of_the_event(one_hook, server, argv):
    assert is_silent(one_hook.send(server.url, *argv, stdin={"session_id": UUID}))
    assert body_at(server)["session_id"] == OTHER_UUID


@pytest.mark.parametrize("session_id", ["no uuid at all", "42", UUID.upper()])
def test_the_session_of_the_event_passes_as_it_is(one_hook, server, session_id):
    assert is_silent(one_hook.send(server.url, stdin={"session_id": session_id}))
    assert body_at(server)["session_id"] == session_id


@pytest.mark.parametrize("text", [
    "{", "nope", "{'a': 1}", "NaN", '{"a": 1} {}', "1e999", "[" * 5000 + "]" * 5000,
    '{"a": "' + "x" * 5000,
], ids=short)
def test_metadata_that_is_no_json_is_a_usage_error(hook, server, text):
    result = hook.send(server.url, "--metadata", text)
    assert is_usage_error(result, "--metadata"), result
    assert "x" * 81 not in result.stderr
    assert not arrived(server)


@pytest.mark.parametrize("text", [
    '{"b": 1,  "a": [ ]}', '{"a":1,"a":2}', "[1, 2]", '"text"', "0", "null", "{}",
    ' {"a": 1}\n', '{"q": "Grüße 😀 \\u00e9"}', '{"n": 1.0e2}',
    '{"query": "SELECT * FROM t WHERE a LIKE \'%RAG%\'"}',
])
@pytest.mark.parametrize("form", ["--metadata {}", "--metadata={}"])
def test_metadata_is_sent_verbatim(one_hook, server, text, form):
    argv = [part.format(text) for part in form.split(" ")]
    assert is_silent(one_hook.send(server.url, *argv, stdin=sample("PreToolUse")))
    body = body_at(server)
    assert (body["metadata"], body["tool_name"]) == (text, "Read")


@pytest.mark.parametrize("text", [
    '{"api_key": "hunter22", "n": 1}', ' {"auth": "hunter22", "n": 1}',
    '\n{"password": ["hunter22"], "n": 1}', '[{"n": 1, "pwd": "hunter22"}]',
    '{"n": 1, "in": "{\\"jwt\\": \\"hunter22\\"}"}',
    '{"n": 1, "in": "\\n{\\"jwt\\": \\"hunter22\\"}"}',
    f'{{"n": 1, "text": "use {KEY}"}}', '{"n": 1, "run": "DB_PASSWORD=hunter22 ./x"}',
])
def test_secrets_in_metadata_stay_here(one_hook, server, text):
    assert is_silent(one_hook.send(server.url, "--metadata", text))
    body = body_at(server)
    assert "[redacted]" in body["metadata"]
    assert "hunter22" not in body["metadata"]
    assert KEY not in body["metadata"]
    assert re.search(r'"n": ?1', json.dumps(json.loads(body["metadata"])))


@pytest.mark.parametrize("text, near", [
    ("PreToolUs", "PreToolUse"), ("pretooluse", "PreToolUse"),
    ("pre_tool_use", "PreToolUse"), ("PreToolUes", "PreToolUse"), ("SessionStop", ""),
    ("UserPromtSubmit", "UserPromptSubmit"), ("Zzz", ""), ("new.client:event-2", "")])
def test_an_event_that_no_table_knows_is_sent_and_a_near_one_is_named(
        one_hook, server, text, near):
    result = one_hook.send(server.url, event_type=text)
    assert (result.exit, result.stdout) == (0, "")
    assert json.loads(arrived(server)[0].body)["event_type"] == text
    assert ("did you mean" in result.stderr) == bool(near)
    assert near in result.stderr


@pytest.mark.parametrize("text", ["two words", "1st", "x" * 65, "a\x1b[2J\nb", "Stöp"])
def test_what_is_no_name_of_an_event_is_a_usage_error(one_hook, server, text):
    result = one_hook.send(server.url, event_type=text)
    assert is_usage_error(result, "--event-type", "no name"), result
    assert all(line.isprintable() for line in result.lines)
    assert not arrived(server)


@pytest.mark.parametrize("text, near", [
    ("--event-typ=Stop", "--event-type"), ("--sesion-id", "--session-id"),
    ("--zzz", ""), ("-x", ""), ("word", ""), ("a\x1b[2J\nb", ""), ("-" + "x" * 999, ""),
])
def test_an_unknown_option_is_a_usage_error_that_names_near_ones(
        one_hook, server, text, near):
    result = one_hook.send(server.url, text)
    assert is_usage_error(result, text[:1], near), result
    assert ("did you mean" in result.lines[0]) == bool(near)
    assert all(line.isprintable() for line in result.lines)
    assert "x" * 81 not in result.stderr
    assert not arrived(server)


def test_every_option_takes_its_value_behind_an_equals_sign(one_hook, server):
    result = one_hook.run(
        "send_event.py", "--source-app=a=b", "--event-type=Stop", "--summarize",
        f"--server-url={server.url}?x=1", f"--session-id={UUID}", "--timeout-ms=20000",
        '--metadata={"c": "="}', "--format=events", "--fail-loud=off")
    assert is_silent(result), result
    body = body_at(server)
    assert (body["source_app"], body["event_type"]) == ("a=b", "Stop")
    assert (body["session_id"], body["metadata"]) == (UUID, '{"c": "="}')


@pytest.mark.parametrize("argv", [
    ["--timeout-ms", "0"], ["--timeout-ms", "60001"], ["--timeout-ms", "²"],
    ["--timeout-ms", "1e3"], ["--timeout-ms", "-5"], ["--timeout-ms", "9" * 5000],
    ["--timeout-ms", "0000000019999999"], ["--timeout-ms", "1-"],
    ["--fail-loud", "scream"],
], ids=short)
def test_a_bad_value_is_a_usage_error(one_hook, server, argv):
    result = one_hook.send(server.url, *argv)
    assert is_usage_error(result, argv[0]), result
    assert not arrived(server)


def test_help_fits_a_terminal_and_names_everything(hook):
    result = hook.run("send_event.py", "--help", stdin=sample("Stop"))
    lines = result.stdout.splitlines()
    assert (result.exit, result.stderr) == (0, ""), result
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 88
    words = " ".join(result.stdout.split())
    assert "http://localhost:4000/events" in words
    for name in re.findall(r"--[\w-]+", str(send_event.OPTIONS)):
        assert name in words, name
    assert hook.run("send_event.py", "-h").stdout == result.stdout


def test_version_is_that_of_both_files(one_hook):
    result = one_hook.run("send_event.py", "--version")
    assert (result.exit, result.stderr) == (0, "")
    assert result.stdout == f"{hook_io.__version__}\n"
    for name in ("hook_io", "send_event"):
        text = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        assert re.findall(rf"^# {name} (\S+),", text, re.M) == [hook_io.__version__]


# Variables.

def test_every_variable_is_tried_in_a_test():
    files = [*TESTS.glob("test_*.py"), *VECTORS.glob("*.json")]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    for name in re.findall(r"HOOK_IO_\w+", str(send_event.OPTIONS)):
        assert re.search(rf"{name}[\"=]", text), name


@pytest.mark.parametrize("variable, text, expected", [
    ("HOOK_IO_SESSION_ID", UUID, {"session_id": UUID}),
    ("HOOK_IO_METADATA", '{"a": 1}', {"metadata": '{"a": 1}'}),
    ("HOOK_IO_FIELDS", "source", {"metadata": '{"source":"startup"}'}),
    ("HOOK_IO_FORMAT", "events", {"source_app": "demo"}),
    ("HOOK_IO_SUMMARIZE", "1", {"summary": "session started (startup)"}),
])
def test_a_variable_shapes_the_body(one_hook, server, variable, text, expected):
    event = {**sample("SessionStart"), "session_id": OTHER_UUID}
    assert is_silent(one_hook.send(server.url, stdin=event, env={variable: text}))
    body = body_at(server)
    assert {**body, **expected} == body


def test_a_variable_names_the_server_and_the_flag_goes_before_it(hook, server):
    env = {"HOOK_IO_SERVER_URL": server.url}
    assert is_silent(hook.run("send_event.py", *REQUIRED, env=env))
    assert len(arrived(server)) == 1
    with EventServer() as other:
        assert is_silent(hook.send(other.url, env=env))
        assert len(arrived(other)) == 1
    assert len(arrived(server)) == 1


@pytest.mark.parametrize("flag, variable, name, given, unused", [
    ("--session-id", "HOOK_IO_SESSION_ID", "session_id", UUID, OTHER_UUID),
    ("--session-id", "HOOK_IO_SESSION_ID", "session_id", UUID, "bad, but not asked"),
    ("--metadata", "HOOK_IO_METADATA", "metadata", "[1]", "[2]"),
])
def test_the_flag_goes_before_the_variable(
        one_hook, server, flag, variable, name, given, unused):
    assert is_silent(one_hook.send(server.url, flag, given, env={variable: unused}))
    assert body_at(server)[name] == given


@pytest.mark.parametrize("variable, text", [
    ("HOOK_IO_SESSION_ID", "nope"), ("HOOK_IO_METADATA", "{"),
    ("HOOK_IO_FAIL_LOUD", "scream"), ("HOOK_IO_FAIL_LOUD_THRESHOLD", "0"),
    ("HOOK_IO_FAIL_LOUD_THRESHOLD", "³"), ("HOOK_IO_PLATFORM", "emacs"),
    ("HOOK_IO_FORMAT", "xml"), ("HOOK_IO_FORMAT", "a\x1b[2J\nb"),
    ("HOOK_IO_FORMAT", "x" * 5000),
])
def test_a_bad_variable_is_told_and_ignored(one_hook, server, variable, text):
    result = one_hook.send(server.url, stdin=sample("Stop"), env={variable: text})
    assert (result.exit, result.stdout) == (0, "")
    (line,) = result.lines
    assert line.startswith(f"[WARNING] {variable} ")
    assert line.isprintable()
    assert "x" * 81 not in line
    assert metadata_at(server) == sample("Stop")


def test_a_variable_called_as_none_is_none(one_hook, server):
    result = one_hook.send(server.url, stdin=sample("Stop"), env={"-": "1"})
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")
    assert metadata_at(server) == sample("Stop")


@pytest.mark.parametrize("text, budget_ms", [
    ("35", 35), ("", 100), ("0", 100), ("60001", 100), ("soon", 100), ("²", 100)])
def test_the_budget_is_the_variables_or_the_default(one_hook, text, budget_ms):
    with EventServer(replies=["silent"]) as server:
        result = one_hook.send(server.url, env={"HOOK_IO_TIMEOUT_MS": text})
    error, notes = result.lines[0], result.lines[2:]
    assert (result.exit, result.stdout) == (0, "")
    assert re.search(rf"\b{budget_ms} ms\b", error), result
    assert [note[:28] for note in notes] == (
        [] if text in ("35", "") else ["[WARNING] HOOK_IO_TIMEOUT_MS"])


@pytest.mark.parametrize("env, argv, exit, told", [
    (LOUD_AT_ONCE, [], 0, True),
    ({"HOOK_IO_FAIL_LOUD_THRESHOLD": ""}, [], 0, False),
    ({**LOUD_AT_ONCE, "HOOK_IO_FAIL_LOUD": "off"}, [], 0, False),
    ({**LOUD_AT_ONCE, "HOOK_IO_FAIL_LOUD": "off"}, ["--fail-loud", "hint"], 0, True),
    ({**LOUD_AT_ONCE, "HOOK_IO_FAIL_LOUD": "block"}, [], 2, False),
    ({**LOUD_AT_ONCE, "HOOK_IO_PLATFORM": "raw"}, [], 0, False),
], ids=short)
def test_a_variable_says_how_loud_a_loss_is(one_hook, down, env, argv, exit, told):
    result = one_hook.send(down, *argv, stdin=sample("PreToolUse"), env=env)
    assert result.exit == exit, result
    assert bool(result.stdout) == told
    if told:
        assert set(result.document) == {"systemMessage"}


def test_losses_are_counted_where_the_variable_says(one_hook, tmp_path, down):
    folder = tmp_path / "else where"
    one_hook.send(down, env={"HOOK_IO_STATE_DIR": str(folder)})
    assert [path.stat().st_size for path in folder.iterdir()] == [64]
    assert not one_hook.losses()


@pytest.mark.parametrize("text", ["", "1"])
def test_the_pure_variable_chooses_the_public_modules(one_hook, server, text):
    result = one_hook.send(server.url, stdin=sample("Stop"), flags=("-X", "importtime"),
                           env={"HOOK_IO_PURE": text})
    assert bool(re.search(r"\| +json$", result.stderr, re.M)) == bool(text)
    assert metadata_at(server) == sample("Stop")


@pytest.mark.parametrize("argv", [
    REQUIRED, [], ["--nonsense"], ["--event-type", "Nope"], ["--metadata", "{"],
], ids=short)
def test_the_kill_switch_ends_everything(one_hook, server, argv):
    env = {"HOOK_IO_OFF": "1", "HOOK_IO_SERVER_URL": server.url}
    assert is_silent(one_hook.run("send_event.py", *argv, stdin=b"garbage", env=env))
    assert not arrived(server)


@pytest.mark.parametrize("text", ["", "0", "false", "no", "off"])
def test_a_kill_switch_that_says_no_is_none(one_hook, server, text):
    assert is_silent(one_hook.send(server.url, env={"HOOK_IO_OFF": text}))
    assert len(arrived(server)) == 1


# The request.

def test_the_body_is_exactly_the_contracts(hook, server):
    event = {**sample("PreToolUse"), "api_key": "hunter22"}
    assert is_silent(hook.send(server.url, stdin=event, env={"TZ": "Asia/Tokyo"}))
    body = body_at(server)
    times = body.pop("timestamp"), server.events()[-1]["created_at"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", times[0])
    ours, theirs = (datetime.strptime(time, "%Y-%m-%dT%H:%M:%S.%fZ") for time in times)
    assert abs(ours - theirs) < timedelta(minutes=5)
    assert json.loads(body.pop("metadata")) == {**event, "api_key": "[redacted]"}
    assert body == {
        "source_app": "demo", "event_type": "PreToolUse", "tool_name": "Read",
        "summary": "Read: hello.txt", "session_id": event["session_id"]}


def test_what_is_not_there_is_no_member(one_hook, server):
    assert is_silent(one_hook.send(server.url, event_type="Stop"))
    assert set(body_at(server)) == {"timestamp", "source_app", "event_type", "summary"}


@pytest.mark.parametrize("event", [
    {"tool_name": 5, "session_id": ["x"], "tool_input": "x", "cwd": None},
    {"tool_name": None, "session_id": {}, "tool_input": ["x"], "cwd": 1},
    {"tool_name": "", "session_id": "", "tool_input": {"command": 5}},
])
def test_members_of_another_type_stay_in_metadata_alone(one_hook, server, event):
    assert is_silent(one_hook.send(server.url, stdin=event))
    body = body_at(server)
    assert set(body) == {"timestamp", "source_app", "event_type", "summary", "metadata"}
    assert json.loads(body["metadata"]) == event


def test_the_request_is_one_plain_post(hook, server):
    hook.send(f"{server.url}?key=a%20b&c=", stdin={"prompt": "Grüße"})
    (seen,) = arrived(server)
    head, _, body = seen.raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    assert first == "POST /events?key=a%20b&c= HTTP/1.1"
    assert sorted(lines) == sorted([
        f"Host: 127.0.0.1:{server.port}", "Content-Type: application/json",
        f"Content-Length: {len(body)}", "Connection: close",
        f"User-Agent: hook-io/{hook_io.__version__}"])
    assert body == seen.body


def test_the_environment_is_never_sent(hook, server):
    names = ("ANTHROPIC_API_KEY", "MARKER", "CLAUDE_PROJECT_DIR", "HTTP_PROXY", "USER")
    env = dict.fromkeys(names, "MARKER")
    assert is_silent(hook.send(server.url, stdin=sample("PreToolUse"), env=env))
    (seen,) = arrived(server)
    assert seen.status == 201
    assert b"MARKER" not in seen.raw


def test_a_name_that_is_no_utf_8_is_sent_all_the_same(one_hook, server):
    assert is_silent(one_hook.send(server.url, "--source-app", b"caf\xe9"))
    assert body_at(server)["source_app"].startswith("caf")


# Summaries.

#: event -> the summary of its sample; "*": any words
SUMMARIES = {
    "PreToolUse": "Read: hello.txt",
    "PostToolUse": "Read: hello.txt",
    "PostToolUseFailure": "Bash: exit 3 failed: Exit code 3",
    "PostToolBatch": "*Bash*Read*",
    "PreSkillShellCommand": "Bash: echo shell-was-here there",
    "UserPromptSubmit": "prompt: MAINPROMPT please work",
    "UserPromptExpansion": "prompt: /mycmd arg1",
    "SessionStart": "session started (startup)",
    "SessionEnd": "session ended (other)",
    "Setup": "*init*",
    "Notification": 'notification: Elicitation response for server "el": cancel',
    "Stop": "turn ended: FINAL-11",
    "StopFailure": "turn failed: unknown",
    "SubagentStart": "subagent started (general-purpose)",
    "SubagentStop": "subagent ended (general-purpose)",
    "PreCompact": "compaction begins (manual)",
    "PostCompact": "compaction done (manual)",
    "PreModelSwitch": "*claude-sonnet-5-5*",
    "PostModelSwitch": "*claude-sonnet-5-5*",
    "PermissionRequest": "permission asked: Bash: echo RAN >> ran.txt",
    "PermissionDenied": "permission denied: Bash: rm -rf /home/dev",
    "TeammateIdle": "TeammateIdle event",
    "TaskCreated": "task created: s",
    "TaskCompleted": "task completed: s",
    "Elicitation": "*Who[?]*",
    "ElicitationResult": "*cancel*",
    "ConfigChange": "*settings.json*",
    "WorktreeCreate": "*wt1*",
    "WorktreeRemove": "*/home/dev/wtdir*",
    "InstructionsLoaded": "*CLAUDE.md*",
    "CwdChanged": "now in /home/dev/project/sub",
    "FileChanged": "file changed: /home/dev/project/hello.txt",
    "DirectoryAdded": "*/home/dev/other*",
    "MessageDisplay": "*FINAL-11*",
}


@pytest.mark.parametrize(
    "event_type", hook_io.PLATFORMS["claude-code"]["events"])
def test_every_event_of_claude_code_is_sent_and_told_in_words(
        one_hook, server, event_type):
    event = {} if event_type == "TeammateIdle" else sample(event_type)  # none recorded
    assert is_silent(one_hook.send(server.url, event_type=event_type, stdin=event))
    body = body_at(server)
    assert body["event_type"] == event_type
    assert json.loads(body.get("metadata", "{}")) == event
    assert fnmatch.fnmatchcase(body["summary"], SUMMARIES[event_type]), body["summary"]


@pytest.mark.parametrize("event_type, event, summary", [
    ("PreToolUse", {"tool_name": "Bash", "tool_input": {"command": "npm test"}},
     "Bash: npm test"),
    ("PreToolUse", {"tool_name": "Read", "cwd": "/w", "tool_input": {
        "file_path": "/w/src/app.py"}}, "Read: src/app.py"),
    ("PreToolUse", {"tool_name": "Read", "cwd": "/w", "tool_input": {
        "file_path": "/wide/app.py"}}, "Read: /wide/app.py"),
    ("PreToolUse", {"tool_name": "Bash", "tool_input": {
        "command": "cat <<E\n\ta\r\n\u2028b\x0bE"}}, "Bash: cat <<E a b E"),
    ("UserPromptSubmit", {"prompt": "Help {tool} {0} {} %s me\n"},
     "prompt: Help {tool} {0} {} %s me"),
    ("UserPromptSubmit", {"prompt": "x" * 192}, "prompt: " + "x" * 192),
    ("UserPromptSubmit", {"prompt": "x" * 193}, "prompt: " + "x" * 191 + "…"),
    ("UserPromptSubmit", {"prompt": f"the key {KEY}"}, "prompt: the key [[]redacted]"),
    ("UserPromptSubmit", {"prompt": 5}, "UserPromptSubmit event"),
    ("SessionStart", {"source": "resume"}, "session started (resume)"),
    ("SessionStart", {}, "*"),
    ("Stop", {"self": "x", "tool": "x", "": "x"}, "Stop event"),
    ("PreToolUse", {"tool_input": {"command": "ls"}}, "[!N]*"),
])
def test_a_summary_says_on_one_line_what_happened(
        one_hook, server, event_type, event, summary):
    assert is_silent(one_hook.send(server.url, event_type=event_type, stdin=event))
    said = body_at(server)["summary"]
    assert fnmatch.fnmatchcase(said, summary), said
    assert 0 < len(said) <= 200
    assert len(said.splitlines()) == 1


# What comes on stdin.

ODD = {
    "empty": b"", "white space": b" \r\n\t\n",
    "byte order mark": b'\xef\xbb\xbf{"prompt": "hi"}',
    "lone surrogate": b'{"prompt": "x \\ud83d y", "\\udc00": "\\udc00"}',
    "duplicate keys": b'{"prompt": "a", "prompt": "b"}\n',
    "escaped NUL": b'{"prompt": "a\\u0000b"}',
    "braces at every cut": b'{"prompt": "' + b"}" * 200000 + b'"}',
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_an_odd_event_is_sent_without_a_word(hook, server, data):
    assert is_silent(hook.send(server.url, event_type="UserPromptSubmit", stdin=data))
    assert body_at(server)["event_type"] == "UserPromptSubmit"


SECRET = {"a secret": (b"nonsense password=hunter22 " + KEY.encode(), "not JSON: ")}


@pytest.mark.parametrize("data, cause", [*BAD.values(), *SECRET.values()],
                         ids=[*BAD, *SECRET])
def test_what_is_no_event_is_told_and_sent_all_the_same(hook, server, data, cause):
    result = hook.send(server.url, event_type="UserPromptSubmit", stdin=data)
    assert (result.exit, result.stdout) == (0, "")
    (line,) = result.lines
    assert re.match(rf"\[WARNING\] .*stdin.*{re.escape(cause)}", line), line
    body = body_at(server)
    assert cause in json.loads(body["metadata"])["input_error"]
    assert body["summary"] == "UserPromptSubmit: unreadable event"
    for text in (result.stderr, str(body)):
        assert not re.search(f"Traceback|{REPEATED}|hunter22|{KEY}", text)


def test_of_an_event_above_the_limit_whole_members_are_sent(hook, server):
    event = {"prompt": "hi", "list": [1, {"a": 2}], "deep": None,
             "big": "x" * (2 << 20), "behind": 1}
    deep = "[" * 900 + "]" * 900
    data = json.dumps(event).replace("null", deep).encode()
    result = hook.send(server.url, event_type="UserPromptSubmit", stdin=data)
    assert (result.exit, result.stdout) == (0, "")
    assert "Error" not in result.stderr
    metadata = metadata_at(server)
    metadata.pop("deep", None)  # too deep for some interpreters
    assert metadata == {"prompt": "hi", "list": [1, {"a": 2}], "truncated": True,
                        "stdin_bytes": len(data)}


@pytest.mark.parametrize("data, lines, metadata", [
    (b'{"prompt": "hi"}', 0, '{"prompt":"hi"}'), (b'{"prompt": "hi"}\n', 0, '*"hi"}'),
    (b'{"prompt": "hi", ', 1, '{"prompt":"hi","input_error":*}'), (b"", 0, "None")])
def test_a_pipe_that_stays_open_holds_nobody(one_hook, server, data, lines, metadata):
    process = one_hook.start("send_event.py", *REQUIRED, "--server-url", server.url)
    process.stdin.write(data)
    process.stdin.flush()
    try:
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.stdin.close()
    with process.stdout, process.stderr:
        assert process.stdout.read() == b""
        assert process.stderr.read().count(b"\n") == lines
    assert fnmatch.fnmatchcase(str(body_at(server).get("metadata")), metadata)


@pytest.mark.parametrize("redirection", [
    "<&-", "</dev/null", "<&- >&- 2>&-", ">&-", "2>&-"])
def test_missing_streams_do_not_matter(hook, server, redirection):
    command = hook.command("send_event.py", *REQUIRED, "--server-url", server.url)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command], env=hook.env,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert body_at(server)["summary"] == "PreToolUse event"


# How much leaves.

PRIVATE = {**dict.fromkeys(("session_id", "cwd", "prompt", "MARKER"), "MARKER"),
           "tool_input": {"sql": "MARKER"}, "tool_name": "Bash", "tool_use_id": "t1"}


@pytest.mark.parametrize("fields, left", [
    ("tool_name,tool_use_id", {"tool_name": "Bash", "tool_use_id": "t1"}),
    (" tool_name , tool_use_id ", {"tool_name": "Bash", "tool_use_id": "t1"}),
    ("tool_use_id,nothing", {"tool_use_id": "t1"}),
    ("nothing", {}), (",", {}), ("*", {}), ("tool", {}),
])
@pytest.mark.parametrize("event_type", ["PreToolUse", "UserPromptSubmit"])
def test_only_allowed_members_leave(one_hook, server, fields, left, event_type):
    result = one_hook.send(server.url, event_type=event_type, stdin=PRIVATE,
                           env={"HOOK_IO_FIELDS": fields})
    assert is_silent(result), result
    (seen,) = arrived(server)
    assert b"MARKER" not in seen.raw
    assert json.loads(seen.json.get("metadata", "{}")) == left
    assert seen.json.get("tool_name") == left.get("tool_name")


@pytest.mark.parametrize("data", [
    b"MARKER", b'{"prompt": "MARKER', b'["MARKER"]',
    b'{"prompt": "MARKER", "big": "' + b"x" * (2 << 20) + b'"}',
], ids=short)
def test_nothing_of_a_bad_event_leaves_that_is_not_allowed(one_hook, server, data):
    one_hook.send(server.url, stdin=data, env={"HOOK_IO_FIELDS": "tool_name"})
    (seen,) = arrived(server)
    assert seen.status == 201
    assert b"MARKER" not in seen.raw


@pytest.mark.parametrize("length", [8193, 20000, 80000])
def test_a_long_string_keeps_head_and_tail_and_says_what_is_gone(
        one_hook, server, length):
    text = "HEAD" + "é" * (length - 8) + "TAIL"
    event = {"a": text, "b": [text, "x" * 8192]}
    assert is_silent(one_hook.send(server.url, stdin=event))
    metadata = metadata_at(server)
    assert metadata["b"] == [metadata["a"], "x" * 8192]
    head, count, tail = re.fullmatch(
        r"(HEADé*)\[… (\d+) characters cut …\](é*TAIL)", metadata["a"]).groups()
    assert len(head) + int(count) + len(tail) == length
    assert len(metadata["a"]) < 8192 + 80


def test_strings_get_shorter_before_members_go(one_hook, server):
    event = {str(i): {"text": "x" * 8192} for i in range(100)}
    assert is_silent(one_hook.send(server.url, stdin=event))
    metadata = metadata_at(server)
    assert list(metadata) == list(event)
    assert all(500 < len(member["text"]) < 8192 for member in metadata.values())


def emoji(count):
    return "😀" * count


#: what is hard to keep small -> event of about 1 MiB
NASTY = {
    "long emoji names": {emoji(125) + str(i): emoji(128) for i in range(1000)},
    "quotes": {f'{i}' + '"\\' * 60: '"\\' * 4000 for i in range(60)},
    "control characters": {str(i): "\x00\x1b" * 300 for i in range(250)},
    "huge integers": {str(i): 10 ** 600 for i in range(1600)},
    "small members": {f"member {i}": i for i in range(50000)},
    "strings of 8 KiB": {str(i): "x" * 8192 for i in range(120)},
    "deep lists": {str(i): json.loads("[" * 90 + "1" + "]" * 90) for i in range(4000)},
    "flat list": {"tool_name": "é" * 50000, "list": ["é"] * 150000},
    "long known members": dict.fromkeys(
        ("tool_name", "session_id", "prompt", "cwd", "transcript_path"), emoji(40000)),
}


@pytest.mark.parametrize("event", list(NASTY.values()), ids=list(NASTY))
def test_the_body_stays_small_and_whole_whatever_comes(one_hook, server, event):
    data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    assert 250_000 < len(data) <= 1 << 20
    assert is_silent(one_hook.send(server.url, stdin=data))
    (seen,) = arrived(server)
    assert seen.status == 201
    assert len(seen.body) <= BODY_MAX_BYTES
    assert isinstance(json.loads(seen.json["metadata"]), dict)


def test_metadata_never_makes_the_body_too_large(one_hook, server):
    result = one_hook.send(server.url, "--metadata", f'{{"a": "{emoji(32000)}"}}')
    assert is_silent(result) or is_usage_error(result, "--metadata"), result
    assert all(len(seen.body) <= BODY_MAX_BYTES for seen in arrived(server))


# The folder of the scripts is the user's.

SIBLINGS = """
    __future__ _thread abc argparse ast codecs collections contextlib copy
    copyreg datetime difflib encodings enum errno fnmatch functools genericpath gettext
    heapq http importlib inspect io ipaddress json keyword linecache locale logging math
    ntpath operator os pathlib posixpath random re reprlib runpy select selectors shutil
    signal site socket sre_compile sre_parse ssl stat string struct subprocess tempfile
    textwrap threading time token tokenize traceback types typing urllib warnings zlib
    _json _socket _ssl _struct _datetime _scproxy _winapi msvcrt winreg nt
"""


def placed(hook, folder):
    """Move *hook* to a *folder* of its own, with SIBLINGS that end whom they meet."""
    shutil.copytree(str(hook.folder), str(folder))
    for name in SIBLINGS.split():
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} of the project')")
    hook.folder = folder
    return hook


@pytest.mark.parametrize("flags, env", [
    ((), {}), (("-I",), {}), (("-I", "-S"), {}), (("-S",), {}), (("-O",), {}),
    ((), {"PYTHONSAFEPATH": "1"}),
], ids=short)
def test_no_file_beside_the_scripts_stands_in_for_the_library(
        hook, server, tmp_path, flags, env):
    placed(hook, tmp_path / "hooks")
    event = {"prompt": f"token {KEY}"}  # looking for secrets takes re
    result = hook.send(server.url, stdin=event, flags=flags, env=env)
    assert is_silent(result), result
    assert metadata_at(server) == {"prompt": "token [redacted]"}
    result = hook.send(server.url, "--sesion-id", flags=flags, env=env)
    assert is_usage_error(result, "did you mean --session-id"), result
    result = hook.send("https://127.0.0.1:9", "--timeout-ms", "1", flags=flags, env=env)
    assert len(result.lines) == 2 and result.lines[0].startswith("[ERROR] Failed"), (
        result)


@pytest.mark.parametrize("name", ["_json", "json"])
def test_no_file_beside_a_hook_of_ones_own_stands_in_for_the_library(
        hook, tmp_path, name):
    shutil.copytree(str(hook.folder), str(tmp_path / "hooks"))
    hook.folder = tmp_path / "hooks"
    (hook.folder / f"{name}.py").write_text("raise SystemExit('it runs')")
    (hook.folder / "mine.py").write_text("TEXT = 'of a module beside it'")
    (hook.folder / "guard.py").write_text(
        "import hook_io\ndef guard(event):\n    import mine\n"
        "    return hook_io.deny(mine.TEXT)\nhook_io.run(guard, 'guard')\n")
    result = hook.run("guard.py", stdin=sample("PreToolUse"))
    assert (result.exit, result.stderr) == (0, "")
    assert "of a module beside it" in result.stdout


def test_nothing_warns(hook, server):
    """Every Python from 3.8 on calls what is used here as it wishes to be called."""
    env = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}
    long = f"token {KEY}" + " x" * 8192
    for url, argv in ((server.url, ()), (nowhere(), ()), (server.url, ("--check",)),
                      ("https://127.0.0.1:9", ("--timeout-ms", "999"))):
        result = hook.send(url, *argv, stdin={"prompt": long}, env=env)
        assert result.exit in (0, 1) and "Warning:" not in result.stderr, result
    seen = json.loads(arrived(server)[0].json["metadata"])
    assert seen["prompt"].startswith("token [redacted] x")
    assert hook.run("send_event.py", "--help", env=env).stderr == ""


@pytest.mark.parametrize("name", ["with blanks", "quotes'\"", "Größe 😀", "a\\b", "%s"])
def test_the_folder_may_have_any_name(one_hook, server, tmp_path, name):
    placed(one_hook, tmp_path / name)
    result = one_hook.send(server.url, stdin={"prompt": f"token {KEY}"})
    assert is_silent(result), result
    assert metadata_at(server) == {"prompt": "token [redacted]"}


def test_uv_runs_the_script_wherever_it_is_called(hook, server, tmp_path):
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        pytest.skip(f"no uv beside {sys.executable}")
    placed(hook, tmp_path / "hooks")
    project = ("[project]", "name = 'x'", "version = '1'", "dependencies = ['none']")
    (tmp_path / "pyproject.toml").write_text("\n".join(project))
    env = {"UV_OFFLINE": "1", "UV_PYTHON": hook.python, "UV_PYTHON_DOWNLOADS": "never",
           "UV_CACHE_DIR": str(tmp_path / "cache")}
    hook.python = str(uv)
    result = hook.send(server.url, stdin={"prompt": f"token {KEY}"}, flags=("run",),
                       env=env, cwd=str(tmp_path))
    assert is_silent(result), result
    assert metadata_at(server) == {"prompt": "token [redacted]"}


@pytest.mark.parametrize("place", [
    "relative", "dot", "link", "linked folder", "read-only"])
def test_the_script_runs_from_anywhere(hook, server, tmp_path, place):
    placed(hook, tmp_path / "hooks")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cwd, folder = elsewhere, hook.folder
    if place == "relative":
        folder = Path(os.pardir, "hooks")
    elif place == "dot":
        cwd, folder = hook.folder, Path()
    elif place == "link":
        folder = elsewhere
        (folder / "send_event.py").symlink_to(hook.folder / "send_event.py")
    elif place == "linked folder":
        folder = elsewhere / "link"
        folder.symlink_to(hook.folder)
    elif place == "read-only":
        shutil.rmtree(str(folder / "__pycache__"), ignore_errors=True)
        (folder / "__pycache__").write_text("not even root writes a .pyc here")
        folder.chmod(0o555)
    place_of_files, hook.folder = hook.folder, folder
    result = hook.send(server.url, stdin=sample("PreToolUse"), cwd=str(cwd))
    place_of_files.chmod(0o755)
    assert is_silent(result), result
    assert metadata_at(server) == sample("PreToolUse")


# What a loss says.

@pytest.mark.parametrize("url, shown", [
    ("http://127.0.0.1:{}/events?key=hunter22", "http://127.0.0.1:{}/events"),
    ("http://127.0.0.1:{}?key=hunter22", "http://127.0.0.1:{}"),
    ("http://127.0.0.1:{}/events#hunter22", "http://127.0.0.1:{}/events"),
    ("http://me:hunter22@127.0.0.1:{}/events", "http://127.0.0.1:{}/events"),
    ("http://hunter22@127.0.0.1:{}/events", "http://127.0.0.1:{}/events"),
    ("http://me:hunter22?x@127.0.0.1:{}/events", ""),
    ("http://me:hunter22#x@127.0.0.1:{}/events", ""),
    ("http://me:hunter22/x@127.0.0.1:{}/events", ""),
    ("http://me:x?hunter22@127.0.0.1:{}/events", ""),
    ("http://me:a@hunter22@127.0.0.1:{}/events", "http://127.0.0.1:{}/events"),
    ("http://me:hunter22@x@127.0.0.1:{}/events", "http://127.0.0.1:{}/events"),
    ("http://me:x/hunter22@127.0.0.1:{}/events", ""),
    ("http://me:x://hunter22@127.0.0.1:{}/events", ""),
    ("http://127.0.0.1:{}/events?k=hunter22&next=http://a.example/",
     "http://127.0.0.1:{}/events"),
    ("http://127.0.0.1:{}/events?next=http://a.example/hunter22?x@y",
     "http://127.0.0.1:{}/events"),
    ("me:hunter22@127.0.0.1:{}/events", ""),
    ("127.0.0.1:{}/events?key=hunter22", ""),
    ("http:/me:hunter22@127.0.0.1:{}/events", ""),
    ("ftp://me:hunter22@127.0.0.1:{}/events?key=hunter22", ""),
    ("http://127.0.0.1:{}/in/" + KEY + "/x", ""),
    ("http://127.0.0.1:{}/events\x1b[2J\n[ERROR] x", ""),
])
def test_no_secret_of_the_url_is_shown(one_hook, url, shown):
    port, event = closed_port(), sample("PreToolUse")
    result = one_hook.send(url.format(port), stdin=event, env=LOUD_AT_ONCE)
    assert result.exit == 0, result
    assert result.lines[0].endswith(f"({shown.format(port)})" if shown else ")")
    assert all(line.isprintable() for line in result.lines)
    assert len(result.lines) == 2
    (line,) = one_hook.losses()
    assert "@127" not in url or line.split()[2] == "invalid"
    told = result.document["systemMessage"]
    for text in (result.stderr, told, str(list(one_hook.state.iterdir()))):
        assert "hunter22" not in text
        assert KEY not in text


def test_a_port_that_no_machine_has_is_told_as_such(one_hook):
    result = one_hook.send("http://127.0.0.1:0000659999999/")
    assert (result.exit, result.stdout) == (0, "")
    assert "host or port" in result.lines[0]
