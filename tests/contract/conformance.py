#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Hold a command against the contract in tests/contract/vectors, and say what differs.

    python3 tests/contract/conformance.py [options] -- COMMAND...
    python3 tests/contract/conformance.py [options] --port FILE

    -k PATTERN          only cases with this in their id, or that this glob matches;
                        a whole id is that case alone
    --contract NAME     send_event (the default), hook or functions
    --port FILE         a port's conformance.json
    --lacks NAME        a capability that the command lacks, as in a port's file
    --env NAME[=VALUE]  a variable that the command needs besides the cases' own
    -j N                so many cases at once (default: one for each CPU)
    --strict            a SHOULD counts like a MUST
    --json              one JSON document in place of TAP 13
    --list              print the cases' ids and sentences; run nothing
    --limit-s SECONDS   longest life of a process (default: 20)
    --vectors FOLDER    where the cases are (default: vectors, beside this file)

Exit 0: the command does what the contract says, but for what its port file admits.
Exit 1: it does not, or the port file says what is not so.  Exit 2: nothing was run,
for a mistake in the arguments, the port file or the vectors.

tests/contract/README.md tells the format of the vectors; the forms below are the same.
"""

import argparse
import base64
import calendar
import contextlib
import fnmatch
import functools
import glob
import itertools
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
sys.path[:0] = [str(HERE), str(TESTS)]
import corpora
from server import (
    FAULTS,
    POLL_S,
    REPLY_KEYS,
    EventServer,
    full_backlog,
    parsed,
)

SAMPLES, TLS = TESTS / "samples", HERE / "tls"
WINDOWS = os.name == "nt"
ARGUMENTS_MAX_CHARS = 32_000  # on Windows, beside the command's own
SHOWN_CHARS = 200  # of a value in a difference
SHOWN_LINES = 20  # of a kind
# How long a command may last: what a case allows, so many times as long as it takes for
# its version beside it, on the same machine at the same time, and this much more.
TRIES, STARTS, MORE_MS = 3, 3, 700
LATE = re.compile(r"\b(lasts|held)_ms\b.*: expected at most")
#: in what happened, that the runner itself came late with what it writes to stdin
HELD_UP, HELD_UP_MS = re.compile(r"((step|run) \d+: )*runner: held up for "), 100
SETTLE_S = 1  # for what takes milliseconds once the command has ended
BATCH_BYTES = 1 << 19  # of a corpus, for one call
PATIENCE_S = 10  # for our own server's answer, and what comes later; never a measure


class Mistake(Exception):
    """The arguments, the port file or the vectors are not what they should be."""


# What files may hold.  A form is a type (object: any value), a literal, a function that
# tells, [form] for a list, {name: form} for an object without other members, with "*"
# for one of any names, or a tuple of alternatives.

def a_regex(value):
    with contextlib.suppress(TypeError, re.error):
        return bool(re.compile(value))
    return False


def a_sample(value):
    return isinstance(value, str) and (SAMPLES / f"{value}.json").is_file()


def a_certificate(value):
    return value in [path.stem for path in TLS.glob("*.pem")]


def a_mode(value):
    return isinstance(value, str) and bool(re.fullmatch("0[0-7]{3}", value))


def a_kind(value):
    return isinstance(value, str) and value in corpora.KINDS


def a_range(value):
    return isinstance(value, list) and [type(end) for end in value] == [int, int]


def base64_text(value):
    with contextlib.suppress(TypeError, ValueError):
        return isinstance(base64.b64decode(value, validate=True), bytes)
    return False


def a_count(value):
    return type(value) is int and value > 0


TEXT = (str, {"json": object, "json_lines": [object], "lines": [a_regex],
              "first_line": a_regex, "has": [str], "at_most_lines": a_count,
              "columns": a_count, "any": True})
STREAM = (*TEXT, {"once": TEXT})
REQUEST = {"method": object, "path": object, "headers": {"*": object}, "json": object,
           "body": object, "held_ms": a_count, "answered": a_count}
FILE = (str, None, {"lines": int, "bytes": int, "has": [str], "json_lines": [object],
                    "mode": a_mode, "count": int})
PART = ({"json": object}, {"text": str}, {"base64": base64_text}, {"pause_ms": a_count},
        {"sample": a_sample, "with": dict}, {"open": True}, {"terminal": True})
REPLY = (*FAULTS, dict.fromkeys(REPLY_KEYS, object))
STEP = {
    "argv": [str],
    "env": {"*": (str, None)},
    "stdin": (*PART, [PART]),
    "call": str,
    "args": [object],
    "cwd": str,
    "files": {"*": (str, None, {"json": object}, {"folder": True, "mode": a_mode},
                    {"symlink": str},
                    {"text": str, "copies": a_count, "age_s": a_count})},
    "server": ("closed", "backlog", [REPLY]),
    "tls": a_certificate,
    "times": a_count,
    "together": a_count,
    "later": True,
    "slow_reader_ms": a_count,
    "closed": [("stdin", "stdout", "stderr")],
    "unread": [("stdout", "stderr")],
    "expect": {"exit": int, "stdout": STREAM, "stderr": STREAM, "returns": object,
               "held_ms": a_count, "lasts_ms": a_count, "files": {"*": FILE},
               "requests": (int, [REQUEST]), "never": [str]},
}
CASE = {"id": str, "why": str, "spec": str, "level": ("MUST", "SHOULD"), "needs": [str],
        "from": [str], **STEP, "steps": [STEP],
        "corpus": {"kind": a_kind, "held_out": bool, "least_percent": a_count}}
FILE_OF_CASES = {"contract": str, "topic": str, "alone": True, "defaults": STEP,
                 "cases": [dict]}
PORT = {"port": str, "language": str, "contract": str, "build": [str], "command": [str],
        "lacks": [str], "known_failing": {"*": str}}
MATCHER = ({"$match": a_regex}, {"$json": object}, {"$chars": a_range}, {"$has": [str]},
           {"$lacks": [str]}, {"$now_s": a_count}, {"$absent": True}, {"$any": True},
           {"$all": [object]}, {"$holds": [object]}, {"$same": str})
REQUIRED = {"id", "why", "spec", "level", "contract", "topic", "cases", "command",
            "kind", "least_percent"}
OF_STEPS = {"server", "expect", "times", "together"}  # not of a case that has steps
OF_CALLS = {"args", "corpus", "returns"}  # of what calls a function
OF_CORPORA = {"args", "steps", "stdin", "times", "together"}  # not of a corpus's case
KINDS = {str: "a text", int: "a whole number", bool: "true or false",
         dict: "an object"}

#: TMP, SERVER, PORT, HOST, CA, or (text, how many times)
PLACEHOLDER = re.compile(r"\$\{(?:(TMP|SERVER|PORT|HOST|CA)|(\}|[^}]+?)\*(\d+))\}")
REGEXES = ("$match", "first_line", "lines")  # what a placeholder stands for is literal


def check(value, form, where):
    """Raise Mistake unless *value*, which stands *where*, has *form*."""
    if isinstance(form, tuple):
        form = next((one for one in form if resembles(value, one)), form)
    if isinstance(form, dict) and isinstance(value, dict):
        for name, part in value.items():
            if name not in form and "*" not in form:
                raise Mistake(f"{where}: unknown member {name!r};"
                              f" there are: {', '.join(form)}")
            check(part, form[name if name in form else "*"], f"{where}.{name}")
        for name in form:
            if name in REQUIRED and name not in value:
                raise Mistake(f"{where}: {name} is missing")
    elif isinstance(form, list) and isinstance(value, list):
        for n, part in enumerate(value):
            check(part, form[0], f"{where}[{n}]")
    elif not resembles(value, form):
        raise Mistake(f"{where}: must be {said(form)}, is {shown(value)}")


def resembles(value, form):
    """Tell whether *value* is of *form* or, an object or a list, is meant to be."""
    if isinstance(form, dict):
        return isinstance(value, dict) and any(n in form or "*" in form for n in value)
    if isinstance(form, list):
        return isinstance(value, list)
    if isinstance(form, type):
        return form is object or type(value) is form
    if callable(form):
        return form(value)
    return type(value) is type(form) and value == form


def said(form):
    """Return *form* in words."""
    if isinstance(form, tuple):
        return " or ".join(map(said, form))
    if isinstance(form, (dict, list)):
        return f"{{{', '.join(form)}}}" if isinstance(form, dict) else "a list"
    if callable(form):
        return KINDS.get(form) or form.__name__.replace("_", " ")
    return shown(form)


# Loading.

def read_json(path, form):
    """Return the JSON in *path*; raise Mistake, also for a member given twice."""
    def once(pairs):
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError(f"a member given twice beside {', '.join(value)}")
        return value
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=once)
    except (OSError, ValueError) as error:
        raise Mistake(f"{path}: {error}") from None
    check(value, form, str(path))
    return value


def parts(value):
    """Return a JSON value and all that is in it, names of members too."""
    found = [value]
    for part in found:  # which grows by what is in each
        if isinstance(part, (dict, list)):
            found += part
        if isinstance(part, dict):
            found += part.values()
    return found


@functools.lru_cache(maxsize=None)
def anchors(page):
    """Return the anchors of the headings of *page*, a Markdown file of the project."""
    path = TESTS.parent / page
    prose = path.read_text(encoding="utf-8") if path.is_file() else ""
    titles = re.findall(r"(?m)^#+ +(.+?) *$", re.sub(r"(?ms)^```.*?^```", "", prose))
    words = [re.sub(r"[^\w\- ]", "", title) for title in titles]
    return {title.lower().replace(" ", "-") for title in words}


def layers(case):
    """Return what the steps of *case* are made of: defaults, itself, its steps."""
    return case["defaults"], case, *case.get("steps", ())


def faults_of(case, topic):
    """Yield what is wrong with a case that has the form of one."""
    if not case["id"].startswith(f"{topic}/"):
        yield f"the id must begin with {topic}/"
    page, _, anchor = case["spec"].partition("#")
    if anchor not in anchors(page):
        yield f"no heading has the anchor of {case['spec']}"
    if "steps" in case and (OF_STEPS & case.keys() or not case["steps"]):
        yield f"there must be steps, with these inside: {', '.join(sorted(OF_STEPS))}"
    if OF_CALLS & {name for layer in layers(case) for part in (
            layer, layer.get("expect", {})) for name in part} and not any(
            "call" in layer for layer in layers(case)):
        yield f"without a call there is none of these: {', '.join(sorted(OF_CALLS))}"
    if "corpus" in case and OF_CORPORA & case.keys():
        yield f"beside a corpus there is none of these: {', '.join(sorted(OF_CORPORA))}"
    for text in parts(case):
        if isinstance(text, str) and "${" in PLACEHOLDER.sub("", text):
            yield f"unknown placeholder in {shown(text)}"
    for layer in layers(case):
        expect = layer.get("expect", {})
        for name in (*layer.get("files", ()), *expect.get("files", ())):
            if name.startswith("/") or ".." in name.split("/"):
                yield f"{shown(name)} is not below ${{TMP}}"
    for layer in layers(case)[:2]:
        if any("*" in name or content is None
               for name, content in layer.get("files", {}).items()):
            yield "only the files of a step can be there by then"


def load(folder):
    """Return the cases in *folder*, each with the contract and defaults of its file."""
    cases = {}
    for path in sorted(Path(folder).glob("*.json")):
        if path.stem == "redaction":  # rules as data, and no cases
            continue
        content = read_json(path, FILE_OF_CASES)
        for n, case in enumerate(content["cases"], 1):
            where = f"{path.name}: {case.get('id', f'case {n}')}"
            check(case, CASE, where)
            case.update(defaults=content.get("defaults", {}),
                        contract=content["contract"], alone=content.get("alone", False))
            for matcher in filter(is_matcher, parts(
                    [layer.get("expect") for layer in layers(case)])):
                check(matcher, MATCHER, f"{where}: expect")
            for fault in faults_of(case, content["topic"]):
                raise Mistake(f"{where}: {fault}")
            if cases.setdefault(case["id"], case) is not case:
                raise Mistake(f"{where}: this id is taken")
    return list(cases.values())


def chosen(cases, pattern):
    """Return the cases that *pattern* names; raise Mistake where there is none."""
    some = [case for case in cases if case["id"] == pattern] or [
        case for case in cases
        if pattern in case["id"] or fnmatch.fnmatchcase(case["id"], pattern)]
    if not some:
        raise Mistake(f"no case of this contract has {pattern!r} in its id")
    return some


def steps_of(case):
    """Yield (label, step) for each time that the command is to be run."""
    defaults = case["defaults"]
    own = {name: case[name] for name in STEP if name in case and name != "files"}
    for n, step in enumerate(case.get("steps", [{}]), 1):
        whole = {**defaults, **own, **step, "files": step.get("files", {})}
        whole["env"] = {name: value for layer in (defaults, own, step)
                        for name, value in layer.get("env", {}).items()}
        if "corpus" in case:
            yield from with_batches(whole, case["corpus"])
            continue
        whole = called(whole)
        for run in range(1, whole.get("times", 1) + 1):
            yield (f"step {n}: " * ("steps" in case)
                   + f"run {run}: " * ("times" in whole)), whole
            whole = {**whole, "files": {}}


def called(step):
    """Return *step* with its call on stdin, and what is returned on stdout."""
    if "call" not in step:
        return step
    expect = {**step.get("expect", {})}
    if "returns" in expect:
        expect["stdout"] = {"json": expect.pop("returns")}
    return {**step, "expect": expect, "stdin": {
        "json": {"call": step["call"], "args": step.get("args", [])}}}


def with_batches(step, corpus):
    """Yield (label, *step*) for each part of a *corpus* that one call is to take."""
    rows, sizes = corpora.rows(corpus["kind"], corpus.get("held_out", False)), []
    for n, (_, event, _) in enumerate(rows):
        sizes.append(len(json.dumps(event)))
        if sum(sizes) > BATCH_BYTES or n + 1 == len(rows):
            batch, sizes = rows[n + 1 - len(sizes):n + 1], []
            call = {"call": step["call"], "args": [[row[1] for row in batch]]}
            data = base64.b64encode(json.dumps(call).encode()).decode()
            yield f"event {n + 1 - len(batch)} on: ", {
                **step, "stdin": {"base64": data}, "rows": tuple(batch),
                "expect": {**step.get("expect", {}), "stdout": {"at_most_lines": 1}}}


def filled(value, values, name=""):
    """Return *value* with its placeholders replaced."""
    def replacement(match):
        if match[2]:
            return match[2] * int(match[3])
        return re.escape(values[match[1]]) if name in REGEXES else values[match[1]]
    if isinstance(value, str):
        return PLACEHOLDER.sub(replacement, value)
    if isinstance(value, list):
        return [filled(part, values, name) for part in value]
    if isinstance(value, dict):
        return {filled(key, values): filled(part, values, key)
                for key, part in value.items()}
    return value


# Running.

#: processes and places to be cleared away if this process is told to end
ALIVE = set()


@functools.lru_cache(maxsize=None)
def own_host():
    """Return (name, address) of this machine, by which it knows itself; or ("", "").

    A name that has to be looked up, other than localhost, and that leads here.
    """
    with contextlib.suppress(OSError, UnicodeError), socket.socket() as sock:
        name = socket.gethostname().lower()
        address = socket.gethostbyname(name)
        sock.bind((address, 0))
        if re.fullmatch("[a-z][a-z0-9.-]*", name) and name != "localhost":
            return name, address
    return "", ""


class Server(EventServer):
    """A server that accepts nobody before it is opened; until then they queue up.

    tls: the name of the certificate that it shows, where it speaks TLS.
    """

    def __init__(self, *args, tls="", **kwargs):
        self.opened, self.context = threading.Event(), None
        if tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(str(TLS / f"{tls}.pem"))
        super().__init__(*args, **kwargs)

    def _converse(self, link, exchange, scripted):
        if self.context:
            link.sock.settimeout(PATIENCE_S)
            link.sock = self.context.wrap_socket(link.sock, server_side=True)
        super()._converse(link, exchange, scripted)

    def _accept(self):
        while not (self.opened.wait(POLL_S) or self._stopping.is_set()):
            pass
        super()._accept()


class Place:
    """The folder, the port and the variables of one case."""

    def __init__(self, variables=()):
        self.tmp = Path(os.path.realpath(tempfile.mkdtemp(prefix="conformance-")))
        self.variables, self.given = dict(variables), {}
        self.unheard = socket.socket()  # keeps the port, while nobody listens, for us
        self.unheard.bind(("127.0.0.1", 0))
        self.port = self.unheard.getsockname()[1]
        ALIVE.add(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.unheard.close()
        self.clear()
        ALIVE.discard(self)

    def clear(self):
        """Remove the folder, whatever modes are in it."""
        for folder, names, _ in os.walk(str(self.tmp)):
            for path in (os.path.join(folder, name) for name in names):
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(str(self.tmp), ignore_errors=True)

    @contextlib.contextmanager
    def server(self, script, **how):
        """Yield (port, Server), as *script* says; None where nobody accepts."""
        if script == "backlog":
            with full_backlog() as port:
                yield port, None
        elif script == "closed":
            yield self.port, None
        else:
            self._share_port(1)
            server = Server(script, port=self.port, **how)
            self._share_port(0)  # or any server of this machine might be given it
            with server:
                yield self.port, server

    def _share_port(self, allowed):
        if sys.platform == "linux":
            self.unheard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, allowed)
        else:  # elsewhere a port is bound only once
            self.unheard.close()

    def fill(self, value, port=None):
        """Return *value* with this place's values for the placeholders."""
        port = port or self.port
        return filled(value, {"TMP": str(self.tmp), "PORT": str(port),
                              "SERVER": f"http://127.0.0.1:{port}",
                              "HOST": own_host()[0], "CA": str(TLS / "ca.pem")})

    def environment(self, more):
        """Return the variables of a process here: few, and *more*."""
        names = ["PATH", "SYSTEMROOT", "TEMP"] if WINDOWS else ["PATH"]
        homes = dict.fromkeys(["HOME", "USERPROFILE"][:1 + WINDOWS], str(self.tmp))
        env = {**{name: os.environ.get(name) for name in names}, **homes,
               "XDG_STATE_HOME": str(self.tmp / "state"), **self.variables, **more}
        return {name: value for name, value in env.items() if value is not None}

    def put(self, files):
        """Write the files that are there before."""
        there = [(path, content if isinstance(content, dict) else {"text": content})
                 for name, content in with_copies(files)
                 for path in self._meant(name)]
        for path, how in there:
            self._put(path, how)
        for path, how in there:
            if "mode" in how:
                path.chmod(int(how["mode"], 8))

    def named(self, name):
        """Return the paths that are there by the *name*, in which "*" is anything."""
        return sorted(self.tmp.glob("*".join(map(glob.escape, name.split("*")))))

    def _meant(self, name):
        paths = self.named(name) if "*" in name else [self.tmp / name]
        if not paths:
            raise FileNotFoundError(f"no file is called {name} by then")
        return paths

    def _put(self, path, how):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_folder = path.is_dir() and not path.is_symlink()
        if is_folder and "folder" not in how:
            shutil.rmtree(str(path))
        elif not is_folder and os.path.lexists(str(path)):
            path.unlink()
        self.given.pop(path, None)
        if "folder" in how:
            path.mkdir(exist_ok=True)
        elif "symlink" in how:
            path.symlink_to(how["symlink"])
        elif how.get("text", "") is not None:
            self.given[path] = part_bytes(how)
            path.write_bytes(self.given[path])


