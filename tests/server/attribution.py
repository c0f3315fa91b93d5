# SPDX-License-Identifier: MIT
"""Whose session it is, and what it used.

Hook events come without an identity; the agent's own telemetry brings one, usually
later.  What telemetry says of a session is known for 24 hours; an event of a session
nobody knows yet is pending for 10 minutes, in the store itself, so that it is
attributed when the telemetry comes, in any order and over a restart.
"""

import contextlib
import hashlib
import json
import sqlite3
import threading
import time

from .contract import Refused, utc_now
from .store import SEEN_S, named

METADATA_S = 24 * 3600
PENDING_S = 600
SWEEP_S = 5
PURGE_S = 600
NOTED_S = SEEN_S - 2 * SWEEP_S  # from one note that the server goes on to the next
STOP_S = 2  # for a sweep that is under way
#: attribute of telemetry -> what it is called here
IDENTITY = {"user.email": "user_email", "user.id": "user_id",
            "organization.id": "claude_organisation"}
KNOWN = ("session_id", "service", "user_email", "user_id", "claude_organisation",
         "organisation", "project")
#: metric of Claude Code -> its attribute that names the kind, else the kind
METRICS = {"claude_code.token.usage": "type", "claude_code.cost.usage": "cost"}
KINDS = {"input": "input", "output": "output", "cacheRead": "cache_read",
         "cacheCreation": "cache_creation", "cost": "cost"}
#: attribute of an api_request record -> kind
REQUEST = {"input_tokens": "input", "output_tokens": "output",
           "cache_read_tokens": "cache_read",
           "cache_creation_tokens": "cache_creation", "cost_usd": "cost"}
DELTA, CUMULATIVE = 1, 2
USED_MAX = 1e15  # a sum that is told; what is sent adds up to infinity at worst
ASKED_AT_ONCE = 500  # ids in a statement; SQLite may take 999
NAME_SHOWN_CHARS = 200
SESSION = ("session_id", "source_app", "folder", "first_at", "last_at", "last_event",
           "events", "begun", "ended", "failures", "waiting_since", "waited_ms")
#: a session of which telemetry came and no event, as SESSION has it
TOLD_OF = """
SELECT session_id, COALESCE(NULLIF(MAX(service), ''), 'telemetry'), NULL, MIN(first_at),
    MAX(last_at) AS last_at, '', 0, 0, 0, 0, NULL, 0 FROM identities
WHERE NOT EXISTS (SELECT 1 FROM sessions
    WHERE sessions.session_id = identities.session_id)"""
SILENT_S = 300  # an agent at work says something before
RESTS = ("Stop", "StopFailure", "SessionStart", "Notification")  # then it is idle
SERVER_NAME = ("project", "raw_server_name", "display_name", "updated_at")


