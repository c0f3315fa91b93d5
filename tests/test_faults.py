# SPDX-License-Identifier: MIT
"""Whatever a server or a network does, the hook ends in time and says what it was."""

import contextlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import SLACK_MS, arrived, needs_ipv6, sample, timed
from server import FAULTS, EventServer, full_backlog

BUDGET_MS = 100  # what send_event.py takes without being told
SHORT_MS = 300  # a budget that a server's silence uses up
TLS_MS = 2000  # the same, where a busy machine has a handshake to make
NO_HASTE_MS = 5000  # a budget under which only the server decides what happens
EVENT = sample("PreToolUse")

#: fault -> reply (None: the row of FAULTS), outcome, pattern of the words; the server
#: settles these at once, so that the hook has to leave at once
SETTLED = {
    "reset_on_accept": (None, "refused", "connection reset|closed without an answer"),
    "reset_mid_request": (None, "refused", "connection reset|closed without an answer"),
    "reset_in_headers": (None, "sent|refused", "connection reset|"),
    "close": (None, "refused", "closed without an answer"),
    "interim_then_close": (
        {"raw": "HTTP/1.1 103 Early Hints\r\n\r\n"}, "refused", "closed without an"),
    "not_http": (None, "refused", "not HTTP: 'SSH-2.0-OpenSSH_9.6'"),
    "garbage": (None, "refused", "not HTTP: "),
    "not_http_then_silence": (
        {"raw": "220 mail.example ESMTP", "hang": True}, "refused", "not HTTP: '220 "),
    "a_very_long_line": ({"raw": "x" * 200_000}, "refused", "not HTTP: 'x{30,80}'"),
    "endless_status": (None, "refused", "not HTTP: 'HTTP/1.1 201 Created"),
    "status_99": ({"raw": "HTTP/1.1 99 Low\r\n\r\n"}, "refused", "not HTTP: .*99 Low"),
    "status_099": ({"raw": "HTTP/1.1 099 Low\r\n\r\n"}, "refused", "not HTTP: .*099"),
    "interim_then_noise": (
        {"raw": "HTTP/1.1 100 Continue\r\n\r\nnoise", "hang": True}, "refused",
        "not HTTP: 'noise'"),
    "status_abc": ({"raw": "HTTP/1.1 abc Odd\r\n\r\n"}, "refused", "not HTTP: .*abc"),
    "no_status": ({"raw": "HTTP/1.1\r\n\r\n"}, "refused", "not HTTP: 'HTTP/1.1"),
    "status_600": ({"status": 600}, "rejected", "HTTP 600"),
    "status_101": ({"raw": "HTTP/1.1 101 Other\r\n\r\n"}, "rejected", "HTTP 101"),
    "redirect": (None, "rejected", "HTTP 302, redirects are not followed"),
    "bad_request": (
        None, "rejected", r"HTTP 400: ValidationError: Invalid event_type: must be"),
    "server_error": (None, "rejected", "HTTP 500"),
    "http_1_0_error": (
        {"raw": "HTTP/1.0 503 Busy\r\n\r\n"}, "rejected", "HTTP 503"),
    "http_1_0": ({"raw": "HTTP/1.0 200 OK\r\n\r\nok"}, "sent", ""),
    "bare_line_ends": ({"raw": "HTTP/1.1 201 Created\n\n"}, "sent", ""),
    "no_reason": ({"raw": "HTTP/1.1 201\r\n\r\n"}, "sent", ""),
    "torn_status": ({"drip_ms": 1}, "sent", ""),
    "endless_headers": (None, "sent", ""),
    "endless_body": (None, "sent", ""),
    "huge_body": (None, "sent", ""),
    "continue_then_201": (None, "sent", ""),
    "no_content": (None, "sent", ""),
    "accepted": (None, "sent", ""),
    "ok_not_json": (None, "sent", ""),
}
TOO_SLOW = f"no answer within {SHORT_MS} ms"
#: the same for what only the hook's own deadline ends
UNSETTLED = {
    "silent": (None, "unconfirmed", TOO_SLOW),
    "accept_only": (None, "unconfirmed", TOO_SLOW),
    "drip": (None, "unconfirmed", TOO_SLOW),
    "slow": ({"delay_ms": 3000}, "unconfirmed", TOO_SLOW),
    "continue_then_silence": (None, "unconfirmed", TOO_SLOW),
    "half_a_status": ({"raw": "HTTP/1.1 20", "hang": True}, "unconfirmed", TOO_SLOW),
    "interim_for_ever": (
        {"raw": "HTTP/1.1 100 Continue\r\n\r\n" * 1000, "drip_ms": 1},
        "unconfirmed", TOO_SLOW),
    "error_then_silence": (
        {"raw": "HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{\"error\"",
         "hang": True},
        "rejected", r"HTTP 400 \("),
}

