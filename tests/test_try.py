"""An author's minute: a hook is tried and checked before an agent runs it."""

import os
import shutil
import subprocess
import sys

import pytest

import hook_io
from conftest import PATIENCE_S, ROOT, SAMPLES, TESTS
from test_readme import blocks

HEAD = ("import os, sys\n"
        "sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))\n"
        "import hook_io\n")


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a hook beside the library."""
    (tmp_path / "hook_io.py").write_text((ROOT / "hook_io.py").read_text())
    (tmp_path / "slow.py").write_text(
        "import time\nwhile time.process_time() < 1:\n    pass\n")

    def write(body, head=HEAD):
        path = tmp_path / "own.py"
        path.write_text(head + body)
        return path

    return write


def tried(path, *argv, action="try"):
    done = subprocess.run(
        [sys.executable, str(path.parent / "hook_io.py"), action, str(path), *argv],
        capture_output=True, timeout=PATIENCE_S)
    return done.returncode, done.stdout.decode() + done.stderr.decode()


DENIES = "hook_io.run(lambda e: hook_io.deny(e['tool_input']['command']), 'own')\n"
DELETES = ("--tool", "Bash", "--input", '{"command": "rm -fr /"}')


@pytest.mark.parametrize(("agent", "shape", "effect"), [
    ("claude-code", '"permissionDecision":"deny"', "is refused"),
    ("gemini", '{"decision":"deny","reason":"rm -fr /"}', "is refused"),
    ("windsurf", "rm -fr /", "stopped by exit 2"),
    ("cursor", '"permission":"deny"', "is refused"),
    ("copilot", '{"permissionDecision":"deny"', "is refused"),
])
def test_a_hook_is_tried_in_the_words_of_an_agent(written, agent, shape, effect):
    status, said = tried(written(DENIES), *DELETES, "--agent", agent)
    assert status == 0, said
    assert f"agent: {agent}," in said
    assert shape in said
    assert effect in said


def test_a_hook_is_tried_on_an_event_that_an_agent_sent(written):
    sample = SAMPLES / "gemini" / "BeforeTool.json"
    body = "hook_io.run(lambda event: hook_io.hint(event['tool_name']), 'own')\n"
    status, said = tried(written(body), str(sample))
    assert (status, "agent: gemini" in said) == (0, True), said
    assert "then: the person sees the text" in said


@pytest.mark.parametrize(("body", "warning"), [
    ("import slow\nhook_io.run(lambda e: None, 'own')\n", "import slow takes"),
    ("hook_io.run(lambda e: print('hello'), 'own')\n", "bytes that it printed were"),
    ("hook_io.run(lambda event: sys.exit(1), 'own')\n", "sys.exit: only run()"),
    ("def f():\n    sys.stdout.write('x')\nhook_io.run(lambda e: None, 'own')\n",
     "own.py:5: sys.stdout: only run() writes"),
    ("print('{}')\n", "hands no handler to hook_io.run()"),
    ("def f(:\n", "own.py:4: "),
])
def test_what_breaks_the_contract_is_told_and_fails(written, body, warning):
    status, said = tried(written(body))
    assert status == 1
    assert warning in said


def test_a_hook_that_is_not_there_is_told(written):
    status, said = tried(written("").parent / "none.py")
    assert status == 1
    assert "[ERROR] there is no file" in said


@pytest.mark.parametrize("data", [b"[1]", b'{"a":', b"\xff", b"1", b'{"a":NaN}'])
def test_an_event_that_is_none_is_told_by_its_files_name(written, data):
    path = written(DENIES)
    (path.parent / "event.json").write_bytes(data)
    status, said = tried(path, str(path.parent / "event.json"))
    assert (status, len(said.splitlines())) == (1, 1), said
    assert said.startswith(f"[ERROR] {path.parent / 'event.json'}: ")


@pytest.mark.parametrize("text", ["[1]", '{"a":', "x", "\udcff"])
def test_an_input_that_is_none_is_told_by_the_options_name(written, text):
    status, said = tried(written(DENIES), "--input", text)
    assert (status, len(said.splitlines())) == (1, 1), said
    assert said.startswith("[ERROR] --input: ")


def test_a_hook_that_does_not_end_is_ended_and_told(written):
    path = written("import threading\nhook_io.run(lambda e: threading.Event().wait(),"
                   " 'own')\n")
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import hook_io\n"
              "hook_io.TRY_MAX_S = 1; sys.argv[1:2] = ['try']; hook_io._main()")
    done = subprocess.run([sys.executable, "-c", script, str(path.parent), str(path)],
                          capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"[ERROR] {path} was ended after 1 s: ")


def test_the_hooks_of_the_readme_pass_the_check(written):
    for source in blocks("python"):
        if "hook_io.run(" in source:
            assert hook_io.check(str(written(source, head=""))) == []


def test_a_check_in_ci_fails_by_its_exit(written):
    assert tried(written(DENIES), action="check")[0] == 0
    status, said = tried(written("print(1)\n" + DENIES), action="check")
    assert (status, "own.py:4: print" in said) == (1, True)


def test_a_check_of_the_whole_folder_leaves_out_what_is_ours(tmp_path):
    for name in hook_io.FILES:
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "own.py").write_text("print(1)\n")
    done = subprocess.run(
        [sys.executable, "hook_io.py", "check", *sorted(os.listdir(tmp_path))],
        cwd=tmp_path, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert all(line.startswith(b"own.py:") for line in done.stdout.splitlines())


def test_the_audit_names_an_intent_for_each_point_that_emits():
    done = subprocess.run([sys.executable, str(TESTS / "contract" / "audit.py")],
                          capture_output=True, timeout=PATIENCE_S, check=True)
    rows = [line.split("|") for line in done.stdout.decode().splitlines()[2:]]
    assert len(rows) > 10
    intents = {row[3].strip() for row in rows}
    assert intents == {hook_io.DIAGNOSTIC, hook_io.MODEL_CONTEXT, hook_io.USER_HINT,
                       hook_io.BLOCKING_FEEDBACK, hook_io.EXIT_SIGNAL}
