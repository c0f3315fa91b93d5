# SPDX-License-Identifier: MIT
"""Connections that are kept: many in one thread, and none waits for another."""

import contextlib
import json
import threading

import pytest

from conftest import PATIENCE_S, eventually
from server import EventServer, posts
from server.http1 import CONTINUE, READ_MAX_BYTES, Connection
from server.policy import Policy
from test_server import connected, event_bytes, http_request, parts

KEPT = ["Connection: keep-alive"]


@pytest.fixture(name="kept")
def fixture_kept():
    with EventServer(keep_alive=True) as server:
        yield server


def request_of(body=None, path="/events", method="POST", headers=()):
    body = event_bytes() if body is None else body
    return http_request(body, path, method, headers=[*KEPT, *headers])


class Link:
    """A client that reads one answer after the other."""

    def __init__(self, server):
        self.sock, self.data = connected(server), b""

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.sock.close()

    def ask(self, request):
        self.sock.sendall(request)
        return self.answer()

    def answer(self):
        """Return (status, headers, document) of the next answer."""
        while b"\r\n\r\n" not in self.data:
            self.data += self.sock.recv(1 << 16) or self.fail()
        head, _, body = self.data.partition(b"\r\n\r\n")
        status, headers, _ = parts(head + b"\r\n\r\n")
        size = int(headers.get("content-length", 0))
        while len(body) < size:
            body += self.sock.recv(1 << 16) or self.fail()
        self.data = body[size:]
        return status, headers, json.loads(body[:size]) if size else None

    @staticmethod
    def fail():
        raise AssertionError("the server has ended the connection")

    def is_ended(self):
        with contextlib.suppress(ConnectionError):
            return self.sock.recv(1) == b""
        return True


def test_requests_that_come_in_one_piece_are_answered_one_after_the_other(kept):
    requests = [request_of(event_bytes(summary=str(number))) for number in range(5)]
    requests.insert(3, request_of(b"{}"))
    requests.insert(4, request_of(b"", "/health", "GET"))
    with Link(kept) as link:
        link.sock.sendall(b"".join(requests))
        answers = [link.answer() for _ in requests]
    assert [status for status, *_ in answers] == [201, 201, 201, 400, 200, 201, 201]
    assert [answer["summary"] for status, _, answer in answers if status == 201] == [
        "0", "1", "2", "3", "4"]


def test_a_client_that_sends_byte_by_byte_holds_no_other_and_is_answered(kept):
    with Link(kept) as slow, Link(kept) as other:
        for byte in request_of():
            slow.sock.sendall(bytes([byte]))
            if byte == ord("\n"):
                assert other.ask(request_of())[0] == 201
        assert slow.answer()[0] == 201


def test_a_client_that_reads_nothing_holds_no_other_and_misses_nothing(kept):
    big = request_of(event_bytes(metadata=json.dumps("x" * 60_000)))
    with Link(kept) as lazy, Link(kept) as other:
        lazy.sock.setblocking(False)
        sent = bytearray(big * 200)
        with contextlib.suppress(BlockingIOError):
            while sent:
                del sent[:lazy.sock.send(sent)]
        assert other.ask(request_of())[0] == 201
        lazy.sock.settimeout(PATIENCE_S)
        rest = threading.Thread(target=lazy.sock.sendall, args=(bytes(sent),))
        rest.start()
        assert {lazy.answer()[0] for _ in range(200)} == {201}
        rest.join()
    assert kept.store.count() == 201


#: what is asked first -> (request, status)
FIRST = {
    "no JSON": (request_of(b"{"), 400), "no path": (request_of(path="/nowhere"), 404),
    "method": (request_of(method="PUT"), 405),
    "too much": (request_of(b" " * (1 << 21)), 413),
    "a page": (request_of(headers=["Origin: http://evil.test"]), 403),
    "sessions": (request_of(b"", "/sessions", "GET"), 200),
    "telemetry": (request_of(b'{"resourceLogs": []}', "/v1/logs"), 200)}


@pytest.mark.parametrize("first, status", FIRST.values(), ids=FIRST)
def test_after_any_answer_the_next_request_is_taken(kept, first, status):
    with Link(kept) as link:
        got, headers, _ = link.ask(first)
        assert (got, headers["connection"]) == (status, "keep-alive")
        assert link.ask(request_of())[0] == 201


#: what no other request follows -> (request, status)
LAST = {
    "no HTTP": (b"hello\r\n\r\n", 400), "close": (http_request(event_bytes()), 201),
    "HTTP/1.0": (request_of().replace(b"HTTP/1.1", b"HTTP/1.0"), 201),
    "far too much": (request_of(b" " * (READ_MAX_BYTES + 9)), 413),
    "a fault": (request_of(path="/events?fault=no_content"), 204)}


@pytest.mark.parametrize("last, status", LAST.values(), ids=LAST)
def test_what_cannot_go_on_is_answered_and_ended(kept, last, status):
    with Link(kept) as link:
        got, headers, _ = link.ask(last)
        assert (got, headers["connection"]) == (status, "close")
        assert link.is_ended()


