// SPDX-License-Identifier: MIT. What is shown, where the address says so, and the connection that tells what is new.
import * as asked from "./asked.js";
import * as axis from "./axis.js";
import * as detail from "./detail.js";
import * as sessions from "./sessions.js";
import {begin, goBack, goOn} from "./story.js";
import {$, ask, clock, make, painted, short} from "./text.js";
import * as turns from "./turns.js";

const RETRY_MS = 1500, REFRESH_MS = 400, REST = 9, SEARCH_MS = 150, SWEEP_MS = 30000;  // rest: times what a look took
const FIRST = 200, PART = 1000, UNASKED = 10000, FOUND = 200;  // events: at first, then, fetched unasked
const want = {session: "", item: "", from: "", to: "", q: ""};
let all = [], listed = 500, story = begin({}), gaps = [], back;  // back: the session of which an earlier part is on its way
let paused = false, source, attempt = 0, timer, typed, stale = 0, missed, rest = REFRESH_MS, sent = 0, got = 0;
const menu = shows => { $("menu").ariaExpanded = String($("side").classList.toggle("shown", shows)); };
const say = state => { $("state").dataset.state = $("state").textContent = state; };
function remember(wanted) {
  Object.assign(want, wanted);
  const hash = new URLSearchParams(Object.entries(want).filter(([, value]) => value));
  if (location.hash.slice(1) !== hash.toString()) history.replaceState(null, "", `#${hash}`);
}
function choose(session) {
  remember({session, item: "", from: "", to: "", q: ""});
  turns.followNewest();
  menu(false);
  readHash();
}
const goRest = took_ms => { [stale, rest] = [0, Math.max(REFRESH_MS, REST * took_ms)]; if (missed) soon(); };
async function refresh() {
  [stale, missed] = [clearTimeout(stale) ?? -1, false];  // until all of it is seen
  const began = performance.now(), number = ++sent, mine = want.session, since = story.session === mine ? story.newest : 0;
  try {
    const [list, told] = await Promise.all([ask("/sessions", {limit: listed, also: mine}),
      ask("/story", {session_id: mine, since, limit: since ? PART : FIRST})]);
    if (mine !== want.session || number < (got = Math.max(got, number))) return;  // a later answer came first
    want.session ||= told.session_id;
    all = list;
    story = story.session !== told.session_id || since && told.earlier ? begin(told) : goOn(story, told);
    paint();
    await painted().then(() => sessions.show(all, want.session, choose, all.length >= listed && listed < UNASKED && (() => refresh(listed += 500))));
  } catch (error) { $("empty").textContent = `The server does not answer: ${error.message}`; } finally { if (number === sent) goRest(performance.now() - began); }
}
function paint() {
  const session = all.find(one => one.session_id === story.session), from_ms = story.turns[0]?.started_ms;
  if (session) sessions.totals(session);
  $("session").hidden = !session || want.q !== "";
  const why = session ? "No hook sent an event of this session; its telemetry came"
    : all.length ? `Nothing is kept of session ${want.session}`
    : `No events yet. They appear here as hooks send them to ${location.origin}/events`;
  $("empty").textContent = want.q || session?.events ? "" : why;
  turns.set(story.turns, gaps.filter(gap => gap.started_ms >= from_ms));
  axis.set(story.turns);
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
  const number = found.length === FOUND ? `the newest ${FOUND}` : found.length;
  $("found").replaceChildren(make("h2", `${number} events with “${sought}”`), ...found.map(foundOne));
}
function foundOne({id, timestamp, source_app, session_id, event_type, summary, excerpt: [before, sought, after]}) {
  const onclick = async () => detail.showEvent((await ask("/events", {since_id: id - 1, limit: 1}))[0]);
  const said = [clock(Date.parse(timestamp)), source_app, short(session_id ?? ""), event_type, summary].join(" ");
  return Object.assign(make("button", said, make("div.mute", before, make("mark", sought), after)), {onclick});
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
const soon = () => { missed = Boolean(stale); stale ||= setTimeout(refresh, rest); }, news = () => { soon(); asked.soon(); };
async function connect() {
  const mine = ++attempt;
  clearTimeout(timer);
  source?.close();
  $("pause").textContent = paused ? "Resume" : "Pause";
  if (paused || document.hidden && !$("notify").checked) return say(paused ? "paused" : "asleep");
  const retry = () => { if (mine === attempt) { source?.close(); say("lost"); timer = setTimeout(connect, RETRY_MS); } };
  const runs = await ask("/runs").catch(() => null);
  if (!runs || mine !== attempt) return retry();
  const gap = (started_ms, ended_ms) => ({started_ms, ended_ms, duration_ms: ended_ms - started_ms});
  gaps = runs.filter(run => run.idle_since).map(run => gap(Date.parse(run.idle_since), Date.parse(run.started_at)));
  source = new EventSource("/stream?last=0&brief=1");
  Object.assign(source, {onmessage: news, onerror: retry, onopen: () => { say("live"); news(); }});
}
turns.when.opened = (item, opens) => {
  $("detail").dataset.item = item.key;
  remember({item: item.key});
  if (opens || !$("detail").hidden) detail.show(item, want.session);
};
turns.when.nearTop = earlier;
axis.when.picked = key => turns.choose(key, true);
axis.when.moved = (from = "", to = "") => remember({from, to});
$("close").onclick = () => { detail.close(); remember({item: ""}); $("list").focus(); };
document.onkeydown = ({key}) => { if (key === "Escape" && !$("detail").hidden) $("close").click(); };
$("search").oninput = ({target}) => { remember({q: target.value.trim()}); clearTimeout(typed); typed = setTimeout(search, SEARCH_MS); };
$("pause").onclick = () => { paused = !paused; clearTimeout(stale); stale = 0; connect(); };
$("menu").onclick = () => menu();
$("notify").onchange = () => window.Notification?.permission === "default" && Notification.requestPermission();
[window.onhashchange, document.onvisibilitychange] = [readHash, connect];
setInterval(() => paused || document.hidden || soon(), SWEEP_MS);
for (const begins of [readHash, connect]) setTimeout(begins);  // a task each, as what stands above takes its time
