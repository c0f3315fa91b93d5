# SPDX-License-Identifier: MIT
"""What the page is told: its own files, the turns of a session, a call, a search.

Turns and calls are those of hook_io's story(): nothing is paired here.
"""

import json
import os
import time

from .contract import PRIVATE, Refused, numbers
from .library import library
from .store import metadata_of, seconds

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
#: file of the page -> its type; no other is served
FILES = {
    "index.html": "text/html", "style.css": "text/css",
    **dict.fromkeys(("main.js", "story.js", "sessions.js", "turns.js", "axis.js",
                     "detail.js", "text.js", "asked.js"), "text/javascript")}
#: what the page may do
POLICY = ("default-src 'none'", "script-src 'self'", "style-src 'self'",
          "connect-src 'self'", "img-src data:", "base-uri 'none'",
          "form-action 'none'", "frame-ancestors 'none'")
PROMPT_MAX_CHARS = 20_000
TEXT_MAX_CHARS = 300  # of what stands in a row
PROMPT = "UserPromptSubmit"  # what a turn begins with
FOUND_MAX = 200
SOUGHT_AT_ONCE = 500  # events searched at a time; hooks wait for the store meanwhile
RETOLD_MAX = 500  # events of a turn that is told anew as it goes on; else a part is
#: parameter of GET /story -> (when absent, least, most)
WINDOW = {"before": (str(10**15 - 1), 1, 10**15), "since": ("0", 0, 10**15),
          "limit": ("2000", 1, 5000)}
#: parameter of GET /call -> (when absent, least, most)
CALLED = {"first_id": ("1", 1, 10**15), "last_id": (str(10**15 - 1), 1, 10**15),
          "started_ms": ("0", 0, 10**15), "ended_ms": (str(10**15 - 1), 0, 10**15)}
CALL = ("id", "agent_id", "started_ms", "ended_ms", "duration_ms", "outcome")
TURN = ("prompt_id", "agent", "source_app", "model", "prompt_ms", "started_ms",
        "ended_ms", "duration_ms", "end", "counts", "waits", "compactions")


def get_page(exchange, server):
    """Serve a file of the page: / and /page/NAME."""
    name = exchange.path.partition("?")[0].rpartition("/")[2] or "index.html"
    try:
        with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
            text = file.read()
    except OSError:
        raise Refused(404, f"Invalid path: {name} cannot be read") from None
    modules = [f"</page/{file}>; rel=modulepreload" for file in FILES
               if name == "index.html" and file.endswith(".js")]
    return {"status": 200, "body": text, "headers": {
        **PRIVATE, "Content-Type": f"{FILES[name]}; charset=utf-8",
        "Content-Security-Policy": "; ".join(POLICY),
        "Link": ", ".join(modules) or None}}


def asked(exchange, *names):
    """Return the query's parameters *names*; raise Refused where one is missing."""
    query = exchange.query
    for name in names:
        if not query.get(name):
            raise Refused(400, f"Invalid {name}: must be given")
    return query


def told(value):
    return {"status": 200, "body": json.dumps(value, separators=(",", ":")),
            "headers": {**PRIVATE, "Content-Type": "application/json"}}


