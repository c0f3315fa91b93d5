# SPDX-License-Identifier: MIT
"""A recorded session's turn, as the servers show it that people look at traces with.

Phoenix behind rotel, as it takes protobuf alone, and MLflow.  Each is asked, by its own
API, for the tree of spans and the tokens that a Stop has sent there.

    make receivers [PICTURE=file.png]
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRANSCRIPTS = ROOT / "tests" / "transcripts"
BIN = Path(sys.executable).parent
SESSION, AGENT_ID = "f92bac9e-5900-412b-aef4-cb42525644ab", "ae45f4044e04a3915"
#: what the API returned in that session: input, cached or not, and output
INPUT, OUTPUT = 9045 + 274500 + 18450, 675
#: the turn's tree: a span's name and those within it
TREE = ("invoke_agent claude-code", [
    *([("chat claude-sonnet-5-5", [])] * 7),
    ("execute_tool Agent", [
        ("invoke_agent general-purpose", [
            *([("chat claude-haiku-5-5", [])] * 2), ("execute_tool Read", [])])]),
    *([("execute_tool Bash", [])] * 3),
    *([("execute_tool Read", [])] * 2),
    ("execute_tool Write", [])])
PATIENCE_S = 300  # on a busy machine the servers import for minutes
#: nothing but a loopback is here, so that a server cannot call out, or be called
ALONE = [name for _, name in socket.if_nameindex()] == ["lo"]
QUIET = {"PHOENIX_TELEMETRY_ENABLED": "false", "PHOENIX_AGENTS_DISABLE_BASH": "true",
         "PHOENIX_AGENTS_DISABLE_WEB_ACCESS": "true",
         "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
         "PHOENIX_ENABLE_MCP_SERVER": "false",
         "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
         "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


# The session, as its transcript has it, at a time that is just over.

def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def moved(text):
    """Return a transcript's text with its times moved, so that it ends now."""
    last = max(re.findall(r'"timestamp":"([^"]+)Z"', MAIN))
    form = "%Y-%m-%dT%H:%M:%S.%f"
    away = datetime.now(timezone.utc).replace(tzinfo=None) - datetime.strptime(
        last, form) - timedelta(seconds=2)
    return re.sub(r'"timestamp":"([^"]+)Z"', lambda found: '"timestamp":"{}Z"'.format(
        (datetime.strptime(found[1], form) + away).isoformat(
            timespec="milliseconds")), text)


MAIN = (TRANSCRIPTS / "main.jsonl").read_text()


def hooks_of(path, agent_id=""):
    """Yield (time, event) for each hook that ran in what a transcript tells of."""
    known = {"agent_id": agent_id, "agent_type": "general-purpose"} if agent_id else {}
    named = {}
    lines = [line for line in lines_of(path) if "timestamp" in line]
    first, last = lines[0]["timestamp"], lines[-1]["timestamp"]
    yield first, {"hook_event_name": "SubagentStart" if agent_id else
                  "UserPromptSubmit", "prompt": "work", **known}
    for line in lines:
        content = line.get("message", {}).get("content")
        for block in content if isinstance(content, list) else ():
            if block.get("type") == "tool_use":
                named[block["id"]] = {
                    "tool_name": block["name"], "tool_input": block["input"],
                    "tool_use_id": block["id"], **known}
                yield line["timestamp"], {
                    "hook_event_name": "PreToolUse", **named[block["id"]]}
            elif block.get("type") == "tool_result":
                call = named[block["tool_use_id"]]
                result = {"agentId": AGENT_ID} if call["tool_name"] == "Agent" else "ok"
                yield line["timestamp"], {"hook_event_name": "PostToolUse", **call,
                                          "tool_response": result}
    if agent_id:
        yield last, {"hook_event_name": "SubagentStop", **known}


