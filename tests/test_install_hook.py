"""A person's own hook is registered so that it fails as it promises, beside others."""

import json
import os
import shutil
import subprocess

import pytest

import hook_io
from conftest import PATIENCE_S, fed
from test_install import (
    AGENTS,
    command,
    done,
    is_bare,
    read,
    settings_of,
    tree,
    written,
)

GUARD = """import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hook_io

def guard(event):
    bad = event.get("tool_input", {}).get("command") == "no"
    return hook_io.deny("not this one") if bad else hook_io.NOTHING

hook_io.run(guard, "guard"FAIL)
"""
COULD_NOT = "guard.py could not run"


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "my project"
    (folder / ".git").mkdir(parents=True)
    return folder


@pytest.fixture
def guard(tmp_path):
    """Return a function that makes the file of a guard, outside of the project."""
    def make(fail="", name="guard.py"):
        path = tmp_path / "mine" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(GUARD.replace("FAIL", fail and f', fail="{fail}"'))
        return path
    return make


def registered(project, agent):
    """Return [event, matcher, command, timeout] of each entry of an agent."""
    found = []
    for name, groups in read(settings_of(project, agent))["hooks"].items():
        for group in groups:
            for entry in group.get("hooks", [group]):
                found.append([
                    name, group.get("matcher"), entry.get("command") or entry["bash"],
                    entry.get("timeout") or entry["timeoutSec"]])
    return found


def answer(one_hook, project, agent, text, path=None, home=os.devnull):
    """Run the one command that is registered; return its exit and what it says."""
    (event, _, line, _), *_ = registered(project, agent)
    names = ("CLAUDE", "GEMINI", "QWEN", "COPILOT", "CURSOR")
    env = {**one_hook.env, "PATH": path or one_hook.path(), "HOOK_IO_PLATFORM": agent,
           "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1",
           **{f"{name}_PROJECT_DIR": str(project) for name in names}}
    said = {"hook_event_name": event, "tool_name": "Bash", "session_id": "s",
            "tool_input": {"command": text}}
    run = fed([shutil.which("sh"), "-c", line], json.dumps(said).encode(), env=env,
              cwd=str(project))
    return run.returncode, run.stdout.decode().strip(), event


def denial(agent, event, text):
    said = hook_io.normalise({"hook_event_name": event}, agent)
    return hook_io.render(hook_io.deny(text), said)


def spoil(project, trouble, tmp_path):
    """Let the hook not run in this way; return the PATH to run it with, if another."""
    folder = project / ".claude" / "hooks"
    if trouble == "no python":
        bin_ = tmp_path / "no python"
        bin_.mkdir()
        (bin_ / "git").symlink_to(shutil.which("git"))
        (bin_ / "sh").symlink_to(shutil.which("sh"))
        return str(bin_)
    file = folder / ("hook_io.py" if "library" in trouble else "guard.py")
    file.unlink() if trouble.startswith("no ") else file.write_text("def broken(:\n")
    return None


@pytest.fixture
def repository(project):
    (project / ".git").rmdir()
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    return project


TROUBLES = ["no script", "no library", "no python", "broken script", "broken library"]


@pytest.mark.parametrize("fail", hook_io.FAILURES)
@pytest.mark.parametrize("agent", AGENTS)
def test_a_hook_that_cannot_run_fails_as_it_promises(
    one_hook, repository, guard, agent, fail, tmp_path
):
    argv = ["--hook", guard(), "--event", "PreToolUse", "--fail", fail]
    kept = tmp_path / "kept"
    done("install", repository, *argv, "--agent", agent)
    code, said, event = answer(one_hook, repository, agent, "yes")
    assert (code, said) == (0, "")
    code, said, event = answer(one_hook, repository, agent, "no")
    assert (code, json.loads(said)) == (0, denial(agent, event, "not this one"))
    shutil.copytree(str(repository / ".claude" / "hooks"), str(kept))
    for trouble in TROUBLES:
        path = spoil(repository, trouble, tmp_path)
        code, said, event = answer(one_hook, repository, agent, "yes", path)
        assert code == 0, trouble
        if fail == "open":
            assert said == "", trouble
        else:
            document = json.loads(said)
            assert COULD_NOT in said, trouble
            text = next(text for text in hook_io.Registration.texts(document)
                        if COULD_NOT in text)
            assert document == denial(agent, event, text)
        shutil.rmtree(str(repository / ".claude" / "hooks"))
        shutil.copytree(str(kept), str(repository / ".claude" / "hooks"))


