"""What hook_io promises an agent and a handler: every input, one answer, no noise."""

import itertools
import json
import os
import re
import resource
import signal
import socket
import subprocess
import time

import pytest

import hook_io
from conftest import PATIENCE_S, Result, sample
from test_platforms import GOLDEN, RESULTS

LIMIT = 1 << 20
TOOL = sample("PreToolUse")
STOP = sample("Stop")
FOREVER_MS = 3_600_000  # longer than PATIENCE_S: only what is tested can end the wait

READER = """
import sys
import hook_io

def keep(event):
    with open(sys.argv[1], "w") as file:
        file.write(hook_io.encode(event))

limits = hook_io.decode(sys.argv[2])
hook_io.run(keep, "reader", read=lambda: hook_io.read_event(**limits))
"""


def place(hook, name, source):
    """Write a script into the hooks folder."""
    (hook.folder / name).write_text(source)
    return name


def finish(process):
    """Return the Result of *process*, whose stdin stays as it is until it has ended."""
    try:
        exit = process.wait(PATIENCE_S)
        streams = [stream.read().decode() if stream else ""
                   for stream in (process.stdout, process.stderr)]
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
    return Result(exit, *streams)


def start_reader(hook, stdin=subprocess.PIPE, **limits):
    kept = str(hook.home / "event.json")
    return hook.start(place(hook, "reader.py", READER), kept, json.dumps(limits),
                      stdin=stdin, bufsize=0)


def kept_event(hook):
    """Return the event that the reader got; None if it got none."""
    path = hook.home / "event.json"
    return json.loads(path.read_text()) if path.exists() else None


def feed(process, pieces):
    """Write *pieces*, each when the one before has been read."""
    import fcntl
    import termios

    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[process.stdin.write(view):]
        unread = bytearray(1)
        while any(unread) and process.poll() is None:
            time.sleep(0.0002)
            unread = fcntl.ioctl(process.stdin, termios.FIONREAD, b"\0" * 4)


def read(hook, *pieces, **limits):
    """Return (event, Result) of a reader that is fed *pieces* and then the end."""
    process = start_reader(hook, **limits)
    feed(process, pieces)
    process.stdin.close()
    result = finish(process)
    assert (result.exit, result.stdout) == (0, ""), result
    return kept_event(hook), result


# Reading


def test_a_whole_event_is_taken_while_the_pipe_stays_open(hook):
    process = start_reader(hook, timeout_ms=FOREVER_MS)
    feed(process, [json.dumps(TOOL).encode() + b"\n"])
    assert finish(process).stderr == "" and kept_event(hook) == TOOL


@pytest.mark.parametrize("limits", [
    {"timeout_ms": 300}, {"timeout_ms": FOREVER_MS, "idle_ms": 200}], ids=str)
def test_half_an_event_in_an_open_pipe_ends_by_the_guard(hook, limits):
    process = start_reader(hook, **limits)
    feed(process, [b'{"session_id": "s", '])
    result = finish(process)
    assert result.exit == 0 and kept_event(hook) is None
    assert result.lines == ["[ERROR] reader: unreadable stdin: JSON without its end: "
                            """'{"session_id": "s", '"""]


def test_a_stdin_that_never_ends_is_left_at_the_deadline(one_hook):
    with open("/dev/zero", "rb") as endless:
        process = start_reader(one_hook, endless, timeout_ms=300)
    assert "[ERROR] reader: unreadable stdin: " in finish(process).stderr


@pytest.mark.parametrize("pieces", [
    [bytes([byte]) for byte in json.dumps(TOOL).encode() + b' \n'],
    [bytes([byte]) for byte in '{"é": {"€": "😀}"}}'.encode()],
    [b'{"a": {"b": 1}', b', "c": "}', b'"}'],
    [b'{"a": "' + b"x" * ((1 << 16) - 8) + b"}", b'", "b": {}}'],
    [b"\xef\xbb\xbf", b' \r\n{"a": 1}\r\n'],
], ids=["single bytes", "bytes of characters", "a brace ends a piece",
        "a brace ends a chunk", "byte order mark"])
def test_a_torn_event_is_put_together(hook, pieces):
    assert read(hook, *pieces)[0] == json.loads(b"".join(pieces).decode("utf-8-sig"))


#: where the limit falls -> the text there, and how many bytes of it stand before it
CUTS = {
    "in a string": (b'"late": "some text"', 14),
    "in an escape": (b'"late": "\\u20ac"', 12),
    "in a character": ('"late": "€€"'.encode(), 13),
    "in a number": (b'"late": 123456', 11),
    "in a word": (b'"late": true', 10),
    "in a key": (b'"late": 1', 3),
    "in an object": (b'"late": {"a": 1, "b": 2}', 15),
    "behind a colon": (b'"late": 1', 7),
    "between members": (b'"late": 1', 0),
}