def with_copies(files):
    """Yield (path, content) of *files*; of a file with copies one for each second.

    The last one is age_s old, and "#" in its path stands for its time: nanoseconds
    since the epoch, 20 digits.
    """
    for name, content in files.items():
        how = content if isinstance(content, dict) else {}
        last = time.time_ns() - how.get("age_s", 0) * 10**9
        for back in reversed(range(how["copies"])) if "copies" in how else ():
            yield name.replace("#", f"{last - back * 10**9:020}"), how["text"]
        if "copies" not in how:
            yield name, content


def part_bytes(part):
    """Return the bytes that a part of stdin, or a file's content, stands for."""
    if "bytes" in part:
        return part["bytes"]
    if "base64" in part:
        return base64.b64decode(part["base64"])
    if "text" in part:
        return part["text"].encode("utf-8", "surrogatepass")
    value = part.get("json")
    if "sample" in part:
        data, new = (SAMPLES / f"{part['sample']}.json").read_bytes(), part.get("with")
        if not new:
            return data
        event = {**json.loads(data.decode()), **new}
        value = {name: event[name] for name in event if new.get(name, 0) is not None}
    # What UTF-8 cannot hold becomes the very escape that JSON has for it.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace")


def is_written(part):
    """Tell whether a part of stdin is written, and not waited for."""
    return not part.keys() & {"pause_ms", "open", "terminal"}


