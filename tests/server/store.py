# SPDX-License-Identifier: MIT
"""The events and what is known of their sessions, in SQLite.

One connection that threads take turns at; several processes may have one file.
"""

import contextlib
import datetime
import errno
import os
import sqlite3
import tempfile
import threading
import time

from .contract import FIELDS, json_value, utc_now
from .groups import Groups, together
from .wal import Wal

SCHEMA = 2  # of the file; the file of a newer server is refused
BUSY_S = 5  # for another process that writes
ROOM_BYTES = 1 << 16  # a step of what processes share is half of it
PURGED_AT_ONCE = 1000  # events; hooks wait meanwhile
MEMBERS = ("id", *FIELDS, "created_at")
#: of the identity that an event is attributed to
WHO = ("user_email", "user_id", "organisation", "project")
FUTURE_S = 60  # a time stamp further ahead of our clock is a clock gone wrong

TABLES = f"""
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY AUTOINCREMENT,
    {' TEXT, '.join(MEMBERS[1:])} TEXT);
CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY, after_id, started_at,
    stopped_at);
"""
#: schema -> what it added
ADDED = {1: """
ALTER TABLE events ADD COLUMN key TEXT;
ALTER TABLE events ADD COLUMN at REAL;
ALTER TABLE events ADD COLUMN identity INTEGER;
ALTER TABLE events ADD COLUMN pending_until REAL;
CREATE UNIQUE INDEX event_key ON events (key) WHERE key IS NOT NULL;
CREATE INDEX event_session ON events (session_id, id);
CREATE INDEX event_pending ON events (pending_until) WHERE pending_until IS NOT NULL;
CREATE TABLE identities (id INTEGER PRIMARY KEY, session_id TEXT, service TEXT,
    user_email TEXT, user_id TEXT, claude_organisation TEXT, organisation TEXT,
    project TEXT, first_at REAL, last_at REAL,
    UNIQUE (session_id, user_email, user_id, organisation, project));
CREATE TABLE sessions (session_id TEXT PRIMARY KEY, source_app TEXT, folder TEXT,
    first_at REAL, last_at REAL, last_event TEXT, events INTEGER DEFAULT 0,
    begun INTEGER DEFAULT 0, ended INTEGER DEFAULT 0, failures INTEGER DEFAULT 0,
    waiting_since REAL, waited_ms REAL DEFAULT 0);
CREATE INDEX session_last ON sessions (last_at);
CREATE TABLE records (id INTEGER PRIMARY KEY, key TEXT UNIQUE, session_id TEXT, at REAL,
    name TEXT, attributes TEXT);
CREATE INDEX record_session ON records (session_id, id);
CREATE TABLE spans (key TEXT PRIMARY KEY, session_id TEXT, at REAL, name TEXT,
    ended_at REAL, attributes TEXT);
CREATE INDEX span_session ON spans (session_id);
CREATE TABLE points (key TEXT PRIMARY KEY, start TEXT, value REAL, seen_at REAL);
CREATE TABLE usage (session_id TEXT, model TEXT, kind TEXT, source TEXT, value REAL,
    PRIMARY KEY (session_id, model, kind, source));
CREATE TABLE server_names (project TEXT, raw_server_name TEXT, display_name TEXT,
    updated_at TEXT, PRIMARY KEY (project, raw_server_name));
""", 2: """
ALTER TABLE runs ADD COLUMN seen_at;
"""}
SEEN_S = 30  # a run that did not stop was killed, or goes on, so long after it was seen

ROW = (*MEMBERS[1:], "key", "at", "identity", "pending_until")
#: adds nothing, and so counts no id, where there is an event of that key
INSERT = (f"INSERT INTO events ({', '.join(ROW)}) SELECT {', '.join('?' * len(ROW))}"
          " WHERE NOT EXISTS (SELECT 1 FROM events WHERE key = ?)")
