"""The short form of `make soak`: the same inputs and judges, a few seconds of each."""

import random

import pytest

import hook_io
import hostile
import soak as long_soak

SEED, LIMIT_S = 4711, 300  # the counts end each, the limit only what hangs


@pytest.fixture
def soak(tmp_path):
    """A soak of which nothing is longer than this test file may take."""
    return long_soak.Soak(tmp_path, SEED, seconds=LIMIT_S, scale=0.01)


def findings(rows):
    assert all(row.count for row in rows if row.figure != "not installed")
    return [row.examples for row in rows if row.findings]


@pytest.mark.parametrize("is_pure", [False, True], ids=["accelerated", "pure"])
def test_whatever_is_on_stdin_the_request_and_the_answer_are_whole(
        monkeypatch, is_pure):
    for name in ("scanner", "chunks"):
        monkeypatch.setattr(hook_io.JSON, name, getattr(hook_io.JSON, name))
    row, _ = long_soak.stdin_worker(SEED, 4000, LIMIT_S, is_pure)
    assert (row.count, findings([row])) == (4000, [])


def test_any_json_under_the_names_that_agents_use_is_an_event(soak):
    assert findings(long_soak.hypothesis_part(soak)) == []


@pytest.mark.long
def test_whatever_is_on_stdin_real_hooks_end_as_the_contract_says(soak):
    (row,) = long_soak.processes_part(soak)
    assert (row.count, findings([row])) == (201, [])


def test_whatever_a_server_answers_the_outcome_is_right_and_in_time():
    row, _ = long_soak.answers_worker(SEED, 3000, LIMIT_S)
    assert (row.count, findings([row])) == (3000, [])


@pytest.mark.parametrize("data", hostile.BOMBS, ids=lambda data: repr(data[:16]))
@pytest.mark.parametrize("ending", ["close", "reset", "hang"])
def test_no_bomb_of_a_server_holds_a_hook_beyond_its_deadline(data, ending):
    server = hostile.ScriptedServer()
    assert hostile.misdelivered(
        server, data, ending, 0, 40 if ending == "hang" else 5000, True,
        long_soak.SLACK_MS) == ""
    server.close()


def test_no_spelling_of_an_address_leads_where_it_must_not(soak):
    rows = long_soak.addresses_part(soak)
    assert findings(rows) == []
    assert rows[0].count > 1000


@pytest.mark.parametrize("name", ["nothing", "a link for the last streak", "no home",
                                  "a folder for the last streak", "65 random bytes"])
def test_a_fault_of_the_state_is_told_or_does_not_matter(soak, name):
    assert long_soak.try_state(soak, long_soak.PLANTED[name]) == ""


@pytest.mark.long
@pytest.mark.parametrize("row", [
    long_soak.clock_row, long_soak.limits_row, long_soak.surroundings_row])
def test_strange_surroundings_do_not_matter(soak, row):
    assert findings([row(soak)]) == []


@pytest.mark.long
def test_a_full_disk_and_a_read_only_one_do_not_matter(soak):
    (row,) = long_soak.file_system_rows(soak)
    if row.figure == "not allowed here":
        pytest.skip("no file system of our own may be mounted here")
    assert findings([row]) == []


@pytest.mark.parametrize("spools", [False, True], ids=["lost", "spooled"])
@pytest.mark.parametrize("server", long_soak.LOADS)
def test_under_load_each_event_is_accounted_for(soak, server, spools):
    row = long_soak.loaded_row(soak, server, long_soak.LOADS[server], spools)
    assert findings([row]) == []


# The judges: each can say no.


@pytest.mark.parametrize("exit, stdout, stderr", [
    (1, b"", b""), (2, b"", b""), (0, b"x", b""), (0, b"{", b""), (0, b"1\n", b""),
    (0, b"{}\n{}\n", b""), (0, b"\xff", b""), ("hung", b"", b""),
    (0, b"", b"Traceback (most recent call last):\n")])
