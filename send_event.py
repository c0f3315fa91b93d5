#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.8"
# dependencies = []
# ///
# SPDX-License-Identifier: MIT
# send_event 0.1.0, part of hook-io - copy freely with hook_io.py, keep these two lines.
"""Send one event of a coding agent to an observability server, within 100 ms.

    stdin    the agent's event, one JSON object; what is no event is told, and sent
    request  POST of one JSON object: timestamp, source_app, event_type, tool_name,
             summary, session_id, metadata (a string of JSON: the event, redacted)
    stdout   empty, or one JSON document with a hint for the person
    stderr   empty when sent; else [ERROR] with cause and URL, then [WARNING]
    exit 0   sent or lost: the agent goes on
    exit 2   a mistake on the command line, or --fail-loud block

Data flow: read, redact, fit, post_json, account_for.  Here is what an event looks like
on the wire; how it travels is hook_io's.  This file is compiled at every start, hook_io
once: what need not stand here stands there.
"""

import time

STARTED = time.monotonic()  # the time budget runs from here

import sys

if __name__ == "__main__" and not (
        sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder, which may hold a json.py; only hook_io is wanted

import os

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import hook_io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hook_io import Event, HookResult

STDIN_IDLE_MS = 500
BODY_MAX_BYTES = 256 * 1024

#: option ("-": none), its variable, default, what it takes, what it is for; a text,
#: because that is compiled at no cost; hook_io.parse_options says what the words mean
OPTIONS = """
--source-app  -                           required NAME    project of the event
--event-type  -                           required EVENT   PreToolUse, Stop, ...
--session-id  HOOK_IO_SESSION_ID          -        UUID    instead of the event's own
--metadata    HOOK_IO_METADATA            -        JSON    sent instead of the event
--summarize   HOOK_IO_SUMMARIZE           -        -       accepted; summaries are local
--server-url  HOOK_IO_SERVER_URL          http://localhost:4000/events URL where to
--timeout-ms  HOOK_IO_TIMEOUT_MS          100      1-60000 time budget
--format      HOOK_IO_FORMAT              events   events  form of the request
--fail-loud   HOOK_IO_FAIL_LOUD           hint     hint|block|off how losses are told
-             HOOK_IO_FAIL_LOUD_THRESHOLD 3        1-9999999 losses until then
-             HOOK_IO_FIELDS              -        NAMES   all that leaves: cwd,prompt
-             HOOK_IO_ALLOW_HTTP          -        -       1: http to public addresses
-             HOOK_IO_STATE_DIR           -        FOLDER  where losses are counted
-             HOOK_IO_PLATFORM            -        AGENT   agent of every event
-             HOOK_IO_PURE                -        -       1: json, socket; no C halves
-             HOOK_IO_OFF                 -        -       1: do nothing at all
"""


def read(options: "Event") -> "Event":
    """Fill *options*, then return the event, or {"input_error": why}."""
    if os.environ.get("HOOK_IO_OFF", "0") not in ("", "0"):
        raise hook_io.Done(hook_io.NOTHING)
    values, notes = hook_io.parse_options(OPTIONS, sys.argv[1:], "send_event.py")
    before = time.monotonic()
    try:
        event = hook_io.read_event(idle_ms=STDIN_IDLE_MS)
    except hook_io.InputError as error:
        event = {"input_error": str(error)}
        notes.append(f"[WARNING] The event on stdin is {error}")
    waited = time.monotonic() - before  # for the agent: that is not the server's fault
    deadline = STARTED + waited + int(values["timeout_ms"]) / 1000
    options.update(values, notes=notes, deadline=deadline)
    return event


def send(event: "Event", options: "Event") -> "HookResult":
    """Post the *event* and return what is to be said of it, most often nothing."""
    url, fields = options["server_url"], options["fields"].replace(" ", "")
    allowed = fields.split(",") if fields else event
    leaving = {name: event[name] for name in allowed if name in event}
    body = hook_io.fit(
        hook_io.redact(leaving, hook_io.STRING_MAX_CHARS),
        lambda fitting: FORMATS[options["format"]](fitting, options), BODY_MAX_BYTES)
    outcome = hook_io.post_json(
        url, body, options["deadline"], allow_http=options["allow_http"] != "")
    return hook_io.account_for(
        outcome, event, "send_event", url, options["event_type"],
        options["timeout_ms"], int(options["fail_loud_threshold"]),
        options["fail_loud"], options["notes"])


def events_format(event: "Event", options: "Event") -> "Event":
    """Return the body of the hook script contract: one flat object for /events."""
    now, metadata = time.time(), options["metadata"]
    body = {
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(now))
        + f"{int(now * 1000) % 1000:03}Z",
        "source_app": options["source_app"],
        "event_type": options["event_type"],
        "tool_name": event.get("tool_name"),
        "summary": hook_io.summary(event, options["event_type"]),
        "session_id": options["session_id"] or event.get("session_id"),
        "metadata": hook_io.redact(metadata) or (event and hook_io.encode(event)),
    }
    return {name: text for name, text in body.items() if text and isinstance(text, str)}


#: name -> function of the redacted event and the options that returns the body
FORMATS = {"events": events_format}


def main() -> None:
    """Run the hook on this process's arguments, variables and streams."""
    options: "Event" = {}
    hook_io.run(lambda event: send(event, options), "send_event",
                read=lambda: read(options))


if __name__ == "__main__":
    main()
