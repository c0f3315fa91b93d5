# SPDX-License-Identifier: MIT
"""Play a recorded session of Claude Code through send_event.py, one process an event.

    python3 tests/demo.py

Three acts: the events arrive; the server is stopped and the third loss becomes one
hint; the server is back and says so.  Exits 1 where any of that does not happen, and
leaves nothing behind.  Python 3.8+, nothing else.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from server import EventServer

TESTS = Path(__file__).resolve().parent
SAMPLES = TESTS / "samples" / "claude-code"
#: a session in its order, as far as the contract's nine events and tool failures go
SESSION = (
    "SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse",
    "PostToolUseFailure", "Notification", "SubagentStop", "PreCompact", "Stop",
    "SessionEnd",
)
PATIENCE_S = 30


class Agent:
    """Runs the hook as an agent does: a process for each event, JSON on its stdin."""

    def __init__(self, folder):
        self.folder, self.url = Path(folder), ""
        for name in ("hook_io.py", "send_event.py"):
            shutil.copy(str(TESTS.parent / name), folder)
        unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")
        self.env = {name: value for name, value in os.environ.items()
                    if name not in unwanted and not name.startswith("HOOK_IO_")}
        self.env["HOOK_IO_STATE_DIR"] = str(self.folder / "state")
        self.env["HOOK_IO_TIMEOUT_MS"] = "20000"  # a busy machine loses nothing here

    def fire(self, name):
        """Send the sample of an event; return milliseconds and the hint, if any."""
        command = [sys.executable, str(self.folder / "send_event.py"), "--source-app",
                   "demo", "--event-type", name, "--server-url", self.url]
        data, begun = (SAMPLES / f"{name}.json").read_bytes(), time.perf_counter()
        done = subprocess.run(command, input=data, env=self.env, timeout=PATIENCE_S,
                              capture_output=True)
        took_ms = (time.perf_counter() - begun) * 1000
        check(done.returncode == 0, f"{name}: exit {done.returncode}")
        self.stderr = done.stderr.decode()
        hint = json.loads(done.stdout)["systemMessage"] if done.stdout else ""
        return took_ms, hint


def check(fact, otherwise):
    if not fact:
        raise SystemExit(f"[ERROR] demo: {otherwise}")


def play_session(agent, server):
    print(f"A session of {len(SESSION)} events, a process each, to {server.url}\n")
    print(f"  {'event':19} {'tool':6} {'summary':44} {'ms':>5}")
    agent.fire(SESSION[0])  # so that hook_io.py is compiled, as it is from then on
    for number, name in enumerate(SESSION, 2):
        took_ms, hint = agent.fire(name)
        check(not hint and not agent.stderr, f"{name}: {hint}{agent.stderr}")
        stored = server.events()
        check(len(stored) == number, f"{name} did not arrive")
        event = stored[-1]
        print(f"  {event['event_type']:19} {event.get('tool_name', ''):6} "
              f"{event['summary'][:44]:44} {took_ms:5.0f}")


def lose_events(agent):
    print("\nThe server is stopped. The agent works on:\n")
    hints = []
    for number in range(1, 5):
        took_ms, hint = agent.fire("PreToolUse")
        hints.append(hint)
        print(f"  loss {number}: exit 0 after {took_ms:.0f} ms; "
              f"{'a hint for the person:' if hint else 'nothing said'}")
        if hint:
            print(f"    {hint}")
    check([bool(hint) for hint in hints] == [False, False, True, False],
          "the third loss, and it alone, should be told")


def recover(agent):
    print("\nThe server is back:\n")
    took_ms, hint = agent.fire("PostToolUse")
    check("again" in hint, f"the recovery was not told: {agent.stderr}")
    print(f"  delivered after {took_ms:.0f} ms; a hint for the person:\n    {hint}")
    check(agent.fire("Stop")[1] == "", "the recovery was told twice")


def main():
    with tempfile.TemporaryDirectory(prefix="hook-io-demo-") as folder:
        agent = Agent(folder)
        with EventServer() as server:
            agent.url, port = server.url, server.port
            play_session(agent, server)
        lose_events(agent)
        with EventServer(port=port) as server:
            recover(agent)
    print("\nThat is all. Now do it with your own agent: README.md, Install.")


if __name__ == "__main__":
    main()
