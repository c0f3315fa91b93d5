"""Redaction measured: which secrets it finds, and what it takes for one by mistake.

The corpora hold templates: a key of a published format is there only in its parts, so
that nobody's scanner takes it for a real one.  `<abc*8>` is abcabcab; `<hex*40#7>` and
its like are as random as real hashes, and the same on each run.
"""

import base64
import hashlib
import json
import re
import uuid

import pytest

from conftest import ROOT, TESTS
from hook_io import KEY_FORMS, KEY_PREFIXES, STRING_MAX_CHARS, redact

CORPUS = TESTS / "corpus"
README = (ROOT / "README.md").read_text()
#: so many characters of a secret in a row are a leak
LEAK_CHARS = 8


def load(name):
    return json.loads((CORPUS / f"{name}.json").read_text())


def noise(kind, length, seed):
    data = b"".join(hashlib.sha512(f"{seed}.{n}".encode()).digest()
                    for n in range(length // 64 + 1))
    if kind == "uuid":
        return str(uuid.UUID(bytes=data[:16], version=4))
    texts = {"hex": data.hex(), "b64": base64.b64encode(data).decode(),
             "url": base64.urlsafe_b64encode(data).decode(),
             "b32": base64.b32encode(data).decode().lower()}
    return texts[kind][:length]


def expand(template):
    """Return *template* with each <…> in it as the text that it stands for."""
    text = re.sub(r"<(hex|b64|url|b32|uuid)\*(\d+)#(\d+)>", lambda match: noise(
        match[1], int(match[2]), match[3]), template)
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
    """Tell whether part of *secret* is in *event* as it would leave, redacted."""
    safe = json.dumps(redact(event, STRING_MAX_CHARS), ensure_ascii=False)
    words = [word for word in re.split(r"[^\w+/~=.-]+", secret)
             if len(word) >= LEAK_CHARS and not word.isdigit()]
    return any(word[at:at + LEAK_CHARS] in safe for word in words
               for at in range(len(word) - LEAK_CHARS + 1))


def keyed():
    """Yield (what it is, event, secret) for each key of a published format."""
    corpus = load("secrets")
    for kind, key in corpus["keyed"].items():
        for place, event in corpus["places"].items():
            secret = expand(key)
            yield f"{kind}, {place}", filled(event, secret), secret


def with_values(rows, as_event):
    for value in map(expand, load("secrets")["values"]):
        for row in rows:
            yield f"{row}: {value}", as_event(row, value), value


def named():
    """Yield the same for each secret whose name or place says that it is one."""
    corpus = load("secrets")
    for key in ("command", "content"):
        yield from with_values(corpus["named"], lambda row, value, key=key: {
            "tool_input": {key: expand(row).replace("{}", value)}})
    yield from with_values(corpus["members"], lambda row, value: {
        "tool_input": {row: value}, "tool_response": json.dumps([{row: value}])})
    yield from with_values(corpus["objects"], filled)


def unnamed():
    """Yield the same for each secret that has neither a form nor a name."""
    yield from with_values(load("secrets")["without name or form"], lambda row, value: {
        "tool_input": {"command": row.replace("{}", value)}})


def look_alikes():
    """Yield (kind, event) for everything that only looks like a secret."""
    for kind, rows in load("lookalikes").items():
        for row in rows:
            yield kind, {"tool_input": {"x": json.loads(expand(json.dumps(row)))}}


def missed(rows):
    return [what for what, event, secret in rows if leaks(event, secret)]


def taken():
    return [(kind, event) for kind, event in look_alikes()
            if redact(event, 1 << 20) != event]


KINDS = {"keyed": keyed, "named": named, "neither": unnamed}


@pytest.fixture(scope="module")
def measured():
    """Return {kind: (how many, which were missed)}, and print the table."""
    found = {kind: (len(list(rows())), missed(rows())) for kind, rows in KINDS.items()}
    found["look-alikes"] = (len(list(look_alikes())), taken())
    return found


def percent(part, whole):
    return f"{100 * part / whole:.2f}".rstrip("0").rstrip(".")


def figures(measured):
    """Return the two figures as README gives them."""
    kinds = [measured[kind] for kind in KINDS]
    total = sum(count for count, _ in kinds)
    recall = percent(total - sum(len(rows) for _, rows in kinds), total)
    count, wrong = measured["look-alikes"]
    return recall, percent(len(wrong), count)


def test_the_corpora_are_large_and_have_every_prefix():
    corpus = load("secrets")
    assert len(corpus["keyed"]) + len(corpus["named"]) + len(corpus["members"]) >= 300
    assert len(list(look_alikes())) >= 300
    keys = [key.partition("<")[0] for key in corpus["keyed"].values()]
    assert [prefix for prefix in (*KEY_PREFIXES, *KEY_FORMS)
            if not any(key.startswith(prefix) for key in keys)] == []


def test_no_template_is_a_key_itself():
    text = (CORPUS / "secrets.json").read_text()
    for prefix, least in KEY_PREFIXES.items():
        assert not re.search(rf"\b{re.escape(prefix)}[\w.-]{{{least},}}", text), prefix


@pytest.mark.parametrize("kind", ["keyed", "named"])
def test_every_secret_with_a_form_or_a_name_is_found(measured, kind):
    assert measured[kind][1] == []


def test_below_one_percent_of_the_look_alikes_is_taken_for_a_secret(measured):
    count, wrong = measured["look-alikes"]
    assert 100 * len(wrong) < count, wrong


def test_the_figures_of_the_readme_are_those_of_the_corpora(measured, capsys):
    recall, wrong = figures(measured)
    with capsys.disabled():
        print("\nredaction: of               found or taken")
        for kind, (count, rows) in measured.items():
            hits = len(rows) if kind == "look-alikes" else count - len(rows)
            print(f"  {kind:12} {count:6,}   {hits:6,}   {percent(hits, count)} %")
        print(f"  recall {recall} %, false positives {wrong} %")
    assert f"{measured['keyed'][0]:,} places of" in README
    assert f"finds {recall} % of all" in README
    assert f"takes {wrong} % of {measured['look-alikes'][0]:,} look-alikes" in README


@pytest.mark.parametrize("shown", ["{}", "{}tail", "x[redacted]y {}"])
def test_a_secret_that_stays_is_a_leak(shown):
    secret = "Plain Words of correcthorse"
    assert leaks({"a": shown.replace("{}", secret)}, secret)
    assert leaks({"a": "…" + secret[-LEAK_CHARS:]}, secret)
    assert not leaks({"a": "[redacted]"}, secret)
