# SPDX-License-Identifier: MIT
"""One connection: an HTTP/1.1 request read, every wait watched, an answer as bytes."""

import contextlib
import json
import os
import re
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl

from .contract import json_value

READ_MAX_BYTES = 1 << 24  # of a body; more is not read before the answer
HEAD_MAX_BYTES = 1 << 16
RAW_MAX_BYTES = 3 * READ_MAX_BYTES  # of a request, with what its chunks are packed in
READ_LIMIT_MS = 30_000  # for a client that does not end its request, or begins none
HEAD_KEPT_BYTES = 1000  # of an answer, for its status line
LINGER_MS = 50  # after an answer, for the client's own close
POLL_S = 0.05  # how late a waiting thread may notice that the server stops
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {status.value: status.phrase for status in HTTPStatus}
NUMBER = re.compile(r"\d{1,15}", re.A)
HEX_NUMBER = re.compile(rb"[0-9a-fA-F]{1,8}")
HEADER = re.compile(r"([\w!#$%&'*+.^`|~-]+):([^\r\n\0]*)", re.A)
#: headers that are there once; the first two say where a request ends
ONCE = {"content-length", "transfer-encoding", "host"}


def body_of(reply):
    """Return (content type, bytes) of the body that *reply* describes."""
    if "json" in reply:
        return "application/json", json.dumps(reply["json"]).encode()
    if "huge_body_bytes" in reply:
        return "application/json", b" " * reply["huge_body_bytes"]
    body = reply.get("body", "")
    return ("text/plain; charset=utf-8",
            body if isinstance(body, bytes) else body.encode())


def chunks(body):
    """Return *body* in chunked encoding, its first byte a chunk of its own."""
    parts = [part for part in (body[:1], body[1:]) if part] + [b""]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def http_answer(reply, is_last=True):
    """Return the bytes of the HTTP answer that *reply* describes.

    is_last: the connection ends after it, unless *reply* says otherwise.
    """
    status = reply.get("status", 201)
    content_type, body = body_of(reply)
    headers = {"Content-Type": content_type if body else None,
               "Content-Length": len(body),
               "Connection": "close" if is_last else "keep-alive"}
    if reply.get("chunked"):
        body = chunks(body)
        headers.update({"Content-Length": None, "Transfer-Encoding": "chunked"})
    elif reply.get("close_delimited") or (status in (204, 304) and not body):
        headers["Content-Length"] = None
    headers.update({name.title(): v for name, v in reply.get("headers", {}).items()})
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unnamed')}"]
    lines += [f"{name}: {v}" for name, v in headers.items() if v is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@dataclass(eq=False)  # two exchanges that look the same are still two
class Exchange:
    """One accepted connection; complete once held_ms is a number.

    method, path (with its query), headers (lower-case names; None unless the request
    is HTTP) and body are there once read whole; raw is every byte read for them.
    reply: the dict or name that was followed; None: the contract's own answer.
    address: ours, that the client connected to.  peer: the client's own.
    follow: what goes on after the answer, a function of the Connection that does not
    return.
    is_kept: the client means to send another request on this connection.
    status: of the status line that was sent whole, 1xx aside.
    accepted_ms: since the server's start.  held_ms: from then until the client closed
    or reset the connection, or until we did (ended_by: "client" or "server").
    """

    accepted_ms: float
    reply: object = None
    address: str = None
    peer: str = None
    follow: object = None
    method: str = None
    path: str = None
    headers: dict = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)
    raw: bytes = field(default=b"", repr=False)
    is_kept: bool = False
    status: int = None
    bytes_sent: int = 0
    held_ms: float = None
    ended_by: str = None

    @property
    def json(self):
        """The body as a JSON value, or None."""
        return json_value(self.body)

    @property
    def query(self):
        """The path's query: name -> its last value."""
        text = (self.path or "").partition("?")[2]
        return dict(parse_qsl(text, keep_blank_values=True))


class ServerEnds(Exception):
    """This side closes the connection, now."""


