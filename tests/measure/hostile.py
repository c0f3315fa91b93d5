# SPDX-License-Identifier: MIT
"""Make hostile input for hooks, and judge what came of it.

Makers take a random.Random and return bytes; judges return what is wrong, in words,
or "".  What is right is said here in other words than hook_io's own: by json, re and
ipaddress, which the shipped files do not use for it.
"""

import ast
import ipaddress
import json
import math
import os
import re
import socket
import string
import struct
import threading
import time

import hook_io
from conftest import SAMPLES
from errands import errand
from server import checked_event

FINITE = {"Infinity", "-Infinity", "NaN"}
STDIN_MAX = 1 << 20

#: pieces that parsers stumble over, put anywhere into an event
TOKENS = (
    b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"\0", b"\xff", b"\xc3", b"\n",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80\xa8", b"\x1b[2J",
    b"\\ud800", b"\\udc00\\ud800", b'"\\ud83d"', b"\\u0000", b"\\x41", b"\x7f",
    b"NaN", b"-Infinity", b"1e999", b"-0", b"1E400", b"0x10", b"01", b"1.", b"1e-9999",
    b"9" * 25, b"9" * 4300, b"9" * 4301, b"-" + b"7" * 5000, b"[" * 99, b"[" * 101,
    b'{"a":' * 120, b"[" * 3000, b"]" * 100, b"null", b"true", b'""', b"{}", b"[]",
    b'"password":"', b"-----BEGIN PRIVATE KEY-----", b"Bearer ", b"token=", b"sk-",
    b'"session_id":{},', b'"hook_event_name":["Stop"],', b'"tool_name":1,',
    b'"tool_input":"{\\"a\\":1}",', b'"tool_input":[],', b'"cwd":null,',
    b'"transcript_path":1,', b'"timestamp":true,', b'"toolArgs":"{",',
    b'"hook_event_name":"Stop",', b'"__class__":"x",', b'"tool_calls":[1,{}],',
    b'"agent_action_name":"pre_run_command",', b'"truncated":0,', b'"input_error":1,',
    "\u202e\u2028".encode(), b'"error":{"a":"{b}"},', b'"prompt":"{0.__class__}",',
)


def seeds():
    """Return the samples of real agents as bytes, and a few that are none."""
    found = [path.read_bytes() for path in sorted(SAMPLES.glob("*/*.json"))]
    return [*found, b"", b" ", b"{}", b"[]", b"null", b'"x"', b'{"a":1}{"b":2}',
            b"\xef\xbb\xbf{}", b'{"hook_event_name":"PreToolUse","tool_name":"Bash",'
            b'"tool_input":{"command":"export API_KEY=4f9c2b7a && ls"}}']


def flip(chance, data):
    at = chance.randrange(len(data) + 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1:]


def cut(chance, data):
    begin, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:begin] + data[end:] if chance.random() < 0.5 else data[:end]


def repeat(chance, data):
    begin = chance.randrange(len(data) + 1)
    piece = data[begin:begin + chance.randrange(1, 200)]
    return data[:begin] + piece * chance.randrange(2, 20) + data[begin:]


def insert(chance, data):
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(TOKENS) + data[at:]


def lead(chance, data):
    """Put a piece where a member may begin, so that the event stays one."""
    at = data.find(b"{") + 1
    return data[:at] + chance.choice(TOKENS) + data[at:]


def wrap(chance, data):
    depth = chance.choice((1, 50, 99, 100, 101, 2000))
    return b'{"a":' * depth + data + b"}" * depth


def noise(chance, data):
    return bytes(chance.randrange(256) for _ in range(chance.randrange(60)))


def number(chance, data):
    digits = chance.choice((b"1e5", b"-1.5E-3", b"9" * chance.randrange(1, 5000)))
    return re.sub(rb'"[^"]{0,40}"(?=[,}])', digits, data, count=1)


MUTATIONS = (flip, flip, cut, repeat, insert, insert, lead, lead, wrap, noise, number)


def mutant(chance, pool):
    """Return one of the *pool*, changed one to four times."""
    data = chance.choice(pool)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        data = chance.choice(MUTATIONS)(chance, data)
    return data


