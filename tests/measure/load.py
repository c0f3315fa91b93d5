# SPDX-License-Identifier: MIT
"""Load the server with events at a steady rate, and see what it answers and keeps.

    python3 tests/measure/load.py [--rate 2000] [--connections 50] [--seconds 60]
                                  [--page] [--wrk | --kill]

Each connection is kept and sends an event when its time has come; the time of an
answer is counted from then, so that a server that falls behind is seen to.  Each event
has a key of its own.  Prints events sent, answered 201 and stored, the times of
answers, the server's processor time for each, and its memory and its files over time.
Exits 1 where one that was answered 201 is not stored.

--page: with a page open, which reads the stream and asks as page/main.js does.
--wrk: wrk sends them, without a pause unless --rate is given.
--kill: SIGKILL comes halfway.

Linux; Python 3.8+; for --wrk, wrk.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
EVENT = {
    "timestamp": "2026-11-28T01:05:52.074Z", "source_app": "load",
    "event_type": "PostToolUse", "tool_name": "Bash", "summary": "Bash: npm test",
    "session_id": "load-%02d", "metadata": json.dumps({
        "tool_use_id": "toolu_01", "tool_input": {"command": "npm test"},
        "tool_response": {"stdout": "x" * 400}})}
HEAD = ("POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Idempotency-Key: %s\r\nContent-Length: %d\r\n\r\n")
LENGTH = re.compile(rb"(?i)content-length: (\d+)")
SHARES = (50, 90, 99, 99.9)
WRK = """
local head = {["Content-Type"] = "application/json", ["Host"] = "localhost"}
local body, run, number, lost, pause = %s, "%s", 0, 0, %s
local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set("id", threads)
end
function request()
  number = number + 1
  head["Idempotency-Key"] = run .. "-" .. id .. "-" .. number
  return wrk.format("POST", "/events", head, (body:gsub("%%%%02d", number %% 50)))
end
if pause then function delay() return pause end end
function done(summary, latency, requests)
  io.write(string.format('{"answered": %%d, "lost": %%d', summary.requests,
    summary.errors.status + summary.errors.connect + summary.errors.read +
    summary.errors.write + summary.errors.timeout))
  for _, share in ipairs({50, 90, 99, 99.9}) do
    io.write(string.format(', "p%%s": %%f', share, latency:percentile(share) / 1000))
  end
  io.write(string.format(', "most": %%f}\\n', latency.max / 1000))
