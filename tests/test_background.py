"""In the background an event costs the agent no wait, and still is not lost in silence.

Real processes; what is started where there is no fork is checked with
pytest-subprocess as well.
"""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from pytest_subprocess import fake_popen

import hook_io
from conftest import HeldServer, eventually, nowhere, sample, timed
from errands import errand
from server import EventServer, closed_port

pytestmark = pytest.mark.usefixtures("patient")
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")

#: how a process comes to be without fork -> what stands before the script
WITHOUT_FORK = {"no fork": "del os.fork\n", "fork fails": """
def fork():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fork
"""}


def send(hook, url, *argv, event="PreToolUse", **kwargs):
    return hook.send(url, "--background", *argv, stdin=sample(event), **kwargs)


def changed(hook, how):
    """Make the hook's script one that runs where os.fork is as *how* says."""
    script = hook.folder / "send_event.py"
    source = script.read_text()
    mark = "import sys\n"
    assert source.count(mark) == 1
    script.write_text(source.replace(mark, f"{mark}import os\n{WITHOUT_FORK[how]}"))


def test_the_hook_is_done_before_the_server_has_answered(hook):
    with HeldServer() as server:
        result = send(hook, server.url)
        server.go()
        assert server.wait(1)[0].status == 201
        (event,) = server.events()
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")
    assert event["summary"] == hook_io.summary(sample("PreToolUse"), "PreToolUse")
    assert hook.losses() == []


def test_a_large_event_arrives_as_whole_as_in_the_foreground(hook):
    event = {**sample("PreToolUse"), "many": ["x" * 100] * 1500}
    with EventServer() as server:
        for count, argv in enumerate(([], ["--background"]), 1):
            hook.send(server.url, *argv, "--timeout-ms", "9000", stdin=event)
            eventually(lambda count=count: len(server.events()) == count)
        one, two = (event["metadata"] for event in server.events())
    assert one == two
    assert json.loads(one) == event


