# SPDX-License-Identifier: MIT
"""Who may send what: the server's own page and hooks, within bounds, once each."""

import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

import hook_io
from conftest import PATIENCE_S, TESTS, eventually, sample
from errands import errand
from server import EventServer, intake
from server.keys import Keys, new_key
from server.loop import OPEN_MAX
from test_server import (
    EVENT,
    connected,
    event_bytes,
    exchange_json,
    fixture_command,  # noqa: F401 - a fixture
    get,
    http_request,
    parts,
    post,
    started,
    talk,
)

pytestmark = pytest.mark.filterwarnings(
    "error::pytest.PytestUnhandledThreadExceptionWarning")

OTEL = TESTS / "otel"
SESSION = "f92bac9e-5900-412b-aef4-cb42525644ab"
HOOK = {**EVENT, "session_id": SESSION,
        "metadata": json.dumps({"tool_use_id": "toolu_1", "cwd": "/home/dev/shop"})}


def telemetry(signal):
    return (OTEL / f"{signal}.json").read_bytes()


def send(server, signal, body=None, headers=()):
    body = telemetry(signal) if body is None else body
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return exchange_json(server, http_request(
        body, f"/v1/{signal}", headers=["Content-Type: application/json", *headers]))


def with_header(header, path="/events", body=None):
    return http_request(event_bytes() if body is None else body, path, headers=[header])


# Who may send.

@pytest.mark.parametrize("path", ["/events", "/v1/logs", "/rpc/hooks.ingest"])
@pytest.mark.parametrize("origin", [
    "http://evil.test", "null", "http://evil.test:4000", "https://localhost.evil.test",
    "http://127.0.0.1.evil.test", "file://", ""])
def test_a_page_from_elsewhere_stores_nothing(origin, path):
    with EventServer() as server:
        status, answer = exchange_json(server, with_header(f"Origin: {origin}", path))
        assert (status, answer["error"]) == (403, "Forbidden")
        assert server.events() == []


def test_a_browser_that_names_another_site_without_an_origin_stores_nothing():
    with EventServer() as server:
        status, _ = exchange_json(server, with_header("Sec-Fetch-Site: cross-site"))
        assert (status, server.events()) == (403, [])


@pytest.mark.parametrize("origin", ["http://localhost:4000", "http://127.0.0.1:4000"])
def test_the_servers_own_page_may_send(origin):
    with EventServer() as server:
        assert exchange_json(server, with_header(f"Origin: {origin}"))[0] == 201


@pytest.mark.parametrize("host", ["evil.test:4000", "10.0.0.1", "localhost.evil.test"])
@pytest.mark.parametrize("page", [
    "Origin: http://{}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"])
def test_a_name_that_was_made_to_lead_here_stores_nothing_from_a_page(host, page):
    request = with_header(page.format(host)).replace(b"Host: localhost",
                                                     b"Host: " + host.encode())
    with EventServer() as server:
        assert exchange_json(server, request)[0] == 403
        assert server.events() == []


@pytest.mark.parametrize("host", [
    "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]:4000", "workstation", ""])
def test_a_hook_may_spell_this_machine_in_any_way(host):
    request = http_request(event_bytes()).replace(b"localhost", host.encode())
    with EventServer() as server:
        assert exchange_json(server, request)[0] == 201


def test_a_name_that_the_server_was_given_stores_and_reads():
    request = http_request(event_bytes()).replace(b"localhost", b"Hooks.lan:4000")
    with EventServer(names=["hooks.lan"]) as server:
        assert exchange_json(server, request)[0] == 201


# Within bounds.

@pytest.mark.parametrize("name", ["source_app", "tool_name", "session_id"])
def test_a_name_of_a_quarter_of_a_megabyte_is_refused_and_a_clipped_one_is_not(name):
    with EventServer() as server:
        status, answer = post(server, event_bytes(**{name: "x" * 250_000}))
        assert (status, answer["error"]) == (400, "ValidationError")
        assert answer["message"].startswith(f"Invalid {name}: must be ")
        assert post(server, event_bytes(**{name: "x" * 8_300}))[0] == 201


def test_a_time_in_the_future_is_kept_as_it_is_and_does_not_count_as_the_newest():
    with EventServer() as server:
        post(server, event_bytes(timestamp="2999-01-01T00:00:00Z"))
        assert server.events()[0]["timestamp"] == "2999-01-01T00:00:00Z"
        (session,) = get(server, "/sessions")[1]
        assert session["last_at"] < time.time() + 120


