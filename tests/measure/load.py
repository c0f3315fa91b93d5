# SPDX-License-Identifier: MIT
"""Load the server with events at a steady rate, and see what it answers and keeps.

    python3 tests/measure/load.py [--rate 2000] [--connections 50] [--seconds 60]

Each connection is kept and sends an event when its time has come; the time of an
answer is counted from then, so that a server that falls behind is seen to.  Prints
events sent, answered 201 and stored, the times of answers, the server's processor time
for each and its memory over time.  Exits 1 where one that was answered is not stored.
Linux; Python 3.8+, nothing else.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
BODY = json.dumps({
    "timestamp": "2026-11-28T01:05:52.074Z", "source_app": "load",
    "event_type": "PostToolUse", "tool_name": "Bash", "summary": "Bash: npm test",
    "session_id": "load-%02d", "metadata": json.dumps({
        "tool_use_id": "toolu_01", "tool_input": {"command": "npm test"},
        "tool_response": {"stdout": "x" * 400}})})


def client(port, number, options, begun, times, failures):
    """Send this connection's share of the events; note the times of answers, in ms."""
    body = (BODY % number).encode()
    request = (b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
               b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
    period = options.connections / options.rate
    due = begun + period * number / options.connections
    with socket.create_connection(("127.0.0.1", port)) as sock:
        while due < begun + options.seconds:
            time.sleep(max(0, due - time.monotonic()))
            sock.sendall(request)
            answer = sock.recv(1 << 16)
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += sock.recv(1 << 16)
            times.append((time.monotonic() - due) * 1000)
            failures.extend([1] if not answer.startswith(b"HTTP/1.1 201") else [])
            due += period


def resident_mb(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def load(port, options, first=0, count=0):
    """Run connections *first* and on in this process; return (times, failures)."""
    times, failures, begun = [], [], time.monotonic() + 0.5
    threads = [threading.Thread(target=client, args=(
        port, number, options, begun, times, failures))
        for number in range(first, first + (count or options.connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, failures


def main():
    parser = argparse.ArgumentParser(description="Load the server with events.")
    for name, default in (("rate", 2000), ("connections", 50), ("seconds", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db, memory, done = os.path.join(folder, "db"), [], threading.Event()
        process = subprocess.Popen(
            [sys.executable, str(TESTS / "server"), "--port", "0", "--quiet",
             "--db", db], stdout=subprocess.PIPE)
        port = int(process.stdout.readline().split(b"/events")[0].rpartition(b":")[2])

        def watch():
            while not done.wait(1):
                memory.append(resident_mb(process.pid))
        threading.Thread(target=watch, daemon=True).start()
        times, failures = load(port, options)
        done.set()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        with contextlib.closing(sqlite3.connect(db)) as events:
            (stored,) = events.execute("SELECT COUNT(*) FROM events").fetchone()
    times.sort()
    share = {p: times[min(len(times) - 1, int(len(times) * p / 100))]
             for p in (50, 90, 99, 99.9)}
    print(f"sent {len(times)} in {options.seconds} s, not answered 201:"
          f" {len(failures)}, stored {stored}")
    print("answer, ms: " + ", ".join(f"p{p} {ms:.1f}" for p, ms in share.items())
          + f", most {times[-1]:.1f}")
    spent_ms = (used.ru_utime + used.ru_stime) * 1000 / max(1, len(times))
    print(f"processor time of the server: {spent_ms:.3f} ms an event")
    print("memory, MB: " + " ".join(f"{mb:.0f}" for mb in memory[::10]))
    return int(stored != len(times) - len(failures))


if __name__ == "__main__":
    sys.exit(main())