#: a script that answers name lookups itself, then is send_event.py
LOOKUP = """
import json, os, runpy, socket, _socket

plan = json.loads(os.environ["LOOKUP"])

def getaddrinfo(host, port, *_rest):
    if "asks" in plan:  # a server that does not answer, and sees how long we wait
        asked = socket.socket()
        asked.connect(("127.0.0.1", plan["asks"]))
        asked.recv(1)
    if "error" in plan:
        raise socket.gaierror(socket.EAI_NONAME, plan["error"])
    return [(getattr(socket, family), socket.SOCK_STREAM, 6, "", (address, port))
            for family, address in plan["addresses"]]

_socket.getaddrinfo = socket.getaddrinfo = getaddrinfo
runpy.run_path(os.environ["SEND_EVENT"], run_name="__main__")
"""

#: runs send_event.py, which spends 1.2 s of CLOCK before it reads stdin
SPENDING = """
import os, runpy, sys, time

sys.path.insert(0, os.path.dirname(os.environ["SEND_EVENT"]))
import hook_io

def spend(*words, parse=hook_io.parse_options):
    clock = getattr(time, os.environ["CLOCK"])
    end = clock() + 1.2
    while clock() < end:
        time.sleep(1.2 if clock is time.monotonic else 0)
    return parse(*words)

hook_io.parse_options = spend
runpy.run_path(os.environ["SEND_EVENT"], run_name="__main__")
"""

#: a script that posts argv[2] bytes to argv[1] within argv[3] ms and prints the outcome
POST = """
import socket, sys, time, hook_io

url, body_bytes, timeout_ms, clock = sys.argv[1:]
body = b"x" * int(body_bytes)
watched = socket.create_connection(("127.0.0.1", int(clock)))  # until the process ends
deadline = time.monotonic() + int(timeout_ms) / 1000
print(hook_io.post_json(url, body, deadline).name)
"""


def send(hook, url, *argv, **kwargs):
    """Send one event to *url* with no haste, unless *argv* says otherwise."""
    return hook.send(url, f"--timeout-ms={NO_HASTE_MS}", *argv, stdin=EVENT, **kwargs)


def send_by_name(hook, plan, port, timeout_ms=NO_HASTE_MS, **kwargs):
    """Send an event to a host name that is looked up as *plan* says."""
    script = Path(hook.home) / "lookup.py"
    script.write_text(LOOKUP)
    env = {"LOOKUP": json.dumps(plan), "SEND_EVENT": str(hook.folder / "send_event.py")}
    url = f"http://observability.internal:{port}/events"
    return url, hook.run(
        str(script), "--source-app=demo", "--event-type=PreToolUse",
        f"--server-url={url}", f"--timeout-ms={timeout_ms}", stdin=EVENT, env=env)


def outcome(hook):
    """Return the outcome in the streak file's one line; "sent" without a file."""
    (line,) = hook.losses() or ["- - sent -"]
    return line.split()[2]


def check(hook, result, url, outcomes, words):
    """Hold a result against the outcomes and words that are right, split by "|"."""
    assert outcome(hook) in outcomes.split("|"), result
    assert (result.exit, result.stdout) == (0, ""), result
    if outcome(hook) == "sent":
        assert result.stderr == ""
        return
    error, warning = result.lines
    fact = re.fullmatch(
        r"\[ERROR\] Failed to send event to observability-server: (.+)", error).group(1)
    assert re.search(words, fact) and fact.endswith(f" ({url})"), result
    assert warning.startswith("[WARNING] Observability server "), result
    assert error.isprintable() and warning.isprintable(), result


@pytest.mark.long
@pytest.mark.parametrize("clock", ["monotonic", "process_time"])
@timed
def test_neither_a_wait_nor_the_hooks_own_work_takes_the_networks_half(one_hook, clock):
    script = Path(one_hook.home) / "spending.py"
    script.write_text(SPENDING)
    env = {"CLOCK": clock, "SEND_EVENT": str(one_hook.folder / "send_event.py")}
    with EventServer() as server:
        one_hook.run(str(script), "--source-app=demo", "--event-type=PreToolUse",
                     f"--server-url={server.url}", "--timeout-ms=1000", stdin=EVENT,
                     env=env)
    assert outcome(one_hook) == "sent"


