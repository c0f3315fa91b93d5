"""The two files read as they should: side effects in place, nothing too long."""

import ast
import collections
import dis
import functools
import inspect
import json
import operator
import re
import subprocess
import types

import pytest

import hook_io
from conftest import NEWEST, PYTHONS, ROOT, TESTS, is_cpython, nowhere, sample
from errands import errand
from server import EventServer
from test_readme import blocks

SHIPPED = ("hook_io.py", "send_event.py")
SOURCES = {name: (ROOT / name).read_text() for name in SHIPPED}
EXAMPLES = {f"README example {n}": text for n, text in enumerate(blocks("python"), 1)}

#: what only certain top-level definitions may do -> names that do it, who may
POWERS = {
    "streams and exit": (
        {"print", "input", "exit", "quit", "sys.stdout", "sys.stderr", "sys.stdin",
         "sys.exit", "os.write", "os._exit", "os.dup", "os.dup2", "os.abort"},
        {"Emitter", "StderrBuffer", "FailureStreak", "WholeFile",
         "Background",
         "_main", "say"}),  # a person's command, no hook: it says what it did
    "network": (
        {"socket", "_socket", "ssl", "__import__('_socket')", "__import__('socket')",
         "getaddrinfo", "connect", "sendall", "recv", "urllib", "http"},
        {"Endpoint", "Exchange"}),
    "files": (
        {"open", "os.open", "os.replace", "os.rename", "os.unlink", "os.remove",
         "os.makedirs", "os.mkdir", "os.rmdir", "os.truncate"},
        {"FailureStreak", "OwnFile", "StderrBuffer", "forget_compiled", "Background",
         "Wait",  # reads when the process began
         "WholeFile", "Spool", "EventLog", "Ledger", "Parts", "Start", "Check",
         "Trial", "Plan", "say"}),  # the installer's
    "processes": (
        {"os.system", "os.fork", "os.execv", "os.kill", "os.popen", "subprocess"},
        {"Background", "Trial"}),
}


@functools.lru_cache(maxsize=None)
def tree_of(source):
    """Return the syntax tree of *source*, which nobody changes."""
    return ast.parse(source)


@functools.lru_cache(maxsize=None)
def names_in(node):
    """Return what named_in() yields, for all who ask."""
    return list(named_in(node))


