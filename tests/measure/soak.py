# SPDX-License-Identifier: MIT
"""Throw hostile input, faults and load at the two files, and count what went wrong.

    python3 tests/measure/soak.py [--part NAME]... [--seconds N] [--seed N] [--scale X]

    --part     one of PARTS; all of them by default, about 15 minutes on two CPUs
    --seconds  that a part may take before it ends early, and says so
    --seed     of what is random
    --scale    of how much: 0.01 is a hundredth

Prints a table and each finding with what led to it; exit 1 where there is any.  All
traffic stays on this machine.  File systems of its own are mounted where that is
allowed (root on Linux); elsewhere limits of the process stand in for them.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import hashlib
import itertools
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import hook_io
import hostile
from conftest import CONTRACT, NEWEST, PYTHONS, ROOT, SAMPLES, Hook
from server import EventServer, closed_port

HANG_S = 15  # a hook that takes longer waits for something that never comes
BUDGET_MS, OWN_CPU_MS = 100, 50  # the hook's by default; for Python's start and more
TRIES = 5  # of which the best counts, as other processes share caches and clocks
SLACK_MS = 500  # for a busy machine, as in the tests of faults
EVENT = (SAMPLES / "claude-code" / "PreToolUse.json").read_bytes()
FLAGS = ("-I", "-S")  # as hooks.json starts it
ALWAYS = {"HOOK_IO_FAIL_LOUD_THRESHOLD": "1"}


class Row:
    """One line of the table: what ran, how often, what was found, and a figure."""

    def __init__(self, part, what):
        self.part, self.what, self.count, self.figure = part, what, 0, ""
        self.findings = collections.Counter()
        self.examples = {}

    def note(self, problem, example=b""):
        """Count one try, and its *problem* where there is one."""
        self.count += 1
        if problem:
            kind = problem[:100]
            self.findings[kind] += 1
            self.examples.setdefault(kind, (problem, example))

    def merge(self, other):
        self.count += other.count
        self.findings += other.findings
        self.examples = {**other.examples, **self.examples}


class Soak:
    """How much, for how long, from which seed; and where files may go."""

    def __init__(self, folder, seed, seconds, scale):
        self.folder, self.seed = Path(folder), seed
        self.seconds, self.scale = seconds, scale
        self.end = time.monotonic() + seconds
        self.numbers = itertools.count()

    def many(self, count):
        return max(1, int(count * self.scale))

    def is_late(self):
        return time.monotonic() > self.end

    def hook(self):
        """Return a Hook with a home and a hooks folder of its own, compiled."""
        home = self.folder / f"home{next(self.numbers)}"
        hooks = home / "hooks"
        (hooks / "tests" / "contract").mkdir(parents=True)
        for name in ("hook_io.py", "send_event.py"):
            shutil.copy2(str(ROOT / name), str(hooks))
        shutil.copy2(str(CONTRACT / "reference_hook.py"), str(hooks / "tests/contract"))
        hook = Hook(PYTHONS[NEWEST], hooks, home, {})
        hook.run("send_event.py", "--version")
        return hook


# stdin, in this process.


def stdin_worker(seed, count, seconds, is_pure):
    """Judge *count* mutants; with *is_pure* by json instead of its C halves."""
    if is_pure:
        hook_io.JSON.use_public()
    chance, pool, end = random.Random(seed), hostile.seeds(), time.monotonic() + seconds
    row, slowest = Row("stdin", "mutants"), 0.0
    while row.count < count and time.monotonic() < end:
        if row.count % 5000 == 4999:
            data, pieces = hostile.near_the_limit(chance, pool), chance.choice((0, 20))
        else:
            data = hostile.mutant(chance, pool)
            pieces = chance.randrange(2, 6) if row.count % 100 == 99 else 0
        before = time.thread_time()
        row.note(hostile.misjudged(data, chance, pieces), data)
        slowest = max(slowest, time.thread_time() - before)
    return row, slowest


def stdin_part(soak):
    row = Row("stdin", "mutants through read_event, redact, formats, answers")
    half = soak.many(500_000)
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(stdin_worker, soak.seed + n, half, soak.seconds, n == 1)
                for n in range(2)]
        results = [job.result() for job in jobs]
    for done, _ in results:
        row.merge(done)
    row.figure = f"slowest {max(s for _, s in results) * 1000:.0f} ms of CPU"
    return [row]


def hypothesis_part(soak):
    """Judge events that hypothesis makes: any JSON under the names that agents use."""
    row, batch = Row("hypothesis", "any JSON under the names that agents use"), 50
    try:
        import hypothesis
    except ImportError:
        row.figure = "not installed"
        return [row]
    for number in range(-(-soak.many(10_000) // batch)):
        if not soak.is_late():
            judge_batch(hypothesis, row, soak.seed + number, batch)
    return [row]


def judge_batch(hypothesis, row, seed, count):
    chance = random.Random(seed)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, deadline=None, database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(events())
    def judge(event):
        data = json.dumps(event).encode()
        row.note(hostile.misjudged(data, chance), data)

    judge()


def events():
    """Return hypothesis's strategy for events."""
    from hypothesis import strategies as some

    names = sorted({name.partition(".")[0] for agent in hook_io.PLATFORMS.values()
                    for pair in agent.get("fields", {}).items() for name in pair}
                   | {"hook_event_name", "tool_calls", "error", "password", "prompt"})
    known = sorted({name for agent in hook_io.PLATFORMS.values()
                    for name in agent["events"]})
    leaf = (some.none() | some.booleans() | some.integers() | some.text(max_size=40)
            | some.floats(allow_nan=False, allow_infinity=False)
            | some.sampled_from(known))
    name = some.sampled_from(names) | some.text(max_size=8)
    value = some.recursive(leaf, lambda inner: some.lists(inner, max_size=4) | (
        some.dictionaries(name, inner, max_size=4)), max_leaves=6)
    return some.dictionaries(name, value, max_size=8)


