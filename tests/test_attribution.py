# SPDX-License-Identifier: MIT
"""Every event ends up with its person and project, in any order and over a restart."""

import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from conftest import PATIENCE_S, TESTS, eventually
from server import EventServer, attribution, closed_port
from server.groups import Groups
from server.store import Store
from test_intake import HOOK, SESSION, fixture_keyed, send  # noqa: F401 - a fixture
from test_server import (
    EVENT,
    event_bytes,
    fixture_command,  # noqa: F401 - a fixture
    get,
    http_request,
    post,
    talk,
)

pytestmark = pytest.mark.filterwarnings(
    "error::pytest.PytestUnhandledThreadExceptionWarning")

EMAIL = "dev@example.com"


def log_of(session_id, email, sequence=0, user="u1"):
    pairs = {"session.id": session_id, "user.email": email, "user.id": user,
             "event.name": "user_prompt", "event.timestamp": f"2026-11-28T{sequence}"}
    attributes = [{"key": key, "value": {"stringValue": text}}
                  for key, text in pairs.items() if text]
    attributes.append({"key": "event.sequence", "value": {"intValue": str(sequence)}})
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {"timeUnixNano": "1795827952074000000", "attributes": attributes}]}]}]}


def hook(session_id=SESSION, **changes):
    return json.dumps({**HOOK, "session_id": session_id, **changes}).encode()


def emails(server):
    return [event.get("user_email") for event in server.events()]


@pytest.mark.parametrize("order", ["hook first", "telemetry first"])
def test_an_event_gets_its_person_whichever_comes_first(order):
    with EventServer() as server:
        steps = [lambda: post(server, hook()), lambda: send(server, "logs")]
        for step in steps if order == "hook first" else reversed(steps):
            step()
        assert emails(server) == [EMAIL]


def test_metrics_and_traces_name_a_person_as_log_records_do():
    for signal_name in ("metrics", "traces"):
        with EventServer() as server:
            post(server, hook())
            send(server, signal_name)
            assert emails(server) == [EMAIL]


def test_an_event_of_a_session_nobody_names_stays_unattributed():
    with EventServer() as server:
        post(server, hook("another"))
        send(server, "logs")
        assert emails(server) == [None]


def test_what_is_pending_is_attributed_after_a_restart(tmp_path):
    db = str(tmp_path / "db")
    with EventServer(db=db) as server:
        post(server, hook())
    with EventServer(db=db) as server:
        send(server, "logs")
        assert emails(server) == [EMAIL]


def test_what_telemetry_said_before_a_restart_holds_after_it(tmp_path):
    db = str(tmp_path / "db")
    with EventServer(db=db) as server:
        send(server, "logs")
    with EventServer(db=db) as server:
        post(server, hook())
        assert emails(server) == [EMAIL]


