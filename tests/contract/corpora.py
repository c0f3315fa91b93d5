"""The corpora of tests/corpus: secrets in every place of an event, and look-alikes.

The corpora hold templates: a key of a published format is there only in its parts, so
that nobody's scanner takes it for a real one.  `<abc*8>` is abcabcab; `<hex*40#7>` and
its like are as random as real hashes, and the same on each run.
"""

import base64
import functools
import hashlib
import json
import re
import string
import uuid
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
#: so many characters of a secret in a row are a leak
LEAK_CHARS = 8
LETTERS = {"word": string.ascii_letters + string.digits,
           "upper": string.ascii_uppercase + string.digits}


def load(name):
    return json.loads((CORPUS / f"{name}.json").read_text())


def noise(kind, length, seed):
    data = b"".join(hashlib.sha512(f"{seed}.{n}".encode()).digest()
                    for n in range(length // 64 + 1))
    if kind == "uuid":
        return str(uuid.UUID(bytes=data[:16], version=4))
    texts = {"hex": data.hex(), "b64": base64.b64encode(data).decode(),
             "url": base64.urlsafe_b64encode(data).decode(),
             "b32": base64.b32encode(data).decode().lower(),
            **{kind: "".join(LETTERS[kind][n % len(LETTERS[kind])] for n in data)
               for kind in ("word", "upper")}}
    return texts[kind][:length]


def expand(template):
    """Return *template* with each <…> in it as the text that it stands for."""
    text = re.sub(
        r"<(hex|b64|url|b32|uuid|word|upper)\*(\d+)#(\d+)>",
        lambda match: noise(match[1], int(match[2]), match[3]), template)
    return re.sub(r"<([^<>\n]+?)\*(\d+)>", lambda match: (
        match[1] * int(match[2]))[:int(match[2])], text)


def filled(place, secret):
    """Return the JSON value *place* with *secret* where {} is, escaped as that is."""
    if isinstance(place, str):
        text = expand(place)
        for escapes in (2, 1):
            quote = "\\" * (2 ** (escapes - 1) - 1) + '"'
            inner = secret
            for _ in range(escapes if text[:1] in "[{" else 0):
                inner = json.dumps(inner)[1:-1]
            text = text.replace(f"{quote}{{}}{quote}", f"{quote}{inner}{quote}")
        return text.replace("{}", secret)
    if isinstance(place, list):
        return [filled(inner, secret) for inner in place]
    return {filled(name, secret): filled(inner, secret)
            for name, inner in place.items()} if isinstance(place, dict) else place


def leaks(event, secret):
    """Tell whether part of *secret* is in *event*, which is redacted."""
    safe = json.dumps(event, ensure_ascii=False)
    words = [word for word in re.split(r"[^\w+/~=.-]+", secret)
             if len(word) >= LEAK_CHARS and not word.isdigit()]
    return any(word[at:at + LEAK_CHARS] in safe for word in words
               for at in range(len(word) - LEAK_CHARS + 1))


def is_held(name):
    """Tell whether what has that *name* is in the half that no rule was tuned on."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 1


def keyed():
    """Yield (what, is it held out, event, secret) for each key of a published form."""
    corpus = load("secrets")
    for kind, key in corpus["keyed"].items():
        for place, event in corpus["places"].items():
            secret = expand(key)
            yield (f"{kind}, {place}", kind.split()[0] in corpus["held out"],
                   filled(event, secret), secret)


def with_values(rows, values, as_event):
    for value in map(expand, values):
        for row in rows:
            name = row if isinstance(row, str) else json.dumps(row)
            yield f"{row}: {value}", is_held(name), as_event(row, value), value


def named():
    """Yield the same for each secret whose name or place says that it is one."""
    corpus = load("secrets")
    values = corpus["values"]
    for key in ("command", "content"):
        rows = corpus["named"] + corpus["typed"]
        yield from with_values(rows, values, lambda row, value, key=key: {
            "tool_input": {key: expand(row).replace("{}", value)}})
    yield from with_values(corpus["members"], values, lambda row, value: {
        "tool_input": {row: value}, "tool_response": json.dumps([{row: value}])})
    yield from with_values(corpus["objects"], values, filled)


def random():
    """Yield the same for each name that is secret where its value looks random."""
    corpus = load("secrets")["random"]
    for row in corpus["rows"]:
        def as_event(name, value, row=row):
            content = row.replace("NAME", name).replace("{}", value)
            return {"tool_input": {"content": content}}

        yield from with_values(corpus["names"], corpus["values"], as_event)


def unnamed():
    """Yield the same for each secret that has neither a form nor a name."""
    corpus = load("secrets")
    yield from with_values(
        corpus["without name or form"], corpus["values"], lambda row, value: {
            "tool_input": {"command": row.replace("{}", value)}})


def look_alikes():
    """Yield the same, secret None, for everything that only looks like a secret."""
    for kind, rows in load("lookalikes").items():
        for row in rows:
            event = {"tool_input": {"x": json.loads(expand(json.dumps(row)))}}
            yield kind, False, event, None


KINDS = {"keyed": keyed, "named": named, "random": random, "neither": unnamed,
         "look-alikes": look_alikes}


@functools.lru_cache(maxsize=None)
def rows(kind, held_out):
    """Return each (what, event, secret or None) of a *kind*, of one half of it."""
    return [(what, event, secret) for what, held, event, secret in KINDS[kind]()
            if held == held_out]


def is_good(event, secret, safe):
    """Tell whether *safe* is *event* as it should leave."""
    return safe == event if secret is None else not leaks(safe, secret)
