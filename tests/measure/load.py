# SPDX-License-Identifier: MIT
"""Load the server with events at a steady rate; see what it answers and keeps.

Each connection is kept and sends an event, with a key of its own, whenever one is due;
the time of its answer is counted from then, so that a server that falls behind is seen
to.  Of that, the sender's own share is told apart: how late it was itself.  Before each
round it sends to a server that answers as much and stores nothing (the floor): on a
busy machine compare with that.  Exits 1 where an event that was answered 201 is not
stored, or is stored twice.  Linux; Python 3.8+; --wrk needs wrk.
"""

import argparse
import contextlib
import datetime
import heapq
import http.client
import json
import multiprocessing
import os
import platform
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from array import array
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]
EVENT = {
    "timestamp": "2026-11-28T01:05:52.074Z", "source_app": "load",
    "event_type": "PostToolUse", "tool_name": "Bash", "summary": "Bash: npm test",
    "session_id": "load-%02d", "metadata": json.dumps({
        "tool_use_id": "toolu_000001", "tool_input": {"command": "npm test"},
        "tool_response": {"stdout": "x" * 400}})}
HEAD = ("POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n")
LENGTH = re.compile(rb"(?i)content-length: (\d+)")
SHARES = (50, 90, 99, 99.9, 100)
LEAD_S = 0.3  # until the first event is due
PATIENCE_S = 10  # for an answer; then its connection is given up
FLOOR_PART = 6  # of a round's time, for the floor
REALTIME = 5  # priority
PAGE_S, PAGE_REST = 0.4, 9  # REFRESH_MS and REST of page/main.js
BROWSER_S = 3  # until it has opened a page
PAGE_ASKS = ("/sessions", "/story?session_id=load-01&since=%d&limit=1000", "/asked")
#: option -> its arguments of argparse
OPTIONS = {
    "--rate": {"type": int, "default": 2000, "help": "events a second (%(default)s)"},
    "--connections": {"type": int, "default": 50, "help": "(%(default)s)"},
    "--seconds": {"type": int, "default": 60, "help": "of a round (%(default)s)"},
    "--rounds": {"type": int, "default": 1, "help": "(%(default)s)"},
    "--folder": {"metavar": "FOLDER", "help": "where the events are kept meanwhile"},
    "--page": {"action": "store_true", "help": "with a page open: its stream is read,"
               " and it asks, as page/main.js does"},
    "--browser": {"action": "store_true", "help": "with the page itself, in a real"
                  " Chromium on the same processors"},
    "--wrk": {"action": "store_true", "help": "let wrk send; it counts an answer's time"
              " from when it has sent"},
    "--kill": {"action": "store_true", "help": "SIGKILL halfway"},
    "--realtime": {"action": "store_true", "help": "server and sender go before all"
                   " else on this machine, as on one of their own (needs root)"},
}
WRK = """
local ffi = require("ffi")
ffi.cdef("typedef struct {long s, ns;} moment; int clock_gettime(int, moment *);")
local head = {["Content-Type"] = "application/json", ["Host"] = "localhost"}
local body, run, rate, number, due, begun = %s, "%s", %d, 0, 0, nil
local function now()
  local moment = ffi.new("moment[1]")
  ffi.C.clock_gettime(1, moment)
  return tonumber(moment[0].s) + tonumber(moment[0].ns) / 1e9
end
function request()
  number = number + 1
  head["Idempotency-Key"] = run .. "-" .. number
  return wrk.format("POST", "/events", head, (body:gsub("%%%%02d", number %% 50)))
end
function delay()  -- asked once before each request
  begun, due = begun or now(), due + 1
  return math.max(0, (begun + due / rate - now()) * 1000)
end
function done(summary, latency, requests)
  io.write(string.format('{"answered": %%d, "lost": %%d, "times": [',
    summary.requests - summary.errors.status, summary.errors.status +
    summary.errors.connect + summary.errors.read + summary.errors.write +
    summary.errors.timeout))
  for _, share in ipairs({50, 90, 99, 99.9}) do
    io.write(string.format("%%f, ", latency:percentile(share) / 1000))
  end
  io.write(string.format("%%f]}\\n", latency.max / 1000))
end
"""


