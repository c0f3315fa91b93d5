"""The installer puts in what is ours, and nobody loses a byte of what is theirs."""

import atexit
import contextlib
import functools
import json
import os
import select
import shlex
import shutil
import signal
import stat
import subprocess
import tempfile
from itertools import product
from pathlib import Path

import pytest

import hook_io
from conftest import NEWEST, PATIENCE_S, PYTHONS, ROOT, TESTS, fed, sample
from server import EventServer

QUICK = TESTS / "quick"
AGENTS = hook_io.REGISTERED
#: somebody's settings: unknown members, hooks of others, one in a group with ours
THEIRS = {
    "$schema": "https://json.schemastore.org/claude-code-settings.json",
    "permissions": {"deny": ["Read(./.env)"], "größe": 1.5},
    "hooks": {
        "Stop": [],
        "UnheardOf": [{"hooks": [{"type": "http", "url": "http://127.0.0.1:9/"}]}],
        "PreToolUse": [{"matcher": "Bash", "note": "ours first", "hooks": [
            {"type": "command", "command": "./check.sh send_event"}]}]},
    "model": "opus",
}
#: what 0.1.0 wrote
OLD = {"type": "command", "timeout": 5, "command":
       'python3 -IS "${CLAUDE_PLUGIN_ROOT:-$CLAUDE_PROJECT_DIR/.claude/hooks}/'
       "send_event.py\" --source-app 'R&D; x' --event-type PreToolUse || :"}
#: what the first ones of 0.2.0 did, behind what finds the scripts
FOUND = ('p=python3; [ "$OS" = Windows_NT ] && p=py; command -v $p >/dev/null ||'
         " p=python; ")
FIRST = {
    "detached": 'h() { exec $p -IS "$d/send_event.py" --source-app app --event-type'
                ' PreToolUse "$@"; }; q() { exec 3<&0; h --fail-loud off <&3 3<&-'
                ' >/dev/null 2>&1 & }; if [ "$OS" = Windows_NT ]; then (h) || :;'
                " elif [ -e /proc/self ]; then q; else cat | q; fi",
    "foreground": '$p -IS "$d/send_event.py" --source-app app --event-type Stop || :',
}
#: how those behind them lowered their priority, one after the other
NICED = {
    "never": {},
    "by one word": {
        "h() {": 'n="nice -n 19"; command -v nice >/dev/null || n=; h() {',
        "exec $p": "exec $n $p"},
    "in the background": {
        "h() {": "n=; h() {", "exec $p": "exec $n $p",
        "q() {": 'q() { command -v nice >/dev/null && n="nice -n 19";'},
    "by two words": {
        "h() {": "n=; k=; h() {", "exec $p": "exec $n $k $p",
        "q() {": "q() { command -v nice >/dev/null && n=nice && k=-n19;"},
}
FIRST_FOUND = {
    "claude-code": "trap '' TERM; d=$CLAUDE_PLUGIN_ROOT; [ -f \"$d/hook_io.py\" ] ||"
                   f" d=$CLAUDE_PROJECT_DIR/.claude/hooks; {FOUND}",
    "codex": f"trap '' TERM; d=$(git rev-parse --show-toplevel)/.claude/hooks; {FOUND}",
    "gemini": f"trap '' TERM; d=${{GEMINI_PROJECT_DIR}}/.claude/hooks; {FOUND}",
}


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "my project"
    (folder / ".git").mkdir(parents=True)
    return folder


def variables(home=os.devnull):
    """Return those of an installer: few, and what spares it to compile the library."""
    return {"HOME": str(home), "USERPROFILE": str(home),
            "PYTHONPATH": str(QUICK), **{
                name: os.environ[name] for name in ("PATH", "SYSTEMROOT")
                if name in os.environ}}


