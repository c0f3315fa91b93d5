# SPDX-License-Identifier: MIT
"""The event server's page shows what is stored, to its own people, and as text."""

import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

from conftest import TESTS, eventually
from server import EventServer, stream
from server.routes import is_own_host
from server.telling import FILES
from test_server import (
    EVENT,
    connected,
    event_bytes,
    fixture_command,  # noqa: F401 - a fixture
    get,
    http_request,
    parts,
    post,
    server_threads,
    talk,
)

pytestmark = pytest.mark.filterwarnings(
    "error::pytest.PytestUnhandledThreadExceptionWarning")

PAGE = TESTS / "server" / "page"
SHOWING = ["/", "/page/main.js", "/events", "/stream", "/runs", "/sessions",
           "/story?session_id=a", "/search?q=a", "/call?session_id=a&id=b",
           "/telemetry", "/server-names"]
NPM_PACKAGE = "@sparticuz/chromium@147.0.0"  # carries a Chromium for Linux
BROWSERS = Path(sys.prefix) / "browsers"
DOWNLOAD_S = 300


# Who may ask for what.

def asked(path, host="localhost", method="GET"):
    return (f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").encode()


def first_bytes(server, request):
    with connected(server) as sock:
        sock.sendall(request)
        return parts(sock.recv(1 << 16))


def test_the_page_may_run_its_own_files_and_load_nothing_else():
    with EventServer() as server:
        for path, kind in [("/", "text/html"), ("/page/main.js", "text/javascript"),
                           ("/page/style.css", "text/css")]:
            status, headers, body = parts(talk(server, asked(path)))
            assert (status, headers["content-type"]) == (200, f"{kind}; charset=utf-8")
            assert int(headers["content-length"]) == len(body)
            policy = dict(part.split(" ", 1) for part in
                          headers["content-security-policy"].split("; "))
            assert policy == {
                "default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
                "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'",
                "form-action": "'none'", "frame-ancestors": "'none'"}


def test_the_page_is_below_700_lines_in_files_that_refer_to_nothing_elsewhere():
    files = sorted(PAGE.iterdir())
    assert sorted(path.name for path in files) == sorted(FILES)
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    lengths = {name: len(text.splitlines()) for name, text in texts.items()}
    assert sum(lengths.values()) < 700
    for text in texts.values():
        assert not re.search(r"@import|innerHTML|outerHTML|insertAdjacent|eval\(", text)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)


@pytest.mark.parametrize("path", ["/page/", "/page/../store.py", "/page/index.html/..",
                                  "/page/nothing.js", "/page/%2e%2e/store.py"])
def test_no_other_file_is_served(path):
    with EventServer() as server:
        assert parts(talk(server, asked(path)))[0] == 404


@pytest.mark.parametrize("path", ["/", "/stream", "/runs"])
@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "OPTIONS"])
def test_what_shows_events_answers_to_get_alone(path, method):
    with EventServer() as server:
        status, headers, _ = parts(talk(server, asked(path, method=method)))
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", SHOWING)
def test_no_page_from_elsewhere_is_told_that_it_may_read(path):
    request = asked(path).replace(b"\r\n\r\n", b"\r\nOrigin: http://evil.test\r\n\r\n")
    with EventServer() as server:
        status, headers, _ = first_bytes(server, request)
    assert status == 200
    assert not [name for name in headers if name.startswith("access-control")]
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("host", ["localhost", "LocalHost:4000", "127.0.0.1:80",
                                  "127.9.9.9", "[::1]:4000", "[0:0:0:0:0:0:0:1]"])
@pytest.mark.parametrize("path", SHOWING)
def test_a_host_of_this_machine_is_answered(path, host):
    with EventServer() as server:
        assert first_bytes(server, asked(path, host))[0] == 200


@pytest.mark.parametrize("host", [
    "evil.test", "localhost.evil.test:4000", "127.0.0.1.evil.test", "10.0.0.1", "",
    "[", "[::2]", "localhost@evil.test", "0.0.0.0", "169.254.169.254"])
@pytest.mark.parametrize("path", SHOWING)
def test_a_name_that_was_made_to_lead_here_reads_nothing(path, host):
    with EventServer() as server:
        status, headers, body = parts(talk(server, asked(path, host)))
    assert (status, headers["content-type"]) == (403, "application/json")
    assert json.loads(body)["error"] == "Forbidden"


def test_a_request_without_a_host_reads_nothing():
    with EventServer() as server:
        assert parts(talk(server, b"GET /events HTTP/1.0\r\n\r\n"))[0] == 403


@pytest.mark.parametrize("host, answered", [
    ("hooks.lan:4000", True), ("HOOKS.lan", True), ("10.0.0.7:4000", True),
    ("[fd00::7]:80", False), ("lan", False), ("10.0.0.70", False)])
def test_the_name_or_address_that_is_listened_on_is_answered(host, answered):
    assert is_own_host(host, ("hooks.lan", "10.0.0.7")) is answered


def test_a_server_on_every_address_answers_to_the_one_that_was_connected_to():
    with EventServer(host="0.0.0.0") as server, socket.socket() as sock:
        sock.connect(("127.0.0.1", server.port))
        assert first_bytes(server, asked("/", "0.0.0.0"))[0] == 200
        assert first_bytes(server, asked("/", "evil.test"))[0] == 403
        assert server.exchanges[1].address == "127.0.0.1"


def test_hooks_on_other_machines_and_monitors_may_use_any_name(monkeypatch):
    request = http_request(event_bytes()).replace(b"localhost", b"collector.lan")
    with EventServer(host="0.0.0.0") as server:
        monkeypatch.setattr("server.serving.plain_address", lambda text: "10.0.0.7")
        assert parts(talk(server, request))[0] == 201
        assert parts(talk(server, asked("/health", "collector.lan")))[0] == 200
        assert parts(talk(server, asked("/", "collector.lan")))[0] == 403


# The stream.

