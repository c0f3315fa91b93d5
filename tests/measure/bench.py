"""Measure what a hook costs an agent, side by side with floors and alternatives.

    python tests/measure/bench.py [--rounds N] [--quick] [--only PATTERN] [--check]
        [--json FILE] [--hooks FOLDER] [--peers FOLDER]

Prints a Markdown table of whole-process wall time, spawn to reaped child, with the
request to a loopback server in it.  Every round runs every row once, in shuffled order,
so a slow moment of the machine meets all rows alike.  Judge ratios, not milliseconds.
A row whose runs failed, or whose events did not all arrive, is void: no figures.

Hooks run as they are registered, with `-I -S`, and are compared to an interpreter that
starts so and does nothing.  Where valgrind is found, callgrind counts the instructions
of floors and hooks, but for --quick: that ratio does not depend on what else the
machine does.

HOOK_PYTHON names other interpreters, each a table.  A pyenv shim or a virtualenv is
resolved to the interpreter behind it: both cost extra.  Needs posix_spawn and wait4
(Linux, macOS).  Not covered: TLS, name lookup, --summarize.

--peers names a folder of scripts that are not ours to ship; what it lacks is left out:
    disler/      `.claude/hooks` of disler/claude-code-hooks-multi-agent-observability
    claude-mem/  what `npm pack claude-mem` unpacks, with its zod and shell-quote in
                 plugin/node_modules; node, bun and bash on the PATH
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import marshal
import math
import os
import platform
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from statistics import median

ROUNDS, QUICK_ROUNDS, GOAL_ROUNDS = 240, 3, 200
WARM_UPS = 4  # passes the fail-loud threshold: an outage is measured as it lasts
AT_ONCE = 50
BUDGET_MS = 100  # send_event's default
HANG_S = 30  # a run that takes longer ends the bench
COUNT_S, COUNTED_MS = 300, 60_000  # of a run under callgrind: its limit, its budget
SCRIPTS = ("send_event.py", "hook_io.py")
PEERS = (("disler",), ("claude-mem", "plugin"))
#: variables of whoever runs the bench, not of a hook; SSL_CERT_DIR slows uv down
NOT_A_HOOKS = re.compile(
    "PYTHON|HOOK_IO_|UV_|XDG_|VIRTUAL_ENV|__PYVENV|SSL_CERT_|.*_proxy$", re.IGNORECASE
)

#: file name -> what a person writes without this project: imports, then post()
POST = {
    "obvious.py": """
import argparse, datetime, json, sys, urllib.request
def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, timeout=0.1)
""",
    "with_requests.py": """
import argparse, datetime, json, sys, requests
def post(url, body):
    requests.post(url, json=body, timeout=0.1).raise_for_status()
""",
}
SENDER = """
parser = argparse.ArgumentParser()
for name in ("--source-app", "--event-type", "--server-url"):
    parser.add_argument(name, required=True)
for name in ("--session-id", "--metadata"):
    parser.add_argument(name)
options, event = parser.parse_args(), json.load(sys.stdin)
body = dict(
    timestamp=datetime.datetime.now(datetime.timezone.utc).isoformat(),
    source_app=options.source_app, event_type=options.event_type,
    tool_name=event["tool_name"], summary=event["tool_name"] + " called",
    session_id=options.session_id or event["session_id"],
    metadata=options.metadata or json.dumps(event))
try:
    post(options.server_url, body)
except OSError as error:
    print("[ERROR] Failed to send event:", error, file=sys.stderr)
"""
#: the least that one writes on cchooks to send an event; its argument is the URL
ON_CCHOOKS = """
import json, sys, urllib.request
from cchooks import create_context
context = create_context()
body = dict(
    event_type=context.hook_event_name, session_id=context.session_id,
    tool_name=context.tool_name, tool_input=context.tool_input)
request = urllib.request.Request(sys.argv[1], json.dumps(body).encode())
request.add_header("Content-Type", "application/json")
try:
    urllib.request.urlopen(request, timeout=0.1)
except OSError as error:
    print("[ERROR] Failed to send event:", error, file=sys.stderr)