class Forge:
    """A Python that has begun to be an installer, and forks each one: see forge.py."""

    def __init__(self):
        self.said = tempfile.TemporaryDirectory()
        self.streams = {name: os.path.join(self.said.name, name)
                        for name in ("stdout", "stderr")}
        self.popen = subprocess.Popen(
            [PYTHONS[NEWEST], str(QUICK / "forge.py")], env=variables(),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        atexit.register(self.close)

    @classmethod
    @functools.lru_cache(maxsize=None)
    def own(cls):
        """Return the one of this process, started where that is needed."""
        return cls()

    def close(self):
        with contextlib.suppress(OSError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.communicate()
        self.said.cleanup()

    def run(self, argv, cwd, env):
        """Run an installer to its end; return its CompletedProcess."""
        for path in self.streams.values():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        line = json.dumps({"argv": argv, "cwd": cwd, "env": env, **self.streams})
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()
        if not select.select([self.popen.stdout], [], [], PATIENCE_S)[0]:
            self.own.cache_clear()
            self.close()
            raise subprocess.TimeoutExpired(argv, PATIENCE_S)
        return subprocess.CompletedProcess(
            argv, int(self.popen.stdout.readline()), *(
                Path(path).read_text() for path in self.streams.values()))


def command(action, *argv, folder=ROOT, home=os.devnull, **streams):
    """Run the installer; return its CompletedProcess with text streams.

    As a module, which Python compiles once; as a script it is each time, by make.  The
    library is compiled for the first project, and for the others as it was then.
    """
    argv, cwd, env = [action, *map(str, argv)], str(folder), variables(home)
    if not streams and hasattr(os, "fork"):
        return Forge.own().run(argv, cwd, env)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run([PYTHONS[NEWEST], "-m", "hook_io", *argv], text=True,
                          timeout=PATIENCE_S, cwd=cwd, env=env, **streams)


def done(action, project, *argv, **kwargs):
    result = command(action, project, *argv, **kwargs)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    return result.stdout


def settings_of(project, agent="claude-code"):
    return project / AGENTS[agent]["settings"]


def written(project, content, agent="claude-code"):
    """Put *content*, bytes or what becomes JSON, where an agent's settings are."""
    path = settings_of(project, agent)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_raw = isinstance(content, bytes)
    path.write_bytes(content if is_raw else json.dumps(content, indent=4).encode())
    return path


def read(path):
    return json.loads(path.read_bytes().decode("utf-8-sig"))


def tree(folder):
    """Return file -> its bytes and mode, folder -> None, link -> its target."""
    return {str(path.relative_to(folder)): (
        os.readlink(str(path)) if path.is_symlink() else
        (path.read_bytes(), path.stat().st_mode) if path.is_file() else None)
        for path in folder.rglob("*")}


def is_bare(project):
    return [path.name for path in project.iterdir()] == [".git"]


def entries(project, agent):
    """Yield event, entry of each registration that sends the event as it comes."""
    for name, groups in read(settings_of(project, agent))["hooks"].items():
        for group in groups:
            for entry in group.get("hooks", [group]):
                text = json.dumps(entry)
                if "--event-type" in text and "--export" not in text:
                    yield name, entry


@pytest.mark.parametrize("words", [
    "install PROJECT", "install --dry-run PROJECT", "uninstall PROJECT",
    "uninstall --user", "install PROJECT --no-such-option", "--help", "nothing"])
def test_an_installer_that_is_forked_is_like_one_that_is_started(project, words):
    ends = []
    for streams in {"stdin": subprocess.DEVNULL}, {}:
        argv = [project if word == "PROJECT" else word for word in words.split()]
        end = command(*argv, **streams)
        ends.append((end.returncode, end.stdout, end.stderr, sorted(tree(project))))
        shutil.rmtree(str(project / ".claude"), ignore_errors=True)
    assert ends[0] == ends[1]


@pytest.mark.parametrize("agent", AGENTS)
def test_each_agents_commands_send_its_events_and_survive_a_missing_file(
    one_hook, project, agent
):
    (project / ".git").rmdir()
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    done("install", project, "--agent", agent)
    assert [name for name, _ in entries(project, agent)] == (
        AGENTS[agent]["hooked"].split())
    with EventServer() as server:
        env = {**one_hook.env, "PATH": one_hook.path(),
               "HOOK_IO_SERVER_URL": server.url,
               "HOOK_IO_TIMEOUT_MS": "20000", "PYTHONDONTWRITEBYTECODE": "1",
               **{f"{kind}_PROJECT_DIR": str(project)
                  for kind in ("CLAUDE", "GEMINI", "QWEN", "COPILOT", "CURSOR")}}
        for _ in range(2):
            for name, entry in entries(project, agent):
                run = fed(["sh", "-c", entry.get("command") or entry["bash"]], b"{}",
                          env=env, cwd=str(project))
                assert run.returncode == 0, (name, run.stderr)
            server.wait(len(list(entries(project, agent))), timeout=PATIENCE_S)
            (project / ".claude" / "hooks" / "send_event.py").unlink(missing_ok=True)
        sent = [(event["event_type"], event["source_app"]) for event in server.events()]
    assert sorted(sent) == sorted((hook_io.canonical(name), "my project")
                                  for name, _ in entries(project, agent))


@pytest.mark.parametrize("agent", AGENTS)
def test_a_session_begins_with_the_delivery_of_what_is_spooled(project, agent):
    done("install", project, "--agent", agent)
    settings = read(settings_of(project, agent))
    flushes = [entry for groups in settings["hooks"].values() for group in groups
               for entry in group.get("hooks", ()) if "--flush-spool" in str(entry)]
    assert len(flushes) == ("group" in AGENTS[agent])
    done("uninstall", project, "--agent", agent)
    assert not settings_of(project, agent).exists()


def test_timeouts_are_in_the_agents_own_unit():
    for agent, row in AGENTS.items():
        (seconds,) = (row["entry"][name] for name in row["entry"] if "timeout" in name)
        limit_s = 3 if agent == "codex" else 5  # its SessionEnd's
        assert seconds == limit_s * (1000 if agent == "gemini" else 1)


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_registered_is_known_and_says_nothing_but_that_it_could_not_run(agent):
    for name, group in hook_io.Registration(agent).sender("demo").items():
        entry = group.get("hooks", [group])[0]
        text = entry.get("command") or entry["bash"]
        assert hook_io.canonical(name)
        if hook_io.canonical(name) == "SessionStart" and "|| echo" in text:
            assert hook_io.channel("hint", {"hook_event_name": name}) is not None
        elif name in AGENTS[agent].get("detached", "").split():
            assert "_h --fail-loud off <&3 3<&- >/dev/null 2>&1 & } 3<&0; }; " in text
        else:
            assert text.rstrip("'").endswith(" || :")


@pytest.mark.parametrize("agent", AGENTS)
def test_a_second_run_changes_nothing_and_says_so(project, agent):
    done("install", project, "--agent", agent)
    before = tree(project)
    assert done("install", project, "--agent", agent).count("  unchanged  ") == 3
    assert tree(project) == before


@pytest.mark.parametrize("agent", AGENTS)
def test_uninstall_leaves_an_empty_project_empty(project, agent):
    done("install", project, "--agent", agent)
    assert not is_bare(project)
    done("uninstall", project, "--agent", agent)
    assert is_bare(project)


def test_other_peoples_settings_keep_their_order_and_every_member(project):
    path = written(project, THEIRS)
    path.chmod(0o600)
    done("install", project)
    now = read(path)
    assert list(now) == list(THEIRS)
    assert list(now["hooks"])[:3] == list(THEIRS["hooks"])
    for name, groups in THEIRS["hooks"].items():
        assert now["hooks"][name][:len(groups)] == groups
    assert {**now, "hooks": 0} == {**THEIRS, "hooks": 0}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert '\n    "permissions"' in path.read_text()  # indented as it was


@pytest.mark.parametrize("content", [
    json.dumps(THEIRS).encode(), json.dumps(THEIRS, indent="\t").encode() + b"\n",
    b"\xef\xbb\xbf" + json.dumps(THEIRS, indent=1, ensure_ascii=False)
    .replace("\n", "\r\n").encode(), b"", b" \n", b'{"hooks": {}}', b"{}",
    b"\n\n{ }\n", b'{"hooks": { }, "a": [ ]}'])
def test_uninstall_gives_the_settings_back_to_the_byte(project, content):
    path = written(project, content)
    path.chmod(0o640)
    before = tree(project)
    done("install", project)
    assert "send_event.py" in path.read_text()
    done("uninstall", project)
    assert tree(project) == before


def test_marks_and_line_ends_of_a_file_stay(project):
    path = written(project, b'\xef\xbb\xbf{\r\n\t"a": "\xc3\xa9"\r\n}\r\n')
    done("install", project)
    data = path.read_bytes()
    assert data.startswith(b'\xef\xbb\xbf{\r\n\t"a": "\xc3\xa9",\r\n\t"hooks"')
    assert data.endswith(b"}\r\n") and data.count(b"\n") == data.count(b"\r\n")


def test_what_was_changed_since_stays_changed(project):
    path = written(project, THEIRS)
    done("install", project)
    now = read(path)
    del now["model"]
    now["hooks"]["Stop"].append({"hooks": [{"type": "command", "command": "mine"}]})
    path.write_text(json.dumps(now))
    done("uninstall", project)
    expected = json.loads(json.dumps(THEIRS))
    del expected["model"]
    expected["hooks"]["Stop"] = [{"hooks": [{"type": "command", "command": "mine"}]}]
    assert read(path) == expected
    assert read(path.with_name("settings.json.hook-io.bak")) == THEIRS


def test_an_upgrade_replaces_our_entries_where_they_stand_and_no_others(project):
    theirs = {"type": "command", "command": "./guard.sh"}
    chain = {"type": "command",
             "command": "./a.sh && python3 .claude/hooks/send_event.py"}
    before = {"hooks": {"PreToolUse": [
        {"hooks": [OLD]}, {"matcher": "Bash", "hooks": [OLD, theirs, chain]},
        {"hooks": [theirs]}], "FileChanged": [{"matcher": "x", "hooks": [OLD]}]}}
    path = written(project, before)
    done("install", project, "--source-app", "it's R&D")
    new = hook_io.Registration("claude-code").sender("'it'\"'\"'s R&D'")["PreToolUse"]
    hooks = read(path)["hooks"]
    assert hooks["PreToolUse"] == [
        new, {"matcher": "Bash", "hooks": [theirs, chain]}, {"hooks": [theirs]}]
    assert "FileChanged" not in hooks
    assert read(path.with_name("settings.json.hook-io.bak")) == before
    done("install", project, "--source-app", "x")
    assert [len(hooks["PreToolUse"]) for hooks in [read(path)["hooks"]]] == [3]
    assert read(path.with_name("settings.json.hook-io.bak")) == before


@pytest.mark.parametrize("run, niced", [
    ("foreground", "never"), *product(["detached"], NICED)])
@pytest.mark.parametrize("agent", FIRST_FOUND)
def test_what_the_first_commands_were_is_replaced_and_taken_out(
        project, agent, run, niced):
    line = FIRST_FOUND[agent] + FIRST[run]
    for before, after in NICED[niced].items():
        line = line.replace(before, after)
    line = f"exec sh -c {shlex.quote(line)}" if agent == "codex" else line
    before = {"hooks": {"PreToolUse": [
        {"hooks": [{"type": "command", "command": line}]}]}}
    path = written(project, before, agent)
    done("install", project, "--agent", agent)
    assert line not in [*hook_io.Registration.texts(read(path))]
    written(project, before, agent)
    done("uninstall", project, "--agent", agent)
    assert not path.exists()


@pytest.mark.parametrize("part", ['n="', "n=", "--source-app x ", "command -v nice "])
def test_a_command_of_another_is_left_however_long_it_is(project, part):
    line = part * (3_000_000 // len(part))
    before = {"hooks": {"PreToolUse": [
        {"hooks": [{"type": "command", "command": line}]}]}}
    path = written(project, before)
    done("install", project)
    assert line in [*hook_io.Registration.texts(read(path))]
    done("uninstall", project)
    assert read(path) == before


def test_a_persons_own_hook_of_the_first_ones_is_not_registered_twice(project):
    (project / "guard.py").write_text("import hook_io\nhook_io.run(lambda event: None)")
    line = f'd=$CLAUDE_PROJECT_DIR/.claude/hooks; {FOUND}$p -IS "$d/guard.py" || :'
    path = written(project, {"hooks": {"PreToolUse": [
        {"hooks": [{"type": "command", "command": line, "timeout": 30}]}]}})
    done("install", project, "--hook", project / "guard.py", "--event", "PreToolUse")
    (group,) = read(path)["hooks"]["PreToolUse"]
    assert group["hooks"][0]["command"] == f"set +eu; {line}"


@pytest.mark.parametrize("name", ["plain", "it's", "R&D", "a b", "$(touch no)", "`x`"])
def test_the_name_of_a_project_is_a_word_whatever_is_in_it(one_hook, project, name):
    done("install", project, "--source-app", name)
    ((_, entry),) = [item for item in entries(project, "claude-code")
                     if item[0] == "Stop"]
    with EventServer() as server:
        env = {**one_hook.env, "PATH": one_hook.path(),
               "HOOK_IO_SERVER_URL": server.url,
               "HOOK_IO_TIMEOUT_MS": "20000", "CLAUDE_PROJECT_DIR": str(project)}
        fed(["sh", "-c", entry["command"]], json.dumps(sample("Stop")).encode(),
            env=env, cwd=str(project), check=True)
        assert [event["source_app"] for event in server.events()] == [name]
    before = tree(project)
    done("install", project, "--source-app", name)
    assert tree(project) == before
    done("uninstall", project)
    assert is_bare(project)


@pytest.mark.parametrize(("content", "said"), [
    (b'{\n  "a": 1, // why\n  "b": 2\n}', "line 2: a comment is no JSON"),
    (b'{\n\n  # why\n  "b": 2\n}', "line 3: a comment is no JSON"),
    (b'{\n"a": 1 /* why */}', "line 2: a comment is no JSON"),
    (b'{"a": ' + b"[" * 100000 + b"]" * 100000 + b"}", "nested too deeply"),
    (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
    (b'{"a": 1,\n}', "line "), (b'{"a": 1', "line 1: "), (b'{"a": 1, "a": 2}', "twice"),
    (b'{"a": NaN}', "NaN is not JSON"), (b'{"a": 1e999}', "too large"),
    (b"\xef\xbb\xbf" * 2 + b"{}", "line 1: "),
    (b"[]", "not as the agent wants"), (b'{"hooks": []}', "not as the agent wants"),
    (b'{"hooks": {"Stop": {}}}', "not as the agent wants"), (b'{"a": "\xff"}', "utf-8"),
])
@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_settings_that_cannot_be_read_are_refused_and_nothing_changes(
    project, content, said, action
):
    path = written(project, content)
    before = tree(project)
    result = command(action, project, "--agent", "claude-code")
    assert result.returncode == 1
    assert result.stderr.startswith(f"[ERROR] {path}") and said in result.stderr
    assert result.stderr.endswith("\nNothing is changed.\n")
    assert tree(project) == before


def test_a_link_to_settings_in_the_project_stays_one(project):
    target = project / "dotfiles" / "claude.json"
    target.parent.mkdir()
    target.write_text('{"model": "opus"}')
    path = settings_of(project)
    path.parent.mkdir()
    path.symlink_to("../dotfiles/claude.json")
    done("install", project)
    assert path.is_symlink() and "hooks" in read(target)
    done("uninstall", project)
    assert path.is_symlink() and target.read_text() == '{"model": "opus"}'


LINKS = [".claude", ".claude/hooks", ".claude/settings.json",
         ".claude/settings.json.hook-io.bak", ".claude/hooks/send_event.py",
         ".claude/hooks/hook_io.py", ".claude/hooks/hook_io.py.hook-io.bak",
         ".claude/hooks/__pycache__"]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("is_there", [True, False], ids=["there", "dangling"])
@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_nothing_is_read_or_written_through_a_link_that_leaves_the_project(
    project, tmp_path, link, is_there, action
):
    outside = tmp_path / "outside"
    outside.mkdir()
    done("install", project)
    target = outside / "theirs"
    path = project / link
    if not path.exists():
        path.write_text('{"hooks": {}}\n')
    path.rename(target)
    path.symlink_to(target)
    if not is_there:
        target.rename(tmp_path / "gone")
    before = tree(tmp_path)
    result = command(action, project, "--agent", "claude-code")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"[ERROR] {project}{os.sep}.claude")
    assert result.stderr.endswith(f"leads out of the folder, to {target}\n"
                                  "Nothing is changed.\n") or link in LINKS[:2]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("link", LINKS[3:7])
def test_what_we_make_anew_is_never_put_through_a_link_in_the_project(project, link):
    theirs = written(project, {"model": "opus"}).with_name("theirs")
    theirs.write_text("mine\n")
    path = project / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(theirs)
    before = tree(project)
    result = command("install", project)
    assert result.returncode == 1 and "is a link: remove it first" in result.stderr
    assert tree(project) == before


@pytest.mark.parametrize("make", [
    os.mkfifo, lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5)),
    os.mkdir], ids=["FIFO", "device", "folder"])
@pytest.mark.parametrize("file", [
    ".claude/settings.json", ".claude/hooks/hook_io.py",
    ".claude/settings.json.hook-io.bak"])
def test_what_is_no_file_is_not_opened(project, make, file):
    written(project, {})
    path = project / file
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.unlink()
    try:
        make(str(path))
    except PermissionError:
        pytest.skip("only root makes a device")
    for action in ("install", "uninstall"):
        result = command(action, project, "--agent", "claude-code")
        assert result.returncode == 1
        assert result.stderr == (
            f"[ERROR] {path} is no regular file\nNothing is changed.\n")
    assert not (project / ".claude" / "hooks" / "send_event.py").exists()


@pytest.mark.parametrize("file", [".claude/settings.json", ".claude/hooks/hook_io.py"])
def test_a_read_only_file_is_not_replaced(project, file):
    written(project, {})
    path = project / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    path.chmod(0o444)
    before = tree(project)
    result = command("install", project)
    assert result.returncode == 1 and f"{path} is read-only" in result.stderr
    assert tree(project) == before


def test_hooks_of_others_stay_whatever_their_script_is_called(project):
    theirs = [{"type": "command", "command": text} for text in (
        "/opt/acme/send_event.py --audit",
        "uv run .claude/hooks/send_event.py --source-app demo --event-type PreToolUse",
        'python3 "$CLAUDE_PROJECT_DIR/.claude/hooks/send_event.py" --event-type Stop',
        "python3 -IS send_event.py || :")]
    path = written(project, {"hooks": {"PreToolUse": [{"hooks": theirs}]}})
    before = path.read_bytes()
    done("install", project)
    assert read(path)["hooks"]["PreToolUse"][0] == {"hooks": theirs}
    done("uninstall", project)
    assert path.read_bytes() == before


def test_a_command_of_ours_that_a_person_has_changed_is_not_doubled(project):
    mine = {**OLD, "command": OLD["command"].replace(" ||", " --format raw ||")}
    path = written(project, {"hooks": {"PreToolUse": [{"hooks": [mine]}]}})
    before = tree(project)
    result = command("install", project)
    assert result.returncode == 1
    assert f"{path}: a command of ours was changed since" in result.stderr
    assert tree(project) == before


@pytest.mark.parametrize("content", [
    b'{"a": [1.10, 1E5, -0.0, 1e400000000], "b": "\\ud800",\n "c" : [ ]}',
    b'\xef\xbb\xbf{\r\n\t"a": [1, 2,  3],\r\n\t"hooks": {"Stop": [ ]}}',
    b'{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"x"}]}]},"z":1.0}',
    b'{\n      "z": {},\n      "hooks": {\n      },\n  "a": "\xc3\xa9"}\n\n',
    b'{"hooks": {"Stop": [], "PreToolUse": [{"hooks": []}]}}',
])
def test_every_byte_that_is_not_ours_stays(project, content):
    content = content.replace(b", 1e400000000", b"")
    path = written(project, content)
    done("install", project)
    now, at = path.read_bytes(), 0
    for byte in content.replace(b" ", b"").replace(b"\r", b"").replace(b"\n", b""):
        at = now.index(bytes([byte]), at) + 1  # all of it, in its order
    for piece in (b"[1.10, 1E5, -0.0]", b'"\\ud800",\n "c" : [ ]', b"[1, 2,  3],\r\n"):
        assert (piece in now) == (piece in content)
    assert list(read(path))[:len(json.loads(content.decode("utf-8-sig")))] == list(
        json.loads(content.decode("utf-8-sig")))
    path.with_name("settings.json.hook-io.bak").unlink()  # by the text alone
    done("uninstall", project)
    assert json.loads(path.read_bytes().decode("utf-8-sig"))["hooks" if (
        b'"x"' in content) else "a" if b'"a"' in content else "hooks"] is not None
    assert b"".join(path.read_bytes().split()) in (
        b"".join(content.split()), b"".join(content.split()).replace(
            b',"hooks":{"Stop":[]}', b"").replace(b'"hooks":{},', b""),
        b'{"hooks":{"PreToolUse":[{"hooks":[]}]}}')


@pytest.mark.parametrize("name", [
    "hook_io.cpython-312.pyc", "hook_io.cpython-38.pyc", "send_event.cpython-313.pyc"])
def test_a_compiled_file_of_another_is_not_run_in_the_place_of_ours(project, name):
    planted = project / ".claude" / "hooks" / "__pycache__" / name
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"theirs")
    other = planted.with_name("mine.cpython-312.pyc")
    other.write_bytes(b"mine")
    done("install", project)
    assert not planted.exists() or planted.read_bytes() != b"theirs"
    planted.write_bytes(b"theirs")
    done("uninstall", project)
    assert not planted.exists() and other.read_bytes() == b"mine"


