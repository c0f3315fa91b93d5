# SPDX-License-Identifier: MIT
"""Scenes of one turn: a server that comes back in it, and an API that ends it."""

import collections
import contextlib
import json
import re

from clients import (
    CLIENTS,
    FINAL,
    LOOPBACK,
    Model,
    environment,
    make,
    new_project,
    ran,
    scripted_model,
)
from server import EventServer, closed_port

AGAIN = re.compile(r"events reach \S+ again; [3-9] were lost")
LOST_TURNS = 2  # requests of the model, until the server is back
ERRORS = 20
ERROR = b'{"type":"error","error":{"type":"invalid_request_error","message":"LIVE"}}'


class FailingModel(Model):
    """Ends a turn by an error once the tools of its steps have answered."""

    def play(self, body, events):
        if FINAL in json.dumps(events):
            return self.answer(ERROR, "json", "400 Bad Request")
        return super().play(body, events)


def play_back(client, program, name, folder):
    """Let the server come back in a turn: a person is told by its end."""
    row, project, port = CLIENTS[client], new_project(folder, client), closed_port()
    make("install", project, client)
    asked = []
    with contextlib.ExitStack() as server:
        def seen(body):
            asked.append(body)
            if len(asked) == LOST_TURNS + 1:
                server.enter_context(EventServer(port=port))

        steps = row["steps"][:1] * (LOST_TURNS + 1)
        with scripted_model(steps, seen=staticmethod(seen)) as (model, _):
            url = f"http://{LOOPBACK}:{port}/events"
            env = environment(client, folder, url, model)
            code, output, seconds = ran(
                [str(program), *row["argv"]], cwd=str(project), env=env)
    told = len(AGAIN.findall(output))
    problems = [text for text, is_so in {
        f"exit {code}": code != 0 or FINAL not in output,
        f"told {told} times": told != row["hints"]}.items() if is_so]
    (folder / "output").write_text(output)
    return [client, name, str(len(asked)), "-", "-", str(told),
            f"{seconds:.1f}", "; ".join(problems) or "ok"]


def play_errors(client, program, name, folder):
    """End sessions by an error of the API: each event arrives, the last one too."""
    row, project = CLIENTS[client], new_project(folder, client)
    make("install", project, client)
    total_s = 0
    with EventServer() as server, scripted_model(
            row["steps"][:1], FailingModel) as (model, asked):
        env = environment(client, folder, server.url, model)
        for _ in range(ERRORS):
            total_s += ran([str(program), *row["argv"]], cwd=str(project), env=env)[2]
        fired = (folder / "fired").read_text().split()
        with contextlib.suppress(AssertionError):
            server.wait(len(fired), 10)
        arrived = [event["event_type"] for event in server.events()]
    lost = collections.Counter(fired) - collections.Counter(arrived)
    ends = (fired.count("StopFailure"), arrived.count("StopFailure"))
    problems = [text for text, is_so in {
        f"StopFailure: {ends[0]} fired, {ends[1]} arrived": ends != (ERRORS, ERRORS),
        f"lost {dict(lost)}": lost}.items() if is_so]
    return [client, name, str(len(asked)), str(len(fired)),
            str(len(arrived)), "-", f"{total_s:.1f}", "; ".join(problems) or "ok"]


#: scene -> what plays it, and an event that an agent has to have for it
SCENES = {"back in turn": (play_back, "SessionStart"),
          f"{ERRORS} API errors": (play_errors, "StopFailure")}
