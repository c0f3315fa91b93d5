"""Every agent by its row of PLATFORMS: told apart, understood, and answered.

samples/<agent> holds what real clients sent, samples/documented/<agent> what an agent's
documentation says it sends; golden/<agent>.json what becomes of each sample, and what
the agent is told.  A new agent is a row, samples and a golden file, and no line here.
"""

import copy
import itertools
import json

import pytest

import hook_io
from conftest import SAMPLES, TESTS, body_at, nowhere
from hook_io import PLATFORMS, canonical, normalise, platform_of, render
from server import EventServer

FORMS = {"copilot-camel": "copilot"}  # folder of samples -> agent, where it is another
#: members that every event keeps: all else is optional to some client
KEPT = ("session_id", "sessionId", "transcript_path", "cwd", "hook_event_name",
        "hookName", "timestamp")
RESULTS = {
    "context": hook_io.context("T"), "hint": hook_io.hint("T"),
    "deny": hook_io.deny("T"), "ask": hook_io.ask("T"), "allow": hook_io.allow("T"),
    "rewrite": hook_io.rewrite({"command": "", "n": [1]}), "block": hook_io.block("T"),
    "loud": hook_io.HookResult("loud", "T"),
}
ANSWER = """
import sys
import hook_io
hook_io.run(lambda event: eval(sys.argv[1]), "guard", fail=sys.argv[2])
"""


def parsed(path):
    return json.loads(path.read_text(encoding="utf-8"))


def samples():
    """Return {folder/name: (agent, name of the event, payload)}."""
    found = {}
    for path in sorted(SAMPLES.rglob("*.json")):
        key, folder = path.relative_to(SAMPLES).with_suffix(""), path.parent.name
        found[key.as_posix()] = FORMS.get(folder, folder), path.stem, parsed(path)
    return found


SAMPLED = samples()
GOLDEN = {path.stem: parsed(path) for path in sorted((TESTS / "golden").glob("*.json"))}
AGENTS = [agent for agent in PLATFORMS if agent != "raw"]
BEFORE_TOOL = {key: given for key, given in SAMPLED.items()
               if canonical(given[1]) == "PreToolUse"}
#: one sample for each agent, before a tool where there is one
ONE_EACH = {given[0]: given for given in [*SAMPLED.values(), *BEFORE_TOOL.values()]}


def each(cases):
    return pytest.mark.parametrize(
        ("agent", "name", "event"), list(cases.values()), ids=list(cases))


@pytest.fixture(autouse=True)
def no_agent_is_given(monkeypatch):
    monkeypatch.delenv("HOOK_IO_PLATFORM", raising=False)


def send(hook, url, event_type, event, **variables):
    return hook.send(url, event_type=event_type, stdin=event, env={
        "HOOK_IO_TIMEOUT_MS": "20000", "HOOK_IO_FAIL_LOUD_THRESHOLD": "1", **variables})


def answer(hook, event, code, fail="open"):
    """Run a hook that returns what *code* is, with *event* on stdin."""
    (hook.folder / "answer.py").write_text(ANSWER)
    return hook.run("answer.py", code, fail, stdin=event)


def golden(agent, intent, event, name):
    """Return the document for *event*: no agent's, where nothing says what it is."""
    if not canonical(normalise(event).event_name):
        agent, name = "raw", "PreToolUse"
    return GOLDEN[agent]["said"].get(intent, {}).get(name, {})


def heard(result):
    """Return exit, stderr, and the documents or the text on the lines of stdout."""
    assert result.stdout[-1:] in ("", "\n"), result
    return result.exit, result.stderr, [
        json.loads(line) if line[:1] == "{" else line
        for line in result.stdout.splitlines()]


def expected(document, stderr=""):
    """Return what heard() is of a process that says *document*."""
    rest = {name: inner for name, inner in document.items() if name != "line"}
    if "exit" in rest:
        return 2, stderr + rest["exit"] + "\n", []
    if "line" in document:
        return 0, stderr, [document["line"], rest]
    return 0, stderr, [rest.get("text", rest)] if rest else []


def with_text(document, text):
    return json.loads(json.dumps(document).replace('"T"', json.dumps(text)))


def texts(value):
    """Yield every string in the JSON *value*."""
    if isinstance(value, dict):
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from texts(inner)
    if isinstance(value, str):
        yield value


