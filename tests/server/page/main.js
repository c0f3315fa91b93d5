// SPDX-License-Identifier: MIT
// What is shown, where the address says so, and the connection that tells what is new.
import * as asked from "./asked.js";
import * as axis from "./axis.js";
import * as detail from "./detail.js";
import * as sessions from "./sessions.js";
import {$, ask, clock, make} from "./text.js";
import * as turns from "./turns.js";

const RETRY_MS = 1500, REFRESH_MS = 400;
const want = {session: "", item: "", from: "", to: "", q: ""};
let all = [], story = {turns: [], earlier: null}, gaps = [], paused = false, source, timer, stale = 0, attempt = 0, loaded = "";

const say = state => { $("state").dataset.state = state; $("state").textContent = state; };

function remember() {
  const hash = new URLSearchParams(Object.entries(want).filter(([, value]) => value));
  if (location.hash.slice(1) !== hash.toString()) history.replaceState(null, "", `#${hash}`);
}

function choose(session) {
  Object.assign(want, {session, item: "", from: "", to: "", q: ""});
  $("search").value = "";
  axis.show(0, 0);
  detail.close();
  turns.followNewest();
  $("side").classList.remove("shown");
  remember();
  refresh();
}

// Turns that are told again take the place of what they were; earlier ones stay.
function merge(fresh, before) {
  const first = fresh.turns[0]?.started_ms ?? Infinity;
  const kept = before.turns.filter(turn => turn.started_ms < first);
  return {turns: [...kept, ...fresh.turns], earlier: kept.length ? before.earlier : fresh.earlier};
}

async function refresh() {
  stale = 0;
  try {
    all = await ask("/sessions");
    if (!want.session && all.length) want.session = all[0].session_id;
    const mine = want.session, session = all.find(one => one.session_id === mine);
    sessions.show(all, mine, choose);
    if (mine) {
      const told = await ask("/story", {session_id: mine, limit: loaded === mine ? 500 : 2000});
      if (mine !== want.session) return;
      story = loaded === mine ? merge(told, story) : told;
      loaded = mine;
      paint(session);
    }
    $("session").hidden = !mine || want.q !== "";
    $("empty").textContent = all.length || want.q ? "" :
      `No events yet. They appear here as hooks send them to ${location.origin}/events`;
  } catch (error) { $("empty").textContent = `The server does not answer: ${error.message}`; }
}

function paint(session) {
  if (session) sessions.totals(session);
  const [from, to] = [story.turns[0]?.started_ms, Date.now()];
  turns.anchored(() => turns.set(story.turns, gaps.filter(gap => gap.from >= from && gap.to <= to)));
  axis.set(story.turns);
  $("earlier").hidden = !story.earlier;
  if (want.item && turns.find(want.item) && $("detail").dataset.item !== want.item) {
    $("detail").dataset.item = want.item;
    turns.choose(want.item, true);
  }
}

async function earlier() {
  const told = await ask("/story", {session_id: want.session, before: story.earlier});
  story = {turns: [...told.turns, ...story.turns], earlier: told.earlier};
  paint();
}

async function search() {
  $("found").hidden = !want.q;
  $("session").hidden = want.q !== "" || !want.session;
  if (!want.q) return refresh();
  const sought = want.q, found = await ask("/search", {q: sought});
  if (sought !== want.q) return;
  $("empty").textContent = "";
  $("found").replaceChildren(make("h2", `${found.length === 200 ? "the newest 200" : found.length} events with “${sought}”`),
    ...found.map(event => {
      const button = make("button", `${clock(Date.parse(event.timestamp))} ${event.event_type} ${event.summary || ""}`,
        make("div", event.metadata));
      button.lastChild.className = "mute";
      button.onclick = async () => detail.showEvent((await ask("/events", {since_id: event.id - 1, limit: 1}))[0]);
      return button;
    }));
}

function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  for (const name in want) want[name] = hash.get(name) || "";
  $("search").value = want.q;
  $("detail").dataset.item = "";
  axis.show(+want.from, +want.to);
  if (want.q) search();
  refresh();
}

const soon = () => { stale ||= setTimeout(refresh, REFRESH_MS); };

async function connect() {
  const mine = ++attempt;
  clearTimeout(timer);
  source?.close();
  $("pause").textContent = paused ? "Resume" : "Pause";
  if (paused || document.hidden && !$("notify").checked) return say(paused ? "paused" : "asleep");
  const retry = () => {
    source?.close();
    if (mine === attempt) { say("lost"); timer = setTimeout(connect, RETRY_MS); }
  };
  try {
    const runs = await ask("/runs");
    if (mine !== attempt) return;
    gaps = runs.slice(1).map((run, n) => ({from: Date.parse(runs[n].stopped_at || runs[n].started_at), to: Date.parse(run.started_at)}));
  } catch { return retry(); }
  source = new EventSource("/stream?last=0");
  source.onopen = () => { say("live"); soon(); asked.soon(); };
  source.onmessage = () => { soon(); asked.soon(); };
  source.onerror = retry;
}

turns.onOpen((item, opens) => {
  want.item = item.key;
  $("detail").dataset.item = item.key;
  remember();
  if (opens || !$("detail").hidden) detail.show(item, want.session);
});
axis.onPick(key => turns.choose(key, true));
axis.onMove(view => { [want.from, want.to] = view ? view.map(at => String(Math.round(at))) : ["", ""]; remember(); });
$("close").onclick = () => { detail.close(); want.item = ""; remember(); $("list").focus(); };
document.onkeydown = ({key}) => { if (key === "Escape" && !$("detail").hidden) $("close").click(); };
$("search").oninput = ({target}) => { want.q = target.value.trim(); remember(); search(); };
$("search").form.onsubmit = event => event.preventDefault();
$("pause").onclick = () => { paused = !paused; clearTimeout(stale); stale = 0; connect(); };
$("earlier").onclick = earlier; $("menu").onclick = () => $("menu").setAttribute("aria-expanded", $("side").classList.toggle("shown"));
$("notify").onchange = () => window.Notification?.permission === "default" && Notification.requestPermission();
[window.onhashchange, document.onvisibilitychange] = [readHash, connect];
setInterval(() => paused || document.hidden || soon(), 30000);
readHash();
connect();