def named_in(node):
    """Yield every dotted name, import and call that *node* holds, as text."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            yield f"{part.value.id}.{part.attr}"
            yield part.attr if part.value.id not in ("os", "sys") else ""
        elif isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, (ast.Import, ast.ImportFrom)):
            yield from (alias.name.partition(".")[0] for alias in part.names)
            yield getattr(part, "module", None) or ""
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "__import__":
            yield f"__import__({part.args[0].value!r})"


def breaches(source, power):
    """Return "definition: name" for each use of *power* where it does not belong."""
    names, allowed = POWERS[power]
    for node in tree_of(source).body:
        holder = getattr(node, "name", "module level")
        if holder not in allowed:
            yield from (f"{holder}: {name}" for name in names_in(node) if name in names)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("file", [*SHIPPED, *EXAMPLES])
def test_side_effects_stand_where_they_belong(file, power):
    if file in EXAMPLES and power == "processes":
        pytest.skip("an example may start git")
    assert list(breaches({**SOURCES, **EXAMPLES}[file], power)) == []


@pytest.mark.parametrize(("code", "power"), [
    ("def f():\n    print('x')", "streams and exit"),
    ("def f():\n    sys.stdout.write('x')", "streams and exit"),
    ("def handler(e):\n    os._exit(2)", "streams and exit"),
    ("import socket", "network"),
    ("def f(s):\n    s.connect(1)", "network"),
    ("def f():\n    open('x', 'w')", "files"),
    ("from subprocess import run", "processes"),
])
def test_a_side_effect_out_of_its_place_is_seen(code, power):
    assert list(breaches(code, power))


@pytest.mark.parametrize("power", POWERS)
def test_whoever_may_have_a_side_effect_exists_and_has_it(power):
    names, allowed = POWERS[power]
    body = tree_of(SOURCES["hook_io.py"]).body
    tree = {getattr(node, "name", ""): node for node in body}
    assert {name for name in allowed if not names & set(names_in(tree[name]))} == set()


@functools.lru_cache(maxsize=None)
def functions(source):
    return [node for node in ast.walk(tree_of(source))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def code_lines(function):
    documented = ast.get_docstring(function) is not None
    first = function.body[0].end_lineno if documented else function.lineno - 1
    return function.end_lineno - first + (1 if documented else 0)


def depth(node):
    """Return how many blocks deep *node* nests; an elif is no deeper than its if."""
    nests = isinstance(node, (ast.If, ast.For, ast.While, ast.Try, ast.With))
    depths = [0]
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and (
            node.orelse == [child])
        depths.append(depth(child) - is_elif)
    return nests + max(depths)


@pytest.mark.parametrize("file", SHIPPED)
def test_functions_are_short_and_flat(file):
    sizes = sorted(map(code_lines, functions(SOURCES[file])))
    assert sizes[-1] <= 40
    assert sizes[len(sizes) // 2] <= 14
    deep = {f.name: depth(f) for f in functions(SOURCES[file]) if depth(f) > 3}
    assert deep == {}


@pytest.mark.parametrize(
    "path", [*(ROOT / name for name in SHIPPED), *TESTS.rglob("*.py")],
    ids=lambda path: path.name)
def test_lines_are_at_most_88_long(path):
    lines = path.read_text().splitlines()
    assert [n for n, line in enumerate(lines, 1) if len(line) > 88] == []


@pytest.mark.parametrize("file", SHIPPED)
def test_every_public_definition_is_documented(file):
    public = [node for node in tree_of(SOURCES[file]).body
              if isinstance(node, (ast.FunctionDef, ast.ClassDef))
              and not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_only_run_catches_every_exception():
    for file, source in SOURCES.items():
        for function in functions(source):
            handlers = [part.type for part in ast.walk(function)
                        if isinstance(part, ast.ExceptHandler)]
            names = {name.id for kind in handlers if kind for name in ast.walk(kind)
                     if isinstance(name, ast.Name)}
            allowed = {"run": {"Exception", "BaseException"}}
            wide = names & {"Exception", "BaseException"}
            assert wide <= allowed.get(function.name, set()), (file, function.name)
            assert None not in handlers, (file, function.name)


def agents_named_in(function):
    """Yield the texts in *function*, its docstring aside, that name an agent."""
    agents = [agent for agent in hook_io.PLATFORMS if agent != "raw"]
    for node in ast.walk(function):
        text = getattr(node, "value", "") if isinstance(node, ast.Constant) else ""
        if isinstance(text, str) and text != ast.get_docstring(function, clean=False):
            yield from (text for agent in agents if agent in text.lower())


@pytest.mark.parametrize("file", SHIPPED)
def test_nothing_outside_the_tables_depends_on_an_agents_name(file):
    found = [(function.name, text) for function in functions(SOURCES[file])
             for text in agents_named_in(function)]
    assert found == []


@pytest.mark.parametrize("code", [
    "if agent == 'codex': pass", "return {'gemini': 1}[agent]", "'~/.Qwen/' in path",
    "f'copilot {agent}'"])
def test_a_branch_on_an_agents_name_is_seen(code):
    (function,) = functions(f"def f(agent, path):\n    'Serve codex.'\n    {code}")
    assert len(list(agents_named_in(function))) == 1


def bound(body):
    """Yield each name that a statement of *body* itself binds, once for each time."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = getattr(node, "targets", None) or [node.target]
            yield from (part.id for target in targets for part in ast.walk(target)
                        if isinstance(part, ast.Name)
                        and isinstance(part.ctx, ast.Store))


def doubled(source):
    """Return the names that a module, or a class of it, binds a second time."""
    tree = tree_of(source)
    bodies = [tree.body, *(node.body for node in ast.walk(tree)
                           if isinstance(node, ast.ClassDef))]
    counts = [collections.Counter(bound(body)) for body in bodies]
    return [name for count in counts for name in count if count[name] > 1]


