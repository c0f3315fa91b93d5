# SPDX-License-Identifier: MIT
"""An event goes where its URL says, and nowhere that a URL must not lead."""

import _socket
import errno
import ipaddress
import socket
import sys
import time
from pathlib import Path

import pytest

import hook_io
from server import EventServer, closed_port

HOME = ("127.0.0.1", "::1", "::ffff:127.0.0.1")  # what tests may really connect to

#: what is wrong with a URL -> URLs ({port}: of a server that must see nothing)
UNUSABLE = {
    "no http or https": (
        "", "none", "127.0.0.1:{port}/events", "//127.0.0.1:{port}/events",
        "http:/127.0.0.1:{port}/events", "http:127.0.0.1:{port}/events",
        "ftp://127.0.0.1:{port}/events", "ws://127.0.0.1:{port}/events",
        "file:///etc/hostname", "httpx://127.0.0.1:{port}/",
        " http://127.0.0.1:{port}/"),
    "user info": (
        "http://user@127.0.0.1:{port}/events", "http://user:pw@127.0.0.1:{port}/events",
        "http://@127.0.0.1:{port}/events",
        "http://127.0.0.1:80@127.0.0.1:{port}/events"),
    "a blank": (
        "http://127.0.0.1:{port}/a b", "http://127.0.0.1:{port}/events ",
        "http://127.0.0.1 :{port}/events", "http://127.0.0.1:{port}/\xa0"),
    "a control character": (
        "http://127.0.0.1:{port}/events\n", "http://127.0.0.1:{port}/events\r",
        "http://127.0.0.1:{port}/ev\tents", "http://127.0.0.1:{port}/\0",
        "http://127.0.0.1:{port}/\x7f", "http://127.0.0.1:{port}/\x1b[2J",
        "http://127.0.0.1:{port}/events HTTP/1.1\r\nX-Evil: 1",
        "http://127.0.0.1\r\nX-Evil: 1:{port}/events"),
    "another script": (
        "http://127.0.0.1:{port}/événement", "http://127。0。0。1:{port}/events",
        "http://①27.0.0.1:{port}/events", "http://127.0.0.1:４０００/events",
        "http://127.0.0.1:{port}/\u2028", "http://127.0.0.1:{port}/\udcff",
        "http://café.internal:{port}/events"),
    "a backslash": (
        "http:\\\\127.0.0.1:{port}\\events", "http://127.0.0.1:{port}\\@elsewhere/",
        "http://127.0.0.1:{port}/a\\b"),
    "a fragment": ("http://127.0.0.1:{port}/events#top", "http://127.0.0.1:{port}#"),
    "no host": (
        "http://", "http:///events", "http://:{port}/events", "http://?events",
        "http://[]:{port}/events", "http://.:{port}/events", "http://..:{port}/events"),
    "a sign that no host holds": (
        "http://127.0.0.1%20:{port}/", "http://169%2e254%2e169%2e254:{port}/",
        "http://127.0.0.1%00:{port}/", "http://127.0.0.1%0d%0ax:{port}/",
        "http://127.0.0.1]:{port}/", "http://127.0.0.1;x:{port}/", "http://$(x)/"),
    "no such port": (
        "http://127.0.0.1:0/events", "http://127.0.0.1:65536/events",
        "http://127.0.0.1:abc/events", "http://127.0.0.1:-{port}/events",
        "http://127.0.0.1:+{port}/events", "http://127.0.0.1:{port}x/events",
        "http://127.0.0.1:{port}:80/events", "http://127.0.0.1:0x50/events",
        "http://127.0.0.1:00000199999/events", "http://127.0.0.1:" + "9" * 5000),
    "half an IPv6 address": (
        "http://[::1/events", "http://[::1:{port}/events", "http://[::1]{port}/events",
        "http://::1:{port}/events", "http://[::1]]:{port}/events"),
}

