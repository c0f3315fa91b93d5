"""Python with this folder in PYTHONPATH compiles a long source once, and remembers it.

Installing compiles the library, each time for another project: for tests that install,
and are about something else.  What compile() returns is the same but for the name of
the file, which an import puts right.
"""

import builtins
import contextlib
import hashlib
import marshal
import os
import sys
import time

LONG_CHARS = 50_000
KEPT_S = 3600
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__pycache__")

really_compile = builtins.compile


def remembering(source, filename, mode, *args, **kwargs):
    """Return what compile() does, from a file where it was asked for this before."""
    if not isinstance(source, (str, bytes)) or len(source) < LONG_CHARS:
        return really_compile(source, filename, mode, *args, **kwargs)
    asked = hashlib.sha256(source if isinstance(source, bytes) else source.encode())
    asked.update(repr((mode, args, sorted(kwargs.items()), sys.version)).encode())
    path = os.path.join(FOLDER, f"{asked.hexdigest()}.code")
    if not os.path.exists(path) and hasattr(os, "fork"):
        keep_elsewhere(path, source, filename, mode, *args, **kwargs)
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return marshal.loads(file.read())
    return really_compile(source, filename, mode, *args, **kwargs)


def keep_elsewhere(path, *asked, **kwargs):
    """Compile in a fork: what a process has compiled, it writes with other marks."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        keep(path, marshal.dumps(really_compile(*asked, **kwargs)))
    finally:
        os._exit(0)


def keep(path, data):
    """Write a file as a whole, if it is the first, and remove what is old.

    Raises OSError.
    """
    os.makedirs(FOLDER, exist_ok=True)
    for name in os.listdir(FOLDER):
        old = os.path.join(FOLDER, name)
        if ".code" in name and os.stat(old).st_mtime < time.time() - KEPT_S:
            os.unlink(old)
    own = f"{path}.{os.getpid()}"
    with open(own, "wb") as file:
        file.write(data)
    try:
        os.link(own, path)  # where none is: two differ in the marks of what is shared
    finally:
        os.unlink(own)


builtins.compile = remembering
