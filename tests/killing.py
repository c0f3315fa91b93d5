"""Export a turn, and be killed at each step of it that anybody else can see.

    PYTHONPATH=.:tests python tests/killing.py FOLDER KINDS [URL]

Prints a line of JSON for each step: its name, the text file's samples after the kill
and after the export that follows, and the losses that are in the streaks by then.  The
last line of each kind of kill is of an export that nobody killed.  Each export has a
turn of its own session to tell, and one that an export of another session left.
"""

import json
import os
import sys
from pathlib import Path

import hook_io
from errands import NOW_NS, errand

STEPS = ("open", "write", "close", "replace", "unlink", "chmod", "ftruncate")


class Dying:
    """os, which ends the process before a step, or where half is written."""

    def __init__(self, last, is_half):
        self.left, self.is_half = last, is_half

    def __getattr__(self, name):
        call = getattr(os, name)
        return self._step(name, call) if name in STEPS else call

    def _step(self, name, call):
        def step(*args, **named):
            self.left -= 1
            if self.left == 0:
                if self.is_half and name == "write":
                    os.write(args[0], args[1][:len(args[1]) // 2])
                os.write(2, name.encode())
                os.kill(os.getpid(), 9)
            return call(*args, **named)
        return step


def export(folder, prompt, kinds, url, system=os, ledger_bytes=1 << 18):
    """Export a turn in a process of its own; return how that ended, and its step."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writer, 2)
        hook_io.os, hook_io.LEDGER_MAX_BYTES = system, ledger_bytes
        hook_io.SESSIONS_AT_HAND = 1  # so that the other one is put away
        hook_io.TELLING_MS = 10**6  # a busy machine hurries nothing
        event = {"hook_event_name": "Stop", "session_id": "s", "prompt_id": prompt}
        hook_io.Export.result(hook_io.normalise(event), errand(
            "Stop", "demo", event_log=str(folder / "events.jsonl"), export=kinds,
            export_url=url, export_headers=f"X-Step: {folder.name}",
            textfile_dir=str(folder), time_ns=NOW_NS))
        os._exit(0)
    os.close(writer)
    status = os.waitpid(child, 0)[1]
    with open(reader) as said:
        return status, said.read()


def leave(folder, session):
    """Leave word of a session, as an export does that has no turn at the ledger."""
    word = (session, "Stop", "raw", str(folder / "events.jsonl"), "")
    (folder / "state" / f"export.json.late.{session}").write_text(
        json.dumps(dict(zip(hook_io.LEFT, word))))


def log(folder, prompt, session="s"):
    """Add one turn to the event log: a prompt, a call and its end."""
    call = {"tool_name": "Bash", "tool_use_id": f"t-{prompt}"}
    with (folder / "events.jsonl").open("a") as file:
        for event, members in (("UserPromptSubmit", {"prompt": "a"}),
                               ("PreToolUse", call),
                               ("PostToolUse", {**call, "duration_ms": 9}),
                               ("Stop", {})):
            file.write(hook_io.encode({
                "timestamp": hook_io.Wire.instant(NOW_NS), "source_app": "demo",
                "event_type": event, "session_id": session, "metadata": hook_io.encode({
                    "hook_event_name": event, "session_id": session,
                    "prompt_id": prompt, **members})}) + "\n")


def told(folder):
    """Return the text file's samples that count something; it is always whole."""
    text = (folder / hook_io.PROM_FILE).read_text()
    assert text.endswith("\n"), text
    return sorted(line for line in text.splitlines() if "_total" in line[:60] and (
        line[:1] != "#"))


def killed_at(folder, step, is_half, ledger_bytes, kinds, url):
    """Return what became of the export of a second turn that is killed at a step."""
    folder.mkdir()
    os.environ["HOOK_IO_STATE_DIR"] = str(folder / "state")
    log(folder, "p-1")
    assert export(folder, "p-1", kinds, url) == (0, "")
    log(folder, "p-2")
    log(folder, "p-3", "late")
    leave(folder, "late")
    status, name = export(
        folder, "p-2", kinds, url, Dying(step, is_half), ledger_bytes)
    after = told(folder)
    assert status in (0, 9), (status, name)
    for _ in range(2):  # the last one adds nothing
        assert export(folder, "p-2", kinds, url) == (0, "")
    names = [path.name for path in (folder / "state").iterdir()]
    assert not [one for one in names if ".late." in one], names
    losses = [(folder / "state" / one).stat().st_size // hook_io.RECORD_BYTES
              for one in names if not one.startswith("export.json")]
    return {"app": folder.name, "step": name, "after": after, "then": told(folder),
            "losses": sum(losses)}


def main():
    folder, kinds, url = Path(sys.argv[1]), sys.argv[2], "".join(sys.argv[3:])
    for kind, is_half, ledger_bytes in (
            ("", False, 1 << 18), ("-half", True, 1 << 18), ("-anew", True, 1)):
        step, name = 0, "first"
        while name:
            step += 1
            found = killed_at(folder / f"{step}{kind}", step, is_half, ledger_bytes,
                              kinds, url)
            name = found["step"]
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
