# SPDX-License-Identifier: MIT
"""Real agents from npm, offline: the scripted model, projects, and how one is run.

Model, server and client are on loopback, where unshare(1) works in a network of their
own that holds nothing else; else a proxy that is not there keeps the client in.  Keys
are dummies.  Python 3.8+, npm and make; what runs too long is ended.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(ROOT)]
import hook_io

INSTALL_S, RUN_S = 600, 120
PROMPT, FINAL = "MAIN: please work", "LIVE-DONE"
LOOPBACK = "127.0.0.1"
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


def completions_reply(body, steps):
    done = sum(message.get("role") == "tool" for message in body["messages"])
    delta, reason = {"role": "assistant", "content": FINAL}, "stop"
    if done < len(steps) and body.get("tools"):
        name, arguments = steps[done]
        call = {"name": name, "arguments": json.dumps(arguments)}
        delta = {"role": "assistant", "tool_calls": [
            {"index": 0, "id": f"call_{done}", "type": "function", "function": call}]}
        reason = "tool_calls"
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return [{**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}],
             "usage": usage}]


#: path of a request -> function of its body and the steps that returns the events
REPLIES = {"/v1/messages": claude_reply, "/v1/responses": codex_reply,
           "/chat/completions": completions_reply,
           ":streamGenerateContent": gemini_reply}

#: client -> its package and program, what it needs beside them, how it is run ($MODEL
#: is the fake model's URL, $HOME a folder of its own), its shell's tool and where that
#: has the command, the tools that the model calls, the events that have to fire, how
#: many hints its output shows of a dead server, what makes it send its own telemetry
#: ($SERVER: where), other ways to register us, an event or kind of scene that it has
#: not, how it ends where its prompt is refused
CLIENTS = {
    "claude-code": {
        "package": "@anthropic-ai/claude-code", "bin": "claude",
        "argv": ["-p", PROMPT, "--output-format", "stream-json",
                 "--verbose", "--dangerously-skip-permissions"],
        "env": {"ANTHROPIC_BASE_URL": "$MODEL", "ANTHROPIC_API_KEY": "sk-ant-dummy",
                "IS_SANDBOX": "1", "DISABLE_AUTOUPDATER": "1",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
        "shell": ("Bash", "command"),
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
                 "--dangerously-bypass-approvals-and-sandbox", PROMPT],
        "env": {"CODEX_HOME": "$HOME/.codex", "FAKE_KEY": "dummy"},
        "files": {".codex/config.toml":
                  'model = "gpt-5"\nmodel_provider = "fake"\n'
                  '[model_providers.fake]\nname = "fake"\nbase_url = "$MODEL/v1"\n'
                  'wire_api = "responses"\nenv_key = "FAKE_KEY"\n'
                  '[projects."$PROJECT"]\ntrust_level = "trusted"\n'},
        "shell": ("exec_command", "cmd"),
        "steps": [("exec_command", {"cmd": "cat hello.txt"})],
        "fires": "SessionStart UserPromptSubmit PreToolUse PostToolUse Stop",
        "hints": 0,  # its TUI shows them, `codex exec` does not
    },
    "gemini": {
        "package": "@google/gemini-cli", "bin": "gemini",
        "argv": ["-m", "gemini-2.5-pro", "-p", PROMPT, "--yolo",
                 "--skip-trust"],
        "env": {"GOOGLE_GEMINI_BASE_URL": "$MODEL", "GEMINI_API_KEY": "dummy",
                "GEMINI_CLI_NO_RELAUNCH": "true", "NO_COLOR": "1"},
        "files": {".gemini/settings.json": json.dumps({
            "security": {"auth": {"selectedType": "gemini-api-key"},
                         "folderTrust": {"enabled": False}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"enableAutoUpdate": False}, "telemetry": {"enabled": False}})},
        "shell": ("run_shell_command", "command"),
        "steps": [("read_file", {"file_path": "hello.txt"})],
        "fires": "SessionStart BeforeAgent BeforeTool AfterTool AfterAgent SessionEnd",
        "hints": 1, "backs": 2,  # what is said at SessionStart it prints twice
    },
    "qwen": {
        "package": "@qwen-code/qwen-code", "bin": "qwen",
        "beside": ["node@22"],  # older ones do not run it
        "argv": ["-p", PROMPT, "--yolo", "--auth-type", "openai"],
        "env": {"OPENAI_BASE_URL": "$MODEL/v1", "OPENAI_API_KEY": "dummy",
                "OPENAI_MODEL": "m", "NO_COLOR": "1"},
        "files": {".qwen/settings.json": json.dumps({
            "security": {"auth": {"selectedType": "openai"},
                         "folderTrust": {"enabled": False}},
            "privacy": {"usageStatisticsEnabled": False},
            "general": {"enableAutoUpdate": False}, "telemetry": {"enabled": False}})},
        "shell": ("run_shell_command", "command"),
        "steps": [("glob", {"pattern": "*.txt"})],
        "fires": "SessionStart UserPromptSubmit PreToolUse PostToolUse Stop",
        "hints": 1,
        # -p raises no StopFailure, and does not end after three calls of the shell, of
        # which deciding is made; without hooks neither
        "lacks": ("StopFailure", "deciding"),
    },
    "copilot": {
        "package": "@github/copilot", "bin": "copilot",
        "argv": ["-p", PROMPT, "--allow-all-tools", "--no-auto-update",
                 "--trust-folder"],
        "env": {"COPILOT_OFFLINE": "true", "COPILOT_PROVIDER_BASE_URL": "$MODEL/v1",
                "COPILOT_PROVIDER_TYPE": "openai", "COPILOT_MODEL": "gpt-4.1",
                "COPILOT_PROVIDER_API_KEY": "dummy", "NO_COLOR": "1"},
        "shell": ("bash", "command"),
        "steps": [("bash", {"command": "cat hello.txt"})],
        "fires": "SessionStart UserPromptSubmit PreToolUse PostToolUse Stop",
        "hints": 1, "refused": 1,
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
    """Answers what a client asks of its model's API; everything else with {}.

    seen: called with each request in which the model may call tools, before its answer.
    """

    protocol_version = "HTTP/1.1"
    steps, asked, seen = (), None, staticmethod(lambda body: None)

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        self.asked.append(path)
        plays = next((f for end, f in REPLIES.items() if path.endswith(end)), None)
        if plays is None:
            return self.answer(b'{"input_tokens": 9, "data": [], "models": []}', "json")
        body = json.loads(data)
        if body.get("tools"):
            self.seen(body)
        return self.play(body, plays(body, self.steps))

    do_GET = do_HEAD = do_POST

    def play(self, body, events):
        """Say the *events* of a reply to *body*."""
        self.answer(streamed(events), "event-stream")

    def answer(self, body, kind, status="200 OK"):
        family = "text" if kind == "event-stream" else "application"
        head = (f"HTTP/1.1 {status}\r\nContent-Type: {family}/{kind}\r\n"
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
             "--loglevel=error", f"{row['package']}@{wanted}", *row.get("beside", ())],
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
    row = hook_io.REGISTERED[client]
    settings = project / row["settings"]
    settings.parent.mkdir(parents=True)
    (member,) = [name for name, text in row["entry"].items() if text in ("$C", "$Q")]
    hooks = {}
    for event, group in hook_io.Registration(client).sender("live").items():
        entry, *flush = group.get("hooks", [group])  # one witness, also of two hooks
        entry[member] = WITNESS.format(event=event, file=folder / "fired")
        hooks[event] = [{**group, "hooks": [entry]} if flush else group]
    settings.write_text(json.dumps({**row.get("members", {}), "hooks": hooks}))
    return project


def make(action, project, client):
    subprocess.run(
        ["make", "-C", str(ROOT), action, f"PROJECT={project}", f"AGENT={client}",
         "SOURCE_APP=live", f"PYTHON={sys.executable}"],
        check=True, stdout=subprocess.DEVNULL, timeout=RUN_S)


def install(project, client, *argv):
    """Install as `make install` does, with what that has no words for."""
    subprocess.run(
        [sys.executable, str(ROOT / "hook_io.py"), "install", str(project), "--agent",
         client, *argv], check=True, stdout=subprocess.DEVNULL, timeout=RUN_S)


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


def ran(command, env, **kwargs):
    """Run a client, what npm put beside it first on its PATH, to its end or the limit;
    return exit, output and seconds."""
    begun = time.monotonic()
    path = os.pathsep.join([os.path.dirname(command[0]), env["PATH"]])
    with subprocess.Popen(
            command, env={**env, "PATH": path}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            **kwargs) as process:
        try:
            output = process.communicate(timeout=RUN_S)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = process.communicate()[0] + b"\n[ended: it took too long]"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output.decode(errors="replace"), time.monotonic() - begun


# A network of its own.


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
