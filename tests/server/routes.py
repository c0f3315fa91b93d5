# SPDX-License-Identifier: MIT
"""Which function answers which path, and to whom.

A function of the Exchange and the EventServer returns a reply (see `faults`) or raises
Refused.  What shows or changes something answers to this machine's own names alone; a
hook on another machine may use any name for POSTING where the server listens beyond
loopback, since no browser is told to post there without saying whose page it is.
"""

import contextlib
import functools
import ipaddress
import sqlite3
from urllib.parse import urlsplit

from .asking import get_asked, post_answer
from .contract import (
    FILTERS,
    NAME,
    PAGING,
    PRIVATE,
    SESSIONS,
    Refused,
    is_name,
    json_value,
    numbers,
)
from .intake import post_logs, post_metrics, post_traces
from .posts import failure, post_event
from .stream import get_stream
from .telling import FILES, get_call, get_page, get_search, get_story


def get_events(exchange, server):
    query = exchange.query
    chosen = {name: query[name] for name in FILTERS if name in query}
    chosen.update(numbers(query, PAGING))
    return {"status": 200, "json": server.store.select(**chosen), "headers": PRIVATE}


def get_health(exchange, server):
    return {"status": 200, "json": {"status": "ok", "events": server.store.count()}}


def get_sessions(exchange, server):
    query = exchange.query
    found = server.attribution.sessions(
        numbers(query, SESSIONS)["limit"], query.get("session_id"), query.get("also"))
    return {"status": 200, "json": found, "headers": PRIVATE}


def get_telemetry(exchange, server):
    query = exchange.query
    found = server.attribution.telemetry(query.get("session_id", ""),
                                         numbers(query, PAGING)["limit"])
    return {"status": 200, "json": found, "headers": PRIVATE}


def get_server_names(exchange, server):
    project, _ = server.keys.owner(exchange)
    return {"status": 200, "json": server.attribution.server_names(project),
            "headers": PRIVATE}


def given_names(exchange, *names):
    """Return the members *names* of the body, strings that name something."""
    body = json_value(exchange.body)
    body = body if isinstance(body, dict) else {}
    for name in names:
        if not (is_name(body.get(name)) and body[name]):
            raise Refused(400, f"Invalid {name}: must be a non-empty {NAME}")
    return [body[name] for name in names]


def put_server_name(exchange, server):
    project, _ = server.keys.owner(exchange)
    names = given_names(exchange, "raw_server_name", "display_name")
    return {"status": 200, "json": server.attribution.name_server(project, *names)}


def delete_server_name(exchange, server):
    project, _ = server.keys.owner(exchange)
    names = given_names(exchange, "raw_server_name")
    if not server.attribution.forget_server_name(project, *names):
        raise Refused(404, f"Invalid raw_server_name: {names[0][:100]} has no name")
    return {"status": 204, "body": ""}


def get_runs(exchange, server):
    return {"status": 200, "json": server.store.runs(), "headers": PRIVATE}


#: path -> method -> function
ROUTES = {
    "/events": {"GET": get_events, "POST": post_event},
    "/health": {"GET": get_health}, "/": {"GET": get_page},
    **{f"/page/{name}": {"GET": get_page} for name in FILES},
    "/story": {"GET": get_story}, "/call": {"GET": get_call},
    "/search": {"GET": get_search},
    "/asked": {"GET": get_asked, "POST": get_asked}, "/answer": {"POST": post_answer},
    "/stream": {"GET": get_stream}, "/runs": {"GET": get_runs},
    "/sessions": {"GET": get_sessions}, "/telemetry": {"GET": get_telemetry},
    "/server-names": {"GET": get_server_names, "PUT": put_server_name,
                      "DELETE": delete_server_name},
    "/rpc/hooks.ingest": {"POST": post_event},
    "/v1/logs": {"POST": post_logs}, "/v1/metrics": {"POST": post_metrics},
    "/v1/traces": {"POST": post_traces},
}
#: what only reads the store, and may be answered in another process, see `reader`
READS = {get_events, get_health, get_sessions, get_telemetry, get_runs, get_story,
         get_call, get_search}
ANY_HOST = {("GET", "/health")}  # shows no events
#: what hooks and agents send, by whatever name leads here: only a browser can be made
#: to call a stranger's name, and it says so when it posts
PAGE_HEADERS = {"origin", "sec-fetch-site"}
OPEN_HOST = {("POST", path) for path in (
    "/events", "/rpc/hooks.ingest", "/v1/logs", "/v1/metrics", "/v1/traces")}


@functools.lru_cache(maxsize=256)
def is_own_host(host, names):
    """Tell whether a Host header means loopback or is one of *names*."""
    with contextlib.suppress(ValueError):
        name = urlsplit(f"//{host}").hostname
        if name and name in ("localhost", *names):
            return True
        address = ipaddress.ip_address(name)
        return address.is_loopback or str(address) in names
    return False


def is_own_page(exchange, names):
    """Tell whether *exchange* comes from no page, or from one of this server's."""
    if exchange.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = exchange.headers.get("origin")
    return origin is None or is_own_host(origin.partition("://")[2], names)


def may_call(exchange, server, call):
    """Tell why *exchange* may not make *call* (method, path); "" where it may."""
    names = (server.host, exchange.address, *server.names)
    if exchange.method != "GET" and not is_own_page(exchange, names):
        return "Invalid Origin: must be this server's own page, or none"
    if call in ANY_HOST or is_own_host(exchange.headers.get("host", ""), names):
        return ""
    if call in OPEN_HOST and not PAGE_HEADERS & set(exchange.headers):
        return ""
    return ("Invalid Host: must be localhost, the address listened on, or a --name that"
            " the server was started with")


def routed(exchange, server):
    """Return the function that answers *exchange*; raise Refused."""
    if exchange.headers is None:
        raise Refused(400, "Invalid request: must be HTTP/1.1")
    path = exchange.path.partition("?")[0]
    if path not in ROUTES:
        raise Refused(404, f"Invalid path: must be one of [{', '.join(ROUTES)}]")
    if exchange.method not in ROUTES[path]:
        methods = ", ".join(ROUTES[path])
        raise Refused(405, f"Invalid method: must be one of [{methods}]")
    reason = may_call(exchange, server, (exchange.method, path))
    if reason:
        raise Refused(403, reason)
    return ROUTES[path][exchange.method]


def contract_reply(exchange, server):
    """Return the contract's answer to *exchange*, having done what it asks for."""
    try:
        function = routed(exchange, server)
        reply = None
        if server.readers and function in READS:
            reply = server.readers.ask(exchange.path)
        return reply or function(exchange, server)
    except (Refused, sqlite3.Error) as error:
        return failure(error, server)