@pytest.mark.parametrize("name", [
    "hook_io", "hook_io.cpython-312-x86_64-linux-gnu.so", "hook_io.pyd", "hook_io.pyc"])
def test_what_python_would_take_for_our_library_is_refused(project, name):
    planted = project / ".claude" / "hooks" / name
    planted.parent.mkdir(parents=True)
    (planted.mkdir if name == "hook_io" else planted.touch)()
    result = command("install", project)
    assert result.returncode == 1
    assert f"{planted} would run in place of ours" in result.stderr


def test_a_closed_stdout_changes_nothing_and_a_full_one_neither(project):
    before = tree(project)
    script = f'exec "{PYTHONS[NEWEST]}" -m hook_io install "{project}" >&-'
    closed = subprocess.run(["sh", "-c", script], cwd=str(ROOT), timeout=PATIENCE_S,
                            stderr=subprocess.PIPE)
    assert (closed.returncode, closed.stderr.splitlines()) == (1, [
        b"[ERROR] stdout is closed, so that nobody would see what is done",
        b"Nothing is changed."])
    with open("/dev/full", "w") as full:
        result = command("install", project, stdout=full)
    assert (result.returncode, result.stderr) == (
        1, "[ERROR] [Errno 28] No space left on device\nNothing is changed.\n")
    assert tree(project) == before


