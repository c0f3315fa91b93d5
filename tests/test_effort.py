"""An event is prepared within the budget, whatever its shape, and it still goes."""

import json
import time

import pytest

import hook_io
import hostile
from conftest import arrived
from hook_io import SKIPPED

BUDGET_MS = "2000"  # half of it would not do for most of these, one step at a time


@pytest.mark.parametrize("shape", hostile.SHAPES)
def test_an_event_of_any_shape_goes_with_its_scalar_members(one_hook, server, shape):
    got = one_hook.send(server.url, "--timeout-ms", BUDGET_MS,
                        event_type="PostToolUse", stdin=hostile.shaped(shape))
    assert (got.exit, got.stdout, got.stderr) == (0, "", "")
    body = arrived(server)[0].json
    assert (body["session_id"], body["tool_name"]) == (hostile.SHAPE_SESSION, "Bash")


@pytest.mark.parametrize("late_s", [0, 1, 3600])
def test_what_a_busy_processor_held_up_is_sent_all_the_same(server, late_s):
    deadline = time.monotonic() - late_s
    assert hook_io.post_json(server.url, b"{}", deadline).name != "timed_out"
    assert arrived(server)[0].body == b"{}"


def test_what_was_not_looked_through_is_named_in_its_place(one_hook, server):
    event = hostile.shaped("text with names of secrets")
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
