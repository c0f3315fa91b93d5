"""The kit is tested: each fault that is put into our scripts turns its own case red.

A mutant is a copy of the scripts with one fault in it.  It fails the case that names
the fault, and passes another one, so that it is no script that simply does not run.
"""

import functools
import json
import marshal
import os
import struct
import subprocess
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path
from typing import NamedTuple, Tuple

import pytest

import conformance
from conftest import PATIENCE_S, ROOT, RUNNER, VECTORS, timed
from hook_io import Parts

HOOK_IO, SEND_EVENT = "hook_io.py", "send_event.py"
REFERENCE_HOOK = "tests/contract/reference_hook.py"
REFERENCE_FUNCTIONS = "tests/contract/reference_functions.py"
LIMIT_S = 600  # for many cases on a busy machine; never a measure
DELIVERED = "post/an-event-is-one-post-and-silence"
SILENT = "emit/no-opinion-is-silence"


class Mutant(NamedTuple):
    """A fault.

    edits: (file, old text, new text); the old text is in the file exactly once.
    case: the one that names the fault.  control: one that passes all the same.
    """

    edits: Tuple[Tuple[str, str, str], ...]
    case: str
    control: str = DELIVERED


def in_library(old, new, case, control=DELIVERED):
    return Mutant(((HOOK_IO, old, new),), case, control)


