# SPDX-License-Identifier: MIT
"""Receive hook events as the contract describes them, and misbehave on demand.

    python3 tests/event_server.py [--host ADDRESS] [--port N] [--db FILE]
                                  [--import FILE] [--fault NAME] [--quiet]

    with EventServer(replies=[{"hang": True}]) as server:
        ...                                # let a client post to server.url
        (exchange,) = server.wait(1)
        assert exchange.held_ms <= 200     # judged by this server's clock

    POST /events   201 and the stored event; 400 or 413 with "error" and "message"
    GET  /events   stored events, oldest first; session_id, event_type, source_app and
                   tool_name select; since_id and limit (100, at most 10000) page
    GET  /health   {"status": "ok", "events": N}
    GET  /         a page to look at them (page.html beside this file)
    GET  /stream   server-sent events: the stored ones after since_id (or the header
                   Last-Event-ID), with last=N the newest N of them, then each as it is
                   stored; one data line of JSON and an id each, comments in between
    GET  /runs     from when to when this store had a server, and after which event id

What a connection gets: the next of `replies`; else what ?fault=NAME in its path asks
for; else the server's own `fault`; else the contract's answer.  A reply is a dict of
REPLY_KEYS or the name of a row of FAULTS.

Events are shown to who calls this server localhost or by the address it listens on: a
page elsewhere that makes its own name lead here (DNS rebinding) gets 403.
"""

import argparse
import base64
import bisect
import contextlib
import datetime
import errno
import hashlib
import ipaddress
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import sqlite3
import struct
import sys
import threading
import time
import unicodedata
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

BODY_MAX_BYTES = 1 << 20  # above it: 413
READ_MAX_BYTES = 1 << 24  # of a body; more is not read before the answer
HEAD_MAX_BYTES = 1 << 16
READ_LIMIT_MS = 30_000  # for a client that begins a request and does not end it
ENDLESS_LIMIT_MS = 10_000
LINGER_MS = 50  # after an answer, for the client's own close
POLL_S = 0.05  # how late a waiting thread may notice that the server stops
HEARTBEAT_S = 10  # a stream is never silent for longer
STREAM_MAX = 50  # events read at once for a stream; hooks wait for the store meanwhile
PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.html")

#: the contract's nine, what else Claude Code sends, then what it has no word for; not
#: taken from hook_io, because this judges ports that come without it
EVENT_TYPES = (
    "PreToolUse", "PostToolUse", "UserPromptSubmit", "SessionStart", "SessionEnd",
    "Notification", "Stop", "SubagentStop", "PreCompact",
    "PostToolUseFailure", "PostToolBatch", "UserPromptExpansion", "StopFailure",
    "SubagentStart", "PostCompact", "PreModelSwitch", "PostModelSwitch",
    "PermissionRequest", "PermissionDenied", "Setup", "TeammateIdle", "TaskCreated",
    "TaskCompleted", "Elicitation", "ElicitationResult", "ConfigChange",
    "WorktreeCreate", "WorktreeRemove", "InstructionsLoaded", "CwdChanged",
    "FileChanged", "DirectoryAdded", "MessageDisplay",
    "Interrupt", "SessionDelete", "TodoCreated", "TodoCompleted", "BeforeModel",
    "AfterModel", "BeforeToolSelection", "afterAgentResponse", "afterAgentThought",
    "workspaceOpen", "PreInvocation", "PostInvocation",
)

#: key of a reply -> what it does; keys combine
REPLY_KEYS = {
    "reset": "TCP reset: right after 'accept', amid the 'request', in our 'headers'",
    "accept_only": "true: neither read nor answer, until the client leaves",
    "delay_ms": "wait before answering",
    "continue": "true: send '100 Continue' first",
    "close": "true: close without an answer",
    "raw": "text to send instead of HTTP",
    "raw_base64": "bytes to send instead of HTTP",
    "endless": "a 'status' line, 'headers' or a 'body' without end",
    "limit_ms": "longest time that 'endless' goes on",
    "status": "of the answer; 201 where only a body is given",
    "headers": "added to the answer's own, or in their place; null takes one away",
    "body": "text of the answer",
    "json": "the answer's body as a value",
    "huge_body_bytes": "a body of that many spaces",
    "chunked": "true: the body in chunks",
    "close_delimited": "true: no Content-Length; the close ends the body",
    "drip_ms": "send byte by byte, with this pause",
    "hang": "true: send no more than other keys ask for, and do not close",
}
ANSWERED = ("status", "body", "json", "huge_body_bytes")  # these replace the contract's