class Sender:
    """Sends events on kept connections, each when it is due, in one thread.

    answered: keys of the events that were answered 201.  times, own: of each answer, in
    ms from when its event was due, and how much of that the sender was late itself.
    """

    def __init__(self, port, options, seconds):
        self.port, self.seconds = port, seconds
        self.count = options.connections
        self.period = options.connections / options.rate
        self.sent, self.answered = 0, []
        self.times, self.own = array("d"), array("d")
        self._poll, self._links, self._due = select.epoll(), {}, []

    def run(self):
        """Send until the time is over, or the server has gone."""
        self._begun = time.monotonic() + LEAD_S
        for number in range(self.count):
            link = Link(self.port, number)
            link.due = link.freed = self._begun + self.period * number / self.count
            self._links[link.sock.fileno()] = link
            self._poll.register(link.sock, select.EPOLLIN)
            heapq.heappush(self._due, (link.due, number, link))
        while self._links:
            self._turn()

    def _turn(self):
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._send(heapq.heappop(self._due)[2])
        if not self._due and now > self._begun + self.seconds + PATIENCE_S:
            self._links.clear()
        wait_s = self._due[0][0] - time.monotonic() if self._due else PATIENCE_S
        for number, _ in self._poll.poll(max(0, wait_s)):
            try:
                self._receive(self._links[number])
            except OSError:  # the server has gone
                self._end(number)

    def _send(self, link):
        if link.due >= self._begun + self.seconds:
            self._end(link.sock.fileno())
            return
        now = time.monotonic()
        link.own_s = now - max(link.due, link.freed)
        with contextlib.suppress(OSError):  # it is seen to where the answer is read
            link.send()
            self.sent += 1

    def _receive(self, link):
        if not link.receive():
            return
        link.freed = time.monotonic()
        self.times.append((link.freed - link.due) * 1000)
        self.own.append(link.own_s * 1000)
        if link.data.startswith(b"HTTP/1.1 201"):
            self.answered.append(link.key)
        link.data, link.due = b"", link.due + self.period
        heapq.heappush(self._due, (link.due, link.number, link))

    def _end(self, number):
        link = self._links.pop(number)
        self._poll.unregister(number)
        link.sock.close()


class Link:
    """One kept connection."""

    def __init__(self, port, number):
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number, self.count, self.data, self.own_s = number, 0, b"", 0.0
        self.body = (json.dumps(EVENT) % (number % 50)).encode()

    def send(self):
        self.count += 1
        self.key = f"{self.number}-{self.count}"
        body = self.body.replace(b"toolu_000001", b"toolu_%06d" % self.count)
        self.sock.sendall((HEAD % (self.key, len(body))).encode() + body)

    def receive(self):
        """Return whether the answer is whole; raise OSError where none can come."""
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError
        self.data += data
        head, has_ended, body = self.data.partition(b"\r\n\r\n")
        return has_ended and len(body) >= int(LENGTH.search(head).group(1))


def send(port, options, seconds, said):
    """Be a process that sends, and tell what came of it through the pipe *said*."""
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME))
    sender = Sender(port, options, seconds)
    sender.run()
    said.send((sender.sent, sender.answered, shares(sender.times), shares(sender.own),
               time.process_time()))


def shares(times):
    """Return the SHARES of *times*; nothing where there are none."""
    every = sorted(times)
    return [every[min(len(every) - 1, int(len(every) * share / 100))]
            for share in SHARES if every]


