"""What leaves at the end of a turn is what its receivers take, and nothing twice.

Receivers that nobody here wrote: promtool, Pushgateway and node_exporter for the text
file; rotel, ddapm-test-agent and opentelemetry-proto's parser for OTLP.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import hook_io
from conftest import PATIENCE_S, ROOT, TESTS
from errands import errand
from server import EventServer, closed_port
from test_formats import lapdog, wait_for

SECRET = "sk-ant-" + "a1B2" * 10
TRACES, METRICS = "/v1/traces", "/v1/metrics"
TRANSCRIPT = TESTS / "transcripts" / "main.jsonl"


class Agent:
    """A session of an agent whose hooks run one after another, and export at Stop."""

    def __init__(self, folder, session="s-1", **variables):
        self.folder, self.session, self.prompts = folder, session, 0
        self.transcript = folder / ".claude/projects/x" / f"{session}.jsonl"
        self.transcript.parent.mkdir(parents=True, exist_ok=True)
        self.transcript.touch()
        self.command = [sys.executable, "-IS", str(ROOT / "send_event.py")]
        self.prom = folder / "prom"
        self.prom.mkdir(exist_ok=True)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder),
                    "HOOK_IO_STATE_DIR": str(folder / "state"),
                    "HOOK_IO_SERVER_URL": "none", "HOOK_IO_EXPORT": "textfile,otlp",
                    "HOOK_IO_TEXTFILE_DIR": str(self.prom), **variables}

    def hook(self, event, *argv, env=None, **members):
        data = {"hook_event_name": event, "session_id": self.session,
                "transcript_path": str(self.transcript),
                "prompt_id": f"p-{self.prompts}", **members}
        done = subprocess.run(
            [*self.command, "--source-app", "demo", "--event-type", event, *argv],
            input=json.dumps(data).encode(), env={**self.env, **(env or {})},
            capture_output=True, timeout=PATIENCE_S, check=True)
        assert done.stdout == b""
        return done.stderr.decode()

    def turn(self, *tools, env=None, end="Stop", **members):
        """Play a turn with calls of *tools*; return what the export says of it."""
        self.prompts += 1
        self.hook("UserPromptSubmit", prompt=f"read {SECRET}")
        for n, tool in enumerate(tools):
            call = {"tool_name": tool, "tool_input": {"command": "ls /private"},
                    "tool_use_id": f"t-{self.prompts}-{n}"}
            self.hook("PreToolUse", **call)
            self.hook("PostToolUse", duration_ms=20, tool_response="seen", **call)
        self.hook(end, **members)
        return self.hook(end, "--export", env=env, **members)

    def limit(self, **limits):
        """Have the limits of part two so from now on; none: as they are."""
        given = "; ".join(f"hook_io.{name} = {value}" for name, value in limits.items())
        self.command[2:] = ["-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); "
                            "import hook_io, send_event; hook_io.story; "  # part two
                            f"{given}; send_event.main()", str(ROOT)]

    def answers(self, name, tokens, model="claude-x", ago_ms=0):
        usage = dict(zip(hook_io.TOKENS, tokens))
        at = hook_io.Wire.instant(time.time_ns() - ago_ms * 10**6)
        line = {"type": "assistant", "timestamp": at,
                "message": {"id": name, "model": model, "usage": usage}}
        with self.transcript.open("a") as file:
            file.write(json.dumps(line, separators=(",", ":")) + "\n")

    def samples(self):
        """Return {series: value} of the text file."""
        lines = (self.prom / "hook_io.prom").read_text().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        series = {name: float(value) for name, value in pairs}
        assert len(series) == len(pairs)
        return series


@pytest.fixture
def agent(tmp_path):
    return Agent(tmp_path, HOOK_IO_EXPORT="textfile")


def collecting(*replies):
    return EventServer(replies)


def base(server):
    return f"http://127.0.0.1:{server.port}"


def spans_of(exchange):
    (resource,) = exchange.json["resourceSpans"]
    return resource["scopeSpans"][0]["spans"]


def requests_to(server, path):
    return [exchange for exchange in server.exchanges if exchange.path == path]


def members(span):
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


# The text file.

def test_counters_add_up_over_turns_and_are_written_whole(agent):
    assert agent.turn("Bash", "Read") == "1 turns exported\n"
    agent.turn("Bash")
    samples = agent.samples()
    call = 'hook_io_tool_calls_total{source_app="demo",tool="%s",outcome="ok"}'
    assert samples[call % "Bash"] == 2
    assert samples[call % "Read"] == 1
    turns = 'hook_io_turns_total{source_app="demo",agent="claude-code",end="Stop"}'
    assert samples[turns] == 2
    assert samples['hook_io_tool_duration_seconds_count{tool="Bash"}'] == 2
    assert samples['hook_io_tool_duration_seconds_bucket{tool="Bash",le="0.01"}'] == 0
    assert samples['hook_io_tool_duration_seconds_bucket{tool="Bash",le="0.02"}'] == 2
    assert samples['hook_io_tool_duration_seconds_bucket{tool="Bash",le="+Inf"}'] == 2
    assert sorted(path.name for path in agent.prom.iterdir()) == ["hook_io.prom"]


def test_a_turn_that_is_exported_again_is_counted_once(agent):
    agent.turn("Bash")
    before = agent.samples()
    assert agent.hook("Stop", "--export") == "0 turns exported\n"
    time_of = "hook_io_last_export_timestamp_seconds"
    assert {**agent.samples(), time_of: 0} == {**before, time_of: 0}


def test_counters_go_on_in_a_log_that_was_rotated(agent):
    agent.turn("Bash")
    log = agent.folder / "state" / "events.jsonl"
    call = {"tool_name": "Read", "tool_use_id": "t-r", "prompt_id": "p-2"}
    agent.hook("PreToolUse", **call)
    agent.hook("PostToolUse", duration_ms=5, **call)
    log.rename(f"{log}.1")
    assert agent.turn("Bash") == "1 turns exported\n"
    for tool, calls in (("Bash", 2), ("Read", 1)):
        name = f'hook_io_tool_duration_seconds_count{{tool="{tool}"}}'
        assert agent.samples()[name] == calls


def test_sessions_at_once_lose_nothing_and_count_nothing_twice(agent):
    other = Agent(agent.folder, "s-2", HOOK_IO_EXPORT="textfile")
    for one in (agent, other):
        one.prompts += 1
        one.hook("UserPromptSubmit", prompt="a")
    for one in (agent, other):
        one.hook("PreToolUse", tool_name="Bash", tool_use_id="t-1")
        one.hook("PostToolUse", tool_name="Bash", tool_use_id="t-1", duration_ms=5)
        one.hook("Stop")
    ends = [subprocess.Popen(
        [sys.executable, str(ROOT / "send_event.py"), "--event-type", "Stop",
         "--export"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=one.env)
        for one in (agent, other)]
    for process, one in zip(ends, (agent, other)):
        event = {"hook_event_name": "Stop", "session_id": one.session,
                 "transcript_path": str(one.transcript), "prompt_id": "p-1"}
        process.stdin.write(json.dumps(event).encode())
        process.stdin.flush()
    for process in ends:
        assert process.communicate(timeout=PATIENCE_S)[1] == b"1 turns exported\n"
    assert agent.samples()['hook_io_tool_duration_seconds_count{tool="Bash"}'] == 2


def test_a_stop_whose_own_line_is_still_to_come_ends_its_turn_once(agent):
    agent.prompts += 1
    agent.hook("UserPromptSubmit", prompt="a")
    assert agent.hook("Stop", "--export") == "1 turns exported\n"
    agent.hook("Stop")
    agent.turn()
    turns = 'hook_io_turns_total{source_app="demo",agent="claude-code",end="Stop"}'
    assert agent.samples()[turns] == 2


def killed(folder, kinds, url=""):
    """Return what became of exports that were killed, each at another step."""
    if not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    done = subprocess.run(
        [sys.executable, str(TESTS / "killing.py"), str(folder), kinds, url],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS)))},
        stdout=subprocess.PIPE, check=True, timeout=10 * PATIENCE_S)
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert {"replace", "write", ""} <= {one["step"] for one in steps}
    return steps


def test_an_export_that_is_killed_anywhere_loses_nothing_and_counts_nothing_twice(
        tmp_path):
    steps = killed(tmp_path, "textfile")
    for one in steps:
        assert one["then"] == steps[-1]["then"], one["step"]
        assert one["after"] in (steps[0]["after"], one["then"]), one["step"]
    assert [line[-2:] for line in one["then"]] == [" 3", " 3"]


@pytest.mark.long
def test_a_collector_adds_nothing_up_twice_of_an_export_that_is_killed_anywhere(
        tmp_path):
    with collecting() as server:
        steps = killed(tmp_path, "textfile,otlp", base(server))
        for one in steps:
            sent = [exchange for exchange in server.exchanges
                    if exchange.headers["x-step"] == one["app"]]
            turns = {span["spanId"] for exchange in sent if exchange.path == TRACES
                     for span in spans_of(exchange) if not span["parentSpanId"]}
            assert len(turns) == 3, one["step"]
            counts = [turns_in(exchange) for exchange in sent
                      if exchange.path == METRICS]
            lost = 2 * one["losses"]  # both turns of a request that is in doubt
            assert sum(counts) <= 3, one["step"]
            assert sum(counts) + lost in (3, 5), one["step"]
            assert one["losses"] <= 1, one["step"]


def test_half_a_line_of_the_ledger_takes_none_with_it(tmp_path):
    for waits in (0, 1, 2):
        ledger = hook_io.Ledger(str(tmp_path))
        ledger.take(0, {})
        counted = ledger.state["counters"].get("waits", {})
        assert sum(counted.values()) == waits
        ledger.observe("waits", 1, source_app="a")
        ledger.save()
        ledger.leave()
        with (tmp_path / "export.json").open("ab") as file:
            file.write(b'{"sessions":{')


def test_a_session_that_goes_on_after_many_others_is_counted_once(
        tmp_path, monkeypatch):
    monkeypatch.setattr(hook_io, "SESSIONS_AT_HAND", 2)
    monkeypatch.setattr(hook_io, "SESSIONS_MAX", 5)

    def export(session):
        done = exporting(tmp_path, monkeypatch, event_log=str(log))
        done.session_id, done.kinds = session, []
        said = done._run()
        return said, done.ledger.state["sessions"]

    log = Path(logged(tmp_path))
    assert export("s")[0] == "1 turns exported"
    sessions = [export(f"o-{n}")[1] for n in range(4)][-1]
    assert list(sessions) == ["o-1", "o-2", "o-3"]
    logged(tmp_path, 1)
    assert export("s")[0] == "1 turns exported"  # of two in the log
    for n in range(9):
        export(f"p-{n}")
    away = json.loads((tmp_path / "export.json.old").read_text())
    assert list(away) == [f"p-{n}" for n in range(1, 6)]
    (tmp_path / "export.json.old").write_text('{"p-5":{"log":"x"},"s":[]}')
    assert export("s")[0] == "2 turns exported"  # what is of no use is not known


#: what JSON has, where something else is meant
OF_EACH_TYPE = (None, True, -1, 1 << 70, 1.5, "x", [], [[]], {}, {"x": {"x": []}})


def spoiled(value):
    """Yield copies of a JSON value in each of which another part is of no use."""
    yield from OF_EACH_TYPE
    if isinstance(value, dict):
        yield {**value, "odd": {"odd": 1}}
        for name, inner in value.items():
            yield from ({**value, name: other} for other in spoiled(inner))
    elif isinstance(value, list) and value:
        yield value[1:]
        yield from ([other, *value[1:]] for other in spoiled(value[0]))


#: a line of Prometheus' text
SAMPLE = r'hook_io_\w+({\w+="[^"\\\n]*"(,\w+="[^"\\\n]*")*})? \d+(\.\d+)?$'


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The state that an export has left, with something of each kind in it."""
    transcript = tmp_path / "a.jsonl"
    transcript.write_bytes(TRANSCRIPT.read_bytes())
    export = exporting(tmp_path, monkeypatch, event_log=logged(tmp_path))
    export.kinds.append("textfile")
    event = {"session_id": "s", "transcript_path": str(transcript), "x": "claude-code"}
    export.event = hook_io.normalise(event, "claude-code")
    monkeypatch.setattr(hook_io.Export, "_prom", lambda _: str(tmp_path / "a.prom"))
    assert export._run() == "1 turns exported"
    state = json.loads((tmp_path / "export.json").read_text().splitlines()[-1])
    known = state["sessions"]["s"]
    known["late"] = export._word()
    known["begun"] = export._begun(hook_io.story([{"hook_event_name": "Stop"}])[0])
    known["traces"]["p"] = ["0" * 32, "1" * 16]
    assert all(state.pop(name) or name for name in ("since", "in_doubt"))
    assert all(state.values()), state
    for name, of_a_kind in (("counters", ("turns", "turn_s")), ("owed", ("turns",))):
        state[name] = {one: state[name][one] for one in of_a_kind}
    return state