def test_a_thousand_held_connections_leave_the_server_in_reach():
    with EventServer(keep_alive=True, keep_exchanges=False) as server:
        held = [connected(server) for _ in range(1000)]
        for sock in held[::2]:
            sock.sendall(b"POST /events HTTP/1.1\r\n")
        try:
            assert post(server)[0] == 201
            eventually(lambda: len(server._threads) <= OPEN_MAX + 1)
        finally:
            for sock in held:
                sock.close()


@pytest.mark.parametrize("line", ["x" * 100, '{"a": 1}'])
def test_an_import_without_an_end_ends(line, tmp_path):
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    def feed():
        data = (line + "\n").encode() * 10_000
        with open(fifo, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(data)
            except BrokenPipeError:
                pass
    threading.Thread(target=feed, daemon=True).start()
    small = "import server.command as c; c.IMPORT_MAX_BYTES = 1 << 20; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", small, "--port", "0", "--db", ":memory:", "--import",
         str(fifo)], cwd=TESTS, capture_output=True, timeout=PATIENCE_S)
    assert (done.returncode, b"no end within" in done.stderr) == (1, True)


@pytest.mark.parametrize("is_held", [False, True], ids=["nobody writes", "is silent"])
def test_an_import_of_a_pipe_in_which_nothing_comes_ends(is_held, tmp_path):
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR) if is_held else None
    small = "import server.command as c; c.IMPORT_WAIT_S = 1; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", small, "--port", "0", "--db", ":memory:", "--import",
         str(fifo)], cwd=TESTS, capture_output=True, timeout=PATIENCE_S)
    if is_held:
        os.close(held)
    assert (done.returncode, done.stderr.decode().splitlines()) == (
        1, [f"server: cannot read {fifo}: nothing came from it for 1 s"])