# Told apart, by the event alone.

def variants(agent, event):
    """Yield *event*, and it as another version of its client may send it."""
    row = PLATFORMS[agent]
    marks = [] if row["measured"] else row["signs"][0].split()
    optional = [name for name in event if name not in (*KEPT, *marks)]
    has_more_signs = len(row["signs"]) > 1
    alone = [name for name in event if name not in KEPT] if has_more_signs else optional
    yield "as it is", event
    path = event.get("transcript_path")
    if path:
        yield "no transcript", {**event, "transcript_path": None}
        yield "Windows", {**event, "transcript_path": path.replace("/", "\\")}
    for dropped in [*([name] for name in alone), optional]:
        yield f"without {dropped}", {
            name: value for name, value in event.items() if name not in dropped}


@each(SAMPLED)
def test_an_event_is_told_to_be_its_agents_whatever_else_is_missing(agent, name, event):
    told = {what: platform_of(given) for what, given in variants(agent, event)}
    assert {what: found for what, found in told.items() if found != agent} == {}
    assert normalise(event).event_name.lower() in (name.lower(), "")


@pytest.mark.parametrize(("key", "agent"), [
    ("codex/PreToolUse", "codex"), ("codex/SessionStart", "claude-code")])
def test_without_transcript_and_an_id_of_its_kind_a_turn_of_codex_is_told(key, agent):
    other = {"transcript_path": None, "session_id": SAMPLED["claude-code/Stop"][2][
        "session_id"]}
    assert platform_of({**SAMPLED[key][2], **other}) == agent


@pytest.mark.parametrize("agent", PLATFORMS)
def test_a_variable_says_the_agent_of_every_event(monkeypatch, agent):
    monkeypatch.setenv("HOOK_IO_PLATFORM", agent)
    assert {platform_of(event) for _, _, event in SAMPLED.values()} == {agent}
    monkeypatch.setenv("HOOK_IO_PLATFORM", "nobody")
    assert {platform_of(event) for _, _, event in SAMPLED.values()} == set(AGENTS)


@pytest.mark.parametrize("event", [{}, {"hook_event_name": "Other", "tool_name": "x"}])
def test_an_unknown_agents_event_is_sent_and_only_a_denial_is_said_to_it(
        hook, server, event):
    assert platform_of(event) == "raw"
    said = {intent: render(result, event) for intent, result in RESULTS.items()}
    denial = GOLDEN["raw"]["said"]["deny"]["PreToolUse"]
    assert {intent: one for intent, one in said.items() if one} == {"deny": denial}
    is_sent(hook, server, "Stop", event, event)
    assert heard(answer(hook, event, "hook_io.deny('T')")) == expected(denial)


# Understood: in Claude Code's words, with the agent's own beside them.

@each(SAMPLED)
def test_an_event_is_put_into_claude_codes_words_and_the_native_one_stays(
        agent, name, event):
    before, said = copy.deepcopy(event), normalise(event)
    assert (said.agent, said.native is event, event) == (agent, True, before)
    assert {member: value for member, value in said.items()
            if member not in event or event[member] != value} == (
        GOLDEN[agent]["normalised"][name])
    assert set(event) <= set(said)
    assert normalise(said) is said


def test_golden_holds_every_agent_and_every_sample_and_no_other():
    assert set(GOLDEN) == set(PLATFORMS)
    held = {(a, name) for a, kept in GOLDEN.items() for name in kept["normalised"]}
    assert held == {(agent, name) for agent, name, _ in SAMPLED.values()}


ODD = [None, True, 0, 1.5, "", "x", "{", "{}", '{"command": "ls"}', [], ["a"], [None],
       {}, {"a": [1]}, json.loads("[" * 90 + "]" * 90)]


def odd_events():
    """Yield events in which one member that some table names holds something odd."""
    fields = [row.get("fields", {}).items() for row in PLATFORMS.values()]
    named = {path.split(".")[0] for row in fields for pair in row for path in pair}
    for _, _, event in ONE_EACH.values():
        for member in sorted(named.union(event, ["hook_event_name"])):
            yield from ({**event, member: odd} for odd in ODD)