def floor(said, options):
    """Be a server that answers as much as ours and stores nothing."""
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REALTIME))
    listener = socket.create_server(("127.0.0.1", 0))
    poll, socks = select.epoll(), {}
    answer = json.dumps({**EVENT, "id": 1, "created_at": "2026"}).encode()
    answer = b"HTTP/1.1 201 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
    poll.register(listener, select.EPOLLIN)
    said.send(listener.getsockname()[1])
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                sock, _ = listener.accept()
                socks[sock.fileno()] = sock
                poll.register(sock, select.EPOLLIN)
            elif socks[number].recv(1 << 16):
                socks[number].sendall(answer)
            else:
                poll.unregister(number)
                socks.pop(number).close()


def look(port, until):
    """Be a page: read the stream, and ask as often as page/main.js would."""
    def stream():
        link = http.client.HTTPConnection("127.0.0.1", port)
        link.request("GET", "/stream?last=0&brief=1")
        with contextlib.suppress(OSError), link.getresponse() as answer:
            while answer.read1(1 << 16):
                pass
    threading.Thread(target=stream, daemon=True).start()
    link, times, newest = http.client.HTTPConnection("127.0.0.1", port), [], 0
    while time.monotonic() < until:
        begun = time.monotonic()
        for path in PAGE_ASKS:
            link.request("GET", path % newest if "%" in path else path)
            told = json.loads(link.getresponse().read())
            newest = told["ids"][1] if "ids" in told else newest
        times.append((time.monotonic() - begun) * 1000)
        time.sleep(max(PAGE_S, PAGE_REST * times[-1] / 1000))
    print(f"  the page: asked {len(times)} times, answered in {median(times):.0f} ms,"
          f" most {max(times):.0f}")


