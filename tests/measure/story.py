"""Measure the story of a turn and its export, in process.

    python tests/measure/story.py [--turns N] [--stops N]

Prints time and memory of story() for 10,000 events; the time of an export to a text
file for one turn more on top of an event log of nearly 64 MiB, median and p99, by
somebody who had no session before and by one who had a hundred, beside that of nothing
but such a file put in the place of another, which a file system may take longer for
than all the rest; and what a Stop costs the agent whose export is detached, beside one
that delivers detached.  TMPDIR says where: a folder in memory leaves the disk out.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median

TESTS = os.path.realpath(os.path.join(__file__, "../.."))
sys.path[:0] = [os.path.dirname(TESTS), TESTS]
import hook_io
from errands import errand

EVENTS = 10000
SCRIPT = Path(hook_io.__file__).with_name("send_event.py")
SETTLED_S = 0.4  # after which a detached process is done, and takes no time of the next
LOG_BYTES = hook_io.LOG_MAX_BYTES - (1 << 21)  # so that it is not rotated on the way


def lines_of(session, prompt, calls):
    """Return the log's lines of one turn."""
    ids = [f"t-{prompt}-{n}" for n in range(calls)]
    events = [("UserPromptSubmit", {"prompt": "a"}), *(
        (name, {"tool_name": "Bash", "tool_input": {"command": "ls"},
                "tool_use_id": one})
        for one in ids for name in ("PreToolUse", "PostToolUse")), ("Stop", {})]
    now = hook_io.Wire.instant(time.time_ns())
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


def timed(do, *args):
    """Return what *do* returns, and the seconds that takes, wall and processor."""
    started, cpu = time.perf_counter(), time.process_time()
    result = do(*args)
    return result, (time.perf_counter() - started, time.process_time() - cpu)


def remember(folder, sessions):
    """Leave the ledger of somebody who had so many sessions, and many answers."""
    ids = [hook_io.Spans.hash(hook_io.ID_CHARS, str(number))
           for number in range(hook_io.ANSWERS_KEPT)]
    ledger = hook_io.Ledger(folder)
    ledger.take(0, {})
    for number in range(sessions):
        ledger.session(ids[number]).update(
            log=[number, 0], done="".join(ids[-hook_io.IDS_KEPT:]))
    ledger.state["usage"] = "".join(f";{one} 1000 100 100000 0" for one in ids)
    ledger.save()
    ledger.leave()


def exports(folder, turns, sessions=0):
    """Return the seconds that each of so many exports takes, and a bare file's.

    sessions: that were there before.
    """
    log, took, bare = Path(folder, "events.jsonl"), [], []
    block = "\n".join(lines_of("other", 0, 500)) + "\n"
    log.write_text(block * (LOG_BYTES // len(block)))
    os.environ["HOOK_IO_STATE_DIR"] = folder
    if sessions:
        remember(folder, sessions)
    event = hook_io.normalise({"hook_event_name": "Stop", "session_id": "s"})
    for turn in range(turns):
        with log.open("a") as file:
            file.write("\n".join(lines_of("s", turn, 5)) + "\n")
        this = errand("Stop", "demo", event_log=str(log), export="textfile",
                      textfile_dir=folder, time_ns=time.time_ns())
        result, seconds = timed(hook_io.Export.result, event, this)
        assert result.diagnostics[-1] == "1 turns exported", result.diagnostics
        took.append(seconds)
        data = Path(folder, hook_io.PROM_FILE).read_bytes()
        bare.append(timed(hook_io.WholeFile.write, str(Path(folder, "bare")), data)[1])
    return took, bare


def stop(argv, env):
    """Return the seconds, wall and processor, for which an agent waits at a Stop."""
    event = {"hook_event_name": "Stop", "session_id": "s", "prompt_id": "1",
             "transcript_path": "/none/.claude/projects/x.jsonl"}
    started = time.perf_counter()
    hook = subprocess.Popen(
        [sys.executable, "-IS", str(SCRIPT), "--source-app", "demo",
         "--event-type", "Stop", *argv], env=env,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    hook.stdin.write(json.dumps(event).encode())
    hook.stdin.close()
    _, hook.returncode, used = os.wait4(hook.pid, 0)
    took = time.perf_counter() - started
    assert hook.returncode == 0
    return took, used.ru_utime + used.ru_stime


def stops(folder, rounds):
    """Return {how: the seconds of each Stop}, one of each kind after the other.

    Whoever delivers finds no server: the agent's wait ends before that is known.
    """
    env = {"HOME": folder, "HOOK_IO_STATE_DIR": folder, "HOOK_IO_FAIL_LOUD": "off",
           "HOOK_IO_SERVER_URL": "http://127.0.0.1:9", "HOOK_IO_EXPORT": "textfile",
           "HOOK_IO_EVENT_LOG": str(Path(folder, "stops.jsonl")),
           "HOOK_IO_TEXTFILE_DIR": folder}
    Path(folder, "stops.jsonl").write_text("\n".join(lines_of("s", 1, 5)) + "\n")
    ways = {"delivery detached": ["--background"],
            "export detached": ["--export", "--background"]}
    took = {way: [] for way in ways}
    for _ in range(rounds):
        for way, argv in ways.items():
            took[way].append(stop(argv, env))
            time.sleep(SETTLED_S)
    prom = Path(folder, hook_io.PROM_FILE).read_text()
    assert "hook_io_turns_total" in prom, "no detached export has come to its end"
    return took


def show(what, took):
    """Print the median and the p99 of (wall, processor) seconds."""
    for clock, seconds in zip(("wall", "processor"), map(sorted, zip(*took))):
        p99 = seconds[len(seconds) * 99 // 100]
        print(json.dumps({what: clock, "median_ms": round(median(seconds) * 1000, 2),
                          "p99_ms": round(p99 * 1000, 2)}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=300)
    parser.add_argument("--stops", type=int, default=60)
    options = parser.parse_args()
    gc.disable()  # as a hook's own process does
    seconds, peak = told()
    print(json.dumps({"story_10000_events_ms": round(seconds * 1000),
                      "story_10000_events_peak_mb": round(peak / 1e6, 1)}))
    for sessions in (0, hook_io.SESSIONS_MAX):
        with tempfile.TemporaryDirectory() as folder:
            took, bare = exports(folder, options.turns, sessions)
        show(f"export after {sessions} sessions", took)
    show("its file alone", bare)
    with tempfile.TemporaryDirectory() as folder:
        for way, took in stops(folder, options.stops).items():
            show(f"Stop, {way}", took)


if __name__ == "__main__":
    main()