def pipe_with(data):
    """Return a pipe's (end to read, end to write, what it did not take of *data*).

    What is there before a process begins does not come late, however busy a machine.
    """
    reader, writer = os.pipe()
    if sys.platform == "linux" and len(data) > 1 << 16:
        import fcntl

        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(writer, 1031, min(len(data), 1 << 20))  # F_SETPIPE_SZ
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while data:
            data = data[os.write(writer, data):]
    os.set_blocking(writer, True)
    return reader, writer, data


class Process:
    """A process of the command; threads write its stdin and read what it says."""

    def __init__(self, command, step, env, cwd, limit_s):
        stdin, self.slow_s = step.get("stdin", []), step.get("slow_reader_ms", 0) / 1000
        self.later, self.are_held = step.get("later", False), False
        self.parts = stdin if isinstance(stdin, list) else [stdin]
        self.limit_s, self.exit, self.ended = limit_s, None, threading.Event()
        self.stdin, self.late_ms = None, 0
        self.output = {"stdout": b"", "stderr": b""}
        self.terminal = os.openpty() if {"terminal": True} in self.parts else ()
        for name in step.get("closed", ()):
            number = ("stdin", "stdout", "stderr").index(name)
            command = ["/bin/sh", "-c", f'exec "$@" {number}>&-', "sh", *command]
        ends = {name: pipe_without_reader() for name in step.get("unread", ())}
        if not (self.terminal or WINDOWS):
            ends["stdin"] = self._prepared()
        streams = dict.fromkeys(("stdin", *self.output), subprocess.PIPE)
        if self.terminal:
            streams["stdin"] = self.terminal[1]
        self.popen = subprocess.Popen(command, env=env, cwd=str(cwd),
                                      start_new_session=True, **{**streams, **ends})
        ALIVE.add(self)
        for end in ends.values():
            os.close(end)
        self.began = time.monotonic()
        self.deadline = self.began + limit_s
        self.readers = [self._start(self._read, name)
                        for name in self.output if name not in ends]
        self._start(self._write)

    def _prepared(self):
        """Return the end that is read of a pipe with what stdin begins with in it."""
        first = list(itertools.takewhile(is_written, self.parts))
        reader, writer, rest = pipe_with(b"".join(map(part_bytes, first)))
        self.stdin = os.fdopen(writer, "wb")
        self.parts = [{"bytes": rest}] * bool(rest) + self.parts[len(first):]
        if not self.parts:
            self.stdin.close()
        return reader

    def _start(self, work, *args):
        thread = threading.Thread(target=work, args=args, daemon=True)
        thread.start()
        return thread

    def _read(self, name):
        self.ended.wait(self.slow_s)
        with getattr(self.popen, name) as pipe:
            for data in iter(lambda: os.read(pipe.fileno(), 1 << 16), b""):
                self.output[name] += data

    def _write(self):
        last = time.monotonic()
        with contextlib.suppress(OSError, ValueError), (
                self.stdin or self.popen.stdin or open(os.devnull)) as pipe:
            for part in self.parts:
                pause_s = 0 if is_written(part) else part.get("pause_ms", 1e6) / 1000
                if pause_s:
                    self.ended.wait(pause_s)
                else:
                    pipe.write(part_bytes(part))
                    pipe.flush()
                now = time.monotonic()
                self.late_ms = max(self.late_ms, (now - last - pause_s) * 1000)
                last = now

    def wait(self):
        """Wait for the end of the process, or put one; keep what it said till then."""
        ends = self._start(self.popen.wait)  # with a limit it would look now and then
        ends.join(max(0, self.deadline - time.monotonic()))
        self.lasted_ms = (time.monotonic() - self.began) * 1000
        self.exit = None if ends.is_alive() else self.popen.returncode
        if self.exit is None:
            self.clear()
            self.popen.wait()
        self.ended.set()
        if self.later:  # an agent ends what it has started, and waits for the streams
            self.clear()
            self.are_held = not self._said_all(PATIENCE_S)
        elif not self._said_all():
            self.clear()  # a child outlives it, and holds its streams
            self._said_all()
        for end in self.terminal:
            os.close(end)
        ALIVE.discard(self)

    def _said_all(self, seconds=SETTLE_S):
        until = time.monotonic() + seconds
        for reader in self.readers:
            reader.join(max(0, until - time.monotonic()))
        return not any(reader.is_alive() for reader in self.readers)

    def clear(self):
        """End the process and the rest of its session."""
        with contextlib.suppress(OSError):
            if WINDOWS:
                self.popen.kill()
            else:
                os.killpg(self.popen.pid, signal.SIGKILL)

    def text(self, name):
        """Return what the process wrote to a stream."""
        return self.output[name].decode("utf-8", "backslashreplace")


