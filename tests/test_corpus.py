"""Redaction measured: which secrets it finds, and what it takes for one by mistake."""

import re
import subprocess
import sys

import pytest

from conftest import CONTRACT, ROOT
from corpora import CORPUS, KINDS, LEAK_CHARS, LEAST, is_held, leaks, load, look_alikes
from hook_io import ALPHABETS, KEY_FORMS, STRING_MAX_CHARS, redact

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def measured():
    """Return {(kind, is it held out): (how many, which were missed)}."""
    found = {}
    for kind, make in KINDS.items():
        for what, held, event, secret in make():
            row = found.setdefault((kind, held), [0, []])
            row[0] += 1
            if leaks(redact(event, STRING_MAX_CHARS), secret):
                row[1].append(what)
    return found


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
@pytest.mark.parametrize("kind", ["keyed", "named", "random"])
def test_of_either_half_nearly_every_secret_is_found(measured, kind, held):
    count, missed = measured[kind, held]
    assert 100 * (count - len(missed)) >= LEAST[kind] * count, missed


def test_hardly_a_look_alike_is_taken_for_a_secret(taken):
    count, wrong = taken
    assert 100 * len(wrong) <= (100 - LEAST["look-alikes"]) * count, wrong


def test_the_figures_of_the_readme_are_those_of_the_corpora(measured, taken, capsys):
    with capsys.disabled():
        print("\nredaction: of       tuned             held out")
        for kind in KINDS:
            cells = [
                f"{found(measured, kind, held):>5} % of {measured[kind, held][0]:,}"
                for held in (False, True)]
            print(f"  {kind:10} {cells[0]:>17} {cells[1]:>17}")
        print(f"  look-alikes altered: {len(taken[1])} of {taken[0]}")
    for kind in ("keyed", "named", "random"):
        for held in (False, True):
            assert f"{found(measured, kind, held)} %" in README
    assert f"{len(taken[1])} of {taken[0]} look-alikes" in README


def test_the_corpora_measure_any_command():
    command = [sys.executable, str(CONTRACT / "reference_functions.py")]
    done = subprocess.run(
        [sys.executable, str(CONTRACT / "corpora.py"), "--", *command],
        stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.startswith("TAP") and "not ok" not in done.stdout
    echo = [sys.executable, "-c", "import json, sys; print(json.dumps(json.load("
            "sys.stdin)['args'][0]))"]
    done = subprocess.run(
        [sys.executable, str(CONTRACT / "corpora.py"), "--", *echo],
        stdout=subprocess.PIPE, check=False, text=True)
    assert done.returncode == 1 and done.stdout.count("not ok") == 6


@pytest.mark.parametrize("shown", ["{}", "{}tail", "x[redacted]y {}"])
def test_a_secret_that_stays_is_a_leak(shown):
    secret = "Plain Words of correcthorse"
    assert leaks({"a": shown.replace("{}", secret)}, secret)
    assert leaks({"a": "…" + secret[-LEAK_CHARS:]}, secret)
    assert not leaks({"a": "[redacted]"}, secret)