def test_a_ledger_that_is_none_counts_as_an_empty_one_and_that_is_said(
        tmp_path, monkeypatch, kept):
    path, refused = tmp_path / "export.json", hook_io.Outcome("refused", "no")
    monkeypatch.setattr(hook_io.Sender, "post", lambda *_: refused)
    ends = {}
    for state in (None, *spoiled(kept)):
        path.write_text(json.dumps(state) + "\n")
        export = exporting(tmp_path, monkeypatch, event_log=str(
            tmp_path / "events.jsonl"))
        export.kinds.append("textfile")
        assert re.match(r"\d turns exported$", export._run()), state
        said = [line for line in export.errand.notes if "was no ledger of ours" in line]
        lines = (tmp_path / "a.prom").read_text().splitlines()
        samples = [line for line in lines if line[0] != "#" and "_last_" not in line]
        assert all(re.match(SAMPLE, line) for line in samples), state
        ends.setdefault(bool(said), set()).add("\n".join(samples))
    assert len(ends[True]) == 1  # as from an empty one
    assert len(ends[False]) > 1


def test_a_hook_whose_ledger_somebody_wrote_into_exports_what_comes(agent):
    agent.turn("Bash")
    ledger = agent.folder / "state" / "export.json"
    state = json.loads(ledger.read_text())
    state["counters"]["calls"] = {"{}": "many"}
    ledger.write_text(json.dumps(state))
    assert agent.turn("Read") == (
        f"[WARNING] {ledger} was no ledger of ours: counters begin anew, and what a "
        "collector was owed is lost\n2 turns exported\n")
    assert agent.samples()[CALLS] == 1
    assert agent.turn("Bash") == "1 turns exported\n"


def turns_in(exchange):
    """Return how many turns the metrics of a request count."""
    (resource,) = exchange.json["resourceMetrics"]
    return sum(int(point["asInt"]) for metric in resource["scopeMetrics"][0]["metrics"]
               if metric["name"] == "hook_io.turns"
               for point in metric["sum"]["dataPoints"])


#: lines that name the session, and are none of ours
FOREIGN = (
    b'{"session_id":"s-1","event_type":"PostToolUse","metadata":"{\\"tool',
    b'\xff\xfe "s-1"', b'"s-1"', b'["s-1"]', b'{"session_id":"s-1"}',
    b'{"session_id":"s-1","event_type":5,"timestamp":{}}',
    b'{"session_id":"s-1","event_type":"Stop","timestamp":"\xc2\xb2","metadata":"{"}',
    b'{"a":"s-1","b":' + b"[" * 5000 + b"}")


def test_lines_that_are_none_and_another_session_between_cost_a_turn_nothing(agent):
    other, log = Agent(agent.folder, "s-2", **agent.env), "state/events.jsonl"
    agent.prompts = other.prompts = 1
    for one in (agent, other):
        one.hook("UserPromptSubmit", prompt="a")
    for number, line in enumerate(FOREIGN):
        with (agent.folder / log).open("ab") as file:
            file.write(line + b"\n")
        for one in (agent, other):
            call = {"tool_name": "Bash", "tool_use_id": f"t-{number}"}
            one.hook("PreToolUse", **call)
            one.hook("PostToolUse", duration_ms=5, **call)
    agent.hook("Stop", "--export")
    samples = agent.samples()
    call = 'hook_io_tool_calls_total{source_app="demo",tool="Bash",outcome="ok"}'
    assert samples[call] == len(FOREIGN)