GOES_ON = """
UPDATE sessions SET folder = COALESCE(:folder, folder),
    first_at = MIN(first_at, :at), last_at = MAX(last_at, :at),
    last_event = CASE WHEN :at < last_at THEN last_event ELSE :last_event END,
    events = events + 1, begun = begun + :begun, ended = ended + :ended,
    failures = failures + :failures, waited_ms = waited_ms + CASE
        WHEN :is_waiting OR waiting_since IS NULL THEN 0
        ELSE MAX(0, :at - waiting_since) * 1000 END,
    waiting_since = CASE WHEN :is_waiting THEN COALESCE(waiting_since, :asked_at) END
WHERE session_id = :session_id
"""
BEGINS = """
INSERT INTO sessions (session_id, source_app, folder, first_at, last_at, last_event,
    events, begun, ended, failures, waiting_since)
VALUES (:session_id, :source_app, :folder, :at, :at, :last_event, 1, :begun, :ended,
    :failures, :asked_at)
"""
FOLDER_SAID = ("SessionStart", "UserPromptSubmit")
CALL_BEGINS = ("PreToolUse",)
CALL_ENDS = ("PostToolUse", "PostToolUseFailure")
#: events after which an agent waits for its person, as far as their metadata says so
ASKS = ("PermissionRequest", "Elicitation")
NOTICES = ("permission_prompt", "elicitation_dialog", "ToolPermission")


