# SPDX-License-Identifier: MIT
"""Connections that wait for a request: any number of them, in one thread.

Requests that have come whole by the same turn are handed over together.  Nothing in
this thread may wait for one client: what takes time is lent to a thread of its own.
"""

import collections
import contextlib
import selectors
import socket
import time
from dataclasses import dataclass, field

from .http1 import HEAD_MAX_BYTES, LINGER_MS, POLL_S, Connection, Exchange, reading

OPEN_MAX = 400  # connections; above it, the one that was idle longest makes room
HELD_MAX_BYTES = 1 << 28  # of requests that are not whole yet
ACCEPTED_AT_ONCE = 64
GATHER_S = 0.0005  # between turns in which several clients were answered


@dataclass(eq=False)
class Client:
    """A connection of the Loop.

    reading: takes the request in; None: the last answer is sent, and the client is to
    close.  unsent: of an answer.
    """

    link: Connection
    exchange: Exchange
    reading: object = None
    unsent: memoryview = field(default=memoryview(b""), repr=False)
    is_last: bool = False
    waits_to_send: bool = False


class Loop:
    """The connections that *listener* accepts, until *stopping* is set.

    admit: a function of (socket, peer) that returns the Exchange of a new connection.
    answer: a function of a list of Clients whose requests are whole; it calls reply()
    or lend() for each.  ended: a function of (link, exchange, by whom).
    """

    def __init__(self, listener, stopping, admit, answer, ended):
        self._listener, self._stopping = listener, stopping
        self._admit, self._answer, self._ended = admit, answer, ended
        self._clients, self._whole = {}, {}  # the one idle longest stands first
        self._given_back = collections.deque()
        self._bell, self._rope = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for sock in (listener, self._bell, self._rope):
            sock.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)

    def run(self):
        """Serve until the server stops."""
        checked = time.monotonic()
        while not self._stopping.is_set():
            self._turn()
            if time.monotonic() - checked >= POLL_S:
                checked = time.monotonic()
                self._end_late(checked)

    def close(self):
        """End all connections, once run() has returned and nobody gives one back."""
        self._take_back()
        for client in list(self._clients):
            self._end(client, "server")
        self._selector.close()
        self._bell.close()
        self._rope.close()

    def wake(self):
        """Make the loop look at what another thread has changed."""
        with contextlib.suppress(OSError):  # it has been woken often, or is closed
            self._rope.send(b"!")

    def _turn(self):
        for key, _ in self._selector.select(0 if self._whole else POLL_S):
            if key.data in self._clients:
                self._step(key.data)
            elif not isinstance(key.data, Client):  # else it has ended in this turn
                key.data()
        whole, self._whole = self._whole, {}
        if whole:
            self._answer(list(whole))
        if len(whole) > 1:  # more are on their way
            time.sleep(GATHER_S)

    def _accept(self):
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, (peer, *_) = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # the client is gone already, or no descriptor is free
                self._evict()
                time.sleep(0.005)
                return
            link = Connection(sock, self._stopping)
            self._add(Client(link, self._admit(sock, peer)))
            if len(self._clients) > OPEN_MAX:
                self._evict()

    def _add(self, client):
        client.link.sock.setblocking(False)
        self._selector.register(client.link.sock, selectors.EVENT_READ, client)
        self._begin(client)

    def _begin(self, client):
        """Read the next request of *client*, of which a part may be here."""
        self._clients.pop(client, None)
        self._clients[client] = True
        client.link.forget()
        client.reading = reading(client.link, client.exchange)
        if client.link.raw:
            self._read(client)

    def _evict(self):
        client = next(iter(self._clients), None)
        if client:
            self._end(client, "server")

    def _end_late(self, now):
        for client in [client for client in self._clients
                       if client.link.deadline < now]:
            self._end(client, "server")

    def _step(self, client):
        """Do what the client's socket is ready for."""
        try:
            if client.unsent:
                self._send(client)
            else:
                self._receive(client)
        except BlockingIOError:
            pass
        except OSError:
            self._end(client, "client")

    def _receive(self, client):
        data = client.link.sock.recv(1 << 16)
        if not data:
            raise ConnectionError("closed by the client")
        if client.reading is None:
            client.link.deadline = time.monotonic() + LINGER_MS / 1000
            return
        client.link.raw += data
        if len(client.link.raw) > HEAD_MAX_BYTES and self._held() > HELD_MAX_BYTES:
            self._end(client, "server")
        else:
            self._read(client)

    def _held(self):
        return sum(len(client.link.raw) for client in self._clients)

    def _read(self, client):
        try:
            for unsent in client.reading:
                if not unsent:
                    return
                with contextlib.suppress(BlockingIOError):  # who can go on without it
                    client.link.send_some(memoryview(unsent))
        except ValueError:  # the contract answers what is not HTTP
            client.exchange.headers = None
        self._whole[client] = True

    def reply(self, client, answer, is_last):
        """Send *answer* (bytes), and read the next request unless it *is_last*."""
        client.unsent, client.is_last = memoryview(answer), is_last
        self._step(client)

    def _send(self, client):
        with contextlib.suppress(BlockingIOError):
            client.unsent = client.link.send_some(client.unsent)
        if client.waits_to_send != bool(client.unsent):
            client.waits_to_send = bool(client.unsent)
            self._selector.modify(client.link.sock, selectors.EVENT_WRITE
                                  if client.unsent else selectors.EVENT_READ, client)
        if not client.unsent:
            self._go_on(client)

    def _go_on(self, client):
        if client.is_last:
            client.reading = None
            client.link.sock.shutdown(socket.SHUT_WR)
            client.link.deadline = time.monotonic() + LINGER_MS / 1000
        else:
            self._begin(client)

    def lend(self, client):
        """Leave *client* to another thread, which may give it back."""
        self._selector.unregister(client.link.sock)
        del self._clients[client]

    def give_back(self, client):
        """Go on with *client*, whose request another thread has answered."""
        self._given_back.append(client)
        self.wake()

    def _hear(self):
        self._bell.recv(1 << 12)
        self._take_back()

    def _take_back(self):
        while self._given_back:
            client = self._given_back.popleft()
            try:
                self._add(client)
            except OSError:  # it left with its next request begun
                self._end(client, "client")

    def _end(self, client, by):
        self.lend(client)
        self._whole.pop(client, None)
        self._ended(client.link, client.exchange, by)