SENDERS = {
    "exits 2 on a loss": in_library(
        "        return told.but(diagnostics=lines)\n\n    @staticmethod\n"
        "    def session_of",
        '        return HookResult("blocking_error", "\\n".join(lines))\n\n'
        "    @staticmethod\n    def session_of",
        "faults/nobody-listens"),
    "sends a secret member": in_library(
        "REDACTED if inner and Name.may_be(name)",
        'REDACTED if inner == "" and Name.may_be(name)',
        "redact/members-named-as-secrets"),
    "sends a secret value": in_library(
        "clip(self._safe(text), self.max_chars)",
        "clip(text, self.max_chars)",
        "redact/keys-of-code-hosts", "redact/members-named-as-secrets"),
    "follows a redirect": in_library(
        "        status = link.read_status()\n",
        "        status = link.read_status()\n"
        '        there = url.replace("/events", "/elsewhere")\n'
        "        if status in (301, 302, 303, 307, 308):\n"
        "            return post_json(there, body, deadline)\n",
        "faults/redirect-is-not-followed"),
    "sends a lost event again": in_library(
        "    except Outcome as ended:\n"
        "        return ended\n",
        "    except Outcome as ended:\n"
        "        again = deadline < time.monotonic() + 60\n"
        "        return post_json(url, body, deadline + 60, headers, allow_http) if (\n"
        "            again) else ended\n",
        "faults/a-loss-is-not-sent-again"),
    "renews its deadline with each read": in_library(
        "            self.sock.settimeout(Wait.left(self.deadline))\n"
        "            chunk:",
        "            self.sock.settimeout(0.5)\n            chunk:",
        "faults/one-deadline-for-all-reads"),
    "gives a hint on PreCompact": in_library(
        '" SessionStart Stop PreSkillShellCommand", _MESSAGE)',
        '" SessionStart Stop PreCompact", _MESSAGE)',
        "streak/silence-where-nobody-would-see-it"),
    "gives a hint with each loss": in_library(
        "        except FileExistsError:\n            return False\n",
        "        except FileExistsError:\n            pass\n",
        "streak/a-session-is-told-once"),
    "reads the count, adds one, and writes it": in_library(
        "            os.write(fd, lines)\n",
        '            before = os.pread(os.open(self.path, os.O_RDONLY), 1 << 20, 0)\n'
        "            time.sleep(0.02)\n"
        '            with open(self.path, "wb") as file:\n'
        "                file.write(before + lines)\n",
        "streak/forty-at-once-count-to-forty"),
    "writes two documents": in_library(
        'write(1, f"{text}\\n".encode', 'write(1, f"{text}\\n{text}\\n".encode',
        "streak/third-loss-tells-the-person"),
    "prints to stdout": in_library(
        "        self.buffer.drop()\n        self._exit(EXIT_OK)",
        '        self.buffer.write(1, b"done\\n")\n        self._exit(EXIT_OK)',
        DELIVERED, "cli/an-unknown-option-is-a-mistake"),
    "says that it is done": in_library(
        'diagnostics=errand.notes)\n        fact, effect',
        'diagnostics=["[INFO] sent"])\n        fact, effect',
        DELIVERED, "faults/nobody-listens"),
    "drops what is no event": in_library(
        'return ({**whole, "input_error": str(error)},',
        "raise Done(NOTHING)\n        return ({},",
        "stdin/words-are-no-event-but-sent-and-told"),
    "takes NaN for JSON": in_library(
        "        raise InputError(f\"{name} is not JSON\")\n",
        "        return None\n",
        "stdin/nan-and-infinity-are-not-json"),
    "sends what is no JSON": in_library(
        'body = encode(build(clip(event, max_chars))).encode("ascii")',
        "body = repr(build(clip(event, max_chars))).encode()",
        "post/the-body-is-one-flat-object-of-seven-strings", "faults/nobody-listens"),
    "takes a number that is cut for a whole one": in_library(
        """if text[at] in ",}" and not""", """if text[at:at + 1] in ",}" and not""",
        "stdin/a-member-is-whole-where-a-comma-follows-within-the-limit",
        "stdin/of-a-huge-event-all-is-read"),
    "waits for the end of stdin": in_library(
        'if stdin.total == len(stdin.data) and chunk.rstrip()[-1:] == b"}" and (',
        "if not chunk and (",
        "stdin/what-comes-behind-a-whole-event-is-not-waited-for"),
    "obeys a proxy": Mutant((
        (HOOK_IO, "        link.reach(allow_http, ca_file)\n",
         '        if os.environ.get("http_proxy"):\n'
         '            link.endpoint = Endpoint(os.environ["http_proxy"])\n'
         "        link.reach(allow_http, ca_file)\n"),
        (HOOK_IO, 'lines = [f"POST {self.path} HTTP/1.1"',
         'there = self.authority if os.environ.get("http_proxy") else ""\n'
         "        there = there and f\"http://{there}\"\n"
         '        lines = [f"POST {there}{self.path} HTTP/1.1"')),
        "faults/proxy-variables-are-not-obeyed"),
    "shows the password of a URL": in_library(
        '        rest = rest.rpartition("@")[2]\n', "        pass\n",
        "endpoint/user-info-is-refused"),
    "shows the query of a URL": in_library(
        'rest = rest.partition("?")[0].partition("#")[0]',
        'rest = rest.partition("#")[0]',
        "endpoint/query-is-not-shown"),
    "judges an address by its spelling": Mutant((
        (HOOK_IO,
         "addresses = self.endpoint.permitted(\n"
         "            self.endpoint.addresses(self.net, deadline), allow_http)\n",
         "addresses = self.endpoint.addresses(self.net, deadline)\n"
         '        if "." in self.endpoint.host:\n'
         "            addresses = self.endpoint.permitted(\n"
         "                addresses, allow_http)\n"),
        # nothing leaves this machine to show it
        (HOOK_IO, "self.sock.connect(address)",
         'self.sock.connect(("127.0.0.1", 9))')),
        "endpoint/metadata-address-as-one-number", "endpoint/metadata-address"),
    "blocks on Stop": in_library(
        '" SessionStart", _EXIT)', '" SessionStart Stop", _EXIT)',
        "streak/block-never-where-it-loops"),
    "takes no other 2xx than 201": in_library(
        "if status < 200 or status >= 400:", "if status != 201:",
        "post/any-2xx-is-success"),
    "takes silence for success": in_library(
        '"unconfirmed": True,', '"unconfirmed": False,',
        "faults/silence-after-the-request"),
    "sends the environment": in_library(
        'errand.metadata or (event.native and encode(event.native))',
        'errand.metadata or encode({**event.native, **os.environ})',
        "redact/environment-is-not-sent"),
    "sends what the allow-list does not name": in_library(
        "        if fields:\n            allowed",
        "        if False:\n            allowed",
        "post/only-the-named-members-leave"),
    "counts in a folder that is a link": in_library(
        "return stat.S_ISLNK(found.st_mode) or OwnFile.is_foreign(found)",
        "return False",
        "streak/linked-folder-is-not-followed"),
    "counts in a file that a link names": in_library(
        'for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):\n'
        "            flags |= getattr(os, name, 0)\n"
        '        if not hasattr(os, "O_NOFOLLOW") and',
        'for name in ("O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):\n'
        "            flags |= getattr(os, name, 0)\n        if False and",
        "streak/linked-file-is-not-followed"),
    "shows what stands in the count": in_library(
        'since if known else "a time unknown"', "since",
        "streak/lines-of-somebody-else-count-and-are-not-shown",
        "streak/deleting-the-file-resets-it"),
    "takes local time for UTC": in_library(
        '"%Y-%m-%dT%H:%M:%S.", time.gmtime(seconds)',
        '"%Y-%m-%dT%H:%M:%S.", time.localtime(seconds)',
        "post/timestamp-is-when-the-hook-ran",
        "post/timestamp-is-utc-with-milliseconds"),
    "tells an agent by a variable": in_library(
        "    for agent, row in PLATFORMS.items():\n        if any(AgentEvent.has_sign",
        '    if "CLAUDE_PROJECT_DIR" in os.environ:\n        return "claude-code"\n'
        "    for agent, row in PLATFORMS.items():\n        if any(AgentEvent.has_sign",
        "platform/copilot-is-understood-under-claude-codes-settings",
        "platform/copilot-is-understood-in-camel-case"),
    "does not know a sign of Copilot": in_library(
        '"signs": ("sessionId", ', '"signs": (',
        "platform/copilot-is-understood-in-camel-case",
        "platform/gemini-is-sent-in-claude-codes-words"),
    "sends an agent's own name of a tool": in_library(
        'self["tool_name"] = names.get(name, name)', 'self["tool_name"] = name',
        "platform/gemini-is-sent-in-claude-codes-words",
        "platform/codex-is-sent-in-its-own-words"),
    "sends another event than the agent did": in_library(
        'errand.metadata or (event.native and encode(event.native))',
        'errand.metadata or (event.native and encode(event))',
        "platform/copilot-is-understood-in-camel-case",
        "platform/codex-is-sent-in-its-own-words"),
    "gives Qwen a hint before a tool": in_library(
        '"hint": {"Stop": _MESSAGE},', '"hint": {"*": _MESSAGE},',
        "platform/qwen-shows-a-hint-at-the-end-of-a-turn-only",
        "platform/gemini-shows-a-hint-on-every-event"),
    "sends the collector's token to another server": in_library(
        'else url.rstrip("/") + path, {}\n',
        'else url.rstrip("/") + path, self._pairs(\n'
        '                "OTEL_EXPORTER_OTLP_HEADERS")\n',
        "formats/otlp-headers-of-the-collector-go-to-no-other-server",
        "formats/otlp-is-one-log-record"),
    "takes a record that a collector rejects for delivered": in_library(
        'elif all(str(count) == "0" for', "elif all(True for",
        "formats/otlp-a-record-that-is-rejected-is-a-loss",
        "formats/otlp-a-warning-of-the-collector-is-no-loss"),
    "gives all CloudEvents one id": in_library(
        '"specversion": "1.0", "id": errand.key,',
        '"specversion": "1.0", "id": "1",',
        "formats/cloudevents-each-event-has-an-id-of-its-own",
        "formats/cloudevents-is-structured"),
    "looks for an echoed token in each piece": in_library(
        "        self.answer += chunk\n        for token in self._tokens:\n"
        '            self.answer = self.answer.replace(token, b"*" * len(token))',
        "        for token in self._tokens:\n"
        '            chunk = chunk.replace(token, b"*" * len(token))\n'
        "        self.answer += chunk",
        "headers/a-token-that-comes-in-pieces-becomes-stars",
        "headers/a-token-that-a-server-echoes-becomes-stars"),
    "lets a variable set the length of the body": in_library(
        'return "is set by hook-io alone" if name.lower() in OWN_HEADERS else ""',
        'return ""',
        "headers/those-of-the-request-itself-cannot-be-set", "headers/one-a-line"),
    "exits 0 from a check that failed": in_library(
        'HookResult("failed" if outcome.is_loss else "print"', 'HookResult("print"',
        "check/one-that-does-not-arrive-is-exit-1",
        "check/an-event-that-arrives-is-exit-0"),
    "logs nothing where a server is named": in_library(
        'if settings.event_log:\n            EXTRAS["log"]',
        'if settings.event_log and settings.server_url == "none":\n'
        '            EXTRAS["log"]',
        "log/a-line-is-kept-where-no-server-answers",
        "log/without-a-server-it-is-all-there-is"),
    "logs what is not redacted": in_library(
        'EXTRAS["log"](leaving, errand)', 'EXTRAS["log"](event, errand)',
        "log/a-line-is-the-object-that-is-sent",
        "log/a-line-is-kept-where-no-server-answers"),
    "gives each try a key of its own": in_library(
        '{**headers, "Idempotency-Key": self.errand.key}',
        '{**headers, "Idempotency-Key": os.urandom(16).hex()}',
        "spool/every-try-carries-one-key", "spool/a-flush-delivers-what-waits"),
    "delivers the newest first": in_library(
        'for name in self.names("json"):', 'for name in self.names("json")[::-1]:',
        "spool/the-oldest-goes-first-and-each-has-its-own-key",
        "spool/a-flush-delivers-what-waits"),
    "tries for ever what will never be taken": in_library(
        "        400 <= status < 500 or", "        600 <= status < 700 or",
        "spool/what-will-never-be-taken-is-set-aside",
        "spool/what-may-be-taken-another-time-waits"),
    "sleeps before it connects": in_library(
        "        link.reach(allow_http, ca_file)\n",
        "        time.sleep(4)\n        link.deadline += 4\n"
        "        link.reach(allow_http, ca_file)\n",
        "time/a-delivered-event-costs-no-wait"),
    "waits to connect as long as it likes": in_library(
        "settimeout(share if is_slow else min(left, max(share, 0.25)))\n",
        "settimeout(4)\n",
        "time/a-connection-that-nobody-takes-costs-the-budget"),
    "tries again until its budget is over": in_library(
        '            return Outcome("refused", Line.of_error(error))\n'
        "        return None",
        "            time.sleep(left)\n"
        '            return Outcome("refused", Line.of_error(error))\n'
        "        return None",
        "time/a-refused-connection-costs-no-wait"),
    "lingers after its answer": in_library(
        "            link.sock.close()\n",
        "            link.sock.close()\n            time.sleep(4)\n",
        "time/the-answer-is-the-end"),
    "waits for a stdin that is silent": in_library(
        "STDIN_IDLE_MS = 500 ", "STDIN_IDLE_MS = 4000 ",
        "time/half-an-event-is-waited-for-500-ms"),
    "waits for a writer without end": in_library(
        "STDIN_TIMEOUT_MS = 5000", "STDIN_TIMEOUT_MS = 12000",
        "time/a-writer-without-end-is-waited-for-5-s"),
    "waits for the background": in_library(
        "            if os.fork():\n                os._exit(EXIT_OK)",
        "            child = os.fork()\n            if child:\n"
        "                os.waitpid(child, 0)\n                os._exit(EXIT_OK)",
        "time/nobody-waits-for-the-background"),
    "looks through all of a huge event": in_library(
        "        return self._is_spent\n", "        return False\n",
        "time/a-huge-event-costs-half-of-the-budget"),
    "takes any certificate": in_library(
        "            self.sock = tls.wrap_socket",
        "            tls.check_hostname, tls.verify_mode = False, 0  # CERT_NONE\n"
        "            self.sock = tls.wrap_socket",
        "tls/a-self-signed-certificate"),
    "takes a certificate that has expired": in_library(
        "            tls.options &= ~TLS_IGNORES_CUTS\n",
        "            tls.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME\n",
        "tls/an-expired-certificate", "tls/another-hosts-certificate"),
    "asks nobody where no file is named": in_library(
        'tls: "Any" = ssl.create_default_context(cafile=path or None)\n',
        'tls: "Any" = ssl.create_default_context(cafile=path) if path else (\n'
        "                ssl._create_unverified_context())\n",
        "tls/the-system-is-asked-where-no-file-is-named",
        "tls/another-hosts-certificate"),
    "takes a good certificate for another host": in_library(
        "            self.sock = tls.wrap_socket",
        "            tls.check_hostname = False\n"
        "            self.sock = tls.wrap_socket",
        "tls/another-hosts-certificate", "tls/an-authority-of-ones-own-is-trusted"),
    "judges a name by its spelling alone": in_library(
        "    return [(family, address) for family, _, _, _, address in found]\n",
        "    return []\n", "endpoint/a-name-of-this-machine"),
    "gives a model all of the time": in_library(
        '(errand.deadline - time.monotonic()) / 2',
        'errand.deadline - time.monotonic()',
        "summarize/a-silent-model-has-half-of-the-time",
        "summarize/the-summary-is-the-models"),
    "asks a model with the event as it is": in_library(
        'EXTRAS["asked_summary"](leaving, errand)',
        'EXTRAS["asked_summary"](event.native, errand)',
        "summarize/the-summary-is-the-models", "summarize/another-model-by-variable"),
    "believes a model's every word": in_library(
        "Line.clean(redact(words)).split()", "words.split()",
        "summarize/a-secret-that-it-repeats-is-redacted",
        "summarize/another-model-by-variable"),
    "counts no files of the spool": in_library(
        "within = count <= SPOOL_MAX_FILES and ", "within = ",
        "spool/it-holds-2000-events", "spool/it-holds-64-mib"),
    "weighs no files of the spool": in_library(
        "SPOOL_MAX_FILES and total <= SPOOL_MAX_BYTES", "SPOOL_MAX_FILES",
        "spool/it-holds-64-mib", "spool/it-holds-2000-events"),
    "keeps what is lost for ever": in_library(
        "if not within or SPOOL_SINCE_NS < time_ns < oldest:", "if not within:",
        "spool/it-holds-14-days", "spool/it-holds-2000-events"),
    "ends a flush at what it cannot read": in_library(
        '(name, record, f"unreadable: {Line.of_error(error)}")\n'
        "                continue\n",
        '(name, record, "unreadable")\n                return delivered, str(error)\n',
        "spool/a-record-that-is-no-json-is-set-aside",
        "spool/a-flush-delivers-what-waits"),
    "ends a flush at what is no file": in_library(
        "                record = self._read(name)\n",
        "                if os.path.islink(os.path.join(self.folder, name)):\n"
        "                    return 0, name\n"
        "                record = self._read(name)\n",
        "spool/what-is-no-file-of-its-own-is-not-read",
        "spool/a-record-that-is-no-json-is-set-aside"),
    "stays in the agent's process group": in_library(
        "        os.setsid()\n", "", "background/the-agent-waits-for-no-network"),
    "lets anybody's answer permit a tool": in_library(
        'if intent in self._PERMITS and errand.decide != "full":',
        'if intent in self._PERMITS and errand.decide == "off":',
        "decide/permission-and-another-input-need-full",
        "decide/a-denial-is-said-in-the-agents-own-shape"),
    "blocks a turn's end for ever": in_library(
        'intent = "" if is_again else "block"', 'intent = "block"',
        "decide/a-turns-end-is-blocked-once",
        "decide/a-denial-is-said-in-the-agents-own-shape"),
    "lets a tool run where no answer is understood": in_library(
        'if errand.settings.decide_fail != "closed" or', "if True or",
        "decide/closed-denies-where-no-answer-is-understood",
        "decide/what-is-no-opinion-is-silence"),
    "takes an answer out of prose": in_library(
        "(around and decides) or JSON", "JSON",
        "decide/an-answer-is-one-object-and-nothing-else",
        "decide/a-denial-is-said-in-the-agents-own-shape"),
    "allows what an answer that was cut allows": in_library(
        "        if intent in self._PERMITS and not self.outcome.is_whole:\n",
        "        if False:\n",
        "decide/an-answer-without-a-length-allows-only-if-it-ends",
        "decide/an-answer-is-one-object-and-nothing-else"),
    "takes an answer of any depth": in_library(
        "(around and decides) or JSON.is_deep(said, text)", "around and decides",
        "decide/an-answer-is-one-object-and-nothing-else",
        "decide/a-denial-is-said-in-the-agents-own-shape"),
    "takes an echo of the event for another input": in_library(
        "inputs = self._INPUTS[not verdict:]", "inputs = self._INPUTS",
        "decide/an-echo-of-the-event-is-no-other-input",
        "decide/permission-and-another-input-need-full"),
    "hands the keys to whoever is between": in_library(
        'if self.errand.decide != "full" or self.url.lower().startswith("https:"):',
        "if True:", "decide/full-is-deny-over-plain-http-to-another-machine",
        "decide/permission-and-another-input-need-full"),
    "has the hook's own budget in the background": in_library(
        "errand.timeout_ms = errand.settings.background_timeout_ms", "pass",
        "background/a-slow-server-is-waited-for-there",
        "background/the-agent-waits-for-no-network"),
}

