# SPDX-License-Identifier: MIT
"""Attribution beyond one machine: a view in ClickHouse, behind a collector."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[2]
OTEL = ROOT / "tests" / "otel" / "logs.json"
SESSION = "f92bac9e-5900-412b-aef4-cb42525644ab"
CLAUDE = "com.anthropic.claude_code.events"
BEGIN = 1_795_827_000
#: the columns of the Collector's clickhouse exporter that the views rest on
TABLE = """CREATE TABLE otel_logs (Timestamp DateTime64(9), TraceId String,
    SpanId String, ServiceName LowCardinality(String), Body String, ScopeName String,
    ResourceAttributes Map(LowCardinality(String), String),
    LogAttributes Map(LowCardinality(String), String))
    ENGINE = MergeTree ORDER BY (ServiceName, Timestamp)"""


@pytest.fixture(name="engine")
def fixture_engine(tmp_path):
    session = pytest.importorskip("chdb.session", reason="make fleet has chdb")
    engine = session.Session(str(tmp_path))
    engine.query("CREATE DATABASE fleet ENGINE = Atomic")
    engine.query("USE fleet")
    engine.query(TABLE)
    text = re.sub("--.*", "", (FOLDER / "attribution.sql").read_text())
    for statement in filter(str.strip, text.split(";")):
        engine.query(statement)
    yield engine
    engine.close()


def add(engine, second, scope, **attributes):
    pairs = ", ".join(f"'{key.replace('__', '.')}', '{value}'"
                      for key, value in attributes.items())
    engine.query("INSERT INTO otel_logs (Timestamp, ScopeName, LogAttributes) VALUES"
                 f" (toDateTime64({BEGIN + second}, 9), '{scope}', map({pairs}))")


def hook(engine, second, session="s1", use="t1"):
    add(engine, second, "hook-io", session__id=session, event__name="PreToolUse",
        tool_name="Bash", tool_use_id=use)


def person(engine, second, email, session="s1"):
    add(engine, second, CLAUDE, session__id=session, user__email=email,
        event__name="user_prompt")


def rows(engine, statement):
    text = str(engine.query(statement, "JSONEachRow"))
    return [json.loads(line) for line in text.splitlines()]


def emails(engine):
    return [row["UserEmail"] for row in rows(
        engine, "SELECT UserEmail FROM hook_events ORDER BY Timestamp")]


def test_an_event_has_its_person_whichever_came_first(engine):
    hook(engine, 1)
    assert emails(engine) == [""]
    person(engine, 5, "dev@example.com")
    hook(engine, 9)
    assert emails(engine) == ["dev@example.com"] * 2


def test_an_event_of_a_session_nobody_names_stays_unattributed(engine):
    hook(engine, 1, "s2")
    person(engine, 2, "dev@example.com")
    assert emails(engine) == [""]


def test_an_email_that_changes_counts_from_then_on(engine):
    person(engine, 1, "a@x.test")
    hook(engine, 2)
    person(engine, 3, "b@x.test")
    hook(engine, 4)
    assert emails(engine) == ["a@x.test", "b@x.test"]


def test_usage_is_what_the_api_returned_also_for_a_batch_that_came_twice(engine):
    records = json.loads(OTEL.read_text())["resourceLogs"][0]["scopeLogs"][0]
    for record in records["logRecords"] * 2:
        values = {pair["key"].replace(".", "__"): next(iter(pair["value"].values()))
                  for pair in record["attributes"]}
        if values["event__name"] == "api_request":
            add(engine, 1, CLAUDE, **values)
    (total,) = rows(engine, "SELECT sum(InputTokens) AS i, sum(OutputTokens) AS o,"
                            " sum(CacheReadTokens) AS r, round(sum(CostUsd), 6) AS c"
                            " FROM hook_usage")
    assert {name: float(value) for name, value in total.items()} == {
        "i": 9045, "o": 675, "r": 274500, "c": 0.077438}


# The collector in front.

def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(name="collector")
def fixture_collector(tmp_path):
    rotel = pytest.importorskip("rotel")
    port, log = free_port(), tmp_path / "log"
    library = sysconfig.get_config_var("LIBDIR")
    command = [str(Path(rotel.__file__).parent / "rotel-agent"), "start",
               "--otlp-http-endpoint", f"127.0.0.1:{port}", "--otlp-grpc-endpoint",
               f"127.0.0.1:{free_port()}", "--exporter", "blackhole", "--debug-log",
               "logs", "--debug-log-verbosity", "detailed", "--pid-file",
               str(tmp_path / "pid")]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={
            **os.environ, "LD_LIBRARY_PATH": library})
    for _ in range(200):
        if process.poll() is not None:
            pytest.skip(f"rotel does not start here: {log.read_text()[-300:]}")
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.connect(("127.0.0.1", port))
            break
        time.sleep(0.05)
    yield port, log
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_a_collector_takes_the_hooks_and_the_agents_records_with_what_joins_them(
        collector):
    port, log = collector
    event = (ROOT / "tests/samples/claude-code/PreToolUse.json").read_bytes()
    done = subprocess.run(
        [sys.executable, str(ROOT / "send_event.py"), "--source-app", "shop",
         "--event-type", "PreToolUse", "--format", "otlp", "--server-url",
         f"http://127.0.0.1:{port}"], input=event, capture_output=True, timeout=30,
        env={**os.environ, "HOOK_IO_TIMEOUT_MS": "10000",
             "HOOK_IO_STATE_DIR": str(log.parent / "state")})
    assert (done.returncode, done.stderr) == (0, b"")
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/logs", OTEL.read_bytes(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    said = json.loads(event)["session_id"]
    for _ in range(100):
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
        if "dev@example.com" in text and said in text:
            break
        time.sleep(0.05)
    for fact in (f"session.id: Str({said})", f"session.id: Str({SESSION})",
                 "user.email: Str(dev@example.com)", "hook-io"):
        assert fact in text, text[-3000:]
