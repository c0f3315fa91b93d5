"""The runner says what differs, in words that need no explanation, and is never green
by accident; the vectors are what their format page says."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import agents_table
import conformance
import hook_io
from conftest import CONTRACT, NEWEST, PATIENCE_S, PYTHONS, RUNNER, TESTS, VECTORS
from server import EventServer
from test_style import code_lines, depth, functions

STOP = TESTS / "samples" / "claude-code" / "Stop.json"
SECRET = 'sk-"Ä/+?~' + "7" * 9

#: begins every command under test; POSTs with post(), or leaves with leave()
PREAMBLE = """
import base64, json, os, select, socket, subprocess, sys, time, urllib.parse
if sys.argv[1:] == ["--version"]:
    print("tiny 1.0")
    sys.exit()

def connect():
    return socket.create_connection(("127.0.0.1", int(os.environ["PORT"])))

def post(body=b"{}", head="", answer=True):
    length = "" if "chunked" in head else f"Content-Length: {len(body)}\\r\\n"
    with connect() as sock:
        sock.sendall(b"POST /events HTTP/1.1\\r\\n%s\\r\\n%s"
                     % ((length + head).encode(), body))
        return sock.recv(1 << 16) if answer else b""

def put(name, text):
    with open(name, "a") as file:
        file.write(text)
