// SPDX-License-Identifier: MIT
// What a call was given and gave back: JSON to fold, text as text, changes as a diff.
import {$, ask, clock, duration, make} from "./text.js";

const FOLD_AT = 12, TEXT_MAX = 200000, LINES_MAX = 2000;
let wanted = "";

function json(value, name) {
  if (value === null || typeof value !== "object") return leaf(value, name);
  const parts = Object.entries(value), head = make("summary", null, make("span", name ?? ""));
  head.firstChild.className = "key";
  head.append(Array.isArray(value) ? ` [${parts.length}]` : ` {${parts.length}}`);
  const details = make("details", null, head);
  const fill = () => { if (details.childElementCount === 1) details.append(...parts.slice(0, LINES_MAX).map(([key, inner]) => json(inner, key))); };
  details.ontoggle = fill;
  details.open = parts.length <= FOLD_AT;
  if (details.open) fill();
  return details;
}

function leaf(value, name) {
  const row = make("div", null, make("span", name === undefined ? "" : `${name}: `));
  row.firstChild.className = "key";
  row.append(typeof value === "string" ? value.slice(0, TEXT_MAX) : JSON.stringify(value));
  return row;
}

const block = element => Object.assign(make("div", null, element), {className: "json"});

// Lines that both have at the beginning and the end stay, those between were changed.
function diff(before, after) {
  const [old, now] = [before.split("\n"), after.split("\n")];
  let head = 0, tail = 0;
  while (head < old.length && head < now.length && old[head] === now[head]) head++;
  while (tail < old.length - head && tail < now.length - head && old.at(-1 - tail) === now.at(-1 - tail)) tail++;
  const lines = [...old.slice(Math.max(0, head - 3), head).map(text => [" ", text]),
    ...old.slice(head, old.length - tail).map(text => ["-", text]),
    ...now.slice(head, now.length - tail).map(text => ["+", text]),
    ...old.slice(old.length - tail, old.length - tail + 3).map(text => [" ", text])];
  return changes(lines);
}

const changes = lines => make("pre", null, ...lines.slice(0, LINES_MAX).map(([sign, text]) =>
  Object.assign(make("div", `${sign} ${text}`), {className: {"-": "del", "+": "add"}[sign] || ""})));

const patch = hunks => changes(hunks.flatMap(hunk => [["@", `${hunk.oldStart} → ${hunk.newStart}`],
  ...(hunk.lines || []).map(text => [text[0], text.slice(1)])]));

function readable(value) {
  if (typeof value === "string") {
    try { return block(json(JSON.parse(value))); } catch { return make("pre", value.slice(0, TEXT_MAX)); }
  }
  if (Array.isArray(value?.structuredPatch) && value.structuredPatch.length) return patch(value.structuredPatch);
  if (typeof value?.old_string === "string" && typeof value.new_string === "string") return diff(value.old_string, value.new_string);
  const texts = Object.entries(value || {}).filter(([, text]) => typeof text === "string" && text.includes("\n"));
  if (!texts.length) return block(json(value));
  const rest = Object.fromEntries(Object.entries(value).filter(([key]) => !texts.some(([name]) => name === key)));
  return make("div", null, block(json(rest)), ...texts.flatMap(([key, text]) => [make("h3", key), make("pre", text.slice(0, TEXT_MAX))]));
}

function section(name, value) {
  const empty = value === undefined || value === null || value === "";
  return empty ? [] : [make("h3", name), readable(value)];
}

const facts = pairs => pairs.filter(([, text]) => text).map(([name, text]) => make("div", `${name}: ${text}`));

export async function show(item, session) {
  wanted = item.key;
  const parts = [];
  if (item.call) {
    const call = item.call, events = await ask("/call", {session_id: session, id: call.id}).catch(() => []);
    const said = events.filter(event => event.metadata.tool_use_id === call.id || !call.id).map(event => event.metadata);
    const last = name => said.map(one => one[name]).filter(value => value !== undefined).at(-1);
    parts.push(...facts([["outcome", call.outcome === "open" ? "no end seen" : call.outcome], ["took", duration(call.duration_ms)],
      ["began", clock(call.started_ms, 1)], ["ended", clock(call.ended_ms, 1)], ["subagent", call.lane], ["id", call.id]]),
      ...section("error", last("error") ?? call.error), ...section("input", last("tool_input")),
      ...section("output", last("tool_response")), ...section("all of it", events.map(({metadata}) => metadata)));
  } else if (item.turn) {
    const {counts, ...turn} = item.turn;
    parts.push(...facts([["began", clock(turn.started_ms, 1)], ["ended", clock(turn.ended_ms, 1)], ["took", duration(turn.duration_ms)],
      ["ended by", turn.end], ["model", turn.model]]), make("h3", "prompt"), make("pre", turn.prompt || "none seen"),
      ...section("error", turn.error), ...section("counts", counts));
  } else {
    parts.push(make("p", item.cells[3]));
  }
  if (wanted === item.key) open(item.cells[1], parts);
}

export function showEvent(event) {
  wanted = `event ${event.id}`;
  open(`${event.event_type} ${event.tool_name || ""}`, [...facts([["time", event.timestamp], ["summary", event.summary],
    ["session", event.session_id], ["person", event.user_email], ["id", String(event.id)]]), ...section("event", event.metadata)]);
}

function open(title, parts) {
  $("detail").querySelector("h2").textContent = title;
  $("detail").lastElementChild.replaceChildren(...parts);
  $("detail").hidden = false;
}

export const close = () => { wanted = ""; $("detail").hidden = true; };