def pipe_without_reader():
    """Return the end that is written to of a pipe whose other end is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def exchanges_of(server, knocks):
    """Return the exchanges of the command, once each connection of its was accepted.

    Connections stand in line: when the last of our own *knocks* has an answer, whatever
    came before is accepted.  One is not enough where replies of the script are left,
    which may be none; the contract answers the one after them.
    """
    address = server.host, server.port
    for _ in range(knocks - 1):
        socket.create_connection(address, PATIENCE_S).close()
    with socket.create_connection(address, PATIENCE_S) as knock, contextlib.suppress(
            OSError):  # TLS resets what does not speak it
        knock.sendall(b"GET /knock HTTP/1.1\r\n\r\n")
        knock.recv(1)
    with contextlib.suppress(AssertionError):
        server.wait(len(server.exchanges), SETTLE_S)
    return server.exchanges[:-knocks]


class Seen:
    """What one step left to be judged: processes, exchanges, and files in a place."""

    def __init__(self, step, place, options):
        script = place.fill(step.get("server", []))
        host = own_host()[1] if names_host(step) else "127.0.0.1"
        with place.server(script, host=host, tls=step.get("tls", "")) as (port, server):
            step = place.fill({**step, "server": []}, port)
            place.put(step["files"])
            cwd = place.tmp / step.get("cwd", "")
            cwd.mkdir(parents=True, exist_ok=True)
            command = [*options.argv, *step.get("argv", [])]
            env = place.environment(step["env"])
            self.rows = step.get("rows", ())
            self.expect, self.place, self.script = step.get("expect", {}), place, script
            if "lasts_ms" in self.expect:
                self.version_ms = version_of(options).lasted_ms
            if server and not step.get("later"):
                server.opened.set()
            self.processes = [Process(command, step, env, cwd, options.limit_s)
                              for _ in range(step.get("together", 1))]
            for process in self.processes:
                process.wait()
            if step.get("later"):
                self._await_the_rest(server)
            self.exchanges = exchanges_of(server, len(script) + 1) if server else []

    def _await_the_rest(self, server):
        """Give what the command has left behind the time to do what is expected."""
        wanted = self.expect.get("requests", [])
        count = wanted if isinstance(wanted, int) else len(wanted)
        if server:
            server.opened.set()
            with contextlib.suppress(AssertionError):
                server.wait(count, PATIENCE_S)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):  # it was renamed meanwhile
                if not any(files(self.expect.get("files", {}), self, "")):
                    return
            time.sleep(POLL_S)

    def differences(self):
        """Yield a line for each difference from what is expected."""
        for n, process in enumerate(self.processes, 1):
            at = f"process {n}: " * (len(self.processes) > 1)
            if process.exit is None:
                yield f"{at}did not end within {process.limit_s:g} s"
                continue
            yield from exactly(self.expect.get("exit", 0), process.exit, f"{at}exit")
            if process.are_held:
                yield f"{at}its streams are held by what it has left behind"
            for name in process.output:
                want, text = self.expect.get(name, ""), process.text(name)
                if isinstance(want, dict) and "once" in want:
                    want = want["once"] if text else ""
                yield from stream(want, text, at + name)
        yield from self._not_once()
        for name, compare in EXPECT.items():
            if name in self.expect or name == "requests":
                yield from compare(self.expect.get(name, []), self, name)

    def _not_once(self):
        """Yield the streams on which one process is to speak, and more do or none."""
        for name in ("stdout", "stderr"):
            want = self.expect.get(name)
            speak = sum(bool(process.text(name)) for process in self.processes)
            if isinstance(want, dict) and "once" in want and speak != 1:
                yield f"{name}: expected of 1 process, got of {speak}"

    def story(self):
        """Yield the server's exchanges, and the beginnings of unexpected streams."""
        if not self.exchanges:
            is_list = isinstance(self.script, list)
            yield f"server: {'nobody connected' if is_list else self.script}"
        for exchange in self.exchanges:
            yield "server: " + told(exchange, self.exchanges[0].accepted_ms)
        for process in self.processes[:3]:
            if process.late_ms > HELD_UP_MS:
                yield f"runner: held up for {process.late_ms:.0f} ms in writing stdin"
            for name in ("stderr", "stdout"):
                text = process.text(name)
                if text != self.expect.get(name):
                    yield from (f"{name}: {shown(line)}"
                                for line in text[:2000].splitlines()[:8])


