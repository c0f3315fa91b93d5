#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.8"
# dependencies = []
# ///
# SPDX-License-Identifier: MIT
# send_event 0.2.0, part of hook-io - copy freely with hook_io.py, keep these two lines.
"""Send one event of a coding agent to an observability server, within 100 ms.

    stdin    the agent's event, one JSON object; what is no event is told, and sent
    request  POST of one JSON object: timestamp, source_app, event_type, tool_name,
             summary, session_id, metadata (a string of JSON: the event, redacted);
             --format: another
    stdout   empty, or one JSON document with a hint for the person
    stderr   empty when sent; else [ERROR] with cause and URL, then [WARNING]
    exit 0   sent or lost: the agent goes on
    exit 1   --check: the test event did not arrive
    exit 2   a mistake on the command line, or --fail-loud block

What an event looks like on the wire is said by hook_io.FORMATS, how it travels by
hook_io.send.  This file is compiled at every start, hook_io once: what need not stand
here stands there.
"""

import gc
import sys

gc.disable()  # so short a process leaves nothing to collect

try:
    signals = __import__("_signal")  # without the enums of signal itself
    if signals.getsignal(signals.SIGINT) is signals.default_int_handler:
        signals.signal(signals.SIGINT, signals.SIG_DFL)  # an end without a traceback
except (ImportError, ValueError):
    pass

if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
    FOLDER = __file__.rpartition("/")[0]  # which is not on the path, as it else is
    sys.path.insert(0, FOLDER if FOLDER[:1] == "/" else __import__(
        "os").path.dirname(__import__("os").path.abspath(__file__)))

try:
    import hook_io
except ImportError:  # this is a link, and hook_io stands beside what it leads to
    import os  # which costs a fifth of Python's start

    sys.path[0] = os.path.dirname(os.path.realpath(__file__))
    import hook_io
except (EOFError, SystemError, TypeError, ValueError):  # a disk has kept it badly
    import os

    sys.pycache_prefix, prefix = os.devnull, sys.pycache_prefix
    import hook_io
    sys.pycache_prefix = prefix
    hook_io.forget_compiled()

#: option ("-": none), its variable, default, what it takes, what it is for; a text,
#: because that is compiled at no cost; hook_io.parse_options says what the words mean
OPTIONS = """
--source-app  -                           required NAME    project of the event
--event-type  -                           required EVENT   PreToolUse, Stop, ...
--session-id  HOOK_IO_SESSION_ID          -        UUID    instead of the event's own
--metadata    HOOK_IO_METADATA            -        JSON    sent instead of the event
--summarize   HOOK_IO_SUMMARIZE           -        -       by a model, in the background
--server-url  HOOK_IO_SERVER_URL - URL where to, or none (http://localhost:4000/events)
--timeout-ms  HOOK_IO_TIMEOUT_MS          100      1-60000 time budget
--format      HOOK_IO_FORMAT              events   FORMAT  raw, otlp, cloudevents, ...
--background  HOOK_IO_BACKGROUND          -        -       hand over, return at once
--fail-loud   HOOK_IO_FAIL_LOUD           hint     hint|block|off how losses are told
-             HOOK_IO_FAIL_LOUD_THRESHOLD 3        1-9999999 losses until then
--decide      HOOK_IO_DECIDE off off|deny|full what the server's answer may do
-             HOOK_IO_DECIDE_TIMEOUT_MS   1000     1-600000 time budget of an answer
-             HOOK_IO_DECIDE_FAIL         open     open|closed what no answer means
--check       -                           -        -       try, and explain
--flush-spool -                           -        -       deliver what is spooled
--export      -                           -        -       turns, to HOOK_IO_EXPORT
-             HOOK_IO_EXPORT off off|textfile|otlp|textfile,otlp|otlp,textfile of turns
-             HOOK_IO_EXPORT_URL          -        URL     the collector's base
-             HOOK_IO_EXPORT_HEADERS      -        LINES   Name: value, for it alone
-             HOOK_IO_EXPORT_CONTENT      -        -       1: prompts, inputs, outputs
-             HOOK_IO_TEXTFILE_DIR        -        FOLDER  where hook_io.prom stands
-             HOOK_IO_USER                -        NAME    user.id of what is exported
-             HOOK_IO_SPOOL_DIR           -        FOLDER  keeps what is lost
-             HOOK_IO_EVENT_LOG           -        FILE    keeps every event
-             HOOK_IO_BACKGROUND_TIMEOUT_MS 10000  1-600000 time budget there
-             HOOK_IO_SUMMARY_MODEL       claude-haiku-4-5 NAME what --summarize asks
-             HOOK_IO_FIELDS              -        NAMES   all that leaves: cwd,prompt
-             HOOK_IO_HEADERS             -        LINES   Name@host: value, tokens
-             HOOK_IO_CA_FILE             -        FILE    certificates to trust, PEM
-             HOOK_IO_ALLOW_HTTP          -        -       1: http to public addresses
-             HOOK_IO_STATE_DIR           -        FOLDER  where losses are counted
-             HOOK_IO_PLATFORM            -        AGENT   agent of every event
-             HOOK_IO_PURE                -        -       1: json, socket; no C halves
-             HOOK_IO_OFF                 -        -       1: do nothing at all
"""


def main() -> None:
    """Run the hook on this process's arguments, variables and streams."""
    hook_io.send("send_event", sys.argv[1:], OPTIONS)


if __name__ == "__main__":
    main()
