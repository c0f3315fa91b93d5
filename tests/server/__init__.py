# SPDX-License-Identifier: MIT
"""Receive hook events as the contract describes them, and misbehave on demand.

    python3 tests/server [--host ADDRESS] [--port N] [--db FILE] [--import FILE]
                         [--fault NAME] [--quiet]

    with EventServer(replies=[{"hang": True}]) as server:
        ...                                # let a client post to server.url
        (exchange,) = server.wait(1)
        assert exchange.held_ms <= 200     # judged by this server's clock

    POST /events   201 and the stored event; 400 or 413 with "error" and "message"
    GET  /events   stored events, oldest first; session_id, event_type, source_app and
                   tool_name select; since_id and limit (100, at most 10000) page
    GET  /health   {"status": "ok", "events": N}
    GET  /         a page to look at them
    GET  /stream   server-sent events: the stored ones after since_id (or the header
                   Last-Event-ID), with last=N the newest N of them, then each as it is
                   stored; one data line of JSON and an id each, comments in between;
                   with brief=1 the newest alone of those that came meanwhile, as {"id"}
    GET  /runs     from when to when this store had a server, after which event id, and
                   since when it surely had none

What a connection gets: the next of `replies`; else what ?fault=NAME in its path asks
for; else the server's own `fault`; else the contract's answer.  A reply is a dict of
REPLY_KEYS or the name of a row of FAULTS.

Events are shown to who calls this server localhost or by the address it listens on: a
page elsewhere that makes its own name lead here (DNS rebinding) gets 403.  They are
taken by any name, as a hook may spell loopback in many ways, but from no other page.

Rooms: `contract` (what tests and ports are judged by), `http1` (one connection),
`faults`, `store`, `stream`, `page`, `routes` (which function answers which path),
`serving` (EventServer) and `command`; README.md names the others.
"""

from .contract import BODY_MAX_BYTES, FIELDS, checked_event, parsed
from .faults import FAULTS, REPLY_KEYS, closed_port, full_backlog
from .http1 import POLL_S, Connection
from .serving import EventServer

__all__ = [
    "BODY_MAX_BYTES", "FAULTS", "FIELDS", "POLL_S", "REPLY_KEYS",
    "Connection", "EventServer", "checked_event", "closed_port", "full_backlog",
    "parsed",
]