def near_the_limit(chance, pool):
    """Return an event of about 1 MiB, a byte less, or a little more."""
    data = chance.choice(pool).strip()
    size = STDIN_MAX + chance.choice((-3, -2, -1, 0, 1, 2, 3, 70_000))
    head = data[:-1] + (b"," if data[-2:-1] not in (b"{", b"") else b"") + b'"pad":"'
    sign = chance.choice(("x", "é", "😀", "\\n")).encode()
    padding = sign * ((size - len(head) - 2) // len(sign))
    return head + padding + b'"}'


# What an event must come to.


def expected_event(data):
    """Return the object that json reads in *data*; None where it is none of ours.

    A number too large refuses it also in a member that a later one replaces.
    """
    try:
        text = data.decode("utf-8-sig")
        event = json.loads(text, parse_float=finite, parse_int=short,
                           parse_constant=finite) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and is_flat(event) else None


def finite(digits):
    if not math.isfinite(float(digits)):
        raise ValueError(digits)
    return float(digits)


def short(digits):
    if len(digits.lstrip("-")) > hook_io.INTEGER_MAX_DIGITS:
        raise ValueError(digits)
    return int(digits)


def is_flat(value, depth=1):
    """Tell whether nothing is nested too deep."""
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth <= hook_io.NESTING_MAX and all(is_flat(v, depth + 1) for v in inner)


def read_through_pipe(data, pieces=1, closes=True):
    """Return what read_event() makes of *data* in a pipe: the event, or its error."""
    out, into = os.pipe()
    threads = []
    try:
        if pieces == 1 and len(data) <= 1 << 16 and closes:
            os.write(into, data)
            os.close(into)
        else:
            feeder = threading.Thread(target=feed, args=(into, data, pieces))
            threads.append(feeder)
            feeder.start()
        try:
            return hook_io.read_event(out, timeout_ms=4000)
        except hook_io.InputError as error:
            return error
    finally:
        for thread in threads:
            thread.join()
        os.close(out)


def feed(fd, data, pieces):
    size = max(1, len(data) // pieces)
    try:
        for at in range(0, len(data), size):
            view = data[at:at + size]
            while view:
                view = view[os.write(fd, view):]
            time.sleep(0.0005)
    except OSError:
        pass  # the reader is done: an object was whole before
    os.close(fd)


def misread(data, got):
    """Return what is wrong with *got*, the event or InputError of *data*."""
    if isinstance(got, hook_io.InputError):
        text = str(got)
        _, _, quoted = text.partition(": ")
        shown = ast.literal_eval(quoted) if quoted[:1] in ("'", '"') else quoted
        if not text.isprintable() or len(shown) > hook_io.ECHO_MAX_CHARS:
            return f"{len(shown)} characters of it are shown: {text[:200]!r}"
        right = expected_event(data) if len(data) <= STDIN_MAX else None
        return "" if right is None else f"refused, though JSON: {text}"
    if len(data) > STDIN_MAX:
        whole = got.get("truncated") is True and got["stdin_bytes"] <= len(data)
        return "" if whole else "cut, and not said"
    return "" if got == expected_event(data) else "read as something else"


def any_errand(chance, agent):
    """Return what send() would hand to a format."""
    return errand(
        chance.choice(("PreToolUse", "Stop", "UserPromptSubmit")), "soak", agent=agent,
        format=chance.choice(list(hook_io.FORMATS)), effort=hook_io.Effort(60))


def misbuilt(got, chance):
    """Return what is wrong with the request and the answers that *got* leads to."""
    event = {"input_error": str(got)} if isinstance(got, Exception) else got
    said = hook_io.normalise(event)
    facts = any_errand(chance, said.agent)
    sender = hook_io.Sender(facts)
    _, _, body = sender.envelope(sender.leaving(said))
    if len(body) > hook_io.BODY_MAX_BYTES or not body.isascii():
        return f"a body of {len(body)} bytes"
    value = json.loads(body, parse_constant=FINITE.__getattribute__)
    if facts.settings.format == "events":
        checked_event(body)  # raises what the contract's server would say
    if not isinstance(value, dict):
        return "a body that is no object"
    return misanswered(said, chance.choice(RESULTS))


RESULTS = (
    hook_io.deny("no"), hook_io.ask("sure?"), hook_io.block("on"), hook_io.hint("h"),
    hook_io.context("c"), hook_io.rewrite({"command": "ls"}), hook_io.allow("yes"),
    hook_io.with_user_hint(hook_io.deny("x" * 20_000), "y" * 20_000))


def paths(value, at=""):
    """Yield the path of each member of *value*."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield f"{at}.{name}"
        yield from () if inner == {"command": "ls"} else paths(inner, f"{at}.{name}")


def vocabulary(agent):
    """Return the paths of all members that a document for *agent* may have."""
    row = hook_io.PLATFORMS[agent]
    shapes = [shape for intent in hook_io.INTENTS for shape in
              row.get(intent, {}).values() if shape]
    return {path for shape in shapes for path in paths(shape)}


VOCABULARIES = {agent: vocabulary(agent) for agent in hook_io.PLATFORMS}


def misanswered(said, result):
    """Return what is wrong with the document that says *result* to an agent."""
    document = hook_io.render(result, said)
    if json.loads(hook_io.encode(document)) != document:
        return "a document that JSON changes"
    strange = set(paths(document)) - VOCABULARIES[said.agent] - VOCABULARIES["raw"]
    if strange:
        return f"members that {said.agent} does not know: {sorted(strange)}"
    return ""


def misjudged(data, chance, pieces=0):
    """Return what is wrong with all that hook_io makes of *data*, "" if nothing is.

    pieces: 0 for a pipe that is written at once, else how many writes there are.
    """
    try:
        got = read_through_pipe(data, pieces or 1)
        if pieces and isinstance(got, dict) and expected_event(data) is None:
            data = b""  # an object was whole before the rest came
        problem = "" if pieces and not data else misread(data, got)
        return problem or misbuilt(got, chance)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


# What a process leaves behind.


def misbehaved(exit_code, stdout, stderr, exits=(0,)):
    """Return what is wrong with how a hook ended."""
    if exit_code not in exits:
        return f"exit {exit_code}: {stderr[-300:]!r}"
    if b"Traceback" in stderr or b"Fatal Python" in stderr:
        return f"a traceback: {stderr[-300:]!r}"
    try:
        lines = stdout.decode("ascii").splitlines()
        documents = [json.loads(line) for line in lines]
    except ValueError:
        return f"stdout is no JSON: {stdout[:300]!r}"
    progress = len(lines) == 2 and documents[0].get("type") == "progress"
    if len(lines) > 1 + progress or not all(isinstance(d, dict) for d in documents):
        return f"more than one document: {stdout[:300]!r}"
    return ""


# Answers of a server.

TOKEN = "tok-4711-squeamish-ossifrage"
#: how an answer ends -> what the server does after its last byte
ENDINGS = ("close", "close", "close", "reset", "hang")


def good_answer(status=201):
    body = b'{"error":"E","message":"M","partialSuccess":{}}'
    return (b"HTTP/1.1 %d Some Words\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status, len(body), body))


#: answers to begin with
ANSWERS = (
    good_answer(), good_answer(400), good_answer(503), b"",
    b"HTTP/1.1 100 Continue\r\n\r\n" + good_answer(),
    b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 102 P\r\n\r\n"
    + good_answer(422),
    b"HTTP/1.0 200 OK\r\n\r\nok", b"HTTP/1.1 204\r\n\r\n", b"HTTP/1.1 201 Created\n\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n",
    b"HTTP/1.1 400 B\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n"
    b'{"error":"chunk"\r\n1\r\n}\r\n0\r\n\r\n',
    b"HTTP/1.1 400 B\r\nX-Echo: " + TOKEN.encode() + b'\r\n\r\n{"message":"you sent '
    + TOKEN.encode() + b'"}', b'HTTP/1.1 200 OK\r\n\r\n{"partialSuccess":{'
    b'"rejectedLogRecords":"1","errorMessage":"no"}}', b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/2 200\r\n\r\n", b"ICY 200 OK\r\n\r\n",
)
#: pieces that make answers odd
ODD = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n",
    b"\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n", b"201",
    b"99999999999999999999", b"ffffffffffffffff\r\n", b"-1\r\n", b"{", b'{"error":',
    b"\xff\xfe", b"[" * 3000, b'{"message":"' + b"m" * 500 + b'"}', b"\x1b[31m",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 20, TOKEN.encode(), b"1_0\r\n", b"0x10\r\n",
    "\u202e".encode(),
)
BOMBS = (
    b"HTTP/1.1 200 " + b"O" * 40_000, b"HTTP/1.1 100 " + b"X: y\r\n" * 10_000,
    b"HTTP/1.1 400 B\r\n" + b"X-More: " + b"x" * 60_000 + b"\r\n\r\n{}",
    b"HTTP/1.1 400 B\r\n" + b"A: b\r\n" * 10_000 + b'\r\n{"error":"late"}',
    b"HTTP/1.1 100 C\r\n\r\n" * 5_000, b"HTTP/1." + b"1" * 30_000, b"\r\n" * 20_000,
    b"HTTP/1.1 201 C\r\n" + b"Set-Cookie: a\r\n" * 10_000, b"x" * 65_536)


def answer_mutant(chance):
    """Return the bytes of an answer that no server should give."""
    if chance.random() < 0.01:
        return chance.choice(BOMBS)
    data = chance.choice(ANSWERS)
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        at = chance.randrange(min(len(data), 40) + 1 if chance.random() < 0.7
                              else len(data) + 1)
        act = chance.randrange(4)
        piece = (chance.choice(ODD), bytes([chance.randrange(256)]), b"", b"")[act]
        data = data[:at] if act == 3 else data[:at] + piece + data[at + (act > 0):]
    return data


def right_outcomes(data, ending):
    """Return the outcomes that are right for an answer of *data* and its *ending*."""
    end = {"close": "refused", "reset": "refused", "hang": "unconfirmed"}[ending]
    rest = data
    while True:
        line, mark, _ = rest.partition(b"\n")
        if not mark:
            begins = rest.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(rest)
            bad = not begins or len(rest) > hook_io.ANSWER_MAX_BYTES
            return {"refused"} if bad else {end}
        found = re.match(rb"HTTP/1\.\S*\s+([1-9]\d\d)(?!\S)", line)
        if not found:
            return {"refused"}
        status = int(found.group(1))
        if status == 101 or status >= 200:
            good = 200 <= status < 300
            return {"sent", "rejected"} if good and b"rtialSuc" in data else {
                "sent" if good else "rejected"}
        _, mark, rest = rest.partition(b"\r\n\r\n")
        if not mark:
            return {end, "refused"} if len(data) > hook_io.ANSWER_MAX_BYTES else {end}


class ScriptedServer:
    """A server on loopback for one client at a time, which answers by the bytes.

    held_ms: by its own clock, how long the last client stayed after its request was
    read whole, None while it is there.
    """

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(8)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/events"
        self.script, self.held_ms = (b"", "close", 0), None
        self.gone = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            accepted = time.monotonic()
            sock.settimeout(5)
            try:
                self._play(sock, *self.script)
            except OSError:
                pass  # the client has left
            sock.close()
            self.held_ms = (time.monotonic() - accepted) * 1000
            self.gone.set()

    def _play(self, sock, data, ending, tear_at):
        request = b""
        while b"\r\n\r\n{}" not in request:
            request += sock.recv(1 << 16)
        if tear_at:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(data[:tear_at])
            time.sleep(0.0002)
        sock.sendall(data[tear_at:])
        if ending == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                            struct.pack("ii", 1, 0))
        elif ending == "hang":
            while sock.recv(1 << 16):
                pass

    def close(self):
        self.listener.close()


def misdelivered(server, data, ending, tear_at, timeout_ms, wants_body, slack_ms):
    """Return what is wrong with what post_json() says of an answer, "" if nothing.

    slack_ms: for a busy machine, on top of timeout_ms, before held_ms is too long.
    """
    server.script = data, ending, tear_at
    server.gone.clear()
    headers = {"Authorization": f"Bearer {TOKEN}",
               **({"Accept": "application/json"} if wants_body else {})}
    deadline = time.monotonic() + timeout_ms / 1000
    try:
        outcome = hook_io.post_json(server.url, b"{}", deadline, headers)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    if not server.gone.wait(10) or server.held_ms > timeout_ms + slack_ms:
        return f"held for {server.held_ms} ms of {timeout_ms}"
    right = right_outcomes(data, ending)
    if ending == "reset":
        right = right | {"refused"}  # a reset may overtake what was sent before
    if outcome.name not in right:
        return f"{outcome.name} ({outcome.fact}) where {sorted(right)} is right"
    if TOKEN in outcome.fact or not outcome.fact.isprintable() or (
            len(outcome.fact) > 300):
        return f"a fact not to be shown: {outcome.fact[:300]!r}"
    return ""


# Addresses.


def spellings(address):
    """Return ways to write an IPv4 *address* in a URL, IPv6 forms included."""
    number = int(ipaddress.IPv4Address(address))
    a, b, c, d = number.to_bytes(4, "big")
    high, low = number >> 16, number & 0xFFFF
    plain = [
        address, f"{address}.", f"{number}", f"{number:#x}", f"{number:#X}",
        f"0{number:o}", f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{low}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"000{a:o}.{b}.{c:#x}.{d}", f"0x{number:016x}", f"{a:#x}.0{low + (b << 16):o}"]
    within = [f"::ffff:{address}", f"::FFFF:{high:x}:{low:x}",
              f"0:0:0:0:0:ffff:{high:04x}:{low:04x}", f"::ffff:0:{high:x}:{low:x}",
              f"64:ff9b::{address}", f"64:ff9b::{high:x}:{low:x}",
              f"2002:{high:x}:{low:x}::", f"2002:{high:x}:{low:x}::1"]
    if number > 0xFFFF:  # below that they are other addresses: ::1, ::
        within += [f"::{address}", f"::{high:x}:{low:x}"]
    return plain + [f"[{text}]" for text in within]


def kind_of(address):
    """Return the kind of an IP address, by ipaddress and the corpus's metadata."""
    ip = ipaddress.ip_address(address)
    v4 = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if v4:
        return kind_of(v4)
    if str(ip) in METADATA or ip.is_link_local or ip.is_multicast or (
            ip.is_unspecified or getattr(ip, "is_site_local", False)):
        return "forbidden"
    if ip.is_loopback:
        return "loopback"
    if ip.version == 4 and (int(ip) >= 0xE0000000 or int(ip) < 1 << 24):
        return "forbidden"
    return "private" if any(ip in net for net in PRIVATE if net.version == ip.version
                            ) else "public"


with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "corpus",
                       "addresses.json"), encoding="utf-8") as file:
    ADDRESSES = json.load(file)
