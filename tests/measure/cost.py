# SPDX-License-Identifier: MIT
"""Measure what hooks cost a real Claude Code, beside what else sends its events.

    python tests/measure/cost.py [--rounds N] [--calls N] [--only PATTERN]
        [--peers FOLDER] [--server up|down|silent]

Runs short sessions against the scripted model of clients.py.  The time from the end of
an answer that asks for a tool until the next request comes in, less the median of the
sessions without hooks of that round, is what one PreToolUse and one PostToolUse hook
cost; shown is the half of it, in milliseconds, median and 95th percentile.  It holds
the client's own work on a hook as well as the process.  Variants run in shuffled order.
Where a variant has one hook a call, all of it is that hook's.

Servers: up answers at once; down has nobody listening; silent takes the request and
never answers, so that a hook without a limit of its own lasts until the client ends it
after HOLD_S.  A session that did not end well, or whose events did not all arrive,
makes its variant void.  A variant whose parts were not found is left out and named;
bench.py says what --peers holds.  Of claude-mem there is the hook after a tool, which
is asynchronous; its worker is the server here, which answers at once.

Needs npm, and Linux or macOS.  Not covered: other agents, other events.
"""

import argparse
import collections
import json
import math
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, os.path.abspath(os.path.join(__file__, "../../live")))

import bench
import clients
from clients import hook_io
from server import closed_port

ROUNDS, CALLS, HOLD_S, SETTLE_S = 5, 20, 5, 20
FEW_ROUNDS, FEW_CALLS = 2, 2  # with a silent server, which holds some hooks for HOLD_S
AGENT, EVENTS = "claude-code", ("PreToolUse", "PostToolUse")
NOTHING = "no hooks"
PLACE = re.compile(r"{(\w+)}")
OPTIONS = " --source-app cost --event-type {event} --server-url {url}"
CURL = "{curl} -s -o /dev/null -H Content-Type:application/json -d @- {url}"
HTTP = 'type: "http"'
INSTALLED = hook_io.Registration(AGENT).sender("cost")["PreToolUse"]["hooks"][0][
    "command"]

#: a hook's command with {places}, those of bench.py; a URL stands for an http hook
COMMANDS = {
    NOTHING: "",
    "curl": CURL,
    "curl -m 0.1": CURL + " -m 0.1",
    HTTP: "{url}",
    "the obvious script": "python3 {folder}/obvious.py" + OPTIONS,
    "cchooks": "{cchooks} {folder}/with_cchooks.py {url}",
    "disler's, uv run": "{uv} run {disler}" + OPTIONS,
    "disler's": "{disler_python} {disler}" + OPTIONS,
    "claude-mem": "DO_NOT_TRACK=1 CLAUDE_PLUGIN_ROOT={claude_mem}"
                  " CLAUDE_MEM_WORKER_PORT={port} {bash} {folder}/claude_mem.sh",
    "hook-io": INSTALLED.replace("PreToolUse", "{event}"),
    "hook-io, uv run": '{uv} run "$CLAUDE_PROJECT_DIR/.claude/hooks/send_event.py"'
                       + OPTIONS,
}
#: variant -> what differs: the only event it has, the path it sends to
PECULIAR = {"claude-mem": ("PostToolUse", bench.PATHS["claude-mem"])}
SERVERS = ("up", "down", "silent")
#: what a variant did to one session; void: why its figures mean nothing
Session = collections.namedtuple("Session", "gaps_ms void")


class TimedModel(clients.Model):
    """Keeps when each request of the session came and when its answer was written."""

    times, settle = (), None

    def do_POST(self):
        came = time.perf_counter()
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        if not self.path.partition("?")[0].endswith("/v1/messages"):
            return self.answer(b'{"input_tokens": 9}', "json")
        reply = clients.streamed(clients.claude_reply(body, self.steps))
        if not body.get("tools"):
            return self.answer(reply, "event-stream")
        if len(self.times) == len(self.steps):
            self.settle()
        self.answer(reply, "event-stream")
        return self.times.append((came, time.perf_counter()))


