"""A model may say what happened; whatever it does, the event arrives."""

import json

import pytest

import hook_io
from conftest import HeldServer, eventually, sample, timed
from server import FAULTS, EventServer, closed_port

pytestmark = pytest.mark.usefixtures("patient")
KEY = "sk-ant-api03-4711squeamish4711ossifrage"
GENERIC = hook_io.summary(sample("PreToolUse"), "PreToolUse")


def answer(text, **more):
    """Return the reply of a Messages API that says *text*."""
    content = [{"type": "text", "text": text}]
    return {"status": 200, "json": {"type": "message", "role": "assistant",
                                    "content": content}, **more}


def summarized(hook, reply, *argv, event=None, env=None):
    """Send one event; return it as it arrived, and what the model was asked."""
    api = EventServer(replies=[reply])
    with api, EventServer() as server:
        variables = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL":
                     api.url.replace("/events", ""), **(env or {})}
        result = hook.send(server.url, "--summarize", *argv, env=variables,
                           stdin=event or sample("PreToolUse"))
        assert (result.exit, result.stdout, result.stderr) == (0, "", "")
        server.wait(1, timeout=30)
        (arrived,) = server.events()
        assert KEY not in json.dumps(arrived)
        eventually(lambda: not api.exchanges or api.exchanges[0].held_ms)
        return arrived, api.exchanges


def test_the_summary_is_the_models(hook):
    arrived, (asked,) = summarized(hook, answer("Reads the greeting."))
    assert arrived["summary"] == "Reads the greeting."
    assert asked.path == "/v1/messages"
    assert asked.headers["x-api-key"] == KEY
    assert asked.headers["anthropic-version"] == "2023-06-01"
    assert asked.json["model"] == "claude-haiku-4-5"
    (message,) = asked.json["messages"]
    assert message["role"] == "user"
    name, _, event = message["content"].partition(": ")
    assert (name, json.loads(event)) == ("PreToolUse", sample("PreToolUse"))


def test_another_model_may_be_named(one_hook):
    _, (asked,) = summarized(one_hook, answer("x"), env={
        "HOOK_IO_SUMMARY_MODEL": "claude-next"})
    assert asked.json["model"] == "claude-next"


def test_what_a_model_sees_is_redacted_and_at_most_4_kib(one_hook):
    event = {**sample("PreToolUse"), "password": "hunter2hunter2",
             "note": "Bearer abcdefgh12345678", "text": "x" * 9000}
    _, (asked,) = summarized(one_hook, answer("x"), event=event)
    content = asked.json["messages"][0]["content"].partition(": ")[2]
    assert len(content) <= 4096
    assert json.loads(content)["password"] == "[redacted]"
    assert "hunter2" not in content + "abcdefgh12345678" * ("abcdefgh1" in content)
    assert "abcdefgh12345678" not in content


@pytest.mark.parametrize(("said", "summary"), [
    ("two\nlines\t and \x1b[31mcolour", "two lines and [31mcolour"),
    ("x" * 500, "x" * 199 + "…"),
    ("it uses ghp_16C7e42F292c6912E7710c838347Ae178B4a", "it uses [redacted]"),
])
def test_whatever_it_says_is_one_line_of_200_characters_without_secrets(
    one_hook, said, summary
):
    assert summarized(one_hook, answer(said))[0]["summary"] == summary


ODD = {
    "401": {"status": 401, "json": {"error": {"message": f"invalid {KEY}"}}},
    "429": {"status": 429}, "529": {"status": 529},
    "no text": {"status": 200, "json": {"content": [{"type": "tool_use"}, 3]}},
    "no content": {"status": 200, "json": {"content": "x"}},
    "empty": answer(" \n"), "an array": {"status": 200, "json": [1]},
    "huge": answer("x" * 100000), "redirect": {"status": 307},
    "slow": {**answer("late"), "delay_ms": 8000},
    **{name: FAULTS[name] for name in (
        "silent", "garbage", "endless_body", "endless_headers", "endless_status",
        "close", "reset_in_headers", "ok_not_json")},
}


@pytest.mark.parametrize("name", ODD)
@timed
def test_a_model_that_fails_leaves_the_generic_summary(one_hook, name):
    env = {"HOOK_IO_BACKGROUND_TIMEOUT_MS": "4000"}
    arrived, asked = summarized(one_hook, ODD[name], env=env)
    assert arrived["summary"] == GENERIC
    assert len(asked) == 1  # never again for the same event
    assert asked[0].held_ms < 4000  # and time is left for the event


def test_nobody_there_is_no_other(one_hook):
    base = f"http://127.0.0.1:{closed_port()}"
    arrived, _ = summarized(one_hook, {}, env={"ANTHROPIC_BASE_URL": base})
    assert arrived["summary"] == GENERIC


def test_a_model_at_a_public_address_is_never_asked_over_plain_http(one_hook):
    env = {"ANTHROPIC_BASE_URL": "http://192.0.2.1"}
    arrived, _ = summarized(one_hook, {}, env=env)
    assert arrived["summary"] == GENERIC


@pytest.mark.parametrize("env", [{}, {"ANTHROPIC_API_KEY": ""}])
def test_without_a_key_the_event_goes_at_once_with_the_generic_summary(hook, env):
    with EventServer() as server, EventServer() as api:
        env = {"ANTHROPIC_BASE_URL": api.url, **env}
        hook.send(server.url, "--summarize", stdin=sample("PreToolUse"), env=env)
        (event,) = server.events()  # it is there when the hook is done
        assert api.exchanges == []
    assert event["summary"] == GENERIC


def test_the_agent_does_not_wait_for_a_model(hook):
    with HeldServer(replies=[answer("at last")]) as api, EventServer() as server:
        env = {"ANTHROPIC_API_KEY": KEY,
               "ANTHROPIC_BASE_URL": api.url.replace("/events", "")}
        hook.send(server.url, "--summarize", stdin=sample("PreToolUse"), env=env)
        assert server.exchanges == []
        api.go()
        server.wait(1)
        (event,) = server.events()
    assert event["summary"] == "at last"


def test_the_event_log_and_every_format_say_the_same(one_hook, tmp_path):
    log = tmp_path / "events.jsonl"
    with EventServer(replies=[answer("Reads.")] * 2) as api:
        env = {"ANTHROPIC_API_KEY": KEY, "HOOK_IO_EVENT_LOG": str(log),
               "ANTHROPIC_BASE_URL": api.url.replace("/events", "")}
        with EventServer(fault="no_content") as server:
            one_hook.send(server.url, "--summarize", "--format", "otlp",
                          stdin=sample("PreToolUse"), env=env)
            (seen,) = server.wait(1)
        assert b'"body":{"stringValue":"Reads."}' in seen.body
        one_hook.send("none", "--summarize", stdin=sample("PreToolUse"), env=env)
        eventually(lambda: log.read_text().count("\n") == 2)
    for line in log.read_text().splitlines():
        assert json.loads(line)["summary"] == "Reads."