class Store:
    """The events and their sessions in *db*: a file, or ":memory:".

    reads_only: *db* is another Store's, and nothing in it is changed.
    who_of, pending_s: set by `attribution`.
    Raises sqlite3.Error where *db* cannot hold events.
    """

    def __init__(self, db, reads_only=False):
        self.lock, self._own_run, self.path = threading.RLock(), None, db
        self._owner, self._groups = None, Groups(self._add_all)
        self.who_of = self.pending_s = self._wal = None
        self._stopping = threading.Event()
        self._sqlite = sqlite3.connect(db, isolation_level=None, timeout=BUSY_S,
                                       check_same_thread=False)
        if reads_only:
            self.run("PRAGMA query_only=1")
            return
        try:
            self._open()
        except sqlite3.Error:
            self.close()
            raise

    def _open(self):
        # No sync to disk for each event: a hook waits for the answer.
        self.run("PRAGMA journal_mode=WAL")
        self.run("PRAGMA synchronous=NORMAL")
        with self.changing():
            self._migrate()
        self.select(limit=1)  # a table of that name with other columns fails here
        _, self._own_run = self.run(
            "INSERT INTO runs (after_id, started_at) VALUES (?, ?)",
            self.newest_id(), utc_now())
        if self.path != ":memory:":
            self.run("PRAGMA wal_autocheckpoint=0")
            self._wal = Wal(self, self._stopping)

    def _migrate(self):
        found = self.run("PRAGMA user_version")[0][0][0]
        if found > SCHEMA:
            raise sqlite3.DatabaseError(
                f"it is of a newer server (schema {found}; this one knows {SCHEMA})")
        added = (text for schema, text in ADDED.items() if schema > found)
        for statement in "".join([TABLES, *added]).split(";"):
            self.run(statement)
        self.run(f"PRAGMA user_version={SCHEMA}")

    def run(self, statement, *values):
        """Return the rows of *statement* and the id of the row that it added."""
        with self.lock:
            cursor = self._sqlite.execute(statement, values)
            return cursor.fetchall(), cursor.lastrowid

    @contextlib.contextmanager
    def changing(self):
        """Hold the lock, and make what is run in the block happen whole or not."""
        with self.lock:
            if self._sqlite.in_transaction:
                yield
                return
            self._sqlite.execute("BEGIN IMMEDIATE")
            self._owner = threading.get_ident()
            try:
                yield
                self._sqlite.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._sqlite.execute("ROLLBACK")
                raise
            finally:
                self._owner = None

    def add(self, event):
        """Store *event*; return it with its id and created_at (UTC, ms)."""
        return self.add_once(event)[0]

    def add_once(self, event, key=None):
        """Return the stored event, and whether it is new: one that had no such *key*.

        key: names the event however often it is sent; None: it has no name.  Events of
        several threads share a transaction, which has ended when this returns, unless
        it is the caller's own.
        """
        if self._owner == threading.get_ident():
            return self._add_all([(event, key)])[0]
        return self._groups.do((event, key))

    def add_all(self, events):
        """Store (event, key) pairs in one transaction.

        Return what add_once() returns, or what it raises, for each.
        """
        return together(self._add_all, events)

    def _add_all(self, events):
        with self.changing():
            moment = time.time(), utc_now()
            return [self._add(*event, *moment) for event in events]

    def _add(self, event, key, now, created_at):
        row, session_id = {**event, "created_at": created_at}, event.get("session_id")
        at = min(seconds(event["timestamp"], now), now + FUTURE_S)
        who = session_id and self.who_of and self.who_of(session_id, now)
        until = now + self.pending_s if self.pending_s and not who else None
        done = self._sqlite.execute(INSERT, (
            *map(row.get, MEMBERS[1:]), key, at, who or None, until, key))
        if not done.rowcount:
            return self._with_key(key), False
        if session_id:
            self._count(event, at)
        return {"id": done.lastrowid, **row}, True

    def _with_key(self, key):
        rows, _ = self.run("SELECT id FROM events WHERE key = ?", key)
        found = self.select(since_id=rows[0][0] - 1, limit=1)[0]
        return {name: found[name] for name in MEMBERS if name in found}

    def _count(self, event, at):
        kind, asks = event["event_type"], is_asking(event)
        facts = {
            "session_id": event["session_id"], "source_app": event["source_app"],
            "folder": folder_of(event) if kind in FOLDER_SAID else None, "at": at,
            "last_event": kind, "begun": kind in CALL_BEGINS,
            "ended": kind in CALL_ENDS, "failures": kind == "PostToolUseFailure",
            "is_waiting": asks or kind == "Notification",
            "asked_at": at if asks else None}
        if not self._sqlite.execute(GOES_ON, facts).rowcount:
            self._sqlite.execute(BEGINS, {**facts, "folder": folder_of(event)})

    def select(self, since_id=0, limit=-1, newest_first=False, until_id=None, text="",
               **equal):
        """Return events after *since_id*, oldest first; a negative limit is none.

        until_id: only those before it.  text: only those that have it somewhere.
        newest_first: the newest that fit, in that order.
        """
        where = ["events.id > ?"] + [f"events.{name} = ?" for name in equal]
        values = [since_id, *equal.values()]
        if until_id:
            where, values = [*where, "events.id < ?"], [*values, until_id]
        if text:
            sought = " || char(10) || ".join(
                f"COALESCE(events.{name}, '')" for name in FIELDS)
            where = [*where, f"instr(lower({sought}), ?) > 0"]
            values = [*values, text.lower()]
        columns = [*(f"events.{name}" for name in MEMBERS),
                   *(f"NULLIF(identities.{name}, '')" for name in WHO)]
        rows, _ = self.run(
            f"SELECT {', '.join(columns)} FROM events LEFT JOIN identities ON"
            f" identities.id = events.identity WHERE {' AND '.join(where)} ORDER BY"
            f" events.id {'DESC' if newest_first else ''} LIMIT ?", *values, limit)
        return [named((*MEMBERS, *WHO), row) for row in rows]

    def count(self):
        """Return how many events there are."""
        return self.run("SELECT COUNT(*) FROM events")[0][0][0]

    def newest_id(self):
        """Return the highest id, 0 where there are no events."""
        return self.run("SELECT COALESCE(MAX(id), 0) FROM events")[0][0][0]

    def changes(self):
        """Return what another event changes, also one that another process stores."""
        with self.lock:
            return self._sqlite.total_changes, self.run("PRAGMA data_version")[0]

    def runs(self):
        """Return when a server had this store, oldest first; the last is our own.

        A run that has no stopped_at was killed, unless it is going on.  idle_since:
        from when on no server had the store until that run, where that is certain.
        """
        names, ended_at = ("after_id", "started_at", "stopped_at"), None
        rows, _ = self.run(
            f"SELECT {', '.join(names)}, COALESCE(stopped_at, strftime('%Y-%m-%dT"
            f"%H:%M:%fZ', COALESCE(seen_at, started_at), '+{SEEN_S} seconds'))"
            " FROM runs ORDER BY id")
        runs = []
        for *row, last_at in rows:
            run = named(names, row)
            is_idle = ended_at and ended_at < run["started_at"]
            runs.append({**run, "idle_since": ended_at} if is_idle else run)
            ended_at = max(ended_at or last_at, last_at)
        return runs

    def note_run(self):
        """Note that our own run goes on."""
        self.run("UPDATE runs SET seen_at = ? WHERE id = ?", utc_now(), self._own_run)

    def purge(self, keep_s):
        """Remove what is older than *keep_s* seconds, a few at a time."""
        oldest = time.time() - keep_s
        moment = datetime.datetime.fromtimestamp(oldest, datetime.timezone.utc)
        text, count = moment.isoformat(timespec="milliseconds")[:23] + "Z", 1
        while count:
            with self.changing():
                before = self._sqlite.total_changes
                self.run("DELETE FROM events WHERE created_at < ? AND id IN (SELECT id"
                         " FROM events ORDER BY id LIMIT ?)", text, PURGED_AT_ONCE)
                count = self._sqlite.total_changes - before
        for table, column in (("identities", "last_at"), ("records", "at"),
                              ("spans", "at"), ("points", "seen_at")):
            self.run(f"DELETE FROM {table} WHERE {column} < ?", oldest)
        # old events that came lately, as by an import, keep their session
        self.run("DELETE FROM sessions WHERE last_at < ? AND NOT EXISTS (SELECT 1 FROM"
                 " events WHERE events.session_id = sessions.session_id)", oldest)
        self.run("DELETE FROM usage WHERE session_id NOT IN (SELECT session_id FROM"
                 " sessions) AND session_id NOT IN (SELECT session_id FROM identities)")

    def close(self):
        """Close the file; nothing can be read afterwards."""
        self._stopping.set()
        with contextlib.suppress(sqlite3.Error):  # closed before, or never usable
            self.run("UPDATE runs SET stopped_at = ? WHERE id = ?",
                     utc_now(), self._own_run)
        if self._wal:  # who closes last takes the log away; at once, neither would
            self._wal.thread.join()
        with self.lock:
            self._sqlite.close()
        if self._wal:
            self._wal.file.close()


