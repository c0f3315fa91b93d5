# SPDX-License-Identifier: MIT
"""Writes of several threads, done together: one transaction, then all are answered."""

import threading
import time

GATHER_S = 0.004  # from one group to the next, where writes follow each other closely


class Write:
    """One thread's wish: what to write, and once it is done its result or its error."""

    def __init__(self, wish):
        self.wish, self.result, self.error = wish, None, None
        self.turn = threading.Lock()
        self.turn.acquire()

    @property
    def is_done(self):
        return self.result is not None or self.error is not None


def together(write, wishes):
    """Return the result of each of *wishes*, or the exception that it alone raises.

    write: see Groups.
    """
    try:
        return write(wishes)
    except Exception as error:  # of whatever kind, it is for who has that wish
        if len(wishes) == 1:
            return [error]
        return [together(write, [wish])[0] for wish in wishes]


class Groups:
    """Take wishes one by one, and hand them over in groups.

    write: a function of a list of wishes that returns a result (not None) for each, or
    raises, all being undone then.  A wish that fails in a group is tried alone, so that
    it takes no other with it.

    The first of the waiting threads writes for all and then wakes them: a write that
    comes alone costs no switch of threads, and waits for nobody.
    """

    def __init__(self, write):
        self._write, self._lock = write, threading.Lock()
        self._waiting, self._is_led = [], False
        self._ended_at, self._led_by = 0.0, None

    def do(self, wish):
        """Return the result of *wish* once its group is written, or raise its error."""
        mine = Write(wish)
        with self._lock:
            self._waiting.append(mine)
            leads, self._is_led = not self._is_led, True
        if not leads:
            mine.turn.acquire()
        if not mine.is_done:  # its turn to write, for itself and all behind it
            self._lead(mine)
        if mine.error is not None:
            raise mine.error
        return mine.result

    def _lead(self, mine):
        wait_s = self._ended_at + GATHER_S - time.monotonic()
        if wait_s > 0 and self._led_by != threading.get_ident():
            time.sleep(wait_s)  # several write: more of them are on their way
        self._led_by = threading.get_ident()
        with self._lock:
            group, self._waiting = self._waiting, []
        results = together(self._write, [write.wish for write in group])
        for write, result in zip(group, results):
            if isinstance(result, Exception):
                write.error = result
            else:
                write.result = result
        with self._lock:
            self._ended_at = time.monotonic()
            self._is_led = bool(self._waiting)
            woken = [*group, *self._waiting[:1]]  # the last one is to lead
        for write in woken:
            if write is not mine:
                write.turn.release()