HIDDEN = request_of(event_bytes(summary="hidden"))


def framed(body, *lines):
    """Return a request whose framing is what *lines* say."""
    return "\r\n".join(["POST /events HTTP/1.1", "Host: localhost", *lines, "", ""]
                       ).encode() + body + HIDDEN


#: what one reader would end elsewhere than another, and so hides a request
AMBIGUOUS = {
    "two lengths": framed(
        b"abc", "Content-Length: 3", f"Content-Length: {len(HIDDEN)}"),
    "a length and chunks": framed(
        b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"),
    "packed chunks": framed(b"0\r\n\r\n", "Transfer-Encoding: gzip, chunked"),
    "no known encoding": framed(b"", "Transfer-Encoding: identity"),
    "two encodings": framed(b"0\r\n\r\n", "Transfer-Encoding: identity",
                            "Transfer-Encoding: chunked"),
    "a space before the colon": framed(b"abc", "Content-Length : 3"),
    "a header over two lines": framed(b"", "X: a", " Content-Length: 0"),
    "a line feed in a header": framed(b"", "X: a\nContent-Length: 0"),
    "a line that is no header": framed(b"", "Content-Length"),
    "two hosts": framed(b"", "Host: localhost"),
    "a chunk that is longer": framed(
        b"1\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    "no HTTP": b"hello\r\n\r\n" + HIDDEN, "HEAD": request_of(b"", "/", "HEAD") + HIDDEN}


@pytest.mark.parametrize("request_bytes", AMBIGUOUS.values(), ids=AMBIGUOUS)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "second"])
def test_no_request_hides_behind_one_that_ends_where_the_reader_likes(
        kept, request_bytes, is_first):
    with Link(kept) as link:
        if not is_first:
            assert link.ask(request_of())[0] == 201
        status, headers, _ = link.ask(request_bytes)
        assert (status in (400, 405), headers["connection"]) == (True, "close")
        eventually(link.is_ended)
    assert [event.get("summary") for event in kept.events()] == [
        *([] if is_first else [json.loads(event_bytes()).get("summary")])]


def test_chunks_that_are_mostly_packaging_end_before_they_fill_the_memory(
        kept, monkeypatch):
    monkeypatch.setattr("server.http1.RAW_MAX_BYTES", 1 << 20)
    with Link(kept) as link:
        link.sock.sendall(b"POST /events HTTP/1.1\r\nHost: localhost\r\n"
                          b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
        with contextlib.suppress(OSError):  # it is answered before its end
            for _ in range(100):
                link.sock.sendall(b"x: trailer\r\n" * 5000)
        with contextlib.suppress(ConnectionError):
            assert link.answer()[0] == 400
    assert len(kept.wait(1)[0].raw) < 1 << 21


def test_bodies_that_never_end_hold_no_more_than_so_much_of_the_memory(
        kept, monkeypatch):
    monkeypatch.setattr("server.loop.HELD_MAX_BYTES", 1 << 22)
    head = (b"POST /v1/logs HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 9000000\r\n\r\n")
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Link(kept)) for _ in range(6)]
        for link in links:
            with contextlib.suppress(OSError):
                link.sock.sendall(head + b" " * (1 << 20))
        ended = eventually(lambda: [seen for seen in kept.exchanges
                                    if seen.held_ms is not None][1:])
        assert {seen.ended_by for seen in ended} == {"server"}
        assert stack.enter_context(Link(kept)).ask(request_of())[0] == 201


def test_chunks_and_the_wish_to_go_on_are_read_on_a_kept_connection(kept):
    body = event_bytes()
    head = (b"POST /events HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n")
    with Link(kept) as link:
        for _ in range(2):
            assert link.ask(head)[0] == 100
            assert link.ask(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))[0] == 201


@pytest.mark.parametrize("error", [BrokenPipeError, BlockingIOError])
def test_a_wish_to_go_on_behind_a_long_question_holds_up_nobody(
        kept, error, monkeypatch):
    def send_some(link, data, send_some=Connection.send_some):
        if bytes(data) == CONTINUE:
            raise error
        return send_some(link, data)
    monkeypatch.setattr(Connection, "send_some", send_some)
    with Link(kept) as link, Link(kept) as other:
        link.sock.sendall(request_of(b"", "/sessions", "GET")
                          + b"POST /events HTTP/1.1\r\nHost: localhost\r\n"
                          b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        assert link.answer()[0] == 200
        eventually(lambda: kept.exchanges[0].method == "POST")
        assert other.ask(request_of())[0] == 201
        if error is BlockingIOError:  # who is not told may send all the same
            assert link.ask(b"not JSON!")[0] == 400


def test_a_body_that_is_cut_stores_nothing_and_ends_its_connection_alone(kept):
    with Link(kept) as other:
        with Link(kept) as cut:
            cut.sock.sendall(request_of()[:-1])
            eventually(lambda: any(seen.method for seen in kept.exchanges))
        (seen,) = kept.wait(1)
        assert (seen.ended_by, seen.status) == ("client", None)
        assert other.ask(request_of())[2]["id"] == 1


def test_an_event_that_nobody_foresaw_costs_its_own_connection_and_no_other(
        kept, monkeypatch):
    def read_post(exchange, server):
        if b"odd" in exchange.body:
            raise LookupError("odd")
        return real(exchange, server)

    raised, real = [], posts.read_post
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args))
    monkeypatch.setattr("server.serving.read_post", read_post)
    monkeypatch.setattr("server.posts.read_post", read_post)
    with Link(kept) as odd, Link(kept) as other:
        odd.sock.sendall(request_of(event_bytes(summary="odd")))
        assert odd.is_ended()
        assert other.ask(request_of())[0] == 201
    eventually(lambda: raised)
    assert [args.exc_type for args in raised] == [LookupError]


