"""A person at the page answers a hook that waits; the first answer counts."""

import contextlib
import json
import threading
import urllib.error
import urllib.request

import pytest

from conftest import eventually, sample
from server import EventServer
from server.asking import held_ms
from server.policy import Policy
from test_page import Page

PATIENT_MS = "60000"
EVENT = {**sample("PreToolUse"), "tool_name": "Bash",
         "tool_input": {"command": "rm -rf ./build && echo 'a long tail of it'"}}


@pytest.fixture(name="asking")
def fixture_asking(tmp_path):
    (tmp_path / "policy").write_text("wait Bash rm*\n")
    with EventServer(policy=Policy(str(tmp_path / "policy"))) as server:
        yield server


def call(server, path, value=None, **headers):
    """Return the status and the document of a request, as the page sends it."""
    base = f"http://127.0.0.1:{server.port}"
    given = {"Origin": base, **headers}
    request = urllib.request.Request(
        base + path, method="GET" if value is None else "POST",
        data=None if value is None else json.dumps(value).encode(),
        headers={name.replace("_", "-"): text for name, text in given.items() if text})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@contextlib.contextmanager
def waiting(hook, server, decide="deny", wait_ms=PATIENT_MS):
    """Run a hook beside us; yield the list that its result will stand in."""
    results = []
    thread = threading.Thread(target=lambda: results.append(hook.send(
        server.url, stdin=EVENT, env={"HOOK_IO_DECIDE": decide,
                                      "HOOK_IO_DECIDE_TIMEOUT_MS": wait_ms})))
    thread.start()
    try:
        yield results
    finally:
        thread.join()


def asked(server):
    (one,) = eventually(lambda: call(server, "/asked")[1])
    return one


def said(result):
    return result.document["hookSpecificOutput"]


def test_the_first_answer_counts_and_no_later_one(one_hook, asking):
    with waiting(one_hook, asking) as results:
        one = asked(asking)
        assert (one["tool_name"], one["limit"]) == ("Bash", "deny")
        assert one["tool_input"] == EVENT["tool_input"]
        answer = {"id": one["id"], "intent": "deny", "text": "not on a Friday"}
        assert call(asking, "/answer", answer)[0] == 204
        assert call(asking, "/answer", {**answer, "intent": "allow"})[0] == 409
    assert said(results[0])["permissionDecision"] == "deny"
    assert said(results[0])["permissionDecisionReason"] == "not on a Friday"
    assert call(asking, "/asked") == (200, [])


@pytest.mark.parametrize("decide, decision", [("full", "allow"), ("deny", None)])
def test_allow_is_for_a_hook_that_takes_it(one_hook, asking, decide, decision):
    with waiting(one_hook, asking, decide) as results:
        one = asked(asking)
        assert one["limit"] == decide
        call(asking, "/answer", {"id": one["id"], "intent": "allow", "text": ""})
    if decision:
        assert said(results[0])["permissionDecision"] == decision
        assert said(results[0])["permissionDecisionReason"] == "a person allowed it"
    else:
        assert (results[0].stdout, results[0].stderr) == ("", "")


@pytest.mark.parametrize("wait_ms, most", [(1000, 900), (20_000, 18_000), (50, 0)])
def test_a_hook_is_held_for_less_than_it_waits(wait_ms, most):
    assert held_ms(wait_ms) == most


def test_nobody_in_time_is_no_opinion_and_no_loss(one_hook, asking, monkeypatch):
    monkeypatch.setattr("server.asking.MARGIN_MS", int(PATIENT_MS) - 500)
    with waiting(one_hook, asking) as results:
        pass
    assert (results[0].exit, results[0].stdout, results[0].stderr) == (0, "", "")
    assert not one_hook.losses()
    assert call(asking, "/asked") == (200, [])


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.test"}, {"Origin": "http://localhost:1"}, {"Origin": ""},
    {"Origin": "null"}, {"Sec_Fetch_Site": "same-site"}, {"Host": "evil.test"},
    {"Host": "evil.test", "Origin": "http://evil.test"}])
