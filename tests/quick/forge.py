"""Run `python -m hook_io ARGUMENTS...` many times, each in a process of its own.

For tests that install, much of whose time is Python's start and an installer's imports:
here that is done once, and each run is forked from it.  It is started with the runs'
variables.  A line of JSON begins a run, and a line with its exit status ends it:

    argv, cwd, env    as of any process; the variables are those that differ
    stdout, stderr    files
"""

import argparse  # noqa: F401 - what an installer imports, as the other ones
import difflib  # noqa: F401
import json
import os
import py_compile  # noqa: F401
import runpy
import shutil  # noqa: F401
import sys

for line in sys.stdin.buffer:
    run = json.loads(line.decode())
    child = os.fork()
    if not child:
        break
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    os.write(1, b"%d\n" % (-ended_by if ended_by else os.WEXITSTATUS(status)))
else:
    sys.exit()

for number, path in enumerate([os.devnull, run["stdout"], run["stderr"]]):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(fd, number)
    os.close(fd)
os.chdir(run["cwd"])
os.environ.update(run["env"])
sys.argv[1:], sys.path[0] = run["argv"], run["cwd"]
runpy.run_module("hook_io", run_name="__main__", alter_sys=True)
