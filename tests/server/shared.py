# SPDX-License-Identifier: MIT
"""The pending buffer and the sessions' metadata in Redis, for several servers.

Needs the package `redis`.  Each step is one transaction: either an event finds the
metadata, or the metadata finds the event, whichever of two servers was faster.
"""

import json
import time

METADATA_S = 24 * 3600
PENDING_S = 600
ANSWER_S = 0.5
AWAY_S = 5


class Shared:
    """A buffer that servers have in common at *url*, redis://HOST:PORT/N.

    A server that cannot reach it goes on alone, since its own store has every event:
    what it missed it makes up in its next sweep.  Raises ImportError without the
    package, ValueError for a URL that is none.
    """

    def __init__(self, url):
        import redis
        self._error = redis.RedisError
        self._redis = redis.Redis.from_url(
            url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S,
            decode_responses=True)
        self._away_until = 0

    def _transaction(self, *commands):
        """Return the answers to *commands*, None each where nobody answers.

        Who did not answer is not asked again for a while: a hook waits meanwhile.
        """
        nothing = [None] * len(commands)
        if time.monotonic() < self._away_until:
            return nothing
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                for name, *arguments in commands:
                    pipe.execute_command(name, *arguments)
                return pipe.execute()
        except (self._error, OSError):
            self._away_until = time.monotonic() + AWAY_S
            return nothing

    def learn(self, facts):
        """Remember *facts* of a session, in the place of what was known before."""
        session_id = facts["session_id"]
        self._transaction(
            ("SET", metadata_key(session_id), json.dumps(facts), "EX", METADATA_S),
            ("DEL", pending_key(session_id)))

    def hold(self, session_id, store, event_id, tool_use_id=""):
        """Note a pending event; return the session's metadata where it is there."""
        key = pending_key(session_id)
        *_, text = self._transaction(
            ("HSET", key, f"{tool_use_id}:{store}:{event_id}", event_id),
            ("EXPIRE", key, PENDING_S), ("GET", metadata_key(session_id)))
        return json.loads(text) if text else None

    def known(self, session_id):
        """Return what is known of a session, or None."""
        (text,) = self._transaction(("GET", metadata_key(session_id)))
        return json.loads(text) if text else None


def metadata_key(session_id):
    return f"session:metadata:{session_id}"


def pending_key(session_id):
    return f"hook:pending:{session_id}"