def told(exchange, began_ms):
    """Return an exchange as a line, with its times."""
    request = (f"{exchange.method} {exchange.path} {len(exchange.body)} bytes"
               if exchange.method else f"no whole request ({len(exchange.raw)} bytes)")
    script = f"reply {shown(exchange.reply)}, " if exchange.reply else ""
    answer = exchange.status or (f"{exchange.bytes_sent} bytes of no status line"
                                 if exchange.bytes_sent else "nothing")
    end = ("still open" if exchange.held_ms is None else
           f"client left after {exchange.held_ms:.0f} ms"
           if exchange.ended_by == "client" else
           f"server closed after {exchange.held_ms:.0f} ms")
    return (f"+{exchange.accepted_ms - began_ms:.0f} ms accepted, {request}, {script}"
            f"answered {answer}, {end}")


# Comparing.  A comparison takes (what is wanted, what was got, where that stands) and
# yields a line for each difference.

ABSENT = object()


def shown(value):
    """Return *value* as JSON, without its middle where that is long."""
    line = "nothing" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    cut, half = len(line) - SHOWN_CHARS, SHOWN_CHARS // 2
    return line if cut <= 0 else f"{line[:half]} … {cut} more … {line[-half:]}"


def unequal(want, got, where):
    """Yield that *got* is not *want*, from shortly before they part."""
    if isinstance(want, str) and isinstance(got, str):
        ends = (n for n, (a, b) in enumerate(zip(want, got)) if a != b)
        at = next(ends, min(len(want), len(got))) - 20
        if at > 20 and max(len(want), len(got)) > SHOWN_CHARS:
            want, got, where = want[at:], got[at:], f"{where} from character {at} on"
    yield f"{where}: expected {shown(want)}, got {shown(got)}"


def is_matcher(value):
    """Tell whether *value* is an object that stands for other values."""
    return isinstance(value, dict) and any(name.startswith("$") for name in value)


def subset(want, got, where, whole=False):
    """Compare JSON values; unless *whole*, objects may have more than is wanted."""
    if is_matcher(want):
        (name, argument), = want.items()
        yield from MATCHERS[name](argument, got, where)
    elif isinstance(want, dict) and isinstance(got, dict):
        for name, part in want.items():
            yield from subset(part, got.get(name, ABSENT), f"{where}.{name}", whole)
        for name in got.keys() - want.keys() if whole else ():
            yield f"{where}.{name}: not expected, got {shown(got[name])}"
    elif isinstance(want, list) and isinstance(got, list) and len(want) == len(got):
        for n, pair in enumerate(zip(want, got)):
            yield from subset(*pair, f"{where}[{n}]", whole)
    elif isinstance(want, bool) != isinstance(got, bool) or want != got:
        yield from unequal(want, got, where)


def exactly(want, got, where):
    """Compare JSON values, of which none may have more than is wanted."""
    return subset(want, got, where, whole=True)


def if_text(name, holds):
    """Return the comparison with texts for which holds(argument, text) is true."""
    def compare(argument, got, where):
        if not (isinstance(got, str) and holds(argument, got)):
            yield from unequal({name: argument}, got, where)
    return compare


def if_present(name, wanted):
    """Return the comparison with values that are there, or that are not."""
    def compare(argument, got, where):
        if (got is not ABSENT) != wanted:
            yield from unequal({name: argument}, got, where)
    return compare


def json_in_text(want, got, where, compare=subset):
    """Compare the JSON value that a text holds."""
    try:
        value = parsed(got)
    except (ValueError, AttributeError):
        yield f"{where}: expected a text of JSON, got {shown(got)}"
    else:
        yield from compare(want, value, where)


def every_one(wants, got, where):
    """Compare with each of *wants*."""
    for want in wants:
        yield from subset(want, got, where)


def holding(wants, got, where):
    """Compare with a list of which some value is each of *wants*."""
    for want in wants:
        if not isinstance(got, list) or all(any(subset(want, one, "")) for one in got):
            yield from unequal({"$holds": [want]}, got, where)


#: name -> the value that it stands for, while a case runs; a process runs one at a time
SAME = {}


def same(name, got, where):
    """Compare with what *name* stood for before, and with what the others stand for."""
    if got is ABSENT or SAME.setdefault(name, got) != got:
        yield from unequal(SAME.get(name, {"$same": name}), got, where)
    for other in (other for other in SAME if other != name and SAME[other] == got):
        yield f"{where}: expected another than {other}, got {shown(got)}"


def slashed(text):
    """Return *text* with the separators that paths of every system may have."""
    return text.replace("\\", "/") if WINDOWS else text


