"""A spool loses nothing: each event arrives, and exactly once by its key."""

import json
import os
import random
import signal
import stat
import subprocess
import threading
import time

import pytest

import hook_io
from conftest import PATIENCE_S, eventually, nowhere, sample, timed
from errands import errand
from server import EventServer, closed_port

pytestmark = pytest.mark.usefixtures("patient")
KILLS = 200


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool"


def lose(hook, spool, *argv, url=None, env=None, event=None, **kwargs):
    """Send an event that does not arrive; return the Result."""
    return hook.send(
        url or nowhere(), *argv,
        stdin=event or sample("PreToolUse"),
        env={"HOOK_IO_SPOOL_DIR": str(spool), **(env or {})}, **kwargs)


def flush(hook, spool, url, *argv, env=None):
    variables = {"HOOK_IO_SPOOL_DIR": str(spool), "HOOK_IO_SERVER_URL": url}
    return hook.run("send_event.py", "--flush-spool", *argv,
                    env={**variables, **(env or {})})


def waiting(spool):
    return sorted(spool.glob("*.json"))


def keys(server):
    """Return the keys of the events that were stored, in order of arrival."""
    eventually(lambda: all(seen.held_ms is not None for seen in server.exchanges))
    return [seen.headers["idempotency-key"] for seen in list(server.exchanges)
            if seen.status == 201]


def fill(spool, count, time_ns=None):
    """Put *count* events into *spool* as the hook does; return their keys."""
    made = []
    for _ in range(count):
        key, now = os.urandom(16).hex(), time_ns or time.time_ns()
        facts = {"key": key, "time_ns": now, "agent": "raw", "source_app": "demo",
                 "event_type": "Stop", "session_id": "", "metadata": "",
                 "summary": "", "event": {"n": len(made)}}
        one = errand("Stop", spool_dir=str(spool), key=key, time_ns=now)
        hook_io.Spool(one).add(json.dumps(facts).encode())
        made.append(key)
    return made


def test_a_lost_event_is_kept_and_arrives_later_as_it_was(hook, spool):
    result = lose(hook, spool)
    assert result.lines[1] == (
        f"[WARNING] Observability server not running, event spooled to {spool}")
    (path,) = waiting(spool)
    before = json.loads(path.read_text())
    with EventServer() as server:
        result = flush(hook, spool, server.url)
        (seen,) = server.wait(1)
        (event,) = server.events()
    assert (result.exit, result.stdout) == (0, "")
    assert result.lines == ["1 spooled events delivered, 0 left, 0 set aside"]
    assert json.loads(event["metadata"]) == sample("PreToolUse")
    assert event["timestamp"] == hook_io.Wire.instant(before["time_ns"])
    assert seen.headers["idempotency-key"] == before["key"]
    assert before["key"] in path.name
    assert waiting(spool) == []


@timed
def test_the_first_try_and_every_later_one_carry_one_key(one_hook, spool):
    replies = [{"hang": True}, {"status": 503}, {"status": 429}]
    with EventServer(replies=replies) as server:
        lose(one_hook, spool, "--timeout-ms", "300", url=server.url)
        for _ in range(3):
            flush(one_hook, spool, server.url)
        seen = server.wait(4)
    assert len({exchange.headers["idempotency-key"] for exchange in seen}) == 1
    assert [exchange.status for exchange in seen] == [None, 503, 429, 201]


def test_what_arrives_at_once_leaves_no_trace(one_hook, spool):
    with EventServer() as server:
        lose(one_hook, spool, url=server.url)
        assert len(server.events()) == 1
    assert not spool.exists()