class Server:
    """The bench's server, a process of its own, and what has arrived there so far."""

    def __init__(self, process):
        self.process, self.arrived = process, collections.Counter()
        self.ports = self.count()
        self.ports["down"] = closed_port()

    def count(self):
        ports, arrived = json.loads(bench.ask(self.process, 0, "server"))
        self.arrived.update(arrived)
        return {"up": ports["fast"], "silent": ports["silent"]}

    def wait(self, path, expected):
        """Return how much arrived at *path*, after a while where that is too little."""
        limit = time.monotonic() + SETTLE_S
        self.count()
        while self.arrived[path] < expected and time.monotonic() < limit:
            time.sleep(0.05)
            self.count()
        return self.arrived[path]


# A session.


def entry(variant, event, url, places):
    """Return what registers *variant* for *event* in the settings."""
    if COMMANDS[variant] == "{url}":
        return {"type": "http", "url": url, "timeout": HOLD_S}
    words = {**places, "url": url, "event": event}
    words["port"] = url.split(":")[2].partition("/")[0]
    command = PLACE.sub(lambda m: shlex.quote(words[m.group(1)]), COMMANDS[variant])
    is_async = {"async": True} if variant in PECULIAR else {}
    return {"type": "command", "command": command, "timeout": HOLD_S, **is_async}


def new_project(folder, variant, url, places):
    """Make a project in *folder* whose settings register *variant*."""
    project = folder / "project"
    hooks = project / ".claude" / "hooks"
    shutil.copytree(places["hooks"], str(hooks))
    (project / "hello.txt").write_text("hello\n")
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    events = [e for e in EVENTS if e in PECULIAR.get(variant, EVENTS)]
    groups = {event: [{"hooks": [entry(variant, event, url, places)]}]
              for event in events if variant != NOTHING}
    (hooks.parent / "settings.json").write_text(json.dumps({"hooks": groups}))
    return project, len(groups)


def environment(folder, url, model, places):
    """Return the client's environment: ours, with uv's cache and the interpreter."""
    env = clients.environment(AGENT, folder, url, model)
    del env["HOOK_IO_TIMEOUT_MS"]  # the default is what is measured
    env["PATH"] = os.pathsep.join([os.path.join(places["folder"], "bin"), env["PATH"]])
    cache = os.path.join(places["folder"], ".cache", "uv")
    return {**env, "UV_CACHE_DIR": cache, "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS":
            "never", "UV_PYTHON": places["python"]}


def play(variant, state, calls, server, places):
    """Run one session of *calls* tool calls after a first one; return a Session."""
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=places["folder"]))
    path = PECULIAR.get(variant, ("", f"/events/{folder.name}"))[1]
    url = f"http://{clients.LOOPBACK}:{server.ports[state]}{path}"
    project, hooks = new_project(folder, variant, url, places)
    expected = server.arrived[path] + (calls + 1) * hooks * (state != "down")
    steps, times = [("Read", {"file_path": "hello.txt"})] * (calls + 1), []
    settle = {"times": times, "settle": lambda _: server.wait(path, expected)}
    with clients.scripted_model(steps, TimedModel, **settle) as (model, _):
        env = environment(folder, url, model, places)
        argv = [places["claude"], *clients.CLIENTS[AGENT]["argv"]]
        code, output, _ = clients.ran(argv, cwd=str(project), env=env)
    arrived = server.wait(path, expected)
    shutil.rmtree(str(folder), ignore_errors=True)
    gaps = [(came - done) * 1000 for (_, done), (came, _) in zip(times, times[1:])]
    void = {
        f"exit {code}": code or clients.FINAL not in output,
        f"{len(gaps)} of {calls + 1} calls": len(gaps) != calls + 1,
        f"{arrived - expected:+} events": arrived != expected,
    }
    return Session(gaps[1:], "; ".join(why for why, is_so in void.items() if is_so))


# All of them.


def measure(variants, state, rounds, calls, run):
    """Return variant -> (added ms per hook of every call, why it is void)."""
    found = {variant: ([], set()) for variant in variants}
    draw = random.Random(state)  # the same orders in every run
    for number in range(1, rounds + 1):
        order = draw.sample(variants, len(variants))
        sessions = {variant: run(variant, state, calls) for variant in order}
        base = median(sessions[NOTHING].gaps_ms or [0])
        for variant, session in sessions.items():
            less = 0 if variant == NOTHING else base
            share = 1 if variant in (NOTHING, *PECULIAR) else len(EVENTS)
            found[variant][0].extend((gap - less) / share for gap in session.gaps_ms)
            found[variant][1].update({session.void} - {""})
        bench.progress(f"server {state}, round", number, rounds)
    return found