#: name -> reply
FAULTS = {
    "silent": {"hang": True},
    "accept_only": {"accept_only": True},
    "drip": {"drip_ms": 20},
    "slow": {"delay_ms": 300},
    "close": {"close": True},
    "reset_on_accept": {"reset": "accept"},
    "reset_mid_request": {"reset": "request"},
    "reset_in_headers": {"reset": "headers"},
    "endless_status": {"endless": "status"},
    "endless_headers": {"endless": "headers"},
    "endless_body": {"endless": "body"},
    "huge_body": {"huge_body_bytes": 10 << 20},
    "continue_then_201": {"continue": True},
    "continue_then_silence": {"continue": True, "hang": True},
    "not_http": {"raw": "SSH-2.0-OpenSSH_9.6\r\n"},
    "garbage": {"raw_base64": "n4s/AMPyGZz+4QWK0LZ7gRMd/wqX5hFCqO6zK1kAjNwi9Q=="},
    "redirect": {"status": 302, "headers": {"Location": "/elsewhere"}},
    "bad_request": {"status": 400, "json": {
        "error": "ValidationError",
        "message":
            "Invalid event_type: must be one of [PreToolUse, PostToolUse, ...]"}},
    "server_error": {"status": 500, "headers": {"Content-Type": "text/html"},
                     "body": "<html><h1>Internal Server Error</h1></html>"},
    "no_content": {"status": 204},
    "accepted": {"status": 202},
    "ok_not_json": {"status": 200, "body": "ok\n"},
}

#: what has no end -> (how it begins, what is repeated)
ENDLESS = {
    "status": (b"HTTP/1.1 201 Created", b"." * 4096),
    "headers": (b"HTTP/1.1 201 Created\r\n", (b"X-More: " + b"x" * 54 + b"\r\n") * 64),
    "body": (b"HTTP/1.1 201 Created\r\nConnection: close\r\n\r\n", b" " * 4096),
}

#: status of a refusal -> its name in the answer
ERRORS = {400: "ValidationError", 403: "Forbidden", 404: "NotFound",
          405: "MethodNotAllowed", 413: "PayloadTooLarge", 500: "StorageError"}

#: what the page may do, beside running its own script and style
POLICY = ("default-src 'none'", "connect-src 'self'", "img-src data:",
          "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'")
#: headers of what only this server's own page is to read
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
           "Cross-Origin-Resource-Policy": "same-origin",
           "Referrer-Policy": "no-referrer"}

#: what an address that cannot be listened on raises; the last is for absurd names
UNUSABLE = (OSError, OverflowError, UnicodeError)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
REASONS = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINE = re.compile(rb"(?m)^HTTP/1\.[01] ([2-5]\d\d)\b[^\r\n]*\r\n")
INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)", re.A)
NUMBER = re.compile(r"\d{1,15}", re.A)
HEX_NUMBER = re.compile(rb"[0-9a-fA-F]{1,8}")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # UTF-8 has no form for it, nor SQLite


# What the contract accepts.

def parsed(text):
    """Return the JSON value in *text* (str or UTF-8); raise ValueError without one."""
    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_text(value, least=0, most=BODY_MAX_BYTES):
    """Tell whether *value* is a string of *least* to *most* characters."""
    return (isinstance(value, str) and least <= len(value) <= most
            and not LONE_SURROGATE.search(value))


def is_read_by(reader, value):
    """Tell whether *value* is a string for which *reader* raises no ValueError."""
    try:
        reader(value)
    except ValueError:
        return False
    return True


def is_instant(value):
    """Tell whether *value* is an ISO 8601 time that says which zone it is in."""
    match = is_text(value) and INSTANT.fullmatch(value)
    return bool(match) and is_read_by(datetime.datetime.fromisoformat, match.group(1))