class Viewer:
    """A client of GET /stream that reads when it is told to."""

    def __init__(self, server, path="/stream", last_event_id=None):
        self.sock, self.raw = connected(server), b""
        resumed = f"\r\nLast-Event-ID: {last_event_id}" if last_event_id else ""
        self.sock.sendall(asked(path, "localhost" + resumed))

    def events(self, count):
        """Return the first *count* events as (id, document)."""
        return self.read(lambda blocks: [block for block in blocks
                                         if not block.startswith(":")], count)

    def comments(self, count):
        return self.read(lambda blocks: [block for block in blocks
                                         if block.startswith(":")], count)

    def read(self, choose, count):
        while True:
            head, has_begun, body = self.raw.decode().partition("\r\n\r\n")
            chosen = choose(body.split("\n\n")[:-1])
            if has_begun and len(chosen) >= count:
                self.head = head.lower()
                return [self.event(block) for block in chosen]
            data = self.sock.recv(1 << 16)
            assert data, "the stream ended"
            self.raw += data

    @staticmethod
    def event(block):
        if block.startswith(":"):
            return block
        lines = [line.partition(": ") for line in block.split("\n")]
        assert [name for name, _, _ in lines] == ["id", "data"]
        return int(lines[0][2]), json.loads(lines[1][2])

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.sock.close()


@pytest.fixture(name="server")
def fixture_server():
    with EventServer() as server:
        yield server


def test_a_stream_brings_what_is_stored_and_then_each_event_as_it_comes(server):
    first = post(server)[1]
    with Viewer(server) as viewer:
        assert viewer.events(1) == [(1, first)]
        second = post(server)[1]
        assert viewer.events(2) == [(1, first), (2, second)]
        assert "content-type: text/event-stream\r\n" in viewer.head + "\r\n"
        assert "content-length" not in viewer.head


def test_text_in_an_event_cannot_end_it(server):
    stored = post(server, event_bytes(
        summary="a\n\ndata: b\r\n\r\nid: 9\u2028", metadata='"\\n\\ndata: c"'))[1]
    with Viewer(server) as viewer:
        assert viewer.events(1) == [(1, stored)]


@pytest.mark.parametrize("query, resumed, ids", [
    ("", None, [1, 2, 3, 4, 5]), ("?since_id=3", None, [4, 5]), ("", "2", [3, 4, 5]),
    ("?since_id=1", "4", [5]), ("?last=2", None, [4, 5]), ("?last=0&x=1", None, []),
    ("?since_id=1&last=10", None, [2, 3, 4, 5]), ("?since_id=1&last=1", None, [5]),
    ("", "5", [])])
def test_a_stream_goes_on_where_its_viewer_left(server, query, resumed, ids):
    for _ in range(5):
        server.store.add(EVENT)
    with Viewer(server, "/stream" + query, resumed) as viewer:
        assert [n for n, _ in viewer.events(len(ids))] == ids
        post(server)
        assert [n for n, _ in viewer.events(len(ids) + 1)] == [*ids, 6]


@pytest.mark.parametrize("query, resumed", [("?since_id=70", None), ("", "70")])
def test_an_id_of_a_store_that_is_gone_starts_from_the_first(server, query, resumed):
    server.store.add(EVENT)
    with Viewer(server, "/stream" + query, resumed) as viewer:
        assert [n for n, _ in viewer.events(1)] == [1]


@pytest.mark.parametrize("query", ["since_id=x", "since_id=-1", "last=", "last=1e3"])
def test_a_stream_that_cannot_be_is_refused_by_name(server, query):
    status, answer = get(server, "/stream?" + query)
    assert status == 400
    assert answer["message"].startswith(f"Invalid {query.partition('=')[0]}: ")


def test_a_stream_of_nothing_says_that_it_is_there(server, monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.1)
    with Viewer(server) as viewer:
        assert len(viewer.comments(3)) == 3
        assert viewer.events(0) == []


def test_every_viewer_gets_every_event_once_and_in_order(server):
    with contextlib.ExitStack() as stack:
        viewers = [stack.enter_context(Viewer(server)) for _ in range(20)]
        posts = [threading.Thread(target=post, args=(server,)) for _ in range(40)]
        for thread in posts:
            thread.start()
        for thread in posts:
            thread.join()
        for viewer in viewers:
            assert [n for n, _ in viewer.events(40)] == list(range(1, 41))


def test_viewers_that_do_not_read_slow_no_hook(server):
    large = {**EVENT, "metadata": json.dumps("x" * 200_000)}
    for _ in range(100):
        server.store.add(large)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(Viewer(server))
        eventually(lambda: len(server.exchanges) == 8 and all(
            viewer.follow for viewer in server.exchanges))
        assert {post(server)[0] for _ in range(20)} == {201}
        assert all(viewer.held_ms is None for viewer in server.exchanges[:8])


def test_more_viewers_than_hooks_can_bear_are_told_to_come_again(server, monkeypatch):
    monkeypatch.setattr(stream, "VIEWERS_MAX", 2)
    with Viewer(server) as first, Viewer(server):
        eventually(lambda: len(server.exchanges) == 2 and all(
            viewer.follow for viewer in server.exchanges))
        status, answer = get(server, "/stream")
        assert (status, answer["error"]) == (503, "Unavailable")
        assert "2 " in answer["message"]
        first.sock.close()
        eventually(lambda: server.exchanges[0].held_ms is not None)
        with Viewer(server) as third:
            post(server)
            assert third.events(1)


def test_a_viewer_that_leaves_is_let_go(server):
    with Viewer(server):
        eventually(lambda: server.exchanges and server.exchanges[0].follow)
    assert server.wait(1)[0].ended_by == "client"


def test_stopping_ends_every_stream_at_once():
    before = threading.enumerate()
    with EventServer() as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(Viewer(server))
        eventually(lambda: len(server.exchanges) == 3 and all(
            viewer.follow for viewer in server.exchanges))
        server.__exit__()
        assert server_threads(before) == []


def test_a_store_that_fails_ends_the_stream(server):
    with Viewer(server) as viewer:
        eventually(lambda: server.exchanges and server.exchanges[0].follow)
        server.store._sqlite.execute("DROP TABLE events")
        server.store._sqlite.execute("INSERT INTO runs (after_id) VALUES (0)")
        assert server.wait(1)[0].ended_by == "server"
        assert b"500" not in viewer.sock.recv(1 << 16)


# When a server had the store.

def test_a_file_tells_when_no_server_had_it(tmp_path):
    db = str(tmp_path / "events.db")
    for events in (2, 0, 1):
        with EventServer(db=db) as server:
            for _ in range(events):
                post(server)
    with EventServer(db=db) as server:
        runs = get(server, "/runs")[1]
    assert [run["after_id"] for run in runs] == [0, 2, 2, 3]
    assert "stopped_at" not in runs.pop()
    for run in runs:
        assert run["started_at"] <= run["stopped_at"]


