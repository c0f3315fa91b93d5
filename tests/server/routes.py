# SPDX-License-Identifier: MIT
"""Which function answers which path, and to whom."""

import contextlib
import ipaddress
import sqlite3
from urllib.parse import urlsplit

from .contract import FILTERS, PAGING, PRIVATE, Refused, checked_event, numbers, refusal
from .page import get_page
from .stream import get_stream


def post_event(exchange, server):
    event = server.store.add(checked_event(exchange.body))
    server.on_event(event)
    return {"status": 201, "json": event}


def get_events(exchange, server):
    query = {name: values[-1] for name, values in exchange.query.items()}
    chosen = {name: query[name] for name in FILTERS if name in query}
    chosen.update(numbers(query, PAGING))
    return {"status": 200, "json": server.store.select(**chosen), "headers": PRIVATE}


def get_health(exchange, server):
    return {"status": 200, "json": {"status": "ok", "events": server.store.count()}}


def get_runs(exchange, server):
    return {"status": 200, "json": server.store.runs(), "headers": PRIVATE}


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


def contract_reply(exchange, server):
    """Return the contract's answer to *exchange*, having done what it asks for."""
    try:
        return routed(exchange, server.host)(exchange, server)
    except Refused as refused:
        return refusal(*refused.args)
    except sqlite3.Error as error:
        return refusal(500, f"Cannot store: {error}")