#: hosts where credentials of the machine may be had, or that are no single machine
FORBIDDEN = """
169.254.169.254 169.254.169.254. 169.254.0.1 169.254.170.2
2852039166 0xa9fea9fe 0XA9FEA9FE 025177524776 169.16689662 169.254.43518
0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376 169.0xfe.0251.254 0xa9.254.0124776
[::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [0:0:0:0:0:FFFF:A9FE:A9FE]
[64:ff9b::a9fe:a9fe] [64:ff9b::169.254.169.254] [2002:a9fe:a9fe::1]
[::169.254.169.254] [::a9fe:a9fe] [fd00:ec2::254] [fd20:ce::254]
[fe80::1] [fe80::1%1] [fec0::1] [ff02::1] [2001:0:a9fe:a9fe::1] [::] [::ffff:0.0.0.0]
0.0.0.0 0 00 0x0 0.0 0.1.2.3 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
4294967295 0xffffffff 100.100.100.200 0x646464c8 1684301000 168.63.129.16 2822734096
192.0.0.192 [::ffff:100.100.100.200] [64:ff9b::a83f:8110]
"""

PUBLIC = """
8.8.8.8 134744072 0x08080808 010.8.8.8 11.0.0.1 172.15.255.255 172.32.0.1 192.169.0.1
100.64.0.1 126.255.255.255 128.0.0.0 [2606:4700:4700::1111] [::ffff:8.8.8.8]
[64:ff9b::808:808] [2002:808:808::1] [fb00::1]
"""

#: host -> the address that is connected to
NEAR = {
    "127.0.0.2": "127.0.0.2", "127.255.255.255": "127.255.255.255", "[::1]": "::1",
    "10.0.0.1": "10.0.0.1", "10.255.255.255": "10.255.255.255", "10.1": "10.0.0.1",
    "172.16.0.1": "172.16.0.1", "172.31.255.255": "172.31.255.255",
    "192.168.1.1": "192.168.1.1", "3232235777": "192.168.1.1", "[fd12::1]": "fd12::1",
    "[FC00::1]": "fc00::1", "[::ffff:10.0.0.1]": "10.0.0.1",
}

#: row of hook_io.NETWORKS -> its kind, and the kinds of the addresses before and after
NEIGHBOURS = {
    "127.0.0.0/8": ("loopback", "public", "public"),
    "::1/128": ("loopback", "forbidden", "forbidden"),
    "100.100.100.200/32": ("forbidden", "public", "public"),
    "168.63.129.16/32": ("forbidden", "public", "public"),
    "192.0.0.192/32": ("forbidden", "public", "public"),
    "fd00:ec2::/32": ("forbidden", "private", "private"),
    "fd20:ce::/32": ("forbidden", "private", "private"),
    "fd00:c1::a9fe:a9fe/128": ("forbidden", "private", "private"),
    "fd00:42::42/128": ("forbidden", "private", "private"),
    "fd00:a9fe:a9fe::/48": ("forbidden", "private", "private"),
    "fd00:100::100:200/128": ("forbidden", "private", "private"),
    "169.254.0.0/16": ("forbidden", "public", "public"),
    "fe80::/10": ("forbidden", "public", "forbidden"),
    "fec0::/10": ("forbidden", "forbidden", "forbidden"),
    "0.0.0.0/8": ("forbidden", None, "public"),
    "::/128": ("forbidden", None, "loopback"),
    "224.0.0.0/3": ("forbidden", "public", None),
    "ff00::/8": ("forbidden", "forbidden", None),
    "2001::/32": ("forbidden", "public", "public"),
    "64:ff9b:1::/48": ("forbidden", "public", "public"),
    "10.0.0.0/8": ("private", "public", "public"),
    "172.16.0.0/12": ("private", "public", "public"),
    "192.168.0.0/16": ("private", "public", "public"),
    "fc00::/7": ("private", "public", "public"),
}

