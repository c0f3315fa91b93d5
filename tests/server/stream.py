# SPDX-License-Identifier: MIT
"""Events as they are stored, to whoever keeps the connection open."""

import json
import time

from .contract import PAGING, PRIVATE, numbers
from .http1 import POLL_S

HEARTBEAT_S = 10  # a stream is never silent for longer
STREAM_MAX = 50  # events read at once for a stream; hooks wait for the store meanwhile
#: parameter of GET /stream -> (when absent, least, most)
RESUMING = {"since_id": PAGING["since_id"], "last": (str(10**15 - 1), 0, 10**15)}


def get_stream(exchange, server):
    query = {name: values[-1] for name, values in exchange.query.items()}
    resumed = exchange.headers.get("last-event-id")
    chosen = numbers({**query, **({"since_id": resumed} if resumed else {})}, RESUMING)
    since_id, newest = chosen["since_id"], server.store.newest_id()
    if since_id > newest:
        since_id = 0  # the id is another store's, which was here before a restart
    first_id = max(since_id, newest - chosen["last"])
    exchange.follow = lambda link: follow(link, server.store, first_id)
    return {"status": 200, "headers": {**PRIVATE, "Content-Length": None,
                                       "Content-Type": "text/event-stream"}}


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
