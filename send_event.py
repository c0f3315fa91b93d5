#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.8"
# dependencies = []
# ///
# SPDX-License-Identifier: MIT
# send_event 0.1.0, part of hook-io - copy freely with hook_io.py, keep these two lines.
"""Send one event of a coding agent to an observability server, within 100 ms.

    stdin    the agent's event, one JSON object; anything else is told, and still sent
    request  POST, one JSON object: timestamp, source_app, event_type, tool_name, summary,
             session_id, metadata (a string that holds JSON: the event, redacted)
    stdout   empty, or one JSON document with a hint for the person
    stderr   empty when sent; else [ERROR] with cause and URL, then [WARNING]
    exit 0   sent or lost: the agent goes on
    exit 2   a mistake on the command line, or --fail-loud block

Data flow: parse, receive, prepare, post_json, tell.  Streams, exit, network and files
are hook_io's.
"""

import time

STARTED = time.monotonic()  # the budget runs from here

import sys

if __name__ == "__main__" and not sys.flags.isolated and not getattr(
        sys.flags, "safe_path", False):
    sys.path.pop(0)  # the folder may hold a json.py; only hook_io is wanted from it

import os

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import hook_io
from hook_io import Done, HookResult

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

    Event = Dict[str, Any]

STDIN_IDLE_MS = 500
BODY_MAX_BYTES = 256 * 1024
SUMMARY_MAX_CHARS = 200
TIMEOUT_MAX_MS = 60_000
CLIPS = (hook_io.STRING_MAX_CHARS, 1024, 128)  # tried in turn until a body fits

#: option -> variable, default, what it takes ("": nothing), what it is for
OPTIONS = {
    "--source-app": ("", "", "NAME", "the project that the event comes from (required)"),
    "--event-type": ("", "", "EVENT", "PreToolUse, Stop, ... (required)"),
    "--session-id": ("HOOK_IO_SESSION_ID", "", "UUID", "instead of the event's own"),
    "--metadata": ("HOOK_IO_METADATA", "", "JSON", "sent instead of the event"),
    "--summarize": ("HOOK_IO_SUMMARIZE", "", "", "accepted; the summary is made here"),
    "--server-url": ("HOOK_IO_SERVER_URL", "http://localhost:4000/events", "URL",
                     "where events go"),
    "--timeout-ms": ("HOOK_IO_TIMEOUT_MS", "100", "N", "time budget of the request"),
    "--format": ("HOOK_IO_FORMAT", "events", "NAME", "body of the request: events"),
    "--fail-loud": ("HOOK_IO_FAIL_LOUD", "hint", "hint|block|off",
                    "how a person is told of losses in a row"),
}

#: variable without an option -> default, what it is for
VARIABLES = {
    "HOOK_IO_FAIL_LOUD_THRESHOLD": ("3", "losses in a row before a person is told"),
    "HOOK_IO_FIELDS": ("", "only these members of the event leave: tool_name,cwd,..."),
    "HOOK_IO_ALLOW_HTTP": ("", "1: plain http to public addresses, too"),
    "HOOK_IO_STATE_DIR": ("", "folder of the loss counter"),
    "HOOK_IO_PLATFORM": ("", "the agent, if it is not to be told from the event"),
    "HOOK_IO_PURE": ("", "1: json and socket instead of their C halves"),
    "HOOK_IO_OFF": ("", "1: do nothing"),
}

#: event -> what happened, in words; of these members of the event
SUMMARIES = {
    "UserPromptSubmit": "prompt: {prompt}",
    "UserPromptExpansion": "prompt: {prompt}",
    "SessionStart": "session started ({source})",
    "SessionEnd": "session ended ({reason})",
    "Notification": "notification: {message}",
    "Stop": "turn ended: {last_assistant_message}",
    "StopFailure": "turn failed: {error}",
    "SubagentStart": "subagent started ({agent_type})",
    "SubagentStop": "subagent ended ({agent_type})",
    "PreCompact": "compaction begins ({trigger})",
    "PostCompact": "compaction done ({trigger})",
    "PostToolUseFailure": "{tool} failed: {error}",
    "PermissionRequest": "permission asked: {tool}",
    "PermissionDenied": "permission denied: {tool}",
    "TaskCreated": "task created: {task_subject}",
    "TaskCompleted": "task completed: {task_subject}",
    "CwdChanged": "now in {new_cwd}",
    "FileChanged": "file changed: {file_path}",
}

