"""Answer calls of the library's pure functions: the contract `functions 1.0`.

    python3 reference_functions.py < '{"call": NAME, "args": [VALUE, ...]}'
    python3 reference_functions.py --version

stdout: what the function returns, one line of JSON.  Exit 1: it refuses these
arguments, and one line on stderr says why.  Exit 2: the call is none.
NAME: a key of CALLS.  The contract: tests/contract/README.md, "The functions contract".
"""

import os
import sys

sys.path.insert(0, os.path.realpath(os.path.join(__file__, "../../..")))
import hook_io


def normalise(event, agent=""):
    said = hook_io.normalise(event, agent)
    return {"agent": said.agent, "event_name": said.event_name, "event": said}


def commands(text):
    calls, unclear = hook_io.commands(text)
    return {"commands": calls, "understood": not unclear}


#: name of a call -> function of JSON values that returns one, or raises OSError or
#: ValueError
CALLS = {
    "normalise": normalise,
    "story": hook_io.story,
    "clip": hook_io.clip,
    "redact": hook_io.redact,
    "shown_url": hook_io.shown_url,
    "address_kind": hook_io.address_kind,
    "commands": commands,
    "is_within": hook_io.is_within,
}


def answer(call):
    """Return (exit code, line for stdout, line for stderr) of a *call*."""
    name, args = call.get("call"), call.get("args")
    if name not in CALLS or not isinstance(args, list):
        return 2, "", f"there is no such call: {name}\n"
    try:
        return 0, hook_io.encode(CALLS[name](*args)) + "\n", ""
    except (OSError, ValueError) as error:
        return 1, "", f"{error}\n"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--version"]:
        print(hook_io.__version__)
    else:
        code, out, err = answer(hook_io.decode(sys.stdin.buffer.read().decode()))
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
