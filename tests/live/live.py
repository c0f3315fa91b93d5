# SPDX-License-Identifier: MIT
"""Run the real agents with our hooks installed, against a model that is scripted.

    python3 tests/live/live.py [CLIENT ...]

Installs each client from npm into a cache folder (HOOK_IO_CLIENTS, else
~/.cache/hook-io/clients), makes a project, installs the hooks by `make install`, and
runs the client in print mode: with a server, with none, with one that is back, with the
hook's files gone, and uninstalled; with hooks.json in its other uses; with what changes
within a turn (turns.py), and with what decides (deciding.py).  Beside ours stands
somebody else's hook on every event, which writes down what fired.  Exits 1 where an
agent did not finish, an event that fired did not arrive, the hint was not shown once,
an agent's own telemetry brought no tokens, a tool ran that was refused or did not run
that was not, or the model was not told why.

clients.py says where all this runs: nothing but loopback is there.
"""

import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import deciding
import turns
from clients import (
    CLIENTS,
    FINAL,
    LOOPBACK,
    alone,
    environment,
    filled,
    hook_io,
    installed,
    isolated,
    make,
    new_project,
    raise_loopback,
    ran,
    scripted_model,
)
from server import EventServer, closed_port

ARRIVE_S = 10
HINT = re.compile(r"\d+ events in a row did not reach|events reach \S+ again; 3 were")


# What is to be seen.

#: what is asked of a run -> is our hook there, is a server; any other way: both
SCENES = {"server up": (True, True), "server dead": (True, False),
          "server back": (True, True), "files gone": (False, True),
          "uninstalled": (False, True)}


def prepare(client, scene, project):
    """Register the hooks as *scene* wants it; return what the client's call needs."""
    settings = project / hook_io.REGISTERED[client]["settings"]
    before = settings.read_bytes()
    make("install", project, client)
    if scene == "uninstalled":
        make("uninstall", project, client)
        assert settings.read_bytes() == before, "uninstall left something"
    elif scene not in SCENES:
        settings.write_bytes(before)
    if scene in ("files gone", "--plugin-dir"):
        shutil.rmtree(str(project / ".claude" / "hooks"))
    return CLIENTS[client].get("ways", {}).get(scene, [])


def play(client, program, scene, folder):
    """Run one scene; return a row of the table, its last cell what is wrong."""
    row, (hooked, up) = CLIENTS[client], SCENES.get(scene, (True, True))
    project = new_project(folder, client)
    argv = [str(program), *prepare(client, scene, project), *row["argv"]]
    with EventServer() as server, scripted_model(row["steps"]) as (model, asked):
        url = server.url if up else f"http://{LOOPBACK}:{closed_port()}/events"
        if scene == "server back":
            lose(url, folder)
        telemetry = row.get("telemetry", {}) if scene == "server up" else {}
        env = environment(client, folder, url, model)
        env.update({name: filled(value, SERVER=url[:-len("/events")])
                    for name, value in telemetry.items()})
        code, output, seconds = ran(argv, cwd=str(project), env=env)
        fired = fired_events(folder)
        arrived = arrived_events(server, fired if hooked and up else ())
        usage = [kinds for session in server.attribution.sessions()
                 for kinds in session["usage"].values()]
    hints = len(hint_lines(output))
    expected = {"server dead": row["hints"], "server back": row.get(
        "backs", row["hints"])}.get(scene, 0)
    missing = set(map(hook_io.canonical, row["fires"].split())) - set(fired)
    problems = [text for text, is_so in {
        f"exit {code}, asked {len(asked)} times": code != 0 or FINAL not in output,
        f"never fired: {sorted(missing)}": missing,
        f"fired {dict(fired - arrived)} and did not arrive": (
            hooked and up and arrived != fired),
        "arrived all the same": arrived and not (hooked and up),
        f"{hints} hints for {expected}": hints != expected,
        f"its tokens and cost did not arrive: {usage}": telemetry and not all(
            any(kinds.get(kind) for kinds in usage) for kind in (
                "input", "output", "cost")),
        "tools ran no further": len(asked) <= len(row["steps"]),
    }.items() if is_so]
    if problems:
        (folder / "output").write_text(output)
    counts = [str(sum(events.values())) for events in (fired, arrived)]
    return [client, scene, str(len(asked)), *counts, str(hints), f"{seconds:.1f}",
            "; ".join(problems) or "ok"]


def lose(url, folder):
    """Leave behind what three hooks count that have reached nobody at *url*."""
    os.environ["HOOK_IO_STATE_DIR"] = str(folder / "state")
    streak = hook_io.FailureStreak(f"send_event.{hook_io.shown_url(url)}")
    for _ in range(3):
        streak.record("PreToolUse", "refused", "earlier")


def hint_lines(output):
    """Return the lines that tell a person of losses.

    Of Claude Code's SessionStart that is the hook's response; its TUI shows the text.
    """
    return [line for line in output.splitlines() if HINT.search(line)]


def fired_events(folder):
    """Return how often each event fired, in Claude Code's words, as witnessed."""
    path = folder / "fired"
    names = path.read_text().split() if path.exists() else []
    return collections.Counter(map(hook_io.canonical, names))


def arrived_events(server, expected):
    """Return how often each event arrived; wait a while for those that fired."""
    limit = time.monotonic() + ARRIVE_S
    while len(server.events()) < sum(dict(expected).values()) and (
            time.monotonic() < limit):
        time.sleep(0.05)
    return collections.Counter(event["event_type"] for event in server.events())


def main():
    inside, names = sys.argv[1:2] == ["--inside"], sys.argv[1:]
    if inside:
        names = names[1:]
        if alone():
            raise_loopback()
        return show(names)
    names = names or list(CLIENTS)
    unknown = [name for name in names if name not in CLIENTS]
    if unknown or not shutil.which("npm"):
        sys.exit(f"[ERROR] live: {f'no client {unknown}' if unknown else 'needs npm'}")
    for name in names:
        installed(name)
    own = [sys.executable, str(Path(__file__).resolve()), "--inside", *names]
    sys.exit(subprocess.run(isolated(own)).returncode)


def scenes_of(client):
    """Yield (scene, what plays it) for all that a client can play."""
    row = CLIENTS[client]
    lacks = row.get("lacks", ())
    for scene in [*SCENES, *row.get("ways", ())]:
        yield scene, play
    for scene, (run, event) in turns.SCENES.items():
        if event in hook_io.REGISTERED[client]["hooked"].split() and event not in lacks:
            yield scene, run
    for scene in () if "deciding" in lacks else deciding.scenes_of(client):
        yield scene, deciding.play


def show(names):
    """Print the table of every client and scene; exit 1 where one is not ok."""
    kept = Path(tempfile.mkdtemp(prefix="hook-io-live-"))
    print(f"network: {'loopback alone' if alone() else 'shared; a dead proxy'}")
    form = "{:<12} {:<14} {:>5} {:>5} {:>7} {:>5} {:>6}  {}"
    print(form.format("client", "scene", "asked", "fired", "arrived", "hints", "s", ""))
    rows = []
    for name in names:
        program, version = installed(name)
        for scene, run in scenes_of(name):
            rows.append(run(name, program, scene, kept / f"{name}-{scene}"))
            print(form.format(*rows[-1]), flush=True)
        print(f"  {name} is {CLIENTS[name]['package']} {version}")
    failed = [row for row in rows if row[-1] != "ok"]
    if failed:
        sys.exit(f"[ERROR] live: {len(failed)} of {len(rows)} failed; see {kept}")
    shutil.rmtree(str(kept))


if __name__ == "__main__":
    main()