#: a script that lets libFuzzer look for new paths through the parser
ATHERIS = """
import random, sys
sys.path[:0] = {path!r}
import atheris
with atheris.instrument_imports(include=["hook_io"]):
    import hook_io
import hostile

def try_one(data):
    problem = hostile.misjudged(data, random.Random(4711))
    if problem:
        raise RuntimeError(problem)

atheris.Setup([sys.argv[0], *sys.argv[1:]], try_one)
atheris.Fuzz()
"""


def atheris_part(soak):
    row = Row("atheris", "inputs guided by coverage")
    corpus = soak.folder / "atheris"
    corpus.mkdir()
    for data in hostile.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    script = ATHERIS.format(path=[str(TESTS), str(TESTS / "measure"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script, str(corpus), f"-runs={soak.many(200_000)}",
         f"-max_total_time={int(min(soak.seconds, 240))}", f"-seed={soak.seed}",
         "-max_len=4096", "-print_final_stats=1", f"-artifact_prefix={corpus}/"],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    said = done.stderr.decode("utf-8", "replace")
    if "No module named 'atheris'" in said:
        row.figure = "not installed"
        return [row]
    if done.returncode:
        row.note(f"exit {done.returncode}: {said[-1500:]}")
    for line in said.splitlines():
        if "stat::number_of_executed_units" in line:
            row.count = int(line.split()[-1])
        if "cov:" in line:
            row.figure = " ".join(line.split()[2:6])
    return [row]


# Processes.


class Ran:
    """What a process left behind, and how long that took, ms."""

    def __init__(self, exit_code, stdout, stderr, ms):
        self.exit, self.stdout, self.stderr, self.ms = exit_code, stdout, stderr, ms

    def problem(self, exits=(0,)):
        return hostile.misbehaved(self.exit, self.stdout, self.stderr, exits)


def run(command, data=b"", pieces=1, **options):
    """Run *command* on *data*, in *pieces* a few ms apart; return a Ran.

    exit "hung" where it did not end within HANG_S.
    """
    before = time.monotonic()
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        **options)
    try:
        size = max(1, len(data) // pieces)
        with contextlib.suppress(OSError):
            for at in range(0, len(data), size) if pieces > 1 else ():
                process.stdin.write(data[at:at + size])
                process.stdin.flush()
                time.sleep(0.004)
        stdout, stderr = process.communicate(
            data if pieces == 1 else None, timeout=HANG_S)
        exit_code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        exit_code = "hung"
    return Ran(exit_code, stdout, stderr, (time.monotonic() - before) * 1000)


def sender(hook, url, *argv):
    return hook.command(
        "send_event.py", "--source-app", "soak", "--event-type", "PreToolUse",
        "--server-url", url, *argv, flags=FLAGS)


def send(hook, url, *argv, env=None, data=EVENT, pieces=1, **options):
    """Run send_event.py on *data*; return a Ran."""
    return run(sender(hook, url, *argv), data, pieces,
               env={**hook.env, **(env or {})}, **options)


#: what the guard of the processes part says in turn
GUARDS = (("deny", "no"), ("block", "on"), ("context", "c"), ("hint", "h"), ("echo",),
          ("rewrite", '{"command": "ls"}'), ("ask", "sure?"), ("raise", "bug"),
          ("allow", "yes"), ("nothing",))


def guard(hook, words, data=EVENT, pieces=1, **options):
    command = hook.command("tests/contract/reference_hook.py", "--fail-closed", *words)
    return run(command, data, pieces, env=hook.env, **options)


def spread(times):
    """Return p50, p99 and the maximum of *times*, ms, in words."""
    ordered = sorted(times) or [0]
    p50, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.99))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, longest {ordered[-1]:.0f} ms"


