# SPDX-License-Identifier: MIT
"""Measure the server's page in headless Chromium.

    python tests/measure/page.py [--events 10000 100000] [--shape turns] [--rounds 5]

A server of its own has so many events in a file.  Prints, as medians of the rounds and
the worst of them: when the newest row was painted, counted from the navigation; when
all rows were there that the page fetches by itself; the longest task of the page's
thread until then (load) and while it is used after that (use: scrolled from end to
end, zoomed, a turn arriving, a call opened, searched); what was fetched until the
newest row was painted; the server's processor time.  Chromium reports no task below
50 ms: 0 is none.  On a busy machine a task takes longer than its work: cpu is the
processor time of the one that used most, from a trace.

Shapes: turns, one session of turns of ten calls; turn, one session of a single turn;
sessions, one for each 20 events.  Linux; needs playwright and a Chromium, as the tests.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))
import test_page
from server.store import Store

OUTPUT = "a line of what a command said, as long as most are\n" * 20
TRANSCRIPT = "/home/dev/.claude/projects/shop/x.jsonl"
UNUSUAL = {"PYTHONDONTWRITEBYTECODE"}  # compiling hook_io costs 0.2 s, once
SETTLED_MS = 1500  # without a further row
USED_MS = 300  # for what each step of use sets off
#: noted by the page itself: when the text WANTED was painted, and every long task
WATCH = """
window.watched = {tasks: [], painted: 0};
new PerformanceObserver(list => watched.tasks.push(...list.getEntries().map(
    task => task.duration))).observe({type: "longtask", buffered: true});
(function look() {
  const rows = document.getElementById("rows");
  if (!rows?.textContent.includes("WANTED")) return requestAnimationFrame(look);
  watched.before = performance.getEntriesByType("resource");
  requestAnimationFrame(() => setTimeout(() => {
    watched.painted = performance.now();
  }));
})();
"""


class Filling:
    """Fills a store as Claude Code would; test_page.add() takes it for a server.

    newest: the text of the newest row, which no other row has; session: its session.
    """

    def __init__(self, path):
        self.store, self.second, self.turns = Store(path), 0, 0
        self.store.run("DELETE FROM runs")  # it is no server: none stopped after it

    def add(self, kind, **said):
        self.second += 1
        test_page.add(self, kind, self.second, self.session,
                      transcript_path=TRANSCRIPT, **said)

    def call(self, use, **said):
        said = {"tool_name": "Bash", "tool_use_id": use,
                "tool_input": {"command": f"run {use}"}, **said}
        self.add("PreToolUse", **said)
        self.add("PostToolUse", tool_response={"stdout": OUTPUT}, **said)

    def turn(self, calls, session):
        """Add a turn, with new ids: the calls of a known subagent are of its turn."""
        self.turns, self.session = self.turns + 1, session
        self.add("UserPromptSubmit", prompt=f"turn {self.turns}")
        for number in range(calls):
            agent = {"agent_id": f"{self.turns}-{number // 10}",
                     "agent_type": "Explore"} if number % 10 > 6 else {}
            self.newest = f"turn {self.turns} {number}."
            self.call(self.newest, **agent)
        self.add("Stop")


#: shape -> the turns of so many events: their calls, of two events each; their session
SHAPES = {"turns": lambda count: [(10, "s1")] * (count // 22),
          "turn": lambda count: [(count // 2 - 1, "s1")],
          "sessions": lambda count: [(9, f"s{n}") for n in range(count // 20)]}


@contextlib.contextmanager
def serving(path):
    """Yield the address of a server of the events in *path*, and its process."""
    env = {name: text for name, text in os.environ.items() if name not in UNUSUAL}
    with subprocess.Popen(
            [sys.executable, str(TESTS / "server"), "--port", "0", "--quiet",
             "--keep", "0", "--db", path], stdout=subprocess.PIPE, env=env) as process:
        try:
            said = process.stdout.readline()
            port = int(said.split(b"/events")[0].rpartition(b":")[2])
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def processor_ms(process):
    """Return the processor time of *process*, and of its readers, in ms."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    stats = [Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
             for number in (process.pid, *children.split())]
    ticks = sum(int(field) for fields in stats for field in fields[11:13])
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


def settled(tab):
    """Wait until no further row comes; return when the last came, and how many."""
    return tab.evaluate("""still => new Promise(done => {
        let count = -1, at = 0;
        setInterval(() => {
            const now = document.querySelector(".row")?.ariaSetSize ?? 0;
            if (now !== count) [count, at] = [now, performance.now()];
            else if (performance.now() - at > still) done([at, +count]);
        }, 20);
    })""", SETTLED_MS)


