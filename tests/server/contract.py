# SPDX-License-Identifier: MIT
"""What the contract accepts, and how it refuses: what tests and ports are judged by."""

import datetime
import json
import re

BODY_MAX_BYTES = 1 << 20  # above it: 413
FILE_MAX_BYTES = 1 << 20  # of keys or rules
NAME_MAX_CHARS = 10_000  # a hook clips strings at 8 KiB and says so
#: parameter of GET /events -> (when absent, least, most)
PAGING = {"since_id": ("0", 0, 10**15), "limit": ("100", 1, 10_000)}
SESSIONS = {"limit": ("500", 1, 10_000)}  # as PAGING, of GET /sessions
FILTERS = ("session_id", "event_type", "source_app", "tool_name")
#: headers of what only this server's own page is to read
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
           "Cross-Origin-Resource-Policy": "same-origin",
           "Referrer-Policy": "no-referrer"}

#: status of a refusal -> its name in the answer
ERRORS = {400: "ValidationError", 401: "Unauthorized", 403: "Forbidden",
          404: "NotFound", 405: "MethodNotAllowed", 409: "Conflict",
          413: "PayloadTooLarge", 415: "UnsupportedMediaType", 500: "StorageError",
          503: "Unavailable", 507: "InsufficientStorage"}
INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)", re.A)
#: any well-formed name: a newer client has events that no table knows
EVENT_TYPE = re.compile(r"[A-Za-z][\w.:-]{0,63}", re.A)
NUMBER = re.compile(r"\d{1,15}", re.A)
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # UTF-8 has no form for it, nor SQLite


def _refuse(constant):
    raise ValueError(f"{constant} is not JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse)


def parsed(text):
    """Return the JSON value in *text* (str or UTF-8); raise ValueError without one."""
    try:
        return DECODER.decode(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_value(text):
    """Return the JSON value in *text* (str or UTF-8), None where there is none."""
    try:
        return parsed(text)
    except ValueError:
        return None


def is_text(value, least=0, most=BODY_MAX_BYTES):
    """Tell whether *value* is a string of *least* to *most* characters."""
    return (isinstance(value, str) and least <= len(value) <= most
            and (value.isascii() or not LONE_SURROGATE.search(value)))


def is_name(value):
    """Tell whether *value* is a string that a list or a lane can be named after."""
    return is_text(value, most=NAME_MAX_CHARS)


def is_read_by(reader, value):
    """Tell whether *value* is a string for which *reader* raises no ValueError."""
    try:
        reader(value)
    except ValueError:
        return False
    return True


def is_instant(value):
    """Tell whether *value* is an ISO 8601 time that says which zone it is in."""
    match = is_text(value, most=64) and INSTANT.fullmatch(value)
    return bool(match) and is_read_by(datetime.datetime.fromisoformat, match.group(1))


NAME = f"string of at most {NAME_MAX_CHARS} characters"
#: field, in the wire's order -> (required, test, what it must be)
FIELDS = {
    "timestamp": (True, is_instant, "an ISO 8601 time ending in Z or an offset"),
    "source_app": (True, lambda v: is_text(v, least=1, most=NAME_MAX_CHARS),
                   f"a non-empty {NAME}"),
    "event_type": (True, lambda v: is_text(v) and bool(EVENT_TYPE.fullmatch(v)),
                   "a letter, then at most 63 letters, digits, -, _, . or :"),
    "tool_name": (False, is_name, f"a {NAME}"),
    "summary": (False, lambda v: is_text(v, most=200),
                "a string of at most 200 characters"),
    "session_id": (False, is_name, f"a {NAME}"),
    "metadata": (False, lambda v: is_text(v) and is_read_by(parsed, v),
                 "a string that holds JSON"),
}


class Refused(Exception):
    """A request that the contract refuses: (status, message)."""


def checked_event(body):
    """Return the contract's fields of the event in *body*; raise Refused."""
    return checked_value(read_body(body))


def read_body(body):
    """Return the JSON value in *body*, None where there is none; raise Refused."""
    if len(body) > BODY_MAX_BYTES:
        raise Refused(413, f"Invalid body: must be at most {BODY_MAX_BYTES} bytes")
    return json_value(body)


def checked_value(event):
    """Return the contract's fields of *event*, a JSON value; raise Refused."""
    if not isinstance(event, dict):
        raise Refused(400, "Invalid body: must be a JSON object")
    for name, (required, is_valid, rule) in FIELDS.items():
        if (required or name in event) and not is_valid(event.get(name)):
            raise Refused(400, f"Invalid {name}: must be {rule}")
    return {name: event[name] for name in FIELDS if name in event}


def lines_of(path):
    """Return the lines of a file that a person wrote; raise OSError or ValueError."""
    with open(path, "rb") as file:
        text = file.read(FILE_MAX_BYTES + 1)
    if len(text) > FILE_MAX_BYTES:
        raise ValueError(f"it is larger than {FILE_MAX_BYTES >> 20} MiB")
    return text.decode("utf-8").split("\n")


def utc_now():
    """Return the time as the contract writes it: UTC, milliseconds, Z."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refusal(status, message):
    """Return the contract's answer to what it refuses."""
    return {"status": status, "json": {"error": ERRORS[status], "message": message}}


def numbers(query, table):
    """Return each parameter of *table* as *query* has it; raise Refused."""
    chosen = {}
    for name, (default, least, most) in table.items():
        text = query.get(name, default)
        if not (NUMBER.fullmatch(text) and least <= int(text) <= most):
            raise Refused(400, f"Invalid {name}: must be from {least} to {most}")
        chosen[name] = int(text)
    return chosen