#: field, in the wire's order -> (required, test, what it must be)
FIELDS = {
    "timestamp": (True, is_instant, "an ISO 8601 time ending in Z or an offset"),
    "source_app": (True, lambda v: is_text(v, least=1), "a non-empty string"),
    "event_type": (True, lambda v: v in EVENT_TYPES,
                   f"one of [{', '.join(EVENT_TYPES)}]"),
    "tool_name": (False, is_text, "a string"),
    "summary": (False, lambda v: is_text(v, most=200),
                "a string of at most 200 characters"),
    "session_id": (False, is_text, "a string"),
    "metadata": (False, lambda v: is_text(v) and is_read_by(parsed, v),
                 "a string that holds JSON"),
}
#: parameter of GET /events -> (when absent, least, most)
PAGING = {"since_id": ("0", 0, 10**15), "limit": ("100", 1, 10_000)}
#: the same of GET /stream
RESUMING = {"since_id": PAGING["since_id"], "last": (str(10**15 - 1), 0, 10**15)}
FILTERS = ("session_id", "event_type", "source_app", "tool_name")


class Refused(Exception):
    """A request that the contract refuses: (status, message)."""


def checked_event(body):
    """Return the contract's fields of the event in *body*; raise Refused."""
    if len(body) > BODY_MAX_BYTES:
        raise Refused(413, f"Invalid body: must be at most {BODY_MAX_BYTES} bytes")
    event = parsed(body) if is_read_by(parsed, body) else None
    if not isinstance(event, dict):
        raise Refused(400, "Invalid body: must be a JSON object")
    for name, (required, is_valid, rule) in FIELDS.items():
        if (required or name in event) and not is_valid(event.get(name)):
            raise Refused(400, f"Invalid {name}: must be {rule}")
    return {name: event[name] for name in FIELDS if name in event}