"""


ECHO = "print(json.dumps(json.load(sys.stdin)['args'][0]))"
A_CORPUS = {"kind": "named", "least_percent": 1}


class Kit:
    """A folder with vectors of one topic, and a command that they are run against."""

    def __init__(self, folder):
        self.folder, self.cases = folder, []
        self.defaults = {"env": {"PORT": "${PORT}"}}
        (folder / "vectors").mkdir()
        self.tmp = folder / "tmp+"  # a sign that means something in a regex
        self.tmp.mkdir()

    def case(self, name="it", **members):
        """Add a case; its code, run by the command, stands in argv."""
        code = members.pop("code", None)
        self.cases.append({
            "id": f"tiny/{name}", "why": "It is so.", "spec": "README.md#install",
            "level": "MUST", **({"argv": [code]} if code else {}), **members})
        return self

    def write(self, **members):
        content = {"contract": "tiny 1.0", "topic": "tiny", "defaults": self.defaults,
                   "cases": self.cases, **members}
        path = self.folder / "vectors" / "tiny.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return self

    def command(self, script=PREAMBLE + "exec(sys.argv[1])\n"):
        (self.folder / "tiny.py").write_text(script, encoding="utf-8")
        return [PYTHONS[NEWEST], "-I", "-S", "tiny.py"]

    def line(self, *options, command=None, python=PYTHONS[NEWEST]):
        """Return the command line of the runner; command=(): none behind it."""
        command = self.command() if command is None else list(command)
        return [python, str(RUNNER), "--vectors", "vectors", "--contract", "tiny",
                *options, *(["--", *command] if command else [])]

    @property
    def env(self):
        return {**os.environ, "TMPDIR": str(self.tmp)}

    def run(self, *options, **kwargs):
        """Write the vectors, run the runner; return (exit, lines of stdout, stderr)."""
        self.write()
        return self.start(self.line(*options, **kwargs))

    def start(self, line):
        done = subprocess.run(line, cwd=str(self.folder), env=self.env,
                              capture_output=True, timeout=PATIENCE_S, shell=isinstance(
                                  line, str))
        assert [path.name for path in self.tmp.iterdir()] == []
        return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode()


@pytest.fixture
def kit(tmp_path):
    return Kit(tmp_path)


def verdicts(lines):
    """Return {name of a case: "ok", "not ok" or "ok # SKIP ..."}."""
    found = [re.match(r"(ok|not ok) \d+ - tiny/(\S+)( # .*)?", line) for line in lines]
    return {match[2]: match[1] + (match[3] or "") for match in found if match}


# The vectors of this project.

@pytest.fixture(scope="module")
def vectors():
    return conformance.load(VECTORS)


def test_all_vectors_are_as_the_format_page_says(vectors):
    contracts = [case["contract"] for case in vectors]
    assert set(contracts) == {"send_event 1.1", "hook 1.0", "functions 1.0"}
    assert contracts.count("send_event 1.1") >= 150


def test_every_topic_has_cases(vectors):
    topics = {case["id"].partition("/")[0] for case in vectors}
    assert {"cli", "stdin", "post", "faults", "endpoint", "redact", "streak", "emit",
            "platform", "formats", "headers", "check", "log", "spool",
            "background", "time", "tls", "summarize", "corpus",
            "address", "story"} <= topics


def test_no_case_is_another_with_a_number_changed(vectors):
    told = ("id", "why", "spec", "level", "from")
    seen = {}
    for case in vectors:
        rest = {name: case[name] for name in case if name not in told}
        key = re.sub(r"\d+", "0", json.dumps(rest, sort_keys=True))
        assert seen.setdefault(key, case["id"]) == case["id"]


def test_ids_are_names_in_words_and_sentences_are_said_once(vectors):
    for case in vectors:
        assert re.fullmatch(r"[a-z]+/[a-z0-9]+(-[a-z0-9]+)*", case["id"]), case["id"]
    sentences = [case["why"] for case in vectors]
    assert sorted(set(sentences)) == sorted(sentences)
    assert [why for why in sentences if not re.search(r"[.?!]$", why)] == []


def test_the_page_names_every_capability_that_a_case_needs_and_no_other(vectors):
    page = (CONTRACT / "README.md").read_text(encoding="utf-8")
    table = page.partition("| a port that lacks | |")[2].partition("\n\n")[0]
    named = set(re.findall(r"(?m)^\| `([^`]+)` \|", table))
    needed = {name for case in vectors for name in case.get("needs", ())}
    rows = {"platform": set(hook_io.PLATFORMS) - {"claude-code", "raw"},
            "format": set(hook_io.FORMATS) - {"events"}}
    each = {f"{kind}:{name}" for kind, names in rows.items() for name in names}
    assert {name for name in needed if ":" in name} == each
    assert named == needed - each | {f"{kind}:NAME" for kind in rows}


def test_every_member_of_the_format_is_on_the_page():
    page = (CONTRACT / "README.md").read_text(encoding="utf-8")
    forms = (conformance.CASE, *conformance.TEXT[1:], *conformance.FILE[2:],
             conformance.STEP["expect"], conformance.REQUEST, *conformance.MATCHER)
    assert [name for form in forms for name in form
            if f"`{name}`" not in page and f'"{name}"' not in page] == []


def test_the_runner_is_short_and_flat():
    source = RUNNER.read_text(encoding="utf-8")
    assert {f.name for f in functions(source) if code_lines(f) > 40} == set()
    assert {f.name for f in functions(source) if depth(f) > 3} == set()


# What a run looks like.

@pytest.mark.parametrize("version", PYTHONS)
def test_a_green_run_names_the_command_and_each_case_and_counts_them(kit, version):
    kit.case("first", code="post()", expect={"requests": [{"method": "POST"}]})
    kit.case("second", code="pass")
    assert kit.run(python=PYTHONS[version]) == (0, [
        "TAP version 13",
        "# contract tiny 1.0, 2 cases; command:"
        f" {PYTHONS[NEWEST]} -I -S tiny.py; version: tiny 1.0",
        "1..2", "ok 1 - tiny/first", "ok 2 - tiny/second", "# tiny 1.0: 2 of 2"], "")


def test_a_failure_says_what_differs_what_happened_and_how_to_run_it_again(kit):
    kit.case(server=["no_content"], expect={"requests": [{"json": {"a": 2}}]},
             code="post(b'{\"a\": 1}'); print('oh'); sys.exit(3)")
    code, lines, _ = kit.run("--env", "A=b c", "--limit-s", "9")
    command = shlex.join([PYTHONS[NEWEST], "-I", "-S", "tiny.py"])
    assert code == 1
    assert [re.sub(r"after \d+ ms", "after 3 ms", line) for line in lines[3:]] == [
        "not ok 1 - tiny/it",
        "# It is so. (MUST, README.md#install)",
        "# - exit: expected 0, got 3",
        '# - stdout: expected "", got "oh\\n"',
        "# - requests[0].json.a: expected 2, got 1",
        '#   server: +0 ms accepted, POST /events 8 bytes, reply "no_content",'
        " answered 204, client left after 3 ms",
        '#   stdout: "oh"',
        f"# again: python3 {RUNNER} -k tiny/it --contract tiny --vectors vectors"
        f" --limit-s 9.0 --env 'A=b c' -- {command}",
        "# tiny 1.0: 0 of 1", "# failed: tiny/it"]


def test_the_line_to_run_a_case_again_can_be_pasted(kit):
    kit.case("one", code="print(os.environ['A'])")
    kit.case("other", code="pass")
    _, lines, _ = kit.run("--env", "A=b  'c")
    again = next(line for line in lines if line.startswith("# again: "))[9:]
    code, lines, _ = kit.start(f"{shlex.quote(PYTHONS[NEWEST])}{again[7:]}")
    assert again[:7] == "python3" and code == 1
    assert verdicts(lines) == {"one": "not ok"}
    assert '# - stdout: expected "", got "b  \'c\\n"' in lines


#: code of a command, what is expected of it, the difference that is told
DIFFERENCES = [
    ("print('a', file=sys.stderr)", {"stderr": {"lines": ["b"]}},
     'stderr line 1: expected {"$match": "b"}, got "a"'),
    ("print('a')", {"stdout": {"lines": ["a", "b"]}},
     'stdout: expected 2 lines, got 1: "a\\n"'),
    ("print('ab')", {"stdout": {"first_line": "a"}},
     'stdout: expected {"first_line": "a"}, got "ab\\n"'),
    ("print('a')", {"stdout": {"has": ["a", "b"]}},
     'stdout: expected {"$has": ["a", "b"]}, got "a\\n"'),
    ("print('{\"a\": 1, \"b\": 2}')", {"stdout": {"json": {"a": 1}}},
     "stdout.b: not expected, got 2"),
    ("print('{}'); print('{}')", {"stdout": {"json": {}}},
     'stdout: expected one JSON document on one line, got "{}\\n{}\\n"'),
    ("print('{}', end='')", {"stdout": {"json": {}}},
     'stdout: expected one JSON document on one line, got "{}"'),
    ("print('x' * 999)", {"stdout": "x" * 990 + "\n"},
     f'stdout from character 970 on: expected "{"x" * 20}\\n", got "{"x" * 29}\\n"'),
    ("print('{}'); print('{\"a\": 1}')", {"stdout": {"json_lines": [{}, {}]}},
     "stdout line 2.a: not expected, got 1"),
    ("print('{}')", {"stdout": {"json_lines": [{}, {}]}},
     'stdout: expected 2 lines, got 1: "{}\\n"'),
    ("print('{}\\n{}', end='')", {"stdout": {"json_lines": [{}, {}]}},
     'stdout line 2: expected one JSON document on one line, got "{}"'),
    ("print('a\\nb\\nc')", {"stdout": {"at_most_lines": 2, "columns": 1}},
     'stdout: expected {"at_most_lines": 2}, got "a\\nb\\nc\\n"'),
    ("print('a\\nbc')", {"stdout": {"at_most_lines": 2, "columns": 1}},
     'stdout line 2: expected at most 1 columns, got 2: "bc"'),
    ("pass", {"stdout": {"once": "a\n"}}, "stdout: expected of 1 process, got of 0"),
    ("print('b')", {"stdout": {"once": "a\n"}}, 'stdout: expected "a\\n", got "b\\n"'),
    ("pass", {"requests": [{}]}, "requests: expected 1, got 0"),
    ("post(); post()", {"requests": 1}, "requests: expected 1, got 2"),
    ("post()", {}, "requests: expected 0, got 1"),
    ("connect().sendall(b'POST /')", {"requests": 1},
     "requests[0]: expected a request, got none that is whole"),
    ("post()", {"requests": [{"method": None}]},
     'requests[0].method: expected null, got "POST"'),
    ("post(head='X-A: b\\r\\n')", {"requests": [{"headers": {"x-a": "c"}}]},
     'requests[0].headers.x-a: expected "c", got "b"'),
    ("post()", {"requests": [{"headers": {"x-a": {"$any": True}}}]},
     'requests[0].headers.x-a: expected {"$any": true}, got nothing'),
    ("post(b'ab')", {"requests": [{"body": {"$match": "^b"}}]},
     'requests[0].body: expected {"$match": "^b"}, got "ab"'),
    ("post(b'[1, {\"a\": [1]}]')", {"requests": [{"json": [1, {"a": [1, 2]}]}]},
     "requests[0].json[1].a: expected [1, 2], got [1]"),
    ("put('a', 'x')", {"files": {"a": "y"}}, 'files[a].text: expected "y", got "x"'),
    ("put('a', 'x')", {"files": {"a": None}}, 'files: expected no a, got ["a"]'),
    ("put('ab', 'x')", {"files": {"*b": {"count": 2}}},
     'files: expected 2 *b, got ["ab"]'),
    ("pass", {"files": {"a/*": {"lines": 1}}}, "files: expected some a/*, got []"),
    ("put('a', 'x\\n')", {"files": {"a": {"lines": 2}}},
     "files[a].lines: expected 2, got 1"),
    ("put('a', 'x')", {"files": {"a": {"bytes": 64}}},
     "files[a].bytes: expected 64, got 1"),
    ("put('a', 'x'); os.chmod('a', 0o644)", {"files": {"a": {"mode": "0600"}}},
     'files[a].mode: expected "0600", got "0644"'),
    ("put('a', 'x')", {"files": {"a": {"has": ["y"]}}},
     'files[a].has: expected {"$has": ["y"]}, got "x"'),
    ("put('a', '{\"a\": 1}\\n')", {"files": {"a": {"json_lines": [{}]}}},
     "files[a] line 1.a: not expected, got 1"),
    ("post()", {"requests": [{"answered": 201}]},
     "requests[0].answered: expected 201, got 400"),
    ("post(b'[1, {\"a\": 1}]')", {"requests": [{"json": {"$holds": [1, {"a": 2}]}}]},
     'requests[0].json: expected {"$holds": [{"a": 2}]}, got [1, {"a": 1}]'),
    ("post(b'[1, 2]')", {"requests": [{"json": [{"$same": "x"}, {"$same": "x"}]}]},
     "requests[0].json[1]: expected 1, got 2"),
    ("post(b'[1, 1]')", {"requests": [{"json": [{"$same": "x"}, {"$same": "y"}]}]},
     "requests[0].json[1]: expected another than x, got 1"),
    ("post()", {"requests": [{"json": {"a": {"$same": "x"}}}]},
     'requests[0].json.a: expected {"$same": "x"}, got nothing'),
    ("os.kill(os.getpid(), 9)", {}, "exit: expected 0, got -9"),
]


def run_of_all(folder, rows):
    """Run a case for each (code, expect) in one run; return the results of --json."""
    kit = Kit(folder)
    for n, (code, expect) in enumerate(rows):
        kit.case(str(n), code=code, expect=expect)
    _, lines, _ = kit.run("--json")
    return json.loads("\n".join(lines))["cases"]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return run_of_all(tmp_path_factory.mktemp("told"), [row[:2] for row in DIFFERENCES])


@pytest.mark.parametrize("n", range(len(DIFFERENCES)),
                         ids=[row[2][:40] for row in DIFFERENCES])
def test_a_difference_is_told(told, n):
    assert told[n]["result"] == "fail"
    assert DIFFERENCES[n][2] in told[n]["differences"]
    assert len(told[n]["differences"]) <= 2


# What must not be seen.

LITERAL = f"({SECRET!r}).encode()"
#: way out -> code of a command that takes it
WAYS_OUT = {
    "stdout": f"os.write(1, {LITERAL})",
    "stderr": f"os.write(2, {LITERAL})",
    "a body": f"post({LITERAL})",
    "a header": f"post(head='A: ' + urllib.parse.quote({LITERAL}) + '\\r\\n')",
    "half a request": f"connect().sendall(b'POST /' + {LITERAL})",
    "chunks": f"s = {LITERAL}; post(head='Transfer-Encoding: chunked\\r\\n', body="
              "b'3\\r\\n' + s[:3] + b'\\r\\n%x\\r\\n' % len(s[3:]) + s[3:]"
              " + b'\\r\\n0\\r\\n\\r\\n')",
    "JSON": f"post(json.dumps([{SECRET!r}]).encode())",
    "JSON with more escapes": "post(b'\"' + b''.join(b'\\\\u%04x' % ord(c)"
                              f" for c in {SECRET!r}) + b'\"')",
    "JSON in JSON": f"post(json.dumps([json.dumps([{SECRET!r}])]).encode())",
    "percent signs": f"post(urllib.parse.quote_plus({SECRET!r}).encode())",
    **{f"Base64 behind {n} bytes": f"post(base64.b64encode(b'{'x' * n}' + {LITERAL}))"
       for n in range(3)},
    **{f"Base64 behind {n} letters": f"post(b'{'x' * n}' + base64.b64encode({LITERAL}))"
       for n in range(1, 4)},
    "Base64 of URLs": f"post(base64.urlsafe_b64encode({LITERAL}).rstrip(b'='))",
    "Base64 in JSON": "post(json.dumps([base64.b64encode("
                      f"{LITERAL}).decode()]).replace('/', '\\\\/').encode())",
    "a file": f"put('a', {SECRET!r})",
    "a file in a folder": f"os.makedirs('b/c'); put('b/c/d', json.dumps({SECRET!r}))",
    "a file's name": f"put(urllib.parse.quote({SECRET!r}, safe=''), '')",
    "a file that was there": f"put('given', {SECRET!r})",
}


@pytest.fixture(scope="module")
def let_out(tmp_path_factory):
    kit = Kit(tmp_path_factory.mktemp("never"))
    kit.defaults["files"] = {"given": "x", "secret": SECRET}
    for n, code in enumerate([*WAYS_OUT.values(), "post(b'other')"]):
        kit.case(str(n), code=code, expect={"never": [SECRET]})
    _, lines, _ = kit.run("--json")
    return json.loads("\n".join(lines))["cases"]


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_secret_is_found_on_every_way_out(let_out, way):
    found = let_out[list(WAYS_OUT).index(way)]["differences"]
    assert [line for line in found if line.startswith("never: ")], found


def test_a_secret_that_does_not_leave_is_none(let_out):
    assert let_out[-1]["differences"] == ["requests: expected 0, got 1"]


# What a case can ask for.

def away(code, **streams):
    """Return code of a command that leaves a process behind, which runs *code*.

    Its streams are the null device, unless they are given; so is a session of its own.
    """
    given = {**dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
             "start_new_session": True, **streams}
    return (f"subprocess.Popen([sys.executable, '-I', '-S', sys.argv[0], {code!r}],"
            f" **{given})")


ABILITIES = {
    "what-comes-when-the-command-has-ended": {
        "later": True, "server": ["no_content"], "argv": [away(
            "answer = post(); time.sleep(0.2); put('a', str(b' 204 ' in answer))")],
        "expect": {"requests": [{"answered": 204}], "files": {"a": "True"}}},
    "what-comes-of-many-that-have-ended": {
        "later": True, "together": 3, "argv": [away("post()")],
        "expect": {"requests": 3}},
    "what-a-closed-port-leaves-to-be-done-later": {
        "later": True, "server": "closed", "argv": [away(
            "try:\n    post()\nexcept OSError:\n    time.sleep(0.2); put('a', 'x')")],
        "expect": {"files": {"a": "x"}}},
    "a-value-is-the-same-in-every-step": {"steps": [
        {"argv": ["post(b'{\"a\": [1]}', head='X-Key: k\\r\\n')"],
         "expect": {"requests": [{"json": {"a": {"$same": "list"}},
                                  "headers": {"x-key": {"$same": "key"}}}]}},
        {"argv": ["put('a', '{\"a\": [1], \"b\": \"k\"}\\n')"],
         "expect": {"files": {"a": {"json_lines": [
             {"a": {"$same": "list"}, "b": {"$same": "key"}}]}}}}]},
    "a-list-with-these-in-it": {
        "argv": ["post(b'[{\"a\": 1, \"b\": 2}, 3, {\"c\": 4}]')"],
        "expect": {"requests": [{"json": {"$holds": [
            {"c": 4}, 3, {"a": 1}, {"b": {"$any": True}}]}}]}},
    "steps-share-a-folder-and-a-port": {"steps": [
        {"argv": ["put('a', os.environ['PORT'])"], "server": "closed"},
        {"argv": ["post(); print(open('a').read() == os.environ['PORT'])"],
         "expect": {"stdout": "True\n", "requests": 1}},
        {"argv": ["connect()"], "server": "closed",
         "expect": {"exit": 1, "stderr": {"has": ["ConnectionRefusedError"]}}},
        {"argv": ["print(post()[9:12].decode())"], "server": [{"status": 503}],
         "expect": {"stdout": "503\n", "requests": [{"path": "/events"}]}}]},
    "times-and-each-has-its-own-server": {
        "times": 3, "argv": ["print(post()[9:12].decode()); put('a', '.\\n')"],
        "server": ["no_content"], "expect": {"stdout": "204\n", "requests": 1}},
    "together": {
        "together": 4, "argv": ["post(); put('a', 'x\\n'); print('done')"],
        "expect": {"stdout": "done\n", "requests": 4, "files": {"a": {"lines": 4}}}},
    "one-of-them-speaks": {
        "together": 4,
        "argv": ["try:\n    os.mkdir('a')\n    print('first')\n"
                 "except FileExistsError:\n    pass"],
        "expect": {"stdout": {"once": {"lines": ["f.+"]}}}},
    "files-by-a-pattern": {"steps": [
        {"argv": ["put('a-1', 'x'); put('a-2', 'x'); put('b', 'x')"]},
        {"files": {"a-*": "y", "b": None}, "argv": ["print(*sorted(os.listdir()))"],
         "expect": {"stdout": "a-1 a-2\n", "files": {"a-*": "y"}}},
        {"files": {"*-1": {"folder": True, "mode": "0700"}, "*-2": {"symlink": "a-1"}},
         "argv": ["print(os.path.isdir('a-1'), os.readlink('a-2'));"
                  "put('a-1/c', 'x')"],
         "expect": {"stdout": "True a-1\n"}},
        {"files": {"a-*": {"json": [1]}},
         "expect": {"files": {"a-*": "[1]"}, "never": ["[1]"]}, "argv": ["pass"]},
        {"files": {"a-*": None}, "argv": ["print(os.listdir())"],
         "expect": {"stdout": "[]\n"}}]},
    "unread-streams": {
        "unread": ["stdout", "stderr"],
        "argv": ["for n in (1, 2):\n    try:\n        os.write(n, b'x')\n"
                 "    except BrokenPipeError:\n        put('gone', str(n))"],
        "expect": {"files": {"gone": "12"}}},
    "one-unread-stream": {
        "unread": ["stdout"], "argv": ["os.write(2, b'x'); os.write(1, b'x')"],
        "expect": {"exit": 1, "stderr": {"has": ["x", "BrokenPipeError"]}}},
    "a-time-that-is-now": {
        "argv": ["now = time.gmtime(time.time() - 60); post(json.dumps(["
                 "time.strftime('%Y-%m-%dT%H:%M:%S' + end, now)"
                 " for end in ('Z', '.5Z', '.123+00:00')]).encode())"],
        "expect": {"requests": [{"json": [{"$now_s": 300}] * 3}]}},
    "several-documents-and-a-size": {
        "argv": ["print('{\"a\": [1]}\\n{\"b\": \"\u2028\"}')"],
        "expect": {"stdout": {"json_lines": [{"a": {"$any": True}}, {"b": "\u2028"}],
                              "at_most_lines": 3, "columns": 10}}},
    "backlog": {
        "server": "backlog",
        "argv": ["socket.setdefaulttimeout(0.2); connect()"],
        "expect": {"exit": 1, "stderr": {"has": ["timed out"]}}},
    "few-variables": {
        "env": {"PORT": None, "A": "${TMP}/b"},
        "argv": ["print(sorted(set(os.environ) - {'LC_CTYPE'}));"
                 "print([os.environ[n] for n in ('A', 'HOME', 'XDG_STATE_HOME')])"],
        "expect": {"stdout": "['A', 'HOME', 'PATH', 'XDG_STATE_HOME']\n"
                             "['${TMP}/b', '${TMP}', '${TMP}/state']\n"}},
    "a-folder-to-run-in": {
        "cwd": "a/b", "argv": ["print(os.getcwd())"],
        "expect": {"stdout": "${TMP}/a/b\n"}},
    "files-before": {
        "files": {"a/b": "x${y*3}", "c": {"json": {"d": "Ä"}}, "e": {"symlink": "c"},
                  "f": {"folder": True, "mode": "0750"}},
        "argv": ["print(open('a/b').read(), json.load(open('e')), os.stat('f').st_mode"
                 " & 0o777 == 0o750)"],
        "expect": {"stdout": "xyyy {'d': 'Ä'} True\n",
                   "files": {"c": '{"d":"Ä"}', "f": {"mode": "0750"}, "g": None}}},
    "stdin-in-parts": {
        "stdin": [{"text": "ä"}, {"base64": "/w=="}, {"json": {"b": ["\ud800"]}},
                  {"sample": "claude-code/Stop",
                   "with": {"cwd": "${TMP}", "session_id": None}}],
        "argv": ["data = sys.stdin.buffer.read(); head = b'\\xc3\\xa4\\xff'"
                 "b'{\"b\":[\"\\\\ud800\"]}'; event = json.loads(data[len(head):]);"
                 "print(data.startswith(head), event['cwd'] == os.environ['HOME'],"
                 "'session_id' in event, event['hook_event_name'])"],
        "expect": {"stdout": "True True False Stop\n"}},
    "a-sample-is-byte-for-byte": {
        "stdin": {"sample": "claude-code/Stop"},
        "argv": ["print(len(sys.stdin.buffer.read()))"],
        "expect": {"stdout": f"{STOP.stat().st_size}\n"}},
    "a-pause": {
        "stdin": [{"text": "a"}, {"pause_ms": 1500}, {"text": "b"}],
        "argv": ["print(os.read(0, 9), os.read(0, 9), os.read(0, 9))"],
        "expect": {"stdout": "b'a' b'b' b''\n"}},
    "a-server-that-speaks-tls": {
        "tls": "good", "env": {"CERTIFICATES": "${CA}"},
        "argv": ["import ssl; context = ssl.create_default_context("
                 "cafile=os.environ['CERTIFICATES']); sock = context.wrap_socket("
                 "connect(), server_hostname='localhost'); sock.sendall("
                 "b'POST /a HTTP/1.1\\r\\nContent-Length: 2\\r\\n\\r\\n{}');"
                 "print(sock.recv(99)[9:12].decode())"],
        "server": ["no_content"],
        "expect": {"stdout": "204\n", "requests": [{"path": "/a", "answered": 204}]}},
    "a-client-that-does-not-trust-a-certificate": {
        "tls": "self-signed", "env": {"CERTIFICATES": "${CA}"},
        "argv": ["import ssl; context = ssl.create_default_context("
                 "cafile=os.environ['CERTIFICATES'])\ntry:\n    context.wrap_socket("
                 "connect(), server_hostname='localhost')\n"
                 "except ssl.SSLCertVerificationError:\n    print('no')"],
        "expect": {"stdout": "no\n", "requests": [{"method": None}]}},
    "a-name-of-this-machine": {
        "env": {"HOST": "${HOST}", "PORT": "${PORT}"},
        "argv": ["sock = socket.create_connection((os.environ['HOST'], int(os.environ["
                 "'PORT']))); sock.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n');"
                 "sock.recv(1); print(os.environ['HOST'] != 'localhost')"],
        "expect": {"stdout": "True\n", "requests": 1}},
    "copies-of-a-file-each-with-its-time": {
        "files": {"a/#-x": {"text": "ab", "copies": 3, "age_s": 1000}},
        "argv": ["times = [int(name[:20]) / 1e9 for name in sorted(os.listdir('a'))];"
                 "first, last = times[0], times[-1];"
                 "print(*[round(at - first) for at in times], time.time() - last > 990)"
                 ],
        "expect": {"stdout": "0 1 2 True\n", "files": {"a/*-x": "ab"}}},
    "enough-of-a-corpus": {
        "call": "f", "corpus": {"kind": "look-alikes", "least_percent": 100},
        "argv": [ECHO]},
    "a-function-is-called": {
        "call": "f", "args": ["${PORT}", {"a": [1]}], "argv": [
            "call = json.load(sys.stdin); print(json.dumps([call, 'ü']))"],
        "expect": {"returns": [{"call": "f", "args": ["${PORT}", {"a": [1]}]}, "ü"]}},
    "no-stdin": {"argv": ["print(os.read(0, 9))"], "expect": {"stdout": "b''\n"}},
    "an-open-stdin": {
        "stdin": [{"text": "a"}, {"open": True}],
        "argv": ["print(os.read(0, 9), select.select([0], [], [], 0.3)[0])"],
        "expect": {"stdout": "b'a' []\n"}},
    "a-terminal": {
        "stdin": {"terminal": True},
        "argv": ["print(os.isatty(0), select.select([0], [], [], 0.1)[0])"],
        "expect": {"stdout": "True []\n"}},
    "closed-streams": {
        "closed": ["stdin", "stderr"],
        "argv": ["found = []\nfor n in range(3):\n    try:\n        os.fstat(n)\n"
                 "        found.append(n)\n    except OSError:\n        pass\n"
                 "os.write(1, str(found).encode())"],
        "expect": {"stdout": "[1]"}},
    "a-slow-reader": {
        "slow_reader_ms": 3000,
        "argv": ["began = time.monotonic(); os.write(1, b'x' * 300000);"
                 "sys.exit(time.monotonic() - began < 0.2)"],
        "expect": {"stdout": {"lines": ["x{300000}"]}}},
    "the-server-of-a-case": {
        "server": [{"status": 302, "headers": {"Location": "${SERVER}/x"}}],
        "argv": ["print(os.environ['HOME'] + post().decode())"],
        "expect": {"stdout": {"has": ["Location: ${SERVER}/x"]}, "requests": 1}},
    "placeholders-are-no-part-of-a-regex": {
        "argv": ["print(os.environ['HOME'] + '(')"],
        "expect": {"stdout": {"lines": ["${TMP}\\("]}}},
    "a-script-that-is-longer-than-needed": {
        "argv": ["connect()"], "server": ["accept_only", "silent", "drip"],
        "expect": {"requests": [{"method": None}]}},
    "matchers": {
        "argv": ["post(json.dumps({'a': 'xyz', 'b': json.dumps({'c': 1, 'd': [2]})})"
                 ".encode())"],
        "expect": {"requests": [{"json": {
            "a": {"$all": [{"$match": "y"}, {"$chars": [3, 3]}, {"$has": ["x", "z"]},
                           {"$lacks": ["w"]}, {"$any": True}]},
            "b": {"$json": {"d": [2], "e": {"$absent": True}}}}}]}},
}


@pytest.fixture(scope="module")
def abilities(tmp_path_factory):
    kit = Kit(tmp_path_factory.mktemp("able"))
    for name, members in ABILITIES.items():
        kit.case(name, **members)
    _, lines, _ = kit.run("--json")
    return {case["id"][5:]: case for case in json.loads("\n".join(lines))["cases"]}


@pytest.mark.parametrize("name", ABILITIES)
def test_a_case_gets_what_it_asks_for(abilities, name):
    assert (abilities[name]["result"], abilities[name]["differences"]) == ("pass", [])


@pytest.mark.parametrize(("matcher", "others"), [
    ({"$match": "^a"}, ["ba", 1, None]), ({"$chars": [2, 3]}, ["a", "abcd", 12]),
    ({"$has": ["a", "b"]}, ["a", ["a", "b"]]), ({"$lacks": ["a", "b"]}, ["b", None]),
    ({"$now_s": 60}, ["", "now", None, 1, "2020-01-01T00:00:00Z",
                      "2020-13-01T00:00:00Z", time.strftime("%Y-%m-%dT%H:%M:%S"),
                      time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(9e9))]),
    ({"$json": {"a": 1}}, ["{}", "a", '{"a": NaN}', {"a": 1}, '{"a": true}']),
    ({"$absent": True}, ["", None]), ({"$any": True}, [conformance.ABSENT]),
    ({"$all": [{"$has": ["a"]}, {"$has": ["b"]}]}, ["a", "b"]),
    ({"$holds": [1, 2]}, [[], [1], [2, 3], 1, "12", None, conformance.ABSENT]),
    ({"$same": "it"}, [conformance.ABSENT]),
    ({"a": 1}, [{"a": True}, {"a": "1"}, {}, [], None]), ([1], [[], [1, 1], [2]]),
    (True, [1, "true"]), (0, [False, None, "0"]), (None, [0, conformance.ABSENT]),
])
def test_a_value_that_is_not_meant_does_not_match(matcher, others):
    assert [value for value in others
            if not list(conformance.subset(matcher, value, "it"))] == []


#: what a command leaves behind that ends too late or too early -> the difference told
LATE = {
    "waits for the server itself": (
        "post()", "did not end within 2 s"),
    "is of the command's process group": (
        away("time.sleep(9); post()", start_new_session=False),
        "requests: expected 1, got 0"),
    "holds a stream": (
        away("time.sleep(3)", stdout=None),
        "its streams are held by what it has left behind"),
    "leaves before the answer": (
        away("post(answer=False)"), "requests[0].answered: expected 204, got null"),
    "writes no file": (
        away("post()"), "files: expected some a, got []"),
}


@pytest.mark.parametrize("how", LATE)
def test_what_does_not_come_when_the_command_has_ended_is_told(kit, monkeypatch, how):
    code, says = LATE[how]
    kit.case(later=True, server=[{"status": 204, "delay_ms": 200}], code=code, expect={
        "requests": [{"answered": 204}], "files": {"a": "x"}}).write()
    command = conformance.absolute(kit.command(), kit.folder)
    monkeypatch.setattr(conformance, "PATIENCE_S", 1)
    limit_s = 2 if "did not end" in says else PATIENCE_S
    options = SimpleNamespace(variables={}, argv=command, limit_s=limit_s)
    (case,) = conformance.load(kit.folder / "vectors")
    assert says in conformance.play(case, options)[0]


def played(kit, monkeypatch, **limits):
    """Play the one case of *kit* with other limits; return the differences."""
    for name, value in limits.items():
        monkeypatch.setattr(conformance, name, value)
    command = conformance.absolute(kit.command(), kit.folder)
    options = SimpleNamespace(variables={}, argv=command, limit_s=PATIENCE_S)
    (case,) = conformance.load(kit.write().folder / "vectors")
    return conformance.play(case, options)[0]


def test_a_command_that_lasts_too_long_is_told_beside_the_time_of_its_version(
    kit, monkeypatch
):
    kit.case(code="time.sleep(0.5)", expect={"lasts_ms": 400})
    (line,) = played(kit, monkeypatch, STARTS=0, MORE_MS=0)
    assert re.fullmatch(
        r"lasts_ms: expected at most 400 ms, 0 times the \d+ ms of --version and 0 ms,"
        r" it took \d+ ms", line)


def test_a_slower_machine_gives_a_command_more_time(kit, monkeypatch):
    kit.case(code="time.sleep(0.1)", expect={"lasts_ms": 1})
    assert played(kit, monkeypatch, STARTS=10**6, MORE_MS=0) == []


LATE_LINE, OTHER_LINE = "step 1: lasts_ms: expected at most 1 ms", "exit: expected 0"
STAYED = "held_ms of requests[0]: expected at most 1 ms, the client stayed for ever"


@pytest.mark.parametrize(("tries", "counts"), [
    ([[]], 0), ([[LATE_LINE], []], 1), ([[LATE_LINE], [LATE_LINE], []], 2),
    ([[LATE_LINE]] * 3, 2), ([[LATE_LINE, OTHER_LINE]], 0), ([[OTHER_LINE]], 0),
    ([[LATE_LINE], [OTHER_LINE]], 1), ([[STAYED, LATE_LINE], []], 1),
    ([["requests[0].held_ms: expected at most 1 ms"], []], 1),
])
def test_of_three_tries_the_best_counts_where_only_the_time_differs(
    monkeypatch, tries, counts
):
    made = iter([(differences, ["it"], "") for differences in tries])
    monkeypatch.setattr(conformance, "tried", lambda case, options: next(made))
    assert conformance.play({}, None) == (tries[counts], ["it"], "")
    assert list(made) == []


def test_where_the_runner_is_late_with_stdin_it_says_so_and_tries_again(
    kit, monkeypatch
):
    late, seen = "step 1: run 2: runner: held up for 612 ms in writing stdin", "it"
    made = iter([([OTHER_LINE], [late], ""), ([OTHER_LINE], [seen], "")])
    with monkeypatch.context() as patch:
        patch.setattr(conformance, "tried", lambda case, options: next(made))
        assert conformance.play({}, None) == ([OTHER_LINE], [seen], "")
    content = conformance.part_bytes
    monkeypatch.setattr(conformance, "part_bytes", lambda part: (
        time.sleep(0.2 * (part == {"text": "b"})), content(part))[1])
    kit.case(code="sys.stdin.read(); sys.exit(1)",
             stdin=[{"text": "a"}, {"pause_ms": 1}, {"text": "b"}])
    command = conformance.absolute(kit.write().command(), kit.folder)
    options = SimpleNamespace(variables={}, argv=command, limit_s=PATIENCE_S)
    (case,) = conformance.load(kit.folder / "vectors")
    lines = conformance.tried(case, options)[1]
    assert any(line.startswith("runner: held up for ") for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe takes 64 KiB")
def test_what_a_command_is_given_is_there_before_it_begins():
    data = b"a" * (1 << 20)
    reader, writer, rest = conformance.pipe_with(data + b"b")
    assert rest == b"b"
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert pipe.read() == data


def test_cases_of_a_file_that_wants_to_be_alone_run_one_at_a_time(kit):
    busy = str(kit.folder / "busy")
    for n in range(3):
        kit.case(str(n), code=f"os.mkdir({busy!r}); time.sleep(0.2);"
                              f" os.rmdir({busy!r})")
    kit.write(alone=True)
    code, lines, _ = kit.start(kit.line("-j", "3"))
    assert (code, verdicts(lines)) == (0, dict.fromkeys("012", "ok"))


@pytest.mark.parametrize("code", [
    ECHO, "print([])", "print('x')", "print(json.dumps({'a': 1}))"])
def test_too_little_of_a_corpus_is_told(kit, monkeypatch, code):
    kit.case(call="f", argv=[code], corpus={"kind": "neither", "least_percent": 1})
    assert played(kit, monkeypatch) == [
        "corpus: expected 1 % at least, got 0.0 %, 0 of 12"]


def test_what_a_corpus_misses_is_shown_and_its_share_also_where_it_is_enough(kit):
    kit.case("bad", call="f", argv=[ECHO], corpus={
        "kind": "random", "held_out": True, "least_percent": 90})
    kit.case("good", call="f", argv=[ECHO], corpus={
        "kind": "look-alikes", "least_percent": 98})
    code, lines, _ = kit.run()
    assert (code, verdicts(lines)) == (1, {
        "bad": "not ok # 0.0 %, 0 of 660", "good": "ok # 100.0 %, 421 of 421"})
    assert any(line.startswith("#   missed: ") for line in lines)
    assert "#   … and 640 more" in lines


def test_each_call_with_a_part_of_a_corpus_counts(kit, monkeypatch):
    calls = kit.folder / "calls"
    kit.case(call="f", argv=[f"put({str(calls)!r}, '.');{ECHO}"],
             corpus={"kind": "neither", "least_percent": 1})
    assert played(kit, monkeypatch, BATCH_BYTES=1) == [
        "corpus: expected 1 % at least, got 0.0 %, 0 of 12"]
    assert calls.read_text() == "." * 12


def test_a_name_stands_for_one_value_in_its_own_case_only(kit):
    for n in range(2):
        kit.case(str(n), code=f"post(b'{n}')",
                 expect={"requests": [{"json": {"$same": "x"}}]})
    code, lines, _ = kit.run("-j", "1")
    assert (code, verdicts(lines)) == (0, {"0": "ok", "1": "ok"})


def test_of_two_that_speak_one_is_too_many(kit):
    kit.case(together=2, code="print('a')", expect={"stdout": {"once": "a\n"}})
    code, lines, _ = kit.run()
    assert code == 1
    assert "# - stdout: expected of 1 process, got of 2" in lines


def test_a_file_that_should_be_there_by_then_and_is_not_fails_the_case(kit):
    kit.case(steps=[{"argv": ["pass"]}, {"argv": ["pass"], "files": {"a*": None}}])
    code, lines, _ = kit.run()
    assert code == 1
    assert "# - the case could not be run: no file is called a* by then" in lines


def test_the_servers_clock_judges_a_client_that_stays(kit):
    kit.case("stays", server=["silent"], code="sock = connect(); time.sleep(0.4)",
             expect={"requests": [{"method": None}], "held_ms": 300})
    kit.case("asks", server=["silent"], expect={"requests": [{"held_ms": 300}]},
             code="connect(); sock = connect();"
                  "sock.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); time.sleep(0.4)")
    code, lines, _ = kit.run()
    text = "\n".join(lines)
    assert code == 1
    assert re.search(r"# - held_ms of requests\[0\]: expected at most 300 ms,"
                     r" the client stayed ([4-9]\d\d|\d{4,}) ms", text)
    assert "# - requests: expected 1, got 2" in lines


class LateServer(EventServer):
    """A server that takes its time before it accepts."""

    def _accept(self):
        time.sleep(0.3)
        super()._accept()


def test_a_connection_that_is_accepted_after_the_commands_end_is_seen():
    with LateServer(["silent"]) as server:
        socket.create_connection(("127.0.0.1", server.port)).close()
        (exchange,) = conformance.exchanges_of(server, 2)
        assert exchange.reply == "silent"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port is bound once")
def test_nobody_else_is_given_the_port_of_a_case():
    with conformance.Place() as place, socket.socket() as other:
        with place.server([]):
            pass
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", place.port))


# Which cases.

def listed(kit, *options):
    kit.write()
    code, lines, _ = kit.start(kit.line("--list", *options, command=()))
    return code, [line.partition(":")[0][5:] for line in lines]


def test_a_pattern_is_a_text_a_glob_or_a_whole_id(kit):
    for name in ("one", "one-more", "two"):
        kit.case(name)
    assert listed(kit) == (0, ["one", "one-more", "two"])
    assert listed(kit, "-k", "one") == (0, ["one", "one-more"])
    assert listed(kit, "-k", "tiny/one") == (0, ["one"])
    assert listed(kit, "-k", "*/t?o") == (0, ["two"])
    assert listed(kit, "-k", "three") == (2, [])


def test_results_stand_in_the_files_order_though_cases_run_beside_each_other(kit):
    for n in range(6):
        kit.case(str(n), code=f"time.sleep({(6 - n) / 20})")
    assert list(verdicts(kit.run("-j", "3")[1])) == list("012345")


@pytest.mark.parametrize(("options", "command", "says"), [
    ([], [], "nothing to test: end the line with -- COMMAND"),
    (["-k", "nope"], None, "no case of this contract has 'nope' in its id"),
    (["--contract", "other"], None, "no case of this contract"),
    (["tiny.py"], None, "unrecognized arguments: tiny.py"),
    (["--port", "none.json"], None, "none.json: "),
])
def test_a_mistake_in_the_arguments_is_told(kit, options, command, says):
    code, lines, stderr = kit.case().run(*options, command=command)
    assert (code, lines) == (2, []) and says in stderr


# Vectors that are not as they should be.

@pytest.mark.parametrize(("members", "says"), [
    ({"stdn": 1}, "unknown member 'stdn'; there are: id, why"),
    ({"expect": {"stdotu": ""}}, ".expect: unknown member 'stdotu'"),
    ({"steps": [{"expct": {}}]}, ".steps[0]: unknown member 'expct'"),
    ({"stdin": {"jsn": 1}}, '.stdin: must be {json} or {text} or'),
    ({"stdin": {"json": 1, "text": ""}}, "unknown member 'text'; there are: json"),
    ({"stdin": [{"sample": "claude-code/Nope"}]}, "must be a sample, is"),
    ({"server": [{"hng": True}]}, '.server[0]: must be "silent" or'),
    ({"server": [{"hang": True, "x": 1}]}, "unknown member 'x'; there are: reset"),
    ({"server": ["silnt"]}, 'is "silnt"'), ({"server": "close"}, 'is "close"'),
    ({"expect": {"stdout": {"lines": ["("]}}}, 'must be a regex, is "("'),
    ({"stdin": {"base64": "x"}}, 'must be base64 text, is "x"'),
    ({"expect": {"stdout": {"json": {"$chars": [1]}}}}, "must be a range, is [1]"),
    ({"expect": {"stdout": {}}}, "must be a text or {json, json_lines, lines,"),
    ({"expect": {"stdout": {"once": {"once": ""}}}}, ".once: must be a text or {json"),
    ({"expect": {"stdout": {"columns": 0}}}, "columns: must be a count, is 0"),
    ({"expect": {"requests": [{"json": {"$now_s": "1"}}]}}, "must be a count, is"),
    ({"unread": ["stdin"]}, 'must be "stdout" or "stderr", is "stdin"'),
    ({"files": {"a*": ""}}, "only the files of a step can be there by then"),
    ({"files": {"a": None}}, "only the files of a step can be there by then"),
    ({"expect": {"requests": [{"jsn": 1}]}}, "requests[0]: unknown member 'jsn'"),
    ({"expect": {"requests": [{"json": {"a": [{"$mtch": ""}]}}]}}, "must be {$match}"),
    ({"expect": {"requests": [{"json": {"$has": ["a"], "b": 1}}]}}, "member 'b'"),
    ({"expect": {"files": {"a": {"mode": 600}}}}, "mode: must be a mode, is 600"),
    ({"expect": {"files": {"/etc/x": None}}}, '"/etc/x" is not below ${TMP}'),
    ({"files": {"../x": ""}}, '"../x" is not below ${TMP}'),
    ({"level": "MAY"}, '.level: must be "MUST" or "SHOULD", is "MAY"'),
    ({"why": None}, ".why: must be a text, is null"),
    ({"times": 0}, "times: must be a count, is 0"),
    ({"times": True}, "times: must be a count, is true"),
    ({"later": False}, "later: must be true, is false"),
    ({"expect": {"requests": [{"answered": "201"}]}}, "answered: must be a count, is"),
    ({"expect": {"requests": [{"json": {"$holds": 1}}]}}, "must be a list, is 1"),
    ({"expect": {"requests": [{"json": {"$same": 1}}]}}, "must be a text, is 1"),
    ({"steps": []}, "there must be steps"),
    ({"steps": [{}], "expect": {}}, "there must be steps, with these inside: expect"),
    ({"expect": {"returns": 1}}, "without a call there is none of these: args, corpus"),
    ({"corpus": A_CORPUS}, "without a call there is none of these: args, corpus"),
    ({"call": "f", "args": [1], "corpus": A_CORPUS}, "beside a corpus there is none"),
    ({"call": "f", "corpus": {"kind": "x", "least_percent": 1}}, "must be a kind, is"),
    ({"call": "f", "corpus": {"kind": "named"}}, ".corpus: least_percent is missing"),
    ({"steps": [{"args": []}]}, "without a call there is none of these"),
    ({"tls": "none"}, ".tls: must be a certificate, is"),
    ({"spec": "README.md#nope"}, "no heading has the anchor of README.md#nope"),
    ({"spec": "README.md"}, "no heading has the anchor"),
    ({"argv": ["${HOME}/x"]}, 'unknown placeholder in "${HOME}/x"'),
    ({"files": {"${TMP": ""}}, "unknown placeholder"),
])
def test_a_mistake_in_a_case_names_the_file_the_case_and_the_place(kit, members, says):
    kit.case("good").case("bad", **members).write()
    with pytest.raises(conformance.Mistake) as raised:
        conformance.load(kit.folder / "vectors")
    assert str(raised.value).startswith("tiny.json: tiny/bad")
    assert says in str(raised.value)


@pytest.mark.parametrize("name", ["id", "why", "spec", "level"])
def test_what_a_case_must_have_is_missed(kit, name):
    del kit.case().cases[0][name]
    with pytest.raises(conformance.Mistake, match=f"{name} is missing"):
        conformance.load(kit.write().folder / "vectors")


@pytest.mark.parametrize(("change", "says"), [
    (lambda text: text.replace("tiny/one", "tiny/two"), "tiny/two: this id is taken"),
    (lambda text: text.replace("tiny/one", "big/one"), "the id must begin with tiny/"),
    (lambda text: text[:-1], "Expecting"),
    (lambda text: text.replace('"id"', '"level": "MUST", "id"'), "given twice"),
    (lambda text: text.replace('"cases"', '"case"'), "unknown member 'case'"),
    (lambda text: text.replace('"topic": "tiny", ', ""), "topic is missing"),
    (lambda text: text.replace('"env"', '"evn"'), ".defaults: unknown member 'evn'"),
    (lambda text: text.replace("${PORT}", "${PROT}"), "unknown placeholder"),
])
def test_a_mistake_in_a_file_ends_the_run_before_it_begins(kit, change, says):
    path = kit.case("one").case("two").write().folder / "vectors" / "tiny.json"
    path.write_text(change(path.read_text()))
    code, lines, stderr = kit.start(kit.line())
    assert (code, lines) == (2, [])
    assert stderr.startswith("conformance: ") and "tiny.json" in stderr
    assert says in stderr


# A port's file.

def with_port(kit, **members):
    """Run *kit* with a port file in a folder of its own; return what run() does."""
    folder = kit.folder / "port"
    folder.mkdir()
    port = {"port": "tiny", "language": "Python", "contract": "tiny 1.0",
            "command": kit.command(), **members}
    (kit.folder / "tiny.py").rename(folder / "tiny.py")
    (folder / "conformance.json").write_text(json.dumps(port))
    return kit.run("--port", "port/conformance.json", command=())


def test_what_a_port_says_of_itself_is_heard(kit):
    kit.case("lacking", needs=["wings"], code="sys.exit(1)")
    kit.case("known", code="sys.exit(1)").case("good", code="pass")
    code, lines, _ = with_port(kit, lacks=["wings"],
                               known_failing={"tiny/known": "no time"})
    assert code == 0
    assert verdicts(lines) == {
        "lacking": "ok # SKIP lacks wings", "good": "ok",
        "known": "not ok # TODO known failing: no time"}
    assert lines[-1] == "# tiny 1.0: 1 of 3"
    assert any(line.startswith("# again: ") and line.endswith(
        "--contract tiny --port port/conformance.json --vectors vectors")
        for line in lines)


def test_a_port_that_has_to_be_built_is_built_first_in_its_own_folder(kit):
    maker = "import os; os.rename('tiny.py', 'built.py')"
    command = [*kit.command()[:-1], "built.py"]
    code, lines, _ = with_port(
        kit.case("good", code="pass"), command=command,
        build=[PYTHONS[NEWEST], "-c", maker])
    assert (code, verdicts(lines)) == (0, {"good": "ok"})


def test_a_port_that_cannot_be_built_is_not_judged(kit):
    code, lines, _ = with_port(kit.case(), build=[
        PYTHONS[NEWEST], "-c", "print('no\\ncompiler'); raise SystemExit(3)"])
    assert (code, len(lines), lines[0]) == (1, 2, "TAP version 13")
    assert lines[1].startswith("Bail out! ") and "exit 3" in lines[1]
    assert lines[1].endswith('exit 3, "no\\ncompiler"')


def test_what_a_command_lacks_can_be_said_on_the_command_line(kit):
    kit.case("flies", needs=["wings"], code="sys.exit(1)")
    kit.case("sees", needs=["eyes"], code="sys.exit(1)").case("bad", code="sys.exit(1)")
    code, lines, _ = kit.run("--lacks", "wings", "--lacks", "eyes")
    assert (code, verdicts(lines)) == (1, {
        "flies": "ok # SKIP lacks wings", "sees": "ok # SKIP lacks eyes",
        "bad": "not ok"})
    assert lines[1].endswith("; version: tiny 1.0; lacks: wings, eyes")
    assert any(line.startswith("# again: ") and " --lacks wings --lacks eyes " in line
               for line in lines)


def test_a_lack_that_no_case_minds_is_stale_on_the_command_line_too(kit):
    code, lines, _ = kit.case(code="pass").run("--lacks", "wings")
    assert code == 1
    assert ('# stale: --lacks: no case needs "wings"; remove the entry from'
            " the command line") in lines


@pytest.mark.parametrize(("members", "says"), [
    ({"lacks": ["wings"]}, 'lacks: no case needs "wings"'),
    ({"known_failing": {"tiny/no": ""}}, 'known_failing: there is no case "tiny/no"'),
    ({"known_failing": {"tiny/good": "x"}}, 'known_failing: "tiny/good" passes'),
])
def test_an_entry_that_is_out_of_date_makes_the_run_red(kit, members, says):
    code, lines, _ = with_port(kit.case("good", code="pass"), **members)
    assert code == 1
    assert f"# stale: {says}; remove the entry from port/conformance.json" in lines


def test_a_mistake_in_a_ports_file_is_told(kit):
    code, lines, stderr = with_port(kit.case(), lack=["x"])
    assert (code, lines) == (2, [])
    assert "port/conformance.json: unknown member 'lack'" in stderr


def test_a_should_is_forgiven_unless_told_otherwise(kit):
    kit.case(level="SHOULD", code="sys.exit(1)")
    code, lines, _ = kit.run()
    assert code == 0 and "# - exit: expected 0, got 1" in lines
    assert verdicts(lines)["it"].startswith("not ok # TODO a SHOULD")
    code, lines, _ = kit.run("--strict")
    assert (code, verdicts(lines)) == (1, {"it": "not ok"})


def test_json_holds_what_tap_says(kit):
    kit.case("good", code="pass").case("bad", code="sys.exit(1)")
    code, lines, _ = kit.run("--json")
    report = json.loads("\n".join(lines))
    good, bad = report.pop("cases")
    assert code == 1
    assert report == {
        "contract": "tiny 1.0", "command": kit.command(), "version": "tiny 1.0",
        "passed": 1, "of": 2, "stale": []}
    assert (good["id"], good["result"]) == ("tiny/good", "pass")
    assert bad["differences"] == ["exit: expected 0, got 1"]
    assert bad["happened"] == ["server: nobody connected"]
    assert bad.keys() == {"id", "result", "note", "why", "level", "spec", "differences",
                          "happened", "again"}


# Commands that are no good.

@pytest.mark.parametrize(("command", "says"), [
    (["./no-such-command"], "No such file"),
    ([PYTHONS[NEWEST], "-c", "raise SystemExit(3)"], "exit 3"),
    ([PYTHONS[NEWEST], "-c", "pass"], "exit 0, stdout \"\""),
    ([PYTHONS[NEWEST], "-c", "input(); input()"], "exit 1"),
    ([PYTHONS[NEWEST], "-c", "import time; time.sleep(99)"], "not end within 0.5 s"),
])
def test_without_a_version_nothing_is_run(kit, command, says):
    limit_s = "0.5" if "0.5 s" in says else str(PATIENCE_S / 2)
    code, lines, _ = kit.case().run("--limit-s", limit_s, command=command)
    assert (code, len(lines), lines[0]) == (1, 2, "TAP version 13")
    assert lines[1].startswith("Bail out! ") and says in lines[1]


def test_what_is_said_last_ends_with_a_line_s_end_and_is_one_line(kit):
    command = [PYTHONS[NEWEST], "-c", "import sys; sys.exit('a\\nb')"]
    done = subprocess.run(
        kit.case().write().line(command=command), cwd=str(kit.folder), env=kit.env,
        stdout=subprocess.PIPE, timeout=PATIENCE_S)
    assert done.stdout.endswith(b"\n") and done.stdout.count(b"\n") == 2


@pytest.mark.long
def test_a_command_that_does_nothing_fails(kit):
    options = ["--contract", "send_event", "--vectors", str(VECTORS), "-k", "post/"]
    idle = ["sh", "-c", "case $1 in --version) echo 1.0 ;; esac", "sh"]
    code, lines, _ = kit.run(*options, "--json", "-j", "4", command=idle)
    report = json.loads("\n".join(lines))
    assert code == 1
    assert report["passed"] <= report["of"] / 20


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_a_command_without_end_is_ended_with_its_children(kit):
    pids = kit.folder / "pids"
    kit.case(code="child = subprocess.Popen(['sleep', '99']);"
                  f"put({str(pids)!r}, f'{{os.getpid()}} {{child.pid}}');"
                  "print('begun', flush=True); time.sleep(99)")
    for limit_s in ("1", "9", "30"):  # on a busy machine it may not have begun by then
        pids.unlink(missing_ok=True)
        code, lines, _ = kit.run("--limit-s", limit_s)
        if '#   stdout: "begun"' in lines:
            break
    assert code == 1 and '#   stdout: "begun"' in lines
    assert f"# - did not end within {limit_s} s" in lines
    assert [pid for pid in pids.read_text().split() if is_running(pid)] == []


@pytest.mark.parametrize("session", [False, True])
def test_a_child_that_outlives_the_command_does_not_hold_the_run(kit, session):
    pids = kit.folder / "pids"
    kit.case(code="print('said', flush=True);"
                  f"child = subprocess.Popen(['sleep', '{PATIENCE_S * 2}'],"
                  f" start_new_session={session}); put({str(pids)!r}, str(child.pid))",
             expect={"stdout": "said\n"})
    code, _, _ = kit.run()
    assert code == 0
    assert is_running(pids.read_text()) == session
    if session:
        os.kill(int(pids.read_text()), signal.SIGKILL)


def test_a_run_that_is_told_to_end_leaves_nothing_behind(kit):
    pids = kit.folder / "pids"
    for n in range(4):
        kit.case(str(n), code=f"put({str(pids)!r}, f'{{os.getpid()}} ');"
                              "time.sleep(99)")
    runner = subprocess.Popen(kit.write().line("-j", "2"), cwd=str(kit.folder),
                              env=kit.env, stdout=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE_S
    while not (pids.exists() and len(pids.read_text().split()) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    runner.terminate()
    runner.communicate(timeout=PATIENCE_S)
    assert runner.returncode == 128 + signal.SIGTERM
    while any(map(is_running, pids.read_text().split())) or any(
            kit.tmp.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# What the runner brings along.

def test_the_certificates_are_good_for_years_and_each_bad_one_for_its_own_reason():
    x509 = pytest.importorskip("cryptography.x509", reason="made by cryptography")
    mark = b"-----BEGIN CERT"
    shown = {path.stem: x509.load_pem_x509_certificate(
        mark + path.read_bytes().partition(mark)[2])
        for path in conformance.TLS.glob("*.pem")}
    until = {name: found.not_valid_after.year for name, found in shown.items()}
    assert until.pop("expired") < 2026 and set(until.values()) == {2120}
    ours = shown["ca"].subject
    assert {name for name, found in shown.items() if found.issuer == ours} == {
        "ca", "good", "other-host", "expired"}
    assert shown["self-signed"].issuer == shown["self-signed"].subject


def test_the_table_of_agents_is_the_librarys():
    assert agents_table.TABLE.read_text(encoding="utf-8") == agents_table.text()
    page = (CONTRACT / "README.md").read_text(encoding="utf-8")
    page = page.partition("## The agents, as a table")[2].partition("\n## ")[0]
    said = {name for part in agents_table.table()["agents"] for words in part["signs"]
            for word in words for name in word}
    assert [name for name in said if f"`{name}`" not in page
            and f'"{name}"' not in page] == []