@pytest.mark.parametrize("cut", CUTS)
def test_of_an_oversized_event_the_whole_members_stay(hook, cut):
    text, before = CUTS[cut]
    head = b'{"session_id": "s", "tool_input": {"a": [1]}, "pad": "'
    pad = LIMIT - before - len(head) - len(b'",')
    data = head + b"x" * pad + b'",' + text + b"}" * 3000
    assert read(hook, data)[0] == {
        "session_id": "s", "tool_input": {"a": [1]}, "pad": "x" * pad,
        "truncated": True, "stdin_bytes": len(data)}


def test_the_writer_of_an_oversized_event_gets_no_broken_pipe(hook):
    data = b'{"a": 1, "b": "' + b"x" * 5 * LIMIT + b'"}'
    event, _ = read(hook, data)  # which raises BrokenPipeError if not all is taken
    assert event == {"a": 1, "truncated": True, "stdin_bytes": len(data)}


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "marked"])
def test_the_limit_is_exactly_one_mebibyte(one_hook, mark):
    whole = mark + b'{"a": "' + b"x" * (LIMIT - 9 - len(mark)) + b'"}'
    assert list(read(one_hook, whole)[0]) == ["a"]
    assert read(one_hook, whole.replace(b"x", b"xx", 1))[0] == {
        "truncated": True, "stdin_bytes": LIMIT + 1}


@pytest.mark.parametrize("data", [b"", b" \r\n\t", b"\xef\xbb\xbf", b"{}"], ids=repr)
def test_empty_stdin_is_an_empty_event(hook, data):
    assert read(hook, data)[0] == {}


def test_a_terminal_and_a_closed_stdin_are_an_empty_event(hook):
    import pty

    own, terminal = pty.openpty()
    try:
        result = finish(start_reader(hook, terminal, timeout_ms=FOREVER_MS))
        assert result.stderr == "" and kept_event(hook) == {}
    finally:
        os.close(own)
        os.close(terminal)
    command = hook.command("reader.py", str(hook.home / "other.json"), "{}")
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    assert subprocess.run(closed, env=hook.env, timeout=PATIENCE_S).returncode == 0
    assert (hook.home / "other.json").read_text() == "{}"


def nested(levels, inner, sibling=""):
    return ('{"a":' * levels + inner + "}" * (levels - 1) + sibling + "}").encode()