def later(monkeypatch, seconds):
    """Let the server's clock stand *seconds* further on."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + seconds)


@pytest.mark.parametrize("passed_s, found", [(590, EMAIL), (610, None)])
def test_an_event_waits_ten_minutes_for_its_person(monkeypatch, passed_s, found):
    with EventServer() as server:
        post(server, hook())
        later(monkeypatch, passed_s)
        server.attribution.sweep()
        send(server, "logs")
        assert emails(server) == [found]


@pytest.mark.parametrize("passed_s, found", [(86_000, EMAIL), (87_000, None)])
def test_what_is_known_of_a_session_is_known_for_a_day(monkeypatch, passed_s, found):
    with EventServer() as server:
        send(server, "logs")
        later(monkeypatch, passed_s)
        post(server, hook())
        assert emails(server) == [found]


def test_with_require_identity_what_stays_unknown_is_dropped(monkeypatch):
    with EventServer(require_identity=True) as server:
        post(server, hook())
        post(server, hook("another"))
        post(server, event_bytes())
        send(server, "logs")
        assert len(server.events()) == 3
        later(monkeypatch, 601)
        server.attribution.sweep()
        assert emails(server) == [EMAIL]
        assert server.attribution.dropped == 2


def test_an_email_that_changes_amid_a_session_is_kept_beside_the_earlier_one():
    with EventServer() as server:
        for number, email in enumerate(["a@x.test", "b@x.test"]):
            send(server, "logs", log_of(SESSION, email, number))
            post(server, hook())
        assert emails(server) == ["a@x.test", "b@x.test"]
        first, second = server.attribution.people(SESSION)
        assert (first["user_email"], second["user_email"]) == ("a@x.test", "b@x.test")
        assert first["first_at"] <= first["last_at"] <= second["first_at"]


def test_clocks_that_disagree_change_nothing_about_who_it_was():
    with EventServer() as server:
        post(server, hook(timestamp="1999-01-01T00:00:00Z"))
        post(server, hook(timestamp="2999-01-01T00:00:00Z"))
        send(server, "logs")
        assert emails(server) == [EMAIL, EMAIL]


def test_any_order_of_events_and_telemetry_gives_the_same_attribution():
    chance = random.Random(5)
    for _ in range(20):
        steps = [("hook", f"s{n % 3}") for n in range(9)] + [
            ("log", f"s{n}") for n in range(2)]
        chance.shuffle(steps)
        with EventServer() as server:
            for kind, session_id in steps:
                if kind == "hook":
                    post(server, hook(session_id))
                else:
                    send(server, "logs", log_of(session_id, f"{session_id}@x.test"))
            for event in server.events():
                email = {"s0": "s0@x.test", "s1": "s1@x.test"}.get(event["session_id"])
                assert event.get("user_email") == email, steps


# The file.

def test_what_is_older_than_is_kept_is_removed(tmp_path, monkeypatch):
    with EventServer(db=str(tmp_path / "db"), keep_s=86400) as server:
        post(server, hook())
        send(server, "logs")
        later(monkeypatch, 86_500)
        server.attribution.sweep()
        assert server.events() == []
        counts = [server.store.run(f"SELECT COUNT(*) FROM {table}")[0][0][0] for table
                  in ("sessions", "identities", "records", "points", "usage")]
        assert counts == [0] * 5
        assert post(server, hook())[1]["id"] == 2


def test_old_events_that_came_lately_keep_their_session(tmp_path):
    with EventServer(db=str(tmp_path / "db"), keep_s=86400) as server:
        post(server, hook(timestamp="2020-01-01T00:00:00.000Z"))
        server.attribution.sweep()
        assert len(server.events()) == 1
        assert server.store.run("SELECT COUNT(*) FROM sessions")[0][0][0] == 1


def test_a_file_of_the_first_edition_is_taken_over(tmp_path):
    db = tmp_path / "db"
    with sqlite3.connect(db) as old:
        old.execute("CREATE TABLE events (id INTEGER PRIMARY KEY AUTOINCREMENT,"
                    " timestamp TEXT, source_app TEXT, event_type TEXT, tool_name TEXT,"
                    " summary TEXT, session_id TEXT, metadata TEXT, created_at TEXT)")
        old.execute("INSERT INTO events (timestamp, source_app, event_type, created_at)"
                    " VALUES ('2026-01-01T00:00:00Z', 'a', 'Stop', '2026-01-01')")
    old.close()
    with EventServer(db=str(db)) as server:
        assert post(server)[1]["id"] == 2
        assert server.events()[0]["source_app"] == "a"


def test_a_file_of_the_second_edition_is_taken_over(tmp_path):
    db = tmp_path / "db"
    with EventServer(db=str(db)) as server:
        post(server)
    with sqlite3.connect(db) as old:
        old.executescript(
            "CREATE TABLE kept AS SELECT id, after_id, started_at, stopped_at"
            " FROM runs; DROP TABLE runs; CREATE TABLE runs (id INTEGER PRIMARY KEY,"
            " after_id, started_at, stopped_at); INSERT INTO runs SELECT * FROM kept;"
            " DROP TABLE kept; PRAGMA user_version=1")
    old.close()
    with EventServer(db=str(db)) as server:
        server.attribution.sweep()
        assert ([run["after_id"] for run in server.store.runs()],
                server.store.count()) == ([0, 1], 1)


def test_a_file_of_a_newer_server_is_refused_and_left_as_it_is(tmp_path):
    db = tmp_path / "db"
    with EventServer(db=str(db)):
        pass
    with sqlite3.connect(db) as other:
        other.execute("PRAGMA user_version=99")
    other.close()
    with pytest.raises(sqlite3.Error, match="newer server"):
        EventServer(db=str(db))


def test_the_events_of_a_person_are_in_a_file_that_is_theirs(tmp_path):
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, str(TESTS / "server"), "--port", "0"],
                               env=environment, stdout=subprocess.PIPE)
    assert b"events.db" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    (file, *rest) = sorted((tmp_path / "hook-io").iterdir())
    assert file.name == "events.db"
    assert [path.stat().st_mode & 0o077 for path in (file.parent, file, *rest)] == (
        [0] * (2 + len(rest)))


def flood(port, answered, stop):
    """Send events, one after the other, and note each that is answered 201."""
    number = 0
    while not stop.is_set():
        number += 1
        mark = f"{threading.get_ident()}-{number}"
        body = event_bytes(summary=mark)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
                sock.sendall(http_request(body, headers=[f"Idempotency-Key: {mark}"]))
                if sock.recv(100).startswith(b"HTTP/1.1 201"):
                    answered.append(mark)
        except OSError:
            time.sleep(0.002)


def test_each_event_that_was_answered_is_there_after_a_kill(command, tmp_path):
    db, answered, stop = tmp_path / "db", [], threading.Event()
    server = command("--quiet", "--db", str(db))
    threads = [threading.Thread(target=flood, args=(server.port, answered, stop))
               for _ in range(8)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(answered) > 200)
    server.stop(signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    with EventServer(db=str(db)) as again:
        stored = {event["summary"] for event in again.events()}
    assert set(answered) <= stored


def test_a_full_disk_is_answered_with_507_and_the_next_event_with_201():
    with EventServer() as server:
        pages = server.store.run("PRAGMA page_count")[0][0][0]
        server.store.run(f"PRAGMA max_page_count={pages + 4}")
        big = event_bytes(metadata=json.dumps("x" * 100_000))
        status, answer = post(server, big)
        assert (status, answer["error"]) == (507, "InsufficientStorage")
        server.store.run("PRAGMA max_page_count=1000000")
        assert post(server, big)[0] == 201


@pytest.mark.usefixtures("patient")
def test_a_hook_counts_the_507_of_a_full_disk_as_a_loss(one_hook):
    said = {"hook_event_name": "PostToolUse", "session_id": "s1", "tool_name": "Read",
            "tool_response": ["x" * 5_000] * 12}  # more than the pages left
    with EventServer() as server:
        pages = server.store.run("PRAGMA page_count")[0][0][0]
        server.store.run(f"PRAGMA max_page_count={pages + 1}")
        one_hook.send(server.url, stdin=said)
        server.store.run("PRAGMA max_page_count=1000000")
        (line,) = one_hook.losses()
        assert line.split()[1:4] == ["PostToolUse", "rejected", "s1"]
        one_hook.send(server.url, stdin=said)
        assert len(server.events()) == 1
    assert [seen.status for seen in server.exchanges] == [507, 201]


# What several threads write.

def together(groups, wishes):
    """Return what each of *wishes* got, the first one alone and the others waiting."""
    with concurrent.futures.ThreadPoolExecutor(len(wishes)) as pool:
        begun = [pool.submit(groups.do, wishes[0])]
        eventually(lambda: groups.seen)
        begun += [pool.submit(groups.do, wish) for wish in wishes[1:]]
        eventually(lambda: len(groups._waiting) == len(wishes) - 1)
        groups.gate.set()
        return [future.exception() or future.result() for future in begun]


class Gated(Groups):
    """Groups that hold the first of them until `gate` is set; seen: all of them."""

    def __init__(self):
        super().__init__(self.write)
        self.gate, self.seen = threading.Event(), []

    def write(self, wishes):
        self.seen.append(sorted(wishes))
        self.gate.wait(PATIENCE_S)
        if "bad" in wishes:
            raise ValueError("bad")
        return [wish.upper() for wish in wishes]


def test_writes_that_wait_are_done_together_and_each_gets_its_own_result():
    groups = Gated()
    assert together(groups, ["a", "b", "c", "d"]) == ["A", "B", "C", "D"]
    assert groups.seen == [["a"], ["b", "c", "d"]]
    assert groups.do("e") == "E"


def test_a_write_that_fails_takes_no_other_with_it():
    groups = Gated()
    first, bad, last = together(groups, ["a", "bad", "c"])
    assert (first, str(bad), last) == ("A", "bad", "C")
    assert groups.do("e") == "E"


def test_a_change_that_is_undone_takes_along_its_own_events_and_no_other():
    store, other = Store(":memory:"), {**EVENT, "summary": "other"}

    def undone():
        with contextlib.suppress(KeyError), store.changing():
            threads[1].start()
            eventually(lambda: store._groups._is_led)  # it waits for this change
            store.add(EVENT)
            raise KeyError
    threads = [threading.Thread(target=undone, daemon=True),
               threading.Thread(target=store.add, args=(other,), daemon=True)]
    threads[0].start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
    assert [event["summary"] for event in store.select()] == ["other"]
    store.close()


# Several servers.

redis = pytest.mark.skipif(not shutil.which("redis-server"),
                           reason="needs redis-server (Debian: redis-server)")


@pytest.fixture(name="redis_url")
def fixture_redis(tmp_path):
    pytest.importorskip("redis")
    port = closed_port()
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
         "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    def is_up():
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0
    try:
        eventually(is_up)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@redis
@pytest.mark.parametrize("order", ["hook first", "telemetry first"])
def test_servers_with_stores_of_their_own_share_who_is_known(redis_url, order):
    from server.shared import Shared
    with EventServer(shared=Shared(redis_url)) as one, (
            EventServer(shared=Shared(redis_url))) as two:
        steps = [lambda: post(one, hook()), lambda: send(two, "logs")]
        for step in steps if order == "hook first" else reversed(steps):
            step()
        one.attribution.sweep()
        assert emails(one) == [EMAIL]


@redis
def test_what_redis_holds_ends_by_itself(redis_url):
    from server.shared import Shared
    shared = Shared(redis_url)
    with EventServer(shared=shared) as server:
        post(server, hook())
        pending = shared._redis.ttl(f"hook:pending:{SESSION}")
        send(server, "logs")
        known = shared._redis.ttl(f"session:metadata:{SESSION}")
        assert 590 < pending <= attribution.PENDING_S
        assert 86_390 < known <= attribution.METADATA_S
        assert not shared._redis.exists(f"hook:pending:{SESSION}")


@redis
def test_a_redis_that_is_gone_costs_no_event_and_no_attribution(redis_url):
    from server.shared import Shared
    with EventServer(shared=Shared("redis://127.0.0.1:1/0")) as server:
        assert post(server, hook())[0] == 201
        send(server, "logs")
        assert emails(server) == [EMAIL]


@redis
@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
def test_of_servers_at_one_address_one_may_be_killed(redis_url, command, tmp_path):
    """Nothing that was answered is lost or doubled, and all of it is attributed."""
    port, db = closed_port(), tmp_path / "db"
    options = ("--quiet", "--db", str(db), "--redis", redis_url, "--share-port",
               "--port", str(port))
    servers = [command(*options) for _ in range(3)]
    sent, lost, lock = [], [], threading.Lock()

    def client(number):
        for count in range(60):
            mark = f"{number}-{count}"
            body = hook(f"s{number}", summary=mark)
            if count == 20 + number:
                deliver(port, http_request(json.dumps(log_of(
                    f"s{number}", f"s{number}@x.test")).encode(), "/v1/logs",
                    headers=["Content-Type: application/json"]), b"200")
            done = deliver(port, http_request(
                body, headers=[f"Idempotency-Key: {mark}"]), b"201")
            with lock:
                (sent if done else lost).append(mark)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(sent) > 100)
    servers[1].stop(signal.SIGKILL)
    for thread in threads:
        thread.join()
    for server in (servers[0], servers[2]):
        server.stop()
    with EventServer(db=str(db)) as again:
        stored = [event["summary"] for event in again.events()]
        assert lost == []
        assert sorted(stored) == sorted(sent)
        assert {event.get("user_email") for event in again.events()} == {
            f"s{number}@x.test" for number in range(6)}


def deliver(port, request, status):
    """Send *request*, again under the same key where the server went; tell success."""
    for _ in range(50):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(request)
                if sock.recv(1 << 16).startswith(b"HTTP/1.1 " + status):
                    return True
        except OSError:
            pass
        time.sleep(0.01)
    return False


def test_a_session_that_telemetry_alone_tells_of_is_listed_until_it_is_old(monkeypatch):
    with EventServer() as server:
        post(server, hook("s1"))
        send(server, "metrics")
        send(server, "logs", json.dumps(log_of("s3", EMAIL)).encode())
        assert [one["session_id"] for one in get(server, "/sessions")[1]] == [
            "s3", SESSION, "s1"]
        (alone,) = get(server, f"/sessions?session_id={SESSION}")[1]
        assert (alone["source_app"], alone["events"], alone["last_event"]) == (
            "claude-code", 0, "")
        assert alone["people"][0]["user_email"] == EMAIL
        assert alone["usage"]["claude-sonnet-5-5"]["output"] > 0
        assert get(server, "/sessions?limit=1&also=s1")[1][1]["session_id"] == "s1"
        assert get(server, "/story")[1] == {
            "session_id": "s3", "turns": [], "earlier": None}
        post(server, hook("s3", cwd="/home/dev/shop"))
        (known,) = get(server, "/sessions?session_id=s3")[1]
        assert (known["events"], known["people"][0]["user_email"]) == (1, EMAIL)
        later = time.time() + 100
        monkeypatch.setattr(time, "time", lambda: later)
        server.store.purge(50)
        assert SESSION not in str(get(server, "/sessions")[1])


def test_a_person_can_ask_for_the_telemetry_of_a_session():
    with EventServer() as server:
        send(server, "logs", log_of(SESSION, EMAIL))
        (record,) = get(server, f"/telemetry?session_id={SESSION}")[1]
        assert record["name"] == "user_prompt"
        assert record["attributes"]["user.email"] == EMAIL
        assert talk(server, http_request(path="/telemetry", method="POST")).startswith(
            b"HTTP/1.1 405")