def test_an_output_that_is_no_terminal_gets_whole_lines(tmp_path):
    process = started("--port", "0", "--db", ":memory:", COLUMNS="")
    try:
        port = int(process.stdout.readline().split(b"/events")[0].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(http_request(event_bytes(summary="é" * 200)))
            line = process.stdout.readline().decode()
        assert line.rstrip("\n").endswith("é" * 200)
    finally:
        process.kill()
        process.communicate()


# Once each.

def test_the_same_idempotency_key_is_stored_once_and_answered_alike():
    with EventServer(on_event=(seen := []).append) as server:
        request = with_header("Idempotency-Key: 5f2b")
        first, second = (exchange_json(server, request) for _ in range(2))
        assert first == second
        assert exchange_json(server, with_header("Idempotency-Key: 77aa"))[1]["id"] == 2
        assert [event["id"] for event in seen] == [1, 2]


def test_an_event_without_a_key_is_stored_as_often_as_it_comes():
    with EventServer() as server:
        assert [post(server)[1]["id"] for _ in range(3)] == [1, 2, 3]


def test_a_connection_serves_one_request_after_the_other_where_that_is_asked_for():
    with EventServer(keep_alive=True) as server, connected(server) as sock:
        for number in range(1, 4):
            sock.sendall(http_request(
                event_bytes(), headers=["Connection: keep-alive"]))
            _, headers, body = parts(sock.recv(1 << 16))
            assert headers["connection"] == "keep-alive"
            assert json.loads(body)["id"] == number
        sock.sendall(http_request(event_bytes(), headers=["Connection: close"]))
        assert parts(sock.recv(1 << 16))[1]["connection"] == "close"
        assert sock.recv(1) == b""


# Other formats.

def in_format(name, event_name="PostToolUse"):
    """Return (path, headers, body) as send_event.py sends the sample."""
    facts = errand(event_name, "shop", server_url="http://localhost", key="0f" * 16,
                   time_ns=1795827952074 * 1000000)
    event = hook_io.normalise(sample(event_name, "claude-code"))
    url, headers, body = hook_io.FORMATS[name](event, facts)
    return "/" + url.partition("//")[2].partition("/")[2], headers, body


@pytest.mark.parametrize("name", sorted({*hook_io.FORMATS} - {"events"}))
@pytest.mark.parametrize("kind", ["PostToolUse", "PreToolUse", "UserPromptSubmit",
                                  "SessionStart", "Stop", "PostToolUseFailure"])
def test_each_format_of_send_event_becomes_the_same_event(name, kind):
    said = sample(kind, "claude-code")
    path, headers, body = in_format(name, kind)
    path = "/events" if path == "/" else path
    lines = [f"{header}: {value}" for header, value in headers.items()]
    with EventServer() as server:
        status, _ = exchange_json(server, http_request(
            json.dumps(body).encode(), path, headers=lines))
        (event,) = server.events()
    assert status in (200, 201)
    assert event["event_type"] == kind
    assert event["session_id"] == said["session_id"]
    assert event.get("tool_name") == said.get("tool_name")
    metadata = json.loads(event["metadata"])
    for member in ("tool_use_id", "tool_input", "tool_response", "prompt", "error"):
        assert metadata.get(member) == said.get(member), member
    if name != "raw":
        assert event["timestamp"] == "2026-11-28T01:05:52.074Z" or name == "events"


def test_an_http_hook_is_answered_with_a_document_that_decides_nothing():
    body = json.dumps(sample("PreToolUse", "claude-code")).encode()
    with EventServer() as server:
        assert post(server, body, "/events?source_app=shop") == (200, {})
        assert server.events()[0]["source_app"] == "shop"


@pytest.mark.parametrize("agent", ["codex", "gemini", "qwen", "copilot"])
def test_an_event_of_another_agent_is_taken_in_claude_codes_words(agent):
    kind = {"gemini": "AfterTool"}.get(agent, "PostToolUse")
    with EventServer() as server:
        assert post(server, json.dumps(sample(kind, agent)).encode())[0] == 200
        assert server.events()[0]["event_type"] == "PostToolUse"


@pytest.mark.parametrize("body", [
    {"hook_event_name": 1}, {"hook_event_name": ""}, {"hook_event_type": "Stop"},
    {"hook_event_type": "No thing", "payload": {"hook_event_name": "Stop"}},
    {"specversion": "1.0", "type": 3}, {"schema_version": "1", "source": []},
    {"hook_event_type": [], "payload": {"a": 1}}, {"specversion": "1.0", "data": []},
    {"hook_event_type": {}, "payload": {"hook_event_name": "Stop"}},
    {"schema_version": "1", "event": {"type": []}}])
def test_a_format_that_is_broken_is_refused_by_name(body):
    with EventServer() as server:
        status, answer = post(server, json.dumps(body).encode())
        assert (status, answer["error"]) == (400, "ValidationError")
        assert server.events() == []


# Telemetry.

def test_claude_codes_own_telemetry_is_taken_and_its_repetition_is_stored_once():
    with EventServer() as server:
        for _ in range(2):
            for signal in ("logs", "metrics", "traces"):
                assert send(server, signal) == (200, {"partialSuccess": {}})
        post(server, json.dumps(HOOK).encode())
        (session,) = get(server, "/sessions")[1]
        total = {kind: sum(model.get(kind, 0) for model in session["usage"].values())
                 for kind in ("input", "output", "cache_read", "cache_creation")}
        assert total == {"input": 9045, "output": 675, "cache_read": 274500,
                         "cache_creation": 18450}
        assert round(sum(m["cost"] for m in session["usage"].values()), 6) == 0.077438
        records = get(server, f"/telemetry?session_id={SESSION}&limit=1000")[1]
        sent = json.loads(telemetry("logs"))["resourceLogs"][0]["scopeLogs"][0]
        assert len(records) == len(sent["logRecords"])


def test_usage_comes_from_the_log_records_where_no_metrics_come():
    with EventServer() as server:
        send(server, "logs")
        post(server, json.dumps(HOOK).encode())
        (session,) = get(server, "/sessions")[1]
        assert sum(m["output"] for m in session["usage"].values()) == 675


def point(value, temporality=2, at=None):
    pairs = [("session.id", SESSION), ("type", "input"), ("model", "m")]
    return {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{
        "name": "claude_code.token.usage", "sum": {
            "aggregationTemporality": temporality, "dataPoints": [{
                "startTimeUnixNano": "1", "timeUnixNano": str(at or value),
                "asDouble": value, "attributes": [
                    {"key": key, "value": {"stringValue": text}}
                    for key, text in pairs]}]}}]}]}]}