@pytest.mark.parametrize("file", SHIPPED)
def test_nothing_is_defined_twice_so_that_one_hides_the_other(file):
    assert doubled(SOURCES[file]) == []


@pytest.mark.parametrize("code", [
    "def f(): pass\ndef f(): pass", "A = 1\nA = 2", "A = 1\nA: int = 2",
    "A, B = 1, 2\nclass B: pass", "import a\ndef a(): pass",
    "class C:\n    def f(self): pass\n    def f(self): pass"])
def test_a_definition_that_hides_another_is_seen(code):
    assert len(doubled(code)) == 1


def test_an_exemption_from_a_check_gives_its_reason_beside_it():
    for source in SOURCES.values():
        for line in source.splitlines():
            assert not re.search(r"# type: ignore|# noqa(?!: \w+ - \w)", line), line


def test_both_files_carry_the_licence_and_the_same_version():
    for name, source in SOURCES.items():
        head = source[:400]
        assert "# SPDX-License-Identifier: MIT\n" in head
        assert f"# {name[:-3]} {hook_io.__version__}, part of hook-io - copy" in head


def test_all_names_of_the_api_exist_and_are_sorted():
    assert [name for name in hook_io.__all__ if not hasattr(hook_io, name)] == []
    assert len(set(hook_io.__all__)) == len(hook_io.__all__)


BEFORE_EXIT = """
import posix, sys
before, leave = set(sys.modules), posix._exit
def report(code):
    if posix.getpid() == hook:
        posix.write(leave_fd, " ".join(set(sys.modules) - before).encode())
    leave(code)
leave_fd, hook, posix._exit = posix.dup(2), posix.getpid(), report
"""


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("is_up, argv", [
    (True, ()), (False, ()), (False, ("--export", "--background")),
], ids=["delivered", "server down", "export detached"])
def test_os_is_not_imported_where_nobody_has_loaded_it(one_hook, is_up, argv, tmp_path):
    """It costs a fifth of Python's start, which the registered command has spared."""
    script = one_hook.folder / "send_event.py"
    script.write_text(script.read_text().replace(
        "import gc\n", f"import gc\n{BEFORE_EXIT}", 1))
    env = {"HOOK_IO_EXPORT": "textfile", "HOOK_IO_TEXTFILE_DIR": str(tmp_path)}
    with EventServer() as server:
        url = server.url if is_up else nowhere()
        for _ in range(2):  # the first makes the folder of the state
            result = one_hook.send(
                url, *argv, stdin=sample("PreToolUse"), flags=("-I", "-S"),
                env=env if argv else {})
        assert len(server.exchanges) == 2 * is_up
    imported = set(result.stderr.splitlines()[-1].split())
    assert imported <= {
        "hook_io", "gc", "stat", "_stat", "_json", "_socket", "select"}


ENVIRONMENT = """
import sys
import hook_io
early = "os" in sys.modules, hook_io.os.environ.get("ONE"), hook_io.os.O_RDONLY
import os
os.environ["TWO"] = "2"
late = hook_io.os.environ.get("TWO"), hook_io.os.path is os.path, os.environ["ONE"]
hook_io.Emitter().emit_text(hook_io.encode([early, late]))
"""


def test_os_is_there_for_what_needs_more_of_it(hook):
    (hook.folder / "more.py").write_text(ENVIRONMENT)
    result = hook.run("more.py", flags=("-S", "-E"), env={"ONE": "é\udcff"})
    assert result.document[0][2] == 0 and result.document[1][:2] == ["2", True], result
    assert result.document[0][1] == result.document[1][2] != ""
    if is_cpython(hook.python) and not hook.env.get("HOOK_IO_PURE"):
        assert result.document[0][0] is False