METADATA = {address for row in ADDRESSES["metadata"].values() for address in row}
PRIVATE = [ipaddress.ip_network(net) for net in ADDRESSES["private_networks"]]


class Wire:
    """A network module that connects nowhere and notes where it was to connect.

    lookups: what a name leads to, for each lookup in turn; the last one stays.
    """

    def __init__(self, lookups=((),)):
        self.lookups, self.connected, self.looked_up = lookups, [], 0
        self.timeout = socket.timeout

    def __getattr__(self, name):
        return getattr(socket, name)

    def socket(self, family, *_rest):
        return WiredSocket(self)

    def getaddrinfo(self, host, port, *_rest):
        found = self.lookups[min(self.looked_up, len(self.lookups) - 1)]
        self.looked_up += 1
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET,
                 socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


class WiredSocket:
    def __init__(self, wire):
        self.wire = wire

    def settimeout(self, _seconds):
        pass

    def connect(self, address):
        self.wire.connected.append(address[0])
        raise ConnectionRefusedError

    def close(self):
        pass


def try_url(url, allow_http=False, lookups=((),)):
    """Return post_json()'s outcome for *url* and the Wire that it used."""
    wire, kept = Wire(lookups), (hook_io.Exchange.network, hook_io.Exchange.tls)
    hook_io.Exchange.network = staticmethod(lambda: wire)
    # what loads files, of which none is needed
    hook_io.Exchange.tls = staticmethod(lambda ca_file: None)
    try:
        outcome = hook_io.post_json(
            url, b"{}", time.monotonic() + 5, allow_http=allow_http)
    finally:
        hook_io.Exchange.network, hook_io.Exchange.tls = map(staticmethod, kept)
    return outcome, wire


