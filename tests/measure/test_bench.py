"""What `bench.py` promises: it shows every row, judges by the goals, and cleans up."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

BENCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench.py")
LIMIT_S = 240

spec = importlib.util.spec_from_file_location("bench_under_test", BENCH)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

processes = pytest.mark.skipif(
    not (hasattr(os, "posix_spawn") and hasattr(os, "wait4")),
    reason="the bench needs posix_spawn and wait4",
)

#: a sender's source -> what its row says
BROKEN_SENDERS = {
    "": "void: 0 of 3 events arrived",
    "raise SystemExit(3)": "void: 3 of 3 runs failed",
    "import sys, urllib.request as u; u.urlopen(sys.argv[-1])": (
        "void: 0 of 3 events arrived"  # for a request without a body is none
    ),
}
#: stands in for what claude-mem registers: it tells its worker of one event
WORKER_HOOK = (
    'test -d "$CLAUDE_PLUGIN_ROOT/hooks" && curl -s -d @- '
    '"http://127.0.0.1:$CLAUDE_MEM_WORKER_PORT/api/sessions/observations"'
)
PEERS = ("disler's, uv run", "disler's", "claude-mem")
DELIVERING_SENDER = "import sys, urllib.request as u; u.urlopen(sys.argv[-1], b'{}')"
#: variables that change how an interpreter starts, what it finds or where it sends
BUILDERS = (
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "HOOK_IO_OFF",
    "XDG_STATE_HOME",
    "https_proxy",
    "HTTP_PROXY",
)
#: ms of a delivered event where the base takes 10, with --check, exit status
CONCLUSIONS = [(12, True, 0), (12, False, 0), (14, True, 1), (14, False, 0)]


def start(folder, *options):
    """Start the bench with *folder* as its temporary folder."""
    return subprocess.Popen(
        [sys.executable, BENCH, *options],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Return (exit status, stdout, stderr).

    stderr is inherited by the server and the launcher, so it only ends once they have.
    """
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    return process.returncode, out, err


def folder_of_sender(folder, source):
    """Return a folder whose send_event.py is *source*, with an empty library."""
    folder.mkdir()
    (folder / "send_event.py").write_text(source)
    (folder / "hook_io.py").write_text("")
    return str(folder)


def cells(out):
    """Return the cells of every table line in *out*, by the text of the first one."""
    lines = [line.strip("| ").split("|") for line in out.splitlines() if "|" in line]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def series(*ms, peak_mb=(10,), failed=(0,)):
    return bench.Series(list(ms), list(peak_mb), list(failed))


@pytest.mark.long
@processes
def test_a_quick_run_shows_every_row_and_goal_and_leaves_nothing_behind(tmp_path):
    temporary, saved = tmp_path / "temporary", tmp_path / "figures.json"
    temporary.mkdir()
    status, out, err = finish(start(temporary, "--quick", "--json", str(saved)))
    assert status == 0, err
    missing = out.split("not found: ")[1].splitlines()[0].split(", ")
    shown, (found,) = cells(out), json.loads(saved.read_text())
    rows = found["rows"]
    for row in bench.ROWS:
        if not any("{" + name + "}" in row.command for name in missing):
            assert row.name in shown
            rounds = 3 if row.copies == 1 else 2
            assert len(rows[row.name]["ms"]) == rounds
    assert set(bench.GOALS) <= set(shown)
    assert float(shown[bench.BASE][4]) == 1
    assert os.listdir(str(temporary)) == []


@processes
def test_each_interpreter_that_is_named_is_measured_and_has_its_column(monkeypatch):
    monkeypatch.setenv("HOOK_PYTHON", os.pathsep.join([sys.executable, sys.executable]))
    expected = bench.real_python(sys.executable)
    assert bench.real_pythons() == [expected, expected]
    judged = {"3.12": bench.judge({}, {}), "3.13": bench.judge({}, {})}
    heads = bench.report_goals(judged).splitlines()[0]
    assert [cell.strip() for cell in heads.strip("| ").split("|")] == [
        "goal", "of", "limit", "3.12", "3.13"]