def is_now(seconds, text):
    """Tell whether *text* is a time in UTC that is so near to this clock's."""
    found = re.fullmatch(r"([0-9-]{10}T[0-9:]{8})(\.[0-9]+)?(Z|\+00:00)", text)
    with contextlib.suppress(TypeError, ValueError):
        told = calendar.timegm(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
        return abs(told - time.time()) <= seconds
    return False


MATCHERS = {
    "$match": if_text("$match", re.search),
    "$json": json_in_text,
    "$chars": if_text("$chars", lambda ends, text: ends[0] <= len(text) <= ends[1]),
    "$has": if_text("$has", lambda words, text: all(
        slashed(word) in slashed(text) for word in words)),
    "$lacks": if_text("$lacks", lambda words, text: not any(w in text for w in words)),
    "$now_s": if_text("$now_s", is_now),
    "$absent": if_present("$absent", False),
    "$any": if_present("$any", True),
    "$all": every_one,
    "$holds": holding,
    "$same": same,
}


def lines(wants, got, where):
    """Compare a text line by line."""
    found = got.split("\n")
    if not found[-1]:  # behind the end of the last line
        del found[-1]
    if len(found) != len(wants):
        yield f"{where}: expected {len(wants)} lines, got {len(found)}: {shown(got)}"
    for n, (want, line) in enumerate(zip(wants, found), 1):
        if not re.fullmatch(want, line):
            yield from unequal({"$match": want}, line, f"{where} line {n}")


def document(want, got, where):
    """Compare a text that is one JSON document on a line of its own."""
    if got.count("\n") != 1 or not got.endswith("\n"):
        yield f"{where}: expected one JSON document on one line, got {shown(got)}"
    else:
        yield from json_in_text(want, got, where, exactly)


def documents(wants, got, where):
    """Compare a text that is so many JSON documents, each on a line of its own."""
    found = re.findall(r"[^\n]*\n|[^\n]+", got)
    if len(found) != len(wants):
        yield f"{where}: expected {len(wants)} lines, got {len(found)}: {shown(got)}"
    for n, (want, line) in enumerate(zip(wants, found), 1):
        yield from document(want, line, f"{where} line {n}")


def columns(most, got, where):
    """Compare the width of each line."""
    for n, line in enumerate(got.splitlines(), 1):
        if len(line) > most:
            yield (f"{where} line {n}: expected at most {most} columns, got"
                   f" {len(line)}: {shown(line)}")


STREAMS = {
    "json": document,
    "json_lines": documents,
    "lines": lines,
    "first_line": if_text("first_line", lambda regex, text: re.fullmatch(
        regex, text.partition("\n")[0])),
    "has": MATCHERS["$has"],
    "at_most_lines": if_text(
        "at_most_lines", lambda most, text: len(text.splitlines()) <= most),
    "columns": columns,
    "any": MATCHERS["$any"],
}


def stream(want, got, where):
    """Compare a stream."""
    if isinstance(want, str):
        yield from unequal(want, got, where) if want != got else ()
    else:
        for name, argument in want.items():
            yield from STREAMS[name](argument, got, where)


def requests(wants, seen, where):
    """Compare what the server received, in the order in which it accepted."""
    wants = [{}] * wants if isinstance(wants, int) else wants
    if len(wants) != len(seen.exchanges):
        yield f"{where}: expected {len(wants)}, got {len(seen.exchanges)}"
    for n, (want, exchange) in enumerate(zip(wants, seen.exchanges)):
        at = f"{where}[{n}]"
        if exchange.method is None and want.get("method", "any") is not None:
            yield f"{at}: expected a request, got none that is whole"
            continue
        got = {"method": exchange.method, "path": exchange.path, "json": exchange.json,
               "headers": exchange.headers or {}, "answered": exchange.status,
               "body": exchange.body.decode("utf-8", "backslashreplace")}
        for name, argument in want.items():
            if name == "held_ms":
                yield from held(argument, exchange, f"{at}.held_ms")
            else:
                yield from subset(argument, got[name], f"{at}.{name}")


def held(limit, exchange, where):
    """Compare how long the client stayed, by the server's clock."""
    if exchange.held_ms is None or exchange.held_ms > limit:
        stay = "for ever" if exchange.held_ms is None else f"{exchange.held_ms:.0f} ms"
        yield f"{where}: expected at most {limit} ms, the client stayed {stay}"


def all_held(limit, seen, where):
    """Compare how long the client stayed in each connection."""
    for n, exchange in enumerate(seen.exchanges):
        yield from held(limit, exchange, f"{where} of requests[{n}]")


def lasts(limit, seen, where):
    """Compare how long each process lasted, beside how long it takes for its version.

    Both take longer on a machine that is busy or slow.
    """
    most = limit + STARTS * seen.version_ms + MORE_MS
    for process in seen.processes:
        if process.lasted_ms > most:
            yield (f"{where}: expected at most {limit} ms, {STARTS} times the"
                   f" {seen.version_ms:.0f} ms of --version and {MORE_MS} ms, it took"
                   f" {process.lasted_ms:.0f} ms")


def files(wants, seen, where):
    """Compare the files that are there now."""
    for name, want in wants.items():
        paths = seen.place.named(name)
        count = want.get("count") if isinstance(want, dict) else None
        count = 0 if want is None else count
        if len(paths) != count if count is not None else not paths:
            names = [path.relative_to(seen.place.tmp).as_posix() for path in paths]
            amount = {None: "some", 0: "no"}.get(count, count)
            yield f"{where}: expected {amount} {name}, got {shown(names)}"
            continue
        for path in paths:
            yield from one_file(want, path, f"{where}[{path.name}]")


def one_file(want, path, where):
    """Compare a file, or a folder."""
    data = path.read_bytes() if path.is_file() else b""
    text = data.decode("utf-8", "backslashreplace")
    got = {"text": text, "has": text, "lines": len(data.splitlines()),
           "bytes": len(data), "mode": f"{stat.S_IMODE(path.lstat().st_mode):04o}"}
    for name, argument in ({"text": want} if isinstance(want, str) else want).items():
        if name == "json_lines":
            yield from documents(argument, text, where)
        elif name in got:
            compare = MATCHERS["$has"] if name == "has" else exactly
            yield from compare(argument, got[name], f"{where}.{name}")


ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
ESCAPED = dict(zip('"\\/bfnrt', '"\\/\b\f\n\r\t'))
BASE64_RUN = re.compile(r"[A-Za-z0-9+/]{8,}")


def unescaped(text):
    """Return *text* without JSON's escapes."""
    plain = ESCAPE.sub(
        lambda found: chr(int(found[1], 16)) if found[1] else ESCAPED[found[2]], text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def readings(data):
    """Return the texts that *data* can be read as by somebody who looks for secrets.

    As it stands, without the escapes of JSON and of JSON in JSON, without percent
    signs, and what each run of Base64 holds, wherever in the run it begins.
    """
    text = data.decode("utf-8", "replace")
    once = unescaped(text)
    plain = unescaped(once)
    decoded = []
    for run in BASE64_RUN.findall(plain.replace("-", "+").replace("_", "/")):
        for start in range(4):
            part = run[start:len(run) - ((len(run) - start) % 4 == 1)]
            decoded.append(base64.b64decode(part + "=="))
    return {text, once, plain, urllib.parse.unquote_plus(plain),
            b"\n".join(decoded).decode("utf-8", "replace")}


def let_out(seen):
    """Yield (where, bytes) of whatever the command wrote or sent."""
    for process in seen.processes:
        yield from process.output.items()
    for n, exchange in enumerate(seen.exchanges):
        yield f"requests[{n}]", exchange.raw + b"\n" + exchange.body
    for folder, _, names in os.walk(str(seen.place.tmp)):
        for path in (Path(folder, name) for name in names):
            readable = path.is_file() and os.access(str(path), os.R_OK)
            data = path.read_bytes() if readable and not path.is_symlink() else b""
            if seen.place.given.get(path) != data:
                name = path.relative_to(seen.place.tmp).as_posix()
                yield f"file {name}", name.encode() + b"\n" + data


def never(secrets, seen, where):
    """Look for what must not be let out, in any spelling."""
    for place, data in let_out(seen):
        texts = readings(data)
        for secret in secrets:
            if any(secret in text for text in texts):
                yield f"{where}: {shown(secret)} is in {place}"


def measured(seen):
    """Yield (is it as it should leave, in words) for each row of a corpus."""
    try:
        safe = json.loads(seen.processes[0].text("stdout"))
    except ValueError:
        safe = None
    whole = isinstance(safe, list) and len(safe) == len(seen.rows)
    for n, (what, event, secret) in enumerate(seen.rows):
        good = whole and corpora.is_good(event, secret, safe[n])
        yield good, f"{what}: {shown(safe[n]) if whole else 'nothing came back'}"


def share(corpus, rows):
    """Return (differences, lines of what was missed, the share in words)."""
    missed = [f"missed: {line}" for good, line in rows if not good]
    good, of = len(rows) - len(missed), len(rows)
    told = f"{100 * good / max(1, of):.1f} %, {good} of {of}"
    least = corpus["least_percent"]
    enough = rows and 100 * good >= least * of
    return [] if enough else [
        f"corpus: expected {least} % at least, got {told}"], missed, told


#: member of expect -> comparison with all that was Seen
EXPECT = {"requests": requests, "held_ms": all_held, "lasts_ms": lasts, "files": files,
          "never": never}


# Judging and reporting.

#: verdict -> (how TAP's line begins, whether the run is red)
VERDICTS = {"pass": ("ok", False), "fail": ("not ok", True), "skip": ("ok", False),
            "known": ("not ok", False), "forgiven": ("not ok", False),
            "stale": ("ok", True)}


def has_mode(step):
    """Tell whether *step* rests on a mode that keeps the command out."""
    return any(isinstance(part, dict) and part.get("mode", "0700")[1] != "7"
               for part in step.get("files", {}).values())


def names_host(step):
    """Tell whether *step* rests on a name that this machine has for itself."""
    return any(isinstance(text, str) and "${HOST}" in text for text in parts(step))


def has_long_arguments(step):
    """Tell whether the arguments of *step* are longer than Windows takes."""
    return sum(len(PLACEHOLDER.sub(
        lambda found: found[2] * int(found[3]) if found[2] else "", word)) + 3
        for word in step.get("argv", ())) > ARGUMENTS_MAX_CHARS


#: (does it happen here, does a step rest on it, what it means)
HINDRANCES = (
    (lambda: WINDOWS,
     lambda step: "closed" in step or "terminal" in parts(step.get("stdin")),
     "closed streams and terminals are POSIX's"),
    (lambda: sys.platform != "linux", lambda step: step.get("server") == "backlog",
     "only Linux drops connections that nobody accepts"),
    (lambda: getattr(os, "geteuid", int)() == 0, has_mode,
     "root and Windows heed no modes"),
    (lambda: not own_host()[0], names_host,
     "this machine has no name of its own that leads to it"),
    (lambda: WINDOWS, has_long_arguments,
     "Windows takes 32,767 characters of arguments"),
)


def hindrance(case, lacks):
    """Return why *case* cannot be run, or an empty text."""
    lacking = [name for name in case.get("needs", ()) if name in lacks]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    return next((reason for is_here, rests_on_it, reason in HINDRANCES
                 if any(map(rests_on_it, layers(case))) and is_here()), "")


def play(case, options):
    """Run *case*; return (differences, lines of what happened, what was measured).

    Where only the time is not as it should be, or stdin came late, the best of some
    tries counts: another process may have been in the way of one, and not of each.
    """
    for _ in range(TRIES):
        differences, happened, told = tried(case, options)
        is_late = all(map(LATE.search, differences))
        if not (differences and (is_late or any(map(HELD_UP.match, happened)))):
            break
    return differences, happened, told


def tried(case, options):
    """Run *case* once; return the same."""
    differences, happened, rows = [], [], []
    SAME.clear()
    with Place(options.variables) as place:
        place.put(place.fill(case.get("files", case["defaults"].get("files", {}))))
        for label, step in steps_of(case):
            seen = Seen(step, place, options)
            found = [label + line for line in seen.differences()]
            differences += found
            happened += [label + line for line in seen.story()] if found else []
            rows += measured(seen)
    if "corpus" not in case:
        return differences, happened, ""
    short, missed, told = share(case["corpus"], rows)
    return differences + short, happened + missed, told


def judged(case, options):
    """Return what is to be reported of *case*, having run it where it can be."""
    reason, known = hindrance(case, options.lacks), options.known.get(case["id"])
    differences, happened, told = [], [], ""
    if not reason:
        try:
            differences, happened, told = play(case, options)
        except (OSError, RuntimeError) as error:
            differences = [f"the case could not be run: {error}"]
    verdict, note = "fail" if differences else "pass", ""
    if reason:
        verdict, note = "skip", f"SKIP {reason}"
    elif known is not None:
        verdict = "known" if differences else "stale"
        note = f"TODO known failing: {known}"
    elif differences and case["level"] == "SHOULD" and not options.strict:
        verdict, note = "forgiven", "TODO a SHOULD; --strict does not forgive"
    note = "; ".join(filter(None, (told, note)))
    return {"id": case["id"], "result": verdict, "note": note, "why": case["why"],
            "level": case["level"], "spec": case["spec"], "differences": differences,
            "happened": happened, "again": again(case["id"], options)}


def again(name, options):
    """Return the shell's line that runs the case of this *name* again."""
    words = ["python3", sys.argv[0], "-k", name, *["--strict"] * options.strict]
    words += [word for lack in options.more_lacks for word in ("--lacks", lack)]
    for option in ("contract", "port", "vectors", "limit_s"):
        given = getattr(options, option)
        if given != DEFAULTS.get(option):
            words += [f"--{option}".replace("_", "-"), str(given)]
    words += [word for pair in options.env for word in ("--env", pair)]
    return shlex.join(words + options.tail)


def tap(number, result):
    """Yield the lines of TAP for a case."""
    note = result["note"] and f" # {result['note']}"
    yield f"{VERDICTS[result['result']][0]} {number} - {result['id']}{note}"
    if result["differences"]:
        yield f"# {result['why']} ({result['level']}, {result['spec']})"
        yield from first(result["differences"], "# - ")
        yield from first(result["happened"], "#   ")
        yield f"# again: {result['again']}"


def first(lines, before):
    """Yield the first of *lines* and how many more there are."""
    yield from (before + line for line in lines[:SHOWN_LINES])
    if len(lines) > SHOWN_LINES:
        yield f"{before}… and {len(lines) - SHOWN_LINES} more"


def stale_entries(results, cases, options):
    """Yield what the port's file says and is not so."""
    needs = {name for case in cases for name in case.get("needs", ())}
    for name in sorted(options.known.keys() - {case["id"] for case in cases}):
        yield f"known_failing: there is no case {shown(name)}"
    for name in sorted(set(options.lacks) - needs):
        where = "--lacks" if name in options.more_lacks else "lacks"
        yield f"{where}: no case needs {shown(name)}"
    for result in results:
        if result["result"] == "stale":
            yield f"known_failing: {shown(result['id'])} passes"


def version_of(options):
    """Return the Process that has printed a version; raise ValueError without one."""
    with Place(options.variables) as place:
        process = Process([*options.argv, "--version"], {}, place.environment({}),
                          place.tmp, options.limit_s)
        process.wait()
    version = process.text("stdout").strip()
    if process.exit is None:
        raise ValueError(f"did not end within {options.limit_s:g} s")
    if process.exit or not version:
        raise ValueError(f"exit {process.exit}, stdout {shown(version)},"
                         f" stderr {shown(process.text('stderr'))}")
    return process


def build(options):
    """Make the command, as its port file says; raise ValueError where that fails."""
    if not options.build:
        return
    done = subprocess.run(
        options.build, cwd=str(options.base), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        said = done.stdout.decode("utf-8", "backslashreplace").strip()
        raise ValueError(f"{shlex.join(options.build)}: exit {done.returncode},"
                         f" {shown(said[-SHOWN_CHARS:])}")
    options.argv = absolute(options.words, options.base)


def results_of(cases, options):
    """Yield what is to be reported of each of *cases*, in their order.

    Those of a file that wants to be alone run one at a time, and nothing beside them.
    """
    # Processes, not threads: a child that is about to become the command has a copy of
    # every socket here, and so would keep the servers of other cases alive.
    jobs = min(max(1, options.jobs), 61)  # more than 61 do not run on Windows
    judge = functools.partial(judged, options=options)
    with ProcessPoolExecutor(jobs, WORKERS, heed_signals) as pool:
        for alone, some in itertools.groupby(cases, lambda case: case["alone"]):
            for group in ([[case] for case in some] if alone else [list(some)]):
                yield from pool.map(judge, group)


def run(cases, every, options):
    """Run *cases*, out of *every* one of the contract; return (report, exit code)."""
    report = {"contract": cases[0]["contract"], "command": options.words}
    command = shlex.join(options.words)
    say = (lambda line: None) if options.json else lambda line: print(line, flush=True)
    say("TAP version 13")
    try:
        build(options)
        report["version"] = version_of(options).text("stdout").strip().splitlines()[0]
    except (OSError, ValueError) as error:
        report["bail_out"] = " ".join(f"{command} --version: {error}".split())
        say(f"Bail out! {report['bail_out']}")
        return report, 1
    say(f"# contract {report['contract']}, {len(cases)} cases; command: {command};"
        f" version: {report['version']}"
        + f"; lacks: {', '.join(options.lacks)}" * bool(options.lacks))
    say(f"1..{len(cases)}")
    results = report["cases"] = []
    for result in results_of(cases, options):
        results.append(result)
        for line in tap(len(results), result):
            say(line)
    report["of"] = len(results)
    report["passed"] = sum(result["result"] in ("pass", "stale") for result in results)
    report["stale"] = list(stale_entries(results, every, options))
    for line in report["stale"]:
        where = "the command line" if line.startswith("-") else options.port
        say(f"# stale: {line}; remove the entry from {where}")
    say(f"# {report['contract']}: {report['passed']} of {report['of']}")
    red = [result["id"] for result in results if VERDICTS[result["result"]][1]]
    for line in first(red, "# failed: "):
        say(line)
    return report, 1 if red or report["stale"] else 0


#: forked where that is possible, so that heed_signals() is told of all that runs
WORKERS = multiprocessing.get_context(
    "fork" if "fork" in multiprocessing.get_all_start_methods() else None)


# The command line.

DEFAULTS = {"contract": None, "port": None, "vectors": None, "limit_s": 20.0}


def absolute(words, base):
    """Return a command's *words*, its program and the files in *base* made absolute."""
    found = []
    for word in words:
        path = os.path.abspath(os.path.join(str(base), word))
        by_name = not found and os.path.basename(word) == word and shutil.which(word)
        found.append(by_name or (path if os.path.isfile(path) else word))
    return found


def parsed_options(argv):
    """Return the options of *argv*; raise Mistake where there is nothing to test."""
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(usage="conformance.py [options] -- COMMAND...")
    parser.format_help = lambda: __doc__
    add = parser.add_argument
    add("-k", default="", dest="pattern")
    add("-j", type=int, default=os.cpu_count() or 1, dest="jobs")
    add("--env", action="append", default=[])
    add("--lacks", action="append", default=[], dest="more_lacks")
    add("--limit-s", type=float)
    for name in ("--contract", "--port", "--vectors"):
        add(name)
    for name in ("--strict", "--json", "--list"):
        add(name, action="store_true")
    parser.set_defaults(**DEFAULTS)
    options = parser.parse_args(argv[:end])
    options.tail = argv[end:]
    port = read_json(options.port, PORT) if options.port else {}
    base = options.base = "." if options.tail else Path(options.port or ".").parent
    options.build = [] if options.tail else absolute(port.get("build", []), base)
    options.words = options.tail[1:] or port.get("command", [])
    options.argv = absolute(options.words, base)
    if not (options.argv or options.list):
        raise Mistake("nothing to test: end the line with -- COMMAND, such as"
                      " -- node send_event.mjs, or give --port FILE")
    options.lacks = [*port.get("lacks", []), *options.more_lacks]
    options.known = port.get("known_failing", {})
    options.name = options.contract or port.get("contract", "send_event")
    options.variables = {
        name: value if mark else os.environ.get(name)
        for name, mark, value in (pair.partition("=") for pair in options.env)}
    return options


def heed_signals():
    """Make this process end cleanly when it is told to."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def stop(number, frame):
    """End what runs and leave nothing behind."""
    for worker in multiprocessing.active_children():
        worker.terminate()
    for alive in list(ALIVE):
        alive.clear()
    os._exit(128 + number)


def main():
    """Run the cases that the arguments name; return the exit code."""
    sys.stdout.reconfigure(errors="backslashreplace")
    heed_signals()
    try:
        options = parsed_options(sys.argv[1:])
        every = [case for case in load(options.vectors or HERE / "vectors")
                 if options.name in (case["contract"], case["contract"].split()[0])]
        cases = chosen(every, options.pattern)
    except Mistake as mistake:
        print(f"conformance: {mistake}", file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(f"{case['id']}: {case['why']}" for case in cases))
        return 0
    report, code = run(cases, every, options)
    if options.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    return code


if __name__ == "__main__":
    sys.exit(main())
