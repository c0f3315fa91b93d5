# SPDX-License-Identifier: MIT
"""Scenes in which a server, or a person's own hook, decides what a real agent may do.

The model calls the agent's shell once for each word of CALLS; its command notes the
word, so that what ran is seen by what is noted.  What an agent was told is seen in what
its model is asked next.
"""

import contextlib
import json
import time
from collections import namedtuple

from clients import (
    CLIENTS,
    PROMPT,
    environment,
    filled,
    install,
    new_project,
    ran,
    scripted_model,
)
from hook_io import PLATFORMS, REGISTERED
from server import EventServer

NOTED, SILENCE_S, WAIT_MS = "noted.txt", 20, 1500
COMMAND = f"echo {{}} >> {NOTED}"

#: what a command notes -> what is answered to it
ANSWERS = {
    "plain": {},
    "refused": {"intent": "deny", "text": "REFUSED by the policy"},
    "doubted": {"intent": "ask", "text": "DOUBTED by the policy"},
    "allowed": {"intent": "allow", "text": "allowed by the policy"},
    "changed": {"intent": "rewrite",
                "tool_input": {"command": COMMAND.format("rewritten")}},
}
BACK_TO_WORK = {"intent": "block", "text": "UNTESTED: run the tests"}
ALL = " ".join(ANSWERS)
TOLD = "REFUSED DOUBTED UNTESTED"
CLOSED = {"HOOK_IO_DECIDE_FAIL": "closed"}
SERVER = ("--source-app", "live", "--decide")
GUARD = ("--hook", "$GUARD", "--event", "PreToolUse", "--matcher", "Bash",
         "--fail", "closed")
SKILL = "---\nallowed-tools: Bash(echo:*)\n---\nIt says: !`{}`\n"

#: what is installed, the hook's own variables, what goes wrong as the model is first
#: asked, the words of the calls, those that are noted, and what the model is told;
#: told None: the model is not asked at all.  skill: the word of a command that a skill
#: runs by itself, of which the person's prompt is the name
Scene = namedtuple("Scene", "install env trouble calls noted told skill", defaults=[""])
SCENES = {
    "decides": Scene(SERVER, {}, "", ALL, "plain allowed changed", TOLD),
    "decides, full": Scene(SERVER, {"HOOK_IO_DECIDE": "full"}, "", ALL,
                           "plain allowed rewritten", TOLD),
    "dies, open": Scene(SERVER, {}, "dies", "refused", "refused", ""),
    "dies, closed": Scene(SERVER, CLOSED, "dies", "plain", "", "refused) closed"),
    "silent, open": Scene(SERVER, {}, "silent", "refused", "refused", ""),
    "silent, closed": Scene(SERVER, CLOSED, "silent", "plain", "", "answer closed"),
    "dead, closed": Scene(SERVER, CLOSED, "dead", "plain", "", None),
    "skill": Scene(SERVER, {}, "", "", "plain", "UNTESTED", "plain"),
    "skill, denied": Scene(SERVER, {}, "", "", "", "REFUSED UNTESTED", "refused"),
    "own hook": Scene(GUARD, {}, "", "plain refused", "plain", "REFUSED"),
    "own, gone": Scene(GUARD, {}, "gone", "plain", "", "could not run"),
    "own, local": Scene((*GUARD, "--local"), {}, "", "plain refused", "plain",
                        "REFUSED"),
}
OWN_HOOK = """
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hook_io

def guard(event):
    calls, unclear = hook_io.commands(event["tool_input"]["command"])
    if unclear or ["echo", "refused"] in calls:
        return hook_io.deny("REFUSED by a person's own hook")
    return hook_io.NOTHING

hook_io.run(guard, "guard", fail="closed")
"""


