"""Each format is what its receiver's own parser takes, and loses nothing of the event.

Receivers: opentelemetry-proto, the cloudevents package and, as a server, Datadog's
ddapm-test-agent with its Lapdog, started and stopped here.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

import hook_io
from conftest import PATIENCE_S, ROOT, SAMPLES, sample, timed
from errands import NOW_NS, errand
from server import EventServer, closed_port

pytestmark = pytest.mark.usefixtures("patient")
FORMATS = list(hook_io.FORMATS)
EVENTS = [path.stem for path in (ROOT / "tests/samples/claude-code").glob("*.json")]


def made(name, event, **given):
    """Return URL, headers and body of *event*, the body as a server reads it."""
    event_type = event.get("hook_event_name") or "PreToolUse"
    facts = errand(event_type, **given)
    said = hook_io.normalise(event, facts.agent)
    url, headers, body = hook_io.FORMATS[name](said, facts)
    return url, headers, json.loads(hook_io.encode(body))


def body_of(name, event, **given):
    return made(name, event, **given)[2]


def said_of(event, facts):
    return json.dumps([event, vars(facts), vars(facts.settings)], default=repr)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_pure(name):
    event = hook_io.normalise(sample("PostToolUse"))
    facts = errand("PostToolUse")
    before = said_of(event, facts)
    one = hook_io.FORMATS[name](event, facts)
    assert hook_io.FORMATS[name](event, facts) == one
    assert said_of(event, facts) == before


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_of_an_event_that_could_not_be_read_is_one_all_the_same(name):
    body = body_of(name, {"input_error": "not JSON: 'x'"})
    assert "not JSON" in json.dumps(body)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_arrives_whole_from_a_process(hook, name):
    event = {**sample("PostToolUse"), "api_key": "hunter2hunter2"}
    path = {"otlp": "/v1/logs", "gram": "/rpc/hooks.ingest"}.get(name, "/")
    with EventServer(fault="no_content") as server:
        result = hook.send(server.url.replace("/events", ""), "--format", name,
                           stdin=event)
        (seen,) = server.wait(1)
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")
    assert seen.path == path
    assert event["tool_use_id"].encode() in seen.body
    assert b"hunter2" not in seen.raw


@pytest.mark.parametrize("name", FORMATS)
def test_a_huge_event_stays_below_the_limit_of_a_body(one_hook, name):
    event = {**sample("PreToolUse"), "many": ["x" * 5000] * 150}
    with EventServer(fault="no_content") as server:
        one_hook.send(server.url, "--format", name, "--timeout-ms", "9000", stdin=event)
        (seen,) = server.wait(1)
    assert len(seen.body) <= hook_io.BODY_MAX_BYTES
    assert seen.json


def test_a_format_that_nobody_knows_is_a_mistake_that_names_those_there_are(one_hook):
    result = one_hook.send("http://127.0.0.1:1/", "--format", "xml", stdin={})
    assert result.exit == 2
    assert f"is none of {', '.join(FORMATS)}: 'xml'" in result.lines[0]


# raw


def test_raw_is_exactly_the_event(one_hook):
    with EventServer(fault="no_content") as server:
        one_hook.send(server.url, "--format", "raw", stdin=sample("PreToolUse"))
        (seen,) = server.wait(1)
    assert seen.json == sample("PreToolUse")


@pytest.mark.parametrize(("given", "sent"), [
    ({"session_id": "abc"}, {"prompt": "hello", "session_id": "abc"}),
    ({"metadata": '{"a":1}'}, {"a": 1}),
    ({"metadata": "[1]"}, {"metadata": [1]}),
])
def test_what_is_given_stands_in_for_the_events_own(given, sent):
    assert body_of("raw", {"prompt": "hello"}, **given) == sent


# observability


def test_observability_is_what_its_server_stores():
    event = sample("PostToolUse")
    body = body_of("observability", event)
    assert {"source_app": "my app", "hook_event_type": "PostToolUse",
            "payload": event, "timestamp": NOW_NS // 10**6,
            "session_id": event["session_id"], "tool_name": event["tool_name"],
            "tool_use_id": event["tool_use_id"]}.items() <= body.items()
    assert type(body["timestamp"]) is int


def test_observability_has_a_stable_session_where_the_event_has_none():
    for event in ({}, {"session_id": ""}, {"session_id": None}):
        assert body_of("observability", event)["session_id"] == hook_io.NO_SESSION


@pytest.mark.parametrize("name", EVENTS)
def test_observability_promotes_what_the_event_has_and_overwrites_nothing(name):
    event = sample(name)
    body = body_of("observability", event)
    for member in hook_io.PROMOTED:
        assert body.get(member) == event.get(member)
    assert body["payload"] == event


# otlp


def record_of(body):
    (resource_logs,) = body["resourceLogs"]
    (scope_logs,) = resource_logs["scopeLogs"]
    (record,) = scope_logs["logRecords"]
    return record


def values_of(attributes):
    return {pair["key"]: next(iter(pair["value"].values())) for pair in attributes}


def otlp_parsed(body):
    reason = "opentelemetry-proto needs Python 3.9"
    proto = pytest.importorskip(
        "opentelemetry.proto.collector.logs.v1.logs_service_pb2", reason=reason)
    from google.protobuf import json_format
    return json_format.ParseDict(body, proto.ExportLogsServiceRequest())


@pytest.mark.parametrize("name", EVENTS)
def test_otlp_is_read_by_the_specifications_own_parser(name):
    event = sample(name)
    request = otlp_parsed(body_of("otlp", event))
    record = request.resource_logs[0].scope_logs[0].log_records[0]
    assert record.time_unix_nano == record.observed_time_unix_nano == NOW_NS
    assert record.event_name == f"agent_hook.{name}"
    assert record.body.string_value == hook_io.summary(event, name)
    found = {pair.key: pair.value for pair in record.attributes}
    assert len(found) == len(record.attributes)  # no name twice
    assert found["session.id"].string_value == event["session_id"]


def test_otlp_takes_numbers_and_texts_that_protobuf_has_no_room_for():
    event = {"duration_ms": 2**70, "error": "half \ud83d a pair", "prompt": 1.5,
             "tool_use_id": True, "tool_name": 7, "model": -2**63}
    record = record_of(body_of("otlp", event))
    otlp_parsed(body_of("otlp", event))
    values = values_of(record["attributes"])
    assert values["duration_ms"] == str(2**70)
    assert values["error"] == "half ? a pair"
    assert (values["prompt"], values["tool_use_id"]) == (1.5, True)
    assert values["tool_name"] == "7"


def test_otlp_names_a_tool_call_as_claude_code_and_as_the_genai_conventions_do():
    event = sample("PostToolUse")
    values = values_of(record_of(body_of("otlp", event))["attributes"])
    assert {
        "session.id": event["session_id"], "tool_name": event["tool_name"],
        "tool_use_id": event["tool_use_id"], "success": "true",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.tool.name": event["tool_name"],
        "gen_ai.tool.call.id": event["tool_use_id"],
        "gen_ai.conversation.id": event["session_id"],
    }.items() <= values.items()
    assert json.loads(values["gen_ai.tool.call.arguments"]) == event["tool_input"]
    assert json.loads(values["gen_ai.tool.call.result"]) == event["tool_response"]


@pytest.mark.parametrize("name", EVENTS)
def test_otlp_keeps_every_member_of_the_event_once(name):
    event = sample(name)
    values = values_of(record_of(body_of("otlp", event))["attributes"])
    rest = json.loads(values["agent_hook.event"])
    moved = {"session_id": "session.id", "model": "gen_ai.request.model",
             "prompt_id": "prompt.id",
             "tool_input": "gen_ai.tool.call.arguments",
             "tool_response": "gen_ai.tool.call.result"}
    for member, value in event.items():
        if member not in rest and value not in (None, "", {}, []):
            sent = values[moved.get(member, member)]
            same = {str(value), json.dumps(value, separators=(",", ":"))}
            assert str(sent) in same, member


def test_otlp_says_error_where_something_failed():
    record = record_of(body_of("otlp", sample("PostToolUseFailure")))
    values = values_of(record["attributes"])
    assert (record["severityNumber"], record["severityText"]) == (17, "ERROR")
    assert (values["success"], values["error.type"]) == ("false", "_OTHER")


@pytest.mark.parametrize(("env", "url"), [
    ({}, "http://localhost:4318/v1/logs"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/logs"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/a/"}, "http://c:4318/a/v1/logs"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
      "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://d/own"}, "http://d/own"),
])
def test_otlp_finds_its_collector_as_the_specification_says(env, url):
    assert made("otlp", {}, env=env)[0] == url


@pytest.mark.parametrize(("given", "url"), [
    ("http://c:4318", "http://c:4318/v1/logs"), ("http://c/", "http://c/v1/logs"),
    ("http://c/x", "http://c/x"), ("http://c?x=/y", "http://c?x=/y"),
])
def test_a_url_of_ones_own_gets_the_path_only_where_it_names_none(given, url):
    env = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://d/own"}
    assert made("otlp", {}, env=env, server_url=given)[0] == url


@pytest.mark.parametrize(("env", "headers"), [
    ({"OTEL_EXPORTER_OTLP_HEADERS": "a=1, b=x%20y ,c=d=="},
     {"a": "1", "b": "x y", "c": "d=="}),
    ({"OTEL_EXPORTER_OTLP_HEADERS": "a=1",
      "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "b=2"}, {"b": "2"}),
])
def test_otlp_sends_the_headers_of_its_variables(env, headers):
    sent = made("otlp", {}, env=env)[1]
    assert sent == {"Accept": "application/json", **headers}


def test_headers_for_the_collector_go_to_no_other_server():
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x"}
    assert "authorization" not in made("otlp", {}, env=env, server_url="http://o")[1]


@pytest.mark.parametrize(("env", "resource"), [
    ({}, {"service.name": "hook-io"}),
    ({"OTEL_SERVICE_NAME": "agents"}, {"service.name": "agents"}),
    ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,team=b%2Cc,empty="},
     {"service.name": "a", "team": "b,c"}),
    ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,k=v", "OTEL_SERVICE_NAME": "b"},
     {"service.name": "b", "k": "v"}),
])
def test_otlp_names_its_resource_as_the_specification_says(env, resource):
    (logs,) = body_of("otlp", {}, env=env)["resourceLogs"]
    assert values_of(logs["resource"]["attributes"]) == resource


@pytest.mark.parametrize("text", ["a", "a=1,b", "=1", "a=%", "a=%4", "a=%zz", "a=%ff"])
def test_one_mistake_in_such_a_list_discards_it_and_is_told_once(text):
    facts = errand(env={"OTEL_RESOURCE_ATTRIBUTES": text + ",k=v"})
    for _ in range(3):
        _, _, body = hook_io.FORMATS["otlp"](hook_io.normalise({}), facts)
    values = values_of(body["resourceLogs"][0]["resource"]["attributes"])
    assert values == {"service.name": "hook-io"}
    (note,) = facts.notes
    assert note.startswith("[WARNING] OTEL_RESOURCE_ATTRIBUTES is ignored")


def partial(rejected, message=""):
    said = {"rejectedLogRecords": rejected, "errorMessage": message}
    return {"status": 200, "json": {"partialSuccess": said}}


@pytest.mark.parametrize("reply", [
    {**partial("1", "no such tenant"), "close_delimited": True},
    {**partial(1, "no such tenant"), "chunked": True},
    {**partial("1", "no such tenant"), "hang": True},
])
def test_a_record_that_a_collector_rejects_is_a_loss_though_it_says_200(hook, reply):
    with EventServer(replies=[reply]) as server:
        result = hook.send(server.url, "--format", "otlp", "--timeout-ms", "5000",
                           stdin=sample("Stop"))
    assert "HTTP 200, but the record was rejected: no such tenant" in result.lines[0]
    assert len(hook.losses()) == 1


@pytest.mark.parametrize("reply", [
    partial("0", "be slower"), partial(0), {"status": 200, "body": "ok"},
    {"status": 200, "json": {"partialSuccess": 3}}, {"status": 202},
    {"status": 200, "huge_body_bytes": 1 << 20},
])
def test_any_other_answer_of_200_means_delivered(one_hook, reply):
    with EventServer(replies=[reply]) as server:
        result = one_hook.send(server.url, "--format", "otlp", stdin=sample("Stop"))
    assert (result.exit, result.stderr, one_hook.losses()) == (0, "", [])


@timed
def test_the_body_of_a_200_is_waited_for_within_the_budget_only(one_hook):
    reply = {"status": 200, "headers": {"Content-Length": "100"}, "body": "{",
             "hang": True}
    with EventServer(replies=[reply]) as server:
        result = one_hook.send(server.url, "--format", "otlp", "--timeout-ms", "500",
                               stdin=sample("Stop"))
        (seen,) = server.wait(1)
    assert (result.stderr, one_hook.losses()) == ("", [])
    assert (seen.ended_by, seen.held_ms < 1000) == ("client", True)


# cloudevents


@pytest.mark.parametrize("name", EVENTS)
def test_a_cloudevent_is_read_by_the_specifications_own_package(name):
    http = pytest.importorskip(
        "cloudevents.core.bindings.http", reason="cloudevents needs Python 3.10")
    event = sample(name)
    _, headers, body = made("cloudevents", event)
    message = http.HTTPMessage(headers, json.dumps(body).encode())
    read = http.from_structured_event(message)
    assert read.get_specversion() == "1.0"
    assert read.get_id() == "0123456789abcdef"
    assert read.get_source() == "/claude-code/my%20app"
    assert read.get_type() == f"agent.hook.{name}"
    assert read.get_time().isoformat() == "2026-11-21T05:57:07.917000+00:00"
    assert read.get_subject() == event.get("tool_name")
    assert read.get_extension("sessionid") == event["session_id"]
    assert read.get_data() == event


def test_a_cloudevent_says_so_in_its_content_type_and_only_there(one_hook):
    with EventServer(fault="no_content") as server:
        one_hook.send(server.url, "--format", "cloudevents", stdin=sample("Stop"))
        (seen,) = server.wait(1)
    assert seen.raw.lower().count(b"content-type:") == 1
    assert seen.headers["content-type"] == (
        "application/cloudevents+json; charset=UTF-8")


# gram


GRAM = {
    "SessionStart": ("session.started", {}),
    "SessionEnd": ("session.ended", {}),
    "UserPromptSubmit": ("prompt.submitted", {"prompt": ["text"]}),
    "PreToolUse": ("tool.requested", {"tool_call": ["id", "name", "input"]}),
    "PostToolUse": ("tool.completed", {"tool_call": [
        "id", "name", "input", "output", "duration_ms"]}),
    "PostToolUseFailure": ("tool.failed", {"tool_call": [
        "id", "name", "input", "error", "is_interrupt", "duration_ms"]}),
    "Stop": ("assistant.responded", {"message": ["text", "role"]}),
    "Notification": ("notification.reported", {"notification": ["type", "message"]}),
    "PreCompact": ("session.updated", {}),
}


@pytest.mark.parametrize("name", GRAM)
def test_gram_gets_its_envelope(name):
    event, (kind, data) = sample(name), GRAM[name]
    body = body_of("gram", event)
    assert (body["schema_version"], body["source"]["adapter"]) == (
        "hook.ingest.v1", "claude")
    assert body["source"]["raw_event_name"] == name
    assert body["event"] == {"type": kind, "occurred_at": "2026-11-21T05:57:07.917Z"}
    assert body["session"]["id"] == event["session_id"]
    assert {key: list(members) for key, members in body["data"].items()} == data


def test_gram_gets_its_keys_as_headers_and_an_idempotency_key(one_hook):
    env = {"GRAM_HOOKS_API_KEY": "gram_secret_key", "GRAM_HOOKS_PROJECT_SLUG": "acme"}
    with EventServer(fault="no_content") as server:
        one_hook.send(server.url, "--format", "gram", stdin=sample("Stop"), env=env)
        (seen,) = server.wait(1)
    assert seen.headers["gram-key"] == "gram_secret_key"
    assert seen.headers["gram-project"] == "acme"
    assert len(seen.headers["idempotency-key"]) == 32


# A server that nobody here wrote.


@contextlib.contextmanager
def lapdog(folder):
    """Run Datadog's test agent with Lapdog; yield the ports for hooks and OTLP."""
    pytest.importorskip("lapdog", reason="ddapm-test-agent is not installed")
    hooks, otlp, grpc = (closed_port() for _ in range(3))
    env = {**os.environ, "HOME": str(folder)}
    env.pop("DD_API_KEY", None)
    command = [sys.executable, "-m", "lapdog.server",
               "--disable-llmobs-data-forwarding"]
    for option, port in (("port", hooks), ("otlp-http-port", otlp),
                         ("otlp-grpc-port", grpc)):
        command += [f"--{option}", str(port)]
    with open(str(folder / "log"), "wb") as log:
        process = subprocess.Popen(
            command, cwd=str(folder), env=env, stdout=log, stderr=log)
    try:
        for port in (hooks, otlp):
            wait_for(port, process)
        yield hooks, otlp
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port, process):
    for _ in range(PATIENCE_S * 10):
        with socket.socket() as sock:
            if not sock.connect_ex(("127.0.0.1", port)):
                return
        assert process.poll() is None, "the test agent has ended"
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")