def test_odd_members_are_no_error_and_stay_as_they_are_in_the_native_event():
    failed = {}
    for event in odd_events():
        before = copy.deepcopy(event)
        try:
            said = normalise(event)
            assert all(render(result, said) is not None for result in RESULTS.values())
        except Exception as error:
            failed[repr(error)] = event
        assert event == before
    assert failed == {}


@pytest.mark.parametrize("event", [
    {"cursor_version": "1", "tool_input": None, "command": "ls"},
    {"agent_action_name": "pre_run_command", "tool_info": ["ls"]},
    {"sessionId": {}, "toolName": [], "toolArgs": '{"a": [1'},
    {"clineVersion": 3, "hookName": ["PreToolUse"], "workspaceRoots": {"0": "/w"}},
    {"timestamp": [], "transcript_path": {"/.qwen/": 1}, "hook_event_name": 5},
], ids=repr)
def test_an_odd_event_is_sent_as_it_is(one_hook, server, event):
    assert heard(send(one_hook, server.url, "Stop", event)) == (0, "", [])
    assert json.loads(body_at(server)["metadata"]) == event


@pytest.mark.parametrize("name", ["My Event", "PreToolUse Bash", "A {b}", [1, 2], 7])
def test_an_event_of_a_name_that_no_table_holds_keeps_it_and_gains_no_tool(name):
    event = {"hook_event_name": name, "session_id": "s-1"}
    assert normalise(event) == event


@pytest.mark.parametrize(("text", "read"), [
    ('{"a": [1]}', {"a": [1]}), ("{a}", "{a}"), ("[1]", "[1]"), ("*** End", "*** End")])
def test_a_tool_input_of_json_text_is_read_and_any_other_text_stays(text, read):
    event = {"cursor_version": "1", "hook_event_name": "beforeMCPExecution"}
    assert normalise({**event, "tool_input": text})["tool_input"] == read


# Answered: each intent, on each event, to each agent.

def native_names(agent):
    """Return the names by which *agent* is known to call its events."""
    told = GOLDEN[agent]["said"].values()
    return {*PLATFORMS[agent]["events"], *(name for names in told for name in names)}


@pytest.mark.parametrize("intent", hook_io.INTENTS)
@pytest.mark.parametrize("agent", PLATFORMS)
def test_each_intent_is_said_in_the_agents_own_shape_or_not_at_all(
        monkeypatch, agent, intent):
    monkeypatch.setenv("HOOK_IO_PLATFORM", agent)
    said = {name: render(RESULTS[intent], {"hook_event_name": name})
            for name in native_names(agent)}
    said = {name: document for name, document in said.items() if document}
    assert said == GOLDEN[agent]["said"].get(intent, {})
    for name, document in said.items():
        specific = document.get("hookSpecificOutput", {"hookEventName": name})
        assert specific["hookEventName"] == name or agent == "raw"


@pytest.mark.parametrize("agent", PLATFORMS)
def test_every_cell_of_the_table_is_in_golden(agent):
    assert set(RESULTS) == set(hook_io.INTENTS) >= set(GOLDEN[agent]["said"])
    for intent in hook_io.INTENTS:
        told = GOLDEN[agent]["said"].get(intent, {})
        for event, shape in PLATFORMS[agent].get(intent, {}).items():
            names = {name for name in native_names(agent)
                     if event in (name, canonical(name), "*")}
            assert names and (not shape or names & set(told)), (intent, event)


@pytest.mark.parametrize("blank", ["", " \n"])
@pytest.mark.parametrize("intent", ["deny", "ask", "block"])
def test_a_refusal_never_has_an_empty_reason(monkeypatch, intent, blank):
    result = getattr(hook_io, intent)(blank)
    assert result.text.strip()
    for agent, kept in GOLDEN.items():
        monkeypatch.setenv("HOOK_IO_PLATFORM", agent)
        for name, document in kept["said"].get(intent, {}).items():
            said = render(result, {"hook_event_name": name})
            assert said == with_text(document, result.text), (agent, name)


