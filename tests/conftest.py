"""Run the shipped scripts as an agent does: as processes, through pipes, all alone.

Contract tests take the fixture `hook` and so run under every Python that is found:
those named in HOOK_PYTHON (separated as in PATH), else the one that runs pytest, what
PATH has from NAMES, and pyenv's from 3.8 on, the last one of a version and
implementation.  One more variant runs without the C accelerators.
"""

import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
SAMPLES = TESTS / "samples"
CONTRACT = TESTS / "contract"
VECTORS = CONTRACT / "vectors"
RUNNER = CONTRACT / "conformance.py"
PATIENCE_S = 60  # for a process that should take milliseconds; never a measure
SLACK_MS = 400  # for a busy machine to let a process go on when its time is over
TRIES, STALL_MS = 5, 30  # of what gives a hook little time; what is no time to give

ROOMS = [TESTS, CONTRACT, TESTS / "measure", TESTS / "live", ROOT]
sys.path[:0] = map(str, ROOMS)

from conformance import pipe_with  # noqa: E402 - by the line above
from server import EventServer, closed_port  # noqa: E402

# A shell's `make test &` ignores interrupts, and each process that a test starts and
# interrupts would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: commands of interpreters that a system may have beside pyenv's
NAMES = ("python3.14", "python3.15", "pypy3")
#: prints version, implementation and path of the interpreter behind a shim or link
ABOUT = """
import sys
own = getattr(sys, "_base_executable", None) or sys.executable
threads = "t" if "t" in getattr(sys, "abiflags", "") else ""
print("%d.%d" % sys.version_info[:2] + threads, sys.implementation.name, own)
"""


def found_pythons():
    """Return {name: interpreter}, CPython's by its version, others' with theirs."""
    named = os.environ.get("HOOK_PYTHON", "").split(os.pathsep)
    root = os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")
    versions = Path(root) / "versions"
    pyenv = sorted(versions.glob("3.*/bin/python"),
                   key=lambda path: version_of(path.parts[-3]))
    usual = [sys.executable, *map(shutil.which, NAMES), *map(str, pyenv)]
    pythons = {}
    for path in filter(None, named if any(named) else usual):
        done = subprocess.run([path, "-c", ABOUT], stdout=subprocess.PIPE, check=False)
        if done.returncode:  # a shim of pyenv's for a version that is not chosen
            assert not any(named), f"HOOK_PYTHON: {path} does not run"
            continue
        version, kind, own = done.stdout.decode().strip().split(" ", 2)
        if version_of(version) >= (3, 8):
            pythons[version if kind == "cpython" else kind + version] = own
    return dict(sorted(pythons.items(), key=order))


def is_cpython(python):
    """Tell whether an interpreter of PYTHONS has the C halves of json and socket."""
    return any(path == python and name[0].isdigit() for name, path in PYTHONS.items())


def order(item):
    """Sort the newest CPython last."""
    name = item[0]
    return name[0].isdigit(), not name.endswith("t"), version_of(name)


def version_of(text):
    return tuple(int(number) for number in re.findall(r"\d+", text))


PYTHONS = found_pythons()
NEWEST = list(PYTHONS)[-1]
#: id of a variant -> interpreter, variables, flags: without `site`, as agents run it by
#: our registration, but for the newest, which has it as by hand
VARIANTS = {version: (path, {}, () if version == NEWEST else ("-S",))
            for version, path in PYTHONS.items()}
VARIANTS[f"{NEWEST}-pure"] = (PYTHONS[NEWEST], {"HOOK_IO_PURE": "1"}, ())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Have each worker begin with its share of what takes long, or waits long.

    By `worksteal` each is given a run of items, as many as the others.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    others = [item for item in items if not item.get_closest_marker("long")]
    left = len(items)
    items.clear()
    for number in range(workers):
        share, count = long[number::workers], left // (workers - number)
        left -= count
        items += share + others[:count - len(share)]
        del others[:count - len(share)]


def pytest_terminal_summary(terminalreporter, config):
    """Say which Pythons ran in the very last line, behind pytest's own."""
    ran = ", ".join(VARIANTS)
    config.add_cleanup(lambda: terminalreporter.write_line(
        f"HOOK_PYTHON IS SET: the contract tests ran on {ran} alone, and on none of "
        "the others that are here; unset it for all of them"
        if os.environ.get("HOOK_PYTHON") else
        f"the contract tests ran on each Python found: {ran}"))


#: pages whose prose, tables and snippets are held against the code, as one text
PAGES = ("README.md", "tests/contract/behaviour.md", "tests/contract/agents.md",
         "tests/server/fleet/README.md", "tests/measure/README.md",
         ".github/SECURITY.md", ".github/SUPPORT.md", ".github/CONTRIBUTING.md",
         ".github/CHANGELOG.md")
PAGED = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)


