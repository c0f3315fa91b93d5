"""What a guard asks: of each line of a shell what a real sh and a real bash run of it.

A promise is tried, not a parser: where commands() says that all is clear, no program is
started that is not among what it returned.  The programs are stubs that write down how
they are called, in a folder that is all of PATH; no line can name another one.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess

import pytest

import hook_io
from conftest import TESTS
from test_readme import blocks

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no sh")

#: evasions: lines that delete folders, or may, whatever they look like; harmless: lines
#: that delete none
LINES = json.loads((TESTS / "corpus" / "commands.json").read_text(encoding="utf-8"))
SHELLS = [shell for shell in ("sh", "bash") if shutil.which(shell)]
LIMIT_S = 5  # of a line that waits for ever; never a measure
EXAMPLES = int(os.environ.get("HOOK_EXAMPLES", "150"))
#: one write a call: two programs of a pipe note at the same time
STUB = """#!/bin/sh
said=$(printf "%s\\036" "${0##*/}" "$@"; printf "\\035")
printf "%s" "$said" >> "$NOTES"
"""
STUBS = ("a", "b", "rm", "-rf", "echo", "a=b")
REAL = ("env", "xargs", "sh", "bash", "nohup", "timeout", "nice", "find")
#: what a line may find in variables
VARIABLES = {"A": "rm", "B": "-rf x", "C": "a[$(rm -rf c)]"}

#: what lines are thrown together from
PIECES = (
    *"ab1x=+-,:!#~^%@ \t\n;&|()<>{}[]*?'\"\\`$", "rm", "-rf", "echo", "&&", "||", ">>",
    "2>", "&>", "<<-", "<<<", "\\\n", "|&", "<(", ">(", "$A", "$B", "${A}", "${A:-b}",
    "${#A}", "$(", "$((", "))", "$'", '$"', "$@", "$_", "$?", "$1", "A=", "C", "{a,b}",
    "{a..b}", "if ", "then ", "fi", "for ", "in ", "do ", "done", "[[ ", "]]", "case ",
    "time ", "env ", "-i ", "xargs ", "-I ", "sh ", "-c ", "bash ", "eval ", "trap ",
    "EXIT", "nohup ", "command ", "exec ", "-a ", "timeout ", "5 ", "nice ", "-n ",
    "find ", "-exec ", "{}", "\\;", "test ", "-v ", "read ", "printf ", "-- ", "EOF",
    "\nEOF\n", "<<EOF\n", "<<'EOF'\n", "export ", "unset ", "cd ", ". ", "é", "\r", "/")
noise = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join)


def joined(*parts):
    return st.tuples(*parts).map("".join)


def spoken(line):
    """Return a strategy for words of a *line*, in the many ways to write one."""
    plain = st.sampled_from(["a", "b", "rm", "-rf", "x", "1", "r", "m", "=", "~", "{}"])
    piece = st.one_of(
        plain, plain, st.sampled_from([
            "''", '""', "\\r", "\\\n", "$A", '"$A"', "$B", '"$@"', "${A}", "${A:-rm}",
            "$((1+2))", "*", "[ab]", "{a,b}", "$'a'", "\\ ", "\\;", "{", "}", "#"]),
        joined(st.just("'"), plain, st.sampled_from(["", " ", ";", "`"]), st.just("'")),
        joined(st.just('"'), plain, st.sampled_from(["", " ", "'"]), st.just('"')),
        joined(st.just("$("), line, st.just(")")),
        joined(st.just('"$('), line, st.just(')"')),
        joined(st.just("`"), line, st.just("`")),
        joined(st.just("<("), line, st.just(")")))
    return st.lists(piece, min_size=1, max_size=3).map("".join)


def composed(line):
    """Return a strategy for lines made of a *line* and signs of a shell."""
    word = spoken(line)
    before = st.sampled_from([
        "", "", "A=b ", "env ", "env -i A=x ", "xargs ", "xargs -I{} ", "sh -c ", "! ",
        "bash -c ", "eval ", "nohup ", "command ", "exec ", "time ", "timeout 5 ",
        "nice -n 1 ", "find . -exec ", "trap ", "command -v ", "builtin ", "\\\n"])
    behind = st.sampled_from([
        "", "", " >o", " 2>&1", " >o 2>&1", " <<< x", " &>o", " # a", " \\;", " {} +",
        " <<E\n$(rm h)\nE\n", " <<'E'\n$(rm h)\nE\n", " <<-E\n\tE\n",
        " | sh"])
    words = st.lists(word, min_size=1, max_size=3).map(" ".join)
    simple = joined(before, words, behind)
    sign = st.sampled_from([";", " && ", " || ", "|", " & ", "\n", " ;\\\n", " |\n"])
    return st.one_of(
        simple, simple, joined(line, sign, line),
        joined(st.just("("), line, st.just(")")),
        joined(st.just("{ "), line, st.just("; }")),
        joined(st.just("if "), line, st.just("\nthen "), line, st.just("; fi")),
        joined(st.just("for A in "), word, st.just("; do "), line, st.just("; done")),
    )


grammar = st.recursive(
    st.sampled_from(["a", "b x", "rm -rf x", "echo rm", "'rm' x"]), composed,
    max_leaves=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder in which `bin` holds programs that note how they are called."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "bin").mkdir()
    (folder / "cwd").mkdir()
    for name in STUBS:
        (folder / "bin" / name).write_text(STUB)
        (folder / "bin" / name).chmod(0o755)
    for name in REAL:
        (folder / "bin" / name).symlink_to(shutil.which(name))
    return folder


def run_by(shell, line, place):
    """Return the commands that *shell* runs of a line, each a list of words."""
    notes = place / "notes"
    notes.write_bytes(b"")
    process = subprocess.Popen(
        [shutil.which(shell), "-c", line], cwd=str(place / "cwd"),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={"PATH": str(place / "bin"), "NOTES": str(notes), **VARIABLES})
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LIMIT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    records = notes.read_bytes().decode("utf-8", "surrogateescape").split("\035")
    return [record.split("\036")[:-1] for record in records[:-1]]


def is_of(words, call):
    """Tell whether *words* are those of a *call*, in which None is any number."""
    if not call or call[0] is None:
        return not words if not call else any(
            is_of(words[at:], call[1:]) for at in range(len(words) + 1))
    return bool(words) and words[0] == call[0] and is_of(words[1:], call[1:])


def broken_promises(shell, line, place):
    """Return what *shell* runs of a line that is said to be clear, and is not in it."""
    calls, unclear = hook_io.commands(line)
    may_loop = re.search(r"\(\s*(\\\n)*\s*\)", line)  # a function that calls itself
    if unclear or may_loop:
        return []
    named = [[os.path.basename(call[0]) if call[0] else None, *call[1:]]
             for call in calls]
    return [words for words in run_by(shell, line, place)
            if not any(is_of(words, call) for call in named)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("lines", [noise, grammar], ids=["noise", "grammar"])
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=EXAMPLES, deadline=None, database=None,
                     suppress_health_check=list(hypothesis.HealthCheck))
def test_a_shell_runs_no_command_that_a_clear_answer_leaves_out(
        shell, lines, place, data):
    assert broken_promises(shell, data.draw(lines), place) == []


@pytest.fixture(scope="module")
def guard():
    """Return the handler of README's guard."""
    (source,) = [text for text in blocks("python") if '"guard"' in text]
    names = {"__file__": __file__}
    exec(source.partition("\nhook_io.run(")[0], names)
    return lambda line: names["guard"]({"tool_input": {"command": line}}).intent