#: a script that is send_event.py on a machine with no way out
SEALED = """
import os, runpy, socket, _socket

def refuse(self, address):
    raise ConnectionRefusedError

for module in (_socket, socket):
    module.socket = type("Sealed", (module.socket,), {"connect": refuse})
runpy.run_path(os.environ["SEND_EVENT"], run_name="__main__")
"""


@pytest.fixture(scope="module")
def server():
    with EventServer() as server:
        yield server


@pytest.fixture(scope="module")
def closing_server():
    with EventServer(fault="close") as server:
        yield server


class Wire(list):
    """What post_json does on the network: names looked up, addresses connected to.

    lookups: for each lookup in turn, the addresses that the name has; beyond them
    nothing but an address with a scope (fe80::1%1) has any.  Connections other than
    to loopback are refused.
    """

    lookups = ()
    scoped = staticmethod(_socket.getaddrinfo)

    def install(self, monkeypatch):
        for module in (_socket, socket):  # the one serves where the other is missing
            watched = type("Watched", (module.socket,), {"connect": self.connect_of(
                module.socket.connect)})
            monkeypatch.setattr(module, "socket", watched)
            monkeypatch.setattr(module, "getaddrinfo", self.getaddrinfo)

    def connect_of(self, really_connect):
        def connect(sock, address):
            self.append(address[0])
            if address[0] not in HOME:
                raise ConnectionRefusedError
            really_connect(sock, address)
        return connect

    def getaddrinfo(self, host, port, *_rest):
        if b"%" in host:
            return self.scoped(host, port, 0, 0, 0, socket.AI_NUMERICHOST)
        asked = sum(entry == host for entry in self)
        self.append(host)
        if asked >= len(self.lookups):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET,
                 socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
                for address in self.lookups[asked]]


@pytest.fixture(params=["", "1"], ids=["accelerated", "pure"])
def wire(request, monkeypatch, server, closing_server):
    """The Wire of this test, once for either module of sockets."""
    monkeypatch.setenv("HOOK_IO_PURE", request.param)
    wire = Wire()
    wire.install(monkeypatch)
    return wire


def post(url, **options):
    return hook_io.post_json(url, b"{}", time.monotonic() + 5, **options)


def seen_by(server, act):
    """Return the requests that *server* gets while *act* runs, all of them.

    A request of our own comes after them: by its turn, none is on its way any more.
    """
    before = len(server.exchanges)
    act()
    post(f"http://127.0.0.1:{server.port}/last")
    for _ in range(500):
        paths = [exchange.path for exchange in server.exchanges[before:]]
        if "/last" in paths:
            return server.exchanges[before:before + paths.index("/last")]
        time.sleep(0.01)
    raise AssertionError(f"the last request did not arrive: {paths}")


# The URL.


@pytest.mark.parametrize("fault, url", [
    pytest.param(fault, url, id=f"{fault}-{number}")
    for fault, urls in UNUSABLE.items() for number, url in enumerate(urls)])
def test_an_unusable_url_is_refused_before_any_lookup_or_connection(wire, fault, url):
    outcome = post(url.format(port=4000) if fault else url)
    assert (outcome.name, outcome.status, wire) == ("invalid", None, [])
    assert outcome.fact.isprintable() and len(outcome.fact) < 200


def test_a_server_sees_nothing_of_unusable_urls(wire, server):
    urls = [url.format(port=server.port) for urls in UNUSABLE.values() for url in urls]
    assert seen_by(server, lambda: [post(url) for url in urls]) == []


@pytest.mark.parametrize("rest, path", [
    ("/events", "/events"), ("", "/"), ("/", "/"), ("?to=a@b", "/?to=a@b"),
    ("/a%20b?x=%0d%0a&y=[1]", "/a%20b?x=%0d%0a&y=[1]"), ("/@/:80//", "/@/:80//")])
def test_path_and_query_arrive_as_they_are(wire, server, rest, path):
    authority = f"127.0.0.1:{server.port}"
    (exchange,) = seen_by(server, lambda: post(f"http://{authority}{rest}"))
    assert (exchange.method, exchange.path) == ("POST", path)
    assert exchange.headers["host"] == authority


