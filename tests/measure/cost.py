# SPDX-License-Identifier: MIT
"""Measure what hooks cost a real Claude Code, beside what else sends its events.

    python tests/measure/cost.py [--rounds N] [--calls N] [--only PATTERN]
        [--peers FOLDER] [--server up|down|silent]

Runs short sessions against the scripted model of clients.py; half of them end in Stop,
half in an error of the API, on which StopFailure fires.  For each server there is a
table, in milliseconds:

    tool call    from the end of an answer that asks for a tool until the next request
                 comes in, less the median of the sessions without hooks of that round:
                 what one PreToolUse and one PostToolUse hook cost; shown is the half
                 of it, as a median, with the 95th percentile and the ratio to `true`
    Stop         from the end of the last answer until the client has ended, less the
    StopFailure  same of the session without hooks of that round
    lost         how many events of those sessions had not arrived SETTLE_S later

It holds the client's own work on a hook as well as the process.  Sessions run in
shuffled order.  Where a variant has one hook a call, all of it is that hook's.

Servers: up answers at once; down has nobody listening; silent takes the request and
never answers, so that a hook without a limit of its own lasts until the client ends it
after HOLD_S; such a variant plays few calls there.  A session that did not end well, or
of which nothing arrived, makes its variant void.  A variant whose parts were not found
is left out and named; bench.py says what --peers holds.  Of claude-mem there is the
hook after a tool, which is asynchronous; its worker is the server here, which answers
at once.

Needs npm, and Linux or macOS.  Not covered: other agents, other events.
"""

import argparse
import collections
import json
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
import turns
from clients import hook_io
from server import closed_port

ROUNDS, CALLS, HOLD_S, SETTLE_S = 8, 12, 5, 5
FEW_ROUNDS, FEW_CALLS = 1, 2  # where each hook is held for HOLD_S
AGENT, CALL, ENDS = "claude-code", ("PreToolUse", "PostToolUse"), (
    "Stop", "StopFailure")
EVENTS = (*CALL, *ENDS)
NOTHING, FLOOR, CURL = "no hooks", "true", "curl"
PLACE = re.compile(r"{(\w+)}")
OPTIONS = " --source-app cost --event-type {event} --server-url {url}"
POST = "{curl} -s -o /dev/null -H Content-Type:application/json -d @- {url}"
HTTP = 'type: "http"'
OURS, OURS_WAITED = "hook-io", "hook-io, foreground"
#: variant -> event -> what the installer registers
INSTALLED = {OURS: hook_io.Registration(AGENT).sender("cost"),
             OURS_WAITED: hook_io.Registration(AGENT).sender(
                 "cost", foreground=True)}

#: a hook's command with {places}, those of bench.py; a URL stands for an http hook
COMMANDS = {
    NOTHING: "",
    FLOOR: "true",
    CURL: POST,
    "curl -m 0.1": POST + " -m 0.1",
    HTTP: "{url}",
    "the obvious script": "python3 {folder}/obvious.py" + OPTIONS,
    "cchooks": "{cchooks} {folder}/with_cchooks.py {url}",
    "disler's, uv run": "{uv} run {disler}" + OPTIONS,
    "disler's": "{disler_python} {disler}" + OPTIONS,
    "claude-mem": "DO_NOT_TRACK=1 CLAUDE_PLUGIN_ROOT={claude_mem}"
                  " CLAUDE_MEM_WORKER_PORT={port} {bash} {folder}/claude_mem.sh",
    OURS: "",
    OURS_WAITED: "",
    "hook-io, uv run": '{uv} run "$CLAUDE_PROJECT_DIR/.claude/hooks/send_event.py"'
                       + OPTIONS,
}
#: variant -> what differs: the events it has, the path it sends to
PECULIAR = {"claude-mem": (("PostToolUse",), bench.PATHS["claude-mem"])}
SENDS_NOTHING = (NOTHING, FLOOR)
HELD = (CURL, HTTP, "disler's", "disler's, uv run")  # for HOLD_S, by a silent server
SERVERS = ("up", "down", "silent")
#: what a variant did to one session: ms of each tool call and after the last answer,
#: events that fired and that arrived; void: why its figures mean nothing
Session = collections.namedtuple("Session", "gaps_ms end_ms fired arrived void")
#: the same of all its sessions: ms added, by end those after the last answer
Found = collections.namedtuple("Found", "added end_ms fired arrived voids")
#: what is held to a limit: figure of a row, of which row, comparison, limit
GOALS = ((OURS, FLOOR, "<=", 1.6), (OURS, CURL, "<", 1.0))


class TimedModel(clients.Model):
    """Keeps when each request of the session came and when its answer was written."""

    times, came = (), 0

    def do_POST(self):
        self.came = time.perf_counter()
        super().do_POST()

    def play(self, body, events):
        super().play(body, events)
        if body.get("tools"):
            self.times.append((self.came, time.perf_counter()))


