# SPDX-License-Identifier: MIT
"""Run the real agents with our hooks installed, against a model that is scripted.

    python3 tests/live/live.py [CLIENT ...]

Installs each client from npm into a cache folder (HOOK_IO_CLIENTS, else
~/.cache/hook-io/clients), makes a project, installs the hooks by `make install`, and
runs the client in print mode five times: with a server, with none, with one that is
back, with the hook's files gone, and uninstalled; then with hooks.json in its other
uses.  Beside ours stands somebody else's hook on every event, which writes down what
fired.  Exits 1 where an agent did not finish, an event that fired did not arrive, the
hint was not shown once, or an agent's own telemetry brought no tokens.

Model, server and client are on loopback, where unshare(1) works in a network of their
own that holds nothing else; else a proxy that is not there keeps the client in.  Keys
are dummies.  Python 3.8+, npm and make; what runs too long is ended.
"""

import collections
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(ROOT)]
import hook_io
from server import EventServer, closed_port

INSTALL_S, RUN_S, ARRIVE_S = 600, 60, 10
FINAL = "LIVE-DONE"
LOOPBACK = "127.0.0.1"
HINT = re.compile(r"\d+ events in a row did not reach|events reach \S+ again; 3 were")
WITNESS = 'printf "%s\\n" {event} >> "{file}" || :'
SUBTASK = "SUBTASK: say that you are there"


# The model: how many tools have answered says which step of the script comes next.


def claude_reply(body, steps):
    texts = json.dumps(body.get("messages", []))
    done = texts.count('"type": "tool_result"')
    if not body.get("tools") or SUBTASK in json.dumps(body["messages"][:1]):
        done = len(steps)
    use = {"type": "tool_use", "id": f"toolu_{done}"}
    if done < len(steps):
        name, tool_input = steps[done]
        block, delta = {**use, "name": name, "input": {}}, {
            "type": "input_json_delta", "partial_json": json.dumps(tool_input)}
    else:
        block, delta = {"type": "text", "text": ""}, {
            "type": "text_delta", "text": FINAL}
    stop = {"stop_reason": "tool_use" if done < len(steps) else "end_turn"}
    usage = {"input_tokens": 9, "output_tokens": 9}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [],
               "model": body.get("model", "m"), "stop_reason": None, "usage": usage}
    return [{"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": usage},
            {"type": "message_stop"}]


def codex_reply(body, steps):
    done = sum(item.get("type") == "function_call_output" for item in body["input"])
    if done < len(steps):
        name, arguments = steps[done]
        item = {"type": "function_call", "name": name, "call_id": f"call_{done}",
                "arguments": json.dumps(arguments)}
    else:
        item = {"type": "message", "role": "assistant", "id": "msg_1",
                "content": [{"type": "output_text", "text": FINAL}]}
    usage = {"input_tokens": 9, "output_tokens": 9, "total_tokens": 18}
    return [{"type": "response.created", "response": {"id": "r"}},
            {"type": "response.output_item.done", "item": item},
            {"type": "response.completed", "response": {"id": "r", "usage": usage}}]


def gemini_reply(body, steps):
    parts = [part for content in body.get("contents", [])
             for part in content.get("parts", [])]
    done = sum("functionResponse" in part for part in parts)
    if done < len(steps) and body.get("tools"):
        name, args = steps[done]
        part = {"functionCall": {"name": name, "args": args}}
    else:
        part = {"text": FINAL}
    content = {"role": "model", "parts": [part]}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 9, "totalTokenCount": 18}
    return [{"candidates": [{"content": content, "finishReason": "STOP", "index": 0}],
             "usageMetadata": usage}]


#: path of a request -> function of its body and the steps that returns the events
REPLIES = {"/v1/messages": claude_reply, "/v1/responses": codex_reply,
           ":streamGenerateContent": gemini_reply}

