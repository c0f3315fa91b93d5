# SPDX-License-Identifier: MIT
"""What else than the contract's events is taken: other formats, and telemetry.

Each format becomes an event of the contract, whose metadata is the agent's own event.
Telemetry is what Claude Code sends by itself, see README.md beside this file.
"""

import json
import time
import zlib
from urllib.parse import unquote

from .attribution import IDENTITY, METRICS, digest
from .contract import (
    FIELDS,
    Refused,
    checked_value,
    is_read_by,
    json_value,
    parsed,
    read_body,
    utc_now,
)
from .http1 import READ_MAX_BYTES
from .library import library
from .otlp import (
    ID_CHARS,
    attributes,
    bad,
    carried,
    clean,
    identifier,
    instant,
    member,
    objects,
    real,
    whole,
)

JSON_TYPES = ("application/json", "application/cloudevents+json", "text/json",
              "text/plain", "application/x-www-form-urlencoded", "")
PROTOBUF = "application/x-protobuf"
SUMMARY_MAX_CHARS = 200
#: outcome of hook.ingest.v1 -> the contract's event where the agent's own is not said
GRAM_EVENTS = {
    "session.started": "SessionStart", "session.ended": "SessionEnd",
    "prompt.submitted": "UserPromptSubmit", "tool.requested": "PreToolUse",
    "tool.completed": "PostToolUse", "tool.failed": "PostToolUseFailure",
    "assistant.responded": "Stop", "notification.reported": "Notification",
}
#: member of Gram's data -> (its member, the agent's)
GRAM_DATA = {
    "tool_call": {"id": "tool_use_id", "name": "tool_name", "input": "tool_input",
                  "output": "tool_response", "error": "error",
                  "is_interrupt": "is_interrupt", "duration_ms": "duration_ms"},
    "prompt": {"text": "prompt"}, "message": {"text": "last_assistant_message"},
    "notification": {"type": "notification_type", "title": "title",
                     "message": "message"},
}
#: attribute of an otlp record -> member of the event
OTLP_MEMBERS = {"session.id": "session_id", "tool_name": "tool_name",
                "tool_use_id": "tool_use_id", "prompt": "prompt", "error": "error",
                "duration_ms": "duration_ms", "gen_ai.request.model": "model",
                "gen_ai.tool.call.arguments": "tool_input",
                "gen_ai.tool.call.result": "tool_response",
                "prompt_id": "prompt_id", "agent_id": "agent_id",
                "agent_type": "agent_type"}
OWN_SCOPE = "hook-io"


def content(exchange):
    """Return the body of *exchange*, unpacked; raise Refused."""
    too_much = Refused(413, f"Invalid body: must be at most {READ_MAX_BYTES} bytes")
    if len(exchange.body) >= READ_MAX_BYTES:  # the rest was not read
        raise too_much
    encoding = exchange.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return exchange.body
    if encoding != "gzip":
        raise Refused(415, "Invalid Content-Encoding: must be gzip or none")
    unpacking = zlib.decompressobj(wbits=31)
    try:
        body = unpacking.decompress(exchange.body, READ_MAX_BYTES)
    except zlib.error:
        raise Refused(400, "Invalid body: must be gzip, as its header says") from None
    if unpacking.unconsumed_tail:
        raise too_much
    if not unpacking.eof:
        raise Refused(400, "Invalid body: must be whole, and ends too early")
    return body


# Events in other formats.

def event_of(said, **known):
    """Return the contract's event for the agent's own event *said*; raise Refused.

    known: what the envelope said of it, in the contract's words.
    """
    hook_io = library()
    event = hook_io.normalise(said)
    if not isinstance(event.get("hook_event_name"), str):
        raise bad("hook_event_name", "the name of an agent's event")
    kind = known.get("event_type") or event["hook_event_name"]
    name, session_id = event.get("tool_name"), event.get("session_id")
    found = {
        "timestamp": utc_now(), "source_app": event.agent, "event_type": kind,
        "tool_name": name if isinstance(name, str) else None,
        "summary": hook_io.summary(event, kind)[:SUMMARY_MAX_CHARS],
        "session_id": session_id if isinstance(session_id, str) else None,
        "metadata": json.dumps(said)}
    found.update({key: value for key, value in known.items() if value})
    return checked_value(
        {key: clean_name(found[key]) for key in FIELDS if found.get(key)})