class Awaited(subprocess.Popen):
    """A process whose end is told at once: with a limit, wait() looks now and then.

    Between two looks a busy machine lets others run, for many times what a hook takes.
    """

    def wait(self, timeout=None):
        if timeout is None or self.returncode is not None:
            return super().wait(timeout)
        ends = threading.Thread(target=super().wait, daemon=True)
        ends.start()
        ends.join(timeout)
        return super().wait(0)


def fed(command, data, timeout=PATIENCE_S, check=False, **kwargs):
    """Run *command* to its end with *data* on stdin; return the CompletedProcess.

    The pipe is filled before: a hook waits half a second for an event, and a busy
    machine may let us go on later than that.  Raises TimeoutExpired, and to *check* an
    exit status that is not 0 CalledProcessError.
    """
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    if os.name == "nt":
        return subprocess.run(command, input=data, timeout=timeout, check=check,
                              **kwargs)
    reader, writer, rest = pipe_with(data)
    feeder = threading.Thread(target=write_all, args=(writer, rest), daemon=True)
    feeder.start() if rest else os.close(writer)
    with open(reader, "rb") as stdin, Awaited(
            command, stdin=stdin, **kwargs) as process:
        try:
            said = process.communicate(timeout=timeout)
        finally:
            process.kill()  # which is none any more, but when its time is over
    done = subprocess.CompletedProcess(command, process.returncode, *said)
    if check:
        done.check_returncode()
    return done


def write_all(fd, data):
    """Write *data* to the end of a pipe whose reader may leave, and close it."""
    with contextlib.suppress(BrokenPipeError), open(fd, "wb") as pipe:
        pipe.write(data)


class Result:
    """What a process left behind: exit, stdout and stderr."""

    def __init__(self, exit, stdout, stderr):
        self.exit, self.stdout, self.stderr = exit, stdout, stderr

    @property
    def document(self):
        """The one JSON document on stdout; fails where there is none or more."""
        assert self.stdout.count("\n") == 1 and self.stdout.endswith("\n"), self
        return json.loads(self.stdout)

    @property
    def lines(self):
        return self.stderr.splitlines()

    def __repr__(self):
        return f"exit {self.exit}\nstdout: {self.stdout}\nstderr: {self.stderr}"