def test_cumulative_points_are_told_once_however_often_they_come():
    with EventServer() as server:
        for value in (10, 10, 25):
            send(server, "metrics", point(value))
        assert server.attribution.usage(SESSION) == {"m": {"input": 25}}


def test_numbers_that_add_up_beyond_any_leave_the_sessions_to_be_read():
    with EventServer() as server:
        for at in (1, 2, 3):
            assert send(server, "metrics", point(1e308, 1, at))[0] == 200
        (session,) = get(server, "/sessions")[1]
        assert session["usage"] == {"m": {"input": 10**15}}


@pytest.mark.parametrize("value, used", [
    ({"intValue": str((1 << 64) - 1)}, 10**15), ({"intValue": "7"}, 7),
    ({"intValue": "-7"}, None), ({"doubleValue": -1e308}, None),
    ({"boolValue": True}, None)])
def test_of_a_request_what_is_a_number_of_tokens_is_added(value, used):
    said = {"session.id": {"stringValue": SESSION}, "input_tokens": value,
            "event.name": {"stringValue": "api_request"}}
    body = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"attributes": [
        {"key": key, "value": value} for key, value in said.items()]}]}]}]}
    with EventServer() as server:
        assert send(server, "logs", body) == (200, {"partialSuccess": {}})
        (session,) = get(server, "/sessions")[1]
        assert session["usage"] == ({"": {"input": used}} if used else {})


def test_a_packed_body_is_read_and_a_bomb_or_half_of_one_is_refused():
    headers = ["Content-Encoding: gzip"]
    with EventServer() as server:
        packed = gzip.compress(telemetry("logs"))
        assert send(server, "logs", packed, headers)[0] == 200
        assert send(server, "logs", packed[:-20], headers)[0] == 400
        assert send(server, "logs", b"none", headers)[0] == 400
        assert send(server, "logs", gzip.compress(b" " * (40 << 20)), headers)[0] == 413
        assert send(server, "logs", b"{}", ["Content-Encoding: br"])[0] == 415


def test_protobuf_is_refused_with_the_variable_to_set():
    with EventServer() as server:
        status, answer = exchange_json(server, http_request(
            b"\n\x00", "/v1/logs", headers=["Content-Type: application/x-protobuf"]))
        assert status == 415
        assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/json" in answer["message"]


def record(**attribute):
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"timeUnixNano": "1", "attributes": [{"key": "a", "value": attribute}]}]}]}]}


DEEP = {"stringValue": "x"}
for _ in range(200):
    DEEP = {"arrayValue": {"values": [DEEP]}}


@pytest.mark.parametrize("body, where", [
    (b"", "line 1 column 1"), (b'{"resourceLogs": [', "line 1 column 19"),
    (b'{\n"resourceLogs": x}', "line 2 column 17"), (b"\xff{}", "position 0"),
    (b'{"resourceLogs": NaN}', "NaN"), (b"[]", "body"), (b"{}", "body"),
    (b"[" * 100_000, "nested too deeply"),
    ({"resourceLogs": {}}, "Invalid resourceLogs"),
    ({"resourceLogs": [1]}, "resourceLogs[0]"),
    ({"resourceLogs": [{"scopeLogs": [{"logRecords": [7]}]}]},
     "resourceLogs[0].scopeLogs[0].logRecords[0]"),
    (record(stringValue=1), "value.stringValue"), (record(intValue="x"), "intValue"),
    (record(intValue=str(1 << 64)), "intValue"),
    (record(intValue=-(1 << 63) - 1), "intValue"),
    (record(boolValue="true"), "boolValue"), (record(doubleValue="1"), "doubleValue"),
    (record(doubleValue=10**400), "doubleValue"), (record(**DEEP), "deep"),
    ({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "soon"}]}]}]},
     "timeUnixNano"),
    ({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "-1"}]}]}]},
     "timeUnixNano"),
])
def test_a_bad_body_is_refused_with_the_place_and_what_belongs_there(body, where):
    with EventServer() as server:
        status, answer = send(server, "logs", body)
        assert (status, answer["error"]) == (400, "ValidationError")
        assert where in answer["message"] and " must " in answer["message"]
        assert send(server, "logs")[0] == 200


