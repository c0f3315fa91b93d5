# SPDX-License-Identifier: MIT
"""The contract's server keeps the contract, and breaks it exactly as told."""

import base64
import concurrent.futures
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time

import pytest

import hook_io
from conftest import PATIENCE_S, TESTS, HeldServer, eventually, needs_ipv6
from server import (
    FAULTS,
    Connection,
    EventServer,
    closed_port,
    full_backlog,
)
from server.command import parse_options
from server.http1 import LINGER_MS

pytestmark = pytest.mark.filterwarnings(
    "error::pytest.PytestUnhandledThreadExceptionWarning")

EVENT = {"timestamp": "2025-10-21T10:30:45.123Z", "source_app": "resume-agent",
         "event_type": "PreToolUse", "tool_name": "mcp__sqlite__query",
         "summary": "Querying portfolio_library table for RAG examples",
         "session_id": "550e8400-e29b-41d4-a716-446655440000",
         "metadata": "{\"query\": \"SELECT 1\"}"}
NINE = ["PreToolUse", "PostToolUse", "UserPromptSubmit", "SessionStart", "SessionEnd",
        "Notification", "Stop", "SubagentStop", "PreCompact"]
NEVER_ENDING = ("silent", "accept_only", "drip", "continue_then_silence",
                "endless_status", "endless_headers", "endless_body")
SCRIPT = str(TESTS / "server")
FOREVER_MS = 20 * PATIENCE_S * 1000


# A client that does no more and no less than it is told.

def connected(server):
    family = socket.AF_INET6 if "[" in server.url else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(PATIENCE_S)
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    sock.connect((host, server.port))
    return sock


def http_request(body=b"", path="/events", method="POST", headers=()):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost",
             f"Content-Length: {len(body)}", *headers, "", ""]
    if not any(line.startswith("Connection:") for line in lines):
        lines.insert(2, "Connection: close")
    return "\r\n".join(lines).encode() + body


def event_bytes(**changes):
    return json.dumps({**EVENT, **changes}).encode()


def talk(server, request):
    """Send *request*; return all that comes back, whether it ends well or not."""
    answer = b""
    with contextlib.suppress(ConnectionError), connected(server) as sock:
        sock.sendall(request)
        while True:
            data = sock.recv(1 << 16)
            if not data:
                break
            answer += data
    return answer


