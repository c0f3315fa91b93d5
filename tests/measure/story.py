"""Measure the story of a turn and its export, in process.

    python tests/measure/story.py [--turns N]

Prints time and memory of story() for 10,000 events, and the time of an export to a text
file for one turn more on top of an event log of nearly 64 MiB: median and p99.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median

sys.path.insert(0, os.path.realpath(os.path.join(__file__, "../../..")))
import hook_io

EVENTS = 10000
LOG_BYTES = hook_io.LOG_MAX_BYTES - (1 << 21)  # so that it is not rotated on the way


def lines_of(session, prompt, calls):
    """Return the log's lines of one turn."""
    ids = [f"t-{prompt}-{n}" for n in range(calls)]
    events = [("UserPromptSubmit", {"prompt": "a"}), *(
        (name, {"tool_name": "Bash", "tool_input": {"command": "ls"},
                "tool_use_id": one})
        for one in ids for name in ("PreToolUse", "PostToolUse")), ("Stop", {})]
    now = hook_io._instant(time.time_ns())
    return [hook_io.encode({
        "timestamp": now, "source_app": "demo", "event_type": name, "summary": "x",
        "session_id": session, "metadata": hook_io.encode({
            "hook_event_name": name, "session_id": session, "prompt_id": str(prompt),
            "transcript_path": "/none/.claude/projects/x.jsonl", **members})})
        for name, members in events]


def told():
    """Return (seconds, bytes at the most) of a story of 10,000 events."""
    lines = lines_of("s", 1, EVENTS // 2 - 1)
    started = time.perf_counter()
    hook_io.story(lines)
    took = time.perf_counter() - started
    tracemalloc.start()
    hook_io.story(lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return took, peak


def exports(folder, turns):
    """Return the seconds, wall and processor, that each of so many exports takes."""
    log, took = Path(folder, "events.jsonl"), []
    block = "\n".join(lines_of("other", 0, 500)) + "\n"
    log.write_text(block * (LOG_BYTES // len(block)))
    os.environ["HOOK_IO_STATE_DIR"] = folder
    event = hook_io.normalise({"hook_event_name": "Stop", "session_id": "s"})
    for turn in range(turns):
        with log.open("a") as file:
            file.write("\n".join(lines_of("s", turn, 5)) + "\n")
        options = dict.fromkeys((
            "session_id", "export_url", "export_headers", "server_url", "spool_dir",
            "background", "export_content", "user", "summary", "metadata", "key"), "")
        options.update(
            env={}, notes=[], event_log=str(log), export="textfile", is_away=False,
            textfile_dir=folder, event_type="Stop", time_ns=time.time_ns(), name="x",
            source_app="demo", format="events", agent="claude-code",
            fail_loud_threshold="3")
        started, cpu = time.perf_counter(), time.process_time()
        result = hook_io._export(event, options)
        took.append((time.perf_counter() - started, time.process_time() - cpu))
        assert result.diagnostics[-1] == "1 turns exported", result.diagnostics
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=300)
    options = parser.parse_args()
    seconds, peak = told()
    print(json.dumps({"story_10000_events_ms": round(seconds * 1000),
                      "story_10000_events_peak_mb": round(peak / 1e6, 1)}))
    with tempfile.TemporaryDirectory() as folder:
        took = exports(folder, options.turns)
    for what, seconds in zip(("wall", "processor"), map(sorted, zip(*took))):
        p99 = seconds[len(seconds) * 99 // 100]
        print(json.dumps({"export": what, "median_ms": round(median(seconds) * 1000, 2),
                          "p99_ms": round(p99 * 1000, 2)}))


if __name__ == "__main__":
    main()