@pytest.mark.parametrize("url, shown", [
    ("http://127.0.0.1:4000/@/x?k=1", "http://127.0.0.1:4000/@/x"),
    ("http://[fd12::1]/@/x", "http://[fd12::1]/@/x"),
    ("https://collector.example/a:b@c", "https://collector.example/a:b@c")])
def test_an_at_sign_in_the_path_hides_nothing(url, shown):
    assert hook_io.shown_url(url) == shown


@pytest.mark.parametrize("host", [
    "localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.1", "2130706433",
    "0x7f000001", "0177.0.0.1", "127.0.0.1."])
def test_this_machine_is_reached_without_a_lookup_however_it_is_spelled(
        wire, server, host):
    (exchange,) = seen_by(server, lambda: post(f"HTTP://{host}:{server.port}/events"))
    assert exchange.body == b"{}"
    assert set(wire) == {"127.0.0.1"}


@pytest.mark.parametrize("url, port", [
    ("http://10.0.0.1/", 80), ("http://10.0.0.1:/", 80), ("https://10.0.0.1/", 443),
    ("https://10.0.0.1:65535/", 65535), ("http://10.0.0.1:1/", 1),
    ("http://[fd12::1]/", 80), ("http://[fd12::1]:8080/", 8080)])
def test_a_port_that_is_not_given_is_the_schemes(monkeypatch, url, port):
    ports = []

    def connect(_sock, address):
        ports.append(address[1])
        raise ConnectionRefusedError

    monkeypatch.setenv("HOOK_IO_PURE", "1")
    monkeypatch.setattr(socket.socket, "connect", connect, raising=False)
    assert (post(url).name, ports) == ("refused", [port])


# The address.


@pytest.mark.parametrize("host", FORBIDDEN.split())
def test_a_forbidden_address_is_refused_in_every_spelling(wire, host):
    for url in (f"http://{host}/latest/meta-data", f"https://{host}:8443/"):
        for allow_http in (False, True):
            outcome = post(url, allow_http=allow_http)
            assert (outcome.name, wire) == ("invalid", []), url
            assert "not allowed" in outcome.fact


@pytest.mark.parametrize("host", PUBLIC.split())
def test_plain_http_to_a_public_address_has_to_be_asked_for(wire, host):
    outcome = post(f"http://{host}/events")
    assert (outcome.name, wire) == ("invalid", [])
    assert "HOOK_IO_ALLOW_HTTP" in outcome.fact
    assert post(f"http://{host}/events", allow_http=True).name == "refused"
    assert post(f"https://{host}/events").name == "refused"
    assert len(wire) == 2  # the two that were allowed were tried


@pytest.mark.parametrize("host, address", NEAR.items())
def test_private_and_loopback_addresses_may_have_plain_http(wire, host, address):
    assert post(f"http://{host}:{closed_port()}/events").name == "refused"
    assert wire == [address]


def test_every_network_of_the_table_has_a_row():
    assert set(NEIGHBOURS) == {network for network, _ in hook_io.NETWORKS}


@pytest.mark.parametrize("network", NEIGHBOURS)
def test_a_network_ends_where_it_ends(network):
    kind, before, after = NEIGHBOURS[network]
    net = ipaddress.ip_network(network)
    first, last = net[0], net[-1]
    assert {hook_io.address_kind(str(address)) for address in (first, last)} == {kind}
    if before:
        assert hook_io.address_kind(str(first - 1)) == before
    if after:
        assert hook_io.address_kind(str(last + 1)) == after


@pytest.mark.parametrize("form", ["::ffff:{}", "::{}", "64:ff9b::{}", "2002:{}::1"])
@pytest.mark.parametrize("address, kind", [
    ("169.254.169.254", "forbidden"), ("10.0.0.1", "private"), ("8.8.8.8", "public")])