def test_losses_and_what_is_spooled_are_told_as_metrics(agent):
    agent.env.update(HOOK_IO_SPOOL_DIR=str(agent.folder / "spool"),
                     HOOK_IO_SERVER_URL=f"http://127.0.0.1:{closed_port()}")
    for _ in range(2):
        agent.hook("PreToolUse", tool_name="Bash", tool_use_id="t-1")
    agent.hook("Stop", "--export")
    samples = agent.samples()
    kept = list((agent.folder / "spool").iterdir())
    assert samples['hook_io_lost_in_a_row{to="events"}'] == len(kept) == 2
    assert samples["hook_io_spool_events"] == 2
    assert samples["hook_io_spool_bytes"] == sum(one.stat().st_size for one in kept)
    assert samples["hook_io_last_export_timestamp_seconds"] > 1.7e9


def test_labels_have_so_many_values_and_no_more(agent, monkeypatch):
    ledger = hook_io.Ledger(str(agent.folder))
    for n in range(150):
        ledger.observe("waits", 1, source_app=f'a "{n}"\\\n')
    rows = ledger.state["counters"]["waits"]
    assert len(rows) == hook_io.LABEL_VALUES_MAX + 1
    assert rows['{"source_app":"other"}'] == 50


@pytest.mark.parametrize("named", ["prom", "{}/to", "{}/to/", "{}/to/.", "{}/linked"])
def test_a_folder_that_is_not_what_it_seems_is_not_written_to(agent, named):
    aim = agent.folder / "aim"
    for folder in (aim, agent.folder / "linked"):
        folder.mkdir()
    (agent.folder / "to").symlink_to(aim)
    (agent.folder / "linked" / "hook_io.prom").symlink_to(aim / "f")
    said = agent.turn(
        "Bash", env={"HOOK_IO_TEXTFILE_DIR": named.format(agent.folder)})
    assert said.startswith("[ERROR] Turns are not exported as text: no absolute path, ")
    assert "; HOOK_IO_TEXTFILE_DIR is for " in said
    assert list(aim.iterdir()) == []


def test_a_text_file_that_cannot_be_written_keeps_nothing_from_a_collector(tmp_path):
    with collecting() as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT_URL=base(server))
        folder = str(tmp_path / "none")
        for _ in range(2):
            said = agent.turn("Bash", env={"HOOK_IO_TEXTFILE_DIR": folder})
            assert said == (
                "[ERROR] Turns are not exported as text: no such file or directory "
                f"({folder}/hook_io.prom.tmp); HOOK_IO_TEXTFILE_DIR is for the "
                "absolute path of a folder that you can write to, and no link\n")
        assert [turns_in(one) for one in requests_to(server, METRICS)] == [1, 1]
        agent.turn()
    assert agent.samples()[CALLS] == 2  # the next file that is written has them all


def test_a_text_file_that_is_written_again_ends_its_losses_in_a_row(agent):
    aside, streaks = agent.folder / "aside", []
    agent.env.update(HOOK_IO_EXPORT="textfile")
    for here, there in ((agent.prom, aside), (aside, agent.prom)):
        here.rename(there)
        agent.turn("Bash")
        names = [one.name for one in (agent.folder / "state").iterdir()]
        streaks.append([name for name in names if name.startswith("send_event.")
                        and not name.endswith(".last")])  # which is over
    assert list(map(len, streaks)) == [1, 0]


@pytest.mark.parametrize("aim", ["text file", "collector"])
def test_a_person_is_told_once_in_a_session_that_detached_exports_fail(tmp_path, aim):
    is_text = aim == "text file"
    # pytest gives the folder of a test that passed to the next one, and what runs in
    # the background may still write there
    agent = Agent(tmp_path / aim, HOOK_IO_EXPORT="textfile" if is_text else "otlp")
    with collecting(*[{"status": 401}] * 6) as server:
        place = str(tmp_path / "none") if is_text else base(server)
        agent.env.update(HOOK_IO_EXPORT_URL=place, HOOK_IO_TEXTFILE_DIR=place)
        for _ in range(3):
            agent.turn()
    at_end = [*agent.command, "--source-app", "demo", "--event-type", "Stop",
              "--export", "--background"]
    said = [subprocess.run(at_end, input=json.dumps({
        "hook_event_name": "Stop", "session_id": session,
        "transcript_path": str(agent.transcript)}).encode(), env=agent.env,
        stdout=subprocess.PIPE, check=True, timeout=PATIENCE_S).stdout.decode()
        for session in ("s-1", "s-1", "s-2")]
    assert said[1] == ""
    for one in (said[0], said[2]):
        text = json.loads(one)["systemMessage"]
        assert re.match(r"hook-io: \d exports in a row did not get to ", text)
        assert f" to {place}/" in text
        assert "Your work is not blocked." in text
        assert ("HOOK_IO_TEXTFILE_DIR" if is_text else "HOOK_IO_EXPORT_URL") in text


def tool(name):
    path = shutil.which(name)
    if not path:
        pytest.skip(f"{name} is not installed (Debian has it)")
    return path


@contextlib.contextmanager
def running(command):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def full(agent):
    """An agent whose text file has each family of metrics in it."""
    agent.prompts += 1
    agent.hook("UserPromptSubmit", prompt="a")
    agent.hook("SubagentStart", agent_id="a-1", agent_type='odd "\\\n name')
    agent.hook("SubagentStop", agent_id="a-1", agent_type="odd")
    agent.hook("PermissionRequest", tool_name="Bash", tool_input={})
    agent.hook("PreCompact", trigger="auto")
    agent.prompts -= 1
    agent.answers("m-1", (1, 2, 3, 4))
    agent.turn("Bash", "mcp__a__b")
    return agent


def test_promtool_finds_nothing_to_say(full):
    done = subprocess.run([tool("promtool"), "check", "metrics"], check=False,
                          input=(full.prom / "hook_io.prom").read_bytes(),
                          capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_pushgateway_takes_the_file_without_a_duplicate(full):
    port = closed_port()
    command = [tool("prometheus-pushgateway"), f"--web.listen-address=127.0.0.1:{port}"]
    with running(command) as process:
        wait_for(port, process)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/metrics/job/test", method="PUT",
            data=(full.prom / "hook_io.prom").read_bytes())
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert answer.status == 200


def test_node_exporter_shows_every_sample(full):
    port = closed_port()
    command = [tool("prometheus-node-exporter"), "--collector.disable-defaults",
               f"--web.listen-address=127.0.0.1:{port}", "--collector.textfile",
               f"--collector.textfile.directory={full.prom}"]
    with running(command) as process:
        wait_for(port, process)
        url = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            shown = answer.read().decode()
    assert "node_textfile_scrape_error 0" in shown
    series = [line for line in shown.splitlines() if line.startswith("hook_io_")]
    assert len(series) == len(full.samples())


# Over OTLP.

def test_a_turn_is_one_trace_with_a_span_for_each_thing_in_it(tmp_path):
    with collecting() as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_USER="me",
                      HOOK_IO_EXPORT_URL=base(server), HOOK_IO_HEADERS="X-Key: events",
                      HOOK_IO_EXPORT_HEADERS="X-Key: collector")
        agent.prompts += 1
        agent.hook("UserPromptSubmit", prompt="a")
        agent.prompts -= 1
        agent.answers("m-1", (1, 7, 100, 5))
        agent.turn("Bash")
        first = requests_to(server, TRACES)
        (tmp_path / "state" / "export.json").unlink()
        agent.hook("Stop", "--export")
        again = requests_to(server, TRACES)[-1]
    root, call, chat = spans_of(first[0])
    assert first[0].headers["x-key"] == "collector"
    assert (root["name"], call["name"], chat["name"]) == (
        "invoke_agent claude-code", "execute_tool Bash", "chat claude-x")
    assert {one["traceId"] for one in (root, call, chat)} == {root["traceId"]}
    assert (call["parentSpanId"], chat["parentSpanId"]) == (root["spanId"],) * 2
    told = members(chat)
    assert told["gen_ai.usage.input_tokens"] == "106"
    assert told["gen_ai.usage.cache_read.input_tokens"] == "100"
    assert members(root)["user.id"] == "me"
    assert members(root)["session.id"] == "s-1"
    ids = [one["spanId"] for one in (root, call, chat)]
    assert [one["spanId"] for one in spans_of(again)] == ids