class Judge:
    """A policy that knows what is to happen with each word; silent when told to be."""

    def __init__(self):
        self.silence_s = 0

    def begin_silence(self):
        self.silence_s = SILENCE_S

    def decide(self, event):
        time.sleep(self.silence_s)
        if event["event_type"] == "Stop":
            return BACK_TO_WORK  # always: to let go is the hook's own duty
        if event["event_type"] not in ("PreToolUse", "PreSkillShellCommand"):
            return {}
        return next((answer for word, answer in ANSWERS.items()
                     if COMMAND.format(word) in event["metadata"]), {})


def scenes_of(client):
    """Return the scenes that a client can play: not each has skills, or settings of
    one person."""
    can = {"skill": "PreSkillShellCommand" in PLATFORMS[client]["events"],
           "local": "local" in REGISTERED[client]}
    return [name for name, scene in SCENES.items() if
            (can["skill"] or not scene.skill) and
            (can["local"] or "--local" not in scene.install)]


def prepare(client, scene, folder):
    """Return a project with what the scene wants installed, and what is to be run."""
    project, argv = new_project(folder, client), CLIENTS[client]["argv"]
    (folder / "guard.py").write_text(OWN_HOOK)
    install(project, client, *(filled(word, GUARD=folder / "guard.py")
                               for word in scene.install))
    if scene.skill:
        (project / ".claude" / "commands").mkdir()
        (project / ".claude" / "commands" / "probe.md").write_text(
            SKILL.format(COMMAND.format(scene.skill)))
        argv = ["/probe" if word == PROMPT else word for word in argv]
    return project, argv


def run(client, program, scene, folder):
    """Run a scene; return what the model was asked, exit, output and seconds."""
    project, argv = prepare(client, scene, folder)
    tool, member = CLIENTS[client]["shell"]
    steps = [(tool, {member: COMMAND.format(word)}) for word in scene.calls.split()]
    asked, judge = [], Judge()
    with contextlib.ExitStack() as server:
        url = server.enter_context(EventServer(policy=judge)).url
        troubles = {"dies": server.close, "silent": judge.begin_silence,
                    "gone": (project / ".claude" / "hooks" / "guard.py").unlink}
        if scene.trouble == "dead":
            server.close()

        def seen(body):
            if not asked:
                troubles.get(scene.trouble, int)()
            asked.append(json.dumps(body))

        with scripted_model(steps, seen=staticmethod(seen)) as (model, _):
            env = {**environment(client, folder, url, model), **scene.env,
                   "HOOK_IO_DECIDE_TIMEOUT_MS": str(WAIT_MS)}
            done = ran([str(program), *argv], cwd=str(project), env=env)
    return (asked, *done)


def play(client, program, name, folder):
    """Run one scene; return a row of the table, its last cell what is wrong."""
    scene = SCENES[name]
    asked, code, output, seconds = run(client, program, scene, folder)
    notes = folder / "project" / NOTED
    noted = notes.read_text().split() if notes.exists() else []
    problems = [text for text, is_so in {
        f"exit {code}": code != (
            CLIENTS[client].get("refused", 0) if scene.told is None else 0),
        f"ran {noted}": noted != scene.noted.split(),
        f"asked {len(asked)} times": len(asked) != turns(scene),
        f"not told {untold(scene, asked)} in time": untold(scene, asked),
    }.items() if is_so]
    if problems:
        (folder / "output").write_text("\n\n".join([output, *asked]))
    return [client, name, str(len(asked)), "-", "-", "-", f"{seconds:.1f}",
            "; ".join(problems) or "ok"]


def turns(scene):
    """Return how often the model is to be asked: a Stop is blocked once, not again."""
    if scene.told is None:
        return 0
    return len(scene.calls.split()) + 1 + ("UNTESTED" in scene.told)


def untold(scene, asked):
    """Return which words of what the model is to be told are not in what it is asked
    right after the call that has the word, or, where none has, last."""
    calls, words = scene.calls.split(), (scene.told or "").split()
    when = {word: calls.index(word.lower()) + 1 if word.lower() in calls else -1
            for word in words}
    return [word for word, at in when.items()
            if len(asked) <= max(at, 0) or word not in asked[at]]