def test_a_server_that_was_killed_leaves_open_when_it_ended(command, tmp_path):
    db = str(tmp_path / "events.db")
    killed = command("--db", db)
    post(killed)
    killed.process.kill()
    killed.process.wait(timeout=10)
    ended = command("--db", db)
    assert ended.stop(signal.SIGTERM)[0] == 0
    runs = get(command("--db", db), "/runs")[1]
    assert [sorted(run) for run in runs] == [
        ["after_id", "started_at"], ["after_id", "started_at", "stopped_at"],
        ["after_id", "started_at"]]


@pytest.mark.parametrize("runs, idle_since", [
    ([(0, None, 10), (20, None, None)], [None, 10]),
    ([(0, None, 90), (20, None, 30), (80, None, None)], [None, None, None]),
    ([(0, None, None), (20, None, None)], [None, None]),  # killed, or at work yet
    ([(0, None, None), (100, None, None)], [None, 30]),
    ([(0, 90, None), (100, None, None)], [None, None]),
    ([(0, 90, None), (200, None, None)], [None, 120]),
    ([(0, 300, 310), (20, None, 30), (400, None, None)], [None, None, 310])])
def test_a_store_was_idle_where_surely_no_server_had_it(server, runs, idle_since):
    server.store.run("DELETE FROM runs")
    for run in runs:
        server.store.run(
            "INSERT INTO runs (started_at, seen_at, stopped_at) VALUES (?, ?, ?)",
            *(second if second is None else at(second) for second in run))
    assert [run.get("idle_since") for run in get(server, "/runs")[1]] == [
        second if second is None else at(second) for second in idle_since]


def test_a_server_notes_now_and_then_that_it_goes_on(server, monkeypatch):
    server.attribution.sweep()
    seen_at = "SELECT seen_at FROM runs"
    ((first,),), _ = server.store.run(seen_at)
    server.attribution.sweep()
    assert server.store.run(seen_at)[0] == [(first,)]
    monkeypatch.setattr("server.attribution.NOTED_S", -1)
    monkeypatch.setattr("server.store.utc_now", lambda: "later")
    server.attribution.sweep()
    assert (first is None, server.store.run(seen_at)[0]) == (False, [("later",)])


# The page in a browser.

def run_quietly(*command, **kwargs):
    done = subprocess.run([shutil.which(command[0]) or command[0], *command[1:]],
                          capture_output=True, timeout=DOWNLOAD_S, **kwargs)
    if done.returncode:
        lines = (done.stderr + done.stdout).decode(errors="replace").split("\n")
        said = [line for line in lines if re.search("error|fail", line, re.I)]
        raise OSError((said or lines)[0][:200])


def from_environment():
    """Return what HOOK_CHROMIUM names."""
    return os.environ["HOOK_CHROMIUM"]


def from_shell():
    """Return a Chromium without windows: a page takes it a quarter of the time."""
    names = ("chromium-headless-shell", "chrome-headless-shell", "headless_shell")
    return next(filter(None, map(shutil.which, names)))


def from_path():
    """Return the browser that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)))


def from_earlier():
    """Return what from_npm() fetched before."""
    if not (BROWSERS / "npm").exists():
        raise LookupError("nothing")
    return str(BROWSERS / "npm" / "chromium")


def from_playwright():
    """Have playwright fetch its own, which is found without a path."""
    run_quietly(sys.executable, "-m", "playwright", "install", "--only-shell",
                "chromium")


def from_npm():
    """Return the one that is packed in a package, for where only registries are."""
    kept = BROWSERS / "npm"
    if not kept.exists():
        BROWSERS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=str(BROWSERS)) as folder:
            unpack_from_npm(os.path.join(folder, "npm"))
            with contextlib.suppress(OSError):  # another process was first
                os.rename(os.path.join(folder, "npm"), str(kept))
    return str(kept / "chromium")


def unpack_from_npm(folder):
    os.mkdir(folder)
    run_quietly("npm", "install", "--no-audit", "--no-fund", "--prefix", folder,
                NPM_PACKAGE)
    script = ("const found = require('@sparticuz/chromium');"
              "(found.default || found).executablePath()")
    run_quietly("node", "-e", script, cwd=folder, env={**os.environ, "TMPDIR": folder})


SOURCES = (from_environment, from_shell, from_path, from_earlier, from_playwright,
           from_npm)
#: for what measures: the browser that people have
WHOLE = tuple(source for source in SOURCES if source is not from_shell)


def launched(playwright, api, sources):
    """Return the first browser that starts; skips with the reasons of each."""
    missed = []
    for source in sources:
        try:
            return playwright.chromium.launch(executable_path=source())
        except (LookupError, StopIteration, OSError, api.Error,
                subprocess.SubprocessError) as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            missed.append(f"{source.__name__}: {told}")
    return pytest.skip(f"no Chromium starts here: {'; '.join(missed)}")


def started_browser(sources=SOURCES):
    """Yield a headless Chromium, of the first of *sources* that has one."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not there")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(BROWSERS))
        with api.sync_playwright() as playwright:
            browser = launched(playwright, api, sources)
            yield browser
            browser.close()


class Page:
    """The page of *server* in a tab of its own."""

    def __init__(self, context, server):
        self.tab, self.server, self.requests = context.new_page(), server, []
        self.complaints = []
        self.tab.set_default_timeout(20_000)
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", lambda line: self.complaints.append(line.text)
                    if line.type == "error" and "net::" not in line.text else None)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.port}/"

    def open(self, hash=""):
        self.tab.goto(self.address + hash)
        self.says("live")
        return self

    def says(self, text):
        self.tab.get_by_text(text).filter(visible=True).first.wait_for()

    def row(self, text):
        return self.tab.locator(".row", has_text=text)

    def rows(self):
        """Return the cells of each row that is there, top to bottom."""
        found = self.tab.locator("#rows").evaluate(
            "rows => [...rows.children].map("
            "row => [...row.children].map(cell => cell.textContent))")
        return [list(filter(None, cells)) for cells in found]

    def detail(self):
        return self.tab.locator("#detail").inner_text()


@pytest.fixture(name="page")
def fixture_page(chromium, server):
    context = chromium.new_context(viewport={"width": 1280, "height": 720})
    page = Page(context, server)
    yield page
    context.close()
    assert page.complaints == []
    hosts = {url.split("/")[2] for url in page.requests if not url.startswith("data:")}
    assert hosts <= {f"127.0.0.1:{server.port}"}


BEGIN = 1_790_000_000


