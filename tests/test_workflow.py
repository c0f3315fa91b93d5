"""What runs elsewhere is what runs here: the same make targets, on pinned actions."""

import re

from conftest import ROOT

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