def utc_now():
    """Return the time as the contract writes it: UTC, milliseconds, Z."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Store:
    """The events, in SQLite; one connection that threads take turns at.

    Raises sqlite3.Error where *db* (a file, or ":memory:") cannot hold events.
    """

    COLUMNS = ("id", *FIELDS, "created_at")
    RUN = ("after_id", "started_at", "stopped_at")

    def __init__(self, db):
        self._lock, self._own_run = threading.Lock(), None
        self._sqlite = sqlite3.connect(db, isolation_level=None,
                                       check_same_thread=False)
        try:
            # No sync to disk for each event: a hook waits for the answer.
            self._run("PRAGMA journal_mode=WAL")
            self._run("PRAGMA synchronous=NORMAL")
            self._run("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY"
                      f" AUTOINCREMENT, {' TEXT, '.join(self.COLUMNS[1:])} TEXT)")
            self.select(limit=1)  # a table of that name with other columns fails here
            self._run("CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY,"
                      f" {', '.join(self.RUN)})")
            _, self._own_run = self._run(
                "INSERT INTO runs (after_id, started_at) VALUES (?, ?)",
                self.newest_id(), utc_now())
        except sqlite3.Error:
            self.close()
            raise

    def _run(self, statement, *values):
        with self._lock:
            cursor = self._sqlite.execute(statement, values)
            return cursor.fetchall(), cursor.lastrowid

    def add(self, event):
        """Store *event*; return it with its id and created_at (UTC, ms)."""
        row = {**event, "created_at": utc_now()}
        _, row_id = self._run(f"INSERT INTO events ({', '.join(row)}) VALUES"
                              f" ({', '.join('?' * len(row))})", *row.values())
        return {"id": row_id, **row}

    def select(self, since_id=0, limit=-1, **equal):
        """Return events after *since_id*, oldest first; a negative limit is none."""
        where = " AND ".join(["id > ?"] + [f"{name} = ?" for name in equal])
        rows, _ = self._run(f"SELECT {', '.join(self.COLUMNS)} FROM events"
                            f" WHERE {where} ORDER BY id LIMIT ?",
                            since_id, *equal.values(), limit)
        return [{name: value for name, value in zip(self.COLUMNS, row)
                 if value is not None} for row in rows]

    def count(self):
        """Return how many events there are."""
        return self._run("SELECT COUNT(*) FROM events")[0][0][0]

    def newest_id(self):
        """Return the highest id, 0 where there are no events."""
        return self._run("SELECT COALESCE(MAX(id), 0) FROM events")[0][0][0]

    def changes(self):
        """Return a number that another event changes; costs no query."""
        with self._lock:
            return self._sqlite.total_changes

    def runs(self):
        """Return when a server had this store, oldest first; the last is our own.

        A run that has no stopped_at was killed, unless it is going on.
        """
        rows, _ = self._run(f"SELECT {', '.join(self.RUN)} FROM runs ORDER BY id")
        return [{name: value for name, value in zip(self.RUN, row)
                 if value is not None} for row in rows]

    def close(self):
        """Close the file; nothing can be read afterwards."""
        with contextlib.suppress(sqlite3.Error):  # closed before, or never usable
            self._run("UPDATE runs SET stopped_at = ? WHERE id = ?",
                      utc_now(), self._own_run)
        with self._lock:
            self._sqlite.close()


# What the contract answers: replies.

def post_event(exchange, server):
    event = server.store.add(checked_event(exchange.body))
    server.on_event(event)
    return {"status": 201, "json": event}


def numbers(query, table):
    """Return each parameter of *table* as *query* has it; raise Refused."""
    chosen = {}
    for name, (default, least, most) in table.items():
        text = query.get(name, default)
        if not (NUMBER.fullmatch(text) and least <= int(text) <= most):
            raise Refused(400, f"Invalid {name}: must be from {least} to {most}")
        chosen[name] = int(text)
    return chosen


def get_events(exchange, server):
    query = {name: values[-1] for name, values in exchange.query.items()}
    chosen = {name: query[name] for name in FILTERS if name in query}
    chosen.update(numbers(query, PAGING))
    return {"status": 200, "json": server.store.select(**chosen), "headers": PRIVATE}


def get_health(exchange, server):
    return {"status": 200, "json": {"status": "ok", "events": server.store.count()}}


def get_runs(exchange, server):
    return {"status": 200, "json": server.store.runs(), "headers": PRIVATE}


def get_stream(exchange, server):
    query = {name: values[-1] for name, values in exchange.query.items()}
    resumed = exchange.headers.get("last-event-id")
    chosen = numbers({**query, **({"since_id": resumed} if resumed else {})}, RESUMING)
    since_id, newest = chosen["since_id"], server.store.newest_id()
    if since_id > newest:
        since_id = 0  # the id is another store's, which was here before a restart
    exchange.follows = server.store, max(since_id, newest - chosen["last"])
    return {"status": 200, "headers": {**PRIVATE, "Content-Length": None,
                                       "Content-Type": "text/event-stream"}}


def source_hash(page, tag):
    """Return what a policy calls the text of *tag* in *page*."""
    text = re.search(f"<{tag}>(.*?)</{tag}>", page, re.S).group(1)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"{tag}-src 'sha256-{digest}'"


def get_page(exchange, server):
    try:
        with open(PAGE, encoding="utf-8") as file:
            page = file.read()
    except OSError:
        raise Refused(404, f"Invalid path: {PAGE} cannot be read") from None
    policy = [*POLICY, source_hash(page, "script"), source_hash(page, "style")]
    return {"status": 200, "body": page, "headers": {
        **PRIVATE, "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(policy)}}


ROUTES = {"/events": {"GET": get_events, "POST": post_event},
          "/health": {"GET": get_health}, "/": {"GET": get_page},
          "/stream": {"GET": get_stream}, "/runs": {"GET": get_runs}}
ANY_HOST = {("POST", "/events"), ("GET", "/health")}  # these show no events


def is_own_host(host, names):
    """Tell whether a Host header means loopback or is one of *names*."""
    with contextlib.suppress(ValueError):
        name = urlsplit(f"//{host}").hostname
        if name and name in ("localhost", *names):
            return True
        address = ipaddress.ip_address(name)
        return address.is_loopback or str(address) in names
    return False


def routed(exchange, host):
    """Return the function that answers *exchange* on *host*; raise Refused."""
    if exchange.headers is None:
        raise Refused(400, "Invalid request: must be HTTP/1.1")
    path = exchange.path.partition("?")[0]
    if path not in ROUTES:
        raise Refused(404, f"Invalid path: must be one of [{', '.join(ROUTES)}]")
    if exchange.method not in ROUTES[path]:
        methods = ", ".join(ROUTES[path])
        raise Refused(405, f"Invalid method: must be one of [{methods}]")
    names = (host, exchange.address)
    if (exchange.method, path) not in ANY_HOST and not is_own_host(
            exchange.headers.get("host", ""), names):
        raise Refused(403, "Invalid Host: must be localhost or the address listened on")
    return ROUTES[path][exchange.method]


def refusal(status, message):
    """Return the contract's answer to what it refuses."""
    return {"status": status, "json": {"error": ERRORS[status], "message": message}}