def test_a_home_is_no_project(project):
    before = tree(project)
    result = command("install", project, home=project)
    assert result.returncode == 2 and "is your home folder: say --user" in result.stderr
    assert tree(project) == before


@pytest.mark.parametrize("argv", [[""], [], ["--user", "somewhere"]])
def test_a_project_that_is_not_said_is_a_mistake(project, argv):
    result = command("install", *argv, home=project)
    assert result.returncode == 2
    assert "say either PROJECT, a folder, or --user" in result.stderr
    assert is_bare(project)


def test_codex_wants_the_top_folder_of_a_repository(project):
    inner = project / "inner"
    inner.mkdir()
    result = command("install", inner, "--agent", "codex")
    assert result.returncode == 1 and f"{inner} has no .git" in result.stderr
    assert list(inner.iterdir()) == []


@pytest.mark.parametrize("agent", AGENTS)
def test_nobody_waits_but_where_a_person_is_told_or_the_agent_ends(project, agent):
    waited = {"SessionStart", "UserPromptSubmit", "Stop", "SubagentStop", "SessionEnd",
              "PreCompact"}
    if agent == "qwen":  # which raises it for the results of tools, and tells nobody
        waited.remove("UserPromptSubmit")
    row = AGENTS[agent]
    detached, hooked = row.get("detached", "").split(), row["hooked"].split()
    assert set(detached) == {name for name in hooked
                             if detached and hook_io.canonical(name) not in waited}
    done("install", project, "--agent", agent, "--foreground")
    assert "--fail-loud off" not in settings_of(project, agent).read_text()
    done("install", project, "--agent", agent)
    said = settings_of(project, agent).read_text()
    assert said.count("--fail-loud off") == len(detached)
    done("uninstall", project)
    assert is_bare(project)


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_waits_for_a_server_that_decides(project, agent):
    before = hook_io.Registration(agent).sender("demo", foreground=True)
    now = hook_io.Registration(agent).sender("demo", decide=True)
    more = set(now) - set(before)
    assert more == {"PreSkillShellCommand"} if agent == "claude-code" else not more
    for name, group in now.items():
        asks = "HOOK_IO_DECIDE=${HOOK_IO_DECIDE:-deny} $p " in json.dumps(group)
        assert asks == (hook_io.canonical(name) in hook_io.DECIDED)
        if asks and name not in more:
            assert json.dumps(group).replace(
                "HOOK_IO_DECIDE=${HOOK_IO_DECIDE:-deny} ", "") == (
                json.dumps(before[name]))
    done("install", project, "--agent", agent, "--decide")
    done("uninstall", project)
    assert is_bare(project)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_person_has_it_in_all_projects(one_hook, project, tmp_path, agent):
    home = tmp_path / "a home"
    home.mkdir()
    done("install", "--user", "--agent", agent, home=home)
    path = home / AGENTS[agent].get("user", AGENTS[agent]["settings"])
    name, groups = next(iter(read(path)["hooks"].items()))
    entry = groups[0].get("hooks", groups)[0]
    with EventServer() as server:
        env = {**one_hook.env, "PATH": one_hook.path(), "HOME": str(home),
               "HOOK_IO_SERVER_URL": server.url, "HOOK_IO_TIMEOUT_MS": "20000",
               **{f"{kind}_PROJECT_DIR": str(project)
                  for kind in ("CLAUDE", "GEMINI", "QWEN", "COPILOT", "CURSOR")}}
        run = fed(["sh", "-c", entry.get("command") or entry["bash"]], b"{}", env=env,
                  cwd=str(project))
        assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")
        assert [seen.json["source_app"] for seen in server.wait(1)] == ["my project"]
    result = command("install", project, "--agent", agent, home=home)
    assert result.returncode == 1 and "send each event twice" in result.stderr
    done("uninstall", "--user", home=home)
    assert list(home.iterdir()) == [] and is_bare(project)


