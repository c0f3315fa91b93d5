// SPDX-License-Identifier: MIT. What is shown, where the address says so, and the connection that tells what is new.
import * as asked from "./asked.js";
import * as axis from "./axis.js";
import * as detail from "./detail.js";
import * as sessions from "./sessions.js";
import {begin, goBack, goOn} from "./story.js";
import {$, ask, clock, make, painted, short} from "./text.js";
import * as turns from "./turns.js";

const RETRY_MS = 1500, REFRESH_MS = 400, REST = 4, SEARCH_MS = 150, SWEEP_MS = 30000;  // rest: times what news took
const FIRST = 200, PART = 1000, UNASKED = 10000, FOUND = 200;  // events: at first, then, fetched unasked
const want = {session: "", item: "", from: "", to: "", q: ""};
let all = [], listed = 500, story = begin({}), gaps = [], paused = false, source, timer, stale = 0, rest = REFRESH_MS, attempt = 0, sent = 0, got = 0, typed, back;
const say = state => { $("state").dataset.state = $("state").textContent = state; };
function remember(wanted) {
  Object.assign(want, wanted);
  const hash = new URLSearchParams(Object.entries(want).filter(([, value]) => value));
  if (location.hash.slice(1) !== hash.toString()) history.replaceState(null, "", `#${hash}`);
}
function choose(session) {
  remember({session, item: "", from: "", to: "", q: ""});
  turns.followNewest();
  $("side").classList.remove("shown");
  readHash();
}
async function refresh() {
  stale = 0;
  const began = performance.now(), number = ++sent, mine = want.session, since = story.session === mine ? story.newest : 0;
  try {
    const [list, told] = await Promise.all([ask("/sessions", {limit: listed, also: mine}),
      ask("/story", {session_id: mine, since, limit: since ? PART : FIRST})]);
    if (mine !== want.session || number < (got = Math.max(got, number))) return;  // a later answer came first
    want.session ||= told.session_id;
    all = list;
    story = story.session !== told.session_id || since && told.earlier ? begin(told) : goOn(story, told);
    paint();
    painted().then(() => sessions.show(all, want.session, choose, all.length >= listed && listed < UNASKED && (() => refresh(listed += 500))));
  } catch (error) { $("empty").textContent = `The server does not answer: ${error.message}`; }
  rest = Math.max(REFRESH_MS, REST * (performance.now() - began));
}
function paint() {
  const session = all.find(one => one.session_id === story.session), from = story.turns[0]?.started_ms;
  if (session) sessions.totals(session);
  $("session").hidden = !session || want.q !== "";
  $("empty").textContent = want.q || session?.events ? "" : session ? "No hook sent an event of this session; its telemetry came" : all.length ? `Nothing is kept of session ${want.session}`
    : `No events yet. They appear here as hooks send them to ${location.origin}/events`;
  turns.set(story.turns, gaps.filter(gap => gap.from >= from));
  axis.set(story.turns);
  $("earlier").hidden = !story.earlier;
  const isSought = want.item && $("detail").dataset.item !== want.item;
  if (isSought && turns.has(want.item)) turns.choose(want.item, true);
  else if (isSought || story.events < UNASKED) earlier();
}
async function earlier() {
  const mine = story.session;
  if (!story.earlier || back === mine) return;
  back = mine;
  const told = await ask("/story", {session_id: mine, before: story.earlier, limit: PART}).catch(() => null);
  back = null;
  if (!told || mine !== story.session) return;
  story = goBack(story, told);
  paint();
}
async function search() {
  $("found").hidden = !want.q;
  if (!want.q) return paint();
  $("session").hidden = true;
  const sought = want.q, found = await ask("/search", {q: sought});
  if (sought !== want.q) return;
  $("empty").textContent = "";
  const open = event => async () => detail.showEvent((await ask("/events", {since_id: event.id - 1, limit: 1}))[0]);
  const told = one => [clock(Date.parse(one.timestamp)), one.source_app, short(one.session_id ?? ""), one.event_type, one.summary];
  $("found").replaceChildren(make("h2", `${found.length === FOUND ? `the newest ${FOUND}` : found.length} events with “${sought}”`),
    ...found.map(event => Object.assign(make("button", told(event).join(" "), marked(event.metadata, sought)), {onclick: open(event)})));
}
function marked(text, sought, at = text.toLowerCase().indexOf(sought.toLowerCase()), end = at + sought.length) {
  return at < 0 ? make("div.mute", text) : make("div.mute", text.slice(0, at), make("mark", text.slice(at, end)), text.slice(end));
}
function readHash() {
  const hash = new URLSearchParams(location.hash.slice(1));
  for (const name in want) want[name] = hash.get(name) || "";
  $("search").value = want.q;
  $("detail").dataset.item = "";
  detail.close();
  axis.show(+want.from, +want.to);
  search();
  refresh();
}
const soon = () => { stale ||= setTimeout(refresh, rest); }, news = () => { soon(); asked.soon(); };
async function connect() {
  const mine = ++attempt;
  clearTimeout(timer);
  source?.close();
  $("pause").textContent = paused ? "Resume" : "Pause";
  if (paused || document.hidden && !$("notify").checked) return say(paused ? "paused" : "asleep");
  const retry = () => { if (mine === attempt) { source?.close(); say("lost"); timer = setTimeout(connect, RETRY_MS); } };
  const runs = await ask("/runs").catch(() => null);
  if (!runs || mine !== attempt) return retry();
  gaps = runs.filter(run => run.idle_since).map(run => ({from: Date.parse(run.idle_since), to: Date.parse(run.started_at)}));
  source = Object.assign(new EventSource("/stream?last=0&brief=1"), {onmessage: news, onerror: retry, onopen: () => { say("live"); news(); }});
}
turns.when.opened = (item, opens) => {
  $("detail").dataset.item = item.key;
  remember({item: item.key});
  if (opens || !$("detail").hidden) detail.show(item, want.session);
};
turns.when.nearTop = $("earlier").onclick = earlier;
axis.when.picked = key => turns.choose(key, true);
axis.when.moved = view => remember(view ? {from: String(Math.round(view[0])), to: String(Math.round(view[1]))} : {from: "", to: ""});
$("close").onclick = () => { detail.close(); remember({item: ""}); $("list").focus(); };
document.onkeydown = ({key}) => { if (key === "Escape" && !$("detail").hidden) $("close").click(); };
$("search").oninput = ({target}) => { remember({q: target.value.trim()}); clearTimeout(typed); typed = setTimeout(search, SEARCH_MS); };
$("search").form.onsubmit = event => event.preventDefault();
$("pause").onclick = () => { paused = !paused; clearTimeout(stale); stale = 0; connect(); };
$("menu").onclick = () => { $("menu").ariaExpanded = String($("side").classList.toggle("shown")); };
$("notify").onchange = () => window.Notification?.permission === "default" && Notification.requestPermission();
[window.onhashchange, document.onvisibilitychange] = [readHash, connect];
setInterval(() => paused || document.hidden || soon(), SWEEP_MS);
for (const begins of [readHash, connect]) setTimeout(begins);  // a task each, as what stands above takes its time