def test_what_failed_is_an_error_and_what_is_within_another_is_its_child(tmp_path):
    with collecting() as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=base(server))
        inner = {"agent_id": "a-1", "agent_type": "Explore"}
        for event, call, more in (
                ("UserPromptSubmit", "", {"prompt": "a"}),
                ("PreToolUse", "Bash", {}), ("PostToolUseFailure", "Bash", {}),
                ("PreToolUse", "Write", {}), ("PermissionRequest", "Write", {}),
                ("PermissionDenied", "Write", {}), ("PreToolUse", "Agent", {}),
                ("SubagentStart", "", inner), ("PreToolUse", "Read", inner),
                ("PostToolUse", "Read", inner), ("SubagentStop", "", inner),
                ("PostToolUse", "Agent", {"tool_response": {"agentId": "a-1"}})):
            told = {"tool_name": call, "tool_use_id": f"t-{call}"} if call else {}
            agent.hook(event, **told, **more)
        agent.hook("StopFailure", "--export", error="rate_limit")
        (traces,) = requests_to(server, TRACES)
    spans = {span["name"]: span for span in spans_of(traces)}
    names = {span["spanId"]: name for name, span in spans.items()}
    root, sub = "invoke_agent claude-code", "invoke_agent Explore"
    told = {name: (names.get(span["parentSpanId"]), span["status"].get("code"),
                   members(span).get("error.type")) for name, span in spans.items()}
    assert told == {
        root: (None, 2, "rate_limit"),
        "execute_tool Bash": (root, 2, "_OTHER"),
        "execute_tool Write": (root, 2, "permission_denied"),
        "execute_tool Agent": (root, None, None),
        sub: ("execute_tool Agent", None, None),
        "execute_tool Read": (sub, None, None)}
    (waited,) = spans[root]["events"]
    assert waited["name"] == "hook_io.wait"


@pytest.mark.parametrize("given, urls, header", [
    ({}, ["http://localhost:4318/v1/{}"] * 2, None),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1/"}, ["http://c:1/v1/{}"] * 2, "a"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1",
      "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://m:2/own"},
     ["http://c:1/v1/{}", "http://m:2/own"], "a"),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "url": "http://d:3/base/"},
     ["http://d:3/base/v1/{}"] * 2, None)])
def test_a_collector_is_where_it_is_said_to_be_and_gets_its_own_headers_alone(
        tmp_path, monkeypatch, given, urls, header):
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "X-Key=a" if header else ""}
    export = exporting(tmp_path, monkeypatch, given.pop("url", ""),
                       env={**env, **given}, headers="X-Events: b")
    found = [export._endpoint(signal) for signal in ("traces", "metrics")]
    assert [url for url, _ in found] == [
        url.format(signal) for url, signal in zip(urls, ("traces", "metrics"))]
    assert [headers for _, headers in found] == [{"X-Key": "a"} if header else {}] * 2


def test_names_and_numbers_leave_and_content_only_if_asked_for(tmp_path):
    for content in ("", "1"):
        with collecting() as server:
            folder = tmp_path / (content or "0")
            agent = Agent(folder, HOOK_IO_EXPORT="otlp",
                          HOOK_IO_EXPORT_URL=base(server),
                          HOOK_IO_EXPORT_CONTENT=content)
            agent.turn("Bash")
            sent = b"".join(exchange.body for exchange in server.exchanges)
        assert (b"/private" in sent, b"seen" in sent) == (bool(content),) * 2
        assert SECRET.encode() not in sent


def test_content_is_redacted_on_its_way_out_whatever_the_log_holds(tmp_path):
    ledger, call = hook_io.Ledger(""), {"tool_name": "Bash", "tool_use_id": "t-1"}
    for given in ("", "1"):
        spans = hook_io.Spans(
            ledger, ledger.session("s"), errand("Stop", export_content=given))
        (turn,) = hook_io.story([
            {"hook_event_name": name, "session_id": "s", "prompt": SECRET, **call,
             "tool_input": {"command": SECRET + "x" * 9000}, "tool_response": SECRET}
            for name in ("UserPromptSubmit", "PreToolUse", "PostToolUse")])
        text = json.dumps(spans.of(turn, list(spans.records(turn, [], True))))
        assert SECRET not in text
        assert ("input.value" in text) == bool(given)
        assert len(text) < 9000


def test_a_trace_of_the_agents_own_is_joined(tmp_path):
    with collecting() as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=base(server))
        trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
        agent.turn(env={"TRACEPARENT": f"00-{trace}-{span}-01"})
        agent.turn(env={"TRACEPARENT": f"00-{'0' * 32}-{span}-01"})
        joined, own = (spans_of(one)[0] for one in requests_to(server, TRACES))
    assert (joined["traceId"], joined["parentSpanId"]) == (trace, span)
    assert (own["parentSpanId"], own["traceId"] != "0" * 32) == ("", True)


def test_what_was_not_taken_goes_with_the_next_turn(tmp_path):
    url = f"http://127.0.0.1:{closed_port()}"
    agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=url)
    said = agent.turn("Bash")
    assert "[WARNING] traces were not taken: refused, connection refused" in said
    with collecting() as server:
        agent.turn("Bash", env={"HOOK_IO_EXPORT_URL": base(server)})
        (traces,) = requests_to(server, TRACES)
        (metrics,) = requests_to(server, METRICS)
    names = [span["name"] for span in spans_of(traces)]
    assert names == ["invoke_agent claude-code", "execute_tool Bash"] * 2
    sums = {one["name"]: one for one in metrics.json["resourceMetrics"][0][
        "scopeMetrics"][0]["metrics"]}
    assert sums["hook_io.turns"]["sum"]["dataPoints"][0]["asInt"] == "2"


def exporting(tmp_path, monkeypatch, url="http://127.0.0.1:9", **given):
    """Return an export that is about to begin, over OTLP."""
    monkeypatch.setenv("HOOK_IO_STATE_DIR", str(tmp_path))
    return hook_io.Export(hook_io.normalise({"session_id": "s"}), errand(
        "Stop", export="otlp", export_url=url, **given))


def logged(tmp_path, turn=0):
    """Return the path of a log to which one turn of a session is added."""
    log = tmp_path / "events.jsonl"
    with log.open("a") as file:
        for name in ("UserPromptSubmit", "Stop"):
            file.write(hook_io.encode({
                "timestamp": f"2026-11-28T01:0{turn}:00.000Z", "event_type": name,
                "session_id": "s", "source_app": "demo", "metadata": "{}"}) + "\n")
    return str(log)


def elsewhere(status):
    return {"status": status, "headers": {"Location": "http://{}/v1/traces"}}


