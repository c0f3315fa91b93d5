# SPDX-License-Identifier: MIT
"""The command: serve until Ctrl-C, and print each event."""

import argparse
import bisect
import contextlib
import errno
import itertools
import shutil
import signal
import sqlite3
import sys
import time
import unicodedata

from .contract import Refused, checked_event
from .faults import FAULTS
from .http1 import POLL_S
from .serving import UNUSABLE, EventServer


def readable(event, columns):
    """Return *event* as one line of at most *columns* cells of a terminal."""
    cells = [time.strftime("%H:%M:%S"), event["source_app"],
             event.get("session_id", "-")[:8], event["event_type"],
             event.get("tool_name", "-"), event.get("summary", "")]
    line = "{} {:14} {:8} {:16} {:10} {}".format(*cells).rstrip()
    line = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in line)
    ends = list(itertools.accumulate(
        2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line))
    if ends[-1] <= columns:
        return line
    return line[:bisect.bisect_right(ends, columns - 1)] + "…"


def show(event):
    """Print *event*; that nobody reads our output is no reason to refuse events."""
    with contextlib.suppress(OSError):
        # One write a line, so that threads do not mix theirs.
        line = readable(event, shutil.get_terminal_size().columns)
        print(line + "\n", end="", flush=True)


def parse_options(argv):
    """Return the options as a namespace."""
    parser = argparse.ArgumentParser(description="Receive hook events and show them.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=4000, help="0: any free one (%(default)s)")
    add("--db", default=":memory:", metavar="FILE", help="keep events in this file")
    add("--import", metavar="FILE", dest="log",
        help="take the events of a log, a JSON object a line, to begin with")
    add("--fault", choices=sorted(FAULTS), metavar="NAME",
        help="misbehave on every connection: " + ", ".join(FAULTS))
    add("--quiet", action="store_true", help="do not print the events")
    return parser.parse_args(argv)


def opened_server(options):
    """Return the server that *options* ask for; raise SystemExit with one line."""
    try:
        return EventServer(fault=options.fault, host=options.host, port=options.port,
                           db=options.db, keep_exchanges=False,
                           on_event=None if options.quiet else show)
    except sqlite3.Error as error:
        sys.exit(f"server: cannot keep events in {options.db}: {error}")
    except UNUSABLE as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            sys.exit(f"server: port {options.port} is in use;"
                     " choose another with --port")
        sys.exit(f"server: cannot listen on {options.host}: {error}")


def import_log(store, path):
    """Add the events of the file *path* to *store*; return how many, and line numbers.

    These are of the lines that are no event of the contract.  Raises OSError.
    """
    count, bad = 0, []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                store.add(checked_event(line))
                count += 1
            except Refused:
                bad.append(number)
    return count, bad


def imported(store, path):
    """Return what is said of an import; raise SystemExit where it cannot be read."""
    try:
        count, bad = import_log(store, path)
    except OSError as error:
        sys.exit(f"server: cannot read {path}: {error}")
    lines = f"; no event in line {', '.join(map(str, bad[:5]))}" if bad else ""
    return f"imported {count} events from {path}{lines}{', ...' if bad[5:] else ''}"


def main(argv=None):
    """Serve until Ctrl-C or SIGTERM."""
    options = parse_options(argv)
    sys.stdout.reconfigure(errors="replace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with opened_server(options) as server:
        if options.log:
            print(imported(server.store, options.log), flush=True)
        before = server.store.count()
        kept = "memory" if options.db == ":memory:" else options.db
        url = server.url.replace("//127.0.0.1:", "//localhost:")
        page = url[:-len("events")]
        try:
            print(f"listening on {url} (db: {kept}; Ctrl-C to stop); page: {page}",
                  flush=True)
            while True:  # short naps: a signal just before one does not interrupt it
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            for number in (signal.SIGINT, signal.SIGTERM):  # what is left takes 0.1 s
                signal.signal(number, signal.SIG_IGN)
            print(f"stopped; events received: {server.store.count() - before}")
