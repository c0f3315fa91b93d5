"""hooks.json stops nothing, whatever is missing, and breaks nobody's settings."""

import contextlib
import json
import os
import shutil
import subprocess
import time

import pytest

import hook_io
from conftest import PATIENCE_S, ROOT, eventually, fed, nowhere, sample, timed
from server import EventServer

HOOKS = json.loads((ROOT / "hooks.json").read_text())
ENTRIES = {name: group["hooks"][0] for name, groups in HOOKS["hooks"].items()
           for group in groups}
RUNNER = "$p -IS"
#: events whose hook nobody waits for
DETACHED = [name for name in ENTRIES if "h --fail-loud off" in ENTRIES[name]["command"]]
WAITED = [name for name in ENTRIES if name not in DETACHED]
FLUSH = HOOKS["hooks"]["SessionStart"][0]["hooks"][1]
#: bash is another shell when it is called sh; dash is the same one
SHELLS = [shell for shell in ("sh", "dash", "bash", "zsh") if shutil.which(shell)
          and not (shell == "dash" and os.path.samefile(*map(
              shutil.which, ("sh", "dash"))))]


def fire(name, env, shell="sh", runner=RUNNER):
    """Run the command of an event as the agent does; return stdout and stderr.

    runner: what the command calls in the place of its own.
    """
    command = ENTRIES[name]["command"].replace(RUNNER, runner)
    done = fed([shell, "-c", command], json.dumps(sample(name)).encode(), env=env)
    assert done.returncode == 0, (name, done.stderr)
    return done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def project(one_hook, tmp_path):
    """Return the variables of a project whose .claude/hooks holds the two files."""
    folder = tmp_path / "my project"
    shutil.copytree(str(one_hook.folder), str(folder / ".claude" / "hooks"))
    return {**one_hook.env, "CLAUDE_PROJECT_DIR": str(folder), "PATH": one_hook.path(),
            "HOOK_IO_TIMEOUT_MS": "20000",  # nothing here is lost for want of time
            "HOOK_IO_SERVER_URL": nowhere()}


def scripts(project):
    return ROOT.__class__(project["CLAUDE_PROJECT_DIR"]) / ".claude" / "hooks"


def test_it_registers_the_contracts_nine_events_and_what_else_an_observer_wants():
    assert list(ENTRIES)[:9] == [
        "PreToolUse", "PostToolUse", "UserPromptSubmit", "SessionStart", "SessionEnd",
        "Notification", "Stop", "SubagentStop", "PreCompact"]
    assert set(ENTRIES) <= set(hook_io.PLATFORMS["claude-code"]["events"])
    acts_or_floods = {"WorktreeCreate", "WorktreeRemove", "MessageDisplay",
                      "PostToolBatch", "FileChanged", "InstructionsLoaded"}
    assert not set(ENTRIES) & acts_or_floods


def test_it_is_what_the_installer_registers_with_the_folders_name():
    wanted = hook_io.Registration("claude-code").sender()
    assert {"hooks": {name: [group] for name, group in wanted.items()}} == HOOKS


def test_it_has_the_shape_that_the_client_accepts():
    assert list(HOOKS) == ["hooks"]
    for name, groups in HOOKS["hooks"].items():
        (group,) = groups
        assert list(group) == ["hooks"]
        first, *more = group["hooks"]
        exports = name in ("Stop", "StopFailure", "SessionEnd")
        assert (first, len(more)) == (ENTRIES[name], exports or name == "SessionStart")
        assert all("--export --background" in one["command"] or one == FLUSH
                   for one in more)
        assert f"--event-type {name} " in ENTRIES[name]["command"]
    for entry in (entry for (group,) in HOOKS["hooks"].values()
                  for entry in group["hooks"]):
        assert sorted(entry) == ["command", "timeout", "type"]
        assert entry["type"] == "command"
        assert entry["command"].rpartition(" || ")[2].startswith((":", "echo '{"))
        assert entry["command"].startswith((
            "set +eu; trap '' TERM HUP; ",
            'set +eu; [ -n "$HOOK_IO_SPOOL_DIR" ] || exit 0; ',
            'set +eu; [ -n "$HOOK_IO_EXPORT" ] || exit 0; '))
        assert type(entry["timeout"]) is int
        assert 0 < entry["timeout"] <= 5  # seconds


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_sends_its_event_from_a_folder_with_a_blank(project, shell):
    with EventServer() as server:
        env = {**project, "HOOK_IO_SERVER_URL": server.url}
        assert {fire(name, env, shell) for name in ENTRIES} == {("", "")}
        server.wait(len(ENTRIES), timeout=PATIENCE_S)
        sent = [(event["event_type"], event["source_app"]) for event in server.events()]
    assert sorted(sent) == sorted((name, "my project") for name in ENTRIES)


