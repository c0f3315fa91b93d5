"""Redaction measured: which secrets it finds, and what it takes for one by mistake."""

import json
import re
import subprocess
import sys
from random import Random

import pytest

from conftest import CONTRACT, PAGED, RUNNER
from corpora import CORPUS, LEAK_CHARS, is_good, is_held, leaks, load, rows
from hook_io import redact
from test_redact import ALPHABETS, FORMS


@pytest.fixture(scope="module")
def measured():
    """Return {case: (result, "97.4 %, 3459 of 3552")} of our redaction, by the kit."""
    done = subprocess.run(
        [sys.executable, str(RUNNER), "--contract", "functions", "-k", "corpus/",
         "--json", "--", sys.executable, str(CONTRACT / "reference_functions.py")],
        stdout=subprocess.PIPE, check=False)
    return {case["id"][7:]: (case["result"], case["note"])
            for case in json.loads(done.stdout)["cases"]}


def test_the_corpora_are_large_and_in_two_halves():
    corpus = load("secrets")
    assert len(corpus["keyed"]) + len(corpus["named"]) + len(corpus["members"]) >= 300
    assert len(rows("look-alikes", False)) >= 400
    providers = {kind.split()[0] for kind in corpus["keyed"]}
    assert corpus["held out"] == sorted(filter(is_held, providers))


def test_every_form_of_a_key_is_in_the_corpora_or_made_by_a_test():
    keys = [key.partition("<")[0] for key in load("secrets")["keyed"].values()]
    starts = [start for starts in FORMS.values() for start in starts]
    known = sum(any(key.startswith(start) for key in keys) for start in starts)
    assert known >= 0.6 * len(starts)


def test_no_template_is_a_key_itself():
    text = (CORPUS / "secrets.json").read_text()
    for alphabet, starts in FORMS.items():
        for start, least in starts.items():
            body = re.escape(ALPHABETS[alphabet])
            form = rf"\b{re.escape(start)}[{body}]{{{least},}}"
            assert not re.search(form, text), start


@pytest.mark.long
def test_of_either_half_nearly_every_secret_is_found_and_look_alikes_stay(measured):
    assert len(measured) == 7
    assert {result for result, _ in measured.values()} == {"pass"}


def test_the_figures_of_the_readme_are_those_of_the_corpora(measured, capsys):
    with capsys.disabled():
        print("\nredaction:")
        for name, (_, told) in measured.items():
            print(f"  {name:32} {told}")
    _, stay = measured.pop("what-only-looks-like-one-stays")
    said = PAGED.partition("Of keys of published forms")[2].partition("Of hashes")[0]
    assert re.findall(r"([\d.]+)\s%", said) == [
        told.partition(" ")[0].replace(".0", "") for _, told in measured.values()]
    good, of = map(int, re.findall(r"(\d+) of (\d+)", stay)[0])
    assert f"{of - good} of {of} look-alikes" in PAGED


@pytest.mark.parametrize("held", [False, True])
def test_without_a_name_or_a_form_only_a_lone_key_is_found_as_the_readme_admits(held):
    found = [secret for _, event, secret in rows("neither", held)
             if is_good(event, secret, redact(event))]
    assert sum(map(str.isalpha, found)) <= 1 and len(rows("neither", held)) >= 10
    assert len(found) <= 6


def texts(value):
    """Yield the strings of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)


def test_what_stands_beside_a_string_changes_nothing_of_what_is_found_in_it():
    kinds = ("keyed", "named", "random", "neither", "look-alikes")
    every = [text for kind in kinds for held in (False, True)
             for _, event, _ in rows(kind, held) for text in texts(event)]
    Random(1).shuffle(every)
    for at in range(0, len(every), 32):
        event = {f"n{number}": text for number, text in enumerate(every[at:at + 8])}
        assert redact(event) == {name: redact(text) for name, text in event.items()}


def test_a_colour_beside_a_string_is_no_escape_in_it():
    event = {"a": "\x1b[1mred\x1b[0m", "b": "[5mZq7Xv2Kp9Lw4Rt8Ny3"}
    assert redact(event["b"]) != event["b"]
    assert redact(event) == {**event, "b": redact(event["b"])}


@pytest.mark.parametrize("shown", ["{}", "{}tail", "x[redacted]y {}"])
def test_a_secret_that_stays_is_a_leak(shown):
    secret = "Plain Words of correcthorse"
    assert leaks({"a": shown.replace("{}", secret)}, secret)
    assert leaks({"a": "…" + secret[-LEAK_CHARS:]}, secret)
    assert not leaks({"a": "[redacted]"}, secret)