#: client -> its package and program, how it is run ($MODEL is the fake model's URL,
#: $HOME a folder of its own), the tools that the model calls, the events that have to
#: fire, how many hints its output shows of a dead server, what makes it send its own
#: telemetry ($SERVER: where), other ways to register us
CLIENTS = {
    "claude-code": {
        "package": "@anthropic-ai/claude-code", "bin": "claude",
        "argv": ["-p", "MAIN: please work", "--output-format", "stream-json",
                 "--verbose", "--dangerously-skip-permissions"],
        "env": {"ANTHROPIC_BASE_URL": "$MODEL", "ANTHROPIC_API_KEY": "sk-ant-dummy",
                "IS_SANDBOX": "1", "DISABLE_AUTOUPDATER": "1",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        "steps": [("Read", {"file_path": "hello.txt"}), ("Bash", {"command": "exit 3"}),
                  ("Agent", {"description": "be there", "prompt": SUBTASK,
                             "subagent_type": "general-purpose",
                             "run_in_background": False})],
        "fires": "SessionStart UserPromptSubmit PreToolUse PostToolUse"
                 " PostToolUseFailure SubagentStart SubagentStop Stop SessionEnd",
        "hints": 1,
        "telemetry": {
            "CLAUDE_CODE_ENABLE_TELEMETRY": "1", "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "$SERVER"},
        "ways": {"--settings": ["--settings", str(ROOT / "hooks.json")],
                 "--plugin-dir": ["--plugin-dir", str(ROOT)]},
    },
    "codex": {
        "package": "@openai/codex", "bin": "codex",
        "argv": ["exec", "--skip-git-repo-check", "--dangerously-bypass-hook-trust",
                 "--dangerously-bypass-approvals-and-sandbox", "MAIN: please work"],
        "env": {"CODEX_HOME": "$HOME/.codex", "FAKE_KEY": "dummy"},
        "files": {".codex/config.toml":
                  'model = "gpt-5"\nmodel_provider = "fake"\n'
                  '[model_providers.fake]\nname = "fake"\nbase_url = "$MODEL/v1"\n'
                  'wire_api = "responses"\nenv_key = "FAKE_KEY"\n'
                  '[projects."$PROJECT"]\ntrust_level = "trusted"\n'},
        "steps": [("exec_command", {"cmd": "cat hello.txt"})],
        "fires": "SessionStart UserPromptSubmit PreToolUse PostToolUse Stop",
        "hints": 0,  # its TUI shows them, `codex exec` does not
    },
    "gemini": {
        "package": "@google/gemini-cli", "bin": "gemini",
        "argv": ["-m", "gemini-2.5-pro", "-p", "MAIN: please work", "--yolo",
                 "--skip-trust"],
        "env": {"GOOGLE_GEMINI_BASE_URL": "$MODEL", "GEMINI_API_KEY": "dummy",
                "GEMINI_CLI_NO_RELAUNCH": "true", "NO_COLOR": "1"},
        "files": {".gemini/settings.json": json.dumps({
            "security": {"auth": {"selectedType": "gemini-api-key"},
                         "folderTrust": {"enabled": False}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"enableAutoUpdate": False}, "telemetry": {"enabled": False}})},
        "steps": [("read_file", {"file_path": "hello.txt"})],
        "fires": "SessionStart BeforeAgent BeforeTool AfterTool AfterAgent SessionEnd",
        "hints": 1, "backs": 2,  # what is said at SessionStart it prints twice
    },
}


def streamed(events):
    """Return the body of a text/event-stream that says *events*."""
    lines = []
    for event in events:
        lines += [f"event: {event['type']}\n"] if "type" in event else []
        lines += [f"data: {json.dumps(event)}\n\n"]
    return "".join(lines).encode()


class Model(BaseHTTPRequestHandler):
    """Answers what a client asks of its model's API; everything else with {}."""

    protocol_version = "HTTP/1.1"
    steps, asked = (), None

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.asked.append(path)
        plays = next((f for end, f in REPLIES.items() if path.endswith(end)), None)
        if plays is None:
            return self.answer(b'{"input_tokens": 9, "data": [], "models": []}', "json")
        events = plays(json.loads(data), self.steps)
        return self.answer(streamed(events), "event-stream")

    do_GET = do_HEAD = do_POST

    def answer(self, body, kind):
        family = "text" if kind == "event-stream" else "application"
        head = (f"HTTP/1.1 200 OK\r\nContent-Type: {family}/{kind}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        self.wfile.write(head + body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def scripted_model(steps, model=Model, **members):
    """Yield the URL of a model that plays *steps*, and the paths it is asked for."""
    handler = type("Scripted", (model,), {"steps": steps, "asked": [], **members})
    server = ThreadingHTTPServer((LOOPBACK, 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}", handler.asked
    finally:
        server.shutdown()
        server.server_close()


# Clients and projects.


def installed(client):
    """Return the program of a client and its version, from npm where it is missing."""
    row, home = CLIENTS[client], Path.home() / ".cache" / "hook-io" / "clients"
    folder = Path(os.environ.get("HOOK_IO_CLIENTS") or home) / client
    wanted = hook_io.PLATFORMS[client]["measured"]
    package = folder / "node_modules" / row["package"] / "package.json"
    if not package.exists() or json.loads(package.read_text())["version"] != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--prefix", str(folder), "--no-fund", "--no-audit",
             "--loglevel=error", f"{row['package']}@{wanted}"],
            check=True, timeout=INSTALL_S, stdout=subprocess.DEVNULL)
    return folder / "node_modules" / ".bin" / row["bin"], wanted


def filled(text, **texts):
    for name, value in texts.items():
        text = text.replace(f"${name}", str(value))
    return text


def new_project(folder, client):
    """Return a project with a file to read and a witness on each event we hook."""
    project = folder / "project"
    project.mkdir(parents=True)
    (project / "hello.txt").write_text("hello\n")
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    settings = project / hook_io.PLATFORMS[client]["settings"]
    settings.parent.mkdir()
    hooks = {}
    for event, group in hook_io.registration(client, "live").items():
        entry, *flush = group.get("hooks", [group])  # one witness, also of two hooks
        entry["command"] = WITNESS.format(event=event, file=folder / "fired")
        hooks[event] = [{**group, "hooks": [entry]} if flush else group]
    settings.write_text(json.dumps({"hooks": hooks}))
    return project


def make(action, project, client):
    subprocess.run(
        ["make", "-C", str(ROOT), action, f"PROJECT={project}", f"AGENT={client}",
         "SOURCE_APP=live", f"PYTHON={sys.executable}"],
        check=True, stdout=subprocess.DEVNULL, timeout=RUN_S)


def environment(client, folder, url, model):
    home = folder / "home"
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "TERM": "dumb",
           "HOOK_IO_SERVER_URL": url, "HOOK_IO_TIMEOUT_MS": "2000",
           "HOOK_IO_STATE_DIR": str(folder / "state")}
    if not alone():
        env.update(dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), "http://127.0.0.1:9"),
                   NO_PROXY=f"{LOOPBACK},localhost")
    for name, value in CLIENTS[client]["env"].items():
        env[name] = filled(value, MODEL=model, HOME=home)
    for name, text in CLIENTS[client].get("files", {}).items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(
            filled(text, MODEL=model, HOME=home, PROJECT=folder / "project"))
    home.mkdir(exist_ok=True)
    return env