@pytest.fixture(name="session", scope="module")
def fixture_session(tmp_path_factory):
    """A folder with the transcripts and the event log of a session that is to stop."""
    home = tmp_path_factory.mktemp("home")
    main = home / ".claude" / "projects" / "x" / f"{SESSION}.jsonl"
    agent = main.with_suffix("") / "subagents" / f"agent-{AGENT_ID}.jsonl"
    agent.parent.mkdir(parents=True)
    main.write_text(moved(MAIN))
    agent.write_text(moved((TRANSCRIPTS / "agent.jsonl").read_text()))
    common = {"session_id": SESSION, "prompt_id": "p-1", "transcript_path": str(main)}
    with (home / "events.jsonl").open("w") as log:
        for moment, event in (*hooks_of(main), *hooks_of(agent, AGENT_ID)):
            log.write(json.dumps({
                "timestamp": moment, "source_app": "shop", "session_id": SESSION,
                "event_type": event["hook_event_name"],
                "metadata": json.dumps({**event, **common})},
                separators=(",", ":")) + "\n")
    return home, {"hook_event_name": "Stop", **common}


def stop(session, url, **variables):
    """End the session, as the agent does; return what its export to *url* says."""
    home, event = session
    state = home / f"state-{url.rpartition(':')[2]}"
    done = subprocess.run(
        [sys.executable, "-IS", str(ROOT / "send_event.py"), "--source-app", "shop",
         "--event-type", "Stop", "--export"], input=json.dumps(event).encode(),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "HOOK_IO_EXPORT": "otlp",
             "HOOK_IO_STATE_DIR": str(state), "HOOK_IO_EXPORT_URL": url,
             "HOOK_IO_EVENT_LOG": str(home / "events.jsonl"), **variables},
        capture_output=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == b""
    return done.stderr.decode()


# Servers.