def test_a_person_has_it_in_a_project_that_others_share(project):
    written(project, {"model": "opus"})
    before = tree(project)
    done("install", project, "--local")
    local = settings_of(project).with_name("settings.local.json")
    assert "hooks" in read(local) and read(settings_of(project)) == {"model": "opus"}
    result = command("install", project)
    assert result.returncode == 1 and "send each event twice" in result.stderr
    done("uninstall", project)
    assert tree(project) == before
    result = command("install", project, "--local", "--agent", "gemini")
    assert result.returncode == 1 and "gemini has no settings of one" in result.stderr


def test_a_dry_run_shows_the_diff_and_changes_nothing(project):
    path = written(project, THEIRS)
    before = tree(project)
    said = done("install", project, "--dry-run")
    assert f"\n--- {path}\n+++ {path}\n@@ " in said
    removed = [line for line in said.splitlines() if line.startswith("-    ")]
    assert len(removed) <= 3 and "\n+" in said  # brackets that get a comma
    assert said.endswith("Nothing is changed: --dry-run.\n")
    assert tree(project) == before
    done("install", project)
    there = tree(project)
    assert "\n--- " in done("uninstall", project, "--dry-run")
    assert tree(project) == there


def test_a_name_that_is_no_utf_8_is_said_and_not_sent(project):
    odd = os.path.join(os.fsencode(str(project)), b"caf\xe9")
    os.mkdir(odd)
    before = tree(project)
    result = subprocess.run(
        [PYTHONS[NEWEST], "-m", "hook_io", "install", odd], cwd=str(ROOT),
        capture_output=True, timeout=PATIENCE_S)
    assert result.returncode == 1 and b"Traceback" not in result.stderr
    assert b"is not UTF-8, or no line: say another by" in result.stderr
    assert tree(project) == before


