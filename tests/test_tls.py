"""Tokens go out over TLS to whom they are meant for, and are seen by nobody else."""

import contextlib
import datetime
import os
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest

import hook_io
from conftest import PATIENCE_S, sample
from server import EventServer, closed_port

trustme = pytest.importorskip("trustme", reason="trustme needs Python 3.9")

pytestmark = pytest.mark.usefixtures("patient")
TOKEN = "tok-4711-squeamish"
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.timezone.utc)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A test CA, and the file that holds its certificate."""
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return ca, str(path)


class TlsServer:
    """Answer 201 over TLS; note the SNI, the request and why a handshake failed."""

    def __init__(self, certificate, answer=b"HTTP/1.1 201 Created\r\n\r\n", ends=False):
        self.ends = ends
        self.names, self.requests, self.failures = [], [], []
        self.answer = answer
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.context.sni_callback = lambda _sock, name, _ctx: self.names.append(name)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exc_info):
        self.listener.close()

    def serve(self):
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            plain.settimeout(PATIENCE_S)
            with contextlib.closing(plain):
                try:
                    self.converse(self.context.wrap_socket(plain, server_side=True))
                except OSError as error:
                    self.failures.append(str(error))

    def converse(self, sock):
        request = b""
        while b"\r\n\r\n" not in request:
            request += sock.recv(1 << 16)
        head, _, body = request.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += sock.recv(1 << 16)
        self.requests.append((head, body))
        sock.sendall(self.answer)
        if self.ends:
            sock = sock.unwrap()
        sock.close()


def send(hook, server, ca_file, host="localhost", **env):
    env.update(HOOK_IO_CA_FILE=ca_file, HOOK_IO_TIMEOUT_MS="20000")
    url = f"https://{host}:{server.port}/events"
    return hook.send(url, stdin=sample("Stop"), env=env)


@pytest.mark.parametrize(("host", "names"), [
    ("localhost", ["localhost"]), ("127.0.0.1", [None])])
def test_an_event_arrives_over_tls_with_the_hosts_name(hook, authority, host, names):
    ca, ca_file = authority
    with TlsServer(ca.issue_cert(host)) as server:
        result = send(hook, server, ca_file, host, HOOK_IO_HEADERS=f"X-Key: {TOKEN}")
    assert (result.exit, result.stdout, result.stderr) == (0, "", ""), server.failures
    ((head, body),) = server.requests
    assert head.endswith(f"\r\nX-Key: {TOKEN}".encode())
    assert b'"event_type":"Stop"' in body
    assert server.names == names


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "cut"])
def test_an_answer_without_a_length_allows_only_if_tls_was_ended(
    hook, authority, ends
):
    ca, ca_file = authority
    answer = b'HTTP/1.1 200 OK\r\n\r\n{"intent": "allow", "text": "fine"}'
    with TlsServer(ca.issue_cert("localhost"), answer, ends) as server:
        env = {"HOOK_IO_CA_FILE": ca_file, "HOOK_IO_DECIDE": "full",
               "HOOK_IO_DECIDE_TIMEOUT_MS": "20000"}
        result = hook.send(f"https://localhost:{server.port}/events",
                           stdin=sample("PreToolUse"), env=env)
    assert (result.exit, result.stderr) == (0, ""), server.failures
    assert ('"permissionDecision":"allow"' in result.stdout) is ends


def expired(ca):
    return ca.issue_cert("localhost", not_before=NOW - 9 * DAY, not_after=NOW - DAY)


@pytest.mark.parametrize(("issue", "words"), [
    (expired, "certificate has expired"),
    (lambda ca: ca.issue_cert("other.example"), "not valid for 'localhost'"),
    (lambda ca: trustme.CA().issue_cert("localhost"), "unable to get local issuer"),
])
def test_a_certificate_that_will_not_do_is_refused_with_the_reason(
    hook, authority, issue, words
):
    ca, ca_file = authority
    with TlsServer(issue(ca)) as server:
        result = send(hook, server, ca_file, HOOK_IO_HEADERS=f"X-Key: {TOKEN}")
    assert result.exit == 0
    assert "certificate: " in result.lines[0]
    assert words in result.lines[0]
    assert server.requests == []


def test_a_self_signed_certificate_is_refused_as_such(hook, authority):
    ca = trustme.CA()

    class SelfSigned:
        def configure_cert(self, context):
            with ca.private_key_pem.tempfile() as key, ca.cert_pem.tempfile() as cert:
                context.load_cert_chain(cert, key)

    with TlsServer(SelfSigned()) as server:
        result = send(hook, server, authority[1])
    words = result.lines[0].replace("self signed", "self-signed")  # OpenSSL 1.1's
    assert "certificate: self-signed certificate" in words
    assert server.requests == []


def test_the_system_trusts_no_test_authority(one_hook, authority):
    ca, _ = authority
    with TlsServer(ca.issue_cert("localhost")) as server:
        result = send(one_hook, server, "")
    assert "certificate: " in result.lines[0]


@pytest.mark.parametrize("url", ["https://169.254.169.254/", "https://[fe80::1]/"])
def test_no_certificates_are_read_for_an_address_that_is_refused(monkeypatch, url):
    """They take longer to read than all the rest of a hook."""
    monkeypatch.setattr(
        ssl, "create_default_context", lambda **_: pytest.fail("they were read"))
    outcome = hook_io.post_json(url, b"{}", time.monotonic() + PATIENCE_S)
    assert (outcome.name, "not allowed" in outcome.fact) == ("invalid", True)


def test_certificates_may_lie_in_the_home_folder(one_hook, authority):
    ca, _ = authority
    ca.cert_pem.write_to_path(str(one_hook.home / "ca.pem"))
    with TlsServer(ca.issue_cert("localhost")) as server:
        assert send(one_hook, server, "~/ca.pem").stderr == ""
    assert len(server.requests) == 1


@pytest.mark.parametrize(("content", "words"), [
    (None, "no such file or directory"), ("no certificate", "no certificate"),
])
def test_certificates_that_cannot_be_read_are_named(
    one_hook, authority, tmp_path, content, words
):
    path = tmp_path / "mine.pem"
    if content:
        path.write_text(content)
    with TlsServer(authority[0].issue_cert("localhost")) as server:
        result = send(one_hook, server, str(path))
    assert f"no certificates in {path}: " in result.lines[0]
    assert words in result.lines[0]


# Tokens.


@pytest.mark.parametrize(("text", "headers"), [
    ("Authorization: Bearer a=b==", {"Authorization": "Bearer a=b=="}),
    ("A: 1\nB:2\r\n\n C : x:y ", {"A": "1", "B": "2", "C": "x:y"}),
    ("authorization=Bearer%20x,k=a:b", {"authorization": "Bearer x", "k": "a:b"}),
    ("", {}), ("A:", {"A": ""}),
])
def test_both_ways_to_write_headers_are_read(text, headers):
    found = hook_io.Headers(text)
    assert (found.good, found.problems) == (headers, [])


@pytest.mark.parametrize(("text", "headers"), [
    ("A@h: 1\nB@h:80: x:y\nC@H.: z", {"A": "1", "B": "x:y", "C": "z"}),
    ("A@i: 1\nB@h:81: 2\nC: 3", {"C": "3"}),
    ("A@h:81=1,B@h:80=2,C=3", {"B": "2", "C": "3"}),
    ("A@[::1]=1,C=3", {"C": "3"}), ("A@[::1]:80: 1\nB@h: 8080: z", {"B": "8080: z"}),
    ("A@: 1\nB@h/x: 2\nC@h:0: 3\nD@h:99999: 4", {}), ("A@h.evil: 1\nB@xh: 2", {}),
])
def test_a_header_with_a_host_is_for_no_other(text, headers):
    found = hook_io.Headers(text, "http://h/events")
    assert found.good == headers
    given = len(re.findall(r"(?:^|[\n,])[A-D][@:=]", text))
    assert len(found.good) + len(found.problems) == given


def test_a_header_with_a_host_is_for_none_that_is_not_said():
    assert hook_io.Headers("A@h: 1\nB: 2").good == {"B": "2"}
    six = hook_io.Headers("A@[::1]:80: 1\nB@[::1]: 2", "http://[::1]/")
    assert (six.good, six.problems) == ({"A": "1", "B": "2"}, [])


@pytest.mark.parametrize("text", [
    TOKEN, f"A: 1\n{TOKEN}", f"A: 1\n: {TOKEN}", f"x={TOKEN},%zz",
    f"x={TOKEN}%0d%0aY:1", f"Host: {TOKEN}", f"content-length: {TOKEN}",
    f"A b: {TOKEN}", f"A: \x07{TOKEN}",
])
def test_a_mistake_in_the_headers_is_told_and_never_quoted(one_hook, text):
    with EventServer() as server:
        env = {"HOOK_IO_HEADERS": text}
        result = one_hook.send(server.url, stdin=sample("Stop"), env=env)
        assert len(server.events()) == 1
        (seen,) = server.wait(1)
    (line,) = result.lines
    assert line.startswith("[WARNING] HOOK_IO_HEADERS: header ")
    assert TOKEN not in result.stderr
    assert (TOKEN.encode() in seen.raw) is False


def test_a_header_given_stands_in_for_our_own_once(one_hook):
    env = {"HOOK_IO_HEADERS": "content-type: text/plain\nUser-agent: me"}
    with EventServer() as server:
        one_hook.send(server.url, stdin=sample("Stop"), env=env)
        (seen,) = server.wait(1)
    assert seen.raw.lower().count(b"content-type") == 1
    assert (seen.headers["content-type"], seen.headers["user-agent"]) == (
        "text/plain", "me")


@pytest.mark.parametrize("reply", [
    {"status": 401, "json": {"error": f"bad token {TOKEN}"}},
    {"status": 401, "json": {"error": f"{'x' * 190} {TOKEN}"}},
    {"status": 401, "json": {"message": f"Bearer {TOKEN} is unknown"}, "chunked": True},
    {"raw": f"{TOKEN} is no HTTP\r\n"}, {"raw": f"HTTP/1.1 {TOKEN} 200\r\n\r\n"},
    {"status": 401, "json": {"error": f"bad token {TOKEN}"}, "drip_ms": 1},
])
def test_a_token_that_a_server_echoes_is_in_no_message_and_no_file(one_hook, reply):
    env = {"HOOK_IO_HEADERS": f"Authorization: Bearer {TOKEN}",
           "HOOK_IO_FAIL_LOUD_THRESHOLD": "1", "HOOK_IO_TIMEOUT_MS": "5000"}
    with EventServer(replies=[reply]) as server:
        result = one_hook.send(server.url, stdin=sample("PreToolUse"), env=env)
        (seen,) = server.wait(1)
    assert TOKEN.encode() in seen.raw
    assert result.lines[0].startswith("[ERROR] Failed to send event")
    for part in (TOKEN[i:i + 6] for i in range(len(TOKEN) - 5)):
        assert part not in result.stderr + result.stdout
    files = [path for path in one_hook.home.rglob("*") if path.is_file()]
    assert files
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_a_token_is_not_in_the_process_list(one_hook):
    env = {"HOOK_IO_HEADERS": f"X-Key: {TOKEN}", "HOOK_IO_TIMEOUT_MS": "5000"}
    with EventServer(fault="silent") as server:
        process = one_hook.start(
            "send_event.py", "--source-app", "demo", "--event-type", "Stop",
            "--server-url", server.url, env=env, stdin=subprocess.DEVNULL)
        while not server.exchanges:
            time.sleep(0.01)
        with open(f"/proc/{process.pid}/cmdline", "rb") as file:
            line = file.read()
        process.kill()
        process.communicate()
    assert b"send_event.py" in line
    assert TOKEN.encode() not in line


def test_where_nobody_listens_over_tls_is_the_same_loss(one_hook):
    result = one_hook.send(f"https://127.0.0.1:{closed_port()}/", stdin=sample("Stop"))
    assert "connection refused" in result.lines[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs there")
@pytest.mark.parametrize("variable", hook_io.TLS_FILES)
def test_a_fifo_that_openssl_would_open_holds_no_hook(hook, tmp_path, variable):
    path = tmp_path / "fifo"
    os.mkfifo(str(path))
    result = hook.send(f"https://localhost:{closed_port()}/events",
                       stdin=sample("PreToolUse"), env={variable: str(path)})
    assert (result.exit, result.stdout) == (0, "")
    assert f"{variable} names a FIFO" in result.stderr
