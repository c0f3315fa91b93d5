"""A fact has one place: where another file has to repeat it, a test compares both.

Here these are the figures and lists of the pages above all.  SAID holds sentences, each
value in them taken from the code; a number in the prose that is in none of them has to
be in MEASURED, so that no figure stands there for itself.
"""

import ast
import json
import re

import pytest

import bench
import cost
import hook_io
import hostile
import send_event
from conftest import CONTRACT, PAGED, ROOT, VECTORS, sample
from errands import errand
from server import BODY_MAX_BYTES, FIELDS
from server.command import parse_options

MAKEFILE = (ROOT / "Makefile").read_text()
CLAUDE = hook_io.PLATFORMS["claude-code"]
#: option, or a variable that has none -> [variable, default, what it takes, what for]
OPTIONS = {row[0] if row[0] != "-" else row[1]: row[1:] for row in (
    line.split(None, 4) for line in send_event.OPTIONS.strip().splitlines())}
BUDGET = f"{OPTIONS['--timeout-ms'][1]} ms"
BACKGROUND = f"{int(OPTIONS['HOOK_IO_BACKGROUND_TIMEOUT_MS'][1]) // 1000} s"
STDIN_MIB = f"{hook_io.STDIN_MAX_BYTES >> 20} MiB"
STDIN_S = f"{hook_io.STDIN_TIMEOUT_MS // 1000} s"
IDLE = f"{hook_io.STDIN_IDLE_MS} ms"
BODY_KIB = f"{hook_io.BODY_MAX_BYTES >> 10} KiB"
SPOOLED = f"{hook_io.SPOOL_MAX_FILES:,}"
HOOKED = hook_io.REGISTERED["claude-code"]["hooked"].split()
INSTALLED = [*hook_io.REGISTERED]
ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}
NUMBERS = {4: "four", 5: "five", 6: "six", 7: "seven"}


def words(names, last="and"):
    """Return "A, B and C"."""
    *most, end = names
    return f"{', '.join(most)} {last} {end}" if most else end


def coded(names, last="and"):
    return words([f"`{name}`" for name in names], last)


def events_of(agent, intent, shape=None):
    """Return on which events *agent* has a shape (this one) for an intent."""
    shapes = hook_io.PLATFORMS[agent].get(intent, {})
    return [name for name, value in shapes.items() if shape in (None, value)]