@contextlib.contextmanager
def deaf_port(host="127.0.0.1", port=0):
    """Yield a port of *host* that refuses, and that nobody else comes to listen on."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, port))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def half_deaf(host, deaf):
    """Yield a server on the address *host* whose port refuses on the address *deaf*."""
    for _ in range(20):
        with EventServer(host=host) as server, contextlib.ExitStack() as stack:
            try:
                stack.enter_context(deaf_port(deaf, server.port))
            except OSError:  # that port is some client's just now
                continue
            yield server
            return
    raise RuntimeError(f"no port is free on both {host} and {deaf}")


needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux leaves a connect to a full queue open")


# Every fault of the server.


def test_every_fault_that_the_server_can_play_has_a_row():
    assert set(FAULTS) <= set(SETTLED) | set(UNSETTLED)


@pytest.mark.parametrize("fault", SETTLED)
@timed
def test_a_server_that_settles_it_is_left_at_once(one_hook, fault):
    reply, outcomes, words = SETTLED[fault]
    with EventServer(fault=reply or fault) as server:
        result = send(one_hook, server.url)
        (exchange,) = server.wait(1)
    check(one_hook, result, server.url, outcomes, words)
    assert exchange.held_ms <= BUDGET_MS + SLACK_MS


@pytest.mark.parametrize("fault", UNSETTLED)
@timed
def test_a_server_that_settles_nothing_is_left_at_the_deadline(one_hook, fault):
    reply, outcomes, words = UNSETTLED[fault]
    with EventServer(fault=reply or fault) as server:
        result = send(one_hook, server.url, f"--timeout-ms={SHORT_MS}")
        (exchange,) = server.wait(1)
    check(one_hook, result, server.url, outcomes, words)
    assert exchange.held_ms <= SHORT_MS + SLACK_MS
    assert exchange.ended_by == "client"


@pytest.mark.parametrize("fault", ["silent", "drip"])
@timed
def test_the_default_budget_holds_on_every_interpreter(hook, fault):
    with EventServer(fault=fault) as server:
        result = hook.send(server.url, stdin=EVENT)
        (exchange,) = server.wait(1)
    check(hook, result, server.url, "unconfirmed|timed_out", rf"\b{BUDGET_MS} ms\b")
    assert exchange.held_ms <= BUDGET_MS + SLACK_MS


@pytest.mark.parametrize("fault", ["reset_mid_request", "not_http", "accepted"])
def test_each_kind_of_end_is_told_apart_on_every_interpreter(hook, fault):
    with EventServer(fault=fault) as server:
        result = send(hook, server.url)
    check(hook, result, server.url, *SETTLED[fault][1:])


@timed
def test_twenty_senders_at_once_each_leave_a_silent_server_in_time(one_hook):
    with EventServer(fault="silent") as server:
        senders = [one_hook.start(
            "send_event.py", "--source-app=demo", "--event-type=Stop",
            f"--server-url={server.url}", f"--timeout-ms={SHORT_MS}")
            for _ in range(20)]
        outputs = [sender.communicate(b"{}", timeout=60)[0] for sender in senders]
        outcomes = [line.split()[2] for line in one_hook.losses()]
        # on a busy machine some get no turn in time to connect
        exchanges = server.wait(outcomes.count("unconfirmed"))
    assert {sender.returncode for sender in senders} == {0}
    assert outputs.count(b"") == 20  # "raw" events have no channel for a hint
    assert len(outcomes) == 20 and set(outcomes) <= {"unconfirmed", "timed_out"}
    assert exchanges
    assert max(seen.held_ms for seen in exchanges) <= SHORT_MS + SLACK_MS


def post(hook, url, body_bytes, timeout_ms, **env):
    """Post from a process; return its Result and how long, in ms, it was at it."""
    script = Path(hook.home) / "post.py"
    script.write_text(POST)
    with EventServer(fault="accept_only") as clock:
        result = hook.run(
            str(script), url, str(body_bytes), str(timeout_ms), str(clock.port),
            env={"PYTHONPATH": str(hook.folder), **env})
        return result, clock.wait(1)[0].held_ms


@pytest.mark.parametrize("body_bytes, outcomes", [
    (300 << 10, ("timed_out", "unconfirmed")),  # it fits into the system's buffers
    (32 << 20, ("timed_out",)),
], ids=["300KiB", "32MiB"])
@timed
def test_a_long_body_to_a_server_that_never_reads_ends_in_time(
        one_hook, body_bytes, outcomes):
    with EventServer(fault="accept_only") as server:
        result, held_ms = post(one_hook, server.url, body_bytes, BUDGET_MS)
    assert result.stdout.strip() in outcomes, result
    assert held_ms <= BUDGET_MS + SLACK_MS


def test_a_status_line_is_believed_however_it_is_torn(one_hook):
    parts = [b"HTTP/1.1 2", b"01 Created\r\n\r\n" + b" " * (1 << 20)]
    with answering(parts) as port:
        result = send(one_hook, f"http://127.0.0.1:{port}/events")
    check(one_hook, result, "", "sent", "")


# Where no server is.


@needs_linux
@timed
def test_a_server_with_a_full_queue_is_given_up_at_the_deadline(hook):
    with full_backlog() as port:
        url = f"http://127.0.0.1:{port}/events"
        result = hook.send(url, stdin=EVENT)
        posted, held_ms = post(hook, url, 2, BUDGET_MS)
    check(hook, result, url, "timed_out", r"could not connect in time \(100 ms\)")
    assert posted.stdout.strip() == "timed_out", posted
    assert held_ms <= BUDGET_MS + SLACK_MS


@needs_ipv6
def test_localhost_is_tried_on_ipv6_where_ipv4_refuses(hook):
    with half_deaf("::1", deaf="127.0.0.1") as server:
        url = f"http://localhost:{server.port}/events"
        result = send(hook, url)
        (event,) = server.events()
    check(hook, result, url, "sent", "")
    assert event["event_type"] == "PreToolUse"


@needs_linux
@needs_ipv6
def test_an_address_that_hangs_leaves_time_for_the_next(one_hook):
    with full_backlog() as port, EventServer(host="::1", port=port) as server:
        result = send(one_hook, f"http://localhost:{port}/events", "--timeout-ms=2000")
        assert len(server.events()) == 1, result


# Name lookups.


@needs_ipv6
def test_a_name_whose_ipv6_address_refuses_is_reached_by_ipv4(one_hook):
    plan = {"addresses": [["AF_INET6", "::1"], ["AF_INET", "127.0.0.1"]]}
    with half_deaf("127.0.0.1", deaf="::1") as server:
        url, result = send_by_name(one_hook, plan, server.port)
        assert len(server.events()) == 1, result
    check(one_hook, result, url, "sent", "")


@timed
def test_a_lookup_that_hangs_keeps_nobody_past_the_deadline(hook):
    with EventServer(fault="accept_only") as resolver:
        url, result = send_by_name(hook, {"asks": resolver.port}, 4000, BUDGET_MS)
        (lookup,) = resolver.wait(1)
    words = r"the lookup of observability\.internal took too long \(100 ms\)"
    check(hook, result, url, "timed_out", words)
    # to the end of the process and its waiting thread
    assert lookup.held_ms <= BUDGET_MS + SLACK_MS


def test_a_lookup_that_fails_is_told_as_such(hook):
    url, result = send_by_name(hook, {"error": "Name or service not known"}, 4000)
    words = "the lookup of observability.internal failed: name or service not known"
    check(hook, result, url, "refused", words)


def test_a_name_without_an_address_is_told_as_such(one_hook):
    url, result = send_by_name(one_hook, {"addresses": []}, 4000)
    check(one_hook, result, url, "refused", "observability.internal has no address")


# Proxies.


@pytest.mark.parametrize("case", [str.lower, str.upper], ids=["lower", "upper"])
def test_proxy_variables_are_not_obeyed(one_hook, case):
    names = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
    with EventServer() as server, EventServer() as proxy:
        env = {case(name): f"http://127.0.0.1:{proxy.port}" for name in names}
        result = send(one_hook, server.url, env=env)
        assert len(server.events()) == 1
        assert arrived(proxy) == []
    check(one_hook, result, server.url, "sent", "")


# TLS.


class TlsServer(EventServer):
    """The contract's server behind TLS, its own clock and faults included."""

    def __init__(self, certificate, **options):
        super().__init__(**options)
        self.url = self.url.replace("http:", "https:")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(str(certificate))

    def _converse(self, link, exchange, scripted):
        link.sock.settimeout(10)
        link.sock = self._context.wrap_socket(link.sock, server_side=True)
        super()._converse(link, exchange, scripted)