HOOKS = {
    "lets a handler's print reach stdout": Mutant((
        (HOOK_IO, "{1: self._sink, 2: self._sink}", "{2: self._sink}"),
        (HOOK_IO, "self._writer = sys.stdout = sys.stderr = open(",
         "self._writer = sys.stderr = open(")),
        "emit/what-the-handler-prints-is-held-back", SILENT),
    "lets a child's output reach stdout": in_library(
        "{1: self._sink, 2: self._sink}", "{2: self._sink}",
        "emit/what-a-child-process-prints-is-held-back", SILENT),
    "writes a second document": in_library(
        "        self.fds = {1: 1, 2: 2}\n        self._sink = -1",
        "        self.fds = dict(INSTALLED[0]) if INSTALLED else {1: 1, 2: 2}\n"
        "        self._sink = -1",
        "emit/a-second-answer-is-not-said", "emit/one-document-on-one-line"),
    "denies by exit 2": in_library(
        '**Row.on("PreToolUse PreSkillShellCommand", Row.verdict("deny"))',
        '**Row.on("PreToolUse PreSkillShellCommand", _EXIT)',
        "answer/deny-refuses-a-tool", SILENT),
    "lets a guard's error pass": in_library(
        'FAILURES = {"open": "", "closed": "deny"}',
        'FAILURES = {"open": "", "closed": ""}',
        "failing/a-guards-error-denies",
        "failing/a-guard-that-works-decides-as-it-says"),
    "stops the agent for an observer's error": in_library(
        "return HookResult(self.intent, line, told, diagnostics=[line])",
        'return HookResult(self.intent or "blocking_error", line)',
        "failing/an-observers-error-is-told-and-stops-nothing", SILENT),
    "gives context at the end of a turn": in_library(
        '" SessionStart SubagentStart", _CONTEXT)',
        '" SessionStart SubagentStart Stop", _CONTEXT)',
        "answer/context-at-the-end-of-a-turn-is-not-said", SILENT),
    "takes no opinion for a permission": in_library(
        "result, emitter = NOTHING if result is None else result,",
        "result, emitter = result if result and result.intent else "
        'HookResult("allow"),',
        "answer/no-opinion-is-not-allow", "answer/deny-refuses-a-tool"),
    "lets a tool run whose refusal nobody read": in_library(
        "result.intent not in REFUSALS):", "True):",
        "emit/a-refusal-that-nobody-reads-is-exit-2", "answer/deny-refuses-a-tool"),
    "sends Codex a member that it does not know": in_library(
        '"PreToolUse": {}, "PermissionRequest": Row.behavior(behavior="allow")},',
        '"PreToolUse": {},\n            "PermissionRequest": Row.behavior('
        'behavior="allow", reason="$T")},',
        "agents/codex-allow-with-a-reason-has-no-member-for-it", "agents/codex-allow"),
    "says a hint behind Copilot's answer": in_library(
        "self.emit_text(line + encode(document))",
        'self.emit_text((encode(document) + "\\n" + line).strip())',
        "agents/copilot-hint-stands-before-the-answer", "agents/copilot-deny"),
    "calls Gemini's event as Claude Code does": in_library(
        '"$E": normalise(event).event_name,',
        '"$E": str(normalise(event).get("hook_event_name")),',
        "agents/gemini-context-names-the-event-as-gemini-does", "agents/gemini-deny"),
}

