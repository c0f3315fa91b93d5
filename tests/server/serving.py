# SPDX-License-Identifier: MIT
"""The server on one address: a thread for each connection."""

import contextlib
import ipaddress
import re
import socket
import sqlite3
import threading
import time

from .contract import BODY_MAX_BYTES, refusal
from .faults import FAULTS, as_dict, play, play_before_reading, wire
from .http1 import POLL_S, Connection, Exchange, ServerEnds, read_request
from .routes import contract_reply
from .store import Store

#: what an address that cannot be listened on raises; the last is for absurd names
UNUSABLE = (OSError, OverflowError, UnicodeError)
STATUS_LINE = re.compile(rb"(?m)^HTTP/1\.[01] ([2-5]\d\d)\b[^\r\n]*\r\n")


class EventServer:
    """The contract's server on one address, for as long as the `with` block lasts.

    replies, fault: see the package.  host: an address or name; port 0: any free one.
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
        answer = wire(reply, lambda: contract_reply(exchange, self))
        play(link, reply, answer, exchange.follow)

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