class Hook:
    """A hooks folder with the two files in it, and an agent that runs them."""

    def __init__(self, python, folder, home, variables, flags=()):
        self.python, self.folder, self.home = python, Path(folder), Path(home)
        self.flags = flags
        self.state = self.home / "state"
        keep = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
        self.env = {name: os.environ[name] for name in keep if name in os.environ}
        self.env.update(HOME=str(home), HOOK_IO_STATE_DIR=str(self.state), **variables)

    def path(self):
        """Return a PATH on which python3 is this hook's interpreter."""
        folder = self.home / "bin"
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / "python3").symlink_to(self.python)
        return os.pathsep.join([str(folder), self.env["PATH"]])

    def command(self, script, *argv, flags=()):
        return [self.python, *(flags or self.flags), str(self.folder / script), *argv]

    def run(self, script, *argv, stdin=b"", env=None, flags=(), **kwargs):
        """Run *script* to its end and return the Result.

        stdin: bytes, text, or a value that is sent as JSON.
        """
        if not isinstance(stdin, (bytes, str)):
            stdin = json.dumps(stdin)
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = fed(self.command(script, *argv, flags=flags), data,
                   env={**self.env, **(env or {})}, **kwargs)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def send(self, url, *argv, event_type=None, stdin=b"", **kwargs):
        """Run send_event.py for *url*; the event type is stdin's own by default."""
        known = stdin.get("hook_event_name") if isinstance(stdin, dict) else None
        return self.run(
            "send_event.py", "--source-app", "demo", "--event-type",
            event_type or known or "PreToolUse", "--server-url", url, *argv,
            stdin=stdin, **kwargs)

    def start(self, script, *argv, env=None, **kwargs):
        """Start *script* with pipes and return its Popen."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
                 "stderr": subprocess.PIPE, **kwargs}
        return subprocess.Popen(
            self.command(script, *argv), env={**self.env, **(env or {})}, **pipes)

    def losses(self):
        """Return the lines of every streak file that is not over."""
        over = (".last", ".untold")
        files = [path for path in self.state.glob("*") if ".told." not in path.name
                 and path.suffix not in over] if self.state.is_dir() else []
        lines = []
        for path in files:
            with contextlib.suppress(FileNotFoundError):  # it is over by now
                lines += path.read_text().splitlines()
        return lines


#: compiles the library in the working directory in its two parts
SPLIT = "import hook_io; hook_io.Start.keep(hook_io.Parts.own())"


def filled(folder, python):
    """Put the two files into *folder*, compiled as the installer leaves them."""
    for name in ("hook_io.py", "send_event.py"):
        shutil.copy2(str(ROOT / name), str(folder))
    subprocess.run([python, "-c", SPLIT], cwd=str(folder), check=True,
                   env={"PATH": os.environ["PATH"]})
    return folder


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Return a function: an interpreter -> a filled folder, to be copied.

    Whichever worker of a run is the first to need it has it compiled.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(python):
        folder = shared / f"compiled-{list(PYTHONS.values()).index(python)}"
        if not folder.is_dir():
            own = filled(tmp_path_factory.mktemp("compiled"), python)
            with contextlib.suppress(OSError):  # another worker's is there by now
                own.rename(folder)
        return folder

    return folder_of


@pytest.fixture(scope="session", params=list(VARIANTS))
def installed(request, compiled, tmp_path_factory):
    """A hooks folder for one variant, kept for the session as a project would."""
    python, variables, flags = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp(f"hooks-{request.param}-") / "hooks"
    shutil.copytree(str(compiled(python)), str(folder))
    return python, folder, variables, flags


@pytest.fixture
def hook(installed, tmp_path):
    python, folder, variables, flags = installed
    return Hook(python, folder, tmp_path, variables, flags)


@pytest.fixture
def one_hook(compiled, tmp_path):
    """Like hook, on the newest Python alone, as agents run it.

    For what takes long, or is the same on each.
    """
    folder = tmp_path.with_name(f"{tmp_path.name}-hooks")
    shutil.copytree(str(compiled(PYTHONS[NEWEST])), str(folder))
    yield Hook(PYTHONS[NEWEST], folder, tmp_path, {}, ("-S",))
    shutil.rmtree(str(folder), ignore_errors=True)


class Watch:
    """Sees how long this machine lets a thread that sleeps a moment oversleep.

    It has the lowest priority where a thread can have its own, as a detached hook has.
    """

    def __enter__(self):
        self.late_ms, self.done = 0, threading.Event()
        self.thread = threading.Thread(target=self._doze, daemon=True)
        self.thread.start()
        return self

    def _doze(self):
        with contextlib.suppress(AttributeError, OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        began = time.monotonic()
        while not self.done.wait(0.005):
            now = time.monotonic()
            self.late_ms, began = max(self.late_ms, (now - began) * 1000 - 5), now

    def __exit__(self, *exc_info):
        self.done.set()
        self.thread.join()


def timed(test):
    """Run a test that gives a hook little time again if the machine had none to give.

    A failure counts where nothing stalled meanwhile, and in the last of the tries.
    """
    @functools.wraps(test)
    def tried(**given):
        for _ in range(TRIES - 1):
            try:
                with Watch() as watch:
                    test(**given)
            except (AssertionError, LookupError, ValueError):
                if watch.late_ms < STALL_MS:
                    raise
                forget(given)
            else:
                return
        test(**given)
    return tried


def forget(given):
    """Let fixtures be as no try has left them."""
    for hook in filter(None, map(given.get, ("hook", "one_hook"))):
        shutil.rmtree(str(hook.state), ignore_errors=True)
    if "spool" in given:
        shutil.rmtree(str(given["spool"]), ignore_errors=True)
    if "server" in given:
        given["server"].exchanges.clear()


@pytest.fixture
def patient(request):
    """Give every hook a budget that a busy machine does not use up."""
    for name in ("hook", "one_hook"):
        if name in request.fixturenames:
            request.getfixturevalue(name).env["HOOK_IO_TIMEOUT_MS"] = "50000"


def eventually(condition):
    """Return what condition() is once it is true."""
    for _ in range(PATIENCE_S * 100):
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("it never came true")


def nowhere():
    """Return the URL of a server that does not run."""
    return f"http://127.0.0.1:{closed_port()}/events"


def arrived(server):
    """Return what came before a request of our own, which is the last then."""
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    link.request("GET", "/health")
    link.getresponse().read()
    link.close()
    return [seen for seen in server.wait(len(server.exchanges))
            if seen.path != "/health"]


def body_at(server):
    """Return the body of the one event, which the server has taken."""
    (seen,) = arrived(server)
    assert seen.status == 201, seen.raw
    return seen.json


class HeldServer(EventServer):
    """A server that answers nobody before go(), though clients can connect."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._going = threading.Event()
        self.go = self._going.set

    def _accept(self):
        self._going.wait(PATIENCE_S)
        super()._accept()

    def __exit__(self, *exc_info):
        self.go()
        super().__exit__(*exc_info)


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium for all tests: one process can drive no second one."""
    from test_page import started_browser

    yield from started_browser()


@pytest.fixture(scope="session")
def kept_server():
    with EventServer() as server:
        yield server


@pytest.fixture
def server(kept_server):
    """A server that keeps the contract, and has seen nothing of this test yet."""
    kept_server.exchanges.clear()
    return kept_server


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")


def sample(name, agent="claude-code"):
    """Return what a real client sent for an event, parsed."""
    return json.loads((SAMPLES / agent / f"{name}.json").read_text())