context.output.exit_success()
"""
EMPTY = {"empty.py": "# /// script\n# dependencies = []\n# ///\n"}
SENDERS = {name: post + SENDER for name, post in POST.items()}
SOURCES = {**EMPTY, **SENDERS, "with_cchooks.py": ON_CCHOOKS}

# Rows, events and goals.

BASE, PLAIN = "python -I -S -c pass", "python -c pass"
UV_BASE = "uv run, empty script"
BASE_AT_ONCE, OURS_AT_ONCE = f"{AT_ONCE} x {BASE}", f"{AT_ONCE} x delivered"
OPTIONS = " --source-app bench --event-type {event_type} --server-url {url}"
OURS = "{python} -I -S {hooks}/send_event.py" + OPTIONS
CURL = """'"$0" -s -o /dev/null -m 0.1 -H Content-Type:application/json -d @- "$1"'"""
#: the line of its own hooks.json, with the bench's server as the worker it talks to
CLAUDE_MEM = (
    "/usr/bin/env CLAUDE_PLUGIN_ROOT={claude_mem} CLAUDE_MEM_WORKER_PORT={port}"
    " DO_NOT_TRACK=1 {bash} {folder}/claude_mem.sh"
)

#: command: shell words with {places}; a row whose place is not found is left out
#: server: the port it is sent to; event: a key of EVENTS; copies: started at once
Row = collections.namedtuple(
    "Row", "name command server event copies", defaults=("", "call", 1)
)
ROWS = (
    Row(BASE, "{python} -I -S -c pass"),
    Row(PLAIN, "{python} -c pass"),
    Row(UV_BASE, "{uv} run {folder}/empty.py"),
    Row("sh -c curl", "/bin/sh -c " + CURL + " {curl} {url}", "fast"),
    Row("the obvious script", "{python} {folder}/obvious.py" + OPTIONS, "fast"),
    Row("with requests", "{requests} {folder}/with_requests.py" + OPTIONS, "fast"),
    Row("cchooks", "{cchooks} {folder}/with_cchooks.py {url}", "fast"),
    Row("disler's, uv run", "{uv} run {disler}" + OPTIONS, "fast"),
    Row("disler's", "{disler_python} {disler}" + OPTIONS, "fast"),
    Row("claude-mem", CLAUDE_MEM, "fast", "result"),
    Row("delivered", OURS, "fast"),
    Row("delivered, uv run", "{uv} run {hooks}/send_event.py" + OPTIONS, "fast"),
    Row("server down", OURS, "closed"),
    Row("silent server", OURS, "silent"),
    Row("100 KB event", OURS, "fast", "large"),
    Row("possible secret", OURS, "fast", "secret"),
    Row("no .pyc", "{python} -I -S -B {uncached}/send_event.py" + OPTIONS, "fast"),
    Row(BASE_AT_ONCE, "{python} -I -S -c pass", copies=AT_ONCE),
    # fifty share the processors: one may wait for its turn longer than its budget lasts
    Row(OURS_AT_ONCE, OURS + " --timeout-ms 5000", "fast", "call", AT_ONCE),
)
#: rows whose instructions callgrind counts, beside the time
COUNTED = (BASE, PLAIN, "delivered", "server down", "100 KB event", "possible secret")

CALL = {
    "session_id": "e445cf14-41f5-4fc2-b037-45b527202a03",
    "transcript_path": "/home/dev/.claude/projects/project/e445cf14.jsonl",
    "cwd": "/home/dev/project",
    "hook_event_name": "PreToolUse",
    "tool_name": "Bash",
    "tool_input": {"command": "npm test", "description": "Run the tests"},
    "tool_use_id": "toolu_bc6f10e131544c7297fb",
}
LINE = '    if name == "a\\tb":\n        return {{"name": name, "line": {}}}\n'
FILE = {"filePath": "app.py", "content": "".join(map(LINE.format, range(1400)))}
EVENTS = {
    "call": CALL,
    "result": {
        **CALL,
        "hook_event_name": "PostToolUse",
        "tool_response": {"stdout": "42 passed", "stderr": "", "interrupted": False},
    },
    "secret": {**CALL, "tool_input": {"command": "export API_KEY=" + "abc123" * 6}},
    "large": {
        **CALL,
        "hook_event_name": "PostToolUse",
        "tool_name": "Read",
        "tool_input": {"file_path": "/home/dev/project/app.py"},
        "tool_response": {"type": "text", "file": FILE},
    },
}

#: one list per figure, one item per round; failed: how many ended with a status not 0
Series = collections.namedtuple("Series", "ms peak_mb failed")


def percentile(values: list, percent: float):
    """Return the nearest-rank *percent* percentile: always one of *values*."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