def clean_name(text):
    """Return *text* with a sign in place of what UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else text


def from_raw(body, exchange):
    return event_of(body, source_app=exchange.query.get("source_app"))


def from_observability(body, exchange):
    at = body.get("timestamp")
    is_time = isinstance(at, int) and not isinstance(at, bool) and 0 <= at < 1 << 43
    return event_of(
        member(body, "payload", dict, "body"),
        event_type=member(body, "hook_event_type", str, "body"),
        source_app=body.get("source_app"), summary=body.get("summary"),
        timestamp=iso(at / 1000) if is_time else None,
        session_id=body.get("session_id"), tool_name=body.get("tool_name"))


def from_cloudevents(body, exchange):
    kind = member(body, "type", str, "body").rpartition(".")[2]
    source = member(body, "source", str, "body").rpartition("/")[2]
    return event_of(
        member(body, "data", dict, "body"), event_type=kind, timestamp=body.get("time"),
        source_app=body.get("sourceapp") or unquote(source),
        summary=body.get("summary"), session_id=body.get("sessionid"))


def from_gram(body, exchange):
    source, event = (member(body, name, dict, "body") for name in ("source", "event"))
    session, data = (member(body, name, dict, "body") for name in ("session", "data"))
    kind = source.get("raw_event_name") or GRAM_EVENTS.get(
        member(event, "type", str, "body.event"))
    said = {**member(body, "raw", dict, "body"), "hook_event_name": kind}
    for name, names in GRAM_DATA.items():
        part = member(data, name, dict, "body.data")
        said.update({ours: part[theirs] for theirs, ours in names.items()
                     if part.get(theirs) is not None})
    for name, ours in {"id": "session_id", "cwd": "cwd", "model": "model"}.items():
        said.setdefault(ours, session.get(name))
    return event_of({name: value for name, value in said.items() if value is not None},
                    event_type=kind, timestamp=event.get("occurred_at"),
                    source_app=source.get("hostname") or source.get("adapter"))


def from_record(members, text, at):
    """Return the contract's event for a log record of send_event.py --format otlp."""
    said = members.get("agent_hook.event")
    said = json_value(said) if isinstance(said, str) else {}
    said = said if isinstance(said, dict) else {}
    for name, ours in OTLP_MEMBERS.items():
        value = members.get(name)
        if ours in ("tool_input", "tool_response") and isinstance(value, str) and (
                value[:1] in "{[" and is_read_by(parsed, value)):
            value = parsed(value)
        if value is not None:
            said[ours] = value
    kind = members.get("event.name")
    return event_of({"hook_event_name": kind, **said}, event_type=kind, summary=text,
                    source_app=members.get("source_app"), timestamp=iso(at))


def iso(at):
    """Return seconds since the epoch as the contract writes a time."""
    whole_s, rest = divmod(int(at * 1000), 1000)
    try:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_s))
    except (OverflowError, OSError, ValueError):
        return utc_now()
    return f"{text}.{rest:03}Z"


#: member that only this format has -> function of the body and the exchange
FORMATS = {"hook_event_type": from_observability, "specversion": from_cloudevents,
           "schema_version": from_gram, "hook_event_name": from_raw}


def read_event(exchange):
    """Return (the contract's event, whether it came as an agent's own)."""
    body = content(exchange)
    value = read_body(body)
    if isinstance(value, dict) and "event_type" not in value:
        for name, read in FORMATS.items():
            if name in value:
                return read(value, exchange), read is from_raw
    return checked_value(value), False


# Telemetry.

def telemetry(exchange):
    """Return the body of *exchange* where it is JSON; raise Refused."""
    kind = exchange.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in JSON_TYPES:
        raise Refused(415, "Invalid Content-Type: must be application/json; set"
                      " OTEL_EXPORTER_OTLP_PROTOCOL=http/json, since the default is"
                      f" {PROTOBUF if kind == PROTOBUF else 'protobuf'}")
    return content(exchange)