def imported_on_the_way(hook, url):
    """Return the modules that delivering one event brings in, beyond a bare start."""
    watch = (
        "import os, sys\n"
        "before, leave = set(sys.modules), os._exit\n"
        "def report(code):\n"
        "    os.write(leave_fd, ' '.join(set(sys.modules) - before).encode())\n"
        "    leave(code)\n"
        "leave_fd, os._exit = os.dup(2), report\n"
        "sys.argv = sys.argv[1:]\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[0]))\n"
        "code = compile(open(sys.argv[0]).read(), sys.argv[0], 'exec')\n"
        "exec(code, {'__name__': '__main__', '__file__': sys.argv[0]})\n")
    (hook.home / "watch.py").write_text(watch)
    done = subprocess.run(
        [hook.python, str(hook.home / "watch.py"), str(hook.folder / "send_event.py"),
         "--source-app", "demo", "--event-type", "PreToolUse", "--server-url", url,
         "--timeout-ms", "60000"],
        input=json.dumps(sample("PreToolUse")).encode(), env=hook.env,
        capture_output=True, check=True)
    return set(done.stderr.decode().split())


def test_the_hot_path_imports_two_c_modules_and_no_more(one_hook):
    with EventServer() as server:
        imported = imported_on_the_way(one_hook, server.url)
        assert len(server.wait(1)) == 1
    built_in = {"gc"}  # a part of the interpreter itself: no file is read for it
    assert imported <= {"hook_io", "_json", "_socket", *built_in}, PYTHONS[NEWEST]


def rooms(source):
    """Return line and title of each section, a part's banner counting as one."""
    heads = r"(?m)^# (?:(Part \w+):.*|([A-Z][A-Za-z ]+) -+)$"
    return [(source[:head.start()].count("\n") + 1, head[1] or head[2])
            for head in re.finditer(heads, source)]


def globals_read(code):
    """Yield the global names that *code*, and what is nested in it, reads."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from globals_read(inner)


def uses_of_part_two(source):
    """Return each name of part two that part one reads."""
    seam = next(line for line, title in rooms(source) if title == "Part two")
    two = set(bound(node for node in tree_of(source).body if node.lineno > seam))
    one = compile("\n".join(source.splitlines()[:seam - 2]), "part one", "exec")
    return sorted(two & set(globals_read(one)))


def test_part_one_names_part_two_in_one_table_alone():
    assert uses_of_part_two(SOURCES["hook_io.py"]) == []
    for later in hook_io.EXTRAS.values():
        if later is hook_io.Parts.is_whole:
            continue  # what splits the parts, where part two came apart from part one
        name = inspect.getclosurevars(later).nonlocals["name"]
        assert callable(operator.attrgetter(name)(hook_io)), name


def test_a_call_from_part_one_into_part_two_is_seen():
    source = SOURCES["hook_io.py"].replace(
        'EXTRAS["log"](leaving', "EventLog.log(leaving")
    assert uses_of_part_two(source) == ["EventLog"]


def uses_of_a_later_section(source):
    """Return "function: name" for each name that a section of part two reads ahead."""
    heads, later = rooms(source), []
    seam = [title for _, title in heads].index("Part two")
    place = {name: max(n for n, (line, _) in enumerate(heads) if line <= node.lineno)
             for node in tree_of(source).body if node.lineno > heads[0][0]
             for name in bound([node])}
    for code in compile(source, "hook_io.py", "exec").co_consts:
        room = place.get(getattr(code, "co_name", ""), 0)
        if room > seam:
            later += [f"{code.co_name}: {name}" for name in globals_read(code)
                      if place.get(name, 0) > room]
    return later


def test_a_section_of_part_two_is_complete_before_the_next():
    source = SOURCES["hook_io.py"]
    assert uses_of_a_later_section(source) == []
    ahead = source.replace("delivered, why = spool._deliver_alone()\n",
                           "delivered, why = Installer(spool._deliver_alone())\n")
    assert uses_of_a_later_section(ahead) == ["Spool: Installer"]


def test_what_was_set_never_changes_and_an_errand_of_its_kind_leaves_the_first_alone():
    first = errand("Stop")
    with pytest.raises(AttributeError, match="format belongs to an Errand"):
        first.settings.format = "raw"
    other = first.like({"summary": "another"})
    other.note("said")
    assert (first.summary, other.summary, first.notes) == ("", "another", ["said"])
