"""What runs elsewhere is what runs here: the same make targets, on pinned actions."""

import os
import re
import subprocess
import sys

import pytest

from conftest import NEWEST, PYTHONS, ROOT

WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_it_runs_targets_of_the_makefile_and_nothing_else():
    commands = re.findall(r"run: (?!shell)(.+)", WORKFLOW)
    made = [line.split()[1:] for line in commands if line.startswith("make ")]
    assert [line for line in commands if not line.startswith("make ")] == [
        "choco install make --no-progress"]
    assert {"demo", "conformance", "lint", "test"} == {t for line in made for t in line}
    for target in {target for line in made for target in line}:
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target


def test_its_actions_are_pinned_and_it_may_only_read():
    actions = re.findall(r"uses: (\S+)", WORKFLOW)
    assert actions and all(re.search(r"@v\d+\.\d+\.\d+$", name) for name in actions)
    assert re.search(r"^permissions:\n  contents: read\n\n", WORKFLOW, re.M)


def test_it_covers_three_systems_the_newest_pythons_and_another_one():
    for name in ("ubuntu", "macos", "windows", "pypy", '"3.14"', '"3.15"'):
        assert name in re.search(r"matrix:\n(.*?)runs-on", WORKFLOW, re.S).group(1)


@pytest.mark.parametrize("is_named", [True, False])
def test_the_last_line_of_a_run_says_which_pythons_ran_and_that_others_were_left_out(
    is_named
):
    """A HOOK_PYTHON that was left in a shell would make a small run look like all."""
    env = {name: text for name, text in os.environ.items()
           if name not in ("HOOK_PYTHON", "PYTEST_XDIST_WORKER")}
    named = {"HOOK_PYTHON": PYTHONS[NEWEST]} if is_named else {}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "-q", "-p",
         "no:xdist", "tests/test_workflow.py", "-k", "no_such_test"],
        cwd=str(ROOT), env={**env, **named}, capture_output=True, check=False)
    last = done.stdout.decode().splitlines()[-1]
    assert last.startswith(
        f"HOOK_PYTHON IS SET: the contract tests ran on {NEWEST}, {NEWEST}-pure alone"
        if is_named else "the contract tests ran on each Python found: "), last