def test_a_denial_that_is_exit_2_stays_one_and_a_missing_file_is_none(
    one_hook, repository, guard, tmp_path
):
    mine = guard()
    mine.write_text(mine.read_text().replace(
        "hook_io.deny(", "hook_io.block("))
    done("install", repository, "--hook", mine, "--event", "TaskCompleted")
    assert answer(one_hook, repository, "claude-code", "no")[0] == 2
    assert answer(one_hook, repository, "claude-code", "yes")[0] == 0
    (repository / ".claude" / "hooks" / "guard.py").unlink()
    assert answer(one_hook, repository, "claude-code", "no")[0] == 0


def test_where_nobody_reads_what_a_closed_hook_says_it_exits_2(repository, guard):
    done("install", repository, "--hook", guard("closed"), "--event", "PreToolUse")
    (repository / ".claude" / "hooks" / "guard.py").unlink()
    (_, _, line, _), = registered(repository, "claude-code")
    with open("/dev/full", "w") as full:
        run = subprocess.run(["sh", "-c", line], stdout=full, stderr=subprocess.PIPE,
                             stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=False)
    assert run.returncode == 2


@pytest.mark.parametrize(("agent", "event", "why"), [
    ("codex", "PreSkillShellCommand", "codex has no event PreSkillShellCommand"),
    ("gemini", "Nothing", "gemini has no event Nothing, but SessionStart"),
    ("cursor", "SessionEnd", "cursor takes nothing that a hook says on sessionEnd"),
    ("codex", "Stop", "codex can be denied nothing on Stop"),
    ("claude-code", "PreToolUse,Stop", "claude-code can be denied nothing on Stop"),
])
def test_an_event_without_a_channel_is_refused_with_the_reason(
    project, guard, agent, event, why
):
    before = tree(project)
    result = command("install", project, "--hook", guard("closed"), "--event", event,
                     "--agent", agent)
    assert result.returncode == 1 and why in result.stderr
    assert tree(project) == before


@pytest.mark.parametrize(("agent", "event", "names"), [
    ("claude-code", "PreToolUse,PreSkillShellCommand", {
        "PreToolUse": "Edit|Bash", "PreSkillShellCommand": "Edit|Bash"}),
    ("claude-code", "SessionStart", {"SessionStart": None}),
    ("codex", "PreToolUse", {"PreToolUse": "Edit|Bash"}),
    ("gemini", "PreToolUse", {"BeforeTool": "replace|Edit|run_shell_command|Bash"}),
    ("gemini", "BeforeTool", {"BeforeTool": "replace|Edit|run_shell_command|Bash"}),
    ("gemini", "UserPromptSubmit", {"BeforeAgent": "*"}),
    ("qwen", "PreToolUse", {"PreToolUse": "edit|Edit|run_shell_command|Bash"}),
    ("copilot", "PreToolUse", {"PreToolUse": "edit|Edit|bash|powershell|Bash"}),
    ("cursor", "PreToolUse", {"preToolUse": "Edit|Shell|Bash"}),
    ("cursor", "beforeShellExecution", {"beforeShellExecution": "Edit|Shell|Bash"}),
])
def test_events_and_tools_are_named_in_the_agents_own_words(
    project, guard, agent, event, names
):
    done("install", project, "--hook", guard(), "--event", event, "--agent", agent,
         "--matcher", "Edit|Bash")
    assert {name: matcher for name, matcher, _, _ in registered(
        project, agent)} == names


def test_it_takes_the_time_that_the_agent_gives_in_the_agents_own_unit(
    project, guard
):
    for agent, wanted in {"claude-code": 30, "codex": 18, "gemini": 30000, "qwen": 30,
                          "copilot": 30, "cursor": 30}.items():
        done("install", project, "--hook", guard(), "--event", "PreToolUse",
             "--agent", agent)
        assert [entry[3] for entry in registered(project, agent)] == [wanted]
    done("install", project, "--hook", guard(), "--event", "SessionEnd", "--agent",
         "gemini")
    assert [entry[3] for entry in registered(project, "gemini")] == [5000]


@pytest.mark.parametrize(("written_as", "is_closed"), [("", 0), ("open", 0),
                                                       ("closed", 1)])