def contract_reply(exchange, server):
    """Return the contract's answer to *exchange*, having done what it asks for."""
    try:
        return routed(exchange, server.host)(exchange, server)
    except Refused as refused:
        return refusal(*refused.args)
    except sqlite3.Error as error:
        return refusal(500, f"Cannot store: {error}")


# Replies as bytes.

def as_dict(reply):
    """Return *reply* (dict or name) as a dict; raise ValueError for unknown words."""
    known, words = (FAULTS, [reply]) if isinstance(reply, str) else (REPLY_KEYS, reply)
    for word in words:
        if word not in known:
            raise ValueError(f"{word!r} is none of {', '.join(known)}")
    return FAULTS[reply] if isinstance(reply, str) else reply


def body_of(reply):
    """Return (content type, bytes) of the body that *reply* describes."""
    if "json" in reply:
        return "application/json", json.dumps(reply["json"]).encode()
    if "huge_body_bytes" in reply:
        return "application/json", b" " * reply["huge_body_bytes"]
    return "text/plain; charset=utf-8", reply.get("body", "").encode()


def chunks(body):
    """Return *body* in chunked encoding, its first byte a chunk of its own."""
    parts = [part for part in (body[:1], body[1:]) if part] + [b""]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def http_answer(reply):
    """Return the bytes of the HTTP answer that *reply* describes."""
    status = reply.get("status", 201)
    content_type, body = body_of(reply)
    headers = {"Content-Type": content_type if body else None,
               "Content-Length": len(body), "Connection": "close"}
    if reply.get("chunked"):
        body = chunks(body)
        headers.update({"Content-Length": None, "Transfer-Encoding": "chunked"})
    elif reply.get("close_delimited") or (status in (204, 304) and not body):
        headers["Content-Length"] = None
    headers.update({name.title(): v for name, v in reply.get("headers", {}).items()})
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unnamed')}"]
    lines += [f"{name}: {v}" for name, v in headers.items() if v is not None]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def wire(reply, exchange, server):
    """Return the bytes that *reply* sends before it hangs, resets or goes on for ever.

    The contract's own answer, side effects included, fills in where it names none.
    """
    if "raw" in reply:
        return reply["raw"].encode()
    if "raw_base64" in reply:
        return base64.b64decode(reply["raw_base64"])
    if "endless" in reply:
        return ENDLESS[reply["endless"]][0]
    scripted = any(key in reply for key in ANSWERED)
    if reply.get("close") or (reply.get("hang") and not scripted):
        return b""
    own = {} if scripted else contract_reply(exchange, server)
    answer = http_answer({**own, **reply})
    if reply.get("reset") == "headers":
        return answer[:answer.index(b"\r\n") + 9]  # the line and seven bytes more
    return answer


# One connection.

@dataclass(eq=False)  # two exchanges that look the same are still two
class Exchange:
    """One accepted connection; complete once held_ms is a number.

    method, path (with its query), headers (lower-case names; None unless the request
    is HTTP) and body are there once read whole; raw is every byte read for them.
    reply: the dict or name that was followed; None: the contract's own answer.
    address: ours, that the client connected to.  follows: what a stream is made of, a
    store and the id after which it begins.
    status: of the status line that was sent whole, 1xx aside.
    accepted_ms: since the server's start.  held_ms: from then until the client closed
    or reset the connection, or until we did (ended_by: "client" or "server").
    """

    accepted_ms: float
    reply: object = None
    address: str = None
    follows: tuple = None
    method: str = None
    path: str = None
    headers: dict = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)
    raw: bytes = field(default=b"", repr=False)
    status: int = None
    bytes_sent: int = 0
    held_ms: float = None
    ended_by: str = None

    @property
    def json(self):
        """The body as a JSON value, or None."""
        return parsed(self.body) if is_read_by(parsed, self.body) else None

    @property
    def query(self):
        """The path's query: name -> list of values."""
        return parse_qs((self.path or "").partition("?")[2], keep_blank_values=True)


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
        while True:
            self.sock.settimeout(self.left())
            with contextlib.suppress(socket.timeout):
                data = self.sock.recv(size)
                if not data:
                    raise ConnectionError("closed by the client")
                return data

    def take(self, size):
        """Return exactly *size* bytes of the request."""
        while len(self.raw) < self.taken + size:
            self.raw += self.receive()
        self.taken += size
        return bytes(self.raw[self.taken - size:self.taken])

    def take_line(self, mark=b"\r\n"):
        """Return the request's bytes before *mark*; raise ValueError if far off."""
        while self.raw.find(mark, self.taken) < 0:
            if len(self.raw) - self.taken > HEAD_MAX_BYTES:
                raise ValueError("no end")
            self.raw += self.receive()
        end = self.raw.find(mark, self.taken) + len(mark)
        return self.take(end - self.taken)[:-len(mark)]

    def send(self, data):
        """Send all of *data*, in one piece where the client's buffer has room."""
        view = memoryview(data)
        while view:
            self.sock.settimeout(self.left())
            with contextlib.suppress(socket.timeout):
                count = self.sock.send(view)
                self.sent_head = (self.sent_head + bytes(view[:count][:1000]))[:1000]
                self.bytes_sent += count
                view = view[count:]

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
    first, *lines = link.take_line(b"\r\n\r\n").decode("latin-1").split("\r\n")
    exchange.method, exchange.path, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = headers.get("content-length", "0")
    if not NUMBER.fullmatch(length):
        raise ValueError("content-length")
    if headers.get("expect", "").lower() == "100-continue":
        link.send(CONTINUE)
    chunked = headers.get("transfer-encoding", "").lower() == "chunked"
    exchange.body = (read_chunks(link) if chunked
                     else link.take(min(int(length), READ_MAX_BYTES)))
    exchange.headers = headers


