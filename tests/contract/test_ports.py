"""The ports in this folder do what their conformance.json says: no less, no more."""

import json
import shutil
import subprocess
import sys

import pytest

from conftest import CONTRACT, RUNNER

PORTS = sorted((CONTRACT / "ports").glob("*/conformance.json"))
LIMIT_S = 600  # for all of it on a busy machine; never a measure
#: port -> the programs that it is made of
PROGRAMS = {"sh": ("sh", "curl", "jq", "timeout")}


def test_there_is_a_port():
    assert PORTS


@pytest.mark.long
@pytest.mark.parametrize("path", PORTS, ids=lambda path: path.parent.name)
def test_a_port_is_what_its_file_says(path):
    missing = [name for name in PROGRAMS[path.parent.name] if not shutil.which(name)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    done = subprocess.run(
        [sys.executable, str(RUNNER), "-j", "4", "--port", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_S)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    assert "\nok " in said


def test_the_sender_in_shell_is_short_enough_to_be_read():
    lines = (CONTRACT / "ports/sh/send_event.sh").read_text().splitlines()
    assert len(lines) <= 80
    assert [n for n, line in enumerate(lines, 1) if len(line) > 120] == []


def test_what_a_port_lacks_it_says_by_name():
    for path in PORTS:
        port = json.loads(path.read_text())
        assert set(port) == {
            "port", "language", "contract", "command", "lacks", "known_failing"}
        assert all(reason for reason in port["known_failing"].values())