class Browser:
    """A real one that shows the session that grows; nobody talks to it meanwhile."""

    def __init__(self, port, folder):
        self.process = subprocess.Popen(
            [self._path(), "--headless", "--no-sandbox", "--remote-debugging-port=0",
             f"--user-data-dir={folder}/browser",
             f"http://127.0.0.1:{port}/#session=load-01"],
            stderr=subprocess.DEVNULL, start_new_session=True)
        self.told = Path(folder, "browser", "DevToolsActivePort")
        time.sleep(BROWSER_S)
        print(f"  the browser shows {self._title()!r}")

    def _title(self):
        port = self.told.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            return json.load(answer)[0]["title"]

    @staticmethod
    def _path():
        from test_page import SOURCES

        for source in SOURCES:
            with contextlib.suppress(LookupError, StopIteration, OSError,
                                     subprocess.SubprocessError):
                path = source()
                if path:
                    return path
        return sys.exit("[ERROR] There is no Chromium here: apt-get install"
                        " chromium-headless-shell")

    def stop(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Server:
    """The command, on a file of its own, watched."""

    def __init__(self, folder, options):
        self.db, self.memory, self.log = os.path.join(folder, "db"), [], []
        first = ["chrt", "-r", str(REALTIME)] if options.realtime else []
        self.process = subprocess.Popen(
            [*first, sys.executable, str(TESTS / "server"), "--port", "0", "--quiet",
             "--db", self.db], stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        self.port = int(line.split(b"/events")[0].rpartition(b":")[2])
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        page = os.sysconf("SC_PAGE_SIZE") / 1e6
        while not self._done.wait(1):
            with contextlib.suppress(OSError, IndexError):
                self.spent_s = self._spent_s()
                self.memory.append(int(self._stat("statm").split()[1]) * page)
                self.log.append(os.path.getsize(f"{self.db}-wal") / 1e6)

    def _stat(self, name):
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def _spent_s(self):
        fields = self._stat("stat").rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def kill_after(self, seconds):
        threading.Timer(seconds, self.process.kill).start()

    def stop(self):
        """End it; return the keys of the events that it has stored."""
        self._done.set()
        with contextlib.suppress(OSError):
            self.spent_s = self._spent_s()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()
        with contextlib.closing(sqlite3.connect(self.db)) as events:
            return [key for (key,) in events.execute("SELECT key FROM events")]


def started(target, *arguments):
    """Return a process of *target*, and what it tells."""
    said, heard = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=target, args=(*arguments, heard), daemon=True)
    process.start()
    return process, said


def sent(port, options, seconds):
    """Return what a Sender said that is a process of its own."""
    process, said = started(send, port, options, seconds)
    try:
        return said.recv()
    finally:
        process.join()


def floor_of(options):
    """Return the SHARES of a server that stores nothing."""
    said, heard = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=floor, args=(heard, options), daemon=True)
    process.start()
    try:
        return sent(said.recv(), options, max(2, options.seconds // FLOOR_PART))[2]
    finally:
        process.kill()


def wrk(port, options):
    """Return what wrk said that it sent, as sent() does; no keys are known."""
    script = WRK % (json.dumps(json.dumps(EVENT)), time.time_ns(), options.rate)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        first = ["chrt", "-r", str(REALTIME)] if options.realtime else []
        done = subprocess.run(
            [*first, "wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}",
             "-s", file.name, f"http://127.0.0.1:{port}/events"],
            stdout=subprocess.PIPE, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    return said["answered"] + said["lost"], said["answered"], said["times"], [], 0


def machine(options):
    """Return on what all this is measured, as one line."""
    models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    now = datetime.datetime.now(datetime.timezone.utc)
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg()[:2])
    return (f"{now:%Y-%m-%d %H:%M} UTC, {os.cpu_count()} CPUs ({(models or ['?'])[0]}),"
            f" Linux {platform.release()}, Python {platform.python_version()};"
            f" load {busy}{'; real-time priority' if options.realtime else ''}")


def measured(options, number):
    """Print what one round shows; return (p99, the floor's p99, events lost)."""
    base = floor_of(options)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        server = Server(folder, options)
        if options.page:
            page = multiprocessing.get_context("spawn").Process(
                target=look, args=(server.port, time.monotonic() + options.seconds))
            page.start()
        browser = Browser(server.port, folder) if options.browser else None
        if options.kill:
            server.kill_after(options.seconds / 2)
        count, answered, times, own, spent_s = (
            wrk(server.port, options) if options.wrk else
            sent(server.port, options, options.seconds))
        if options.page:
            page.join()
        if browser:
            browser.stop()
        keys = server.stop()
    twice = len(keys) - len(set(keys))
    lost, said = (max(0, answered - len(keys)), answered) if options.wrk else (
        len(set(answered) - set(keys)), len(answered))
    print(f"round {number}: sent {count}, answered 201: {said}, stored {len(keys)},"
          f" twice {twice}, lost {lost}")
    for name, values in (("answer, ms", times), ("  the sender's own share", own),
                         ("floor, ms", base)):
        if values:
            print(f"  {name:24} " + "  ".join(
                f"{'most' if share == 100 else f'p{share}'} {ms:.1f}"
                for share, ms in zip(SHARES, values)))
    print(f"  processor time an event, ms: server {server.spent_s * 1000 / count:.3f}"
          + (f", sender {spent_s * 1000 / count:.3f}" if spent_s else ""))
    for name, values in (("memory, MB", server.memory), ("log of changes, MB",
                                                         server.log)):
        print(f"  {name:24} " + " ".join(
            f"{mb:.0f}" for mb in values[::max(1, len(values) // 10)]), flush=True)
    return times[SHARES.index(99)], base[SHARES.index(99)], lost + twice


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, arguments in OPTIONS.items():
        parser.add_argument(name, **arguments)
    options = parser.parse_args()
    print(f"{machine(options)}; {options.rate} events a second of"
          f" {len(json.dumps(EVENT))} bytes on {options.connections} connections for"
          f" {options.seconds} s{', a page open' if options.page else ''}"
          f"{', a browser open' if options.browser else ''}"
          f"{', sent by wrk' if options.wrk else ''}", flush=True)
    rounds = [measured(options, 1 + n) for n in range(options.rounds)]
    p99, base, lost = zip(*rounds)
    print(f"p99 {median(p99):.1f} ms, the floor's {median(base):.1f}: medians of"
          f" {len(rounds)}; lost or twice: {sum(lost)}")
    return int(sum(lost) > 0)


if __name__ == "__main__":
    sys.exit(main())