def test_the_first_hook_finds_the_library_compiled(project):
    done("install", project)
    folder = project / ".claude" / "hooks" / "__pycache__"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 2  # one for each of its parts
    hook = project / ".claude" / "hooks" / "send_event.py"
    subprocess.run([PYTHONS[NEWEST], "-IS", str(hook), "--version"], check=True,
                   env={"PATH": os.environ["PATH"]}, stdout=subprocess.DEVNULL)
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert os.access(str(hook), os.X_OK)


@pytest.mark.parametrize("name", hook_io.FILES)
def test_a_file_of_anothers_is_never_overwritten(project, name):
    folder = project / ".claude" / "hooks"
    folder.mkdir(parents=True)
    (folder / name).write_text("print('theirs')\n")
    before = tree(project)
    result = command("install", project)
    assert result.returncode == 1 and f"{folder / name} is another's" in result.stderr
    assert tree(project) == before
    done("uninstall", project)
    assert tree(project) == before


def test_what_0_1_0_put_aside_comes_back(project):
    done("install", project)
    script = project / ".claude" / "hooks" / "send_event.py"
    script.with_name("send_event.py.hook-io.bak").write_text("print('theirs')\n")
    done("uninstall", project)
    assert [path.name for path in script.parent.iterdir()] == ["send_event.py"]
    assert script.read_text() == "print('theirs')\n"