#: what the pages say, with the values that the code has for it
SAID = (
    f"to a server within {BUDGET}, and",
    f"exits {hook_io.EXIT_OK} whatever becomes of the event",
    f"it exits {hook_io.EXIT_OK} whether the event was sent or lost",
    f"`--agent {coded(INSTALLED[1:], 'or')[1:]} registers it with that agent",
    f"is kept as `settings.json{hook_io.BACKUP}`",
    f"registers {len(HOOKED)} of the {len(CLAUDE['events'])} events",
    f"which Python reports with exit code {hook_io.EXIT_BLOCK}, stops nothing",
    f"A string above {hook_io.STRING_MAX_CHARS:,} characters keeps its head",
    f"a body stays below {BODY_KIB} and",
    f"It becomes `{hook_io.REDACTED}`, also in JSON inside strings",
    f"more than {hook_io.NESTING_MAX} levels are too deep",
    f"which shows at most {hook_io.ECHO_MAX_CHARS} characters of it",
    f"above {STDIN_MIB} ({hook_io.STDIN_MAX_BYTES:,} bytes) the members",
    "no port from 1 to 65535 is not used",
    f"does all of this for the first {NUMBERS[len(INSTALLED) - 1]} below",
    "`timeout` in seconds, for SessionEnd at most "
    f"{hook_io.REGISTERED['codex']['entry']['timeout']}.",
    f"Events: {', '.join(hook_io.REGISTERED['gemini']['hooked'].split())};",
    f"waits for the server's answer, at most {BUDGET}:",
    f"A status of 400 to 499 other than {words(map(str, hook_io.TRANSIENT))} means",
    f"The spool holds {SPOOLED} files, {hook_io.SPOOL_MAX_BYTES >> 20} MiB and "
    f"{hook_io.SPOOL_MAX_DAYS} days;",
    f"above {hook_io.LOG_MAX_BYTES >> 20} MiB it becomes `events.jsonl.1`",
    f"hour mean, with the {len(HOOKED)} events of `tests/samples`",
    f"read or wrote, up to {BODY_KIB}:",
    f"each machine spools its {SPOOLED} events,",
    f"{SPOOLED} / 3,600 s x {BACKGROUND} = "
    f"{hook_io.SPOOL_MAX_FILES * int(BACKGROUND[:-2]) / 3600:.0f} background processes",
    f"than the {BACKGROUND} of `HOOK_IO_BACKGROUND_TIMEOUT_MS`",
    f"is a mistake and exits {hook_io.EXIT_BLOCK} (but",
    f"at most {hook_io.ECHO_MAX_CHARS} characters of the value",
    f"and `--help` exit {hook_io.EXIT_OK} without",
    f"{coded(hook_io.OFF_WORDS)} in a variable",
    f"takes all {len(CLAUDE['events'])} events of Claude Code {CLAUDE['measured']}, ",
    f"clipped to {hook_io.MODEL_MAX_BYTES >> 10} KiB. No model answers within {BUDGET}",
    f"block` exits {hook_io.EXIT_BLOCK} once in a session from the "
    f"{ORDINALS[hook_io.LOUD_AFTER]} loss on, only on "
    f"{words(events_of('claude-code', 'loud'))}, where",
    f"turns it into {hook_io.EXIT_OK}: leave",
    f"from the {ORDINALS[hook_io.LOUD_AFTER]} in a row on",
    "in Claude Code those are "
    f"{words(events_of('claude-code', 'hint'))}. The event",
    f"a line of {hook_io.RECORD_BYTES} bytes for each loss",
    f"{BUDGET}, from the first line of the script",
    f"and ends after {IDLE} without a byte, or {STDIN_S} in all",
    f"in processor time, or {hook_io.EFFORT_MIN_MS} ms: what",
    f"for a processor, which ends after {hook_io.EFFORT_STAY_S} s.",
    f"{STDIN_S} for stdin, {hook_io.EFFORT_STAY_S} s for a processor, the budget, and "
    f"{hook_io.WRITE_TIMEOUT_MS // 1000} s for an agent",
    f"does not answer within {BUDGET} over TLS",
    f"random part is shorter than {hook_io.KEY_BODY_MIN_CHARS} characters",
    f"one whole object of {hook_io.DECISION_MAX_BYTES >> 20} MiB and "
    f"{hook_io.NESTING_MAX} levels at most; another",
    f"a whole number of more than {hook_io.INTEGER_MAX_DIGITS} digits counts as",
    f"events around {STDIN_MIB}, read",
    f"few answers come within {BUDGET}",
    "`block` on "
    f"{words(events_of('claude-code', 'block', hook_io._EXIT))} is exit "
    f"{hook_io.EXIT_BLOCK},",
    f"stdin is one object, {STDIN_MIB} and {STDIN_S} at most",
    f"where hints are shown, and exit {hook_io.EXIT_OK}.",
    f"unreadable stdin or an event above {STDIN_MIB} is a denial",
    f"context end at {hook_io.HINT_MAX_CHARS:,} characters, reasons at "
    f"{hook_io.REASON_MAX_CHARS:,}:",
    f"and redacted, at most {hook_io.QUOTE_MAX_CHARS} characters",
    f"Exit {hook_io.EXIT_BLOCK}, `decision: \"block\"`",
    f"registered command turns into {hook_io.EXIT_OK}.",
    f"waiting ends after {IDLE} without a byte",
    f"outcome `unconfirmed`, after {BUDGET}.",
    f"where all behind {STDIN_MIB} is dropped",
    f"was killed is {hook_io.EXIT_OK} to it",
    f"`systemMessage` with exit {hook_io.EXIT_OK}, and",
    f"what is wrong with it; exit {hook_io.EXIT_OK} either way",
)

