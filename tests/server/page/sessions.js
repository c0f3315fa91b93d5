// SPDX-License-Identifier: MIT. The sessions, by person and project, and which of them wait for a person.
import {$, clock, count, duration, facts, make, money, number, painted, short} from "./text.js";

const WAITING_MAX = 20, SLICE_MS = 6, MORE = " older";
let told = null;  // ids of the sessions that waited before; null: nothing was loaded yet
let wanted;  // what is to stand in the list
const made = new Map();  // what stands there, by all that it says
const costs = sessions => sessions.reduce((sum, session) => sum + (session.totals.cost ?? 0), 0);
function entry(session, chosen, choose) {
  const {cost, output} = session.totals;
  const line = [count(session.calls, "call"), session.failures && `${session.failures} failed`,
    output && `${number(output)} tokens out`, cost && money(cost)].filter(Boolean).join(" · ");
  const button = make(`button.${session.state}`, make("b", `${session.source_app} ${short(session.session_id)}`),
    make("span.mute", `${clock(session.last_at * 1000)} · ${session.state}`), make("span.mute", line));
  Object.assign(button, {title: session.session_id, ariaCurrent: String(session.session_id === chosen)});
  return named(button, session.session_id, () => choose(session.session_id));
}
const named = (button, session, onclick) => { button.dataset.session = session; return Object.assign(button, {onclick}); };
export async function show(sessions, chosen, choose, more) {
  const parts = new Map(), put = (said, build) => parts.set(JSON.stringify(said), build), day = new Date().getDate();
  for (const [who, own] of Map.groupBy(sessions, one => one.person || "nobody known")) {
    put([who], () => make("h2", who));
    for (const [where, here] of Map.groupBy(own, one => one.place)) {
      const cost = costs(here);
      put([who, where, cost], () => make("h3", where + (cost ? ` · ${money(cost)}` : "")));
      for (const one of here) put([one, one.session_id === chosen, day], () => entry(one, chosen, choose));
    }
  }
  if (more) put(MORE, () => named(make("button", "Older sessions"), MORE, more));
  tellWaiting(sessions.filter(session => session.waiting_since), choose);
  const held = document.activeElement?.dataset.session;
  wanted = parts;
  // What would say the same as before is the element that says it already; so many are placed in a frame as take SLICE_MS.
  for (const [key, one] of made) if (!parts.has(key)) { one.remove(); made.delete(key); }
  let next = $("side").firstElementChild, due = performance.now() + SLICE_MS;
  for (const [key, build] of parts) {
    const one = made.get(key) ?? made.set(key, build()).get(key);
    if (one === next) next = one.nextElementSibling;
    else $("side").insertBefore(one, next);
    if (held && one.dataset.session === held && document.activeElement === document.body) one.focus();
    if (performance.now() < due) continue;
    await painted();
    if (wanted !== parts) return;
    due = performance.now() + SLICE_MS;
  }
}
const waits = (session, rest) => `${session.place} ${short(session.session_id)} waits for ${rest}`;
function tellWaiting(sessions, choose) {
  const more = sessions.length > WAITING_MAX ? [`and ${sessions.length - WAITING_MAX} more`] : [];
  $("waiting").replaceChildren(...sessions.slice(0, WAITING_MAX).map(session => Object.assign(
    make("button", waits(session, `a person, ${duration(Math.max(0, Date.now() - session.waiting_since * 1000))}`)),
    {onclick: () => choose(session.session_id)})), ...more);
  const fresh = sessions.filter(session => told && !told.has(session.session_id));
  told = new Set(sessions.map(session => session.session_id));
  document.title = told.size ? `(${told.size}) hook-io` : "hook-io";
  if (!fresh.length || !$("notify").checked || window.Notification?.permission !== "granted") return;
  const body = fresh.length === 1 ? waits(fresh[0], "you") : `${fresh.length} sessions wait for you`;
  new Notification("hook-io", {body, tag: "hook-io"}).onclick = () => { window.focus(); choose(fresh[0].session_id); };
}
export function totals(session) {
  const sums = session.totals, models = Object.keys(session.usage), tokens = kind => models.length ? number(sums[kind] ?? 0) : "";
  const times = one => [...new Set([one.first_at, one.last_at].map(at => clock(at * 1000)))].join(" to ");
  const people = session.people.filter(one => one.user_email).map(one => `${one.user_email} (${times(one)})`);
  const all = {calls: number(session.calls), failed: number(session.failures), state: session.state,
    input: tokens("input"), output: tokens("output"), "cache read": tokens("cache_read"), "cache written": tokens("cache_creation"),
    cost: models.length ? money(sums.cost ?? 0) : "not told", "waited for a person": session.waited_ms ? duration(session.waited_ms) : "",
    models: models.join(", "), person: people.join(", ")};
  $("totals").replaceChildren(...facts(Object.entries(all)));
  $("title").textContent = [...new Set([session.source_app, session.place, session.session_id])].join(" · ");
}