def test_uninstall_keeps_files_that_are_changed_or_in_use(project):
    folder = project / ".claude" / "hooks"
    done("install", project)
    done("install", project, "--agent", "gemini")
    done("uninstall", project, "--agent", "claude-code")
    assert (folder / "send_event.py").exists() and not settings_of(project).exists()
    (folder / "guard.py").write_text("import hook_io\n")
    assert "hook_io.py: .claude/hooks/guard.py uses it" in done("uninstall", project)
    assert (folder / "hook_io.py").exists()
    (folder / "guard.py").unlink()
    with open(str(folder / "hook_io.py"), "a") as file:
        file.write("# mine\n")
    assert "it is not as this version has it" in done("uninstall", project)
    assert [path.name for path in folder.iterdir()] == ["hook_io.py"]


def test_the_installed_copy_installs_and_takes_itself_out(project):
    done("install", project)
    copy = project / ".claude" / "hooks"
    done("install", project, "--agent", "qwen", folder=copy)
    assert settings_of(project, "qwen").exists()
    done("uninstall", project, folder=copy)
    assert is_bare(project)


@pytest.mark.parametrize("first, second", [
    ("claude-code", "copilot"), ("copilot", "claude-code"), ("claude-code", "cursor"),
    ("cursor", "claude-code")])
