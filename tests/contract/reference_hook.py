"""Do what the arguments say: the hook that the contract `hook 1.0` is tried on.

    python3 reference_hook.py [--fail-closed] [--print TEXT] [--warn TEXT]
                              [--child TEXT] [--twice] INTENT [TEXT ...]
    python3 reference_hook.py --version

INTENT: a key of INTENTS.  A TEXT `@prompt` stands for the event's member `prompt`.
The contract: tests/contract/README.md, "The hook contract's command".
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.realpath(os.path.join(__file__, "../../..")))
import hook_io

CHILD = "import os, sys; [os.write(fd, sys.argv[1].encode() + b'\\n') for fd in (1, 2)]"


def start_child(text):
    subprocess.run([sys.executable, "-c", CHILD, text], check=True)


#: option -> what the handler does with its text before it answers
NOISES = {
    "--print": print,
    "--warn": lambda text: print(text, file=sys.stderr),
    "--child": start_child,
}


def fail(message):
    raise RuntimeError(message)


#: first argument -> function of the event and the texts behind it
INTENTS = {
    "nothing": lambda event: hook_io.NOTHING,
    "allow": lambda event, *texts: hook_io.allow(*texts),
    "ask": lambda event, *texts: hook_io.ask(*texts),
    "deny": lambda event, *texts: hook_io.deny(*texts),
    "block": lambda event, reason: hook_io.block(reason),
    "context": lambda event, text: hook_io.context(text),
    "hint": lambda event, text: hook_io.hint(text),
    "rewrite": lambda event, text: hook_io.rewrite(hook_io.decode(text)),
    "hinted": lambda event, text, *rest: hook_io.with_user_hint(
        INTENTS[rest[0]](event, *rest[1:]), text),
    "raise": lambda event, message: fail(message),
    "echo": lambda event: hook_io.context(hook_io.encode(event)),
}


def handler(event):
    words = [str(event.get(word[1:], "")) if word.startswith("@") else word
             for word in sys.argv[1:] if word != "--fail-closed"]
    twice = False
    while words[0].startswith("--"):
        option = words.pop(0)
        if option == "--twice":
            twice = True
        else:
            NOISES[option](words.pop(0))
    result = INTENTS[words[0]](event, *words[1:])
    if twice:
        hook_io.Emitter().emit_model_context(result, event)
    return result


if __name__ == "__main__":
    if sys.argv[1:2] == ["--version"]:
        print(hook_io.__version__)
    else:
        guards = "--fail-closed" in sys.argv[1:]
        hook_io.run(handler, "reference_hook", fail="closed" if guards else "open")