#: name -> ratio of one Series to another; "rounds": median of the per-round ratios
RATIOS = {
    "rounds": lambda a, b: median(x / y for x, y in zip(a.ms, b.ms)),
    "less budget": lambda a, b: median((x - BUDGET_MS) / y for x, y in zip(a.ms, b.ms)),
    "medians": lambda a, b: median(a.ms) / median(b.ms),
    "p99s": lambda a, b: percentile(a.ms, 99) / percentile(b.ms, 99),
    "peaks": lambda a, b: max(a.peak_mb) / max(b.peak_mb),
}
#: goal -> key of RATIOS, row, of which row, comparison, limit
GOALS = {
    "delivered": ("rounds", "delivered", BASE, "<=", 1.35),
    "delivered, to the plain start": ("rounds", "delivered", PLAIN, "<=", 1.25),
    "delivered, uv run": ("rounds", "delivered, uv run", UV_BASE, "<=", 1.12),
    "server down": ("rounds", "server down", BASE, "<=", 1.35),
    "silent server, less 100 ms": ("less budget", "silent server", BASE, "<=", 1.35),
    "100 KB event": ("rounds", "100 KB event", BASE, "<=", 1.6),
    "possible secret": ("rounds", "possible secret", PLAIN, "<=", 1.5),
    "p99 of delivered": ("p99s", "delivered", BASE, "<=", 2.0),
    "peak memory of delivered": ("peaks", "delivered", BASE, "<=", 1.15),
    OURS_AT_ONCE: ("medians", OURS_AT_ONCE, BASE_AT_ONCE, "<=", 1.3),
    "the obvious script": ("rounds", "the obvious script", "delivered", ">=", 5.5),
}


def judge(table: dict, voids: dict) -> list:
    """Return (goal, ratio, of, limit, verdict) as text; a void row misses its goal."""
    lines = []
    for goal, (ratio, row, of_row, comparison, limit) in GOALS.items():
        measured, verdict = "-", "not measured"
        if voids.get(row) or voids.get(of_row):
            verdict = "MISSED (void)"
        elif row in table and of_row in table:
            value = RATIOS[ratio](table[row], table[of_row])
            held = value <= limit if comparison == "<=" else value >= limit
            measured, verdict = f"{value:.3f}", "met" if held else "MISSED"
        lines.append((goal, measured, of_row, f"{comparison} {limit:.2f}", verdict))
    return lines


def why_void(row: Row, series: Series, arrived: int) -> str:
    """Return why the figures of *row* mean nothing, or an empty string."""
    failed, runs = int(sum(series.failed)), len(series.ms) * row.copies
    if failed:
        return f"void: {failed} of {runs} runs failed"
    missed = row.server in ANSWERS and arrived != runs
    return f"void: {arrived} of {runs} events arrived" if missed else ""


# The server: a process of its own, so that the bench never keeps a client waiting.

#: port -> what it answers; silent waits until the client gives up
ANSWERS = {
    "fast": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    "silent": b"",
}
#: rows whose sender has a path of its own
PATHS = {"claude-mem": "/api/sessions/observations"}


def answer(client: socket.socket, reply: bytes, arrived: list) -> None:
    """Read one request, append its path to *arrived* if a body is whole, and reply."""
    with contextlib.suppress(OSError, ValueError), client:
        stream = client.makefile("rb")
        _, path, _ = stream.readline().split()
        lines = [line.lower() for line in iter(stream.readline, b"\r\n") if line]
        lengths = [int(s[15:]) for s in lines if s.startswith(b"content-length:")]
        if lengths and len(stream.read(lengths[0])) == lengths[0]:
            arrived.append(path.decode())
        client.sendall(reply) if reply else stream.read()


def accept(listener: socket.socket, reply: bytes, arrived: list) -> None:
    """Answer every client of *listener* in a thread of its own, for ever."""
    while True:
        client, _ = listener.accept()
        threading.Thread(target=answer, args=(client, reply, arrived)).start()


