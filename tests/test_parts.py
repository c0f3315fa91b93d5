"""Python keeps the library compiled in two parts, and nobody notices."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from conftest import arrived, eventually, nowhere, sample

pytestmark = pytest.mark.usefixtures("patient")

#: says whether part two came along, and uses it
ASK = """
import hook_io
came_whole = "story" in vars(hook_io)
print(came_whole, hook_io.story([]), "story" in vars(hook_io))
"""


def copied(hook, tmp_path):
    """Return *hook* with a copy of its folder, compiled as that was."""
    folder = tmp_path / "hooks"
    shutil.copytree(str(hook.folder), str(folder))
    hook.folder = folder
    return hook


@pytest.fixture
def parted(hook, tmp_path):
    """A hook that has run before, on each Python."""
    return copied(hook, tmp_path)


@pytest.fixture
def fresh(one_hook):
    """A hook whose files nobody has run yet."""
    shutil.rmtree(str(one_hook.folder / "__pycache__"))
    return one_hook


def kept(hook, part=""):
    """Return where *part* is kept compiled; "": part one, or the whole."""
    found = [path for path in (hook.folder / "__pycache__").glob("hook_io*.pyc")
             if (".two." in path.name) == bool(part)]
    return found[0] if found else None


def older(path, by_s=90):
    """Make *path* look as if it was written before."""
    then = time.time() - by_s
    os.utime(str(path), (then, then))


def split(hook, server):
    """Run a first event and a later one; return the size of what was compiled whole."""
    hook.send(server.url, stdin=sample("PreToolUse"))
    whole = kept(hook).stat().st_size
    older(kept(hook))
    hook.send(server.url, stdin=sample("PreToolUse"))
    return whole


def ask(hook, code=ASK):
    (hook.folder / "ask.py").write_text(code)
    done = hook.run("ask.py")
    assert (done.exit, done.stderr) == (0, ""), done
    return done.stdout.split()


def test_a_later_run_keeps_part_one_apart_and_each_event_arrives(fresh, server):
    whole = split(fresh, server)
    assert kept(fresh).stat().st_size < whole * 0.7
    assert kept(fresh, "two").stat().st_size < whole * 0.7
    done = fresh.send(server.url, stdin=sample("PreToolUse"))
    assert (done.exit, done.stdout, done.stderr) == (0, "", "")
    eventually(lambda: len(arrived(server)) == 3)


def test_a_run_after_which_the_file_is_new_only_compiles(fresh, server):
    fresh.send(server.url, stdin=sample("PreToolUse"))
    older(kept(fresh), by_s=-3600)
    fresh.send(server.url, stdin=sample("PreToolUse"))
    assert kept(fresh, "two") is None


def test_part_two_is_loaded_when_it_is_asked_for(parted):
    assert ask(parted) == ["False", "[]", "True"]


def test_an_extra_that_is_switched_on_works_from_its_own_part(parted, tmp_path):
    parted.send(nowhere(), stdin=sample("PreToolUse"),
               env={"HOOK_IO_SPOOL_DIR": str(tmp_path / "spool")})
    assert len(list((tmp_path / "spool").glob("*.json"))) == 1


def test_names_of_part_two_can_be_imported_by_name(parted):
    assert ask(parted, "from hook_io import story\nprint(story([]))") == ["[]"]
    assert ask(parted, "from hook_io import *\nprint(story([]))") == ["[]"]


def test_what_was_set_before_part_two_came_stays_set(parted):
    set_before = "hook_io.LOG_MAX_BYTES, hook_io.PLATFORMS = 7, {}"
    assert ask(parted, f"import hook_io\n{set_before}\nhook_io.EventLog\n"
               "print(hook_io.LOG_MAX_BYTES, hook_io.PLATFORMS)") == ["7", "{}"]


def test_results_and_events_are_copied_and_pickled(parted):
    code = """
import copy, pickle, hook_io
event = hook_io.normalise({"hook_event_name": "Stop", "cwd": "/x"})
for one in (hook_io.deny("a", "b"), hook_io.rewrite({"a": [1]}), hook_io.NOTHING,
            hook_io.with_user_hint(hook_io.context("c"), "d"), event):
    again = pickle.loads(pickle.dumps(one))
    print(copy.copy(one) == copy.deepcopy(one) == again == one and type(again) is type(
        one), getattr(again, "agent", "") == getattr(one, "agent", ""))
"""
    assert ask(parted, code) == ["True"] * 10


def test_a_name_that_no_part_has_is_an_attribute_error(parted):
    code = """
import hook_io
print(hasattr(hook_io, "__path__"), "story" in vars(hook_io), hasattr(hook_io, "nope"))
"""
    assert ask(parted, code) == ["False", "False", "False"]


def test_a_traceback_names_the_line_of_the_file(parted):
    code = """
import hook_io
text = open(hook_io.__file__, encoding="utf-8").read().splitlines()
for function in hook_io.story, hook_io.redact:
    line = text[function.__code__.co_firstlineno - 1]
    print(line.startswith("def " + function.__name__))
