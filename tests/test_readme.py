"""The pages hold: commands run, tables are the code's, messages and links are real."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

import cost
import hook_io
import send_event
import soak
from bench import GOALS, ROWS
from conformance import anchors
from conftest import PAGED, PAGES, PATIENCE_S, ROOT, TESTS, fed, sample
from server import EventServer, closed_port

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGED, re.M | re.S)
#: what is lost with these is not lost for want of time
PATIENT = {"HOOK_IO_TIMEOUT_MS": "20000"}
#: how the names of those rows begin whose scripts are others'
PEERS = ("cchooks", "disler's", "claude-mem")
ADDRESS = hook_io.LOCAL_URL


def blocks(language):
    found = [text for name, text in BLOCKS if name == language]
    assert found, f"no {language} block"
    return found


def table(first_header):
    """Return the rows of the table whose first header is this, cells without marks."""
    head = rf"^\| {first_header} \|.*\n\|[-| ]+\|\n"
    body = re.search(head + r"((?:\|.*\n)+)", PAGED, re.M)
    assert body, f"no table of {first_header}"
    rows = [line.strip("|").split("|") for line in body.group(1).splitlines()]
    return [[cell.strip().replace("`", "") for cell in row] for row in rows]


def messages():
    found = re.findall(r"^\*\*`(.+?)`\*\*$", PAGED, re.M)
    assert len(found) >= 6
    return found


def test_every_fenced_block_is_of_a_kind_that_a_test_here_runs():
    assert {name for name, _ in BLOCKS} <= {"sh", "text", "json", "python", "yaml"}


def events_of_an_install(lines, hook, project):
    """Run *lines* in a project; check that each event they register arrives."""
    env = {**hook.env, **PATIENT, "HOOK_IO": str(ROOT), "PROJECT": str(project),
           "CLAUDE_PROJECT_DIR": str(project)}
    folder = ROOT if "hook_io.py install" in lines[0] else project
    for line in lines:
        subprocess.run(["sh", "-c", line], cwd=str(folder), env=env, check=True)
    settings = json.loads((project / ".claude" / "settings.json").read_text())
    with EventServer() as server:
        env["HOOK_IO_SERVER_URL"] = server.url
        for name, entry in ((name, entry) for name, groups in settings["hooks"].items()
                            for group in groups for entry in group["hooks"]):
            fed(["sh", "-c", entry["command"]], json.dumps(sample(name)).encode(),
                env=env, check=True)
        server.wait(len(settings["hooks"]), timeout=PATIENCE_S)
        assert sorted(e["event_type"] for e in server.events()) == sorted(
            settings["hooks"])
        assert {e["source_app"] for e in server.events()} == {"project"}


def test_both_ways_to_install_end_in_events_arriving(one_hook, tmp_path):
    install, serve = blocks("sh")[0].splitlines()
    assert serve.split("#")[0].split() == ["make", "serve"]
    for name, lines in (("one", [install]), ("two", blocks("sh")[1].splitlines())):
        (tmp_path / name / "project").mkdir(parents=True)
        events_of_an_install(lines, one_hook, tmp_path / name / "project")


def test_the_line_that_sends_one_event_by_hand_runs(one_hook, tmp_path):
    folder = tmp_path / "project" / ".claude" / "hooks"
    shutil.copytree(str(one_hook.folder), str(folder))
    with EventServer() as server:
        env = {**one_hook.env, **PATIENT, "HOOK_IO_SERVER_URL": server.url}
        (line,) = [text for text in blocks("sh") if "| python3" in text]
        subprocess.run(["sh", "-c", line], cwd=str(tmp_path / "project"),
                       env=env, check=True, timeout=PATIENCE_S)
        assert [event["event_type"] for event in server.events()] == ["Stop"]


def test_the_measured_tables_are_those_of_make_bench():
    goals = [(goal, f"{limit[3]} {limit[4]:.2f}") for goal, limit in GOALS.items()]
    assert [(row[0], row[2]) for row in table("goal +")] == goals
    names = {row.name for row in ROWS if not row.name.startswith(PEERS)}
    assert names <= {row[0] for row in table("row +")}


def test_the_comparison_takes_its_figures_from_rows_of_the_two_commands():
    compared = {row[0]: row[1:] for row in table("what matters")}
    costs, benched = compared["row of make cost"], compared["row of make bench"]
    assert len(costs) == len(set(costs)) and set(costs) <= set(cost.COMMANDS)
    assert set(benched) - {""} <= {row.name for row in ROWS}
    section = PAGED.partition("\n## Compared\n")[2].partition("\n## ")[0]
    for name in {row.name for row in ROWS if row.name.startswith(PEERS)}:
        assert f"`{name}`" in section


def test_what_the_comparison_says_of_ours_is_so():
    ours = {row[0]: row[-1] for row in table("what matters")}
    agents = [row for name, row in hook_io.PLATFORMS.items() if name != "raw"]
    known = len(hook_io.PLATFORMS["claude-code"]["events"])
    seen = sum(bool(row["measured"]) for row in agents)
    assert ours["events"] == (
        f"{known} of Claude Code; {len(agents)} agents, {seen} of them measured")
    assert ours["sends to"] == f"any URL, {len(hook_io.FORMATS)} formats"
    files = [ROOT / name for name in ("hook_io.py", "send_event.py")]
    lines = sum(len(path.read_text().splitlines()) for path in files)
    said = int(ours["lines of code"].split()[0].replace(",", ""))
    assert lines == pytest.approx(said, rel=0.05)


def test_the_measured_soak_is_whole_and_found_nothing():
    rows = table("part +")
    assert {row[0] for row in rows} == set(soak.PARTS)
    assert {row[3] for row in rows} == {"0"}


def without_figures(text):
    text = re.sub(r"127\.0\.0\.1([:_])\d+", r"127.0.0.1\1PORT", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", text)
    text = re.sub(r"in \S+/send_event(.*)\.\w{8}$", r"in STATE/send_event\1", text,
                  flags=re.M)
    return re.sub(r" +\d+( ms;)?$", r" MS\1", re.sub(r"after \d+ ms", "after MS", text),
                  flags=re.M)


def test_the_demo_prints_what_the_readme_shows():
    done = subprocess.run(
        [sys.executable, str(TESTS / "demo.py")], stdout=subprocess.PIPE,
        timeout=PATIENCE_S, check=True)
    assert without_figures(done.stdout.decode()) == without_figures(blocks("text")[0])


def test_the_demo_fails_where_an_event_does_not_arrive(tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(str(TESTS), str(folder / "tests"),
                    ignore=shutil.ignore_patterns("__pycache__"))  # others write there
    for name in ("hook_io.py", "send_event.py"):
        shutil.copy(str(ROOT / name), str(folder))
    sound = (folder / "hook_io.py").read_text()
    assert sound.count("POST {self.path") == 1
    (folder / "hook_io.py").write_text(sound.replace("POST {self", "PUT {self"))
    done = subprocess.run(
        [sys.executable, str(folder / "tests" / "demo.py")], timeout=PATIENCE_S,
        capture_output=True)
    assert done.returncode == 1
    assert b"[ERROR] demo: " in done.stderr


def test_the_body_shown_has_the_members_of_a_real_one_in_their_order(one_hook):
    (shown,) = [json.loads(text) for text in blocks("json") if '"metadata"' in text]
    event = json.loads(shown["metadata"])
    with EventServer() as server:
        one_hook.send(server.url, stdin=event, env=PATIENT)
        (exchange,) = server.wait(1)
    stamp = {"timestamp": shown["timestamp"], "summary": shown["summary"]}
    assert {**exchange.json, **stamp} == shown
    assert list(exchange.json) == list(shown) == [row[0] for row in table("member")]


def test_the_table_of_options_is_the_codes():
    rows = [line.split(None, 4) for line in send_event.OPTIONS.strip().splitlines()]
    shown = [[cell.replace("|", ", ") if cell != "-" else "" for cell in row]
             for row in rows]
    assert table("option") == shown


def test_the_table_of_formats_is_the_codes():
    assert [row[0] for row in table("format")] == list(hook_io.FORMATS)


def fleet_settings(home):
    (settings,) = [text for text in blocks("json") if '"otlp"' in text]
    env = json.loads(settings)["env"]
    assert set(env) <= set(re.findall(r"HOOK_IO_\w+", send_event.OPTIONS))
    return {**env, "HOME": str(home)}


def test_the_settings_of_a_fleet_deliver_in_the_background(one_hook, tmp_path):
    env = fleet_settings(tmp_path)
    with EventServer(fault="no_content") as server:
        env["HOOK_IO_SERVER_URL"] = server.url.replace("/events", "")
        one_hook.run("send_event.py", "--source-app", "demo", "--event-type", "Stop",
                     stdin=sample("Stop"), env=env)
        (seen,) = server.wait(1)
    assert seen.path == "/v1/logs"
    assert seen.headers["authorization"] == "Bearer TOKEN"
    assert "resourceLogs" in seen.json


def test_the_collectors_configuration_is_whole():
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load(blocks("yaml")[0])
    service = config["service"]
    (pipeline,) = service["pipelines"].values()
    assert service["extensions"] == list(config["extensions"])
    for kind, names in pipeline.items():
        assert names == list(config[kind])
    assert pipeline["processors"][0] == "memory_limiter"
    authenticator = config["receivers"]["otlp"]["protocols"]["http"]["auth"]
    assert authenticator["authenticator"] in config["extensions"]
    queue = config["exporters"]["clickhouse"]["sending_queue"]
    assert queue["storage"] in config["extensions"]


def shown(pattern):
    (text,) = re.findall(pattern, PAGED)
    return float(text.replace(",", ""))


def test_the_figures_of_the_fleet_are_measured_and_add_up(one_hook, tmp_path):
    names = json.loads((ROOT / "hooks.json").read_text())["hooks"]
    env = {**fleet_settings(tmp_path), "HOOK_IO_BACKGROUND": "0",
           "HOOK_IO_TIMEOUT_MS": "20000"}
    env["HOOK_IO_HEADERS"] = f"Authorization: Bearer {'x' * 40}"
    with EventServer(replies=[{"status": 204}, {"status": 503}] * len(names)) as server:
        env["HOOK_IO_SERVER_URL"] = server.url.replace("/events", "")
        for name in [name for name in names for _ in range(2)]:
            one_hook.run("send_event.py", "--source-app", "demo", "--event-type", name,
                         stdin=sample(name), env=env)
        sizes = [len(seen.raw) for seen in server.wait(2 * len(names))]
    spooled = [path.stat().st_size for path in tmp_path.rglob("*.json")]
    assert len(spooled) == len(names)
    size, kept = shown(r"([\d,]+) bytes a request"), shown(r"([\d,]+) bytes each on")
    assert sum(sizes) / len(sizes) == pytest.approx(size, rel=0.01)
    assert sum(spooled) / len(spooled) == pytest.approx(kept, rel=0.01)
    rate = shown(r"= ([\d,]+) events/s\n")
    assert rate == round(10000 * 2000 / 3600)
    assert shown(r"= ([\d.]+) MB/s") == round(rate * size / 1e6, 1)
    assert shown(r"= ([\d.]+) GB/h") == round(2e7 * size / 1e9, 1)
    most = hook_io.SPOOL_MAX_FILES
    assert shown(r"([\d.]+) MB; that is") == round(most * kept / 1e6, 1)


def test_the_line_that_registers_the_guard_does(one_hook, tmp_path):
    project = tmp_path / "project"
    (line,) = [text for text in blocks("sh") if "--hook guard.py" in text]
    (guard,) = [text for text in blocks("python") if 'fail="closed"' in text]
    shutil.copytree(str(one_hook.folder), str(project / ".claude" / "hooks"))
    (project / "guard.py").write_text(guard)
    subprocess.run(["sh", "-c", line], cwd=str(project), check=True,
                   env={**one_hook.env, "PATH": one_hook.path()}, timeout=PATIENCE_S)
    settings = json.loads((project / ".claude" / "settings.json").read_text())
    assert list(settings["hooks"]) == ["PreToolUse", "PreSkillShellCommand"]
    for event, ((group,)) in settings["hooks"].items():
        assert group["matcher"] == "Bash"
        said = {"hook_event_name": event, "tool_name": "Bash",
                "tool_input": {"command": "rm -fr /"}}
        run = fed(
            ["sh", "-c", group["hooks"][0]["command"]], json.dumps(said).encode(),
            check=True, env={
                **one_hook.env, "PATH": one_hook.path(),
                "HOOK_IO_PLATFORM": "claude-code", "CLAUDE_PROJECT_DIR": str(project)})
        assert "needs a human" in run.stdout.decode()


def test_the_table_of_exit_codes_is_the_codes():
    codes = [hook_io.EXIT_OK, hook_io.EXIT_FAILED, hook_io.EXIT_BLOCK]
    assert [int(row[0]) for row in table("exit")] == codes


def test_the_table_of_outcomes_is_the_codes():
    rows = {row[0]: row[2] == "yes" for row in table("outcome")}
    assert rows == hook_io.OUTCOMES


def test_the_table_of_answers_names_every_constructor():
    names = {re.match(r"\w+", row[0]).group() for row in table("returns")}
    intents = set(hook_io.INTENTS) - {"loud"}
    assert names == intents | {"NOTHING", "with_user_hint"}
    assert names <= set(hook_io.__all__)


def channels(shapes):
    """Say on which events there is a shape, as the table of agents does."""
    names = [name for name, shape in shapes.items() if shape is not None]
    if "*" in names or not names:
        return "every event" if names else "no"
    events = list(dict.fromkeys(map(hook_io.canonical, names)))
    return ", ".join(events) if len(events) < 4 else f"{len(events)} events"


def test_the_table_of_agents_is_the_codes():
    rows = {row[0]: row[1:-1] for row in table("agent")}
    assert rows == {agent: [
        row["measured"] or "documentation",
        str(len({hook_io.canonical(name) for name in row["events"]})),
        *(channels(row.get(intent, {})) for intent in ("hint", "deny", "context")),
    ] for agent, row in hook_io.PLATFORMS.items() if agent != "raw"}


def test_the_cells_that_nobody_measured_are_named():
    unmeasured = {(agent, cell) for agent, row in hook_io.PLATFORMS.items()
                  for cell in row.get("documented", ())}
    assert unmeasured == {
        (agent, f"{intent} {event}") for agent in ("copilot", "qwen")
        for intent, event in (("ask", "PreToolUse"), ("block", "SubagentStop"))
    } | {("qwen", "allow PreToolUse")}
    assert ("every cell of them but `ask` and a block at SubagentStop on Copilot and "
            "Qwen, and `allow` on Qwen;") in " ".join(PAGED.split())


def registrations():
    """Return (events, entry) of each snippet that registers the hook."""
    snippets = [json.loads(text) for text in blocks("json") if '"hooks"' in text]
    return [(name, groups[0].get("hooks", groups)[0])
            for snippet in snippets for name, groups in snippet["hooks"].items()]


#: agent, in the snippets' order -> variable of the project's folder
REGISTERED = {
    "codex": "", "gemini": "GEMINI_PROJECT_DIR", "qwen": "QWEN_PROJECT_DIR",
    "copilot": "COPILOT_PROJECT_DIR", "cursor": "CURSOR_PROJECT_DIR", "windsurf": "",
}


INSTALLED = [agent for agent in REGISTERED if agent in hook_io.REGISTERED]


@pytest.mark.parametrize("place, agent", enumerate(INSTALLED), ids=INSTALLED)
def test_a_registration_is_what_the_installer_writes_where_it_writes_it(place, agent):
    row = hook_io.REGISTERED[agent]
    texts = [text for text in blocks("json") if '"hooks"' in text]
    shown = json.loads(texts[place])
    ((name, [group]),) = shown.pop("hooks").items()
    assert group == hook_io.Registration(agent).sender("demo")[name]
    assert shown == row.get("members", {})
    before = PAGED[:PAGED.index(texts[place])].split("```")[-2]
    assert f"`{row['settings']}`; " in before


@pytest.mark.parametrize("place, agent", enumerate(REGISTERED), ids=list(REGISTERED))
def test_a_registration_sends_its_agents_event_and_survives_a_missing_file(
        one_hook, tmp_path, place, agent):
    variable = REGISTERED[agent]
    name, entry = registrations()[place]
    assert hook_io.canonical(name) == "PreToolUse"
    project = tmp_path / "my project"
    shutil.copytree(str(one_hook.folder), str(project / ".claude" / "hooks"))
    subprocess.run(["git", "init", "--quiet", str(project)], check=True)
    command = entry.get("command") or entry["bash"]
    with EventServer() as server:
        env = {**one_hook.env, **PATIENT, "HOOK_IO_SERVER_URL": server.url,
               **({variable: str(project)} if variable else {})}
        for _ in range(2):
            done = fed(["sh", "-c", command], b"{}", cwd=str(project), env=env)
            assert done.returncode == 0
            server.wait(1, timeout=PATIENCE_S)
            shutil.rmtree(str(project / ".claude"), ignore_errors=True)
        (sent,) = server.events()
    assert (sent["source_app"], sent["event_type"]) == ("demo", "PreToolUse")


def example(hook, name):
    source = next(text for text in blocks("python") if f'"{name}"' in text)
    (hook.folder / f"{name}.py").write_text(source)
    assert len([line for line in source.splitlines() if line]) <= 15
    return f"{name}.py"


@pytest.mark.parametrize("flags", [(), ("-I", "-S")])
def test_the_example_guard_denies_and_else_has_no_opinion(hook, flags):
    guard, event = example(hook, "guard"), sample("PreToolUse")
    event["tool_input"] = {"command": "rm -rf /"}
    said = hook.run(guard, stdin=event, flags=flags).document["hookSpecificOutput"]
    assert said == {
        "hookEventName": "PreToolUse", "permissionDecision": "deny",
        "permissionDecisionReason":
            "deleting folders needs a human — move it to the trash instead"}
    event["tool_input"] = {"command": "ls"}
    result = hook.run(guard, stdin=event, flags=flags)
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_example_that_adds_context_names_the_branch(hook, tmp_path):
    repo = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    switch = ["git", "-C", str(repo), "checkout", "-q", "-b", "spring"]
    subprocess.run(switch, check=True)
    event = {**sample("SessionStart"), "cwd": str(repo)}
    said = hook.run(example(hook, "branch"), stdin=event).document
    assert said == {"hookSpecificOutput": {
        "hookEventName": "SessionStart",
        "additionalContext": "The git branch is spring."}}


def stderr_of(hook, url, *argv, **kwargs):
    result = hook.send(url, *argv, stdin=sample("Stop"), **kwargs)
    return result.stderr.replace(url, ADDRESS)


def provoke(hook, message):
    """Return the stderr of the situation that *message* belongs to."""
    if "connection refused" in message:
        return stderr_of(hook, f"http://localhost:{closed_port()}/events")
    if "public address" in message:
        return hook.send("http://192.0.2.1:4000/events", stdin=sample("Stop")).stderr
    if "no known event" in message:
        return stderr_of(hook, ADDRESS, event_type="PreTolUse")
    if "not counted" in message:
        (hook.home / "file").write_text("")
        state = {"HOOK_IO_STATE_DIR": str(hook.home / "file" / "state")}
        return stderr_of(hook, f"http://localhost:{closed_port()}/events", env=state)
    fault = "silent" if "no answer" in message else "bad_request"
    with EventServer(fault=fault) as server:
        return stderr_of(hook, server.url)


@pytest.mark.parametrize("message", messages())
def test_a_message_of_troubleshooting_is_what_the_hook_says(one_hook, message):
    said = provoke(one_hook, message).splitlines()
    if "not counted" in message:
        message = re.sub(r" \[Errno.*?;", "", message)
        said = [re.sub(r" \[Errno.*?;", "", line) for line in said]
    assert message in said


def links():
    """Yield (page, target) of each link in a page of the project that stays in it."""
    for path in sorted(ROOT.rglob("*.md")):
        page = path.relative_to(ROOT)
        if not any(part in OTHERS or part.endswith("cache") for part in page.parts):
            text = re.sub(CODE, "", path.read_text(encoding="utf-8"))
            for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
                if not re.match(r"\w+:", target):
                    yield str(page), target


#: what is no prose
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)
#: folders below the project that are not of it
OTHERS = (".venv", ".venv-fleet", ".windows", "node_modules")
LINKS = list(links())


def is_there(page, target):
    """Tell whether a link of *page* leads to a file, and to a heading of it."""
    file, _, anchor = target.partition("#")
    path = os.path.normpath(os.path.join(os.path.dirname(page), file) if file else page)
    return (ROOT / path).exists() and (not anchor or anchor in anchors(path))


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page, target):
    assert is_there(page, target)


def test_a_link_that_leads_nowhere_is_seen():
    assert is_there("README.md", "#install")
    assert is_there(".github/SECURITY.md", "../README.md#install")
    assert not is_there("README.md", "#no-such-heading")
    assert not is_there(".github/SECURITY.md", "README.md")


def test_every_page_is_in_reach_of_the_readme():
    reached, todo = set(), ["README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        found = [os.path.normpath(os.path.join(os.path.dirname(page), target))
                 for at, whole in LINKS if at == page
                 for target in [whole.partition("#")[0]] if target.endswith(".md")]
        todo += set(found) - reached
    assert {page for page, _ in LINKS} | set(PAGES) <= reached


def test_the_readme_can_be_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) < 400


def suites():
    return {path: path.read_text() for path in TESTS.rglob("test_*.py")}


def test_what_holds_a_promise_of_security_is_there():
    page = (ROOT / ".github" / "SECURITY.md").read_text()
    tests = set(re.findall(r"`(test_\w+)`", page))
    known = re.findall(r"^def (test_\w+)", "".join(suites().values()), re.M)
    assert len(tests) > 20 and tests <= set(known)
    rows = re.findall(r"^\| .+? \| (.+) \|$", page, re.M)[1:]
    soaked = {part.strip() for row in rows for text in re.findall(
        r"`make soak`: ([a-z, ]+)", row) for part in text.split(",")}
    assert soaked <= set(soak.PARTS)
    assert all("`" in row for row in rows)


def test_each_suite_is_on_the_page_for_developers_in_its_own_words():
    page = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    told = dict(re.findall(r"^\| `(test_\w+\.py)` \| (.+) \|$", page, re.M))
    heads = {path.name: ast.get_docstring(ast.parse(text)).splitlines()[0].rstrip(".")
             for path, text in suites().items() if path.parent == TESTS}
    assert {name: text.lower() for name, text in told.items()} == {
        name: text.lower() for name, text in heads.items()}


def test_each_folder_of_the_tests_is_on_the_page_for_developers():
    page = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    told = set(re.findall(r"`tests/(\w+)`", " ".join(
        re.findall(r"^\| (`tests/\w+`.*?) \|", page, re.M))))
    assert told == {path.name for path in TESTS.iterdir()
                    if path.is_dir() and path.name[:1] not in "_."}


def test_what_the_settings_show_is_what_the_check_says(one_hook, tmp_path):
    (settings,) = [text for text in blocks("json") if "FAIL_LOUD" in text]
    (line,) = [text for text in blocks("sh") if "--check" in text]
    folder = tmp_path / "project" / ".claude"
    shutil.copytree(str(one_hook.folder), str(folder / "hooks"))
    (folder / "settings.local.json").write_text(settings)
    done = subprocess.run(["sh", "-c", line], cwd=str(folder.parent),
                          env={**one_hook.env, "PATH": one_hook.path()},
                          stdin=subprocess.DEVNULL, capture_output=True,
                          timeout=PATIENCE_S)
    names = ", ".join(json.loads(settings)["env"])
    assert f"settings: {folder}/settings.local.json sets {names}\n" in (
        done.stdout.decode())