def test_events_that_come_together_get_their_own_answers_where_some_are_bad(kept):
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Link(kept)) for _ in range(30)]
        with kept.store.changing():  # all of them wait for this
            links[0].sock.sendall(request_of())
            eventually(lambda: kept.exchanges and kept.exchanges[0].headers)
            for number, link in enumerate(links[1:], 1):
                link.sock.sendall(request_of(
                    b"{}" if number % 3 == 0 else event_bytes(summary=str(number))))
        answers = [link.answer() for link in links]
    for number, (status, _, answer) in enumerate(answers[1:], 1):
        assert status == (400 if number % 3 == 0 else 201)
        assert number % 3 == 0 or answer["summary"] == str(number)
    assert kept.store.count() == 21


def test_a_held_hook_holds_no_other_and_its_connection_goes_on(tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("wait Bash *\n")
    with EventServer(keep_alive=True, policy=Policy(str(rules))) as server, \
            Link(server) as asker, Link(server) as other:
        asker.sock.sendall(request_of(
            event_bytes(tool_name="Bash"), headers=["Hook-IO-Decide: full 60000"]))
        (asked,) = eventually(lambda: server.desk.waiting())
        assert other.ask(request_of())[0] == 201
        server.desk.answer(asked["id"], "allow", "")
        assert asker.answer()[2]["intent"] == "allow"
        assert asker.ask(request_of())[0] == 201


def test_a_held_event_that_cannot_be_stored_is_not_asked_about(tmp_path):
    rules = tmp_path / "rules"
    rules.write_text("wait Bash *\n")
    with EventServer(keep_alive=True, policy=Policy(str(rules))) as server, \
            Link(server) as link:
        server.store.run("DROP TABLE events")
        assert link.ask(request_of(event_bytes(tool_name="Bash"), headers=[
            "Hook-IO-Decide: full 60000"]))[0] == 500
        assert server.desk.waiting() == []


def test_a_stream_goes_on_beside_kept_connections(kept):
    with Link(kept) as stream, Link(kept) as link:
        stream.sock.sendall(request_of(b"", "/stream", "GET"))
        link.ask(request_of())
        seen = b""
        while b'"id": 1' not in seen:
            seen += stream.sock.recv(1 << 16)


def test_kept_connections_cost_no_thread_each(kept):
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Link(kept)) for _ in range(100)]
        for link in links:
            assert link.ask(request_of())[0] == 201
        assert threading.active_count() == before


def test_the_connection_that_was_idle_longest_makes_room(kept, monkeypatch):
    monkeypatch.setattr("server.loop.OPEN_MAX", 3)
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(Link(kept)) for _ in range(3)]
        for link in links[1], links[0], links[2]:
            assert link.ask(request_of())[0] == 201
        assert stack.enter_context(Link(kept)).ask(request_of())[0] == 201
        assert links[1].is_ended()
        assert links[0].ask(request_of())[0] == 201


@pytest.mark.parametrize("begun", [b"", b"POST /events HTTP/1.1\r\n"])
def test_who_sends_no_whole_request_is_ended_after_a_while(kept, begun, monkeypatch):
    monkeypatch.setattr("server.http1.READ_LIMIT_MS", 100)
    with Link(kept) as link:
        link.sock.sendall(begun)
        assert link.is_ended()
    assert kept.wait(1)[0].ended_by == "server"


def test_stopping_ends_every_kept_connection_and_thread():
    before = threading.enumerate()
    with EventServer(keep_alive=True) as server, contextlib.ExitStack() as stack:
        links = [stack.enter_context(Link(server)) for _ in range(4)]
        links[0].ask(request_of())
        links[1].sock.sendall(b"POST /ev")
        links[2].sock.sendall(request_of(b"", "/stream", "GET"))
        eventually(lambda: len(server.exchanges) == 4)
        server.__exit__()
        assert all(link.is_ended() or link.sock.recv(1 << 16) for link in links)
    assert [thread for thread in threading.enumerate() if thread not in before] == []
    assert all(seen.held_ms is not None for seen in server.exchanges)


def test_the_server_that_runs_for_days_forgets_what_has_ended():
    with EventServer(keep_alive=True, keep_exchanges=False) as server:
        for _ in range(5):
            with Link(server) as link:
                link.ask(request_of())
        eventually(lambda: server.exchanges == [])