@contextlib.contextmanager
def answering(parts):
    """Yield a port that sends its first client *parts*, 50 ms apart, come what may."""
    def serve():
        with contextlib.suppress(OSError), listener.accept()[0] as sock:
            sock.recv(1 << 16)
            for part in parts:
                sock.sendall(part)
                threading.Event().wait(0.05)
    with socket.socket() as listener:
        listener.settimeout(10)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Return {host: file with a key and the certificate that it signed itself}."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")
    files = {}
    for name in ("IP:127.0.0.1", "DNS:elsewhere.example"):
        files[name] = folder / f"{len(files)}.pem"
        made = subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=hook-io test", "-addext", f"subjectAltName={name}",
             "-keyout", str(files[name]), "-out", str(folder / "certificate")],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if made.returncode:
            pytest.skip(f"openssl makes no certificate: {made.stdout[-200:]!r}")
        with files[name].open("ab") as file:
            file.write((folder / "certificate").read_bytes())
    return files


def trusting(file):
    """Return the variables with which OpenSSL trusts the certificate in *file*."""
    return {"SSL_CERT_FILE": str(file)}


@timed
def test_https_to_a_silent_server_ends_at_the_deadline(hook):
    with EventServer(fault="accept_only") as server:
        url = server.url.replace("http:", "https:")
        result = hook.send(url, f"--timeout-ms={SHORT_MS}", stdin=EVENT)
        (exchange,) = server.wait(1)
    check(hook, result, url, "timed_out", rf"\({SHORT_MS} ms\)")
    assert exchange.held_ms <= SHORT_MS + SLACK_MS


