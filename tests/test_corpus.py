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
from hook_io import ALPHABETS, KEY_FORMS, STRING_MAX_CHARS, redact

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
             "b32": base64.b32encode(data).decode().lower(),
            **{kind: "".join(ALPHABETS[kind][n % len(ALPHABETS[kind])] for n in data)
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
    """Tell whether part of *secret* is in *event* as it would leave, redacted."""
    safe = json.dumps(redact(event, STRING_MAX_CHARS), ensure_ascii=False)
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
    """Yield (kind, event) for everything that only looks like a secret."""
    for kind, rows in load("lookalikes").items():
        for row in rows:
            yield kind, {"tool_input": {"x": json.loads(expand(json.dumps(row)))}}


KINDS = {"keyed": keyed, "named": named, "random": random, "neither": unnamed}
#: kind -> at least so many percent of either half are found
LEAST = {"keyed": 95, "named": 90, "random": 90}
LOOK_ALIKES_MAX = 2  # percent that may be altered


@pytest.fixture(scope="module")
def measured():
    """Return {(kind, is it held out): (how many, which were missed)}."""
    found = {}
    for kind, rows in KINDS.items():
        for what, held, event, secret in rows():
            row = found.setdefault((kind, held), (set(), []))
            row[0].add((what, json.dumps(event)))
            if leaks(event, secret):
                row[1].append(what)
    return {key: (len(all_), missed) for key, (all_, missed) in found.items()}


@pytest.fixture(scope="module")
def taken():
    """Return (how many look-alikes, which of them were altered)."""
    rows = list(look_alikes())
    return len(rows), [(kind, event) for kind, event in rows
                       if redact(event, 1 << 20) != event]


def percent(part, whole):
    return f"{100 * part / whole:.1f}".replace(".0", "")


def found(measured, kind, held):
    count, missed = measured[kind, held]
    return percent(count - len(missed), count)


def test_the_corpora_are_large_and_in_two_halves():
    corpus = load("secrets")
    assert len(corpus["keyed"]) + len(corpus["named"]) + len(corpus["members"]) >= 300
    assert len(list(look_alikes())) >= 400
    providers = {kind.split()[0] for kind in corpus["keyed"]}
    assert corpus["held out"] == sorted(filter(is_held, providers))


def test_every_form_of_a_key_is_in_the_corpora_or_made_by_a_test():
    keys = [key.partition("<")[0] for key in load("secrets")["keyed"].values()]
    starts = [start for starts in KEY_FORMS.values() for start in starts]
    assert sum(any(key.startswith(start) for key in keys) for start in starts) >= 40


def test_no_template_is_a_key_itself():
    text = (CORPUS / "secrets.json").read_text()
    for alphabet, starts in KEY_FORMS.items():
        for start, least in starts.items():
            body = re.escape(ALPHABETS[alphabet])
            form = rf"\b{re.escape(start)}[{body}]{{{least},}}"
            assert not re.search(form, text), start


@pytest.mark.parametrize("held", [False, True], ids=["tuned", "held out"])
@pytest.mark.parametrize("kind", LEAST)
def test_of_either_half_nearly_every_secret_is_found(measured, kind, held):
    count, missed = measured[kind, held]
    assert 100 * (count - len(missed)) >= LEAST[kind] * count, missed


def test_hardly_a_look_alike_is_taken_for_a_secret(taken):
    count, wrong = taken
    assert 100 * len(wrong) <= LOOK_ALIKES_MAX * count, wrong


def test_the_figures_of_the_readme_are_those_of_the_corpora(measured, taken, capsys):
    with capsys.disabled():
        print("\nredaction: of       tuned             held out")
        for kind in KINDS:
            cells = [
                f"{found(measured, kind, held):>5} % of {measured[kind, held][0]:,}"
                for held in (False, True)]
            print(f"  {kind:10} {cells[0]:>17} {cells[1]:>17}")
        print(f"  look-alikes altered: {len(taken[1])} of {taken[0]}")
    for kind in LEAST:
        for held in (False, True):
            assert f"{found(measured, kind, held)} %" in README
    assert f"{len(taken[1])} of {taken[0]} look-alikes" in README


@pytest.mark.parametrize("shown", ["{}", "{}tail", "x[redacted]y {}"])
def test_a_secret_that_stays_is_a_leak(shown):
    secret = "Plain Words of correcthorse"
    assert leaks({"a": shown.replace("{}", secret)}, secret)
    assert leaks({"a": "…" + secret[-LEAK_CHARS:]}, secret)
    assert not leaks({"a": "[redacted]"}, secret)