def test_an_ipv4_address_inside_ipv6_is_what_it_is_outside(form, address, kind):
    number = int(ipaddress.ip_address(address))
    written = form.format(f"{number >> 16:x}:{number & 0xffff:x}")
    assert hook_io.address_kind(written) == kind


# Names.


def test_the_address_that_was_checked_is_the_one_connected_to(wire, server):
    wire.lookups = [["127.0.0.1"], ["169.254.169.254"]]
    url = f"http://observability.internal:{server.port}/events"
    (exchange,) = seen_by(server, lambda: post(url))
    assert wire == [b"observability.internal", "127.0.0.1", "127.0.0.1"]
    assert exchange.headers["host"] == f"observability.internal:{server.port}"


@pytest.mark.parametrize("addresses", [
    ["169.254.169.254"], ["::ffff:a9fe:a9fe"], ["fe80::1%1"], ["0.0.0.0", "::"],
    ["100.100.100.200", "fd00:ec2::254"]], ids=str)
def test_a_name_of_forbidden_addresses_is_refused_and_not_asked_again(wire, addresses):
    wire.lookups = [addresses, ["127.0.0.1"]]
    for scheme in ("http", "https"):
        del wire[:]
        outcome = post(f"{scheme}://metadata.internal/", allow_http=True)
        assert (outcome.name, wire) == ("invalid", [b"metadata.internal"])


def test_of_mixed_answers_only_the_allowed_addresses_are_used(wire, server):
    wire.lookups = [["169.254.169.254", "::ffff:a9fe:a9fe", "8.8.8.8", "127.0.0.1"]]
    (_,) = seen_by(server, lambda: post(f"http://mixed.internal:{server.port}/events"))
    assert wire[:2] == [b"mixed.internal", "127.0.0.1"]


def test_of_mixed_answers_https_uses_the_public_ones_too(wire):
    wire.lookups = [["169.254.169.254", "8.8.8.8", "fe80::1", "10.0.0.1"]]
    assert post("https://mixed.internal/events").name == "refused"
    assert wire == [b"mixed.internal", "8.8.8.8", "10.0.0.1"]


def test_a_name_of_public_addresses_gets_no_plain_http(wire):
    wire.lookups = [["8.8.8.8", "2606:4700:4700::1111"]]
    outcome = post("http://collector.example/events")
    assert (outcome.name, wire) == ("invalid", [b"collector.example"])
    assert "HOOK_IO_ALLOW_HTTP" in outcome.fact


@pytest.mark.parametrize("host", [".internal", "a..internal", "a" * 64])
def test_a_name_that_tls_cannot_take_is_told_and_not_raised(wire, closing_server, host):
    wire.lookups = [["127.0.0.1"]]
    outcome = post(f"https://{host}:{closing_server.port}/events")
    assert outcome.name in ("refused", "invalid")
    assert outcome.fact


# A machine without IPv6, a Python without TLS.


@pytest.mark.parametrize("step, number", [
    ("__init__", errno.EAFNOSUPPORT), ("connect", errno.EADDRNOTAVAIL),
    ("connect", errno.ENETUNREACH)])
def test_where_ipv6_is_missing_localhost_still_says_connection_refused(
        monkeypatch, step, number):
    def refuse(sock, first, *rest):
        if first in (socket.AF_INET6, ("::1", port)):
            raise OSError(number, "no IPv6 here")
        return getattr(super(without_ipv6, sock), step)(first, *rest)

    port = closed_port()
    without_ipv6 = type("WithoutIPv6", (_socket.socket,), {step: refuse})
    monkeypatch.setattr(_socket, "socket", without_ipv6)
    monkeypatch.setenv("HOOK_IO_PURE", "")
    outcome = post(f"http://localhost:{port}/events")
    assert (outcome.name, outcome.fact) == ("refused", "connection refused")


def test_a_python_without_ssl_is_told_and_not_raised(monkeypatch, closing_server):
    monkeypatch.setitem(sys.modules, "ssl", None)
    outcome = post(closing_server.url.replace("http:", "https:"))
    assert outcome.name in ("refused", "invalid")
    assert "ssl" in outcome.fact.lower()


