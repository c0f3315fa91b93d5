# SPDX-License-Identifier: MIT
"""Events as they are stored, to whoever keeps the connection open."""

import json
import time

from .contract import PAGING, PRIVATE, Refused, numbers
from .http1 import POLL_S

HEARTBEAT_S = 10  # a stream is never silent for longer
BRIEF_S = 0.1  # from one message of a brief stream to the next
VIEWERS_MAX = 64  # at once; each has a thread that looks for what is new
STREAM_MAX = 50  # events read at once for a stream; hooks wait for the store meanwhile
#: parameter of GET /stream -> (when absent, least, most)
RESUMING = {"since_id": PAGING["since_id"], "last": (str(10**15 - 1), 0, 10**15),
            "brief": ("0", 0, 1)}


def get_stream(exchange, server):
    viewers = [seen for seen in list(server.exchanges)
               if seen.follow and seen.held_ms is None]
    if len(viewers) >= VIEWERS_MAX:
        raise Refused(503, f"Cannot tell more viewers at once than {VIEWERS_MAX} "
                      "what is new: close one")
    query = exchange.query
    resumed = exchange.headers.get("last-event-id")
    chosen = numbers({**query, **({"since_id": resumed} if resumed else {})}, RESUMING)
    since_id, newest = chosen["since_id"], server.store.newest_id()
    if since_id > newest:
        since_id = 0  # the id is another store's, which was here before a restart
    first_id = max(since_id, newest - chosen["last"])
    events = next_brief if chosen["brief"] else next_events
    exchange.follow = lambda link: follow(link, server.store, first_id, events)
    return {"status": 200, "headers": {**PRIVATE, "Content-Length": None,
                                       "Content-Type": "text/event-stream"}}


def follow(link, store, since_id, events):
    """Send each event after *since_id* as it is stored; always raises at the end.

    events: a function of the store and an id that returns those after it which are sent
    next.  Only this thread waits for a client that does not read: it fetches what is
    next when the client has taken what came before, and holds STREAM_MAX events at
    most.
    """
    while True:
        changes = store.changes()
        found = events(store, since_id)
        if found:
            link.send(b"".join(map(as_message, found)))
            since_id = found[-1]["id"]
            if events is next_brief:
                link.wait(BRIEF_S)
            continue
        heartbeat = time.monotonic() + HEARTBEAT_S
        while store.changes() == changes and time.monotonic() < heartbeat:
            link.wait(POLL_S)
        if store.changes() == changes:
            link.send(b": nothing new\n\n")


def next_events(store, since_id):
    return store.select(since_id=since_id, limit=STREAM_MAX)


def next_brief(store, since_id):
    """Return the newest event, and of it the id alone."""
    newest = store.newest_id()
    return [{"id": newest}] if newest > since_id else []


def as_message(event):
    """Return *event* as a server-sent event."""
    return f"id: {event['id']}\ndata: {json.dumps(event)}\n\n".encode()