#: what a collector answers -> what is said of the spans, and what the next export sends
#: of that turn: spans and numbers ("all"), spans alone, or nothing
ANSWERS = {
    "wait": ({"status": 429, "headers": {"Retry-After": "3600"}}, "HTTP 429", "all"),
    "wait until": ({"status": 503, "headers": {
        "Retry-After": "Fri, 31 Dec 2027 23:59:59 GMT"}}, "HTTP 503", "all"),
    "bad gateway": ({"status": 502}, "HTTP 502", "all"),
    "gateway out of time": ({"status": 504}, "HTTP 504", "all"),
    "broken": ({"status": 500}, "HTTP 500", "nothing"),
    "out of time": ({"status": 408}, "HTTP 408", "nothing"),
    "moved": (elsewhere(301), "HTTP 301, redirects are not followed", "all"),
    "moved for now": (elsewhere(307), "HTTP 307, redirects are not followed", "all"),
    "close": ({"close": True}, "refused, closed without an answer", "all"),
    "half a status": ({"raw": "HTTP/1.1 2"}, "refused, closed without an", "all"),
    "not HTTP": ("not_http", "refused, not HTTP: 'SSH-2.0", "all"),
    "silent": ("silent", "unconfirmed, no answer in time", "spans"),
    "drip": ({"drip_ms": 100}, "unconfirmed, no answer in time", "spans"),
    "interim": ("continue_then_silence", "unconfirmed, no answer in time", "spans"),
    "bad": ({"status": 400, "json": {"message": f"no {SECRET}"}}, "HTTP 400: no **",
            "nothing"),
    "a part": ({"status": 200, "json": {"partialSuccess": {
        "rejectedSpans": "1", "errorMessage": "too old"}}}, "too old", "nothing"),
    "a warning": ({"status": 200, "json": {"partialSuccess": {
        "rejectedSpans": "0", "errorMessage": "slow down"}}}, "", "nothing"),
    "junk": ({"status": 200, "body": "\0{\ud7ff}[" * 999}, "", "nothing"),
    "deep": ({"status": 200, "body": '{"a":' + "[" * 60000 + "]" * 60000}, "",
             "nothing"),
    "long number": ({"status": 200, "body": '{"partialSuccess":{"rejectedSpans":'
                     + "9" * 9999 + "}}"}, "", "nothing"),
    "huge": ("huge_body", "", "nothing"),
    "endless": ("endless_body", "", "nothing"),
    "endless head": ("endless_headers", "", "nothing"),
    "cut": ({"status": 200, "headers": {"Content-Length": "5000"}, "body": '{"a":'}, "",
            "nothing"),
    "longer than said": ({"status": 200, "headers": {"Content-Length": "1"},
                          "body": "{}"}, "", "nothing"),
    "no length": ({"status": 200, "headers": {"Content-Length": "-5"}, "body": "{}"},
                  "", "nothing"),
    "packed": ({"status": 200, "headers": {"Content-Encoding": "gzip"},
                "body": "\x1f\x08junk"}, "", "nothing"),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_whatever_a_collector_answers_nothing_is_sent_twice_or_lost_untold(
        tmp_path, monkeypatch, kind):
    reply, said, again = ANSWERS[kind]
    given = {"event_log": logged(tmp_path),
             "export_headers": f"Authorization: Bearer {SECRET}"}
    with collecting() as other:
        text = json.dumps(reply).replace("{}/v1", f"127.0.0.1:{other.port}/v1")
        with collecting(*[json.loads(text)] * 2) as server:
            export = exporting(tmp_path, monkeypatch, base(server), **given)
            assert export._run() == "1 turns exported"
            assert len(server.exchanges) == 2
        assert other.exchanges == []
    notes = export.errand.notes
    told = [line for line in notes if line.startswith("[WARNING] traces were not ")]
    assert len(told) == bool(said)
    assert said in "".join(told)
    assert ("not all taken" in "".join(told)) == (kind == "a part")
    assert SECRET not in "".join(notes)
    lost = {"nothing": 2, "spans": 1}.get(again, 0) if said else 0  # spans, and numbers
    assert sum(export.ledger.state["counters"].get("lost", {}).values()) == lost
    assert export._streak("metrics").count()[0] == (lost > 0)
    assert export._streak("traces").count()[0] == (lost > 1)
    with collecting() as server:
        exporting(tmp_path, monkeypatch, base(server), **given)._run()
        sent = [span for one in requests_to(server, TRACES) for span in spans_of(one)]
        counted = sum(map(turns_in, requests_to(server, METRICS)))
    assert (len(sent), counted) == {
        "all": (1, 1), "spans": (1, 0), "nothing": (0, 0)}[again]


def test_a_collector_that_has_no_place_for_metrics_loses_none(tmp_path, monkeypatch):
    with collecting({"status": 200}, {"status": 404}) as server:
        export = exporting(
            tmp_path, monkeypatch, base(server), event_log=logged(tmp_path))
        export._run()
    assert export.errand.notes == [f"[WARNING] metrics were not taken: rejected, "
                                   f"HTTP 404 ({base(server)}{METRICS})"]
    assert export.ledger.state["owed"] == {}
    assert "lost" not in export.ledger.state["counters"]
    assert export._streak("metrics").count()[0] == 0


def test_metrics_that_are_taken_hide_no_spans_that_are_not(tmp_path, monkeypatch):
    with collecting(*[{"status": 400}, {"status": 200}] * 3) as server:
        for turn in range(3):
            log = logged(tmp_path, turn)
            export = exporting(tmp_path, monkeypatch, base(server), event_log=log)
            assert export._run() == "1 turns exported"
    assert export._streak("traces").count()[0] == 3
    assert export._streak("metrics").count()[0] == 0


def test_turns_beyond_twenty_are_lost_and_counted_as_such(tmp_path, monkeypatch):
    export = exporting(tmp_path, monkeypatch)
    state = export.ledger.state
    state["waiting"] = [["Stop", []] for _ in range(23)]
    export._settle("traces", hook_io.Outcome("refused", "no"))
    losses = hook_io.Losses(
        "http://127.0.0.1:9/v1/traces", export.errand).streak.count()[0]
    assert len(state["waiting"]) == hook_io.TURNS_WAITING
    assert state["counters"]["lost"] == {"{}": 3}
    assert losses == 3


@pytest.mark.parametrize("why", ["refused", "no time"])
def test_what_waits_stays_within_its_bytes_whatever_keeps_it(
        tmp_path, monkeypatch, why):
    export = exporting(tmp_path, monkeypatch)
    state = export.ledger.state
    state["waiting"] = [["Stop", [{"a": "x" * (3 << 20)}]] for _ in range(4)]
    if why == "refused":
        export._settle("traces", hook_io.Outcome("refused", "no"))
    else:
        export.begun -= 60
        export.post()
    assert len(state["waiting"]) == 2
    assert state["counters"]["lost"] == {"{}": 2}


def test_a_server_that_is_silent_is_left_and_may_have_what_it_was_sent(tmp_path):
    with collecting({"hang": True}, {"hang": True}) as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=base(server))
        said = agent.turn()
        server.wait(2)
    assert "traces were not taken: unconfirmed" in said
    assert "metrics were not taken: unconfirmed" in said