def serve() -> None:
    """Print, for every line read, the ports and the counts since the line before."""
    arrived, ports = [], {}
    for name, reply in ANSWERS.items():
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        ports[name] = listener.getsockname()[1]
        args = (listener, reply, arrived)
        threading.Thread(target=accept, args=args, daemon=True).start()
    for _ in sys.stdin:
        print(json.dumps([ports, collections.Counter(arrived)]), flush=True)
        arrived.clear()


# The launcher.  A child's peak memory counts from the size of the process that spawned
# it, so this one is smaller than any interpreter it measures.

LAUNCHER = f"""
import _signal, marshal, posix, sys, time
env, jobs = marshal.load(sys.stdin.buffer)
for line in sys.stdin.buffer:
    argv, state, stdin, copies = jobs[int(line)]
    env["HOOK_IO_STATE_DIR"] = state
    files = [(posix.POSIX_SPAWN_OPEN, 0, stdin, posix.O_RDONLY, 0),
             (posix.POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_WRONLY, 0),
             (posix.POSIX_SPAWN_DUP2, 1, 2)]
    _signal.alarm({HANG_S})
    start = time.perf_counter()
    pids = [posix.posix_spawn(argv[0], argv, env, file_actions=files)
            for _ in range(copies)]
    ended = [posix.wait4(pid, 0) for pid in pids]
    ms = (time.perf_counter() - start) * 1000
    peak = max(used.ru_maxrss for _, _, used in ended)
    failed = sum(status != 0 for _, status, _ in ended)
    print(ms, peak, failed, flush=True)
"""
PEAKS_PER_MB = 1 << 20 if sys.platform == "darwin" else 1 << 10


@contextlib.contextmanager
def helper(argv: list, **popen):
    """Run *argv* with pipes until the block ends, then end its whole process group."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen(argv, start_new_session=True, **pipes, **popen)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(process, number: int, what: str) -> bytes:
    """Send *number* to a helper and return its one-line answer; exit where it ended."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(b"%d\n" % number)
        process.stdin.flush()
    ended = {-signal.SIGALRM: f"did not end within {HANG_S} s"}
    said = process.stdout.readline()
    return said or sys.exit(f"bench: {what}: {ended.get(process.wait(), 'cannot run')}")


# Preparing.


def output_of(*argv, **options) -> str:
    """Return what *argv* prints, or an empty string where it fails."""
    options.update(stderr=subprocess.DEVNULL, timeout=HANG_S)
    try:
        return subprocess.check_output(argv, **options).decode().strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def real_pythons() -> list:
    """Return (path, name and version) of each interpreter to measure."""
    named = os.environ.get("HOOK_PYTHON", "").split(os.pathsep)
    return [real_python(path) for path in filter(None, named)] or [
        real_python(sys.executable)]


def real_python(asked: str) -> list:
    """Return path, name and version of what *asked* runs; exit where it cannot run."""
    real = "os.path.realpath(getattr(sys, '_base_executable', '') or sys.executable)"
    name = "platform.python_implementation(), platform.python_version()"
    code = f"import os, platform, sys; print({real}); print({name})"
    found = output_of(asked, "-c", code).splitlines()
    return found or sys.exit(f"bench: HOOK_PYTHON cannot run: {asked}")


def hook_environment(folder: str, python: str) -> dict:
    """Return the environment an agent gives a hook, with its home in *folder*."""
    keep = {k: v for k, v in os.environ.items() if not NOT_A_HOOKS.match(k)}
    uv = {"UV_OFFLINE": "1", "UV_PYTHON": python, "UV_PYTHON_DOWNLOADS": "never"}
    return {**keep, **uv, "HOME": folder, "TMPDIR": folder}


def find_places(folder: str, hooks: str, python: str, env: dict) -> dict:
    """Fill *folder* with what is run; return where everything is, "" if nowhere."""
    texts = {**SOURCES, **{f"{name}.json": json.dumps(EVENTS[name]) for name in EVENTS}}
    for name, text in texts.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    copies = {name: os.path.join(folder, name) for name in ("hooks", "uncached")}
    for copy in copies.values():
        os.mkdir(copy)
        for script in SCRIPTS:
            shutil.copy(os.path.join(hooks, script), copy)
    beside = shutil.which("uv", path=os.path.dirname(sys.executable))
    return {
        **copies,
        **{name: shutil.which(name) or "" for name in ("curl", "bash")},
        **{name: python_with(name, env) for name in ("requests", "cchooks")},
        "folder": folder,
        "python": python,
        "uv": beside or shutil.which("uv") or "",
    }