def test_the_ratio_of_instructions_is_to_that_of_the_base():
    rows = [row for row in bench.ROWS if row.name in (bench.BASE, "delivered")]
    table = {row.name: series(10) for row in rows}
    shown = cells(bench.report(rows, table, dict.fromkeys(table, ""), {
        bench.BASE: 100, "delivered": 130}))
    assert (shown[bench.BASE][-1], shown["delivered"][-1]) == ("1.00", "1.30")
    shown = cells(bench.report(rows, table, dict.fromkeys(table, ""), {}))
    assert (shown[bench.BASE][-1], shown["delivered"][-1]) == ("-", "-")


def test_without_valgrind_no_instructions_are_counted(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert bench.count_all([*bench.ROWS], [], {}) == {}


@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
def test_a_run_that_does_more_takes_more_instructions_and_one_that_fails_has_none(
        tmp_path):
    (tmp_path / "event").write_text("{}")

    def counted(code):
        job = ([sys.executable, "-I", "-S", "-c", code], str(tmp_path),
               str(tmp_path / "event"), 1)
        return bench.counted(job, {**os.environ})
    assert 0 < counted("pass") < counted("for each in range(300000): pass")
    assert counted("raise SystemExit(3)") == 0


@processes
@pytest.mark.parametrize("source, reason", BROKEN_SENDERS.items())
def test_a_row_whose_sender_does_not_deliver_is_void(tmp_path, source, reason):
    hooks = folder_of_sender(tmp_path / "hooks", source)
    options = ("--quick", "--only", "^delivered$", "--hooks", hooks)
    status, out, err = finish(start(tmp_path, *options))
    assert status == 0, err
    assert f"| {reason} | -" in out
    assert "MISSED (void)" in out


@processes
def test_a_row_whose_sender_delivers_has_figures(tmp_path):
    hooks = folder_of_sender(tmp_path / "hooks", DELIVERING_SENDER)
    options = ("--quick", "--only", "^delivered$", "--hooks", hooks)
    status, out, err = finish(start(tmp_path, *options))
    assert status == 0, err
    assert "void" not in out


@processes
def test_a_peer_that_no_folder_holds_is_left_out_and_named(tmp_path):
    status, out, err = finish(start(tmp_path, "--quick", "--only", "disler|claude"))
    assert status == 0, err
    assert "not found: claude_mem, disler, disler_python" in out
    assert not set(PEERS) & set(cells(out))


def folder_of_peers(folder):
    """Return a folder with a sender and a plugin where the peers' would lie."""
    (folder / "disler").mkdir(parents=True)
    script = bench.EMPTY["empty.py"] + "import helper\n" + DELIVERING_SENDER
    (folder / "disler" / "send_event.py").write_text(script)
    (folder / "disler" / "helper.py").write_text("")  # Python keeps it compiled
    hooks = folder / "claude-mem" / "plugin" / "hooks"
    hooks.mkdir(parents=True)
    group = {"hooks": [{"type": "command", "command": WORKER_HOOK}]}
    (hooks / "hooks.json").write_text(json.dumps({"hooks": {"PostToolUse": [group]}}))
    return folder


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("bash")), reason="needs curl and bash"
)
@processes
def test_peers_in_the_folder_are_measured_and_left_as_they_were(tmp_path, monkeypatch):
    peers, temporary = folder_of_peers(tmp_path / "peers"), tmp_path / "temporary"
    for folder in (temporary, tmp_path / "bin"):
        folder.mkdir()
    for name in ("node", "bun"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    before = sorted(map(str, peers.rglob("*")))
    options = ("--quick", "--only", "disler|claude", "--peers", str(peers))
    status, out, err = finish(start(temporary, *options))
    assert status == 0, err
    assert "not found: nothing" in out and "void" not in out
    assert set(PEERS) <= set(cells(out))
    assert sorted(map(str, peers.rglob("*"))) == before
    assert os.listdir(str(temporary)) == []


@processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_folder_and_no_process(tmp_path, number):
    process = start(tmp_path, "--only", "python -S", "--rounds", "1000000")
    assert process.stderr.readline().startswith("bench: warm-up")
    assert os.listdir(str(tmp_path)) != []
    process.send_signal(number)
    status, _, _ = finish(process)
    assert status == 128 + number
    assert os.listdir(str(tmp_path)) == []


@processes
@pytest.mark.parametrize("few", [("--quick",), ("--rounds", "199")])
def test_a_check_of_too_few_rounds_is_refused(tmp_path, few):
    status, out, err = finish(start(tmp_path, "--check", *few))
    assert (status, out) == (1, "")
    assert "at least 200" in err


@processes
def test_a_virtualenv_is_measured_by_the_interpreter_behind_it(tmp_path, monkeypatch):
    monkeypatch.delenv("HOOK_PYTHON", raising=False)
    venv = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path)]
    subprocess.run(venv, check=True)
    (expected,) = bench.real_pythons()
    monkeypatch.setenv("HOOK_PYTHON", str(tmp_path / "bin" / "python"))
    assert bench.real_pythons() == [expected]
    assert not expected[0].startswith(str(tmp_path))