def ran(command, **kwargs):
    """Run a client to its end or the limit; return exit, output and seconds."""
    begun = time.monotonic()
    with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, **kwargs) as process:
        try:
            output = process.communicate(timeout=RUN_S)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0] + b"\n[ended: it took too long]"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output.decode(errors="replace"), time.monotonic() - begun


# What is to be seen.

#: what is asked of a run -> is our hook there, is a server; any other way: both
SCENES = {"server up": (True, True), "server dead": (True, False),
          "server back": (True, True), "files gone": (False, True),
          "uninstalled": (False, True)}


def prepare(client, scene, project):
    """Register the hooks as *scene* wants it; return what the client's call needs."""
    settings = project / hook_io.PLATFORMS[client]["settings"]
    before = settings.read_bytes()
    make("install", project, client)
    if scene == "uninstalled":
        make("uninstall", project, client)
        assert settings.read_bytes() == before, "uninstall left something"
    elif scene not in SCENES:
        settings.write_bytes(before)
    if scene in ("files gone", "--plugin-dir"):
        shutil.rmtree(str(project / ".claude" / "hooks"))
    return CLIENTS[client].get("ways", {}).get(scene, [])


def play(client, program, scene, folder):
    """Run one scene; return a row of the table, its last cell what is wrong."""
    row, (hooked, up) = CLIENTS[client], SCENES.get(scene, (True, True))
    project = new_project(folder, client)
    argv = [str(program), *prepare(client, scene, project), *row["argv"]]
    with EventServer() as server, scripted_model(row["steps"]) as (model, asked):
        url = server.url if up else f"http://{LOOPBACK}:{closed_port()}/events"
        if scene == "server back":
            lose(url, folder)
        telemetry = row.get("telemetry", {}) if scene == "server up" else {}
        env = environment(client, folder, url, model)
        env.update({name: filled(value, SERVER=url[:-len("/events")])
                    for name, value in telemetry.items()})
        code, output, seconds = ran(argv, cwd=str(project), env=env)
        fired = fired_events(folder)
        arrived = arrived_events(server, fired if hooked and up else ())
        usage = [kinds for session in server.attribution.sessions()
                 for kinds in session["usage"].values()]
    hints = len(hint_lines(output))
    expected = {"server dead": row["hints"], "server back": row.get(
        "backs", row["hints"])}.get(scene, 0)
    missing = set(map(hook_io.canonical, row["fires"].split())) - set(fired)
    problems = [text for text, is_so in {
        f"exit {code}, asked {len(asked)} times": code != 0 or FINAL not in output,
        f"never fired: {sorted(missing)}": missing,
        f"fired {dict(fired - arrived)} and did not arrive": (
            hooked and up and arrived != fired),
        "arrived all the same": arrived and not (hooked and up),
        f"{hints} hints for {expected}": hints != expected,
        f"its tokens and cost did not arrive: {usage}": telemetry and not all(
            any(kinds.get(kind) for kinds in usage) for kind in (
                "input", "output", "cost")),
        "tools ran no further": len(asked) <= len(row["steps"]),
    }.items() if is_so]
    if problems:
        (folder / "output").write_text(output)
    counts = [str(sum(events.values())) for events in (fired, arrived)]
    return [client, scene, str(len(asked)), *counts, str(hints), f"{seconds:.1f}",
            "; ".join(problems) or "ok"]


