"""What `cost.py` promises: figures are what a hook adds; what did not work is void."""

import argparse
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


def sessions(**gaps):
    """Return what plays each variant: its gaps, or why it is void."""
    def run(variant, *_):
        said = gaps[variant.replace(" ", "_")]
        return cost.Session([], said) if isinstance(said, str) else (
            cost.Session(said, ""))
    return run


def measured(variants, run, rounds=1):
    return cost.measure(variants, "up", rounds, 3, run)


def test_what_a_hook_adds_is_half_of_what_its_two_events_add_to_a_call():
    found = measured(["no hooks", "curl"], sessions(no_hooks=[40, 50, 60],
                                                    curl=[70, 90, 110]))
    assert found["curl"] == ([10, 20, 30], set())
    assert found["no hooks"] == ([40, 50, 60], set())


def test_what_a_lone_hook_adds_is_all_its_own():
    run = {"no hooks": [50], "claude-mem": [70]}
    found = measured(list(run), lambda name, *_: cost.Session(run[name], ""))
    assert found["claude-mem"] == ([20], set())


def test_a_slow_round_is_compared_to_its_own_sessions_without_hooks():
    gaps = {"no hooks": iter([[50], [150]]), "curl": iter([[70], [170]])}

    def run(variant, *_):
        return cost.Session(next(gaps[variant]), "")

    assert measured(["no hooks", "curl"], run, 2)["curl"] == ([10, 10], set())


def test_a_session_that_lost_events_makes_its_variant_void():
    found = measured(["no hooks", "curl"], sessions(no_hooks=[50], curl="-3 events"))
    table = cost.report(["no hooks", "curl"], {"up": found})
    assert re.search(r"\| curl +\| void: -3 events \| - +\|", table)


def test_a_variant_that_was_not_run_with_a_server_has_no_figure_there():
    found = {"up": {"no hooks": ([50], set()), "claude-mem": ([1], set())},
             "down": {"no hooks": ([50], set())}}
    table = cost.report(["no hooks", "claude-mem"], found)
    assert re.search(r"\| claude-mem \| 1\.0 +\| 1\.0 +\| - +\| - +\|", table)


@pytest.mark.parametrize("variant", cost.COMMANDS)
@pytest.mark.parametrize("event", cost.EVENTS)
def test_each_variant_registers_a_hook_with_every_place_filled(variant, event):
    entry = cost.entry(variant, event, URL, PLACES)
    assert entry["timeout"] == cost.HOLD_S
    if entry["type"] == "http":
        assert entry["url"] == URL
    else:
        assert not cost.PLACE.search(entry["command"])
        assert "{event}" not in entry["command"]


def test_ours_is_registered_as_the_installer_does():
    registered = clients.hook_io.Registration("claude-code").sender("cost")
    for event in cost.EVENTS:
        (installed,) = registered[event]["hooks"]
        assert cost.entry("hook-io", event, URL, PLACES) == installed


def test_a_variant_whose_part_is_not_found_is_left_out_and_named():
    places = {**PLACES, "claude_mem": "", "cchooks": ""}
    variants, missing = cost.chosen(re.compile(""), places)
    assert missing == ["cchooks", "claude_mem"]
    assert set(cost.COMMANDS) - set(variants) == {"cchooks", "claude-mem"}


def test_sessions_without_hooks_are_always_run():
    assert cost.chosen(re.compile("^curl$"), PLACES) == (["no hooks", "curl"], [])


def test_a_silent_server_is_asked_little():
    options = argparse.Namespace(rounds=5, calls=20)
    assert cost.rounds_of("up", options) == (5, 20)
    assert cost.rounds_of("silent", options) == (cost.FEW_ROUNDS, cost.FEW_CALLS)


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
import json, os, subprocess, urllib.request as u
def ask(results):
    body = {"tools": [1], "messages": [{"type": "tool_result"}] * results}
    url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    return u.urlopen(url, json.dumps(body).encode()).read().decode()
settings = json.load(open(".claude/settings.json"))
said = ask(0)
for call in range(CALLS):
    for group in settings["hooks"].values():
        subprocess.run(group[0]["hooks"][0]["command"], shell=True, input=b"{}")
    said = ask(call + 1)
print(said)
"""


def one_session(tmp_path, monkeypatch, command, calls=3, state="up"):
    monkeypatch.setitem(cost.COMMANDS, "curl", command)
    monkeypatch.setattr(cost, "SETTLE_S", 1)
    script = CLIENT.replace("CALLS", str(calls))
    with a_client(tmp_path, script) as (places, server):
        return cost.play("curl", state, 2, server, {**places, "curl": sys.executable})


SEND = "import sys, urllib.request as u; u.urlopen(sys.argv[1], bytes(1))"
POST = "{curl} -c '" + SEND + "' {url}"


def test_a_session_whose_events_arrive_has_a_gap_for_each_call_but_the_first(
        tmp_path, monkeypatch):
    session = one_session(tmp_path, monkeypatch, POST)
    assert session.void == ""
    assert len(session.gaps_ms) == 2


@pytest.mark.parametrize(("command", "calls", "why"), [
    (":", 3, "-6 events"), (POST, 2, "exit 0; 2 of 3 calls; -2 events")],
    ids=["lost", "ended early"])
def test_a_session_that_fell_short_says_why_it_is_void(
        tmp_path, monkeypatch, command, calls, why):
    assert one_session(tmp_path, monkeypatch, command, calls).void == why


def test_with_the_server_down_no_event_is_expected(tmp_path, monkeypatch):
    assert one_session(tmp_path, monkeypatch, ":", state="down").void == ""


def test_a_session_leaves_nothing_behind(tmp_path, monkeypatch):
    one_session(tmp_path, monkeypatch, ":", state="down")
    assert {path.name for path in tmp_path.iterdir()} == {"claude", "hooks"}


@pytest.mark.parametrize("client", clients.CLIENTS)
def test_each_event_that_is_registered_has_one_witness(client, tmp_path):
    project = clients.new_project(tmp_path, client)
    row = clients.hook_io.PLATFORMS[client]
    hooks = json.loads((project / row["settings"]).read_text())["hooks"]
    assert list(hooks) == row["hooked"].split()
    for event, (group,) in hooks.items():
        (entry,) = group.get("hooks", [group])
        command = entry.get("command") or entry["bash"]
        assert event in command and str(tmp_path) in command
