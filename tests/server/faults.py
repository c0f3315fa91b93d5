# SPDX-License-Identifier: MIT
"""Misbehave on demand: the faults, what plays them, and addresses nobody answers at.

A reply is a dict of REPLY_KEYS or the name of a row of FAULTS.
"""

import base64
import collections
import contextlib
import select
import socket
import sys
import time

from .http1 import CONTINUE, ServerEnds, http_answer

ENDLESS_LIMIT_MS = 10_000

#: key of a reply -> what it does; keys combine
REPLY_KEYS = {
    "reset": "TCP reset: right after 'accept', amid the 'request', in our 'headers', "
             "behind the 'body'",
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


def as_dict(reply):
    """Return *reply* (dict or name) as a dict; raise ValueError for unknown words."""
    known, words = (FAULTS, [reply]) if isinstance(reply, str) else (REPLY_KEYS, reply)
    for word in words:
        if word not in known:
            raise ValueError(f"{word!r} is none of {', '.join(known)}")
    return FAULTS[reply] if isinstance(reply, str) else reply


def wire(reply, own_answer):
    """Return the bytes that *reply* sends before it hangs, resets or goes on for ever.

    own_answer: called for the contract's own, with its side effects; it fills in where
    *reply* names none.
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
    answer = http_answer({**({} if scripted else own_answer()), **reply})
    if reply.get("reset") == "headers":
        return answer[:answer.index(b"\r\n") + 9]  # the line and seven bytes more
    return answer


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


def play(link, reply, answer, follow=None):
    """Do what *reply* asks for, its bytes being *answer*; always raises at the end.

    follow: called after the answer with *link*; see the Exchange.
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
    if follow:
        follow(link)
    if "endless" in reply:
        send_for_ever(link, ENDLESS[reply["endless"]][1], reply.get("limit_ms"))
    if reply.get("reset") in ("headers", "body"):
        link.reset()
    if reply.get("hang"):
        link.wait()
    link.finish()


def send_for_ever(link, filler, limit_ms):
    """Send *filler* again and again until the client leaves, or for *limit_ms*."""
    link.deadline = time.monotonic() + (limit_ms or ENDLESS_LIMIT_MS) / 1000
    while True:
        link.wait(0)
        link.send(filler)


#: sockets that do not listen, each on a port which the system then gives to nobody else
KEPT, KEPT_MAX = collections.deque(), 200


def keep_closed(family, address):
    """Return the port of *address* that refuses; 0 in it stands for any free one.

    On Linux nobody is given that port who asks for any, be it to listen or to connect
    from; a server that asks for it by number gets it.  Elsewhere, and after 200 more
    calls, it is merely free.
    """
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    KEPT.append(sock)
    port = sock.getsockname()[1]
    while len(KEPT) > (KEPT_MAX if sys.platform.startswith("linux") else 0):
        KEPT.popleft().close()
    return port


def closed_port():
    """Return a port of 127.0.0.1 that nobody listens on."""
    return keep_closed(socket.AF_INET, ("127.0.0.1", 0))


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