def parts(answer):
    """Return (status, lower-case headers, body) of an HTTP answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), headers, body


def exchange_json(server, request):
    """Send *request*; return (status, document) of the answer."""
    status, headers, body = parts(talk(server, request))
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    return status, json.loads(body)


def post(server, body=None, path="/events"):
    return exchange_json(server, http_request(
        event_bytes() if body is None else body, path))


def get(server, path):
    return exchange_json(server, http_request(path=path, method="GET"))


def leave_by_reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def leave_after(server, seconds, request=None, until=rb"(?s:.*)"):
    """Send a request, read what comes for *seconds* and until all matches, leave.

    Return what came, and how long, in ms of the server's clock, it had us at least.
    """
    answer, number = b"", len(server.exchanges)
    with connected(server) as sock:
        sock.sendall(http_request(event_bytes()) if request is None else request)
        eventually(lambda: len(server.exchanges) > number)
        end = time.monotonic() + seconds
        while time.monotonic() < end or not re.fullmatch(until, answer):
            sock.settimeout(max(0.01, end - time.monotonic()))
            with contextlib.suppress(socket.timeout):
                data = sock.recv(1 << 16)
                assert data, "it is the server that left"
                answer += data
        left_ms = server._clock_ms()
    return answer, round(left_ms - server.exchanges[number].accepted_ms, 1)


def decoded(chunked):
    """Return the body that *chunked* encodes, or fail."""
    body = b""
    while chunked != b"0\r\n\r\n":
        size, _, rest = chunked.partition(b"\r\n")
        size = int(size, 16)
        assert size and rest[size:size + 2] == b"\r\n"
        body, chunked = body + rest[:size], rest[size + 2:]
    return body


# The contract.

def test_an_event_is_answered_with_201_and_itself_plus_id_and_created_at():
    with EventServer() as server:
        status, stored = post(server)
        assert status == 201
        assert stored.pop("id") == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
                            stored.pop("created_at"))
        assert stored == EVENT


def test_an_event_of_the_required_fields_alone_is_accepted_and_gains_no_nulls():
    event = {name: EVENT[name] for name in ("timestamp", "source_app", "event_type")}
    with EventServer() as server:
        status, stored = post(server, json.dumps(event).encode())
        assert (status, set(stored)) == (201, {*event, "id", "created_at"})


def test_a_member_the_contract_does_not_name_is_not_kept():
    with EventServer() as server:
        _, stored = post(server, event_bytes(payload={"a": 1}))
        assert "payload" not in stored


def test_any_well_formed_event_type_is_accepted():
    known = {hook_io.canonical(name) for row in hook_io.PLATFORMS.values()
             for name in row["events"]}
    names = [*NINE, *sorted(known), "preToolUse", "ANewerEvent", "a.b:c-d_1", "x" * 64]
    with EventServer() as server:
        statuses = {post(server, event_bytes(event_type=name))[0] for name in names}
        assert statuses == {201}
        assert [event["event_type"] for event in server.events()] == names


@pytest.mark.parametrize("name", [
    "two words", "1st", "_Stop", "x" * 65, "Stop\n", "Stöp", "a/b", "<b>"])
def test_a_bad_event_type_is_answered_with_the_contracts_400(name):
    with EventServer() as server:
        status, answer = post(server, event_bytes(event_type=name))
        assert status == 400
        assert answer["error"] == "ValidationError"
        assert answer["message"].startswith("Invalid event_type: must be a letter")
        assert set(answer) == {"error", "message"}
        assert server.events() == []


BAD_FIELDS = [
    ("timestamp", value) for value in (
        None, "", 17, "yesterday", "2025-10-21T10:30:45.123", "2025-10-21",
        "2025-13-21T10:30:45Z", "2025-10-21T25:30:45Z", "2025-10-21T10:30:45Z\n")
] + [
    ("source_app", None), ("source_app", ""), ("source_app", 1),
    ("event_type", None), ("event_type", []), ("event_type", ""),
    ("tool_name", None), ("tool_name", 1), ("tool_name", "\ud800"),
    ("summary", "x" * 201), ("summary", {}),
    ("session_id", 550), ("session_id", None),
    ("metadata", {"a": 1}), ("metadata", "{"), ("metadata", "NaN"), ("metadata", ""),
    ("metadata", "[" * 100_000),
]


@pytest.mark.parametrize("name, value", BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(name, value):
    with EventServer() as server:
        status, answer = post(server, event_bytes(**{name: value}))
        assert (status, answer["error"]) == (400, "ValidationError")
        assert answer["message"].startswith(f"Invalid {name}: must be ")


@pytest.mark.parametrize("name", ["timestamp", "source_app", "event_type"])
def test_an_event_without_a_required_field_is_refused_by_its_name(name):
    event = {key: value for key, value in EVENT.items() if key != name}
    with EventServer() as server:
        status, answer = post(server, json.dumps(event).encode())
        assert status == 400
        assert answer["message"].startswith(f"Invalid {name}: must be ")


@pytest.mark.parametrize("name, value", [
    ("timestamp", "2025-10-21T10:30:45Z"), ("timestamp", "2025-10-21T10:30:45+00:00"),
    ("timestamp", "2025-10-21T10:30:45.123456+0200"), ("summary", "é" * 200),
    ("summary", ""), ("metadata", "[1, null]"), ("tool_name", "a\x00b\U0001f600")])
def test_a_field_at_the_edge_of_the_rules_is_kept_as_it_is(name, value):
    with EventServer() as server:
        status, stored = post(server, event_bytes(**{name: value}))
        assert (status, stored[name]) == (201, value)
        assert server.events()[0][name] == value


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b"{\"a\": NaN}", b"[" * 100_000,
    event_bytes().decode().encode("utf-16")])
def test_a_body_that_is_no_json_object_is_refused(body):
    with EventServer() as server:
        assert post(server, body) == (400, {
            "error": "ValidationError",
            "message": "Invalid body: must be a JSON object"})


def padded_to(size):
    return event_bytes(metadata='"' + "x" * (size - len(event_bytes(metadata='""')))
                       + '"')


def test_a_body_of_one_mebibyte_is_accepted_and_one_byte_more_is_413():
    with EventServer() as server:
        assert len(padded_to(1 << 20)) == 1 << 20
        assert post(server, padded_to(1 << 20))[0] == 201
        status, answer = post(server, padded_to((1 << 20) + 1))
        assert (status, set(answer)) == (413, {"error", "message"})
        assert server.store.count() == 1


def test_a_client_that_sends_far_too_much_still_gets_to_read_the_413():
    with EventServer() as server:
        assert post(server, b" " * (40 << 20))[0] == 413


@pytest.mark.parametrize("method, path, status", [
    ("POST", "/event", 404), ("GET", "/page", 404), ("POST", "/events/", 404),
    ("PUT", "/events", 405), ("DELETE", "/events", 405), ("POST", "/health", 405)])
def test_other_paths_and_methods_are_refused_in_the_same_shape(method, path, status):
    with EventServer() as server:
        got, answer = exchange_json(server, http_request(
            event_bytes(), path=path, method=method))
        assert (got, set(answer)) == (status, {"error", "message"})
        assert answer["message"].startswith("Invalid ")


def test_the_events_path_takes_any_query():
    with EventServer() as server:
        assert post(server, path="/events?token=a&x")[0] == 201
        assert server.wait(1)[0].path == "/events?token=a&x"


@pytest.mark.parametrize("request_bytes", [
    b"hello\r\n\r\n", b"POST /events\r\n\r\n", b"POST /events HTTP/2\r\n\r\n",
    b"\x16\x03\x01\r\n\r\n", b"x" * 100_000,
    b"POST /events HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"])
def test_what_is_not_http_is_answered_with_400(request_bytes):
    with EventServer() as server:
        assert exchange_json(server, request_bytes) == (400, {
            "error": "ValidationError",
            "message": "Invalid request: must be HTTP/1.1"})
        assert server.wait(1)[0].headers is None


def test_a_chunked_request_is_read():
    body = event_bytes()
    request = (b"POST /events HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
               b"5;a=b\r\n%s\r\n%X\r\n%s\r\n0\r\nTrailer: x\r\n\r\n"
               % (body[:5], len(body) - 5, body[5:]))
    with EventServer() as server:
        assert exchange_json(server, request)[0] == 201
        assert server.wait(1)[0].body == body


def test_a_client_that_expects_100_continue_gets_it_before_it_sends_the_body():
    body = event_bytes()
    request = http_request(body, headers=["Expect: 100-continue"])
    with EventServer() as server, connected(server) as sock:
        sock.sendall(request[:-len(body)])
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(1000).startswith(b"HTTP/1.1 201 ")


def test_an_answer_arrives_in_one_piece_and_says_that_the_connection_closes():
    with EventServer() as server, connected(server) as sock:
        sock.sendall(http_request(event_bytes()))
        status, headers, body = parts(sock.recv(1 << 16))
        assert (status, headers["connection"]) == (201, "close")
        assert int(headers["content-length"]) == len(body)
        assert sock.recv(1) == b""


# Reading back.

@pytest.fixture(name="filled")
def fixture_filled():
    with EventServer() as server:
        for number in range(6):
            server.store.add({**EVENT, "session_id": f"s-{number % 2}",
                              "event_type": NINE[number % 3],
                              "source_app": f"app-{number % 2}",
                              "tool_name": f"tool {number % 3}"})
        yield server


@pytest.mark.parametrize("query, ids", [
    ("", [1, 2, 3, 4, 5, 6]), ("session_id=s-1", [2, 4, 6]),
    ("event_type=PreToolUse", [1, 4]), ("source_app=app-0&session_id=s-0", [1, 3, 5]),
    ("tool_name=tool+2", [3, 6]), ("tool_name=tool%202&session_id=s-0", [3]),
    ("since_id=4", [5, 6]), ("limit=2", [1, 2]), ("since_id=2&limit=2", [3, 4]),
    ("session_id=", []), ("limit=10000", [1, 2, 3, 4, 5, 6])])
def test_events_are_read_back_oldest_first_by_what_is_asked(filled, query, ids):
    status, events = get(filled, "/events?" + query)
    assert (status, [event["id"] for event in events]) == (200, ids)
    assert events == [event for event in filled.events() if event["id"] in ids]


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "limit=-1",
                                   "since_id=-1", "since_id=1e3",
                                   "since_id=" + "9" * 30])
def test_a_page_that_cannot_be_is_refused_by_name(filled, query):
    status, answer = get(filled, "/events?" + query)
    assert status == 400
    assert answer["message"].startswith(f"Invalid {query.partition('=')[0]}: must be ")


def test_a_page_has_100_events_unless_asked_otherwise():
    with EventServer() as server:
        for _ in range(101):
            server.store.add(EVENT)
        assert len(get(server, "/events")[1]) == 100
        assert len(get(server, "/events?limit=10000")[1]) == 101


def test_health_says_how_many_events_there_are(filled):
    assert get(filled, "/health") == (200, {"status": "ok", "events": 6})


def test_a_file_is_opened_again_and_ids_go_on(tmp_path):
    db = str(tmp_path / "events.db")
    with EventServer(db=db) as server:
        post(server)
    with EventServer(db=db) as server:
        assert post(server)[1]["id"] == 2
        assert len(server.events()) == 2


def test_another_programs_file_is_refused_at_the_start(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, " * 100)
    with contextlib.closing(sqlite3.connect(str(tmp_path / "other.db"))) as other:
        other.execute("CREATE TABLE events (name TEXT)")
        other.commit()
    for name in ("notes.db", "other.db", "missing/events.db"):
        with pytest.raises(sqlite3.Error):
            EventServer(db=str(tmp_path / name))


def test_a_store_that_fails_is_answered_with_500():
    with EventServer() as server:
        server.store._sqlite.execute("DROP TABLE events")
        status, answer = post(server)
        assert (status, answer["error"]) == (500, "StorageError")


def test_each_stored_event_is_reported_once_and_a_refused_one_never():
    seen = []
    with EventServer(on_event=seen.append) as server:
        post(server, event_bytes(event_type="two words"))
        stored = post(server)[1]
        assert seen == [stored]


# Which reply a connection gets.

def test_replies_are_taken_in_order_and_then_the_contract_answers():
    replies = [{"status": 204}, "accepted", {"status": 503}]
    with EventServer(replies=replies) as server:
        for _ in range(4):
            talk(server, http_request(event_bytes()))
        seen = server.wait(4)
        assert [exchange.status for exchange in seen] == [204, 202, 503, 201]
        assert [exchange.reply for exchange in seen] == [*replies, None]
        assert len(server.events()) == 1


def test_the_query_names_a_fault_for_this_request_alone():
    with EventServer() as server:
        talk(server, http_request(path="/events?fault=no_content"))
        assert post(server)[0] == 201
        seen = server.wait(2)
        assert [(e.reply, e.status) for e in seen] == [("no_content", 204), (None, 201)]


@pytest.mark.parametrize("name", ["reset_on_accept", "reset_mid_request"])
def test_a_reset_named_in_the_query_comes_as_soon_as_the_query_is_read(name):
    with EventServer() as server:
        assert talk(server, http_request(path="/events?fault=" + name)) == b""
        assert server.wait(1)[0].ended_by == "server"


def test_a_fault_that_the_query_gets_wrong_is_answered_with_the_names():
    with EventServer() as server:
        status, answer = post(server, path="/events?fault=silence")
        assert status == 400
        assert answer["message"].startswith("Invalid fault: must be one of [silent, ")


def test_a_scripted_reply_comes_before_the_query_and_the_query_before_the_server():
    with EventServer(replies=[{"status": 299}], fault="accepted") as server:
        for path in ("/events?fault=no_content", "/events?fault=no_content", "/events"):
            talk(server, http_request(event_bytes(), path))
        assert [e.status for e in server.wait(3)] == [299, 204, 202]


def test_a_servers_fault_applies_to_every_request():
    with EventServer(fault="server_error") as server:
        for request in (http_request(event_bytes()), http_request(method="GET"),
                        http_request(path="/health", method="GET"), b"junk\r\n\r\n"):
            assert parts(talk(server, request))[0] == 500


@pytest.mark.parametrize("arguments", [
    {"replies": [{"stauts": 204}]}, {"replies": ["silence"]}, {"fault": "silence"}])
def test_a_reply_with_a_misspelt_word_is_refused_before_anything_runs(arguments):
    with pytest.raises(ValueError, match=r"stauts|silence"):
        EventServer(**arguments)


# What the replies do.

#: fault -> pattern of everything that a patient client reads
READ = {
    "close": rb"",
    "reset_on_accept": rb"",
    "reset_mid_request": rb"",
    "reset_in_headers": rb"HTTP/1\.1 201 Created\r\nContent",
    "huge_body": rb"HTTP/1\.1 201 Created\r\n(?s:.*)Content-Length: 10485760\r\n"
                 rb"Connection: close\r\n\r\n {10485760}",
    "continue_then_201": rb"HTTP/1\.1 100 Continue\r\n\r\n"
                         rb"HTTP/1\.1 201 Created\r\n(?s:.*)\r\n\r\n\{\"id\": 1, .*\}",
    "not_http": rb"SSH-2\.0-\S+\r\n",
    "garbage": rb"(?s:[^H].{33})",
    "redirect": rb"HTTP/1\.1 302 Found\r\n(?s:.*)Location: /elsewhere\r\n\r\n",
    "bad_request": rb"HTTP/1\.1 400 Bad Request\r\n(?s:.*)\r\n\r\n"
                   rb"\{\"error\": \"ValidationError\", \"message\": \"Invalid .*\"\}",
    "server_error": rb"HTTP/1\.1 500 [^\r]*\r\nContent-Type: text/html\r\n"
                    rb"(?s:.*)\r\n\r\n<html>.*</html>",
    "no_content": rb"HTTP/1\.1 204 No Content\r\nConnection: close\r\n\r\n",
    "accepted": rb"HTTP/1\.1 202 Accepted\r\n(?s:.*)\r\n\r\n",
    "ok_not_json": rb"HTTP/1\.1 200 OK\r\nContent-Type: text/plain(?s:.*)\r\n\r\nok\n",
    "slow": rb"HTTP/1\.1 201 Created\r\n(?s:.*)\r\n\r\n\{\"id\": 1, .*\}",
}
#: fault -> pattern of what has come when an impatient client leaves
READ_SO_FAR = {
    "silent": rb"",
    "accept_only": rb"",
    "drip": rb"HTTP(?s:.*)",
    "continue_then_silence": rb"HTTP/1\.1 100 Continue\r\n\r\n",
    "endless_status": rb"HTTP/1\.1 201 Created\.{9999,}",
    "endless_headers": rb"HTTP/1\.1 201 Created\r\n(X-More: x+\r\n){99,}(?s:.{0,63})",
    "endless_body": rb"HTTP/1\.1 201 Created\r\nConnection: close\r\n\r\n {9999,}",
}


def test_every_fault_has_its_row_in_one_of_the_two_tables():
    assert set(READ) | set(READ_SO_FAR) == set(FAULTS)
    assert set(READ_SO_FAR) == set(NEVER_ENDING)


@pytest.mark.parametrize("name", READ)
def test_a_fault_sends_exactly_what_it_is_named_for(name):
    with EventServer(fault=name) as server:
        answer = talk(server, http_request(event_bytes()))
        (exchange,) = server.wait(1)
    assert re.fullmatch(READ[name], answer)
    assert exchange.bytes_sent == len(answer)
    status = re.match(rb"HTTP/1\.1 ([2-5]\d\d)", answer.replace(
        b"HTTP/1.1 100 Continue\r\n\r\n", b""))
    assert exchange.status == (int(status.group(1)) if status else None)


@pytest.mark.parametrize("name", READ_SO_FAR)
def test_the_server_times_how_long_a_client_stays_with_a_fault_that_never_ends(name):
    with EventServer(fault=name) as server:
        answer, stayed_ms = leave_after(server, 0.3, until=READ_SO_FAR[name])
        (exchange,) = server.wait(1)
    assert stayed_ms <= exchange.held_ms
    assert exchange.ended_by == "client"
    assert exchange.bytes_sent >= len(answer)


@pytest.mark.parametrize("reply", [
    {"drip_ms": FOREVER_MS}, {"delay_ms": FOREVER_MS}, {"status": 201, "hang": True}])
def test_a_close_is_seen_in_the_middle_of_any_pause(reply):
    with EventServer(replies=[reply]) as server:
        _, stayed_ms = leave_after(server, 0.3)
        (exchange,) = server.wait(1)
    assert stayed_ms <= exchange.held_ms
    assert exchange.ended_by == "client"


@pytest.mark.parametrize("name", ["silent", "accept_only", "drip"])
def test_the_close_is_seen_too_where_only_reading_shows_it(name, monkeypatch):
    monkeypatch.setattr(Connection, "UNREAD_CLOSE", 0)
    with EventServer(fault=name) as server:
        _, stayed_ms = leave_after(server, 0.3)
        (exchange,) = server.wait(1)
    assert stayed_ms <= exchange.held_ms
    assert exchange.ended_by == "client"


@pytest.mark.parametrize("name", NEVER_ENDING)
def test_a_client_that_resets_is_a_client_that_left(name):
    with EventServer(fault=name) as server:
        with connected(server) as sock:
            sock.sendall(http_request(event_bytes()))
            time.sleep(0.05)
            leave_by_reset(sock)
        assert server.wait(1)[0].ended_by == "client"


def test_a_silent_server_has_read_the_whole_request():
    request = http_request(event_bytes(metadata=json.dumps("x" * 300_000)))
    with EventServer(replies=[{"hang": True}]) as server:
        assert leave_after(server, 0.12, request)[0] == b""
        (exchange,) = server.wait(1)
        assert exchange.raw == request
        assert len(exchange.json["metadata"]) == 300_002
        assert server.events() == []


def test_accept_only_reads_not_one_byte():
    with EventServer(fault="accept_only") as server, connected(server) as sock:
        sock.settimeout(0.3)
        with pytest.raises(socket.timeout):
            sock.sendall(b"x" * (64 << 20))
    (exchange,) = server.exchanges
    assert (exchange.raw, exchange.method, exchange.bytes_sent) == (b"", None, 0)


def test_accept_only_sees_a_client_leave_that_has_sent_a_hundred_kilobytes():
    request = http_request(event_bytes(metadata=json.dumps("x" * 100_000)))
    with EventServer(fault="accept_only") as server:
        _, stayed_ms = leave_after(server, 0.12, request)
        (exchange,) = server.wait(1)
    assert stayed_ms <= exchange.held_ms
    assert (exchange.raw, exchange.ended_by) == (b"", "client")


def test_reset_mid_request_has_read_a_part_of_the_request():
    with EventServer(fault="reset_mid_request") as server:
        request = http_request(event_bytes())
        talk(server, request)
        (exchange,) = server.wait(1)
        assert exchange.raw == request[:16]


@pytest.mark.parametrize("name", ["reset_on_accept", "reset_mid_request",
                                  "reset_in_headers"])
def test_a_reset_reaches_the_client_as_a_reset_and_not_as_a_close(name):
    with EventServer(fault=name) as server, pytest.raises(ConnectionError), \
            connected(server) as sock:
        sock.sendall(http_request(event_bytes()))
        while sock.recv(1000):
            pass


def test_close_reaches_the_client_as_an_end_and_not_as_a_reset():
    with EventServer(fault="close") as server, connected(server) as sock:
        sock.sendall(http_request(event_bytes()))
        assert sock.recv(1000) == b""


def test_a_dripped_answer_is_the_contracts_answer_byte_by_byte(monkeypatch):
    pieces, send = [], Connection.send
    monkeypatch.setattr(Connection, "send", lambda link, data: (
        pieces.append(bytes(data)), send(link, data)))
    with EventServer(replies=[{"drip_ms": 1}]) as server:
        answer = talk(server, http_request(event_bytes()))
        assert parts(answer)[0] == 201
        assert json.loads(parts(answer)[2]) == server.events()[0]
    assert [bytes([byte]) for byte in answer] == pieces


def test_a_slow_answer_comes_late_and_the_event_is_stored_even_if_nobody_waits():
    with EventServer(replies=[{"delay_ms": 150}, {"delay_ms": FOREVER_MS}]) as server:
        assert post(server)[0] == 201
        leave_after(server, 0.05)
        patient, hasty = server.wait(2)
        assert patient.held_ms >= 150
        assert (hasty.status, hasty.ended_by) == (None, "client")
        assert len(server.events()) == 2


def test_an_answer_in_chunks_is_whole():
    with EventServer(replies=[{"chunked": True},
                              {"chunked": True, "status": 200}]) as server:
        status, headers, body = parts(talk(server, http_request(event_bytes())))
        assert (status, headers["transfer-encoding"]) == (201, "chunked")
        assert "content-length" not in headers
        assert json.loads(decoded(body)) == server.events()[0]
        assert parts(talk(server, http_request()))[2] == b"0\r\n\r\n"


def test_a_close_delimited_answer_has_no_length():
    with EventServer(replies=[{"close_delimited": True}]) as server:
        status, headers, body = parts(talk(server, http_request(event_bytes())))
        assert status == 201
        assert not {"content-length", "transfer-encoding"} & set(headers)
        assert json.loads(body) == server.events()[0]


def test_scripted_headers_are_added_replace_or_take_away():
    reply = {"headers": {"X-Mine": "1", "content-length": "5", "Connection": None}}
    with EventServer(replies=[reply]) as server:
        answer = talk(server, http_request(event_bytes()))
        status, headers, _ = parts(answer)
        assert (status, headers["x-mine"], headers["content-length"]) == (201, "1", "5")
        assert answer.lower().count(b"content-length:") == 1
        assert "connection" not in headers
        assert len(server.events()) == 1


def test_a_scripted_answer_takes_text_or_json_and_a_status_without_a_name():
    replies = [{"status": 299, "json": {"a": [1]}}, {"body": "é"}]
    with EventServer(replies=replies) as server:
        assert exchange_json(server, http_request()) == (299, {"a": [1]})
        status, headers, body = parts(talk(server, http_request()))
        assert (status, body.decode(), headers["content-length"]) == (201, "é", "2")


def test_raw_bytes_are_sent_as_they_are():
    data = bytes(range(256))
    replies = [{"raw_base64": base64.b64encode(data).decode()},
               {"raw": "HTTP/1.1 418 Teapot\r\n\r\n"}, {"raw": ""}]
    with EventServer(replies=replies) as server:
        assert talk(server, http_request()) == data
        assert talk(server, http_request()) == b"HTTP/1.1 418 Teapot\r\n\r\n"
        assert talk(server, http_request()) == b""
        assert [e.status for e in server.wait(3)] == [None, 418, None]


@pytest.mark.parametrize("reply, sent", [
    ({"raw": "HTTP/1.1 2", "hang": True}, b"HTTP/1.1 2"),
    ({"status": 204, "hang": True},
     b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")])
def test_hang_after_an_answer_keeps_the_connection_open(reply, sent):
    with EventServer(replies=[reply]) as server:
        answer, stayed_ms = leave_after(server, 0.3)
        (exchange,) = server.wait(1)
        assert (answer, exchange.ended_by) == (sent, "client")
        assert exchange.held_ms >= stayed_ms


def test_a_status_line_that_was_not_sent_whole_is_no_status():
    with EventServer(replies=[{"raw": "HTTP/1.1 201 Created", "hang": True}]) as server:
        leave_after(server, 0.05)
        assert server.wait(1)[0].status is None


@pytest.mark.parametrize("what", ["status", "headers", "body"])
def test_what_has_no_end_is_ended_by_its_limit(what):
    with EventServer(replies=[{"endless": what, "limit_ms": 150}]) as server:
        assert len(talk(server, http_request())) > 10_000
        (exchange,) = server.wait(1)
        assert exchange.held_ms >= 150
        assert exchange.ended_by == "server"


def test_the_limit_also_ends_what_a_client_does_not_read():
    with EventServer(replies=[{"endless": "body", "limit_ms": 150}]) as server:
        with connected(server) as sock:
            sock.sendall(http_request())
            (exchange,) = server.wait(1)
        assert exchange.ended_by == "server"


def test_a_redirect_leads_to_a_path_of_this_server_that_is_not_there():
    with EventServer(replies=["redirect"]) as server:
        location = parts(talk(server, http_request()))[1]["location"]
        assert get(server, location)[0] == 404


# What is seen of an exchange.

def test_an_exchange_shows_the_request_as_it_came():
    request = http_request(event_bytes(), "/events?a=1", headers=["X-Team:  Blue "])
    with EventServer() as server:
        talk(server, request)
        (exchange,) = server.wait(1)
    assert (exchange.method, exchange.path) == ("POST", "/events?a=1")
    assert exchange.headers["x-team"] == "Blue"
    assert (exchange.body, exchange.json) == (event_bytes(), EVENT)
    assert (exchange.raw, exchange.reply, exchange.status) == (request, None, 201)


def test_a_body_that_is_not_json_is_shown_as_none():
    with EventServer() as server:
        talk(server, http_request(b"{"))
        assert server.wait(1)[0].json is None


def test_a_client_that_leaves_amid_its_request_is_shown_with_what_it_sent():
    with EventServer() as server:
        with connected(server) as sock:
            sock.sendall(http_request(event_bytes())[:-1])
        (exchange,) = server.wait(1)
        assert exchange.raw == http_request(event_bytes())[:-1]
        assert (exchange.status, exchange.ended_by) == (None, "client")
        assert server.events() == []


def test_an_event_is_stored_although_its_client_does_not_wait_for_the_answer():
    with EventServer() as server:
        with connected(server) as sock:
            sock.sendall(http_request(event_bytes()))
        server.wait(1)
        assert len(server.events()) == 1


def test_a_client_that_stays_after_its_answer_is_not_waited_for():
    with EventServer() as server, connected(server) as sock:
        sock.sendall(http_request(event_bytes()))
        (exchange,) = server.wait(1)
        assert exchange.ended_by == "server"
        assert exchange.held_ms >= LINGER_MS


@pytest.mark.parametrize("size", [1 << 16, 1])
def test_a_client_that_closes_after_its_answer_is_seen_to(size):
    """Read in one piece or up to the end; a busy machine may be late now and then."""
    with EventServer() as server:
        for _ in range(10):
            with connected(server) as sock:
                sock.sendall(http_request(event_bytes()))
                while sock.recv(size) and size == 1:
                    pass
        assert "client" in {exchange.ended_by for exchange in server.wait(10)}


def test_exchanges_stand_in_the_order_of_acceptance_not_of_ending():
    with EventServer(replies=[{"delay_ms": 200}, {"status": 204}]) as server:
        with connected(server) as first:
            first.sendall(http_request(event_bytes(source_app="first")))
            talk(server, http_request(event_bytes(source_app="second")))
            assert [e.json["source_app"] for e in server.wait(1)] == ["second"]
            assert first.recv(1 << 16)
        seen = server.wait(2)
        assert [e.json["source_app"] for e in seen] == ["first", "second"]
        assert seen[0].accepted_ms <= seen[1].accepted_ms


def test_waiting_for_what_does_not_come_fails_with_what_was_seen():
    with EventServer(replies=["no_content"]) as server:
        talk(server, http_request())
        server.wait(1)
        with pytest.raises(AssertionError, match=r"2 exchanges expected.*1 ended.*204"):
            server.wait(2, timeout=0.1)


def test_a_server_that_keeps_no_exchanges_forgets_each_as_it_ends():
    seen = []
    with EventServer(keep_exchanges=False) as server:
        server.on_event = lambda event: seen.append(len(server.exchanges))
        for _ in range(3):
            post(server)
    assert server.exchanges == []
    assert max(seen) < 3 + 1


# The server as a whole.

def server_threads(before):
    return [thread for thread in threading.enumerate() if thread not in before]


@pytest.mark.parametrize("fault", [*NEVER_ENDING, {"delay_ms": FOREVER_MS},
                                   "huge_body"])
def test_stopping_ends_every_thread_whatever_is_going_on(fault):
    before = threading.enumerate()
    with EventServer(fault=fault) as server:
        socks = [connected(server) for _ in range(3)]
        for sock in socks:
            sock.sendall(http_request(event_bytes()))
        eventually(lambda: len(server.exchanges) == 3)
    assert server_threads(before) == []
    for exchange in server.exchanges:
        assert exchange.ended_by == "server"
    for sock in socks:
        sock.close()


def test_stopping_ends_a_client_that_has_not_sent_its_request():
    before = threading.enumerate()
    with EventServer() as server, connected(server) as sock:
        sock.sendall(b"POST /ev")
        eventually(lambda: server.exchanges)
        server.__exit__()
        assert server_threads(before) == []
        assert server.exchanges[0].ended_by == "server"


def test_a_port_is_free_again_once_its_server_has_stopped():
    with EventServer() as server:
        post(server)
    with EventServer(port=server.port) as again:
        assert post(again)[0] == 201


def test_a_port_in_use_raises():
    with EventServer() as server, pytest.raises(OSError):
        EventServer(port=server.port)


def test_two_hundred_silent_clients_are_held_at_once():
    with EventServer(fault="silent") as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connected(server)) for _ in range(200)]
        for sock in socks:
            sock.sendall(http_request(event_bytes()))
        eventually(lambda: len(server.exchanges) == 200)
        assert all(exchange.held_ms is None for exchange in server.exchanges)
        for sock in socks:
            sock.close()
        seen = server.wait(200)
        assert {exchange.ended_by for exchange in seen} == {"client"}


def test_a_burst_of_two_hundred_clients_is_queued_before_any_is_accepted():
    """The queue has room for all: on Linux, what finds it full is not connected."""
    with HeldServer(fault="silent") as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(200)]
        for sock in socks:
            sock.settimeout(PATIENCE_S)
            sock.connect(("127.0.0.1", server.port))
        assert server.exchanges == []
        server.go()
        eventually(lambda: len(server.exchanges) == 200)


def test_two_hundred_events_at_once_get_two_hundred_ids():
    with EventServer() as server:
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda _: post(server), range(200)))
        assert {status for status, _ in answers} == {201}
        assert sorted(stored["id"] for _, stored in answers) == list(range(1, 201))


@needs_ipv6
def test_the_server_listens_on_ipv6_where_asked():
    with EventServer(host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}/events"
        assert post(server)[0] == 201


@needs_ipv6
def test_the_server_listens_on_the_given_address_alone():
    with EventServer() as server:
        assert server.url == f"http://127.0.0.1:{server.port}/events"
        with socket.socket(socket.AF_INET6) as sock, pytest.raises(OSError):
            sock.connect(("::1", server.port))
        with socket.socket() as sock, pytest.raises(OSError):
            sock.connect(("127.0.0.2", server.port))


# Addresses where nobody answers.

def test_nobody_listens_on_a_closed_port():
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(("127.0.0.1", closed_port()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rests on Linux")
def test_a_port_that_was_closed_is_given_only_to_who_asks_for_it_by_number():
    with EventServer() as server:
        ended = server.port
    for port in (closed_port(), ended):
        with socket.socket() as sock, pytest.raises(OSError):
            sock.bind(("127.0.0.1", port))
        with EventServer(port=port) as server, socket.socket() as sock:
            assert server.port == port
            sock.connect(("127.0.0.1", port))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="rests on Linux")
def test_a_connect_to_a_full_backlog_hangs_until_the_helper_ends():
    with full_backlog() as port:
        for _ in range(3):
            with socket.socket() as sock:
                sock.settimeout(0.2)
                with pytest.raises(socket.timeout):
                    sock.connect(("127.0.0.1", port))
    with socket.socket() as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(("127.0.0.1", port))


# The command.

def started(*argv, **env):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith("PYTHON")}
    environment.update({"COLUMNS": "200", "PYTHONIOENCODING": "utf-8", **env})
    return subprocess.Popen([sys.executable, SCRIPT, *argv], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


class Command:
    """The running command and the lines it prints."""

    def __init__(self, process):
        self.process = process
        self.first = process.stdout.readline().decode()
        self.port = int(re.search(r":(\d+)/events", self.first).group(1))
        self.url = re.search(r"http://\S+", self.first).group(0)

    def stop(self, number=signal.SIGINT):
        """Send the signal; return (exit code, further stdout lines, stderr)."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out.decode().splitlines(), err.decode()


