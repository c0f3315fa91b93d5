# SPDX-License-Identifier: MIT
"""What the server answers to a hook that waits for a decision: rules of a file.

A rule is a line: what to answer, the tool, what it works on, in which * is any text.

    deny  Bash rm -rf*
    ask   Write *.env
    allow Read *
    wait  WebFetch *

The first rule that matches an event counts; none is no opinion.  `wait` leaves it
to a person at the page.  A # begins a comment.
"""

import fnmatch
import json

from .contract import lines_of

INTENTS = ("deny", "ask", "allow", "wait")
#: events that wait for an answer about a tool
EVENTS = ("PreToolUse", "PermissionRequest", "PreSkillShellCommand")
#: members of a tool's input that say what it works on
SUBJECTS = ("command", "file_path", "path", "url", "pattern", "query", "prompt")


class Policy:
    """The rules of a file, read once; raises ValueError for a line that is none."""

    def __init__(self, path):
        lines = [line.partition("#")[0].split(None, 2) for line in lines_of(path)]
        self.rules = []
        for number, words in enumerate(lines, 1):
            if words and (words[0] not in INTENTS or len(words) < 2):
                raise ValueError(f"{path}, line {number}: a rule is one of"
                                 f" {', '.join(INTENTS)}, a tool and a pattern")
            if words:
                self.rules.append((number, *words[:2], *(words[2:] or ["*"])))

    def decide(self, event):
        """Return our own words for an *event* as it is stored, {} for no opinion."""
        if event.get("event_type") not in EVENTS:
            return {}
        try:
            given = json.loads(event.get("metadata", "")).get("tool_input")
        except (ValueError, AttributeError):
            given = None
        texts = given if isinstance(given, dict) else {}
        subject = next((texts[name] for name in SUBJECTS
                        if isinstance(texts.get(name), str)), "")
        for number, intent, tool, pattern in self.rules:
            if fnmatch.fnmatchcase(event.get("tool_name", ""), tool) and (
                    fnmatch.fnmatchcase(subject.strip(), pattern.strip())):
                return {"intent": intent,
                        "text": f"policy, line {number}: {intent} {tool} {pattern}"}
        return {}