def read_chunks(link):
    """Return a chunked body; raise ValueError for a bad size."""
    body = bytearray()
    while len(body) <= READ_MAX_BYTES:
        size = link.take_line().partition(b";")[0].strip()
        if not HEX_NUMBER.fullmatch(size):
            raise ValueError("chunk size")
        body += link.take(min(int(size, 16), READ_MAX_BYTES))
        if not int(size, 16):
            while link.take_line():  # trailers, up to an empty line
                pass
            break
        link.take_line()
    return bytes(body)


def play_before_reading(link, reply):
    """Do what *reply* asks for before the request is read."""
    if reply.get("reset") == "accept":
        link.reset()
    if reply.get("accept_only"):
        link.deadline = float("inf")
        link.wait()
    if reply.get("reset") == "request":
        if not link.raw:
            link.raw += link.receive(16)
        link.reset()


def play(link, reply, answer, follows=None):
    """Do what *reply* asks for, its bytes being *answer*; always raises at the end.

    follows: of the Exchange.
    """
    link.deadline = float("inf")
    if "delay_ms" in reply:
        link.wait(reply["delay_ms"] / 1000)
    if reply.get("continue"):
        link.send(CONTINUE)
    if reply.get("close"):
        raise ServerEnds
    if "drip_ms" in reply:
        for byte in answer:
            link.send(bytes([byte]))
            link.wait(reply["drip_ms"] / 1000)
    else:
        link.send(answer)
    if follows:
        follow(link, *follows)
    if "endless" in reply:
        send_for_ever(link, ENDLESS[reply["endless"]][1], reply.get("limit_ms"))
    if reply.get("reset") == "headers":
        link.reset()
    if reply.get("hang"):
        link.wait()
    link.finish()


def follow(link, store, since_id):
    """Send each event after *since_id* as it is stored; always raises at the end.

    Only this thread waits for a client that does not read: it fetches what is next when
    the client has taken what came before, and holds STREAM_MAX events at most.
    """
    while True:
        changes = store.changes()
        events = store.select(since_id=since_id, limit=STREAM_MAX)
        if events:
            link.send(b"".join(map(as_message, events)))
            since_id = events[-1]["id"]
            continue
        heartbeat = time.monotonic() + HEARTBEAT_S
        while store.changes() == changes and time.monotonic() < heartbeat:
            link.wait(POLL_S)
        if store.changes() == changes:
            link.send(b": nothing new\n\n")


def as_message(event):
    """Return *event* as a server-sent event."""
    return f"id: {event['id']}\ndata: {json.dumps(event)}\n\n".encode()


def send_for_ever(link, filler, limit_ms):
    """Send *filler* again and again until the client leaves, or for *limit_ms*."""
    link.deadline = time.monotonic() + (limit_ms or ENDLESS_LIMIT_MS) / 1000
    while True:
        link.wait(0)
        link.send(filler)


# The server.