#: members of a tool's input that say what it works on, the first one there counts
SUBJECTS = (
    "command", "file_path", "notebook_path", "path", "pattern", "url", "query",
    "description", "subject", "prompt", "sql", "skill",
)

#: outcome, or a fact of "refused" -> fact, what follows from it
LOSSES = {
    "connection refused": ("{fact}", "Observability server not running, event discarded"),
    "refused": ("{fact}", "Observability server not available, event discarded"),
    "unconfirmed": ("no answer within {timeout_ms} ms",
                    "Observability server too slow, event may not have arrived"),
    "timed_out": ("{fact} ({timeout_ms} ms)",
                  "Observability server out of reach, event discarded"),
    "rejected": ("{fact}", "Observability server did not take it, event discarded"),
    "invalid": ("{fact}", "Server URL not usable, event discarded"),
}


def parse(argv: "List[str]") -> "Event":
    """Return the value of every option: from *argv*, its variable, or its default.

    "notes" lists variables that are of no use.  Raises Done for --help, --version and
    mistakes on the command line.
    """
    given = read_options(argv)
    options: "Event" = {"notes": []}
    for name, (variable, default, _takes, _help) in OPTIONS.items():
        value = given.get(name) or os.environ.get(variable, "") or default
        problem = value != default and problem_with(name, value)
        if problem and given.get(name):
            raise mistake(f"{name} {problem}")
        if problem:
            options["notes"].append(f"[WARNING] {variable} {problem}; it is ignored")
        options[name] = default if problem else value
    for name in ("--source-app", "--event-type"):
        if not options[name]:
            raise mistake(f"the following argument is required: {name}")
    return options


def read_options(argv: "List[str]") -> "Dict[str, str]":
    given, words = {}, list(argv)
    while words:
        name, sign, value = words.pop(0).partition("=")
        if name in ("--help", "-h"):
            raise Done(HookResult("print", usage().format_help().rstrip()))
        if name == "--version":
            raise Done(HookResult("print", hook_io.__version__))
        if name not in OPTIONS:
            raise mistake(f"unrecognized argument: {name}{near(name, OPTIONS)}")
        if not OPTIONS[name][2]:
            value = "1"
        elif not sign and words and words[0].partition("=")[0] not in OPTIONS:
            value = words.pop(0)
        given[name] = value  # "" counts as not given: a shell variable that is not set
    return given


def problem_with(name: str, value: str) -> str:
    """Return what is wrong with the *value* of the option *name*, "" if nothing is."""
    if name == "--event-type" and value not in event_types():
        return f"is no event of a known agent: {value}{near(value, event_types())}"
    if name == "--session-id" and not is_uuid(value):
        return f"is not a UUID: {value}"
    if name == "--timeout-ms" and not (
            value.isdigit() and 0 < int(value[:9]) <= TIMEOUT_MAX_MS):
        return f"is not a whole number from 1 to {TIMEOUT_MAX_MS}: {value}"
    if name == "--format" and value not in FORMATS:
        return f"is none of {', '.join(FORMATS)}: {value}"
    if name == "--fail-loud" and value not in OPTIONS[name][2].split("|"):
        return f"is none of {OPTIONS[name][2]}: {value}"
    if name == "--metadata":
        try:
            hook_io.decode(value)
        except ValueError as error:
            return f"is {error}"
    return ""


def event_types() -> "List[str]":
    return [name for names in hook_io.EVENTS.values() for name in names]