#: passages whose figures are no limit of ours, or measured -> what holds them
MEASURED = {
    r"on fakes in two halves: .+? look-alikes are altered": "tests/test_corpus.py",
    r"A grammar of \d+ places for a named secret .+? are altered\. Not found:":
        "measured once",
    r"What 10,000 people at 2,000 events .+? GB/h": "tests/test_readme.py",
    r"\d[\d,]+ a second want several": "tests/test_readme.py",
    r"events, \d+ bytes each on average, [\d.]+ MB": "tests/test_readme.py",
    r"\(2,000 in [\d.]+ s to this machine; at 100 ms for a TLS exchange it is 200 s\)":
        "measured once; 2,000 of 100 ms each",
    r"`make story` exports one turn .+? but for the first column": "measured once",
    r"The last run of `make soak`, .+? seed \d+\)": "tests/test_readme.py",
    r"With 50 hooks at once": "tests/measure/soak.py",
    r"Are 40 hooks at once counted right\?": "vectors: streak/forty-at-once",
    r"with exit code 1, 137 or 143": "what an agent shows of other hooks",
    r"2000 is two seconds to one of them and 33 minutes to the other": "2000 / 60",
    r"a 404 is an answer": "an example",
    r"Answers 1xx are passed over; headers and body of a 2xx": "HTTP",
    r"the same and takes [\d.]+ times as long": "below",
    r"without which a hook takes \d+ times as long": "below",
    r"What `make cost` adds to a session: .+? the call itself\.": "below",
    r"The goals are at most [\d.]+ of `true`, .+? 3\.29 and 1\.17\.": "below",
    r"In instructions a delivered event is .+?\.(?= )": "below",
    r"your own is \d+ lines": "tests/test_readme.py",
    r"\([\d.]+ or later\)": "below", r"from [\d.]+ to [\d.]+ and PyPy that": "below",
    r"an event\s+above 140 KB what had arrived":
        "measured once, on Linux: 146,176 bytes with Node, 219,264 with Bun",
    r"kept for 30 days in": "tests/test_attribution.py",
    r"`HOOK_IO_DECIDE_TIMEOUT_MS`, 1,000 ms": "the table of options",
    r"It is a 2xx with": "HTTP", r"CPython 3\.12 \(MSC build\)": "tests/windows",
    r"a refused connection that takes 2 s": "libuv 2896",
    r"mode 0600": "tests/test_spool.py, tests/test_event_log.py",
    r"folder 0700, file 0600": "vectors: streak/state-is-private",
    r"a token of 40 characters": "tests/test_readme.py",
    r"\*\*[\d.]+\*\*: ": "below",
    r"and 0\.0\.0\.0 are refused": "vectors: endpoint/no-address-of-one-machine",
    r"`localhost` is 127\.0\.0\.1, then ::1": "tests/test_endpoint.py",
}
#: sections that another file measures as a whole
ELSEWHERE = ("Port it", "Compared")


def prose():
    """Return the pages on one line, without code, tables, messages and ELSEWHERE."""
    text = re.sub(r"^```.*?^```", "", PAGED, flags=re.M | re.S)
    text = re.sub(r"<!-- bench -->.*?^(?=\|)", "", text, flags=re.M | re.S)
    for title in ELSEWHERE:
        text = re.sub(rf"^## {title}\n.*?(?=^## )", "", text, flags=re.M | re.S)
    text = re.sub(r"^(?:\||\*\*`.+`\*\*$).*\n", "", text, flags=re.M)
    return " ".join(text.split())


PROSE = prose()


@pytest.mark.parametrize("sentence", SAID)
def test_what_the_readme_says_is_what_the_code_has(sentence):
    assert sentence in PROSE


@pytest.mark.parametrize("passage", MEASURED)
def test_a_passage_with_figures_of_its_own_is_there(passage):
    assert re.search(passage, PROSE)


def unheld(text):
    """Return each number of *text*, outside of code, that no table here knows."""
    held = [at for sentence in SAID for found in re.finditer(re.escape(sentence), text)
            for at in range(*found.span())]
    held += [at for passage in MEASURED for found in re.finditer(passage, text)
             for at in range(*found.span())]
    code = [at for found in re.finditer(r"`[^`]+`|<http[^>]+>", text)
            for at in range(*found.span())]
    known = {*held, *code}
    return [text[max(0, found.start() - 40):found.end() + 20]
            for found in re.finditer(r"(?<![\w.])\d[\d.,]*", text)
            if found.start() not in known]


