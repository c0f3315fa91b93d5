# SPDX-License-Identifier: MIT
"""A person answers a hook that waits: what is asked, and the first answer to it.

A hook that takes decisions says with its event how far an answer may go and how long
it waits, as in `Hook-IO-Decide: full 1000`; what does not say so is never held.  No
answer in that time, less a margin for the way back, decides nothing.
"""

import re
import secrets
import threading
import time

from .contract import PRIVATE, Refused, is_read_by, is_text, parsed
from .policy import EVENTS
from .store import metadata_of

HEADER = "hook-io-decide"
SAID = re.compile(r"(deny|full) (\d{1,6})", re.A)
MARGIN_MS = 100  # at least; else a tenth of the time
WATCHED_S = 5  # after a page with its switch on has last asked
TEXT_MAX_CHARS = 1000
INTENTS = {"allow": "a person allowed it", "deny": "a person denied it"}
SHOWN = ("event_type", "source_app", "session_id", "tool_name", "summary")


def held_ms(wait_ms):
    """Return how long a hook that waits *wait_ms* is held at most."""
    return max(0, wait_ms - max(MARGIN_MS, wait_ms // 10))


class Desk:
    """What waits for a person, and their answers; all methods may be called at once."""

    def __init__(self):
        self._changed, self._open = threading.Condition(), {}
        self._watched_until, self._is_closed = 0.0, False

    def ask(self, event, rule, said):
        """Return a key to wait() with; "" where this event is not held.

        rule: the policy's answer.  said: the header.
        """
        match = SAID.fullmatch(said or "")
        if not match or event.get("event_type") not in EVENTS or not (
                rule.get("intent") == "wait" or (not rule and self.is_watched())):
            return ""
        wait_ms, key = int(match.group(2)), secrets.token_hex(8)
        deadline = time.monotonic() + held_ms(wait_ms) / 1000
        with self._changed:
            self._open[key] = {"event": event, "limit": match.group(1),
                               "deadline": deadline, "answer": None}
        return key

    def wait(self, key):
        """Return the answer to what *key* asks, {} where none came in time."""
        asked = self._open[key]
        with self._changed:
            self._changed.wait_for(
                lambda: asked["answer"] or self._is_closed,
                max(0.0, asked["deadline"] - time.monotonic()))
            del self._open[key]
            return asked["answer"] or {}

    def drop(self, key):
        """Take back what ask() returned *key* for."""
        with self._changed:
            self._open.pop(key, None)

    def answer(self, key, intent, text):
        """Take the first answer; raise Refused for any other."""
        with self._changed:
            asked = self._open.get(key)
            if not asked or asked["answer"] or time.monotonic() >= asked["deadline"]:
                raise Refused(409, "Cannot answer: it is answered, or its time is over")
            asked["answer"] = {"intent": intent, "text": text or INTENTS[intent]}
            self._changed.notify_all()

    def watch(self):
        """Hold what no rule of the policy decides, for a while."""
        self._watched_until = time.monotonic() + WATCHED_S

    def is_watched(self):
        """Tell whether a page with its switch on is open."""
        return time.monotonic() < self._watched_until

    def waiting(self):
        """Return what is not answered yet, oldest first."""
        with self._changed:
            return [self._shown(key, asked) for key, asked in self._open.items()
                    if not asked["answer"]]

    @staticmethod
    def _shown(key, asked):
        given = metadata_of(asked["event"]).get("tool_input")
        return {"id": key, "limit": asked["limit"], "tool_input": given,
                **{name: asked["event"].get(name, "") for name in SHOWN}}

    def close(self):
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def get_asked(exchange, server):
    """Tell what waits; a page whose switch is on posts, and so is asked from then."""
    if exchange.method == "POST":
        must_be_page(exchange)
        server.desk.watch()
    return {"status": 200, "json": server.desk.waiting(), "headers": PRIVATE}


def post_answer(exchange, server):
    """Take a person's answer from the page."""
    must_be_page(exchange)
    body = parsed(exchange.body) if is_read_by(parsed, exchange.body) else None
    key, intent, text = (body.get(name) if isinstance(body, dict) else None
                         for name in ("id", "intent", "text"))
    if not isinstance(key, str) or intent not in tuple(INTENTS) or not is_text(
            text, most=TEXT_MAX_CHARS):
        raise Refused(400, "Invalid body: must be an object with id, intent (one of"
                      f" [{', '.join(INTENTS)}]) and text, at most {TEXT_MAX_CHARS}"
                      " characters")
    server.desk.answer(key, intent, text.strip())
    return {"status": 204, "body": ""}


def must_be_page(exchange):
    """Raise Refused unless the page that this very address serves is the sender.

    A browser names the page behind each POST, and no page can name another.
    """
    origin = exchange.headers.get("origin", "").partition("://")[2]
    if not origin or origin != exchange.headers.get("host"):
        raise Refused(403, "Invalid Origin: must be this server's own page")