_BLOCK = "systemMessage decision reason "
_CONTEXT = ".hookEventName .additionalContext "
#: event of Codex -> the members that it takes; with a dot, those of hookSpecificOutput
STRICT = {
    "PreToolUse": _BLOCK + _CONTEXT + (
        ".permissionDecision .permissionDecisionReason .updatedInput"),
    "PostToolUse": _BLOCK + _CONTEXT, "UserPromptSubmit": _BLOCK + _CONTEXT,
    "SessionStart": "systemMessage " + _CONTEXT,
    "SubagentStart": "systemMessage " + _CONTEXT, "SessionEnd": "",
    "PermissionRequest": "systemMessage .hookEventName .decision",
    "Stop": _BLOCK, "SubagentStop": _BLOCK, "Interrupt": "systemMessage",
    "PreCompact": "systemMessage", "PostCompact": "systemMessage",
    "PreModelRequest": "",
}


def test_codex_is_sent_no_member_that_would_void_the_whole_document(monkeypatch):
    monkeypatch.setenv("HOOK_IO_PLATFORM", "codex")
    assert set(STRICT) == set(PLATFORMS["codex"]["events"])
    for name, result in itertools.product(STRICT, RESULTS.values()):
        for both in (result, hook_io.with_user_hint(result, "H")):
            said = render(both, {"hook_event_name": name})
            specific = said.pop("hookSpecificOutput", {})
            permission = specific.get("permissionDecision", "deny")
            members = {*said, *(f".{member}" for member in specific)}
            assert members <= {*STRICT[name].split(), "exit"}
            assert permission == "deny" or "updatedInput" in specific
            assert said.get("decision") in (None, "block")


@pytest.mark.parametrize("intent", ["deny", "context"])
@each(SAMPLED)
def test_a_real_hook_says_exactly_that(one_hook, agent, name, event, intent):
    told = golden(agent, intent, event, name)
    unsaid = f"[WARNING] {intent} has no channel on this event, nothing is said\n"
    result = answer(one_hook, event, f"hook_io.{intent}('T')")
    assert heard(result) == expected(told, "" if told else unsaid)


@each(ONE_EACH)
def test_a_hint_stands_beside_a_denial_where_the_agent_shows_it(
        one_hook, agent, name, event):
    both = "hook_io.with_user_hint(hook_io.deny('T'), 'H')"
    hint = with_text(golden(agent, "hint", event, name), "H")
    document = {**hint, **golden(agent, "deny", event, name)}
    assert heard(answer(one_hook, event, both)) == expected(document)


@each(BEFORE_TOOL)
def test_a_guards_bug_denies_in_the_agents_own_shape(one_hook, agent, name, event):
    result = answer(one_hook, event, "1 / 0", fail="closed")
    line = result.lines[0]
    assert line.startswith("[ERROR] guard: ZeroDivisionError: division by zero")
    told = golden(agent, "deny", event, name)
    assert told and heard(result) == expected(with_text(told, line), f"{line}\n")


# Sent.

def is_sent(hook, server, name, event, said):
    assert heard(send(hook, server.url, name, event)) == (0, "", [])
    body = body_at(server)
    assert body["event_type"] == canonical(name)
    assert json.loads(body.get("metadata", "{}")) == event
    for member in ("tool_name", "session_id"):
        assert body.get(member) == said.get(member)


@each(SAMPLED)
def test_an_event_is_sent_under_its_native_name_with_its_native_payload(
        one_hook, server, agent, name, event):
    is_sent(one_hook, server, name, event,
            {**event, **GOLDEN[agent]["normalised"][name]})


@each(ONE_EACH)
def test_an_event_of_each_agent_is_sent_and_denied_on_every_python(
        hook, server, agent, name, event):
    is_sent(hook, server, name, event, {**event, **GOLDEN[agent]["normalised"][name]})
    told = golden(agent, "deny", event, name)
    assert heard(answer(hook, event, "hook_io.deny('T')"))[::2] == expected(told)[::2]


def is_told(result, document):
    """Tell whether *result* says a loss in the shape of *document*, or not at all."""
    said = heard(result)[2]
    notice = [text for text in texts(said) if text.startswith("hook-io: 1 event did n")]
    assert len(notice) == bool(document)
    return said == expected(with_text(document, "".join(notice)))[2]


@each(SAMPLED)
def test_a_loss_is_told_in_the_agents_own_shape_or_not_at_all(
        one_hook, agent, name, event):
    result = send(one_hook, nowhere(), name, event)
    assert (result.exit, len(result.lines)) == (0, 2)
    assert is_told(result, golden(agent, "hint", event, name))