def misrouted(host, kind):
    """Return what is wrong with how a *host* of that *kind* is treated."""
    for scheme in ("http", "https"):
        for allow_http in (False, True):
            outcome, wire = try_url(f"{scheme}://{host}/x", allow_http)
            good = kind in ("loopback", "private") or (
                kind == "public" and (scheme == "https" or allow_http))
            seen = [hook_io.address_kind(address) for address in wire.connected]
            right = (outcome.name, bool(seen)) == (
                ("refused", True) if good else ("invalid", False))
            if not right or wire.looked_up or "forbidden" in seen:
                return (f"{scheme}://{host} ({kind}, allow_http={allow_http}): "
                        f"{outcome.name}, connected to {wire.connected}")
    return ""


def misled(lookups):
    """Return what is wrong with a name that has other addresses at each lookup."""
    for scheme in ("http", "https"):
        outcome, wire = try_url(f"{scheme}://rebound.test/", lookups=lookups)
        first = [a for a in lookups[0] if kind_of(a) in ("loopback", "private") or (
            kind_of(a) == "public" and scheme == "https")]
        right = "refused" if first or not lookups[0] else "invalid"
        if wire.looked_up != 1 or wire.connected != first or outcome.name != right:
            return f"{lookups}: {outcome.name}, connected to {wire.connected}"
    return ""


