"""What `cost.py` promises: figures are what a hook adds; what did not work is void."""

import contextlib
import json
import re
import sys

import pytest

import bench
import clients
import cost

PLACES = {name: f"/opt/{name}" for command in cost.COMMANDS.values()
          for name in cost.PLACE.findall(command)}
URL = "http://127.0.0.1:4000/events/x"


def session(gaps, end_ms=100, fired=4, arrived=4, void=""):
    return cost.Session(gaps, end_ms, fired, arrived, void)


def measured(sessions, rounds=1, state="up"):
    """Return what is found of *sessions*: variant -> one, or each in its turn."""
    def run(variant, *_):
        found = sessions[variant]
        return next(found) if not isinstance(found, cost.Session) else found
    return cost.measure([*sessions], state, rounds, 3, run)


def row_of(found, variant, state="up"):
    """Return the cells of a variant in the table."""
    lines = [line.strip("| ").split("|")
             for line in cost.report(found, state).splitlines()]
    (cells,) = [line[1:] for line in lines if line[0].strip() == variant]
    return [cell.strip() for cell in cells]


def test_what_a_hook_adds_is_half_of_what_its_two_events_add_to_a_call():
    found = measured({"no hooks": session([40, 50, 60]),
                      "curl": session([70, 90, 110])})
    assert found["curl"].added == [10, 20, 30] * 2
    assert found["no hooks"].added == [40, 50, 60] * 2


def test_what_a_lone_hook_adds_is_all_its_own():
    found = measured({"no hooks": session([50]), "claude-mem": session([70])})
    assert found["claude-mem"].added == [20, 20]


def test_a_slow_round_is_compared_to_its_own_sessions_without_hooks():
    gaps = {"no hooks": [50, 50, 150, 150], "curl": [70, 70, 170, 170]}
    found = measured({variant: iter([session([gap]) for gap in each])
                      for variant, each in gaps.items()}, 2)
    assert found["curl"].added == [10] * 4


def test_what_a_hook_adds_to_the_end_is_compared_to_the_same_end_without_hooks():
    found = measured({"no hooks": session([50], 100), "curl": session([70], 130)})
    assert found["curl"].end_ms == {"Stop": [30], "StopFailure": [30]}
    assert row_of(found, "curl")[3:] == ["30", "0 of 4", "30", "0 of 4"]


def test_the_ratio_is_to_a_hook_that_does_nothing():
    found = measured({"no hooks": session([50]), "true": session([60], fired=0),
                      "curl": session([65])})
    assert row_of(found, "curl")[:3] == ["7.5", "7.5", "1.50"]
    assert row_of(found, "no hooks")[2] == "-"


def test_events_that_did_not_arrive_are_counted_by_how_the_session_ended():
    def run(variant, state, calls, end):
        return session([50]) if variant == "no hooks" else (
            session([70], arrived=1 if end == "StopFailure" else 4))

    found = cost.measure(["no hooks", "curl"], "up", 2, 3, run)
    assert row_of(found, "curl")[4::2] == ["0 of 8", "6 of 8"]


def test_a_variant_is_void_whose_session_failed_or_of_which_nothing_arrived():
    found = measured({"no hooks": session([50], fired=0, arrived=0),
                      "curl": session([50], void="exit 1"),
                      "cchooks": session([50], arrived=0)})
    assert row_of(found, "curl")[:2] == ["void: exit 1", "-"]
    assert row_of(found, "cchooks")[0] == "void: nothing arrived"
    assert row_of(found, "no hooks")[0] == "50.0"


def test_with_the_server_down_nothing_is_called_lost_or_void():
    found = measured({"no hooks": session([50]), "curl": session([70], arrived=0)},
                     state="down")
    assert row_of(found, "curl", "down")[4::2] == ["-", "-"]
    assert row_of(found, "curl", "down")[0] == "10.0"


@pytest.mark.parametrize(("ours", "verdicts"), [
    (66, ["met", "met"]), (67, ["MISSED", "met"]), (90, ["MISSED", "MISSED"])])
def test_ours_may_take_so_much_of_a_hook_that_does_nothing_and_less_than_curl(
        ours, verdicts):
    found = measured({"no hooks": session([50]), "true": session([60]),
                      "curl": session([80]), "hook-io": session([ours])})
    assert [line[-1] for line in cost.judge(found, "up")] == verdicts


def test_what_is_void_misses_its_goals_and_what_was_not_run_has_none():
    found = measured({"no hooks": session([50]), "true": session([60]),
                      "hook-io": session([60], void="exit 1")})
    assert [line[1:] for line in cost.judge(found, "up")] == [
        ("-", "true", "<= 1.6", "MISSED (void)")]


@pytest.mark.parametrize("variant", cost.COMMANDS)
@pytest.mark.parametrize("event", cost.EVENTS)
def test_each_variant_registers_a_hook_with_every_place_filled(variant, event):
    first, *_ = cost.entries(variant, event, URL, PLACES)
    assert first["timeout"] == cost.HOLD_S
    if first["type"] == "http":
        assert first["url"] == URL
    else:
        assert not cost.PLACE.search(first["command"].replace("${CLAUDE", "").replace(
            "{ ", ""))
        assert "{event}" not in first["command"]


@pytest.mark.parametrize(("variant", "foreground"), [
    (cost.OURS, False), (cost.OURS_WAITED, True)])