# Headers.


@pytest.mark.parametrize("sign", ["\r\n", "\n", "\r", "\0", "\x1b", "\x7f", "\x85"])
@pytest.mark.parametrize("headers", [
    {"X-Token": "a{}X-Evil: 1"}, {"X-Token{}X-Evil": "1"}, {"X-Token": "a{}"}])
def test_headers_with_control_characters_are_refused(wire, headers, sign):
    bad = {name.format(sign): value.format(sign) for name, value in headers.items()}
    outcome = post("http://127.0.0.1:4000/events", headers=bad)
    assert (outcome.name, wire) == ("invalid", [])
    assert "header" in outcome.fact and outcome.fact.isprintable()


def test_good_headers_arrive_as_they_are(wire, server):
    headers = {"Authorization": "Bearer a b", "X-Tab": "a\tb", "Content-Type": "text/x"}
    url = f"{server.url}?headers"
    (exchange,) = seen_by(server, lambda: post(url, headers=headers))
    assert exchange.headers["authorization"] == "Bearer a b"
    assert exchange.headers["x-tab"] == "a\tb"
    assert exchange.headers["content-type"] == "text/x"


# The same as processes.


@pytest.mark.parametrize("rest, words", [
    ("ftp://127.0.0.1:{port}/events", "must begin with http:// or https://"),
    ("http://me:hush@127.0.0.1:{port}/events", "user info"),
    ("http://127.0.0.1:{port}/ev\r\nents", "control character"),
    ("http://127.0.0.1:{port}/events#top", "#"),
    ("http://127.0.0.1:65536/events", "port"),
    ("http://0:{port}/events", "not allowed"),
])
def test_a_refused_url_is_told_and_counted_and_stops_nobody(hook, server, rest, words):
    url, results = rest.format(port=server.port), []
    assert seen_by(server, lambda: results.append(hook.send(url))) == []
    (result,), (line,) = results, hook.losses()
    assert (result.exit, result.stdout) == (0, ""), result
    error, warning = result.lines
    assert error.startswith("[ERROR] Failed to send event to observability-server: ")
    assert words in error and error.isprintable(), result
    assert warning == (
        "[WARNING] Observability server URL not usable, event discarded")
    assert line.split()[2] == "invalid"


@pytest.mark.parametrize("value, outcome", [
    (None, "invalid"), ("", "invalid"), ("0", "invalid"), ("false", "invalid"),
    ("1", "refused")])
def test_the_variable_for_plain_http_is_obeyed(one_hook, value, outcome):
    script = Path(one_hook.home) / "sealed.py"
    script.write_text(SEALED)
    env = {"SEND_EVENT": str(one_hook.folder / "send_event.py")}
    if value is not None:
        env["HOOK_IO_ALLOW_HTTP"] = value
    result = one_hook.run(
        str(script), "--source-app=demo", "--event-type=Stop",
        "--server-url=http://8.8.8.8/events", "--timeout-ms=5000", env=env)
    (line,) = one_hook.losses()
    assert line.split()[2] == outcome, result
    assert ("HOOK_IO_ALLOW_HTTP=1" in result.stderr) == (outcome == "invalid")


@pytest.mark.parametrize("host", ["169.254.169.254", "2852039166", "[fe80::1]", "0"])
def test_nothing_lifts_the_ban_on_forbidden_addresses(hook, host):
    script = Path(hook.home) / "sealed.py"
    script.write_text(SEALED)
    env = {"SEND_EVENT": str(hook.folder / "send_event.py"), "HOOK_IO_ALLOW_HTTP": "1"}
    result = hook.run(str(script), "--source-app=demo", "--event-type=Stop",
                      f"--server-url=http://{host}/", "--timeout-ms=5000", env=env)
    (line,) = hook.losses()
    assert line.split()[2] == "invalid", result