FUNCTIONS = {
    "finds no secret in a text": Mutant(
        ((REFERENCE_FUNCTIONS, '"redact": hook_io.redact,',
          '"redact": lambda value: value,'),),
        "corpus/keys-of-published-forms", "corpus/what-only-looks-like-one-stays"),
    "takes everything for a secret": Mutant(
        ((REFERENCE_FUNCTIONS, '"redact": hook_io.redact,',
          '"redact": lambda value: [{"content": "[redacted]"} for _ in value],'),),
        "corpus/what-only-looks-like-one-stays", "corpus/secrets-with-a-name"),
    "does not look at the address within an address": in_library(
        "return address_kind(net.inet_ntop(net.AF_INET, packed[at:at + 4]))",
        'return "public"',
        "address/ipv4-within-ipv6-is-judged-as-such", "address/anybody-else"),
    "takes what is substituted for text": in_library(
        '            self._nested()\n        elif self._taken("{"):',
        '            self._up_to(")")\n        elif self._taken("{"):',
        "commands/what-is-substituted-is-run",
        "commands/each-command-of-a-line-is-one"),
    "takes a variable for its name": in_library(
        "        return None if None in parts else",
        '        parts = ["$" if p is None else p for p in parts]\n'
        "        return None if None in parts else",
        "commands/what-is-known-at-run-time-only-is-null",
        "commands/words-are-what-the-shell-makes-of-them"),
    "says that all is understood": in_library(
        "    return line.calls, list(dict.fromkeys(line.unclear))",
        "    return line.calls, []",
        "commands/what-is-not-understood-is-never-said-to-be",
        "commands/each-command-of-a-line-is-one"),
    "follows no link": in_library(
        "            real = os.path.realpath(os.path.join(self.root, path))\n"
        "            top = os.path.realpath(self.root)\n",
        "            real = os.path.abspath(os.path.join(self.root, path))\n"
        "            top = os.path.abspath(self.root)\n",
        "within/a-link-is-followed", "within/what-leaves-a-folder-is-not"),
    "compares the beginnings of paths": in_library(
        "            if self._is_same(real, top):\n                return True\n"
        "        return False",
        "            pass\n        real = os.path.realpath("
        "os.path.join(self.root, path))\n"
        "        return real != top and real.startswith(top)",
        "within/what-leaves-a-folder-is-not",
        "within/what-cannot-be-judged-is-not-within"),
}