class Clock:
    """time, which passes where the test says so."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(hook_io, "time", self)

    def monotonic(self):
        return self.now

    def __getattr__(self, name):
        return getattr(time, name)


@pytest.mark.parametrize("telling_s", [0, 0.6, 1.44, 1.6, 60])
def test_an_export_whose_collector_is_silent_takes_its_time_and_no_more(
        tmp_path, monkeypatch, telling_s):
    clock, asked = Clock(monkeypatch), []

    def silent(sender, url, body, deadline, *_):
        assert deadline >= clock.now
        asked.append(url.rpartition("/")[2])
        clock.now = deadline
        return hook_io.Outcome("unconfirmed", "no answer in time")

    def told(export):
        clock.now += telling_s
        export.ledger.state["waiting"].append(["Stop", [{}]])
        export.ledger.state["owed"] = {"turns": {"{}": 1}}
        return 1

    monkeypatch.setattr(hook_io.Sender, "post", silent)
    monkeypatch.setattr(hook_io.Export, "tell", told)
    export = exporting(tmp_path, monkeypatch)
    assert export._run() == "1 turns exported"
    state, said = export.ledger.state, export.errand.notes
    in_time = telling_s < 1.45
    assert asked == ["traces", "metrics"] * in_time
    assert clock.now - 1000 <= max(telling_s, 1.45) + 1e-6
    assert len(state["waiting"]) == 1
    assert ("turns" in state["owed"]) != in_time  # else they would be told again
    assert any("traces go with the next turn" in line for line in said) != in_time


@pytest.mark.parametrize("prompt_id", ["p-1", ""])
def test_a_turn_that_there_is_no_time_for_is_told_once_by_the_exports_that_follow(
        agent, prompt_id):
    agent.hook("UserPromptSubmit", prompt="a", prompt_id=prompt_id)
    log = agent.folder / "state" / "events.jsonl"
    prompt = json.loads(log.read_text())
    with log.open("a") as file:
        for n in range(2500):
            name = ("PreToolUse", "PostToolUse")[n % 2]
            said = {**json.loads(prompt["metadata"]), "hook_event_name": name,
                    "tool_name": "Bash", "tool_use_id": f"t-{n // 2}"}
            now = hook_io.Wire.instant(time.time_ns() + n * 10**6)
            file.write(json.dumps({
                **prompt, "timestamp": now, "event_type": name,
                "metadata": json.dumps(said)}, separators=(",", ":")) + "\n")
    agent.limit(TELLING_MS=0)
    said = [agent.hook("Stop", "--export", prompt_id=prompt_id).splitlines()
            for _ in range(4)]
    assert said[0][0].startswith("[WARNING] 1501 events are left for the next export")
    assert [lines[-1] for lines in said] == [
        f"{count} turns exported" for count in (0, 0, 1, 0)]
    samples = agent.samples()
    assert samples[CALLS] == 1250
    turns = {name: count for name, count in samples.items() if "_turns_total" in name}
    assert turns == {
        'hook_io_turns_total{source_app="demo",agent="claude-code",end="Stop"}': 1}
    assert samples['hook_io_turn_duration_seconds_count{agent="claude-code"}'] == 1


def test_lines_that_tell_nothing_keep_no_export_from_what_comes_behind(agent):
    log = agent.folder / "state" / "events.jsonl"
    log.parent.mkdir()
    log.write_text('{"event_type":"Stop","session_id":"x","a":"s-1"}\n' * 1500)
    agent.limit(TELLING_MS=0)
    said = agent.turn("Bash").splitlines()
    assert said == ["[WARNING] 504 events are left for the next export: there was no "
                    "time to read them", "0 turns exported"]
    assert agent.hook("Stop", "--export") == "1 turns exported\n"


def test_spans_that_are_too_many_are_left_out_told_and_counted(tmp_path):
    ledger = hook_io.Ledger("")
    spans = hook_io.Spans(ledger, ledger.session("s"), errand("Stop"))
    (turn,) = hook_io.story([{"hook_event_name": "Stop", "session_id": "s"}])
    (record,) = spans.records(turn, [], True)
    told = spans.of(turn, [record] * 2003)
    assert len(told) == hook_io.SPANS_MAX
    assert members(told[0])["hook_io.left_out_spans"] == "3"  # in the trace itself
    assert all("hook_io.left_out_spans" not in members(span) for span in told[1:])
    assert spans.errand.notes == ["[WARNING] 3 spans of a turn are left out: it has "
                                  "more than 2000"]
    assert ledger.state["counters"]["left_out"] == {"{}": 3}  # also where nobody reads
    assert "hook_io_export_left_out_spans_total 3\n" in ledger.text({})
    (metric,) = ledger.deltas(0, 1)
    assert metric["name"] == "hook_io.export.left_out_spans"


CALLS = 'hook_io_tool_calls_total{source_app="demo",tool="Bash",outcome="ok"}'
TOKENS = 'hook_io_tokens_total{source_app="demo",model="claude-x",kind="output"}'


#: limits of an export that a busy machine does not hurry
PATIENT = {"TELLING_MS": 10**6, "EXPORT_TIMEOUT_MS": 10**6}


def test_what_there_is_no_time_for_at_a_sessions_end_goes_with_another_one(agent):
    agent.limit(TELLING_MS=-1, LINES_MIN=3)
    said = agent.turn(*["Bash"] * 4, end="SessionEnd").splitlines()
    assert said[0].startswith("[WARNING] 7 events are left for the next export")
    assert said[-1] == "0 turns exported"  # it is told with its end
    agent.prompts -= 1
    agent.answers("m-1", (1, 2, 0, 0))
    other = Agent(agent.folder, "s-2", **agent.env)
    other.limit(**PATIENT)
    assert other.turn("Bash") == "2 turns exported\n"
    for _ in range(2):
        samples = agent.samples()
        assert (samples[CALLS], samples[TOKENS]) == (5, 2)
        assert sum(count for name, count in samples.items()
                   if name.startswith("hook_io_turns_total")) == 2
        other.hook("Stop", "--export")


def test_lines_of_a_transcript_that_there_is_no_time_for_are_read_later(agent):
    agent.prompts += 1
    agent.hook("UserPromptSubmit", prompt="a")
    for number in range(5):
        agent.answers(f"m-{number}", (1, 2, 0, 0))
    folder = agent.transcript.with_suffix("") / "subagents"
    folder.mkdir(parents=True)
    text = agent.transcript.read_text()
    (folder / "agent-a.jsonl").write_text(text.replace('"m-', '"n-'))
    agent.limit(TELLING_MS=-1, LINES_MIN=2)
    agent.hook("SessionEnd", "--export")
    assert agent.samples()[TOKENS] == 4
    other = Agent(agent.folder, "s-2", **agent.env)
    other.limit(**PATIENT)
    for _ in range(2):
        other.turn()
        assert agent.samples()[TOKENS] == 20


def test_no_more_lines_are_told_than_there_is_time_for(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    export = exporting(tmp_path, monkeypatch, event_log=str(tmp_path / "events.jsonl"))
    (tmp_path / "events.jsonl").write_text(
        '{"event_type":"Stop","session_id":"s","metadata":"{}"}\n' * 9000)
    decode, taken = hook_io.decode, []

    def slow(text):
        taken.append(text)
        clock.now += 0.0002
        return decode(text)

    monkeypatch.setattr(hook_io, "decode", slow)
    export.is_last = True
    export.ledger.take(clock.now, {})
    export.tell()
    export.ledger.leave()
    assert len(taken) < 0.7 / 0.0002 + 10  # two a line, and some for what is kept


@contextlib.contextmanager
def locked(agent):
    """Be an export that is at it."""
    (agent.folder / "state").mkdir(exist_ok=True)
    with (agent.folder / "state" / "export.json.lock").open("wb") as file:
        assert hook_io.WholeFile.lock(file.fileno())
        yield


def test_a_session_that_never_has_its_turn_is_told_by_another_ones_export(agent):
    agent.limit(EXPORT_TIMEOUT_MS=0)
    with locked(agent):
        said = agent.turn("Bash", end="SessionEnd")
    ledger = agent.folder / "state" / "export.json"
    assert said == (f"[ERROR] Turns are not exported: another export is at {ledger}; "
                    "the next one makes up\n")
    agent.prompts -= 1
    agent.answers("m-1", (1, 2, 0, 0))
    other = Agent(agent.folder, "s-2", **agent.env)
    other.limit(**PATIENT)
    assert other.turn("Bash") == "2 turns exported\n"
    samples = agent.samples()
    assert (samples[CALLS], samples[TOKENS]) == (2, 2)
    assert [path.name for path in (agent.folder / "state").iterdir()
            if ".late." in path.name] == []


@pytest.mark.parametrize("kind", ["link", "fifo", "not JSON", "of something else"])
def test_what_only_looks_like_a_session_left_over_stops_no_export(agent, kind):
    state = agent.folder / "state"
    state.mkdir()
    left = state / "export.json.late.x"
    if kind == "link":
        left.symlink_to(agent.folder / "aim")
    elif kind == "fifo":
        os.mkfifo(str(left))
    else:
        left.write_text({"not JSON": "{"}.get(
            kind, '{"session_id":[],"agent":"x","event_log":"\\u0000"}'))
    assert agent.turn("Bash").endswith("1 turns exported\n")
    assert agent.turn("Bash").endswith("1 turns exported\n")
    assert agent.samples()[CALLS] == 2


def test_sessions_that_end_at_once_before_a_silent_collector_are_all_exported(tmp_path):
    with collecting(*[{"hang": True}] * 8) as server:
        agents = [Agent(tmp_path, f"s-{n}", HOOK_IO_EXPORT_URL=base(server))
                  for n in range(4)]
        for one in agents:
            one.prompts = 1
            one.hook("UserPromptSubmit", prompt="a")
            one.hook("SessionEnd")
        ends = [subprocess.Popen(
            [*one.command, "--source-app", "demo", "--event-type", "SessionEnd",
             "--export"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=one.env)
            for one in agents]
        for process, one in zip(ends, agents):
            process.stdin.write(json.dumps({
                "hook_event_name": "SessionEnd", "session_id": one.session,
                "transcript_path": str(one.transcript)}).encode())
            process.stdin.flush()
        for process in ends:
            process.communicate(timeout=PATIENCE_S)
    last = Agent(tmp_path, "s-9", HOOK_IO_EXPORT="textfile")
    last.limit(**PATIENT)
    last.turn()
    assert sum(count for name, count in last.samples().items()
               if name.startswith("hook_io_turns_total")) == 5


@pytest.mark.parametrize(
    "moment", ["0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"])
def test_a_clock_that_is_wrong_by_ages_leaves_times_that_a_collector_takes(
        tmp_path, moment):
    with collecting() as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=base(server))
        agent.prompts += 1
        agent.hook("PreToolUse", tool_name="Bash", tool_use_id="t-1")
        log = tmp_path / "state" / "events.jsonl"
        log.write_text(re.sub(r'"timestamp":"[^"]*"', f'"timestamp":"{moment}"',
                              log.read_text()))
        agent.hook("Stop", "--export")
        (traces,) = requests_to(server, TRACES)
    for span in spans_of(traces):
        begun, ended = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
        assert 0 <= begun <= ended < 1 << 63


def test_the_export_that_is_registered_leaves_the_agent_alone(tmp_path):
    with collecting() as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=base(server))
        agent.prompts += 1
        agent.hook("UserPromptSubmit", prompt="a")
        agent.hook("Stop")
        assert agent.hook("Stop", "--export", "--background") == ""
        server.wait(2)
        assert [one.path for one in server.exchanges] == [TRACES, METRICS]


def bodies_of_a_turn(folder):
    with collecting() as server:
        agent = Agent(folder, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=base(server))
        agent.turn("Bash", "Read", end="StopFailure", error="server_error")
        return {one.path: one.body for one in server.exchanges}


def test_the_bodies_are_what_opentelemetry_defines(tmp_path):
    json_format = pytest.importorskip("google.protobuf.json_format")
    trace = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    metric = pytest.importorskip(
        "opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    bodies = bodies_of_a_turn(tmp_path)
    for path, kind in ((TRACES, trace.ExportTraceServiceRequest),
                       (METRICS, metric.ExportMetricsServiceRequest)):
        told = json_format.Parse(bodies[path], kind())  # an unknown name is an error
        assert told.ByteSize()
    for one in json.loads(bodies[METRICS])["resourceMetrics"][0]["scopeMetrics"][0][
            "metrics"]:
        for point in one.get("histogram", {}).get("dataPoints", ()):
            counts = [int(count) for count in point["bucketCounts"]]
            assert len(counts) == len(point["explicitBounds"]) + 1
            assert sum(counts) == int(point["count"])


def test_datadogs_test_agent_holds_the_turn(tmp_path):
    with lapdog(tmp_path) as (_, port):
        url = f"http://127.0.0.1:{port}"
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=url)
        assert agent.turn("Bash") == "1 turns exported\n"
        with urllib.request.urlopen(f"{url}/test/session/traces") as answer:
            traces = answer.read().decode()
        with urllib.request.urlopen(f"{url}/test/session/metrics") as answer:
            metrics = answer.read().decode()
    assert "execute_tool Bash" in traces
    assert "gen_ai.execute_tool.duration" in metrics


def test_rotel_reads_every_span_and_metric(tmp_path):
    rotel = pytest.importorskip("rotel", reason="rotel is not installed")
    ports = [closed_port(), closed_port()]
    command = [str(Path(rotel.__file__).parent / "rotel-agent"), "start",
               "--otlp-http-endpoint", f"127.0.0.1:{ports[0]}", "--otlp-grpc-endpoint",
               f"127.0.0.1:{ports[1]}", "--exporter", "blackhole", "--debug-log",
               "traces", "--debug-log", "metrics", "--debug-log-verbosity", "detailed",
               "--pid-file", str(tmp_path / "pid")]
    if subprocess.run([command[0], "--version"], capture_output=True).returncode:
        pytest.skip("rotel does not find the shared library of its Python")
    with open(str(tmp_path / "said"), "wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        wait_for(ports[0], process)
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp",
                      HOOK_IO_EXPORT_URL=f"http://127.0.0.1:{ports[0]}")
        assert agent.turn("Bash") == "1 turns exported\n"
        for _ in range(PATIENCE_S * 10):
            text = re.sub(r"\x1b\[[0-9;]*m", "", (tmp_path / "said").read_text())
            if "gen_ai.execute_tool.duration" in text:
                break
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait()
    assert "gen_ai.tool.name: Str(Bash)" in text
    assert "AGGREGATION_TEMPORALITY_DELTA" in text
    assert "gen_ai.execute_tool.duration" in text


# Tokens.

def test_tokens_are_those_that_the_api_returned():
    files = (TRANSCRIPT, TRANSCRIPT.parent / "agent.jsonl")
    told = [hook_io.Tokens.told(file.read_bytes()) for file in files]
    sums = [sum(answer[kind] for answers, *_ in told for answer in answers)
            for kind in hook_io.TOKENS]
    assert sums == [9045, 675, 274500, 18450]
    assert [unknown for _, _, unknown, _ in told] == [0, 0]


def test_of_an_answers_lines_the_fullest_counts_and_what_no_model_said_does_not():
    usage = dict.fromkeys(hook_io.TOKENS, 3)
    lines = [{"type": "assistant", "message": {"id": name, "model": model, "usage": {
        **usage, "output_tokens": output}}} for name, model, output in (
        ("m-1", "x", 1), ("m-1", "x", 9), ("m-1", "x", 4), ("m-2", "<synthetic>", 5))]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    answers, _, unknown, _ = hook_io.Tokens.told(text.encode())
    assert [(one["id"], one["output_tokens"]) for one in answers] == [("m-1", 9)]
    assert unknown == 0


def test_of_a_transcript_only_models_numbers_times_and_ids_are_kept():
    answers, *_ = hook_io.Tokens.told(TRANSCRIPT.read_bytes())
    kept = {"id", "model", "started_ms", "ended_ms", "duration_ms", "all_input_tokens",
            *hook_io.TOKENS}
    assert all(answer.keys() == kept for answer in answers)


def test_an_answer_that_comes_late_is_made_up_and_counted_once(agent):
    tokens = 'hook_io_tokens_total{source_app="demo",model="claude-x",kind="%s"}'
    agent.turn()
    agent.answers("m-1", (1, 2, 0, 0))  # its line comes behind the export
    agent.turn()
    agent.answers("m-1", (1, 9, 0, 0))  # and the whole of it later still
    agent.turn(end="SessionEnd")
    samples = agent.samples()
    assert (samples[tokens % "input"], samples[tokens % "output"]) == (1, 9)


@pytest.mark.parametrize("told", [
    "", "-1 -1 -1 -1", "x", "1", "1 2 3 4 5", "٣x ² 1 1", "1e3 1 1 1"])
def test_a_ledger_that_keeps_no_tokens_of_an_answer_counts_all_of_them(
        tmp_path, monkeypatch, told):
    ledger, known = hook_io.Ledger(str(tmp_path)), {"paid": {}}
    answer = {"id": "m", "model": "x", **dict.fromkeys(hook_io.TOKENS, 7)}
    ledger.state["usage"] = f";{hook_io.Spans.hash(hook_io.ID_CHARS, 'm')} {told}"
    tokens = hook_io.Tokens(ledger, known, errand("Stop"), bool)
    assert tokens._count({"source_app": "demo"}, answer) is (not told)
    assert known["paid"]["x"] == [7, 7, 7, 7, 0]
    assert not tokens._count({"source_app": "demo"}, answer)
    assert known["paid"]["x"] == [7, 7, 7, 7, 0]


def test_500_answers_that_are_told_again_as_in_a_resumed_transcript_count_once(
        tmp_path):
    tokens = hook_io.Tokens(
        hook_io.Ledger(str(tmp_path)), {"paid": {}}, errand("Stop"), bool)
    answers = [{"id": f"m-{n}", "model": "x", **dict.fromkeys(hook_io.TOKENS, n)}
               for n in range(501)]
    turn = {"source_app": "demo"}
    assert all(tokens._count(turn, answer) for answer in answers)
    paid = dict(tokens.known["paid"])
    assert not any(tokens._count(turn, answer) for answer in answers[1:])
    assert tokens.known["paid"] == paid
    assert tokens._count(turn, answers[0])


def test_what_was_there_before_the_session_counts_nothing(agent):
    agent.answers("m-0", (1000, 1000, 0, 0), ago_ms=1000)
    agent.turn()
    assert not any("tokens" in name for name in agent.samples())


def test_the_cost_of_a_session_is_counted_at_its_end(agent):
    agent.turn()
    agent.answers("m-1", (1, 2, 0, 0))
    row = {"inputTokens": 11, "outputTokens": 2, "costUSD": 0.25}
    with agent.transcript.open("a") as file:
        file.write(json.dumps({"type": "cost-state", "modelUsage": {"claude-x": row}},
                              separators=(",", ":")) + "\n")
    agent.hook("SessionEnd", "--export")
    agent.hook("SessionEnd", "--export")
    samples = agent.samples()
    labels = 'source_app="demo",model="claude-x"'
    assert samples[f"hook_io_cost_usd_total{{{labels}}}"] == 0.25
    assert samples[f'hook_io_tokens_total{{{labels},kind="input"}}'] == 11


def test_no_more_answers_are_read_at_once_than_a_turn_may_have_spans(agent):
    agent.limit(**PATIENT)
    for number in range(3):
        agent.answers(f"m-{number}", (1, 2, 0, 0), ago_ms=1000)
    agent.turn()  # what is there by now is of no turn
    for number in range(3, hook_io.SPANS_MAX + 4):
        agent.answers(f"n-{number}", (1, 2, 0, 0))
    answers, _, _, read = hook_io.Tokens.told(agent.transcript.read_bytes())
    assert len(answers) == hook_io.SPANS_MAX
    assert read < agent.transcript.stat().st_size
    agent.turn()
    agent.answers("o", (1, 2, 0, 0))
    agent.turn()
    assert agent.samples()[TOKENS] == 2 * (hook_io.SPANS_MAX + 2)


def hostile_lines():
    deep, big = "[" * 100000, "9" * 5000
    return "\n".join([
        f'{{"message": {{"usage": {deep}',
        f'{{"message":{{"usage":{{"a":{big}}}}}}}',
        '{"message":{"id":1,"model":[],"usage":{"output_tokens":true}}}',
        '{"message":{"id":"m","model":"x","usage":{"output_tokens":-1e999}}}', ""])


#: what a transcript holds -> what is said of it
USELESS = {
    "cut": ('{"message":{"id":"m","model":"x","usage":{"out', "ends within a line"),
    "hostile": (hostile_lines(), "has lines of an unknown form"),
    "of lines that nobody knows": ('{"kind":"a"}\n', "has lines of an unknown form"),
    "of answers that count otherwise": (
        '{"type":"assistant","message":{"id":"m","model":"x","tokens":{"in":1}}}\n',
        "has lines of an unknown form"),
    "of counts that are none": (
        '{"type":"assistant","message":{"id":"m","model":"x","usage":'
        '{"output_tokens":"many"}}}\n', "has lines of an unknown form"),
}


def says_that_tokens_are_missing(agent, why):
    said = agent.turn("Bash").splitlines()
    samples = agent.samples()
    assert said[0].startswith("[WARNING] Tokens are missing in what is exported: ")
    assert why in said[0]
    assert hook_io.Line.clean(str(agent.transcript)) in said[0]
    assert said[1:] == ["1 turns exported"]
    assert not any("hook_io_tokens" in name for name in samples)
    assert samples["hook_io_transcripts_unread_total"] == 1


@pytest.mark.parametrize("kind", USELESS)
def test_a_transcript_of_no_use_leaves_the_story_without_tokens(agent, kind):
    text, why = USELESS[kind]
    agent.transcript.write_text(text)
    says_that_tokens_are_missing(agent, why)


@pytest.mark.parametrize("kind", ["gone", "huge", "fifo"])
def test_a_file_that_cannot_be_read_leaves_the_story_without_tokens(agent, kind):
    agent.transcript.unlink()
    if kind == "huge":
        with agent.transcript.open("wb") as file:
            file.truncate(100 << 20)
    elif kind == "fifo":  # which nobody ever writes to
        os.mkfifo(str(agent.transcript))
    why = {"gone": "no such file", "huge": "has more than", "fifo": "no regular file"}
    says_that_tokens_are_missing(agent, why[kind])


@pytest.mark.parametrize("path", ["/a\0.jsonl", "/\ud800.jsonl"])
def test_a_path_that_is_none_leaves_the_story_without_tokens(agent, path):
    agent.transcript = path
    says_that_tokens_are_missing(agent, "")


def test_a_line_that_was_cut_is_made_up_when_the_rest_of_it_comes(agent):
    agent.answers("m-1", (1, 2, 0, 0))
    whole = agent.transcript.read_text().replace("2026-", "2099-")
    agent.transcript.write_text(whole[:60])
    agent.turn()
    agent.transcript.write_text(whole)
    assert agent.turn() == "1 turns exported\n"
    tokens = 'hook_io_tokens_total{source_app="demo",model="claude-x",kind="output"}'
    assert agent.samples()[tokens] == 2


# The dashboard.

GRAFANA = TESTS / "grafana"


def panels():
    return json.loads((GRAFANA / "hook-io.json").read_text())["panels"]


def alerts():
    """Return {alert: its expression} of the rules' file, which is plain YAML."""
    text = re.sub(r"\s+", " ", re.sub(
        r"(?m)^ *#.*$", "", (GRAFANA / "hook-io.rules.yml").read_text()))
    return dict(re.findall(r"- alert: (\w+) expr: (?:>- )?(.*?) (?:for|labels):", text))