@pytest.fixture(name="command")
def fixture_command():
    with contextlib.ExitStack() as stack:
        def run(*argv, **env):
            process = stack.enter_context(started(
                "--port", "0", "--db", ":memory:", *argv, **env))
            stack.callback(process.kill)
            return Command(process)
        yield run


def test_the_command_says_where_it_listens_shows_events_and_counts_them(command):
    server = command()
    assert re.fullmatch(r"listening on http://localhost:\d+/events"
                        r" \(db: memory; Ctrl-C to stop\);"
                        r" page: http://localhost:\d+/\n", server.first)
    post(server)
    post(server, event_bytes(tool_name="", session_id="", summary=""))
    post(server, event_bytes(event_type="two words"))
    code, lines, err = server.stop()
    assert (code, err) == (0, "")
    assert len(lines) == 3
    assert re.fullmatch(r"\d\d:\d\d:\d\d resume-agent +550e8400 +PreToolUse +"
                        r"mcp__sqlite__query +Querying portfolio_library table for"
                        r" RAG examples", lines[0])
    assert lines[2] == "stopped; events received: 2"


def test_the_line_of_an_event_is_one_line_of_the_terminals_width(command):
    server = command(COLUMNS="90")
    post(server, event_bytes(tool_name="t", summary="a\r\nb\x1b[2Jc\u202ed" + "x" * 99))
    post(server, event_bytes(tool_name="t", summary="漢" * 100))
    post(server, event_bytes(tool_name="t", summary="fits"))
    _, lines, _ = server.stop()
    assert re.search(r" a  b\?\[2Jc\?dx+…$", lines[0])
    assert len(lines[0]) == 90
    assert lines[1].endswith("漢…")
    assert 89 <= len(lines[1]) + lines[1].count("漢") <= 90
    assert lines[2].endswith(" fits")