class Attribution:
    """Who is behind the sessions of a Store, and their usage.

    shared: a buffer that other servers have too, see `shared`; None: the store is all.
    require_identity: events of which nobody is known after PENDING_S are dropped.
    keep_s: for how long anything is kept, in seconds; None: for ever.
    """

    def __init__(self, store, shared=None, require_identity=False, keep_s=None):
        self.store, self.shared, self.keep_s = store, shared, keep_s
        self.require_identity, self.dropped = require_identity, 0
        self._stopping, self._purged_at = threading.Event(), 0
        self._noted_at = 0
        store.who_of, store.pending_s = self.who_of, PENDING_S

    def start(self):
        """Look after what is pending and what is old, until stop()."""
        self._worker = threading.Thread(target=self._work, daemon=True)
        self._worker.start()

    def stop(self):
        self._stopping.set()
        self._worker.join(STOP_S)

    def _work(self):
        while not self._stopping.wait(SWEEP_S):
            with contextlib.suppress(sqlite3.Error):  # full, or closed meanwhile
                self.sweep()

    def who_of(self, session_id, now):
        """Return the id of the identity that *session_id* has now, or None."""
        rows, _ = self.store.run(
            "SELECT id FROM identities WHERE session_id = ? AND last_at > ? ORDER BY"
            " last_at DESC, id DESC LIMIT 1", session_id, now - METADATA_S)
        return rows[0][0] if rows else None

    def hold(self, event):
        """Tell the shared buffer of *event* where this store knows nobody for it."""
        session_id = event.get("session_id")
        if not self.shared or not session_id or self.who_of(session_id, time.time()):
            return
        facts = self.shared.hold(session_id, self.store.path, event["id"])
        if facts:
            self._settle(facts)

    def learn(self, facts):
        """Remember who is behind a session, and attribute what is pending for it.

        facts: the members of KNOWN that telemetry said.  Raises Refused where the
        session is another organisation's.
        """
        facts = {name: facts.get(name) or "" for name in KNOWN}
        known = self.shared.known(facts["session_id"]) if self.shared else None
        owner = self._owner(facts["session_id"]) or known
        if owner and (owner["organisation"], owner["project"]) != (
                facts["organisation"], facts["project"]):
            raise Refused(403, f"Invalid session.id: {facts['session_id'][:100]} is"
                          " another organisation's session")
        if self.shared:
            self.shared.learn(facts)
        self._settle(facts)

    def _owner(self, session_id):
        names = ("organisation", "project")
        rows, _ = self.store.run(
            f"SELECT {', '.join(names)} FROM identities WHERE session_id = ? AND"
            " last_at > ? ORDER BY id LIMIT 1", session_id, time.time() - METADATA_S)
        return dict(zip(names, rows[0])) if rows else None

    def _settle(self, facts):
        now = time.time()
        with self.store.changing():
            self.store.run(
                f"INSERT INTO identities ({', '.join(KNOWN)}, first_at, last_at) VALUES"
                f" ({', '.join('?' * len(KNOWN))}, ?, ?) ON CONFLICT (session_id,"
                " user_email, user_id, organisation, project) DO UPDATE SET"
                " last_at = excluded.last_at", *(facts[name] for name in KNOWN),
                now, now)
            self.store.run(
                "UPDATE events SET identity = ?, pending_until = NULL WHERE"
                " pending_until > ? AND session_id = ?",
                self.who_of(facts["session_id"], now), now, facts["session_id"])

    def sweep(self):
        """Attribute what others have learned; let go what has waited long enough."""
        now = time.time()
        if self.shared:
            rows, _ = self.store.run(
                "SELECT DISTINCT session_id FROM events WHERE pending_until > ? AND"
                " session_id IS NOT NULL LIMIT 1000", now)
            for (session_id,) in rows:
                facts = self.shared.known(session_id)
                if facts:
                    self._settle(facts)
        count = self.store.run("SELECT COUNT(*) FROM events WHERE pending_until <= ?",
                               now)[0][0][0]
        if count and self.require_identity:
            self.store.run("DELETE FROM events WHERE pending_until <= ?", now)
            self.dropped += count
        elif count:
            self.store.run("UPDATE events SET pending_until = NULL WHERE"
                           " pending_until <= ?", now)
        if now - self._noted_at > NOTED_S:
            self._noted_at = now
            self.store.note_run()
        if self.keep_s and now - self._purged_at > PURGE_S:
            self._purged_at = now
            self.store.purge(self.keep_s)

    # What telemetry carries, each stored once.

    def add_record(self, session_id, at, name, members):
        """Store a log record; return whether it is new."""
        mark = members.get("event.timestamp"), members.get("event.sequence")
        key = digest(session_id, name, *(mark if None not in mark else (at, members)))
        with self.store.changing():
            if not self._is_new("records", key):
                return False
            self.store.run(
                "INSERT INTO records (key, session_id, at, name, attributes) VALUES"
                " (?, ?, ?, ?, ?)", key, session_id, at, name, json.dumps(members))
            if name == "api_request":
                for attribute, kind in REQUEST.items():
                    value = members.get(attribute)
                    if type(value) in (int, float) and value > 0:
                        self._use(session_id, members, kind, "logs", value)
        return True

    def _is_new(self, table, key):
        return not self.store.run(f"SELECT 1 FROM {table} WHERE key = ?", key)[0]

    def _use(self, session_id, members, kind, source, value):
        self.store.run(
            "INSERT INTO usage (session_id, model, kind, source, value) VALUES"
            " (?, ?, ?, ?, ?) ON CONFLICT (session_id, model, kind, source) DO UPDATE"
            " SET value = value + excluded.value",
            session_id, str(members.get("model") or ""), kind, source, float(value))

    def add_point(self, session_id, metric, temporality, point):
        """Add up a number of usage; return whether it is new.

        point: (attributes, start and time as the wire has them, value).
        """
        members, start, at, value = point
        kind = METRICS.get(metric)
        kind = KINDS.get(members.get(kind, kind))
        if not kind or temporality not in (DELTA, CUMULATIVE):
            return False
        series = metric, members, start if temporality == DELTA else ""
        key = digest(*series, *((at,) if temporality == DELTA else ()))
        with self.store.changing():
            rows, _ = self.store.run(
                "SELECT start, value FROM points WHERE key = ?", key)
            if rows and temporality == DELTA:
                return False
            before = rows[0][1] if rows and rows[0][0] == start else 0
            self.store.run("INSERT OR REPLACE INTO points (key, start, value, seen_at)"
                           " VALUES (?, ?, ?, ?)", key, start, max(value, before),
                           time.time())
            if value > before:
                self._use(session_id, members, kind, "metrics", value - before)
        return True

    def add_span(self, key, session_id, span):
        """Store a span (name, start, end, attributes); return whether it is new."""
        name, started, ended, members = span
        with self.store.changing():
            is_new = self._is_new("spans", key)
            self.store.run(
                "INSERT OR IGNORE INTO spans (key, session_id, at, name, ended_at,"
                " attributes) VALUES (?, ?, ?, ?, ?, ?)", key, session_id, started,
                name, ended, json.dumps(members))
        return is_new

    # What is told.

    def sessions(self, limit=-1, session_id=None, also=None):
        """Return the sessions, newest first, each with its people and its usage.

        A session that only telemetry tells of has no events, and its last_event is "".
        calls, person, place, state, totals: what the page tells of it.
        session_id: that one alone.  also: one that is there beside the newest *limit*.
        """
        newest = "ORDER BY last_at DESC LIMIT ?"
        is_that = " AND session_id = ?" if session_id else ""
        values = [session_id, limit] if session_id else [limit]
        rows, _ = self.store.run(
            f"SELECT * FROM (SELECT {', '.join(SESSION)} FROM sessions WHERE 1{is_that}"
            f" {newest}) UNION ALL SELECT * FROM ({TOLD_OF}{is_that} GROUP BY"
            f" session_id {newest}) {newest}", *values, *values, limit)
        found, people, usage = [named(SESSION, row) for row in rows], {}, {}
        ids = [session["session_id"] for session in found]
        for n in range(0, len(ids), ASKED_AT_ONCE):
            people.update(self._people(ids[n:n + ASKED_AT_ONCE]))
            usage.update(self._usage(ids[n:n + ASKED_AT_ONCE]))
        for session in found:
            session["source_app"] = session["source_app"][:NAME_SHOWN_CHARS]
            session["people"] = people.get(session["session_id"], [])
            session["usage"] = usage.get(session["session_id"], {})
            session.update(shown(session))
        missed = also and also not in ids
        return [*found, *(self.sessions(session_id=also) if missed else ())]

    def people(self, session_id):
        """Return who a session's telemetry named, oldest first, with the times."""
        return self._people([session_id]).get(session_id, [])

    def _people(self, session_ids):
        names, people = (*KNOWN[1:], "first_at", "last_at"), {}
        rows, _ = self.store.run(
            f"SELECT session_id, {', '.join(names)} FROM identities WHERE session_id IN"
            f" ({', '.join('?' * len(session_ids))}) ORDER BY first_at", *session_ids)
        for session_id, *row in rows:
            people.setdefault(session_id, []).append(
                {name: value for name, value in zip(names, row) if value})
        return people

    def usage(self, session_id):
        """Return {model: {kind: sum}} of a session.

        Metrics and log records count the same requests and arrive apart, so the source
        that has seen more of a kind is told.
        """
        return self._usage([session_id]).get(session_id, {})

    def _usage(self, session_ids):
        rows, _ = self.store.run(
            "SELECT session_id, model, kind, MIN(MAX(value), ?) FROM usage WHERE"
            f" session_id IN ({', '.join('?' * len(session_ids))}) GROUP BY session_id,"
            " model, kind ORDER BY model, kind", USED_MAX, *session_ids)
        usage = {}
        for session_id, model, kind, value in rows:
            usage.setdefault(session_id, {}).setdefault(model, {})[kind] = (
                round(value, 9) if kind == "cost" else int(value))
        return usage

    def telemetry(self, session_id, limit):
        """Return the log records of a session, oldest first."""
        names = ("id", "at", "name", "attributes")
        rows, _ = self.store.run(
            f"SELECT {', '.join(names)} FROM records WHERE session_id = ? ORDER BY id"
            " LIMIT ?", session_id, limit)
        return [{**named(names, row), "attributes": json.loads(row[3])} for row in rows]

    # How a project calls its servers.

    def server_names(self, project):
        rows, _ = self.store.run(
            f"SELECT {', '.join(SERVER_NAME)} FROM server_names WHERE project = ?"
            " ORDER BY raw_server_name", project or "")
        return [dict(zip(SERVER_NAME, row)) for row in rows]

    def name_server(self, project, raw_server_name, display_name):
        """Call a server *display_name* from now on; return what is stored."""
        self.store.run(
            f"INSERT OR REPLACE INTO server_names ({', '.join(SERVER_NAME)}) VALUES"
            " (?, ?, ?, ?)", project or "", raw_server_name, display_name, utc_now())
        return next(row for row in self.server_names(project)
                    if row["raw_server_name"] == raw_server_name)

    def forget_server_name(self, project, raw_server_name):
        """Return whether there was such a name."""
        with self.store.changing():
            known = any(row["raw_server_name"] == raw_server_name
                        for row in self.server_names(project))
            self.store.run("DELETE FROM server_names WHERE project = ? AND"
                           " raw_server_name = ?", project or "", raw_server_name)
        return known


def shown(session):
    """Return what the page tells of *session*, beside what is stored of it."""
    latest, totals = (session["people"] or [{}])[-1], {}
    for sums in session["usage"].values():
        for kind, value in sums.items():
            totals[kind] = totals.get(kind, 0) + value
    return {"calls": max(session["begun"], session["ended"]), "totals": totals,
            "state": state_of(session, time.time()),
            "person": latest.get("user_email") or latest.get("user_id", "")[:12],
            "place": (latest.get("project") or session.get("folder")
                      or session["source_app"])}


def state_of(session, now):
    """Return what *session* does: waiting (for a person), ended, idle, silent, at work.
    """
    if session.get("waiting_since"):
        return "waiting"
    if session["last_event"] == "SessionEnd":
        return "ended"
    if session["last_event"] in RESTS:
        return "idle"
    return "silent" if now - session["last_at"] > SILENT_S else "at work"


def digest(*parts):
    """Return one key for *parts*, JSON values."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