def test_it_fails_as_its_file_says_where_nobody_says_otherwise(
    project, guard, written_as, is_closed
):
    done("install", project, "--hook", guard(written_as), "--event", "PreToolUse")
    assert (COULD_NOT in registered(project, "claude-code")[0][2]) == is_closed


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_several_stand_side_by_side_and_each_is_taken_out_alone(
    project, guard, agent, order
):
    version = b'    "version": 1,\n' * ("members" in AGENTS[agent])
    theirs = b'{\n    "a" : 1.10,\n%s    "hooks": {"UnheardOf": []}\n}\n' % version
    path = written(project, theirs, agent)
    argvs = [["--agent", agent],
             ["--hook", guard(), "--event", "PreToolUse", "--agent", agent],
             ["--hook", guard("open", "other.py"), "--event", "PreToolUse,Stop",
              "--matcher", "Bash", "--agent", agent]]
    for number in order:
        done("install", project, *argvs[number])
    before = tree(project)
    for number in order[::-1]:
        assert "unchanged" in done("install", project, *argvs[number])
    assert tree(project) == before
    assert sum("guard.py" in entry[2] for entry in registered(project, agent)) == 1
    assert sum("other.py" in entry[2] for entry in registered(project, agent)) == 2
    for number in (1, 2):
        done("uninstall", project, *[word for word in argvs[number] if word not in (
            "--event", "PreToolUse", "PreToolUse,Stop", "--matcher", "Bash")])
        assert not (project / ".claude" / "hooks" / (
            "guard.py" if number == 1 else "other.py")).exists()
        assert (project / ".claude" / "hooks" / "hook_io.py").exists()
    assert "guard.py" not in path.read_text() and "send_event.py" in path.read_text()
    done("uninstall", project)
    assert path.read_bytes() == theirs
    assert not (project / ".claude" / "hooks").exists()


def test_what_is_said_anew_takes_the_place_of_what_was_said(
    project, guard
):
    argv = ["install", project, "--hook", guard(), "--event"]
    done(*argv, "PreToolUse", "--matcher", "Edit")
    done(*argv, "PreToolUse", "--event", "UserPromptSubmit", "--fail", "closed")
    entries = registered(project, "claude-code")
    assert [entry[:2] for entry in entries] == [["PreToolUse", None],
                                                ["UserPromptSubmit", None]]
    assert all(COULD_NOT in entry[2] for entry in entries)


def test_a_hook_is_never_put_in_the_place_of_anothers(project, guard):
    path = project / ".claude" / "hooks" / "guard.py"
    path.parent.mkdir(parents=True)
    path.write_text("theirs = 1\n")
    before = tree(project)
    argv = ["install", project, "--hook", guard(), "--event", "PreToolUse"]
    result = command(*argv)
    assert result.returncode == 1 and "is another hook" in result.stderr
    assert tree(project) == before
    path.unlink()
    done(*argv)
    guard("closed")
    assert "kept" in done(*argv)  # a newer one of ours is put in its own place
    assert 'fail="closed"' in path.read_text()
    assert 'fail="closed"' not in path.with_name("guard.py.hook-io.bak").read_text()


def test_the_only_copy_of_a_hook_is_never_removed(project, guard):
    mine = project / ".claude" / "hooks" / "guard.py"
    mine.parent.mkdir(parents=True)
    shutil.move(str(guard()), str(mine))
    done("install", project, "--hook", mine, "--event", "PreToolUse")
    assert "kept" in done("uninstall", project, "--hook", mine)
    assert mine.exists() and (mine.parent / "hook_io.py").exists()
    assert not settings_of(project).exists()


def test_a_person_has_a_hook_in_all_projects_and_none_stays(
    one_hook, project, guard, tmp_path
):
    home = tmp_path / "a home"
    home.mkdir()
    argv = ["--user", "--hook", guard(), "--event", "PreToolUse", "--fail", "closed"]
    done("install", *argv, home=home)
    code, said, event = answer(one_hook, home, "claude-code", "no", home=home)
    assert json.loads(said) == denial("claude-code", event, "not this one")
    done("uninstall", *argv[:3], home=home)
    assert list(home.iterdir()) == [] and is_bare(project)


def test_a_dry_run_of_a_hook_changes_nothing(project, guard):
    said = done("install", "--hook", guard(), "--event", "Stop", "--dry-run", project)
    assert '+    "Stop": [' in said and is_bare(project)


@pytest.mark.parametrize("argv", [
    ["--event", "Stop"], ["--hook", "guard.py"], ["--hook", "send_event.py"],
    ["--hook", "it's.py", "--event", "Stop"], ["--hook", "a.sh", "--event", "Stop"],
    ["--hook", "a.py", "--event", "Stop", "--foreground"],
    ["--hook", "a.py", "--event", "Stop", "--matcher", "^Bash$"]])
def test_what_makes_no_hook_is_a_mistake(project, argv):
    result = command("install", project, *argv)
    assert result.returncode == 2 and is_bare(project)
    result = command("install", project, "--hook", "gone.py", "--event", "Stop")
    assert result.returncode == 1 and "gone.py" in result.stderr