class EventServer:
    """The contract's server on one address, for as long as the `with` block lasts.

    replies, fault: see the module.  host: an address or name; port 0: any free one.
    db: a file, or ":memory:".  on_event: called with each stored event, before its
    answer, in the connection's thread.  keep_exchanges=False: `exchanges` holds open
    connections only, for a server that runs for days.

    Raises one of UNUSABLE where it cannot listen, sqlite3.Error for an unusable db,
    ValueError for a reply or fault nobody knows.
    """

    def __init__(self, replies=(), *, fault=None, host="127.0.0.1", port=0,
                 db=":memory:", on_event=None, keep_exchanges=True):
        self._replies, self._fault, self._keep = list(replies), fault, keep_exchanges
        for reply in [*self._replies, fault or {}]:
            as_dict(reply)
        self.on_event = on_event or (lambda event: None)
        self.exchanges, self._threads = [], set()
        self._changed, self._stopping = threading.Condition(), threading.Event()
        self.store, self.host = Store(db), host.lower()
        try:
            self._listener = listening_socket(host, port)
        except UNUSABLE:
            self.store.close()
            raise
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/events"

    def __enter__(self):
        self._started = time.monotonic()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *exc_info):
        self._stopping.set()
        with contextlib.suppress(OSError):  # macOS: then it looks up within POLL_S
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for thread in list(self._threads):
            thread.join(timeout=2)
        self.store.close()

    def events(self):
        """Return the stored events, oldest first; only inside the `with` block."""
        return self.store.select()

    def wait(self, n, timeout=5):
        """Return the ended exchanges, in order of acceptance, once there are *n*.

        timeout: seconds.  Raises AssertionError with what was seen by then.
        """
        def ended():
            return [seen for seen in self.exchanges if seen.held_ms is not None]
        with self._changed:
            if not self._changed.wait_for(lambda: len(ended()) >= n, timeout):
                raise AssertionError(f"{n} exchanges expected in {timeout} s,"
                                     f" {len(ended())} ended; seen: {self.exchanges}")
            return ended()

    def _accept(self):
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except socket.timeout:
                continue
            except OSError:  # the client is gone already, or no descriptor is free
                time.sleep(0.005)
                continue
            exchange = Exchange(self._clock_ms())
            scripted = bool(self._replies)
            exchange.reply = self._replies.pop(0) if scripted else self._fault
            with self._changed:
                self.exchanges.append(exchange)
            thread = threading.Thread(target=self._serve, daemon=True,
                                      args=(sock, exchange, scripted))
            self._threads.add(thread)
            thread.start()

    def _serve(self, sock, exchange, scripted):
        link, ended_by = Connection(sock, self._stopping), "server"
        try:
            self._converse(link, exchange, scripted)
        except (ServerEnds, sqlite3.Error):  # a stream's store may fail on the way
            pass
        except OSError:
            ended_by = "client"
        finally:
            held_ms = round(self._clock_ms() - exchange.accepted_ms, 1)
            with contextlib.suppress(OSError):
                sock.close()
            self._end(link, exchange, ended_by, held_ms)

    def _converse(self, link, exchange, scripted):
        link.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local = ipaddress.ip_address(link.sock.getsockname()[0].partition("%")[0])
        exchange.address = str(getattr(local, "ipv4_mapped", None) or local)
        reply = as_dict(exchange.reply or {})
        play_before_reading(link, reply)
        with contextlib.suppress(ValueError):  # the contract answers what is not HTTP
            read_request(link, exchange)
        name = exchange.query.get("fault", [""])[-1]
        if name and not scripted:
            exchange.reply = name if name in FAULTS else refusal(
                400, f"Invalid fault: must be one of [{', '.join(FAULTS)}]")
            reply = as_dict(exchange.reply)
            play_before_reading(link, reply)
        answer = wire(reply, exchange, self)
        play(link, reply, answer, exchange.follows)

    def _end(self, link, exchange, ended_by, held_ms):
        status = STATUS_LINE.search(link.sent_head)
        exchange.status = int(status.group(1)) if status else None
        exchange.raw, exchange.bytes_sent = bytes(link.raw), link.bytes_sent
        with self._changed:
            exchange.ended_by, exchange.held_ms = ended_by, held_ms
            if not self._keep:
                self.exchanges.remove(exchange)
            self._changed.notify_all()
        self._threads.discard(threading.current_thread())

    def _clock_ms(self):
        return round((time.monotonic() - self._started) * 1000, 1)