def metrics_in(queries):
    asked = {name for query in queries for name in re.findall(r"hook_io_(\w+)", query)}
    return {re.sub("_(bucket|sum|count)$", "", name) for name in asked}


def test_every_query_of_the_dashboard_and_the_alerts_is_of_a_metric_there_is():
    told = {row[0] for row in hook_io.METRICS.values() if row[0]} | {*hook_io.GAUGES}
    queries = [target["expr"] for panel in panels()
               for target in panel.get("targets", ())]
    assert metrics_in(queries) == told
    watched = metrics_in(alerts().values())
    assert watched <= told
    assert watched >= {*hook_io.GAUGES} | {
        hook_io.METRICS[name][0] for name in ("lost", "unread")}


def test_what_is_red_in_a_panel_is_what_an_alert_asks_for():
    rows = [row for panel in panels() for row in panel["fieldConfig"]["overrides"]]
    red = {row["matcher"]["options"]: step["value"] for row in rows
           for one in row["properties"] if one["id"] == "thresholds"
           for step in one["value"]["steps"] if step["color"] == "red"}
    full, still = alerts()["HookIoSpoolNearlyFull"], alerts()["HookIoReceivesNothing"]
    limits = [float(text) for text in re.findall(r"> ([\d.e]+)", full + still)]
    assert limits == [red["events"], red["bytes"], red["seconds ago"]]
    assert limits[0] < hook_io.SPOOL_MAX_FILES
    assert limits[1] < hook_io.SPOOL_MAX_BYTES


