"""What the tests are made with: nothing passes by it that should fail."""

import os
import shlex
import subprocess
import sys

import pytest

import conftest
from conftest import PATIENCE_S, PYTHONS, TESTS, fed, timed


class Shaky:
    """A test that fails so many times before it passes."""

    def __init__(self, failures, error=AssertionError):
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error


@pytest.mark.parametrize(("stall_ms", "failures", "calls"), [
    (1e9, 1, 1),  # nothing stalled: the first failure counts
    (-1e9, 1, 2), (-1e9, 99, conftest.TRIES), (-1e9, 0, 1)])
def test_what_fails_is_tried_again_only_where_the_machine_had_no_time_to_give(
    monkeypatch, stall_ms, failures, calls
):
    monkeypatch.setattr(conftest, "STALL_MS", stall_ms)
    shaky = Shaky(failures)
    if failures < calls:
        timed(lambda: shaky())()
    else:
        with pytest.raises(AssertionError):
            timed(lambda: shaky())()
    assert shaky.calls == calls


def test_what_is_no_failed_assertion_is_never_tried_again(monkeypatch):
    monkeypatch.setattr(conftest, "STALL_MS", -1e9)
    shaky = Shaky(1, OSError)
    with pytest.raises(OSError):
        timed(lambda: shaky())()
    assert shaky.calls == 1


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 20) + 1])
def test_a_process_is_fed_all_there_is(size):
    copy = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"
    data = os.urandom(size)
    assert fed([sys.executable, "-c", copy], data).stdout == data


def test_a_process_that_leaves_its_stdin_unread_is_no_matter():
    assert fed([sys.executable, "-c", "pass"], b"x" * (1 << 22)).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="there is no sh")
def test_processes_can_be_interrupted_also_where_the_shell_ignores_that():
    """As in `make test &`."""
    code = ("import subprocess, sys, conftest; ended = subprocess.run([sys.executable,"
            " '-c', 'import os; os.kill(os.getpid(), 2)']); print(ended.returncode)")
    line = shlex.join([sys.executable, "-c", code])
    env = {**os.environ, "PYTHONPATH": str(TESTS),
           "HOOK_PYTHON": next(iter(PYTHONS.values()))}
    done = subprocess.run(["sh", "-c", f"trap '' INT; {line}"], env=env,
                          capture_output=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == b"-2", done


def test_a_process_whose_time_is_over_is_ended_and_said_to_be():
    with pytest.raises(subprocess.TimeoutExpired):
        fed([sys.executable, "-c", "import time; time.sleep(600)"], b"", timeout=0.1)


def test_a_process_that_leaves_its_streams_is_waited_for_and_ended_in_time():
    leaves = "import os, time; os.close(1); os.close(2); time.sleep({}); os._exit(3)"
    assert fed([sys.executable, "-c", leaves.format(0.1)], b"").returncode == 3
    with pytest.raises(subprocess.TimeoutExpired):
        fed([sys.executable, "-c", leaves.format(600)], b"", timeout=0.5)
    with pytest.raises(subprocess.CalledProcessError):
        fed([sys.executable, "-c", leaves.format(0)], b"", check=True)