class Taken:
    """What one request of telemetry brought: learned once a session, refused or not."""

    def __init__(self, server, owner):
        self.server, self.owner = server, owner
        self.seen, self.refused = {}, {}

    def may(self, members, resource):
        """Tell whether *members* are of a session of the sender's; learn whose."""
        session_id = members.get("session.id")
        if not isinstance(session_id, str) or not session_id:
            return True
        facts = {ours: str(members.get(name) or "") for name, ours in IDENTITY.items()}
        mark = session_id, *facts.values()
        if mark not in self.seen:
            project, organisation = self.owner
            try:
                self.server.attribution.learn({
                    "session_id": session_id, **facts, "project": project,
                    "organisation": organisation,
                    "service": str(resource.get("service.name") or "")})
                self.seen[mark] = True
            except Refused as refused:
                self.seen[mark], self.refused[session_id] = False, refused.args[1]
        return self.seen[mark]

    def answer(self, name, count):
        """Return OTLP's answer, *count* items having been refused."""
        if not count:
            return {"status": 200, "json": {"partialSuccess": {}}}
        text = "; ".join(list(self.refused.values())[:5])
        return {"status": 200, "json": {"partialSuccess": {
            name: str(count), "errorMessage": text}}}


def post_logs(exchange, server):
    """Take log records: Claude Code's own, and those of --format otlp."""
    owner, refused = server.keys.owner, 0
    items = [(shared, scope, item, place, attributes(item, place))
             for shared, scope, item, place in carried(telemetry(exchange), "logs")]
    records, events = [], []
    for shared, scope, item, place, members in items:
        at = instant(item, "timeUnixNano", place) or time.time()
        text = member(item, "body", dict, place).get("stringValue", "")
        if not isinstance(text, str):
            raise bad(f"{place}.body.stringValue", "a string")
        if scope == OWN_SCOPE and "source_app" in members:
            events.append((from_record(members, clean(text)[:SUMMARY_MAX_CHARS], at),
                           digest(members, at)))
        else:
            records.append((shared, members, at, clean(text)))
    taken = Taken(server, owner(exchange) if records else (None, None))
    for event, key in events:
        keep(server, event, key)
    for shared, members, at, text in records:
        name = members.get("event.name") or text
        if not taken.may(members, shared):
            refused += 1
            continue
        server.attribution.add_record(
            str(members.get("session.id") or ""), at, str(name), members)
    return taken.answer("rejectedLogRecords", refused)


def post_metrics(exchange, server):
    """Add up Claude Code's token usage and cost."""
    taken, refused = Taken(server, server.keys.owner(exchange)), 0
    points = []
    for shared, _, item, place in carried(telemetry(exchange), "metrics"):
        name, total = member(item, "name", str, place), item.get("sum")
        if total is None:
            continue
        total = member(item, "sum", dict, place)
        temporality = whole(total.get("aggregationTemporality", 0),
                            f"{place}.sum.aggregationTemporality")
        points += [(shared, name, temporality, read_point(point, at))
                   for point, at in objects(total, "dataPoints", f"{place}.sum")]
    for shared, name, temporality, point in points:
        members = point[0]
        if not taken.may(members, shared):
            refused += 1
        elif name in METRICS:
            server.attribution.add_point(str(members.get("session.id") or ""), name,
                                         temporality, point)
    return taken.answer("rejectedDataPoints", refused)


def read_point(point, place):
    """Return (attributes, start, time, value) of a number; raise Refused."""
    value = (whole(point["asInt"], f"{place}.asInt") if "asInt" in point
             else real(point.get("asDouble", 0), f"{place}.asDouble"))
    for name in ("startTimeUnixNano", "timeUnixNano"):
        instant(point, name, place)
    return (attributes(point, place), str(point.get("startTimeUnixNano", "")),
            str(point.get("timeUnixNano", "")), float(value))


def post_traces(exchange, server):
    """Keep spans, once each."""
    taken, refused, spans = Taken(server, server.keys.owner(exchange)), 0, []
    for shared, _, item, place in carried(telemetry(exchange), "traces"):
        spans.append((shared, attributes(item, place), (
            digest(*(identifier(item, name, place) for name in ID_CHARS)),
            clean(member(item, "name", str, place)),
            instant(item, "startTimeUnixNano", place),
            instant(item, "endTimeUnixNano", place))))
    for shared, members, (key, name, start, end) in spans:
        if not taken.may(members, shared):
            refused += 1
            continue
        server.attribution.add_span(key, str(members.get("session.id") or ""),
                                    (name, start, end, members))
    return taken.answer("rejectedSpans", refused)


def keep(server, event, key):
    """Store *event*, once by its *key*; return it."""
    return announced(server, *server.store.add_once(event, key))


def announced(server, stored, is_new):
    """Return an event that has been stored, having told who is to know of a new one."""
    if is_new:
        server.attribution.hold(stored)
        server.on_event(stored)
    return stored