def stand_in(folder, script):
    """Put *script* in the place of the interpreter that the commands find."""
    python = folder / "bin" / "python3"
    python.unlink()
    python.write_text(script)
    python.chmod(0o755)


WAITING = """#!/bin/sh
while [ ! -e "{0}/go" ]; do sleep 0.05; done
wc -c > "{0}/part" && mv "{0}/part" "{0}/bytes"
"""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("system", "size"), [("/proc/self", 9_000),
                                              ("/nowhere", 900_000)])
def test_nobody_waits_for_a_detached_hook_and_it_gets_the_whole_event(
    project, tmp_path, shell, system, size
):
    stand_in(tmp_path, WAITING.format(tmp_path))
    command = ENTRIES["PreToolUse"]["command"].replace("/proc/self", system)
    (tmp_path / "go").touch() if size > 9_000 else None  # else cat waits for its reader
    with subprocess.Popen([shell, "-c", command], env=project, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as agent:
        os.set_blocking(agent.stdin.fileno(), False)
        rest = b"x" * size
        is_there = True  # an agent writes at once, and no more when its hook has ended
        while rest and is_there:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                rest = rest[os.write(agent.stdin.fileno(), rest):]
            is_there = agent.poll() is None
        agent.stdin.close()
        assert agent.stdout.read() == b""  # closed by all: nobody holds the agent
        assert agent.wait(PATIENCE_S) == 0
    assert size > 9_000 or not (tmp_path / "bytes").exists()
    (tmp_path / "go").touch()
    limit = time.monotonic() + PATIENCE_S
    while not (tmp_path / "bytes").exists() and time.monotonic() < limit:
        time.sleep(0.02)
    assert int((tmp_path / "bytes").read_text()) == size


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("name", "system"), [
    ("PreToolUse", "/proc/self"), ("PreToolUse", "/nowhere"), ("Stop", "/proc/self")])
@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_a_closed_stdin_is_no_exit_2_and_its_event_arrives(
    project, shell, name, system, closed
):
    command = ENTRIES[name]["command"].replace("/proc/self", system)
    with EventServer() as server:
        done = fed([shell, "-c", f"exec {closed}; {command}"], b"",
                   env={**project, "HOOK_IO_SERVER_URL": server.url})
        assert (done.returncode, done.stdout) == (0, b""), done.stderr
        [event] = eventually(server.events)
    assert event["event_type"] == name


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_that_is_set_to_end_early_runs_each_command(project, shell):
    with EventServer() as server:
        for name in ENTRIES:
            done = fed([shell, "-euc", ENTRIES[name]["command"]], b"{}",
                       env={**project, "HOOK_IO_SERVER_URL": server.url})
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), name
        server.wait(len(ENTRIES), timeout=PATIENCE_S)
    for name, end in (("SessionStart", 1), ("Stop", 1), ("SessionEnd", 1)):
        command = HOOKS["hooks"][name][0]["hooks"][end]["command"]
        done = fed([shell, "-euc", command], b"{}", env=project)
        assert (done.returncode, done.stderr) == (0, b""), name


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh")
def test_a_persons_own_short_names_are_not_taken_for_ours(project, tmp_path):
    (tmp_path / ".zshenv").write_text("alias h=history q=exit\nsetopt no_unset\n")
    with EventServer() as server:
        fire("PreToolUse", {**project, "ZDOTDIR": str(tmp_path),
                            "HOOK_IO_SERVER_URL": server.url}, "zsh")
        eventually(server.events)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["PreToolUse", "Stop"])
@pytest.mark.parametrize("signal", ["TERM", "HUP"])
def test_what_ends_an_agent_and_its_terminal_leaves_a_hook_to_its_work(
    project, tmp_path, shell, name, signal
):
    real = os.path.realpath(str(tmp_path / "bin" / "python3"))
    stand_in(tmp_path, f'#!/bin/sh\nkill -{signal} 0\nexec "{real}" "$@"\n')
    with EventServer() as server:
        done = fed([shell, "-c", ENTRIES[name]["command"]], b"{}",
                   start_new_session=True,
                   env={**project, "HOOK_IO_SERVER_URL": server.url})
        assert (done.returncode, done.stdout) == (0, b"")
        eventually(server.events)


NICENESS = """#!/bin/sh
nice > "{0}/part" && mv "{0}/part" "{0}/niceness"
"""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("name", "more"), [("PreToolUse", 19), ("Stop", 0)])
def test_only_a_hook_that_nobody_waits_for_stands_behind_who_works(
    project, tmp_path, shell, name, more
):
    stand_in(tmp_path, NICENESS.format(tmp_path))
    fire(name, project, shell)
    eventually(lambda: (tmp_path / "niceness").exists())
    assert int((tmp_path / "niceness").read_text()) == min(19, os.nice(0) + more)