def test_a_body_that_is_too_large_is_refused_as_that(monkeypatch):
    monkeypatch.setattr(intake, "READ_MAX_BYTES", 1000)
    with EventServer() as server:
        status, answer = send(server, "logs", b" " * 1000)
        assert (status, answer["error"]) == (413, "PayloadTooLarge")
        assert send(server, "logs", b" " * 999)[0] == 400


@pytest.mark.parametrize("span, where", [
    ({"traceId": "00", "spanId": "1" * 16}, "traceId"),
    ({"traceId": "z" * 32, "spanId": "1" * 16}, "traceId"),
    ({"traceId": "a" * 32, "spanId": 1}, "spanId")])
def test_a_span_without_its_ids_is_refused(span, where):
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    with EventServer() as server:
        status, answer = send(server, "traces", body)
        assert status == 400 and where in answer["message"]


# Keys.

@pytest.fixture(name="keyed")
def fixture_keyed(tmp_path):
    path, mine = tmp_path / "keys", new_key("shop", "acme")
    others = new_key("x", "evil")
    path.write_text(f"# keys\n{mine[1]}\n\n{others[1]}  # another\n")
    assert mine[0] not in path.read_text()
    with EventServer(keys=Keys(path)) as server:
        yield server, mine[0], others[0]


@pytest.mark.parametrize("header", ["", "Authorization: Bearer wrong", "Gram-Key: x",
                                    "Authorization: Basic eA==", "X-API-Key: \xe9"])
def test_telemetry_without_the_right_key_is_401_and_teaches_nothing(keyed, header):
    server, _, _ = keyed
    body = telemetry("logs")
    request = http_request(body, "/v1/logs", headers=[header] if header else [])
    assert exchange_json(server, request)[0] == 401
    assert server.attribution.people(SESSION) == []


@pytest.mark.parametrize("form", ["Authorization: Bearer {}", "Gram-Key: {}",
                                  "x-api-key: {}"])
def test_a_key_says_whose_project_it_is(keyed, form):
    server, key, _ = keyed
    assert send(server, "logs", headers=[form.format(key)])[0] == 200
    assert post(server, json.dumps(HOOK).encode())[0] == 201
    (event,) = server.events()
    assert (event["user_email"], event["project"], event["organisation"]) == (
        "dev@example.com", "shop", "acme")


def test_another_organisations_session_is_not_taken_over(keyed):
    server, key, others = keyed
    send(server, "logs", headers=[f"Gram-Key: {key}"])
    for signal, name in (("logs", "rejectedLogRecords"), ("traces", "rejectedSpans"),
                         ("metrics", "rejectedDataPoints")):
        status, answer = send(server, signal, headers=[f"Gram-Key: {others}"])
        assert status == 200 and int(answer["partialSuccess"][name]) > 0
        assert "another organisation" in answer["partialSuccess"]["errorMessage"]
    (who,) = server.attribution.people(SESSION)
    assert who["organisation"] == "acme"
    assert server.attribution.usage(SESSION)["claude-haiku-5-5"]["output"] == 185


@pytest.mark.parametrize("text", ["sha256:00 a b", "hio_key a b", "sha256:" + "0" * 64])
def test_a_file_of_keys_that_is_not_one_is_refused_at_the_start(tmp_path, text):
    path = tmp_path / "keys"
    path.write_text(text)
    process = started("--port", "0", "--db", ":memory:", "--keys", str(path))
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err.decode().startswith("server: cannot use the keys in ")
    assert err.count(b"\n") == 1


# Server names.

def test_a_servers_name_is_listed_set_changed_and_deleted():
    def call(method, body=None):
        return talk(server, http_request(
            json.dumps(body or {}).encode(), "/server-names", method))
    with EventServer() as server:
        assert get(server, "/server-names") == (200, [])
        for name in ("Query", "SQL"):
            body = {"raw_server_name": "mcp__sqlite", "display_name": name}
            assert parts(call("PUT", body))[0] == 200
        (row,) = get(server, "/server-names")[1]
        assert (row["raw_server_name"], row["display_name"]) == ("mcp__sqlite", "SQL")
        assert parts(call("PUT", {"raw_server_name": ""}))[0] == 400
        assert parts(call("DELETE", {"raw_server_name": "mcp__sqlite"}))[0] == 204
        assert parts(call("DELETE", {"raw_server_name": "mcp__sqlite"}))[0] == 404