def lose(url, folder):
    """Leave behind what three hooks count that have reached nobody at *url*."""
    os.environ["HOOK_IO_STATE_DIR"] = str(folder / "state")
    streak = hook_io.FailureStreak(f"send_event.{hook_io.shown_url(url)}")
    for _ in range(3):
        streak.record("PreToolUse", "refused", "earlier")


def hint_lines(output):
    """Return the lines that tell a person of losses; in JSON, those it is shown by."""
    lines = [line for line in output.splitlines() if HINT.search(line)]
    return [line for line in lines if '"subtype":"hook_' not in line]


def fired_events(folder):
    """Return how often each event fired, in Claude Code's words, as witnessed."""
    path = folder / "fired"
    names = path.read_text().split() if path.exists() else []
    return collections.Counter(map(hook_io.canonical, names))


def arrived_events(server, expected):
    """Return how often each event arrived; wait a while for those that fired."""
    limit = time.monotonic() + ARRIVE_S
    while len(server.events()) < sum(dict(expected).values()) and (
            time.monotonic() < limit):
        time.sleep(0.05)
    return collections.Counter(event["event_type"] for event in server.events())


def alone():
    """Return whether this network holds loopback and nothing else."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


def raise_loopback():
    """Set the flag "up" (1) of the interface lo, as `ip link set lo up` does."""
    import fcntl  # which Windows has not

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0x1 | 0x8 | 0x40)
        fcntl.ioctl(sock, 0x8914, request)  # SIOCSIFFLAGS


def isolated(argv):
    """Return *argv* as it runs in a network of its own, or as it is."""
    for flags in (["-n"], ["-r", "-n"]):
        command = ["unshare", *flags]
        if shutil.which("unshare") and not subprocess.run(
                [*command, "true"], capture_output=True).returncode:
            return [*command, *argv]
    return argv


def main():
    inside, names = sys.argv[1:2] == ["--inside"], sys.argv[1:]
    if inside:
        names = names[1:]
        if alone():
            raise_loopback()
        return show(names)
    names = names or list(CLIENTS)
    unknown = [name for name in names if name not in CLIENTS]
    if unknown or not shutil.which("npm"):
        sys.exit(f"[ERROR] live: {f'no client {unknown}' if unknown else 'needs npm'}")
    for name in names:
        installed(name)
    own = [sys.executable, str(Path(__file__).resolve()), "--inside", *names]
    sys.exit(subprocess.run(isolated(own)).returncode)


def show(names):
    """Print the table of every client and scene; exit 1 where one is not ok."""
    kept = Path(tempfile.mkdtemp(prefix="hook-io-live-"))
    print(f"network: {'loopback alone' if alone() else 'shared; a dead proxy'}")
    form = "{:<12} {:<12} {:>5} {:>5} {:>7} {:>5} {:>6}  {}"
    print(form.format("client", "scene", "asked", "fired", "arrived", "hints", "s", ""))
    rows = []
    for name in names:
        program, version = installed(name)
        for scene in [*SCENES, *CLIENTS[name].get("ways", ())]:
            rows.append(play(name, program, scene, kept / f"{name}-{scene}"))
            print(form.format(*rows[-1]), flush=True)
        print(f"  {name} is {CLIENTS[name]['package']} {version}")
    failed = [row for row in rows if row[-1] != "ok"]
    if failed:
        sys.exit(f"[ERROR] live: {len(failed)} of {len(rows)} failed; see {kept}")
    shutil.rmtree(str(kept))


if __name__ == "__main__":
    main()
