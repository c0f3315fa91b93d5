# SPDX-License-Identifier: MIT
"""OTLP/HTTP JSON: what a body says, or what is wrong with it and where.

Source: opentelemetry-proto 1.10.  Not covered: protobuf and gRPC; histograms, gauges
and summaries are accepted and not read.
"""

from .contract import LONE_SURROGATE, Refused, parsed

DEPTH_MAX = 32
TEXT_MAX_CHARS = 20_000  # of an attribute; a longer one keeps its head
ATTRIBUTES_MAX = 256
TAKEN_MAX = 50_000  # records, points or spans of one body
ID_CHARS = {"traceId": 32, "spanId": 16}
#: signal -> members on the way from the body to what it carries
SIGNALS = {
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
    "traces": ("resourceSpans", "scopeSpans", "spans"),
}


def bad(where, rule):
    return Refused(400, f"Invalid {where}: must be {rule}")


def member(value, name, kind, where, default=None):
    """Return *value*'s member *name*, of the type *kind*; raise Refused."""
    found = value.get(name)
    if found is None:
        return kind() if default is None else default
    if not isinstance(found, kind):
        rule = {list: "a list", dict: "an object", str: "a string"}[kind]
        raise bad(f"{where}.{name}" if where else name, rule)
    return found


def objects(value, name, where):
    """Yield (object, where it stands) of the list *name* in *value*; raise Refused."""
    for number, item in enumerate(member(value, name, list, where)):
        place = f"{where}.{name}[{number}]" if where else f"{name}[{number}]"
        if not isinstance(item, dict):
            raise bad(place, "an object")
        yield item, place


def carried(body, signal):
    """Return [(resource's attributes, scope's name, item, place)] of *body* (bytes).

    Raises Refused with the place of what is wrong, as a collector would.
    """
    try:
        value = parsed(body)
    except ValueError as error:  # it says where
        raise bad("body", f"JSON: {error}") from None
    top, middle, last = SIGNALS[signal]
    if not isinstance(value, dict):
        raise bad("body", "a JSON object")
    if top not in value:
        raise bad("body", f"an object with {top}")
    found = []
    for part, place in objects(value, top, ""):
        resource = member(part, "resource", dict, place)
        shared = attributes(resource, f"{place}.resource")
        for group, inner in objects(part, middle, place):
            scope = member(group, "scope", dict, inner)
            name = member(scope, "name", str, f"{inner}.scope")
            found += [(shared, name, item, at) for item, at in
                      objects(group, last, inner)]
    if len(found) > TAKEN_MAX:
        raise Refused(413, f"Invalid body: must have at most {TAKEN_MAX} {last}")
    return found


def attributes(holder, where):
    """Return the attributes of *holder* as {name: value}; raise Refused."""
    pairs = list(objects(holder, "attributes", where))
    result = {}
    for pair, place in pairs[:ATTRIBUTES_MAX]:
        key = pair.get("key")
        if not isinstance(key, str):
            raise bad(f"{place}.key", "a string")
        result[clean(key)] = any_value(pair.get("value", {}), f"{place}.value")
    return result


def any_value(value, where, depth=0):
    """Return an OTLP AnyValue as a JSON value; raise Refused."""
    if not isinstance(value, dict) or depth > DEPTH_MAX:
        raise bad(where, f"an object, at most {DEPTH_MAX} deep")
    for name, read in VALUES.items():
        if name in value:
            return read(value[name], f"{where}.{name}", depth)
    return None


def _text(value, where, depth):
    if not isinstance(value, str):
        raise bad(where, "a string")
    return clean(value)


def _truth(value, where, depth):
    if not isinstance(value, bool):
        raise bad(where, "true or false")
    return value


def whole(value, where, depth=0):
    """Return a 64-bit integer, which OTLP writes as a string; raise Refused."""
    text = str(value) if isinstance(value, (int, str)) else ""
    digits = text[1:] if text[:1] == "-" else text
    if isinstance(value, bool) or not (digits.isascii() and digits.isdigit()) or (
            len(digits) > 20 or not -1 << 63 <= int(text) < 1 << 64):
        raise bad(where, "an integer of 64 bits, or one in a string")
    return int(text)


def real(value, where, depth=0):
    """Return a number that is finite; raise Refused."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad(where, "a number")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if number - number != 0:
        raise bad(where, "a finite number")
    return number


def _several(value, where, depth):
    if not isinstance(value, dict):
        raise bad(where, "an object")
    return [any_value(item, place, depth + 1)
            for item, place in objects(value, "values", where)][:ATTRIBUTES_MAX]


def _pairs(value, where, depth):
    if not isinstance(value, dict):
        raise bad(where, "an object")
    return {clean(str(item.get("key"))):
            any_value(item.get("value", {}), place, depth + 1)
            for item, place in objects(value, "values", where)}


#: member of an AnyValue -> function of the value, its place and its depth
VALUES = {"stringValue": _text, "intValue": whole, "doubleValue": real,
          "boolValue": _truth, "arrayValue": _several, "kvlistValue": _pairs,
          "bytesValue": _text}


def clean(text):
    """Return *text* without what UTF-8 cannot hold, and not too long of it."""
    if len(text) > TEXT_MAX_CHARS:
        text = f"{text[:TEXT_MAX_CHARS]}… ({len(text)} characters)"
    return LONE_SURROGATE.sub("?", text)


def instant(item, name, where):
    """Return a time of *item* as seconds since the epoch, 0 where there is none."""
    nanoseconds = whole(item.get(name, 0), f"{where}.{name}")
    if not 0 <= nanoseconds < 1 << 64:
        raise bad(f"{where}.{name}", "nanoseconds since 1970")
    return nanoseconds / 1e9


def identifier(item, name, where):
    """Return an id of *item*, lower-case hex; raise Refused."""
    text = member(item, name, str, where)
    if len(text) != ID_CHARS[name] or text.strip("0123456789abcdefABCDEF"):
        raise bad(f"{where}.{name}", f"{ID_CHARS[name]} hexadecimal digits")
    return text.lower()