def is_uuid(text: str) -> bool:
    parts = text.split("-")
    digits = set("0123456789abcdefABCDEF")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and digits.issuperset(
        "".join(parts))


def near(word: str, words: "Any") -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, list(words))
    return f" (did you mean {', '.join(found)}?)" if found else ""


def mistake(problem: str) -> Done:
    text = f"[ERROR] send_event: {problem}\n{usage().format_usage().rstrip()}"
    return Done(HookResult("blocking_error", text))


def usage() -> "Any":
    """Return the argparse parser of the tables; it only ever explains."""
    import argparse

    rows = [f"  {name:28} {text}" for name, (_, text) in VARIABLES.items()]
    parser = argparse.ArgumentParser(
        "send_event.py", description="Send one agent event to an observability server.",
        epilog="\n".join(["each option but the first two has a variable: "
                          "--server-url is HOOK_IO_SERVER_URL", *rows, "",
                          "exit 0: sent or lost; 2: a mistake on the command line"]),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (_, default, takes, text) in OPTIONS.items():
        said = f"{text} (default: {default})" if default else text
        shape = {"metavar": takes} if takes else {"action": "store_true"}
        parser.add_argument(name, help=said, required="required" in text, **shape)
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser


def receive(options: "Event") -> "Event":
    """Read the event; where stdin is not one, {"input_error": why}."""
    before = time.monotonic()
    try:
        event = hook_io.read_event(idle_ms=STDIN_IDLE_MS)
    except hook_io.InputError as error:
        event = {"input_error": str(error)}
        options["notes"].append(f"[WARNING] The event on stdin is {error}")
    waited = time.monotonic() - before  # for the agent, not for the server
    options["deadline"] = STARTED + waited + int(options["--timeout-ms"]) / 1000
    return event


def prepare(event: "Event", options: "Event") -> bytes:
    """Return the body of the request: redacted, clipped, below BODY_MAX_BYTES."""
    fields = os.environ.get("HOOK_IO_FIELDS", "").replace(" ", "")
    if fields:
        event = {name: event[name] for name in fields.split(",") if name in event}
    event = hook_io.redact(event)
    body = b""
    for max_chars in CLIPS:
        body = format_body(hook_io.clip(event, max_chars), options)
        if len(body) <= BODY_MAX_BYTES:
            return body
    few = [(name, value) for name, value in hook_io.clip(event, CLIPS[-1]).items()
           if not isinstance(value, (dict, list))][:100]
    return format_body({**dict(few), "truncated": True}, options)


def format_body(event: "Event", options: "Event") -> bytes:
    return hook_io.encode(FORMATS[options["--format"]](event, options)).encode("ascii")


def events_format(event: "Event", options: "Event") -> "Event":
    """Return the body of the hook script contract: POST /events, one flat object."""
    now = time.time()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    metadata = options["--metadata"]
    body = {
        "timestamp": f"{seconds}.{int(now * 1000) % 1000:03}Z",
        "source_app": options["--source-app"],
        "event_type": options["--event-type"],
        "tool_name": event.get("tool_name"),
        "summary": summary(event, options["--event-type"]),
        "session_id": options["--session-id"] or event.get("session_id"),
        "metadata": hook_io.redact(metadata) if metadata else hook_io.encode(event),
    }
    return {name: value for name, value in body.items() if isinstance(value, str) and value}


#: name -> function of the redacted event and the options that returns the body
FORMATS = {"events": events_format}


def summary(event: "Event", event_type: str) -> str:
    """Say in at most SUMMARY_MAX_CHARS on one line what happened."""
    members = {name: value for name, value in event.items() if isinstance(value, str)}
    tool = tool_words(event)
    try:
        text = SUMMARIES.get(event_type, "{tool}").format(**{"tool": tool, **members})
    except KeyError:
        text = ""
    text = " ".join(text.split()) or tool or f"{event_type} event"
    if "input_error" in event:
        text = f"{event_type}: unreadable event"
    return text if len(text) <= SUMMARY_MAX_CHARS else text[:SUMMARY_MAX_CHARS - 1] + "…"


def tool_words(event: "Event") -> str:
    """Return the tool and what it works on: `Read: src/app.py`."""
    name, given = event.get("tool_name"), event.get("tool_input")
    if not isinstance(name, str) or not isinstance(given, dict):
        return name if isinstance(name, str) else ""
    found = [given[key] for key in SUBJECTS if isinstance(given.get(key), str)]
    folder = f"{event.get('cwd')}/"
    subject = found[0][len(folder):] if found and found[0].startswith(folder) else "".join(
        found[:1])
    return f"{name}: {subject}" if subject else name


def send(event: "Event", options: "Event") -> HookResult:
    """Post the *event*, count a loss or end a streak, and say what a person must know."""
    url = options["--server-url"]
    outcome = hook_io.post_json(
        url, prepare(event, options), options["deadline"],
        allow_http=os.environ.get("HOOK_IO_ALLOW_HTTP") == "1")
    shown = hook_io.shown_url(url)
    streak = hook_io.FailureStreak("send_event." + shown.partition("://")[2], threshold(options))
    if outcome.is_loss:
        return tell_loss(event, options, outcome, streak, shown)
    losses, since = streak.end()
    text = f"hook-io: events arrive again at {shown}; {losses} were lost since {since}."
    told = losses >= streak.threshold and options["--fail-loud"] != "off"
    return HookResult(hint=text if told else "", diagnostics=options["notes"])


def threshold(options: "Event") -> int:
    text = os.environ.get("HOOK_IO_FAIL_LOUD_THRESHOLD", "") or str(hook_io.LOUD_AFTER)
    if text.isdigit() and int(text[:9]) > 0:
        return int(text[:9])
    options["notes"].append("[WARNING] HOOK_IO_FAIL_LOUD_THRESHOLD is not a whole number "
                            f"from 1; {hook_io.LOUD_AFTER} is used")
    return hook_io.LOUD_AFTER


def tell_loss(
    event: "Event", options: "Event", outcome: "hook_io.Outcome",
    streak: "hook_io.FailureStreak", shown: str,
) -> HookResult:
    fact, effect = LOSSES.get(outcome.fact) or LOSSES[outcome.name]
    fact = fact.format(fact=outcome.fact, timeout_ms=options["--timeout-ms"])
    lines = [*options["notes"], f"[ERROR] Failed to send event to observability-server: "
             f"{fact} ({shown})", f"[WARNING] {effect}"]
    intent = {"hint": "hint", "block": "loud", "off": ""}[options["--fail-loud"]]
    session_id, text = str(event.get("session_id") or ""), ""
    try:
        place = streak.record(options["--event-type"], outcome.name, session_id)
        if place >= streak.threshold and hook_io.channel(intent, event) and (
                streak.claim_notice(session_id)):
            text = (f"hook-io: {place} events in a row did not reach {shown} since "
                    f"{streak.since()} ({fact}). Your work is not blocked. Start the "
                    "server, set HOOK_IO_SERVER_URL, or set HOOK_IO_OFF=1. "
                    f"Every loss is a line in {streak.path}")
    except OSError as error:
        lines.append(f"[WARNING] Losses are not counted: {error}")
    if text and intent == "loud":
        return HookResult("loud", text, diagnostics=lines)
    return HookResult(hint=text, diagnostics=lines)


def main() -> None:
    """Run the hook on this process's arguments, variables and streams."""
    options: "Event" = {}

    def read() -> "Event":
        if os.environ.get("HOOK_IO_OFF") == "1":
            options["notes"] = []
            raise Done(hook_io.NOTHING)
        options.update(parse(sys.argv[1:]))
        return receive(options)

    hook_io.run(lambda event: send(event, options), "send_event", read=read)


if __name__ == "__main__":
    main()