@posix
def test_it_outlives_the_agent_and_the_kill_of_its_process_group(one_hook):
    command = one_hook.command("send_event.py", "--source-app", "demo",
                               "--event-type", "Stop", "--background")
    script = 'HOOK "$@"; echo done; sleep 60'.replace("HOOK", '"$0"')
    with HeldServer() as server:
        agent = subprocess.Popen(
            ["sh", "-c", script, *command], start_new_session=True,
            env={**one_hook.env, "HOOK_IO_SERVER_URL": server.url,
                 "HOOK_IO_BACKGROUND_TIMEOUT_MS": "700"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert agent.stdout.readline() == b"done\n"
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()
        agent.stdout.close()
        assert "unconfirmed" in eventually(one_hook.losses)[0]  # its end is its own
        server.go()
        server.wait(1)
        (event,) = server.events()
    assert event["event_type"] == "Stop"


def processes_of(folder):
    """Return the ids of the processes whose command line names *folder*."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if os.fsencode(str(folder)) in file.read():
                    found.append(int(name))
        except OSError:
            pass
    return found


@proc
def test_it_holds_nothing_of_the_agents(one_hook):
    kept, other = os.pipe()
    os.set_inheritable(other, True)
    with EventServer(fault="silent") as server:
        send(one_hook, server.url, pass_fds=(other,))
        os.close(other)
        assert os.read(kept, 1) == b""  # nobody else has the other end
        os.close(kept)
        eventually(lambda: server.exchanges)
        (process,) = processes_of(one_hook.folder)
        fds = {fd: os.readlink(f"/proc/{process}/fd/{fd}") for fd in (0, 1, 2)}
        session = os.getsid(process)
        os.kill(process, signal.SIGKILL)
    assert set(fds.values()) == {os.devnull}
    assert session not in (os.getsid(0), process)  # its own, and it leads none


@posix
def test_no_file_is_left_behind_and_none_is_there_meanwhile(one_hook):
    def files():
        return [path for path in one_hook.home.rglob("*") if path.is_file()]

    env = {"TMPDIR": str(one_hook.home)}
    with EventServer(replies=[{"delay_ms": 500}]) as server:
        send(one_hook, server.url, env=env)
        eventually(lambda: server.exchanges)
        assert files() == []
        server.wait(1)
    assert files() == []


@posix
def test_a_fork_of_a_fork_of_a_hook_keeps_its_files(hook):
    (hook.folder / "forks.py").write_text(
        "import os, sys\n"
        "sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))\n"
        "import hook_io\n"
        "def handler(event):\n"
        "    read, write = os.pipe()\n"
        "    if not os.fork():\n"
        "        if not os.fork():\n"
        "            os.write(write, b'kept')\n"
        "        os._exit(0)\n"
        "    os.close(write)\n"
        "    return hook_io.hint(os.read(read, 9).decode() or 'lost')\n"
        "hook_io.run(handler, 'forks')\n")
    said = hook.run("forks.py", stdin=sample("PreToolUse")).document
    assert said == {"systemMessage": "kept"}


@timed
def test_its_budget_is_its_own(one_hook):
    with EventServer(fault="silent") as server:
        env = {"HOOK_IO_BACKGROUND": "1", "HOOK_IO_BACKGROUND_TIMEOUT_MS": "700"}
        one_hook.send(server.url, stdin=sample("Stop"), env=env)
        (seen,) = server.wait(1)
    assert seen.ended_by == "client"
    assert 300 < seen.held_ms < 5000  # neither the foreground's 100 nor 10 s
    assert "unconfirmed" in eventually(one_hook.losses)[0]


def test_its_losses_count_and_the_next_hook_tells_each_session_once(hook):
    url = nowhere()
    for count, name in enumerate(("PreToolUse", "Stop", "PreCompact"), 1):
        result = send(hook, url, event=name)  # PreCompact has no channel for a hint
        assert (result.stdout, result.stderr) == ("", "")
        eventually(lambda count=count: len(hook.losses()) == count)
    said = send(hook, url).document["systemMessage"]
    assert re.match(rf"hook-io: [34] events in a row did not reach {url} since", said)
    assert "(refused). Your work is not blocked." in said
    assert send(hook, url).stdout == ""
    other = {**sample("PreToolUse"), "session_id": "another"}
    assert hook.send(url, "--background", stdin=other).document["systemMessage"]


def test_a_foreground_hook_tells_them_too_and_a_success_ends_the_streak(one_hook):
    port = closed_port()
    for count in (1, 2, 3):
        send(one_hook, f"http://127.0.0.1:{port}/events", event="PreCompact")
        eventually(lambda count=count: len(one_hook.losses()) == count)
    result = one_hook.send(
        f"http://127.0.0.1:{port}/events", stdin=sample("PreToolUse"))
    assert "4 events in a row" in result.document["systemMessage"]
    with EventServer(port=port) as server:
        send(one_hook, server.url)
        server.wait(1)
        eventually(lambda: not one_hook.losses())
        result = one_hook.send(server.url, stdin=sample("PreToolUse"))
    assert "again; 4 were lost" in result.document["systemMessage"]


def test_to_be_loud_may_block_there_as_well(one_hook):
    url = nowhere()
    for count in (1, 2, 3):
        send(one_hook, url, "--fail-loud", "block", event="PreCompact")
        eventually(lambda count=count: len(one_hook.losses()) == count)
    result = send(one_hook, url, "--fail-loud", "block")
    assert (result.exit, result.stdout) == (2, "")
    assert result.lines[-1].startswith("hook-io: ")


def test_where_the_state_cannot_be_read_the_event_is_sent_all_the_same(one_hook):
    (one_hook.home / "file").write_text("")
    env = {"HOOK_IO_STATE_DIR": str(one_hook.home / "file")}
    with EventServer() as server:
        assert send(one_hook, server.url, env=env).exit == 0
        server.wait(1)
        assert len(server.events()) == 1


@pytest.mark.parametrize("flags", [(), ("-I", "-S")])
def test_without_fork_the_script_is_started_anew(one_hook, flags):
    changed(one_hook, "no fork")
    with HeldServer() as server:
        result = send(one_hook, server.url, "--metadata", '{"a": 1}', flags=flags)
        server.go()
        server.wait(1)
        (event,) = server.events()
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")
    assert (event["tool_name"], event["metadata"]) == ("Read", '{"a": 1}')


def test_where_nothing_can_be_started_the_event_goes_in_the_foreground(one_hook):
    changed(one_hook, "fork fails")
    with EventServer() as server:
        result = send(one_hook, server.url)
        assert len(server.events()) == 1
    assert result.lines == [
        "[WARNING] No background process: resource temporarily unavailable"]


def of_worker(argv):
    return errand("Stop", argv=argv, env={"PATH": "/bin"})


class Pipe(io.BytesIO):
    """A pipe that still says after its close what was written."""

    def close(self):
        self.written = self.getvalue()
        super().close()


@pytest.mark.parametrize(("system", "kwargs"), [
    ("posix", {"start_new_session": True}),
    # CREATE_NEW_PROCESS_GROUP and CREATE_NO_WINDOW of Windows
    ("nt", {"creationflags": 0x200 | 0x8000000}),
])
def test_what_is_started_on_each_system(monkeypatch, fp, system, kwargs):
    argv = ["--source-app", "demo", "--event-type", "Stop", "--background"]
    under_way, pipe = of_worker(argv), Pipe()
    recorder = fp.register([fp.any()])
    monkeypatch.setattr(fake_popen.FakePopen, "stdin", pipe, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [os.path.abspath("send_event.py"), *argv])
        patch.delattr(os, "fork", raising=False)
        patch.setattr(os, "name", system)
        event = hook_io.normalise({"prompt": "Grüße"})
        assert hook_io.Background.hand_over(event, under_way) is True
    (call,) = recorder.calls
    assert call.args == [sys.executable, os.path.abspath("send_event.py"), *argv]
    assert call.kwargs == {
        **kwargs, "stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL, "env": {"PATH": "/bin", "HOOK_IO_WORKER": "1"}}
    assert json.loads(pipe.written) == {"prompt": "Grüße"}
    assert under_way.fail_loud == "hint"  # this process is still the hook's


def test_a_worker_has_the_budget_of_the_background_and_says_nothing(monkeypatch, fp):
    under_way = of_worker(["--source-app", "demo", "--event-type", "Stop"])
    under_way.settings.env["HOOK_IO_WORKER"] = "1"
    before = time.monotonic()
    assert hook_io.Background.hand_over(hook_io.normalise({}), under_way) is False
    assert under_way.deadline >= before + 10
    assert (under_way.fail_loud, under_way.timeout_ms) == ("off", 10000)