def fetched(url):
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return json.load(answer)


def test_a_third_partys_server_takes_raw_events_and_otlp_logs(one_hook, tmp_path):
    events = [sample(name) for name in ("SessionStart", "PreToolUse", "PostToolUse")]
    with lapdog(tmp_path) as (hooks, otlp):
        for event in events:
            for name, url in (("raw", f"http://127.0.0.1:{hooks}/claude/hooks"),
                              ("otlp", f"http://127.0.0.1:{otlp}")):
                result = one_hook.send(url, "--format", name, "--timeout-ms", "20000",
                                       stdin=event)
                assert (result.exit, result.stderr) == (0, "")
        assert fetched(f"http://127.0.0.1:{hooks}/claude/hooks/raw")["events"] == events
        logs = fetched(f"http://127.0.0.1:{otlp}/test/session/logs")
    assert {record_of(body)["eventName"] for body in logs} == {
        f"agent_hook.{event['hook_event_name']}" for event in events}


CAMEL = json.loads((SAMPLES / "copilot-camel" / "preToolUse.json").read_text())


@pytest.mark.parametrize("name, read", [
    ("raw", lambda body: body),
    ("observability", lambda body: body["payload"]),
    ("cloudevents", lambda body: body["data"]),
    ("events", lambda body: json.loads(body["metadata"])),
])
def test_another_agents_event_is_sent_in_its_own_words(name, read):
    assert read(body_of(name, CAMEL, agent="copilot")) == CAMEL


@pytest.mark.parametrize("name, read", [
    ("events", lambda body: (body["tool_name"], body["session_id"])),
    ("observability", lambda body: (body["tool_name"], body["session_id"])),
    ("cloudevents", lambda body: (body["subject"], body["sessionid"])),
    ("gram", lambda body: (body["data"]["tool_call"]["name"], body["session"]["id"])),
])
def test_what_a_server_asks_for_is_said_in_claude_codes_words(name, read):
    body = body_of(name, CAMEL, agent="copilot")
    assert read(body) == ("Bash", CAMEL["sessionId"])