def test_ours_is_registered_as_the_installer_does(variant, foreground, tmp_path):
    registered = clients.hook_io.Registration("claude-code").sender(
        "cost", foreground=foreground)
    (tmp_path / "hooks").mkdir()
    places = {**PLACES, "hooks": str(tmp_path / "hooks")}
    project, events = cost.new_project(tmp_path, variant, URL, places)
    settings = json.loads((project / ".claude" / "settings.json").read_text())
    assert list(events) == list(cost.EVENTS)
    assert settings["hooks"] == {event: [registered[event]] for event in cost.EVENTS}
    waits = "--fail-loud off" not in json.dumps(settings["hooks"]["PreToolUse"])
    assert waits == foreground


def test_a_variant_whose_part_is_not_found_is_left_out_and_named():
    places = {**PLACES, "claude_mem": "", "cchooks": ""}
    variants, missing = cost.chosen(re.compile(""), places)
    assert missing == ["cchooks", "claude_mem"]
    assert set(cost.COMMANDS) - set(variants) == {"cchooks", "claude-mem"}


def test_sessions_without_hooks_and_with_one_that_does_nothing_are_always_run():
    assert cost.chosen(re.compile("^curl$"), PLACES) == (
        ["no hooks", "true", "curl"], [])


@pytest.mark.parametrize(("variant", "state", "calls"), [
    ("curl", "up", 12), ("curl", "silent", 2), ("hook-io", "silent", 12)])
def test_a_silent_server_is_asked_little_where_it_holds_the_hook(variant, state, calls):
    assert cost.times_of(variant, state, 12, 2) == calls


@contextlib.contextmanager
def a_client(tmp_path, script):
    """Yield places whose Claude Code is *script*, and a server."""
    client = tmp_path / "claude"
    client.write_text(f"#!{sys.executable}\n{script}")
    client.chmod(0o755)
    (tmp_path / "hooks").mkdir()
    places = {**PLACES, "claude": str(client), "folder": str(tmp_path),
              "hooks": str(tmp_path / "hooks"), "python": sys.executable}
    command = [sys.executable, bench.__file__, "--serve"]
    with bench.helper(command) as process:
        yield places, cost.Server(process)


#: what a client does: asks its model, and between two requests runs its hooks
CLIENT = """
import json, os, subprocess, sys, urllib.error, urllib.request as u
def ask(results):
    body = {"tools": [1], "messages": [{"type": "tool_result"}] * results}
    url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    return u.urlopen(url, json.dumps(body).encode()).read().decode()
def fire(*events):
    for event in events:
        command = settings["hooks"][event][0]["hooks"][0]["command"]
        subprocess.run(command, shell=True, input=b"{}")
settings = json.load(open(".claude/settings.json"))
said, end = ask(0), "Stop"
for call in range(CALLS):
    fire("PreToolUse", "PostToolUse")
    try:
        said = ask(call + 1)
    except urllib.error.HTTPError:
        end = "StopFailure"
fire(end)
print(said)
sys.exit(end == "StopFailure")
"""


def one_session(tmp_path, monkeypatch, command, calls=3, state="up", end="Stop"):
    monkeypatch.setitem(cost.COMMANDS, "curl", command)
    monkeypatch.setattr(cost, "SETTLE_S", 1)
    script = CLIENT.replace("CALLS", str(calls))
    with a_client(tmp_path, script) as (places, server):
        return cost.play(
            "curl", state, 2, end, server, {**places, "curl": sys.executable})


SEND = "import sys, urllib.request as u; u.urlopen(sys.argv[1], bytes(1))"
POST = "{curl} -c '" + SEND + "' {url}"


@pytest.mark.parametrize("end", cost.ENDS)
def test_a_session_has_a_gap_for_each_call_but_the_first_and_what_arrived(
        tmp_path, monkeypatch, end):
    session = one_session(tmp_path, monkeypatch, POST, end=end)
    assert session.void == ""
    assert len(session.gaps_ms) == 2 and session.end_ms > 0
    assert (session.fired, session.arrived) == (7, 7)


def test_a_session_that_lost_events_says_how_many(tmp_path, monkeypatch):
    session = one_session(tmp_path, monkeypatch, ":")
    assert (session.void, session.fired, session.arrived) == ("", 7, 0)


@pytest.mark.parametrize(("calls", "why"), [
    (2, "exit 0; 2 of 3 calls"), (4, "+2 events")])
def test_a_session_of_too_few_calls_or_too_many_events_says_why_it_is_void(
        tmp_path, monkeypatch, calls, why):
    assert one_session(tmp_path, monkeypatch, POST, calls).void == why


def test_a_session_leaves_nothing_behind(tmp_path, monkeypatch):
    one_session(tmp_path, monkeypatch, ":", state="down")
    assert {path.name for path in tmp_path.iterdir()} == {"claude", "hooks"}


@pytest.mark.parametrize("client", clients.CLIENTS)
def test_each_event_that_is_registered_has_one_witness(client, tmp_path):
    project = clients.new_project(tmp_path, client)
    row = clients.hook_io.REGISTERED[client]
    hooks = json.loads((project / row["settings"]).read_text())["hooks"]
    assert list(hooks) == row["hooked"].split()
    for event, (group,) in hooks.items():
        (entry,) = group.get("hooks", [group])
        command = entry.get("command") or entry["bash"]
        assert event in command and str(tmp_path) in command