def test_a_hook_that_misbehaves_is_seen(exit, stdout, stderr):
    assert hostile.misbehaved(0, b'{"systemMessage":"x"}\n', b"[ERROR] x\n") == ""
    assert hostile.misbehaved(exit, stdout, stderr)


@pytest.mark.parametrize("name, broken", [
    ("decode", lambda text: {}), ("decode", lambda text: 1 / 0),
    ("Stdin.event", lambda stdin: {"a": [float("inf")]}),
    ("render", lambda result, event: {"continue": False}),
    ("fit", lambda event, build, size: build(event) and b'{"a":NaN}'),
    ("fit", lambda event, build, size: build(event) and b" " * (size + 1)),
    ("events_format", lambda event, options: ("", {}, {"timestamp": 1}))])
def test_a_library_that_is_broken_is_seen(monkeypatch, name, broken):
    if name in hook_io.FORMATS or name == "events_format":
        monkeypatch.setitem(hook_io.FORMATS, "events", broken)
    else:
        monkeypatch.setattr(f"hook_io.{name}", broken)
    chance = random.Random(SEED)
    data = b'{"hook_event_name":"PreToolUse","tool_name":"Bash"}'
    assert any(hostile.misjudged(data, chance) for _ in range(50))


@pytest.mark.parametrize("data, ending, outcomes", [
    (b"HTTP/1.1 201 C\r\n", "hang", {"sent"}), (b"HTTP/1.1 201 C", "hang", {
        "unconfirmed"}), (b"HTTP/1.1 20", "close", {"refused"}),
    (b"HTTP/1.1 500\n", "close", {"rejected"}), (b"SMTP", "hang", {"refused"}),
    (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n", "close", {"sent"})])
def test_the_right_outcome_is_known_and_another_is_seen(
        monkeypatch, data, ending, outcomes):
    assert hostile.right_outcomes(data, ending) == outcomes
    post_json = hook_io.post_json
    monkeypatch.setattr(hook_io, "post_json", lambda *given: (
        post_json(*given) and hook_io.Outcome("invalid", "no")))
    server = hostile.ScriptedServer()
    assert "is right" in hostile.misdelivered(server, data, ending, 0, 40, False, 500)
    server.close()


def test_a_client_that_stays_too_long_and_a_token_that_is_shown_are_seen(monkeypatch):
    server = hostile.ScriptedServer()
    assert "held" in hostile.misdelivered(server, b"", "hang", 0, 300, False, -250)
    monkeypatch.setattr(
        hook_io.Headers, "tokens", staticmethod(lambda headers: []))
    echo = b'HTTP/1.1 400 B\r\n\r\n{"message":"you sent %s"}' % hostile.TOKEN.encode()
    assert "not to be shown" in hostile.misdelivered(
        server, echo, "close", 0, 2000, False, 500)
    server.close()


def test_an_address_that_is_let_through_is_seen(monkeypatch):
    assert hostile.misrouted("169.254.169.254", "forbidden") == ""
    assert hostile.misled([["127.0.0.1"], ["169.254.169.254"]]) == ""
    monkeypatch.setattr(hook_io, "NETWORKS", ())
    assert hostile.misrouted("169.254.169.254", "forbidden")
    assert hostile.misled([["169.254.169.254"], ["127.0.0.1"]])


def test_an_event_that_is_neither_delivered_nor_counted_is_seen(tmp_path):
    row = long_soak.Row("load", "")
    hook = type("Hook", (), {"losses": lambda self: []})()
    done = {"a": long_soak.Ran(0, b"", b"", 1), "b": long_soak.Ran(0, b"", b"odd", 1),
            "c": long_soak.Ran(0, b"", b"[ERROR] x", 1)}
    long_soak.account(row, hook, done, set(), tmp_path, True)
    assert sorted(row.findings) == [
        "0 lines, 1 lost", "0 spooled, 1 lost", "1 not accounted for",
        "1 silent and not stored"]