#: contract -> (the file that is run, its mutants)
CONTRACTS = {"send_event": (SEND_EVENT, SENDERS), "hook": (REFERENCE_HOOK, HOOKS),
             "functions": (REFERENCE_FUNCTIONS, FUNCTIONS)}
#: what cases begin with whose mutants wait, or have very much to do
LONG = ("time/", "summarize/a-silent-model", "spool/it-holds-")
MUTANTS = [pytest.param(contract, mutant, id=name, marks=(
               [pytest.mark.long] if mutant.case.startswith(LONG) else []))
           for contract, (_, mutants) in CONTRACTS.items()
           for name, mutant in mutants.items()]


SEAM = "\n# Part two:"  # between the library's parts
PYC_HEADER = struct.Struct("<4sIII")


@functools.lru_cache(maxsize=None)
def compiled(part):
    """Return *part* of the library as Python keeps it; most mutants leave one alone."""
    return marshal.dumps(compile(part, HOOK_IO, "exec"))


def keep_compiled(path):
    """Keep the parts of the library at *path* compiled, as an installed one has them.

    Lines of part two are counted from the seam, so that they are the same in each.
    """
    found, parts = path.stat(), Parts(str(path), cache_from_source(str(path)))
    header = PYC_HEADER.pack(MAGIC_NUMBER, 0, int(found.st_mtime), found.st_size)
    one, mark, two = path.read_text(encoding="utf-8").partition(SEAM)
    os.makedirs(os.path.dirname(parts.one), exist_ok=True)
    for part, file in (one + parts.COMMAND, parts.one), (mark + two, parts.two):
        Path(file).write_bytes(header + compiled(part))