@pytest.mark.parametrize(
    "values, percent, expected",
    [
        (range(1, 101), 99, 99),
        (range(1, 241), 99, 238),
        ([3, 1, 2], 50, 2),
        ([3, 1, 2], 99, 3),
        ([7], 99, 7),
        ([5, 6], 0, 5),
    ],
)
def test_a_percentile_is_the_nearest_rank(values, percent, expected):
    assert bench.percentile(list(values), percent) == expected


@pytest.mark.parametrize(
    "name, a, b, expected",
    [
        ("rounds", series(10, 20, 90), series(10, 10, 30), 2.0),
        ("less budget", series(110, 120, 190), series(10, 10, 30), 2.0),
        ("medians", series(10, 20, 90), series(5, 10, 30), 2.0),
        ("p99s", series(*range(1, 241)), series(*[119] * 240), 2.0),
        ("peaks", series(peak_mb=(9, 12)), series(peak_mb=(10, 8)), 1.2),
    ],
)
def test_a_ratio_of_known_series_is_right(name, a, b, expected):
    assert bench.RATIOS[name](a, b) == pytest.approx(expected)


def test_a_ratio_of_rounds_pairs_each_round_with_its_own():
    slow_twice = series(10, 100, 10), series(10, 100, 10)
    assert bench.RATIOS["rounds"](*slow_twice) == 1


@pytest.mark.parametrize(
    "ms, verdict", [(13.5, "met"), (13.6, "MISSED"), (None, "not measured")]
)
def test_a_goal_is_met_up_to_its_limit(ms, verdict):
    table = {bench.BASE: series(10)}
    table.update({"delivered": series(ms)} if ms else {})
    goals = {line[0]: line[-1] for line in bench.judge(table, {})}
    assert goals["delivered"] == verdict


@pytest.mark.parametrize("ms, verdict", [(55, "met"), (54, "MISSED")])
def test_the_obvious_script_has_to_be_slower(ms, verdict):
    table = {"the obvious script": series(ms), "delivered": series(10)}
    goals = {line[0]: line[-1] for line in bench.judge(table, {})}
    assert goals["the obvious script"] == verdict


@pytest.mark.parametrize("delivered_ms, check, status", CONCLUSIONS)
def test_only_a_check_that_misses_a_goal_exits_1(delivered_ms, check, status, capsys):
    found = {bench.BASE: series(10), "delivered": series(delivered_ms)}
    options = argparse.Namespace(check=check, json=None)
    measured = {"3.12.1": ("", found, dict.fromkeys(found, ""), {})}
    assert bench.conclude(options, measured) == status
    assert ("MISSED" in capsys.readouterr().out) == (delivered_ms > 13.5)


def test_a_check_that_judged_nothing_exits_1():
    measured = {"3.12.1": ("", {bench.BASE: series(10)}, {bench.BASE: ""}, {})}
    options = argparse.Namespace(check=True, json=None)
    assert bench.conclude(options, measured) == 1


def test_every_goal_compares_rows_that_exist():
    names = {row.name for row in bench.ROWS}
    for ratio, row, of_row, comparison, _ in bench.GOALS.values():
        assert {row, of_row} <= names
        assert ratio in bench.RATIOS and comparison in ("<=", ">=")


def test_the_large_event_is_100_kb_of_json():
    assert 100_000 <= len(json.dumps(bench.EVENTS["large"])) <= 120_000


def test_a_hook_gets_none_of_the_builders_variables(monkeypatch):
    for name in (*BUILDERS, "KEPT"):
        monkeypatch.setenv(name, "1")
    env = bench.hook_environment("home", "python")
    assert set(BUILDERS) & set(env) == set()
    assert (env["KEPT"], env["HOME"], env["UV_PYTHON"]) == ("1", "home", "python")
