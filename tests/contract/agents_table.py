# SPDX-License-Identifier: MIT
"""Write agents-table.json: what hook_io knows of agents, for a port in any language.

    python3 tests/contract/agents_table.py

tests/contract/README.md, "The agents, as a table", says what its members mean.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
import hook_io

TABLE = HERE / "agents-table.json"
#: of a row of PLATFORMS, what is told as it is
AS_IT_IS = ("measured", "provider", "adapter", "infer", "fields", "tools",
            *hook_io.INTENTS)


def sign(words):
    """Return what has to hold of an event, one object for each of *words*."""
    found = []
    for word in words.split():
        name, mark, texts = word.lstrip("-").replace("~", "=~").partition("=")
        name, _, at = name.partition("[")
        has = "contains" if texts[:1] == "~" else "is"
        found.append({
            "member": name, **({"not": True} if word[0] == "-" else {}),
            **({"character": int(at[:-1])} if at else {}),
            **({has: texts.lstrip("~").split("|")} if mark else {})})
    return found


def event(text):
    """Return Claude Code's name of an event, and the tool where the event says it."""
    name, _, tool = text.partition(" ")
    return {"event": name, **({"tool": tool} if tool else {})}


def table():
    """Return the whole table as a JSON value."""
    agents = [{
        "agent": agent, "signs": [sign(words) for words in row.get("signs", ())],
        "events": {name: event(text) for name, text in row["events"].items()},
        **{name: row[name] for name in AS_IT_IS if name in row},
    } for agent, row in hook_io.PLATFORMS.items()]
    return {
        "agents": agents, "summaries": hook_io.SUMMARIES,
        "subjects": list(hook_io.SUBJECTS), "gram_events": hook_io.GRAM_EVENTS,
        "fallbacks": [{"intent": intent, "event": name, "says": says}
                      for (intent, name), says in hook_io.FALLBACKS.items()]}


def text():
    """Return the table as it stands in the file."""
    return json.dumps(table(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TABLE.write_text(text(), encoding="utf-8")