LATE = """#!/bin/sh
sleep 0.2
date -u +%Y-%m-%dT%H:%M:%S.%NZ > "{0}/late"
sleep 0.2
exec "{1}" "$@"
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="nobody tells when")
def test_an_event_has_the_time_at_which_its_shell_was_started(project, tmp_path):
    real = os.path.realpath(str(tmp_path / "bin" / "python3"))
    stand_in(tmp_path, LATE.format(tmp_path, real))
    with EventServer() as server:
        fire("PreToolUse", {**project, "HOOK_IO_SERVER_URL": server.url})
        [event] = eventually(server.events)
    assert event["timestamp"] < (tmp_path / "late").read_text()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_detached_hook_arrives_where_there_is_no_nice(project, tmp_path, shell):
    (tmp_path / "bin2").mkdir()
    python = os.path.realpath(shutil.which("python3", path=project["PATH"]))
    (tmp_path / "bin2" / "python3").symlink_to(python)
    with EventServer() as server:
        env = {**project, "PATH": str(tmp_path / "bin2"),
               "HOOK_IO_SERVER_URL": server.url}
        assert fire("PreToolUse", env, shutil.which(shell)) == ("", "")
        eventually(server.events)


def test_what_a_detached_hook_loses_and_its_end_are_told_by_the_next_that_is_waited_for(
    project
):
    with EventServer() as server:
        for event in 3 * ["PreToolUse"]:
            assert fire(event, project) == ("", "")
        streak = ROOT.__class__(hook_io.FailureStreak("send_event." + hook_io.shown_url(
            project["HOOK_IO_SERVER_URL"])).path).name
        state = ROOT.__class__(project["HOOK_IO_STATE_DIR"])
        limit = time.monotonic() + PATIENCE_S
        while time.monotonic() < limit and not any(
                path.name == streak and path.stat().st_size == 192
                for path in state.rglob("*")):
            time.sleep(0.02)
        assert "4 events in a row did not reach" in fire("UserPromptSubmit", project)[0]
        assert server.events() == []


@pytest.mark.parametrize("cut", [40, 200])
def test_of_an_event_that_is_cut_short_what_came_whole_arrives(project, cut):
    whole = json.dumps({"session_id": "s-1", "hook_event_name": "PreToolUse",
                        "tool_name": "Bash", "tool_input": {"command": "é" * 300}},
                       ensure_ascii=False).encode()
    with EventServer() as server:
        env = {**project, "HOOK_IO_SERVER_URL": server.url}
        fed(["sh", "-c", ENTRIES["PreToolUse"]["command"]], whole[:cut], env=env,
            check=True)
        (seen,) = server.wait(1, timeout=PATIENCE_S)
    sent = json.loads(seen.json["metadata"])
    assert sent["session_id"] == "s-1" and "input_error" in sent
    assert (sent.get("tool_name") == "Bash") == (cut == 200)


def spoil(project, trouble):
    """Let the hook not run in this way; return what a command calls in its place."""
    script, library = (scripts(project) / name for name in reversed(hook_io.FILES))
    if trouble in ("no script", "no library"):
        (script if trouble == "no script" else library).unlink()
    elif trouble in ("broken script", "broken library"):
        broken = script if trouble == "broken script" else library
        broken.write_text("def broken(:\n")
    else:
        project["PATH"] = str(scripts(project))  # neither python3 nor uv is there
    return "uv run" if trouble == "no uv" else RUNNER


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("trouble", [
    "no script", "no library", "no python", "no uv", "broken script", "broken library"])
def test_what_cannot_run_exits_0_and_only_session_start_says_so(
    project, trouble, shell
):
    runner = spoil(project, trouble)
    for name in ENTRIES:
        stdout, stderr = fire(name, project, shutil.which(shell), runner)
        assert (stderr != "") == (name in WAITED), name
        if name != "SessionStart":
            assert stdout == "", name
        else:
            assert list(json.loads(stdout)) == ["systemMessage"]
            assert "could not run" in stdout


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("end", ["kill -9 $$", "kill -15 $$", "exit 1", "exit 2"])
def test_however_a_hook_ends_its_agent_sees_exit_0(project, tmp_path, end, shell):
    stand_in(tmp_path, f"#!/bin/sh\n{end}\n")
    said = {name: fire(name, project, shell)[0] for name in ENTRIES}
    failed = [] if end == "kill -15 $$" else ["SessionStart"]  # it ignores that one
    assert [name for name, stdout in said.items() if stdout] == failed


@pytest.mark.parametrize("shell", SHELLS)
def test_a_dead_server_is_no_more_than_a_line_on_stderr(project, shell):
    project["HOOK_IO_FAIL_LOUD"] = "off"  # what is told from the third on
    for name in ENTRIES:
        stdout, stderr = fire(name, project, shell)
        assert stdout == "", name
        assert stderr == "" if name in DETACHED else (
            stderr.startswith("[ERROR] Failed to send event to "))


@pytest.mark.parametrize("fault", ["silent", "server_error"])
@timed
def test_a_server_in_trouble_holds_no_event_for_long(project, fault):
    project.pop("HOOK_IO_TIMEOUT_MS", None)
    project["HOOK_IO_FAIL_LOUD"] = "off"
    with EventServer(fault=fault) as server:
        env = {**project, "HOOK_IO_SERVER_URL": server.url}
        assert {fire(name, env)[0] for name in ENTRIES} == {""}
        timeout_ms = min(entry["timeout"] for entry in ENTRIES.values()) * 1000
        assert max(x.held_ms for x in server.wait(
            len(ENTRIES), timeout=PATIENCE_S)) < timeout_ms


def test_a_plugin_finds_its_scripts_in_its_own_folder(project):
    root = scripts(project)
    elsewhere = {**project, "CLAUDE_PLUGIN_ROOT": str(root),
                 "CLAUDE_PROJECT_DIR": str(root.parent)}
    with EventServer() as server:
        fire("Stop", {**elsewhere, "HOOK_IO_SERVER_URL": server.url})
        assert [event["event_type"] for event in server.events()] == ["Stop"]


@pytest.mark.parametrize("theirs", ["", "send_event.py"])
def test_a_variable_of_another_plugin_does_not_disarm_the_project(
    project, tmp_path, theirs
):
    other = tmp_path / "plugin"
    other.mkdir()
    if theirs:
        (other / theirs).write_text("raise SystemExit(2)")
    with EventServer() as server:
        fire("Stop", {**project, "CLAUDE_PLUGIN_ROOT": str(other),
                      "HOOK_IO_SERVER_URL": server.url})
        assert [event["event_type"] for event in server.events()] == ["Stop"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_project_has_its_folders_name_also_where_paths_have_backslashes(
    project, tmp_path, shell
):
    folder = tmp_path / "C:\\work\\my demo"
    shutil.copytree(project["CLAUDE_PROJECT_DIR"], str(folder))
    with EventServer() as server:
        fire("Stop", {**project, "CLAUDE_PROJECT_DIR": str(folder),
                      "HOOK_IO_SERVER_URL": server.url}, shell)
        assert [event["source_app"] for event in server.events()] == ["my demo"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("name", "system"), [
    ("python3", ""), ("python", ""), ("py", "Windows_NT"), ("python", "Windows_NT")])
def test_a_command_finds_the_interpreter_that_is_there(
    project, tmp_path, shell, name, system
):
    bin_ = tmp_path / "bin2"
    bin_.mkdir()
    (bin_ / name).symlink_to(os.path.realpath(str(tmp_path / "bin" / "python3"))
                             if (tmp_path / "bin" / "python3").exists()
                             else shutil.which("python3"))
    if system:  # the alias of a shop, which is no Python
        (bin_ / "python3").write_text("#!/bin/sh\nexit 49\n")
        (bin_ / "python3").chmod(0o755)
    env = {**project, "PATH": str(bin_), "OS": system}
    with EventServer() as server:
        env["HOOK_IO_SERVER_URL"] = server.url
        assert fire("Stop", env, shutil.which(shell)) == ("", "")
        assert [event["event_type"] for event in server.events()] == ["Stop"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("trouble", ["", "no script", "no python"])
def test_a_session_begins_with_what_is_spooled_where_something_is(
    project, tmp_path, shell, trouble
):
    spool = tmp_path / "the spool"
    env = {**project, "HOOK_IO_SPOOL_DIR": str(spool)}
    fire("Stop", env, shell)
    assert len(list(spool.glob("*.json"))) == 1
    if trouble == "no script":
        (scripts(project) / "send_event.py").unlink()
    with EventServer() as server:
        env["HOOK_IO_SERVER_URL"] = server.url
        if trouble == "no python":
            env["PATH"] = str(tmp_path / "nowhere")
        for variables in ({**env, "HOOK_IO_SPOOL_DIR": ""}, env):
            done = fed([shutil.which(shell), "-c", FLUSH["command"]], b"{}",
                       env=variables)
            assert (done.returncode, done.stdout) == (0, b"")
        if not trouble:
            (seen,) = server.wait(1)
            assert seen.json["event_type"] == "Stop"
