# SPDX-License-Identifier: MIT
"""Events that are posted: read, stored once each, and answered, alone or together."""

import sqlite3
from dataclasses import dataclass

from .asking import HEADER
from .contract import Refused, refusal
from .intake import announced, keep, read_event
from .store import cause


@dataclass
class Post:
    """An event that has been read, and what decides about it.

    key: names the event however often it is sent.  decision: the policy's.  asked: what
    a person at the page is asked by, "" for nothing.
    """

    event: dict
    key: str
    is_agents_own: bool
    decision: dict
    asked: str


def read_post(exchange, server):
    """Return the Post in *exchange*; raise Refused."""
    event, is_agents_own = read_event(exchange)
    decision = server.policy.decide(event) if server.policy else {}
    asked = server.desk.ask(event, decision, exchange.headers.get(HEADER))
    if not (asked or decision) and HEADER in exchange.headers and (
            server.policy or server.desk.is_watched()):
        decision = {"intent": "none"}  # judged, as a hook that fails closed has to know
    return Post(event, exchange.headers.get("idempotency-key"), is_agents_own, decision,
                asked)


def reply_to(post, stored, server):
    """Return the reply to *post*; wait for a person where one is asked."""
    decision = post.decision
    if post.asked or decision.get("intent") == "wait":
        decision = server.desk.wait(post.asked) if post.asked else {}
    if post.is_agents_own:  # an agent's http hook reads an answer as a decision
        return {"status": 200, "json": http_answer(post.event, decision)}
    return {"status": 201, "json": {**stored, **decision}}


def http_answer(event, answer):
    """Return *answer* as an http hook of Claude Code reads it."""
    if answer.get("intent", "none") == "none":
        return {}
    return {"hookSpecificOutput": {
        "hookEventName": event["event_type"], "permissionDecision": answer["intent"],
        "permissionDecisionReason": answer["text"]}}


def post_event(exchange, server):
    """Take one event."""
    post = read_post(exchange, server)
    try:
        stored = keep(server, post.event, post.key)
    except sqlite3.Error:
        server.desk.drop(post.asked)
        raise
    return reply_to(post, stored, server)


def keep_all(posts, server):
    """Store *posts* together; return for each the stored event, or what it raises."""
    results = server.store.add_all([(post.event, post.key) for post in posts])
    return [kept(post, result, server) for post, result in zip(posts, results)]


def kept(post, result, server):
    if not isinstance(result, Exception):
        return announced(server, *result)
    server.desk.drop(post.asked)
    return result


def failure(error, server):
    """Return the reply to a request that raised *error*, of Refused or sqlite3."""
    if isinstance(error, Refused):
        return refusal(*error.args)
    text = cause(error, server.store.path)
    return refusal(507 if "full" in text else 500, f"Cannot store: {text}")