def test_no_other_page_answers_or_has_a_hook_held(one_hook, asking, headers):
    assert call(asking, "/asked", {}, **headers)[0] == 403
    with waiting(one_hook, asking) as results:
        answer = {"id": asked(asking)["id"], "intent": "allow", "text": ""}
        assert call(asking, "/answer", answer, **headers)[0] == 403
        assert call(asking, "/answer", {**answer, "intent": "deny"})[0] == 204
    assert said(results[0])["permissionDecision"] == "deny"


@pytest.mark.parametrize("body", [
    None, [], {}, {"id": 1, "intent": "deny", "text": ""},
    {"id": "a", "intent": "deny"},
    {"id": "a", "intent": "rewrite", "text": ""}, {"id": "a", "intent": [], "text": ""},
    {"id": "a", "intent": "deny", "text": "x" * 1001}])
def test_an_answer_that_is_none_is_refused_by_name(asking, body):
    status, said = call(asking, "/answer", body or [])
    assert (status, said["error"]) == (400, "ValidationError")


def test_a_hook_that_does_not_wait_is_not_held(one_hook, asking):
    result = one_hook.send(asking.url, stdin=EVENT, env={"HOOK_IO_TIMEOUT_MS": "20000"})
    assert (result.stdout, result.stderr) == ("", "")
    assert call(asking, "/asked") == (200, [])
    assert len(asking.events()) == 1


def test_without_a_rule_a_hook_is_held_while_a_page_watches(one_hook):
    with EventServer() as server:
        with waiting(one_hook, server, wait_ms="20000") as results:
            pass  # nobody watches
        assert results[0].stdout == ""
        assert call(server, "/asked", {}) == (200, [])
        with waiting(one_hook, server) as results:
            answer = {"id": asked(server)["id"], "intent": "deny", "text": "no"}
            assert call(server, "/answer", answer)[0] == 204
        assert said(results[0])["permissionDecisionReason"] == "no"


def test_a_server_that_stops_lets_go_of_who_waits(one_hook, tmp_path):
    (tmp_path / "policy").write_text("wait *\n")
    policy = Policy(str(tmp_path / "policy"))
    with EventServer(policy=policy) as server, waiting(one_hook, server) as results:
        asked(server)
        server.desk.close()
    assert (results[0].exit, results[0].stdout) == (0, "")


@pytest.fixture(name="page")
def fixture_page(chromium, asking):
    context = chromium.new_context()
    page = Page(context, asking)
    yield page
    context.close()
    assert page.complaints == []


def test_a_person_reads_all_of_it_and_answers_by_keyboard(one_hook, asking, page):
    page.open()
    with waiting(one_hook, asking, "full") as results:
        page.says("a long tail of it")
        region = page.tab.get_by_role("region", name="What waits for your answer")
        assert region.get_attribute("aria-live") == "assertive"
        why = page.tab.get_by_role("textbox", name="Why: Bash in demo")
        why.fill("use make clean")
        why.press("Enter")  # in a text says nothing
        assert call(asking, "/asked")[1]
        assert page.tab.get_by_role("button", name="Allow: Bash in demo").count() == 1
        deny = page.tab.get_by_role("button", name="Deny: Bash in demo")
        for _ in range(4):
            why.page.keyboard.press("Shift+Tab")
            if deny.evaluate("button => button === document.activeElement"):
                break
        page.tab.keyboard.press("Enter")
        deny.wait_for(state="detached")
    assert said(results[0])["permissionDecision"] == "deny"
    assert said(results[0])["permissionDecisionReason"] == "use make clean"


def test_what_a_hook_that_takes_denials_alone_is_told_is_no_allow(
        one_hook, asking, page):
    page.open()
    with waiting(one_hook, asking) as results:
        page.tab.get_by_role("button", name="Do not object: Bash in demo").click()
    assert results[0].stdout == ""


def test_the_switch_holds_what_no_rule_decides(one_hook, chromium):
    with EventServer() as server:
        context = chromium.new_context()
        page = Page(context, server).open()
        page.tab.get_by_label("ask me before tools run").check()
        eventually(lambda: server.desk.is_watched())
        with waiting(one_hook, server) as results:
            page.tab.get_by_role("button", name="Deny: Bash in demo").click()
        context.close()
    assert said(results[0])["permissionDecisionReason"] == "a person denied it"
