"""An event is prepared within the budget, whatever its shape, and it still goes."""

import json

import pytest

from conftest import arrived
from hook_io import SKIPPED

SESSION = "0198c0de-0000-4000-8000-000000000001"
BUDGET_MS = "2000"  # half of it would not do for any of these, one step at a time
WORDS = "token = word password: 'x' "


def nested(depth, value):
    for _ in range(depth):
        value = json.dumps({"stdout": value})
    return value


#: what took seconds, or was lost for want of the time that it took
SHAPES = {
    "a document in a string in a string": nested(2, [
        {"a": "b", "token": f"x{n}"} for n in range(12_000)]),
    "a hundred thousand strings": [f"s{n:06}" for n in range(95_000)],
    "strings that may be flags": [f"key-{n:04}tok" for n in range(65_000)],
    "names that may be secrets": {f"token{n:05}": f"value of {n}"
                                  for n in range(32_000)},
    "beginnings of keys": ["sk-ghp_xoxb-AKIA_npm_hf_glpat-AIza " * 20] * 1_400,
    "words and quotes": ['password="' * 50] * 1_700,
    "text with names of secrets": [WORDS * 200] * 150,
    "addresses": ["://a:b" * 150] * 1_100,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_event_of_any_shape_goes_with_its_scalar_members(one_hook, server, shape):
    event = {"tool_response": SHAPES[shape], "hook_event_name": "PostToolUse",
             "tool_name": "Bash", "session_id": SESSION}
    got = one_hook.send(server.url, "--timeout-ms", BUDGET_MS, stdin=event)
    assert (got.exit, got.stdout, got.stderr) == (0, "", "")
    (seen,) = arrived(server)
    assert seen.json["session_id"] == SESSION and seen.json["tool_name"] == "Bash"


def test_what_was_not_looked_through_is_named_in_its_place(one_hook, server):
    event = {"tool_response": [WORDS * 200] * 150, "hook_event_name": "PostToolUse"}
    one_hook.send(server.url, "--timeout-ms", "100", stdin=event, event_type="Stop")
    assert SKIPPED in arrived(server)[0].json["metadata"]


def test_of_an_event_that_is_cut_the_first_thousand_members_stay(one_hook, server):
    members = {f"m{n:05}": f"value of {n}" for n in range(90_000)}
    got = one_hook.send(server.url, "--timeout-ms", BUDGET_MS, stdin={
        "hook_event_name": "PostToolUse", **members})
    assert got.stderr == ""
    body = json.loads(arrived(server)[0].json["metadata"])
    assert body["truncated"] is True and body["stdin_bytes"] > 1 << 20
    assert body["m00998"] == "value of 998" and "m01000" not in body
