# SPDX-License-Identifier: MIT
"""The command: serve until Ctrl-C, and print each event."""

import argparse
import bisect
import contextlib
import errno
import io
import itertools
import os
import re
import select
import shutil
import signal
import sqlite3
import sys
import time
import unicodedata

from .contract import BODY_MAX_BYTES, Refused, checked_event
from .faults import FAULTS
from .http1 import POLL_S
from .keys import Keys, new_key
from .policy import Policy
from .serving import UNUSABLE, EventServer
from .shared import Shared
from .store import cause

IMPORT_MAX_BYTES = 1 << 28
IMPORT_WAIT_S = 10  # for the next bytes of a pipe
FILES_MAX = 4096  # open at once; each connection is one
SWITCH_S = 0.001  # for the thread of the hooks, while another one is computing
UNBOUNDED = 1 << 30  # columns
COUNT = re.compile(r"[1-9]\d{0,4}", re.A)  # of days: the first of them has a date


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
        columns = shutil.get_terminal_size().columns
        if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
            columns = UNBOUNDED  # a pipe or a file has no width
        sys.stdout.write(readable(event, columns) + "\n")
        sys.stdout.flush()


def duration_s(text):
    """Return the seconds of a time such as 30d, 12h or 90m; for ever: 0."""
    unit = {"m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
    if text == "0" or (unit and COUNT.fullmatch(text[:-1])):
        return int(text[:-1] or 0) * unit
    raise argparse.ArgumentTypeError(
        f"{text[:20]!r} is no time such as 30d, 12h or 90m, below 100000; 0: for ever")


def own_file():
    """Return the path of the events where no other is asked for."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "hook-io", "events.db")


#: option -> (its arguments of argparse)
OPTIONS = {
    "--host": {"default": "127.0.0.1", "help": "address to listen on (%(default)s)"},
    "--port": {"type": int, "default": 4000, "help": "0: any free one (%(default)s)"},
    "--db": {"metavar": "FILE", "help": "keep events in this file, or :memory: "
             "(~/.local/state/hook-io/events.db)"},
    "--keep": {"type": duration_s, "default": "30d", "metavar": "TIME",
               "help": "remove what is older (%(default)s; 0: never)"},
    "--keys": {"metavar": "FILE", "help": "take telemetry only with one of these keys"},
    "--new-key": {"nargs": 2, "metavar": ("PROJECT", "ORGANISATION"),
                  "help": "print a key, and its line for the file of --keys"},
    "--require-identity": {"action": "store_true", "help": "drop events of which "
                           "telemetry names nobody within 10 minutes"},
    "--redis": {"metavar": "URL", "help": "share what is pending and who is known with "
                "other servers (needs the package redis)"},
    "--share-port": {"action": "store_true", "help": "let several servers of this "
                     "machine listen on one port (not on Windows)"},
    "--name": {"action": "append", "default": [], "help": "a host name that the page "
               "and loopback hooks may call this server, besides localhost"},
    "--import": {"metavar": "FILE", "dest": "log", "help": "take the events of a log,"
                 " a JSON object a line, to begin with"},
    "--policy": {"metavar": "FILE", "help": "answer hooks that wait for a decision by"
                 " the rules of this file, lines such as: deny Bash rm -rf*"},
    "--fault": {"choices": sorted(FAULTS), "metavar": "NAME", "help":
                "misbehave on every connection: " + ", ".join(FAULTS)},
    "--quiet": {"action": "store_true", "help": "do not print the events"},
}


def parse_options(argv):
    """Return the options as a namespace."""
    parser = argparse.ArgumentParser(
        prog="python3 tests/server", description="Receive hook events and show them.")
    for name, arguments in OPTIONS.items():
        parser.add_argument(name, **arguments)
    return parser.parse_args(argv)


def opened_server(options):
    """Return the server that *options* ask for; raise SystemExit with one line."""
    try:
        return EventServer(
            fault=options.fault, host=options.host, port=options.port, db=options.db,
            keep_exchanges=False, keep_alive=True, is_read_apart=True,
            names=options.name,
            keys=opened_keys(options.keys), shared=opened_shared(options.redis),
            require_identity=options.require_identity, keep_s=options.keep,
            share_port=options.share_port, policy=opened_policy(options.policy),
            on_event=None if options.quiet else show)
    except sqlite3.Error as error:
        sys.exit(f"server: cannot keep events in {options.db}:"
                 f" {cause(error, options.db)}")
    except UNUSABLE as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            sys.exit(f"server: port {options.port} is in use;"
                     " choose another with --port")
        sys.exit(f"server: cannot listen on {options.host}: {error}")


def opened_keys(path):
    try:
        return Keys(path)
    except (OSError, ValueError) as error:
        sys.exit(f"server: cannot use the keys in {path}: {error}")


def opened_policy(path):
    try:
        return Policy(path) if path else None
    except (OSError, ValueError) as error:
        sys.exit(f"server: cannot use the policy in {path}: {error}")


def opened_shared(url):
    if not url:
        return None
    try:
        return Shared(url)
    except ImportError:
        sys.exit("server: --redis needs the package redis:"
                 " python3 -m pip install redis")
    except ValueError as error:
        sys.exit(f"server: cannot use {url}: {error}")


class Patient(io.FileIO):
    """A file that may be a pipe, and is waited for no longer than IMPORT_WAIT_S."""

    def __init__(self, path):
        super().__init__(path, opener=lambda name, flags: os.open(
            name, flags | getattr(os, "O_NONBLOCK", 0)))

    def readinto(self, buffer):
        if os.name != "nt" and not select.select([self], [], [], IMPORT_WAIT_S)[0]:
            raise OSError(f"nothing came from it for {IMPORT_WAIT_S} s")
        return super().readinto(buffer)


def import_log(store, path):
    """Add the events of the file *path* to *store*; return how many, and line numbers.

    These are of the lines that are no event of the contract.  A file without an end, or
    one that is no file, is read for IMPORT_MAX_BYTES, a silent one for IMPORT_WAIT_S.
    Raises OSError.
    """
    count, bad, left, number = 0, [], IMPORT_MAX_BYTES, 0
    with io.BufferedReader(Patient(path)) as file, store.changing():
        while left > 0:
            line = file.readline(BODY_MAX_BYTES + 2)
            left, number = left - max(len(line), 1), number + 1
            if not line:
                return count, bad
            try:
                store.add(checked_event(line))
                count += 1
            except Refused:
                bad.append(number)
    raise OSError(f"it has no end within {IMPORT_MAX_BYTES >> 20} MiB; {count} events"
                  " of it are stored")


def imported(store, path):
    """Return what is said of an import; raise SystemExit where it cannot be read."""
    try:
        count, bad = import_log(store, path)
    except OSError as error:
        sys.exit(f"server: cannot read {path}: {error}")
    lines = f"; no event in line {', '.join(map(str, bad[:5]))}" if bad else ""
    return f"imported {count} events from {path}{lines}{', ...' if bad[5:] else ''}"


def prepare(options):
    """Make the folder of the events, private, and room for many connections."""
    if not options.db:
        options.db = own_file()
        try:
            os.makedirs(os.path.dirname(options.db), mode=0o700, exist_ok=True)
        except OSError as error:
            sys.exit(f"server: cannot keep events in {options.db}: {error}")
    if options.db != ":memory:":
        options.db = os.path.abspath(options.db)  # SQLite may read a name as a URL
    if options.db != ":memory:" and hasattr(os, "umask"):
        os.umask(0o077)  # prompts and outputs are nobody else's
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        few = most == resource.RLIM_INFINITY or most > FILES_MAX
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX if few else most, most))


def main(argv=None):
    """Serve until Ctrl-C or SIGTERM."""
    options = parse_options(argv)
    if options.new_key:
        try:
            key, line = new_key(*options.new_key)
        except ValueError as error:
            sys.exit(f"server: cannot make a key: {error}")
        print(f"for the sender, not shown again:\n{key}\n"
              f"for the file of --keys:\n{line}")
        return
    prepare(options)
    sys.setswitchinterval(SWITCH_S)
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
