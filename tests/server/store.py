# SPDX-License-Identifier: MIT
"""The events, in SQLite."""

import contextlib
import sqlite3
import threading

from .contract import FIELDS, utc_now


class Store:
    """The events, in SQLite; one connection that threads take turns at.

    Raises sqlite3.Error where *db* (a file, or ":memory:") cannot hold events.
    """

    COLUMNS = ("id", *FIELDS, "created_at")
    RUN = ("after_id", "started_at", "stopped_at")

    def __init__(self, db):
        self._lock, self._own_run = threading.Lock(), None
        self._sqlite = sqlite3.connect(db, isolation_level=None,
                                       check_same_thread=False)
        try:
            # No sync to disk for each event: a hook waits for the answer.
            self._run("PRAGMA journal_mode=WAL")
            self._run("PRAGMA synchronous=NORMAL")
            self._run("CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY"
                      f" AUTOINCREMENT, {' TEXT, '.join(self.COLUMNS[1:])} TEXT)")
            self.select(limit=1)  # a table of that name with other columns fails here
            self._run("CREATE TABLE IF NOT EXISTS runs (id INTEGER PRIMARY KEY,"
                      f" {', '.join(self.RUN)})")
            _, self._own_run = self._run(
                "INSERT INTO runs (after_id, started_at) VALUES (?, ?)",
                self.newest_id(), utc_now())
        except sqlite3.Error:
            self.close()
            raise

    def _run(self, statement, *values):
        with self._lock:
            cursor = self._sqlite.execute(statement, values)
            return cursor.fetchall(), cursor.lastrowid

    def add(self, event):
        """Store *event*; return it with its id and created_at (UTC, ms)."""
        row = {**event, "created_at": utc_now()}
        _, row_id = self._run(f"INSERT INTO events ({', '.join(row)}) VALUES"
                              f" ({', '.join('?' * len(row))})", *row.values())
        return {"id": row_id, **row}

    def select(self, since_id=0, limit=-1, **equal):
        """Return events after *since_id*, oldest first; a negative limit is none."""
        where = " AND ".join(["id > ?"] + [f"{name} = ?" for name in equal])
        rows, _ = self._run(f"SELECT {', '.join(self.COLUMNS)} FROM events"
                            f" WHERE {where} ORDER BY id LIMIT ?",
                            since_id, *equal.values(), limit)
        return [{name: value for name, value in zip(self.COLUMNS, row)
                 if value is not None} for row in rows]

    def count(self):
        """Return how many events there are."""
        return self._run("SELECT COUNT(*) FROM events")[0][0][0]

    def newest_id(self):
        """Return the highest id, 0 where there are no events."""
        return self._run("SELECT COALESCE(MAX(id), 0) FROM events")[0][0][0]

    def changes(self):
        """Return a number that another event changes; costs no query."""
        with self._lock:
            return self._sqlite.total_changes

    def runs(self):
        """Return when a server had this store, oldest first; the last is our own.

        A run that has no stopped_at was killed, unless it is going on.
        """
        rows, _ = self._run(f"SELECT {', '.join(self.RUN)} FROM runs ORDER BY id")
        return [{name: value for name, value in zip(self.RUN, row)
                 if value is not None} for row in rows]

    def close(self):
        """Close the file; nothing can be read afterwards."""
        with contextlib.suppress(sqlite3.Error):  # closed before, or never usable
            self._run("UPDATE runs SET stopped_at = ? WHERE id = ?",
                      utc_now(), self._own_run)
        with self._lock:
            self._sqlite.close()
