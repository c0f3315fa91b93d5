# SPDX-License-Identifier: MIT
"""The event server's page shows what is stored, to its own people, and as text."""

import base64
import contextlib
import hashlib
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
from pathlib import Path

import pytest

from conftest import TESTS, eventually, sample
from server import EventServer, stream
from server.routes import is_own_host
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

PAGE = TESTS / "server" / "page.html"
SHOWING = ["/", "/events", "/stream", "/runs"]
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


def test_the_page_may_run_its_own_script_and_style_and_load_nothing():
    with EventServer() as server:
        status, headers, body = parts(talk(server, asked("/")))
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert int(headers["content-length"]) == len(body)
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode().lower()
              for part in re.findall(r"<(?:script|style)>(.*?)</", body.decode(), re.S)]
    assert len(hashes) == 2
    policy = dict(part.split(" ", 1) for part in
                  headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert sorted(policy.pop(f"{name}-src") for name in ("script", "style")) == sorted(
        f"'sha256-{value}'" for value in hashes)
    assert policy == {
        "connect-src": "'self'", "img-src": "data:", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'"}


def test_the_page_is_one_file_below_400_lines_that_refers_to_no_other():
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert not re.search(r"\bsrc\s*=|@import|innerHTML|outerHTML|insertAdjacent", text)
    assert re.findall(r'href="([^"]{5})', text) == ["data:"]


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


@pytest.fixture(scope="session", name="chromium")
def fixture_chromium():
    """A headless Chromium for all tests."""
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

    def counts(self, text):
        self.tab.locator("#count", has_text=re.compile(f"^{text}$")).wait_for()

    def rows(self):
        """Return the cells of each row that is there, top to bottom."""
        found = self.tab.locator("#rows").evaluate(
            "rows => [...rows.children].map("
            "row => [...row.children].map(cell => cell.textContent))")
        return [list(filter(None, cells)) for cells in found]

    def choose(self, name, value):
        self.tab.locator(f"[name={name}]").select_option(value)

    def detail(self):
        return self.tab.locator("#detail pre").inner_text()


@pytest.fixture(name="page")
def fixture_page(chromium, server):
    context = chromium.new_context(viewport={"width": 1280, "height": 720})
    page = Page(context, server)
    yield page
    context.close()
    assert page.complaints == []
    hosts = {url.split("/")[2] for url in page.requests if not url.startswith("data:")}
    assert hosts <= {f"127.0.0.1:{server.port}"}


def tool_event(kind, use, second, **changes):
    """Return an event of a tool call, as hooks send it."""
    meta = {**sample("PostToolUse"), "tool_use_id": use}
    meta.pop("duration_ms")
    return {**EVENT, "event_type": kind, "tool_name": "Bash", "summary": f"Bash: {use}",
            "timestamp": f"2025-11-21T10:00:{second:06.3f}Z", "session_id": "s-1",
            "metadata": json.dumps(meta), **changes}


def turn_event(kind, second, **changes):
    event = tool_event(kind, "", second, summary=kind, metadata="{}", **changes)
    return {name: value for name, value in event.items() if name != "tool_name"}


def test_an_event_appears_when_it_is_sent(page, server):
    page.open()
    page.says(f"No events yet. They appear here as hooks send them to {page.address}")
    post(server, event_bytes(summary="Bash: first"))
    page.says("Bash: first")
    page.counts("1 event")


def test_calls_have_their_durations_and_losses_are_seen(page, server):
    for event in [
            turn_event("SessionStart", 0),
            tool_event("PreToolUse", "slow", 1), tool_event("PreToolUse", "quick", 2),
            tool_event("PostToolUse", "quick", 2.25),
            tool_event("PostToolUseFailure", "slow", 4.5),
            tool_event("PreToolUse", "endless", 5),
            tool_event("PostToolUse", "sudden", 6), turn_event("Stop", 7),
            turn_event("UserPromptSubmit", 8), tool_event("PreToolUse", "now", 9)]:
        server.store.add(event)
    page.open()
    page.counts("10 events")
    notes = {(row[3], row[-2].partition(" ")[2]): row[-1] for row in page.rows()
             if "Bash:" in row[-2]}
    assert notes == {("PostToolUse", "quick"): "250 ms",
                     ("PostToolUseFailure", "slow"): "3.5 s",
                     ("PreToolUse", "endless"): "no end seen",
                     ("PostToolUse", "sudden"): "no begin seen",
                     ("PreToolUse", "now"): "running"}


def test_an_agent_that_sends_one_half_of_a_call_has_lost_nothing(page, server):
    for event in [turn_event("SessionStart", 0), tool_event("PostToolUse", "a", 1),
                  turn_event("Stop", 2)]:
        server.store.add(event)
    page.open()
    page.counts("3 events")
    assert page.rows()[1][-1] == "Bash: a"


def pixels(page, name):
    """Return how many pixels of the lanes have the colour of that name."""
    return page.tab.evaluate("""name => {
      const chart = document.getElementById("chart");
      const css = getComputedStyle(document.documentElement);
      const ink = document.createElement("canvas").getContext("2d");
      ink.fillStyle = css.getPropertyValue("--" + name);
      ink.fillRect(0, 0, 1, 1);
      const want = ink.getImageData(0, 0, 1, 1).data;
      const { data } = chart.getContext("2d").getImageData(0, 0, chart.width,
        chart.height);
      let count = 0;
      for (let n = 0; n < data.length; n += 4)
        count += [0, 1, 2, 3].every(k => data[n + k] === want[k]);
      return count;
    }""", name)


def test_a_lane_draws_calls_failures_and_gaps_and_opens_what_is_clicked(page, server):
    for event in [tool_event("PreToolUse", "long", 0),
                  tool_event("PostToolUse", "long", 20), turn_event("SessionEnd", 20)]:
        server.store.add(event)
    page.open()
    page.says("1 call · ended")
    eventually(lambda: pixels(page, "tool") > 5000)
    assert pixels(page, "bad") == pixels(page, "gap") == 0
    page.tab.locator("#chart").click(position={"x": 400, "y": 24})
    page.says("tool_use_id")
    assert "note     20.0 s" in page.detail()
    server.store.add(tool_event("PreToolUse", "fails", 21))
    server.store.add(tool_event("PostToolUseFailure", "fails", 30))
    eventually(lambda: pixels(page, "bad") > 1000)
    page.says("silent")  # a session amid its turn, years ago
    eventually(lambda: pixels(page, "gap") > 50)


RUN = "document.title='run'"
HOSTILE = f'<img src=x onerror="{RUN}"><script>{RUN}</script>'


def test_hostile_text_is_shown_and_never_run(page, server):
    changes = {name: f"{name} {HOSTILE}" for name in
               ("source_app", "tool_name", "summary", "session_id")}
    kinds = ("PreToolUse", "PostToolUse", "Notification")
    for kind in kinds:
        server.store.add({**EVENT, "event_type": kind, **changes,
                          "metadata": json.dumps({"a": HOSTILE, HOSTILE: 1})})
    page.open()
    page.counts("3 events")
    page.says("summary <img src=x")
    page.tab.locator("#list").press("ArrowUp")
    page.tab.locator("#list").press("Enter")
    page.says('"a": "<img src=x')
    page.says(f"session_id {HOSTILE}")
    assert page.rows()[0][-1].startswith(f"summary {HOSTILE}")
    assert page.detail().count(HOSTILE) == 4
    assert page.tab.locator("img, body script:not(:last-child)").count() == 0
    assert page.tab.locator("script").count() == 1
    assert page.tab.title() == "hook-io events"


@pytest.fixture(name="mixed")
def fixture_mixed(server):
    for n in range(12):
        server.store.add({
            **EVENT, "session_id": f"s-{n % 2}", "source_app": f"a-{n % 3}",
            "tool_name": f"tool {n % 4}", "summary": f"step {n}",
            "event_type": ["PreToolUse", "Stop"][n > 5]})


@pytest.mark.parametrize("name, value, count", [
    ("session", "s-1", 6), ("event", "Stop", 6), ("tool", "tool 3", 3),
    ("app", "a-2", 4)])
def test_a_filter_is_kept_over_a_reload(page, mixed, name, value, count):
    page.open()
    page.counts("12 events")
    page.choose(name, value)
    page.counts(f"{count} of 12 events")
    page.tab.reload()
    page.counts(f"{count} of 12 events")
    assert page.tab.locator(f"[name={name}]").input_value() == value
    page.tab.get_by_role("button", name="Clear", exact=True).click()
    page.counts("12 events")
    assert page.tab.url == page.address + "#"


def test_filters_in_the_address_work_together(page, mixed):
    page.open("#session=s-1&text=STEP+1&app=none+yet")
    page.says("No event passes the filters.")
    page.choose("app", "")
    page.counts("2 of 12 events")
    page.tab.locator("[name=text]").fill("step 11")
    page.counts("1 of 12 events")
    assert page.tab.url.endswith("#session=s-1&text=step+11")


def test_everything_is_in_reach_of_the_keyboard(page, mixed):
    page.open()
    page.counts("12 events")
    page.tab.keyboard.press("Tab")
    assert page.tab.locator("#pause:focus").count() == 1
    eventually(lambda: page.tab.keyboard.press("Tab") or page.tab.locator(
        "#list:focus").count())
    for key in ("Home", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        page.tab.keyboard.press(key)
    page.says('"query": "SELECT 1"')
    assert "summary  step 1\n" in page.detail()
    selected = page.tab.locator("[aria-selected=true]")
    active = page.tab.locator("#list").get_attribute("aria-activedescendant")
    assert selected.get_attribute("id") == active
    page.tab.keyboard.press("End")
    eventually(lambda: "summary  step 11\n" in page.detail())
    page.tab.keyboard.press("Escape")
    page.tab.locator("#detail").wait_for(state="hidden")
    assert page.tab.locator("#list:focus").count() == 1


def test_long_metadata_is_fetched_when_it_is_looked_at(page, server):
    long = json.dumps({"long": "x" * 100_000, "end": "of it"})
    post(server, event_bytes(metadata=long))
    page.open()
    page.counts("1 event")
    page.tab.locator(".row").click()
    page.says('"end": "of it"')


def test_a_paused_page_stands_still_and_misses_nothing(page, server):
    post(server)
    page.open()
    page.counts("1 event")
    page.tab.get_by_role("button", name="Pause", exact=True).click()
    page.says("paused")
    eventually(lambda: all(e.held_ms is not None for e in server.exchanges))
    post(server)
    assert page.tab.locator("#count").inner_text() == "1 event"
    page.tab.get_by_role("button", name="Resume", exact=True).click()
    page.says("live")
    page.counts("2 events")


def test_a_server_that_goes_is_told_and_the_gap_stays_visible(page, server):
    post(server, event_bytes(summary="before", event_type="Notification"))
    page.open()
    page.counts("1 event")
    server.__exit__()
    page.says("server not reachable")
    again = EventServer(port=server.port)  # more of them than the page had
    for text in ("after", "later"):
        again.store.add({**EVENT, "event_type": "Stop", "summary": text})
    with again:
        page.counts("3 events")
        texts = [row[-1] for row in page.rows()]
        assert texts[::2] == ["before", "after"] and texts[3] == "later"
        assert re.match(r"Server not running at some time after .* until .*: events of"
                        r" that time are lost; it does not know", texts[1])


def test_a_gap_between_two_stored_events_is_told_from_the_file(chromium, tmp_path):
    db = str(tmp_path / "events.db")
    for _ in range(2):
        with EventServer(db=db) as server:
            post(server)
    context = chromium.new_context()
    with EventServer(db=db) as server:
        page = Page(context, server).open()
        page.counts("2 events")
        rows = [row[1] for row in page.rows()]
        context.close()
    assert [text.startswith("Server not running from ") for text in rows] == [
        False, True, False, True]


def test_ten_thousand_events_take_as_many_rows_as_are_seen(page, server):
    for n in range(10_000):
        server.store.add({**EVENT, "summary": f"step {n + 1}",
                          "session_id": f"s-{n % 9}"})
    page.open()
    page.counts("10,000 events")
    page.says("step 10000")
    assert page.tab.locator(".row").count() < 60
    page.tab.locator("#list").press("Home")
    page.says("step 1")
    assert "step 1" in page.rows()[0]
    assert page.tab.locator(".row").count() < 60
    server.store.add({**EVENT, "summary": "one more"})
    page.counts("10,001 events")
    assert page.tab.get_by_text("one more").count() == 0
    page.tab.get_by_role("button", name="Newest", exact=True).click()
    page.says("one more")
    assert page.tab.locator("*").count() < 1000


def test_more_events_than_are_kept_push_the_oldest_out(page, server):
    for n in range(12_000):
        server.store.add({**EVENT, "summary": f"step {n + 1}"})
    page.open()
    page.counts("10,000 events")
    for n in range(10_001):
        server.store.add({**EVENT, "summary": f"more {n + 1}"})
    page.counts("18,001 events")
    page.says("more 10001")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_persons_colour_scheme(chromium, server, scheme):
    context = chromium.new_context(color_scheme=scheme)
    page = Page(context, server).open()
    red = page.tab.locator("body").evaluate(
        "body => +getComputedStyle(body).backgroundColor.match(/\\d+/)[0]")
    context.close()
    assert (red > 200) is (scheme == "light")