def random_address(chance):
    """Return an IPv4 address, most often a special one or next to it."""
    if chance.random() < 0.4:
        return str(ipaddress.IPv4Address(chance.randrange(1 << 32)))
    base = ipaddress.ip_network(chance.choice(ADDRESSES["ipv4_networks"]))
    edge = chance.choice((int(base[0]), int(base[-1]))) + chance.choice((-1, 0, 1))
    return str(ipaddress.IPv4Address(edge % (1 << 32)))


def random_word(chance, length=8):
    return "".join(chance.choice(string.ascii_lowercase) for _ in range(length))


# Shapes of an event: each 1 MiB, or a little less.

SHAPE_SESSION = "0198c0de-0000-4000-8000-000000000001"
WORDS = "token = word password: 'x' "
KEYS = "sk-ghp_xoxb-AKIA_npm_hf_glpat-AIza "


def in_strings(value, depth):
    """Return *value* as JSON in a string of JSON, and so on."""
    for _ in range(depth):
        value = json.dumps({"stdout": value})
    return value


#: name -> what a tool has answered
SHAPES = {
    "one string": lambda: "lorem ipsum dolor " * 58_000,
    "one word": lambda: "a1B2c3D4" * 130_000,
    "all quotes": lambda: '"' * 520_000,
    "braces": lambda: "}" * 1_000_000,
    "a text of beginnings of keys": lambda: KEYS * 29_000,
    "beginnings of keys": lambda: [KEYS * 20] * 1_400,
    "a document in a string": lambda: in_strings([
        {"a": "b", "token": f"x{n}"} for n in range(24_000)], 1),
    "a document in a string in a string": lambda: in_strings([
        {"a": "b", "token": f"x{n}"} for n in range(12_000)], 2),
    "a hundred thousand strings": lambda: [f"s{n:05}" for n in range(100_000)],
    "strings that may be flags": lambda: [f"key-{n:04}tok" for n in range(65_000)],
    "thirty thousand names": lambda: {
        f"token{n:05}": f"value of {n}" for n in range(30_000)},
    "words and quotes": lambda: ['password="' * 50] * 1_700,
    "text with names of secrets": lambda: [WORDS * 200] * 150,
    "addresses": lambda: ["://a:b" * 150] * 1_100,
    "numbers": lambda: [1.5] * 200_000,
    "whole numbers": lambda: [1] * 330_000,
    "long numbers": lambda: [10 ** 600] * 1_600,
    "empty arrays": lambda: [[]] * 250_000,
    "empty objects": lambda: [{}] * 250_000,
    "arrays in arrays": lambda: [[1]] * 200_000,
}


def shaped(name):
    """Return an event of that shape, in bytes, with its scalar members last."""
    return json.dumps({
        "tool_response": SHAPES[name](), "hook_event_name": "PostToolUse",
        "tool_name": "Bash", "session_id": SHAPE_SESSION}).encode()