end
"""


class Load:
    """What was sent and what came of it.

    answered: keys of the events that were answered 201.  times: of answers, in ms.
    """

    def __init__(self, port, options):
        self.port, self.options = port, options
        self.sent, self.answered, self.times, self.late = 0, [], [], []

    async def run(self):
        """Send as the options say, until the time is over or the server has gone."""
        loop = asyncio.get_running_loop()
        self.begun = loop.time() + 0.5
        self.period = self.options.connections / self.options.rate
        clients = [Client(self, number) for number in range(self.options.connections)]
        for client in clients:
            await loop.create_connection(lambda own=client: own, "127.0.0.1", self.port)
        await asyncio.gather(*(client.done for client in clients))


class Client(asyncio.Protocol):
    """One kept connection, which sends its share of the events."""

    def __init__(self, load, number):
        self.load, self.number, self.count, self.answer = load, number, 0, b""
        self.loop = asyncio.get_running_loop()
        self.done = self.loop.create_future()
        self.body = (json.dumps(EVENT) % (number % 50)).encode()
        self.due = load.begun + load.period * number / load.options.connections

    def connection_made(self, transport):
        self.transport = transport
        self.loop.call_at(self.due, self.send)

    def connection_lost(self, error):
        if not self.done.done():
            self.done.set_result(None)

    def send(self):
        self.load.sent, self.count = self.load.sent + 1, self.count + 1
        self.load.late.append((self.loop.time() - self.due) * 1000)
        self.key = f"{self.number}-{self.count}"
        self.transport.write(
            (HEAD % (self.key, len(self.body))).encode() + self.body)

    def data_received(self, data):
        self.answer += data
        head, has_ended, body = self.answer.partition(b"\r\n\r\n")
        if not has_ended or len(body) < int(LENGTH.search(head).group(1)):
            return
        self.load.times.append((self.loop.time() - self.due) * 1000)
        if head.startswith(b"HTTP/1.1 201"):
            self.load.answered.append(self.key)
        self.answer, self.due = b"", self.due + self.load.period
        if self.due < self.load.begun + self.load.options.seconds:
            self.loop.call_at(self.due, self.send)
        else:
            self.transport.close()


def look(port, until):
    """Be a page: read the stream, and ask as often as page/main.js would."""
    def stream():
        link = http.client.HTTPConnection("127.0.0.1", port)
        link.request("GET", "/stream?last=0")
        with link.getresponse() as answer:
            while answer.read1(1 << 16):
                pass
    threading.Thread(target=stream, daemon=True).start()
    link, times = http.client.HTTPConnection("127.0.0.1", port), []
    while time.monotonic() < until:
        begun = time.monotonic()
        for path in ("/sessions", "/story?session_id=load-01&limit=500", "/asked"):
            link.request("GET", path)
            link.getresponse().read()
        times.append((time.monotonic() - begun) * 1000)
        time.sleep(0.4)
    print(f"the page: {len(times)} times, most {max(times):.0f} ms, median"
          f" {sorted(times)[len(times) // 2]:.0f} ms")


class Server:
    """The command, on a file of its own, watched."""

    def __init__(self, folder):
        self.db, self.memory, self.file = os.path.join(folder, "db"), [], []
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "server"), "--port", "0", "--quiet",
             "--db", self.db], stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        self.port = int(line.split(b"/events")[0].rpartition(b":")[2])
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        page = os.sysconf("SC_PAGE_SIZE") / 1e6
        while not self._done.wait(1):
            with contextlib.suppress(OSError, IndexError), \
                    open(f"/proc/{self.process.pid}/statm") as file:
                self.memory.append(int(file.read().split()[1]) * page)
                self.file.append(os.path.getsize(self.db + "-wal") / 1e6)

    def kill_after(self, seconds):
        threading.Timer(seconds, self.process.kill).start()

    def stop(self):
        """Return the processor time that it took, in seconds."""
        self._done.set()
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def keys(self):
        with contextlib.closing(sqlite3.connect(self.db)) as events:
            return [key for (key,) in events.execute("SELECT key FROM events")]


def wrk(port, options):
    """Return what wrk says it sent."""
    pause = 1000 * options.connections // options.rate if options.rate else "nil"
    script = WRK % (json.dumps(json.dumps(EVENT)), time.time_ns(), pause)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}", "-s",
             file.name, f"http://127.0.0.1:{port}/events"], stdout=subprocess.PIPE,
            check=True)
    return json.loads(done.stdout.splitlines()[-1])


def told(server, spent_s, count):
    print(f"processor time of the server: {spent_s * 1000 / max(1, count):.3f} ms an"
          " event")
    for name, values in (("memory", server.memory), ("log of changes", server.file)):
        print(f"{name}, MB: " + " ".join(
            f"{mb:.0f}" for mb in values[::max(1, len(values) // 8)]))


def main():
    parser = argparse.ArgumentParser(description="Load the server with events.")
    for name, default in (("rate", None), ("connections", 50), ("seconds", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("page", "wrk", "kill"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        page = options.page and multiprocessing.get_context("spawn").Process(
            target=look, args=(server.port, time.monotonic() + options.seconds))
        if page:
            page.start()
        if options.wrk:
            said = wrk(server.port, options)
            spent_s, keys = server.stop(), server.keys()
            print(f"answered {said['answered']}, not 201: {said['lost']}, stored"
                  f" {len(keys)}")
            lost = max(0, said["answered"] - said["lost"] - len(keys))
            times = [said[f"p{share}"] for share in SHARES] + [said["most"]]
            count = said["answered"]
        else:
            options.rate = options.rate or 2000
            load = Load(server.port, options)
            if options.kill:
                server.kill_after(options.seconds / 2)
            asyncio.run(load.run())
            spent_s, keys = server.stop(), server.keys()
            lost = len(set(load.answered) - set(keys))
            print(f"sent {load.sent}, answered 201: {len(load.answered)}, stored"
                  f" {len(keys)}, twice {len(keys) - len(set(keys))}, lost {lost}")
            every = sorted(load.times)
            times = [every[min(len(every) - 1, int(len(every) * share / 100))]
                     for share in (*SHARES, 100)]
            count = len(every)
        print("answer, ms: " + ", ".join(
            f"{name} {ms:.1f}" for name, ms in zip(
                (*(f"p{share}" for share in SHARES), "most"), times)))
        told(server, spent_s, count)
        if page:
            page.join()
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