DEEP = {
    "no end": b"[" * 100_000, "objects": b'{"a":' * 174_000,
    "101 objects": nested(101, "1"), "101 with an array": nested(100, "[]"),
    "lists with an end": b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
}
REPEATED = r"z{81}|7{81}|(\\x00){80}"  # more of BAD than may be shown
#: bad input -> what stderr says of it
BAD = {
    "words": (b"not json", "not JSON: 'not json'"),
    "half": (b'{"a": 1', "JSON without its end: '{\"a\": 1'"),
    "half a text": (b'{"a": "hi', "JSON without its end: '{\"a\": \"hi'"),
    "single quotes": (b"{'a': 1}", "not JSON: "),
    "a raw newline": (b'{"a": "\n"}', "not JSON: "),
    "an array": (b"[1]", "not a JSON object: '[1]'"),
    "null": (b"null", "not a JSON object: 'null'"),
    "a number": (b"42", "not a JSON object: '42'"),
    "text": (b'"{}"', "not a JSON object: '\"{}\"'"),
    "two objects": (b'{"a": 1} {"b": 2}', "more than one JSON value: "),
    "a rest": (b'{"a": 1}]', "more than one JSON value: "),
    "latin-1": (b'{"a": "\xe9t\xe9"}', "not UTF-8 at byte 7"),
    "utf-16": ("\ufeff{}".encode("utf-16-le"), "not UTF-8 at byte 0"),
    "half a character": (b'{"a": "\xe2\x82"}', "not UTF-8 at byte 7"),
    "nan": (b'{"a": NaN}', "NaN is not JSON"),
    "infinity": (b'{"a": [-Infinity]}', "-Infinity is not JSON"),
    "a huge float": (b'{"a": 1e999}', "a number is too large: 1e999"),
    "a long float": (b'{"a": ' + b"7" * 5000 + b".0}", "a number is too large: 777"),
    "a huge integer": (b'{"a": ' + b"7" * 5000 + b"}", "a number has 5000 digits"),
    "a long text": (b"z" * 5000, "not JSON: 'zzz"),
    "NUL bytes": (b"\0" * 5000, "not JSON: "),
    "control characters": (b'{"a": "\x1b[2J\x07\r\n"}', "not JSON: "),
    "byte order marks": (b"\xef\xbb\xbf" * 5000 + b"{}", "not JSON: "),
    **{name: (data, "nested deeper than 100 levels") for name, data in DEEP.items()},
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_an_input_error_that_names_the_cause(hook, kind):
    data, words = BAD[kind]
    event, result = read(hook, data)
    assert event is None and len(result.lines) == 1
    assert f"[ERROR] reader: unreadable stdin: {words}" in result.lines[0]
    assert result.lines[0].isprintable()
    assert not re.search(REPEATED, result.stderr)


@pytest.mark.parametrize("data", [
    nested(100, "1"), nested(100, "1", ',"b":[]'), nested(99, "[]"),
    nested(99, '["["]'),
], ids=["objects", "a sibling", "an array", "a bracket in a text"])
def test_a_hundred_levels_are_not_too_deep(hook, data):
    assert read(hook, data)[0] == json.loads(data)


def test_an_input_error_shows_no_secret(one_hook):
    secret = "hunter2" * 3
    for text in (f'{{"password": "{secret}", ', f"{{'token': '{secret}'}}",
                 "x" * 60 + f" API_KEY={secret}"):
        assert "hunter" not in read(one_hook, text.encode())[1].stderr


CODEC_TEXTS = [
    "{}", "[]", " [ 1 , 2 ] ", "0", "-0", "-0.0", "1e5", "1.5E-3", "9007199254740993",
    "9" * 640, "-" + "9" * 640, "9" * 641, "1e400", "NaN", "-Infinity",
    '{"a":1,"a":2}', "[" * 100 + "]" * 100, "[" * 101 + "]" * 101,
    '"\\ud800"', '"\\ud83d\\ude00"', '"\\u00e9\\/\\b"', '"\u2028é😀"', '"\\x"', '"\t"',
    "", " ", "[1,]", "{,}", '{"a"}', "{1:2}", "01", "1.", ".5", "+1", "tru", "nul",
    "[1 2]", "\ufeff{}", "{}{}", '"a', "[" * 100_000,
    # long enough that numbers are not looked at one by one, where none is too large
    *(f"[{'1.5,-2,' * 10_000}{last}]" for last in (
        "0", "1e5", "1E400", '"0e", 1e400', "9" * 640, "-" + "9" * 640, "9" * 641,
        "9" * 308 + ".0", "9" * 309 + ".0", "NaN", "01"))]
CODEC_VALUES = [
    "None", "True", "1.5", "1e22", "10**400", "'\\ud800\\x00\\x7f\\u2028é😀\"\\\\/'",
    "{1: 2, None: 3, True: 4, 1.5: 5}", "float('nan')", "float('inf')", "(1, [])",
    "[float('-inf')]",
    "{1}", "b'x'", "object", "{(1, 2): 3}", "{}", "[[], {}, '']"]
CODECS = f"""
import hook_io

def attempt(work, given):
    try:
        return work(given)
    except (ValueError, TypeError) as error:
        kind = type(error).__name__
        return kind, str(error) if kind == "InputError" else ""

pairs = [(text[:20], attempt(hook_io.decode, text)) for text in {CODEC_TEXTS!a}]
pairs += [(code, attempt(hook_io.encode, eval(code))) for code in {CODEC_VALUES!a}]
hook_io.Emitter().emit_text("\\n".join(map(ascii, pairs)))
"""


def test_both_codecs_agree_on_every_document(hook):
    place(hook, "codecs_.py", CODECS)
    fast, pure = (hook.run("codecs_.py", env={"HOOK_IO_PURE": pure}).stdout.splitlines()
                  for pure in ("", "1"))
    assert len(fast) == len(CODEC_TEXTS) + len(CODEC_VALUES)
    assert fast == pure


# Answers: what a handler returns, and what each agent is told by it

EVERY = hook_io.PLATFORMS["claude-code"]["events"]
SAID = GOLDEN["claude-code"]["said"]


def specific(event, **members):
    return {"hookSpecificOutput": {"hookEventName": event, **members}}


@pytest.mark.parametrize("name, intents, shown", [
    ("PreToolUse", ["deny", "ask", "allow", "context", "rewrite", "block"], True),
    ("UserPromptSubmit", ["deny", "context", "block"], True),
    ("Stop", ["block", "deny", "context", ""], True),
    ("SubagentStop", ["block", "context", ""], False),
    ("PreCompact", ["block", "deny", ""], False),
    ("PermissionRequest", ["deny", "allow", ""], False),
])
def test_a_hint_stands_beside_any_intent_where_it_is_shown(name, intents, shown):
    for intent in intents:
        result = RESULTS.get(intent, hook_io.NOTHING)
        both = hook_io.with_user_hint(result, "H")
        alone = SAID.get(intent, {}).get(name, {})
        assert hook_io.render(both, {"hook_event_name": name}) == {
            **alone, **({"systemMessage": "H"} if shown else {})}


def test_what_has_no_text_is_left_out_and_a_denial_without_a_reason_denies():
    assert hook_io.render(hook_io.hint(""), TOOL) == {}
    assert hook_io.render(hook_io.context(""), TOOL) == {}
    assert hook_io.render(hook_io.NOTHING, TOOL) == {}
    assert hook_io.render(hook_io.allow(), TOOL) == specific(
        "PreToolUse", permissionDecision="allow")
    for refusal in (hook_io.deny(""), hook_io.ask(""), hook_io.block("")):
        assert refusal.text.strip()
    assert hook_io.deny("why", "do this").text == "why — do this"
    assert hook_io.deny("", "do this").text == "do this"
    for wrong in (None, [], "ls", 1):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            hook_io.rewrite(wrong)


@pytest.mark.parametrize("make, place_of, limit", [
    (hook_io.hint, ("systemMessage",), 9900),
    (hook_io.context, ("hookSpecificOutput", "additionalContext"), 9900),
    (hook_io.deny, ("hookSpecificOutput", "permissionDecisionReason"), 16000),
    (hook_io.block, ("reason",), 16000),
])
def test_long_texts_are_cut_visibly_inside_the_string(make, place_of, limit):
    def said(text):
        document = hook_io.render(make(text), TOOL)
        for name in place_of:
            document = document[name]
        return document

    whole = "é" * limit
    assert said(whole) == whole
    cut = said(whole + "x")
    assert len(cut) == limit and cut.startswith("é" * (limit - 60))
    assert cut.endswith(f"[… cut: {limit + 1} characters in all]")


def test_a_result_is_immutable_and_equal_to_its_like():
    result = hook_io.deny("why")
    for name in ("text", "hint", "intent", "tool_input", "diagnostics", "other"):
        with pytest.raises(AttributeError):
            setattr(result, name, "x")
        with pytest.raises(AttributeError):
            delattr(result, name)
    assert result == hook_io.deny("why") != hook_io.deny("not")
    assert result != hook_io.block("why") and result != "why"
    assert hook_io.rewrite({"a": 1, "b": 2}) == hook_io.rewrite({"b": 2, "a": 1})
    assert hook_io.rewrite({}) != hook_io.HookResult("rewrite")
    assert repr(result) == "HookResult(intent='deny', text='why')"
    assert hook_io.NOTHING == hook_io.HookResult() == hook_io.hint("")


def test_a_hint_is_added_with_a_blank_line_and_the_original_stays():
    result = hook_io.HookResult("rewrite", "t", "", {"a": 1}, ("d",))
    one = hook_io.with_user_hint(result, "one")
    assert one == hook_io.HookResult("rewrite", "t", "one", {"a": 1}, ("d",))
    assert hook_io.with_user_hint(one, "two").hint == "one\n\ntwo"
    assert hook_io.with_user_hint(one, "") == one
    assert (result.hint, one.hint, hook_io.NOTHING.hint) == ("", "one", "")


# The emitter and the buffer

EMITTER = """
import os, sys
from hook_io import *

PRE = {"hook_event_name": "PreToolUse"}
b = StderrBuffer()
e = Emitter(b, skip_exit=True)
exec(sys.argv[1])
"""
#: what is done -> exit, stdout, stderr
EMITTED = {
    "b.install(); print('a'); os.write(2, b'b'); e.emit_diagnostic('first'); b.flush()":
        (0, "", "first\na\nb"),
    "b.install(); print('a'); b.flush(); b.flush(); print('b'); b.flush()":
        (0, "", "a\nb\n"),
    "b.install(); print('a'); os.write(1, b'b'); b.drop(); b.flush(); b.restore()":
        (0, "", ""),
    "b.install(); print('a'); b.restore(); os.write(2, b'b\\n'); print('c')":
        (0, "c\n", "a\nb\n"),
    "b.install().install(); print('a'); b.restore(); b.restore(); print('b')":
        (0, "b\n", "a\n"),
    "b.install(); b.restore(); b.install(); print('a'); b.restore(); print('b')":
        (0, "b\n", "a\n"),
    "with b: os.system('echo a')\nprint('b')": (0, "b\n", "a\n"),
    "b.install(); print('a' * 99999); b.flush()": (0, "", "a" * 65535 + "\n"),
    "e.emit_diagnostic('a'); e.emit_diagnostic('b\\n')": (0, "", "a\nb\n"),
    "assert e.emit_model_context(hint('a'), PRE)": (0, '{"systemMessage":"a"}\n', ""),
    "b.install(); print('a'); e.emit_model_context(hint('b'), PRE)":
        (0, '{"systemMessage":"b"}\n', ""),
    "for t in 'ab':\n try: e.emit_model_context(hint(t), PRE)\n"
    " except RuntimeError as x: e.emit_diagnostic(str(x))":
        (0, '{"systemMessage":"a"}\n', "stdout takes one document, and has had it\n"),
    "for r in (NOTHING, hint(''), block('a'), hint('b')): e.emit_model_context(\n"
    " r, PRE if r.hint else {})": (0, '{"systemMessage":"b"}\n', ""),
    "try: e.emit_model_context(rewrite({'a': {1}}), PRE)\n"
    "except TypeError: e.emit_model_context(hint('b'), PRE)":
        (0, '{"systemMessage":"b"}\n', ""),
    "b.install(); print('a'); e.emit_blocking_error('b'); "
    "e.emit_diagnostic(str(e.exit_code))": (0, "", "a\nb\n2\n"),
    "b.install(); print('a'); e.exit_graceful(); b.flush(); "
    "e.emit_diagnostic(str(e.exit_code))": (0, "", "0\n"),
    "Emitter(b.install()).emit_blocking_error('b'); os.write(2, b'c')":
        (2, "", "b\n"),
    "e = Emitter(b.install()); print('a'); e.exit_graceful(); e.emit_diagnostic('b')":
        (0, "", ""),
}


@pytest.mark.parametrize("code", EMITTED)
def test_the_emitter_and_the_buffer_keep_order(hook, code):
    result = hook.run(place(hook, "emitter.py", EMITTER), code)
    assert (result.exit, result.stdout, result.stderr) == EMITTED[code]


def test_a_stream_kept_from_inside_the_buffer_writes_into_no_other_file(one_hook):
    path = one_hook.home / "notes"
    code = (f"b.install(); kept = sys.stderr; b.restore()\n"
            f"f = open({str(path)!r}, 'w')\n"
            "try: kept.write('stray\\n')\nexcept ValueError: pass\nf.write('note')")
    assert one_hook.run(place(one_hook, "emitter.py", EMITTER), code).exit == 0
    assert path.read_text() == "note"


# run(): whatever the handler does

GUARD = """
import os, sys
from hook_io import *

class Cancelled(BaseException): pass
class Mute(Exception):
    def __str__(self): raise ValueError("no text")

def handler(event):
    scope = {**globals(), "event": event}
    exec(compile(sys.argv[1], "guard.py", "exec"), scope)
    return scope.get("result")

print("before the run")
run(handler, "guard", fail=sys.argv[2])
"""
NOISE = """
import ctypes, logging, subprocess, warnings
print("by print")
sys.stdout.write("by write\\n")
sys.__stdout__.write("by the first stdout\\n")
sys.stderr.write("by stderr\\n")
os.write(1, b"by descriptor 1\\n")
os.write(2, b"by descriptor 2\\n")
os.system("echo by the shell; echo by a shell on 2 >&2")
subprocess.run([sys.executable, "-S", "-c", "print('by a child')"])
libc = ctypes.CDLL(None)
libc.puts(b"by C")
libc.fflush(None)
logging.warning("by logging")
warnings.warn("by warnings")
Emitter().emit_text("by another emitter")
"""
NOISES = (
    "print", "write", "the first stdout", "stderr", "descriptor 1", "descriptor 2",
    "the shell", "a shell on 2", "a child", "C", "logging", "warnings",
    "another emitter")
BUG = "raise ValueError('a bug\\nof two lines')"
SAYS = ("text = event['tool_input']['command']\n"
        "result = with_user_hint(deny(text), text)")
REFUSES = ["result = deny('no, because')", "result = block('no, because')"]
HINTS = "result = hint('H')"
NO_OPINION = ["print('stray')", "result = NOTHING", "sys.exit()", "sys.exit(0)"]


def guard(hook, code, fail="open", event=TOOL, **kwargs):
    """Run a hook whose handler is *code* and answers with `result`."""
    return hook.run(place(hook, "guard.py", GUARD), code, fail, stdin=event, **kwargs)


def start_guard(hook, code, event=TOOL, **pipes):
    """Start the guard on *event*, all of which is in its stdin from the start."""
    own, stdin = os.pipe()
    os.write(stdin, json.dumps(event).encode())
    os.close(stdin)
    process = hook.start(
        place(hook, "guard.py", GUARD), code, "open", **{"stdin": own, **pipes})
    os.close(own)
    return process


def denial(result):
    """Return the reason of the denial that *result* is."""
    said = result.document["hookSpecificOutput"]
    assert (result.exit, said["permissionDecision"]) == (0, "deny")
    return said["permissionDecisionReason"]


def test_nothing_but_the_document_reaches_the_agent(hook):
    result = guard(hook, NOISE + REFUSES[0])
    assert (result.exit, result.stderr) == (0, "")
    assert result.document == specific(
        "PreToolUse", permissionDecision="deny",
        permissionDecisionReason="no, because")


def test_what_was_printed_before_a_bug_is_shown_on_stderr(hook):
    result = guard(hook, NOISE + BUG)
    assert result.exit == 0 and list(result.document) == ["systemMessage"]
    shown = "\n".join(result.lines[:-1])
    assert [noise for noise in NOISES if f"by {noise}" not in shown] == []
    assert result.lines[-1].startswith("[ERROR] guard: ValueError: a bug of two lines")


@pytest.mark.parametrize("start", [
    "import subprocess\npid = subprocess.Popen(['sleep', '300']).pid",
    "pid = os.fork() or time.sleep(300)"], ids=["a program", "a fork"])
def test_a_child_that_lives_on_does_not_keep_the_agent_waiting(hook, start):
    path = hook.home / "pid"
    code = (f"import time\n{start}\nwith open({str(path)!r}, 'w') as file:\n"
            f"    file.write(str(pid))\n{HINTS}")
    try:
        result = guard(hook, code)  # reads stdout and stderr to their ends ...
        os.kill(int(path.read_text()), 0)  # ... while the child still sleeps
        assert result.document == {"systemMessage": "H"}
    finally:
        os.kill(int(path.read_text()), signal.SIGTERM)


def test_a_fork_of_the_hook_says_nothing_of_its_own(hook):
    result = guard(hook, f"os.fork() and os.wait()\n{REFUSES[0]}")
    assert denial(result) == "no, because" and result.stderr == ""


@pytest.mark.parametrize("code", [
    "sys.stdout.close(); sys.stderr.close(); os.closerange(0, 3)",
    "sys.stdout = sys.stderr = None", "os.closerange(3, 99)"])
def test_a_guard_that_breaks_its_streams_still_refuses(hook, code):
    result = guard(hook, f"{code}\n{REFUSES[0]}", "closed")
    assert result.exit == 2 or denial(result) == "no, because"


TYPE_BUG = "TypeError: a handler returns a HookResult, not "
#: what a handler does -> how the diagnostic begins, and the file it names
BUGS = {
    BUG: ("ValueError: a bug of two lines (", "guard.py"),
    "raise SystemExit(2)": ("SystemExit: 2 (", "guard.py"),
    "sys.exit('text')": ("SystemExit: text (", "guard.py"),
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # unlike a job's
    "signal.raise_signal(signal.SIGINT)": ("KeyboardInterrupt: ", "guard.py"),
    "raise MemoryError": ("MemoryError: ", "guard.py"),
    "def f(): f()\nf()": ("RecursionError: maximum recursion", "guard.py"),
    "raise Cancelled('by a framework')": ("Cancelled: by a framework (", "guard.py"),
    "raise Mute": ("Mute", "guard.py"),
    "1 +": ("SyntaxError: invalid syntax", "guard.py"),
    "result = {'decision': 'block'}": (TYPE_BUG + "dict (", "hook_io.py"),
    "result = deny": (TYPE_BUG + "function (", "hook_io.py"),
    "raise Done({'decision': 'block'})": (TYPE_BUG + "dict (", "hook_io.py"),
    "result = rewrite({'a': {1}})": ("TypeError: ", "hook_io.py"),
    "raise Done(rewrite({'a': float('nan')}))": ("ValueError: ", ""),
    "result = HookResult(diagnostics=(1,))": ("", "hook_io.py"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_an_observers_bug_is_a_diagnostic_and_a_hint(hook, bug):
    begin, file = BUGS[bug]
    result = guard(hook, bug)
    assert result.exit == 0 and "Traceback" not in result.stderr
    line = result.lines[-1]
    assert line.startswith(f"[ERROR] guard: {begin}")
    assert re.search(rf"{file}:\d+\)$", line)
    assert list(result.document) == ["systemMessage"]
    assert result.lines[-1] in result.document["systemMessage"]


@pytest.mark.parametrize("bug", BUGS)
def test_a_guards_bug_denies_with_the_reason(one_hook, bug):
    result = guard(one_hook, bug, "closed")
    assert denial(result).startswith("[ERROR] guard: ")
    assert BUGS[bug][0].partition(":")[0] in denial(result)
    assert "Traceback" not in result.stderr


UNHEARD = [name for name in EVERY if name not in SAID["hint"]]
UNDENIED = [name for name in EVERY if name not in SAID["deny"]]


@pytest.mark.parametrize("name", UNHEARD)
def test_an_observers_bug_is_silent_where_nobody_reads(one_hook, name):
    result = guard(one_hook, BUG, event={**STOP, "hook_event_name": name})
    assert (result.exit, result.stdout) == (0, "")
    assert result.lines[-1].startswith("[ERROR] guard: ValueError: a bug")


@pytest.mark.parametrize(("name", "fail"), [
    *((name, "closed") for name in UNDENIED),
    ("Stop", "closd"), ("SubagentStop", "closd"), ("PreCompact", "closd")])
def test_a_guards_bug_blocks_nothing_but_what_can_be_denied(one_hook, name, fail):
    result = guard(one_hook, BUG, fail, event={**STOP, "hook_event_name": name})
    assert (result.exit, result.stdout) == (0, ""), result
    assert "[ERROR] guard: " in result.stderr


@pytest.mark.parametrize("fail", ["open", "closed"])
@pytest.mark.parametrize("event", [TOOL, STOP], ids=["PreToolUse", "Stop"])
@pytest.mark.parametrize("code", NO_OPINION)
def test_no_opinion_is_silence(one_hook, code, event, fail):
    result = guard(one_hook, code, fail, event=event)
    assert (result.exit, result.stdout, result.stderr) == (0, "", "")


def test_unreadable_stdin_is_told_by_an_observer_and_denied_by_a_guard(hook):
    line = "[ERROR] guard: unreadable stdin: JSON without its end: '{\"a\"'"
    observer = guard(hook, REFUSES[0], event='{"a"')
    assert (observer.exit, observer.stdout, observer.lines[-1]) == (0, "", line)
    denied = guard(hook, NO_OPINION[0], "closed", event='{"a"')
    assert denial(denied) == denied.document["reason"] == denied.lines[-1] == line
    assert denied.document["decision"] == "block"


def test_a_misspelt_fail_denies(hook):
    assert "closd" in denial(guard(hook, NO_OPINION[0], "closd"))


def test_done_ends_a_hook_early(hook):
    code = "try: raise Done(deny('done'))\nexcept OSError: pass\nresult = NOTHING"
    assert denial(guard(hook, code)) == "done"


@pytest.mark.parametrize("name", [1, None, True, [], {}, ["PreToolUse"]], ids=repr)
def test_an_event_whose_name_is_no_text_can_still_be_denied(hook, name):
    event = {**TOOL, "hook_event_name": name}
    result = guard(hook, REFUSES[0], event=event)
    assert denial(result) == result.document["reason"] == "no, because"
    assert result.stderr == "" and result.document["decision"] == "block"
    silent = guard(hook, HINTS, event=event)
    assert (silent.exit, silent.stdout, silent.stderr) == (0, "", "")


def test_the_platform_can_be_forced(one_hook):
    raw = guard(one_hook, REFUSES[0], env={"HOOK_IO_PLATFORM": "raw"})
    assert raw.document["decision"] == "block"
    for value in ("", "no-such-agent", "claude-code"):
        known = guard(one_hook, REFUSES[0], env={"HOOK_IO_PLATFORM": value})
        assert list(known.document) == ["hookSpecificOutput"]
    silent = guard(one_hook, HINTS, env={"HOOK_IO_PLATFORM": "raw"})
    assert (silent.exit, silent.stdout) == (0, "")


@pytest.mark.parametrize("text", [
    "naïve ⛔ 😀", "one\ntwo\r\n\u2028three", "\ud800 \udfff",
    "\x00\x1b[31m\x7f \\ \"q\" '"], ids=ascii)
@pytest.mark.parametrize("variables", [{}, {
    "LANG": "C", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0",
    "PYTHONIOENCODING": "ascii"}], ids=["utf-8", "ascii"])
def test_any_text_reaches_the_agent_as_it_is(hook, text, variables):
    event = {**TOOL, "tool_input": {"command": text}}
    result = guard(hook, SAYS, event=event, env=variables)
    assert denial(result) == result.document["systemMessage"] == text
    assert result.stdout.isascii()


# Streams that are closed, full, slow, or sockets


def redirected(hook, redirection, script, *argv):
    """Run *script* with a shell's redirection, such as `>&-`, and return the Result."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    done = subprocess.run(
        shell + hook.command(script, *argv), input=json.dumps(TOOL).encode(),
        timeout=PATIENCE_S, env=hook.env, capture_output=True)
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def unread(hook, code):
    """Return the Result of a guard whose stdout nobody will ever read."""
    reader, stdout = os.pipe()
    os.close(reader)
    process = start_guard(hook, code, stdout=stdout)
    os.close(stdout)
    return finish(process)


@pytest.mark.parametrize("code", REFUSES)
def test_a_refusal_that_stdout_does_not_take_is_exit_2(hook, code):
    place(hook, "guard.py", GUARD)
    for result in (redirected(hook, ">&-", "guard.py", code, "open"),
                   unread(hook, code)):
        assert (result.exit, result.stdout) == (2, "")
        assert result.lines[-1] == "no, because"


def test_a_hint_that_stdout_does_not_take_is_exit_0(hook):
    place(hook, "guard.py", GUARD)
    assert redirected(hook, ">&-", "guard.py", HINTS, "open").exit == 0
    assert unread(hook, HINTS).exit == 0


@pytest.mark.parametrize(("code", "exit"), [(REFUSES[0], 2), (HINTS, 0)])
def test_a_full_pipe_that_nobody_empties_ends_in_time(one_hook, code, exit):
    reader, stdout = os.pipe()
    os.set_blocking(stdout, False)
    try:
        while True:
            os.write(stdout, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(stdout, True)
    result = finish(start_guard(one_hook, code, stdout=stdout))
    os.close(stdout)
    os.close(reader)
    assert result.exit == exit and ("no, because" in result.stderr) == (exit == 2)


def test_a_long_denial_reaches_a_slow_reader_whole(one_hook):
    import fcntl

    reader, stdout = os.pipe()
    fcntl.fcntl(stdout, getattr(fcntl, "F_SETPIPE_SZ", 1031), 4096)
    process = start_guard(one_hook, "result = deny('x' * 20000)", stdout=stdout)
    os.close(stdout)
    received = b""
    for chunk in iter(lambda: os.read(reader, 1024), b""):
        received += chunk
        time.sleep(0.005)
    os.close(reader)
    reason = denial(Result(finish(process).exit, received.decode(), ""))
    assert len(reason) == 16000 and reason.endswith("[… cut: 20000 characters in all]")


def test_streams_may_be_sockets(hook):
    agent, own = socket.socketpair()
    with agent:
        process = hook.start(place(hook, "guard.py", GUARD), SAYS, "open",
                             stdin=own, stdout=own)
        own.close()
        agent.sendall(json.dumps({**TOOL, "tool_input": {"command": "no"}}).encode())
        received = b"".join(iter(lambda: agent.recv(4096), b""))
    assert denial(Result(finish(process).exit, received.decode(), "")) == "no"


EARLY = """
import hook_io
import os
import sys

early = open(sys.argv[1], "w")

def handler(event):
    with open(sys.argv[2], "w") as late:
        print("stray")
        os.system("echo stray; echo stray >&2")
        for fd in (1, 2):
            os.write(fd, b"stray")
        late.write("mine")
    early.write("mine")
    early.close()
    return hook_io.HookResult(hint="H", diagnostics=("D",))

hook_io.run(handler, "early")
"""


CLOSED = [some for n in (1, 2, 3) for some in itertools.combinations((0, 1, 2), n)]


@pytest.mark.parametrize("closed", CLOSED, ids=str)
def test_with_closed_streams_no_file_gets_what_is_not_its_own(hook, closed):
    place(hook, "early.py", EARLY)
    paths = [hook.home / "early", hook.home / "late"]
    redirection = " ".join(("<&-", ">&-", "2>&-")[fd] for fd in closed)
    result = redirected(hook, redirection, "early.py", *map(str, paths))
    assert [path.read_text() for path in paths] == ["mine", "mine"]
    told = not {0, 1} & set(closed)  # who is told nothing of the event cannot answer it
    assert result.exit == 0 and (result.stdout != "") == told
    assert (result.stderr == "D\n") == (2 not in closed)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such numbers")
@pytest.mark.parametrize("intent, stream", [("deny", "stdout"), ("block", "stderr")])
def test_an_agent_that_leaves_a_thousand_files_open_is_answered(
    hook, intent, stream
):
    many = ("import os, sys\nfor _ in range(1100): os.set_inheritable("
            "os.open(os.devnull, 0), True)\nos.execv(sys.argv[1], sys.argv[1:])")
    place(hook, "many.py", "import hook_io\nhook_io.run(lambda e: "
          f"hook_io.{intent}('no, thanks'), 'many', fail='closed')\n")
    event = {**TOOL, "hook_event_name": {"block": "TaskCreated"}.get(
        intent, TOOL["hook_event_name"])}
    done = subprocess.run(
        [hook.python, "-c", many, *hook.command("many.py")], env=hook.env,
        input=json.dumps(event).encode(), capture_output=True, timeout=PATIENCE_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)))
    assert b"no, thanks" in getattr(done, stream)