@pytest.mark.parametrize("command", [
    ("check", "rules", "hook-io.rules.yml"),
    ("test", "rules", "hook-io.rules.test.yml")])
def test_promtool_finds_the_alerts_to_fire_when_they_ought_to(command):
    done = subprocess.run([tool("promtool"), *command], cwd=str(GRAFANA), check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout.decode()


def test_each_alert_is_seen_to_fire_and_to_be_silent():
    text = (GRAFANA / "hook-io.rules.test.yml").read_text()
    for alert in alerts():
        assert f"alertname: {alert}, exp_alerts: []" in text
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", text)


# Registered.

def test_the_registered_command_exports_where_the_variable_is_set_alone(tmp_path):
    hooks = json.loads((ROOT / "hooks.json").read_text())["hooks"]
    shutil.copytree(str(ROOT), str(tmp_path / "plugin"), ignore=lambda folder, names: [
        name for name in names if name not in ("hook_io.py", "send_event.py")])
    with collecting() as server:
        agent = Agent(tmp_path, HOOK_IO_EXPORT="otlp", HOOK_IO_EXPORT_URL=base(server),
                      CLAUDE_PROJECT_DIR=str(tmp_path),
                      CLAUDE_PLUGIN_ROOT=str(tmp_path / "plugin"))
        agent.prompts += 1
        agent.hook("UserPromptSubmit", prompt="a")
        event = {"hook_event_name": "Stop", "session_id": "s-1", "prompt_id": "p-1",
                 "transcript_path": str(agent.transcript)}
        for env in ({**agent.env, "HOOK_IO_EXPORT": ""}, agent.env):
            for entry in hooks["Stop"][0]["hooks"]:
                done = subprocess.run(
                    ["sh", "-c", entry["command"]], input=json.dumps(event).encode(),
                    env=env, timeout=PATIENCE_S, capture_output=True)
                assert (done.returncode, done.stdout) == (0, b"")
        server.wait(2)
        assert [one.path for one in server.exchanges] == [TRACES, METRICS]
