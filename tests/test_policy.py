"""The server decides by the rules of a file, and the hook says so to the agent."""

import pytest

from conftest import sample
from server import EventServer
from server.policy import Policy

RULES = """
# the first rule that matches counts
allow Bash rm -rf ./build
deny  Bash rm -rf*
ask   Write *.env   # keys
"""


@pytest.fixture
def policy(tmp_path):
    (tmp_path / "policy").write_text(RULES)
    return Policy(str(tmp_path / "policy"))


@pytest.mark.parametrize(("tool", "given", "decision"), [
    ("Bash", {"command": "rm -rf /"}, "deny"),
    ("Write", {"file_path": "/p/.env"}, "ask"),
    ("Bash", {"command": "ls"}, None),
    ("Bash", {"command": "rm -rf ./build"}, None),  # allow, which deny does not take
])
def test_a_hook_says_what_the_rules_of_the_server_say(
        one_hook, policy, tool, given, decision):
    event = {**sample("PreToolUse"), "tool_name": tool, "tool_input": given}
    with EventServer(policy=policy) as server:
        result = one_hook.send(server.url, stdin=event, event_type="PreToolUse", env={
            "HOOK_IO_DECIDE": "deny", "HOOK_IO_DECIDE_TIMEOUT_MS": "20000"})
    if decision is None:
        assert (result.stdout, result.stderr) == ("", "")
    else:
        said = result.document["hookSpecificOutput"]
        assert said["permissionDecision"] == decision
        assert said["permissionDecisionReason"].startswith("policy, line ")


@pytest.mark.parametrize("event", ["PreToolUse", "UserPromptSubmit", "Stop"])
@pytest.mark.parametrize("judges", ["a policy", "a page", ""])
def test_a_hook_that_fails_closed_lets_pass_what_was_judged_and_nothing_else(
        one_hook, policy, event, judges):
    is_held = judges == "a page" and event == "PreToolUse"  # and nobody answers
    with EventServer(policy=policy if judges == "a policy" else None) as server:
        if judges == "a page":
            server.desk.watch()
        result = one_hook.send(server.url, stdin=sample(event), env={
            "HOOK_IO_DECIDE": "deny", "HOOK_IO_DECIDE_FAIL": "closed",
            "HOOK_IO_DECIDE_TIMEOUT_MS": "2000" if is_held else "20000"})
    refused = event != "Stop" and (not judges or is_held)
    assert ("HOOK_IO_DECIDE_FAIL" in result.stdout) == refused, result


@pytest.mark.parametrize("line", ["refuse Bash x", "deny"])
def test_a_line_that_is_no_rule_is_told_with_its_number(tmp_path, line):
    (tmp_path / "policy").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match="line 2: a rule is one of deny, ask, allow"):
        Policy(str(tmp_path / "policy"))
