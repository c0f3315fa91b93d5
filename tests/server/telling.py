# SPDX-License-Identifier: MIT
"""What the page is told: its own files, the turns of a session, a call, a search.

Turns and calls are those of hook_io's story(): nothing is paired here.
"""

import json
import os

from .contract import PRIVATE, Refused, numbers
from .library import library
from .store import metadata_of

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
#: file of the page -> its type; no other is served
FILES = {
    "index.html": "text/html", "style.css": "text/css",
    **dict.fromkeys(("main.js", "sessions.js", "turns.js", "axis.js", "detail.js",
                     "text.js", "asked.js"), "text/javascript")}
#: what the page may do
POLICY = ("default-src 'none'", "script-src 'self'", "style-src 'self'",
          "connect-src 'self'", "img-src data:", "base-uri 'none'",
          "form-action 'none'", "frame-ancestors 'none'")
PROMPT_MAX_CHARS = 2000
TEXT_MAX_CHARS = 300  # of what stands in a row
FOUND_MAX = 200
#: parameter of GET /story -> (when absent, least, most)
WINDOW = {"before": (str(10**15 - 1), 1, 10**15), "limit": ("2000", 1, 5000)}
CALL = ("id", "tool", "agent_id", "started_ms", "ended_ms", "duration_ms", "outcome")
TURN = ("prompt_id", "agent", "source_app", "model", "started_ms", "ended_ms",
        "duration_ms", "end", "counts", "waits", "compactions")


def get_page(exchange, server):
    """Serve a file of the page: / and /page/NAME."""
    name = exchange.path.partition("?")[0].rpartition("/")[2] or "index.html"
    try:
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            text = file.read()
    except OSError:
        raise Refused(404, f"Invalid path: {name} cannot be read") from None
    return {"status": 200, "body": text, "headers": {
        **PRIVATE, "Content-Type": f"{FILES[name]}; charset=utf-8",
        "Content-Security-Policy": "; ".join(POLICY)}}


def asked(exchange, *names):
    """Return the query's parameters *names*; raise Refused where one is missing."""
    query = {name: values[-1] for name, values in exchange.query.items()}
    for name in names:
        if not query.get(name):
            raise Refused(400, f"Invalid {name}: must be given")
    return query


def told(value):
    return {"status": 200, "json": value, "headers": PRIVATE}


def get_story(exchange, server):
    """Tell the newest turns of a session before an event, and where earlier ones are.

    A window begins with a prompt where it has one, so that no turn is told in halves.
    """
    query = asked(exchange, "session_id")
    window = numbers(query, WINDOW)
    events = server.store.select(session_id=query["session_id"], newest_first=True,
                                 until_id=window["before"], limit=window["limit"])
    events.reverse()
    if len(events) == window["limit"]:
        first = next((number for number, event in enumerate(events)
                      if event["event_type"] == "UserPromptSubmit"), 0)
        events = events[first:]
        earlier = events[0]["id"]
    else:
        earlier = None
    hook_io = library()
    turns = [brief_turn(turn, hook_io) for turn in hook_io.story(events)]
    return told({"turns": turns, "earlier": earlier,
                 "newest": events[-1]["id"] if events else 0})


def brief_turn(turn, hook_io):
    """Return *turn* with as much of its texts as a row has room for."""
    lanes = {agent["agent_id"]: shortened(agent["agent_type"]) or "subagent"
             for agent in turn["subagents"]}
    calls = [brief_call(call, lanes, hook_io) for call in hook_io.calls_of(turn)]
    calls.sort(key=lambda call: call["started_ms"] or call["ended_ms"] or 0)
    return {**{name: turn[name] for name in TURN}, "calls": calls,
            "prompt": shortened(turn["prompt"], PROMPT_MAX_CHARS),
            "error": shortened(turn["error"])}


def brief_call(call, lanes, hook_io):
    said = {"tool_name": call["tool"], "tool_input": call["input"]}
    subject = hook_io.summary(hook_io.normalise(said, "claude-code"), "PreToolUse")
    subject = subject.partition(": ")[2] if ": " in subject else ""
    return {**{name: call[name] for name in CALL}, "subject": shortened(subject),
            "tool": shortened(call["tool"]),
            "lane": lanes.get(call["agent_id"], ""), "error": shortened(call["error"])}


def shortened(text, most=TEXT_MAX_CHARS):
    text = text if isinstance(text, str) else json.dumps(text) if text else ""
    return text if len(text) <= most else text[:most] + "…"


def get_call(exchange, server):
    """Tell all that the events of one call say, by the call's id."""
    query = asked(exchange, "session_id", "id")
    events = server.store.select(session_id=query["session_id"], text=query["id"],
                                 limit=20)
    return told([{**event, "metadata": metadata_of(event)} for event in events])


def get_search(exchange, server):
    """Tell the newest events that have a text anywhere, without regard to case."""
    query = asked(exchange, "q")
    events = server.store.select(text=query["q"], newest_first=True, limit=FOUND_MAX)
    return told([{**event, "metadata": excerpt(event, query["q"])} for event in events])


def excerpt(event, sought):
    """Return what stands around *sought* in the metadata of *event*."""
    text = event.get("metadata", "")
    at = max(0, text.lower().find(sought.lower()) - 60)
    return text[at:at + TEXT_MAX_CHARS]
