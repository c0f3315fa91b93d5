"""However much there is of a turn, its story takes no more than its share of time."""

import time

import pytest

import hook_io

ONES = ("with ids", "without ids", "of questions", "of subagents")


def lines_of(count, kind):
    """Return the log's lines of one turn that has so many events."""
    names = {"of questions": ("PermissionRequest", "PreToolUse"),
             "of subagents": ("SubagentStart", "SubagentStop")}.get(
                 kind, ("PreToolUse", "PostToolUse"))
    lines = []
    for n in range(count):
        said = {"hook_event_name": names[n % 2], "tool_name": "Bash",
                "tool_input": {"command": str(n // 2 % 50)}}
        said.update({"with ids": {"tool_use_id": f"t-{n // 2}"},
                     "of subagents": {"agent_id": f"a-{n // 2}"}}.get(kind, {}))
        lines.append(hook_io.encode({
            "timestamp": f"2026-11-28T01:{n // 6000:02}:{n // 100 % 60:02}.000Z",
            "source_app": "demo", "session_id": "s", "event_type": names[n % 2],
            "metadata": hook_io.encode(said)}))
    return lines


def seconds_of(lines):
    began = time.process_time()
    turns = hook_io.story(lines)
    took = time.process_time() - began
    assert sum(turn["counts"]["events"] for turn in turns) == len(lines)
    return took


@pytest.mark.parametrize("kind", ONES)
def test_ten_times_the_events_of_a_turn_take_ten_times_the_time(kind):
    few, many = (lines_of(count, kind) for count in (300, 3000))
    ratio = seconds_of(many) / min(seconds_of(few) for _ in range(3))
    assert ratio < 25, f"3,000 events take {ratio:.1f} times as long as 300"


def test_a_hundred_thousand_events_of_a_turn_are_told_in_bounded_time():
    few, many = (lines_of(count, "with ids") for count in (10000, 100000))
    ratio = seconds_of(many) / seconds_of(few)
    assert ratio < 25, f"100,000 events take {ratio:.1f} times as long as 10,000"