class Connection:
    """A client's socket, where every wait is a watch for the client's leaving.

    Each method raises OSError as soon as the client is gone, and ServerEnds when the
    server stops or `deadline` (monotonic seconds) passes.  A client that shuts down
    only its sending side counts as gone in wait().
    """

    #: poll() with this flag sees the client's close behind data that nobody reads
    UNREAD_CLOSE = getattr(select, "POLLRDHUP", 0)

    def __init__(self, sock, stopping):
        self.sock, self.stopping = sock, stopping
        self.deadline = time.monotonic() + READ_LIMIT_MS / 1000
        self.raw, self.taken = bytearray(), 0
        self.sent_head, self.bytes_sent = b"", 0

    def left(self):
        """Return the seconds that one step of a wait may take."""
        left = self.deadline - time.monotonic()
        if left <= 0 or self.stopping.is_set():
            raise ServerEnds
        return min(left, POLL_S)

    def receive(self, size=1 << 16):
        """Return the next bytes, at most *size*."""
        self.left()
        self.sock.settimeout(max(0.001, min(self.deadline - time.monotonic(), 1e6)))
        try:
            data = self.sock.recv(size)
        except socket.timeout:
            raise ServerEnds from None
        if not data:
            self.left()  # woken by wake(), or
            raise ConnectionError("closed by the client")
        return data

    def wake(self):
        """End a receive() that another thread waits in, as if the client had left."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)

    def forget(self):
        """Make room for the next request of this connection."""
        del self.raw[:self.taken]
        self.taken, self.sent_head = 0, b""
        self.deadline = time.monotonic() + READ_LIMIT_MS / 1000

    def take(self, size):
        """Return exactly *size* bytes of the request; yield while they are not here."""
        while len(self.raw) < self.taken + size:
            yield b""
        self.taken += size
        return bytes(self.raw[self.taken - size:self.taken])

    def take_line(self, mark=b"\r\n"):
        """Return what stands before *mark*, as take() does; ValueError if far off."""
        while self.raw.find(mark, self.taken) < 0:
            if (len(self.raw) - self.taken > HEAD_MAX_BYTES
                    or len(self.raw) > RAW_MAX_BYTES):
                raise ValueError("no end")
            yield b""
        end = self.raw.find(mark, self.taken) + len(mark)
        line = yield from self.take(end - self.taken)
        return line[:-len(mark)]

    def send(self, data):
        """Send all of *data*, in one piece where the client's buffer has room."""
        view = memoryview(data)
        while view:
            self.sock.settimeout(self.left())
            with contextlib.suppress(socket.timeout):
                view = self.send_some(view)

    def send_some(self, data):
        """Send what of *data* (a memoryview) the system takes; return the rest."""
        count = self.sock.send(data)
        if len(self.sent_head) < HEAD_KEPT_BYTES:
            self.sent_head += bytes(data[:min(count, HEAD_KEPT_BYTES)])
        self.bytes_sent += count
        return data[count:]

    def wait(self, seconds=float("inf")):
        """Return after *seconds* in which the client stayed; read nothing."""
        end = time.monotonic() + seconds
        while True:
            if self._has_left(max(0.0, min(self.left(), end - time.monotonic()))):
                raise ConnectionError("closed by the client")
            if time.monotonic() >= end:
                return

    def _has_left(self, seconds):
        if self.UNREAD_CLOSE:
            poll = select.poll()
            poll.register(self.sock, self.UNREAD_CLOSE)
            return bool(poll.poll(seconds * 1000))
        # Elsewhere only reading shows the close, so what was sent is thrown away.
        self.sock.settimeout(seconds)
        try:
            return not self.sock.recv(1 << 16)
        except (socket.timeout, BlockingIOError):
            return False

    def reset(self):
        """End with a TCP reset in place of a close."""
        on_for_no_time = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, on_for_no_time)
        raise ServerEnds

    def finish(self):
        """End our side, and see the client's close if it comes soon.

        What the client still sends is read and put off the end: left unread, it would
        turn our close into a reset, which may cost the client the answer.
        """
        self.sock.shutdown(socket.SHUT_WR)
        while True:
            self.deadline = time.monotonic() + LINGER_MS / 1000
            self.receive()


def read_request(link, exchange):
    """Fill *exchange* from *link*; raise ValueError where that is not HTTP/1.x."""
    for unsent in reading(link, exchange):
        if unsent:
            link.send(unsent)
        else:
            link.raw += link.receive()


def reading(link, exchange):
    """Fill *exchange* from link.raw, as a generator that waits for nothing itself.

    It yields bytes that the client is to get first, and b"" where it goes on with more
    in link.raw.  Raises ValueError where that is not HTTP/1.x.
    """
    exchange.is_kept = False  # until what comes is known for a whole request
    head = yield from link.take_line(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    exchange.method, exchange.path, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    headers = headers_of(lines)
    length = length_of(headers)
    if headers.get("expect", "").lower() == "100-continue":
        yield CONTINUE
    exchange.body = yield from (
        read_chunks(link) if length is None
        else link.take(min(length, READ_MAX_BYTES)))
    exchange.headers = headers
    exchange.is_kept = (version == "HTTP/1.1" and not is_last(exchange.method, headers)
                        and len(exchange.body) < READ_MAX_BYTES)


def headers_of(lines):
    """Return {name in lower case: value}.

    Raises ValueError for what another reader may read otherwise, so that no request
    hides behind the end of another one (RFC 9112, section 11.2).
    """
    headers = {}
    for line in lines:
        match = HEADER.fullmatch(line)
        name = match.group(1).lower() if match else ""
        if not match or (name in ONCE and name in headers):
            raise ValueError("header")
        headers[name] = match.group(2).strip()
    return headers


def length_of(headers):
    """Return the length of the body, None for one in chunks; raise ValueError."""
    length, encoding = map(headers.get, ("content-length", "transfer-encoding"))
    if encoding is None and NUMBER.fullmatch(length or "0"):
        return int(length or 0)
    if length is not None or encoding.lower() != "chunked":
        raise ValueError("length")
    return None


def is_last(method, headers):
    """Tell whether no other request follows on this connection.

    Who asks for a head alone does not read the body that comes after it.
    """
    return method == "HEAD" or "close" in headers.get("connection", "").lower()


def read_chunks(link):
    """Return a chunked body, as reading() reads; raise ValueError for a bad size."""
    body = bytearray()
    while len(body) <= READ_MAX_BYTES:
        line = yield from link.take_line()
        size = line.partition(b";")[0].strip()
        if not HEX_NUMBER.fullmatch(size):
            raise ValueError("chunk size")
        body += yield from link.take(min(int(size, 16), READ_MAX_BYTES))
        if not int(size, 16):
            while (yield from link.take_line()):  # trailers, up to an empty line
                pass
            break
        if (yield from link.take_line()):
            raise ValueError("chunk end")
    return bytes(body)