def test_an_agent_that_runs_both_files_is_not_given_each_event_twice(
    project, first, second
):
    done("install", project, "--agent", first)
    before = tree(project)
    result = command("install", project, "--agent", second)
    assert result.returncode == 1 and "send each event twice" in result.stderr
    assert tree(project) == before


def test_a_folder_that_is_not_there_is_a_mistake(project):
    result = command("install", project / "nowhere")
    assert result.returncode == 2 and "there is no folder" in result.stderr
    assert is_bare(project)


def test_a_folder_that_cannot_be_made_is_told(project):
    (project / ".claude").write_text("no folder\n")
    before = tree(project)
    result = command("install", project)
    assert result.returncode == 1 and result.stderr.startswith("[ERROR] [Errno ")
    assert tree(project) == before


def with_replace(put, action, project):
    """Run the installer where os.replace is what *put* defines; return the process."""
    script = ("import os, sys; sys.path.insert(0, sys.argv[1]); import hook_io\n"
              f"{put}\nos.replace = put; sys.argv[1:3] = [{action!r}]; hook_io._main()")
    return subprocess.run([PYTHONS[NEWEST], "-c", script, str(ROOT), "-", str(project)],
                          capture_output=True, timeout=PATIENCE_S)


def test_no_half_written_file_stays_where_the_disk_is_full(project):
    path = written(project, THEIRS)
    done("install", project)
    before = tree(project)
    run = with_replace(
        "def put(*a): raise OSError(28, 'No space left on device')", "uninstall",
        project)
    assert run.returncode == 1 and b"No space left" in run.stderr
    assert tree(project) == before and path.exists()


@pytest.mark.parametrize("older", [None, b"# hook_io 0.1.0, part of hook-io - older\n"])
def test_where_one_file_cannot_be_replaced_all_are_as_they_were(project, older):
    written(project, THEIRS)
    if older:
        (project / hook_io.HOOKS).mkdir()
        (project / hook_io.HOOKS / "hook_io.py").write_bytes(older)
    before = tree(project)
    run = with_replace(
        "def put(part, path, replace=os.replace):\n"
        "    if path.endswith('settings.json'): raise OSError(16, 'it is a mount')\n"
        "    replace(part, path)", "install", project)
    assert run.returncode == 1
    assert run.stderr.endswith(
        b"settings.json is mounted by itself, so nothing can take its place: mount its"
        b" folder instead, or run this where it is\nNothing is changed.\n")
    assert tree(project) == before


@pytest.mark.parametrize("action", ["install", "uninstall"])
def test_what_another_wrote_meanwhile_is_not_overwritten(project, action):
    path = written(project, THEIRS)
    if action == "uninstall":
        done("install", project)
    meanwhile = json.dumps({"model": "another"})
    run = with_replace(
        "put, apply = os.replace, hook_io.Plan.apply\n"
        "def late(plan):\n"
        f"    open({str(path)!r}, 'w').write({meanwhile!r})\n"
        "    apply(plan)\n"
        "hook_io.Plan.apply = late", action, project)
    assert run.returncode == 1
    assert b"was just changed by another: run this again" in run.stderr
    assert path.read_text() == meanwhile


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_installs_and_uninstalls(project):
    for action in ("install", "uninstall"):
        subprocess.run(
            ["make", "-C", str(ROOT), action, f"PROJECT={project}",
             f"PYTHON={PYTHONS[NEWEST]}", "AGENT=gemini", "SOURCE_APP=it is"],
            check=True, stdout=subprocess.DEVNULL)
        there = (project / ".gemini" / "settings.json").exists()
        assert there == (action == "install")
        if there:
            assert "--source-app 'it is'" in settings_of(project, "gemini").read_text()
    none = subprocess.run(["make", "-C", str(ROOT), "install"], capture_output=True)
    assert none.returncode != 0 and b"PROJECT=" in none.stderr
