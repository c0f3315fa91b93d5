"""Print each point at which the two files emit: its intent, its channel, who reads it.

    python3 tests/contract/audit.py

Read from the code, as a table of Markdown.  That nothing else emits is held by
tests/test_style.py.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
import hook_io

#: what emits -> intent, channel, who reads it
EMITS = {
    "emit_diagnostic": (hook_io.DIAGNOSTIC, "stderr", "who runs the agent"),
    "emit_model_context": (hook_io.MODEL_CONTEXT, "stdout, one document",
                           "the agent: the model, or the person beside it"),
    "emit_text": (hook_io.USER_HINT, "stdout, text", "a person at a terminal"),
    "say": (hook_io.USER_HINT, "stdout, text", "a person at a terminal"),
    "emit_blocking_error": (hook_io.BLOCKING_FEEDBACK, "stderr and exit 2",
                            "the model"),
    "exit_graceful": (hook_io.EXIT_SIGNAL, "exit 0", "the agent"),
    "exit_failed": (hook_io.EXIT_SIGNAL, "exit 1", "a person's shell"),
    "sys.exit": (hook_io.EXIT_SIGNAL, "exit 0 or 1", "a person's shell"),
    "os._exit": (hook_io.EXIT_SIGNAL, "exit", "the agent, or nobody in the background"),
}
#: constructors of a result -> the intent that it carries to the emitter
RESULTS = {
    "context": hook_io.MODEL_CONTEXT, "hint": hook_io.USER_HINT,
    "with_user_hint": hook_io.USER_HINT, "deny": hook_io.BLOCKING_FEEDBACK,
    "block": hook_io.BLOCKING_FEEDBACK,
}


def named(call):
    """Return what a *call* calls: a.b of a module, else the last name alone."""
    func = call.func
    if isinstance(func, ast.Attribute):
        owner = getattr(func.value, "id", "")
        return f"{owner}.{func.attr}" if owner in ("os", "sys") else func.attr
    return getattr(func, "id", "")


def points(path):
    """Yield (line, what emits, intent, channel, reader) of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        name = named(node) if isinstance(node, ast.Call) else ""
        if name in EMITS:
            yield (node.lineno, name, *EMITS[name])
        elif name in RESULTS:
            yield (node.lineno, name, RESULTS[name], "a HookResult", "run()")


def main():
    print("| where | what emits | intent | channel | who reads it |")
    print("|---|---|---|---|---|")
    for file in ("hook_io.py", "send_event.py"):
        for line, *cells in sorted(points(ROOT / file)):
            print(f"| {file}:{line} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