"""
    assert ask(parted, code) == ["True", "True"]


@pytest.mark.parametrize("damage", [
    lambda data: b"",
    lambda data: data[:10],
    lambda data: data[:-1000],
    lambda data: bytes(len(data)),
    lambda data: data[:16] + b"not code at all",
    lambda data: b"\0" + data[1:],
    lambda data: data[:16] + b"N",
    lambda data: data[:1000] + b"N" * len(data),
])
def test_a_part_two_that_is_damaged_is_compiled_anew(parted, damage):
    path = kept(parted, "two")
    path.write_bytes(damage(path.read_bytes()))
    assert ask(parted) == ["False", "[]", "True"]


def test_an_edited_library_is_compiled_whole_and_split_again(fresh, server):
    split(fresh, server)
    source = fresh.folder / "hook_io.py"
    source.write_text(source.read_text() + "\nEDITED = 1\n")
    code = "import hook_io\nprint(hook_io.EDITED, 'story' in vars(hook_io))"
    assert ask(fresh, code) == ["1", "True"]
    older(kept(fresh))
    older(kept(fresh, "two"))
    fresh.send(server.url, stdin=sample("PreToolUse"))
    code = "import hook_io\nprint('story' in vars(hook_io), hook_io.EDITED)"
    assert ask(fresh, code) == ["False", "1"]


def test_where_python_keeps_nothing_nothing_is_kept(fresh, server):
    for _ in range(2):
        done = fresh.send(server.url, stdin=sample("PreToolUse"),
                          env={"PYTHONDONTWRITEBYTECODE": "1"})
        assert (done.exit, done.stderr) == (0, "")
    assert kept(fresh) is None


@pytest.mark.parametrize("is_of_before", [False, True])
def test_what_is_not_python_s_own_of_this_source_is_not_written(
    fresh, server, is_of_before
):
    fresh.send(server.url, stdin=sample("PreToolUse"))
    older(kept(fresh))
    before = kept(fresh).read_bytes()
    flags = []
    if is_of_before:
        source = fresh.folder / "hook_io.py"
        source.write_text(source.read_text() + "\nEDITED = 1\n")
        flags = ["import hook_io, sys", "sys.dont_write_bytecode = False"]
    code = ["import sys", "sys.dont_write_bytecode = True", *flags, "import hook_io",
            "hook_io.EXTRAS['split_parts']()"]
    assert ask(fresh, "\n".join(code)) == []
    assert (kept(fresh).read_bytes(), kept(fresh, "two")) == (before, None)


def test_what_is_judged_by_a_hash_stays_whole(fresh, server):
    subprocess.run([fresh.python, "-m", "compileall", "-q", "--invalidation-mode",
                    "checked-hash", str(fresh.folder)], check=True, env=fresh.env)
    older(kept(fresh))
    before = kept(fresh).read_bytes()
    fresh.send(server.url, stdin=sample("PreToolUse"))
    assert (kept(fresh).read_bytes(), kept(fresh, "two")) == (before, None)


@pytest.mark.skipif(sys.platform == "win32", reason="no modes of folders there")
def test_a_folder_that_takes_no_file_costs_nothing_but_time(fresh, server):
    fresh.send(server.url, stdin=sample("PreToolUse"))
    older(kept(fresh))
    before = kept(fresh).read_bytes()
    there = kept(fresh).parent / (kept(fresh).stem + ".two.pyc")
    there.mkdir()
    older(there)
    done = fresh.send(server.url, stdin=sample("PreToolUse"))
    assert (done.exit, done.stdout, done.stderr) == (0, "", "")
    assert kept(fresh).read_bytes() == before


def test_hooks_that_split_at_once_leave_parts_that_work(fresh, server):
    fresh.send(server.url, stdin=sample("PreToolUse"))
    older(kept(fresh))
    runs = [threading.Thread(target=fresh.send, args=(server.url,),
                             kwargs={"stdin": sample("PreToolUse")}) for _ in range(8)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    eventually(lambda: len(arrived(server)) == 9)
    assert ask(fresh) == ["False", "[]", "True"]


@pytest.mark.parametrize(
    "end", [b"", b"\0" * 1000, b"\xff" * 1000, b"N" * 10 ** 6],
    ids=["nothing", "zeroes", "ones", "None without end"])
def test_a_part_one_that_is_damaged_is_compiled_anew(parted, server, end):
    path = kept(parted)
    data = path.read_bytes()
    path.write_bytes(data[:1000 if end[:1] == b"N" else -1000] + end)
    done = parted.send(server.url, stdin=sample("PreToolUse"))
    assert (done.exit, done.stdout, done.stderr) == (0, "", "")
    eventually(lambda: len(arrived(server)) == 1)


def test_the_files_of_the_parts_are_as_open_as_python_made_them(fresh, server):
    fresh.send(server.url, stdin=sample("PreToolUse"))
    mode = kept(fresh).stat().st_mode
    older(kept(fresh))
    fresh.send(server.url, stdin=sample("PreToolUse"))
    assert {kept(fresh).stat().st_mode, kept(fresh, "two").stat().st_mode} == {mode}


def test_nothing_else_is_left_beside_them(fresh, server):
    split(fresh, server)
    names = sorted(path.name for path in Path(kept(fresh).parent).iterdir())
    assert len(names) == 2, names


@pytest.mark.parametrize("way", [["-m", "hook_io"], ["hook_io.py"]])
def test_the_library_is_a_command_in_any_case(parted, way):
    done = subprocess.run(
        [parted.python, *way, "try", "--help"], cwd=str(parted.folder), env=parted.env,
        capture_output=True, check=True)
    assert done.stdout.startswith(b"usage: hook_io.py try"), done


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs there")
def test_a_part_two_that_is_no_file_holds_nobody(parted):
    path = kept(parted, "two")
    path.unlink()
    os.mkfifo(str(path))
    assert ask(parted) == ["False", "[]", "True"]