def python_with(package: str, env: dict) -> str:
    """Return the interpreter of the bench where it has *package*, else nothing."""
    code = f"import {package}; print(1)"
    return sys.executable if output_of(sys.executable, "-c", code, env=env) else ""


def find_peers(folder: str, peers: str, uv: str, python: str) -> dict:
    """Put what is run of *peers* into *folder*; return where it is, "" if nowhere."""
    source, plugin = (os.path.join(peers, *names) for names in PEERS)
    found = {"disler": "", "disler_python": "", "claude_mem": ""}
    if peers and os.path.exists(os.path.join(source, "send_event.py")):
        copy = shutil.copytree(source, os.path.join(folder, "disler"))
        found["disler"] = os.path.join(copy, "send_event.py")
        found["disler_python"] = python_of_script(folder, found["disler"], uv, python)
    command = claude_mem_command(plugin)
    if peers and command and all(map(shutil.which, ("node", "bun"))):
        found["claude_mem"] = os.path.abspath(plugin)
        with open(os.path.join(folder, "claude_mem.sh"), "w") as file:
            file.write(command)
    return found


def python_of_script(folder: str, script: str, uv: str, python: str) -> str:
    """Let uv fetch what *script* depends on; return its interpreter, else nothing."""
    cache = os.path.join(folder, ".cache", "uv")  # where a row's uv run looks for it
    env = {**os.environ, "UV_PYTHON": python, "UV_CACHE_DIR": cache, "TMPDIR": folder}
    code = '"$0" sync --quiet --script "$1" && "$0" python find --script "$1"'
    return output_of("/bin/sh", "-c", code, uv, script, env=env)


def claude_mem_command(plugin: str) -> str:
    """Return the command that *plugin* registers for PostToolUse, else nothing."""
    with contextlib.suppress(OSError):
        with open(os.path.join(plugin, "hooks", "hooks.json")) as file:
            (group,) = json.load(file)["hooks"]["PostToolUse"]
        return group["hooks"][0]["command"]
    return ""


def chosen(pattern: re.Pattern) -> list:
    """Return the rows whose name matches, and the rows those are compared to."""
    names = {row.name for row in ROWS if pattern.search(row.name)} | {BASE, PLAIN}
    names |= {of_row for _, row, of_row, *_ in GOALS.values() if row in names}
    return [row for row in ROWS if row.name in names]


def lacks(row: Row, places: dict) -> set:
    """Return the names of the places that *row* needs and that were not found."""
    return {n for n in re.findall(r"{(\w+)}", row.command) if places.get(n) == ""}


def job(row: Row, url: str, places: dict) -> tuple:
    """Return (argv, state folder, stdin's file, copies) of *row* for the launcher."""
    words = {"url": url, "event_type": EVENTS[row.event]["hook_event_name"], **places}
    words["port"] = url.split(":")[2].partition("/")[0]
    argv = [word.format(**words) for word in shlex.split(row.command)]
    state = tempfile.mkdtemp(prefix="state-", dir=places["folder"])
    return argv, state, os.path.join(places["folder"], f"{row.event}.json"), row.copies


# Measuring and reporting.