def test_no_figure_in_the_prose_stands_for_itself():
    assert unheld(PROSE) == []


def test_a_new_figure_in_the_prose_is_seen():
    assert len(unheld(PROSE + " It waits for 7 s, 1,000 times.")) == 2


def test_the_events_that_are_not_registered_are_named():
    passage = re.search(r"It leaves out what (.+?)hardly ever come", PROSE).group(1)
    left_out = set(CLAUDE["events"]) - set(HOOKED)
    assert sorted(re.findall(r"`(\w+)`", passage)) == sorted(left_out)


def test_the_agents_that_may_be_stopped_are_named():
    loud = [agent for agent in hook_io.PLATFORMS if events_of(agent, "loud")]
    assert loud == ["claude-code", "codex", "qwen", "gemini"]
    assert ("`--fail-loud block` stops Codex, Gemini CLI and Qwen Code before a tool "
            "or a prompt, and no other agent but Claude Code.") in PROSE
    assert {tuple(events_of(agent, "loud")) for agent in loud[1:]} == {
        ("PreToolUse", "UserPromptSubmit")}


def test_each_variable_that_the_readme_names_is_there_and_the_other_way_round():
    source = "".join((ROOT / name).read_text() for name in (
        *hook_io.FILES, "tests/test_formats.py",  # which tries names made of parts
        "tests/live/clients.py"))  # which sets the agent's own
    variable = r"\b(?:HOOK_IO|OTEL|ANTHROPIC|GRAM|XDG)_[A-Z_]*[A-Z]\b"
    named = set(re.findall(variable, PAGED))
    elsewhere = {"HOOK_IO_TOKEN"}  # the collector's own, in its configuration
    assert named - elsewhere - set(re.findall(variable, source)) == set()
    assert set(re.findall(r"HOOK_IO_\w+", send_event.OPTIONS)) <= named


def test_each_option_that_the_readme_names_is_there():
    named = set(re.findall(r"`(?:send_event\.py )?(--[a-z][a-z-]+)", PROSE))
    sources = ((ROOT / name).read_text() for name in ("hook_io.py", "send_event.py"))
    known = set(re.findall(r"--[a-z][a-z-]+", "".join(sources)))
    examples = {"--name", "--password", "--init"}  # the last one is docker's
    assert named - known - examples == set()


def test_each_target_that_the_readme_names_is_there_and_the_other_way_round():
    named = set(re.findall(r"(?m)(?:`|^|: )make ([a-z]+)\b", PAGED))
    targets = set(re.findall(r"(?m)^([a-z]+): ", MAKEFILE))
    assert named == targets - {"help", "clean", "uninstall"}


def test_each_file_of_the_tests_that_the_readme_names_is_there():
    named = set(re.findall(r"`(tests/[\w./-]+)`", PAGED))
    assert named and {name for name in named if not (ROOT / name).exists()} == set()


def test_the_address_to_send_to_is_the_one_that_is_served():
    port = hook_io.LOCAL_URL.rpartition(":")[2].partition("/")[0]
    assert f"({hook_io.LOCAL_URL})" in OPTIONS["--server-url"][3]
    assert parse_options([]).port == int(port)
    assert re.search(r"^PORT \?= (\d+)$", MAKEFILE, re.M).group(1) == port
    assert f"PORT ({port})" in MAKEFILE
    assert f"<http://localhost:{port}/>" in PAGED
    urls = set(re.findall(r"http://localhost:\d+[\w/]*", PAGED))
    base = f"http://localhost:{port}"  # what an exporter of OpenTelemetry is given
    collector = hook_io.COLLECTOR_URL + "/v1/logs"
    assert urls == {hook_io.LOCAL_URL, f"http://localhost:{port}/", base, collector}


def test_the_defaults_of_the_options_are_the_librarys():
    assert OPTIONS["HOOK_IO_FAIL_LOUD_THRESHOLD"][1] == str(hook_io.LOUD_AFTER)
    assert OPTIONS["--format"][1] == next(iter(hook_io.FORMATS))
    assert OPTIONS["--fail-loud"][1] == next(iter(hook_io.FAIL_LOUD))
    assert OPTIONS["--fail-loud"][2] == "|".join(hook_io.FAIL_LOUD)
    most = hook_io.STREAK_MAX_BYTES // hook_io.RECORD_BYTES
    assert int(OPTIONS["HOOK_IO_FAIL_LOUD_THRESHOLD"][2].rpartition("-")[2]) > most
    assert f"# {most:,} losses;" in (ROOT / "hook_io.py").read_text()