def at(second):
    moment = datetime.datetime.fromtimestamp(BEGIN + second, datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds")[:23] + "Z"


def add(server, kind, second, session="s1", app="shop", **said):
    """Store an event as Claude Code says it."""
    said = {"session_id": session, "hook_event_name": kind, "cwd": f"/home/dev/{app}",
            "transcript_path": "/x.jsonl", **said}
    event = {"timestamp": at(second), "source_app": app, "event_type": kind,
             "session_id": session, "metadata": json.dumps(said)}
    if "tool_name" in said:
        event["tool_name"] = said["tool_name"]
    return server.store.add(event)


def call(server, use, second, tool="Bash", failed=False, session="s1", **said):
    """Store both events of a call that took a second."""
    said = {"tool_name": tool, "tool_use_id": use,
            "tool_input": {"command": f"run {use}"}, **said}
    add(server, "PreToolUse", second, session, **said)
    add(server, "PostToolUseFailure" if failed else "PostToolUse", second + 1, session,
        **({"error": "Exit code 1"} if failed else {"tool_response": {"stdout": "ok"}}),
        **said)


def turn(server, second=0, session="s1", prompt="Mend the checkout"):
    add(server, "UserPromptSubmit", second, session, prompt=prompt)
    call(server, f"{session}a", second + 1, session=session)
    call(server, f"{session}b", second + 3, failed=True, session=session)
    add(server, "Stop", second + 5, session)


def test_an_event_appears_when_it_is_sent(page, server):
    page.open()
    page.says("No events yet.")
    turn(server)
    page.row("Mend the checkout").wait_for()


def test_a_call_is_one_row_with_its_time_and_outcome(page, server):
    turn(server)
    call(server, "own", 7, duration_ms=125_000)
    add(server, "PreToolUse", 10, tool_name="Read", tool_use_id="lost", tool_input={})
    add(server, "Stop", 11)
    page.open()
    page.row("run own").wait_for()
    rows = page.rows()
    assert [row[1] for row in rows] == ["prompt", "Bash", "Bash", "Bash", "Read"]
    assert rows[1][-2:] == ["run s1a", "1.0 s"]
    assert rows[2][-3:] == ["run s1b · Exit code 1", "error", "1.0 s"]
    assert rows[3][-1] == "2 min 05 s"
    assert rows[4][-1] == "no end seen"


def test_the_calls_of_a_subagent_have_a_lane(page, server):
    who = {"agent_id": "a1", "agent_type": "Explore"}
    add(server, "UserPromptSubmit", 0, prompt="Look")
    call(server, "main", 1)
    add(server, "SubagentStart", 2, **who)
    call(server, "inner", 3, tool="Grep", **who)
    add(server, "SubagentStop", 5, **who)
    page.open()
    page.row("Explore").wait_for()
    assert "↳ Explore" in page.rows()[2]
    heights = page.tab.locator("#chart").evaluate("chart => chart.clientHeight")
    assert heights == 18 + 2 * 26


def test_subagents_one_after_the_other_share_a_lane_and_two_at_once_have_two(
        page, server):
    def lanes():
        height = page.tab.locator("#chart").evaluate("chart => chart.clientHeight")
        return (height - 18) / 26

    add(server, "UserPromptSubmit", 0, prompt="Look")
    for number in range(5):
        call(server, f"c{number}", 10 * number, agent_id=f"a{number}",
             agent_type="Explore")
    page.open()
    page.row("run c4").wait_for()
    eventually(lambda: lanes() == 2)
    call(server, "beside", 40.5, agent_id="a5", agent_type="Explore")
    page.row("run beside").wait_for()
    eventually(lambda: lanes() == 3)
    call(server, "other", 60, agent_id="a6", agent_type="code reviewer")
    page.row("run other").wait_for()
    eventually(lambda: lanes() == 4)
    for number in range(20):
        call(server, f"d{number}", 100, agent_id=f"b{number}", agent_type="Explore")
    page.row("run d19").wait_for()
    eventually(lambda: lanes() == 13)  # the rest share the last


def test_a_long_prompt_is_read_whole_and_a_row_has_its_beginning(page, server):
    prompt = "Mend it. " * 2000 + "Thank you"
    turn(server, prompt=prompt)
    page.open()
    page.row("Mend it").click()
    page.tab.locator("#detail pre", has_text="Thank you").wait_for()
    assert len(page.row("Mend it").inner_text()) < 400


def test_sessions_stand_by_person_and_project_with_tokens_and_cost(page, server):
    otel = TESTS / "otel" / "metrics.json"
    text = otel.read_text().replace("f92bac9e-5900-412b-aef4-cb42525644ab", "s1")
    turn(server)
    turn(server, session="s2")
    talk(server, http_request(text.encode(), "/v1/metrics"))
    page.open("#session=s1")
    page.row("Mend").first.wait_for()
    side = page.tab.locator("#side").inner_text()
    assert side.index("dev@example.com") < side.index("nobody known") or (
        "nobody known" in side)
    totals = page.tab.locator("#totals").inner_text().replace("\n", " ")
    for fact in ("calls 2", "failed 1", "input 9,045", "output 675",
                 "cache read 274,500", "cache written 18,450", "cost $0.0774"):
        assert fact in totals, totals


def test_a_session_that_telemetry_alone_tells_of_is_shown_with_its_totals(page, server):
    text = (TESTS / "otel" / "metrics.json").read_bytes()
    talk(server, http_request(text, "/v1/metrics"))
    page.open()
    page.tab.locator("#totals").get_by_text("$0.0774").wait_for()
    assert page.tab.locator("#empty").inner_text() == (
        "No hook sent an event of this session; its telemetry came")
    assert "dev@example.com" in page.tab.locator("#side").inner_text()
    turn(server, session="f92bac9e-5900-412b-aef4-cb42525644ab")
    page.row("Mend").first.wait_for()
    assert page.tab.locator("#empty").inner_text() == ""


def test_a_session_that_waits_for_a_person_is_told_until_it_goes_on(page, server):
    add(server, "UserPromptSubmit", 0, prompt="Tidy up")
    said = {"tool_name": "Bash", "tool_use_id": "w", "tool_input": {"command": "rm x"}}
    add(server, "PreToolUse", 1, **said)
    add(server, "PermissionRequest", 2, **said)
    page.open()
    page.tab.locator("#waiting button").wait_for()
    assert page.tab.title() == "(1) hook-io"
    add(server, "PostToolUse", 66, tool_response="", **said)
    page.tab.locator("#waiting button").wait_for(state="detached")
    page.tab.locator("#totals", has_text="1 min 04 s").wait_for()


def test_input_and_output_are_readable_and_a_change_is_a_diff(page, server):
    add(server, "UserPromptSubmit", 0, prompt="one\ntwo")
    call(server, "edit", 1, tool="Edit", tool_input={
        "file_path": "/a.py", "old_string": "x = 1\ny = 2",
        "new_string": "x = 1\ny = 3"})
    call(server, "json", 3, tool="mcp__db__query", tool_input={"rows": list(range(40))})
    page.open()
    page.row("Edit").click()
    page.tab.locator("#detail .del", has_text="- y = 2").wait_for()
    page.tab.locator("#detail .add", has_text="+ y = 3").wait_for()
    page.row("mcp__db__query").click()
    folded = page.tab.locator("#detail summary", has_text="rows [40]").first
    folded.wait_for()
    assert not page.tab.get_by_text("39: 39").first.is_visible()
    folded.click()
    page.says("39: 39")
    page.row("one two").click()
    page.tab.locator("#detail pre", has_text="one\ntwo").wait_for()


@pytest.mark.parametrize("text", [
    "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>",
    "\u202egnp.exe", "javascript:alert(1)", "[" * 3000])
def test_hostile_text_is_shown_and_never_run(page, server, text):
    dialogs = []
    page.tab.on("dialog", lambda dialog: (dialogs.append(1), dialog.dismiss()))
    add(server, "UserPromptSubmit", 0, app=text[:200], session=text, prompt=text)
    call(server, "u", 1, tool=text[:9000], session=text, tool_input={text: text},
         agent_type=text)
    page.open()
    page.tab.locator(".row").nth(1).click()
    page.tab.locator("#detail").wait_for()
    assert text[:100] in page.detail()
    assert (dialogs, page.tab.locator("img, main script").count()) == ([], 0)


@pytest.mark.parametrize("patch", [
    [{"lines": 5}], [{"lines": ["+a"]}, None], [{"lines": [5, None, {}]}], [[]],
    {"0": {"lines": ["+a"]}}, [{"lines": {"map": 1}}], "patch", 7, [None], []])
def test_a_change_that_is_none_is_shown_as_what_it_is(page, server, patch):
    add(server, "PostToolUse", 2, tool_name="Bash", tool_use_id="u", tool_input={},
        tool_response={"structuredPatch": patch, "said": "as it came"})
    page.open()
    page.row("Bash").click()
    page.says("said: as it came")


def test_sixty_events_with_names_of_a_quarter_megabyte_freeze_nothing(page, server):
    for number in range(60):
        status, _ = post(server, event_bytes(
            session_id=f"{number}" + "x" * 9_000, source_app="y" * 10_000,
            tool_name="z" * 250_000))
        assert status == 400
        post(server, event_bytes(session_id=f"{number}" + "x" * 9_000,
                                 source_app="y" * 10_000, tool_name="z" * 10_000))
    page.open()
    page.tab.locator("#side button").nth(59).wait_for()
    longest = page.tab.evaluate(LONGEST_TASK)
    assert longest < 1000


def test_whole_events_are_searched(page, server):
    turn(server)
    call(server, "deep", 9, tool_input={"command": "make Needle-7"})
    page.open()
    page.tab.get_by_label("Search").fill("needle-7")
    page.says("2 events with “needle-7”")
    page.tab.locator("#found button").first.click()
    page.tab.locator("#detail", has_text="make Needle-7").wait_for()
    page.tab.get_by_label("Search").fill("")
    page.row("Mend").wait_for()


def test_a_link_opens_what_was_seen(page, server):
    turn(server)
    turn(server, 100, "s2", prompt="Another")
    page.open()
    page.tab.locator("#side [data-session=s1]").click()
    page.row("run s1b").click()
    page.tab.get_by_label("Zoom in").click()
    page.tab.wait_for_function("location.hash.includes('from=')")
    link = page.tab.evaluate("location.hash")
    assert "session=s1" in link and "item=call+s1b" in link
    again = Page(page.tab.context, server)
    again.open(link)
    again.tab.locator("#detail", has_text="Exit code 1").wait_for()
    assert again.tab.evaluate("location.hash") == link


def test_everything_is_in_reach_of_the_keyboard(page, server):
    turn(server)
    turn(server, 100, "s2")
    page.open("#session=s1")
    page.row("Mend").wait_for()
    keys = page.tab.keyboard
    reached = set()
    for _ in range(17):
        keys.press("Tab")
        reached.add(page.tab.evaluate("document.activeElement.id || "
                                      "document.activeElement.dataset.session || "
                                      "document.activeElement.dataset.zoom"))
    assert {"pause", "notify", "asks", "search", "s1", "s2", "chart", "0.5",
            "list"} <= reached
    page.tab.locator("#list").focus()
    for key in ("Home", "ArrowDown", "ArrowDown", "Enter"):
        keys.press(key)
    page.tab.locator("#detail", has_text="Exit code 1").wait_for()
    chosen = page.tab.locator("#list").get_attribute("aria-activedescendant")
    assert page.tab.locator(f"#{chosen}").get_attribute("aria-selected") == "true"
    keys.press("Escape")
    page.tab.locator("#detail").wait_for(state="hidden")
    page.tab.locator("#chart").focus()
    keys.press("+")
    page.tab.wait_for_function("location.hash.includes('from=')")
    keys.press("0")
    page.tab.wait_for_function("!location.hash.includes('from=')")


def test_a_screen_reader_finds_names_and_rows(page, server):
    turn(server)
    page.open()
    page.row("Mend").wait_for()
    for role, name in [("navigation", "Sessions by person and project"),
                       ("listbox", "Turns and calls, newest last"),
                       ("searchbox", "Search"), ("button", "Zoom in")]:
        assert page.tab.get_by_role(role, name=name).count() == 1, name
    option = page.tab.get_by_role("option", name="Mend the checkout")
    assert option.get_attribute("aria-posinset") == "1"
    assert option.get_attribute("aria-setsize") == "3"


def test_a_paused_page_stands_still_and_misses_nothing(page, server):
    turn(server)
    page.open()
    page.row("Mend").wait_for()
    page.tab.get_by_role("button", name="Pause", exact=True).click()
    page.says("paused")
    turn(server, 50, prompt="While you were away")
    page.tab.wait_for_timeout(700)
    assert page.row("While you were away").count() == 0
    page.tab.get_by_role("button", name="Resume", exact=True).click()
    page.row("While you were away").wait_for()


def test_a_server_that_goes_is_told_and_the_gap_stays_visible(chromium, tmp_path):
    db, context = str(tmp_path / "db"), chromium.new_context()
    with EventServer(db=db) as server:
        page = Page(context, server)
        now = time.time() - BEGIN
        turn(server, now - 60)
        page.open()
        page.row("Mend").wait_for()
        port = server.port
    page.says("lost")
    with EventServer(db=db, port=port) as server:
        turn(server, time.time() - BEGIN, prompt="After the gap")
        page.says("live")
        page.row("After the gap").wait_for()
        page.row("The server did not run until").wait_for()
        context.close()


#: the longest task of the main thread since the page began, in ms
LONGEST_TASK = """() => new Promise(done => {
    new PerformanceObserver(list => done(Math.max(0, ...list.getEntries().map(
        task => task.duration)))).observe({type: "longtask", buffered: true});
    setTimeout(() => done(0), 500);
})"""


def fill(server, count):
    """Store *count* events of one long session, ten calls a turn."""
    with server.store.changing():
        for number in range(count // 22):
            add(server, "UserPromptSubmit", number * 30, prompt=f"prompt {number}")
            for step in range(10):
                call(server, f"{number}-{step}", number * 30 + 1 + step)
            add(server, "Stop", number * 30 + 20)


def asked_for(page, path):
    return [url for url in page.requests if f"{path}?" in url]


def rows_of(page):
    """Return how many rows the list says that it has."""
    return int(page.tab.locator(".row").first.get_attribute("aria-setsize"))


def whole(page, count):
    """Wait until the list has *count* rows."""
    page.tab.locator(f'.row[aria-setsize="{count}"]').first.wait_for()


@pytest.mark.long
@pytest.mark.parametrize("count, fetched", [(4_400, 4_400), (13_200, 10_200)])
def test_many_events_take_as_many_elements_as_are_seen(page, server, count, fetched):
    fill(server, count)
    page.open()
    page.row(f"{count // 22 - 1}-9").wait_for()
    first, *parts = eventually(lambda: asked_for(page, "/story")[:3])
    assert "limit=200" in first  # what is seen at first waits for no more than that
    assert "limit=1000" in parts[-1]
    if fetched < count - 22:
        eventually(lambda: rows_of(page) * 2 > fetched - 1000)
        page.tab.wait_for_timeout(700)
        assert rows_of(page) * 2 <= fetched
    else:
        whole(page, count // 22 * 11)
    assert page.tab.locator("#rows > *").count() < 60
    before = rows_of(page)
    page.tab.locator("#list").evaluate("list => { list.scrollTop = 0; }")
    if fetched < count - 22:
        eventually(lambda: rows_of(page) > before)
        assert page.row("prompt 0").count() == 0
    else:
        page.row("prompt 0").first.wait_for()
    size = page.tab.evaluate("new Blob([document.body.innerHTML]).size")
    assert size < 100_000
    assert len(asked_for(page, "/story")) < fetched / 1000 + 6


def test_a_search_leaves_the_place_in_a_long_session_as_it_was(page, server):
    def shorter(route):
        answer = route.fetch()
        text = answer.text()
        assert "UNASKED = 10000" in text
        route.fulfill(response=answer, body=text.replace("UNASKED = 10000",
                                                         "UNASKED = 1000"))

    fill(server, 4_400)
    page.tab.route("**/page/main.js", shorter)
    page.open()
    page.row("199-9").wait_for()
    eventually(lambda: rows_of(page) > 500)
    page.tab.locator("#list").evaluate("list => { list.scrollTop = 8000; }")
    page.row("199-9").wait_for(state="detached")
    before = page.rows()
    asked = [url for url in asked_for(page, "/story") if "before=" in url]
    page.tab.get_by_label("Search").fill("run 7-3")
    page.says("2 events with “run 7-3”")
    call(server, "later", 9000)
    page.tab.wait_for_timeout(1000)
    page.tab.get_by_label("Search").fill("")
    page.tab.locator("#found").wait_for(state="hidden")
    page.row(before[0][-2]).first.wait_for()
    assert page.rows() == before
    assert [url for url in asked_for(page, "/story") if "before=" in url] == asked


def giant_turn(server, begun=0):
    """Store a turn of 3,003 events, of which each fiftieth call lasts for all of it."""
    add(server, "UserPromptSubmit", begun, prompt="Do it all")
    long = [{"tool_name": "Agent", "tool_use_id": f"long-{n}",
             "tool_input": {"prompt": f"part {n}"}} for n in range(20)]
    for said in long:
        add(server, "PreToolUse", begun + 1, **said)
    for number in range(1480):
        call(server, f"c{number}", begun + 2 + number)
    for said in long:
        add(server, "PostToolUse", begun + 1500, tool_response="", **said)
    add(server, "Stop", begun + 1501)


def test_a_turn_that_is_told_in_parts_is_one_turn_with_each_call_once(page, server):
    with server.store.changing():
        giant_turn(server)
    page.open()
    whole(page, 1 + 20 + 1480)
    page.tab.locator("#list").focus()
    page.tab.keyboard.press("Home")
    turn = page.row("Do it all")
    turn.wait_for()
    assert turn.locator("span").all_text_contents()[2:] == [
        "1,500 calls", "Do it all", "Stop", "25 min 01 s"]
    assert page.rows()[1][1:] == ["Agent", "part 0", "24 min 59 s"]


def test_what_comes_while_one_looks_is_told_as_if_it_had_been_there(page, server):
    page.open()
    add(server, "UserPromptSubmit", 0, prompt="Look")
    said = {"tool_name": "Bash", "tool_use_id": "slow", "tool_input": {"command": "s"}}
    who = {"agent_id": "a1", "agent_type": "Explore"}
    add(server, "PreToolUse", 1, **said)
    page.row("no end seen").wait_for()
    add(server, "PermissionRequest", 2, **said)
    with server.store.changing():
        for number in range(400):
            call(server, f"c{number}", 3 + number, **(who if number % 3 else {}))
    page.row("run c399").wait_for()
    add(server, "PostToolUse", 500, tool_response="", **said)
    page.tab.locator("#list").focus()
    page.tab.keyboard.press("Home")
    page.row("8 min 19 s").wait_for()
    add(server, "Stop", 501)
    turn(server, 600, prompt="And then")
    page.tab.keyboard.press("End")
    page.row("And then").wait_for()
    rows = []
    for _ in range(2):
        whole(page, 1 + 1 + 1 + 400 + 3)
        page.tab.locator("#list").focus()
        for key, wanted in (("Home", "Look"), ("End", "run s1b")):
            page.tab.keyboard.press(key)
            page.row(wanted).wait_for()
            rows.append(page.rows())
        page.open()
    assert rows[0] == rows[2]
    assert rows[1] == rows[3]


def test_the_newest_row_is_seen_until_one_scrolls_away(page, server):
    turn(server)
    for number in range(30):
        call(server, f"n{number}", 10 + number)
    page.open()
    newest = page.row("run n29")
    newest.wait_for()
    bottom = page.tab.locator("#list").bounding_box()
    box = eventually(lambda: newest.bounding_box())
    assert box["y"] + box["height"] <= bottom["y"] + bottom["height"] + 1
    page.tab.set_viewport_size({"width": 1280, "height": 500})
    call(server, "later", 60)
    page.row("run later").wait_for()
    page.tab.locator("#list").evaluate("list => { list.scrollTop = 100; }")
    call(server, "last", 70)
    whole(page, 1 + 2 + 30 + 2)
    assert page.tab.locator("#list").evaluate("list => list.scrollTop") == 100


def test_a_call_without_an_id_is_opened_all_the_same(page, server):
    add(server, "UserPromptSubmit", 0, prompt="Look")
    for number in range(3):
        said = {"tool_name": "Bash", "tool_input": {"command": f"make n{number}"}}
        add(server, "PreToolUse", 10 * number + 1, **said)
        add(server, "PostToolUse", 10 * number + 2, **said,
            tool_response={"stdout": f"said {number}"})
    page.open()
    page.row("make n1").click()
    page.tab.locator("#detail", has_text="said 1").wait_for()
    assert "make n1" in page.detail()
    assert "said 0" not in page.detail() and "said 2" not in page.detail()


def test_a_server_is_called_as_its_project_calls_it(page, server):
    call(server, "q", 1, tool="mcp__db_7f3__query")
    call(server, "r", 3, tool="mcp__other__query")
    body = {"raw_server_name": "db_7f3", "display_name": "Orders"}
    server.attribution.name_server("", **body)
    server.attribution.name_server("elsewhere", "other", "Not ours")
    page.open()
    page.row("Orders: query").wait_for()
    assert [row[1] for row in page.rows()[1:]] == ["Orders: query", "mcp__other__query"]
    page.row("Orders: query").click()
    page.tab.locator("#detail dd", has_text="mcp__db_7f3__query").wait_for()


#: a browser that is allowed to notify, and notes what it was asked to show
NOTIFYING = """
window.notified = [];
window.Notification = class {
    static permission = "granted";
    constructor(title, options) { window.notified.push(`${title}: ${options.body}`);
                                  window.latest = this; }
};
"""


def asks(server, session, second):
    said = {"tool_name": "Bash", "tool_use_id": session,
            "tool_input": {"command": "rm x"}}
    add(server, "PreToolUse", second, session, **said)
    add(server, "PermissionRequest", second + 1, session, **said)
    return said


def test_a_browser_tells_once_of_each_session_that_begins_to_wait(page, server):
    asks(server, "before", 0)
    page.tab.add_init_script(NOTIFYING)
    page.open()
    waiting = page.tab.locator("#waiting button")
    waiting.wait_for()
    asks(server, "unasked", 10)
    waiting.nth(1).wait_for()
    assert page.tab.evaluate("notified") == []  # nobody asked for it
    page.tab.get_by_label("tell me when one waits").check()
    said = asks(server, "mine", 20)
    waiting.nth(2).wait_for()
    assert page.tab.evaluate("notified") == ["hook-io: shop mine waits for you"]
    add(server, "Notification", 30, "mine", notification_type="permission_prompt")
    add(server, "PostToolUse", 40, "mine", tool_response="", **said)
    waiting.nth(2).wait_for(state="detached")
    asks(server, "mine", 50)
    waiting.nth(2).wait_for()
    assert page.tab.evaluate("notified") == ["hook-io: shop mine waits for you"] * 2
    page.tab.evaluate("latest.onclick()")
    page.tab.locator("[data-session=mine][aria-current=true]").wait_for()


def test_a_permission_to_notify_is_asked_for_when_somebody_wants_it(page, server):
    page.tab.add_init_script("""
        window.asked = 0;
        window.Notification = class {
            static permission = "default";
            static requestPermission() { window.asked++; }
            constructor() { window.asked = NaN; }
        };""")
    page.open()
    assert page.tab.evaluate("asked") == 0
    page.tab.get_by_label("tell me when one waits").check()
    assert page.tab.evaluate("asked") == 1
    asks(server, "mine", 20)
    page.tab.locator("#waiting button").wait_for()
    assert page.tab.evaluate("asked") == 1  # not allowed, not shown


def test_a_session_older_than_500_others_is_in_reach_and_its_link_opens(page, server):
    with server.store.changing():
        turn(server, session="old", prompt="Long ago")
        for n in range(1020):
            add(server, "Stop", 100 + n, f"n{n}")
    page.open()
    listed = page.tab.locator("#side [data-session]")
    older = page.tab.locator("#side button", has_text="Older sessions")
    for count in (500, 1000):
        page.tab.locator(f"#side [data-session=n{1020 - count}]").wait_for(
            state="attached")
        assert listed.count() == count + 1  # and the button
        assert not page.tab.locator("#side [data-session=old]").count()
        older.focus()
        page.tab.keyboard.press("Enter")
    page.tab.locator("#side [data-session=old]").wait_for(state="attached")
    assert not older.count()
    page.tab.locator("#side [data-session=old]").click()
    page.row("Long ago").wait_for()
    again = Page(page.tab.context, server)
    again.open("#session=old")
    again.row("Long ago").wait_for()
    assert "calls 2" in again.tab.locator("#totals").inner_text().replace("\n", " ")


def test_an_answer_that_comes_late_undoes_no_newer_one(page, server):
    with server.store.changing():
        for n in range(600):
            add(server, "Stop", n, f"n{n}")
    page.open()
    older = page.tab.locator("#side button", has_text="Older sessions")
    older.wait_for()
    held = []
    page.tab.route("**/sessions?limit=500&*", lambda route: held.append(route))
    with page.tab.expect_request("**/sessions?limit=500&*"):
        add(server, "Stop", 601, "new")
    older.focus()
    page.tab.keyboard.press("Enter")
    oldest = page.tab.locator("#side [data-session=n0]")
    oldest.wait_for(state="attached")
    with page.tab.expect_response("**/sessions?limit=500&*"):
        for route in held:
            route.continue_()
    page.tab.wait_for_timeout(300)
    assert oldest.count() == 1


def test_news_that_comes_while_one_looks_is_looked_at_afterwards(page, server):
    turn(server, 0, prompt="First")
    page.open()
    page.row("First").wait_for()
    held = []

    def hold_the_first(route):
        if held:
            route.continue_()
        else:
            held[:] = [route, route.fetch()]

    page.tab.route("**/story?*", hold_the_first)
    with page.tab.expect_request("**/story?*"):
        turn(server, 10, prompt="Second")
    eventually(lambda: held or page.tab.wait_for_timeout(50))
    turn(server, 20, prompt="Third")
    page.tab.wait_for_timeout(700)
    looks = len(asked_for(page, "/story"))
    held[0].fulfill(response=held[1])
    page.row("Third").wait_for()
    assert len(asked_for(page, "/story")) == looks + 1


@pytest.mark.parametrize("query, ids", [
    ("", [*"dcba"]), ("limit=2", ["d", "c"]), ("limit=2&also=a", ["d", "c", "a"]),
    ("limit=2&also=c", ["d", "c"]), ("limit=2&also=x", ["d", "c"]),
    ("session_id=b", ["b"])])
def test_sessions_are_told_newest_first_as_many_as_are_asked_for(server, query, ids):
    for second, session in enumerate("abcd"):
        add(server, "Stop", second, session)
    assert [one["session_id"] for one in get(server, f"/sessions?{query}")[1]] == ids


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "x", ""])
def test_a_number_of_sessions_that_cannot_be_is_refused_by_name(server, limit):
    status, answer = get(server, f"/sessions?limit={limit}")
    assert (status, answer["message"]) == (
        400, "Invalid limit: must be from 1 to 10000")


def test_what_stays_in_the_list_of_sessions_is_the_same_element(page, server):
    turn(server)
    turn(server, 100, "s2")
    page.open("#session=s1")
    mine = page.tab.locator("#side [data-session=s1]").element_handle()
    mine.focus()
    turn(server, 200, "s3")
    page.tab.locator("#side [data-session=s3]").wait_for()
    assert mine.evaluate("one => one.isConnected && one === document.activeElement")


def test_however_much_there_is_of_a_call_as_much_as_is_read_is_laid_out(page, server):
    nested = {str(n): {str(m): {str(k): list(range(9)) for k in range(9)}
                       for m in range(9)} for n in range(9)}
    call(server, "wide", 1, tool_input=nested)
    call(server, "many", 3, tool_input={"rows": list(range(3000))})
    call(server, "long", 5, tool_input={"content": "line\n" * 30_000 + "end"})
    page.open()
    elements = page.tab.locator("#detail *")
    page.row("Bash").nth(0).click()
    page.tab.locator("#detail summary", has_text="{9}").first.wait_for()
    assert elements.count() < 2500
    page.row("Bash").nth(1).click()
    page.tab.locator("#detail summary", has_text="rows [3000]").first.click()
    more = page.tab.get_by_role("button", name="2500 more", exact=True).first
    more.wait_for()
    assert elements.count() < 2500
    more.click()
    page.says("999: 999")
    page.row("Bash").nth(2).click()
    page.tab.get_by_role("button", name="130,003 more characters").first.wait_for()
    assert len(page.detail()) < 100_000
    for left in ("130,003", "110,003"):
        page.tab.get_by_role("button", name=f"{left} more characters").first.click()
    page.tab.get_by_role("button", name="90,003 more characters").first.wait_for()


@pytest.mark.parametrize("sought", ["größe", 'say "so"', "C:\\Temp", "two\nlines"])
def test_a_search_finds_text_that_json_writes_otherwise(page, server, sought):
    call(server, "deep", 9, tool_input={"command": f"echo {sought}!"})
    status, found = get(server, "/search?q=" + urllib.parse.quote(sought))
    assert (status, len(found)) == (200, 2)
    assert "metadata" not in found[0]  # it may be long
    before, told, after = found[0]["excerpt"]
    assert before.endswith('"echo ') and after.startswith("!")
    assert json.loads(f'"{told}"') == sought


def test_a_search_reads_the_store_a_few_events_at_a_time(server, monkeypatch):
    fill(server, 2200)
    spans = []
    select = server.store.select

    def watched(since_id=0, until_id=None, **chosen):
        spans.append(until_id - since_id - 1)
        return select(since_id=since_id, until_id=until_id, **chosen)
    monkeypatch.setattr(server.store, "select", watched)
    assert len(get(server, "/search?q=run%207-3")[1]) == 2
    assert len(spans) == 5 and max(spans) <= 500


def test_what_was_found_leads_to_its_place_in_the_session(page, server):
    turn(server)
    turn(server, 100, "s2")
    page.open("#q=run+s1b")
    page.tab.locator("#found button").first.click()
    page.tab.get_by_role("link", name="show it in its session").click()
    page.tab.locator('.row[aria-selected="true"]', has_text="run s1b").wait_for()
    page.tab.locator("#detail", has_text="Exit code 1").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_persons_colour_scheme(chromium, server, scheme):
    with contextlib.closing(chromium.new_context(color_scheme=scheme)) as context:
        page = Page(context, server).open()
        color = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", color))) < 200) is (scheme == "dark")


def test_on_a_phone_nothing_is_wider_than_the_phone(chromium, server):
    turn(server, prompt="A prompt that is longer than a phone is wide " * 9)
    view = {"width": 390, "height": 780}
    with contextlib.closing(chromium.new_context(viewport=view)) as context:
        page = Page(context, server).open()
        page.row("run s1a").wait_for()
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= 390
        menu = page.tab.get_by_role("button", name="Sessions", exact=True)
        menu.click()
        assert menu.get_attribute("aria-expanded") == "true"
        page.tab.locator("#side [data-session=s1]").click()
        assert menu.get_attribute("aria-expanded") == "false"
        page.row("run s1b").click()
        page.tab.locator("#detail", has_text="Exit code 1").wait_for()
        assert page.tab.locator("#detail").bounding_box()["width"] <= 390