def listening_socket(host, port):
    """Return a socket that listens on *host* and *port*; raise one of UNUSABLE."""
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, kind)
    # On Windows SO_REUSEADDR means something else: two servers on one port.
    option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
        # Accepted sockets inherit it.  A client's close queues up behind its unread
        # bytes, so accept_only sees it only if they all have room here.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BODY_MAX_BYTES)
        sock.bind((address[0], port, *address[2:]))
        sock.listen(512)
    except UNUSABLE:
        sock.close()
        raise
    sock.settimeout(POLL_S)
    return sock


# Addresses where nobody answers.

def closed_port():
    """Return a port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def full_backlog():
    """Yield a port of 127.0.0.1 where a connect() neither succeeds nor fails.

    Rests on Linux, which drops the first packet of a connection when the queue for
    accept() is full.  Raises RuntimeError where the queue does not fill.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(16):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
            if not select.select([], [filler], [], 0.2)[1]:
                yield address[1]
                return
        raise RuntimeError(f"the backlog of port {address[1]} does not fill")


# The command.

def readable(event, columns):
    """Return *event* as one line of at most *columns* cells of a terminal."""
    cells = [time.strftime("%H:%M:%S"), event["source_app"],
             event.get("session_id", "-")[:8], event["event_type"],
             event.get("tool_name", "-"), event.get("summary", "")]
    line = "{} {:14} {:8} {:16} {:10} {}".format(*cells).rstrip()
    line = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in line)
    ends = list(itertools.accumulate(
        2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line))
    if ends[-1] <= columns:
        return line
    return line[:bisect.bisect_right(ends, columns - 1)] + "…"


def show(event):
    """Print *event*; that nobody reads our output is no reason to refuse events."""
    with contextlib.suppress(OSError):
        # One write a line, so that threads do not mix theirs.
        line = readable(event, shutil.get_terminal_size().columns)
        print(line + "\n", end="", flush=True)


def parse_options(argv):
    """Return the options as a namespace."""
    parser = argparse.ArgumentParser(description="Receive hook events and show them.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=4000, help="0: any free one (%(default)s)")
    add("--db", default=":memory:", metavar="FILE", help="keep events in this file")
    add("--import", metavar="FILE", dest="log",
        help="take the events of a log, a JSON object a line, to begin with")
    add("--fault", choices=sorted(FAULTS), metavar="NAME",
        help="misbehave on every connection: " + ", ".join(FAULTS))
    add("--quiet", action="store_true", help="do not print the events")
    return parser.parse_args(argv)


def opened_server(options):
    """Return the server that *options* ask for; raise SystemExit with one line."""
    try:
        return EventServer(fault=options.fault, host=options.host, port=options.port,
                           db=options.db, keep_exchanges=False,
                           on_event=None if options.quiet else show)
    except sqlite3.Error as error:
        sys.exit(f"event_server: cannot keep events in {options.db}: {error}")
    except UNUSABLE as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            sys.exit(f"event_server: port {options.port} is in use;"
                     " choose another with --port")
        sys.exit(f"event_server: cannot listen on {options.host}: {error}")


def import_log(store, path):
    """Add the events of the file *path* to *store*; return how many, and line numbers.

    These are of the lines that are no event of the contract.  Raises OSError.
    """
    count, bad = 0, []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                store.add(checked_event(line))
                count += 1
            except Refused:
                bad.append(number)
    return count, bad


def imported(store, path):
    """Return what is said of an import; raise SystemExit where it cannot be read."""
    try:
        count, bad = import_log(store, path)
    except OSError as error:
        sys.exit(f"event_server: cannot read {path}: {error}")
    lines = f"; no event in line {', '.join(map(str, bad[:5]))}" if bad else ""
    return f"imported {count} events from {path}{lines}{', ...' if bad[5:] else ''}"


def main(argv=None):
    """Serve until Ctrl-C or SIGTERM."""
    options = parse_options(argv)
    sys.stdout.reconfigure(errors="replace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with opened_server(options) as server:
        if options.log:
            print(imported(server.store, options.log), flush=True)
        before = server.store.count()
        kept = "memory" if options.db == ":memory:" else options.db
        url = server.url.replace("//127.0.0.1:", "//localhost:")
        page = url[:-len("events")]
        try:
            print(f"listening on {url} (db: {kept}; Ctrl-C to stop); page: {page}",
                  flush=True)
            while True:  # short naps: a signal just before one does not interrupt it
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left takes 0.1 s
            print(f"stopped; events received: {server.store.count() - before}")


if __name__ == "__main__":
    main()