def copied(folder, edits=()):
    """Return *folder* with our scripts in it, as they are here but for *edits*."""
    (folder / "tests" / "contract").mkdir(parents=True, exist_ok=True)
    for name in (HOOK_IO, SEND_EVENT, REFERENCE_HOOK, REFERENCE_FUNCTIONS):
        text = (ROOT / name).read_text(encoding="utf-8")
        for _, old, new in (edit for edit in edits if edit[0] == name):
            assert text.count(old) == 1, (
                f"{name} holds this {text.count(old)} times; what was to be mutated has"
                f" changed, and the mutant must, too:\n{old}")
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")
    keep_compiled(folder / HOOK_IO)
    return folder


@pytest.fixture(scope="module")
def vectors():
    return {case["id"]: case for case in conformance.load(VECTORS)}


def kit(contract, *options):
    return [sys.executable, str(RUNNER), "--contract", contract, "--json", *options]


def judged(contract, command, *options):
    """Return (exit status, {case id: result}) of a run of the kit on *command*."""
    done = subprocess.run(
        [*kit(contract, "-j", "4", *options), "--", *command],
        capture_output=True, timeout=LIMIT_S)
    assert done.returncode in (0, 1), done.stderr.decode()
    cases = json.loads(done.stdout.decode())["cases"]
    return done.returncode, {case["id"]: case["result"] for case in cases}