def test_an_output_that_knows_no_ellipsis_still_gets_its_line(command):
    server = command(COLUMNS="60", PYTHONIOENCODING="ascii")
    assert post(server, event_bytes(summary="é" * 100))[0] == 201
    code, lines, err = server.stop()
    assert (code, err, len(lines[0])) == (0, "", 60)


def test_quiet_shows_no_events_but_counts_them(command):
    server = command("--quiet")
    post(server)
    assert server.stop()[1] == ["stopped; events received: 1"]


def test_a_readers_leaving_does_not_cost_an_event(command):
    server = command()
    server.process.stdout.close()
    assert post(server)[0] == 201
    assert post(server)[0] == 201


def test_the_command_keeps_events_in_the_file_it_is_given(command, tmp_path):
    db = str(tmp_path / "events.db")
    server = command("--db", db)
    assert f"(db: {db}; " in server.first
    post(server)
    server.stop()
    again = command("--db", db)
    assert post(again)[1]["id"] == 2
    assert again.stop()[1][-1] == "stopped; events received: 1"


def test_the_command_ends_on_sigterm_like_on_ctrl_c(command):
    code, lines, err = command().stop(signal.SIGTERM)
    assert (code, lines, err) == (0, ["stopped; events received: 0"], "")


def test_the_command_misbehaves_on_request_and_prints_nothing_about_resets(command):
    server = command("--fault", "reset_in_headers")
    assert talk(server, http_request(event_bytes())).startswith(b"HTTP/1.1 201 ")
    for name in ("silent", "endless_headers"):
        other = command("--fault", name)
        with connected(other) as sock:
            sock.sendall(http_request(event_bytes()))
            leave_by_reset(sock)
        assert other.stop()[::2] == (0, "")
    assert server.stop()[::2] == (0, "")