def processes_part(soak):
    row, hook, chance = Row("processes", "mutants through real hooks"), soak.hook(), (
        random.Random(soak.seed))
    pool, times, silent = hostile.seeds(), [], set()
    down = f"http://127.0.0.1:{closed_port()}/events"

    def one(number, data, pieces):
        mine = str(uuid.UUID(int=number + 1))
        if number % 4 == 0:
            done = send(hook, server.url, "--session-id", mine, data=data,
                        pieces=pieces)
            if b"[ERROR]" not in done.stderr:
                silent.add(mine)
        elif number % 4 == 3:
            done = guard(hook, GUARDS[number // 4 % len(GUARDS)], data, pieces)
            return done, done.problem((0, 2)), data
        else:
            formats = list(hook_io.FORMATS)
            done = send(hook, down, "--format", formats[number % len(formats)],
                        data=data, pieces=pieces, env=ALWAYS)
        return done, done.problem(), data

    def inputs():
        for number in range(soak.many(20_000)):
            big = number % 500 == 499
            data = (hostile.near_the_limit if big else hostile.mutant)(chance, pool)
            yield number, data, chance.randrange(2, 6) if number % 50 == 7 else 1

    with EventServer() as server:
        for done, problem, data in in_threads(soak, one, inputs(), 3):
            row.note(problem, data)
            times.append(done.ms)
        stored = {event["session_id"] for event in server.events()}
    lost = silent - stored
    row.note(f"{len(lost)} events neither arrived nor told" if lost else "")
    row.figure = spread(times)
    return [row]


def in_threads(soak, work, inputs, threads):
    """Yield work(*input) for each of *inputs* until the time is over."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        waiting = collections.deque()
        for words in inputs:
            if soak.is_late():
                break
            waiting.append(pool.submit(work, *words))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


# Answers.


def answers_worker(seed, count, seconds):
    """Judge what post_json() says of *count* answers."""
    chance, row, longest = random.Random(seed), Row("answers", ""), 0.0
    end, server = time.monotonic() + seconds, hostile.ScriptedServer()
    for data, ending, tear_at in itertools.chain(
            every_status(), every_tear(), mutated_answers(chance)):
        if row.count >= count or time.monotonic() > end:
            break
        timeout_ms = 40 if ending == "hang" else 2000
        act = server, data, ending, tear_at
        problem = hostile.misdelivered(
            *act, timeout_ms, chance.random() < 0.3, SLACK_MS)
        if problem and ending == "hang":  # was there time enough on a busy machine?
            problem = hostile.misdelivered(*act, 2000, False, SLACK_MS)
        row.note(problem, repr((data[:2000], ending, tear_at)).encode())
        if ending == "hang" and server.held_ms:
            longest = max(longest, server.held_ms - timeout_ms)
    server.close()
    return row, longest


def every_status():
    for status in range(100, 600):
        yield hostile.good_answer(status), "close", 0


def every_tear():
    """Yield answers of which so many bytes come: then silence, an end, or the rest."""
    for data in hostile.ANSWERS:
        for at in range(len(data) + 1):
            yield data[:at], "close", 0
            yield data[:at], "reset", 0
            yield data, "close", at
            if at % 10 == 0:
                yield data[:at], "hang", 0


def mutated_answers(chance):
    while True:
        data = hostile.answer_mutant(chance)
        ending = "hang" if chance.random() < 0.05 else chance.choice(("close", "reset"))
        yield data, ending, chance.randrange(len(data) + 1) * (chance.random() < 0.2)


def answers_part(soak):
    row = Row("answers", "HTTP answers, mutated, torn, every status, bombs")
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(answers_worker, soak.seed + n, soak.many(50_000),
                            soak.seconds) for n in range(2)]
        results = [job.result() for job in jobs]
    for done, _ in results:
        row.merge(done)
    late = max(longest for _, longest in results)
    row.figure = f"held at most {max(0, late):.0f} ms past the deadline"
    return [row]


# Addresses.


def addresses_part(soak):
    table, chance = hostile.ADDRESSES, random.Random(soak.seed)
    spelled, unusable = Row("addresses", "spellings"), Row("addresses", "bad URLs")
    rebound, drawn = Row("addresses", "rebinding names"), Row("addresses", "random")
    for host, kind in spelled_hosts():
        spelled.note(hostile.misrouted(host, kind), host.encode())
    for url, host in itertools.product(
            table["unusable"], ("169.254.169.254", "127.0.0.1", "metadata.test")):
        outcome, wire = hostile.try_url(url.replace("HOST", host), True)
        bad = outcome.name != "invalid" or wire.connected or wire.looked_up
        unusable.note(f"{url}: {outcome.name} ({outcome.fact})" if bad else "")
    for lookups in table["names"]:
        rebound.note(hostile.misled(lookups))
    for _ in range(soak.many(20_000)):
        address = hostile.random_address(chance)
        host = chance.choice(hostile.spellings(address))
        drawn.note(hostile.misrouted(host, hostile.kind_of(address)), host.encode())
    return [spelled, unusable, rebound, drawn]


def spelled_hosts():
    """Yield each host of the corpus in each spelling, with its kind."""
    table = hostile.ADDRESSES
    metadata = [a for row in table["metadata"].values() for a in row]
    for kind in ("forbidden", "loopback", "private", "public"):
        for address in table[kind] + (metadata if kind == "forbidden" else []):
            hosts = [f"[{address}]"] if ":" in address else hostile.spellings(address)
            yield from ((host, kind) for host in hosts)
        yield from ((f"[{address}]", kind) for address in table["ipv6"][kind])


# State under fault.


def mounted(folder, options):
    """Mount a tmpfs on *folder*; return whether that is allowed here."""
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mount"):
        return False
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def unmount(folder):
    subprocess.run(["umount", "-l", str(folder)], check=True)


def streak_path(hook, url):
    name = f"send_event.{hook_io.shown_url(url)}"
    return hook.state / hook_io.FailureStreak.file_name(name)


def tree(folder, *but):
    """Return what is in *folder*, those paths aside: path -> what it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if not any(path == other or other in path.parents for other in but):
            content = path.read_bytes() if path.is_file() and (
                not path.is_symlink()) else b""
            found[str(path)] = path.is_symlink() and os.readlink(str(path)), content
    return found


def link_folder(hook, path, victim):
    hook.state.symlink_to(victim)


def link_file(suffix):
    def plant(hook, path, victim):
        hook.state.mkdir()
        Path(f"{path}{suffix}").symlink_to(victim / "precious")
    return plant


def folder_for_file(suffix):
    def plant(hook, path, victim):
        Path(f"{path}{suffix}").mkdir(parents=True)
    return plant


def file_for_folder(hook, path, victim):
    hook.state.write_text("mine")


def corrupt(size):
    def plant(hook, path, victim):
        hook.state.mkdir()
        path.write_bytes(os.urandom(size))
    return plant


def no_home(hook, path, victim):
    hook.env.update(HOME="/dev/null/none", HOOK_IO_STATE_DIR="")


#: what is done to the state before hooks run
PLANTED = {
    "nothing": lambda hook, path, victim: None, "no home": no_home,
    "a link for the folder": link_folder, "a file for the folder": file_for_folder,
    **{f"a link for {name}": link_file(suffix) for name, suffix in (
        ("the file", ""), ("the last streak", ".last"), ("the untold", ".untold"))},
    **{f"a folder for {name}": folder_for_file(suffix) for name, suffix in (
        ("the file", ""), ("the last streak", ".last"), ("the untold", ".untold"))},
    **{f"{size} random bytes": corrupt(size) for size in (1, 63, 64, 65, 640, 100_000)},
}


def try_state(soak, plant, **options):
    """Lose, deliver and lose again in a state with a fault; return what is wrong."""
    hook, port = soak.hook(), closed_port()
    url = f"http://127.0.0.1:{port}/events"
    victim = hook.home / "victim"
    victim.mkdir()
    (victim / "precious").write_text("mine")
    plant(hook, streak_path(hook, url), victim)
    before = tree(hook.home, hook.state, hook.folder / "__pycache__")
    done = [send(hook, url, **options) for _ in range(4)]
    with EventServer(port=port) as server:
        done.append(send(hook, url, "--timeout-ms", "20000", **options))
        if len(server.events()) != 1:
            return f"not delivered: {done[-1].stderr!r}"
    done.append(send(hook, url, **options))
    if tree(hook.home, hook.state, hook.folder / "__pycache__") != before:
        return "something was written outside the folder"
    return next(filter(None, (ran.problem() for ran in done)), "") or miscounted(
        streak_path(hook, url), done[-1])


def miscounted(path, last):
    """Return what is wrong with the count after an outage, a success and a loss."""
    if b"Losses are not counted" in last.stderr or b"begins anew" in last.stderr:
        return ""  # told: that is what is promised
    lines = path.read_bytes() if path.is_file() and not path.is_symlink() else b"-"
    return "" if len(lines) == hook_io.RECORD_BYTES else f"{len(lines)} bytes, not 64"


def state_part(soak):
    row = Row("state", "planted links, folders, garbage; six hooks each")
    for name, plant in PLANTED.items():
        row.note(try_state(soak, plant), name.encode())
    rows = [row, limited_row(soak), clock_row(soak), at_once_row(soak)]
    return [*rows, *file_system_rows(soak), *kill_rows(soak)]


def limited_row(soak):
    """Give files no room: whole lines are counted, or it begins anew and says so."""
    row = Row("state", "file sizes limited (ulimit -f) by the byte")
    for room in list(range(0, 200, 7))[:soak.many(29)]:
        hook, url = soak.hook(), f"http://127.0.0.1:{closed_port()}/events"
        for _ in range(5):
            ran = send(hook, url, preexec_fn=lambda room=room: resource.setrlimit(
                resource.RLIMIT_FSIZE, (room, room)))
            row.note(ran.problem())
        ran = send(hook, url)
        size = streak_path(hook, url).stat().st_size if (
            streak_path(hook, url).exists()) else 0
        good = size % 64 == 0 and (size or b"begins anew" in ran.stderr)
        row.note("" if good else f"{size} bytes", ran.stderr)
    return row


#: a script that is send_event.py while the clock runs backwards
BACKWARDS = """
import runpy, sys, time
now, steps = time.time_ns(), iter(range(1, 10**9))
time.time_ns = lambda: now - next(steps) * 86400 * 10**9 * 365
time.time = lambda: time.time_ns() / 10**9
real = time.gmtime
time.gmtime = lambda seconds=None: real(time.time() if seconds is None else seconds)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def clock_row(soak):
    row, hook = Row("state", "a clock that runs backwards, with spool and log"), (
        soak.hook())
    url, spool = f"http://127.0.0.1:{closed_port()}/events", hook.home / "spool"
    (hook.home / "backwards.py").write_text(BACKWARDS)
    env = {**hook.env, "HOOK_IO_SPOOL_DIR": str(spool),
           "HOOK_IO_EVENT_LOG": str(hook.home / "log")}
    for _ in range(soak.many(20)):
        command = sender(hook, url)
        command.insert(command.index(str(hook.folder / "send_event.py")),
                       str(hook.home / "backwards.py"))
        row.note(run(command, EVENT, env=env).problem())
    lines = streak_path(hook, url).read_bytes()
    wrong = len(lines) != 64 * row.count or len(
        (hook.home / "log").read_bytes().splitlines()) != row.count
    row.note(f"{len(lines)} bytes of streak" if wrong else "")
    return row


def at_once_row(soak):
    row, hook = Row("state", "200 hooks at once: counted, told once"), soak.hook()
    url, count = f"http://127.0.0.1:{closed_port()}/events", soak.many(200)
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        done = list(pool.map(lambda _: send(hook, url, env=ALWAYS), range(count)))
    for ran in done:
        row.note(ran.problem())
    lines = len(hook.losses())
    told = sum(bool(ran.stdout) for ran in done)
    row.note("" if (lines, told) == (count, 1) else f"{lines} lines, told {told} times")
    row.figure = f"{lines} lines, told {told} times"
    return row


def file_system_rows(soak):
    """Try a full and a read-only file system, both our own."""
    row = Row("state", "a full and a read-only tmpfs: streak, spool, log")
    for options, fill in (("size=64k", True), ("size=64k,nr_inodes=2", False),
                          ("size=64k,ro", False)):
        hook, disk = soak.hook(), soak.folder / f"disk{next(soak.numbers)}"
        disk.mkdir()
        if not mounted(disk, options):
            row.figure = "not allowed here"
            return [row]
        try:
            row.merge(on_disk(hook, disk, fill))
        finally:
            unmount(disk)
    return [row]


def on_disk(hook, disk, fill):
    row, port = Row("", ""), closed_port()
    url, env = f"http://127.0.0.1:{port}/events", {
        "HOOK_IO_STATE_DIR": str(disk / "state"),
        "HOOK_IO_SPOOL_DIR": str(disk / "spool"),
        "HOOK_IO_EVENT_LOG": str(disk / "events.jsonl")}
    row.note(send(hook, url, env=env).problem())
    if fill:
        (disk / "fill").write_bytes(b"")
        with contextlib.suppress(OSError), (disk / "fill").open("ab", 0) as file:
            for _ in range(1 << 16):
                file.write(b"x" * 512)
    before = tree(hook.home, hook.folder / "__pycache__")
    for _ in range(20):
        ran = send(hook, url, env=env)
        row.note(ran.problem() or ("" if b"[ERROR]" in ran.stderr else "not told"))
    with EventServer(port=port) as server:
        row.note(send(hook, url, "--timeout-ms", "20000", env=env).problem())
        row.note("" if len(server.events()) == 1 else "not delivered")
    row.note("" if tree(hook.home, hook.folder / "__pycache__") == before
             else "something was written outside the disk")
    if fill:
        (disk / "fill").unlink()
        row.note(after_room(hook, url, disk, env))
    return row


def after_room(hook, url, disk, env):
    """Return what is wrong with the files once there is room again."""
    for _ in range(2):
        ran = send(hook, url, env=env)
        if ran.problem() or b"not " in ran.stderr.replace(b"server not", b""):
            return f"with room again: {ran.stderr!r}"
    for line in (disk / "events.jsonl").read_bytes().splitlines():
        json.loads(line)
    for path in (disk / "spool").glob("*.json"):
        json.loads(path.read_bytes())
    sizes = [p.stat().st_size % 64 for p in (disk / "state").iterdir()]
    return f"half lines: {sizes}" if any(sizes) else ""


def kill_rows(soak):
    """Kill hooks anywhere: each line and each spooled event is whole or not there."""
    row, hook = Row("state", "hooks killed (SIGKILL) at random points"), soak.hook()
    url, spool = f"http://127.0.0.1:{closed_port()}/events", hook.home / "spool"
    env = {**hook.env, "HOOK_IO_SPOOL_DIR": str(spool)}
    chance, ended, kills = random.Random(soak.seed), 0, soak.many(500)
    for _ in range(kills):
        process = subprocess.Popen(
            sender(hook, url), stdin=subprocess.PIPE, env=env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with contextlib.suppress(OSError):
            process.stdin.write(EVENT)
            process.stdin.close()
        time.sleep(chance.uniform(0.002, 0.08))
        process.send_signal(signal.SIGKILL)
        ended += process.wait() == 0
        row.note("")
    lines = streak_path(hook, url).read_bytes() if hook.state.exists() else b""
    counted, torn = divmod(len(lines), 64)
    known = all(line.count(b"refused") == 1 for line in lines.splitlines())
    whole = all(json.loads(p.read_bytes()) for p in spool.glob("*.json"))
    good = not torn and known and whole and ended <= counted <= kills
    row.note("" if good else f"{ended} ended, {counted} counted, {torn} bytes torn")
    send(hook, url)
    row.note("" if len(hook.losses()) == counted + 1 else "the next is not counted")
    row.figure = f"{counted} counted, {ended} had ended"
    return [row]


# Descriptors, environment, limits.


def redirected(hook, command, redirection, **options):
    """Run *command* under sh with a *redirection*; return a Ran."""
    return run(["sh", "-c", f'exec "$@" {redirection}', "sh", *command], EVENT,
               env=hook.env, **options)


def closed_row(soak):
    row, hook = Row("descriptors", "0, 1, 2 closed, each way, four hooks"), soak.hook()
    down = f"http://127.0.0.1:{closed_port()}/events"
    ways = [some for n in range(4) for some in itertools.combinations((0, 1, 2), n)]
    with EventServer() as server:
        for number, closed in enumerate(ways):
            redirection = " ".join(("<&-", ">&-", "2>&-")[fd] for fd in closed)
            slow = ("--timeout-ms", "20000")
            done = [redirected(hook, sender(hook, url, *slow), redirection)
                    for url in (server.url, down)]
            row.note(done[0].problem(), redirection.encode())
            row.note(done[1].problem(), redirection.encode())
            for words in (("deny", "no"), ("hint", "h")):
                command = hook.command("tests/contract/reference_hook.py", *words)
                ran = redirected(hook, command, redirection)
                row.note(ran.problem((0, 2)), redirection.encode())
            arrived, lost = len(server.events()), len(hook.losses())
            row.note("" if (arrived, lost) == (number + 1, number + 1) else
                     f"{arrived} arrived, {lost} counted with {closed} closed")
    return row


def pipe_row(soak):
    """Let nobody read stdout: full from the start, or closed after the start."""
    row, hook = Row("descriptors", "stdout full and unread, or closed early"), (
        soak.hook())
    down, limit = f"http://127.0.0.1:{closed_port()}/events", soak.many(10)
    for number in range(2 * limit):
        out, into = os.pipe()
        if number % 2:
            os.set_blocking(into, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(into, b"x" * 4096)
            os.set_blocking(into, True)
        process = subprocess.Popen(
            sender(hook, down), stdin=subprocess.PIPE, stdout=into,
            stderr=subprocess.PIPE, env={**hook.env, **ALWAYS})
        os.close(into)
        if not number % 2:
            os.close(out)
        event = {**json.loads(EVENT), "session_id": f"s{number}"}
        _, stderr = process.communicate(json.dumps(event).encode(), timeout=HANG_S)
        row.note(hostile.misbehaved(process.returncode, b"", stderr))
        if number % 2:
            os.close(out)
    return row


def shadow(hook):
    for name in ("json", "re", "socket", "os", "time", "_json", "select"):
        (hook.folder / f"{name}.py").write_text("raise RuntimeError('shadowed')\n")
    return {}


def unwritable_cache(hook):
    shutil.rmtree(str(hook.folder / "__pycache__"))
    if mounted(make(hook.folder / "__pycache__"), "size=4k,ro"):
        return {"mount": hook.folder / "__pycache__"}
    (hook.folder / "__pycache__").rmdir()
    (hook.folder / "__pycache__").write_text("")
    return {}


def make(folder):
    folder.mkdir()
    return folder


#: name -> variables to set (None: to take away), what else is done, flags
SURROUNDINGS = {
    "no HOME": ({"HOME": None}, None, FLAGS),
    "no PATH": ({"PATH": None}, None, FLAGS),
    "nothing at all": ({"HOME": None, "PATH": None, "TMPDIR": None}, None, ()),
    "LANG=C": ({"LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, None, ()),
    "PYTHONUTF8=0": ({"PYTHONUTF8": "0", "LC_ALL": "C"}, None, ()),
    "ASCII streams": ({"PYTHONIOENCODING": "ascii"}, None, ()),
    "PYTHONSAFEPATH=1": ({"PYTHONSAFEPATH": "1"}, None, ()),
    "a json.py beside, plain": ({}, shadow, ()),
    "a json.py beside, -IS": ({}, shadow, FLAGS),
    "a json.py beside, safe": ({"PYTHONSAFEPATH": "1"}, shadow, ()),
    "a read-only __pycache__": ({}, unwritable_cache, FLAGS),
    "warnings as errors": ({"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}, None, ()),
    "HOME that is no folder": ({"HOME": "/dev/null"}, None, FLAGS),
}


def surroundings_row(soak):
    row = Row("descriptors", "environments, shadowing files, read-only cache")
    for name, (variables, prepare, flags) in SURROUNDINGS.items():
        hook = soak.hook()
        hook.env.update({k: v for k, v in variables.items() if v is not None})
        for variable in (k for k, v in variables.items() if v is None):
            hook.env.pop(variable, None)
        facts = prepare(hook) if prepare else {}
        try:
            for problem in in_surroundings(hook, flags):
                row.note(problem, name.encode())
        finally:
            if "mount" in facts:
                unmount(facts["mount"])
    return row


def in_surroundings(hook, flags):
    """Yield what is wrong with a delivery and a loss there, "" each if nothing is."""
    port = closed_port()
    url = f"http://127.0.0.1:{port}/events"
    command = hook.command(
        "send_event.py", "--source-app", "Größe", "--event-type", "PreToolUse",
        "--server-url", url, "--timeout-ms", "20000", flags=flags)
    ran = run(command, EVENT, env={**hook.env, **ALWAYS})
    yield ran.problem() or ("" if ran.stdout else f"not told: {ran.stderr!r}")
    with EventServer(port=port) as server:
        ran = run(command, EVENT, env=hook.env)
        yield ran.problem() or ("" if server.events() else f"lost: {ran.stderr!r}")


def limits_row(soak):
    """Starve hooks of descriptors and of memory; find what the least of it is."""
    row, hook, least = Row("descriptors", "ulimit -n 16; -v from 8 MB on"), (
        soak.hook()), {}
    with EventServer() as server:
        command = sender(hook, server.url, "--timeout-ms", "20000")
        row.note(starved(hook, command, resource.RLIMIT_NOFILE, 16).problem())
        row.note("" if len(server.events()) == 1 else "not sent with 16 descriptors")
        for megabytes in range(8, 40 if soak.scale < 1 else 80, 1 + (soak.scale < 1)):
            bare = starved(hook, [PYTHONS[NEWEST], "-IS", "-c", "pass"],
                           resource.RLIMIT_AS, megabytes << 20)
            ran = starved(hook, command, resource.RLIMIT_AS, megabytes << 20)
            if not bare.exit:
                least.setdefault("python", megabytes)
            if not ran.exit:
                least.setdefault("hook", megabytes)
            row.note("" if ran.exit != 2 and (
                "hook" not in least or not ran.exit) else f"exit {ran.exit}")
    extra = least.get("hook", 99) - least.get("python", 0)
    row.note("" if extra <= 8 else f"{extra} MB more than Python")
    row.figure = f"Python starts in {least.get('python')} MB, the hook in " + (
        f"{least.get('hook')} MB of address space")
    return row


def starved(hook, command, what, limit):
    return run(command, EVENT, env=hook.env,
               preexec_fn=lambda: resource.setrlimit(what, (limit, limit)))


def descriptors_part(soak):
    return [closed_row(soak), pipe_row(soak), surroundings_row(soak), limits_row(soak)]


# Load.

#: name -> arguments of the event server; None: there is none
LOADS = {"healthy": (), "slow (300 ms)": ("--fault", "slow"), "dead": None}


@contextlib.contextmanager
def serving(*arguments):
    """Yield the URL of an event server in a process of its own."""
    command = [sys.executable, str(TESTS / "server"), "--port", "0", "--quiet",
               "--db", ":memory:"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE)
    try:
        yield process.stdout.readline().decode().split()[2]
    finally:
        process.terminate()
        process.communicate(timeout=HANG_S)


def stored_at(url):
    """Return the session ids of the events that the server at *url* holds."""
    with urllib.request.urlopen(f"{url}?limit=10000", timeout=HANG_S) as answer:
        return {event["session_id"] for event in json.load(answer)}


def load_part(soak):
    rows = []
    for spools, (name, arguments) in itertools.product((False, True), LOADS.items()):
        rows.append(loaded_row(soak, name, arguments, spools))
    return rows


def loaded_row(soak, name, arguments, spools):
    """Start hooks, 50 at a time; account for each of their events."""
    row = Row("load", f"50 at a time, server {name}{', spool' * spools}")
    hook, spool = soak.hook(), soak.folder / f"spool{next(soak.numbers)}"
    env = {"HOOK_IO_SPOOL_DIR": str(spool)} if spools else {}
    url, done = f"http://127.0.0.1:{closed_port()}/events", {}

    def one(number):
        mine = str(uuid.UUID(int=number + 1))
        ran = send(hook, url, "--session-id", mine, env=env)
        return mine, ran

    stored = set()
    with contextlib.ExitStack() as stack:
        if arguments is not None:
            url = stack.enter_context(serving(*arguments))
        inputs = ((n,) for n in range(soak.many(2000)))
        for mine, ran in in_threads(soak, one, inputs, 50):
            done[mine] = ran
            row.note(ran.problem())
        if arguments is not None:
            time.sleep(1)  # what the slow one has in its hands is stored by then
            stored = stored_at(url)
    account(row, hook, done, stored, spool if spools else None, arguments is None)
    return row


def account(row, hook, done, stored, spool, is_dead):
    """Note in *row* which events are neither delivered nor counted nor spooled."""
    silent = {mine for mine, ran in done.items() if not ran.stderr}
    counted = {mine for mine, ran in done.items() if b"[ERROR]" in ran.stderr
               and b"not counted" not in ran.stderr}
    row.note(f"{len(silent - stored)} silent and not stored" if silent - stored else "")
    left = set(done) - silent - counted
    row.note(f"{len(left)} not accounted for" if left else "")
    lines = len(hook.losses())
    row.note(f"{lines} lines, {len(counted)} lost" if is_dead and (
        lines != len(counted)) else "")
    kept = ""
    if spool:
        names = [json.loads(p.read_bytes())["session_id"] for p in spool.glob("*.json")]
        row.note("" if sorted(names) == sorted(counted) else
                 f"{len(names)} spooled, {len(counted)} lost")
        kept = f", spooled {len(names)}"
    late = f" ({len(counted & stored)} came late)" if stored else ""
    row.figure = (f"delivered {len(silent)}, counted {len(counted)}{late}{kept}; "
                  + spread(ran.ms for ran in done.values()))


def shapes_part(soak):
    """Send events of 1 MiB; judge the processor time of the whole process."""
    row, hook, slowest = Row("shapes", "events of 1 MiB, sent"), soak.hook(), (0, "")
    with EventServer() as server:
        for name in hostile.SHAPES:
            cpu_ms, stderr = min(cpu_of(hook, server.url, hostile.shaped(name))
                                 for _ in range(soak.many(TRIES)))
            row.note(f"{name}: {cpu_ms:.0f} ms" if cpu_ms > BUDGET_MS + OWN_CPU_MS
                     else "" if "no answer within" in stderr else stderr)
            slowest = max(slowest, (cpu_ms, name))
        known = {event.get("session_id") for event in server.events()}
    row.note("" if known == {hostile.SHAPE_SESSION} else "a session was lost")
    row.figure = "most processor time {:.0f} ms: {}".format(*slowest)
    return [row]


def cpu_of(hook, url, data):
    """Return processor time, ms, of a hook that sends *data*, and its stderr."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(data)
        stdin.seek(0)
        process = subprocess.Popen(
            sender(hook, url, "--event-type", "PostToolUse"), env=hook.env,
            stdin=stdin, stdout=subprocess.DEVNULL, stderr=stderr)
        usage = os.wait4(process.pid, 0)[2]
        process.returncode = 0
        stderr.seek(0)
        said = stderr.read().decode("utf-8", "replace")
        return (usage.ru_utime + usage.ru_stime) * 1000, said


def at_once_part(soak):
    """Start 200 hooks in one moment; each event that the server could take arrives."""
    row, hook, count = Row("at once", "hooks at once, on busy cores"), soak.hook(), (
        soak.many(200))
    sample = SAMPLES / "claude-code" / "PreToolUse.json"
    with EventServer() as server:
        started = [subprocess.Popen(
            sender(hook, server.url, "--session-id", str(uuid.UUID(int=n + 1))),
            env=hook.env, stdin=sample.open("rb"), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE) for n in range(count)]
        said = [process.stderr.read() for process in started]
        for process in started:
            row.note("" if process.wait(HANG_S) == 0 else "exit not 0")
        time.sleep(1)  # what is in the server's hands is stored by then
        stored = {event["session_id"] for event in server.events()}
    late = sum(b"no answer within" in stderr for stderr in said)
    row.note(f"{count - len(stored)} events lost" if len(stored) < count else "")
    row.figure = f"{len(stored)} of {count} arrived, {late} unconfirmed"
    return [row]


PARTS = {
    "shapes": shapes_part, "at once": at_once_part,
    "stdin": stdin_part, "hypothesis": hypothesis_part, "atheris": atheris_part,
    "answers": answers_part, "addresses": addresses_part, "state": state_part,
    "descriptors": descriptors_part, "processes": processes_part, "load": load_part,
}


def soaked(part, seed, seconds, scale):
    """Run one *part*; return its rows."""
    with tempfile.TemporaryDirectory(prefix="hook-io-soak-") as folder:
        soak = Soak(folder, seed, seconds, scale)
        rows = PARTS[part](soak)
        for row in rows:
            row.figure += " (ended early)" * soak.is_late()
        return rows


def table_of(rows):
    """Return the lines of a table of *rows*."""
    cells = [("part", "what", "checks", "findings", "figure")] + [
        (row.part, row.what, f"{row.count:,}", str(sum(row.findings.values())),
         row.figure) for row in rows]
    widths = [max(len(line[n]) for line in cells) for n in range(5)]
    cells.insert(1, tuple("-" * width for width in widths))
    return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths))
            + " |" for line in cells]


def main():
    """Run what the arguments say; exit 1 where something was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--scale", type=float, default=1)
    given = parser.parse_args()
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH"):
        os.environ.pop(name, None)
    rows = []
    for part in given.part or PARTS:
        began = time.monotonic()
        rows += soaked(part, given.seed, given.seconds, given.scale)
        found = sum(sum(row.findings.values()) for row in rows if row.part == part)
        print(f"{part}: {time.monotonic() - began:.0f} s, {found} findings",
              file=sys.stderr, flush=True)
    print(f"{time.strftime('%Y-%m-%d')}, {platform.system()} {platform.machine()}, "
          f"{os.cpu_count()} CPUs, hooks on Python {NEWEST}, seed {given.seed}")
    print("\n".join(table_of(rows)))
    for row in rows:
        for kind, (problem, example) in row.examples.items():
            print(f"\n{row.part}, {row.findings[kind]} times: {problem}\n  {example!r}")
    sys.exit(any(row.findings for row in rows))


if __name__ == "__main__":
    main()