def test_what_measures_and_judges_has_the_limits_of_the_library():
    assert f"{bench.BUDGET_MS} ms" == BUDGET
    assert hostile.STDIN_MAX == hook_io.STDIN_MAX_BYTES
    assert sorted(bench.SCRIPTS) == sorted(hook_io.FILES)
    _, accepts, rule = FIELDS["summary"]
    longest = "x" * hook_io.SUMMARY_MAX_CHARS
    assert accepts(longest) and not accepts(longest + "x")
    assert f" {hook_io.SUMMARY_MAX_CHARS} " in rule
    assert hook_io.BODY_MAX_BYTES < BODY_MAX_BYTES
    assert f"at most {hook_io.SUMMARY_MAX_CHARS} characters |" in PAGED


def test_the_address_that_each_format_has_by_itself_is_the_codes():
    rows = re.findall(r"^\| `(\w+)` \| (?:`(http\S+)`|the same) \|", PAGED, re.M)
    assert len(rows) == len(hook_io.FORMATS)
    said = hook_io.normalise(sample("Stop"), "claude-code")
    shown = ""
    for name, url in rows:
        shown = url or shown
        assert hook_io.FORMATS[name](said, errand("Stop"))[0] == shown


def test_the_notes_on_the_agents_say_what_the_tables_say():
    notes = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (.*?) ?\|$", PAGED, re.M))
    rows = {agent: row for agent, row in hook_io.PLATFORMS.items() if agent in notes}
    by_exit = {agent for agent in rows if events_of(agent, "deny", hook_io._EXIT)}
    assert by_exit == {a for a in rows if "denies by exit 2" in notes[a]}
    assert not events_of("qwen", "rewrite") and "cannot rewrite" in notes["qwen"]
    slow = {agent for agent, row in hook_io.REGISTERED.items()
            if row["entry"].get("timeout", 0) >= 1000}
    assert slow == {a for a in rows if "in milliseconds" in notes[a]}
    assert events_of("cursor", "ask") == ["beforeShellExecution", "beforeMCPExecution"]


def test_every_outcome_has_its_words_and_its_meaning_once():
    lost = {outcome for outcome, is_loss in hook_io.OUTCOMES.items() if is_loss}
    assert set(hook_io.REMEDIES) == lost
    assert set(hook_io.LOSSES) == lost | {"connection refused"}
    source = (ROOT / "hook_io.py").read_text()
    rows = re.findall(r'^    "(\w+)": (?:True|False),  # (.+)$', source, re.M)
    shown = re.findall(r"^\| `(\w+)` \| (.+?) \| (?:yes|no) \|$", PAGED, re.M)
    assert shown == rows and [name for name, _ in rows] == list(hook_io.OUTCOMES)


def test_the_exit_codes_in_the_heads_of_the_files_are_the_codes():
    said = [int(code) for code in re.findall(r"^    exit (\d) ", send_event.__doc__,
                                             re.M)]
    assert said == [hook_io.EXIT_OK, hook_io.EXIT_FAILED, hook_io.EXIT_BLOCK]
    said = [int(code) for code in re.findall(r"^    exit (\d) ", hook_io.__doc__, re.M)]
    assert said == [hook_io.EXIT_OK, hook_io.EXIT_BLOCK]


def test_the_budget_in_the_head_of_the_script_and_of_the_plugin_is_the_default():
    assert f"within {BUDGET}." in send_event.__doc__.splitlines()[0]
    for name in ("plugin", "marketplace"):
        text = (ROOT / ".claude-plugin" / f"{name}.json").read_text()
        assert f"to a server within {BUDGET}, and" in text


def python_versions(text):
    return [tuple(map(int, version.split("."))) for version in text]


