// SPDX-License-Identifier: MIT
// The sessions, by person and project, and which of them wait for a person.
import {$, clock, duration, make, money, number, short, total} from "./text.js";

const SILENT_S = 300, IDLE = /^(Stop|StopFailure|SessionStart|Notification)$/;
let told = null;  // ids of the sessions that waited before; null: nothing was loaded yet

export function state(session) {
  if (session.waiting_since) return "waiting";
  if (session.last_event === "SessionEnd") return "ended";
  if (IDLE.test(session.last_event)) return "idle";
  return Date.now() / 1000 - session.last_at > SILENT_S ? "silent" : "at work";
}

const person = session => session.people.at(-1)?.user_email || session.people.at(-1)?.user_id?.slice(0, 12) || "nobody known";
const project = session => session.people.at(-1)?.project || session.folder || session.source_app;
const calls = session => Math.max(session.begun, session.ended);

function tree(sessions) {
  const people = new Map();
  for (const session of sessions) {
    const [who, where] = [person(session), project(session)];
    if (!people.has(who)) people.set(who, new Map());
    if (!people.get(who).has(where)) people.get(who).set(where, []);
    people.get(who).get(where).push(session);
  }
  return people;
}

function line(session) {
  const [cost, output] = ["cost", "output"].map(kind => total(session.usage, kind));
  return [`${number(calls(session))} call${calls(session) === 1 ? "" : "s"}`,
    session.failures && `${session.failures} failed`, output && `${number(output)} tokens out`,
    cost && money(cost)].filter(Boolean).join(" · ");
}

function entry(session, chosen, choose) {
  const button = make("button", null, make("b", `${session.source_app} ${short(session.session_id)}`),
    make("span", `${clock(session.last_at * 1000)} · ${state(session)}`), make("span", line(session)));
  button.className = state(session);
  button.lastChild.className = button.children[1].className = "mute";
  button.title = session.session_id;
  button.dataset.session = session.session_id;
  button.setAttribute("aria-current", session.session_id === chosen);
  button.onclick = () => choose(session.session_id);
  return button;
}

export function show(sessions, chosen, choose) {
  const parts = [], held = document.activeElement?.dataset?.session;
  for (const [who, projects] of tree(sessions)) {
    parts.push(make("h2", who));
    for (const [where, own] of projects) {
      const cost = own.reduce((sum, session) => sum + total(session.usage, "cost"), 0);
      parts.push(make("h3", where + (cost ? ` · ${money(cost)}` : "")), ...own.map(s => entry(s, chosen, choose)));
    }
  }
  $("side").replaceChildren(...parts);
  if (held) [...$("side").querySelectorAll("button")].find(b => b.dataset.session === held)?.focus();
  await_person(sessions.filter(session => session.waiting_since), choose);
}

function await_person(sessions, choose) {
  $("waiting").replaceChildren(...sessions.slice(0, 20).map(session => {
    const since = duration(Math.max(0, Date.now() - session.waiting_since * 1000));
    return Object.assign(make("button", `${project(session)} ${short(session.session_id)} waits for a person, ${since}`),
      {onclick: () => choose(session.session_id)});
  }));
  const ids = sessions.map(session => session.session_id), fresh = told && ids.filter(id => !told.has(id));
  told = new Set(ids);
  document.title = ids.length ? `(${ids.length}) hook-io` : "hook-io";
  if (fresh?.length && $("notify").checked && window.Notification?.permission === "granted") {
    new Notification("hook-io", {body: `${fresh.length === 1 ? "A session waits" : `${fresh.length} sessions wait`} for you`});
  }
}

export function totals(session) {
  const usage = session.usage, facts = {
    calls: number(calls(session)), failed: number(session.failures), state: state(session),
    input: number(total(usage, "input")), output: number(total(usage, "output")),
    "cache read": number(total(usage, "cache_read")), "cache written": number(total(usage, "cache_creation")),
    cost: Object.keys(usage).length ? money(total(usage, "cost")) : "not told",
    "waited for a person": duration(session.waited_ms), models: Object.keys(usage).join(", ")};
  const who = session.people.filter(one => one.user_email).map(one =>
    `${one.user_email} (${clock(one.first_at * 1000)} to ${clock(one.last_at * 1000)})`);
  $("totals").replaceChildren(...Object.entries({...facts, person: who.join(", ")}).filter(([, text]) => text)
    .map(([name, text]) => make("div", null, make("dt", name), make("dd", text))));
  $("title").textContent = `${session.source_app} · ${project(session)} · ${session.session_id}`;
}