def cause(error, path):
    """Return what *error*, of sqlite3, says of the file *path*.

    What its processes share beside the file grows as well, and where the disk has no
    room for that, SQLite says no more than "disk I/O error".
    """
    if "I/O" not in str(error) or has_room(os.path.dirname(os.path.abspath(path))):
        return str(error)
    return f"{error}, as the disk is full"


def has_room(folder):
    """Tell whether the disk of *folder* takes as much as SQLite asks of it at once."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(ROOM_BYTES))
    except OSError as error:
        return error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
    return True


def named(names, row):
    """Return the members of *row* that are there, by *names*."""
    return {name: value for name, value in zip(names, row) if value is not None}


def seconds(text, otherwise):
    """Return an ISO 8601 time as seconds since the epoch, or *otherwise*."""
    text = text[:-1] + "+00:00" if text.endswith("Z") else text
    with contextlib.suppress(ValueError, OverflowError):
        whole, point, rest = text.partition(".")
        digits = rest[:len(rest) - len(rest.lstrip("0123456789"))]
        zone = rest[len(digits):] if point else ""
        zone = zone if ":" in zone or not zone else f"{zone[:3]}:{zone[3:]}"
        moment = datetime.datetime.fromisoformat(whole + zone)
        return moment.timestamp() + float(f"0.{digits or 0}")
    return otherwise


def metadata_of(event):
    """Return the agent's own event, {} where there is none."""
    text = event.get("metadata")
    value = json_value(text) if text else None
    return value if isinstance(value, dict) else {}


def folder_of(event):
    """Return the name of the folder that a session works in, or None."""
    cwd = metadata_of(event).get("cwd")
    if not isinstance(cwd, str):
        return None
    name = os.path.basename(cwd.replace("\\", "/").rstrip("/"))
    return name[:200].encode("utf-8", "replace").decode() or None


def is_asking(event):
    """Tell whether the agent waits for its person from *event* on."""
    if event["event_type"] == "Notification":
        return metadata_of(event).get("notification_type") in NOTICES
    return event["event_type"] in ASKS