class Traced:
    """Traces the page's tasks in a `with` block; `longest_ms` is of processor time."""

    def __init__(self, browser, tab):
        self.browser, self.tab, self.longest_ms = browser, tab, 0

    def __enter__(self):
        self.browser.start_tracing(page=self.tab, categories=["toplevel"])
        return self

    def __exit__(self, *exc_info):
        events = json.loads(self.browser.stop_tracing())["traceEvents"]
        spent = {}
        for event in events:
            if event["name"].endswith("RunTask"):
                thread = event["pid"], event["tid"]
                spent.setdefault(thread, []).append(event.get("tdur", 0) / 1000)
        mains = [(event["pid"], event["tid"]) for event in events
                 if event["name"] == "thread_name"
                 and event["args"]["name"] == "CrRendererMain"]
        busiest = max((spent.get(thread, [0]) for thread in mains), key=sum)
        self.longest_ms = max(busiest)


def shows(tab, place, text):
    """Wait until *text* stands in the element *place*."""
    tab.wait_for_function("""([place, text]) =>
        document.getElementById(place).textContent.includes(text)""", arg=[place, text])


def use(tab, filling):
    """Do what people do with the page."""
    for part in (0, 0.3, 0.6, 1):
        tab.locator("#list").evaluate(
            "(list, part) => { list.scrollTop = list.scrollHeight * part; }", part)
        tab.wait_for_timeout(USED_MS)
    # By attribute: to look for a label, the tool reads all the page in its thread.
    for factor in ("0.5", "0.5", "0"):
        tab.locator(f"[data-zoom='{factor}']").click()
        tab.wait_for_timeout(USED_MS)
    filling.turn(10, filling.session)
    shows(tab, "rows", filling.newest)
    tab.locator(".row").nth(8).click()
    shows(tab, "detail", "outcome")
    for sought, place in [(filling.newest, "found"), ("", "rows")]:
        tab.locator("#search").fill(sought)
        shows(tab, place, filling.newest)
        tab.wait_for_timeout(USED_MS)


def measured(browser, address, process, filling):
    """Return the figures of a visit, and the cpu of another, which is traced."""
    cpu_ms = {}

    @contextlib.contextmanager
    def traced(part, tab):
        with Traced(browser, tab) as trace:
            yield
        cpu_ms[f"cpu_{part}_ms"] = trace.longest_ms

    figures = visit(browser, address, process, filling)
    visit(browser, address, process, filling, traced)
    return {**figures, **cpu_ms}


@contextlib.contextmanager
def untraced(_part, _tab):
    yield


def visit(browser, address, process, filling, watched=untraced):
    """Return what the page and the server say of one visit.

    watched: a context of (part, tab) for what happens while it loads, and is used.
    """
    with contextlib.closing(browser.new_context(
            viewport={"width": 1280, "height": 720})) as context:
        tab, before = context.new_page(), processor_ms(process)
        tab.add_init_script(WATCH.replace("WANTED", filling.newest))
        with watched("load", tab):
            tab.goto(address)
            tab.wait_for_function("() => watched.painted", timeout=60_000)
            whole_ms, rows = settled(tab)
        seen = tab.evaluate("""() => ({...watched, before: watched.before.map(
            one => [one.name.split("?")[0], one.transferSize])})""")
        spent_ms = processor_ms(process) - before
        with watched("use", tab):
            use(tab, filling)
        tasks = tab.evaluate("watched.tasks")[len(seen["tasks"]):]
    return {"newest_ms": seen["painted"], "whole_ms": whole_ms, "rows": rows,
            "longest_load_ms": max(seen["tasks"], default=0),
            "longest_use_ms": max(tasks, default=0),
            "requests": len(seen["before"]),
            "fetched_kb": sum(size for _, size in seen["before"]) / 1000,
            "server_ms": spent_ms}


def main():
    parser = argparse.ArgumentParser(description="Measure the server's page.")
    parser.add_argument("--events", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--shape", choices=SHAPES, nargs="+", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with contextlib.contextmanager(test_page.started_browser)(
            test_page.WHOLE) as browser:
        for count in options.events:
            for shape in options.shape:
                with tempfile.TemporaryDirectory() as folder:
                    rounds = visits(browser, os.path.join(folder, "db"), count, shape,
                                    options.rounds)
                    show({"events": count, "shape": shape}, rounds)


def visits(browser, path, count, shape, rounds):
    """Return the figures of each visit to a server of *count* events in *path*."""
    filling = Filling(path)
    with filling.store.changing():
        for turn in SHAPES[shape](count):
            filling.turn(*turn)
    with contextlib.closing(filling.store), serving(path) as (address, process):
        return [measured(browser, address, process, filling) for _ in range(rounds)]


def show(what, rounds):
    print(json.dumps(what), flush=True)
    for name in rounds[0]:
        figures = [one[name] for one in rounds]
        print(f"  {name:16} {median(figures):8.0f}   most {max(figures):.0f}",
              flush=True)


if __name__ == "__main__":
    main()