def get_story(exchange, server):
    """Tell the newest turns of a session that lie between two events.

    session_id: the one that was at work last, where it is absent.  before, since: ids
    of events; the turn that goes on at *since* is told from its beginning, unless that
    is more than RETOLD_MAX events ago.  limit: events.

    A window begins with a prompt if there is one in its older half, so that few turns
    are told in parts; the rest of such a turn has its prompt before it all the same.
    Answers with the turns; events, how many but that prompt; from_ms, the time of the
    first of them; ids, of the first and the last; earlier, the id before which there
    is more.
    """
    query = asked(exchange)
    window, store = numbers(query, WINDOW), server.store
    session_id = query.get("session_id") or newest_session(server)
    chosen = {"session_id": session_id, "until_id": window["before"],
              "newest_first": True}
    if not store.select(since_id=window["since"], **{**chosen, "limit": 1}):
        return told({"session_id": session_id, "turns": [], "earlier": None})
    events = store.select(since_id=beginning(store, session_id, window["since"]),
                          limit=window["limit"], **chosen)[::-1]
    is_whole = len(events) < window["limit"]
    if not is_whole:
        older = [event["event_type"] for event in events[:len(events) // 2]]
        events = events[older.index(PROMPT) if PROMPT in older else 0:]
    begun = [] if events[0]["event_type"] == PROMPT else store.select(
        event_type=PROMPT, **{**chosen, "until_id": events[0]["id"], "limit": 1})
    names = names_of(server, session_id)
    hook_io = library()
    return told({
        "session_id": session_id, "earlier": None if is_whole else events[0]["id"],
        "from_ms": round(seconds(events[0]["timestamp"], time.time()) * 1000),
        "ids": [events[0]["id"], events[-1]["id"]], "events": len(events),
        "turns": [brief_turn(turn, hook_io, names)
                  for turn in hook_io.story([*begun, *events])]})


def newest_session(server):
    return next((one["session_id"] for one in server.attribution.sessions(1)), "")


def beginning(store, session_id, since_id):
    """Return the id after which to tell what goes on at *since_id*."""
    if not since_id:
        return 0
    begun = store.select(session_id=session_id, event_type=PROMPT, newest_first=True,
                         until_id=since_id + 1, limit=1)
    first_id = begun[0]["id"] if begun else 0
    ((count,),), _ = store.run(
        "SELECT COUNT(*) FROM events WHERE session_id = ? AND id BETWEEN ? AND ?",
        session_id, first_id, since_id)
    return since_id if count > RETOLD_MAX else max(0, first_id - 1)


def names_of(server, session_id):
    """Return how the project of a session calls its MCP servers: {raw: shown}."""
    people = server.attribution.people(session_id)
    rows = server.attribution.server_names(people[-1].get("project") if people else "")
    return {row["raw_server_name"]: row["display_name"] for row in rows}


def brief_turn(turn, hook_io, names):
    """Return *turn* with as much of its texts as a row has room for."""
    lanes = {agent["agent_id"]: shortened(agent["agent_type"]) or "subagent"
             for agent in turn["subagents"]}
    calls = [brief_call(call, lanes, hook_io, names) for call in hook_io.calls_of(turn)]
    calls.sort(key=lambda call: call.get("started_ms") or call.get("ended_ms") or 0)
    return {**{name: turn[name] for name in TURN}, "calls": calls,
            "prompt": shortened(turn["prompt"], PROMPT_MAX_CHARS),
            "error": shortened(turn["error"])}


def brief_call(call, lanes, hook_io, names):
    """Return *call* as a row has it; a member that says nothing is left out."""
    said = {"tool_name": call["tool"], "tool_input": call["input"]}
    subject = hook_io.summary(said, "PreToolUse").partition(": ")[2]
    _, _, named = call["tool"].partition("mcp__")
    server_name, _, tool = named.partition("__")
    brief = {**{name: call[name] for name in CALL}, "subject": shortened(subject),
             "tool": shortened(call["tool"]), "error": shortened(call["error"]),
             "lane": lanes.get(call["agent_id"], "")}
    if tool and server_name in names:
        brief["shown"] = shortened(f"{names[server_name]}: {tool}")
    return {name: value for name, value in brief.items() if value not in ("", None)}


def shortened(text, most=TEXT_MAX_CHARS):
    text = text if isinstance(text, str) else json.dumps(text) if text else ""
    return text if len(text) <= most else text[:most] + "…"


def get_call(exchange, server):
    """Tell all that the events of one call say, in Claude Code's words.

    first_id, last_id: the events among which they are.  id: the call's; without one,
    they are those of its tool between started_ms and ended_ms.
    """
    query, hook_io = asked(exchange, "session_id"), library()
    span = numbers(query, CALLED)
    events = server.store.select(
        session_id=query["session_id"], text=query.get("id", ""),
        since_id=span["first_id"] - 1, until_id=span["last_id"] + 1,
        limit=20 if query.get("id") else 5000)
    said = [{**event, "metadata": hook_io.normalise(metadata_of(event))}
            for event in events]
    return told([event for event in said if is_of_call(event, query, span)][:20])


def is_of_call(event, query, span):
    """Tell whether *event* belongs to the call that is asked for."""
    said, at_ms = event["metadata"], seconds(event["timestamp"], 0) * 1000
    if query.get("id"):
        return said.get("tool_use_id") == query["id"]
    return (said.get("tool_name") == query.get("tool")
            and span["started_ms"] - 1 < at_ms < span["ended_ms"] + 1)


def get_search(exchange, server):
    """Tell the newest events that have a text anywhere, without regard to case."""
    sought = asked(exchange, "q")["q"]
    #: as it is, and as JSON has it, which an agent's own event is kept in
    texts, found = {sought, json.dumps(sought)[1:-1]}, {}
    until_id = server.store.newest_id() + 1
    ((oldest_id,),), _ = server.store.run("SELECT MIN(id) FROM events")
    while oldest_id and until_id > oldest_id and len(found) < FOUND_MAX:
        first_id = until_id - SOUGHT_AT_ONCE
        for text in texts:
            found.update((event["id"], event) for event in server.store.select(
                text=text, until_id=until_id, since_id=max(0, first_id - 1),
                newest_first=True, limit=FOUND_MAX))
        until_id = first_id
    newest = sorted(found, reverse=True)[:FOUND_MAX]
    return told([with_excerpt(found[number], sought) for number in newest])


def with_excerpt(event, sought):
    """Return *event* with an excerpt in place of its metadata."""
    rest = {name: value for name, value in event.items() if name != "metadata"}
    return {**rest, "excerpt": excerpt(metadata_of(event), sought)}


def excerpt(value, sought):
    """Return of *value*, as JSON, as much as a row has room for.

    That is what stands before *sought*, that itself as JSON has it, and what is behind.
    """
    text = json.dumps(value, ensure_ascii=False)
    for found in (json.dumps(sought, ensure_ascii=False)[1:-1], sought):
        at = text.lower().find(found.lower())
        if at >= 0:
            first, end = max(0, at - 60), at + len(found)
            return [text[first:at], text[at:end], text[end:first + TEXT_MAX_CHARS]]
    return ["", "", text[:TEXT_MAX_CHARS]]