def test_only_its_owner_can_read_it_and_no_secret_is_in_it(one_hook, spool):
    event = {**sample("PreToolUse"), "password": "hunter2hunter2"}
    env = {"HOOK_IO_HEADERS": "Authorization: Bearer tok-4711-squeamish"}
    lose(one_hook, spool, "--metadata", '{"token": "hunter2hunter2"}', event=event,
         env=env)
    (path,) = waiting(spool)
    assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(word in path.read_text() for word in ("hunter2", "squeamish"))
    assert [p for p in spool.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("name", hook_io.FORMATS)
def test_a_spooled_event_goes_out_in_the_format_of_the_flush(one_hook, spool, name):
    lose(one_hook, spool)
    with EventServer(fault="no_content") as server:
        flush(one_hook, spool, server.url, "--format", name)
        (seen,) = server.wait(1)
    assert sample("PreToolUse")["tool_use_id"].encode() in seen.body
    assert waiting(spool) == []


def test_the_oldest_goes_first_and_the_first_failure_ends_it(one_hook, spool):
    made = fill(spool, 5)
    with EventServer(replies=[{}, {}, {"status": 500}]) as server:
        result = flush(one_hook, spool, server.url)
        assert len(server.wait(3)) == 3
        assert result.lines == ["2 spooled events delivered, 3 left, 0 set aside:"
                                " HTTP 500"]
        flush(one_hook, spool, server.url)
        server.wait(6)
        assert keys(server) == made


@timed
def test_a_flush_ends_with_its_budget(one_hook, spool):
    fill(spool, 3)
    with EventServer(fault="silent") as server:
        env = {"HOOK_IO_BACKGROUND_TIMEOUT_MS": "600"}
        result = flush(one_hook, spool, server.url, env=env)
        (seen,) = server.wait(1)
    assert (seen.ended_by, seen.held_ms < 5000) == ("client", True)
    assert result.lines == ["0 spooled events delivered, 3 left, 0 set aside:"
                            " no answer in time"]


def test_a_flush_ends_the_streak_that_it_proves_over(one_hook, spool):
    port = closed_port()
    lose(one_hook, spool, url=f"http://127.0.0.1:{port}/events")
    assert len(one_hook.losses()) == 1
    with EventServer(port=port) as server:
        flush(one_hook, spool, server.url)
    assert one_hook.losses() == []


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_refused_event_is_set_aside_with_the_reason_and_never_retried(
    one_hook, spool, status
):
    reply = {"status": status, "json": {"error": "no such app"}}
    fill(spool, 1)
    with EventServer(replies=[reply, reply]) as server:
        first = lose(one_hook, spool, url=server.url)
        flush(one_hook, spool, server.url)
        for _ in range(2):
            flush(one_hook, spool, server.url)
        assert len(server.wait(2)) == 2
    assert "event set aside as .rejected in" in first.lines[1]
    assert waiting(spool) == []
    reasons = [json.loads(path.read_text())["rejected"]
               for path in spool.glob("*.rejected")]
    assert reasons == [f"HTTP {status}: no such app"] * 2


@pytest.mark.parametrize("status", [302, 408, 425, 429, 500, 503])
def test_what_may_be_taken_another_time_waits(one_hook, spool, status):
    with EventServer(replies=[{"status": status}] * 2) as server:
        lose(one_hook, spool, url=server.url)
        flush(one_hook, spool, server.url)
        assert len(waiting(spool)) == 1
        flush(one_hook, spool, server.url)
        assert waiting(spool) == []


def test_a_file_that_is_no_event_is_set_aside_and_others_are_left_alone(
    one_hook, spool
):
    made = fill(spool, 2)
    first, _ = waiting(spool)
    first.write_text('{"half": ')
    (spool / "notes.json").write_text("mine")
    (spool / f"{1:020}-{made[0]}-9.json.tmp").write_text("half")
    with EventServer() as server:
        result = flush(one_hook, spool, server.url)
        assert keys(server) == made[1:]
    assert result.lines == ["1 spooled events delivered, 0 left, 1 set aside"]
    assert (spool / "notes.json").read_text() == "mine"


@pytest.mark.parametrize(("limit", "value", "left"), [
    ("SPOOL_MAX_FILES", 3, 3), ("SPOOL_MAX_BYTES", 700, 3), ("SPOOL_MAX_DAYS", 14, 4)])
def test_beyond_the_bounds_the_oldest_go(monkeypatch, spool, limit, value, left):
    old = time.time_ns() - 15 * 86400 * 10**9
    aged = fill(spool, 1, time_ns=time.time_ns() if left == 3 else None)
    monkeypatch.setattr(hook_io, limit, value)
    if limit == "SPOOL_MAX_DAYS":
        for path in waiting(spool):
            path.rename(spool / f"{old:020}-{aged[0]}-{path.stat().st_size}.json")
    newer = fill(spool, 4)
    assert [path.name.split("-")[1] for path in waiting(spool)] == newer[-left:]


def test_what_a_clock_said_that_nobody_had_set_does_not_make_an_event_old(
        monkeypatch, spool):
    first = fill(spool, 1, time_ns=86400 * 10**9)  # 1970
    newer = fill(spool, 1)
    assert [path.name.split("-")[1] for path in waiting(spool)] == first + newer


def test_a_clock_before_the_epoch_makes_an_event_that_is_delivered(monkeypatch):
    monkeypatch.setattr(hook_io.time, "time_ns", lambda: -3600 * 10**9)
    assert hook_io.Wait.began_ns() == 0


def test_an_event_that_is_being_written_is_not_counted_twice(monkeypatch, spool):
    monkeypatch.setattr(hook_io, "SPOOL_MAX_FILES", 3)
    fill(spool, 2)
    (spool / f"{waiting(spool)[-1].name}.tmp").touch()  # a listing may hold both names
    fill(spool, 1)
    assert len(waiting(spool)) == 3


def test_that_old_events_go_is_told_in_one_line(one_hook, spool):
    spool.mkdir()
    for number in range(2005):
        (spool / f"{time.time_ns() + number:020}-{number:032x}-300.json").touch()
    result = lose(one_hook, spool)
    assert result.lines[2:] == [
        "[WARNING] The spool's oldest 6 are gone: it keeps 2,000 files, 64 MiB, "
        "14 days"]
    assert len(waiting(spool)) == 2000


def test_a_bad_folder_is_told_with_the_remedy_and_the_event_is_sent(one_hook, tmp_path):
    (tmp_path / "file").write_text("")
    for folder, why in (("spool", "no absolute path"),
                        (str(tmp_path / "file" / "x"), "not a directory")):
        result = lose(one_hook, folder)
        assert result.exit == 0
        (line,) = [line for line in result.lines if "HOOK_IO_SPOOL_DIR" in line]
        assert why in line
        assert "event discarded" in result.lines[1]
        with EventServer() as server:
            assert lose(one_hook, folder, url=server.url).stderr == ""
            assert len(server.events()) == 1


@pytest.mark.parametrize("env", [
    {"HOOK_IO_SERVER_URL": "ftp://nowhere"}, {"HOOK_IO_CA_FILE": "/none.pem"},
    {"HOOK_IO_HEADERS": "nonsense"}, {"HOOK_IO_FORMAT": "nonsense"},
    {"HOOK_IO_TIMEOUT_MS": "nonsense"},
])
def test_bad_settings_are_told_once_and_never_keep_an_event_from_the_spool(
    one_hook, spool, env
):
    base = {"HOOK_IO_SPOOL_DIR": str(spool),
            "HOOK_IO_SERVER_URL": f"https://127.0.0.1:{closed_port()}/"}
    result = one_hook.run(
        "send_event.py", "--source-app", "demo", "--event-type", "Stop",
        stdin=sample("Stop"), env={**base, **env})
    assert (result.exit, len(waiting(spool))) == (0, 1)
    name, told = next(iter(env)), [line for line in result.lines[2:] if line]
    if name in ("HOOK_IO_HEADERS", "HOOK_IO_FORMAT", "HOOK_IO_TIMEOUT_MS"):
        assert len([line for line in told if name in line]) == 1
    with EventServer() as server:
        flush(one_hook, spool, server.url)
        assert len(server.events()) == 1


def test_bad_headers_are_told_once_however_many_events_are_flushed(one_hook, spool):
    fill(spool, 3)
    with EventServer() as server:
        result = flush(one_hook, spool, server.url, env={
            "HOOK_IO_HEADERS": "Host: elsewhere"})
    assert result.lines == [
        "[WARNING] HOOK_IO_HEADERS: header 1 is set by hook-io alone; it is left out",
        "3 spooled events delivered, 0 left, 0 set aside"]


def test_a_person_is_told_that_the_events_are_kept(one_hook, spool):
    said = lose(one_hook, spool, env={"HOOK_IO_FAIL_LOUD_THRESHOLD": "1"}).document
    assert f"They are spooled to {spool}." in said["systemMessage"]


def test_what_is_kept_is_not_said_to_be_lost_once_the_server_is_back(one_hook, spool):
    env = {"HOOK_IO_FAIL_LOUD_THRESHOLD": "1", "HOOK_IO_SPOOL_DIR": str(spool)}
    with EventServer() as server:
        url = server.url
    lose(one_hook, spool, url=url, env=env)
    with EventServer(port=server.port) as server:
        told = one_hook.send(server.url, stdin=sample("PreToolUse"), env=env).document
    assert "again; 1 was lost or spooled since" in told["systemMessage"]


def test_a_folders_name_makes_no_line_of_its_own(one_hook, tmp_path):
    folder = tmp_path / "a\n[ERROR] b\x1b[2J"
    env = {"HOOK_IO_FAIL_LOUD_THRESHOLD": "1", "HOOK_IO_STATE_DIR": str(folder)}
    result = lose(one_hook, folder, env=env)
    assert result.document["systemMessage"].isprintable()
    assert len(result.lines) == 2 and all(map(str.isprintable, result.lines))


def test_an_event_lost_in_the_background_is_kept_as_well(one_hook, spool):
    lose(one_hook, spool, "--background")
    eventually(lambda: waiting(spool))
    with EventServer() as server:
        result = flush(one_hook, spool, server.url, "--background")
        assert (result.exit, result.stdout, result.stderr) == (0, "", "")
        server.wait(1)
        eventually(lambda: not waiting(spool))


def test_a_flush_of_nothing_is_no_mistake(one_hook, spool):
    result = flush(one_hook, spool, "http://127.0.0.1:1/")
    assert (result.exit, result.lines) == (
        0, ["0 spooled events delivered, 0 left, 0 set aside"])
    result = one_hook.run("send_event.py", "--flush-spool")
    assert result.lines[0] == "[WARNING] HOOK_IO_SPOOL_DIR names no folder"


def test_the_spool_stays_off_the_way_of_what_is_delivered(one_hook, spool):
    fill(spool, 3)
    with EventServer() as server:
        lose(one_hook, spool, url=server.url)
        assert len(server.events()) == 1
    assert len(waiting(spool)) == 3


# Many at once, and killed.


def start_flush(hook, spool, url):
    return hook.start("send_event.py", "--flush-spool", stdin=subprocess.DEVNULL,
                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                      env={"HOOK_IO_SPOOL_DIR": str(spool), "HOOK_IO_SERVER_URL": url})


def test_two_flushes_at_once_send_no_event_twice(one_hook, spool):
    made = fill(spool, 150)
    with EventServer() as server:
        processes = [start_flush(one_hook, spool, server.url) for _ in range(5)]
        for process in processes:
            assert process.wait(timeout=PATIENCE_S) == 0
        while waiting(spool):
            flush(one_hook, spool, server.url)
        assert keys(server) == made


@pytest.mark.long
def test_killed_200_times_every_event_arrives_and_exactly_once_by_key(one_hook, spool):
    """A flush is killed at its start, before the answer to an event, or behind it."""
    chance, made, interrupted = random.Random(4711), [], 0
    under_way = {"left": 0, "process": None, "reached": threading.Event()}

    def seen(_event):
        under_way["left"] -= 1
        if under_way["left"] == 0:
            if under_way["process"]:  # it is still to be answered
                under_way["process"].kill()
            under_way["reached"].set()

    with EventServer(on_event=seen) as server:
        for turn in range(KILLS):
            made += fill(spool, max(0, 15 - len(waiting(spool))))
            under_way.update(left=chance.randrange(8), process=None)
            is_begun = under_way["left"] > 0
            under_way["reached"].clear()
            process = start_flush(one_hook, spool, server.url)
            if turn % 2:
                under_way["process"] = process
            assert not is_begun or under_way["reached"].wait(PATIENCE_S)
            process.kill()
            process.wait()
            interrupted += is_begun and bool(waiting(spool))
        under_way["left"] = 0
        while waiting(spool):
            flush(one_hook, spool, server.url)
        stored = keys(server)
    assert set(stored) == set(made)
    assert len(stored) - len(set(stored)) <= KILLS  # one again for each kill at most
    assert interrupted > KILLS / 3  # all of those killed before an answer are
    assert [path.name for path in spool.iterdir()] == [".lock"]


#: runs send_event.py, and ends it before its n-th step, or half-way in a write
KILLED_AT = """
import os, runpy, signal, sys
left = [int(sys.argv.pop(1))]
def watched(call):
    def step(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            if call.__name__ == "write":
                call(args[0], args[1][:len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return step
for name in ("open", "close", "write", "unlink", "replace", "makedirs", "listdir"):
    setattr(os, name, watched(getattr(os, name)))
sys.argv = [os.path.join(os.getcwd(), "send_event.py"), *sys.argv[1:]]
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_hook_killed_at_any_step_leaves_whole_events_only(one_hook, spool):
    (one_hook.folder / "killed_at.py").write_text(KILLED_AT)
    for steps in range(1, 200):
        process = one_hook.start(
            "killed_at.py", str(steps), "--source-app", "demo", "--event-type", "Stop",
            "--server-url", "http://127.0.0.1:1/", stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=str(one_hook.folder), env={"HOOK_IO_SPOOL_DIR": str(spool)})
        code = process.wait(timeout=PATIENCE_S)
        for path in waiting(spool):
            assert json.loads(path.read_text())["event_type"] == "Stop"
        if code != -signal.SIGKILL:
            break
    assert code == 0 and steps > 8
    assert 0 < len(waiting(spool)) < steps  # some died before, some behind it
