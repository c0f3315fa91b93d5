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
    assert lengths.pop("asked.js") < 50  # what answers, beside what shows
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
        held = sorted(exchange.held_ms for exchange in server.wait(20))
        assert held[0] < 100
        assert server.exchanges[0].held_ms is None


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


SOURCES = (from_environment, from_path, from_earlier, from_playwright, from_npm)


def launched(playwright, api):
    """Return the first browser that starts; skips with the reasons of each."""
    missed = []
    for source in SOURCES:
        try:
            return playwright.chromium.launch(executable_path=source())
        except (LookupError, StopIteration, OSError, api.Error,
                subprocess.SubprocessError) as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            missed.append(f"{source.__name__}: {told}")
    return pytest.skip(f"no Chromium starts here: {'; '.join(missed)}")


def started_browser():
    """Yield a headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not there")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(BROWSERS))
        with api.sync_playwright() as playwright:
            browser = launched(playwright, api)
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


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_many_events_take_as_many_elements_as_are_seen(page, server, count):
    fill(server, count)
    page.open()
    page.row(f"{count // 22 - 1}-9").wait_for()
    assert page.tab.locator("#rows > *").count() < 60
    begun = page.tab.evaluate("performance.now()")
    for _ in range(3):
        page.tab.get_by_role("button", name="Earlier turns").click()
        page.tab.wait_for_timeout(200)
    page.tab.locator("#list").evaluate("list => { list.scrollTop = 0; }")
    page.tab.wait_for_timeout(200)
    longest = page.tab.evaluate(LONGEST_TASK)
    print(f"{count} events: up to {begun:.0f} ms to the newest, longest {longest:.0f}")
    size = page.tab.evaluate("new Blob([document.body.innerHTML]).size")
    assert size < 100_000


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
        page.tab.get_by_role("button", name="Sessions", exact=True).click()
        page.tab.locator("#side [data-session=s1]").click()
        page.row("run s1b").click()
        page.tab.locator("#detail", has_text="Exit code 1").wait_for()
        assert page.tab.locator("#detail").bounding_box()["width"] <= 390