class FailingModel(TimedModel, turns.FailingModel):
    """The same, and ends the session by an error of the API."""


#: the event at a session's end -> what brings it about, the client's exit, its output
ENDINGS = {"Stop": (TimedModel, 0, clients.FINAL), "StopFailure": (FailingModel, 1, "")}


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
        limit, before = time.monotonic() + SETTLE_S, self.arrived[path]
        self.count()
        while self.arrived[path] - before < expected and time.monotonic() < limit:
            time.sleep(0.05)
            self.count()
        return self.arrived[path] - before


# A session.


def entries(variant, event, url, places):
    """Return what registers *variant* for *event* in the settings."""
    if variant in INSTALLED:
        return INSTALLED[variant][event]["hooks"]
    if COMMANDS[variant] == "{url}":
        return [{"type": "http", "url": url, "timeout": HOLD_S}]
    words = {**places, "url": url, "event": event}
    words["port"] = url.split(":")[2].partition("/")[0]
    command = PLACE.sub(lambda m: shlex.quote(words[m.group(1)]), COMMANDS[variant])
    is_async = {"async": True} if variant in PECULIAR else {}
    return [{"type": "command", "command": command, "timeout": HOLD_S, **is_async}]


def new_project(folder, variant, url, places):
    """Register *variant* in a project in *folder*; return its path and the events."""
    project = folder / "project"
    hooks = project / ".claude" / "hooks"
    shutil.copytree(places["hooks"], str(hooks))
    (project / "hello.txt").write_text("hello\n")
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    events = () if variant == NOTHING else PECULIAR.get(variant, (EVENTS,))[0]
    groups = {event: [{"hooks": entries(variant, event, url, places)}]
              for event in events}
    (hooks.parent / "settings.json").write_text(json.dumps({"hooks": groups}))
    return project, events


def environment(folder, url, model, places):
    """Return the client's environment: ours, with uv's cache and the interpreter."""
    env = clients.environment(AGENT, folder, url, model)
    del env["HOOK_IO_TIMEOUT_MS"]  # the default is what is measured
    env["PATH"] = os.pathsep.join([os.path.join(places["folder"], "bin"), env["PATH"]])
    cache = os.path.join(places["folder"], ".cache", "uv")
    return {**env, "UV_CACHE_DIR": cache, "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS":
            "never", "UV_PYTHON": places["python"]}


def play(variant, state, calls, end, server, places):
    """Run one session of *calls* tool calls after a first one; return a Session."""
    folder = Path(tempfile.mkdtemp(prefix="session-", dir=places["folder"]))
    path = PECULIAR.get(variant, ("", f"/events/{folder.name}"))[1]
    url = f"http://{clients.LOOPBACK}:{server.ports[state]}{path}"
    project, events = new_project(folder, variant, url, places)
    steps, times = [("Read", {"file_path": "hello.txt"})] * (calls + 1), []
    model, exit_code, shown = ENDINGS[end]
    with clients.scripted_model(steps, model, times=times) as (url_of_model, _):
        env = environment(folder, url, url_of_model, places)
        argv = [places["claude"], *clients.CLIENTS[AGENT]["argv"]]
        code, output, _ = clients.ran(argv, cwd=str(project), env=env)
        ended = time.perf_counter()
    fired = 0 if variant in SENDS_NOTHING else (
        (calls + 1) * len({*CALL} & {*events}) + (end in events))
    arrived = server.wait(path, fired * (state != "down"))
    shutil.rmtree(str(folder), ignore_errors=True)
    # behind the calls, the client may ask again after an error
    gaps = [(came - done) * 1000 for (_, done), (came, _) in zip(times, times[1:])]
    void = {
        f"exit {code}": code != exit_code or shown not in output,
        f"{len(gaps)} of {calls + 1} calls": len(gaps) < calls + 1,
        f"{arrived - fired:+} events": arrived > fired,
    }
    end_ms = (ended - times[-1][1]) * 1000 if times else 0
    return Session(gaps[1:calls + 1], end_ms, fired, arrived,
                   "; ".join(why for why, is_so in void.items() if is_so))


# All of them.


def measure(variants, state, rounds, calls, run):
    """Return variant -> a Found, its ms less those of each round without hooks."""
    found = {variant: Found([], {end: [] for end in ENDS}, collections.Counter(),
                            collections.Counter(), set()) for variant in variants}
    draw = random.Random(state)  # the same orders in every run
    for number in range(1, rounds + 1):
        pairs = [(variant, end) for variant in variants for end in ENDS
                 if number <= times_of(variant, state, rounds, FEW_ROUNDS)]
        sessions = {(variant, end): run(variant, state, times_of(
            variant, state, calls, FEW_CALLS), end)
            for variant, end in draw.sample(pairs, len(pairs))}
        for pair, session in sessions.items():
            add(found[pair[0]], *pair, session, sessions)
        bench.progress(f"server {state}, round", number, rounds)
    return found


