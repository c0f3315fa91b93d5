# SPDX-License-Identifier: MIT
"""The page's questions, answered by processes that only read the same file.

Telling a session's story takes an interpreter for a while, and a hook waits for none of
it where the interpreter is another one.
"""

import contextlib
import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
from types import SimpleNamespace

from .attribution import Attribution
from .contract import Refused
from .http1 import Exchange, body_of
from .library import library
from .posts import failure
from .routes import ROUTES
from .store import Store

MOST = 3  # processes
PATIENCE_S = 0.3  # for one that is busy; then another is started
END_S = 1  # for one that is to end
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START = ("import sys; sys.path.insert(0, sys.argv[1]); from server.reader import main;"
         " main(sys.argv[2])")


class Readers:
    """Processes that answer what is asked of *db*, a file; the first starts at once."""

    def __init__(self, db):
        self._command = [sys.executable, "-c", START, FOLDER, os.path.abspath(db)]
        self._idle, self._all, self._lock = queue.Queue(), [], threading.Lock()
        self._is_closed = False
        self._start()

    def _start(self):
        with self._lock, contextlib.suppress(OSError):  # the server answers then
            if len(self._all) < MOST and not self._is_closed:
                process = subprocess.Popen(self._command, stdin=subprocess.PIPE,
                                           stdout=subprocess.PIPE)
                self._all.append(process)
                self._idle.put(process)

    def _taken(self):
        """Return a process that is idle, once there is one; None where none starts."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._idle.get(timeout=PATIENCE_S)
            self._start()
            if not self._all:
                return None

    def ask(self, path):
        """Return the reply to GET *path*, a row of READS; None where there is none."""
        process = self._taken()
        if process is None:
            return None
        try:
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
            reply = json.loads(process.stdout.readline())
            reply["body"] = process.stdout.read(reply.pop("length"))
        except (OSError, ValueError):  # it has ended
            self._replace(process)
            return None
        self._idle.put(process)
        return reply

    def _replace(self, process):
        with self._lock:
            if process in self._all:
                self._all.remove(process)
        ended(process)
        self._start()

    def close(self):
        with self._lock:
            self._is_closed = True
            for process in self._all:
                ended(process)
            self._all.clear()


def ended(process):
    """End *process*, which does so by itself once it is asked nothing more."""
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()  # not before: a thread may wait for what it says


def main(db):
    """Answer the paths on standard input, a JSON string a line, until it ends.

    An answer is a line with its status, headers and length, and then its body.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the server
    step_back()
    with contextlib.suppress(Refused):
        library()  # so that the first question does not wait for it
    store = Store(db, reads_only=True)
    server = SimpleNamespace(store=store, attribution=Attribution(store))
    for line in sys.stdin.buffer:
        reply = answer(Exchange(0, path=json.loads(line)), server)
        kind, body = body_of(reply)
        head = {"status": reply["status"], "length": len(body),
                "headers": {"Content-Type": kind, **reply.get("headers", {})}}
        sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + body)
        sys.stdout.buffer.flush()


def step_back():
    """Take the processor from nobody who answers a hook, where the system can tell."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def answer(exchange, server):
    function = ROUTES[exchange.path.partition("?")[0]]["GET"]
    try:
        return function(exchange, server)
    except (Refused, sqlite3.Error) as error:
        return failure(error, server)
