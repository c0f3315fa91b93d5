// SPDX-License-Identifier: MIT. What a call was given and gave back: JSON to fold, text as text, changes as a diff.
import {$, ask, clock, duration, facts, long, make} from "./text.js";
import {cells} from "./turns.js";

const FOLD_AT = 12, OPEN_MAX = 200, AT_ONCE = 500, KEY_MAX = 300, LONG = 500;  // members, lines; characters
let wanted = "", open = 0;
function json(value, name = "") {
  const key = make("span.key", name.length > KEY_MAX ? `${name.slice(0, KEY_MAX)}…` : name);
  if (value === null || typeof value !== "object") return make("div", key, name && ": ", value?.length > LONG ? long(value) : String(value));
  const parts = Object.entries(value), size = Array.isArray(value) ? ` [${parts.length}]` : ` {${parts.length}}`;
  const details = make("details", make("summary", key, size));
  const fill = () => details.childElementCount === 1 && inSlices(details, parts, ([inner, one]) => json(one, inner));
  details.ontoggle = fill;
  details.open = parts.length <= FOLD_AT && (open += parts.length) < OPEN_MAX;
  if (details.open) fill();
  return details;
}
const block = value => { open = 0; return make("div.json", json(value)); };

// So many at once, and a button for the next of them.
function inSlices(parent, all, show) {
  parent.append(...all.slice(0, AT_ONCE).map(show));
  const rest = all.slice(AT_ONCE), more = make("button", `${rest.length} more`);
  more.onclick = () => { more.remove(); inSlices(parent, rest, show); };
  if (rest.length) parent.append(more);
  return parent;
}

// Lines that both have at the beginning and the end stay, those between were changed.
function diff(before, after) {
  const [old, now] = [before.split("\n"), after.split("\n")], lines = (sign, texts) => texts.map(text => [sign, text]);
  let head = 0, tail = 0;
  while (head < old.length && head < now.length && old[head] === now[head]) head++;
  while (tail < old.length - head && tail < now.length - head && old.at(-1 - tail) === now.at(-1 - tail)) tail++;
  return changes([...lines(" ", old.slice(Math.max(0, head - 3), head)), ...lines("-", old.slice(head, old.length - tail)),
    ...lines("+", now.slice(head, now.length - tail)), ...lines(" ", old.slice(old.length - tail, old.length - tail + 3))]);
}
const SIGNS = {"-": "div.del", "+": "div.add"};
const changes = lines => inSlices(make("pre"), lines, ([sign, text]) => make(SIGNS[sign] ?? "div", `${sign} ${text}`));
const patch = hunks => changes(hunks.flatMap(hunk => [["@", `${hunk.oldStart} → ${hunk.newStart}`],
  ...hunk.lines.map(text => [text[0], text.slice(1)])]));
const isLines = lines => Array.isArray(lines) && lines.every(text => typeof text === "string");
const isPatch = hunks => Array.isArray(hunks) && hunks.length > 0 && hunks.every(hunk => isLines(hunk?.lines));
function readable(value) {
  if (typeof value === "string") {
    try { return block(JSON.parse(value)); } catch { return long(value); }
  }
  if (isPatch(value.structuredPatch)) return patch(value.structuredPatch);
  if (typeof value.old_string === "string" && typeof value.new_string === "string") return diff(value.old_string, value.new_string);
  const isText = ([, text]) => typeof text === "string" && text.includes("\n"), all = Object.entries(value);
  const texts = all.filter(isText), rest = all.filter(pair => !isText(pair));
  if (!texts.length) return block(value);
  return make("div", ...rest.length ? [block(Object.fromEntries(rest))] : [], ...texts.flatMap(([key, text]) => section(key, text)));
}
const section = (name, value) => (value ?? "") === "" ? [] : [make("h3", name.slice(0, KEY_MAX)), readable(value)];
const PARTS = {
  async call(call, session) {
    const {id = "", tool = "", first_id, last_id, started_ms, ended_ms = started_ms} = call;
    const events = await ask("/call", {session_id: session, id, tool, first_id, last_id, started_ms, ended_ms}).catch(() => []);
    const last = name => events.map(event => event.metadata[name]).findLast(value => value !== undefined);
    return [make("dl", ...facts([["outcome", call.outcome === "open" ? "no end seen" : call.outcome], ["took", duration(call.duration_ms)],
      ["began", clock(started_ms, 1)], ["ended", clock(call.ended_ms, 1)], ["subagent", call.lane], ["tool", tool], ["id", id]])),
      ...section("error", last("error") ?? call.error), ...section("input", last("tool_input")),
      ...section("output", last("tool_response")), ...section("all of it", events.map(event => event.metadata))];
  },
  turn: turn => [make("dl", ...facts([["began", clock(turn.started_ms, 1)], ["ended", clock(turn.ended_ms, 1)],
    ["took", duration(turn.duration_ms)], ["ended by", turn.end], ["agent", turn.agent], ["model", turn.model]])),
    make("h3", "prompt"), long(turn.prompt || "none seen"),
    ...section("error", turn.error)]};
export async function show(item, session) {
  wanted = item.key;
  const parts = await (PARTS[item.kind]?.(item.of, session) ?? [make("p", cells(item)[3])]);
  if (wanted === item.key) fill(cells(item)[1], parts);
}
export function showEvent(event) {
  wanted = `event ${event.id}`;
  const id = JSON.parse(event.metadata ?? "{}")?.tool_use_id, place = make("a", "show it in its session");
  place.href = `#${new URLSearchParams({session: event.session_id ?? "", ...id && {item: `call ${id}`}})}`;
  fill(`${event.event_type} ${event.tool_name || ""}`, [make("dl", ...facts([["time", event.timestamp], ["summary", event.summary],
    ["session", event.session_id], ["person", event.user_email], ["id", String(event.id)]])),
    event.session_id ? place : "", ...section("event", event.metadata)]);
}
function fill(title, parts) {
  $("detail").querySelector("h2").textContent = title;
  $("detail").lastElementChild.replaceChildren(...parts);
  $("detail").hidden = false;
}
export const close = () => { wanted = ""; $("detail").hidden = true; };