def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def serving(command, port, folder, **env):
    """Run a server until it answers on *port*; yield its URL; end it and its kin."""
    log = folder / f"log-{port}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            list(map(str, command)), stdout=out, stderr=out, cwd=str(folder),
            start_new_session=True,
            env={**os.environ, **QUIET, "HOME": str(folder), **env})
    try:
        until(lambda: process.poll() is not None or is_open(port))
        if process.poll() is not None:
            pytest.skip(f"{command[0]} does not start here: {log.read_text()[-300:]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def is_open(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def until(fact):
    """Return what *fact* says, as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            said = fact()
            if said:
                return said
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE_S} s")


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def tree(spans, above=None):
    """Return [(name, [...])] of the spans within *above*, by their names."""
    return sorted((name, tree(spans, own)) for name, own, parent in spans
                  if (parent or None) == above)


@pytest.fixture(name="phoenix", scope="module")
def fixture_phoenix(tmp_path_factory):
    pytest.importorskip("phoenix", reason="`make receivers` has Phoenix")
    if not ALONE:
        pytest.skip("Phoenix listens on all interfaces: it runs where there is only a "
                    "loopback, which `unshare -rn` makes, and that failed here")
    port, folder = free_port(), tmp_path_factory.mktemp("phoenix")
    with serving([BIN / "phoenix", "serve"], port, folder, PHOENIX_HOST="127.0.0.1",
                 PHOENIX_PORT=str(port), PHOENIX_GRPC_PORT=str(free_port()),
                 PHOENIX_WORKING_DIR=str(folder)) as url:
        until(lambda: ask(f"{url}/v1/projects"))
        yield url


@pytest.fixture(name="collector")
def fixture_collector(phoenix, tmp_path):
    rotel = pytest.importorskip("rotel", reason="rotel has no wheel for this Python")
    port, library = free_port(), sysconfig.get_config_var("LIBDIR")
    command = [Path(rotel.__file__).parent / "rotel-agent", "start",
               "--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint",
               f"127.0.0.1:{free_port()}", "--exporter", "otlp",
               "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", phoenix,
               "--pid-file", tmp_path / "pid"]
    with serving(command, port, tmp_path, LD_LIBRARY_PATH=library) as url:
        yield url


@pytest.fixture(name="mlflow", scope="module")
def fixture_mlflow(tmp_path_factory):
    pytest.importorskip("mlflow", reason="`make receivers` has MLflow")
    port, folder = free_port(), tmp_path_factory.mktemp("mlflow")
    with serving([BIN / "mlflow", "server", "--host", "127.0.0.1", "--port", port,
                  "--workers", "1", "--backend-store-uri", "sqlite:///m.db",
                  "--artifacts-destination", folder / "kept"], port, folder) as url:
        yield url


# What they hold.

def in_phoenix(phoenix):
    """Return the spans of the turn, once all of them are there."""
    spans = ask(f"{phoenix}/v1/projects/default/spans?limit=100")["data"]
    return spans if len(spans) == size(TREE) else None


def size(node):
    return 1 + sum(map(size, node[1]))


def test_phoenix_behind_a_collector_holds_the_turns_tree_and_its_tokens(
        phoenix, collector, session):
    assert stop(session, collector) == "1 turns exported\n"
    spans = until(lambda: in_phoenix(phoenix))
    assert tree([(one["name"], one["context"]["span_id"], one["parent_id"])
                 for one in spans]) == [TREE]
    kinds = {one["name"].partition(" ")[0]: one["span_kind"] for one in spans}
    assert kinds == {"invoke_agent": "AGENT", "execute_tool": "TOOL", "chat": "LLM"}
    (trace,) = until(lambda: ask(f"{phoenix}/v1/projects/default/traces")["data"])
    query = ("query($id: ID!) { node(id: $id) { ... on Trace { rootSpan { "
             "cumulativeTokenCountPrompt cumulativeTokenCountCompletion } } } }")
    root = ask(f"{phoenix}/graphql", {"query": query, "variables": {"id": trace["id"]}})
    told = root["data"]["node"]["rootSpan"]
    assert told == {"cumulativeTokenCountPrompt": INPUT,
                    "cumulativeTokenCountCompletion": OUTPUT}
    if os.environ.get("PICTURE"):
        picture(f"{phoenix}/redirects/traces/{trace['trace_id']}",
                Path(os.environ["PICTURE"]))


def test_mlflow_holds_the_turns_tree_and_its_tokens(mlflow, session):
    # the first request takes it seconds, and so goes again: with the same ids
    until(lambda: "traces were not taken" not in stop(
        session, mlflow, HOOK_IO_EXPORT_HEADERS="x-mlflow-experiment-id: 0"))
    search = {"locations": [{"type": "MLFLOW_EXPERIMENT",
                             "mlflow_experiment": {"experiment_id": "0"}}]}
    (trace,) = until(lambda: ask(
        f"{mlflow}/api/3.0/mlflow/traces/search", search).get("traces"))
    assert trace["state"] == "OK"
    said = trace["trace_metadata"]
    usage = json.loads(said["mlflow.trace.tokenUsage"])
    assert (usage["input_tokens"], usage["output_tokens"]) == (INPUT, OUTPUT)
    assert said["mlflow.trace.session"] == SESSION
    spans = ask(f"{mlflow}/ajax-api/3.0/mlflow/get-trace-artifact?request_id="
                f"{trace['trace_id']}")["spans"]
    assert tree([(one["name"], one["span_id"], one.get("parent_span_id"))
                 for one in spans]) == [TREE]


# A picture of it.

def picture(url, path):
    """Keep what a person sees of the turn at *url*, in at most 200 kB."""
    api = pytest.importorskip("playwright.sync_api")
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if not browser:
        pytest.skip("no chromium here to take the picture with")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1600, "height": 900})
        page.goto(url, timeout=PATIENCE_S * 1000)
        page.get_by_text("execute_tool Write").first.wait_for(timeout=60000)
        page.wait_for_timeout(3000)
        page.screenshot(path=str(path))
        chromium.close()
    from PIL import Image

    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)
    assert path.stat().st_size < 200_000