def progress(what: str, done: int, total: int) -> None:
    """Keep one line current on a terminal; elsewhere write one every tenth."""
    line = f"bench: {what} {done} of {total}"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{line}\033[K" + "\n" * (done == total))
    elif done * 10 // total > (done - 1) * 10 // total:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()


def measure(launcher, rows: dict, what: str, rounds: int) -> dict:
    """Run *rows* (by job number) interleaved; return each row's Series by its name."""
    table = {row.name: Series([], [], []) for row in rows.values()}
    draw = random.Random(what)  # the same orders in every run of the bench
    for done in range(1, rounds + 1):
        for number in draw.sample(sorted(rows), len(rows)):
            name = rows[number].name
            ms, peak, failed = map(float, ask(launcher, number, name).split())
            for values, value in zip(table[name], (ms, peak / PEAKS_PER_MB, failed)):
                values.append(value)
        progress(what, done, rounds)
    return table


def measure_all(launcher, server, rows: list, rounds: int) -> tuple:
    """Warm up and measure; return Series and reasons for void rows, both by name."""
    alone = {n: row for n, row in enumerate(rows) if row.copies == 1}
    at_once = {n: row for n, row in enumerate(rows) if row.copies > 1}
    measure(launcher, alone, "warm-up", WARM_UPS)
    ask(server, 0, "server")
    table = measure(launcher, alone, "round", rounds)
    times = min(10, max(2, rounds // 20)) if at_once else 0
    table.update(measure(launcher, at_once, "at once", times))
    _, arrived = json.loads(ask(server, 0, "server"))
    paths = [PATHS.get(row.name, f"/events/{n}") for n, row in enumerate(rows)]
    counts = [arrived.get(path, 0) for path in paths]
    voids = [why_void(row, table[row.name], n) for row, n in zip(rows, counts)]
    return table, {row.name: why for row, why in zip(rows, voids)}


def counted(job: tuple, env: dict) -> int:
    """Return how many instructions a run of *job* takes; 0 where none are counted."""
    argv, state, stdin, _ = job
    budget = ["--timeout-ms", str(COUNTED_MS)] * ("--server-url" in argv)
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    with open(stdin, "rb") as event:
        done = subprocess.run(
            [*command, *argv, *budget], stdin=event, capture_output=True,
            timeout=COUNT_S, env={**env, "HOOK_IO_STATE_DIR": state})
    found = re.search(rb"Collected : (\d+)", done.stderr)
    return int(found.group(1)) if found and not done.returncode else 0


def count_all(rows: list, jobs: list, env: dict) -> dict:
    """Return name -> instructions of the rows that are counted, by valgrind."""
    if not shutil.which("valgrind"):
        return {}
    chosen = [(row, job) for row, job in zip(rows, jobs) if row.name in COUNTED]
    counts = {}
    for done, (row, its_job) in enumerate(chosen, 1):
        counts[row.name] = counted(its_job, env)
        progress("callgrind, row", done, len(chosen))
    return counts


def figures(row: Row, table: dict, counts: dict) -> list:
    """Return the figures of *row* as text; copies are compared to as many bases."""
    series, alone = table[row.name], row.copies == 1
    times = min(series.ms), median(series.ms), percentile(series.ms, 99)
    ratio = RATIOS["rounds" if alone else "medians"]
    to_base = ratio(series, table[BASE if alone else BASE_AT_ONCE])
    instructions = [counts.get(name, 0) for name in (row.name, BASE)]
    return [*(f"{value:.2f}" for value in (*times, max(series.peak_mb), to_base)),
            f"{instructions[0] / instructions[1]:.2f}" if all(instructions) else "-"]


def markdown(*lines) -> str:
    """Return a Markdown table of *lines* of text, the first of them its head."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = (lines[0], ["-" * width for width in widths], *lines[1:])
    padded = (map(str.ljust, line, widths) for line in lines)
    return "".join("| " + " | ".join(line) + " |\n" for line in padded)


def report(rows: list, table: dict, voids: dict, counts: dict) -> str:
    """Return the table of rows; a void row shows its reason."""
    lines = [("row", "min ms", "median ms", "p99 ms", "peak MB", "ratio", "of instr.")]
    for row in rows:
        why = voids[row.name]
        cells = (why, *"-----") if why else figures(row, table, counts)
        lines.append((row.name, *cells))
    return markdown(*lines)


def report_goals(judged: dict) -> str:
    """Return the table of goals of *judged*: version -> what judge() returns."""
    first, *_ = judged.values()
    lines = [("goal", "of", "limit", *judged)]
    for number, (goal, _, of_row, limit, _) in enumerate(first):
        cells = [goals[number] for goals in judged.values()]
        lines.append((goal, of_row, limit, *(
            f"{ratio} {verdict}".replace("- ", "") for _, ratio, _, _, verdict in cells
        )))
    return markdown(*lines)


def head(version: str, uv: str, rounds: int, missing: list) -> str:
    """Return what the figures depend on, as lines of text."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return (
        f"{date}, {os.cpu_count()} CPUs, {platform.platform()}, load average {load}\n"
        f"{version}, {uv or 'no uv'}, {rounds} rounds\n"
        f"not found: {', '.join(missing) or 'nothing'}\n"
    )


def parse_options() -> argparse.Namespace:
    """Return the options; exit 1 where --check asks for too few rounds."""
    here = os.path.abspath(os.path.join(__file__, "../../.."))
    parser = argparse.ArgumentParser(prog="bench", description="Measure the hook.")
    add = parser.add_argument
    add("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    add("--quick", action="store_const", dest="rounds", const=QUICK_ROUNDS)
    add("--only", metavar="PATTERN", type=re.compile, default="", help="rows, a regex")
    add("--check", action="store_true", help="exit 1 where a goal is missed")
    add("--json", metavar="FILE", help="write every single figure there as well")
    add("--hooks", metavar="FOLDER", default=here, help=" and ".join(SCRIPTS))
    add("--peers", metavar="FOLDER", default="", help="scripts of others, see above")
    options = parser.parse_args()
    if options.rounds < (GOAL_ROUNDS if options.check else 1):
        sys.exit(f"bench: too few rounds; --check needs at least {GOAL_ROUNDS}")
    for script in SCRIPTS:
        if not os.path.exists(os.path.join(options.hooks, script)):
            sys.exit(f"bench: no {script} in {options.hooks}")
    return options


def conclude(options: argparse.Namespace, measured: dict) -> int:
    """Judge, print and save what was measured, by version of the interpreter; return 1
    where --check and a goal is missed."""
    judged = {version: judge(table, voids)
              for version, (_, table, voids, _) in measured.items()}
    print(report_goals(judged), end="")
    if options.json:
        saved = [{
            "head": said, "goals": judged[version], "instructions": counts,
            "rows": {n: {**table[n]._asdict(), "void": voids[n]} for n in table},
        } for version, (said, table, voids, counts) in measured.items()]
        with open(options.json, "w") as file:
            json.dump(saved, file, indent=1)
    verdicts = {verdict.split()[0] for goals in judged.values()
                for *_, verdict in goals}
    return int(options.check and ("MISSED" in verdicts or "met" not in verdicts))


def bench(options: argparse.Namespace, python: str, version: str) -> tuple:
    """Measure and print; return (head, Series, reasons for void rows, instructions)."""
    with contextlib.ExitStack() as stack:
        use = stack.enter_context
        folder = use(tempfile.TemporaryDirectory(prefix="hook-io-bench-"))
        env = hook_environment(folder, python)
        places = find_places(folder, options.hooks, python, env)
        places.update(find_peers(folder, options.peers, places["uv"], python))
        wanted = chosen(options.only)
        rows = [row for row in wanted if not lacks(row, places)]
        missing = sorted(set().union(*(lacks(row, places) for row in wanted)))
        uv = output_of(places["uv"], "--version")
        said = head(version, uv, options.rounds, missing) + f"ratio: to {BASE}\n"
        print(said, flush=True)
        server = use(helper([sys.executable, os.path.abspath(__file__), "--serve"]))
        closed = use(socket.socket())  # bound but not listening: nobody can take it
        closed.bind(("127.0.0.1", 0))
        ports, _ = json.loads(ask(server, 0, "server"))
        ports.update({"": 0, "closed": closed.getsockname()[1]})
        urls = [f"http://127.0.0.1:{ports[row.server]}/events" for row in rows]
        jobs = [job(row, f"{urls[n]}/{n}", places) for n, row in enumerate(rows)]
        command = [python, "-I", "-S", "-c", LAUNCHER]
        launcher = use(helper(command, cwd=folder, env=env))
        marshal.dump((env, jobs), launcher.stdin, 2)
        table, voids = measure_all(launcher, server, rows, options.rounds)
        counts = count_all(rows, jobs, env) if options.rounds > QUICK_ROUNDS else {}
    print(report(rows, table, voids, counts), flush=True)
    return said, table, voids, counts


def main() -> int:
    """Run the bench, or its server; end cleanly on Ctrl-C and SIGTERM."""
    if not (hasattr(os, "posix_spawn") and hasattr(os, "wait4")):
        sys.exit("bench: needs posix_spawn and wait4, so Linux or macOS")
    if sys.argv[1:] == ["--serve"]:
        return serve()
    options = parse_options()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    return conclude(options, {
        version.split()[-1]: bench(options, python, version)
        for python, version in real_pythons()})


if __name__ == "__main__":
    sys.exit(main())