@needs_ipv6
def test_the_command_listens_on_ipv6(command):
    server = command("--host", "::1")
    assert server.first.startswith(f"listening on http://[::1]:{server.port}/events ")
    assert post(server)[0] == 201


def test_a_port_in_use_is_one_line_with_the_remedy(tmp_path):
    with EventServer() as server, started("--port", str(server.port)) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (1, b"")
    assert err.decode() == (f"server: port {server.port} is in use;"
                            " choose another with --port\n")


@pytest.mark.parametrize("argv, fact", [
    (["--db", "missing/folder/events.db"], "missing/folder/events.db"),
    (["--host", "192.0.2.1"], "192.0.2.1"), (["--port", "70000"], "cannot listen"),
    (["--port", "-1"], "port -1 must be from 0 to 65535"),
    (["--db", "file:/nowhere/x.db?mode=memory"], "cannot keep events in "),
    (["--new-key", "a b", "c"], "a word each"), (["--new-key", "", ""], "a word each"),
    (["--new-key", "a", "b#c"], "a word each"),
    (["--new-key", "a\nb", "c"], "a word each"),
    (["--host", "x" * 70], "x" * 70)])
def test_what_cannot_be_opened_is_one_line_and_exit_1(argv, fact):
    with started("--port", "0", *argv) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert fact in err.decode()


