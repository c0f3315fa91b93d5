# SPDX-License-Identifier: MIT
"""The server on one address: who answers a connection, and in which thread."""

import contextlib
import functools
import ipaddress
import re
import socket
import sqlite3
import threading
import time

from .asking import Desk
from .attribution import Attribution
from .contract import BODY_MAX_BYTES, Refused, refusal
from .faults import (
    FAULTS,
    as_dict,
    keep_closed,
    play,
    play_before_reading,
    wire,
)
from .http1 import (
    POLL_S,
    Connection,
    Exchange,
    ServerEnds,
    http_answer,
    read_request,
)
from .keys import Keys
from .loop import Loop
from .posts import failure, keep_all, post_event, read_post, reply_to
from .reader import Readers
from .routes import contract_reply, routed
from .store import Store

QUICK_MAX_BYTES = 1 << 16  # of an event that nobody has to wait for
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
    is_read_apart: the page's questions are answered in processes of their own.

    Raises one of UNUSABLE where it cannot listen, sqlite3.Error for an unusable db,
    ValueError for a reply or fault nobody knows.
    """

    def __init__(self, replies=(), *, fault=None, host="127.0.0.1", port=0,
                 db=":memory:", on_event=None, keep_exchanges=True,
                 keep_alive=False, names=(), keys=None, shared=None,
                 require_identity=False, keep_s=None, share_port=False, policy=None,
                 is_read_apart=False):
        self._replies, self._fault, self._keep = list(replies), fault, keep_exchanges
        for reply in [*self._replies, fault or {}]:
            as_dict(reply)
        self.on_event = on_event or (lambda event: None)
        self.exchanges, self._threads = [], set()
        self._changed, self._stopping = threading.Condition(), threading.Event()
        self._waiting, self._keep_alive = set(), keep_alive
        self.store, self.host = Store(db), host.lower()
        self.readers, self._is_read_apart = None, is_read_apart and db != ":memory:"
        self.names = tuple(name.lower() for name in names)
        self.keys, self.policy, self.desk = keys or Keys(), policy, Desk()
        self.attribution = Attribution(self.store, shared, require_identity, keep_s)
        try:
            self._listener = listening_socket(host, port, share_port)
        except UNUSABLE:
            self.store.close()
            raise
        self._address = self._listener.getsockname()
        self.port = self._address[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}/events"

    def __enter__(self):
        self._started = time.monotonic()
        if self._is_read_apart:
            self.readers = Readers(self.store.path)
        # A reply or a fault may take its time before anything is read.
        is_looped = self._keep_alive and not (self._replies or self._fault)
        self._loop = Loop(self._listener, self._stopping, self._begin, self._answer,
                          self._end) if is_looped else None
        self._acceptor = threading.Thread(
            target=self._loop.run if self._loop else self._accept, daemon=True)
        self._acceptor.start()
        self.attribution.start()
        return self

    def __exit__(self, *exc_info):
        self._stopping.set()
        if self._loop:
            self._loop.wake()
        self.desk.close()
        if self.readers:
            self.readers.close()
        self.attribution.stop()
        with contextlib.suppress(OSError):  # macOS: then it looks up within POLL_S
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with contextlib.suppress(OSError):  # so that its URL is nobody else's now
            keep_closed(self._listener.family, self._address)
        with self._changed:
            waiting = list(self._waiting)
        for link in waiting:
            link.wake()
        for thread in list(self._threads):
            thread.join(timeout=2)
        if self._loop:
            self._loop.close()
        self.store.close()

    def events(self):
        """Return the stored events, oldest first; only inside the `with` block."""
        return self.store.select()

    def wait(self, n, timeout=60):
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
        """Give each connection a thread of its own, as replies may take their time."""
        while not self._stopping.is_set():
            try:
                sock, (peer, *_) = self._listener.accept()
            except socket.timeout:
                continue
            except OSError:  # the client is gone already, or no descriptor is free
                time.sleep(0.005)
                continue
            scripted, link = bool(self._replies), Connection(sock, self._stopping)
            exchange = self._begin(sock, peer)
            self._start(self._converse, link, exchange, scripted)

    def _begin(self, sock, peer):
        """Return the Exchange of a new connection."""
        exchange = Exchange(self._clock_ms(), peer=plain_address(peer))
        exchange.reply = self._replies.pop(0) if self._replies else self._fault
        with contextlib.suppress(OSError):  # what is gone is seen to where it is read
            exchange.address = plain_address(sock.getsockname()[0])
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self.exchanges.append(exchange)
        return exchange

    def _start(self, talk, link, exchange, *arguments):
        """Run *talk* in a thread, and end the connection where it does not go on."""
        thread = threading.Thread(target=self._run, daemon=True,
                                  args=(talk, link, exchange, *arguments))
        self._threads.add(thread)
        thread.start()

    def _run(self, talk, link, exchange, *arguments):
        ended_by = "server"
        try:
            if talk(link, exchange, *arguments):
                ended_by = None
        except (ServerEnds, sqlite3.Error):  # a stream's store may fail on the way
            pass
        except OSError:
            ended_by = "client"
        finally:
            if ended_by:
                self._end(link, exchange, ended_by)
            self._threads.discard(threading.current_thread())

    def _read(self, link, exchange):
        with self._changed:
            self._waiting.add(link)
        try:
            read_request(link, exchange)
        except ValueError:  # the contract answers what is not HTTP
            exchange.headers = None
        finally:
            with self._changed:
                self._waiting.discard(link)

    def _converse(self, link, exchange, scripted=False):
        reply = as_dict(exchange.reply or {})
        play_before_reading(link, reply)
        if not link.taken:  # else it has been read in the loop
            self._read(link, exchange)
        name = exchange.query.get("fault", "")
        if name and not scripted:
            exchange.reply = name if name in FAULTS else refusal(
                400, f"Invalid fault: must be one of [{', '.join(FAULTS)}]")
            reply = as_dict(exchange.reply)
            play_before_reading(link, reply)
        answer = wire(reply, lambda: contract_reply(exchange, self))
        play(link, reply, answer, exchange.follow)

    # Connections that are kept.

    def _answer(self, clients):
        """Answer those who wait in the loop, events together, the rest in threads."""
        posts = {client: self._post_of(client) for client in clients}
        posts = {client: post for client, post in posts.items() if post}
        for (client, post), stored in zip(posts.items(),
                                          keep_all(posts.values(), self)):
            if isinstance(stored, Exception):
                self._reply(client, failure(stored, self))
            elif post.asked:
                self._lend(client, reply_to, post, stored, self)
            else:
                self._reply(client, reply_to(post, stored, self))

    def _post_of(self, client):
        """Return the event that *client* posts; see to it where there is none."""
        exchange = client.exchange
        try:
            if routed(exchange, self) is post_event and is_quick(exchange, self):
                return read_post(exchange, self)
            self._lend(client, contract_reply, exchange, self)
        except Refused as refused:
            self._reply(client, failure(refused, self))
        except Exception:  # it is raised again in a thread, and ends nothing else there
            self._lend(client, contract_reply, exchange, self)
        return None

    def _reply(self, client, reply):
        is_last = not client.exchange.is_kept
        self._loop.reply(client, http_answer(reply, is_last), is_last)

    def _lend(self, client, reply_of, *arguments):
        """Let a thread answer *client* with what reply_of(*arguments) returns."""
        self._loop.lend(client)
        if "fault" in client.exchange.query:
            self._start(self._converse, client.link, client.exchange)
        else:
            self._start(self._answer_lent, client.link, client.exchange, client,
                        reply_of, *arguments)

    def _answer_lent(self, link, exchange, client, reply_of, *arguments):
        reply = reply_of(*arguments)
        is_last = not exchange.is_kept or exchange.follow
        answer = http_answer(reply, is_last)
        if is_last:
            play(link, reply, answer, exchange.follow)
        link.send(answer)
        self._loop.give_back(client)
        return True

    def _end(self, link, exchange, ended_by):
        held_ms = round(self._clock_ms() - exchange.accepted_ms, 1)
        with contextlib.suppress(OSError):
            link.sock.close()
        status = STATUS_LINE.search(link.sent_head)
        exchange.status = int(status.group(1)) if status else None
        exchange.raw, exchange.bytes_sent = bytes(link.raw), link.bytes_sent
        with self._changed:
            exchange.ended_by, exchange.held_ms = ended_by, held_ms
            if not self._keep:
                self.exchanges.remove(exchange)
            self._changed.notify_all()

    def _clock_ms(self):
        return round((time.monotonic() - self._started) * 1000, 1)


def is_quick(exchange, server):
    """Tell whether a posted event can be taken in without holding up other clients."""
    return (len(exchange.body) <= QUICK_MAX_BYTES and not server.attribution.shared
            and "fault" not in exchange.query
            and "content-encoding" not in exchange.headers)


@functools.lru_cache(maxsize=256)
def plain_address(text):
    """Return the address *text* without a zone, and IPv4 in its own form."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


def listening_socket(host, port, is_shared=False):
    """Return a socket that listens on *host* and *port*; raise one of UNUSABLE.

    is_shared: beside other servers of this machine that say so, too.
    """
    if not 0 <= port < 1 << 16:
        raise OverflowError(f"port {port} must be from 0 to 65535")
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