def figures(added, voids):
    """Return median and 95th percentile as text, or why there are none."""
    if voids:
        return "void: " + ", ".join(sorted(voids)), "-"
    return f"{median(added):.1f}", f"{bench.percentile(added, 95):.1f}"


def report(variants, found):
    """Return the table: a row for each variant, two columns for each server."""
    heads = [(f"server {state}", "p95") for state in found]
    lines = [["hooks", *(head for pair in heads for head in pair)]]
    for variant in variants:
        cells = [figures(*columns[variant]) if variant in columns else ("-", "-")
                 for columns in found.values()]
        lines.append([variant, *(text for pair in cells for text in pair)])
    return bench.markdown(*lines)


def rounds_of(state, options):
    """Return how many rounds and calls there are with a server in *state*."""
    most = (FEW_ROUNDS, FEW_CALLS) if state == "silent" else (math.inf, math.inf)
    return min(options.rounds, most[0]), min(options.calls, most[1])


def chosen(only, places):
    """Return the variants that *only* matches and can run, and what the others lack."""
    lacking = {v: {name for name in PLACE.findall(command) if places.get(name) == ""}
               for v, command in COMMANDS.items() if v == NOTHING or only.search(v)}
    missing = sorted(set().union(*lacking.values()))
    return [variant for variant, names in lacking.items() if not names], missing


def measure_all(variants, options, places):
    """Return state of the server -> what was measured with it."""
    argv = [sys.executable, os.path.abspath(bench.__file__), "--serve"]
    with bench.helper(argv) as process:
        server = Server(process)
        return {state: measure(
            [v for v in variants if state == "up" or v not in PECULIAR],
            state, *rounds_of(state, options),
            lambda *what: play(*what, server, places))
            for state in options.server or SERVERS}


def show(options, places):
    """Measure and print; return 1 where a variant is void."""
    variants, missing = chosen(options.only, places)
    head = bench.head(places["version"], places["uv_version"], options.rounds, missing)
    network = "loopback alone" if clients.alone() else "shared; a dead proxy"
    print(f"{head}Claude Code {places['client']}, {options.calls} calls a session, "
          f"network: {network}\n{NOTHING}: ms a tool call; else: ms added per hook\n",
          flush=True)
    found = measure_all(variants, options, places)
    print(report(variants, found), end="")
    voids = [voids for columns in found.values() for _, voids in columns.values()]
    return int(any(voids))


def prepare(folder, options):
    """Put what is run into *folder*; return where it is, as bench.py names it."""
    program, client = clients.installed(AGENT)
    python, version = bench.real_python()
    env = bench.hook_environment(folder, python)
    places = bench.find_places(folder, str(clients.ROOT), python, env)
    places.update(bench.find_peers(folder, options.peers, places["uv"], python))
    for name in ("bin", "installed"):
        (Path(folder) / name).mkdir()
    os.symlink(python, os.path.join(folder, "bin", "python3"))
    installed = os.path.join(folder, "installed")
    install = [python, str(clients.ROOT / "hook_io.py"), "install", installed]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
    uv = bench.output_of(places["uv"], "--version")
    return {**places, "claude": str(program), "client": client, "version": version,
            "uv_version": uv, "hooks": os.path.join(installed, ".claude", "hooks")}


def parse_options():
    parser = argparse.ArgumentParser(prog="cost", description="Measure a session.")
    add = parser.add_argument
    add("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    add("--calls", type=int, default=CALLS, help="tool calls a session: %(default)s")
    add("--only", metavar="PATTERN", type=re.compile, default="", help="a regex")
    add("--server", action="append", choices=SERVERS, help="one of them; all")
    add("--peers", metavar="FOLDER", default="", help="scripts of others: bench.py")
    add("--inside", metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    options = parse_options()
    if options.inside:
        if clients.alone():
            clients.raise_loopback()
        places = json.loads(Path(options.inside, "places.json").read_text())
        sys.exit(show(options, places))
    if not shutil.which("npm"):
        sys.exit("[ERROR] cost: needs npm")
    with tempfile.TemporaryDirectory(prefix="hook-io-cost-") as folder:
        places = prepare(folder, options)
        Path(folder, "places.json").write_text(json.dumps(places))
        own = [sys.executable, os.path.abspath(__file__), *sys.argv[1:]]
        command = clients.isolated([*own, "--inside", folder])
        sys.exit(subprocess.run(command).returncode)


if __name__ == "__main__":
    main()
