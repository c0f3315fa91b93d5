"""This folder is a plugin of Claude Code, and a marketplace that offers it."""

import json
import os
import shutil
import subprocess

import pytest

import clients
import hook_io
from conftest import PATIENCE_S, ROOT

FOLDER = ROOT / ".claude-plugin"
PLUGIN, MARKETPLACE = (json.loads((FOLDER / f"{name}.json").read_text())
                       for name in ("plugin", "marketplace"))


def test_the_plugin_is_this_version_and_names_files_that_are_there():
    assert (PLUGIN["name"], PLUGIN["version"]) == ("hook-io", hook_io.__version__)
    assert (ROOT / PLUGIN["hooks"]).samefile(ROOT / "hooks.json")
    assert PLUGIN["license"] == "MIT"


def test_the_marketplace_offers_this_folder_as_the_plugin():
    (offered,) = MARKETPLACE["plugins"]
    assert (offered["name"], offered["source"]) == (PLUGIN["name"], "./")
    assert offered["description"] == PLUGIN["description"]
    assert "version" not in offered  # which would stand in the way of the plugin's own


@pytest.mark.skipif(os.environ.get("LIVE") != "1" or not shutil.which("npm"),
                    reason="LIVE=1 and npm: the real client says whether it is valid")
@pytest.mark.parametrize("target", [
    ".", ".claude-plugin/plugin.json", ".claude-plugin/marketplace.json"])
@pytest.mark.parametrize("is_broken", [False, True], ids=["ours", "broken"])
def test_the_real_client_finds_the_plugin_valid_and_a_broken_one_not(
    target, is_broken, tmp_path
):
    copy = tmp_path / "plugin"
    shutil.copytree(str(FOLDER), str(copy / ".claude-plugin"))
    for name in ("hooks.json", *hook_io.FILES):
        shutil.copy(str(ROOT / name), str(copy))
    if is_broken:
        for path in (copy / ".claude-plugin").iterdir():
            path.write_text(path.read_text().replace('"name"', '"nom"'))
    program, _ = clients.installed("claude-code")
    command = clients.isolated([str(program), "plugin", "validate", "--strict",
                             str(copy / target)])
    done = subprocess.run(
        command, timeout=PATIENCE_S, stdin=subprocess.DEVNULL, capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb",
             "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"})
    assert (done.returncode != 0) == is_broken, done.stdout.decode()
