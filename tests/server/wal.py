# SPDX-License-Identifier: MIT
"""The log of changes of a Store (SQLite's write-ahead log), in a thread of its own.

A sync to disk takes long where others use the disk, and hooks wait for who writes
events: so all that syncs, or fetches a block from the disk, is done here.
"""

import contextlib
import io
import os
import sqlite3
import threading
import time

SYNC_S = 0.1  # how often the log is brought to disk, where it has changed
CHECKPOINT_S = 2  # how often it is put into the file
MAX_PAGES = 25000  # then it begins anew
FRAME_BYTES = 4096 + 24  # a page in the log, with its head
#: tells the journal of the file system of a new size, and of no time of a change
SYNC = getattr(os, "fdatasync", os.fsync)
LAY_OUT = getattr(os, "posix_fallocate", None)
LAID_LEAST = 1 << 20  # bytes between two checkpoints that are worth it


class Wal:
    """Look after the log of *store*, which is a file, until *stopping* is set.

    rounds: how often it has been looked at.  file: the store's, to be closed after
    SQLite has closed it: a close ends all locks that this process has of it.
    """

    def __init__(self, store, stopping):
        self._store, self._stopping = store, stopping
        self._synced, self._pages, self.rounds = None, 0, 0
        self.file = io.FileIO(store.path, "r+")
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        due = time.monotonic() + CHECKPOINT_S
        path = self._store.path
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(
                sqlite3.connect(path, timeout=0)) as own, open(
                    f"{path}-wal", "r+b", buffering=0) as log:
            while not self._stopping.wait(SYNC_S):
                is_due = time.monotonic() >= due
                # busy, or full: soon again; or closed
                with contextlib.suppress(sqlite3.OperationalError, OSError, ValueError):
                    self._sync(own, log, is_due)
                self.rounds += 1
                if is_due:
                    due = time.monotonic() + CHECKPOINT_S

    def _sync(self, own, log, is_due):
        """Bring the log to disk, and where it *is_due*, into the file.

        A write waits where much is on its way to the disk, so little is to be.
        """
        changes = self._store.changes()
        if changes == self._synced:
            return
        SYNC(log.fileno())
        if is_due:
            self._lay_out(log, self._put_into_file(own))
            self._synced = changes

    def _put_into_file(self, own):
        """Put the log into the file; return its pages; where it has grown, begin anew.

        Where events come all the time, there are always some that the first steps have
        not put there, so the last one is done while nobody of this process writes.  It
        syncs the file, in which little is to be new by then.
        """
        for _ in range(2):
            ((_, pages, _),) = own.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if pages > MAX_PAGES:
            SYNC(self.file.fileno())
            own.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            SYNC(self.file.fileno())
            with self._store.lock:
                own.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        return pages

    def _lay_out(self, log, pages):
        """Make room behind the log, for twice what came since the last checkpoint.

        Pages of the log do not end where the disk's blocks do, and Linux may fetch a
        block from the disk before it lets a part of it be written, but for one that is
        known to be empty.
        """
        added = pages - self._pages if pages >= self._pages else pages
        self._pages = pages
        needed = min(pages + 2 * added, MAX_PAGES + added) * FRAME_BYTES
        size = log.seek(0, os.SEEK_END)
        if added * FRAME_BYTES >= LAID_LEAST and size < needed and LAY_OUT:
            with self._store.changing():  # nobody else makes it longer
                size = log.seek(0, os.SEEK_END)
                LAY_OUT(log.fileno(), size, max(1, needed - size))