def test_the_oldest_python_is_the_same_everywhere():
    script = (ROOT / "send_event.py").read_text()
    (oldest,) = re.findall(r'^# requires-python = ">=(\d\.\d+)"$', script, re.M)
    assert f"({oldest} or later)" in PROSE
    assert f"from {oldest} to " in PROSE
    ruff = (ROOT / ".ruff.toml").read_text()
    assert f'target-version = "py{oldest.replace(".", "")}"' in ruff
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    tried = re.findall(r'"(\d\.\d+)"', workflow)
    newest = re.search(rf"from {re.escape(oldest)} to (\d\.\d+)", PROSE).group(1)
    in_order = python_versions(tried)
    assert (tried[0], tried[-1]) == (oldest, newest) and in_order == sorted(in_order)
    for name in hook_io.FILES:
        ast.parse((ROOT / name).read_text(),
                  feature_version=python_versions([oldest])[0])


def test_this_version_is_the_newest_in_the_list_of_versions_with_its_contracts():
    listed = re.findall(r"^- \*\*([\d.]+)\*\*: ([^-]+?)(?=\n\n|\n- )", PAGED, re.M)
    assert listed[0][0] == hook_io.__version__
    files = [json.loads(path.read_text()) for path in VECTORS.glob("*.json")]
    held = {file["contract"] for file in files if "cases" in file}
    assert set(re.findall(r"`(\w+ \d+\.\d+)`", listed[0][1])) == held
    page = (CONTRACT / "README.md").read_text()
    assert set(re.findall(r"`((?:send_event|hook|functions) \d+\.\d+)`", page)) == held
    made = re.search(r"^CONTRACTS .*,([\w ]+)\)\)$", MAKEFILE, re.M).group(1)
    assert set(made.split()) == {contract.split()[0] for contract in held}


def test_the_line_that_says_the_version_is_found_as_the_readme_says():
    assert "the line `part of hook-io`" in PROSE
    for name in hook_io.FILES:
        (line,) = [line for line in (ROOT / name).read_text()[:500].splitlines()
                   if "part of hook-io" in line]
        assert f" {hook_io.__version__}, " in line


def measured(row, column=1):
    """Return a figure of a row of the measured table, by default its median."""
    cells = re.search(rf"^\| {re.escape(row)} +\|(.+)\|$", PAGED, re.M).group(1)
    return float(cells.split("|")[column])


def test_what_the_prose_says_of_speed_is_in_the_measured_table():
    times = measured("delivered, uv run") / measured("delivered")
    assert f"does the same and takes {times:.1f} times as long." in PROSE
    times = measured("no .pyc") / measured("delivered")
    assert f"without which a hook takes {times:.0f} times as long." in PROSE
    said = re.search(r"In instructions a delivered event is ([\d.]+) of the start on "
                     r"3\.12, .+, one to a server that is down ([\d.]+),", PROSE)
    assert [float(text) for text in said.groups()] == [
        measured("delivered", 5), measured("server down", 5)]


def test_the_goals_that_are_missed_on_every_interpreter_are_named():
    rows = re.findall(r"^\| (.+?) +\| .+? +\| [<>]= [\d.]+ +\|(.+)\|$", PAGED, re.M)
    assert [goal for goal, _ in rows] == list(bench.GOALS)
    missed = [f"`{goal}`" for goal, cells in rows
              if all("MISSED" in cell for cell in cells.split("|"))]
    assert f"Missed on each of the three: {words(missed)}." in PROSE


def test_what_the_prose_says_of_the_goals_in_the_client_is_in_its_tables():
    limits = {of: limit for _, of, _, limit in cost.GOALS}
    assert f"at most {limits['true']} of `true`, and less than `curl`." in PROSE
    ratios = re.findall(r"^\| hook-io +\| [\d.]+ +\| [\d.]+ +\| ([\d.]+) +\|", PAGED,
                        re.M)
    up, silent, down = ratios
    assert (f"is missed: {up} with the server up, {silent} with a silent one, {down} "
            "with none,") in PROSE
    ours, curl = (float(re.search(rf"^\| {row} +\| ([\d.]+)", PAGED, re.M).group(1))
                  for row in ("hook-io", "curl"))
    assert ours < curl and min(map(float, ratios)) > limits["true"]