def test_https_to_a_server_of_plain_http_is_refused(hook):
    with answering([b"HTTP/1.1 400 Bad Request\r\n\r\n"]) as port:
        url = f"https://127.0.0.1:{port}/events"
        result = send(hook, url)
    check(hook, result, url, "refused", r"\bssl\b")


def test_plain_http_to_a_server_of_https_is_refused(one_hook, certificates):
    with TlsServer(certificates["IP:127.0.0.1"]) as server:
        url = server.url.replace("https:", "http:")
        result = send(one_hook, url)
    check(one_hook, result, url, "refused", "not HTTP|closed|reset")


def test_a_certificate_that_nobody_vouches_for_is_at_fault(hook, certificates):
    with TlsServer(certificates["IP:127.0.0.1"]) as server:
        result = send(hook, server.url)
        assert server.events() == []
    check(hook, result, server.url, "refused", "self.signed certificate")


def test_a_certificate_for_another_host_is_at_fault(one_hook, certificates):
    other = certificates["DNS:elsewhere.example"]
    with TlsServer(other) as server:
        result = send(one_hook, server.url, env=trusting(other))
        assert server.events() == []
    check(one_hook, result, server.url, "refused", "mismatch, certificate is not valid")


def test_https_with_a_good_certificate_is_sent(hook, certificates):
    own = certificates["IP:127.0.0.1"]
    with TlsServer(own) as server:
        result = send(hook, server.url, env=trusting(own))
        assert len(server.events()) == 1, result
    check(hook, result, server.url, "sent", "")


def sent_over_tls(hook, certificate, reply, timeout_ms):
    """Send to a server with that fault; return the Result, the URL, the exchange."""
    with TlsServer(certificate, fault=reply) as server:
        result = send(hook, server.url, f"--timeout-ms={timeout_ms}",
                      env=trusting(certificate))
        return result, server.url, server.wait(1)[0]


@pytest.mark.parametrize("reply, outcomes", [
    ("close", "refused"), ("reset_mid_request", "refused"), ("endless_body", "sent")])
@timed
def test_what_a_server_settles_behind_tls_is_left_at_once(
        one_hook, certificates, reply, outcomes):
    result, url, exchange = sent_over_tls(
        one_hook, certificates["IP:127.0.0.1"], reply, NO_HASTE_MS)
    check(one_hook, result, url, outcomes, "closed without an answer|connection reset")
    assert exchange.held_ms <= 2 * SHORT_MS + SLACK_MS


@pytest.mark.parametrize("reply", ["silent", {"drip_ms": 100}], ids=str)
@timed
def test_a_server_that_settles_nothing_behind_tls_is_left_at_the_deadline(
        one_hook, certificates, reply):
    result, url, exchange = sent_over_tls(
        one_hook, certificates["IP:127.0.0.1"], reply, TLS_MS)
    check(one_hook, result, url, "unconfirmed", f"no answer within {TLS_MS} ms")
    assert exchange.held_ms <= TLS_MS + SLACK_MS


@timed
def test_a_long_body_to_a_tls_server_that_never_reads_ends_in_time(
        one_hook, certificates):
    own = certificates["IP:127.0.0.1"]
    with TlsServer(own, fault="accept_only") as server:
        result, held_ms = post(one_hook, server.url, 32 << 20, TLS_MS, **trusting(own))
    assert result.stdout.strip() == "timed_out", result
    assert held_ms <= TLS_MS + SLACK_MS
