# SPDX-License-Identifier: MIT
"""The server on one address: a thread for each connection."""

import contextlib
import ipaddress
import re
import socket
import sqlite3
import threading
import time

from .asking import Desk
from .attribution import Attribution
from .contract import BODY_MAX_BYTES, refusal
from .faults import FAULTS, as_dict, play, play_before_reading, wire
from .http1 import (
    POLL_S,
    Connection,
    Exchange,
    ServerEnds,
    http_answer,
    read_request,
)
from .keys import Keys
from .routes import contract_reply
from .store import Store

OPEN_MAX = 400  # connections; above it, the longest idle one makes room
#: what an address that cannot be listened on raises; the last is for absurd names
UNUSABLE = (OSError, OverflowError, UnicodeError)
STATUS_LINE = re.compile(rb"(?m)^HTTP/1\.[01] ([2-5]\d\d)\b[^\r\n]*\r\n")


class EventServer:
    """The contract's server on one address, for as long as the `with` block lasts.

    replies, fault: see the package.  host: an address or name; port 0: any free one.
    db: a file, or ":memory:".  on_event: called with each stored event, before its
    answer, in the connection's thread.  keep_exchanges=False: `exchanges` holds open
    connections only, for a server that runs for days.  keep_alive: answer more than one
    request on a connection whose client asks for that.  names: what else this server
    is called.  keys: the Keys of who may send telemetry.  shared, require_identity,
    keep_s: see Attribution.  share_port: with other servers of this machine.

    Raises one of UNUSABLE where it cannot listen, sqlite3.Error for an unusable db,
    ValueError for a reply or fault nobody knows.
    """

    def __init__(self, replies=(), *, fault=None, host="127.0.0.1", port=0,
                 db=":memory:", on_event=None, keep_exchanges=True,
                 keep_alive=False, names=(), keys=None, shared=None,
                 require_identity=False, keep_s=None, share_port=False, policy=None):
        self._replies, self._fault, self._keep = list(replies), fault, keep_exchanges
        for reply in [*self._replies, fault or {}]:
            as_dict(reply)
        self.on_event = on_event or (lambda event: None)
        self.exchanges, self._threads = [], set()
        self._changed, self._stopping = threading.Condition(), threading.Event()
        self._waiting, self._keep_alive = {}, keep_alive
        self.store, self.host = Store(db), host.lower()
        self.names = tuple(name.lower() for name in names)
        self.keys, self.policy, self.desk = keys or Keys(), policy, Desk()
        self.attribution = Attribution(self.store, shared, require_identity, keep_s)
        try:
            self._listener = listening_socket(host, port, share_port)
        except UNUSABLE:
            self.store.close()
            raise
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/events"

    def __enter__(self):
        self._started = time.monotonic()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        self.attribution.start()
        return self

    def __exit__(self, *exc_info):
        self._stopping.set()
        self.desk.close()
        self.attribution.stop()
        with contextlib.suppress(OSError):  # macOS: then it looks up within POLL_S
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._changed:
            waiting = list(self._waiting)
        for link in waiting:
            link.wake()
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
                sock, (peer, *_) = self._listener.accept()
            except socket.timeout:
                continue
            except OSError:  # the client is gone already, or no descriptor is free
                self._evict()
                time.sleep(0.005)
                continue
            exchange = Exchange(self._clock_ms(), peer=plain_address(peer))
            scripted = bool(self._replies)
            exchange.reply = self._replies.pop(0) if scripted else self._fault
            with self._changed:
                self.exchanges.append(exchange)
            thread = threading.Thread(target=self._serve, daemon=True,
                                      args=(sock, exchange, scripted))
            self._threads.add(thread)
            thread.start()
            if len(self._threads) > OPEN_MAX:
                self._evict()

    def _evict(self):
        """Close the connection that has waited longest without a whole request."""
        with self._changed:
            link = next(iter(self._waiting), None)
            self._waiting.pop(link, None)
        if link:
            link.deadline = 0
            link.wake()

    def _serve(self, sock, exchange, scripted):
        link, ended_by = Connection(sock, self._stopping), "server"
        try:
            exchange.address = plain_address(sock.getsockname()[0])
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._keep_alive and exchange.reply is None:
                self._answer_all(link, exchange)
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

    def _answer_all(self, link, exchange):
        """Answer one request after the other, until one is not to be kept for more."""
        while self._read(link, exchange) and exchange.is_kept and (
                "fault" not in exchange.query):
            reply = contract_reply(exchange, self)
            headers = {"Connection": "keep-alive", **reply.get("headers", {})}
            answer = http_answer({**reply, "headers": headers})
            if exchange.follow:
                play(link, reply, answer, exchange.follow)
            link.send(answer)
            link.forget()

    def _read(self, link, exchange):
        """Read a request; return False where it is not HTTP."""
        with self._changed:
            self._waiting[link] = True
        try:
            read_request(link, exchange)
        except ValueError:  # the contract answers what is not HTTP
            exchange.headers = None
            return False
        finally:
            with self._changed:
                self._waiting.pop(link, None)
        return True

    def _converse(self, link, exchange, scripted):
        reply = as_dict(exchange.reply or {})
        play_before_reading(link, reply)
        if not link.taken:  # else it has been read above
            self._read(link, exchange)
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
            self._waiting.pop(link, None)
            if not self._keep:
                self.exchanges.remove(exchange)
            self._changed.notify_all()
        self._threads.discard(threading.current_thread())

    def _clock_ms(self):
        return round((time.monotonic() - self._started) * 1000, 1)


def plain_address(text):
    """Return the address *text* without a zone, and IPv4 in its own form."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def listening_socket(host, port, is_shared=False):
    """Return a socket that listens on *host* and *port*; raise one of UNUSABLE.

    is_shared: beside other servers of this machine that say so, too.
    """
    family, kind, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, kind)
    # On Windows SO_REUSEADDR means something else: two servers on one port.
    option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if is_shared:
            option = getattr(socket, "SO_REUSEPORT", option)
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
