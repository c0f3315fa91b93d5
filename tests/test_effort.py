"""An event is prepared within the budget, whatever its shape, and it still goes."""

import contextlib
import json
import os
import time

import pytest

import hook_io
import hostile
from conftest import arrived, timed
from hook_io import SKIPPED

BUDGET_MS = "2000"  # half of it would not do for most of these, one step at a time


@pytest.mark.parametrize("shape", hostile.SHAPES)
@timed
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


@timed
def test_what_was_not_looked_through_is_named_in_its_place(one_hook, server):
    event = hostile.shaped("text with names of secrets")
    one_hook.send(server.url, "--timeout-ms", "100", stdin=event, event_type="Stop")
    assert SKIPPED in arrived(server)[0].json["metadata"]


@timed
def test_of_an_event_that_is_cut_the_first_thousand_members_stay(one_hook, server):
    members = {f"m{n:05}": f"value of {n}" for n in range(90_000)}
    got = one_hook.send(server.url, "--timeout-ms", BUDGET_MS, stdin={
        "hook_event_name": "PostToolUse", **members})
    assert got.stderr == ""
    body = json.loads(arrived(server)[0].json["metadata"])
    assert body["truncated"] is True and body["stdin_bytes"] > 1 << 20
    assert body["m00998"] == "value of 998" and "m01000" not in body


def test_an_event_whose_parts_end_like_an_object_is_parsed_anew_as_it_doubles(
        monkeypatch):
    part = b'{"a":"' + b"x" * 1000 + b'"}'
    size = len(part) + 1
    data = b'{"hook_event_name":"Stop","l":[' + b",".join([part] * 999)
    chunks = [data[:size * 2]] + [data[at:at + size * 20] for at in range(
        size * 2, len(data), size * 20)] + [b"]}"]
    chunks = [chunk[:chunk.rfind(b"}") + 1] + b" " for chunk in chunks if chunk]
    sizes, parse = [], hook_io.Stdin.event
    monkeypatch.setattr(hook_io.Stdin, "_read", lambda stdin, deadline: (
        chunks.pop(0) if chunks else b""))
    monkeypatch.setattr(hook_io.Stdin, "is_ready", lambda stdin: bool(chunks))
    monkeypatch.setattr(hook_io.Stdin, "event", lambda stdin: (
        sizes.append(stdin.total), parse(stdin))[1])
    read, write = os.pipe()
    try:
        with contextlib.suppress(hook_io.InputError):
            hook_io.read_event(read)
    finally:
        os.close(read)
        os.close(write)
    assert all(later >= 2 * earlier for earlier, later in zip(sizes, sizes[1:-2]))
    assert len(sizes) < 14
