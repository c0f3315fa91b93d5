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


def times_as_long(many, few):
    """Return how many times *many* lines take what *few* take, by the best of each.

    What others do on the machine makes either one longer, so both are taken in turns,
    and again only while it looks like too many times.
    """
    times = [], []
    for _ in range(10):
        for lines, seconds in zip((few, many), times):
            seconds.append(seconds_of(lines))
        if min(times[1]) < 25 * min(times[0]):
            break
    return min(times[1]) / min(times[0])


@pytest.mark.parametrize("kind", ONES)
def test_ten_times_the_events_of_a_turn_take_ten_times_the_time(kind):
    few, many = (lines_of(count, kind) for count in (300, 3000))
    ratio = times_as_long(many, few)
    assert ratio < 25, f"3,000 events take {ratio:.1f} times as long as 300"


@pytest.mark.long
def test_a_hundred_thousand_events_of_a_turn_are_told_in_bounded_time():
    few, many = (lines_of(count, "with ids") for count in (10000, 100000))
    ratio = times_as_long(many, few)
    assert ratio < 25, f"100,000 events take {ratio:.1f} times as long as 10,000"


#: what a hostile line may hold where something else is meant
HOSTILE = ("\u00b2", "9" * 400, "\ud800", "x" * 100000, "0001-01-01T00:00:00Z", -1e308,
           1 << 70, True, None, [], {}, [{"a": [{}]}], {"message": []})
MEMBERS = ("timestamp", "event_type", "session_id", "source_app", "metadata",
           "hook_event_name", "tool_name", "tool_input", "tool_use_id", "agent_id",
           "agent_type", "prompt_id", "prompt", "model", "error", "duration_ms",
           "tool_response", "trigger", "notification_type", "transcript_path")


@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_is_not_what_it_should_be_takes_nothing_else_with_it(member):
    for value in HOSTILE:
        turn = [{"hook_event_name": name, "session_id": "s", "prompt_id": "p"}
                for name in ("UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop")]
        bad = {"hook_event_name": "PostToolUse", "session_id": "s", member: value}
        kept = {"event_type": "PreToolUse", "session_id": "s", "metadata": "{}",
                member: value}
        turns = hook_io.story([*turn[:2], bad, kept, hook_io.encode(kept), *turn[2:]])
        assert "Stop" in {one["end"] for one in turns if one["session_id"] == "s"}
        assert hook_io.encode(turns)


def test_a_time_says_the_same_whichever_was_told_before_it():
    """Most of a turn is in one minute, of which the day is worked out once."""
    common = "2026-11-28T01:02:03.456Z"
    others = ["2026-11-28T01:02:04.4Z", "2026-11-28T01:03:04.456Z",
              "2026-11-28T01:02:04.456+01:00", "2026-11-28T01:02:04.456", "x" * 24,
              "2026-11-28T01:02:04.4567Z", "2026-11-28T01:02:xx.456Z",
              "2026-13-28T01:02:03.456Z", "2026-12-28T01:02:03.456Z", common + "Z"]
    alone = []
    for one in (common, *others):
        hook_io.Turns.minute = ("", 0)
        alone.append(hook_io.Turns.moment_ms(one))
    assert alone[0] == 1795827723456 and alone[4] - alone[3] == 3600000
    for one, ms in zip(others, alone[1:]):
        assert hook_io.Turns.moment_ms(common) == alone[0]
        assert hook_io.Turns.moment_ms(one) == ms
        assert hook_io.Turns.moment_ms(common) == alone[0]


def test_events_of_one_form_have_the_agent_that_each_of_them_has_alone():
    """What the signs ask for beside a member's presence is part of an event's form."""
    words = {word.lstrip("-") for row in hook_io.PLATFORMS.values()
             for sign in row.get("signs", ()) for word in sign.split()}
    asked = {word.replace("~", "=").partition("=")[0].partition("[")[0]
             for word in words if "=" in word or "~" in word}
    assert asked == {*hook_io.SIGNING}