@pytest.mark.parametrize("line", LINES["evasions"])
def test_the_guard_lets_no_evasion_pass(guard, line):
    assert guard(line) in ("deny", "ask")


@pytest.mark.parametrize("line", LINES["harmless"])
def test_the_guard_has_no_opinion_of_what_deletes_nothing(guard, line):
    assert guard(line) == ""


def test_a_line_that_nobody_wrote_by_hand_is_bounded():
    for line in ("env " * 16000, "find " + "-exec " * 9000, "a $(" * 9000, "`a" * 9000,
                 "sh -c '" * 99, "a" * 70000):
        assert hook_io.commands(line)[1]


def test_a_question_of_a_skills_command_that_nobody_can_be_asked_is_a_denial():
    event = {"hook_event_name": "PreSkillShellCommand"}
    said = hook_io.render(hook_io.ask("what is $X?"), hook_io.normalise(
        event, "claude-code"))
    assert said["hookSpecificOutput"]["permissionDecision"] == "deny"


#: what paths are thrown together from, and where the links of `tree` lead
STEPS = ("a", "b", "new", "..", ".", "", "out", "in", "loop", "dangling", "up")
LINKS = {"root/out": "../other", "root/in": "a", "root/loop": "loop", "root/up": "..",
         "root/dangling": "../none/x", "root/a/out": "../../other", "root/a/up": ".."}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Return a folder with root and other in it, and links from one to the other."""
    folder = tmp_path_factory.mktemp("within")
    for name in ("root/a/b", "root/b", "other/a"):
        (folder / name).mkdir(parents=True)
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    return folder


@hypothesis.given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
                  is_absolute=st.booleans())
@hypothesis.settings(max_examples=EXAMPLES, deadline=None,
                     suppress_health_check=list(hypothesis.HealthCheck))
def test_what_is_within_is_where_the_system_says_that_it_is(tree, steps, is_absolute):
    root, path = str(tree / "root"), "/".join(steps)
    path = f"{root}/{path}" if is_absolute else path.lstrip("/") or "."
    real, top = os.path.realpath(os.path.join(root, path)), os.path.realpath(root)
    is_judged = True
    try:
        os.lstat(real)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError:  # below a loop of links there is nothing to be found
        is_judged = False
    within = is_judged and real.startswith(f"{top}/")
    assert hook_io.is_within(path, root) == within


def test_the_examples_of_the_text_are_what_the_guard_does(guard):
    text = (TESTS / "contract" / "behaviour.md").read_text(encoding="utf-8")
    found = re.search(r"`([^`]+)`, `([^`]+)` and\s+`([^`]+)` are rm, `([^`]+)` is not",
                      text)
    *removals, harmless = (f"{line} x" for line in found.groups())
    assert [guard(line) for line in removals] == ["deny"] * 3
    assert guard(harmless) == ""