@pytest.mark.parametrize(("flag", "key", "event_type", "tool"), [
    ("SessionEnd", "copilot/PreToolUse", "SessionEnd", "Bash"),
    ("BeforeTool", "copilot-camel/agentStop", "PreToolUse", None),
    ("post_run_command", "gemini/BeforeTool", "PostToolUse", "Bash"),
    ("UserPromptSubmit", "documented/cursor/afterFileEdit", "UserPromptSubmit", "Edit"),
    ("preToolUse", "qwen/Stop", "PreToolUse", None),
    ("agentStop", "documented/windsurf/post_mcp_tool_use", "Stop",
     "mcp__tracker__create_issue"),
])
def test_the_flag_names_the_event_and_the_payload_the_tool_and_the_shape_of_a_hint(
        one_hook, flag, key, event_type, tool):
    agent, name, event = SAMPLED[key]
    with EventServer(replies=["server_error"]) as server:
        result = send(one_hook, server.url, flag, event)
        (seen,) = server.wait(1)
    assert (seen.json["event_type"], seen.json.get("tool_name")) == (event_type, tool)
    assert is_told(result, golden(agent, "hint", event, name))


@pytest.mark.parametrize(("key", "fields", "leaves"), [
    ("copilot-camel/preToolUse", "toolName,sessionId", "sessionId toolName"),
    ("copilot-camel/preToolUse", "tool_name, session_id", "sessionId toolName"),
    ("copilot/PostToolUse", "tool_response", "tool_result"),
    ("gemini/AfterAgent", "last_assistant_message,cwd", "cwd prompt_response"),
    ("qwen/MessageDisplay", "displayed_text", "displayed_text"),
    ("documented/cursor/beforeShellExecution", "command", "command"),
    ("documented/cursor/beforeShellExecution", "tool_input", "command"),
    ("documented/windsurf/pre_run_command", "tool_info", "tool_info"),
    ("documented/crush/PreToolUse", "hook_event_name", "event"),
])
def test_the_members_that_may_leave_are_named_in_either_words(
        one_hook, server, key, fields, leaves):
    _, name, event = SAMPLED[key]
    result = send(one_hook, server.url, name, event, HOOK_IO_FIELDS=fields)
    assert heard(result) == (0, "", [])
    assert json.loads(body_at(server)["metadata"]) == {
        member: event[member] for member in leaves.split()}


# The tables themselves.

def test_an_agent_is_measured_exactly_where_real_events_of_it_are_kept():
    documented = {given[0] for key, given in SAMPLED.items() if "documented/" in key}
    measured = {given[0] for key, given in SAMPLED.items() if "documented/" not in key}
    assert measured == {agent for agent in AGENTS if PLATFORMS[agent]["measured"]}
    assert documented == set(AGENTS) - measured
    for agent, row in PLATFORMS.items():
        cells = [cell.split() for cell in row.get("documented", ())]
        assert not cells or agent in measured
        assert [cell for cell in cells if not row[cell[0]].get(cell[1])] == []


def test_a_new_agent_is_one_entry_of_the_table(monkeypatch):
    monkeypatch.setitem(PLATFORMS, "newcomer", {
        "measured": "", "signs": ("newcomerVersion",),
        "events": {"toolAhead": "PreToolUse", "shellAhead": "PreToolUse Bash"},
        "infer": {"line": "shellAhead"}, "tools": {"look": "Read"},
        "fields": {"step": "hook_event_name", "line": "tool_input.command"},
        "deny": {"PreToolUse": {"no": "$T", "on": "$E"}}})
    event = {"newcomerVersion": 1, "step": "toolAhead", "tool_name": "look"}
    assert platform_of(event) == normalise(event).agent == "newcomer"
    assert normalise(event) == {
        **event, "hook_event_name": "PreToolUse", "tool_name": "Read"}
    assert render(hook_io.ask("T"), event) == {"no": "T", "on": "toolAhead"}
    assert render(hook_io.hint("T"), event) == {}
    shell = normalise({"newcomerVersion": 1, "line": "ls"})
    assert (shell["tool_name"], shell["tool_input"]) == ("Bash", {"command": "ls"})
    given, _ = hook_io.parse_options(
        "--event-type - required EVENT name", ["--event-type", "shellAhead"], "x.py")
    assert canonical(given["event_type"]) == "PreToolUse"