def command_in(folder, contract):
    """Return what runs the script of a contract, as agents run ours."""
    return [sys.executable, "-IS", str(folder / CONTRACTS[contract][0])]


@pytest.mark.parametrize(("contract", "mutant"), MUTANTS)
@timed  # what starts slowly is given more time, and then so is a mutant that waits
def test_a_fault_is_caught_by_the_case_that_names_it(
    contract, mutant, vectors, tmp_path
):
    command = command_in(copied(tmp_path, mutant.edits), contract)
    options = conformance.parsed_options(["--", *command])
    assert [conformance.judged(vectors[name], options)["result"]
            for name in (mutant.case, mutant.control)] == ["fail", "pass"]


@pytest.mark.long
@pytest.mark.parametrize("contract", CONTRACTS)
@timed
def test_without_a_fault_the_same_cases_pass(contract, tmp_path):
    named = {name for mutant in CONTRACTS[contract][1].values()
             for name in (mutant.case, mutant.control)}
    vectors = tmp_path / "vectors"
    vectors.mkdir(exist_ok=True)
    for path in VECTORS.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "cases" not in content:  # rules as data
            continue
        content["cases"] = [case for case in content["cases"] if case["id"] in named]
        (vectors / path.name).write_text(json.dumps(content), encoding="utf-8")
    command = command_in(copied(tmp_path), contract)
    assert judged(contract, command, "--vectors", str(vectors)) == (
        0, dict.fromkeys(sorted(named), "pass"))


#: what a command does -> the command
USELESS = {
    "nothing": ["true"],
    "copies stdin": ["cat"],
    "nothing but a version": [
        "sh", "-c", "case $1 in --version) echo 1.0 ;; esac", "sh"],
    "fails but for a version": [
        "sh", "-c", "case $1 in --version) echo 1.0 ;; *) exit 1 ;; esac", "sh"],
}


@pytest.mark.parametrize("command", USELESS.values(), ids=USELESS)
@pytest.mark.parametrize(("contract", "pattern"), [
    ("send_event", "post/t*"), ("hook", "answer/deny-refuses-*"),
    ("functions", "address/*")])
def test_a_command_that_does_none_of_it_passes_none_of_it(contract, pattern, command):
    status, results = judged(contract, command, "-k", pattern)
    assert status == 1
    assert results
    assert not {"pass", "skip"} & set(results.values()), results


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_command_that_always_fails_is_not_judged(contract):
    done = subprocess.run([*kit(contract), "--", "false"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=PATIENCE_S)
    assert done.returncode != 0
    assert b'"result": "pass"' not in done.stdout