@pytest.mark.parametrize("text", ["99999999999999d", "100000d", "\u0663d", "0d",
                                  "", "d", "1.5d", "1y", "NaN"])
def test_a_time_that_has_no_date_is_refused_at_the_start(text, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_options(["--keep", text])
    assert ended.value.code == 2
    assert "is no time such as 30d" in capsys.readouterr().err


@pytest.mark.parametrize("text, seconds", [("99999d", 99999 * 86400), ("0", 0),
                                           ("90m", 5400), ("12h", 43200)])
def test_the_longest_time_has_a_date(text, seconds, tmp_path):
    options = parse_options(["--keep", text])
    assert options.keep == seconds
    with EventServer() as server:
        server.store.purge(options.keep)


def test_an_empty_name_of_a_file_is_none_given(tmp_path):
    with started("--port", "0", "--db", "", XDG_STATE_HOME=str(tmp_path)) as process:
        assert Command(process).stop(signal.SIGTERM)[0] == 0
    assert (tmp_path / "hook-io" / "events.db").exists()


@pytest.mark.parametrize("option", ["--keys", "--policy"])
def test_a_file_that_nobody_wrote_by_hand_is_not_read_to_its_end(option, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"#" * ((1 << 20) + 1))
    with started("--port", "0", "--db", ":memory:", option, str(path)) as process:
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err.count(b"\n")) == (1, 1)
    assert b"larger than 1 MiB" in err


def test_without_options_the_command_takes_the_contracts_port_on_loopback():
    options = parse_options([])
    assert (options.host, options.port, options.db) == ("127.0.0.1", 4000, None)