def times_of(variant, state, most, few):
    """Return *most*, or *few* where a silent server holds each hook of *variant*."""
    return min(most, few) if state == "silent" and variant in HELD else most


def add(found, variant, end, session, sessions):
    """Add to *found* what *session* took more than those without hooks."""
    bases = [sessions[NOTHING, each] for each in ENDS]
    base = median([gap for each in bases for gap in each.gaps_ms] or [0])
    less = 0 if variant == NOTHING else 1
    share = 1 if variant in (NOTHING, *PECULIAR) else len(CALL)
    found.added.extend((gap - less * base) / share for gap in session.gaps_ms)
    found.end_ms[end].append(session.end_ms - less * sessions[NOTHING, end].end_ms)
    found.fired[end] += session.fired
    found.arrived[end] += session.arrived
    found.voids.update({session.void} - {""})


def why_void(found, state):
    """Return why the figures of a variant mean nothing, or an empty string."""
    nothing = state != "down" and sum(found.fired.values()) and not sum(
        found.arrived.values())
    return ", ".join(sorted({*found.voids, *["nothing arrived"] * bool(nothing)}))


def figures(found, floor, state):
    """Return the cells of a variant as text, or why there are none."""
    void = why_void(found, state)
    if void:
        return ["void: " + void, *["-"] * 6]
    middle = median(found.added)
    ratio = f"{middle / median(floor.added):.2f}" if floor else "-"
    cells = [f"{middle:.1f}", f"{bench.percentile(found.added, 95):.1f}", ratio]
    for end in ENDS:
        lost = f"{found.fired[end] - found.arrived[end]} of {found.fired[end]}"
        cells += [f"{median(found.end_ms[end]):.0f}",
                  lost if state != "down" and found.fired[end] else "-"]
    return cells


def report(found, state):
    """Return the table for a server in *state*: a row for each variant."""
    ends = [head for end in ENDS for head in (end, "lost")]
    lines = [["hooks", "tool call", "p95", f"of {FLOOR}", *ends]]
    for variant, each in found.items():
        floor = found.get(FLOOR) if variant != NOTHING else None
        lines.append([variant, *figures(each, floor, state)])
    return bench.markdown(*lines)


def judge(found, state):
    """Return (goal, ratio, of, limit, verdict) as text of what was measured."""
    lines = []
    for variant, of, comparison, limit in GOALS:
        if not {variant, of} <= {*found}:
            continue
        goal = f"{variant}, server {state}"
        if why_void(found[variant], state) or why_void(found[of], state):
            lines.append((goal, "-", of, f"{comparison} {limit}", "MISSED (void)"))
            continue
        ratio = median(found[variant].added) / median(found[of].added)
        held = ratio <= limit if comparison == "<=" else ratio < limit
        lines.append((goal, f"{ratio:.2f}", of, f"{comparison} {limit}",
                      "met" if held else "MISSED"))
    return lines


def chosen(only, places):
    """Return the variants that *only* matches and can run, and what the others lack."""
    lacking = {v: {name for name in PLACE.findall(command) if places.get(name) == ""}
               for v, command in COMMANDS.items()
               if v in SENDS_NOTHING or only.search(v)}
    missing = sorted(set().union(*lacking.values()))
    return [variant for variant, names in lacking.items() if not names], missing


def show(options, places):
    """Measure and print; return 1 where a variant is void."""
    variants, missing = chosen(options.only, places)
    head = bench.head(places["version"], places["uv_version"], options.rounds, missing)
    network = "loopback alone" if clients.alone() else "shared; a dead proxy"
    print(f"{head}Claude Code {places['client']}, {options.calls} calls a session, "
          f"network: {network}\n{NOTHING}: ms; else: ms added, of a tool call per hook",
          flush=True)
    voids, goals = [], []
    argv = [sys.executable, os.path.abspath(bench.__file__), "--serve"]
    with bench.helper(argv) as process:
        server = Server(process)
        for state in options.server or SERVERS:
            able = [v for v in variants if state == "up" or v not in PECULIAR]
            found = measure(able, state, options.rounds, options.calls,
                            lambda *what: play(*what, server, places))
            print(f"\nServer {state}:\n\n{report(found, state)}", end="", flush=True)
            voids += [why_void(each, state) for each in found.values()]
            goals += judge(found, state)
    if goals:
        heads = ("goal", "ratio", "of", "limit", "verdict")
        print(f"\n{bench.markdown(heads, *goals)}", end="")
    return int(any(voids))


def prepare(folder, options):
    """Put what is run into *folder*; return where it is, as bench.py names it."""
    program, client = clients.installed(AGENT)
    (python, version), *_ = bench.real_pythons()
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
